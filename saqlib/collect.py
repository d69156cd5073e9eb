"""What the stages wrote, as tidy frames: one row a network, a mean over images in each column.

results/runs/<cell>.json holds accuracies and histories, scores/<cell>.npz the scores of every image, models/<cell>.pt
the maps recorded during training. Images are averaged within a seed, never treated as replicates, over one of three
sets:

primary   classified correctly by every precision of that seed and training, so that clarity is not accuracy again
all       every scored image
matched   primary images whose confidence lies in the same tercile at every precision; the terciles, cut from the
          confidences of all precisions together, count equally
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from saqlib import experiment, paths, words
from saqlib.clarity import PRIMARY
from saqlib.config import IMAGE_SETS, Cell, Config
from saqlib.map_figures import Maps

SECONDARY = ("entropy", "auroc", "sensitivity_max")
NEAR, SALIENT = (-8, 6), 0.1  # distances from the outline that are told apart; share of the most salient pixels
METHODS = tuple(method for method in words.METHODS if method != "gradient")
Scores = Mapping[str, NDArray]


class CollectError(RuntimeError):
    """A file of an earlier stage is missing or does not fit the others; the message names it and the stage."""


@dataclass(frozen=True)
class Collection:
    """All frames that claims, tables and figures are made of. Every one has dataset, training and seed."""

    runs: dict[str, pd.DataFrame]  # by set of images; + precision, test_accuracy, PRIMARY, dead_rate, preservation_*
    secondary: pd.DataFrame  # + precision and the secondary scores, on the primary images
    controls: pd.DataFrame  # + control and PRIMARY, on the primary images
    ceiling: pd.DataFrame  # + preservation_*, between two fp32 seeds, on the primary images
    methods: pd.DataFrame  # + precision, method and PRIMARY, on those primary images that every method scored
    curves: pd.DataFrame  # + precision, level, most, least, random
    accuracies: pd.DataFrame  # + precision, level, most, random: accuracy in percent with pixels removed
    gradients: pd.DataFrame  # + precision and gradient, some thousand values a cell
    outline: pd.DataFrame  # + precision, distance, relative, pixels, salient: where the kept maps of seed 0 lie


# ----------------------------------------------------------------------------------------------- reading


def report(cell: Cell | str, root: Path = paths.ROOT) -> dict[str, Any]:
    """results/runs/<cell>.json as it is; CollectError if there is none."""
    path = _there(root / "results" / "runs" / f"{cell}.json", "train", cell)
    return json.loads(path.read_text())


def scores(cell: Cell | str, root: Path = paths.ROOT) -> Scores:
    """The arrays of scores/<cell>.npz; CollectError if there is none."""
    with np.load(_there(root / "scores" / f"{cell}.npz", "clarity", cell)) as content:
        return dict(content)


def _there(path: Path, stage: str, cell: Cell | str) -> Path:
    if not path.exists():
        raise CollectError(f"{path} does not exist; run the stage that writes it (dvc repro {stage}@{cell})")
    return path


def history(cell: Cell | str, root: Path = paths.ROOT) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How a cell learned: a row a seed and epoch with loss and validation accuracy; and a row more a PACT layer.

    The second frame has alpha, clipped and zero; it is empty for a full-precision network.
    """
    seeds = report(cell, root)["seeds"].items()
    entries = [(int(seed), entry) for seed, run in seeds for entry in run["history"]]
    epochs = [
        {"seed": seed} | {key: value for key, value in entry.items() if key != "layers"} for seed, entry in entries
    ]
    layers = [
        {"seed": seed, "epoch": entry["epoch"], "layer": layer} | values
        for seed, entry in entries
        for layer, values in entry["layers"].items()
    ]
    return pd.DataFrame(epochs), pd.DataFrame(layers, columns=["seed", "epoch", "layer", "alpha", "clipped", "zero"])


def record(cell: Cell | str, root: Path = paths.ROOT) -> tuple[NDArray, NDArray, NDArray]:
    """The maps of seed 0 during training: steps (R,), images uint8 (K, 28, 28), maps (R, K, 28, 28)."""
    content = experiment.read_cell(_there(root / "models" / f"{cell}.pt", "train", cell))["record"]
    return content["steps"].numpy(), content["images"].numpy(), content["maps"].numpy()


# ----------------------------------------------------------------------------------------- sets of images


def strata(cells: Sequence[Scores], images: str) -> NDArray[np.int64]:
    """For each seed and image the stratum over which it is averaged, -1 for an image that is left out: (S, N).

    cells: the scores of every precision of one dataset and training. Raises ValueError for an unknown set.
    """
    if images not in IMAGE_SETS:
        raise ValueError(f"unknown set of images {images!r} (valid: {', '.join(IMAGE_SETS)})")
    if images == "all":
        return np.zeros(cells[0]["predicted"].shape, dtype=np.int64)
    correct = np.all([cell["predicted"] == cell["labels"] for cell in cells], axis=0)
    if images == "primary":
        return np.where(correct, 0, -1)
    terciles = _terciles(np.stack([cell["probability"] for cell in cells]), correct)
    same = correct & (terciles == terciles[0]).all(axis=0)
    return np.where(same, terciles[0], -1)


