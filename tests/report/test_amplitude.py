"""Tests of saqlib.report.amplitude: what is drawn over the precisions, and the numbers beside it."""

import numpy as np
import pytest

from saqlib.report import amplitude, style
from tests import frames
from tests.report.drawn import check_files, check_style


def make_runs():
    """Half as large with every step down, and .05 in a guided fp32 network; seeds differ by a tenth."""
    runs = frames.grid(seeds=3, datasets=frames.DATASETS)
    steps = runs.precision.map(frames.PRECISIONS.index)
    return runs.assign(amplitude=0.1 * 0.5**steps * (1 - 0.5 * (runs.training == "guided")) * (1 + 0.1 * runs.seed))


def untrained():
    return frames.grid(seeds=3, datasets=frames.DATASETS, precisions=("fp32",)).assign(amplitude=0.03)


def draw():
    return amplitude.amplitude(make_runs(), untrained())


DRAWN = {"amplitude": draw}


def test_saved_twice_the_same(tmp_path):
    """Drawn and saved twice, PNG and PDF have the same bytes, a sensible width, and something on them."""
    check_files(draw, "amplitude", tmp_path)


def test_style_is_the_papers_whatever_was_set():
    """A style that the notebook has set neither reaches the figure nor is touched by it."""
    check_style(draw)


def test_every_network_and_every_mean_is_drawn():
    """A panel per dataset on a logarithmic axis; small dots the networks, large the means, the trainings apart."""
    figure = draw()
    assert [axes.get_title() for axes in figure.axes] == ["MNIST", "FashionMNIST"]
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    band, standard, means, guided, guided_means = axes.lines
    assert band.get_ydata()[0] == 0.03
    assert len(standard.get_ydata()) == len(guided.get_ydata()) == 12
    np.testing.assert_allclose(means.get_ydata(), 0.11 * 0.5 ** np.arange(4))
    np.testing.assert_allclose(guided_means.get_ydata(), 0.055 * 0.5 ** np.arange(4))
    assert (guided_means.get_xdata() > means.get_xdata()).all()
    assert sorted(set(np.round(standard.get_xdata(), 6))) == pytest.approx(means.get_xdata())
    assert guided.get_color() == style.TRAINING_COLOURS["guided"]


def test_the_numbers_are_the_means_over_the_seeds():
    """One row per dataset, training and precision, with an interval that holds the mean."""
    found = amplitude.numbers(make_runs()).set_index(["dataset", "training", "precision"])
    assert len(found) == 16 and (found.seeds == 3).all()
    assert found.loc[("mnist", "guided", "w4a4"), "mean"] == pytest.approx(0.0275)
    assert ((found.low < found["mean"]) & (found["mean"] < found.high)).all()
