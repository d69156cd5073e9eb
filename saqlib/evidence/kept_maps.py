"""The maps of seed 0 that scoring kept for a look: those that figures show, and where they lie on their images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from saqlib import paths
from saqlib.evidence import reading
from saqlib.grid import Cell, Grid
from saqlib.names import GRADIENT
from saqlib.words import CLASSES

NEAR, SALIENT = (-8, 6), 0.1  # distances from the outline that are told apart; share of the most salient pixels


@dataclass(frozen=True)
class Maps:
    """The maps of one network for K fixed test images, and what stands below each of them."""

    maps: np.ndarray  # (K, 28, 28), signed
    gini: np.ndarray  # (K,)
    morans_i: np.ndarray
    probability: np.ndarray  # of the predicted class
    correct: np.ndarray  # bool


def outline(cell: xr.Dataset) -> pd.DataFrame:
    """Where the kept maps lie: one row per distance from the object's outline, in pixels, negative outside.

    relative: mean magnitude there, in units of each map's own mean. pixels: share of all pixels that lie there.
    salient: share of the most salient tenth of each map's pixels that lie there. The outermost rows hold what is
    further away, too. Maps that are dead, and images without an outline, are left out.
    """
    magnitude, objects = np.abs(cell.kept_map.values), cell.kept_image.values > 0
    alive = np.isfinite(magnitude).all((1, 2)) & (magnitude.max((1, 2)) > 0)
    alive &= objects.any((1, 2)) & ~objects.all((1, 2))
    magnitude, objects = magnitude[alive], objects[alive]
    magnitude = magnitude / magnitude.mean((1, 2), keepdims=True)
    salient = magnitude >= np.quantile(magnitude, 1 - SALIENT, axis=(1, 2), keepdims=True)
    distance = np.array([_from_outline(each) for each in objects]).reshape(magnitude.shape)
    rows = []
    for at in [d for d in range(NEAR[0], NEAR[1] + 1) if (distance == d).any()]:
        there = distance == at
        rows.append([at, magnitude[there].mean(), there.mean(), salient[there].sum() / salient.sum()])
    return pd.DataFrame(rows, columns=["distance", "relative", "pixels", "salient"])


def _from_outline(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each pixel of a bool image the distance to the nearest pixel of the other kind, rounded up, within NEAR."""
    inward, outward = distance_transform_edt(inside), distance_transform_edt(~inside)
    return np.clip(np.ceil(inward) - np.ceil(outward), *NEAR).astype(np.int64)


def saliency_grid(
    dataset: str, grid: Grid, root: Path = paths.ROOT
) -> tuple[NDArray, tuple[str, ...], dict[str, dict[str, Maps]]]:
    """What `report.pictures.saliency_grid` draws of a dataset: images (K, 28, 28), class names, maps of seed 0.

    Of each class the first kept image that every network classifies correctly, or the first one if there is none.
    """
    cells = {t: {p: _of_seed_0(Cell(dataset, p, t), root) for p in grid.precisions} for t in grid.trainings}
    every = [cell for group in cells.values() for cell in group.values()]
    labels = every[0].label.values
    shown = _one_a_class(labels, np.all([cell.predicted == cell.label for cell in every], axis=0))
    blocks = {t: {p: _maps(cell.isel(kept=shown)) for p, cell in group.items()} for t, group in cells.items()}
    names = tuple(CLASSES[dataset][label] for label in labels[shown])
    return every[0].kept_image.values[shown].astype(np.uint8), names, blocks  # the file holds a wider type


def _of_seed_0(cell: Cell, root: Path) -> xr.Dataset:
    """What is known of the kept images: their maps, and the scores of seed 0 at their places."""
    scores = reading.scores(cell, root).isel(seed=0).sel(map=GRADIENT)
    return scores.sel(image=scores.kept).drop_vars("image")


def _one_a_class(labels: NDArray, correct: NDArray) -> NDArray[np.int64]:
    """The first correct place of each class, in the order of the classes; the first place where none is correct."""
    best = np.lexsort((np.arange(len(labels)), ~correct, labels))
    return best[np.unique(labels[best], return_index=True)[1]]


def _maps(cell: xr.Dataset) -> Maps:
    return Maps(
        maps=cell.kept_map.values,
        gini=cell.scores.sel(score="gini").values,
        morans_i=cell.scores.sel(score="morans_i").values,
        probability=cell.probability.values,
        correct=(cell.predicted == cell.label).values,
    )
