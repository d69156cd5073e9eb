"""PACT activations and low-bit weights: values on a lattice in the forward pass, straight-through gradients backward.

Activations follow PACT (Choi et al., arXiv 1805.06085): clip to [0, alpha] with a learned alpha, then 2^k levels.
Weights follow SAWB (arXiv 1807.06964): symmetric codes, the clip estimated from E|w| and E[w^2] of each output
channel. A 2-bit weight has three levels, {-1, 0, 1} times its scale. Everything rounds half to even.

In evaluation a layer that knows the scale of its input computes on integer codes held in float32. Every accumulator
stays below 2^24, so the sums are exact in any order, and integer-only inference gives the same numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib.network.settings import check_bits

# clip = c1 * sqrt(E[w^2]) + c2 * E|w|: within 2 % of the least squared error of 2^b - 1 symmetric levels on Gaussian,
# Laplace and uniform weights. Rows 2 and 4 are SAWB's own, row 3 is fitted in the same form. From 5 bits on no line
# fits all three; there the largest magnitude is the clip, which for channels of a few hundred weights is the best one.
SAWB_COEFFICIENTS = {2: (2.6, -1.71), 3: (6.73, -6.011), 4: (12.035, -12.03)}

CALIBRATION_STEPS = 100  # candidate clips between 0 and the largest activation
ALPHA_FLOOR = 1e-3  # alpha never falls below this fraction of its calibrated value


# ---------------------------------------------------------------------------------------------- activations


class _Pact(torch.autograd.Function):
    """The forward may clamp; the backward is written out, because a clamp's own gradient changed in PyTorch 2.14."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(x, alpha)
        step = alpha / levels
        return x.clamp(0.0, alpha.item()).div_(step).round_().mul_(step)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, alpha = ctx.saved_tensors
        grad_x = grad_alpha = None
        # These two kernels are masks, strict at their bounds, and five times as fast as comparing and selecting.
        if ctx.needs_input_grad[0]:  # 0 < x < alpha
            grad_x = torch.ops.aten.hardtanh_backward(grad, x, 0.0, alpha.item())
        if ctx.needs_input_grad[1]:  # x > the number before alpha, so x >= alpha
            before = torch.nextafter(alpha.to(x.dtype), x.new_zeros(())).item()
            grad_alpha = torch.ops.aten.threshold_backward(grad, x, before).sum()
        return grad_x, grad_alpha, None


