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


def draw(shown, scale="panel"):
    """The grid, and its panels as an array of axes."""
    figure = pictures.saliency_grid(IMAGES, ["a", "b", "c"], shown, scale)
    return figure, np.array(figure.axes[:15]).reshape(3, 5)


def few(shown, control):
    """Three of nine images with all their maps: the panels."""
    figure = pictures.few_maps(made.images(9), list("abcdefghi"), shown, control)
    return np.array(figure.axes[:18]).reshape(3, 6)


def in_red(panels):
    """The places of the panels with a red frame."""
    return [
        place for place, axes in np.ndenumerate(panels)
        if axes.spines["left"].get_visible() and same_color(axes.spines["left"].get_edgecolor(), style.RED)
    ]  # fmt: skip


def percentile(maps):
    """The brightest colour of a scale."""
    return 0, pytest.approx(np.percentile(np.abs(maps), 99))


def test_every_panel_has_its_map_on_a_scale_of_its_own(tmp_path):
    """Each row is an image, each column a network, captions below; saving leaves the panels where they are."""
    shown = blocks()
    figure, panels = draw(shown)
    np.testing.assert_array_equal(panels[1, 0].images[0].get_array(), IMAGES[1])
    for column, (training, precision) in enumerate([(t, p) for t in made.TRAININGS for p in ("fp32", "w2a2")], 1):
        for row in range(3):
            image = panels[row, column].images[0]
            np.testing.assert_array_equal(image.get_array(), np.abs(shown[training][precision].maps[row]))
            assert image.get_clim() == percentile(shown[training][precision].maps[row])
    assert [axes.get_title() for axes in panels[0]] == ["input", "fp32", "w2a2", "fp32", "w2a2"]
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["a", "b", "c"]
    assert panels[1, 1].texts[0].get_text() == "G .50, I -.25" and not panels[0, 0].texts
    over = [{text.get_text() for text in axes.texts} for axes in panels[0, [1, 3]]]
    assert "standard training" in over[0] and "guided training" in over[1]
    before = [axes.get_position().bounds for axes in figure.axes]
    style.save(figure, "grid", tmp_path)
    assert [axes.get_position().bounds for axes in figure.axes] == before
    assert "panel's 99th percentile" in figure.axes[-1].texts[0].get_text()


def test_row_scale_is_shared():
    """With one scale for each row, its maps share the percentile of all of them, and the figure says so."""
    shown = blocks()
    figure, panels = draw(shown, "row")
    pooled = np.stack([network.maps[1] for group in shown.values() for network in group.values()])
    assert all(axes.images[0].get_clim() == percentile(pooled) for axes in panels[1, 1:])
    assert "row's 99th percentile" in figure.axes[-1].texts[0].get_text()


@pytest.mark.parametrize(("scale", "value"), [("panel", 0.0), ("row", np.nan), ("row", np.inf)])
def test_a_dead_map_is_hatched_and_a_wrong_class_framed(scale, value):
    """A map of zeros, or one that is not finite, is named, and leaves the others' scale alone."""
    dead = made.maps(3)
    dead.maps[1] = value
    _, panels = draw(blocks(guided={"fp32": dead, "w2a2": made.maps(3, wrong=[2])}), scale)
    axes = panels[1, 3]
    assert not axes.images and axes.patches[0].get_hatch() and axes.texts[0].get_text() == "dead map"
    assert np.isfinite(panels[1, 4].images[0].get_clim()[1])
    assert in_red(panels) == [(2, 4)]


def test_few_maps_share_one_scale_with_the_control():
    """Every fourth image, enlarged, the untrained network's map at the right, on the scale of the trained ones."""
    control = 1e6 * made.maps().maps
    dead = made.maps()
    dead.maps[0] = 0
    shown = blocks(9, guided={"fp32": dead, "w2a2": made.maps(wrong=[0])})
    panels = few(shown, control)
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["a", "e", "i"]
    assert [axes.get_title() for axes in panels[0]] == ["input", "fp32", "w2a2", "fp32", "w2a2", "untrained"]
    pooled = np.stack([network.maps[4] for group in shown.values() for network in group.values()])
    assert all(axes.images[0].get_clim() == percentile(pooled) for axes in panels[1, 1:])
    np.testing.assert_array_equal(panels[1, 5].images[0].get_array(), np.abs(control[4]))
    np.testing.assert_array_equal(panels[2, 4].images[0].get_array(), np.abs(shown["guided"]["w2a2"].maps[8]))
    assert panels[0, 3].patches[0].get_hatch() and in_red(panels) == [(0, 4)]


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


def test_glance_shows_an_image_that_all_classify_correctly_and_every_seed():
    """Image, then maps in order on one scale; a chart with thin seeds and thick means through what the runs say."""
    networks = {"fp32": made.maps(3, wrong=[0]), "w2a2": made.maps(3, 0.01, wrong=[0, 2])}
    runs = made.runs(("fp32", "w2a2"))
    axes = pictures.glance({dataset: (IMAGES, networks) for dataset in made.DATASETS}, runs).axes
    np.testing.assert_array_equal(axes[0].images[0].get_array(), IMAGES[1])
    pooled = np.stack([network.maps[1] for network in networks.values()])
    for panel, network in zip(axes[1:3], networks.values(), strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), np.abs(network.maps[1]))
        assert panel.images[0].get_clim() == percentile(pooled)
    own, chart = runs[runs.dataset == "mnist"], axes[6]
    thick = [line for line in chart.lines if line.get_marker() == "o"]
    assert len(chart.lines) == 8 and [line.get_label() for line in thick] == ["standard training", "guided training"]
    for line, training in zip(thick, made.TRAININGS, strict=True):
        means = own[own.training == training].groupby("precision").faithfulness.mean()[["fp32", "w2a2"]]
        np.testing.assert_allclose(line.get_ydata(), means)
    assert chart.get_title() == "Faithfulness, MNIST" and len(axes) == 8
