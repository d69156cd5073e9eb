"""One cell of the grid: every seed trained in a worker process of its own, one thread each; on a GPU all at once.

A seed's numbers do not depend on how many workers there are. A finished seed is kept in the store, so a killed run goes
on where it stopped, and one that was trained before is never trained again; and so is the warm-up of a seed, which all
precisions share.
"""

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saqlib import files, paths, store, stored
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.network import fused
from saqlib.network.initial import build
from saqlib.training import loop, records
from saqlib.training.looking import accuracy
from saqlib.training.settings import Recipe
from saqlib.workers import Engine

WATCHED = 10  # validation images, one a class, whose maps are recorded while seed 0 trains
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Run:
    """One trained network: its weights, what happened while it trained, and its accuracy in percent."""

    seed: int
    state: dict[str, Tensor]
    history: records.History
    validation_accuracy: float
    test_accuracy: float
    sample_accuracy: float  # on the test images of the committed sample, where anybody can check it
    computed_by: str  # fused kernels or PyTorch, and the processor's level: what decides rounding


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
    folder = store.folder("trained", key(recipe, device.type))
    runs = {seed: store.kept(_run_file(folder, seed), _read_run) for seed in range(seeds)}
    todo = [seed for seed, run in runs.items() if run is None]
    together = [todo] if device.type == "cuda" and todo else [[seed] for seed in todo]
    warmed = recipe.warm_up and store.folder("warmed", _key(asdict(recipe.warm_up), recipe, device.type))
    with _watching(folder, seeds, recipe.epochs, on_progress):
        engine.map(_train_seeds, [(cell, recipe, some, folder, warmed, device) for some in together], n_jobs)
    return [run or _read_run(_run_file(folder, seed)) for seed, run in runs.items()]


def key(recipe: Recipe, device: str) -> str:
    """The name in the store of what this recipe trains on a kind of device (`cpu`, `cuda`)."""
    return _key(recipe.decides, recipe, device)


def _key(decides: dict[str, Any], recipe: Recipe, device: str) -> str:
    computed_by = fused.kind(recipe.shape, device)
    return store.key(__name__, decides, data.fingerprint(recipe.dataset, sample=recipe.sample), computed_by)


def _train_seeds(
    cell: Cell, recipe: Recipe, seeds: list[int], folder: Path, warmed: Path | None, device: torch.device
) -> None:
    """Train these seeds, several as one batched network, and keep what came out; warmed: where warm-ups are kept."""
    splits = {split: _on(device, recipe, split, sample=recipe.sample) for split in data.SPLITS}
    images = records.Images(*splits["train"], *splits["validation"])
    networks = [build(recipe.precision, shape=recipe.shape, seed=seed).to(device) for seed in seeds]
    options = {
        "epochs": recipe.epochs,
        "optimizer": recipe.optimizer,
        "warmup_epochs": recipe.warmup_epochs,
        "guided": recipe.guided,
        "watch": _watch(images, recipe.records) if seeds[0] == 0 else None,
        "on_progress": lambda seed, history: _write_progress(_progress_file(folder, seed), history),
    }
    try:
        going_on = {}
        if len(seeds) == 1:
            going_on = _going_on(recipe, images, seeds[0], folder, warmed, device, options)
        histories = loop.train_together(
            networks, images, seeds=seeds, quantization=recipe.quantization, **options, **going_on
        )
    except loop.DivergedError as error:
        raise loop.DivergedError(f"{cell}, {error}") from None
    for seed, network, history in zip(seeds, networks, histories, strict=True):
        state = {name: value.clone().cpu() for name, value in network.state_dict().items()}
        tested = accuracy(network, *splits["test"])
        run = {"seed": seed, "state": state, "history": asdict(history), "test_accuracy": tested}
        run["computed_by"] = fused.kind(recipe.shape, device.type)
        run["sample_accuracy"] = accuracy(network, *_on(device, recipe, "test", sample=True))
        files.write_torch(_run_file(folder, seed), run)
        _progress_file(folder, seed).unlink(missing_ok=True)
        _begun_file(folder, seed).unlink(missing_ok=True)


