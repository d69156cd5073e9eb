"""The files that the stages wrote: results/runs/<cell>.json, scores/<cell>.nc, results/during/<cell>.csv and
results/fills/<dataset>.csv.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from saqlib import files, paths
from saqlib.grid import Cell


class MissingError(RuntimeError):
    """A file of an earlier stage is missing or does not fit the others; the message names it and the stage."""


def report(cell: Cell | str, root: Path = paths.ROOT) -> dict[str, Any]:
    """results/runs/<cell>.json as it is, accuracies and histories; MissingError if there is none."""
    path = _there(root / "results" / "runs" / f"{cell}.json", "train", cell)
    return json.loads(path.read_text(encoding="utf-8"))


def scores(cell: Cell | str, root: Path = paths.ROOT) -> xr.Dataset:
    """The arrays of scores/<cell>.nc, as saqlib.clarity.cell names them; MissingError if there is none."""
    return files.read_dataset(_there(root / "scores" / f"{cell}.nc", "clarity", cell))


def during(cell: Cell | str, root: Path = paths.ROOT) -> pd.DataFrame:
    """results/during/<cell>.csv, the scores of seed 0 at each recorded step; MissingError if there is none."""
    return pd.read_csv(_there(root / "results" / "during" / f"{cell}.csv", "clarity", cell))


def fills(dataset: str, root: Path = paths.ROOT) -> tuple[str, ...]:
    """The fills that qualify on a dataset, by its validation images; MissingError if that was not looked at."""
    path = root / "results" / "fills" / f"{dataset}.csv"
    if not path.exists():
        raise MissingError(f"{path} does not exist; run the stage that writes it (dvc repro fills@{dataset})")
    table = pd.read_csv(path)
    return tuple(table.fill[table.qualifies])


def ablation(variant: str, root: Path = paths.ROOT) -> pd.DataFrame:
    """results/ablations/<variant>.csv; without any row if the variant was not run, as at the smaller scales."""
    path = root / "results" / "ablations" / f"{variant}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["dataset", "precision", "training", "seed"])


def _there(path: Path, stage: str, cell: Cell | str) -> Path:
    if not path.exists():
        raise MissingError(f"{path} does not exist; run the stage that writes it (dvc repro {stage}@{cell})")
    return path
