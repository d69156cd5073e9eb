"""When numbers become which word: `supported`, `opposite`, `equivalent` or `undecided`; and all claims answered so.

The tests are exact: sign flips and their corrections draw nothing at random. What they promise, for the comparisons of
one family (one claim, dataset, training and question): the chance that any is called `supported` or `opposite` though
nothing differs is at most the level, and so is the chance that any is called `equivalent` though each lies at its
margin or beyond. Of a single comparison only one of these can be wrong, since no change is both none and beyond the
margin. Fewer than six seeds can show nothing, and families of six tests need eight. Ten see in 80 of 100 families an
effect of 1.15 to 1.55 standard deviations of the paired difference, by test and fills: tests/slow/test_error_rates.py
holds all of that. Smaller effects are mostly `undecided`, which is not to say that they are absent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import pandas as pd

from saqlib.claims import RULES, Claim, Claims, Comparison, Evidence, Measured
from saqlib.statistics import holm, interval_if_any, sign_flips

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

KEYS = ["claim", "group", "dataset", "training", "question"]
COLUMNS = [*KEYS, "comparison", "estimate", "low", "high", "p", "p_holm", "verdict"]


@dataclass(frozen=True)
class Judged:
    """The p-values of one comparison and its word.

    p: two-sided, for or against the claim, whichever is smaller. p_equivalent: of two one-sided tests. *_holm:
    corrected in the family. note: why there is no answer, if there is none.
    """

    verdict: str = UNDECIDED
    p: float = np.nan
    p_holm: float = np.nan
    p_equivalent: float = np.nan
    p_equivalent_holm: float = np.nan
    note: str = ""


# ------------------------------------------------------------------------------------------------ all comparisons


def judge(families: Sequence[Sequence[Comparison]], level: float) -> list[list[Judged]]:
    """The verdict on every comparison of each family; all comparisons that can be made have the same seeds."""
    tested = iter(_p_values([each for family in families for each in family]))
    return [_family(family, [next(tested) for _ in family], level) for family in families]


def _p_values(comparisons: Sequence[Comparison]) -> list[dict[str, float]]:
    """Of each comparison and role the one-sided p-value of the part that is least above 0: no correction is needed.

    NaN with a gap, or fewer than two seeds.
    """
    found = [dict.fromkeys(each.roles, np.nan) for each in comparisons]
    pairs = [(p, each) for p, each in zip(found, comparisons, strict=True) if not each.note]
    made = [(p, role, array) for p, each in pairs for role, array in each.roles.items()]
    columns = np.hstack([array for *_, array in made]) if made else np.empty((0, 0))
    if len(columns) > 1:
        starts = np.cumsum([0, *(array.shape[1] for *_, array in made[:-1])])
        largest = np.maximum.reduceat(sign_flips(columns), starts)  # NaN if one part is
        for (p, role, _), value in zip(made, largest.tolist(), strict=True):
            p[role] = value
    return found


def _family(family: Sequence[Comparison], tested: Sequence[dict[str, float]], level: float) -> list[Judged]:
    """All comparisons of one family, corrected together; those that are not asked do not count.

    For or against the claim: two-sided, so each one-sided p-value counts twice, and twice more where there are two ways
    to be contrary.
    """
    asked = _asked(family, tested, level)
    ways = [[p[role] for role in p if role.startswith("contrary")] for p in tested]
    wanted = np.minimum(1.0, [2 * p["wanted"] for p in tested])
    contrary = np.minimum(1.0, [2 * len(way) * min(way) for way in ways])
    p = np.where(asked, np.minimum(wanted, contrary), np.nan)
    equivalent = np.where(asked, [np.maximum(p.get("above", np.nan), p.get("below", np.nan)) for p in tested], np.nan)
    p_holm, equivalent_holm = holm(p), holm(equivalent)
    toward = np.where(np.isfinite(p), np.sign(contrary - wanted), 0)
    tests = np.count_nonzero(~np.isnan(p))
    found = []
    for i, each in enumerate(family):
        verdict = word(p_holm[i], toward[i], equivalent_holm[i], level)
        count = len(each.shown)
        gap = count > 1 and np.isnan(tested[i]["wanted"])
        note = each.note or (NO_VALUE if gap else "" if asked[i] else NO_LOSS)
        if not note and verdict == UNDECIDED and tests * 2 / 2**count > level:
            note = TOO_FEW
        found.append(Judged(verdict, *(float(x[i]) for x in (p, p_holm, equivalent, equivalent_holm)), note))
    return found


def _asked(family: Sequence[Comparison], tested: Sequence[dict[str, float]], level: float) -> list[bool]:
    """Whether the loss that a comparison presumes was shown, after a correction over the losses of the family.

    A gate costs nothing of the level: what lies behind it is tested only once it is open.
    """
    losses = {each.loss[0]: np.minimum(1.0, 2 * p["loss"]) for each, p in zip(family, tested, strict=True) if each.loss}
    shown = dict(zip(losses, holm(list(losses.values())) <= level, strict=True))
    return [each.loss is None or bool(shown[each.loss[0]]) for each in family]


def word(p: float, toward: float, p_equivalent: float, level: float) -> str:
    """The word for one comparison, from corrected p-values and the side of the claim (1) or the other (-1); NaN decides
    nothing.

    A significant change comes before equivalence: a claim is about a direction, and a change may be real and small. How
    large it is beside its margin is told by the grid (saqlib.grid).
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
    for word, contrary in ((SUPPORTED, OPPOSITE), (OPPOSITE, SUPPORTED)):
        if word in words and contrary not in words:
            return word
    return EQUIVALENT if set(words) == {EQUIVALENT} else UNDECIDED


