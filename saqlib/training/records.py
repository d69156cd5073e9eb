"""What a training takes and what it leaves: images, what happened, and the points from which it can go on."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Images:
    """What a network trains on: uint8 images (N, H, W) or (N, C, H, W), and int64 labels (N,), of two splits."""

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor


@dataclass
class History:
    """What happened, one entry an epoch; and the maps of the watched images at some steps."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)  # of (K, 28, 28)


@dataclass(frozen=True)
class Watch:
    """The fixed validation images whose maps are recorded `records` times during training."""

    images: Tensor  # uint8 (K, 28, 28)
    labels: Tensor
    records: int


Point = dict[str, Any]  # where a training stands, under the names of POINT: plain values and tensors
POINT = ("step", "weights", "adam", "order", "noise", "losses", "history", "ends")
