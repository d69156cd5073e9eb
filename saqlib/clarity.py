"""The scores of a saliency map: is it concentrated, coherent, on the object, and does the network use it?

"Clear" has four parts here, since each score alone can be won by a map that nobody would call clear: Gini
likes a speckled map and a single pixel, Moran's I any smooth blob, foreground mass the bare silhouette, and
the relevance gain does not see noise. All are float64, per image, free of the scale and sign of the map; no
denominator holds an epsilon, and a dead map (all zero, or not finite) scores NaN, to be counted by `dead`.

Formulas: Gini, Hurley and Rickard, arXiv 0811.4706; Moran (1950), Biometrika 37, with rook neighbours;
foreground mass, relevance mass accuracy of Arras et al., arXiv 2003.07258, corrected for chance; normalised
entropy, after Bhatt et al., arXiv 2005.00631; AUROC as Mann and Whitney's U. What the network does when
pixels are removed stands in saqlib.perturbation, likeness to a reference map in saqlib.preservation.
"""

from dataclasses import dataclass
from math import inf, log
from typing import Literal

import torch
from torch import Tensor, nn

from saqlib.magnitude import dead, magnitude, mid_ranks
from saqlib.perturbation import removal_areas, sensitivity_max, symmetric_relevance_gain
from saqlib.preservation import preservation_scores

__all__ = [
    "PRIMARY",
    "SCORES",
    "Score",
    "auroc",
    "clarity_scores",
    "dead",
    "entropy",
    "foreground_mass",
    "gini",
    "morans_i",
    "preservation_scores",
    "sensitivity_max",
    "symmetric_relevance_gain",
]


@dataclass(frozen=True)
class Score:
    """What a reader must know to read a score; tables and figures take their words from here."""

    id: str
    name: str
    symbol: str
    direction: Literal["higher", "lower"]  # which one is clearer, or for preservation: more alike
    low: float
    high: float
    chance: float | None  # what a map scores that knows nothing, where that is one number
    group: Literal["primary", "secondary", "preservation"]
    question: str

    @property
    def arrow(self) -> str:
        """The direction as an arrow."""
        return "↑" if self.direction == "higher" else "↓"


_PRIMARY = [
    Score("gini", "Gini index", "G", "higher", 0, 1, None, "primary", "Do few pixels carry the map?"),
    Score("morans_i", "Moran's I", "I", "higher", -1.04, 1.04, -1 / 783, "primary",
          "Do salient pixels stand together, not as speckle?"),
    Score("foreground_mass", "Foreground mass", "R", "higher", -inf, 1, 0, "primary",
          "Does the map lie on the object, beyond chance?"),
    Score("symmetric_relevance_gain", "Relevance gain", "S", "higher", -1, 1, 0, "primary",
          "Does the network use the pixels that the map marks?"),
]  # fmt: skip

_SECONDARY = [
    Score("entropy", "Normalised entropy", "H", "lower", 0, 1, None, "secondary",
          "Is the map spread over many pixels?"),
    Score("auroc", "Foreground AUROC", "A", "higher", 0, 1, 0.5, "secondary",
          "Do pixels of the object outrank the background?"),
    Score("deletion", "Deletion area", "D", "lower", 0, 1, None, "secondary",
          "How long does the prediction live without the most salient pixels?"),
    Score("insertion", "Insertion area", "N", "higher", 0, 1, None, "secondary",
          "How soon do the most salient pixels make the prediction?"),
    Score("sensitivity_max", "Maximal sensitivity", "M", "lower", 0, inf, None, "secondary",
          "How much does the map change under invisible noise?"),
    Score("dead", "Dead rate", "Z", "lower", 0, 1, None, "secondary", "Is there no map at all?"),
]  # fmt: skip

_PRESERVATION = [
    Score("spearman", "Spearman correlation", "ρ", "higher", -1, 1, 0, "preservation",
          "Do both maps rank the pixels alike?"),
    Score("top_overlap", "Top-10 % overlap", "O", "higher", 0, 1, None, "preservation",
          "Do both maps mark the same pixels?"),
    Score("cosine", "Cosine of signed maps", "C", "higher", -1, 1, 0, "preservation",
          "Do both gradients point the same way?"),
    Score("ssim", "Structural similarity", "SSIM", "higher", -1, 1, None, "preservation",
          "Do both maps look alike?"),
]  # fmt: skip

SCORES = {score.id: score for score in [*_PRIMARY, *_SECONDARY, *_PRESERVATION]}
PRIMARY = tuple(score.id for score in _PRIMARY)


