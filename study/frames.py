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

from saqlib.data import DATASETS
from saqlib.errors import last_line, one_of
from saqlib.scores import (
    FAITHFULNESS,
    GAINS,
    GRADIENT,
    PASS_THROUGH,
    PRIMARY,
    RELEVANCE_GAIN,
    SEED_TO_SEED,
    TRAINED,
    UNTRAINED,
)
from study import files, paths
from study.settings import Cell, Grid

IMAGE_SETS = ("primary", "all", "matched")
CELL = ["dataset", "precision", "training", "seed"]
COURSE = ["dataset", "training", "precision", "step"]
AXES = ["map", "network", "redrawn"]
OF_NETWORKS = ["test_accuracy", "positive_biases"]  # the second: how many biases of the first layer are above 0
ZERO_GAIN, LIKENESS = f"{RELEVANCE_GAIN}_zero", "preservation_"
MAPS = ["dataset", "training", "precision", "seed", "map", "network", *PRIMARY, "sensitivity_max", ZERO_GAIN, *GAINS,
        FAITHFULNESS, "amplitude"]  # fmt: skip
NEAR, SALIENT = (-8, 6), 0.1  # distances from the outline that are told apart; share of the most salient pixels
ON_DEVICE = {"device/measured": "device", "runs": "compare", "evidence/maps": "compare"}  # and the stages that write it
Content = TypeVar("Content")


# -------------------------------------------------------------------------------------------------------- files


class MissingError(RuntimeError):
    """A file of an earlier stage is missing, damaged or does not fit the others; the message names it and its stage."""


def report(cell: Cell | str, root: Path = paths.ROOT) -> dict[str, Any]:
    """results/runs/<cell>.json as it is, accuracies and histories; MissingError if there is none."""
    return _read(root / "results" / "runs" / f"{cell}.json", "train", _json, "seeds")


def scores(cell: Cell | str, root: Path = paths.ROOT) -> xr.Dataset:
    """The arrays of scores/<cell>.nc, as saqlib.scoring names them; MissingError if there is none."""
    return _read(root / "scores" / f"{cell}.nc", "clarity", files.read_dataset)


def during(cell: Cell | str, root: Path = paths.ROOT) -> pd.DataFrame:
    """results/during/<cell>.csv, the scores of seed 0 at each recorded step; MissingError if there is none."""
    return _read(root / "results" / "during" / f"{cell}.csv", "clarity", pd.read_csv, "step")


def fills(dataset: str, root: Path = paths.ROOT) -> tuple[str, ...]:
    """The fills that qualify on a dataset, by its validation images; MissingError if that was not looked at."""
    table = _read(root / "results" / "fills" / f"{dataset}.csv", "fills", pd.read_csv, "fill", "qualifies")
    return tuple(table.fill[table.qualifies])


def runs(root: Path = paths.ROOT) -> pd.DataFrame:
    """results/runs.csv, a row for each network; MissingError if there is none, or it is no table of numbers."""
    return _read(root / "results" / "runs.csv", "compare", _measured, *CELL, "test_accuracy")


def ablation(variant: str, root: Path = paths.ROOT) -> pd.DataFrame:
    """results/ablations/<variant>.csv; without any row if the variant was not run, as at the smaller scales."""
    path = root / "results" / "ablations" / f"{variant}.csv"
    return _read(path, "ablate", pd.read_csv, *CELL) if path.exists() else pd.DataFrame(columns=CELL)


def on_device(root: Path = paths.ROOT) -> tuple[pd.DataFrame, ...]:
    """The files of ON_DEVICE, which `study.report.tables.device` joins; MissingError if there is none."""
    return tuple(_read(root / "results" / f"{name}.csv", ON_DEVICE[name], pd.read_csv, *CELL[:3]) for name in ON_DEVICE)


def _read(path: Path, stage: str, read: Callable[[Path], Content], *names: str) -> Content:
    """What a reader makes of a file that a stage writes; it has at least these columns, or keys."""
    if not path.exists():
        raise MissingError(f"{path} does not exist; run the stage that writes it (dvc repro {stage})")
    try:
        content = read(path)
        if lacking := [name for name in names if name not in content]:
            raise ValueError(f"it has no {lacking[0]}")
        return content
    except (ValueError, TypeError) as error:  # what the readers of JSON, CSV and netCDF raise, and a JSON of a number
        what = f"{path} is not what its stage wrote ({last_line(error)})"
        raise MissingError(f"{what}; remove it and run the stage again (dvc repro {stage})") from None


