"""What a cell's training has come to, read from the store while other processes, or machines, train it.

Two kinds of files are read there, and this module alone knows them: what has happened so far to a seed, without
weights, and the last whole epoch of a seed, from which a stopped run goes on, with them. Scores that need a network are
known up to that epoch, all others up to the last record.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saqlib import store
from saqlib.clarity.removal import symmetric_relevance_gain
from saqlib.clarity.scores import amplitude, gini, morans_i
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.names import FILLS
from saqlib.network.lenet import LeNet
from saqlib.pipeline.study import Study
from saqlib.report.live import Look
from saqlib.training import seed as training
from saqlib.training.looking import saliency_now
from saqlib.training.settings import Recipe
from saqlib.words import CLASSES

FOCUS, COHERENCE, FAITHFULNESS, AMPLITUDE = "Focus (G)", "Coherence (I)", "Faithfulness (S)", "Amplitude"
NO_SCORE = math.nan


@dataclass
class Clock:
    """When the files said which step: how long a step takes, as far as somebody has watched."""

    seen: dict[int, float] = field(default_factory=dict)

    def note(self, step: int, when: float) -> None:
        self.seen.setdefault(step, when)

    @property
    def seconds_per_step(self) -> float | None:
        """Over all that was watched; None before two steps were."""
        steps = [min(self.seen), max(self.seen)] if self.seen else [0, 0]
        if steps[0] == steps[1]:
            return None
        return (self.seen[steps[1]] - self.seen[steps[0]]) / (steps[1] - steps[0])


class Watched:
    """A cell of a study, looked at from outside; each look reads what has changed since the one before."""

    def __init__(self, cell: Cell, study: Study):
        self.cell, self.clarity, self.seeds = cell, study.clarity, study.size.seeds
        self.recipe = study.recipe(cell)
        self.folder = store.folder("trained", training.key(self.recipe, study.engine.pick_device().type))
        images, labels = data.load(cell.dataset, "validation", sample=self.recipe.sample)
        first = [int((labels == label).nonzero()[0, 0]) for label in range(len(CLASSES[cell.dataset]))]
        self.raw, self.labels = images[first], labels[first]
        trained = len(data.load(cell.dataset, "train", sample=self.recipe.sample)[0])
        self.steps_per_epoch = math.ceil(trained / self.recipe.optimizer.batch_size)
        self.files: dict[Path, tuple[float, dict[str, Any]]] = {}
        self.scored: dict[tuple[str, int], float] = {}
        self.clock, self.explaining = Clock(), None

    @property
    def finished(self) -> bool:
        """Whether every seed is trained."""
        return all(self._file(seed, "pt").exists() for seed in range(self.seeds))

    @property
    def state(self) -> tuple:
        """Something that differs as soon as there is more to see."""
        files = [self._file(seed, end) for seed in range(self.seeds) for end in ("progress", "begun", "pt")]
        return tuple(_changed(path) for path in files)

    def look(self) -> Look | None:
        """What there is to see; None before the first record."""
        found = {seed: self._history(seed) for seed in range(self.seeds)}
        histories = {seed: history for seed, history in found.items() if history}
        first = histories.get(0)
        if first is None or not first["steps"]:
            return None
        steps = first["steps"]
        self._note_time(steps[-1])
        maps = torch.stack(first["maps"])
        with one_thread():
            scores = self._scores(first, maps)
        return Look(
            cell=str(self.cell),
            images=self.raw.numpy(),
            names=CLASSES[self.cell.dataset],
            steps=steps,
            maps=maps.numpy(),
            scores=scores,
            curves={seed: _curves(history) for seed, history in histories.items()},
            switch=first["switch"],
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.recipe.epochs,
        )

    def cost(self) -> str:
        """What explaining costs while this cell trains, in a sentence; as far as somebody has watched it."""
        pace = self.clock.seconds_per_step
        if pace is None or self.explaining is None:
            return "What explaining costs is said once two records have been seen to come."
        steps, records = self.recipe.epochs * self.steps_per_epoch, self.recipe.records + 1
        share = records * self.explaining / (pace * steps)
        return (
            f"Explaining the {len(self.raw)} images takes {1000 * self.explaining:.0f} ms, a step of training"
            f" {1000 * pace:.1f} ms: {records} records cost {100 * share:.2g} % of the time."
        )

    # ------------------------------------------------------------------------------------------------- the files

    def _file(self, seed: int, end: str) -> Path:
        return self.folder / f"{seed}.{end}"

    def _read(self, path: Path) -> dict[str, Any] | None:
        """A file of the store, read again only when it has changed; None if there is none, or none to be read."""
        changed = _changed(path)
        if path not in self.files or self.files[path][0] != changed:
            try:
                self.files[path] = (changed, torch.load(path, weights_only=True))
            except Exception:  # it is gone by now, or damaged: what it shows decides nothing
                return None
        return self.files[path][1]

    def _history(self, seed: int) -> dict[str, Any] | None:
        """What has happened to a seed: a finished one has left its progress file behind."""
        run = self._read(self._file(seed, "pt"))
        return run["history"] if run else self._read(self._file(seed, "progress"))

    def _states(self, history: dict[str, Any]) -> list[dict[str, Tensor]]:
        """The weights of seed 0 at the first of its records, as far as a file holds them."""
        begun = self._read(self._file(0, "begun"))
        return history["states"] or (begun["history"]["states"] if begun else [])

    def _note_time(self, step: int) -> None:
        """When the last record was written; a seed that was finished before anybody looked says nothing."""
        when = _changed(self._file(0, "progress"))
        if when is not None:
            self.clock.note(step, when)

    # ------------------------------------------------------------------------------------------------ the scores

    def _scores(self, history: dict[str, Any], maps: Tensor) -> dict[str, np.ndarray]:
        """Each score at each record of seed 0, NaN where no file holds the weights that it needs."""
        steps, states = history["steps"], self._states(history)
        scores = {
            FOCUS: self._each(FOCUS, steps, lambda i: gini(maps[i]).nanmean()),
            COHERENCE: self._each(COHERENCE, steps, lambda i: morans_i(maps[i]).nanmean()),
            FAITHFULNESS: self._each(
                FAITHFULNESS, steps[: len(states)], lambda i: self._gain(history, states, maps, i)
            ),
            AMPLITUDE: self._each(AMPLITUDE, steps, lambda i: amplitude(maps[i]).nanmean()),
        }
        missing = np.full(len(steps) - len(states), NO_SCORE)
        scores[FAITHFULNESS] = np.concatenate([scores[FAITHFULNESS], missing])
        return scores

    def _each(self, name: str, steps: list[int], score) -> np.ndarray:
        """A score at each of these records, computed once."""
        for i, step in enumerate(steps):
            if (name, step) not in self.scored:
                self.scored[name, step] = float(score(i))
        return np.array([self.scored[name, step] for step in steps])

    def _gain(self, history: dict[str, Any], states: list[dict[str, Tensor]], maps: Tensor, i: int) -> float:
        """The relevance gain of the maps of one record, mean over the fills but zero, and over the images."""
        quantized = history["switch"] is not None and history["steps"][i] >= history["switch"]
        network, images = _network(self.recipe, states[i], quantized), data.as_input(self.raw)
        began = time.perf_counter()
        saliency_now(network, images, self.labels)
        took = time.perf_counter() - began
        self.explaining = min(self.explaining or took, took)
        gains = [
            symmetric_relevance_gain(network, images, self.labels, maps[i], self.clarity.steps, fill)
            for fill in FILLS
            if fill != "zero"
        ]
        return float(torch.stack(gains).nanmean())


@contextmanager
def one_thread() -> Iterator[None]:
    """Faster for networks of this size, and whoever trains beside keeps the other cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _curves(history: dict[str, Any]) -> tuple[list[int], list[float], list[float]]:
    return tuple([epoch[name] for epoch in history["epochs"]] for name in ("epoch", "loss", "validation_accuracy"))


def _network(recipe: Recipe, weights: dict[str, Tensor], quantized: bool) -> LeNet:
    """The network of a recipe with recorded weights, in evaluation mode; not quantized, as its warm-up trains it."""
    bits = recipe.precision if quantized or not recipe.warm_up else recipe.warm_up.precision
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        network = LeNet(bits, recipe.shape).eval()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network
