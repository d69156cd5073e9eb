"""Paired tests, intervals and corrections: scipy, statsmodels, closed forms, simulation under the null."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from saqlib.evidence.statistics import (
    holm,
    lies_between,
    non_inferiority,
    page_trend,
    paired_sign_flip,
    t_interval,
    within_seed_spearman,
)

SIDES = ["two-sided", "greater", "less"]


def pairs(seed, n):
    """Two correlated random samples of n values."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return a, a + rng.normal(0.3, 1.0, size=n)


# --- sign-flip ---


@pytest.mark.parametrize("alternative", SIDES)
@pytest.mark.parametrize("n", [2, 5, 8, 10])
def test_sign_flip_equals_scipy(n, alternative):
    """The p-value is that of scipy's exhaustive permutation test on the differences."""
    a, b = pairs(n, n)
    expected = stats.permutation_test(
        (a - b,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative=alternative
    ).pvalue
    assert paired_sign_flip(a, b, alternative) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alternative", SIDES)
@given(d=hnp.arrays(np.int64, st.integers(2, 7), elements=st.integers(-4, 4)))
def test_sign_flip_by_enumeration(d, alternative):
    """Whole-number differences, ties and zeros included, give the count over all flips."""
    sums = [np.dot(signs, d) for signs in itertools.product((1, -1), repeat=d.size)]
    extreme = {
        "two-sided": lambda s: abs(s) >= abs(d.sum()),
        "greater": lambda s: s >= d.sum(),
        "less": lambda s: s <= d.sum(),
    }[alternative]
    expected = sum(map(extreme, sums)) / len(sums)
    assert paired_sign_flip(d, np.zeros_like(d), alternative) == expected


@pytest.mark.parametrize("n", [2, 5, 6, 10, 20])
def test_sign_flip_floor(n):
    """Differences of one sign reach exactly 2 / 2^n, the floor that makes 5 seeds too few."""
    a = np.arange(1.0, n + 1)
    assert paired_sign_flip(a, np.zeros(n)) == 2 / 2**n
    assert paired_sign_flip(a, np.zeros(n), "greater") == 1 / 2**n
    assert paired_sign_flip(a, np.zeros(n), "less") == 1


def test_sign_flip_rounding_makes_no_difference():
    """Differences equal but for rounding are ties: percentages give the p of whole numbers."""
    steps = np.array([3, -1, 2, 1, -2, 3, 1, -1])
    base = np.linspace(98.71, 99.43, 8)
    p = paired_sign_flip(base + steps * 0.01, base)
    assert p == paired_sign_flip(steps, np.zeros(8))


def test_sign_flip_sees_small_differences():
    """The slack for rounding is no blindness: differences of a billionth of the values still count."""
    base = np.linspace(98.71, 99.43, 8)
    assert paired_sign_flip(base + 1e-7 * np.arange(1, 9), base) == 2 / 2**8


def test_sign_flip_symmetries():
    """Swapping the samples keeps p and swaps the sides; equal samples give 1."""
    a, b = pairs(3, 9)
    assert paired_sign_flip(a, b) == paired_sign_flip(b, a)
    assert paired_sign_flip(a, b, "greater") == paired_sign_flip(b, a, "less")
    assert paired_sign_flip(a, a) == 1


def test_sign_flip_error_rate_under_the_null():
    """Over 3,000 null samples of 8 skew-free pairs, p <= .05 is as frequent as the exact 12 / 256."""
    rng = np.random.default_rng(11)
    rejected = sum(paired_sign_flip(rng.standard_t(3, 8), np.zeros(8)) <= 0.05 for _ in range(3000))
    low, high = stats.binom.interval(0.999, 3000, 12 / 256)
    assert low <= rejected <= high


# --- lies between, non-inferiority ---


def test_lies_between_needs_both_sides():
    """The p-value is the larger of two one-sided ones: 1 / 2^n inside, 1 when outside."""
    low = np.linspace(0, 0.9, 10)
    assert lies_between(low + 1, low, low + 2) == 1 / 2**10
    assert lies_between(low + 3, low, low + 2) == 1
    assert lies_between(low - 1, low, low + 2) == 1
    middle = low + np.array([1, 1, -0.5, 1, 1, 1, -0.2, 1, 1, 1])
    assert lies_between(middle, low, low + 2) == paired_sign_flip(middle, low, "greater")


def test_lies_between_error_rate_at_the_border():
    """A middle equal to the low end is called between in at most about 5 % of 2,000 samples."""
    rng = np.random.default_rng(5)
    rejected = 0
    for _ in range(2000):
        low, middle = rng.normal(size=(2, 8))
        rejected += lies_between(middle, low, low + 50) <= 0.05
    share = 12 / 256  # one-sided: 12 of the 256 flips lie below .05
    assert stats.binom.ppf(0.0005, 2000, share) <= rejected <= stats.binom.ppf(0.9995, 2000, share)


def test_non_inferiority_equals_statsmodels():
    """The p-value is the lower half of statsmodels' TOST."""
    a, b = pairs(7, 10)
    expected = DescrStatsW(a - b).ttost_mean(-0.5, 0.5)[1][1]
    assert non_inferiority(a, b, 0.5) == pytest.approx(expected, abs=1e-12)


def test_non_inferiority_direction():
    """A loss well inside the margin is not inferior, one beyond it is, and a gain never is."""
    b = np.linspace(99.0, 99.4, 10)
    jitter = 0.01 * np.array([1, -1, 2, -2, 1, -1, 2, -2, 1, -1])
    assert non_inferiority(b - 0.1 + jitter, b, 0.5) < 1e-6
    assert non_inferiority(b + 5 + jitter, b, 0.5) < 1e-6
    assert non_inferiority(b - 0.9 + jitter, b, 0.5) > 1 - 1e-6


def test_non_inferiority_without_spread():
    """Differences that are all the same give certainty, not NaN."""
    b = np.arange(4.0)
    assert non_inferiority(b, b, 0.5) == 0
    assert non_inferiority(b - 1, b, 0.5) == 1


# --- Holm ---

probabilities = hnp.arrays(float, st.integers(1, 15), elements=st.floats(0, 1))


def step_down(p):
    """Holm's rule in plain Python: the i-th smallest of m times m - i, never below the one before it, at most 1."""
    adjusted, running = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        running = max(running, (len(p) - rank) * p[place])
        adjusted[place] = min(running, 1.0)
    return adjusted


@given(p=st.one_of(probabilities, probabilities.map(lambda p: p.round(1))))
def test_holm_is_the_step_down_by_hand(p):
    """Adjusted p-values, ties included, are to the bit those of the rule written out."""
    assert holm(p).tolist() == step_down(p.tolist())


@given(p=probabilities)
@settings(max_examples=25)  # statsmodels collects garbage in every call
def test_holm_equals_statsmodels(p):
    """Adjusted p-values, ties included, are to the bit those of statsmodels."""
    assert holm(p).tolist() == multipletests(p, method="holm")[1].tolist()


@given(p=probabilities, missing=hnp.arrays(bool, 15))
def test_holm_of_a_family_with_gaps(p, missing):
    """NaN stays NaN in its place, and the others are adjusted as if it were not there."""
    lost = missing[: p.size]
    adjusted = holm(np.where(lost, np.nan, p))
    np.testing.assert_array_equal(np.isnan(adjusted), lost)
    assert adjusted[~lost].tolist() == step_down(p[~lost].tolist())


@pytest.mark.parametrize("m", [1, 2, 7, 16])
def test_holm_closed_forms(m):
    """m equal p-values become m p, at most 1; i / (2 m) becomes (m - i + 1) i / (2 m) up to its highest point."""
    np.testing.assert_allclose(holm(np.full(m, 0.03)), min(1.0, 0.03 * m), rtol=1e-15)
    assert holm(np.ones(m)).tolist() == [1.0] * m and holm(np.zeros(m)).tolist() == [0.0] * m
    i = np.arange(1, m + 1)
    highest = np.maximum.accumulate((m - i + 1) * i)
    np.testing.assert_allclose(holm(i / (2 * m)), np.minimum(1, highest / (2 * m)), rtol=1e-12)


@given(p=probabilities)
def test_holm_keeps_the_order_and_lies_between_one_test_and_bonferroni(p):
    """Sorted p-values stay sorted; none falls, and none rises above m times itself."""
    adjusted = holm(p)
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, p.size * p)).all()
    assert adjusted[p.argmin()] == min(1.0, p.size * p.min())


