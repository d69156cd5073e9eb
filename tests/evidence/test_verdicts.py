"""Tests of saqlib.evidence.verdicts: words by hand, and by simulation how often each is said when it should not be."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from saqlib.evidence import verdicts
from saqlib.evidence.rules import Comparison
from saqlib.evidence.settings import ACCURACY
from saqlib.evidence.statistics import holm, paired_sign_flip, signed_ranks, t_tests
from saqlib.evidence.verdicts import (
    EQUIVALENT,
    NO_LOSS,
    NO_VALUE,
    OPPOSITE,
    SUPPORTED,
    TOO_FEW,
    UNDECIDED,
    VERDICTS,
    Decision,
    Judged,
    every,
    judge,
    some,
    whole,
    why,
    word,
)
from tests.evidence.simulated import families, nothing, share

LEVEL = 0.05
DECISION = Decision(LEVEL)
ORDER = ["fp32", "w4a4", "mixed", "w2a2"]


def ramp(seeds=10, *, centre=1.0, spread=0.1):
    """Differences around a centre, evenly spread: (seeds, 1)."""
    return centre + spread * np.linspace(-1, 1, seeds)[:, None]


def difference(change, margin=None, **rest):
    """A comparison that its claim wants above 0."""
    margin = np.full_like(change, 1e-9) if margin is None else np.broadcast_to(margin, change.shape)
    return Comparison(change.mean(1), change, (-change,), change, margin, **rest)


def one(comparison, decision=DECISION):
    """The judgement of a family of one."""
    return judge([[comparison]], decision)[0][0]


# --- the word of one comparison ---


@pytest.mark.parametrize(
    ("p", "toward", "equivalent", "expected"),
    [
        (0.05, 1, 1.0, SUPPORTED),
        (0.05, -1, 1.0, OPPOSITE),
        (0.0501, 1, 1.0, UNDECIDED),
        (0.0501, -1, 0.05, EQUIVALENT),
        (0.0501, 1, 0.0501, UNDECIDED),
        (0.01, 1, 0.0, SUPPORTED),
        (0.01, -1, 0.0, OPPOSITE),
        (0.01, 0, 1.0, UNDECIDED),
        (np.nan, 0, np.nan, UNDECIDED),
        (np.nan, 1, 0.01, EQUIVALENT),
    ],
)
def test_the_rule_of_a_word(p, toward, equivalent, expected):
    """The level is included; a significant change comes before equivalence; NaN decides nothing."""
    assert word(p, toward, equivalent, LEVEL) == expected


def test_p_values_by_hand():
    """Two-sided for or against, two one-sided tests within the margin, both corrected over the family."""
    rng = np.random.default_rng(0)
    changes = [rng.normal(size=(10, 1)) + centre for centre in (1.0, -0.8, 0.1)]
    margin = 2.0
    found = judge([[difference(change, margin) for change in changes]], DECISION)[0]
    zero = np.zeros(10)
    p = [paired_sign_flip(change[:, 0], zero) for change in changes]
    equivalent = [
        max(paired_sign_flip(c[:, 0] + margin, zero, "greater"), paired_sign_flip(c[:, 0] - margin, zero, "less"))
        for c in changes
    ]
    np.testing.assert_allclose([each.p for each in found], p)
    np.testing.assert_allclose([each.p_holm for each in found], holm(p))
    np.testing.assert_allclose([each.p_equivalent for each in found], equivalent)
    np.testing.assert_allclose([each.p_equivalent_holm for each in found], holm(equivalent))
    assert [each.toward for each in found] == [1, -1, 1]


def test_of_several_parts_the_largest_p_value_counts():
    """Under every fill, or not at all: one fill that says nothing, or the contrary, leaves it open."""
    clear, faint = ramp(), ramp(centre=0.02)
    assert one(difference(np.hstack([clear, clear, clear]))).p == 2 / 2**10
    both = one(difference(np.hstack([clear, faint])))
    assert both.p == paired_sign_flip(faint[:, 0], np.zeros(10)) and both.verdict == UNDECIDED
    assert one(difference(np.hstack([clear, -clear]))).p == 1
    assert one(difference(np.hstack([-clear, -clear]))).verdict == OPPOSITE


def test_equivalence_needs_every_part_within_its_margin():
    """Also on both sides: a change beyond the margin is not equivalent, whichever way it goes."""
    small, large = ramp(centre=0.01), ramp(centre=0.01, spread=2)
    assert one(difference(small, 0.5)).verdict == EQUIVALENT
    assert one(difference(np.hstack([small, large]), 0.5)).verdict == UNDECIDED
    for side in (1, -1):
        assert one(difference(side * ramp(), 0.5)).p_equivalent > 0.99
    assert one(replace(difference(small), change=None, margin=None)).verdict == UNDECIDED


def test_a_margin_of_the_wrong_sign_is_no_margin():
    """Where training lowers a score, a tenth of what it gives is negative: nothing is equivalent then."""
    assert one(difference(ramp(centre=0.0, spread=0.01), -0.5)).p_equivalent > 0.99


def test_ways_to_be_contrary_share_the_level():
    """Two ways, so each has half: p is four times the one-sided p-value of the better one."""
    up, flat = ramp(), ramp(centre=0.0)
    either = Comparison(up[:, 0], -up, (flat, up))
    assert one(either).p == 4 / 2**10 and one(either).verdict == OPPOSITE


def test_another_test_can_take_the_place_of_sign_flips():
    """Eleven seeds rise and one falls a hundred times as far: the mean is torn, and a median decides."""
    change = np.append(np.linspace(1, 1.1, 11), -100.0)[:, None]
    assert one(difference(change)).verdict == UNDECIDED
    assert one(difference(change), replace(DECISION, test=signed_ranks)).verdict == SUPPORTED
    assert one(difference(ramp()), replace(DECISION, test=t_tests)).verdict == SUPPORTED


# --- one family ---


def test_holm_and_what_it_would_be_without():
    """Three comparisons, one of them at p = .0195: with two others of nothing it is not enough, alone it is."""
    faint = next(
        c for c in (ramp(centre=x, spread=1.0) for x in np.linspace(0.3, 0.7, 200))
        if 0.017 < paired_sign_flip(c[:, 0], np.zeros(10)) < 0.05
    )  # fmt: skip
    nothing_there = ramp(centre=0.001, spread=1.0)
    family = [difference(c) for c in (faint, nothing_there, nothing_there)]
    assert [each.verdict for each in judge([family], DECISION)[0]] == [UNDECIDED] * 3
    assert judge([family], replace(DECISION, correct=False))[0][0].verdict == SUPPORTED
    assert one(family[0]).verdict == SUPPORTED


def test_families_are_corrected_each_for_itself():
    """Judged together or apart, a family's words are the same."""
    rng = np.random.default_rng(5)
    made = [[difference(rng.normal(0.5, 1, (10, 1)), 1.0) for _ in range(k)] for k in (1, 3, 6)]
    assert judge(made, DECISION) == [judge([family], DECISION)[0] for family in made]


