"""Tests of saqlib.evidence.retained: ratios of means with Fieller's interval, by hand and by simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.evidence.retained import METRICS, ratio, retained
from tests.frames import DATASETS, PRECISIONS, make_runs


def make_untrained(runs, scores=METRICS[1:]):
    """Untrained networks whose Gini is that of mixed, and whose other scores lie anywhere."""
    untrained = runs[runs.precision == "mixed"].drop(columns="precision")
    rng = np.random.default_rng(1)
    return untrained.assign(**{name: untrained[name] + rng.normal(size=len(untrained)) for name in scores})


def halved(precision, training, metric):
    """A gain in Gini over the untrained network of 100 at fp32 and of 50 at w2a2."""
    return {"fp32": 100, "w2a2": 50}.get(precision, 0) * (metric == "gini")


def testratio_of_means_has_fiellers_interval():
    """Its bounds are where the t-test of y - r x reaches 5 %, and one seed near 0 does not blow it up."""
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 0.3, 10)
    y = 0.5 * x + rng.normal(0, 0.1, 10)
    found = ratio(pd.Series(y), pd.Series(x))
    assert found.mean == pytest.approx(y.mean() / x.mean())
    for bound in (found.low, found.high):
        assert stats.ttest_1samp(y - bound * x, 0).pvalue == pytest.approx(0.05)
    assert stats.ttest_1samp(y - 0.5 * (found.low + found.high) * x, 0).pvalue > 0.05
    x[0] = 1e-6
    assert ratio(pd.Series(y), pd.Series(x)).high < 1.5
    assert np.isnan(ratio(pd.Series(y), pd.Series(x - x.mean()))).all()


def testratio_covers_the_true_one():
    """Over 2,000 samples of 8 seeds, the nominal 95 % interval holds the true ratio in 95 %."""
    rng, hits = np.random.default_rng(3), 0
    for _ in range(2000):
        x = rng.normal(2.0, 0.5, 8)
        found = ratio(pd.Series(0.7 * x + rng.normal(0, 0.3, 8)), pd.Series(x))
        hits += found.low <= 0.7 <= found.high
    low, high = stats.binom.interval(0.999, 2000, 0.95)
    assert low <= hits <= high


def test_a_share_of_a_loss_is_none():
    """Where training lowers the score, for certain, a ratio of two losses is no share that is retained."""
    x = np.random.default_rng(0).normal(-2, 0.1, 10)
    assert np.isnan(ratio(pd.Series(0.5 * x), pd.Series(x))).all()
    assert np.isfinite(ratio(pd.Series(-0.5 * x), pd.Series(-x))).all()


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def testratio_of_what_is_not_there(spoilt):
    """One seed, or a seed without a value, has no ratio."""
    assert np.isnan(ratio(pd.Series([1.0]), pd.Series([2.0]))).all()
    assert np.isnan(ratio(pd.Series([1.0, 1.1, spoilt]), pd.Series([2.0, 2.1, 2.2]))).all()


def test_seeds_are_paired_by_their_number():
    """The order of rows does not matter; a seed that only one side has leaves no ratio."""
    runs = make_runs(halved, noise=0.001)
    untrained = make_untrained(runs)
    expected = retained(runs, untrained, "fp32")
    shuffled = untrained.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(retained(runs, shuffled, "fp32"), expected)
    fewer = retained(runs, untrained[untrained.seed > 0], "fp32")
    assert fewer[["estimate", "low", "high"]].isna().all(axis=None)


def test_retained_share():
    """1 for the reference, .5 for half its gain over the untrained network, NaN without a gain to keep."""
    runs = make_runs(halved, noise=0.001)
    table = retained(runs, make_untrained(runs), "fp32").set_index(["training", "metric", "precision"])
    assert list(table.loc["standard", "gini", "fp32"])[1:] == pytest.approx([1.0, 1.0, 1.0])
    half = table.loc["guided", "gini", "w2a2"]
    assert half.low < 0.5 < half.high and half.high - half.low < 0.05
    assert table.loc["standard", "morans_i", "w2a2"][["estimate", "low", "high"]].isna().all()


def test_retained_is_read_against_the_named_reference():
    """With w2a2 as the reference, fp32 keeps twice what that gained."""
    runs = make_runs(halved, noise=0.001)
    table = retained(runs, make_untrained(runs), "w2a2").set_index(["training", "metric", "precision"])
    assert table.loc["standard", "gini", "fp32"].estimate == pytest.approx(2, abs=0.1)
    assert table.loc["standard", "gini", "w2a2"].estimate == pytest.approx(1)


def test_retained_has_one_row_per_dataset_training_score_and_precision():
    """Each from its own networks: another dataset's untrained networks change nothing."""
    runs = make_runs(halved, noise=0.001, datasets=DATASETS)
    untrained = make_untrained(runs)
    table = retained(runs, untrained, "fp32")
    assert list(table.columns) == ["dataset", "training", "metric", "precision", "estimate", "low", "high"]
    assert len(table) == 2 * 2 * len(METRICS) * len(PRECISIONS)
    other = untrained.assign(gini=untrained.gini.where(untrained.dataset == "mnist", 0.5))
    changed = retained(runs, other, "fp32")
    same = table.dataset == "mnist"
    pd.testing.assert_frame_equal(changed[same], table[same])
    assert not changed[~same].equals(table[~same])
