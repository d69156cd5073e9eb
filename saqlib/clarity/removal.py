"""What the network does when pixels are removed or shaken: relevance gain, curves, maximal sensitivity.

A removed pixel becomes raw 0, the background. Removing background is therefore no change at all, and a
deletion curve mixes where a map lies with whether the network uses what lies there; the symmetric relevance
gain takes the difference of both directions, and a random line belongs beside every curve.

Sources: symmetric relevance gain, Bluecher et al., arXiv 2401.06654; deletion and insertion, Petsiuk et al.
(RISE), arXiv 1806.07421; deletion accuracy, Ismail et al., arXiv 2111.14338; maximal sensitivity, Yeh et
al., arXiv 1901.09392, as computed by captum.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saqlib.clarity.maps import dead, magnitude, stable_ranks
from saqlib.saliency.gradient import evaluating, input_gradient

FORWARD_IMAGES = 512  # images in one forward pass: large enough to be fast, small enough to stay in the cache
GRADIENT_IMAGES = 2048  # images in one gradient


class RemovalAreas(NamedTuple):
    """Mean target probability while pixels are removed, each float64 (B,); gain = insertion - deletion."""

    gain: Tensor  # in [-1, 1]; 0 = chance
    deletion: Tensor  # most relevant first, in [0, 1]
    insertion: Tensor  # least relevant first, in [0, 1]: read backwards, the most relevant are inserted


class RemovalCurves(NamedTuple):
    """Target probability after each step of removal, from none to all pixels, each float64 (B, steps + 1)."""

    least: Tensor  # least relevant first
    most: Tensor  # most relevant first


class Curve(NamedTuple):
    """What is left of the prediction after each fraction of the pixels was removed."""

    probability: Tensor  # of the target class: float64 (B, K)
    correct: Tensor  # the target class is still the predicted one: bool (B, K)


def symmetric_relevance_gain(
    model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, steps: int
) -> Tensor:
    """Gain of removing the least relevant pixels before the most relevant ones (arXiv 2401.06654).

    S = mean over k of f(k least relevant removed) - f(k most relevant removed), with f the softmax probability of the
    target class and k on `steps` equal steps of the pixel count; the end points are common and add 0. Equal magnitudes
    leave in the same order in both directions, so a constant map scores exactly 0. Depends on the ranks of |maps|
    alone. A pixel leaves in all its channels.

    Args:
        model: any network of images to logits.
        images: float (B, C, H, W) in [0, 1].
        targets: int64 (B,), the classes that the maps explain.
        maps: (B, H, W).
        steps: 2 to H * W.

    Returns:
        Float64 (B,) in [-1, 1]; 0 is chance; NaN for a dead map.

    Raises:
        ValueError: other shapes, or steps outside these.
    """
    return areas(removal_curves(model, images, targets, maps, steps)).gain


def removal_curves(
    model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, steps: int
) -> RemovalCurves:
    """What is left of the prediction after 0, 1, ... `steps` equal steps of removal, in both directions.

    Arguments and errors as `symmetric_relevance_gain`. The rows of dead maps are NaN.
    """
    pixels = images[0, 0].numel()
    if not 2 <= steps <= pixels:
        raise ValueError(f"steps must lie between 2 and the {pixels} pixels of an image, not {steps}")
    counts = [round(step * pixels / steps) for step in range(1, steps)]
    orders = removal_ranks(maps), removal_ranks(maps, most_first=True)
    least, most = (_remove_and_predict(model, images, targets, ranks, counts)[0] for ranks in orders)
    # Equal images at other places of a batch may differ by rounding: where the orders are one, so are the curves.
    least = least.where((orders[0] != orders[1]).any(1, keepdim=True).to(least.device), most)
    start, end = _remove_and_predict(model, images, targets, orders[0], [0, pixels])[0].split(1, dim=1)
    lost = dead(maps)[:, None].to(least.device)
    return RemovalCurves(*(torch.cat([start, inner, end], 1).masked_fill(lost, torch.nan) for inner in (least, most)))


def areas(curves: RemovalCurves) -> RemovalAreas:
    """The areas under both curves by the trapezoid rule, and their difference."""
    insertion, deletion = (
        (curve[:, 1:-1].sum(1) + curve[:, [0, -1]].mean(1)) / (curve.shape[1] - 1) for curve in curves
    )
    return RemovalAreas(insertion - deletion, deletion, insertion)


def removal_ranks(maps: Tensor, *, most_first: bool = False) -> Tensor:
    """Order of removal by |maps| (B, H, W): int64 (B, H * W), rank 0 leaves first; ties by index."""
    return stable_ranks(magnitude(maps), descending=most_first)


def random_ranks(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of removal for each of images (B, C, H, W): int64 (B, H * W), the line of chance."""
    return stable_ranks(torch.rand(images[:, 0].flatten(1).shape, generator=generator))


