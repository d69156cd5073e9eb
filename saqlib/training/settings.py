"""The settings of a training, and the recipe: all that decides one network but its seed."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from saqlib.network.settings import Bits, Precision, Quantization, Shape
from saqlib.params import at_least, one_of, require
from saqlib.saliency.settings import RANKINGS


@dataclass(frozen=True)
class Optimizer:
    """Adam on batches of `batch_size`; learning_rate: the peak of its one-cycle schedule."""

    batch_size: int
    learning_rate: float

    def __post_init__(self):
        at_least("optimizer", self, 1, "batch_size")
        at_least("optimizer", self, 0, "learning_rate")


@dataclass(frozen=True)
class Guided:
    """Guidance: share of masked pixels, weight of the Kullback-Leibler term, and what "least salient" means."""

    fraction: float
    weight: float
    ranking: str

    def __post_init__(self):
        require(0 <= self.fraction <= 1, f"trainings.guided.fraction must lie in [0, 1], not {self.fraction}")
        at_least("trainings.guided", self, 0, "weight")
        one_of(self.ranking, RANKINGS, "ranking in trainings.guided.ranking")


@dataclass(frozen=True)
class Recipe:
    """How the networks of one cell are trained: what decides their bytes, and nothing else.

    quantization: None for full precision, whose networks are the same for any warm-up. guided: None for standard.
    records: how often the maps of fixed images are recorded while seed 0 trains. sample: the images are the sample's.
    """

    dataset: str
    precision: Precision
    shape: Shape
    optimizer: Optimizer
    epochs: int
    warmup_epochs: float
    quantization: Quantization | None
    guided: Guided | None
    records: int
    sample: bool

    @property
    def decides(self) -> dict[str, Any]:
        """What decides the networks, as plain values: of full precision they are the same for any warm-up."""
        values = asdict(self)
        if self.quantization is None:
            del values["warmup_epochs"]
        return values

    @property
    def warm_up(self) -> "Recipe | None":
        """The full-precision training whose beginning every precision shares; None without one."""
        if not self.warmup_epochs:
            return None
        full = Precision("full precision", (Bits(),) * len(self.precision.layers))
        return replace(self, precision=full, quantization=None)
