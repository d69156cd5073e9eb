"""Tests of saqlib.clarity.settings: the section `clarity`, and what scoring reads."""

import dataclasses

import pytest

from saqlib import params
from saqlib.clarity.settings import Clarity, Scoring
from tests.parameters import BAD_NUMBERS, RAW, refusal

CLARITY = params.build(Clarity, RAW["clarity"], "clarity")


def test_committed_section_is_valid():
    """The values are those of params.yaml, by name."""
    assert dataclasses.asdict(CLARITY) == RAW["clarity"]


@pytest.mark.parametrize(
    ("name", "least", "wrong"),
    [("steps", 1, 0), ("sensitivity_draws", 1, 0), ("sensitivity_radius", 0, -0.5)],
)
def test_number_below_its_least_value_is_refused(name, least, wrong):
    """The limit is allowed; the message names section and key as params.yaml has them."""
    assert getattr(dataclasses.replace(CLARITY, **{name: least}), name) == least
    text = refusal(lambda: dataclasses.replace(CLARITY, **{name: wrong}))
    assert text == f"clarity.{name} must be at least {least}, not {wrong}"


@pytest.mark.parametrize("kind", BAD_NUMBERS)
def test_wrong_radius_is_refused(kind):
    """Text, flags, nothing and lists are no numbers; nan is at least nothing."""
    text = refusal(params.build, Clarity, RAW["clarity"] | {"sensitivity_radius": BAD_NUMBERS[kind]}, "clarity")
    assert text.startswith("clarity.sensitivity_radius must ") and str(BAD_NUMBERS[kind]) in text


@pytest.mark.parametrize("name", ["steps", "sensitivity_draws"])
@pytest.mark.parametrize("value", [2.0, True, "2", None])
def test_wrong_whole_number_is_refused(name, value):
    """Neither 2.0 nor true counts as a whole number."""
    text = refusal(params.build, Clarity, RAW["clarity"] | {name: value}, "clarity")
    assert text == f"clarity.{name} must be of type int, not {value!r}"


def test_values_are_frozen():
    """Nobody changes the experiment while it runs."""
    scoring = Scoring(CLARITY, "fp32", 60, 10, 256, True)
    for value in (CLARITY, scoring):
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, None)
