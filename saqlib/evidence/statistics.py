"""Paired tests over seeds, intervals, correction for many tests.

The replicate is the seed: one number a seed and condition (a mean over images), paired across conditions by
the seed. Missing values are refused, never dropped, since a dropped seed would break a pair unseen; the
caller decides what a seed with dead maps is worth. `holm` alone lets NaN pass: a test that could not be
made is no member of the family.

Sources: exact sign-flip test, Fisher (1935), The Design of Experiments, section 21; Holm (1979), Scand. J.
Statist. 6; Page (1963), JASA 58; intersection-union test, Berger (1982), Technometrics 24; non-inferiority,
Schuirmann (1987).
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Alternative = Literal["two-sided", "greater", "less"]

MOST_PAIRS = 24  # the sign-flip test visits 2^(n-1) flips
MOST_EXACT_ROWS, MOST_EXACT_COLUMNS = 100, 8  # beyond these the exact distribution of Page's L is slow


class Interval(NamedTuple):
    """A mean and the confidence interval around it, in the unit of the data."""

    mean: float
    low: float
    high: float


def paired_sign_flip(a: ArrayLike, b: ArrayLike, alternative: Alternative = "two-sided") -> float:
    """P-value of the exact sign-flip test on the paired differences `a - b`.

    Under the null hypothesis a difference is as likely to be `d` as `-d`, so all 2^n flips of the n signs are equally
    likely; the p-value is the share of flips whose sum is at least as extreme as the observed one.

    Args:
        a, b: (n,), paired, 2 <= n <= 24.
        alternative: `greater` asks whether a exceeds b.

    Returns:
        The p-value; its floor is 2 / 2^n two-sided (5 pairs can never reach .05) and 1 / 2^n one-sided.

    Raises:
        ValueError: other shapes, fewer or more pairs, or values that are not finite.
    """
    a, b = _pairs(a, b)
    if a.size > MOST_PAIRS:
        raise ValueError(f"the exact sign-flip test takes at most {MOST_PAIRS} pairs, not {a.size}")
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"alternative must be two-sided, greater or less, not {alternative!r}")
    # scipy.stats.permutation_test gives the same numbers a hundred times slower, and thousands of them are needed.
    # A flip and its mirror image have opposite sums: the first sign stays, and each sum stands for two flips.
    difference = a - b
    sums = difference[:1]
    for d in difference[1:]:
        sums = np.concatenate([sums + d, sums - d])
    observed = difference.sum()
    # Equal sums that differ by rounding alone must count as ties.
    slack = 8 * np.finfo(float).eps * (np.abs(a) + np.abs(b)).sum()
    if alternative == "two-sided":
        return float(np.mean(np.abs(sums) >= abs(observed) - slack))
    if alternative == "less":
        observed = -observed
    return float(np.mean([sums >= observed - slack, -sums >= observed - slack]))


def lies_between(middle: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """P-value for "middle lies above low and below high": the larger of two one-sided sign-flip p-values.

    Both parts must hold, so the larger p-value is a valid one for the whole (intersection-union), with no correction.

    Args:
        middle, low, high: (n,), paired.

    Returns:
        The p-value.

    Raises:
        ValueError: as `paired_sign_flip`.
    """
    return max(paired_sign_flip(middle, low, "greater"), paired_sign_flip(high, middle, "greater"))


def non_inferiority(a: ArrayLike, b: ArrayLike, margin: float) -> float:
    """P-value for "a is not worse than b by the margin": one-sided paired t-test of mean(a - b) > -margin.

    It is the lower half of TOST, with higher values better.

    Args:
        a, b: (n,), paired, n >= 2.
        margin: above 0, in their unit, and stated before the data are seen.

    Returns:
        The p-value; differences without any spread give 0 or 1.

    Raises:
        ValueError: bad input.
    """
    a, b = _pairs(a, b)
    if not (np.isfinite(margin) and margin > 0):
        raise ValueError(f"the margin must be a positive number, not {margin}")
    difference = a - b + margin
    if np.ptp(difference) == 0:
        return 0.0 if difference[0] > 0 else 1.0
    return float(stats.ttest_1samp(difference, 0.0, alternative="greater").pvalue)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values of one family, in the order given.

    Args:
        p: (m,) in [0, 1]; NaN (no test was made) does not count.

    Returns:
        (m,), NaN where p is.

    Raises:
        ValueError: other values.
    """
    p = np.asarray(p, dtype=float)
    if p.ndim != 1 or np.any((p < 0) | (p > 1)):
        raise ValueError(f"holm takes a list of p-values between 0 and 1, or NaN; got {p}")
    # statsmodels gives the same numbers, but collects garbage in each call: a tenth of a second, a thousand times.
    adjusted = np.full_like(p, np.nan)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def page_trend(table: ArrayLike) -> float:
    """P-value of Page's test for a rising trend over the columns, one-sided.

    Exact up to 100 x 8, asymptotic beyond; ties get mid-ranks, which makes the exact p-value conservative.

    Args:
        table: (seeds, conditions), at least 2 x 3, columns in the predicted ascending order.

    Returns:
        The p-value.

    Raises:
        ValueError: bad input.
    """
    table = _finite(table, "table", ndim=2)
    rows, columns = table.shape
    if rows < 2 or columns < 3:
        raise ValueError(f"Page's test needs at least 2 rows and 3 columns, not {rows} x {columns}")
    exact = rows <= MOST_EXACT_ROWS and columns <= MOST_EXACT_COLUMNS
    result = stats.page_trend_test(table, method="exact" if exact else "asymptotic")
    return min(float(result.pvalue), 1.0)


def t_interval(x: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of x with Student's t confidence interval.

    With few seeds a percentile bootstrap covers too little (75 % at n = 3, 90 % at n = 10 for a nominal 95 %), so there
    is none here.

    Args:
        x: (n,), n >= 2.
        level: in (0, 1).

    Returns:
        Mean, lower and upper bound.

    Raises:
        ValueError: bad input.
    """
    x = _finite(x, "x", ndim=1)
    if x.size < 2:
        raise ValueError(f"an interval needs at least 2 values, not {x.size}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    mean = x.mean()
    half = stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return Interval(float(mean), float(mean - half), float(mean + half))


def within_seed_spearman(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Spearman's rank correlation of x and y over the conditions, for each seed by itself.

    Args:
        x, y: (seeds, conditions), at least 3 conditions.

    Returns:
        (seeds,) in [-1, 1], by mid-ranks; NaN for a seed whose x or y does not vary.

    Raises:
        ValueError: bad input.
    """
    x, y = _finite(x, "x", ndim=2), _finite(y, "y", ndim=2)
    if x.shape != y.shape or x.shape[1] < 3:
        raise ValueError(f"x and y must have one shape, with 3 or more columns; got {x.shape} and {y.shape}")
    x, y = stats.rankdata(x, axis=1), stats.rankdata(y, axis=1)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a and b as float arrays, or say why they are no pairs."""
    a, b = _finite(a, "a", ndim=1), _finite(b, "b", ndim=1)
    if a.size != b.size:
        raise ValueError(f"a and b must be paired by seed, but have {a.size} and {b.size} values")
    if a.size < 2:
        raise ValueError(f"a paired test needs at least 2 pairs, not {a.size}")
    return a, b


def _finite(values: ArrayLike, name: str, ndim: int) -> NDArray[np.float64]:
    """Return values as a float array of ndim dimensions, or say what is wrong with them."""
    values = np.asarray(values, dtype=float)
    if values.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), not shape {values.shape}")
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise ValueError(f"{name} holds {count} value(s) that are not finite")
    return values
