"""Tests of saqlib.evidence.settings: the claims as data, and everything that is refused before anything runs."""

import copy
import dataclasses

import pytest

from saqlib import words
from saqlib.evidence import settings
from saqlib.evidence.rules import RULES
from saqlib.evidence.settings import ACCURACY, COLUMNS, GROUPS, TESTS, Claim
from tests.parameters import BAD_NUMBERS, RAW, refusal

PRECISIONS = tuple(RAW["precisions"])


def read(raw=None, precisions=PRECISIONS, run=None):
    """The claims of a section, by default the committed one."""
    return settings.claims(RAW["claims"] if raw is None else raw, precisions, run)


def changed(**values) -> dict:
    """The section `claims` with some values changed."""
    return copy.deepcopy(RAW["claims"]) | values


def one_claim(place: int = 0, **values) -> dict:
    """The section `claims` with one claim changed, by default the first."""
    raw = copy.deepcopy(RAW["claims"])
    raw["hypotheses"][place] |= values
    return raw


def place_of(test: str) -> int:
    """Where the first claim with this test stands."""
    return [claim["test"] for claim in RAW["claims"]["hypotheses"]].index(test)


# --- what is committed ---


def test_committed_claims_are_valid():
    """The values are those of params.yaml, by name, lists as tuples."""
    claims, raw = read(), RAW["claims"]
    assert (claims.level, claims.reference, claims.questions) == (raw["level"], raw["reference"], raw["questions"])
    assert dataclasses.asdict(claims.margins) == raw["margins"]
    assert [dataclasses.asdict(claim) for claim in claims.hypotheses] == [
        each | {"questions": tuple(each["questions"]), "precisions": tuple(each["precisions"])}
        for each in raw["hypotheses"]
    ]


def test_the_frozen_claims():
    """A change of what is claimed, of how it is tested, of level or margins shows in this list, too."""
    claims = read()
    assert (claims.level, claims.reference) == (0.05, "fp32")
    assert (claims.margins.accuracy, claims.margins.maps) == (0.5, 0.1)
    assert claims.questions == {
        "accuracy": "test_accuracy", "focus": "gini", "coherence": "morans_i", "faithfulness": "relevance_gain",
    }  # fmt: skip
    maps, quantized = ("focus", "coherence", "faithfulness"), ("w4a4", "mixed", "w2a2")
    every = ("accuracy", *maps)
    assert [(c.id, c.group, c.test, c.questions, c.precisions) for c in claims.hypotheses] == [
        ("A1", "abstract", "loss", ("accuracy",), quantized),
        ("A2", "abstract", "loss", maps, quantized),
        ("A3", "abstract", "steps", every, ("fp32", *quantized)),
        ("A4", "abstract", "joint_loss", maps, quantized),
        ("A5", "abstract", "gain", maps, ("fp32", *quantized)),
        ("B1", "ours", "non_inferiority", every, ("w4a4",)),
        ("B2", "ours", "mitigation", maps, quantized),
        ("B3", "ours", "between", every, quantized),
        ("B4", "ours", "loss_at_equal_confidence", maps, quantized),
    ]


def test_every_test_has_a_rule_and_every_rule_a_claim():
    """No test can be named that nobody carries out, and no rule stands there unused."""
    assert list(TESTS) == list(RULES)
    assert {claim.test for claim in read().hypotheses} == set(TESTS)


def test_more_is_better_in_every_column_that_may_answer():
    """The rules take that for granted: a loss is a fall."""
    scores = [words.SCORES[words.score_id(column)] for column in COLUMNS[1:-1]]
    assert COLUMNS[0] == ACCURACY and COLUMNS[-1] == "relevance_gain"
    assert {score.direction for score in scores} == {"higher"}


def test_values_are_frozen():
    """Claims are fixed before the run."""
    claims = read()
    with pytest.raises(dataclasses.FrozenInstanceError):
        claims.level = 0.1
    with pytest.raises(dataclasses.FrozenInstanceError):
        claims.hypotheses[0].test = "gain"


# --- words that are not known ---


@pytest.mark.parametrize(("kind", "valid"), [("test", TESTS), ("group", GROUPS)])
def test_misspelt_word_of_a_claim_is_refused_by_the_claim_s_id(kind, valid):
    """The nearest valid word is named."""
    first = next(iter(valid))
    text = refusal(read, one_claim(**{kind: first + "x"}))
    assert text.startswith(f"unknown {kind} in claim A1 '{first}x'; did you mean '{first}'?")


def test_unknown_question_is_refused():
    """By the claim's id, with the nearest question."""
    text = refusal(read, one_claim(1, questions=["focus", "cohesion"]))
    assert text.startswith("unknown question in claim A2 'cohesion'; did you mean 'coherence'?")


def test_unknown_column_is_refused():
    """A score that is misspelt, or that no untrained network has, cannot answer a question."""
    text = refusal(read, changed(questions=RAW["claims"]["questions"] | {"focus": "ginni"}))
    assert text.startswith("unknown column in claims.questions.focus 'ginni'; did you mean 'gini'?")
    assert "'sensitivity_max'" in refusal(read, changed(questions={"focus": "sensitivity_max"}))