def _measured(path: Path) -> pd.DataFrame:
    """A CSV with rows, in which all but the axes is a number."""
    frame = pd.read_csv(path)
    if not len(frame.drop(columns=CELL, errors="ignore").astype(float)):
        raise ValueError("it has no row")
    return frame


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class Collection:
    """All frames that claims, tables and figures are made of. Every one has dataset, training and seed.

    Means are over a set of images of that seed and training, the primary one where nothing is said. SCORES are the
    columns of saqlib.scoring's table, and faithfulness, the mean relevance gain of the fills that qualify.
    """

    reference: str
    fills: dict[str, tuple[str, ...]]  # of each dataset those that qualify
    runs: dict[str, pd.DataFrame]  # by set; + precision, SCORES of the straight-through map, OF_NETWORKS
    by_images: dict[str, pd.DataFrame]  # by set; + precision, map, network (trained, untrained), SCORES
    image_sets: pd.DataFrame  # + images (the set), count and scored: how many images each set leaves of those scored
    likeness: pd.DataFrame  # + preservation_*, between two seeds of the reference
    cascade: pd.DataFrame  # + precision, redrawn (a layer, or seed_to_seed), preservation_*
    curves: pd.DataFrame  # + precision, level, most, least, random
    accuracies: pd.DataFrame  # + precision, level, most, random: accuracy in percent with pixels removed
    saturation: pd.DataFrame  # + precision, layer and clipped, the share of its units above the clip
    gradients: pd.DataFrame  # + precision and gradient, some thousand values for each cell
    outline: pd.DataFrame  # + precision, distance, relative, pixels, salient: where kept maps of the typical seed lie

    @property
    def maps(self) -> pd.DataFrame:
        """Every map of every network on the primary images, with the columns MAPS."""
        return self.by_images["primary"][MAPS]

    @property
    def untrained(self) -> dict[str, pd.DataFrame]:
        """By set of images SCORES of the straight-through maps of the reference's untrained networks."""
        rows = {images: _of_map(frame, GRADIENT, UNTRAINED) for images, frame in self.by_images.items()}
        return {images: own[own.precision == self.reference].drop(columns="precision") for images, own in rows.items()}

    @property
    def as_ablation(self) -> pd.DataFrame:
        """The main grid in the form of an ablation's table: over all images, and with `pass_through_<score>`."""
        passed = _of_map(self.by_images["all"], PASS_THROUGH)[[*CELL, *PRIMARY, *GAINS, "amplitude"]]
        return self.runs["all"].merge(passed.set_index(CELL).add_prefix(f"{PASS_THROUGH}_").reset_index(), on=CELL)

    def per_seed(self, exploring: int) -> dict[str, pd.DataFrame]:
        """The numbers from which every verdict and table can be computed again, by the name of their CSV.

        `exploring` holds what was known when claims were registered: of so many first seeds every map, with the test
        accuracy of its network and `clipped`, the share of clipped units, the mean over the layers.
        """
        networks = pd.concat(self.runs, names=["images"]).reset_index("images")
        names = ("maps", "saturation", "cascade", "curves", "accuracies", "likeness", "image_sets")
        clipped = self.saturation.groupby(CELL, sort=False).clipped.mean()
        known = self.runs["primary"][[*CELL, "test_accuracy"]].merge(clipped.reset_index(), on=CELL, how="left")
        seen = self.maps[self.maps.seed < exploring].merge(known, on=CELL)
        return {"networks": networks, "exploring": seen} | {name: getattr(self, name) for name in names}


