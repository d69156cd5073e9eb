"""What the stages wrote, as tidy frames: one row per network, a mean over images in each column.

Images are averaged within a seed, never treated as replicates, over one of the sets of saqlib.evidence.image_sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from saqlib import paths
from saqlib.evidence import kept_maps, reading
from saqlib.evidence.image_sets import mean, strata
from saqlib.evidence.settings import IMAGE_SETS
from saqlib.grid import Cell, Grid
from saqlib.names import GRADIENT, OTHER_METHODS, PRESERVATION, PRIMARY, UNTRAINED


@dataclass(frozen=True)
class Collection:
    """All frames that claims, tables and figures are made of. Every one has dataset, training and seed."""

    runs: dict[str, pd.DataFrame]  # by set of images; + precision, test_accuracy, PRIMARY, dead_rate, preservation_*
    secondary: pd.DataFrame  # + precision and the secondary scores, on the primary images
    controls: pd.DataFrame  # + control and PRIMARY, on the primary images
    seed_to_seed: pd.DataFrame  # + preservation_*, between two seeds of the reference, on the primary images
    methods: pd.DataFrame  # + precision, method and PRIMARY, on those primary images that every method scored
    curves: pd.DataFrame  # + precision, level, most, least, random
    accuracies: pd.DataFrame  # + precision, level, most, random: accuracy in percent with pixels removed
    gradients: pd.DataFrame  # + precision and gradient, some thousand values for each cell
    outline: pd.DataFrame  # + precision, distance, relative, pixels, salient: where the kept maps of seed 0 lie


def collect(grid: Grid, reference: str, root: Path = paths.ROOT) -> Collection:
    """All frames of the grid; reference: the precision whose maps the others are likened to.

    Raises MissingError if a file is missing or cells were scored on other images.
    """
    reports = {cell: reading.report(cell, root) for cell in grid.cells}
    parts: dict[str, list[pd.DataFrame]] = {}
    for dataset in grid.datasets:
        for training in grid.trainings:
            cells = {p: reading.scores(Cell(dataset, p, training), root) for p in grid.precisions}
            _check_images(cells, dataset, training)
            for name, frame in _block(cells, reference).items():
                parts.setdefault(name, []).append(frame.assign(dataset=dataset, training=training))
    frames = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}
    accuracy = _accuracies(reports)
    runs = {images: _runs(frames.pop(images), accuracy) for images in IMAGE_SETS}
    return Collection(runs=runs, **{name: _keys_first(frame) for name, frame in frames.items()})


def _check_images(cells: Mapping[str, xr.Dataset], dataset: str, training: str) -> None:
    first, *rest = cells.values()
    for precision, other in zip(list(cells)[1:], rest, strict=True):
        if not (np.array_equal(first.image, other.image) and first.sizes["seed"] == other.sizes["seed"]):
            raise reading.MissingError(
                f"{dataset}-{precision}-{training} was scored on other images or seeds than the other precisions; "
                f"run the stage again (dvc repro clarity@{dataset}-{precision}-{training})"
            )


def _accuracies(reports: Mapping[Cell, dict]) -> pd.DataFrame:
    """Test accuracy in percent, one row per network, in the order of the grid."""
    return pd.DataFrame([
        {"dataset": cell.dataset, "precision": cell.precision, "training": cell.training, "seed": int(seed),
         "test_accuracy": run["test_accuracy"]}
        for cell, content in reports.items() for seed, run in content["seeds"].items()
    ])  # fmt: skip


def _runs(means: pd.DataFrame, accuracy: pd.DataFrame) -> pd.DataFrame:
    preservation = [column for column in means if column.startswith("preservation_")]
    merged = accuracy.merge(means, on=["dataset", "precision", "training", "seed"], how="left")
    return merged[[*accuracy.columns, *PRIMARY, "dead_rate", *preservation]]


def _keys_first(frame: pd.DataFrame) -> pd.DataFrame:
    keys = [k for k in ("dataset", "precision", "training", "seed", "control", "method") if k in frame]
    return frame[keys + [column for column in frame if column not in keys]]


# ------------------------------------------------------------------------------- one dataset and training


def _block(cells: Mapping[str, xr.Dataset], reference: str) -> dict[str, pd.DataFrame]:
    """The frames of one dataset and training, by name; those of `runs` by their set of images."""
    groups = {images: strata(list(cells.values()), images) for images in IMAGE_SETS}
    primary = groups["primary"]

    def by_precision(frame_of) -> pd.DataFrame:
        return pd.concat([frame_of(cell).assign(precision=precision) for precision, cell in cells.items()])

    frames = {name: by_precision(lambda cell, g=g: _means(_network(cell), g)) for name, g in groups.items()}
    return frames | {
        "secondary": by_precision(lambda cell: _means(_secondary(cell), primary)),
        "controls": _controls(cells[reference], primary),
        "seed_to_seed": _means(_likeness(cells[reference].seed_to_seed), primary),
        "methods": by_precision(lambda cell: _methods(cell, primary)),
        "curves": by_precision(lambda cell: _by_level(cell.curves)),
        "accuracies": by_precision(_accuracy_curves),
        "gradients": by_precision(_gradients),
        "outline": by_precision(kept_maps.outline).assign(seed=0),
    }


def _means(columns: Mapping[str, xr.DataArray], groups: NDArray) -> pd.DataFrame:
    """One row per seed; each column the mean over the images of its set, of an array (seed, image) or (image)."""
    means = {column: mean(values.values, groups) for column, values in columns.items()}
    return pd.DataFrame({"seed": range(len(groups))} | means)


def _by_score(scores: xr.DataArray) -> dict[str, xr.DataArray]:
    return {name: scores.sel(score=name) for name in PRIMARY}


def _network(cell: xr.Dataset) -> dict[str, xr.DataArray]:
    return _by_score(cell.scores.sel(map=GRADIENT)) | {"dead_rate": cell.dead} | _likeness(cell.preservation)


def _likeness(arrays: xr.DataArray) -> dict[str, xr.DataArray]:
    return {f"preservation_{name}": arrays.sel(likeness=name) for name in PRESERVATION}


def _secondary(cell: xr.Dataset) -> dict[str, xr.DataArray]:
    return {name: cell[name] for name in ("entropy", "auroc", "sensitivity_max")}


def _controls(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """What controls score on the reference's images; of untrained networks there is one for each seed."""
    arrays = {UNTRAINED: cell.scores.sel(map=UNTRAINED)}
    arrays |= {name: cell.control_scores.sel(control=name) for name in cell.control.values.tolist()}
    return pd.concat([_means(_by_score(each), groups).assign(control=name) for name, each in arrays.items()])


def _methods(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """Scores of other methods' maps, and of the gradient on the same images."""
    few = cell.sizes["few"]
    arrays = {GRADIENT: cell.scores.sel(map=GRADIENT).isel(image=slice(few))}
    arrays |= {name: cell.method_scores.sel(explainer=name) for name in OTHER_METHODS}
    groups = groups[:, :few]
    return pd.concat([_means(_by_score(each), groups).assign(method=name) for name, each in arrays.items()])


def _by_level(curves: xr.DataArray) -> pd.DataFrame:
    """One row per seed and level, a column for each order of removal."""
    return curves.to_series().unstack("order")[curves.order.values.tolist()].reset_index().rename_axis(columns=None)


def _accuracy_curves(cell: xr.Dataset) -> pd.DataFrame:
    accuracies = 100 * cell.accuracies
    return _by_level(accuracies.rename(accuracy_order="order", accuracy_level="level"))


def _gradients(cell: xr.Dataset) -> pd.DataFrame:
    return cell.gradient.to_series().reset_index("seed").reset_index(drop=True)
