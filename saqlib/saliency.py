"""Input gradients, and what guided training does with them: masking the least salient pixels.

The map is the gradient of a logit, not of a probability: the gradient of a log-softmax vanishes for confident images.
For a quantized network the exact derivative is zero almost everywhere; what autograd returns, and what every map here
shows, is the gradient of the straight-through surrogate that trained the network.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

RANKINGS = ("magnitude", "signed")


class DeadNetworkError(RuntimeError):
    """The logits do not depend on the input, so there is nothing to explain."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, the former mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def logit_gradient(logits: Tensor, images: Tensor, targets: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Gradient (B, 28, 28) of each image's target logit for its pixels; logits (B, 10), images (B, 1, 28, 28)."""
    chosen = logits.gather(1, targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, images, retain_graph=retain_graph)
    return gradient.squeeze(1)


def input_gradient(model: nn.Module, images: Tensor, targets: Tensor | None = None) -> Tensor:
    """Saliency map: gradient of the logit of the target class for the pixels (Simonyan et al., arXiv 1312.6034).

    images: float (B, 1, 28, 28) in [0, 1]. targets: int64 (B,), the predicted classes when None. Returns float
    (B, 28, 28), signed. The network is run in evaluation mode; its mode, parameters and their gradients stay as they
    were. Raises DeadNetworkError if the logits do not depend on the input: a straight-through map would still look
    plausible.
    """
    images = images.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        logits = model(images)
        if (logits == logits[0]).all():
            check_alive(model, images.detach())
        return logit_gradient(logits, images, logits.argmax(1) if targets is None else targets)


@torch.no_grad()
def check_alive(model: nn.Module, images: Tensor) -> None:
    """Raise DeadNetworkError if the logits are the same for the images, their negatives and a blank image."""
    probes = torch.cat([images, 1 - images, torch.zeros_like(images[:1])])
    with evaluating(model):
        logits = model(probes)
    if (logits == logits[0]).all():
        raise DeadNetworkError(
            "the network is dead: its logits do not depend on the input, so its saliency map means nothing. "
            "Calibrate the activations (saqlib.quantization.calibrate) and train it again."
        )


def mask_least_salient(
    images: Tensor,
    saliency: Tensor,
    fraction: float,
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    ranking: str = "magnitude",
) -> Tensor:
    """Replace the least salient pixels of each image by uniform noise in that image's own range.

    images: float (B, 1, 28, 28). saliency: (B, 28, 28). fraction: share of the pixels in [0, 1], rounded down to whole
    pixels; exactly so many are replaced, ties going to the first pixels. generator: of the noise, or several, each for
    the same number of images. ranking: `magnitude` masks the smallest
    |saliency| (the words of saliency-guided training, Ismail et al., arXiv 2111.14338), `signed` the most negative
    (its released code). Returns new images. Raises ValueError for a fraction or ranking outside these.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1], not {fraction!r}")
    if ranking not in RANKINGS:
        raise ValueError(f"ranking must be one of {', '.join(RANKINGS)}, not {ranking!r}")
    flat = images.flatten(1)
    key = saliency.flatten(1)
    least = least_salient(key.abs() if ranking == "magnitude" else key, int(fraction * flat.shape[1]))
    low, high = flat.aminmax(dim=1, keepdim=True)
    generators = [generator] if isinstance(generator, torch.Generator) else generator
    share = len(flat) // len(generators), flat.shape[1]
    noise = torch.cat([torch.rand(share, generator=g, device=g.device) for g in generators]).to(flat.device)
    return torch.where(least, low + (high - low) * noise, flat).view_as(images)


def least_salient(key: Tensor, count: int) -> Tensor:
    """Mask of the `count` smallest values of each row of key (B, n): bool (B, n), ties going to the first columns."""
    if count == 0:
        return torch.zeros_like(key, dtype=torch.bool)
    threshold = _kth_smallest(key, count)
    mask = key <= threshold
    surplus = mask.sum(1) - count
    for row in surplus.nonzero().flatten().tolist():  # ties at the threshold: keep the first ones
        tied = (key[row] == threshold[row]).nonzero().flatten()
        mask[row, tied[len(tied) - surplus[row] :]] = False
    return mask


def _kth_smallest(key: Tensor, count: int) -> Tensor:
    """The `count`-th smallest value of each row, (B, 1); NumPy's vectorised selection is ten times kthvalue's speed."""
    if key.is_cuda:
        return key.kthvalue(count, dim=1, keepdim=True).values
    ordered = np.partition(key.numpy(), count - 1, axis=1)
    return torch.from_numpy(ordered[:, count - 1 : count])
