"""What the stages wrote, as tidy frames: one row per network, a mean over images in each column.

Images are averaged within a seed, never treated as replicates, over one of these sets:

primary   classified correctly by every precision of that seed and training, so that clarity is not accuracy again
all       every scored image
matched   primary images whose confidence lies in the same tercile at every precision; the terciles, cut from the
          confidences of all precisions together, count equally
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from saqlib.claims import IMAGE_SETS, Evidence
from saqlib.data import DATASETS
from saqlib.errors import last_line, one_of
from saqlib.scores import FAITHFULNESS, GAINS, GRADIENT, RELEVANCE_GAIN, SCORES, SEED_TO_SEED, UNTRAINED
from study import files, paths
from study.settings import Cell, Grid

CELL = ["dataset", "precision", "training", "seed"]
COURSE = ["dataset", "training", "precision", "step"]
# The axes of scores/<cell>.nc along which its maps differ, and what their columns are called.
AXES = {"control": "control", "explainer": "method", "weights": "weights", "activations": "activations",
        "difference": "difference", "redrawn": "redrawn"}  # fmt: skip
NEAR, SALIENT = (-8, 6), 0.1  # distances from the outline that are told apart; share of the most salient pixels
Content = TypeVar("Content")
Columns = Mapping[str, xr.DataArray]  # of a frame: arrays (seed, images)


# -------------------------------------------------------------------------------------------------------- files


class MissingError(RuntimeError):
    """A file of an earlier stage is missing, damaged or does not fit the others; the message names it and its stage."""


def report(cell: Cell | str, root: Path = paths.ROOT) -> dict[str, Any]:
    """results/runs/<cell>.json as it is, accuracies and histories; MissingError if there is none."""
    return _read(root / "results" / "runs" / f"{cell}.json", "train", _report)


def scores(cell: Cell | str, root: Path = paths.ROOT) -> xr.Dataset:
    """The arrays of scores/<cell>.nc, as saqlib.scoring names them; MissingError if there is none."""
    return _read(root / "scores" / f"{cell}.nc", "clarity", files.read_dataset)


def during(cell: Cell | str, root: Path = paths.ROOT) -> pd.DataFrame:
    """results/during/<cell>.csv, the scores of seed 0 at each recorded step; MissingError if there is none."""
    return _read(root / "results" / "during" / f"{cell}.csv", "clarity", _table("step"))


def fills(dataset: str, root: Path = paths.ROOT) -> tuple[str, ...]:
    """The fills that qualify on a dataset, by its validation images; MissingError if that was not looked at."""
    table = _read(root / "results" / "fills" / f"{dataset}.csv", "fills", _table("fill", "qualifies"))
    return tuple(table.fill[table.qualifies])


def ablation(variant: str, root: Path = paths.ROOT) -> pd.DataFrame:
    """results/ablations/<variant>.csv; without any row if the variant was not run, as at the smaller scales."""
    path = root / "results" / "ablations" / f"{variant}.csv"
    return _read(path, "ablate", _table(*CELL)) if path.exists() else pd.DataFrame(columns=CELL)


def _read(path: Path, stage: str, read: Callable[[Path], Content]) -> Content:
    if not path.exists():
        raise MissingError(f"{path} does not exist; run the stage that writes it (dvc repro {stage})")
    try:
        return read(path)
    except (ValueError, KeyError) as error:  # what the readers of JSON, CSV and text raise, and the checks below
        what = f"{path} is not what its stage wrote ({last_line(error)})"
        raise MissingError(f"{what}; remove it and run the stage again (dvc repro {stage})") from None


def _report(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not content.get("seeds"):
        raise ValueError("it has no seed")
    return content


def _table(*columns: str) -> Callable[[Path], pd.DataFrame]:
    def read(path: Path) -> pd.DataFrame:
        table = pd.read_csv(path)
        if lacking := [column for column in columns if column not in table]:
            raise ValueError(f"it has no column {lacking[0]}")
        return table

    return read


# ----------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class Collection:
    """All frames that claims, tables and figures are made of. Every one has dataset, training and seed.

    SCORES are the primary ones, relevance_gain_<fill> for every fill, and faithfulness, the mean of those that qualify.
    """

    fills: dict[str, tuple[str, ...]]  # of each dataset those that qualify
    runs: dict[str, pd.DataFrame]  # by set of images; + precision, test_accuracy, SCORES, amplitude, every other score
    untrained: dict[str, pd.DataFrame]  # by set of images; + SCORES and amplitude of the reference's untrained twins
    image_sets: pd.DataFrame  # + images (the set), count and scored: how many images each set leaves of those scored
    secondary: pd.DataFrame  # + precision and the scores that only describe, on the primary images
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
        found = {}
        for name, frames in (("networks", self.runs), ("untrained", self.untrained)):
            frame = pd.concat([each.assign(images=images) for images, each in frames.items()], ignore_index=True)
            found[name] = frame[["images", *frame.columns.drop("images")]]
        names = ("image_sets", "controls", "methods", "seed_to_seed", "secondary", "switched",
                 "differences", "cascade", "curves", "accuracies")  # fmt: skip
        return found | {name: getattr(self, name) for name in names}


def collect(grid: Grid, reference: str, root: Path = paths.ROOT) -> Collection:
    """All frames of the grid; reference: the precision whose maps the others are likened to.

    Raises MissingError if a file is missing or cells were scored on other images.
    """
    reports = {cell: report(cell, root) for cell in grid.cells}
    qualifying = {dataset: fills(dataset, root) for dataset in grid.datasets}
    parts: dict[str, list[pd.DataFrame]] = {}
    for dataset, training in product(grid.datasets, grid.trainings):
        cells = {p: scores(Cell(dataset, p, training), root) for p in grid.precisions}
        _check_images(cells, dataset, training)
        for name, frame in _block(cells, reference).items():
            frame = _with_faithfulness(frame, qualifying[dataset])
            parts.setdefault(name, []).append(frame.assign(dataset=dataset, training=training))
    frames = {name: _keys_first(pd.concat(each, ignore_index=True)) for name, each in parts.items()}
    accuracy = pd.DataFrame([
        {**vars(cell), "seed": int(seed), "test_accuracy": run["test_accuracy"]}
        for cell, content in reports.items() for seed, run in content["seeds"].items()
    ])  # fmt: skip
    runs = {images: accuracy.merge(frames.pop(images), on=CELL, how="left") for images in IMAGE_SETS}
    untrained = {images: frames.pop(f"{UNTRAINED}_{images}") for images in IMAGE_SETS}
    return Collection(qualifying, runs, untrained, **frames)


def _check_images(cells: Mapping[str, xr.Dataset], dataset: str, training: str) -> None:
    first = next(iter(cells.values()))
    for precision, other in cells.items():
        if not (np.array_equal(first.image, other.image) and first.sizes["seed"] == other.sizes["seed"]):
            raise MissingError(
                f"{dataset}-{precision}-{training} was scored on other images or seeds than the other precisions; "
                "run the stage again (dvc repro clarity)"
            )


def _with_faithfulness(frame: pd.DataFrame, qualifying: Sequence[str], end: str = "") -> pd.DataFrame:
    """With the mean over the fills that qualify, behind the relevance gains of a frame that has any."""
    if f"{GAINS[0]}{end}" not in frame:
        return frame
    columns, frame = [f"{RELEVANCE_GAIN}_{fill}{end}" for fill in qualifying], frame.copy()
    faithfulness = frame[columns].mean(axis=1, skipna=False) if columns else np.nan
    frame.insert(frame.columns.get_loc(f"{GAINS[-1]}{end}") + 1, f"{FAITHFULNESS}{end}", faithfulness)
    return frame


def _keys_first(frame: pd.DataFrame) -> pd.DataFrame:
    keys = [key for key in (*CELL, *AXES.values()) if key in frame]
    return frame[keys + [column for column in frame if column not in keys]]


def _block(cells: Mapping[str, xr.Dataset], reference: str) -> dict[str, pd.DataFrame]:
    """The frames of one dataset and training, by name; those of `runs` by their set of images."""
    sets = {images: strata(list(cells.values()), images) for images in IMAGE_SETS}
    primary, base = sets["primary"], cells[reference]

    def by_precision(frame_of: Callable[[xr.Dataset], pd.DataFrame]) -> pd.DataFrame:
        return pd.concat([frame_of(cell).assign(precision=precision) for precision, cell in cells.items()])

    frames = {name: by_precision(lambda cell, own=own: _means(_network(cell), own)) for name, own in sets.items()}
    frames |= {f"{UNTRAINED}_{name}": _means(_maps(base, UNTRAINED), own) for name, own in sets.items()}
    untrained = frames[f"{UNTRAINED}_primary"].assign(control=UNTRAINED)
    return frames | {
        "image_sets": pd.concat([_counts(name, own) for name, own in sets.items()]),
        "secondary": by_precision(lambda cell: _means(_described(cell), primary)),
        "controls": pd.concat([untrained, _means(_scores(base, "control"), primary, "control")]),
        "seed_to_seed": _means(_likeness(base[SEED_TO_SEED]), primary),
        "methods": by_precision(lambda cell: _methods(cell, primary)),
        "switched": by_precision(lambda cell: _switched(cell, primary)),
        "differences": by_precision(lambda cell: _means(_scores(cell, "difference"), primary, "difference")),
        "cascade": by_precision(lambda cell: _cascade(cell, primary)),
        "curves": by_precision(lambda cell: _by_level(cell.curves)),
        "accuracies": by_precision(_accuracies),
        "gradients": by_precision(lambda cell: cell.gradient.to_series().reset_index("seed").reset_index(drop=True)),
        "outline": by_precision(outline).assign(seed=0),
    }


def _means(columns: Columns, groups: NDArray, *axes: str) -> pd.DataFrame:
    """One row per seed and place along the axes; each column the mean over the images of its set."""
    found = []
    for labels in product(*(next(iter(columns.values()))[axis].values.tolist() for axis in axes)):
        at = dict(zip(axes, labels, strict=True))
        means = {name: mean(values.sel(at).values, groups) for name, values in columns.items()}
        found.append(pd.DataFrame({"seed": range(len(groups)), **{AXES[axis]: at[axis] for axis in axes}, **means}))
    return pd.concat(found)


def _counts(name: str, groups: NDArray) -> pd.DataFrame:
    """One row per seed: how many images a set has, of how many."""
    counts = (groups >= 0).sum(1)
    return pd.DataFrame({"seed": range(len(groups)), "images": name, "count": counts, "scored": groups.shape[1]})


def _scores(cell: xr.Dataset, of: str = "") -> dict[str, xr.DataArray]:
    """By column: the primary scores, and the relevance gain under each fill."""
    values, gains = (cell[f"{of}_scores"], cell[f"{of}_gain"]) if of else (cell.scores, cell.relevance_gain)
    columns = {name: values.sel(score=name) for name in values.score.values.tolist()}
    return columns | {f"{RELEVANCE_GAIN}_{fill}": gains.sel(fill=fill) for fill in gains.fill.values.tolist()}


def _maps(cell: xr.Dataset, which: str) -> dict[str, xr.DataArray]:
    own = cell.sel(map=which)
    return _scores(own) | {"amplitude": own.amplitude}


def _network(cell: xr.Dataset) -> dict[str, xr.DataArray]:
    return _maps(cell, GRADIENT) | {"dead_rate": cell.dead} | _likeness(cell.preservation) | _described(cell)


def _likeness(arrays: xr.DataArray) -> dict[str, xr.DataArray]:
    return {f"preservation_{name}": arrays.sel(likeness=name) for name in arrays.likeness.values.tolist()}


def _described(cell: xr.Dataset) -> dict[str, xr.DataArray]:
    """Every registered score that has an array of its own; of dead maps there is a rate."""
    return {name: cell[name] for name in SCORES if name in cell and name not in ("dead", RELEVANCE_GAIN)}


def _methods(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """Scores of other methods' maps, and of the gradient on the same images."""
    own = cell.sel(map=GRADIENT).isel(image=slice(cell.sizes["few"]))
    gradient = _means(_scores(own), groups).assign(method=GRADIENT)
    return pd.concat([gradient, _means(_scores(cell, "method"), groups, "explainer")])


