"""One cell of the grid: every seed trained in a worker process of its own, one thread each; on a GPU all at once.

A seed's numbers do not depend on how many workers there are. A finished seed is kept in the store, so a killed run goes
on where it stopped, and one that was trained before is never trained again.
"""

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saqlib import files, paths, stored
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.training import records
from saqlib.training.seed import Place, Run, history, kept, place, read, train_seeds, watch
from saqlib.training.settings import Recipe
from saqlib.workers import Engine

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Progress:
    """Where a cell stands: the history of each seed that has started, and how many epochs each will have."""

    histories: dict[int, records.History]
    seeds: int
    epochs: int


# ------------------------------------------------------------------------------------------------- training


def train_cell(
    cell: Cell,
    recipe: Recipe,
    seeds: int,
    engine: Engine,
    *,
    n_jobs: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Run]:
    """Train every seed of a cell that the store does not hold yet.

    Args:
        cell: its name, for the store and for errors.
        recipe: all that decides the networks but their seeds.
        seeds: how many, from 0 on.
        engine: where; a device decides rounding, so its kind counts in the store.
        n_jobs: worker processes, one a core when None; the result is the same for any number.
        on_progress: called about twice a second while seeds train.

    Raises:
        DivergedError: a loss is not finite; the message names cell, seed and epoch.
    """
    device = engine.pick_device()
    where = place(recipe, device.type)
    runs = {seed: kept(where, seed) for seed in range(seeds)}
    todo = [seed for seed, run in runs.items() if run is None]
    together = [todo] if device.type == "cuda" and todo else [[seed] for seed in todo]
    with _watching(where, seeds, recipe.epochs, on_progress):
        engine.map(train_seeds, [(cell, recipe, some, where, device) for some in together], n_jobs)
    return [run or read(where, seed) for seed, run in runs.items()]


class _watching:
    """Calls on_progress from a thread while the workers train; the histories come through files, from any machine."""

    def __init__(self, where: Place, seeds: int, epochs: int, on_progress: Callable[[Progress], None] | None):
        self.where, self.seeds, self.epochs, self.on_progress = where, seeds, epochs, on_progress
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> None:
        if self.on_progress:
            self.thread.start()

    def __exit__(self, *_: Any) -> None:
        if self.on_progress:
            self.done.set()
            self.thread.join()
            self._report()

    def _poll(self) -> None:
        while not self.done.wait(POLL_SECONDS):
            self._report()

    def _report(self) -> None:
        found = {seed: history(self.where, seed) for seed in range(self.seeds)}
        histories = {seed: history for seed, history in found.items() if history}
        self.on_progress(Progress(histories, self.seeds, self.epochs))


# ---------------------------------------------------------------------------------------------- saved cells


def save_cell(cell: Cell, runs: Iterable[Run], recipe: Recipe, root: Path = paths.ROOT) -> None:
    """Write what a trained cell leaves behind, under `root`.

    models/<cell>.pt: every seed, with the maps recorded during training. results/models/<cell>.pt: seed 0 alone.
    results/runs/<cell>.json: accuracies and histories.
    """
    runs = list(runs)
    first = runs[0].history
    validation = data.load(recipe.dataset, "validation", sample=recipe.sample)
    watched = watch(records.Images(*validation, *validation), recipe.records).images
    record = {
        "steps": torch.tensor(first.steps),
        "images": watched,
        "maps": torch.stack(first.maps),
        "states": first.states,
        "switch": first.switch,
    }
    states = {run.seed: run.state for run in runs}
    stored.write_cell(cell, recipe.precision, recipe.shape, states, record, root)
    by = runs[0].computed_by
    seeds = {str(run.seed): _report(run) for run in runs}
    report = {"cell": str(cell), "computed_by": by, "switch": first.switch, "seeds": seeds}
    files.write(root / "results" / "runs" / f"{cell}.json", json.dumps(report, indent=1) + "\n")


def _report(run: Run) -> dict[str, Any]:
    epochs = [_rounded(epoch) for epoch in run.history.epochs]
    return {
        "test_accuracy": round(run.test_accuracy, 4),
        "validation_accuracy": round(run.validation_accuracy, 4),
        "sample_accuracy": round(run.sample_accuracy, 4),
        "history": epochs,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value
