"""Which fills qualify on a dataset: python -m saqlib.pipeline.fills DATASET [--scale SCALE]

Writes results/fills/<dataset>.csv, in which no test image has a part. Scoring waits for it.
"""

import argparse
from pathlib import Path

from saqlib import paths
from saqlib.errors import told
from saqlib.params import ParamsError, one_of
from saqlib.pipeline import instructions, study


def decide(dataset: str, settings: study.Study, root: Path) -> str:
    """Score every fill on a dataset and write which of them qualify; the decision as a sentence."""
    from saqlib.clarity.qualifying import save_fills, score_fills  # PyTorch, once its instructions are pinned

    one_of(dataset, settings.grid.datasets, "dataset")
    table = score_fills(dataset, settings.scoring, settings.size.seeds, settings.engine, root)
    decision = save_fills(dataset, table, root)
    return f"Fills that qualify on {dataset}: {', '.join(decision.fill[decision.qualifies]) or 'none'}."


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.pipeline.fills", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="a dataset of the grid")
    parser.add_argument("--scale", help="smoke, quick or full; that of params.yaml if left out")
    options = parser.parse_args(arguments)
    instructions.pin()
    from saqlib.data.images import DataError
    from saqlib.stored import ModelFileError

    with told(ParamsError, DataError, ModelFileError):
        print(decide(options.dataset, study.load(scale=options.scale), paths.ROOT))


if __name__ == "__main__":
    main()
