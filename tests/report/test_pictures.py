"""Tests of saqlib.report.pictures: what each panel shows, and on which scale."""

import numpy as np
import pytest
from matplotlib.colors import same_color

from saqlib.evidence.kept_maps import Maps
from saqlib.report import pictures, style
from saqlib.words import CLASSES

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
    """Below a map stand Gini and Moran's I."""
    _, panels = draw(make_blocks())
    assert panels[0, 1].texts[0].get_text() == "G .50, I -.25"
    assert len(panels[0, 0].texts) == 0


def few(blocks, control):
    """Three of nine images with all their maps, and the panels as an array of axes."""
    images = RNG.integers(0, 256, (9, 28, 28), dtype=np.uint8)
    nine = {t: {p: enlarge(maps) for p, maps in group.items()} for t, group in blocks.items()}
    figure = pictures.few_maps(images, list("abcdefghi"), nine, control)
    return figure, nine, np.array(figure.axes[:18]).reshape(3, 6)


def enlarge(maps):
    """The same of nine images."""
    parts = (np.concatenate([part] * 3) for part in (maps.maps, maps.gini, maps.morans_i, maps.probability))
    return Maps(*parts, np.concatenate([maps.correct] * 3))


def test_few_maps_share_one_scale_with_the_control():
    """Every fourth image, enlarged, the untrained network's map at the right, on the scale of the trained ones."""
    control = 1e6 * RNG.normal(size=(9, 28, 28))
    figure, blocks, panels = few(make_blocks(), control)
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["a", "e", "i"]
    assert [axes.get_title() for axes in panels[0]] == ["input", "fp32", "w2a2", "fp32", "w2a2", "untrained"]
    pooled = np.stack([network.maps[4] for group in blocks.values() for network in group.values()])
    for axes in panels[1, 1:]:
        assert axes.images[0].get_clim() == (0, pytest.approx(np.percentile(np.abs(pooled), 99)))
    np.testing.assert_array_equal(panels[1, 5].images[0].get_array(), np.abs(control[4]))
    np.testing.assert_array_equal(panels[2, 4].images[0].get_array(), np.abs(blocks["guided"]["w2a2"].maps[8]))


def test_few_maps_mark_wrong_classes_and_dead_maps():
    """As in the large grid: a red frame, and hatching; the scale is that of the others."""
    dead = make_maps()
    dead.maps[:] = 0
    _, _, panels = few(make_blocks(guided={"fp32": dead, "w2a2": make_maps(wrong=[0])}), np.ones((9, 28, 28)))
    assert panels[0, 3].patches[0].get_hatch() and not panels[0, 3].images
    assert same_color(panels[0, 4].spines["left"].get_edgecolor(), style.RED)
    assert np.isfinite(panels[0, 4].images[0].get_clim()[1])


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


def drawn_grid():
    """Ten classes of garments, with four precisions of both trainings."""
    images, names, blocks = ten_classes()
    return pictures.saliency_grid(images, names, blocks)


def ten_classes():
    """What a grid is made of."""
    maps = Maps(RNG.normal(size=(10, 28, 28)), np.full(10, 0.58), np.full(10, -0.25), np.ones(10), np.ones(10, bool))
    blocks = {t: dict.fromkeys(style.ORDER, maps) for t in ("standard", "guided")}
    return RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8), CLASSES["fashion_mnist"], blocks


DRAWN = {
    "classes": lambda: pictures.classes(
        {"MNIST": RNG.integers(0, 256, (3, 10, 28, 28)), "FashionMNIST": RNG.integers(0, 256, (3, 10, 28, 28))},
        {"MNIST": CLASSES["mnist"], "FashionMNIST": CLASSES["fashion_mnist"]},
    ),
    "few_maps": lambda: pictures.few_maps(*ten_classes(), RNG.normal(size=(10, 28, 28))),
    "saliency_grid": drawn_grid,
}
