"""Accuracy and the scores of maps while a network trains: of seed 0, at each step that was recorded.

No test image is shown: what is looked at during training is a validation image. Few images, and half of the steps of
removal, are enough to draw a curve, since every step and every cell sees the same ones; the standard error over the
images stands beside each mean. (A cell of the full study takes two or three seconds on one core.)
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from saqlib import files, paths, store, stored
from saqlib.clarity.brief import image_scores
from saqlib.clarity.images import scored_images
from saqlib.clarity.removal import probabilities
from saqlib.clarity.settings import Scoring
from saqlib.clarity.subject import Subject
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.network import fused
from saqlib.workers import Engine

SPLIT = "validation"
CLASSIFIED = 1000  # images whose class is asked for
EXPLAINED = 100  # the first of those, whose maps are scored
STEPS = 7  # of removal, of which a whole scoring has twice as many


def score_during(cell: Cell, scoring: Scoring, engine: Engine, root: Path = paths.ROOT) -> pd.DataFrame:
    """The scores of a trained cell's seed 0 at each recorded step, from the store if they were computed before.

    Args:
        cell: its model file with records lies in models/ under `root`.
        scoring: whether the images are the sample's; how many images and steps are constants of this module.
        engine: where.

    Returns:
        One row per step: step; switch, the step from which the network quantizes, NaN in full precision; accuracy in
        percent; and the primary scores, `relevance_gain_<fill>` of each fill and `amplitude`: means over the images
        that have a score, each with its standard error over them, `<score>_se`. NaN where none has.

    Raises:
        ModelFileError: the cell was not trained here.
    """
    content = stored.read_cell(root / "models" / f"{cell}.pt")
    by = fused.kind(stored.restore(content, 0).shape, "cpu")
    key = store.key(__name__, data.fingerprint(cell.dataset, sample=scoring.sample), by, _digest(content))
    path = store.folder("during", key) / "0.csv"
    if store.kept(path, pd.read_csv) is None:
        brief = replace(scoring, images=CLASSIFIED)
        engine.map(_score, [(path, cell, brief, content["record"]["switch"], root)], n_jobs=1)
    return pd.read_csv(path)


def save_during(cell: Cell, table: pd.DataFrame, root: Path = paths.ROOT) -> None:
    """Write results/during/<cell>.csv."""
    files.write(root / "results" / "during" / f"{cell}.csv", files.csv(table))


def _digest(content: dict[str, Any]) -> str:
    """A hash of all that the recorded networks are made of."""
    kept = content["record"]
    common = [content["precision"], content["network"], kept["steps"].tolist(), kept["switch"]]
    found = hashlib.sha256(json.dumps(common, sort_keys=True).encode())
    for state in kept["states"]:
        for values in state.values():
            found.update(values.numpy().tobytes())
    return found.hexdigest()


def _score(path: Path, cell: Cell, scoring: Scoring, switch: int | None, root: Path) -> None:
    scored, rows = scored_images(cell.dataset, scoring, SPLIT), []
    for step, network in stored.recorded_networks(cell, root):
        predicted = probabilities(network, scored.images).argmax(1)
        subject = Subject(network, scored.images, predicted, scored.fills, STEPS).first(EXPLAINED)
        row = {"step": step, "switch": switch, "accuracy": 100 * (predicted == scored.labels).double().mean().item()}
        for name, values in image_scores(subject).items():
            row[name], row[f"{name}_se"] = _mean_and_error(values)
        rows.append(row)
    files.write(path, files.csv(pd.DataFrame(rows)))


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of the images that have a value, and its standard error; NaN where none, or a single one, has."""
    there = values[~values.isnan()]
    error = (there.std() / np.sqrt(len(there))).item() if len(there) > 1 else np.nan
    return (there.mean() if len(there) else torch.tensor(torch.nan)).item(), error