def _switched(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """Scores of the map with quantizers on and off, and how often the class stays; the reference has none to switch."""
    if "switched_scores" not in cell:
        return pd.DataFrame()
    deployed = cell.predicted.values[:, None, None, : cell.sizes["few"]]
    columns = _scores(cell, "switched") | {"same_class": (cell.switched_predicted == deployed).astype(float)}
    return _means(columns, groups, "weights", "activations")


def _cascade(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """Likeness while layers are drawn anew; of the reference that of two networks, too."""
    frame = _means(_likeness(cell.cascade), groups, "redrawn")
    if SEED_TO_SEED not in cell:
        return frame
    beside = cell[SEED_TO_SEED].isel(image=slice(cell.sizes["few"]))
    return pd.concat([frame, _means(_likeness(beside), groups).assign(redrawn=SEED_TO_SEED)])


def _by_level(curves: xr.DataArray) -> pd.DataFrame:
    """One row per seed and level, a column for each order of removal."""
    return curves.to_series().unstack("order")[curves.order.values.tolist()].reset_index().rename_axis(columns=None)


def _accuracies(cell: xr.Dataset) -> pd.DataFrame:
    return _by_level(100 * cell.accuracies.rename(accuracy_order="order", accuracy_level="level"))


# ------------------------------------------------------------------------------------------------------- images


def strata(cells: Sequence[xr.Dataset], images: str) -> NDArray[np.int64]:
    """For each seed and image the stratum over which it is averaged, -1 for an image that is left out: (S, N).

    cells: the scores of every precision of one dataset and training. Raises ValueError for an unknown set.
    """
    one_of(images, IMAGE_SETS, "set of images")
    if images == "all":
        return np.zeros(cells[0].predicted.shape, dtype=np.int64)
    correct = np.all([cell.predicted == cell.label for cell in cells], axis=0)
    if images == "primary":
        return np.where(correct, 0, -1)
    confidence = np.stack([cell.probability for cell in cells])
    terciles = np.zeros(confidence.shape, dtype=np.int64)
    for seed, chosen in enumerate(correct):
        if chosen.any():
            edges = np.quantile(confidence[:, seed, chosen], [1 / 3, 2 / 3])
            terciles[:, seed] = np.searchsorted(edges, confidence[:, seed], side="left")
    same = correct & (terciles == terciles[0]).all(axis=0)
    return np.where(same, terciles[0], -1)


def mean(values: NDArray, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over the images of each stratum, then over the strata: (S,), NaN without any image.

    values: (S, N) or (N,), the same for every seed; NaN (a dead map) is left out. If there are fewer images
    than in `groups` (S, N'), they are the first ones.
    """
    values = np.broadcast_to(values, (len(groups), np.shape(values)[-1]))
    rows = []
    for row, group in zip(values, groups[:, : values.shape[1]], strict=True):
        finite = np.isfinite(row)
        means = [row[finite & (group == g)].mean() for g in range(3) if (finite & (group == g)).any()]
        rows.append(np.mean(means) if means else np.nan)
    return np.array(rows)


# ----------------------------------------------------------------------------------------------- maps of seed 0


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
    """For each pixel the distance to the nearest pixel of the other kind, rounded up, within NEAR."""
    from scipy.ndimage import distance_transform_edt

    inward, outward = distance_transform_edt(inside), distance_transform_edt(~inside)
    return np.clip(np.ceil(inward) - np.ceil(outward), *NEAR).astype(np.int64)


def saliency_grid(
    dataset: str, grid: Grid, root: Path = paths.ROOT
) -> tuple[NDArray, tuple[str, ...], dict[str, dict[str, Maps]]]:
    """What `study.report.pictures.saliency_grid` draws: images (K, 28, 28), class names, maps of seed 0.

    Of each class the first kept image that every network classifies correctly, or the first one if there is none.
    """
    cells = {}
    for training, precision in product(grid.trainings, grid.precisions):
        cell = scores(Cell(dataset, precision, training), root).isel(seed=0).sel(map=GRADIENT)
        cells[training, precision] = cell.sel(image=cell.kept).drop_vars("image")
    first = next(iter(cells.values()))
    correct = np.all([cell.predicted == cell.label for cell in cells.values()], axis=0)
    best = np.lexsort((np.arange(len(correct)), ~correct, first.label.values))  # correct ones first in each class
    shown = best[np.unique(first.label.values[best], return_index=True)[1]]
    blocks: dict[str, dict[str, Maps]] = {training: {} for training in grid.trainings}
    for (training, precision), cell in cells.items():
        blocks[training][precision] = _shown(cell.isel(kept=shown))
    names = tuple(DATASETS[dataset].classes[label] for label in first.label.values[shown])
    return first.kept_image.values[shown].astype(np.uint8), names, blocks  # the file holds a wider type


def _shown(cell: xr.Dataset) -> Maps:
    return Maps(
        maps=cell.kept_map.values,
        gini=cell.scores.sel(score="gini").values,
        morans_i=cell.scores.sel(score="morans_i").values,
        probability=cell.probability.values,
        correct=(cell.predicted == cell.label).values,
    )


# ------------------------------------------------------------------------------------------------ during training


def collect_during(grid: Grid, root: Path = paths.ROOT) -> pd.DataFrame:
    """What scores do while networks train, of seed 0 and on validation images: it describes and decides nothing.

    Returns:
        One row per cell and recorded step: dataset, training, precision, step, switch (NaN in full precision), accuracy
        in percent, the scores and `faithfulness`, the mean over the fills that qualify, NaN where none does. Each score
        has its standard error over the images, `<score>_se`; that of faithfulness is the mean of the fills' errors,
        which is never less than the error of their mean.

    Raises:
        MissingError: a file is missing; the message names the stage.
    """
    frames = []
    for dataset in grid.datasets:
        qualifying = fills(dataset, root)
        for cell in (cell for cell in grid.cells if cell.dataset == dataset):
            frame = during(cell, root)
            for end in ("", "_se"):
                frame = _with_faithfulness(frame, qualifying, end)
            frames.append(frame.assign(dataset=dataset, training=cell.training, precision=cell.precision))
    together = pd.concat(frames, ignore_index=True)
    return together[[*COURSE, *together.columns.drop(COURSE)]]


def around_the_switch(during: pd.DataFrame) -> pd.DataFrame:
    """Of each cell the last row before its switch and its last row of all, one below the other, with `when`.

    `when` is `before` or `end`. In full precision, which never switches, the switch of the dataset and training's
    other cells counts; without any there is no `before`.
    """
    rows = []
    for (dataset, training, _), group in during.groupby(COURSE[:3], sort=False):
        beside = during[(during.dataset == dataset) & (during.training == training)]
        before = group[group.step < beside.switch.min()]
        rows += [before.tail(1).assign(when="before"), group.tail(1).assign(when="end")]
    return pd.concat(rows, ignore_index=True)
