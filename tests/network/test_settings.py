"""Tests of saqlib.network.settings: bits of each layer, widths, and how quantization is trained."""

import copy
import dataclasses

import pytest

from saqlib import params, paths
from saqlib.network import settings
from saqlib.network.settings import EDGES, LAYERS, Bits, Precision, Quantization, Shape
from tests.parameters import RAW, refusal

TABLES = RAW["precisions"]


def changed(precision: str, **layers) -> dict:
    """The section `precisions` with some layers of a row changed."""
    return TABLES | {precision: TABLES[precision] | layers}


# --------------------------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits_from_2_to_8_are_what_they_are(bits):
    """check_bits returns the number."""
    assert settings.check_bits(bits) == bits


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 32, 2.0, True, "4", None, [4]])
def test_bits_outside_2_to_8_are_a_value_error(bits):
    """Also 2.0, true and text, which are no whole numbers."""
    with pytest.raises(ValueError, match="^bits must be a whole number from 2 to 8, not ") as error:
        settings.check_bits(bits)
    assert str(error.value).endswith(f"not {bits!r}")


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 32, 2.0, True, "4", None])
def test_bits_outside_2_to_8_are_refused_by_their_place(bits):
    """The message names precision and layer, weights and activations alike."""
    for pair in ([bits, 4], [4, bits]):
        text = refusal(settings.precisions, changed("w4a4", conv2=pair), "w8")
        assert text == f"precisions.w4a4.conv2: bits must be a whole number from 2 to 8, not {bits!r}"
    text = refusal(settings.precisions, changed("w4a4", dense3=[bits]), "w8")
    assert text == f"precisions.w4a4.dense3: bits must be a whole number from 2 to 8, not {bits!r}"


@pytest.mark.parametrize("values", [4, [4], [4, 4, 4], "44", None, []])
def test_bits_in_another_form_are_refused(values):
    """Two numbers for each layer, weights first; the message shows the form."""
    text = refusal(settings.precisions, changed("w4a4", conv1=values), "w8")
    assert text == f"precisions.w4a4.conv1 must be [weight bits, activation bits], not {values!r}"
    text = refusal(settings.precisions, changed("w4a4", dense3=[4, 4]), "w8")
    assert text == "precisions.w4a4.dense3 must be [weight bits], not [4, 4]"


# --------------------------------------------------------------------------------------------------- precisions


def bits_of(edges: str, precision: str) -> list[tuple]:
    """Weight and activation bits of each layer of a committed precision."""
    layers = settings.precisions(TABLES, edges)[precision].layers
    return [(bits.weight, bits.activation) for bits in layers]


def test_edges_override_the_first_and_the_last_layer_s_weights():
    """w8, as the table says, or full precision; activations and inner layers stay, the last layer has none."""
    inner = [(4, 4), (2, 2), (2, 2)]
    assert bits_of("w8", "mixed") == [(8, 4), *inner, (8, None)]
    assert bits_of("same", "mixed") == [(4, 4), *inner, (2, None)]
    assert bits_of("fp32", "mixed") == [(None, 4), *inner, (None, None)]


def test_full_precision_has_no_bits_whatever_the_edges():
    """An empty row is full precision, and says so."""
    for edges in EDGES:
        there = settings.precisions(TABLES, edges)
        assert there["fp32"].layers == (Bits(),) * 5 and not there["fp32"].quantized
        assert all(there[name].quantized for name in ("w4a4", "mixed", "w2a2"))


@pytest.mark.parametrize("bits", [Bits(weight=2), Bits(activation=2)])
@pytest.mark.parametrize("place", range(5))
def test_one_quantized_layer_is_enough(bits, place):
    """Bits of any weight or any activation make a quantized network."""
    layers = [Bits()] * 5
    layers[place] = bits
    assert Precision("one", tuple(layers)).quantized


def test_a_precision_can_be_added():
    """A new row is all that a new precision takes; every layer gets its own bits, in order."""
    row = dict(zip(LAYERS, ([3, 5], [4, 6], [5, 7], [6, 8], [7]), strict=True))
    there = settings.precisions(TABLES | {"rising": row}, "same")
    assert there["rising"].layers == (Bits(3, 5), Bits(4, 6), Bits(5, 7), Bits(6, 8), Bits(7))
    assert list(there) == [*TABLES, "rising"]


def test_order_of_layers_in_a_row_does_not_matter():
    """A row is a mapping: read backwards it is the same precision."""
    backwards = {name: dict(reversed(table.items())) for name, table in TABLES.items()}
    assert settings.precisions(backwards, "w8") == settings.precisions(TABLES, "w8")


def test_misspelt_layer_is_answered_with_the_nearest():
    """Where, what, and what was probably meant."""
    text = refusal(settings.precisions, changed("w2a2", conv3=[2, 2]), "w8")
    assert text.startswith("unknown layer in precisions.w2a2 'conv3'; did you mean 'conv")
    assert text.endswith("(valid: conv1, conv2, dense1, dense2, dense3)")


