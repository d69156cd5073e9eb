"""What the stages wrote, as tidy frames: one row per network, a mean over images in each column.

Images are averaged within a seed, never treated as replicates, over one of the sets of saqlib.evidence.image_sets.
`Collection.per_seed` has all that a verdict or a table rests on, small enough to be committed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from saqlib import paths
from saqlib.evidence import kept_maps, reading
from saqlib.evidence.image_sets import mean, strata
from saqlib.evidence.per_seed import Evidence
from saqlib.evidence.settings import IMAGE_SETS
from saqlib.grid import Cell, Grid
from saqlib.names import (
    FAITHFULNESS,
    FILLS,
    GAINS,
    GRADIENT,
    PRESERVATION,
    PRIMARY,
    RELEVANCE_GAIN,
    SEED_TO_SEED,
    UNTRAINED,
    further_scores,
)


@dataclass(frozen=True)
class Collection:
    """All frames that claims, tables and figures are made of. Every one has dataset, training and seed.

    SCORES are PRIMARY, relevance_gain_<fill> for every fill, and faithfulness, the mean of those that qualify.
    """

    fills: dict[str, tuple[str, ...]]  # of each dataset those that qualify
    runs: dict[str, pd.DataFrame]  # by set of images; + precision, test_accuracy, SCORES, amplitude, deaths, likeness
    untrained: dict[str, pd.DataFrame]  # by set of images; + SCORES and amplitude of the reference's untrained twins
    image_sets: pd.DataFrame  # + images (the set), count and scored: how many images each set leaves of those scored
    secondary: pd.DataFrame  # + precision and the secondary scores, on the primary images
    controls: pd.DataFrame  # + control, SCORES and amplitude (of networks), on the primary images
    seed_to_seed: pd.DataFrame  # + preservation_*, between two seeds of the reference, on the primary images
    methods: pd.DataFrame  # + precision, method and SCORES, on those primary images that every method scored
    switched: pd.DataFrame  # + precision, weights and activations (on, off), SCORES, same_class; images as of methods
    differences: pd.DataFrame  # + precision, difference (gradient, or a step), SCORES; images as of methods
    cascade: pd.DataFrame  # + precision, redrawn (a layer, or seed_to_seed), preservation_*; images as of methods
    curves: pd.DataFrame  # + precision, level, most, least, random
    accuracies: pd.DataFrame  # + precision, level, most, random: accuracy in percent with pixels removed
    gradients: pd.DataFrame  # + precision and gradient, some thousand values for each cell
    outline: pd.DataFrame  # + precision, distance, relative, pixels, salient: where the kept maps of seed 0 lie

    @property
    def evidence(self) -> Evidence:
        """What verdicts rest on."""
        return Evidence(self.runs, self.untrained, self.fills)

    def per_seed(self) -> dict[str, pd.DataFrame]:
        """The numbers from which every verdict and table can be computed again, by the name of their CSV."""
        by_images = {"networks": self.runs, "untrained": self.untrained}
        found = {
            name: pd.concat([frame.assign(images=images) for images, frame in frames.items()], ignore_index=True)
            for name, frames in by_images.items()
        }
        found = {name: frame[["images", *frame.columns.drop("images")]] for name, frame in found.items()}
        alone = ("image_sets", "controls", "methods", "seed_to_seed", "secondary", "switched",
                 "differences", "cascade", "curves", "accuracies")  # fmt: skip
        return found | {name: getattr(self, name) for name in alone}


def collect(grid: Grid, reference: str, root: Path = paths.ROOT) -> Collection:
    """All frames of the grid; reference: the precision whose maps the others are likened to.

    Raises MissingError if a file is missing or cells were scored on other images.
    """
    reports = {cell: reading.report(cell, root) for cell in grid.cells}
    fills = {dataset: reading.fills(dataset, root) for dataset in grid.datasets}
    parts: dict[str, list[pd.DataFrame]] = {}
    for dataset in grid.datasets:
        for training in grid.trainings:
            cells = {p: reading.scores(Cell(dataset, p, training), root) for p in grid.precisions}
            _check_images(cells, dataset, training)
            for name, frame in _block(cells, reference).items():
                frame = _with_faithfulness(frame, fills[dataset])
                parts.setdefault(name, []).append(frame.assign(dataset=dataset, training=training))
    frames = {name: _keys_first(pd.concat(found, ignore_index=True)) for name, found in parts.items()}
    accuracy = _accuracies(reports)
    runs = {images: _runs(frames.pop(images), accuracy) for images in IMAGE_SETS}
    untrained = {images: frames.pop(f"{UNTRAINED}_{images}") for images in IMAGE_SETS}
    return Collection(fills, runs, untrained, **frames)


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
    first = dict.fromkeys([*PRIMARY, *GAINS, FAITHFULNESS, "amplitude", "dead_rate"])  # the gain with zeros is of two
    rest = [column for column in means if column not in {*first, *accuracy.columns, *preservation}]
    merged = accuracy.merge(means, on=["dataset", "precision", "training", "seed"], how="left")
    return merged[[*accuracy.columns, *first, *preservation, *rest]]


def _with_faithfulness(frame: pd.DataFrame, fills: Sequence[str]) -> pd.DataFrame:
    """The frame, and where it has relevance gains their mean over the fills that qualify; NaN where none does."""
    if GAINS[0] not in frame:
        return frame
    qualifying = frame[[f"{RELEVANCE_GAIN}_{fill}" for fill in fills]]
    faithfulness = qualifying.mean(axis=1, skipna=False) if fills else np.nan
    after = list(frame.columns).index(GAINS[-1]) + 1
    frame = frame.copy()
    frame.insert(after, FAITHFULNESS, faithfulness)
    return frame


def _keys_first(frame: pd.DataFrame) -> pd.DataFrame:
    keys = [k for k in ("dataset", "precision", "training", "seed", "control", "method", "weights", "activations",
                         "difference", "redrawn") if k in frame]  # fmt: skip
    return frame[keys + [column for column in frame if column not in keys]]


# ------------------------------------------------------------------------------- one dataset and training


def _block(cells: Mapping[str, xr.Dataset], reference: str) -> dict[str, pd.DataFrame]:
    """The frames of one dataset and training, by name; those of `runs` by their set of images."""
    groups = {images: strata(list(cells.values()), images) for images in IMAGE_SETS}
    primary, base = groups["primary"], cells[reference]

    def by_precision(frame_of) -> pd.DataFrame:
        return pd.concat([frame_of(cell).assign(precision=precision) for precision, cell in cells.items()])

    frames = {name: by_precision(lambda cell, g=g: _means(_network(cell), g)) for name, g in groups.items()}
    frames |= {f"{UNTRAINED}_{name}": _means(_maps(base, UNTRAINED), g) for name, g in groups.items()}
    return frames | {
        "image_sets": pd.concat([_counts(name, g) for name, g in groups.items()]),
        "secondary": by_precision(lambda cell: _means(_secondary(cell), primary)),
        "controls": _controls(base, primary),
        "seed_to_seed": _means(_likeness(base.seed_to_seed), primary),
        "methods": by_precision(lambda cell: _methods(cell, primary)),
        "switched": by_precision(lambda cell: _switched(cell, primary)),
        "differences": by_precision(lambda cell: _differences(cell, primary)),
        "cascade": by_precision(lambda cell: _cascade(cell, primary)),
        "curves": by_precision(lambda cell: _by_level(cell.curves)),
        "accuracies": by_precision(_accuracy_curves),
        "gradients": by_precision(_gradients),
        "outline": by_precision(kept_maps.outline).assign(seed=0),
    }


def _means(columns: Mapping[str, xr.DataArray], groups: NDArray) -> pd.DataFrame:
    """One row per seed; each column the mean over the images of its set, of an array (seed, image)."""
    means = {column: mean(values.values, groups) for column, values in columns.items()}
    return pd.DataFrame({"seed": range(len(groups))} | means)


def _counts(name: str, groups: NDArray) -> pd.DataFrame:
    """One row per seed: how many images a set has, of how many."""
    counts = (groups >= 0).sum(1)
    return pd.DataFrame({"seed": range(len(groups)), "images": name, "count": counts, "scored": groups.shape[1]})


def _scores(scores: xr.DataArray, gains: xr.DataArray) -> dict[str, xr.DataArray]:
    """By column: the primary scores, and the relevance gain under each fill."""
    by_fill = {f"{RELEVANCE_GAIN}_{fill}": gains.sel(fill=fill) for fill in FILLS}
    return {name: scores.sel(score=name) for name in PRIMARY} | by_fill


def _maps(cell: xr.Dataset, which: str) -> dict[str, xr.DataArray]:
    scores = _scores(cell.scores.sel(map=which), cell.relevance_gain.sel(map=which))
    return scores | {"amplitude": cell.amplitude.sel(map=which)}


def _network(cell: xr.Dataset) -> dict[str, xr.DataArray]:
    further = {name: cell[name] for name in further_scores(cell) if name != "dead"}
    return _maps(cell, GRADIENT) | further | {"dead_rate": cell.dead} | _likeness(cell.preservation)


def _likeness(arrays: xr.DataArray) -> dict[str, xr.DataArray]:
    return {f"preservation_{name}": arrays.sel(likeness=name) for name in PRESERVATION}


def _secondary(cell: xr.Dataset) -> dict[str, xr.DataArray]:
    return {name: cell[name] for name in ("entropy", "auroc", "sensitivity_max")}


def _controls(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """What controls score on the reference's images, with the network of each seed."""
    arrays = {UNTRAINED: _maps(cell, UNTRAINED)}
    for name in cell.control.values.tolist():
        arrays[name] = _scores(cell.control_scores.sel(control=name), cell.control_gain.sel(control=name))
    return pd.concat([_means(each, groups).assign(control=name) for name, each in arrays.items()])


