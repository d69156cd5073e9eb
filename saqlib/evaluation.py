"""How any network is asked: in evaluation mode, on copies of the images, and what it may answer.

Afterwards it is as it was before, whatever happens in between.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CUT = "the network's logits have no gradient for the images: its forward cuts it (detach, no_grad)"


@contextmanager
def temporarily(modules: Iterable[nn.Module], **attributes: Any) -> Iterator[None]:
    """Inside, these plain attributes of the modules have these values; behind it the former ones, whatever happens."""
    former = [(module, {name: getattr(module, name) for name in attributes}) for module in modules]
    try:
        for module, _ in former:
            vars(module).update(attributes)
        yield
    finally:
        for module, values in former:
            vars(module).update(values)


def check_network(model: Any) -> None:
    """Raise ValueError for what is no module, and so has neither modes nor parameters, such as a function."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"the network must be an nn.Module, not a {type(model).__name__}")


def hooked(module: nn.Module) -> bool:
    """Whether somebody has hung a hook of any sort on this module."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, the former mode of every module afterwards."""
    check_network(model)
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


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """The logits (B, classes) of images (B, ...), of which the network gets a copy: some overwrite their input.

    Raises ValueError for anything else that a network gives, and if the images want a gradient that it cuts.
    """
    check_network(model)
    logits = check_logits(model(images.clone()), len(images))
    if images.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
        raise ValueError(CUT)
    return logits


def check_logits(logits: Any, count: int) -> Tensor:
    """Return the logits of so many images, (count, classes); raise ValueError for anything else."""
    if not isinstance(logits, Tensor):
        raise ValueError(f"the network must give logits, one tensor ({count}, classes), not a {type(logits).__name__}")
    if logits.ndim != 2 or len(logits) != count:
        raise ValueError(f"the network must give logits ({count}, classes), not {tuple(logits.shape)}")
    return logits


def check_uncoupled(model: nn.Module) -> None:
    """Raise ValueError if an image's logits hang on the other images of its batch, which no map of it may."""
    check_network(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"{name or 'the network'}, a {type(module).__name__}, has no running statistics, so the answer to an "
                "image hangs on the others of its batch; train it with track_running_stats=True"
            )


def check_targets(targets: Tensor, count: int) -> None:
    """Raise ValueError unless there is one class, int64, for each of `count` images."""
    if targets.shape != (count,) or targets.dtype != torch.int64:
        given = f"{targets.dtype} {tuple(targets.shape)}"
        raise ValueError(f"targets must be torch.int64 ({count},), a class for each image, not {given}")
