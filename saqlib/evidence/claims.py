"""The claims, answered: comparisons by the rules, words by the verdicts, and both as frames.

The claims themselves are data: the section `claims` of params.yaml. What each test compares stands in
saqlib.evidence.rules, when it is called what in saqlib.evidence.verdicts. The replicate is the seed.

An estimate is signed as the words of its comparison: `w2a2 - fp32` is negative where w2a2 is lower.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from saqlib.evidence import verdicts
from saqlib.evidence.per_seed import Evidence, Measured, NotAsked
from saqlib.evidence.rules import RULES, Comparison
from saqlib.evidence.settings import Claim, Claims
from saqlib.evidence.statistics import Interval, t_interval
from saqlib.evidence.verdicts import Decision, Judged

KEYS = ["claim", "group", "dataset", "training", "question"]
COLUMNS = [*KEYS, "comparison", "estimate", "low", "high", "p", "p_holm", "verdict"]
BETWEEN_TRAININGS = ("gain", "mitigation")  # these stand under `guided`


@dataclass(frozen=True)
class Family:
    """The comparisons that one claim makes of one question on one dataset and training; or why one is not made."""

    claim: Claim
    dataset: str
    training: str
    question: str
    labels: tuple[str, ...]
    comparisons: tuple[Comparison | str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What identifies it: the values of KEYS."""
        return self.claim.id, self.claim.group, self.dataset, self.training, self.question


@dataclass(frozen=True)
class Answers:
    """Every family with the words on its comparisons."""

    families: Sequence[Family]
    judged: Sequence[Sequence[Judged]]

    @property
    def words(self) -> dict[tuple[str, ...], str]:
        """The verdict on each question of each claim, by the family's key."""
        both = zip(self.families, self.judged, strict=True)
        return {family.key: verdicts.whole(family.claim.test, judged) for family, judged in both}

    def tests(self) -> pd.DataFrame:
        """One row per comparison, with the columns COLUMNS: what results/tables/claims.csv holds."""
        return self._rows(COLUMNS[len(KEYS) :], lambda c, j: [*_estimate(c), j.p, j.p_holm, j.verdict])

    def equivalence(self) -> pd.DataFrame:
        """One row per comparison: margin (mean over seeds), p-values of the two one-sided tests, seeds, and a note.

        The note says why a comparison has no answer, where it has none.
        """
        columns = ["comparison", "margin", "p", "p_holm", "seeds", "note"]
        return self._rows(columns, lambda c, j: [*_margin(c), j.p_equivalent, j.p_equivalent_holm, _seeds(c), j.note])

    def verdicts(self) -> pd.DataFrame:
        """One row per claim, dataset, training and question: text, verdict, and what stands behind it."""
        rows = [
            [*family.key, family.claim.text, self.words[family.key], verdicts.why(family.labels, judged)]
            for family, judged in zip(self.families, self.judged, strict=True)
        ]
        return pd.DataFrame(rows, columns=[*KEYS, "text", "verdict", "why"])

    def _rows(self, columns: Sequence[str], of: Callable[[Comparison | str, Judged], list]) -> pd.DataFrame:
        rows = [
            [*family.key, label, *of(comparison, judged)]
            for family, group in zip(self.families, self.judged, strict=True)
            for label, comparison, judged in zip(family.labels, family.comparisons, group, strict=True)
        ]
        return pd.DataFrame(rows, columns=[*KEYS, *columns])


def evaluate(evidence: Evidence, claims: Claims, decision: Decision | None = None) -> Answers:
    """Every claim on every dataset, training and question that was run.

    Args:
        evidence: the scores of every network.
        claims: what is claimed.
        decision: how words are found; at the level of the claims, by exact tests and with Holm's correction when None.

    Returns:
        The answers. A comparison whose networks were not run, or lack a value, is `undecided` and says why.
    """
    found = families(evidence, claims)
    judged = verdicts.judge([family.comparisons for family in found], decision or Decision(claims.level))
    return Answers(found, judged)


def families(evidence: Evidence, claims: Claims) -> list[Family]:
    """All comparisons of all claims, in the order of the claims, without a verdict yet."""
    found = []
    runs = evidence.runs["primary"]
    for claim in claims.hypotheses:
        for dataset in runs.dataset.unique():
            run = runs[runs.dataset == dataset].training.unique()
            for training in ["guided"] if claim.test in BETWEEN_TRAININGS else run:
                for question in claim.questions:
                    data = Measured(evidence, claims, dataset, training, claims.questions[question])
                    cases = list(RULES[claim.test](data, claim.precisions))
                    made = tuple(_made(compare) for _, compare in cases)
                    found.append(Family(claim, dataset, training, question, tuple(label for label, _ in cases), made))
    return found


def _made(compare: Callable[[], Comparison]) -> Comparison | str:
    try:
        return compare()
    except NotAsked as reason:
        return f"not asked: {reason}"


def _estimate(comparison: Comparison | str) -> Interval:
    """Mean and 95 % interval over the seeds, not corrected: it tells how large, the verdict tells whether."""
    if _seeds(comparison) < 2 or not np.isfinite(comparison.shown).all():
        return Interval(np.nan, np.nan, np.nan)
    return t_interval(comparison.shown)


def _margin(comparison: Comparison | str) -> list[float]:
    made = isinstance(comparison, Comparison) and comparison.margin is not None and comparison.margin.size
    return [float(comparison.margin.mean()) if made else np.nan]


def _seeds(comparison: Comparison | str) -> int:
    return len(comparison.shown) if isinstance(comparison, Comparison) else 0
