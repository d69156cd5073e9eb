"""Tests of saqlib.evidence.settings: the claims as data."""

import copy
import dataclasses

import pytest

from saqlib.evidence import settings
from saqlib.evidence.settings import IMAGE_SETS, TESTS, Claim
from tests.parameters import BAD_NUMBERS, RAW, refusal

PRECISIONS = tuple(RAW["precisions"])


def read(raw=None, precisions=PRECISIONS):
    """The claims of a section, by default the committed one."""
    return settings.claims(RAW["claims"] if raw is None else raw, precisions)


def changed(**values) -> dict:
    """The section `claims` with some values changed."""
    return copy.deepcopy(RAW["claims"]) | values


def one_claim(**values) -> dict:
    """The section `claims` with its first claim changed."""
    raw = copy.deepcopy(RAW["claims"])
    raw["hypotheses"][0] |= values
    return raw


def test_committed_claims_are_valid():
    """The values are those of params.yaml, by name, lists as tuples."""
    claims = read()
    assert (claims.level, claims.margin, claims.reference) == tuple(
        RAW["claims"][name] for name in ("level", "margin", "reference")
    )
    assert [dataclasses.asdict(claim) for claim in claims.hypotheses] == [
        raw | {"metrics": tuple(raw["metrics"]), "precisions": tuple(raw["precisions"])}
        for raw in RAW["claims"]["hypotheses"]
    ]


@pytest.mark.parametrize("kind", ["test", "expected", "images"])
def test_misspelt_word_of_a_claim_is_refused_by_the_claim_s_id(kind):
    """The nearest valid word is named; every valid one is accepted."""
    valid = {"test": TESTS, "expected": ("higher", "lower"), "images": IMAGE_SETS}[kind]
    for word in valid:
        assert getattr(read(one_claim(**{kind: word})).hypotheses[0], kind) == word
    what = {"test": "test", "expected": "value of expected", "images": "set of images"}[kind]
    text = refusal(read, one_claim(**{kind: valid[0] + "x"}))
    assert text.startswith(f"unknown {what} in claim H1 '{valid[0]}x'; did you mean '{valid[0]}'?")


@pytest.mark.parametrize("name", ["metrics", "precisions"])
def test_empty_list_of_a_claim_is_refused(name):
    """A claim about nothing would have no verdict."""
    assert refusal(read, one_claim(**{name: []})) == f"claim H1: {name} is empty; name at least one"


def test_unknown_precision_of_a_claim_is_refused():
    """By the claim's id, with the nearest row of `precisions`; also one that was taken out of params.yaml."""
    text = refusal(read, one_claim(precisions=["w4a4", "w2a3"]))
    assert text.startswith("unknown precision in claim H1 'w2a3'; did you mean 'w2a2'?")
    assert refusal(read, None, ("fp32", "w4a4", "w2a2")).startswith("unknown precision in claim H1 'mixed'")


def test_unknown_reference_is_refused():
    """The reference is a precision, too."""
    text = refusal(read, changed(reference="fp16"))
    assert text.startswith("unknown precision in claims.reference 'fp16'; did you mean 'fp32'?")


@pytest.mark.parametrize("level", [0.0, 1.0, -0.05, 5.0, float("nan")])
def test_level_outside_0_to_1_is_refused(level):
    """A percentage, for one, is no level; neither limit is one."""
    assert refusal(read, changed(level=level)) == f"claims.level must lie in (0, 1), not {level}"


@pytest.mark.parametrize("margin", [0.0, -0.5, float("nan")])
def test_margin_must_be_above_0(margin):
    """A margin of nothing is no margin."""
    assert refusal(read, changed(margin=margin)) == f"claims.margin must be above 0, not {margin}"


@pytest.mark.parametrize("kind", BAD_NUMBERS)
@pytest.mark.parametrize("name", ["level", "margin"])
def test_wrong_number_is_refused(name, kind):
    """Text, flags, nothing and lists are no numbers; nan is in no range."""
    text = refusal(read, changed(**{name: BAD_NUMBERS[kind]}))
    assert text.startswith(f"claims.{name} must ") and str(BAD_NUMBERS[kind]) in text


def test_two_claims_of_one_id_are_refused():
    """A verdict belongs to one claim."""
    hypotheses = RAW["claims"]["hypotheses"]
    text = refusal(read, changed(hypotheses=[*hypotheses, hypotheses[0]]))
    assert text == "claims.hypotheses gives two claims the same id"


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Claim)])
def test_missing_key_of_a_claim_is_named_with_its_place(key):
    """By the place in the list: the id may be what is missing."""
    raw = changed()
    del raw["hypotheses"][2][key]
    assert refusal(read, raw) == f"claims.hypotheses[2] lacks {key}"


def test_misspelt_key_of_a_claim_is_answered_with_the_nearest():
    """Where, what, and what was probably meant."""
    text = refusal(read, one_claim(metric=["gini"]))
    assert text.startswith("unknown key in claims.hypotheses[0] 'metric'; did you mean 'metrics'?")


@pytest.mark.parametrize("raw", [None, [], "H1"])
def test_section_that_is_no_mapping_is_refused(raw):
    """A section left empty in YAML is None, and is named."""
    text = refusal(settings.claims, raw, PRECISIONS)
    assert text == f"claims must be of type dict, not {raw!r}"


def test_values_are_frozen():
    """Claims are fixed before the run."""
    claims = read()
    with pytest.raises(dataclasses.FrozenInstanceError):
        claims.level = 0.1
    with pytest.raises(dataclasses.FrozenInstanceError):
        claims.hypotheses[0].expected = "higher"