def pact(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """Clip to [0, alpha] and round to 2^bits levels (PACT, Choi et al., arXiv 1805.06085).

    The gradient is 1 on 0 < x < alpha for x, and summed over x >= alpha for alpha.

    Args:
        x: float, any shape.
        alpha: the clip, a positive scalar tensor.
        bits: 2 to 8.

    Returns:
        The shape of x, on the lattice {0, ..., 2^bits - 1} * alpha / (2^bits - 1).

    Raises:
        ValueError: bits outside 2 to 8.
    """
    return _Pact.apply(x, alpha, 2 ** check_bits(bits) - 1)


def best_clip(x: Tensor, bits: int) -> Tensor:
    """The alpha among max(x) * (1, 2, ..., 100) / 100 whose PACT values are closest to relu(x) in squared error.

    x: any shape. Returns a scalar; 1 if x has no positive value, since nothing can be calibrated then.
    """
    x = x.detach().flatten().relu()
    top = x.max()
    if top <= 0:
        return torch.ones_like(top)
    candidates = top * torch.arange(1, CALIBRATION_STEPS + 1, device=x.device) / CALIBRATION_STEPS
    errors = torch.stack([F.mse_loss(pact(x, alpha, bits), x) for alpha in candidates])
    return candidates[errors.argmin()]


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


# -------------------------------------------------------------------------------------------------- weights


def weight_scale(weight: Tensor, bits: int) -> Tensor:
    """The value of one code, per output channel: shape (out, 1, ...), positive.

    The clip is SAWB's up to 4 bits. It never exceeds the channel's largest magnitude, and is that magnitude where
    SAWB's estimate falls below the mean one (weights of nearly one magnitude, which its line would erase) and from
    5 bits on. A channel of all zeros gets scale 1.
    """
    magnitude = weight.detach().flatten(1).abs()
    clip = largest = magnitude.amax(1)
    if check_bits(bits) in SAWB_COEFFICIENTS:
        c1, c2 = SAWB_COEFFICIENTS[bits]
        mean = magnitude.mean(1)
        estimate = c1 * magnitude.square().mean(1).sqrt() + c2 * mean
        clip = torch.where(estimate >= mean, estimate.minimum(largest), largest)
    scale = torch.where(clip > 0, clip / (2 ** (bits - 1) - 1), 1.0)
    return scale.view(-1, *[1] * (weight.dim() - 1))


def _codes(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    top = 2 ** (bits - 1) - 1
    # Written into a tensor like `weight`, since a division would forget the memory format that convolutions follow.
    return torch.div(weight.detach(), scale, out=torch.empty_like(weight)).round_().clamp_(-top, top)


def quantize_weight(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Symmetric integer codes and the scale of each output channel, so that weight ~ codes * scale.

    The scale is SAWB's (arXiv 1807.06964) up to 4 bits, see `weight_scale`.

    Args:
        weight: float (out, ...).
        bits: 2 to 8.

    Returns:
        Codes, floats that are whole numbers in -(2^(bits-1) - 1) to 2^(bits-1) - 1, of the shape of weight; and
        the scale, the value of one code, positive (out, 1, ...).

    Raises:
        ValueError: bits outside 2 to 8.
    """
    scale = weight_scale(weight, bits)
    return _codes(weight, scale, bits), scale


def _straight_through(x: Tensor, value: Tensor) -> Tensor:
    """`value` in the forward pass, the gradient of `x` in the backward pass."""
    return x + (value - x).detach()


class _QuantizedLayer:
    """What QuantConv2d and QuantLinear share: low-bit weights, int32 bias codes, exact evaluation.

    The scale of the weights is recomputed in every training call and frozen in evaluation.
    """

    def _set_up(self, bits: int) -> None:
        self.bits = check_bits(bits)
        self.quantizing = True
        self.kept: dict | None = None  # what quantized_once keeps from the first call
        self.register_buffer("weight_scale", weight_scale(self.weight, bits))

    def codes(self) -> Tensor:
        """The weights' integer codes under the frozen scale, as floats of the weight's shape."""
        return _codes(self.weight, self.weight_scale, self.bits)

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

    def forward(self, x: Tensor, input_scale: Tensor | float | None = None) -> Tensor:
        """x: the layer's input; input_scale: the value of one code of x, or None if x is not on a lattice."""
        if not self.quantizing:
            return self._apply_to(x, self.weight, self.bias)
        if input_scale is not None and not self.training:
            return self._on_codes(x, input_scale)
        if self.kept is None:
            return self._apply_to(x, *self._values(input_scale))
        if not self.kept:
            self.kept["values"] = self._values(input_scale)
        return self._apply_to(x, *self.kept["values"])

    def _values(self, input_scale: Tensor | float | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias on their lattices, with straight-through gradients."""
        if self.training:
            self.weight_scale = weight_scale(self.weight, self.bits)
        weight = _straight_through(self.weight, self.codes().mul_(self.weight_scale))
        bias = self.bias
        if bias is not None and input_scale is not None:
            bias = _straight_through(bias, self.bias_codes(input_scale) * self.output_scale(input_scale))
        return weight, bias

    def _on_codes(self, x: Tensor, input_scale: Tensor | float) -> Tensor:
        codes = x / input_scale
        codes = _straight_through(codes, codes.round())
        accumulator = self._apply_to(codes, self.codes(), self.bias_codes(input_scale))
        return accumulator * self.output_scale(input_scale).view(-1, *[1] * (x.dim() - 2))


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

    def __init__(self, *args, bits: int, **kwargs):
        super().__init__(*args, **kwargs)
        self._set_up(bits)

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


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

    def __init__(self, *args, bits: int, **kwargs):
        super().__init__(*args, **kwargs)
        self._set_up(bits)

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


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