def test_unknown_precision_of_a_claim_is_refused():
    """By the claim's id, with the nearest row of `precisions`; also one that was taken out of params.yaml."""
    text = refusal(read, one_claim(precisions=["w4a4", "w2a3"]))
    assert text.startswith("unknown precision in claim A1 'w2a3'; did you mean 'w2a2'?")
    assert refusal(read, None, ("fp32", "w4a4", "w2a2")).startswith("unknown precision in claim A1 'mixed'")


def test_unknown_reference_is_refused():
    """The reference is a precision, too."""
    text = refusal(read, changed(reference="fp16"))
    assert text.startswith("unknown precision in claims.reference 'fp16'; did you mean 'fp32'?")


def test_a_grid_without_the_reference_is_refused():
    """Two hours later every comparison would lack what it compares with."""
    text = refusal(read, None, PRECISIONS, ("w4a4", "w2a2"))
    assert text == "grid.precisions (w4a4, w2a2) lacks fp32, claims.reference: every claim compares with it"
    assert read(None, PRECISIONS, ("fp32", "w2a2")), (
        "precisions that are not run are another matter: the verdicts say so"
    )


# --- claims that cannot be tested ---


@pytest.mark.parametrize("name", ["questions", "precisions"])
def test_empty_or_repeated_lists_are_refused(name):
    """A claim about nothing would have no verdict, and one about the same twice would correct for it."""
    assert refusal(read, one_claim(**{name: []})) == f"claim A1: {name} is empty; name at least one"
    twice = {"questions": ["accuracy"] * 2, "precisions": ["w4a4", "w4a4"]}[name]
    assert refusal(read, one_claim(**{name: twice})) == f"claim A1: {name} has one of its values twice"


@pytest.mark.parametrize(
    ("test", "precisions", "words"),
    [
        ("between", ["w4a4", "w2a2"], "3 precisions, not 2 (w4a4, w2a2)"),
        ("between", ["fp32", "w4a4", "mixed", "w2a2"], "3 precisions, not 4 (fp32, w4a4, mixed, w2a2)"),
        ("steps", ["fp32", "w2a2"], "at least 3 precisions, not 2 (fp32, w2a2)"),
    ],
)
def test_wrong_number_of_precisions_is_refused(test, precisions, words):
    """Not missing from the verdicts without a word."""
    place = place_of(test)
    claim = RAW["claims"]["hypotheses"][place]["id"]
    text = refusal(read, one_claim(place, precisions=precisions))
    assert text == f"claim {claim}: the test {test} takes {words}"


@pytest.mark.parametrize("test", [test for test, needs in TESTS.items() if not needs.reference])
def test_the_reference_is_not_compared_with_itself(test):
    """It would be a comparison of nothing, in a family that then corrects for it."""
    place = place_of(test)
    claim = RAW["claims"]["hypotheses"][place]
    raw = one_claim(place, precisions=["fp32", *claim["precisions"][1:]])
    assert refusal(read, raw) == (
        f"claim {claim['id']}: fp32 is the reference; name the precisions that are compared with it"
    )


@pytest.mark.parametrize("test", [test for test, needs in TESTS.items() if not needs.accuracy])
def test_a_test_of_maps_is_not_asked_of_accuracy(test):
    """What it would compare does not exist, such as the accuracy of an untrained network's map."""
    place = place_of(test)
    claim = RAW["claims"]["hypotheses"][place]["id"]
    text = refusal(read, one_claim(place, questions=["accuracy"]))
    assert text == f"claim {claim}: the test {test} asks about maps, and accuracy is not one of them"


# --- numbers and keys ---


@pytest.mark.parametrize("level", [0.0, 1.0, -0.05, 5.0, float("nan")])
def test_level_outside_0_to_1_is_refused(level):
    """A percentage, for one, is no level; neither limit is one."""
    assert refusal(read, changed(level=level)) == f"claims.level must lie in (0, 1), not {level}"


@pytest.mark.parametrize("name", ["accuracy", "maps"])
@pytest.mark.parametrize("margin", [0.0, -0.5, float("nan"), float("inf")])
def test_margin_must_be_a_finite_number_above_0(name, margin):
    """A margin of nothing is no margin, and within an infinite one everything is equivalent."""
    raw = changed(margins=RAW["claims"]["margins"] | {name: margin})
    assert refusal(read, raw) == f"claims.margins.{name} must be a finite number above 0, not {margin}"


@pytest.mark.parametrize("kind", BAD_NUMBERS)
def test_wrong_number_is_refused(kind):
    """Text, flags, nothing and lists are no numbers; nan is in no range."""
    bad = BAD_NUMBERS[kind]
    text = refusal(read, changed(level=bad))
    assert text.startswith("claims.level must ") and str(bad) in text
    text = refusal(read, changed(margins=RAW["claims"]["margins"] | {"maps": bad}))
    assert text.startswith("claims.margins.maps must ") and str(bad) in text


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


@pytest.mark.parametrize("key", ["metrics", "expected", "images"])
def test_a_setting_that_nobody_would_read_is_refused(key):
    """Where, and what: those of the first run have no meaning any more."""
    assert refusal(read, one_claim(**{key: "lower"})).startswith(f"unknown key in claims.hypotheses[0] '{key}'")


@pytest.mark.parametrize("raw", [None, [], "A1"])
def test_section_that_is_no_mapping_is_refused(raw):
    """A section left empty in YAML is None, and is named."""
    text = refusal(settings.claims, raw, PRECISIONS)
    assert text == f"claims must be of type dict, not {raw!r}"