def test_holm_worked_example():
    """The example that the sorted-back-wrongly libraries fail: (.03, .01, .02) gives (.04, .03, .04)."""
    np.testing.assert_allclose(holm([0.03, 0.01, 0.02]), [0.04, 0.03, 0.04], rtol=1e-12)


@given(p=probabilities, seed=st.integers(0, 99))
def test_holm_follows_a_permutation(p, seed):
    """Reordering the tests reorders the result and nothing else."""
    order = np.random.default_rng(seed).permutation(p.size)
    np.testing.assert_array_equal(holm(p[order]), holm(p)[order])


def test_holm_lets_nan_pass():
    """NaN stays where it is and does not enlarge the family; an empty family is no error."""
    adjusted = holm([np.nan, 0.01, np.nan, 0.04])
    np.testing.assert_allclose(adjusted, [np.nan, 0.02, np.nan, 0.04])
    assert np.isnan(holm([np.nan])).all()
    assert holm([]).size == 0


def test_holm_family_wise_error_rate():
    """Of 4,000 families of 6 independent null tests, 1 - (1 - .05/6)^6 see a rejection."""
    p = np.random.default_rng(2).random((4000, 6))
    rejected = sum((holm(family) <= 0.05).any() for family in p)
    low, high = stats.binom.interval(0.999, 4000, 1 - (1 - 0.05 / 6) ** 6)
    assert low <= rejected <= high


