"""What a training takes and what it leaves: images, what happened, and the points from which it can go on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saqlib.data.images import as_input
from saqlib.saliency.gradient import check_targets


@dataclass(frozen=True)
class Images:
    """What a network trains on: uint8 images (N, H, W) or (N, C, H, W), and int64 labels (N,), of two splits.

    Raises ValueError if there is not one label for each image: others would be learned, without a word.
    """

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor

    def __post_init__(self):
        for images, labels in ((self.train, self.train_labels), (self.validation, self.validation_labels)):
            if not len(images):
                raise ValueError("a split has no images")
            check_targets(labels, len(images))

    def batches(self, orders: Sequence[torch.Generator], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch: the batches of each order side by side, as a network takes them, and their labels."""
        epochs = [torch.randperm(len(self.train), generator=order).split(size) for order in orders]
        for some in zip(*epochs, strict=True):
            which = torch.cat(some)
            yield as_input(self.train[which]), self.train_labels[which]


@dataclass
class History:
    """What happened, one entry an epoch; and at some steps the maps of the watched images, with the weights.

    switch: the number of steps after which the network quantizes, None for full precision.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)  # of (K, 28, 28)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    switch: int | None = None


@dataclass(frozen=True)
class Watch:
    """The fixed validation images whose maps are recorded `records` times during training."""

    images: Tensor  # uint8 (K, 28, 28)
    labels: Tensor
    records: int


Point = dict[str, Any]  # where a training stands, under the names of POINT: plain values and tensors
POINT = ("step", "weights", "adam", "order", "noise", "losses", "history", "ends")


def copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state as it is now, which goes on changing."""
    return {name: value.clone() for name, value in state.items()}


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load what is the same for every precision; clips and scales stay."""
    own = dict(model.named_parameters())
    shared = {name: value for name, value in weights.items() if name in own and not name.endswith(".alpha")}
    model.load_state_dict(shared, strict=False)
