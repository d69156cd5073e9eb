"""What a change does, in seconds: cells trained and scored at scale smoke, a column each.

    python -m study.look mnist-fp32-standard mnist-w2a2-standard

On the small sample, two seeds of each, in build/smoke/; results/ stay as they are. Rows: accuracy, every score of the
straight-through map, and how faithful each map of the network is, by the relevance gain with the mean as fill.
"""

import argparse
import sys

import pandas as pd

from saqlib.errors import exit_with_message
from saqlib.scores import GRADIENT, RELEVANCE_GAIN
from study import paths, processes, results, settings
from study.params import ParamsError
from study.settings import Cell, Study


def column(cell: Cell, study: Study) -> pd.Series:
    """The numbers of one cell, means over seeds and images, by their names."""
    print(f"{cell}: training and scoring {study.size.seeds} seeds", file=sys.stderr, flush=True)
    root = paths.BUILD / "smoke"
    accuracies = [run.test_accuracy for run in results.train_cell(cell, study, root)]
    scores = results.score_cell(cell, study, root).scores.mean(("seed", "image"))
    own, gains = scores.sel(map=GRADIENT).to_series(), scores.sel(score=f"{RELEVANCE_GAIN}_mean").to_series()
    return pd.concat([pd.Series({"accuracy (%)": sum(accuracies) / len(accuracies)}), own, gains.add_prefix("map: ")])


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 for a cell that there is not."""
    parser = argparse.ArgumentParser(prog="python -m study.look", description="Train and score cells at scale smoke.")
    parser.add_argument("cells", nargs="+", metavar="CELL", help="such as mnist-w2a2-guided")
    names = parser.parse_args(arguments).cells
    with exit_with_message(ParamsError, stopped="Stopped."):
        processes.pin_cpu_level()  # as a stage does
        study = settings.load(scale="smoke")
        cells = [study.cell(**vars(Cell.parse(name))) for name in names]
        found = {str(cell): column(cell, study) for cell in cells}
        rows = max(found.values(), key=len).index  # full precision has fewer maps
        print(pd.DataFrame(found).reindex(rows).round(3).to_string(na_rep=""))


if __name__ == "__main__":
    processes.in_utf8()
    main()
