"""The claims of the abstract as tests with verdicts.

The claims themselves are data: the section `claims` of params.yaml, frozen before the full run. This module
says what each kind of test does, and holds the rule for a verdict in three functions: `verdict` (one score),
`clarity_verdict` (the scores together) and `overall_verdict` (all tests of a claim). The replicate is the
seed. The tests of one claim on one dataset and training are one family of Holm's correction.

An estimate is signed as the words of its comparison: `w2a2 - fp32` is negative where w2a2 is lower.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import factorial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saqlib.evidence.settings import Claim, Claims
from saqlib.evidence.statistics import (
    Interval,
    holm,
    lies_between,
    non_inferiority,
    page_trend,
    paired_sign_flip,
    t_interval,
    within_seed_spearman,
)

SUPPORTED, NOT_SUPPORTED, OPPOSITE = "supported", "not supported", "opposite"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, OPPOSITE)
COLUMNS = ["claim", "dataset", "training", "metric", "comparison", "estimate", "low", "high", "p", "p_holm",
           "least_p", "seeds", "verdict"]  # fmt: skip
CLARITY = "clarity"  # the metric of the rows that take the scores together
WITNESSES = ("morans_i", "symmetric_relevance_gain")  # they can veto a change of clarity that Gini sees


# ---------------------------------------------------------------------------------------------- the rule

# In words, for a reader; the functions below are the rule.
RULES = {
    "One score": (
        "`supported` needs a corrected p-value of at most the level and an effect in the claimed direction; `opposite` "
        "the same of the test against the claim, and the other direction. Everything else, a test that could not be "
        "made included, is `not supported`."
    ),
    "Clarity as a whole": (
        "Maps are clearer (or less clear) only if Gini says so and neither Moran's I nor the relevance gain says the "
        "contrary. Fewer bits thin the surrogate gradient out, which raises Gini by itself; and a speckled map beats a "
        "clean one in Gini alone."
    ),
    "A whole claim": "What more than half of its tests say, if none says the contrary.",
}


def verdict(p: float, p_against: float, direction: int, level: float) -> str:
    """The verdict on one score, from its corrected p-values for and against the claim; direction: +1 as claimed."""
    if direction > 0 and p <= level:
        return SUPPORTED
    if direction < 0 and p_against <= level:
        return OPPOSITE
    return NOT_SUPPORTED


def clarity_verdict(verdicts: Mapping[str, str]) -> str:
    """The verdict on clarity as a whole, from those on its scores."""
    contrary = {SUPPORTED: OPPOSITE, OPPOSITE: SUPPORTED}.get(verdicts["gini"])
    if contrary in [verdicts[witness] for witness in WITNESSES]:
        return NOT_SUPPORTED
    return verdicts["gini"]


def overall_verdict(verdicts: Sequence[str]) -> str:
    """The verdict on a whole claim, from those of its tests."""
    for word, contrary in ((SUPPORTED, OPPOSITE), (OPPOSITE, SUPPORTED)):
        if 2 * verdicts.count(word) > len(verdicts) and contrary not in verdicts:
            return word
    return NOT_SUPPORTED


# --------------------------------------------------------------------------------------------- the tests


@dataclass(frozen=True)
class Outcome:
    """One test: estimate with its interval, p-values for and against the claim, and what the seeds allow."""

    interval: Interval
    p: float
    p_against: float
    direction: int  # +1 as claimed, -1 the other way, 0 neither
    floor: float  # the smallest p-value that this test can give with so many seeds
    seeds: int


Table = pd.DataFrame  # of one score: one row per seed, one column per precision


def _sign_flip(difference: NDArray, expected: str) -> Outcome:
    """Two-sided: is the mean difference 0?"""
    p = paired_sign_flip(difference, np.zeros_like(difference))
    interval = t_interval(difference)
    sign = int(np.sign(interval.mean)) * (1 if expected == "higher" else -1)
    return Outcome(interval, p, p, sign, 2 / 2**difference.size, difference.size)


def _below_margin(a: NDArray, b: NDArray, margin: float) -> Outcome:
    """One-sided: is a worse than b by less than the margin? The test against says worse by more than it."""
    interval = t_interval(a - b)
    p = non_inferiority(a, b, margin)
    return Outcome(interval, p, 1 - p, int(np.sign(interval.mean + margin)), 0.0, a.size)


def _trend(table: NDArray, expected: str) -> Outcome:
    """Page's trend over the columns; the estimate is the mean rank correlation with their order."""
    columns = table if expected == "higher" else table[:, ::-1]
    order = np.broadcast_to(np.arange(table.shape[1], dtype=float), table.shape)
    rho = np.nan_to_num(within_seed_spearman(table, order))  # a seed without any variation has no trend
    interval = _correlations(t_interval(rho))
    sign = int(np.sign(interval.mean)) * (1 if expected == "higher" else -1)
    p, p_against = page_trend(columns), page_trend(columns[:, ::-1])
    floor = factorial(table.shape[1]) ** -float(len(table))  # every seed in perfect order
    return Outcome(interval, p, p_against, sign, floor, len(table))