def _going_on(
    recipe: Recipe, images: records.Images, seed: int, folder: Path, warmed: Path | None, device: torch.device,
    options: dict,
) -> dict[str, Any]:  # fmt: skip
    """Where a seed starts: at the last epoch that a stopped run finished, else at the end of its warm-up."""
    begun = _begun_file(folder, seed)
    start = store.kept(begun, _read_point)
    if start is None and warmed:
        start = _warm(recipe.warm_up, images, seed, warmed, device, options)
    return {"start": start, "on_epoch": lambda point: files.write_torch(begun, point | {"seed": seed})}


def _warm(
    recipe: Recipe, images: records.Images, seed: int, folder: Path, device: torch.device, options: dict
) -> records.Point:
    """The warm-up of a seed, from the store or run now and kept there for the other precisions."""
    path = _run_file(folder, seed)
    warm = store.kept(path, _read_point)
    if warm is None:
        network = build(recipe.precision, shape=recipe.shape, seed=seed).to(device)
        files.write_torch(path, loop.warm_up(network, images, seed=seed, **options) | {"seed": seed})
        warm = _read_point(path)
    return warm


def _read_point(path: Path) -> records.Point:
    point = _read(path)
    if point.keys() != {*records.POINT, "seed"}:
        raise ValueError(f"{path} holds no point of a training")
    return point


def _read(path: Path) -> dict[str, Any]:
    """A file of the store; ValueError if it is another seed's."""
    content = torch.load(path, weights_only=True)
    if content["seed"] != int(path.stem):
        raise ValueError(f"{path} holds seed {content['seed']}")
    return content


def _read_run(path: Path) -> Run:
    content = _read(path)
    history = records.History(**content.pop("history"))
    return Run(history=history, validation_accuracy=history.epochs[-1]["validation_accuracy"], **content)


def _run_file(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.pt"


def _begun_file(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.begun"


def _progress_file(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.progress"


def _on(device: torch.device, recipe: Recipe, split: str, *, sample: bool) -> tuple[Tensor, Tensor]:
    """Images and labels of a split, all in the memory of the device."""
    images, labels = data.load(recipe.dataset, split, sample=sample)
    return images.to(device), labels.to(device)


def _watch(images: records.Images, times: int) -> records.Watch:
    """The first validation image of each class."""
    first = torch.stack([(images.validation_labels == label).nonzero()[0, 0] for label in range(WATCHED)])
    return records.Watch(images.validation[first], images.validation_labels[first], times)


class _watching:
    """Calls on_progress from a thread while the workers train; the histories come through files, from any machine."""

    def __init__(self, folder: Path, seeds: int, epochs: int, on_progress: Callable[[Progress], None] | None):
        self.folder, self.seeds, self.epochs, self.on_progress = folder, seeds, epochs, on_progress
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
        found = {seed: _history(self.folder, seed) for seed in range(self.seeds)}
        histories = {seed: history for seed, history in found.items() if history}
        self.on_progress(Progress(histories, self.seeds, self.epochs))


def _write_progress(path: Path, history: records.History) -> None:
    """All but the weights, which nobody who waits looks at."""
    files.write_torch(path, asdict(replace(history, states=[])))


def _history(folder: Path, seed: int) -> records.History | None:
    """How far a seed is; None before its first record. A finished seed has left its progress file behind."""
    try:
        return records.History(**torch.load(_progress_file(folder, seed), weights_only=True))
    except Exception:  # none yet, or a damaged one: what it shows decides nothing
        run = _run_file(folder, seed)
        return _read_run(run).history if run.exists() else None


# ---------------------------------------------------------------------------------------------- saved cells


def save_cell(cell: Cell, runs: Iterable[Run], recipe: Recipe, root: Path = paths.ROOT) -> None:
    """Write what a trained cell leaves behind, under `root`.

    models/<cell>.pt: every seed, with the maps recorded during training. results/models/<cell>.pt: seed 0 alone.
    results/runs/<cell>.json: accuracies and histories.
    """
    runs = list(runs)
    first = runs[0].history
    validation = data.load(recipe.dataset, "validation", sample=recipe.sample)
    watched = _watch(records.Images(*validation, *validation), recipe.records).images
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
