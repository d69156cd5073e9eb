"""Maps that were kept for a look: where they lie on their objects, and which of them a figure shows."""

import numpy as np
import pytest
import xarray as xr

from saqlib.evidence.kept_maps import outline, saliency_grid
from saqlib.evidence.reading import MissingError
from saqlib.grid import Cell
from saqlib.names import GRADIENT
from saqlib.pipeline import study
from saqlib.words import CLASSES
from tests.evidence.written import SHOWN, squares

GRID = study.load().grid


def kept(maps, images) -> xr.Dataset:
    """Scores that hold these maps and images and nothing else."""
    return xr.Dataset({"kept_map": (("kept", "y", "x"), maps), "kept_image": (("kept", "y", "x"), images)})


def test_outline_says_where_a_map_lies():
    """Magnitude 3 along the outside of the outline, 1 elsewhere; dead maps and empty images are left out."""
    images = np.concatenate([squares(3), np.zeros((1, 28, 28), np.uint8)])
    maps = np.ones((4, 28, 28))
    maps[:, 7:21, 7:21], maps[:, 8:20, 8:20] = -3, 1
    maps[2], maps[3, 0, 0] = 0, 1e9
    found = outline(kept(maps, images)).set_index("distance")
    assert list(found.index) == [-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6]
    ring = 14**2 - 12**2
    mean = (784 + 2 * ring) / 784
    assert found.loc[-1, "relative"] == pytest.approx(3 / mean)
    assert found.loc[-2, "relative"] == pytest.approx((3 * 4 + 48) / 52 / mean)  # the ring's corners are sqrt(2) away
    np.testing.assert_allclose(found.loc[1:, "relative"], 1 / mean)
    assert found.pixels.sum() == pytest.approx(1) and found.loc[1, "pixels"] == pytest.approx(44 / 784)
    assert found.salient.sum() == pytest.approx(1)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_maps_that_are_not_finite_do_not_count(spoilt):
    """A map with one value that is not finite leaves the numbers of the others as they are; so does a full image."""
    maps = np.random.default_rng(0).normal(size=(4, 28, 28))
    images = squares(4)
    expected = outline(kept(maps[:2], images[:2]))
    maps[2, 5, 5], images[3] = spoilt, 255
    assert outline(kept(maps, images)).equals(expected)


def test_scale_of_a_map_does_not_matter():
    """Each map counts in units of its own mean, whatever its sign."""
    maps = np.random.default_rng(0).normal(size=(2, 28, 28))
    expected = outline(kept(maps, squares(2)))
    found = outline(kept(maps * np.array([-1e-6, 1e6])[:, None, None], squares(2)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_map_along_the_outline_is_salient_there():
    """80 of 784 pixels, the two rings inside of the outline, are the most salient tenth: 44 of them the outer ring."""
    maps = np.full((1, 28, 28), 0.1)
    maps[:, 8:20, 8:20] = -2.0
    maps[:, 10:18, 10:18] = 0.1
    found = outline(kept(maps, squares(1))).set_index("distance")
    assert found.salient[found.salient > 0].to_dict() == pytest.approx({1: 44 / 80, 2: 36 / 80})


def test_saliency_grid(grid):
    """Of each class the first kept image that all networks get right, else the first, with its own captions."""
    root, every = grid
    images, names, blocks = saliency_grid("fashion_mnist", GRID, root)
    cells = {cell: scores for cell, scores in every.items() if cell.dataset == "fashion_mnist"}
    order, chosen = range(SHOWN)[::-1], []
    for label in range(10):
        places = [place for place in order if place % 10 == label]
        right = [place for place in places if all(int(a.predicted[0, place]) == label for a in cells.values())]
        chosen.append((right or places)[0])
    assert set(chosen) != set(order[:10]), "the seed must make the choice matter"
    for training in GRID.trainings:
        for precision in GRID.precisions:
            cell, maps = every[Cell("fashion_mnist", precision, training)], blocks[training][precision]
            own = cell.scores.sel(seed=0, map=GRADIENT)
            np.testing.assert_array_equal(maps.gini, own.sel(score="gini").values[chosen])
            np.testing.assert_array_equal(maps.morans_i, own.sel(score="morans_i").values[chosen])
            np.testing.assert_array_equal(maps.probability, cell.probability.values[0, chosen])
            np.testing.assert_array_equal(maps.maps, cell.kept_map.values[[SHOWN - 1 - place for place in chosen]])
            np.testing.assert_array_equal(maps.correct, cell.predicted.values[0, chosen] == np.arange(10))
    assert images.shape == (10, 28, 28) and names == CLASSES["fashion_mnist"]
    assert list(blocks["standard"]) == list(GRID.precisions)


def test_saliency_grid_of_what_was_not_scored(tmp_path):
    """The cell that is missing is named, with its stage."""
    with pytest.raises(MissingError, match="clarity@mnist-fp32-standard"):
        saliency_grid("mnist", GRID, tmp_path)
