"""Tests of saqlib.report.pictures: what each panel shows, and on which scale."""

import numpy as np
import pytest
from matplotlib.colors import same_color

from saqlib.evidence.kept_maps import Maps
from saqlib.report import pictures, style

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)


def make_maps(scale=1.0, wrong=()):
    """Random maps of three images; `wrong` ones are misclassified."""
    correct = ~np.isin(np.arange(3), wrong)
    return Maps(scale * RNG.normal(size=(3, 28, 28)), np.full(3, 0.5), np.full(3, -0.25), np.full(3, 0.999), correct)


def make_blocks(**changes):
    """Two trainings of two precisions, the second a hundred times stronger."""
    blocks = {t: {"fp32": make_maps(), "w2a2": make_maps(100.0)} for t in ("standard", "guided")}
    return blocks | changes


def draw(blocks, scale="panel"):
    """The grid, and its panels as an array of axes."""
    figure = pictures.saliency_grid(IMAGES, ["a", "b", "c"], blocks, scale)
    return figure, np.array(figure.axes[:15]).reshape(3, 5)


def test_every_panel_has_its_map():
    """Each row is an image, each column a network: the magnitudes lie in the right panels, input first."""
    blocks = make_blocks()
    figure, panels = draw(blocks)
    np.testing.assert_array_equal(panels[1, 0].images[0].get_array(), IMAGES[1])
    np.testing.assert_array_equal(panels[2, 4].images[0].get_array(), np.abs(blocks["guided"]["w2a2"].maps[2]))
    np.testing.assert_array_equal(panels[0, 1].images[0].get_array(), np.abs(blocks["standard"]["fp32"].maps[0]))
    assert [axes.get_title() for axes in panels[0]] == ["input", "fp32", "w2a2", "fp32", "w2a2"]
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["a", "b", "c"]


def test_panel_scale_is_its_own_99th_percentile():
    """Each panel runs from 0 to the 99th percentile of its own magnitudes, which the figure states."""
    blocks = make_blocks()
    figure, panels = draw(blocks)
    for axes, network in zip(panels[0, 1:3], blocks["standard"].values(), strict=True):
        assert axes.images[0].get_clim() == (0, pytest.approx(np.percentile(np.abs(network.maps[0]), 99)))
    assert "panel's 99th percentile" in figure.axes[-1].texts[0].get_text()


def test_row_scale_is_shared():
    """With one scale for each row, its maps share the percentile of all of them, and the figure says so."""
    blocks = make_blocks()
    figure, panels = draw(blocks, "row")
    pooled = np.stack([network.maps[1] for group in blocks.values() for network in group.values()])
    for axes in panels[1, 1:]:
        assert axes.images[0].get_clim() == (0, pytest.approx(np.percentile(np.abs(pooled), 99)))
    assert "row's 99th percentile" in figure.axes[-1].texts[0].get_text()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("scale", ["panel", "row"])
def test_a_dead_map_is_hatched(value, scale):
    """A map of zeros, or one that is not finite, is hatched and named, and leaves the others' scale alone."""
    dead = make_maps()
    dead.maps[1] = value
    _, panels = draw(make_blocks(guided={"fp32": dead, "w2a2": make_maps()}), scale)
    axes = panels[1, 3]
    assert not axes.images and axes.patches[0].get_hatch()
    assert axes.texts[0].get_text() == "dead map"
    assert np.isfinite(panels[1, 4].images[0].get_clim()[1])


def test_a_wrong_class_has_a_red_frame():
    """Of all panels only the misclassified one is framed."""
    _, panels = draw(make_blocks(guided={"fp32": make_maps(), "w2a2": make_maps(wrong=[2])}))
    framed = [
        (i, j) for (i, j), axes in np.ndenumerate(panels)
        if axes.spines["left"].get_visible() and same_color(axes.spines["left"].get_edgecolor(), style.RED)
    ]  # fmt: skip
    assert framed == [(2, 4)]


def test_captions():
    """Below a map stand Gini, Moran's I and the probability."""
    _, panels = draw(make_blocks())
    assert panels[0, 1].texts[0].get_text() == "G .50  I -.25  p 1.0"
    assert len(panels[0, 0].texts) == 0


def test_scale_of_a_map_with_one_pixel():
    """A map whose 99th percentile is 0 is scaled to its maximum instead."""
    one = np.zeros((28, 28))
    one[3, 4] = 5.0
    assert pictures.top(one) == 5.0


def test_classes():
    """One row per example, one column per class with its name."""
    images = {"MNIST": RNG.integers(0, 256, (2, 10, 28, 28), dtype=np.uint8)}
    figure = pictures.classes(images, {"MNIST": list("0123456789")})
    assert [axes.get_title() for axes in figure.axes[:10]] == list("0123456789")
    np.testing.assert_array_equal(figure.axes[13].images[0].get_array(), images["MNIST"][1, 3])


def test_saving_leaves_the_panels_in_place(tmp_path):
    """A figure that lays itself out keeps its layout in both files, whatever the style says."""
    figure, _ = draw(make_blocks())
    before = [axes.get_position().bounds for axes in figure.axes]
    style.save(figure, "grid", tmp_path)
    assert [axes.get_position().bounds for axes in figure.axes] == before


def test_saved_twice_the_same(tmp_path):
    """The grid has the same bytes each time it is drawn and saved."""
    blocks = make_blocks()
    first = style.save(draw(blocks)[0], "grid", tmp_path / "one")
    second = style.save(draw(blocks)[0], "grid", tmp_path / "two")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
