"""What the network does when pixels are removed: relevance gain and curves, with four ways to remove a pixel.

    from saqlib.removal import relevance_gain

    relevance_gain(model, images, targets, maps, steps=14)                  # (B,) float64 in [-1, 1]
    relevance_gain(model, images, targets, maps, steps=14, fill="blur")     # zero | mean | noise | blur | images

No fill is neutral: it tells the network something of its own, and a score made with one fill alone measures that, too.

zero   the background of these images: removing background is no change, so a map wins by lying on the object
mean   the mean of the pixel over many images: what is known of a pixel before the image is seen
noise  uniform in the image's own range: as far from any image as from another, and what guided training hides with
blur   the mean of the other pixels, weighted by a Gaussian of their distance: what the surroundings say of it

A fill of one value shows the network which pixels have left, and their outline can speak for the class (Rong et al.,
ROAD, arXiv 2202.00449). Blurring hides that outline as ROAD's own imputation does, but ROAD solves a linear system for
each set of removed pixels, 52,000 of them for a network of this study. Here the fill of a pixel depends on the image
alone: it is the same whichever pixels left before, and both directions of removal end at the same image.

Sources: symmetric relevance gain, Bluecher et al., arXiv 2401.06654; deletion accuracy, Ismail et al., arXiv
2111.14338.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saqlib.errors import one_of
from saqlib.evaluation import check_logits, check_uncoupled, evaluating, logits_of
from saqlib.scores import FILLS, absolute, dead, stable_ranks

NOISE_SEED = 0
BLUR = 0.1  # deviation of the Gaussian in shorter sides of the image: 2.8 of 28 pixels, about the width of a stroke
FORWARD_IMAGES = 512  # images in one forward pass: large enough to be fast, small enough to stay in the cache


def fill_images(fill: str | Tensor, images: Tensor) -> Tensor:
    """The images from which the pixels come that stand in the place of removed ones.

    Args:
        fill: `zero`, `mean` (of each pixel over the images given), `noise` (from a fixed seed: two calls agree, and the
            first images of a batch get the noise that they get alone) or `blur`; or images (B, C, H, W), or one for
            all, (1, C, H, W).
        images: float (B, C, H, W).

    Returns:
        Float (B, C, H, W), or (1, C, H, W) where it is the same for all.

    Raises:
        ValueError: another name (the message says the nearest valid one), images that do not fit, or the mean of a
            single image, which would be the image itself.
    """
    if isinstance(fill, str):
        return _MAKERS[one_of(fill, FILLS, "fill")](images)
    if not isinstance(fill, Tensor):
        raise ValueError(f"fill must be a name ({', '.join(FILLS)}) or a tensor of images, not {type(fill).__name__}")
    if fill.ndim != images.ndim or fill.shape[1:] != images.shape[1:] or len(fill) not in (1, len(images)):
        raise ValueError(
            f"fill must be one image for all or as many as are filled, {tuple(images.shape)}, not {tuple(fill.shape)}"
        )
    return fill.to(images)


def _mean(images: Tensor) -> Tensor:
    if len(images) == 1:
        raise ValueError("the mean of a single image is the image itself; give the mean of other images as the fill")
    return images.mean(0, keepdim=True)


def _noise(images: Tensor) -> Tensor:
    uniform = torch.rand(images.shape, generator=torch.Generator().manual_seed(NOISE_SEED)).to(images)
    low, high = (bound.view(-1, *[1] * (images.ndim - 1)) for bound in images.flatten(1).aminmax(dim=1))
    return low + (high - low) * uniform


def _blur(images: Tensor) -> Tensor:
    """The weighted mean of all pixels, without the pixel itself, whose weight is 1."""
    deviation = BLUR * min(images.shape[-2:])
    rows, columns = (_gaussian(size, deviation).to(images.device) for size in images.shape[-2:])
    weights = rows.sum(1)[:, None] * columns.sum(1)
    whole = images.double()
    return ((rows @ whole @ columns - whole) / (weights - 1)).to(images)


def _gaussian(size: int, deviation: float) -> Tensor:
    """Weight of each place on a line of so many pixels, (size, size), for each place: 1 for itself."""
    # By math.exp: the exponential of a tensor is MKL's, whose bits hang on the processor.
    by_distance = torch.tensor([math.exp(-((d / deviation) ** 2) / 2) for d in range(size)], dtype=torch.float64)
    places = torch.arange(size)
    return by_distance[(places[:, None] - places).abs()]


_MAKERS = {"zero": lambda images: torch.zeros_like(images[:1]), "mean": _mean, "noise": _noise, "blur": _blur}


class RemovalCurves(NamedTuple):
    """Target probability after each step of removal, from none to all pixels, each float64 (B, steps + 1)."""

    least: Tensor  # least relevant first
    most: Tensor  # most relevant first


class Remains(NamedTuple):
    """What is left of the predictions, for each order of removal, image and count of removed pixels: (R, B, K)."""

    probability: Tensor  # of the target class, float64
    correct: Tensor  # the target class is still the predicted one, bool


def relevance_gain(
    model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, steps: int, fill: str | Tensor = "mean"
) -> Tensor:
    """Gain of removing the least relevant pixels before the most relevant ones (arXiv 2401.06654).

    S = mean over k of f(k least relevant removed) - f(k most relevant removed), with f the softmax probability of the
    target class and k on `steps` equal steps of the pixel count; the end points are common and add 0. Equal magnitudes
    leave in the same order in both directions, so a constant map scores exactly 0; without equal ones the reversed map
    scores the exact negative. Depends on the ranks of |maps| alone. A pixel leaves in all its channels.

    Args:
        model: any network of images to logits.
        images: float (B, C, H, W) in [0, 1].
        targets: int64 (B,), the classes that the maps explain.
        maps: (B, H, W).
        steps: 2 to H * W.
        fill: what a removed pixel becomes, as `fill_images` takes it. `mean` is that of the images given, so it needs
            several; the study passes the mean of the training images, (1, C, H, W).

    Returns:
        Float64 (B,) in [-1, 1]; 0 is chance; NaN for a dead map.

    Raises:
        ValueError: other shapes, steps outside these, another fill, or `mean` of a single image.
    """
    (inner,) = inner_curves(model, images, targets, maps, steps, [fill_images(fill, images)])
    return gain(*inner)


def whole_curves(inner: RemovalCurves, start: Tensor, end: Tensor) -> RemovalCurves:
    """Inner curves with their common ends, each (B,): the probability with all pixels and with none."""
    lost = inner.most.isnan().any(1, keepdim=True)
    start, end = start[:, None], end[:, None]
    return RemovalCurves(*(torch.cat([start, each, end], 1).masked_fill(lost, torch.nan) for each in inner))


def gain(least: Tensor, most: Tensor) -> Tensor:
    """The relevance gain of inner curves (B, steps - 1): their common ends add nothing to it."""
    return (least - most).sum(1) / (least.shape[1] + 1)


def inner_curves(
    model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, steps: int, fills: Sequence[Tensor]
) -> list[RemovalCurves]:
    """The curves with each fill, without the first and the last value: the ends need no order, and no gain needs them.

    fills: of `fill_images`. Other arguments and errors as `relevance_gain`.
    """
    pixels = images[0, 0].numel()
    if not 2 <= steps <= pixels:
        raise ValueError(f"steps must lie between 2 and the {pixels} pixels of an image, not {steps}")
    counts = [round(step * pixels / steps) for step in range(1, steps)]
    orders = torch.stack([removal_ranks(maps), removal_ranks(maps, most_first=True)]).to(images.device)
    # Whichever direction begins with the earlier pixel comes first: a map and its reverse make one batch, bit for bit,
    # and their gains differ in nothing but the sign, however the network rounds at each place of a batch.
    swapped = (orders[0].argmin(1) > orders[1].argmin(1))[:, None]
    same, lost = (orders[0] == orders[1]).all(1, keepdim=True), dead(maps)[:, None].to(images.device)
    orders, curves = orders.flip(0).where(swapped, orders), []
    for fill in fills:
        left = remains(model, images, targets, orders, counts, fill).probability
        least, most = left.flip(0).where(swapped, left)
        # Where both orders are one, so are the curves, wherever in the batch they were found.
        curves.append(RemovalCurves(*(each.masked_fill(lost, torch.nan) for each in (most.where(same, least), most))))
    return curves


def removal_ranks(maps: Tensor, *, most_first: bool = False) -> Tensor:
    """Order of removal by |maps| (B, H, W): int64 (B, H * W), rank 0 leaves first; ties by index."""
    return stable_ranks(absolute(maps), descending=most_first)


def random_ranks(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of removal for each of images (B, C, H, W): int64 (B, H * W), the line of chance."""
    return stable_ranks(torch.rand(images[:, 0].flatten(1).shape, generator=generator))


