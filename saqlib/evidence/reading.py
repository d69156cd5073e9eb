"""The files that the stages wrote: results/runs/<cell>.json, scores/<cell>.nc, results/during/<cell>.csv,
results/fills/<dataset>.csv and results/ablations/<variant>.csv.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import xarray as xr

from saqlib import files, paths
from saqlib.errors import last_line
from saqlib.grid import Cell

CELL = ["dataset", "precision", "training", "seed"]
Content = TypeVar("Content")


class MissingError(RuntimeError):
    """A file of an earlier stage is missing, damaged or does not fit the others; the message names it and its stage."""


def report(cell: Cell | str, root: Path = paths.ROOT) -> dict[str, Any]:
    """results/runs/<cell>.json as it is, accuracies and histories; MissingError if there is none."""
    return _read(root / "results" / "runs" / f"{cell}.json", f"train@{cell}", _report)


def scores(cell: Cell | str, root: Path = paths.ROOT) -> xr.Dataset:
    """The arrays of scores/<cell>.nc, as saqlib.clarity.cell names them; MissingError if there is none."""
    return _read(root / "scores" / f"{cell}.nc", f"clarity@{cell}", files.read_dataset)


def during(cell: Cell | str, root: Path = paths.ROOT) -> pd.DataFrame:
    """results/during/<cell>.csv, the scores of seed 0 at each recorded step; MissingError if there is none."""
    return _read(root / "results" / "during" / f"{cell}.csv", f"clarity@{cell}", _table("step"))


def fills(dataset: str, root: Path = paths.ROOT) -> tuple[str, ...]:
    """The fills that qualify on a dataset, by its validation images; MissingError if that was not looked at."""
    path = root / "results" / "fills" / f"{dataset}.csv"
    table = _read(path, f"fills@{dataset}", _table("fill", "qualifies"))
    return tuple(table.fill[table.qualifies])


def ablation(variant: str, root: Path = paths.ROOT) -> pd.DataFrame:
    """results/ablations/<variant>.csv; without any row if the variant was not run, as at the smaller scales."""
    path = root / "results" / "ablations" / f"{variant}.csv"
    return _read(path, f"ablate@{variant}", _table(*CELL)) if path.exists() else pd.DataFrame(columns=CELL)


def _read(path: Path, stage: str, read: Callable[[Path], Content]) -> Content:
    """What a stage wrote; MissingError if it is not there, or is not that."""
    if not path.exists():
        raise MissingError(f"{path} does not exist; run the stage that writes it (dvc repro {stage})")
    try:
        return read(path)
    except (ValueError, KeyError) as error:  # what the readers of JSON, CSV and text raise, and the checks below
        found = f"{path} is not what its stage wrote ({last_line(error)})"
        raise MissingError(f"{found}; remove it and run the stage again (dvc repro {stage})") from None


def _report(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not content.get("seeds"):
        raise ValueError("it tells of no seed")
    return content


def _table(*columns: str) -> Callable[[Path], pd.DataFrame]:
    def read(path: Path) -> pd.DataFrame:
        table = pd.read_csv(path)
        if lacking := [column for column in columns if column not in table]:
            raise ValueError(f"it has no column {lacking[0]}")
        return table

    return read
