"""Layers of low precision for any network: PACT activations, convolutions and linear layers with low-bit weights.

In evaluation a layer that knows the scale of its input computes on integer codes held in float32. Every accumulator
stays below 2^24, so the sums are exact in any order, and integer-only inference gives the same numbers. Gradients are
the straight-through ones of training there, too.

Narrower types would round codes and sums to plausible others: they are refused, and autocast stops at these layers.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib.network.lattice import best_clip, check_exact, codes_of, on_lattice, pact, straight_through, weight_scale
from saqlib.network.settings import check_bits

ALPHA_FLOOR = 1e-3  # alpha never falls below this fraction of its calibrated value


def exactly(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer's forward pass in the type of its parameters, float32 or float64, also where autocast is on."""

    @functools.wraps(forward)
    def call(self: nn.Module, x: Tensor, *rest: Tensor | float | None) -> Tensor:
        own = self.weight if isinstance(self, _QuantizedLayer) else self.alpha
        check_exact(own, f"the parameters of {type(self).__name__}")
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return forward(self, x.to(own.dtype), *rest)
        if x.dtype != own.dtype:
            raise ValueError(f"{type(self).__name__} takes {own.dtype}, as its parameters are, not {x.dtype}")
        return forward(self, x, *rest)

    return call


class PACT(nn.Module):
    """The activation that replaces ReLU, with one learned clip `alpha` for the layer; any shape in and out.

    Calibrate a new network (`calibrate`): alpha is 1 until then. While `quantizing` is off it is a plain ReLU. While
    `calibrating` is on, each call first sets alpha to the best clip for its own input.

    Args:
        bits: 2 to 8; the output has 2^bits levels from 0 to alpha.

    Raises:
        ValueError: bits outside 2 to 8.
    """

    def __init__(self, bits: int):
        super().__init__()
        self.bits = check_bits(bits)
        self.alpha = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("floor", torch.tensor(ALPHA_FLOOR))
        self.quantizing = True
        self.calibrating = False

    @property
    def scale(self) -> Tensor:
        """The value of one code, a scalar without gradient."""
        return self.alpha.detach() / (2**self.bits - 1)

    @exactly
    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.set_alpha(best_clip(x, self.bits))
        return pact(x, self.alpha, self.bits) if self.quantizing else F.relu(x)

    @torch.no_grad()
    def set_alpha(self, alpha: Tensor) -> None:
        self.alpha.copy_(alpha)
        self.floor.copy_(alpha * ALPHA_FLOOR)

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Lift alpha back to its floor; an optimiser step may have carried it below zero."""
        self.alpha.copy_(torch.maximum(self.alpha, self.floor))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _QuantizedLayer:
    """What QuantConv2d and QuantLinear share: low-bit weights, int32 bias codes, exact evaluation.

    The scale of the weights is recomputed in every training call and frozen in evaluation.
    """

    def __init__(self, *args, bits: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.bits = check_bits(bits)
        self.quantizing = True
        self.kept: dict | None = None  # what quantized_once keeps from the first call
        self.register_buffer("weight_scale", weight_scale(self.weight, bits))

    def codes(self) -> Tensor:
        """The weights' integer codes under the frozen scale, as floats of the weight's shape."""
        return codes_of(self.weight, self.weight_scale, self.bits)

    def bias_codes(self, input_scale: Tensor | float) -> Tensor | None:
        """The bias in units of input_scale * weight_scale: whole numbers (int32 range), shape (out,); None without."""
        if self.bias is None:
            return None
        return (self.bias.detach() / self.output_scale(input_scale)).round_()

    def output_scale(self, input_scale: Tensor | float) -> Tensor:
        """The value of one unit of the accumulator, per output channel, shape (out,)."""
        return self.weight_scale.flatten() * input_scale

    def train(self, mode: bool = True):
        # Entering evaluation freezes the scale of the weights as they are now, not as the last batch saw them.
        if self.training and not mode:
            self.weight_scale = weight_scale(self.weight, self.bits)
        return super().train(mode)

    @exactly
    def forward(self, x: Tensor, input_scale: Tensor | float | None = None) -> Tensor:
        """x: the layer's input; input_scale: the value of one code of x, or None if x is not on a lattice."""
        if self.quantizing and input_scale is not None and not self.training:
            return self._on_codes(x, input_scale)
        return self._apply_to(x, *self.values(input_scale))

    def values(self, input_scale: Tensor | float | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as a call of `forward` takes them: on their lattices while the layer quantizes."""
        if not self.quantizing:
            return self.weight, self.bias
        if self.kept is None:
            return self._values(input_scale)
        if not self.kept:
            self.kept["values"] = self._values(input_scale)
        return self.kept["values"]

    def _values(self, input_scale: Tensor | float | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias on their lattices, with straight-through gradients."""
        if self.training:
            values, self.weight_scale = on_lattice(self.weight, self.bits)
        else:
            values = self.codes().mul_(self.weight_scale)
        weight = straight_through(self.weight, values)
        bias = self.bias
        if bias is not None and input_scale is not None:
            bias = straight_through(bias, self.bias_codes(input_scale) * self.output_scale(input_scale))
        return weight, bias

    def as_codes(self, input_scale: Tensor | float) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as `codes` and `bias_codes` have them, with straight-through gradients."""
        weight = straight_through(self.weight, self.codes(), self.weight_scale)
        if self.bias is None:
            return weight, None
        return weight, straight_through(self.bias, self.bias_codes(input_scale), self.output_scale(input_scale))

    def _on_codes(self, x: Tensor, input_scale: Tensor | float) -> Tensor:
        codes = x / input_scale
        codes = straight_through(codes, codes.round())
        accumulator = self._apply_to(codes, *self.as_codes(input_scale))
        return accumulator * self.output_scale(input_scale).view(-1, *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


class QuantConv2d(_QuantizedLayer, nn.Conv2d):
    """nn.Conv2d with low-bit weights: float (B, in, H, W) to (B, out, H', W').

    In a network of your own it is called as nn.Conv2d is, and its bias stays float. Told the value of one code of its
    input (`input_scale`), it has a bias of whole codes, too, and evaluates on integer codes.

    Args:
        *args: as for nn.Conv2d.
        bits: of the weights, 2 to 8; their 2^bits - 1 levels are symmetric, with a scale for each output channel.
        **kwargs: as for nn.Conv2d.

    Raises:
        ValueError: bits outside 2 to 8.
    """

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class QuantLinear(_QuantizedLayer, nn.Linear):
    """nn.Linear with low-bit weights: float (B, in) to (B, out).

    In a network of your own it is called as nn.Linear is, and its bias stays float. Told the value of one code of its
    input (`input_scale`), it has a bias of whole codes, too, and evaluates on integer codes.

    Args:
        *args: as for nn.Linear.
        bits: of the weights, 2 to 8; their 2^bits - 1 levels are symmetric, with a scale for each output channel.
        **kwargs: as for nn.Linear.

    Raises:
        ValueError: bits outside 2 to 8.
    """

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


# --------------------------------------------------------------------------------------------- whole networks


def pact_layers(model: nn.Module) -> dict[str, PACT]:
    """The PACT activations of a network by name, in order; empty for a full-precision one."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PACT)}


def set_quantizing(model: nn.Module, on: bool) -> None:
    """Switch the whole network between its quantized form and full precision, in which a warm-up trains.

    Args:
        model: any network with layers of this module.
        on: whether it quantizes.
    """
    for module in model.modules():
        if isinstance(module, (PACT, _QuantizedLayer)):
            module.quantizing = on


@contextmanager
def quantized_once(model: nn.Module) -> Iterator[None]:
    """Inside, each layer quantizes its weights in its first call only: for several calls with the same parameters."""
    layers = [module for module in model.modules() if isinstance(module, _QuantizedLayer)]
    for layer in layers:
        layer.kept = {}
    try:
        yield
    finally:
        for layer in layers:
            layer.kept = None


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set every alpha to the best clip on one batch, layer by layer, each behind the quantized layers before it.

    The batch runs through the network once, in the mode that it is in.

    Args:
        model: any network with PACT layers.
        images: a batch as the network takes it, such as the first few hundred of the training images.
    """
    layers = pact_layers(model).values()
    for layer in layers:
        layer.calibrating = True
    try:
        model(images)
    finally:
        for layer in layers:
            layer.calibrating = False
