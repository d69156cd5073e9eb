"""What a saliency map is worth: the registry of scores, and those that need the map and its image alone.

    from saqlib.scores import gini, map_scores

    gini(maps)                  # (B,) float64; maps (B, H, W)
    map_scores(images, maps)    # every score of this kind, by its id

"Clear" is no score: each one alone can be won by a map that nobody would call clear. Gini likes a speckled map and a
single pixel, Moran's I any smooth blob, foreground mass the bare silhouette, and the relevance gain does not see noise.

Maps may be signed: their magnitude counts. All scores are float64, one for each image, and free of the scale and the
sign of the map. A dead map (all zero, or not finite) becomes a row of NaN, so that each score computed from it is NaN
by arithmetic and can be counted; no denominator holds an epsilon, which would make a score depend on the scale. Every
function raises ValueError for maps that are not (B, H, W), or for images or a foreground that do not fit them.

Formulas: Gini, Hurley and Rickard, arXiv 0811.4706; Moran (1950), Biometrika 37, with rook neighbours; foreground mass,
relevance mass accuracy of Arras et al., arXiv 2003.07258, corrected for chance; normalised entropy, after Bhatt et al.,
arXiv 2005.00631; AUROC as Mann and Whitney's U; rank correlation and SSIM as in Adebayo et al., arXiv 1810.03292; top-k
agreement as in OpenXAI, arXiv 2206.11104; SSIM, Wang et al. (2004), IEEE Trans. Image Process. 13, with the uniform
window of scikit-image. PyTorch is imported where it is used: a table needs the words of a score and no network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log, nan
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

PRIMARY = ("gini", "morans_i", "foreground_mass")  # what every map is scored by, beside the relevance gains
FILLS = ("zero", "mean", "noise", "blur")  # what stands in the place of a removed pixel
CANDIDATE_FILLS = tuple(fill for fill in FILLS if fill != "zero")  # of these may qualify; zero is shown only
RELEVANCE_GAIN = "relevance_gain"
GAINS = tuple(f"{RELEVANCE_GAIN}_{fill}" for fill in CANDIDATE_FILLS)  # the columns, one for each fill
FAITHFULNESS = "faithfulness"  # the relevance gain, mean of the fills that qualify
ANSWERS = ("gini", "morans_i", FAITHFULNESS)  # the columns that answer what is asked of a map: the others describe
GRADIENT = "straight_through"  # the method of saliency that everything rests on
PASS_THROUGH = "pass_through"  # the same, but clipped activations let the gradient through
NEAR = 4  # pixels: what lies further from the object shares no unit of a 5 x 5 convolution with it
IMAGE = "image"  # the control that is the image itself
TRAINED, UNTRAINED = "trained", "untrained"  # the networks whose maps are scored
SEED_TO_SEED = "seed_to_seed"  # the likeness of two reference networks, which any likeness is to be read against


@dataclass(frozen=True)
class Score:
    """How a score is computed, and what a reader must know of it; tables and figures take their words from here.

    function: of (maps, images) for a score of the map, of (maps, reference) for a likeness, both to float64 (B,); None
    where the network is asked. direction: which is better, or for a likeness: more alike. chance: what a map scores
    that knows nothing, where that is one number.
    """

    function: Callable[["Tensor", "Tensor"], "Tensor"] | None
    name: str
    symbol: str
    direction: Literal["higher", "lower"]
    low: float
    high: float
    chance: float | None
    question: str
    of: Literal["map", "likeness", "network"] = "map"

    @property
    def arrow(self) -> str:
        """The direction as an arrow."""
        return "↑" if self.direction == "higher" else "↓"


# A new score is one entry: one of the map then stands in map_scores, scores/<cell>.nc and results/runs.csv.
SCORES: dict[str, Score] = {
    "gini": Score(lambda maps, images: gini(maps), "Gini index", "G", "higher", 0, 1, None,
                  "Do few pixels carry the map?"),
    "morans_i": Score(lambda maps, images: morans_i(maps), "Moran's I", "I", "higher", -1.04, 1.04, -1 / 783,
                      "Do salient pixels stand together, not as speckle?"),
    "foreground_mass": Score(lambda maps, images: foreground_mass(maps, foreground_of(images)), "Foreground mass", "R",
                             "higher", -inf, 1, 0, "Does the map lie on the object, beyond chance?"),
    "relevance_gain": Score(None, "Relevance gain", "S", "higher", -1, 1, 0,
                            "Does the network use the pixels that the map marks?", "network"),
    "entropy": Score(lambda maps, images: entropy(maps), "Normalised entropy", "H", "lower", 0, 1, None,
                     "Is the map spread over many pixels?"),
    "auroc": Score(lambda maps, images: auroc(maps, foreground_of(images)), "Foreground AUROC", "A", "higher", 0, 1,
                   0.5, "Do pixels of the object outrank the background?"),
    "gini_near": Score(lambda maps, images: gini_near(maps, foreground_of(images)), "Gini index near the object", "N",
                       "higher", 0, 1, None, "Do few pixels carry the map, of the object and what is around it?"),
    "sensitivity_max": Score(None, "Maximal sensitivity", "M", "lower", 0, inf, None,
                             "How much does the map change under invisible noise?", "network"),
    "dead": Score(lambda maps, images: dead(maps).double(), "Dead rate", "Z", "lower", 0, 1, None,
                  "Is there no map at all?"),
    "spearman": Score(lambda maps, reference: spearman(maps, reference), "Spearman correlation", "ρ", "higher", -1, 1,
                      0, "Do both maps rank the pixels alike?", "likeness"),
    "top_overlap": Score(lambda maps, reference: top_overlap(maps, reference), "Top-10 % overlap", "O", "higher", 0, 1,
                         None, "Do both maps mark the same pixels?", "likeness"),
    "cosine": Score(lambda maps, reference: cosine(maps, reference), "Cosine of signed maps", "C", "higher", -1, 1, 0,
                    "Do both gradients point the same way?", "likeness"),
    "ssim": Score(lambda maps, reference: ssim(maps, reference), "Structural similarity", "SSIM", "higher", -1, 1, None,
                  "Do both maps look alike?", "likeness"),
}  # fmt: skip
PRESERVATION = tuple(name for name, score in SCORES.items() if score.of == "likeness")


def map_scores(images: "Tensor", maps: "Tensor") -> "dict[str, Tensor]":
    """Every registered score that needs no network.

    Args:
        images: float (B, C, H, W) in [0, 1].
        maps: (B, H, W), of a network or a control.

    Returns:
        Each score by its id, float64 (B,); `dead` is 1 or 0.
    """
    return {name: score.function(maps, images) for name, score in SCORES.items() if score.of == "map"}


def foreground_of(images: "Tensor") -> "Tensor":
    """The object in images (B, C, H, W), every pixel with a channel above 0: bool (B, H, W)."""
    return (images > 0).any(1)


# ------------------------------------------------------------------------------------------- scores of a map by itself


def gini(maps: "Tensor") -> "Tensor":
    """Gini index of the magnitudes (B, H, W): 0 for a uniform map, 1 - 1/n for a single pixel (arXiv 0811.4706).

    G = sum_i (2i - n - 1) m_(i) / (n sum m), m_(1) <= ... <= m_(n): (B,) in [0, 1). Blind to the places of the pixels.
    """
    import torch

    ordered = torch.from_numpy(np.sort(absolute(maps).numpy(force=True), axis=1)).to(maps.device).double()
    n = ordered.shape[1]
    i = torch.arange(1, n, dtype=torch.float64, device=ordered.device)
    # Summed by parts: every term is >= 0, so a uniform map gives exactly 0.
    return (i * (n - i) * ordered.diff(dim=1)).sum(1) / (n * ordered.sum(1))


def gini_near(maps: "Tensor", foreground: "Tensor") -> "Tensor":
    """Gini index over the pixels within NEAR of the foreground: (B,), NaN without any foreground.

    Where an image is blank further off, a first layer whose biases are all 0 or less is silent, and every gradient is
    exactly 0; one bias above 0 gives all those pixels a gradient. The index of the whole map tells such networks apart
    by pixels on which nothing is to be seen; this one leaves them out. Arguments as of foreground_mass.
    """
    from torch.nn.functional import max_pool2d

    values, inside = absolute(maps).view_as(maps), _inside(maps, foreground).view_as(maps)
    near = max_pool2d(inside[:, None].float(), 2 * NEAR + 1, stride=1, padding=NEAR).squeeze(1)
    # Zeros in the place of the other pixels, n - k of n, turn an index g of the k near ones into 1 - (1 - g) k / n.
    return 1 - (1 - gini(values * near)) / near.double().flatten(1).mean(1)


def morans_i(maps: "Tensor") -> "Tensor":
    """Moran's I of the magnitudes (B, H, W) with rook neighbours: 1 smooth, 0 speckle, -1 checkers (Moran, 1950).

    I = (n / E) sum over the E edges of (m_u - mean)(m_v - mean) / sum (m - mean)^2: (B,), about -1 to 1, NaN for a
    constant map. Random order gives -1/(n-1) on average.
    """
    flat = magnitude(maps)
    height, width = maps.shape[1:]
    centred = (flat - flat.mean(1, keepdim=True)).unflatten(1, (height, width))
    vertical = (centred[:, 1:] * centred[:, :-1]).sum((1, 2))
    horizontal = (centred[:, :, 1:] * centred[:, :, :-1]).sum((1, 2))
    edges = (height - 1) * width + height * (width - 1)
    moran = (height * width / edges) * (vertical + horizontal) / centred.square().sum((1, 2))
    # The mean of equal values is rounded: their spread would be noise instead of 0.
    return moran.masked_fill(flat.amin(1) == flat.amax(1), nan)


def foreground_mass(maps: "Tensor", foreground: "Tensor") -> "Tensor":
    """Share of the magnitude on the foreground, corrected for chance: 1 all of it, 0 chance (after arXiv 2003.07258).

    R = (sum_M m / sum m - |M|/n) / (1 - |M|/n): (B,), at most 1; NaN for an empty or full foreground M.

    Args:
        maps: (B, H, W).
        foreground: (B, H, W), true or above 0 on M, so that raw pixels will do.
    """
    values, inside = magnitude(maps), _inside(maps, foreground)
    area = inside.double().mean(1)
    share = (values * inside).sum(1) / values.sum(1)
    return ((share - area) / (1 - area)).masked_fill((area == 0) | (area == 1), nan)


def auroc(maps: "Tensor", foreground: "Tensor") -> "Tensor":
    """Probability that a pixel of the foreground M outranks one of the background, ties half: .5 is chance.

    Mann and Whitney's U / (|M| |not M|): (B,) in [0, 1]; NaN for an empty or full foreground. Arguments as of
    foreground_mass.
    """
    ranks, inside = mid_ranks(absolute(maps)), _inside(maps, foreground)
    count = inside.sum(1).double()
    rank_sum = (ranks * inside).sum(1)
    return (rank_sum - count * (count + 1) / 2) / (count * (inside.shape[1] - count))


def entropy(maps: "Tensor") -> "Tensor":
    """Entropy of the map (B, H, W) as a distribution over n pixels, over ln n (after arXiv 2005.00631).

    (B,) in [0, 1]: 0 for one pixel, 1 for a uniform map.
    """
    import torch

    values = magnitude(maps)
    return torch.special.entr(values / values.sum(1, keepdim=True)).sum(1) / log(values.shape[1])


def amplitude(maps: "Tensor") -> "Tensor":
    """Median magnitude of the map (B, H, W), the one number here that depends on its scale: (B,), not negative.

    How much the logit minds a pixel: a gradient's unit is one of the logit for the whole range of a pixel. It describes
    and is no score: a network whose logits are twice as large, and says the same, has twice the amplitude.
    """
    import torch

    return torch.from_numpy(np.median(magnitude(maps).numpy(force=True), axis=1)).to(maps.device)


def _inside(maps: "Tensor", foreground: "Tensor") -> "Tensor":
    if foreground.shape != maps.shape:
        shapes = f"{tuple(maps.shape)}, not {tuple(foreground.shape)}"
        raise ValueError(f"the foreground must have the shape of the maps, {shapes}")
    return (foreground > 0).flatten(1)


# ------------------------------------------------------------------------------------------ likeness to a reference map

SSIM_WINDOW = 7


def preservation_scores(maps: "Tensor", reference: "Tensor") -> "dict[str, Tensor]":
    """All likenesses of maps to the reference maps of the same images: fidelity to another network, not clarity.

    A number here means little without the same statistic between two full-precision networks that differ in the seed.

    Args:
        maps, reference: (B, H, W), signed, at least 7 x 7 pixels.

    Returns:
        Each likeness by its id, float64 (B,); NaN where either map is dead.

    Raises:
        ValueError: the shapes differ.
    """
    return {name: SCORES[name].function(maps, reference) for name in PRESERVATION}


def spearman(maps: "Tensor", reference: "Tensor") -> "Tensor":
    """Spearman's correlation of the magnitudes (mid-ranks): float64 (B,) in [-1, 1]; constant is NaN."""
    x, y = (mid_ranks(values) for values in _pair(maps, reference))
    return _cosine(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))


