"""Tests of saqlib.evidence.per_seed: arrays by seed and part, margins, and what was not run."""

from dataclasses import replace

import numpy as np
import pytest

from saqlib.evidence.per_seed import Measured, NotAsked
from saqlib.pipeline import study
from tests.frames import evidence, make_runs

CLAIMS = study.load().claims


def measured(column="gini", runs=None, *, training="standard", images="primary", **options):
    """What was measured of one column on mnist."""
    runs = make_runs() if runs is None else runs
    return Measured(evidence(runs, **options), CLAIMS, "mnist", training, column, images)


def column_of(runs, column, precision, training="standard"):
    """The values of a column by seed."""
    own = runs[(runs.precision == precision) & (runs.training == training)]
    return own.sort_values("seed")[column].to_numpy()


def test_a_score_is_one_part_by_seed():
    """In the order of the seeds, whatever that of the rows."""
    runs = make_runs()
    for shuffled in (runs, runs.sample(frac=1, random_state=0)):
        data = measured(runs=shuffled, training="guided")
        np.testing.assert_array_equal(data.of("w2a2")[:, 0], column_of(runs, "gini", "w2a2", "guided"))
        np.testing.assert_array_equal(data.reference[:, 0], column_of(runs, "gini", "fp32", "guided"))
        np.testing.assert_allclose(data.untrained[:, 0], column_of(runs, "gini", "fp32", "guided") - 0.5)


def test_the_relevance_gain_has_a_part_for_each_fill_that_qualifies():
    """In their order; those that do not qualify are not looked at."""
    runs = make_runs()
    found = measured("relevance_gain", runs, fills=("blur", "mean")).of("mixed")
    for part, fill in enumerate(("blur", "mean")):
        np.testing.assert_array_equal(found[:, part], column_of(runs, f"relevance_gain_{fill}", "mixed"))
    with pytest.raises(NotAsked, match="no fill qualifies"):
        _ = measured("relevance_gain", runs, fills=()).reference


def test_each_set_of_images_has_its_own_rows():
    """Networks and untrained ones alike."""
    runs = make_runs()
    both = evidence(runs)
    other = {"matched": runs.assign(gini=7.0)}
    below = {"matched": both.untrained["matched"].assign(gini=6.0)}
    data = replace(measured(images="matched"), evidence=replace(both, runs=other, untrained=below))
    assert set(data.of("w4a4").ravel()) == {7.0} and set(data.untrained.ravel()) == {6.0}


def test_margins():
    """Half a point of accuracy; of a score a tenth of what training gives in that seed, whatever its sign."""
    assert set(measured("test_accuracy").margin.ravel()) == {0.5}
    np.testing.assert_allclose(measured(given=0.3).margin, 0.03)
    np.testing.assert_allclose(measured("relevance_gain", given=-0.2).margin, np.full((10, 3), -0.02))


def test_what_was_not_run_is_named():
    """A precision, a training, a dataset's untrained networks."""
    runs = make_runs(precisions=("fp32", "w2a2"))
    with pytest.raises(NotAsked, match="^mixed with standard training was not run$"):
        measured(runs=runs).of("mixed")
    standard = runs[runs.training == "standard"]
    with pytest.raises(NotAsked, match="^fp32 with guided training was not run$"):
        _ = measured(runs=standard, training="guided").reference
    data = measured(runs=runs)
    without = replace(data, evidence=replace(data.evidence, untrained={}))
    with pytest.raises(NotAsked, match="^untrained fp32 was not run$"):
        _ = without.untrained


def test_a_seed_that_is_missing_is_a_gap_and_shifts_nobody():
    """Pairs stay pairs: the network of another seed never takes its place."""
    runs = make_runs()
    gap = (runs.precision == "w2a2") & (runs.training == "standard") & (runs.seed == 4)
    found = measured(runs=runs[~gap]).of("w2a2")[:, 0]
    expected = column_of(runs, "gini", "w2a2").copy()
    expected[4] = np.nan
    np.testing.assert_array_equal(found, expected)