def _terciles(confidence: NDArray, counted: NDArray) -> NDArray[np.int64]:
    """The tercile of each confidence (precisions, S, N) among those of the same seed that count, 0 to 2."""
    terciles = np.zeros(confidence.shape, dtype=np.int64)
    for seed, chosen in enumerate(counted):
        if chosen.any():
            edges = np.quantile(confidence[:, seed, chosen], [1 / 3, 2 / 3])
            terciles[:, seed] = np.searchsorted(edges, confidence[:, seed], side="left")
    return terciles


def mean(values: NDArray, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over the images of each stratum, then over the strata: (S,), NaN without any image.

    values: (S, N) or (N,), the same for every seed; NaN (a dead map) is left out. If there are fewer images
    than in `groups` (S, N'), they are the first ones.
    """
    values = np.broadcast_to(values, (len(groups), np.shape(values)[-1]))
    groups = groups[:, : values.shape[1]]
    rows = []
    for row, group in zip(values, groups, strict=True):
        finite = np.isfinite(row)
        means = [row[finite & (group == g)].mean() for g in range(3) if (finite & (group == g)).any()]
        rows.append(np.mean(means) if means else np.nan)
    return np.array(rows)


# ---------------------------------------------------------------------------------------------- collecting


def collect(settings: Config, root: Path = paths.ROOT) -> Collection:
    """All frames of the grid. Raises CollectError if a file is missing or cells were scored on other images."""
    grid = settings.grid
    reports = {cell: report(cell, root) for cell in grid.cells}
    parts: dict[str, list[pd.DataFrame]] = {}
    for dataset in grid.datasets:
        for training in grid.trainings:
            cells = {p: scores(Cell(dataset, p, training), root) for p in grid.precisions}
            _check_images(cells, dataset, training)
            keys = {"dataset": dataset, "training": training}
            block = _block(cells, settings.claims.reference)
            for name, frame in block.items():
                parts.setdefault(name, []).append(frame.assign(**keys))
    frames = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}
    accuracy = _accuracies(reports)
    runs = {images: _runs(frames.pop(images), accuracy) for images in IMAGE_SETS}
    return Collection(runs=runs, **{name: _keys_first(frame) for name, frame in frames.items()})


def _check_images(cells: Mapping[str, Scores], dataset: str, training: str) -> None:
    first, *rest = cells.values()
    for precision, other in zip(list(cells)[1:], rest, strict=True):
        if not (np.array_equal(first["indices"], other["indices"]) and len(first["seeds"]) == len(other["seeds"])):
            raise CollectError(
                f"{dataset}-{precision}-{training} was scored on other images or seeds than the other precisions; "
                f"run the stage again (dvc repro clarity@{dataset}-{precision}-{training})"
            )


def _accuracies(reports: Mapping[Cell, dict]) -> pd.DataFrame:
    """Test accuracy in percent, a row a network, in the order of the grid."""
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


def _block(cells: Mapping[str, Scores], reference: str) -> dict[str, pd.DataFrame]:
    """The frames of one dataset and training, by name; those of `runs` by their set of images."""
    groups = {images: strata(list(cells.values()), images) for images in IMAGE_SETS}
    primary = groups["primary"]
    every = {name: [_network(cell, p, g) for p, cell in cells.items()] for name, g in groups.items()}
    frames = {name: pd.concat(networks) for name, networks in every.items()}
    frames["secondary"] = pd.concat(
        [_means(cell, {s: s for s in SECONDARY}, primary).assign(precision=p) for p, cell in cells.items()]
    )
    frames["controls"] = _controls(cells[reference], primary)
    frames["ceiling"] = _means(cells[reference], _prefixed(cells[reference], "ceiling_", "preservation_"), primary)
    frames["methods"] = pd.concat([_methods(cell, primary).assign(precision=p) for p, cell in cells.items()])
    frames["curves"] = pd.concat([_curves(cell).assign(precision=p) for p, cell in cells.items()])
    frames["accuracies"] = pd.concat([_accuracy_curves(cell).assign(precision=p) for p, cell in cells.items()])
    frames["gradients"] = pd.concat([_gradients(cell).assign(precision=p) for p, cell in cells.items()])
    frames["outline"] = pd.concat([_outline(cell).assign(seed=0, precision=p) for p, cell in cells.items()])
    return frames


def _means(cell: Scores, columns: Mapping[str, str], groups: NDArray) -> pd.DataFrame:
    """A row a seed; each column is the mean of the array of that name, where the cell has it."""
    there = {column: mean(cell[array], groups) for column, array in columns.items() if array in cell}
    return pd.DataFrame({"seed": cell["seeds"]} | there)


def _prefixed(cell: Scores, prefix: str, column: str | None = None) -> dict[str, str]:
    """Columns for all arrays whose name starts with the prefix, under another prefix if given."""
    names = [name for name in cell if name.startswith(prefix)]
    return {(prefix if column is None else column) + name.removeprefix(prefix): name for name in names}


def _network(cell: Scores, precision: str, groups: NDArray) -> pd.DataFrame:
    columns = {score: score for score in PRIMARY} | {"dead_rate": "dead"}
    return _means(cell, columns | _prefixed(cell, "preservation_"), groups).assign(precision=precision)


def _controls(cell: Scores, groups: NDArray) -> pd.DataFrame:
    """What controls score on the reference's images; the re-initialised network is one a seed."""
    names = {"reinit": "reinit"} | {c: f"control_{c}" for c in words.CONTROLS if c != "reinit"}
    return pd.concat([
        _means(cell, {score: f"{prefix}_{score}" for score in PRIMARY}, groups).assign(control=control)
        for control, prefix in names.items()
        if f"{prefix}_{PRIMARY[0]}" in cell
    ])  # fmt: skip


def _methods(cell: Scores, groups: NDArray) -> pd.DataFrame:
    """Scores of other methods' maps, and of the gradient on the same images."""
    there = [method for method in METHODS if f"{method}_{PRIMARY[0]}" in cell]
    fewest = min((cell[f"{method}_{PRIMARY[0]}"].shape[1] for method in there), default=0)
    groups = groups[:, :fewest]
    frames = []
    for method in ["gradient", *there]:
        names = {score: score if method == "gradient" else f"{method}_{score}" for score in PRIMARY}
        some = {array: cell[array][:, :fewest] for array in names.values() if array in cell}
        frames.append(_means(some | {"seeds": cell["seeds"]}, names, groups).assign(method=method))
    return pd.concat(frames)


def _curves(cell: Scores) -> pd.DataFrame:
    return _by_level(cell, "curve_levels", {"most": "deletion", "least": "insertion", "random": "random"})


def _accuracy_curves(cell: Scores) -> pd.DataFrame:
    shares = _by_level(cell, "accuracy_levels", {"most": "deletion_accuracy", "random": "random_accuracy"})
    return shares.assign(most=100 * shares.most, random=100 * shares.random)


def _by_level(cell: Scores, levels: str, arrays: Mapping[str, str]) -> pd.DataFrame:
    """A row a seed and level; each column is the array of that name, (S, levels)."""
    seeds, shares = np.meshgrid(cell["seeds"], cell[levels], indexing="ij")
    columns = {column: cell[array].ravel() for column, array in arrays.items()}
    return pd.DataFrame({"seed": seeds.ravel(), "level": shares.ravel()} | columns)


def _gradients(cell: Scores) -> pd.DataFrame:
    sample = cell["gradient_sample"]
    return pd.DataFrame({"seed": np.repeat(cell["seeds"], sample.shape[1]), "gradient": sample.ravel()})


def _outline(cell: Scores) -> pd.DataFrame:
    """Where the kept maps lie: a row a distance from the object's outline, in pixels, negative outside of the object.

    relative: mean magnitude there, in units of each map's own mean. pixels: share of all pixels that lie there.
    salient: share of the most salient tenth of each map's pixels that lie there. The outermost rows hold what is
    further away, too. Maps that are dead, and images without an outline, are left out.
    """
    magnitude, objects = np.abs(cell["maps"]), cell["images"] > 0
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
    dataset: str, settings: Config, root: Path = paths.ROOT
) -> tuple[NDArray, tuple[str, ...], dict[str, dict[str, Maps]]]:
    """What `map_figures.saliency_grid` draws of a dataset: images (K, 28, 28), class names, maps of seed 0.

    Of each class the first kept image that every network classifies correctly, or the first one if there is none.
    """
    grid = settings.grid
    cells = {t: {p: scores(Cell(dataset, p, t), root) for p in grid.precisions} for t in grid.trainings}
    first = cells[grid.trainings[0]][grid.precisions[0]]
    at = _positions(first)
    every = [cell for group in cells.values() for cell in group.values()]
    correct = np.all([cell["predicted"][0, at] == cell["labels"][at] for cell in every], axis=0)
    shown = _one_a_class(first["labels"][at], correct)
    blocks = {t: {p: _maps(cell, at, shown) for p, cell in group.items()} for t, group in cells.items()}
    names = tuple(words.CLASSES[dataset][label] for label in first["labels"][at][shown])
    return first["images"][shown], names, blocks


def _positions(cell: Scores) -> NDArray[np.int64]:
    """Where the images whose maps were kept stand among the scored ones."""
    place = {index: i for i, index in enumerate(cell["indices"].tolist())}
    return np.array([place[index] for index in cell["map_indices"].tolist()])


def _one_a_class(labels: NDArray, correct: NDArray) -> NDArray[np.int64]:
    """The first correct place of each class, in the order of the classes; the first place where none is correct."""
    best = np.lexsort((np.arange(len(labels)), ~correct, labels))
    return best[np.unique(labels[best], return_index=True)[1]]


def _maps(cell: Scores, at: NDArray[np.int64], shown: NDArray[np.int64]) -> Maps:
    return Maps(
        maps=cell["maps"][shown],
        gini=cell["gini"][0, at][shown],
        morans_i=cell["morans_i"][0, at][shown],
        probability=cell["probability"][0, at][shown],
        correct=(cell["predicted"][0, at] == cell["labels"][at])[shown],
    )