@torch.no_grad()
def remains(
    model: nn.Module, images: Tensor, targets: Tensor, orders: Tensor, counts: Sequence[int], fill: Tensor
) -> Remains:
    """What is left of the predictions with so many pixels removed, in several orders.

    Args:
        model: any network of images to logits.
        images: float (B, C, H, W).
        targets: int64 (B,). Labels give the deletion accuracy of saliency-guided training.
        orders: ranks int64 (R, B, H * W), of `removal_ranks` or `random_ranks`. Those of dead maps are arbitrary:
            leave their rows out.
        counts: K numbers of pixels.
        fill: of `fill_images`, (1 or B, C, H, W).

    Raises:
        ValueError: the shapes do not fit, or the network gives no logits, or couples the images of a batch.
    """
    if images.ndim != 4 or orders.shape[1:] != images[:, 0].flatten(1).shape or targets.shape != images.shape[:1]:
        raise ValueError(
            "images (B, C, H, W), targets (B,) and maps (B, H, W) must fit; "
            f"got images {tuple(images.shape)}, targets {tuple(targets.shape)}, ranks {tuple(orders.shape[1:])}"
        )
    check_uncoupled(model)
    limits = torch.tensor(counts, device=images.device)[:, None]
    # Written with the channels last, which is the memory format that the network runs fastest in: (B, 1, H * W, C).
    pixels, others = (x.permute(0, 2, 3, 1).flatten(1, 2)[:, None] for x in (images, fill.expand_as(images)))
    ranks, classes = orders.to(images.device), targets[None, :, None]
    group = max(1, FORWARD_IMAGES // (len(orders) * len(counts)))
    probability, correct = [], []
    with evaluating(model):
        for some in (slice(first, first + group) for first in range(0, len(images), group)):
            left = torch.where((ranks[:, some, None] >= limits)[..., None], pixels[some], others[some])
            shape = left.shape[:3]  # (R, images, K)
            left = left.reshape(-1, *images.shape[2:], images.shape[1]).permute(0, 3, 1, 2)
            logits = check_logits(model(left), len(left)).double().unflatten(0, shape)
            chosen = classes[:, some].expand(shape)
            probability.append(logits.softmax(3).gather(3, chosen[..., None]).squeeze(3))
            correct.append(logits.argmax(3) == chosen)
    return Remains(torch.cat(probability, 1), torch.cat(correct, 1))


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """The softmax of the logits of images (B, C, H, W): float64 (B, classes)."""
    with evaluating(model):
        return torch.cat([logits_of(model, some).double().softmax(1) for some in images.split(FORWARD_IMAGES)])


def target_probability(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The probability of each target (B,) in its image, or in one image (1, C, H, W) for all: float64 (B,)."""
    return probabilities(model, images).expand(len(targets), -1).gather(1, targets[:, None]).squeeze(1)