def whole(test: str, judged: Iterable[Judged]) -> str:
    """The verdict on a claim's question from those of its comparisons; those behind a closed gate have no say."""
    words = [each.verdict for each in judged if each.note != NO_LOSS]
    if not words:
        return UNDECIDED
    return some(words) if RULES[test].lenient else every(words)


def why(labels: Sequence[str], judged: Sequence[Judged]) -> str:
    """What stands behind the verdict on a question, for a reader; empty where every comparison says the same word."""
    groups: dict[str, list[str]] = {}
    for label, each in zip(labels, judged, strict=True):
        groups.setdefault(each.note or each.verdict, []).append(label)
    if len(groups) == 1:
        return "" if next(iter(groups)) in VERDICTS else next(iter(groups))
    return "; ".join(f"{key}: {', '.join(group)}" for key, group in groups.items())


# ---------------------------------------------------------------------------------------------------- all claims


@dataclass(frozen=True)
class Family:
    """The comparisons that one claim makes of one question on one dataset and training."""

    claim: Claim
    dataset: str
    training: str
    question: str
    comparisons: tuple[Comparison, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What identifies it: the values of KEYS."""
        return self.claim.id, self.claim.group, self.dataset, self.training, self.question


@dataclass(frozen=True)
class Answers:
    """Every family with the words on its comparisons."""

    families: Sequence[Family]
    judged: Sequence[Sequence[Judged]]

    @cached_property
    def words(self) -> dict[tuple[str, ...], str]:
        """The verdict on each question of each claim, by the family's key."""
        both = zip(self.families, self.judged, strict=True)
        return {family.key: whole(family.claim.test, judged) for family, judged in both}

    def tests(self) -> pd.DataFrame:
        """One row per comparison, with the columns COLUMNS: what results/tables/claims.csv holds.

        An estimate is signed as the words of its comparison: `w2a2 - fp32` is negative where w2a2 is lower. Mean and
        95 % interval over the seeds are not corrected: they tell how large, the verdict tells whether.
        """
        return self._comparisons()[COLUMNS]

    def equivalence(self) -> pd.DataFrame:
        """One row per comparison: margin (mean over seeds), p-values of the two one-sided tests, seeds, and a note.

        The note says why a comparison has no answer, where it has none.
        """
        names = ["margin", "p_equivalent", "p_equivalent_holm", "seeds", "note"]
        found = self._comparisons()[[*KEYS, "comparison", *names]]
        return found.rename(columns=lambda name: name.replace("_equivalent", ""))

    def verdicts(self) -> pd.DataFrame:
        """One row per claim, dataset, training and question: text, verdict, and what stands behind it."""
        rows = [
            [*family.key, family.claim.text, self.words[family.key], why([c.label for c in family.comparisons], judged)]
            for family, judged in zip(self.families, self.judged, strict=True)
        ]
        return pd.DataFrame(rows, columns=[*KEYS, "text", "verdict", "why"])

    def _comparisons(self) -> pd.DataFrame:
        rows = []
        for family, group in zip(self.families, self.judged, strict=True):
            for each, judged in zip(family.comparisons, group, strict=True):
                margin = np.nan if each.margin is None else float(each.margin.mean())
                found = *interval_if_any(each.shown), margin, len(each.shown)
                rows.append([*family.key, each.label, *found, *vars(judged).values()])
        own = [field.name for field in fields(Judged)]
        return pd.DataFrame(rows, columns=[*KEYS, "comparison", "estimate", "low", "high", "margin", "seeds", *own])


def evaluate(evidence: Evidence, claims: Claims) -> Answers:
    """Every claim on every dataset, training and question that was run.

    Args:
        evidence: the scores of every network.
        claims: what is claimed, and the level of the tests.

    Returns:
        The answers. A comparison whose networks were not run, or lack a value, is `undecided` and says why.
    """
    found = []
    for claim in claims.hypotheses:
        rule = RULES[claim.test]
        for dataset, run in evidence.runs.groupby("dataset", sort=False):
            for training in ["guided"] if rule.trainings else run.training.unique():
                for question in claim.questions:
                    data = Measured(evidence, claims, dataset, training, claims.questions[question])
                    comparisons = rule.comparisons(data, claim.precisions)
                    found.append(Family(claim, dataset, training, question, comparisons))
    return Answers(found, judge([family.comparisons for family in found], claims.level))