def _correlated(table: NDArray, expected: str) -> Outcome:
    """Two-sided: is the rank correlation of accuracy (first half of the columns) and score 0 within seeds?"""
    accuracy, score = np.split(table, 2, axis=1)
    rho = np.nan_to_num(within_seed_spearman(accuracy, score))  # no variation, no correlation
    outcome = _sign_flip(rho, expected)
    return replace(outcome, interval=_correlations(outcome.interval))


def _correlations(interval: Interval) -> Interval:
    """Bounds of correlations never leave [-1, 1]."""
    return Interval(*(min(max(bound, -1.0), 1.0) for bound in interval))


def _between(low: NDArray, middle: NDArray, high: NDArray) -> Outcome:
    """One-sided twice: middle above low and below high; the test against says that one gap is negative.

    The estimate is the narrower gap.
    """
    gaps = [middle - low, high - middle]
    against = min(paired_sign_flip(gap, np.zeros_like(gap), "less") for gap in gaps)
    interval = min((t_interval(gap) for gap in gaps), key=lambda gap: gap.mean)
    p = lies_between(middle, low, high)
    return Outcome(interval, p, min(1.0, 2 * against), int(np.sign(interval.mean)), 1 / 2**low.size, low.size)


# ----------------------------------------------------------------------------------------- claim by claim


# In words, the table that must be complete, and the test of its array.
Comparison = tuple[str, Table, Callable[[NDArray], Outcome]]


@dataclass(frozen=True)
class _Data:
    """The runs of one dataset, of which a score is read as a table of seeds and precisions."""

    runs: pd.DataFrame
    reference: str
    margin: float

    def table(self, training: str, metric: str) -> Table:
        """Seeds as rows and precisions as columns; a missing network is NaN."""
        runs = self.runs[self.runs.training == training]
        return runs.pivot(index="seed", columns="precision", values=metric)


def _comparisons(claim: Claim, data: _Data, training: str, metric: str) -> Iterator[Comparison]:
    """The comparisons of a claim that the precisions at hand allow."""
    table = data.table(training, metric)
    there = [precision for precision in claim.precisions if precision in table]
    reference = data.reference
    if claim.test == "difference":
        for b in there:
            pair = table[[b, reference]]
            yield f"{b} - {reference}", pair, lambda t: _sign_flip(t[:, 0] - t[:, 1], claim.expected)
    elif claim.test == "non_inferiority":
        for b in there:
            label = f"{b} - {reference} > -{data.margin:g}"
            yield label, table[[b, reference]], lambda t: _below_margin(t[:, 0], t[:, 1], data.margin)
    elif claim.test == "trend" and len(there) > 2:
        yield " < ".join(there), table[there], lambda t: _trend(t, claim.expected)
    elif claim.test == "correlation" and len(there) > 2:
        both = pd.concat([data.table(training, "test_accuracy")[there], table[there]], axis=1)
        yield "rank correlation with accuracy", both, lambda t: _correlated(t, claim.expected)
    elif claim.test == "between" and len(there) == 3:
        yield " < ".join(there), table[there], lambda t: _between(*t.T)
    elif claim.test in ("gain", "mitigation"):
        standard = data.table("standard", metric)
        for b in there:
            columns = [b] if claim.test == "gain" else [b, reference]
            label = f"guided - standard, {' - '.join(columns)}"
            both = pd.concat([table[columns], standard[columns]], axis=1)
            yield label, both, lambda t: _sign_flip(_guided_difference(t), claim.expected)


def _guided_difference(table: NDArray) -> NDArray:
    """Guided minus standard, of b or of b minus the reference. Columns: those of guided, then of standard."""
    guided, standard = np.split(table, 2, axis=1)
    difference = guided - standard
    return difference[:, 0] - difference[:, 1:].sum(axis=1)


