"""Paired tests over seeds, intervals, correction for many tests.

The replicate is the seed: one number for each seed and condition (a mean over images), paired across conditions by the
seed. `paired_sign_flip` and `t_interval` refuse missing values, since a dropped seed would break a pair unseen.
`sign_flips`, of many columns at once, answers NaN for a column with a gap, and `holm` lets NaN pass: a test that could
not be made is no member of the family.

Sources: exact sign-flip test, Fisher (1935), The Design of Experiments, section 21; its flips counted by halves, as
Horowitz and Sahni (1974), J. ACM 21, do for subset sums; Holm (1979), Scand. J. Statist. 6.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Alternative = Literal["two-sided", "greater", "less"]

MOST_PAIRS = 24  # the sign-flip test sorts the 2^(n/2) sums of either half
MOST_ENUMERATED = 12  # with more pairs the flips are counted and not visited
MOST_SUMS = 2**15  # sums of flips that are held at once: what stays in the cache of a core, 256 kB
LOST = 1e-3  # of the largest difference: where rounding takes more, sums say nothing
ROUNDING = 1e-10  # of all magnitudes together: flips whose sums differ by less are ties


class Interval(NamedTuple):
    """A mean and the confidence interval around it, in the unit of the data."""

    mean: float
    low: float
    high: float


NO_INTERVAL = Interval(np.nan, np.nan, np.nan)

# --------------------------------------------------------------------------------- many columns at once, one-sided


def sign_flips(columns: NDArray) -> NDArray[np.float64]:
    """One-sided p-values of the exact sign-flip test on the mean of each column of (seeds, columns), wanted above 0;
    those of "below 0" are the p-values of the negative columns.

    Under the null hypothesis a difference is as likely to be `d` as `-d`, so all 2^n flips are equally likely; the
    p-value is the share of flips whose sum is at least the observed one. Exact for any distribution that is symmetric.
    """
    _check_count(len(columns))
    if len(columns) > MOST_ENUMERATED:
        return _counted(columns, ROUNDING * np.abs(columns).sum(0))
    width = max(1, MOST_SUMS >> (len(columns) - 1))
    parts = [columns[:, start : start + width] for start in range(0, columns.shape[1], width)]
    return np.concatenate([_flipped(part, ROUNDING * np.abs(part).sum(0)) for part in parts] or [np.empty(0)])


def _flipped(columns: NDArray, slack: NDArray | float) -> NDArray[np.float64]:
    """The share of flips whose sum is, but for `slack` of rounding, at least the observed sum; NaN for a gap."""
    # scipy.stats.permutation_test gives the same numbers a hundred times slower, and thousands of them are needed.
    # A flip and its mirror image have opposite sums: the first sign stays, and each sum stands for two flips.
    sums = columns[:1]
    for row in columns[1:]:
        sums = np.concatenate([sums + row, sums - row])
    observed = columns.sum(0) - slack
    p = ((sums >= observed).mean(0) + (-sums >= observed).mean(0)) / 2
    return np.where(np.isfinite(columns).all(0), p, np.nan)


def _counted(columns: NDArray, slack: NDArray) -> NDArray[np.float64]:
    """As `_flipped`, of so many seeds that the flips are too many to visit: each is one of the first half of the seeds
    and one of the second, and for each sum of one half the sums of the other that reach the observed one are counted
    among them in order. 2^20 flips are so 1,024 searches.
    """
    halves = []
    for half in np.array_split(columns, 2):
        sums = np.zeros((columns.shape[1], 1))
        for row in half:
            sums = np.concatenate([sums - row[:, None], sums + row[:, None]], axis=1)
        halves.append(np.sort(sums, axis=1))
    first, second = halves
    rest = (columns.sum(0) - slack)[:, None] + first  # the sums of a half are, with each, its opposite
    below = [np.searchsorted(ordered, least).sum() for ordered, least in zip(second, rest, strict=True)]
    p = 1 - np.array(below) / 2.0 ** len(columns)
    return np.where(np.isfinite(columns).all(0), p, np.nan)


def _check_count(pairs: int) -> None:
    if pairs < 2:
        raise ValueError(f"a paired test needs at least 2 pairs, not {pairs}")
    if pairs > MOST_PAIRS:
        raise ValueError(f"the exact sign-flip test takes at most {MOST_PAIRS} pairs, not {pairs}")


# ----------------------------------------------------------------------------------------------------- one at a time


def paired_sign_flip(a: ArrayLike, b: ArrayLike, alternative: Alternative = "two-sided") -> float:
    """P-value of the exact sign-flip test on the paired differences `a - b`.

    Under the null hypothesis a difference is as likely to be `d` as `-d`, so all 2^n flips of the n signs are equally
    likely; the p-value is the share of flips whose sum is at least as extreme as the observed one.

    Args:
        a, b: (n,), paired by place, two Series by their index, 2 <= n <= 24.
        alternative: `greater` asks whether a exceeds b.

    Returns:
        The p-value; its floor is 2 / 2^n two-sided (5 pairs can never reach .05) and 1 / 2^n one-sided. ValueError for
        other shapes, fewer or more pairs, an index that does not pair them, values that are not finite or masked, and
        values so large that their differences drown in rounding.
    """
    a, b = (_finite(each, name) for each, name in zip(_paired(a, b), "ab", strict=True))
    if a.size != b.size:
        raise ValueError(f"a and b must be paired by seed, but have {a.size} and {b.size} values")
    _check_count(a.size)
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"alternative must be two-sided, greater or less, not {alternative!r}")
    # Equal sums that differ by rounding alone must count as ties.
    slack = 8 * np.finfo(float).eps * (np.abs(a) + np.abs(b)).sum()
    if slack > LOST * (largest := np.abs(a - b).max()) > 0:
        raise ValueError(f"differences of at most {largest:.3g} are rounding beside values of {np.abs(a).max():.3g}")
    up, down = (float(_flipped(d[:, None], slack)[0]) for d in (a - b, b - a))
    return {"greater": up, "less": down, "two-sided": min(1.0, 2 * min(up, down))}[alternative]


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values of one family, in the order given.

    p: (m,) in [0, 1]; NaN (no test was made) does not count, and is NaN in the result, (m,), too. ValueError for other
    values.
    """
    p = _numbers(p, "p")
    if p.ndim != 1 or np.any((p < 0) | (p > 1)):
        raise ValueError(f"holm takes a list of p-values between 0 and 1, or NaN; got {p}")
    # statsmodels gives the same numbers, but collects garbage in each call: a tenth of a second, a thousand times.
    adjusted = np.full_like(p, np.nan)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def t_interval(x: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of x with Student's t confidence interval.

    With few seeds a percentile bootstrap covers too little (75 % at n = 3, 90 % at n = 10 for a nominal 95 %), so there
    is none here. x: (n,), n >= 2; level in (0, 1); ValueError for anything else.
    """
    x = _finite(x, "x")
    if x.size < 2:
        raise ValueError(f"an interval needs at least 2 values, not {x.size}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    mean = x.mean()
    half = stats.t.ppf((1 + level) / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size)
    return Interval(float(mean), float(mean - half), float(mean + half))


def interval_if_any(x: ArrayLike) -> Interval:
    """As `t_interval` at 95 %, but NO_INTERVAL for fewer than two values, or one that is not finite."""
    return t_interval(x) if np.size(x) > 1 and np.isfinite(x).all() else NO_INTERVAL


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Interval:
    """The ratio of two means over the same seeds, (seeds,) each, and its 95 % interval (Fieller, 1954, J. R. Stat. Soc.
    B 16), which is not symmetric.

    NO_INTERVAL for fewer than two seeds or a value that is not finite, and where the denominator is negative or its own
    interval holds 0: then the ratio is no share.
    """
    pairs = np.stack([_numbers(each, "a mean") for each in _paired(numerator, denominator)])
    count = pairs.shape[1]
    if count < 2 or not np.isfinite(pairs).all():
        return NO_INTERVAL
    (y, x), (yy, yx, _, xx) = pairs.mean(1), np.cov(pairs).ravel() / count
    t = stats.t.ppf(0.975, count - 1)
    # The interval holds every r for which the mean of y - r x is within t standard errors of 0.
    a, b, c = x**2 - t**2 * xx, x * y - t**2 * yx, y**2 - t**2 * yy
    if x <= 0 or a <= 0:
        return NO_INTERVAL
    half = np.sqrt(max(b**2 - a * c, 0.0))
    return Interval(float(y / x), float((b - half) / a), float((b + half) / a))


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Two Series in the order of the first one's index; anything else as it is."""
    if not (hasattr(a, "reindex") and hasattr(b, "reindex")):
        return a, b
    if not (a.index.is_unique and b.index.is_unique and set(a.index) == set(b.index)):
        raise ValueError("two Series must have the same index, each entry once, to be paired by it")
    return a, b.reindex(a.index)


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    if np.ma.is_masked(values):
        raise ValueError(f"{name} holds masked values, which no test can leave out; give the others alone")
    return np.asarray(values, dtype=float)


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    values = _numbers(values, name)
    if values.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not shape {values.shape}")
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise ValueError(f"{name} holds {count} value(s) that are not finite")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.square(values).sum()):
            raise ValueError(f"{name} holds values of {np.abs(values).max():.3g}, too large to be added and squared")
    return values
