"""When numbers become which word: `supported`, `opposite`, `equivalent` or `undecided`.

The tests are exact: sign flips and their corrections draw nothing at random. What they promise, for the comparisons of
one family (one claim, dataset, training and question): the chance that any is called `supported` or `opposite` though
nothing differs is at most the level, and so is the chance that any is called `equivalent` though each lies at its
margin or beyond. Of a single comparison only one of these can be wrong, since no change is both none and beyond the
margin.

What ten seeds can see, found by simulation: a whole claim is called what it should be in 80 of 100 families where the
effect has so many standard deviations of the paired difference, with one score and (in brackets) under three fills
whose noise has nothing in common, the worst case: loss 1.25 (1.45), steps 1.3 (1.5), joint loss 1.15 (1.35), gain 1.35
(1.55), between 1.15 (1.4). Equivalence, where nothing differs, needs a margin of 1.25 (1.4) standard deviations,
non-inferiority one of 1.05. Smaller effects are mostly `undecided`, which is not to say that they are absent. Fewer
than six seeds can show nothing, and families of six tests need eight; all of that is held by
tests/evidence/test_verdicts.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saqlib.evidence.rules import Comparison
from saqlib.evidence.statistics import Test, holm, sign_flips

SUPPORTED, OPPOSITE, EQUIVALENT, UNDECIDED = "supported", "opposite", "equivalent", "undecided"
VERDICTS = (SUPPORTED, OPPOSITE, EQUIVALENT, UNDECIDED)

# In words, for a reader; the functions below are the rule.
WORDS = {
    SUPPORTED: "the change has the claimed sign, and is significant after Holm's correction; of faithfulness, under "
    "every fill that qualifies.",
    OPPOSITE: "the same with the other sign.",
    EQUIVALENT: "no such change, and two one-sided tests show that it is smaller than the margin stated beforehand.",
    UNDECIDED: "everything else: a change may be there or not, and so many seeds cannot tell; or the comparisons of a "
    "claim do not say one thing.",
}
NO_VALUE, TOO_FEW, NO_LOSS = "a network has no value", "seeds are too few", "not asked: no loss was shown"


@dataclass(frozen=True)
class Decision:
    """How words are found: the level of a family, the test of a column, and whether Holm's correction is made."""

    level: float
    test: Test = sign_flips
    correct: bool = True

    def corrected(self, p: Sequence[float]) -> NDArray[np.float64]:
        """The p-values of one family as they are compared with the level."""
        return holm(p) if self.correct else np.asarray(p, dtype=float)


@dataclass(frozen=True)
class Judged:
    """The p-values of one comparison and its word.

    p: two-sided, for or against the claim, whichever is smaller, and `toward` which (+1 for, -1 against). p_equivalent:
    of two one-sided tests. *_holm: corrected in the family. note: why there is no answer, if there is none.
    """

    verdict: str = UNDECIDED
    p: float = np.nan
    p_holm: float = np.nan
    p_equivalent: float = np.nan
    p_equivalent_holm: float = np.nan
    toward: int = 0
    note: str = ""


def judge(families: Sequence[Sequence[Comparison | str]], decision: Decision) -> list[list[Judged]]:
    """The verdict on every comparison of each family; a comparison that could not be made is the reason why.

    All columns of all families are tested together, which is what makes hundreds of resamples affordable.
    """
    flat = [each for family in families for each in family if isinstance(each, Comparison)]
    tested = iter(_p_values(flat, decision.test))
    found = []
    for family in families:
        raw = [next(tested) if isinstance(each, Comparison) else _P(note=each) for each in family]
        found.append(_family(raw, [_seeds(each) for each in family], decision))
    return found


def _seeds(comparison: Comparison | str) -> int:
    return len(comparison.shown) if isinstance(comparison, Comparison) else 0


# --------------------------------------------------------------------------------------------- one comparison


@dataclass(frozen=True)
class _P:
    """Uncorrected p-values of one comparison: for and against the claim, equivalence, and the loss that it presumes."""

    wanted: float = np.nan
    contrary: float = np.nan
    equivalent: float = np.nan
    loss: tuple[str, float] | None = None
    note: str = ""


def _p_values(comparisons: Sequence[Comparison], test: Test) -> list[_P]:
    """An intersection-union test wherever several parts must hold: the largest p-value, with no correction.

    Two-sided, so each one-sided p-value counts twice; and twice more where there are two ways to be contrary.
    """
    arrays = []
    for each in comparisons:
        change, margin = (np.nan * each.wanted if x is None else x for x in (each.change, each.margin))
        lost = np.nan * each.wanted if each.loss is None else -each.loss[1]
        arrays.append([each.wanted, change + margin, margin - change, lost, *each.contrary])
    largest = iter(_largest([array for group in arrays for array in group], test))
    found = []
    for each in comparisons:
        wanted, above, below, lost = (next(largest) for _ in range(4))
        contrary = np.min([next(largest) for _ in each.contrary])
        found.append(_P(
            wanted=_times(2, wanted),
            contrary=_times(2 * len(each.contrary), contrary),
            equivalent=float(np.maximum(above, below)),
            loss=None if each.loss is None else (each.loss[0], _times(2, lost)),
            note="" if np.isfinite(each.wanted).all() and len(each.wanted) else NO_VALUE,
        ))  # fmt: skip
    return found


