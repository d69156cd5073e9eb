"""Tests of study.report.pictures: what each panel shows, and on which scale."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import same_color

from study.report import pictures, style
from tests.helpers import made

IMAGES = made.images(3)


@pytest.fixture(autouse=True)
def close_figures():
    """Leave no figure open."""
    yield
    plt.close("all")


def blocks(count=3, **changes):
    """Two trainings of two precisions, the second a hundred times weaker."""
    return made.blocks(("fp32", "w2a2"), count) | changes


def draw(shown):
    """The grid, and its panels as an array of axes."""
    figure = pictures.saliency_grid(IMAGES, ["a", "b", "c"], shown)
    return figure, np.array(figure.axes[:15]).reshape(3, 5)


def test_every_panel_has_its_map_on_a_scale_of_its_own(tmp_path):
    """Each row is an image, each column a network, captions below; saving leaves the panels where they are."""
    shown = blocks()
    figure, panels = draw(shown)
    np.testing.assert_array_equal(panels[1, 0].images[0].get_array(), IMAGES[1])
    for column, (training, precision) in enumerate([(t, p) for t in made.TRAININGS for p in ("fp32", "w2a2")], 1):
        for row in range(3):
            image, magnitude = panels[row, column].images[0], np.abs(shown[training][precision].maps[row])
            np.testing.assert_array_equal(image.get_array(), magnitude)
            assert image.get_clim() == (0, pytest.approx(np.percentile(magnitude, 99)))
    assert [axes.get_title() for axes in panels[0]] == ["input", *["full precision", "2 bits"] * 2]
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["a", "b", "c"]
    assert panels[1, 1].texts[0].get_text() == "G .50, I -.25" and not panels[0, 0].texts
    over = [{text.get_text() for text in axes.texts} for axes in panels[0, [1, 3]]]
    assert "standard training" in over[0] and "guided training" in over[1]
    before = [axes.get_position().bounds for axes in figure.axes]
    style.save(figure, "grid", tmp_path)
    assert [axes.get_position().bounds for axes in figure.axes] == before
    assert "panel's 99th percentile" in figure.axes[-1].texts[0].get_text()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_dead_map_is_hatched_and_a_wrong_class_framed(value):
    """A map of zeros, or one that is not finite, is named, and leaves the others' scale alone."""
    dead = made.maps(3)
    dead.maps[1] = value
    _, panels = draw(blocks(guided={"fp32": dead, "w2a2": made.maps(3, wrong=[2])}))
    axes = panels[1, 3]
    assert not axes.images and axes.patches[0].get_hatch() and axes.texts[0].get_text() == "dead map"
    assert np.isfinite(panels[1, 4].images[0].get_clim()[1])
    edges = {place: each.spines["left"] for place, each in np.ndenumerate(panels) if each.spines["left"].get_visible()}
    assert [place for place, edge in edges.items() if same_color(edge.get_edgecolor(), style.RED)] == [(2, 4)]


def test_removal_shows_what_is_left_and_the_area_between_its_curves():
    """Two rows of pictures with the probability below, both curves, and as a number their area, by hand."""
    left = {"most": made.images(5), "least": 255 - made.images(5)}
    probability = {"most": np.array([1, 0.5, 0.25, 0.25, 0.1]), "least": np.array([1, 1, 1, 0.75, 0.1])}
    shown = pictures.removal(IMAGES[0], made.maps(1).maps[0], left, probability, (0, 3))
    panels, chart = np.array(shown.axes[:6]).reshape(2, 3), shown.axes[6]
    np.testing.assert_array_equal(panels[0, 0].images[0].get_array(), IMAGES[0])
    np.testing.assert_array_equal(panels[1, 0].images[0].get_array(), np.abs(made.maps(1).maps[0]))
    for line, order, curve in zip(panels, ("most", "least"), chart.lines, strict=True):
        for axes, step in zip(line[1:], (0, 3), strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), left[order][step])
            assert axes.get_xlabel() == f"{probability[order][step]:.2f}"
        np.testing.assert_array_equal(curve.get_xydata(), np.column_stack([[0, 25, 50, 75, 100], probability[order]]))
        assert curve.get_markevery() == [0, 3] and same_color(curve.get_color(), line[1].yaxis.label.get_color())
    assert [axes.get_title() for axes in panels[0, 1:]] == ["0 % removed", "75 % removed"]
    assert chart.texts[0].get_text().endswith("= 0.44"), "(0.5 + 0.75 + 0.5) / 4"


def test_scale_of_a_map_with_one_pixel():
    """A map whose 99th percentile is 0 is scaled to its maximum instead."""
    one = np.zeros((28, 28))
    one[3, 4] = 5.0
    assert pictures.top(one) == 5.0


def test_classes():
    """One row per example, one column per class with its name."""
    images = {"MNIST": made.images(2, 10)}
    figure = pictures.classes(images, {"MNIST": list("0123456789")})
    assert [axes.get_title() for axes in figure.axes[:10]] == list("0123456789")
    np.testing.assert_array_equal(figure.axes[13].images[0].get_array(), images["MNIST"][1, 3])