# --- Page ---


def test_page_equals_scipy_exact():
    """Ten seeds by four precisions, and sizes that scipy's own choice would approximate, are exact."""
    rng = np.random.default_rng(0)
    for shape in [(10, 4), (20, 4), (3, 3)]:
        table = rng.normal(size=shape) + 0.2 * np.arange(shape[1])
        assert page_trend(table) == stats.page_trend_test(table, method="exact").pvalue


def test_page_perfect_order():
    """In a perfect order each of n rows contributes 1 / 4!; in the reverse order p is 1."""
    table = np.tile([1.0, 2.0, 3.0, 4.0], (5, 1)) + np.arange(5)[:, None]
    assert page_trend(table) == pytest.approx(24.0**-5, rel=1e-9)
    assert page_trend(table[:, ::-1]) == pytest.approx(1.0)


def test_page_by_enumeration():
    """Two rows of three: p is the share of the 36 rank tables with an L at least as large."""
    table = np.array([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    weights = np.array([1, 2, 3])
    level = [np.dot(weights, p) for p in itertools.permutations((1, 2, 3))]
    share = np.mean([x + y >= 13 + 14 for x in level for y in level])
    assert page_trend(table) == pytest.approx(share)


def test_page_large_table_is_asymptotic():
    """Tables beyond the exact size go to the normal approximation."""
    table = np.random.default_rng(1).normal(size=(5, 12))
    assert page_trend(table) == stats.page_trend_test(table, method="asymptotic").pvalue


def test_page_error_rate_under_the_null():
    """Of 2,000 null tables of 10 x 4, 4 to 5 % have p <= .05 (the test is discrete)."""
    tables = np.random.default_rng(9).normal(size=(2000, 10, 4))
    rejected = sum(page_trend(table) <= 0.05 for table in tables)
    assert stats.binom.ppf(0.0005, 2000, 0.04) <= rejected <= stats.binom.ppf(0.9995, 2000, 0.05)


# --- intervals ---


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_t_interval_equals_statsmodels(level):
    """Mean and bounds are those of statsmodels."""
    x = pairs(1, 7)[1]
    interval = t_interval(x, level)
    low, high = DescrStatsW(x).tconfint_mean(alpha=1 - level)
    np.testing.assert_allclose(interval, (x.mean(), low, high), rtol=1e-10)
    assert (interval.mean, interval.low, interval.high) == tuple(interval)


@pytest.mark.parametrize("n", [3, 10])
def test_t_interval_coverage(n):
    """Over 4,000 normal samples, the nominal 95 % interval holds the true mean in 95 %."""
    samples = np.random.default_rng(n).normal(2.0, 3.0, size=(4000, n))
    hits = sum(low <= 2.0 <= high for _, low, high in map(t_interval, samples))
    low, high = stats.binom.interval(0.999, 4000, 0.95)
    assert low <= hits <= high


def test_t_interval_without_spread():
    """Equal values give an interval of no width."""
    assert t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)


# --- within-seed correlation ---


def test_within_seed_spearman_equals_scipy():
    """Each row's correlation, ties included, is scipy's; a row without variation is NaN."""
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 4, size=(2, 30, 5)).astype(float)
    x[0] = 7.0
    rho = within_seed_spearman(x, y)
    assert np.isnan(rho[0])
    varied = [i for i in range(30) if np.ptp(x[i]) and np.ptp(y[i])]
    assert len(varied) > 20
    np.testing.assert_allclose(rho[varied], [stats.spearmanr(x[i], y[i])[0] for i in varied], atol=1e-12)


