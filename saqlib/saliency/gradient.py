"""The saliency map: the gradient of a logit for the pixels.

The map is the gradient of a logit, not of a probability: the gradient of a log-softmax vanishes for confident images.
For a quantized network the exact derivative is zero almost everywhere; what autograd returns, and what every map here
shows, is the gradient of the straight-through surrogate that trained the network.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saqlib.errors import check_finite


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


@contextmanager
def differentiating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and gradients also where the caller has switched them off.

    Raises ValueError for a network that was made in inference mode.
    """
    if any(value.is_inference() for value in model.parameters()):
        raise ValueError("the network was made in inference mode, so nothing has a gradient; make it outside")
    with evaluating(model), torch.enable_grad():
        yield


def logit_gradient(logits: Tensor, images: Tensor, targets: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Map (B, H, W) of each image's target logit; logits (B, classes), computed from images (B, C, H, W).

    Raises ValueError for logits or targets of another shape: of some, autograd makes a map that means something else.
    """
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(f"the network must give logits ({len(images)}, classes), not {tuple(logits.shape)}")
    check_targets(targets, len(logits))
    chosen = logits.gather(1, targets[:, None]).sum()
    with torch.autocast(images.device.type, enabled=False):  # float16 holds no gradient below 6e-8
        (gradient,) = torch.autograd.grad(chosen, images, retain_graph=retain_graph)
    return per_pixel(gradient)


def check_targets(targets: Tensor, count: int) -> None:
    """Raise ValueError unless there is one class, int64, for each of `count` images."""
    if targets.shape != (count,) or targets.dtype != torch.int64:
        found = f"{targets.dtype} {tuple(targets.shape)}"
        raise ValueError(f"targets must be torch.int64 ({count},), a class for each image, not {found}")


def per_pixel(values: Tensor) -> Tensor:
    """Values of pixels (B, C, H, W) as maps (B, H, W): of several channels the one that is largest in magnitude."""
    if values.shape[1] == 1:
        return values.squeeze(1)
    return values.gather(1, values.abs().argmax(1, keepdim=True)).squeeze(1)


def _explainable(model: nn.Module, images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Images and targets as autograd takes them, without history; errors as of input_gradient."""
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be float (B, C, H, W), not {images.dtype} {tuple(images.shape)}")
    if not images.numel():
        raise ValueError(f"there are no images to explain: {tuple(images.shape)}")
    if targets is not None:
        check_targets(targets, len(images))
    check_finite(images.detach(), "images are")
    for name, value in model.named_parameters():  # which a clip or a ReLU would hide
        check_finite(value.detach(), f"the network's {name} is")
    return _usable(images).detach(), None if targets is None else _usable(targets)


def _usable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which autograd would refuse."""
    return tensor.clone() if tensor.is_inference() else tensor


def method(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Around a function (model, images, targets, ...) that makes maps: what it takes and what it gives is checked.

    A map looks plausible whatever it was made of. It is made outside of a caller's inference mode and autocast. Raises
    ValueError, as of input_gradient.
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def checked(*given: Any, **options: Any) -> Tensor:
        bound = signature.bind(*given, **options)
        values = bound.arguments
        with torch.inference_mode(False), torch.autocast(values["images"].device.type, enabled=False):
            found = _explainable(values["model"], values["images"], values.get("targets"))
            values["images"], values["targets"] = found
            maps = make(*bound.args, **bound.kwargs)
        check_finite(maps, "the map is")
        return maps

    return checked


@method
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
        ValueError: there are no images, or they or the targets are of another shape or type; as NotFiniteError, a
            pixel, a parameter, a logit or the map itself is NaN or infinite.
    """
    with differentiating(model):
        images.requires_grad_()
        logits = model(images)
        check_finite(logits.detach(), "the network's logits are")
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
        ValueError: as of input_gradient.
    """
    images, _ = _explainable(model, images, None)
    probes = torch.cat([images, 1 - images, torch.zeros_like(images[:1])])
    with evaluating(model):
        logits = model(probes)
    check_finite(logits, "the network's logits are")
    if (logits == logits[0]).all():
        raise DeadNetworkError(
            "the network is dead: its logits do not depend on the input, so its saliency map means nothing. "
            "Calibrate the activations (saqlib.network.calibrate) and train it again."
        )