def test_a_loss_that_is_not_there_is_not_asked_about():
    """The comparison behind a closed gate has no say, and the others are not corrected for it."""
    there, absent = ("a", -ramp()), ("b", ramp(centre=0.0))
    asked, silent = difference(ramp(), loss=there), difference(ramp(), loss=absent)
    found = judge([[asked, silent, silent]], DECISION)[0]
    assert [each.verdict for each in found] == [SUPPORTED, UNDECIDED, UNDECIDED]
    assert [each.note for each in found] == ["", NO_LOSS, NO_LOSS]
    assert found[0].p_holm == found[0].p and np.isnan(found[1].p)
    assert one(difference(ramp(), loss=("c", ramp()))).note == NO_LOSS, "a gain is no loss"


def test_losses_of_one_name_count_once():
    """Two scales share one gate: its correction is over precisions, not over comparisons."""
    faint = next(
        c for c in (-ramp(centre=x, spread=1.0) for x in np.linspace(0.3, 0.9, 400))
        if 0.0125 < paired_sign_flip(c[:, 0], np.zeros(10)) < 0.0245
    )  # fmt: skip
    both = [difference(ramp(), loss=(name, lost)) for name, lost in (("a", faint), ("a", faint), ("b", -ramp()))]
    assert [each.note for each in judge([both], DECISION)[0]] == ["", "", ""]
    apart = [replace(both[0], loss=(name, faint)) for name in "abcd"]
    assert {each.note for each in judge([apart], DECISION)[0]} == {NO_LOSS}


