"""The network's forward pass by the kernels, where they fit it.

In training the layers' values are multiplied, in evaluation their integer codes, as in the layers themselves; between
two quantized layers the activations stay codes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from saqlib.evaluation import hooked
from saqlib.kernels import operators as kernels
from saqlib.kernels.library import library, why_not
from saqlib.lattice import to_codes
from saqlib.precision import Shape
from saqlib.quantization import PACT, QuantConv2d, QuantLinear, check_clip, output_scale

CONVOLUTIONS, LINEARS = (nn.Conv2d, QuantConv2d), (nn.Linear, QuantLinear)
ACTIVATIONS = (PACT, nn.ReLU, type(None))
PADDINGS = ((2, 2), (0, 0))  # of the two convolutions


def kind(shape: Shape, device: str) -> str:
    """What computes a network of this shape on a kind of device (`cpu`, `cuda`), with the processor's level.

    It decides rounding, so it is part of the store's keys and stands beside the results.
    """
    if device != "cpu":
        return f"PyTorch on {device}"
    level = torch.backends.cpu.get_cpu_capability()
    fused = library() is not None and shape.channels == kernels.CHANNELS
    return f"fused kernels and PyTorch, {level}" if fused else f"PyTorch, {level}"


def reason(shape: Shape, device: str) -> str:
    """A sentence for a person: what computes, and why the kernels do not where they do not."""
    if device == "cpu" and shape.channels != kernels.CHANNELS:
        widths = " and ".join(map(str, kernels.CHANNELS))
        return f"Computed by PyTorch's operators: the fused kernels are written for {widths} channels."
    if device == "cpu" and why_not():
        return f"Computed by PyTorch's operators, 2 to 3 times slower than the fused kernels: {why_not()}."
    return f"Computed by {kind(shape, device)}."


def fits(network: nn.Module, images: Tensor) -> bool:
    """Whether the kernels compute what this network's layers would.

    They must be the layers that the kernels are written for, float32 on the CPU, and none with weights may have a hook
    or a forward pass of its own. On an activation both are respected.
    """
    if not kernels.runs(images, *network.parameters()) or _has_any_global_hook():
        return False
    inputs = 1
    for place, (_, layer, activation, pooled) in enumerate(network.blocks()):
        known = _is_convolution(layer, inputs, place) if pooled else type(layer) in LINEARS
        if not known or layer.weight.shape[1] != inputs or _customized(layer) or type(activation) not in ACTIVATIONS:
            return False
        bias = layer.bias
        if bias is None or bias.shape != layer.weight.shape[:1] or not bias.is_contiguous():
            return False
        inputs = len(layer.weight) * (kernels.POOLED[1] ** 2 if place == 1 else 1)
    return True


def _is_convolution(layer: nn.Module, inputs: int, place: int) -> bool:
    return (
        type(layer) in CONVOLUTIONS
        and layer.weight.shape == (kernels.CHANNELS[place], inputs, kernels.KERNEL, kernels.KERNEL)
        and (layer.stride, layer.padding, layer.dilation) == ((1, 1), PADDINGS[place], (1, 1))
        and (layer.groups, layer.padding_mode) == (1, "zeros")
    )


def _customized(layer: nn.Module) -> bool:
    """Whether it has a hook, or a method of its own in place of its class's."""
    kind, own = type(layer), vars(layer).items()
    return hooked(layer) or any(callable(value) and callable(getattr(kind, name, None)) for name, value in own)


class _Signal(NamedTuple):
    """What goes from layer to layer; scale: the value of one code (None off a lattice); coded: x holds the codes."""

    x: Tensor
    scale: Tensor | float | None
    coded: bool = False


def forward(network: nn.Module, images: Tensor, scale: float) -> Tensor:
    """Images (B, 1, 28, 28), with the value of one of their codes, to logits (B, classes)."""
    signal = _Signal(images, scale)
    signal = _block(kernels.block1, network.conv1, network.act1, network.conv2, signal)
    signal = _block(kernels.block2, network.conv2, network.act2, network.dense1, signal)
    # channel by channel, as dense1 counts them
    signal = signal._replace(x=signal.x.flatten(1, 2).transpose(1, 2).flatten(1))
    for layer, activation in ((network.dense1, network.act3), (network.dense2, network.act4)):
        signal = _Signal(activation(_dense(layer, signal)), output_scale(activation))
    return _dense(network.dense3, signal)


def _block(
    block: Callable[..., Tensor], layer: nn.Module, activation: nn.Module, following: nn.Module, signal: _Signal
) -> _Signal:
    x, scale, coded = signal
    after = kernels.Activation()
    called = isinstance(activation, PACT) and not activation.simple or _customized(activation)
    if called:
        after = kernels.Activation(levels=kernels.NOTHING)
    elif isinstance(activation, PACT) and activation.quantizing:
        check_clip(activation.alpha)
        as_codes = _on_codes(following, activation.scale)
        after = kernels.Activation(activation.alpha, 2**activation.bits - 1, as_codes, activation.passing)
    if _on_codes(layer, scale):
        out = block(_codes(signal), *layer.as_codes(scale), after, layer.output_scale(scale))
    else:
        out = block(x, *_values(layer, scale), after)
    if called:  # what sets a clip, does not round or has a hook wants what the activation takes, in PyTorch's order
        out = activation(out.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return _Signal(out, output_scale(activation), after.as_codes)


def _dense(layer: nn.Module, signal: _Signal) -> Tensor:
    scale = signal.scale
    if not _on_codes(layer, scale):
        return kernels.linear(signal.x, *_values(layer, scale))
    return kernels.linear(_codes(signal), *layer.as_codes(scale)) * layer.output_scale(scale)


def _on_codes(layer: nn.Module, scale: Tensor | float | None) -> bool:
    """Whether this layer evaluates on integer codes, given the value of one code of its input."""
    return (
        isinstance(layer, QuantConv2d | QuantLinear) and layer.quantizing and scale is not None and not layer.training
    )


def _codes(signal: _Signal) -> Tensor:
    return signal.x if signal.coded else to_codes(signal.x, signal.scale)


def _values(layer: nn.Module, scale: Tensor | float | None) -> tuple[Tensor, Tensor]:
    return layer.values(scale) if isinstance(layer, QuantConv2d | QuantLinear) else (layer.weight, layer.bias)
