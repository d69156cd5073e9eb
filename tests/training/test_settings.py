"""Tests of saqlib.training.settings: the optimiser, guidance, and the recipe."""

import dataclasses

import pytest

from saqlib import params
from saqlib.saliency.settings import RANKINGS
from saqlib.training.settings import Guided, Optimizer, Recipe
from tests.parameters import BAD_NUMBERS, RAW, refusal

OPTIMIZER = params.build(Optimizer, RAW["optimizer"], "optimizer")
GUIDED = params.build(Guided, RAW["trainings"]["guided"], "trainings.guided")


def test_committed_sections_are_valid():
    """The values are those of params.yaml, by name."""
    assert dataclasses.asdict(OPTIMIZER) == RAW["optimizer"]
    assert dataclasses.asdict(GUIDED) == RAW["trainings"]["guided"]


@pytest.mark.parametrize(
    ("section", "name", "least", "wrong"),
    [
        (OPTIMIZER, "batch_size", 1, 0),
        (OPTIMIZER, "learning_rate", 0, -0.1),
        (GUIDED, "weight", 0, -1.0),
    ],
)
def test_number_below_its_least_value_is_refused(section, name, least, wrong):
    """The limit is allowed; the message names section and key as params.yaml has them."""
    where = {Optimizer: "optimizer", Guided: "trainings.guided"}[type(section)]
    assert getattr(dataclasses.replace(section, **{name: least}), name) == least
    text = refusal(lambda: dataclasses.replace(section, **{name: wrong}))
    assert text == f"{where}.{name} must be at least {least}, not {wrong}"


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 50, float("inf"), float("nan")])
def test_fraction_outside_0_to_1_is_refused(fraction):
    """A percentage, for one, is no fraction."""
    text = refusal(lambda: dataclasses.replace(GUIDED, fraction=fraction))
    assert text == f"trainings.guided.fraction must lie in [0, 1], not {fraction}"


@pytest.mark.parametrize("fraction", [0, 0.0, 1, 1.0])
def test_limits_of_the_fraction_are_allowed(fraction):
    """None and all of the pixels can be masked; a whole number becomes a float."""
    found = params.build(Guided, RAW["trainings"]["guided"] | {"fraction": fraction, "weight": 1}, "trainings.guided")
    assert (found.fraction, found.weight) == (fraction, 1.0)
    assert isinstance(found.fraction, float) and isinstance(found.weight, float)


@pytest.mark.parametrize("kind", BAD_NUMBERS)
@pytest.mark.parametrize("name", ["fraction", "weight"])
def test_wrong_float_is_refused(name, kind):
    """Text, flags, nothing and lists are no numbers; nan is in no range."""
    raw = RAW["trainings"]["guided"] | {name: BAD_NUMBERS[kind]}
    text = refusal(params.build, Guided, raw, "trainings.guided")
    assert text.startswith(f"trainings.guided.{name} must ") and str(BAD_NUMBERS[kind]) in text


def test_rankings_are_those_of_saliency():
    """Every ranking is allowed, another is answered with the nearest."""
    for ranking in RANKINGS:
        assert dataclasses.replace(GUIDED, ranking=ranking).ranking == ranking
    text = refusal(lambda: dataclasses.replace(GUIDED, ranking="magnitud"))
    expected = "unknown ranking in trainings.guided.ranking 'magnitud'; did you mean 'magnitude'?"
    assert text == f"{expected} (valid: magnitude, signed)"


def test_values_are_frozen():
    """Nobody changes the experiment while it runs."""
    recipe = Recipe(**dict.fromkeys(field.name for field in dataclasses.fields(Recipe)))
    for value in (OPTIMIZER, GUIDED, recipe):
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, None)