@pytest.mark.parametrize("seeds", [2, 5])
def test_too_few_seeds_are_said_to_be_too_few(seeds):
    """A perfect effect that no test of so many seeds can show is undecided, and the note says why."""
    found = one(difference(ramp(seeds)))
    assert (found.verdict, found.note) == (UNDECIDED, TOO_FEW)
    assert one(difference(ramp(6))).verdict == SUPPORTED


def test_too_few_is_a_matter_of_the_family():
    """Seven seeds are enough for three comparisons, 3 x 2 / 2^7 = .047, and too few for four."""
    judged = {k: judge([[difference(ramp(7))] * k], DECISION)[0][0] for k in (3, 4)}
    assert (judged[3].verdict, judged[4].verdict, judged[4].note) == (SUPPORTED, UNDECIDED, TOO_FEW)
    assert judge([[difference(ramp(7))] * 4], replace(DECISION, correct=False))[0][0].verdict == SUPPORTED


def test_what_could_not_be_compared_says_so():
    """One seed, a network without a value, or a reason given in place of a comparison: no p-value, no error."""
    gap = ramp()
    gap[3] = np.nan
    found = judge(
        [[difference(gap), difference(ramp(1)), "not asked: mixed was not run", difference(ramp())]], DECISION
    )[0]
    assert [each.verdict for each in found] == [UNDECIDED, UNDECIDED, UNDECIDED, SUPPORTED]
    assert [each.note for each in found] == [NO_VALUE, TOO_FEW, "not asked: mixed was not run", ""]
    assert found[3].p_holm == found[3].p, "what was not tested is no member of the family"
    assert judge([[]], DECISION) == [[]] and judge([], DECISION) == []


# --- a whole claim ---


def test_every_and_some():
    """The strict reading and the lenient one."""
    yes, no, same, un = SUPPORTED, OPPOSITE, EQUIVALENT, UNDECIDED
    assert [every(words) for words in ([yes, yes], [no], [same, same], [yes, same], [yes, no], [un, un])] == [
        yes, no, same, un, un, un,
    ]  # fmt: skip
    assert [some(words) for words in ([yes, un], [no, same], [same, same], [same, un], [yes, no], [un])] == [
        yes, no, same, un, un, un,
    ]  # fmt: skip


@given(st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=5))
def test_what_the_strict_reading_decides_the_lenient_one_decides_alike(words):
    """So how many comparisons must agree cannot overturn a verdict."""
    if every(words) != UNDECIDED:
        assert some(words) == every(words)


def test_the_joint_loss_alone_is_claimed_of_some_precision():
    """Of all others every comparison must say it; those behind a closed gate have no say."""
    said = [Judged(SUPPORTED), Judged(UNDECIDED)]
    assert whole("joint_loss", said) == SUPPORTED and whole("loss", said) == UNDECIDED
    gated = [Judged(SUPPORTED), Judged(note=NO_LOSS)]
    assert whole("loss_at_equal_confidence", gated) == SUPPORTED
    assert whole("loss_at_equal_confidence", gated[1:]) == UNDECIDED
    assert whole("loss", [Judged(SUPPORTED), Judged(note="not asked: mixed was not run")]) == UNDECIDED


def test_why():
    """Nothing where all say one word, the note where all have one, else who says what."""
    yes, same, few = Judged(SUPPORTED), Judged(EQUIVALENT), Judged(note=TOO_FEW)
    assert why(["a", "b"], [yes, yes]) == "" and why(["a", "b"], [few, few]) == TOO_FEW
    assert why(["a", "b", "c"], [yes, same, yes]) == "supported: a, c; equivalent: b"
    assert why(["a", "b"], [yes, Judged(note=NO_LOSS)]) == f"supported: a; {NO_LOSS}: b"