def evaluate(runs: Mapping[str, pd.DataFrame], claims: Claims) -> pd.DataFrame:
    """Every claim on every dataset and training: one row per test, with the columns `COLUMNS`.

    runs: for each set of images (primary, all, matched) a frame with one row per network, as saqlib.evidence.runs
    reads it. Claims that compare the trainings stand under `guided`. A comparison whose precisions were not
    run is left out; one with a missing value or fewer than 2 seeds gets NaN and `not supported`. Raises
    ValueError for a set of images or a column that is not there.
    """
    rows = []
    for claim in claims.hypotheses:
        frame = _checked(runs, claim)
        for dataset in frame.dataset.unique():
            data = _Data(frame[frame.dataset == dataset], claims.reference, claims.margin)
            for training in _trainings(claim, data.runs):
                rows += _family(claim, data, dataset, training, claims.level)
    return pd.DataFrame(rows, columns=COLUMNS)


def _checked(runs: Mapping[str, pd.DataFrame], claim: Claim) -> pd.DataFrame:
    if claim.images not in runs:
        raise ValueError(f"claim {claim.id} needs the runs on {claim.images} images, not {sorted(runs)}")
    missing = [metric for metric in claim.metrics if metric not in runs[claim.images]]
    if missing:
        raise ValueError(f"claim {claim.id} needs {', '.join(missing)}, but the table of runs lacks that")
    return runs[claim.images]


def _trainings(claim: Claim, runs: pd.DataFrame) -> list[str]:
    there = list(runs.training.unique())
    if claim.test in ("gain", "mitigation"):
        return ["guided"] if {"guided", "standard"} <= set(there) else []
    return there


def _family(claim: Claim, data: _Data, dataset: str, training: str, level: float) -> list[dict]:
    """All rows of one claim on one dataset and training, corrected together.

    least_p: the smallest corrected p-value that so many seeds can give, whatever the data.
    """
    tests = [
        (metric, label, _run(table, test))
        for metric in claim.metrics
        for label, table, test in _comparisons(claim, data, training, metric)
    ]
    p = holm([outcome.p for *_, outcome in tests])
    p_against = holm([outcome.p_against for *_, outcome in tests])
    rows = []
    for (metric, label, outcome), for_, against in zip(tests, p, p_against, strict=True):
        rows.append({
            "claim": claim.id, "dataset": dataset, "training": training,
            "metric": metric, "comparison": label,
            "estimate": outcome.interval.mean, "low": outcome.interval.low, "high": outcome.interval.high,
            "p": outcome.p, "p_holm": for_, "least_p": min(1.0, outcome.floor * len(tests)), "seeds": outcome.seeds,
            "verdict": verdict(for_, against, outcome.direction, level),
        })  # fmt: skip
    return rows + _together(rows, claim)


def _run(table: Table, test: Callable[[NDArray], Outcome]) -> Outcome:
    values = table.to_numpy(float)
    if len(values) < 2 or not np.isfinite(values).all():
        return Outcome(Interval(np.nan, np.nan, np.nan), np.nan, np.nan, 0, 1.0, len(values))
    return test(values)


def _together(rows: list[dict], claim: Claim) -> list[dict]:
    """One row more for each comparison of clarity: the numbers of Gini, under the veto of its witnesses."""
    if claim.test in ("correlation", "between") or not {"gini", *WITNESSES} <= set(claim.metrics):
        return []
    together = []
    for row in [row for row in rows if row["metric"] == "gini"]:
        same = {r["metric"]: r["verdict"] for r in rows if r["comparison"] == row["comparison"]}
        together.append({**row, "metric": CLARITY, "verdict": clarity_verdict(same)})
    return together


def summary(table: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """How the tests of each claim came out: one row per claim, dataset and training, in the order of `table`.

    Columns claim, text, dataset, training, a count for each verdict, and the verdict on the claim. The counts leave out
    the rows of clarity as a whole, which repeat those of Gini; where there are any, they alone make the verdict.
    """
    keys = ["claim", "dataset", "training"]
    texts = {claim.id: claim.text for claim in claims.hypotheses}
    rows = []
    for key, group in table.groupby(keys, sort=False):
        whole = group[group.metric == CLARITY]
        single = group[group.metric != CLARITY]
        counts = {word: int((single.verdict == word).sum()) for word in VERDICTS}
        outcome = overall_verdict((whole if len(whole) else single).verdict.tolist())
        rows.append(dict(zip(keys, key, strict=True)) | {"text": texts[key[0]]} | counts | {"verdict": outcome})
    return pd.DataFrame(rows, columns=["claim", "text", "dataset", "training", *VERDICTS, "verdict"])
