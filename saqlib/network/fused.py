"""The network's forward pass by the kernels, where they fit it.

In training the layers' values are multiplied, in evaluation their integer codes, as in the layers themselves; between
two quantized layers the activations stay codes.
"""

import torch
from torch import Tensor, nn

from saqlib.kernels import operators as kernels
from saqlib.kernels.library import library, why_not
from saqlib.network.lattice import check_clip, straight_through
from saqlib.network.quantization import PACT, QuantConv2d, QuantLinear
from saqlib.network.settings import Shape

ACTIVATIONS = (PACT, nn.ReLU)


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
    """Whether the kernels compute this network: its shape, float32 on the CPU, and no hook on a layer with weights."""
    layers = list(network.children())
    activations = [layer for layer in layers if type(layer) in ACTIVATIONS]
    hooked = any(_hooked(layer) for layer in layers if layer not in activations)
    known = len(layers) == 9 and len(activations) == 4 and network.shape.channels == kernels.CHANNELS
    return known and not hooked and kernels.runs(images, *network.parameters())


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def forward(network: nn.Module, images: Tensor, scale: float) -> Tensor:
    """Images (B, 1, 28, 28), with the value of one of their codes, to logits (B, classes)."""
    x, scale, coded = _block(kernels.block1, network.conv1, network.act1, network.conv2, images, scale, False)
    x, scale, coded = _block(kernels.block2, network.conv2, network.act2, network.dense1, x, scale, coded)
    x = x.flatten(1, 2).transpose(1, 2).flatten(1)  # channel by channel, as dense1 counts them
    for layer, activation in ((network.dense1, network.act3), (network.dense2, network.act4), (network.dense3, None)):
        x = _dense(layer, x, scale, coded)
        if activation is not None:
            x, scale, coded = activation(x), _scale(activation), False
    return x


def _block(block, layer, activation, following, x, scale, coded):
    """One block; its output, the value of a code of it (None off a lattice), and whether it holds codes."""
    quantizing = isinstance(activation, PACT) and activation.quantizing
    looked_at = getattr(activation, "calibrating", False) or _hooked(activation)
    after = kernels.Activation()
    if looked_at:
        after = kernels.Activation(levels=kernels.NOTHING)
    elif quantizing:
        as_codes = _on_codes(following, activation.scale)
        check_clip(activation.alpha)
        after = kernels.Activation(activation.alpha, 2**activation.bits - 1, as_codes)
    if _on_codes(layer, scale):
        codes = x if coded else _codes(x, scale)
        out = block(codes, *layer.as_codes(scale), after, layer.output_scale(scale))
    else:
        out = block(x, *_values(layer, scale), after)
    if looked_at:  # calibration and hooks want what the activation takes, in PyTorch's order
        out = activation(out.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return out, _scale(activation), after.as_codes


def _dense(layer: nn.Module, x: Tensor, scale: Tensor | float | None, coded: bool) -> Tensor:
    if not _on_codes(layer, scale):
        return kernels.linear(x, *_values(layer, scale))
    codes = x if coded else _codes(x, scale)
    return kernels.linear(codes, *layer.as_codes(scale)) * layer.output_scale(scale)


def _on_codes(layer: nn.Module, scale: Tensor | float | None) -> bool:
    """Whether this layer evaluates on integer codes, given the value of one code of its input."""
    return (
        isinstance(layer, QuantConv2d | QuantLinear) and layer.quantizing and scale is not None and not layer.training
    )


def _codes(x: Tensor, scale: Tensor | float) -> Tensor:
    codes = x / scale
    return straight_through(codes, codes.round())


def _values(layer: nn.Module, scale: Tensor | float | None) -> tuple[Tensor, Tensor]:
    return layer.values(scale) if isinstance(layer, QuantConv2d | QuantLinear) else (layer.weight, layer.bias)


def _scale(activation: nn.Module) -> Tensor | None:
    return activation.scale if isinstance(activation, PACT) and activation.quantizing else None
