"""The scores of a saliency map by itself, and all of them together.

All are float64, per image, free of the scale and sign of the map; no denominator holds an epsilon, and a dead map (all
zero, or not finite) scores NaN, to be counted by `dead`. What a reader must know of each stands in saqlib.words.

Formulas: Gini, Hurley and Rickard, arXiv 0811.4706; Moran (1950), Biometrika 37, with rook neighbours;
foreground mass, relevance mass accuracy of Arras et al., arXiv 2003.07258, corrected for chance; normalised
entropy, after Bhatt et al., arXiv 2005.00631; AUROC as Mann and Whitney's U. What the network does when
pixels are removed stands in saqlib.clarity.removal, likeness to a reference map in saqlib.clarity.preservation.
"""

from math import log

import torch
from torch import Tensor, nn

from saqlib.clarity.maps import dead, magnitude, mid_ranks
from saqlib.clarity.removal import areas, removal_curves


def clarity_scores(
    model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, steps: int
) -> dict[str, Tensor]:
    """Every clarity score of the maps but `sensitivity_max`, which costs ten gradients: {id: float64 (B,)}.

    images: float (B, C, H, W) in [0, 1]; their foreground is every pixel with a channel above 0. targets: int64 (B,),
    the classes that the maps explain. maps: (B, H, W), of the network or a control. steps: of the relevance gain.
    `dead` is 1 or 0. Raises ValueError if the shapes do not fit.
    """
    found = areas(removal_curves(model, images, targets, maps, steps))
    own = {"symmetric_relevance_gain": found.gain, "deletion": found.deletion, "insertion": found.insertion}
    return map_scores(images, maps) | own


def map_scores(images: Tensor, maps: Tensor) -> dict[str, Tensor]:
    """Those of the clarity scores that need no network; arguments and result as `clarity_scores`."""
    foreground = (images > 0).any(1)
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