def test_the_rule_stands_in_words():
    """A reader is told when each word is said, in order, in whole sentences."""
    assert tuple(verdicts.WORDS) == VERDICTS
    assert all(text.endswith(".") for text in verdicts.WORDS.values())


# --- the promises, by simulation: 2,000 families of ten seeds each ---

REPEATS = 2000
# The most families that may go wrong: the level, and what a simulation of that many is off by once in a thousand times.
MOST = stats.binom.ppf(0.999, REPEATS, LEVEL) / REPEATS


def below(size, *, only=ORDER):
    """Everything falls by so much at these precisions, in all but the reference."""
    return lambda training, precision, column, images: -size * (precision in only and precision != "fp32")


def standard_loses(training, precision, column, images):
    """Both trainings lose as much: there is something to make up for, and nothing is made up."""
    return -5.0 * (precision != "fp32")


def ends_meet(training, precision, column, images):
    """The middle is no better than the lowest, both far below the highest."""
    return -5.0 * (precision in ("mixed", "w2a2"))


def accuracy_alone(training, precision, column, images):
    """Accuracy falls by much, the score not at all."""
    return -5.0 * (column == ACCURACY and precision != "fp32")


def unsure_alone(training, precision, column, images):
    """A loss on the primary images, none where every precision is as sure."""
    return -5.0 * (images == "primary" and precision != "fp32")


def at_the_margin(training, precision, column, images):
    """A loss of just what would not matter."""
    return -0.5 * (precision != "fp32")


# For each test the state in which it errs most easily.
NULLS = {
    "loss": (nothing, {}),
    "steps": (nothing, {}),
    "joint_loss": (accuracy_alone, {}),
    "gain": (nothing, {}),
    "non_inferiority": (at_the_margin, {"given": 5.0}),
    "mitigation": (standard_loses, {"given": 20.0}),
    "between": (ends_meet, {}),
    "loss_at_equal_confidence": (unsure_alone, {}),
}


@pytest.mark.parametrize("fills", [1, 3])
@pytest.mark.parametrize("test", NULLS)
def test_a_change_that_is_not_there_is_rarely_found(test, fills):
    """Under each test's null hypothesis at most 1 family in 20 has any comparison called supported or opposite."""
    effect, options = NULLS[test]
    found = families(test, effect, repeats=REPEATS, fills=fills, **options)
    if test == "mitigation":  # equal shares and equal losses: the gate is open, margins are beside the point
        assert share(found, UNDECIDED, EQUIVALENT) > 0.9 and all(each.note != NO_LOSS for each in found[0])
    assert share(found, SUPPORTED, OPPOSITE) <= MOST


def test_the_promise_is_used_up():
    """The tests are exact, not timid: with one fill a true null is rejected in .03 to .05 of the families of three."""
    found = families("loss", repeats=10_000)
    assert 0.03 <= share(found, SUPPORTED, OPPOSITE) <= stats.binom.ppf(0.999, 10_000, LEVEL) / 10_000


def test_real_effects_beside_it_do_not_loosen_the_promise():
    """Two precisions fall by much; the third, at which nothing differs, is still rarely called anything."""
    found = families("loss", below(5.0, only=["mixed", "w2a2"]), repeats=REPEATS)
    assert share(found, SUPPORTED, OPPOSITE, which=slice(0, 1)) <= MOST
    assert share(found, SUPPORTED, which=slice(1, 2)) == 1


