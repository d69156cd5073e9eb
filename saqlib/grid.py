"""The grid of the experiment: its cells, its axes, and how much of it runs at a scale."""

import dataclasses
from dataclasses import dataclass

from saqlib.datasets import DATASETS
from saqlib.params import one_of, require

TRAININGS = ("standard", "guided")
SCALES = ("smoke", "quick", "full")


@dataclass(frozen=True, order=True)
class Cell:
    """One cell of the grid: a dataset, a precision and a training, all seeds. str() is its name everywhere."""

    dataset: str
    precision: str
    training: str

    def __str__(self) -> str:
        return f"{self.dataset}-{self.precision}-{self.training}"

    @classmethod
    def parse(cls, name: str) -> "Cell":
        """The cell of a name such as `mnist-w2a2-guided`; ParamsError if it is not three parts."""
        parts = name.split("-")
        require(len(parts) == 3, f"{name!r} is not a cell: expected <dataset>-<precision>-<training>")
        return cls(one_of(parts[0], DATASETS, "dataset"), parts[1], one_of(parts[2], TRAININGS, "training"))


@dataclass(frozen=True)
class Grid:
    """The axes of the grid, each with its values in the order of the paper."""

    datasets: tuple[str, ...]
    precisions: tuple[str, ...]
    trainings: tuple[str, ...]

    def __post_init__(self):
        for axis in dataclasses.fields(self):
            values = getattr(self, axis.name)
            require(len(values) > 0, f"grid.{axis.name} is empty; name at least one")
            require(len(set(values)) == len(values), f"grid.{axis.name} names one of its values twice")
        for dataset in self.datasets:
            one_of(dataset, DATASETS, "dataset in grid.datasets")
        for training in self.trainings:
            one_of(training, TRAININGS, "training in grid.trainings")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, datasets outermost."""
        return tuple(Cell(d, p, t) for d in self.datasets for p in self.precisions for t in self.trainings)


@dataclass(frozen=True)
class Scale:
    """How much of the experiment runs: images, seeds, epochs of each dataset, and records of maps.

    seeds_ablated: at most so many seeds of an ablation; with 0 no ablation runs.
    """

    sample: bool
    seeds: int
    epochs: dict[str, int]
    warmup_epochs: float
    records: int
    images: int
    images_expensive: int
    images_deployed: int
    seeds_ablated: int

    def __post_init__(self):
        for name in ("seeds", "records", "images", "images_expensive", "images_deployed"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        require(self.seeds_ablated >= 0, f"seeds_ablated must be at least 0, not {self.seeds_ablated}")
        shortest = min(self.epochs.values(), default=0)
        require(shortest >= 1, "epochs must be at least 1 for every dataset")
        require(
            0 <= self.warmup_epochs < shortest,
            f"warmup_epochs must be at least 0 and less than the epochs ({shortest}), not {self.warmup_epochs}",
        )