def _times(factor: int, p: float) -> float:
    """So many times a p-value, at most 1; NaN stays NaN, which Python's own `min` would turn into 1."""
    return float(np.minimum(1.0, factor * p))


def _largest(arrays: Sequence[NDArray], test: Test) -> list[float]:
    """Of each array (seeds, parts) the largest one-sided p-value of its parts; NaN with a gap or fewer than 2 seeds."""
    found = [np.nan] * len(arrays)
    for seeds in {len(array) for array in arrays if len(array) > 1}:
        chosen = [place for place, array in enumerate(arrays) if len(array) == seeds]
        p = test(np.hstack([arrays[place] for place in chosen]))
        ends = np.cumsum([arrays[place].shape[1] for place in chosen])
        for place, part in zip(chosen, np.split(p, ends[:-1]), strict=True):
            found[place] = float(part.max())  # NaN if one part is
    return found


# ------------------------------------------------------------------------------------------------ one family


def _family(raw: Sequence[_P], seeds: Sequence[int], decision: Decision) -> list[Judged]:
    """All comparisons of one family, corrected together; those that are not asked do not count."""
    asked = _asked(raw, decision)
    p = np.array([_either(each) if ask else np.nan for each, ask in zip(raw, asked, strict=True)])
    equivalent = np.array([each.equivalent if ask else np.nan for each, ask in zip(raw, asked, strict=True)])
    p_holm, equivalent_holm = decision.corrected(p), decision.corrected(equivalent)
    tests = np.count_nonzero(~np.isnan(p)) if decision.correct else 1
    found = []
    for i, each in enumerate(raw):
        toward = int(np.sign(each.contrary - each.wanted)) if np.isfinite(p[i]) else 0
        verdict = word(p_holm[i], toward, equivalent_holm[i], decision.level)
        note = each.note or ("" if asked[i] else NO_LOSS)
        if not note and verdict == UNDECIDED and tests * 2 / 2 ** seeds[i] > decision.level:
            note = TOO_FEW
        own = (float(values[i]) for values in (p, p_holm, equivalent, equivalent_holm))
        found.append(Judged(verdict, *own, toward, note))
    return found


def _either(each: _P) -> float:
    """For or against, whichever is smaller: each has half of the level."""
    return float(np.minimum(each.wanted, each.contrary))


def _asked(raw: Sequence[_P], decision: Decision) -> list[bool]:
    """Whether the loss that a comparison presumes was shown, after a correction over the losses of the family.

    A gate costs nothing of the level: what lies behind it is tested only once it is open.
    """
    losses = dict(each.loss for each in raw if each.loss)
    shown = dict(zip(losses, decision.corrected(list(losses.values())) <= decision.level, strict=True))
    return [each.loss is None or bool(shown[each.loss[0]]) for each in raw]


def word(p: float, toward: int, p_equivalent: float, level: float) -> str:
    """The word for one comparison, from corrected p-values; NaN decides nothing.

    A significant change comes before equivalence: a claim is about a direction, and a change may be real and small. How
    much matters is asked by a claim of its own, non-inferiority.
    """
    if p <= level and toward:
        return SUPPORTED if toward > 0 else OPPOSITE
    return EQUIVALENT if p_equivalent <= level else UNDECIDED


# ------------------------------------------------------------------------------------------------- a whole claim


def every(words: Sequence[str]) -> str:
    """What all comparisons say, or `undecided`.

    The abstract speaks of quantization and of guidance without exception, so a claim stands if each precision that was
    tried bears it out. Where only some do, the rows say which. Being the strictest reading it is also the safest one:
    whatever it decides, `some` decides alike.
    """
    return words[0] if len(set(words)) == 1 else UNDECIDED


def some(words: Sequence[str]) -> str:
    """What at least one comparison says, if none says the contrary; `equivalent` only if all are.

    For the joint loss, which is claimed of no precision in particular: one at which both are given up shows it.
    """
    for said, contrary in ((SUPPORTED, OPPOSITE), (OPPOSITE, SUPPORTED)):
        if said in words and contrary not in words:
            return said
    return EQUIVALENT if set(words) == {EQUIVALENT} else UNDECIDED


def whole(test: str, judged: Iterable[Judged]) -> str:
    """The verdict on a claim's question from those of its comparisons; those behind a closed gate have no say."""
    words = [each.verdict for each in judged if each.note != NO_LOSS]
    if not words:
        return UNDECIDED
    return some(words) if test == "joint_loss" else every(words)


def why(labels: Sequence[str], judged: Sequence[Judged]) -> str:
    """What stands behind the verdict on a question, for a reader; empty where every comparison says the same word."""
    said: dict[str, list[str]] = {}
    for label, each in zip(labels, judged, strict=True):
        said.setdefault(each.note or each.verdict, []).append(label)
    if len(said) == 1:
        return "" if next(iter(said)) in VERDICTS else next(iter(said))
    return "; ".join(f"{key}: {', '.join(group)}" for key, group in said.items())