def _methods(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """Scores of other methods' maps, and of the gradient on the same images."""
    few = slice(cell.sizes["few"])
    own = cell.sel(map=GRADIENT).isel(image=few)
    arrays = {GRADIENT: _scores(own.scores, own.relevance_gain)}
    for name in cell.explainer.values.tolist():
        arrays[name] = _scores(cell.method_scores.sel(explainer=name), cell.method_gain.sel(explainer=name))
    groups = groups[:, few]
    return pd.concat([_means(each, groups).assign(method=name) for name, each in arrays.items()])


def _switched(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """Scores of the map with quantizers on and off, and how often the class stays; the reference has none to switch."""
    if "switched_scores" not in cell:
        return pd.DataFrame()
    few = slice(cell.sizes["few"])
    found = []
    for weights, activations in product(cell.weights.values.tolist(), cell.activations.values.tolist()):
        at = {"weights": weights, "activations": activations}
        arrays = _scores(cell.switched_scores.sel(at), cell.switched_gain.sel(at))
        same = cell.switched_predicted.sel(at).values == cell.predicted.isel(image=few).values
        arrays["same_class"] = xr.DataArray(same.astype(float))
        found.append(_means(arrays, groups[:, few]).assign(**at))
    return pd.concat(found)


def _differences(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    groups, found = groups[:, : cell.sizes["few"]], []
    for name in cell.difference.values.tolist():
        arrays = _scores(cell.difference_scores.sel(difference=name), cell.difference_gain.sel(difference=name))
        found.append(_means(arrays, groups).assign(difference=name))
    return pd.concat(found)


def _cascade(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """Likeness while layers are drawn anew; of the reference that of two networks, too."""
    few = slice(cell.sizes["few"])
    arrays = {name: cell.cascade.sel(redrawn=name) for name in cell.redrawn.values.tolist()}
    if SEED_TO_SEED in cell:
        arrays[SEED_TO_SEED] = cell.seed_to_seed.isel(image=few)
    return pd.concat([_means(_likeness(each), groups[:, few]).assign(redrawn=name) for name, each in arrays.items()])


def _by_level(curves: xr.DataArray) -> pd.DataFrame:
    """One row per seed and level, a column for each order of removal."""
    return curves.to_series().unstack("order")[curves.order.values.tolist()].reset_index().rename_axis(columns=None)


def _accuracy_curves(cell: xr.Dataset) -> pd.DataFrame:
    accuracies = 100 * cell.accuracies
    return _by_level(accuracies.rename(accuracy_order="order", accuracy_level="level"))


def _gradients(cell: xr.Dataset) -> pd.DataFrame:
    return cell.gradient.to_series().reset_index("seed").reset_index(drop=True)
