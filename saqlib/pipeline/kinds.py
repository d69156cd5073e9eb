"""The kinds of tasks: one network trained, scored, scored in brief or deployed, or its part in the decision on fills.

Each can be done twice, anywhere, in any order that respects what it needs, and leaves its result in the store, written
whole or not at all. So nothing is sent back, and any worker, node or driver may die.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from saqlib import files, store
from saqlib.clarity import cell as clarity
from saqlib.clarity import qualifying
from saqlib.clarity.settings import Scoring
from saqlib.deployment import cell as deployment
from saqlib.grid import Cell
from saqlib.network.lenet import LeNet
from saqlib.pipeline import ablate
from saqlib.training import seed as training
from saqlib.training.settings import Recipe

PATIENCE = 5  # seconds until a file of another machine is seen on a shared file system


class MissingError(RuntimeError):
    """A task's network is not in the store, or damaged."""


@dataclass(frozen=True)
class Trained:
    """The network of one seed, with its place in the store, whether it is there yet or not."""

    recipe: Recipe
    place: training.Place
    seed: int

    @property
    def file(self) -> Path:
        """Where the store keeps it."""
        return self.place.run(self.seed)

    def run(self) -> training.Run:
        """What the store holds; MissingError if that is nothing, or damaged."""
        patience = time.monotonic() + PATIENCE
        while not self.file.exists() and time.monotonic() < patience:
            time.sleep(0.1)
        found = training.kept(self.place, self.seed)
        if found is None:
            raise MissingError(f"the store lacks its network, {self.file}; the same command trains it again")
        return found

    def network(self) -> LeNet:
        """It, in evaluation mode."""
        network = LeNet(self.recipe.precision, self.recipe.shape)
        network.load_state_dict(self.run().state)
        return network.eval()


@dataclass(frozen=True)
class Task:
    """What all kinds have.

    cell, seeds: whose network. variant: the ablation, empty for the main grid. marks: the files that say it is done.
    needs: files without which it cannot begin. after: files that others leave, for which it had better wait. leaves:
    all the files for which others wait. seconds: about how long it takes on one core. gpu: whether it wants one.
    """

    cell: Cell
    seeds: tuple[int, ...]
    variant: str
    marks: tuple[Path, ...]
    needs: tuple[Path, ...]
    after: tuple[Path, ...]
    leaves: tuple[Path, ...]
    seconds: float
    gpu: bool = False

    def __str__(self) -> str:
        """Such as `train mnist-w2a2-guided seed 3`."""
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"seeds {self.seeds[0]} to {self.seeds[-1]}"
        return " ".join(filter(None, [type(self).__name__.lower(), str(self.cell), seeds, self.variant]))

    def done(self) -> bool:
        """Whether the store holds its result."""
        return all(map(store.noted, self.marks))

    def do(self) -> None:
        """Compute what the store does not hold."""
        raise NotImplementedError


@dataclass(frozen=True)
class Train(Task):
    """Seeds of a cell trained: one, or on a GPU all of them as one batched network."""

    recipe: Recipe = None
    place: training.Place = None
    device: str = "cpu"

    def done(self) -> bool:
        return all(path.exists() for path in self.marks)

    def do(self) -> None:
        missing = [seed for seed in self.seeds if training.kept(self.place, seed) is None]
        if missing:
            training.train_seeds(self.cell, self.recipe, missing, self.place, torch.device(self.device))


@dataclass(frozen=True)
class Fills(Task):
    """A reference network's part in the decision on fills."""

    scoring: Scoring = None
    trained: Trained = None

    def do(self) -> None:
        asked = self.cell.dataset, self.scoring, self.trained.network()
        path = qualifying.kept_file(*asked)
        if store.kept(path, qualifying.read_gains) is None:
            qualifying.keep_gains(path, *asked)
        store.note(self.marks[0], path)


@dataclass(frozen=True)
class Score(Task):
    """All scores of one network; likened: the networks to whose maps its own are likened."""

    scoring: Scoring = None
    trained: Trained = None
    likened: tuple[tuple[str, Trained | None], ...] = ()

    def do(self) -> None:
        likened = {name: trained and trained.network() for name, trained in self.likened}
        asked = self.cell.dataset, self.scoring, self.trained.seed, self.trained.network(), likened
        path = clarity.kept_file(*asked)
        if store.kept(path, files.read_dataset) is None:
            clarity.keep_scores(path, *asked)
        store.note(self.marks[0], path)


@dataclass(frozen=True)
class Brief(Task):
    """The scores of an ablation's network in brief."""

    scoring: Scoring = None
    trained: Trained = None

    def done(self) -> bool:
        return self.marks[0].exists()

    def do(self) -> None:
        if store.kept(self.marks[0], ablate.read_brief) is None:
            ablate.keep_brief(self.marks[0], self.trained.recipe, self.trained.run().state, self.scoring)


@dataclass(frozen=True)
class Deploy(Task):
    """A cell's first network as ONNX files, checked on so many images."""

    sample: bool = True
    images: int = 1
    trained: Trained = None

    def do(self) -> None:
        asked = self.cell, self.trained.network(), self.sample, self.images
        path = deployment.kept_file(*asked)
        if store.kept(path, deployment.read_deployed) is None:
            deployment.keep_deployed(path, *asked)
        store.note(self.marks[0], path)