# --- errors ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_sign_flip([1.0], [2.0]), "at least 2 pairs, not 1"),
        (lambda: paired_sign_flip([1.0, 2.0], [2.0, 3.0, 4.0]), "2 and 3 values"),
        (lambda: paired_sign_flip([1.0, np.nan], [2.0, 3.0]), "a holds 1 value"),
        (lambda: paired_sign_flip(np.ones((2, 2)), np.ones((2, 2))), r"shape \(2, 2\)"),
        (lambda: paired_sign_flip(np.ones(25), np.zeros(25)), "at most 24 pairs, not 25"),
        (lambda: paired_sign_flip([1, 2], [3, 4], "both"), "not 'both'"),
        (lambda: lies_between([1, 2], [1, 2], [1, np.inf]), "a holds 1 value"),
        (lambda: non_inferiority([1, 2], [1, 2], 0.0), "positive number, not 0.0"),
        (lambda: non_inferiority([1, 2], [1, 2], np.nan), "positive number, not nan"),
        (lambda: holm([0.5, 1.2]), "between 0 and 1"),
        (lambda: holm([[0.5]]), "list of p-values"),
        (lambda: page_trend([[1, 2], [3, 4]]), "2 rows and 3 columns, not 2 x 2"),
        (lambda: page_trend([[1, 2, np.nan], [3, 4, 5]]), "table holds 1 value"),
        (lambda: t_interval([1.0]), "at least 2 values, not 1"),
        (lambda: t_interval([1.0, 2.0], level=95), "not 95"),
        (lambda: within_seed_spearman(np.ones((3, 4)), np.ones((3, 5))), r"\(3, 4\) and \(3, 5\)"),
        (lambda: within_seed_spearman(np.ones((3, 2)), np.ones((3, 2))), "3 or more columns"),
    ],
)
def test_bad_input_is_named(call, message):
    """Bad input raises a ValueError that says what was wrong."""
    with pytest.raises(ValueError, match=message):
        call()
