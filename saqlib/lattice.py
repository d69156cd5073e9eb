"""Whole codes times a scale: weights on their lattice, and gradients that pass straight through the rounding.

Weights follow SAWB (arXiv 1807.06964): symmetric codes, the clip estimated from E|w| and E[w^2] of each output channel.
"""

import torch
from torch import Tensor

from saqlib.errors import check_finite
from saqlib.kernels import operators as kernels
from saqlib.precision import check_bits

# clip = c1 * sqrt(E[w^2]) + c2 * E|w|: within 2 % of the least squared error of 2^b - 1 symmetric levels on Gaussian,
# Laplace and uniform weights. Rows 2 and 4 are SAWB's own, row 3 is fitted in the same form. From 5 bits on no line
# fits all three; there the largest magnitude is the clip, which for channels of a few hundred weights is the best one.
SAWB_COEFFICIENTS = {2: (2.6, -1.71), 3: (6.73, -6.011), 4: (12.035, -12.03)}

EXACT = (torch.float32, torch.float64)  # types in which codes and their sums are exact


def check_exact(values: Tensor, what: str) -> None:
    """Raise ValueError for values of another type than EXACT."""
    if values.dtype not in EXACT:
        raise ValueError(f"{what} must be float32 or float64, in which codes are exact, not {values.dtype}")


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, unit: Tensor | None) -> Tensor:
        ctx.unit = unit
        return value.detach()  # an argument returned as it is forgets the memory format of one channel

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad if ctx.unit is None else grad / ctx.unit, None, None


def straight_through(x: Tensor, value: Tensor, unit: Tensor | None = None) -> Tensor:
    """`value` in the forward pass, to the bit, and the gradient of `x`, or of x / unit, in the backward pass.

    value and unit have no gradient; unit fits x by broadcasting.
    """
    return _StraightThrough.apply(x, value.detach(), unit)


def to_codes(x: Tensor, scale: Tensor | float) -> Tensor:
    """The nearest whole numbers of units of `scale`, shape of x, with the gradient of x / scale."""
    codes = x / scale
    return straight_through(codes, codes.round())


def quantize_weight(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Symmetric integer codes and the scale of each output channel, so that weight ~ codes * scale.

    The scale is that of `on_lattice`.

    weight: float32 or float64 (out, ...). Returns codes, floats that are whole numbers in -(2^(bits-1) - 1) to
    2^(bits-1) - 1, of the shape of weight; and the scale, the value of one code, positive (out, 1, ...). Raises
    ValueError for bits outside 2 to 8, a narrower type, or weights that are not finite.
    """
    check_exact(weight, "weights")
    check_finite(weight, "weights are")
    _, scale = on_lattice(weight, bits)
    return codes_of(weight, scale, bits), scale


def on_lattice(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The nearest values on the lattice, shape of weight, and the value of one code, positive (out, 1, ...).

    The clip is SAWB's (arXiv 1807.06964) up to 4 bits. It never exceeds the channel's largest magnitude, and is that
    magnitude where SAWB's estimate falls below the mean one (weights of nearly one magnitude, which its line would
    erase) and from 5 bits on. A channel of all zeros gets scale 1. Neither has a gradient.
    """
    if kernels.runs(weight):
        top, coefficients = 2 ** (check_bits(bits) - 1) - 1, SAWB_COEFFICIENTS.get(bits)
        values, scale = kernels.quantize(weight, top, coefficients)
        return values, _broadcast(scale, weight)
    scale = _scale(weight, bits)
    return codes_of(weight, scale, bits).mul_(scale), scale


def codes_of(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The integer codes of a weight (out, ...) under a scale (out, 1, ...), as floats of its shape; no gradient."""
    top = 2 ** (bits - 1) - 1
    # Written into a tensor like `weight`, since a division would forget the memory format that convolutions follow.
    return torch.div(weight.detach(), scale, out=torch.empty_like(weight)).round_().clamp_(-top, top)


def _scale(weight: Tensor, bits: int) -> Tensor:
    magnitude = weight.detach().flatten(1).abs()
    clip = largest = magnitude.amax(1)
    if check_bits(bits) in SAWB_COEFFICIENTS:
        c1, c2 = SAWB_COEFFICIENTS[bits]
        mean = magnitude.mean(1)
        # Through float64: torch.sqrt of a tensor is MKL's, which rounds by the processor; its last bit is lost here.
        root = magnitude.square().mean(1).double().sqrt().to(magnitude)
        estimate = c1 * root + c2 * mean
        clip = torch.where(estimate >= mean, estimate.minimum(largest), largest)
    scale = clip / (2 ** (bits - 1) - 1)
    return _broadcast(torch.where(scale > 0, scale, 1.0), weight)


def _broadcast(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))
