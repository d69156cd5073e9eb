"""What a notebook that is run by hand does before its own part: in the pipeline earlier stages have done it."""

from collections.abc import Iterable
from pathlib import Path

from saqlib.clarity import cell as clarity
from saqlib.grid import Cell
from saqlib.pipeline.study import Study
from saqlib.training import cell as training


def train(cells: Iterable[Cell], study: Study, root: Path) -> None:
    """Train and save these cells, each once; seeds that the store holds are taken from there."""
    for cell in dict.fromkeys(cells):
        recipe = study.recipe(cell)
        runs = training.train_cell(cell, recipe, study.size.seeds, study.engine)
        training.save_cell(cell, runs, recipe, root)


def score(cells: Iterable[Cell], study: Study, root: Path) -> None:
    """Score and save these cells, which are trained, and so are their reference cells."""
    for cell in dict.fromkeys(cells):
        clarity.save_cell(cell, clarity.score_cell(cell, study.scoring, study.size.seeds, study.engine, root), root)