def top_overlap(maps: "Tensor", reference: "Tensor", fraction: float = 0.1) -> "Tensor":
    """Intersection over union of the most salient pixels of both: float64 (B,) in [0, 1].

    The top set holds `fraction` of the pixels, rounded, ties going to the first; a pixel of magnitude 0
    never belongs to it, or two sparse maps would agree on pixels that neither of them marks.
    """
    x, y = _pair(maps, reference)
    count = round(fraction * x.shape[1])
    in_x, in_y = ((stable_ranks(v, descending=True) < count) & (v > 0) for v in (x, y))
    return (in_x & in_y).sum(1).double() / (in_x | in_y).sum(1)


def cosine(maps: "Tensor", reference: "Tensor") -> "Tensor":
    """Cosine of the angle between the signed maps: float64 (B,) in [-1, 1]."""
    _pair(maps, reference)
    x, y = maps.detach().double().flatten(1), reference.detach().double().flatten(1)
    return _cosine(x, y).masked_fill(dead(maps) | dead(reference), nan)


def ssim(maps: "Tensor", reference: "Tensor") -> "Tensor":
    """Structural similarity of the magnitudes, each divided by its own maximum: float64 (B,) in [-1, 1].

    Uniform 7 x 7 windows inside the map, sample covariance, data range 1. Near-empty maps score high by
    construction.
    """
    from torch.nn.functional import avg_pool2d

    x, y = (values.double() / values.amax(1, keepdim=True) for values in _pair(maps, reference))
    x, y = x.unflatten(1, maps.shape[1:]), y.unflatten(1, maps.shape[1:])
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y, xx, yy, xy = (avg_pool2d(v, SSIM_WINDOW, stride=1) for v in (x, y, x * x, y * y, x * y))
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    var_x, var_y = unbiased * (xx - mean_x**2), unbiased * (yy - mean_y**2)
    covariance = unbiased * (xy - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2))


