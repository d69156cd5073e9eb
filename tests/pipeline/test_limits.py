"""Numbers that no run could use are refused before it begins; params.yaml changed at random is usable or refused."""

import copy
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saqlib.data.images import load
from saqlib.evidence.statistics import MOST_PAIRS, paired_sign_flip
from saqlib.params import LONGEST, ParamsError
from saqlib.pipeline import limits, study
from tests.parameters import RAW, changed, refusal


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scales__smoke__seeds", 25, "scales.smoke.seeds must be at most 24, not 25: the exact tests"),
        ("scales__smoke__images", 301, "must be at most 300, not 301: there are 300 test images"),
        ("scales__smoke__images_deployed", 10**9, "must be at most 300, not 1,000,000,000"),
        ("scales__smoke__images_expensive", 61, "must be at most 60, not 61: they are the first of"),
        ("scales__smoke__epochs", {"mnist": 10**9, "fashion_mnist": 5}, "epochs.mnist must be at most 1,000"),
        ("scales__smoke__records", 10**6, "records must be at most 1,000"),
        ("optimizer__batch_size", 1101, "must be at most 1,100, not 1,101: there are 1,100 training images"),
        ("optimizer__learning_rate", 1e9, "optimizer.learning_rate must be at most 1.0, not 1,000,000,000.0"),
        ("optimizer__learning_rate", math.inf, "must be at most 1.0, not inf"),
        ("quantization__alpha_learning_rate", 2.0, "must be at most 1.0"),
        ("quantization__alpha_penalty", math.inf, "must be at most 1.0"),
        ("quantization__calibration_images", 1101, "must be at most 1,100"),
        ("trainings__guided__weight", math.inf, "must be at most 1,000,000.0"),
        ("clarity__steps", 785, "must be at most 784, not 785: an image has 784 pixels"),
        ("clarity__sensitivity_radius", 1.5, "must be at most 1.0"),
        ("clarity__sensitivity_draws", 10**6, "must be at most 1,000"),
        ("network__channels", [8, 10**9], "network.channels must be at most 4,096"),
    ],
)
def test_numbers_that_no_run_could_use_are_refused(name, value, message):
    """Each with its place, the most, and why."""
    assert message in refusal(study.from_dict, changed(**{name: value}), "smoke")


def test_a_name_that_no_file_can_have_is_refused():
    """Of 300 letters, longer than a file system takes."""
    name = "w" * 300
    raw = changed(precisions=RAW["precisions"] | {name: RAW["precisions"]["w4a4"]})
    assert "a name of 300 characters" in refusal(study.from_dict, raw, "smoke")


def test_limits_are_those_of_the_data_and_the_tests():
    """As many images as there are, and as many seeds as the exact test takes."""
    for split, name in (("train", "training"), ("test", "test")):
        assert len(load("mnist", split, sample=True)[0]) == limits.IMAGES[True][name]
    with pytest.raises(ValueError, match=f"at most {MOST_PAIRS} pairs"):
        paired_sign_flip([0.0] * (MOST_PAIRS + 1), [1.0] * (MOST_PAIRS + 1))


# ------------------------------------------------------------------------------------------- anything, anywhere

ODD = st.sampled_from(
    [None, True, 0, -1, 1, 10**14, -(10**14), 0.5, -0.0, 1e9, math.inf, -math.inf, math.nan, "", "no", ".", "..", "/",
     "a/b", "../x", "a\nb", "\x00", "é", "w2a2", "mnist", "full", "smoke", "x" * 300, "\x1b[31m", "{a}", "${x}", [], {},
     [[]], ["mnist", "mnist"], [1, 2], [8, 16], {"a": 1}, {"": {}}, {"conv1": [2, 2]}]
)  # fmt: skip
VALUES = ODD | st.integers(-(10**6), 10**6) | st.floats() | st.text(max_size=8) | st.lists(ODD, max_size=3)


def places(raw: Any, above: tuple = ()) -> list[tuple]:
    """The path of every section, list and value."""
    inside = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [path for key, value in inside for path in [(*above, key), *places(value, (*above, key))]]


PLACES = places(RAW)
MUTATIONS = st.tuples(st.sampled_from(PLACES), st.sampled_from(["replace", "remove", "add", "rename"]), VALUES)


def mutated(raw: Any, place: tuple, kind: str, value: Any) -> Any:
    """params.yaml with one place of it changed; as it is where an earlier change has removed the place."""
    raw = copy.deepcopy(raw)
    try:
        section = raw
        for key in place[:-1]:
            section = section[key]
        if kind == "replace":
            section[place[-1]] = value
        elif kind == "remove":
            del section[place[-1]]
        elif kind == "add":
            section[place[-1]]["another" if isinstance(section[place[-1]], dict) else slice(0, 0)] = value
        else:
            section[f"{value}"] = section.pop(place[-1])
    except (KeyError, IndexError, TypeError, AttributeError):
        return raw
    return raw


@given(st.lists(MUTATIONS, min_size=1, max_size=3), st.sampled_from([None, "smoke", "quick", "full"]))
@example([(("optimizer", "learning_rate"), "replace", 1e9)], "smoke")
@example([(("claims", "margins", "maps"), "replace", math.inf)], None)
@example([(("grid", "precisions"), "replace", ["w2a2"])], None)
@settings(max_examples=400)
def test_a_changed_tree_is_usable_or_refused_in_one_line(mutations, scale):
    """Up to three changes anywhere: what is accepted is typed and usable; nothing else than a ParamsError is raised."""
    raw = RAW
    for place, kind, value in mutations:
        raw = mutated(raw, place, kind, value)
    before = repr(raw)
    try:
        found = study.from_dict(raw, scale)
    except ParamsError as error:
        assert str(error).isprintable() and 0 < len(str(error)) <= LONGEST
        return
    finally:
        assert repr(raw) == before
    assert 0 <= found.optimizer.learning_rate <= 1 and 1 <= found.size.seeds <= MOST_PAIRS
    assert 1 <= found.size.images <= limits.IMAGES[found.size.sample]["test"]
    for cell in found.grid.cells:
        recipe = found.recipe(cell)
        assert 0 <= recipe.warmup_epochs < recipe.epochs
        assert all(len(part) <= limits.LONGEST_NAME and part.isidentifier() for part in str(cell).split("-"))
    assert all(math.isfinite(value) for value in (found.claims.margins.accuracy, found.claims.margins.maps))