def clarity_scores(
    model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, steps: int
) -> dict[str, Tensor]:
    """Every clarity score of the maps but `sensitivity_max`, which costs ten gradients: {id: float64 (B,)}.

    images: float (B, 1, 28, 28) in [0, 1]; their foreground is every pixel above 0. targets: int64 (B,),
    the classes that the maps explain. maps: (B, 28, 28), of the network or a control. steps: of the
    relevance gain. `dead` is 1 or 0. Raises ValueError if the shapes do not fit.
    """
    areas = removal_areas(model, images, targets, maps, steps)
    own = {"symmetric_relevance_gain": areas.gain, "deletion": areas.deletion, "insertion": areas.insertion}
    return map_scores(images, maps) | own


def map_scores(images: Tensor, maps: Tensor) -> dict[str, Tensor]:
    """Those of the clarity scores that need no network; arguments and result as `clarity_scores`."""
    foreground = images.squeeze(1) > 0
    return {
        "gini": gini(maps),
        "morans_i": morans_i(maps),
        "foreground_mass": foreground_mass(maps, foreground),
        "entropy": entropy(maps),
        "auroc": auroc(maps, foreground),
        "dead": dead(maps).double(),
    }


def gini(maps: Tensor) -> Tensor:
    """Gini index of the magnitudes, float64 (B,): 0 for a uniform map, 1 - 1/n for a single pixel.

    G = sum_i (2i - n - 1) m_(i) / (n sum m), m_(1) <= ... <= m_(n). Blind to the places of the pixels.
    """
    ordered = magnitude(maps).sort(dim=1).values
    n = ordered.shape[1]
    i = torch.arange(1, n, dtype=torch.float64, device=ordered.device)
    # Summed by parts: every term is >= 0, so a uniform map gives exactly 0.
    return (i * (n - i) * ordered.diff(dim=1)).sum(1) / (n * ordered.sum(1))


def morans_i(maps: Tensor) -> Tensor:
    """Moran's I of the magnitudes with rook neighbours, float64 (B,): 1 smooth, 0 speckle, -1 checkers.

    I = (n / E) sum over the E edges of (m_u - mean)(m_v - mean) / sum (m - mean)^2. Random order gives
    -1/(n-1) on average; a constant map NaN. Raises ValueError for maps that are not (B, H, W).
    """
    flat = magnitude(maps)
    height, width = maps.shape[1:]
    centred = (flat - flat.mean(1, keepdim=True)).unflatten(1, (height, width))
    vertical = (centred[:, 1:] * centred[:, :-1]).sum((1, 2))
    horizontal = (centred[:, :, 1:] * centred[:, :, :-1]).sum((1, 2))
    edges = (height - 1) * width + height * (width - 1)
    moran = (height * width / edges) * (vertical + horizontal) / centred.square().sum((1, 2))
    # The mean of equal values is rounded: their spread would be noise instead of 0.
    return moran.masked_fill(flat.amin(1) == flat.amax(1), torch.nan)


def foreground_mass(maps: Tensor, foreground: Tensor) -> Tensor:
    """Share of the magnitude on the foreground, corrected for chance, float64 (B,): 1 all, 0 chance.

    R = (sum_M m / sum m - |M|/n) / (1 - |M|/n). foreground: (B, H, W), true or above 0 on M, so raw pixels
    will do. An empty or full foreground gives NaN. Raises ValueError if the shapes differ.
    """
    values, inside = magnitude(maps), _inside(maps, foreground)
    area = inside.double().mean(1)
    share = (values * inside).sum(1) / values.sum(1)
    return ((share - area) / (1 - area)).masked_fill((area == 0) | (area == 1), torch.nan)


def entropy(maps: Tensor) -> Tensor:
    """Entropy of the map as a distribution over n pixels, over ln n, float64 (B,): 0 one pixel, 1 uniform."""
    values = magnitude(maps)
    return torch.special.entr(values / values.sum(1, keepdim=True)).sum(1) / log(values.shape[1])


def auroc(maps: Tensor, foreground: Tensor) -> Tensor:
    """Probability that a pixel of the foreground outranks one of the background, ties half, float64 (B,).

    Mann and Whitney's U / (|M| |not M|); .5 is chance. foreground as in `foreground_mass`; empty or full
    gives NaN.
    """
    ranks, inside = mid_ranks(magnitude(maps)), _inside(maps, foreground)
    count = inside.sum(1).double()
    rank_sum = (ranks * inside).sum(1)
    return (rank_sum - count * (count + 1) / 2) / (count * (inside.shape[1] - count))


def _inside(maps: Tensor, foreground: Tensor) -> Tensor:
    """The foreground as bool (B, n); raises ValueError if it does not fit the maps."""
    if foreground.shape != maps.shape:
        shapes = f"{tuple(maps.shape)}, not {tuple(foreground.shape)}"
        raise ValueError(f"the foreground must have the shape of the maps, {shapes}")
    return (foreground > 0).flatten(1)