def collect(grid: Grid, reference: str, root: Path = paths.ROOT) -> Collection:
    """All frames of the grid; reference: the precision whose maps the others are likened to.

    Raises MissingError if a file is missing or cells were scored on other images.
    """
    trained = [
        (vars(cell) | {"seed": int(seed)}, run)
        for cell in grid.cells
        for seed, run in report(cell, root)["seeds"].items()
    ]
    qualifying = {dataset: fills(dataset, root) for dataset in grid.datasets}
    parts: dict[str, list[pd.DataFrame]] = {}
    for dataset, training in product(grid.datasets, grid.trainings):
        cells = {p: scores(Cell(dataset, p, training), root) for p in grid.precisions}
        _check_images(cells, dataset, training)
        for name, frame in _block(cells, reference).items():
            frame = _with_faithfulness(frame, qualifying[dataset])
            parts.setdefault(name, []).append(frame.assign(dataset=dataset, training=training))
    frames = {name: _in_front(pd.concat(each, ignore_index=True), [*CELL, *AXES]) for name, each in parts.items()}
    by_images = {images: frames.pop(images) for images in IMAGE_SETS}
    known = pd.DataFrame([key | {name: run[name] for name in OF_NETWORKS} for key, run in trained])
    runs = {images: _runs(known, frame) for images, frame in by_images.items()}
    clipped = [
        key | {"layer": layer, "clipped": values["clipped"]}
        for key, run in trained
        for layer, values in run["history"][-1]["layers"].items()
    ]
    frames["saturation"] = pd.DataFrame(clipped, columns=[*CELL, "layer", "clipped"])
    return Collection(reference, qualifying, runs, by_images, **frames)


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


