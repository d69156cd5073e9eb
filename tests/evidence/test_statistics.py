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

from saqlib.evidence import statistics
from saqlib.evidence.statistics import (
    holm,
    page_trend,
    paired_sign_flip,
    sign_flips,
    signed_ranks,
    t_interval,
    t_tests,
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


# --- many columns at once ---


@pytest.mark.parametrize("n", [2, 5, 10])
def test_columns_are_tested_as_each_would_be_alone(n):
    """One-sided p-values of every column, above and, of the negative, below 0; ties included."""
    rng = np.random.default_rng(n)
    columns = np.hstack([rng.normal(size=(n, 20)), rng.integers(-3, 4, (n, 20))])
    for sign, side in ((1, "greater"), (-1, "less")):
        expected = [paired_sign_flip(column, np.zeros(n), side) for column in columns.T]
        np.testing.assert_allclose(sign_flips(sign * columns), expected, rtol=1e-12)


def test_many_columns_are_taken_in_parts(monkeypatch):
    """However few sums are held at once, the p-values are the same; none at all is no error."""
    columns = np.random.default_rng(0).normal(size=(9, 37))
    whole = sign_flips(columns)
    monkeypatch.setattr(statistics, "MOST_SUMS", 2**10)
    np.testing.assert_array_equal(sign_flips(columns), whole)
    assert sign_flips(np.empty((9, 0))).size == 0


def test_differences_of_percentages_are_tied_as_their_hundredths_are():
    """99.18 - 99.22 is not -0.04 to the last bit, but its p-value is that of whole numbers."""
    steps = np.random.default_rng(3).integers(-9, 10, (10, 200))
    base = np.linspace(98.71, 99.43, 10)[:, None]
    np.testing.assert_array_equal(sign_flips((base + steps * 0.01) - base), sign_flips(steps))


@pytest.mark.parametrize("test", [sign_flips, signed_ranks, t_tests])
def test_a_column_with_a_gap_has_no_p_value(test):
    """NaN in one seed is NaN of that column alone."""
    columns = np.random.default_rng(1).normal(size=(8, 3))
    expected = test(columns)
    columns[2, 1] = np.nan
    found = test(columns)
    assert np.isnan(found[1])
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])


@given(
    d=hnp.arrays(float, st.tuples(st.integers(3, 9), st.just(1)), elements=st.floats(-9, 9).map(lambda x: round(x, 1)))
)
def test_signed_ranks_by_enumeration(d):
    """Mid-ranks of the magnitudes with every choice of signs, zeros and ties included."""
    ranks = stats.rankdata(np.abs(d[:, 0])) * (d[:, 0] != 0)
    observed = (np.sign(d[:, 0]) * ranks).sum()
    sums = [np.dot(signs, ranks) for signs in itertools.product((1, -1), repeat=len(ranks))]
    assert signed_ranks(d)[0] == pytest.approx(np.mean([s >= observed for s in sums]))


def test_signed_ranks_equal_scipy():
    """Without ties it is scipy's exact signed-rank test."""
    columns = np.random.default_rng(2).normal(0.4, 1, size=(10, 12))
    expected = [stats.wilcoxon(column, alternative="greater", method="exact").pvalue for column in columns.T]
    np.testing.assert_allclose(signed_ranks(columns), expected, rtol=1e-12)


def test_one_wild_seed_has_little_weight_in_ranks():
    """Nine seeds rise and one falls a hundred times as far: the mean is torn, the ranks are not."""
    column = np.append(np.linspace(1, 2, 9), -100.0)[:, None]
    assert sign_flips(column)[0] > 0.4 and signed_ranks(column)[0] < 0.05


def test_t_tests_equal_scipy():
    """Column by column Student's one-sided test; without spread certainty, and for zeros an even chance."""
    columns = np.random.default_rng(4).normal(0.3, 1, size=(7, 15))
    np.testing.assert_allclose(
        t_tests(columns), stats.ttest_1samp(columns, 0, alternative="greater").pvalue, rtol=1e-10
    )
    assert t_tests(np.array([[1.0, -1.0, 0.0]] * 4)).tolist() == [0, 1, 0.5]


@pytest.mark.parametrize(("test", "share"), [(sign_flips, 51 / 1024), (signed_ranks, 51 / 1024), (t_tests, 0.05)])
def test_error_rate_of_one_sided_tests_under_the_null(test, share):
    """Of 20,000 null columns of 10 seeds a share of .05 or just below is rejected: the tests are no wider than told."""
    p = test(np.random.default_rng(8).normal(size=(10, 20_000)))
    low, high = stats.binom.interval(0.999, 20_000, share)
    assert low * 0.85 <= np.count_nonzero(p <= 0.05) <= high


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
        (lambda: sign_flips(np.ones((1, 3))), "at least 2 pairs, not 1"),
        (lambda: sign_flips(np.ones((25, 3))), "at most 24 pairs, not 25"),
        (lambda: holm([0.5, 1.2]), "between 0 and 1"),
        (lambda: holm([[0.5]]), "list of p-values"),
        (lambda: page_trend([[1, 2], [3, 4]]), "2 rows and 3 columns, not 2 x 2"),
        (lambda: page_trend([[1, 2, np.nan], [3, 4, 5]]), "table holds 1 value"),
        (lambda: t_interval([1.0]), "at least 2 values, not 1"),
        (lambda: t_interval([1.0, 2.0], level=95), "not 95"),
    ],
)
def test_bad_input_is_named(call, message):
    """Bad input raises a ValueError that says what was wrong."""
    with pytest.raises(ValueError, match=message):
        call()
