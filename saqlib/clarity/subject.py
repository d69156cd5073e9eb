"""One network in front of images, and what it says of a map: the scores that a network is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saqlib.clarity.images import Scored
from saqlib.clarity.removal import RemovalCurves, gain, inner_curves, probabilities
from saqlib.clarity.scores import foreground_mass, gini, morans_i
from saqlib.names import PRIMARY
from saqlib.saliency.gradient import DeadNetworkError, input_gradient


class MapScores(NamedTuple):
    """What maps score, float64: the primary scores (score, image), the relevance gain with each fill (fill, image)."""

    scores: Tensor
    gains: Tensor


@dataclass(frozen=True)
class Subject:
    """A network, the images that it is shown, the classes that maps explain, and how pixels are removed.

    images: float (B, 1, 28, 28). targets: int64 (B,). fills: images by name, as `Scored` has them. steps: of removal.
    """

    network: nn.Module
    images: Tensor
    targets: Tensor
    fills: dict[str, Tensor]
    steps: int

    @classmethod
    def predicting(cls, network: nn.Module, scored: Scored, steps: int) -> "Subject":
        """A network in front of all scored images, whose own predictions are to be explained."""
        images = scored.images
        return cls(network, images, probabilities(network, images).argmax(1), scored.fills, steps)

    def first(self, count: int) -> "Subject":
        """The same network in front of the first images alone."""
        fills = {fill: others[:count] for fill, others in self.fills.items()}
        return replace(self, images=self.images[:count], targets=self.targets[:count], fills=fills)

    def gradient_of(self, network: nn.Module) -> Tensor:
        """Input gradients (B, H, W) of this or another network for these classes; a dead network's are all zero."""
        try:
            return input_gradient(network, self.images, self.targets)
        except DeadNetworkError:
            return torch.zeros_like(self.images.squeeze(1))

    def curves(self, maps: Tensor) -> dict[str, RemovalCurves]:
        """The removal curves of maps (B, H, W) with each fill, without their common ends."""
        fills = list(self.fills.values())
        found = inner_curves(self.network, self.images, self.targets, maps, self.steps, fills)
        return dict(zip(self.fills, found, strict=True))

    def scores(self, maps: Tensor, curves: dict[str, RemovalCurves] | None = None) -> MapScores:
        """The scores of maps (B, H, W), whoever made them; curves: theirs, where they are known."""
        gains = {fill: gain(*each) for fill, each in (curves or self.curves(maps)).items()}
        by_name = {
            "gini": gini(maps),
            "morans_i": morans_i(maps),
            "foreground_mass": foreground_mass(maps, (self.images > 0).any(1)),
            "relevance_gain_zero": gains["zero"],
        }
        return MapScores(torch.stack([by_name[name] for name in PRIMARY]), torch.stack(list(gains.values())))


def stacked(scores: Sequence[MapScores]) -> MapScores:
    """The scores of several maps as one array each, with a row for each map."""
    return MapScores(*(torch.stack(each) for each in zip(*scores, strict=True)))