def _in_front(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """With those of these columns that it has before the others."""
    there = [column for column in columns if column in frame]
    return frame[[*there, *frame.columns.drop(there)]]


def _of_map(frame: pd.DataFrame, name: str, network: str = TRAINED) -> pd.DataFrame:
    """One row per network: the scores of one of its maps."""
    chosen = (frame["map"] == name) & (frame.network == network)
    return frame[chosen].drop(columns=["map", "network"]).reset_index(drop=True)


def _runs(known: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """OF_NETWORKS and all scores of the straight-through map but the gain with zeros, which only few images have."""
    scores = _of_map(frame, GRADIENT).drop(columns=ZERO_GAIN).rename(columns={"dead": "dead_rate"})
    first = [*CELL, "test_accuracy", *PRIMARY, *GAINS, FAITHFULNESS, "amplitude", "dead_rate", "sensitivity_max"]
    return _in_front(known.merge(scores, on=CELL, how="left"), first)


def _block(cells: Mapping[str, xr.Dataset], reference: str) -> dict[str, pd.DataFrame]:
    """The frames of one dataset and training, by name; those of the maps by their set of images."""
    sets = {images: strata(list(cells.values()), images) for images in IMAGE_SETS}
    primary, base, seed = sets["primary"], cells[reference], _typical(cells)

    def by_precision(frame_of: Callable[[xr.Dataset], pd.DataFrame]) -> pd.DataFrame:
        return pd.concat([frame_of(cell).assign(precision=precision) for precision, cell in cells.items()])

    likeness = _means(base[SEED_TO_SEED], primary, "likeness", LIKENESS)
    beside = _means(base[SEED_TO_SEED][..., : base.sizes["few"]], primary, "likeness", LIKENESS)
    cascade = by_precision(lambda cell: _means(cell.cascade, primary, "likeness", LIKENESS))
    return {name: by_precision(lambda cell, own=own: _scores(cell, own)) for name, own in sets.items()} | {
        "image_sets": pd.concat([_counts(name, own) for name, own in sets.items()]),
        "likeness": likeness,
        "cascade": pd.concat([cascade, beside.assign(redrawn=SEED_TO_SEED, precision=reference)]),
        "curves": by_precision(lambda cell: _by_level(cell.curves)),
        "accuracies": by_precision(_accuracies),
        "gradients": by_precision(lambda cell: cell.gradient.to_series().reset_index("seed").reset_index(drop=True)),
        "outline": by_precision(lambda cell: outline(cell.sel(seed=seed))).assign(seed=seed),
    }


def _scores(cell: xr.Dataset, groups: NDArray) -> pd.DataFrame:
    """One row per seed and map, those of the untrained network last; likeness to the reference's map of the first."""
    trained = _means(cell.scores, groups, "score").assign(network=TRAINED)
    floors = _means(cell.floors.rename(explainer="map"), groups, "score").assign(network=UNTRAINED)
    alike = _means(cell.preservation, groups, "likeness", LIKENESS).assign(map=GRADIENT)
    return pd.concat([trained.merge(alike, on=["seed", "map"], how="left"), floors])


def _means(values: xr.DataArray, groups: NDArray, column: str, prefix: str = "") -> pd.DataFrame:
    """One row per seed and place along the other axes, one column for each label of `column`: means over the images."""
    images = values.dims[-1]
    ordered = values.transpose("seed", ..., column, images)
    found = ordered.isel({images: 0}, drop=True).copy(data=mean(ordered.values, groups))
    return found.to_dataset(column).to_dataframe().add_prefix(prefix).reset_index()


def _counts(name: str, groups: NDArray) -> pd.DataFrame:
    """One row per seed: how many images a set has, of how many."""
    counts = (groups >= 0).sum(1)
    return pd.DataFrame({"seed": range(len(groups)), "images": name, "count": counts, "scored": groups.shape[1]})


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
    """Mean over the images of each stratum, then over the strata: (S, ...), NaN without any image.

    values: (S, ..., N'); NaN (a dead map, or no score) is left out. If there are fewer images than in `groups` (S, N),
    they are the first ones.
    """
    places = groups[:, : values.shape[-1]].reshape(len(groups), *[1] * (values.ndim - 2), -1)
    chosen = [np.isfinite(values) & (places == stratum) for stratum in range(groups.max(initial=0) + 1)]
    counts = np.stack([each.sum(-1) for each in chosen])
    sums = np.stack([np.where(each, values, 0).sum(-1) for each in chosen])
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
        return means.sum(0) / (counts > 0).sum(0)


# -------------------------------------------------------------------------------------- maps of the typical seed


def typical_seed(dataset: str, training: str, grid: Grid, root: Path = paths.ROOT) -> int:
    """The seed whose networks are shown: of all precisions together the nearest to the medians. It decides nothing.

    One for all precisions, so that pictures stay paired. Nearest: the sum over precisions, and over accuracy and what
    both gradient maps are scored by, of the distance to the median over the seeds in units of their
    interquartile range; all scored images count. Of equal ones, as two seeds always are, the first.

    Raises MissingError if a precision was not scored.
    """
    return _typical({p: scores(Cell(dataset, p, training), root) for p in grid.precisions})


def _typical(cells: Mapping[str, xr.Dataset]) -> int:
    columns = []
    for cell in cells.values():
        means = cell.scores.sel(map=[GRADIENT, PASS_THROUGH], score=[*PRIMARY, *GAINS]).mean("image")
        accuracy = (cell.predicted == cell.label).mean("image")
        columns += [means.transpose("seed", ...).values.reshape(cell.sizes["seed"], -1), accuracy.values[:, None]]
    values = pd.DataFrame(np.hstack(columns), index=cells[next(iter(cells))].seed.values)
    spread = values.quantile(0.75) - values.quantile(0.25)
    apart = ((values - values.median()).abs() / spread).loc[:, spread > 0]  # what all seeds share tells none apart
    return int(apart.sum(axis=1, skipna=False).fillna(np.inf).round(9).idxmin())  # NaN: dead maps


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
    """What `study.report.pictures.saliency_grid` draws: images (K, 28, 28), class names, maps of the typical seeds.

    Of each class the first kept image that every network classifies correctly, or the first one if there is none.
    """
    cells = {}
    for training in grid.trainings:
        own = {precision: scores(Cell(dataset, precision, training), root) for precision in grid.precisions}
        seed = _typical(own)
        for precision, cell in own.items():
            cells[training, precision] = cell.sel(seed=seed, image=cell.kept).drop_vars("image")
    first = next(iter(cells.values()))
    correct = np.all([cell.predicted == cell.label for cell in cells.values()], axis=0)
    best = np.lexsort((np.arange(len(correct)), ~correct, first.label.values))  # correct ones first in each class
    shown = best[np.unique(first.label.values[best], return_index=True)[1]]
    blocks: dict[str, dict[str, Maps]] = {training: {} for training in grid.trainings}
    for (training, precision), cell in cells.items():
        own = cell.isel(kept=shown)
        gini, morans_i = (own.scores.sel(map=GRADIENT, score=score).values for score in ("gini", "morans_i"))
        correct = (own.predicted == own.label).values
        blocks[training][precision] = Maps(own.kept_map.values, gini, morans_i, own.probability.values, correct)
    names = tuple(DATASETS[dataset].classes[label] for label in first.label.values[shown])
    return first.kept_image.values[shown].astype(np.uint8), names, blocks  # the file holds a wider type


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
    return _in_front(pd.concat(frames, ignore_index=True), COURSE)


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
