"""A look at a network while it trains: how good it is, what its activations do, and what its maps are."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from saqlib.data.images import as_input
from saqlib.errors import check_finite
from saqlib.network.quantization import PACT, pact_layers
from saqlib.saliency.gradient import check_targets, evaluating, logit_gradient

CHUNK = 500  # images a forward pass without gradients takes at once


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percentage of images that the network, in evaluation mode, classifies as they are labelled.

    Args:
        model: any network of images to logits (B, classes).
        images: uint8 (N, H, W), or of several channels (N, C, H, W).
        labels: int64 (N,).

    Raises:
        ValueError: there are no images, or not one label for each; as NotFiniteError, a logit is NaN or infinite.
    """
    if not len(images):
        raise ValueError("there are no images to classify")
    check_targets(labels, len(images))
    right = 0
    with evaluating(model):
        for some, truth in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
            logits = model(as_input(some))
            check_finite(logits, "the network's logits are")
            right += int((logits.argmax(1) == truth).sum())
    return 100 * right / len(labels)


def finite(model: nn.Module) -> bool:
    """Whether no weight, clip or scale is NaN or infinite."""
    return all(bool(value.isfinite().all()) for value in model.state_dict().values())


@torch.no_grad()
def activation_shares(model: nn.Module, images: Tensor) -> dict[str, dict[str, float]]:
    """Of each PACT layer: alpha, the share of inputs at or above it (`clipped`) and of outputs that are 0 (`zero`)."""
    shares: dict[str, dict[str, float]] = {}

    def observer(name: str) -> Callable[..., None]:
        def observe(layer: PACT, inputs: tuple[Tensor], output: Tensor) -> None:
            shares[name] = {
                "alpha": layer.alpha.item(),
                "clipped": (inputs[0] >= layer.alpha).float().mean().item(),
                "zero": (output == 0).float().mean().item(),
            }

        return observe

    hooks = [layer.register_forward_hook(observer(name)) for name, layer in pact_layers(model).items()]
    try:
        with evaluating(model):
            model(as_input(images))
    finally:
        for hook in hooks:
            hook.remove()
    return shares


def saliency_now(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Maps of float images (B, 1, 28, 28) in the middle of training; a dead network's maps are recorded as they are."""
    watched = images.detach().requires_grad_()
    with evaluating(model):
        return logit_gradient(model(watched), watched, labels)
