"""When numbers become which word, by hand; how often each is said when it should not be, in tests/slow."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saqlib import verdicts
from saqlib.claims import Comparison
from saqlib.statistics import paired_sign_flip
from saqlib.verdicts import (
    EQUIVALENT,
    NO_LOSS,
    NO_VALUE,
    OPPOSITE,
    SUPPORTED,
    TOO_FEW,
    UNDECIDED,
    VERDICTS,
    Judged,
    every,
    judge,
    some,
    whole,
    why,
    word,
)

LEVEL = 0.05


def ramp(seeds=10, *, centre=1.0, spread=0.1):
    """Differences around a centre, evenly spread: (seeds, 1)."""
    return centre + spread * np.linspace(-1, 1, seeds)[:, None]


def ramp_between(low, high):
    """Differences whose two-sided p-value lies between these."""
    ramps = (ramp(centre=centre, spread=1.0) for centre in np.linspace(0.3, 0.9, 400))
    return next(each for each in ramps if low < paired_sign_flip(each[:, 0], np.zeros(10)) < high)


def difference(change, margin=None, **rest):
    """A comparison that its claim wants above 0."""
    margin = np.full_like(change, 1e-9) if margin is None else np.broadcast_to(margin, change.shape)
    return Comparison(change.mean(1), change, (-change,), change, margin, **rest)


def one(comparison):
    """The judgement of a family of one."""
    return judge([[comparison]], LEVEL)[0][0]


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


def test_of_several_parts_the_largest_p_value_counts():
    """Under every fill, or not at all: one fill that says nothing, or the contrary, leaves it open."""
    clear, faint = ramp(), ramp(centre=0.02)
    assert one(difference(np.hstack([clear, clear, clear]))).p == 2 / 2**10
    both = one(difference(np.hstack([clear, faint])))
    assert both.p == paired_sign_flip(faint[:, 0], np.zeros(10)) and both.verdict == UNDECIDED
    assert one(difference(np.hstack([clear, -clear]))).p == 1
    assert one(difference(np.hstack([-clear, -clear]))).verdict == OPPOSITE


def test_equivalence_needs_every_part_within_its_margin():
    """On both sides; where no margin is asked, or training lowers a score and so the margin is negative, never."""
    small, large = ramp(centre=0.01), ramp(centre=0.01, spread=2)
    assert one(difference(small, 0.5)).verdict == EQUIVALENT
    assert one(difference(np.hstack([small, large]), 0.5)).verdict == UNDECIDED
    for side in (1, -1):
        assert one(difference(side * ramp(), 0.5)).p_equivalent > 0.99
    assert one(replace(difference(small), change=None, margin=None)).verdict == UNDECIDED
    assert one(difference(ramp(centre=0.0, spread=0.01), -0.5)).p_equivalent > 0.99


def test_ways_to_be_contrary_share_the_level():
    """Two ways, so each has half: p is four times the one-sided p-value of the better one."""
    up, flat = ramp(), ramp(centre=0.0)
    either = Comparison(up[:, 0], -up, (flat, up))
    assert one(either).p == 4 / 2**10 and one(either).verdict == OPPOSITE


def test_a_loss_that_is_not_there_is_not_asked_about():
    """The comparison behind a closed gate has no say, and the others are not corrected for it."""
    there, absent = ("a", -ramp()), ("b", ramp(centre=0.0))
    asked, silent = difference(ramp(), loss=there), difference(ramp(), loss=absent)
    found = judge([[asked, silent, silent]], LEVEL)[0]
    assert [each.verdict for each in found] == [SUPPORTED, UNDECIDED, UNDECIDED]
    assert [each.note for each in found] == ["", NO_LOSS, NO_LOSS]
    assert found[0].p_holm == found[0].p and np.isnan(found[1].p)
    assert one(difference(ramp(), loss=("c", ramp()))).note == NO_LOSS, "a gain is no loss"


def test_losses_of_one_name_count_once():
    """Two scales share one gate: its correction is over precisions, not over comparisons."""
    faint = -ramp_between(0.0125, 0.0245)
    both = [difference(ramp(), loss=(name, lost)) for name, lost in (("a", faint), ("a", faint), ("b", -ramp()))]
    assert [each.note for each in judge([both], LEVEL)[0]] == ["", "", ""]
    apart = [replace(both[0], loss=(name, faint)) for name in "abcd"]
    assert {each.note for each in judge([apart], LEVEL)[0]} == {NO_LOSS}


def test_too_few_seeds_is_a_matter_of_the_family():
    """Six seeds are enough for one comparison, seven for three, 3 x 2 / 2^7 = .047, and not for four."""
    assert (one(difference(ramp(5))).verdict, one(difference(ramp(5))).note) == (UNDECIDED, TOO_FEW)
    assert one(difference(ramp(6))).verdict == SUPPORTED
    judged = {k: judge([[difference(ramp(7))] * k], LEVEL)[0][0] for k in (3, 4)}
    assert (judged[3].verdict, judged[4].verdict, judged[4].note) == (SUPPORTED, UNDECIDED, TOO_FEW)


def test_what_could_not_be_compared_says_so():
    """One seed, a network without a value, or a comparison that could not be made: no p-value, no error."""
    gap = ramp()
    gap[3] = np.nan
    missing = Comparison.missing("mixed - fp32", "not asked: mixed was not run")
    found = judge([[difference(gap), missing, difference(ramp())]], LEVEL)[0]
    assert [each.verdict for each in found] == [UNDECIDED, UNDECIDED, SUPPORTED]
    assert [each.note for each in found] == [NO_VALUE, "not asked: mixed was not run", ""]
    assert found[2].p_holm == found[2].p, "what was not tested is no member of the family"
    single = one(difference(ramp(1)))
    assert single.verdict == UNDECIDED and np.isnan(single.p)


def test_every_and_some():
    """The strict reading and the lenient one."""
    yes, no, same, un = SUPPORTED, OPPOSITE, EQUIVALENT, UNDECIDED
    for rule, cases in ((every, ([yes, yes], [no], [same, same], [yes, same], [yes, no], [un, un])),
                        (some, ([yes, un], [no, same], [same, same], [same, un], [yes, no], [un]))):  # fmt: skip
        assert [rule(words) for words in cases] == [yes, no, same, un, un, un]


@given(st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=5))
def test_what_the_strict_reading_decides_the_lenient_one_decides_alike(words):
    """So how many comparisons must agree cannot overturn a verdict."""
    assert every(words) in (UNDECIDED, some(words))


def test_the_joint_loss_is_the_only_one_claimed_of_some_precision():
    """Of all others every comparison must say it; those behind a closed gate have no say."""
    said = [Judged(SUPPORTED), Judged(UNDECIDED)]
    assert whole("joint_loss", said) == SUPPORTED and whole("loss", said) == UNDECIDED
    gated = [Judged(SUPPORTED), Judged(note=NO_LOSS)]
    assert whole("mitigation", gated) == SUPPORTED
    assert whole("mitigation", gated[1:]) == UNDECIDED
    assert whole("loss", [Judged(SUPPORTED), Judged(note="not asked: mixed was not run")]) == UNDECIDED


def test_why():
    """Nothing where all say one word, the note where all have one, else who says what; each word is explained."""
    yes, same, few = Judged(SUPPORTED), Judged(EQUIVALENT), Judged(note=TOO_FEW)
    assert why(["a", "b"], [yes, yes]) == "" and why(["a", "b"], [few, few]) == TOO_FEW
    assert why(["a", "b", "c"], [yes, same, yes]) == "supported: a, c; equivalent: b"
    assert why(["a", "b"], [yes, Judged(note=NO_LOSS)]) == f"supported: a; {NO_LOSS}: b"
    assert tuple(verdicts.WORDS) == VERDICTS and all(text.endswith(".") for text in verdicts.WORDS.values())
