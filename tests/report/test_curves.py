"""Tests of saqlib.report.curves: the data behind figures over removed pixels and distances, and their files."""

import numpy as np
import pandas as pd
import pytest

from saqlib.report import curves, style
from tests import frames
from tests.report.drawn import PRECISIONS, check_files, check_style


def grid(seeds):
    """One row per network."""
    return frames.grid(seeds=seeds, precisions=PRECISIONS)


def make_removal():
    """Straight lines: least 1 - x/2, random 1 - x, most falls to 0 at once."""
    levels = np.linspace(0, 1, 5)
    frame = pd.concat([grid(2).assign(level=level) for level in levels], ignore_index=True)
    return frame.assign(least=1 - frame.level / 2, random=1 - frame.level, most=0.0)


def make_accuracies():
    """Most salient first falls twice as fast as random."""
    frame = pd.concat([grid(2).assign(level=level) for level in np.arange(10) / 10], ignore_index=True)
    return frame.assign(most=90 - 80 * frame.level, random=90 - 40 * frame.level)


def make_outline():
    """A peak at the outline."""
    places = [d for d in range(-8, 7) if d]
    frame = pd.concat([grid(1).assign(distance=d, relative=2 / abs(d)) for d in places], ignore_index=True)
    return frame.assign(pixels=1 / len(places), salient=1 / len(places))


DRAWN = {
    "removal": lambda: curves.removal(make_removal()),
    "deletion_accuracy": lambda: curves.deletion_accuracy(make_accuracies()),
    "outline": lambda: curves.outline(make_outline()),
}


@pytest.mark.parametrize("name", DRAWN)
def test_saved_twice_the_same(name, tmp_path):
    """Drawn and saved twice, PNG and PDF have the same bytes, a sensible width, and something on them."""
    check_files(DRAWN[name], name, tmp_path)


@pytest.mark.parametrize("name", DRAWN)
def test_style_is_the_papers_whatever_was_set(name):
    """A style that the notebook has set neither reaches the figure nor is touched by it."""
    check_style(DRAWN[name])


def test_a_single_network_can_be_drawn(tmp_path):
    """The least that a reader can run gives a figure too."""
    one = make_removal().query("seed == 0 and training == 'standard' and precision == 'w2a2'")
    assert all(path.stat().st_size > 1000 for path in style.save(curves.removal(one), "removal", tmp_path))


def test_removal_shades_the_gain():
    """Shaded is the area between most and least salient first; its mean height is written down."""
    axes = curves.removal(make_removal()).axes[0]
    area = axes.collections[0].get_paths()[0].vertices
    assert area[:, 0].min() == 0 and area[:, 0].max() == 100
    assert any(np.allclose(vertex, [100, 0.5]) for vertex in area)
    random = [line for line in axes.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(random[0].get_ydata(), 1 - np.linspace(0, 1, 5))
    assert axes.texts[0].get_text() == "area 0.75"


def test_deletion_accuracy_has_a_random_line_beside_each_precision():
    """Solid the most salient first, dashed random, both in percent of the pixels, means over the seeds."""
    figure = curves.deletion_accuracy(make_accuracies())
    assert [axes.get_title() for axes in figure.axes] == ["MNIST, standard training", "MNIST, guided training"]
    dashed, solid = figure.axes[0].lines[:2]
    assert (dashed.get_linestyle(), solid.get_linestyle()) == ("--", "-")
    np.testing.assert_allclose(solid.get_xdata(), np.arange(0, 100, 10))
    np.testing.assert_allclose(solid.get_ydata(), 90 - 8 * np.arange(10))
    np.testing.assert_allclose(dashed.get_ydata(), 90 - 4 * np.arange(10))
    assert len(figure.axes[0].lines) == 2 * len(PRECISIONS)


def test_outline_shades_the_object_and_draws_the_mean():
    """One line per precision over the distance, the object's side shaded, 1 dashed."""
    figure = curves.outline(make_outline())
    assert [axes.get_title() for axes in figure.axes] == ["MNIST, standard training", "MNIST, guided training"]
    axes = figure.axes[0]
    mean, *lines = axes.lines
    assert set(mean.get_ydata()) == {1} and mean.get_linestyle() == "--" and len(lines) == len(PRECISIONS)
    np.testing.assert_allclose(lines[0].get_xdata(), [d for d in range(-8, 7) if d])
    np.testing.assert_allclose(lines[0].get_ydata(), [2 / abs(d) for d in range(-8, 7) if d])
    shaded = axes.patches[0].get_bbox()
    assert (shaded.x0, shaded.x1) == (0, 6)
