"""The saliency map: the gradient of a logit for the pixels.

The map is the gradient of a logit, not of a probability: the gradient of a log-softmax vanishes for confident images.
For a quantized network the exact derivative is zero almost everywhere; what autograd returns, and what every map here
shows, is the gradient of the straight-through surrogate that trained the network.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
    """Map (B, H, W) of each image's target logit; logits (B, classes), computed from images (B, C, H, W)."""
    chosen = logits.gather(1, targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, images, retain_graph=retain_graph)
    return per_pixel(gradient)


def per_pixel(values: Tensor) -> Tensor:
    """Values of pixels (B, C, H, W) as maps (B, H, W): of several channels the one that is largest in magnitude."""
    if values.shape[1] == 1:
        return values.squeeze(1)
    return values.gather(1, values.abs().argmax(1, keepdim=True)).squeeze(1)


def input_gradient(model: nn.Module, images: Tensor, targets: Tensor | None = None) -> Tensor:
    """Saliency map: gradient of the logit of the target class for the pixels (Simonyan et al., arXiv 1312.6034).

    The network is run in evaluation mode; its mode, parameters and their gradients stay as they were.

    Args:
        model: any network of images to logits (B, classes).
        images: float (B, C, H, W), for the networks here (B, 1, 28, 28) in [0, 1].
        targets: int64 (B,), the predicted classes when None.

    Returns:
        Float (B, H, W), signed; of several channels the gradient that is largest in magnitude.

    Raises:
        DeadNetworkError: the logits do not depend on the input; a straight-through map would still look plausible.
        ValueError: the images are not (B, C, H, W).
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), not {tuple(images.shape)}")
    images = images.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        logits = model(images)
        if (logits == logits[0]).all():
            check_alive(model, images.detach())
        return logit_gradient(logits, images, logits.argmax(1) if targets is None else targets)


@torch.no_grad()
def check_alive(model: nn.Module, images: Tensor) -> None:
    """Refuse a network whose logits are the same for the images, their negatives and a blank image.

    Args:
        model: any network of images to logits (B, classes); it is run in evaluation mode.
        images: float (B, C, H, W) in [0, 1].

    Raises:
        DeadNetworkError: they are, so nothing depends on the input.
    """
    probes = torch.cat([images, 1 - images, torch.zeros_like(images[:1])])
    with evaluating(model):
        logits = model(probes)
    if (logits == logits[0]).all():
        raise DeadNetworkError(
            "the network is dead: its logits do not depend on the input, so its saliency map means nothing. "
            "Calibrate the activations (saqlib.network.calibrate) and train it again."
        )
