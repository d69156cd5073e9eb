"""One small file of means for each cell: python -m saqlib.pipeline.summary

Writes results/metrics/<cell>.json from results/runs.csv, for `dvc metrics show results/metrics` and `dvc metrics diff`.
"""

import json
from pathlib import Path

import pandas as pd

from saqlib import files, paths
from saqlib.errors import told
from saqlib.grid import Cell
from saqlib.names import FAITHFULNESS

# What the columns of the runs are called here.
NAMES = {
    "test_accuracy": "accuracy", "gini": "focus", "morans_i": "coherence", FAITHFULNESS: FAITHFULNESS,
    "amplitude": "amplitude",
}  # fmt: skip


def write(root: Path = paths.ROOT) -> list[Path]:
    """Write the files of all cells in results/runs.csv below `root`, and no others; their paths."""
    runs, folder = pd.read_csv(root / "results" / "runs.csv"), root / "results" / "metrics"
    means = runs.groupby(["dataset", "precision", "training"], sort=False)[list(NAMES)].mean().rename(columns=NAMES)
    written = [
        files.write(folder / f"{Cell(*names)}.json", json.dumps(row.round(4).to_dict(), indent=1) + "\n")
        for names, row in means.iterrows()
    ]
    for old in set(folder.glob("*.json")) - set(written):  # last, so that a full disk takes nothing
        old.unlink()
    return written


class SummaryError(RuntimeError):
    """There is nothing to summarise yet; the message says what makes it."""


def main() -> None:
    """The command line above; one readable message and exit code 1 where something is missing."""
    with told(SummaryError):
        try:
            write()
        except FileNotFoundError:
            raise SummaryError("results/runs.csv is missing: run `make reproduce`, or `dvc repro compare`") from None


if __name__ == "__main__":
    main()
