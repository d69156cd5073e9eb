"""What a notebook that is run by hand does before its own part: in the pipeline earlier stages have done it."""

from collections.abc import Iterable
from pathlib import Path

from saqlib.clarity import cell as clarity
from saqlib.clarity import during
from saqlib.grid import Cell
from saqlib.pipeline import fills
from saqlib.pipeline.study import Study
from saqlib.training import cell as training


def train(cells: Iterable[Cell], study: Study, root: Path) -> None:
    """Train and save these cells, each once; seeds that the store holds are taken from there."""
    for cell in dict.fromkeys(cells):
        recipe = study.recipe(cell)
        runs = training.train_cell(cell, recipe, study.size.seeds, study.engine)
        training.save_cell(cell, runs, recipe, root)


def decide_fills(datasets: Iterable[str], study: Study, root: Path) -> None:
    """Find and save which fills qualify; of each dataset the reference cell of standard training is trained."""
    for dataset in dict.fromkeys(datasets):
        fills.decide(dataset, study, root)


def score(cells: Iterable[Cell], study: Study, root: Path) -> None:
    """Decide on the fills, then score and save these cells; they and their reference cells are trained."""
    cells = list(dict.fromkeys(cells))
    decide_fills([cell.dataset for cell in cells], study, root)
    for cell in cells:
        clarity.save_cell(cell, clarity.score_cell(cell, study.scoring, study.size.seeds, study.engine, root), root)
        during.save_during(cell, during.score_during(cell, study.scoring, study.engine, root), root)