def test_one_fill_alone_does_not_make_a_loss():
    """A fall under one fill of three, nothing under the others: supported in no more than 1 family in 20."""
    found = families("loss", lambda t, p, c, i: np.array([-5.0, 0, 0]) * (p != "fp32"), repeats=REPEATS, fills=3)
    assert share(found, SUPPORTED, OPPOSITE) <= MOST


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("fills", [1, 3])
def test_a_change_at_the_margin_is_rarely_called_equivalent(side, fills):
    """On either side of it: at most 1 family in 20 has any comparison called equivalent."""
    found = families("loss", below(side * 2.0), repeats=REPEATS, given=20.0, fills=fills)
    assert share(found, EQUIVALENT) <= MOST
    beyond = families(
        "loss", lambda t, p, c, i: np.array([-2.0, 0, 0][:fills]) * (p != "fp32"), given=20.0, fills=fills
    )
    assert share(beyond, EQUIVALENT) <= MOST


def test_the_uncertainty_of_what_training_gives_is_part_of_equivalence():
    """A margin that is a share of something uncertain: at the true margin still at most 1 in 20."""
    rng = np.random.default_rng(1)
    change = 1.0 + rng.normal(size=(REPEATS, 10, 1))
    margin = 0.1 * (10 + 5 * rng.normal(size=(REPEATS, 10, 1)))  # of a tenth of 10, with a wide spread
    found = judge([[difference(c, m)] for c, m in zip(change, margin, strict=True)], DECISION)
    assert share(found, EQUIVALENT) <= MOST


def test_the_question_behind_a_gate_is_rarely_asked_in_vain():
    """Without any loss, at most 1 family in 20 has a comparison that is asked at all."""
    found = families("loss_at_equal_confidence", repeats=REPEATS)
    assert np.mean([any(each.note != NO_LOSS for each in family) for family in found]) <= MOST


# What ten seeds can see (the docstring of saqlib.evidence.verdicts): for each test the effect, in standard deviations
# of the paired difference, at which its whole claim is called what it should be in about 80 of 100 families; with one
# part, and with three fills whose noise has nothing in common. Real fills share most of theirs and lie between.
POWER = {
    "loss": (1.25, 1.45, lambda e: below(e)),
    "steps": (1.3, 1.5, lambda e: lambda t, p, c, i: -e * ORDER.index(p)),
    "joint_loss": (1.15, 1.35, lambda e: below(e)),
    "gain": (1.35, 1.55, lambda e: lambda t, p, c, i: e * (t == "guided")),
    "between": (1.15, 1.4, lambda e: lambda t, p, c, i: -e * ORDER.index(p)),
}


@pytest.mark.parametrize("fills", [1, 3])
@pytest.mark.parametrize("test", POWER)
def test_power(test, fills):
    """The effects named are those that are seen in 72 to 88 of 100 families, and the sign decides the word."""
    one_part, three_parts, effect = POWER[test]
    size = one_part if fills == 1 else three_parts
    for sign, expected in ((1, SUPPORTED), (-1, OPPOSITE)) if test in ("loss", "steps", "gain") else ((1, SUPPORTED),):
        found = families(test, effect(sign * size), repeats=600, fills=fills)
        assert 0.72 <= np.mean([whole(test, family) == expected for family in found]) <= 0.88


@pytest.mark.parametrize(("fills", "margin"), [(1, 1.25), (3, 1.4)])
def test_power_of_equivalence(fills, margin):
    """Where nothing differs, all three comparisons are called equivalent in about 80 of 100 families."""
    found = families("loss", repeats=600, given=10 * margin, fills=fills)
    assert 0.72 <= np.mean([whole("loss", family) == EQUIVALENT for family in found]) <= 0.88


def test_power_of_non_inferiority():
    """A margin of 1.05 standard deviations, and no loss."""
    found = families("non_inferiority", repeats=600, given=10.5)
    assert 0.72 <= share(found, SUPPORTED) <= 0.88


@pytest.mark.parametrize(("size", "expected"), [(3.0, SUPPORTED), (0.0, EQUIVALENT), (-3.0, OPPOSITE)])
def test_large_effects_are_always_called_by_their_name(size, expected):
    """Well beyond the noise there is no doubt; where nothing differs, and the margin is wide, hardly any."""
    found = families("loss", below(size), repeats=300, given=30.0 if size == 0 else 1e-6)
    assert np.mean([whole("loss", family) == expected for family in found]) > 0.94