def test_layer_without_bits_is_refused():
    """A row says something about every layer or about none."""
    raw = copy.deepcopy(TABLES)
    del raw["w2a2"]["dense1"], raw["w2a2"]["conv2"]
    text = refusal(settings.precisions, raw, "w8")
    assert text == "precisions.w2a2 says nothing about conv2, dense1; give every layer its bits"


@pytest.mark.parametrize("name", ["w4-a4", "w4/a4", "w 4", "", "4", 4, "../w4", None])
def test_precision_whose_name_would_break_a_cell_s_is_refused(name):
    """Names become parts of cell and file names, so they are letters, digits and underscores."""
    text = refusal(settings.precisions, TABLES | {name: {}}, "w8")
    assert text == f"precisions: {name!r} cannot be a name; use letters, digits and underscores, a letter first"


@pytest.mark.parametrize("raw", [None, [], "w4a4"])
def test_rows_that_are_no_mapping_are_refused(raw):
    """The section itself, and a row left empty: full precision is written {}."""
    assert refusal(settings.precisions, raw, "w8") == f"precisions must be of type dict, not {raw!r}"
    text = refusal(settings.precisions, TABLES | {"w4a4": raw}, "w8")
    assert text == f"precisions.w4a4 must be of type dict, not {raw!r}"


def test_unknown_edges_are_refused():
    """Also where they are given directly, without a params.yaml."""
    assert refusal(settings.precisions, TABLES, "w16").startswith("unknown edges 'w16'; did you mean 'w8'?")


# ------------------------------------------------------------------------------------------ widths, quantization


@pytest.mark.parametrize("kind", ["channels", "hidden"])
@pytest.mark.parametrize("widths", [(8,), (8, 16, 32), (), (8, 0), (-1, 8)])
def test_network_has_two_widths_of_each_kind(kind, widths):
    """Of the convolutions and of the dense layers, each at least one."""
    shape = settings.default_shape()
    text = refusal(lambda: dataclasses.replace(shape, **{kind: widths}))
    assert text == f"network.{kind} must be two widths of at least 1, not {widths}"
    assert getattr(dataclasses.replace(shape, **{kind: (1, 1)}), kind) == (1, 1)


QUANTIZATION = params.build(Quantization, RAW["quantization"], "quantization")


@pytest.mark.parametrize(
    ("name", "least", "wrong"),
    [("calibration_images", 1, 0), ("alpha_learning_rate", 0, -1e-9), ("alpha_penalty", 0, -1e-9)],
)
def test_number_below_its_least_value_is_refused(name, least, wrong):
    """The limit is allowed."""
    assert getattr(dataclasses.replace(QUANTIZATION, **{name: least}), name) == least
    text = refusal(lambda: dataclasses.replace(QUANTIZATION, **{name: wrong}))
    assert text == f"quantization.{name} must be at least {least}, not {wrong}"


def test_misspelt_edges_are_answered_with_the_nearest():
    """What was unknown, where, and what is valid."""
    text = refusal(lambda: dataclasses.replace(QUANTIZATION, edges="w16"))
    assert text == "unknown value of quantization.edges 'w16'; did you mean 'w8'? (valid: w8, same, fp32)"


# ------------------------------------------------------------------------------------------------- by their names


@pytest.mark.parametrize("name", TABLES)
def test_a_committed_precision_can_be_had_by_its_name(name):
    """With the edges of params.yaml."""
    assert settings.named(name) == settings.precisions(TABLES, RAW["quantization"]["edges"])[name]


def test_unknown_precision_is_answered_with_the_nearest():
    """Nobody gets another network than the one meant."""
    text = refusal(settings.named, "w2a3")
    assert text == "unknown precision 'w2a3'; did you mean 'w2a2'? (valid: fp32, w4a4, mixed, w2a2)"


def test_named_precision_and_shape_follow_the_file(tmp_path, monkeypatch):
    """Other edges, rows and widths in params.yaml, other networks."""
    path = tmp_path / "params.yaml"
    path.write_text(
        "network: {channels: [2, 3], hidden: [4, 5]}\n"
        "precisions: {odd: {conv1: [3, 5], conv2: [3, 5], dense1: [3, 5], dense2: [3, 5], dense3: [7]}}\n"
        "quantization: {edges: fp32, alpha_learning_rate: 0, alpha_penalty: 0, calibration_images: 1}\n"
    )
    monkeypatch.setattr(paths, "PARAMS", path)
    assert settings.default_shape() == Shape((2, 3), (4, 5))
    assert settings.named("odd").layers == (Bits(None, 5), Bits(3, 5), Bits(3, 5), Bits(3, 5), Bits(None))
    assert refusal(settings.named, "w2a2").startswith("unknown precision 'w2a2'")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Bits(2, 2), "weight"),
        (Precision("a", ()), "layers"),
        (Shape((1, 1), (1, 1)), "hidden"),
        (QUANTIZATION, "edges"),
    ],
)
def test_values_are_frozen_and_hashable(value, field):
    """Nobody changes the experiment while it runs, and settings can be keys."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
    assert hash(value) == hash(copy.deepcopy(value))