def _cosine(x: "Tensor", y: "Tensor") -> "Tensor":
    from torch.linalg import vector_norm  # torch.sqrt of a tensor is MKL's, which rounds by the processor

    return (x * y).sum(1) / (vector_norm(x, dim=1) * vector_norm(y, dim=1))


def _pair(maps: "Tensor", reference: "Tensor") -> "tuple[Tensor, Tensor]":
    """Magnitudes (B, n) of both, NaN in the rows where either is dead; ValueError if the shapes differ."""
    if maps.shape != reference.shape:
        raise ValueError(f"maps {tuple(maps.shape)}, but reference {tuple(reference.shape)}: one shape is needed")
    lost = (dead(maps) | dead(reference))[:, None]
    return absolute(maps).masked_fill(lost, nan), absolute(reference).masked_fill(lost, nan)


# --------------------------------------------------------------------------------------- magnitude, dead maps and ranks


def magnitude(maps: "Tensor") -> "Tensor":
    """Absolute values of maps (B, H, W) as float64 (B, H * W), NaN in the rows of dead maps."""
    return absolute(maps).double()


def absolute(maps: "Tensor") -> "Tensor":
    """As `magnitude`, but float32 maps stay float32: their order is found faster."""
    import torch

    if maps.ndim != 3:
        raise ValueError(f"maps must have shape (images, height, width), not {tuple(maps.shape)}")
    values = maps.detach() if maps.dtype == torch.float32 else maps.detach().double()
    return values.abs().flatten(1).masked_fill(dead(maps)[:, None], nan)


