"""The scores of a saliency map by itself, and all of them together.

All are float64, per image, free of the scale and sign of the map (but for its amplitude, which is that scale); no
denominator holds an epsilon, and a dead map (all zero, or not finite) scores NaN, to be counted by `dead`. What a
reader must know of each stands in saqlib.words.

Formulas: Gini, Hurley and Rickard, arXiv 0811.4706; Moran (1950), Biometrika 37, with rook neighbours;
foreground mass, relevance mass accuracy of Arras et al., arXiv 2003.07258, corrected for chance; normalised
entropy, after Bhatt et al., arXiv 2005.00631; AUROC as Mann and Whitney's U. What the network does when
pixels are removed stands in saqlib.clarity.removal, likeness to a reference map in saqlib.clarity.preservation.
"""

from math import log

import numpy as np
import torch
from torch import Tensor, nn

from saqlib.clarity.maps import absolute, dead, magnitude, mid_ranks
from saqlib.clarity.removal import areas, removal_curves


def clarity_scores(model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, steps: int) -> dict[str, Tensor]:
    """Every clarity score of the maps but `sensitivity_max`, which costs ten gradients.

    Args:
        model: any network of images to logits.
        images: float (B, C, H, W) in [0, 1]; their foreground is every pixel with a channel above 0.
        targets: int64 (B,), the classes that the maps explain.
        maps: (B, H, W), of the network or a control; their magnitudes count.
        steps: of the relevance gain.

    Returns:
        Each score by its id, float64 (B,); `dead` is 1 or 0.

    Raises:
        ValueError: the shapes do not fit.
    """
    found = areas(removal_curves(model, images, targets, maps, steps))
    own = {"relevance_gain_zero": found.gain, "deletion": found.deletion, "insertion": found.insertion}
    return map_scores(images, maps) | own


def map_scores(images: Tensor, maps: Tensor) -> dict[str, Tensor]:
    """Those of the clarity scores that need no network; arguments, result and errors as in `clarity_scores`."""
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
    """Gini index of the magnitudes: 0 for a uniform map, 1 - 1/n for a single pixel (arXiv 0811.4706).

    G = sum_i (2i - n - 1) m_(i) / (n sum m), m_(1) <= ... <= m_(n). Blind to the places of the pixels.

    Args:
        maps: (B, H, W).

    Returns:
        Float64 (B,) in [0, 1); NaN for a dead map.

    Raises:
        ValueError: the maps are not (B, H, W).
    """
    ordered = torch.from_numpy(np.sort(absolute(maps).numpy(force=True), axis=1)).to(maps.device).double()
    n = ordered.shape[1]
    i = torch.arange(1, n, dtype=torch.float64, device=ordered.device)
    # Summed by parts: every term is >= 0, so a uniform map gives exactly 0.
    return (i * (n - i) * ordered.diff(dim=1)).sum(1) / (n * ordered.sum(1))


def morans_i(maps: Tensor) -> Tensor:
    """Moran's I of the magnitudes with rook neighbours: 1 smooth, 0 speckle, -1 checkers (Moran, 1950).

    I = (n / E) sum over the E edges of (m_u - mean)(m_v - mean) / sum (m - mean)^2. Random order gives -1/(n-1) on
    average.

    Args:
        maps: (B, H, W).

    Returns:
        Float64 (B,), about -1 to 1; NaN for a dead or a constant map.

    Raises:
        ValueError: the maps are not (B, H, W).
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
    """Share of the magnitude on the foreground, corrected for chance: 1 all of it, 0 chance (after arXiv 2003.07258).

    R = (sum_M m / sum m - |M|/n) / (1 - |M|/n).

    Args:
        maps: (B, H, W).
        foreground: (B, H, W), true or above 0 on M, so that raw pixels will do.

    Returns:
        Float64 (B,), at most 1; NaN for a dead map, and for an empty or full foreground.

    Raises:
        ValueError: the shapes differ.
    """
    values, inside = magnitude(maps), _inside(maps, foreground)
    area = inside.double().mean(1)
    share = (values * inside).sum(1) / values.sum(1)
    return ((share - area) / (1 - area)).masked_fill((area == 0) | (area == 1), torch.nan)


def entropy(maps: Tensor) -> Tensor:
    """Entropy of the map as a distribution over n pixels, over ln n: 0 one pixel, 1 uniform (after arXiv 2005.00631).

    Args:
        maps: (B, H, W).

    Returns:
        Float64 (B,) in [0, 1]; NaN for a dead map.

    Raises:
        ValueError: the maps are not (B, H, W).
    """
    values = magnitude(maps)
    return torch.special.entr(values / values.sum(1, keepdim=True)).sum(1) / log(values.shape[1])


def amplitude(maps: Tensor) -> Tensor:
    """Median magnitude of the map, the one number here that depends on its scale: how much the logit minds a pixel.

    A gradient's unit is one of the logit for the whole range of a pixel. It describes and is no score: a network whose
    logits are twice as large, and says the same, has twice the amplitude.

    Args:
        maps: (B, H, W).

    Returns:
        Float64 (B,), not negative; NaN for a dead map.

    Raises:
        ValueError: the maps are not (B, H, W).
    """
    return torch.from_numpy(np.median(magnitude(maps).numpy(force=True), axis=1)).to(maps.device)


def auroc(maps: Tensor, foreground: Tensor) -> Tensor:
    """Probability that a pixel of the foreground outranks one of the background, ties half: .5 is chance.

    Mann and Whitney's U / (|M| |not M|).

    Args:
        maps, foreground: as in `foreground_mass`.

    Returns:
        Float64 (B,) in [0, 1]; NaN for a dead map, and for an empty or full foreground.

    Raises:
        ValueError: the shapes differ.
    """
    ranks, inside = mid_ranks(absolute(maps)), _inside(maps, foreground)
    count = inside.sum(1).double()
    rank_sum = (ranks * inside).sum(1)
    return (rank_sum - count * (count + 1) / 2) / (count * (inside.shape[1] - count))


def _inside(maps: Tensor, foreground: Tensor) -> Tensor:
    """The foreground as bool (B, n); raises ValueError if it does not fit the maps."""
    if foreground.shape != maps.shape:
        shapes = f"{tuple(maps.shape)}, not {tuple(foreground.shape)}"
        raise ValueError(f"the foreground must have the shape of the maps, {shapes}")
    return (foreground > 0).flatten(1)
