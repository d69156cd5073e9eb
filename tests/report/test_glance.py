"""Tests of saqlib.report.glance: the right maps on one scale, every seed and every mean in the chart."""

import numpy as np
import pytest

from saqlib.evidence.kept_maps import Maps
from saqlib.names import FAITHFULNESS
from saqlib.report import glance
from tests import frames
from tests.report.drawn import check_files, check_style

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)
RUNS = frames.make_runs(seeds=3, datasets=frames.DATASETS)


def make_maps(correct, strength=1.0) -> Maps:
    """Maps of three images."""
    ones = np.ones(3)
    return Maps(strength * RNG.normal(size=(3, 28, 28)), ones, ones, ones, np.array(correct))


def make_shown() -> dict:
    """The first image is misclassified by one network, so the second one is shown."""
    networks = {"fp32": make_maps([True, True, True]), "w2a2": make_maps([False, True, True], 0.1)}
    return {dataset: (IMAGES, networks) for dataset in frames.DATASETS}


def draw():
    """The figure of two precisions."""
    return glance.glance(SHOWN, RUNS[RUNS.precision.isin(["fp32", "w2a2"])])


SHOWN = make_shown()


def test_looks_like_the_others(tmp_path):
    """In the style of the figures, saved as all of them are."""
    check_style(draw)
    check_files(draw, "glance", tmp_path)


def test_an_image_that_all_classify_correctly_is_shown_on_one_scale():
    """Image, then maps in order; the faint network's map is faint."""
    axes = draw().axes
    (fp32, w2a2) = SHOWN[frames.DATASETS[0]][1].values()
    np.testing.assert_array_equal(axes[0].images[0].get_array(), IMAGES[1])
    pooled = np.percentile(np.abs(np.stack([fp32.maps[1], w2a2.maps[1]])), 99)
    for shown, network in zip(axes[1:3], (fp32, w2a2), strict=True):
        np.testing.assert_array_equal(shown.images[0].get_array(), np.abs(network.maps[1]))
        assert shown.images[0].get_clim() == (0, pytest.approx(pooled))


def test_the_chart_has_every_seed_and_the_means():
    """Three thin lines and a thick one for each training, through what the runs say."""
    chart = draw().axes[3]
    rows = RUNS[(RUNS.dataset == frames.DATASETS[0]) & RUNS.precision.isin(["fp32", "w2a2"])]
    thick = [line for line in chart.lines if line.get_marker() == "o"]
    assert len(chart.lines) == 8 and len(thick) == 2
    for line, training in zip(thick, ("standard", "guided"), strict=True):
        means = rows[rows.training == training].groupby("precision")[FAITHFULNESS].mean()[["fp32", "w2a2"]]
        np.testing.assert_allclose(line.get_ydata(), means)