def removal_curve(
    model: nn.Module, images: Tensor, targets: Tensor, ranks: Tensor, fractions: Sequence[float]
) -> Curve:
    """Probability and top-1 of the target class with fractions of the pixels removed in the order of ranks.

    With `removal_ranks(maps, most_first=True)` this is the deletion curve; with `removal_ranks(maps)` the
    insertion curve, read from right to left; with `random_ranks` the line of chance. The targets decide
    what "correct" means: labels give the deletion accuracy of saliency-guided training, whose fractions are
    0, .1 ... .9.

    images: float (B, C, H, W). targets: int64 (B,). ranks: int64 (B, H * W). Raises ValueError for other
    shapes or fractions outside [0, 1]. Rows of dead maps hold the curve of an arbitrary order: leave them
    out (`dead`).
    """
    if not all(0 <= fraction <= 1 for fraction in fractions):
        raise ValueError(f"fractions must lie in [0, 1], not {list(fractions)}")
    counts = [round(fraction * ranks.shape[1]) for fraction in fractions]
    return Curve(*_remove_and_predict(model, images, targets, ranks, counts))


def sensitivity_max(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
    radius: float = 0.02,
    draws: int = 10,
) -> Tensor:
    """Largest relative change of the input gradient under small noise, by captum: float64 (B,), 0 = stable.

    max over draws of ||g(x + u) - g(x)|| / ||g(x)||, u uniform in [-radius, radius] in units of raw pixels
    in [0, 1]. The target class stays that of the unchanged image. A dead map gives NaN.
    """

    from captum.metrics import sensitivity_max as captum_sensitivity_max  # takes a second

    def shake(inputs: Tensor, radius: float) -> Tensor:
        noise = torch.rand(inputs.shape, generator=generator, device=generator.device)
        return inputs + radius * (2 * noise - 1).to(inputs)

    def explain(inputs: Tensor | tuple[Tensor], target: Tensor) -> tuple[Tensor]:
        (inputs,) = (
            inputs if isinstance(inputs, tuple) else (inputs,)
        )  # captum passes both, and wants a tuple
        return (input_gradient(model, inputs, target),)

    chunk = max(1, GRADIENT_IMAGES // draws)
    sensitivities = []
    for some, classes in zip(images.split(chunk), targets.split(chunk), strict=True):
        score = captum_sensitivity_max(explain, some, shake, radius, draws, target=classes)
        sensitivities.append(score.double().masked_fill(dead(explain(some, classes)[0]), torch.nan))
    return torch.cat(sensitivities)


@torch.no_grad()
def _remove_and_predict(
    model: nn.Module, images: Tensor, targets: Tensor, ranks: Tensor, counts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Target probability (float64) and top-1 hit (bool) with counts[k] pixels removed, both (B, K)."""
    fit = images.ndim == 4 and ranks.shape == images[:, 0].flatten(1).shape and targets.shape == ranks.shape[:1]
    if not fit:
        raise ValueError(
            "images (B, C, H, W), targets (B,) and maps (B, H, W) or ranks (B, H * W) must fit; "
            f"got images {tuple(images.shape)}, targets {tuple(targets.shape)}, ranks {tuple(ranks.shape)}"
        )
    limits = torch.tensor(counts, device=images.device)[:, None]
    group = max(1, FORWARD_IMAGES // len(counts))
    probability, correct = [], []
    with evaluating(model):
        for some, classes, places in zip(
            images.split(group), targets.split(group), ranks.to(images.device).split(group), strict=True
        ):
            # Written with the channels last, which is the memory format that the network runs fastest in.
            pixels = some.permute(0, 2, 3, 1).flatten(1, 2)[:, None]  # (B, 1, H * W, C)
            kept = torch.where((places[:, None] >= limits)[..., None], pixels, 0.0)
            kept = kept.reshape(-1, *images.shape[2:], images.shape[1]).permute(0, 3, 1, 2)
            logits = model(kept).double().unflatten(0, (len(some), len(counts)))
            chosen = classes[:, None, None].expand(-1, len(counts), 1)
            probability.append(logits.softmax(2).gather(2, chosen).squeeze(2))
            correct.append(logits.argmax(2) == classes[:, None])
    return torch.cat(probability), torch.cat(correct)
