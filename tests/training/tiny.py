"""Cells that train in a second, for the tests of training."""

from dataclasses import replace
from typing import Any

import torch

from saqlib.grid import Cell
from saqlib.pipeline import study
from saqlib.training import cell as cells
from saqlib.training.seed import Run
from saqlib.training.settings import Recipe
from saqlib.workers import Engine

SMOKE = study.load(scale="smoke")
CELL = Cell("mnist", "w2a2", "guided")
PLAIN = Cell("mnist", "fp32", "standard")
CPU = Engine(device="cpu")


def tiny(cell: Cell = CELL, *, epochs: int = 1, **optimizer: float) -> Recipe:
    """The recipe of a cell on the sample's images: one short epoch, half of it in full precision."""
    recipe = SMOKE.recipe(cell)
    optimizer = replace(recipe.optimizer, **optimizer)
    return replace(recipe, epochs=epochs, warmup_epochs=0.5, records=2, optimizer=optimizer)


def train(cell: Cell = CELL, recipe: Recipe | None = None, seeds: int = 2, **options: Any) -> list[Run]:
    """A cell trained in this process."""
    return cells.train_cell(cell, recipe or tiny(cell), seeds, CPU, **{"n_jobs": 1} | options)


def assert_same_runs(some: list[Run], others: list[Run]) -> None:
    """Bit for bit: weights, histories, maps, accuracies."""
    assert [run.seed for run in some] == [run.seed for run in others]
    for one, other in zip(some, others, strict=True):
        assert one.state.keys() == other.state.keys()
        assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
        assert one.history.epochs == other.history.epochs and one.history.steps == other.history.steps
        assert all(torch.equal(a, b) for a, b in zip(one.history.maps, other.history.maps, strict=True))
        assert one.test_accuracy == other.test_accuracy
        assert one.validation_accuracy == other.validation_accuracy
