"""How much a map resembles a reference map: fidelity to a full-precision network, which is not clarity.

A number here means little without a reference, the same statistic between two full-precision networks that
differ in the seed alone. Maps and references are paired image by image, both (B, H, W); where either is
dead the score is NaN.

Sources: rank correlation and SSIM as in Adebayo et al., arXiv 1810.03292; top-k agreement as in OpenXAI,
arXiv 2206.11104; SSIM, Wang et al. (2004), IEEE Trans. Image Process. 13, with the uniform window of
scikit-image.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from saqlib.clarity.maps import absolute, dead, mid_ranks, stable_ranks

SSIM_WINDOW = 7
SSIM_DATA_RANGE = 1.0  # each magnitude is divided by its own maximum


def preservation_scores(maps: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """All similarities of maps to the reference maps of the same images.

    Args:
        maps, reference: (B, H, W), signed, at least 7 x 7 pixels.

    Returns:
        Each similarity by its id, float64 (B,); NaN where either map is dead.

    Raises:
        ValueError: the shapes differ.
    """
    return {
        "spearman": spearman(maps, reference),
        "top_overlap": top_overlap(maps, reference),
        "cosine": cosine(maps, reference),
        "ssim": ssim(maps, reference),
    }


def spearman(maps: Tensor, reference: Tensor) -> Tensor:
    """Spearman's correlation of the magnitudes (mid-ranks): float64 (B,) in [-1, 1]; constant is NaN."""
    x, y = (mid_ranks(values) for values in _pair(maps, reference))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return _cosine(x, y)


def top_overlap(maps: Tensor, reference: Tensor, fraction: float = 0.1) -> Tensor:
    """Intersection over union of the most salient pixels of both: float64 (B,) in [0, 1].

    The top set holds `fraction` of the pixels, rounded, ties going to the first; a pixel of magnitude 0
    never belongs to it, or two sparse maps would agree on pixels that neither of them marks.
    """
    x, y = _pair(maps, reference)
    count = round(fraction * x.shape[1])
    in_x, in_y = ((stable_ranks(v, descending=True) < count) & (v > 0) for v in (x, y))
    return (in_x & in_y).sum(1).double() / (in_x | in_y).sum(1)


def cosine(maps: Tensor, reference: Tensor) -> Tensor:
    """Cosine of the angle between the signed maps: float64 (B,) in [-1, 1]."""
    _pair(maps, reference)
    x, y = maps.detach().double().flatten(1), reference.detach().double().flatten(1)
    return _cosine(x, y).masked_fill(dead(maps) | dead(reference), torch.nan)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    # By vector_norm: torch.sqrt of a tensor is MKL's, which rounds by the processor.
    return (x * y).sum(1) / (torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1))


def ssim(maps: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of the magnitudes, each divided by its own maximum: float64 (B,) in [-1, 1].

    Uniform 7 x 7 windows inside the map, sample covariance, data range 1. Near-empty maps score high by
    construction.
    """
    x, y = (values.double() / values.amax(1, keepdim=True) for values in _pair(maps, reference))
    x, y = x.unflatten(1, maps.shape[1:]), y.unflatten(1, maps.shape[1:])
    c1, c2 = (0.01 * SSIM_DATA_RANGE) ** 2, (0.03 * SSIM_DATA_RANGE) ** 2
    mean_x, mean_y, xx, yy, xy = (avg_pool2d(v, SSIM_WINDOW, stride=1) for v in (x, y, x * x, y * y, x * y))
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    var_x, var_y = unbiased * (xx - mean_x**2), unbiased * (yy - mean_y**2)
    covariance = unbiased * (xy - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2))


def _pair(maps: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitudes (B, n) of both, NaN in the rows where either is dead; ValueError if the shapes differ."""
    if maps.shape != reference.shape:
        raise ValueError(f"maps {tuple(maps.shape)}, but reference {tuple(reference.shape)}: one shape is needed")
    lost = (dead(maps) | dead(reference))[:, None]
    return absolute(maps).masked_fill(lost, torch.nan), absolute(reference).masked_fill(lost, torch.nan)
