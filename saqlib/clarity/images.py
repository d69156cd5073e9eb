"""The images that are scored, and what takes the place of their pixels: the same for every network of a dataset."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saqlib.clarity.fills import fill_images
from saqlib.clarity.settings import Scoring
from saqlib.data import images as data
from saqlib.names import FILLS

ORDER_SEED = 0  # of the order in which a split is scored


@dataclass(frozen=True)
class Scored:
    """Images of one split in the order in which they are scored.

    places: in the split. raw: uint8 (B, 28, 28). fills: by name, one image for each, (B, 1, 28, 28), or one for all.
    """

    places: Tensor
    raw: Tensor
    labels: Tensor
    fills: dict[str, Tensor]

    @property
    def images(self) -> Tensor:
        """As a network takes them, float (B, 1, 28, 28)."""
        return data.as_input(self.raw)


def scored_images(dataset: str, scoring: Scoring, split: str = "test") -> Scored:
    """The first images of a split in random order, so many as are scored, with every fill.

    The mean is that of the training images, whichever split is scored.
    """
    images, labels = data.load(dataset, split, sample=scoring.sample)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(ORDER_SEED))
    places = order[: scoring.images]
    training, _ = data.load(dataset, "train", sample=scoring.sample)
    mean = torch.from_numpy(training.numpy().mean(0) / 255).float()[None, None]
    shown = data.as_input(images[places])
    fills = {fill: fill_images(mean if fill == "mean" else fill, shown) for fill in FILLS}
    return Scored(places, images[places], labels[places], fills)
