"""One seed of a cell: a recipe in, a kept file out, whoever asked for it and wherever it runs.

What a stopped run left behind is taken up: a seed goes on from its last whole epoch, and its warm-up, which all
precisions share, is run once. The key under which all of this is kept is made of the code of this module.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saqlib import files, store
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.network import fused
from saqlib.network.initial import build
from saqlib.training import loop, records
from saqlib.training.looking import accuracy
from saqlib.training.settings import Recipe

WATCHED = 10  # validation images, one a class, whose maps are recorded while seed 0 trains


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
class Place:
    """Where the store keeps the networks of a recipe, and the warm-ups that they share with other recipes."""

    trained: Path
    warmed: Path | None

    def run(self, seed: int) -> Path:
        """A finished seed."""
        return self.trained / f"{seed}.pt"

    def warm_up(self, seed: int) -> Path:
        """The end of the warm-up of a seed."""
        return self.warmed / f"{seed}.pt"

    def begun(self, seed: int) -> Path:
        """The last whole epoch of a seed that still trains."""
        return self.trained / f"{seed}.begun"

    def progress(self, seed: int) -> Path:
        """What has happened so far to a seed that still trains."""
        return self.trained / f"{seed}.progress"


# ----------------------------------------------------------------------------------------------- where it is kept


def key(recipe: Recipe, device: str) -> str:
    """The name in the store of what this recipe trains on a kind of device (`cpu`, `cuda`), which decides rounding."""
    return _key(recipe.decides, recipe, device)


def _key(decides: dict[str, Any], recipe: Recipe, device: str) -> str:
    computed_by = fused.kind(recipe.shape, device)
    return store.key(__name__, decides, data.fingerprint(recipe.dataset, sample=recipe.sample), computed_by)


def place(recipe: Recipe, device: str) -> Place:
    """Where the store keeps what this recipe trains on a kind of device."""
    warmed = recipe.warm_up and store.folder("warmed", _key(asdict(recipe.warm_up), recipe, device))
    return Place(store.folder("trained", key(recipe, device)), warmed)


def kept(place: Place, seed: int) -> Run | None:
    """A finished seed; None if there is none, or a damaged one, which is then put aside."""
    return store.kept(place.run(seed), _read_run)


def read(place: Place, seed: int) -> Run:
    """A seed that is known to be finished."""
    return _read_run(place.run(seed))


def history(place: Place, seed: int) -> records.History | None:
    """How far a seed is; None before its first record. A finished seed has left no progress file."""
    try:
        return records.History(**torch.load(place.progress(seed), weights_only=True))
    except Exception:  # none yet, or a damaged one: what it shows decides nothing
        return read(place, seed).history if place.run(seed).exists() else None


def _read_run(path: Path) -> Run:
    content = _read(path)
    history = records.History(**content.pop("history"))
    return Run(history=history, validation_accuracy=history.epochs[-1]["validation_accuracy"], **content)


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


def _write_progress(path: Path, history: records.History) -> None:
    """All but the weights, which nobody who waits looks at."""
    files.write_torch(path, asdict(replace(history, states=[])))


# ------------------------------------------------------------------------------------------------- training


def train_seeds(cell: Cell, recipe: Recipe, seeds: list[int], place: Place, device: torch.device) -> None:
    """Train these seeds, several as one batched network, and keep what came out.

    Raises DivergedError, which names the cell, the seed and the epoch, if a loss is not finite.
    """
    splits = {split: _on(device, recipe, split, sample=recipe.sample) for split in data.SPLITS}
    images = records.Images(*splits["train"], *splits["validation"])
    networks = [build(recipe.precision, shape=recipe.shape, seed=seed).to(device) for seed in seeds]
    options = {
        "epochs": recipe.epochs,
        "optimizer": recipe.optimizer,
        "warmup_epochs": recipe.warmup_epochs,
        "guided": recipe.guided,
        "watch": watch(images, recipe.records) if seeds[0] == 0 else None,
        "on_progress": lambda seed, history: _write_progress(place.progress(seed), history),
    }
    try:
        going_on = {}
        if len(seeds) == 1:
            going_on = _going_on(recipe, images, seeds[0], place, device, options)
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
        files.write_torch(place.run(seed), run)
        place.progress(seed).unlink(missing_ok=True)
        place.begun(seed).unlink(missing_ok=True)


def _going_on(
    recipe: Recipe, images: records.Images, seed: int, place: Place, device: torch.device, options: dict
) -> dict[str, Any]:
    """Where a seed starts: at the last epoch that a stopped run finished, else at the end of its warm-up."""
    begun = place.begun(seed)
    start = store.kept(begun, _read_point)
    if start is None and place.warmed:
        start = _warm(recipe.warm_up, images, seed, place.warm_up(seed), device, options)
    return {"start": start, "on_epoch": lambda point: files.write_torch(begun, point | {"seed": seed})}


def _warm(
    recipe: Recipe, images: records.Images, seed: int, path: Path, device: torch.device, options: dict
) -> records.Point:
    """The warm-up of a seed, from the store or run now and kept there for the other precisions."""
    warm = store.kept(path, _read_point)
    if warm is None:
        network = build(recipe.precision, shape=recipe.shape, seed=seed).to(device)
        files.write_torch(path, loop.warm_up(network, images, seed=seed, **options) | {"seed": seed})
        warm = _read_point(path)
    return warm


def _on(device: torch.device, recipe: Recipe, split: str, *, sample: bool) -> tuple[Tensor, Tensor]:
    """Images and labels of a split, all in the memory of the device."""
    images, labels = data.load(recipe.dataset, split, sample=sample)
    return images.to(device), labels.to(device)


def watch(images: records.Images, times: int) -> records.Watch:
    """The first validation image of each class."""
    first = torch.stack([(images.validation_labels == label).nonzero()[0, 0] for label in range(WATCHED)])
    return records.Watch(images.validation[first], images.validation_labels[first], times)
