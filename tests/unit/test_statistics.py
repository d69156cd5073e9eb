"""Paired tests, intervals and corrections: scipy, statsmodels, closed forms; error rates in tests/slow."""

from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from saqlib import statistics
from saqlib.statistics import (
    holm,
    interval_if_any,
    paired_sign_flip,
    ratio,
    sign_flips,
    t_interval,
)

SIDES = ["two-sided", "greater", "less"]
FAR = np.array([2.0, 4, 6, 8])  # differences, of values that may be large
MASKED = np.ma.masked_equal([0.1, 0.2, 0.3], 0.2)


# --- sign-flip ---


@pytest.mark.parametrize("alternative", SIDES)
@given(d=hnp.arrays(np.int64, st.integers(2, 8), elements=st.integers(-4, 4)))
def test_sign_flip_equals_scipy(d, alternative):
    """The p-value is that of scipy's exhaustive permutation test, with ties and zeros."""
    expected = stats.permutation_test(
        (d,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative=alternative
    ).pvalue
    assert paired_sign_flip(d, np.zeros_like(d), alternative) == pytest.approx(expected, abs=1e-12)


def test_sign_flip_and_rounding():
    """Differences equal but for rounding are ties, one by one or in columns; those of a billionth still count."""
    steps, base = np.array([3, -1, 2, 1, -2, 3, 1, -1]), np.linspace(98.71, 99.43, 8)
    assert paired_sign_flip(base + steps * 0.01, base) == paired_sign_flip(steps, np.zeros(8))
    sides = [paired_sign_flip(base + 1e-7 * np.arange(1, 9), base, side) for side in SIDES]
    assert sides == [2 / 2**8, 1 / 2**8, 1]  # the floor, and what lies on the other side
    assert paired_sign_flip(FAR + 1e6, np.full(4, 1e6)) == 0.125
    steps = np.random.default_rng(3).integers(-9, 10, (8, 200))
    np.testing.assert_array_equal(sign_flips((base[:, None] + steps * 0.01) - base[:, None]), sign_flips(steps))


# --- many columns at once ---


@pytest.mark.parametrize("n", [2, 10])
def test_columns_are_tested_as_each_would_be_by_itself(n, monkeypatch):
    """One-sided p-values above and, of the negative, below 0; ties included, and however few sums are held at once."""
    rng = np.random.default_rng(n)
    columns = np.hstack([rng.normal(size=(n, 20)), rng.integers(-3, 4, (n, 20))])
    for most in (statistics.MOST_SUMS, 2**10):
        monkeypatch.setattr(statistics, "MOST_SUMS", most)
        for sign, side in ((1, "greater"), (-1, "less")):
            expected = [paired_sign_flip(column, np.zeros(n), side) for column in columns.T]
            np.testing.assert_allclose(sign_flips(sign * columns), expected, rtol=1e-12)
    assert sign_flips(np.empty((9, 0))).size == 0


@pytest.mark.parametrize("n", [9, 13, 16, 20])
def test_many_flips_are_counted_as_if_each_were_visited(n):
    """Of 2^20 none is missed: the same p-value to the last bit, ties included; a gap is NaN of its column alone."""
    rng = np.random.default_rng(n)
    columns = np.hstack([rng.normal(0.4, 1, (n, 3)), 0.1 * rng.integers(-3, 5, (n, 3)), np.zeros((n, 1))])
    columns[2, 0] = np.nan
    with mock.patch.object(statistics, "MOST_ENUMERATED", n):
        expected = sign_flips(columns)
    np.testing.assert_array_equal(sign_flips(columns), expected)
    assert np.isnan(expected).tolist() == [True] + [False] * 6 and expected[-1] == 1


# --- Holm ---


probabilities = hnp.arrays(float, st.integers(0, 15), elements=st.floats(0, 1))


@given(p=st.one_of(probabilities, probabilities.map(lambda p: p.round(1))), missing=hnp.arrays(bool, 15))
def test_holm_is_that_of_statsmodels(p, missing):
    """To the bit, ties included; NaN stays in its place, and the others are adjusted as if it were not there."""
    lost = missing[: p.size]
    adjusted = holm(np.where(lost, np.nan, p))
    np.testing.assert_array_equal(np.isnan(adjusted), lost)
    if not lost.all():
        with mock.patch("gc.collect", int):  # which statsmodels calls each time
            assert adjusted[~lost].tolist() == multipletests(p[~lost], method="holm")[1].tolist()


# --- intervals, errors ---


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_t_interval_equals_statsmodels(level):
    """Mean and bounds are those of statsmodels; equal values give an interval of no width, a gap none if allowed."""
    x = np.random.default_rng(1).normal(size=7)
    low, high = DescrStatsW(x).tconfint_mean(alpha=1 - level)
    np.testing.assert_allclose(t_interval(x, level), (x.mean(), low, high), rtol=1e-10)
    assert t_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert interval_if_any(x) == t_interval(x)
    assert interval_if_any([1.0]) is interval_if_any([1.0, np.nan]) is statistics.NO_INTERVAL


def test_series_are_paired_by_their_index():
    """The seeds decide which values are a pair, not their places."""
    a = pd.Series([1.0, 2, 3, 4, 5], index=[4, 3, 2, 1, 0])
    b = a.sort_index() - 0.5
    assert paired_sign_flip(a, b) == paired_sign_flip(a, a - 0.5) == 2 / 2**5
    assert ratio(a, b) == ratio(a, a - 0.5)
    for other in (b.rename({0: 9}), pd.concat([b, b]), b.iloc[1:]):
        for test in (paired_sign_flip, ratio):
            with pytest.raises(ValueError, match="same index, each entry once"):
                test(a, other)


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
        (lambda: holm([0.5, 1.2]), "between 0 and 1"),
        (lambda: holm([[0.5]]), "list of p-values"),
        (lambda: t_interval([1.0]), "at least 2 values, not 1"),
        (lambda: t_interval([1.0, np.inf]), "not finite"),
        (lambda: t_interval([1.0, 2.0], 95), "between 0 and 1"),
        (lambda: paired_sign_flip(MASKED, MASKED), "holds masked values"),
        (lambda: t_interval(MASKED), "holds masked values"),
        (lambda: holm(MASKED), "holds masked values"),
        (lambda: ratio(MASKED, MASKED), "holds masked values"),
        (lambda: paired_sign_flip(FAR + 1e16, np.full(4, 1e16)),
         "^differences of at most 8 are rounding beside values of 1e"),
        (lambda: t_interval(FAR * 1e160), "too large to be added and squared"),
        (lambda: paired_sign_flip(FAR * 1e160, -FAR * 1e160), "too large to be added and squared"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, message):
    """Each by its own words: also a mask, which NumPy drops without one, and what rounding or overflow takes."""
    with pytest.raises(ValueError, match=message):
        call()