def dead(maps: "Tensor") -> "Tensor":
    """Which maps (B, H, W) say nothing, being all zero or not finite somewhere: bool (B,)."""
    flat = maps.flatten(1)
    return (flat == 0).all(1) | ~flat.isfinite().all(1)


def mid_ranks(values: "Tensor") -> "Tensor":
    """Rank of each value in its row, from 1, equal ones sharing the mean: float64 (B, n); a row with NaN is NaN."""
    # Of equal values that lie at first to last, one has the places first + k upwards and n - 1 - last + k downwards.
    sums = stable_ranks(values) - stable_ranks(values, descending=True) + values.shape[1] + 1
    return (sums.double() / 2).masked_fill(values.isnan().any(1, keepdim=True).cpu(), nan)


def stable_ranks(values: "Tensor", *, descending: bool = False) -> "Tensor":
    """Place of each value in its sorted row, from 0: int64 (B, n).

    Among equals the earlier column comes first in both directions, so a constant row has one order; NaN, too.
    """
    import torch

    order = _order(values.nan_to_num(0.0).numpy(force=True), descending)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    return torch.from_numpy(ranks)


def _order(values: NDArray, descending: bool) -> NDArray[np.int64]:
    """The columns of each row as its values, and among equals its columns, ascend (or the values descend)."""
    if values.dtype != np.float32 or (values < 0).any():
        return np.argsort(-values if descending else values, axis=1, kind="stable")
    # A float32 that is not negative orders as its bits do. With the column in the lower half of a 64-bit key, one sort
    # of integers, which NumPy does with vector instructions, finds the order: five times as fast.
    bits = (values + np.float32(0)).view(np.uint32)  # the sum makes 0 of -0
    keys = (~bits if descending else bits).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(values.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
