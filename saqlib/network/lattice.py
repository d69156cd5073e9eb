"""Values on a lattice in the forward pass, straight-through gradients backward: activations and weights as functions.

Activations follow PACT (Choi et al., arXiv 1805.06085): clip to [0, alpha] with a learned alpha, then 2^k levels.
Weights follow SAWB (arXiv 1807.06964): symmetric codes, the clip estimated from E|w| and E[w^2] of each output
channel. A 2-bit weight has three levels, {-1, 0, 1} times its scale. Everything rounds half to even.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from saqlib.errors import check_finite
from saqlib.kernels import operators as kernels
from saqlib.network.settings import MAX_BITS, check_bits

# clip = c1 * sqrt(E[w^2]) + c2 * E|w|: within 2 % of the least squared error of 2^b - 1 symmetric levels on Gaussian,
# Laplace and uniform weights. Rows 2 and 4 are SAWB's own, row 3 is fitted in the same form. From 5 bits on no line
# fits all three; there the largest magnitude is the clip, which for channels of a few hundred weights is the best one.
SAWB_COEFFICIENTS = {2: (2.6, -1.71), 3: (6.73, -6.011), 4: (12.035, -12.03)}

CALIBRATION_STEPS = 100  # candidate clips between 0 and the largest activation

# Codes and their sums are exact in these types; narrower ones would round them to plausible others.
EXACT = (torch.float32, torch.float64)


def check_exact(values: Tensor, what: str) -> None:
    """Raise ValueError for values of a type that does not hold every code and every sum of codes."""
    if values.dtype not in EXACT:
        raise ValueError(f"{what} must be float32 or float64, in which codes are exact, not {values.dtype}")


# ---------------------------------------------------------------------------------------------- activations


class _Pact(torch.autograd.Function):
    """The forward may clamp; the backward is written out, because a clamp's own gradient changed in PyTorch 2.14."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(x, alpha)
        step = alpha / levels
        return x.clamp(0.0, check_clip(alpha)).div_(step).round_().mul_(step)

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


def check_clip(alpha: Tensor) -> float:
    """The number in alpha; ValueError unless it is a positive one."""
    if alpha.dim():
        raise ValueError(f"the clip alpha must be a scalar, not of shape {tuple(alpha.shape)}")
    number = alpha.item()
    if torch.compiler.is_compiling():  # and the number has no value yet
        return number
    check_finite(alpha, "the clip alpha is")
    if number <= 0:
        raise ValueError(f"the clip alpha must be positive, not {number}; calibrate the network")
    return number


def pact(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """Clip to [0, alpha] and round to 2^bits levels (PACT, Choi et al., arXiv 1805.06085).

    The gradient is 1 on 0 < x < alpha for x, and summed over x >= alpha for alpha.

    Args:
        x: float32 or float64, any shape.
        alpha: the clip, a positive scalar tensor.
        bits: 2 to 8.

    Returns:
        The shape of x, on the lattice {0, ..., 2^bits - 1} * alpha / (2^bits - 1).

    Raises:
        ValueError: bits outside 2 to 8, a clip that is no positive scalar, or x of a narrower type.
    """
    check_exact(x, "what PACT clips")
    return _Pact.apply(x, alpha, 2 ** check_bits(bits) - 1)


def best_clip(x: Tensor, bits: int) -> Tensor:
    """The alpha among max(x) * (1, 2, ..., 100) / 100 whose PACT values are closest to relu(x) in squared error.

    x: any shape. Returns a scalar; 1 if x has no positive value, or none whose codes have one, since nothing can be
    calibrated then. Raises ValueError for no values, NotFiniteError for NaN or infinity.
    """
    if not x.numel():
        raise ValueError("there are no activations to calibrate on: the batch is empty")
    x = x.detach().flatten().relu()
    top = x.max()
    check_finite(top, "the largest activation to calibrate on is")
    if top <= CALIBRATION_STEPS * 2**MAX_BITS * torch.finfo(x.dtype).tiny:
        return torch.ones_like(top)
    candidates = top * torch.arange(1, CALIBRATION_STEPS + 1, device=x.device) / CALIBRATION_STEPS
    errors = torch.stack([F.mse_loss(pact(x, alpha, bits), x) for alpha in candidates])
    return candidates[errors.argmin()]


# -------------------------------------------------------------------------------------------------- weights


def weight_scale(weight: Tensor, bits: int) -> Tensor:
    """The value of one code, per output channel: shape (out, 1, ...), positive.

    The clip is SAWB's up to 4 bits. It never exceeds the channel's largest magnitude, and is that magnitude where
    SAWB's estimate falls below the mean one (weights of nearly one magnitude, which its line would erase) and from
    5 bits on. A channel of all zeros gets scale 1.
    """
    return on_lattice(weight, bits)[1]


def on_lattice(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The nearest values on the lattice, shape of weight, and `weight_scale`; without gradient."""
    if kernels.runs(weight):
        top, coefficients = 2 ** (check_bits(bits) - 1) - 1, SAWB_COEFFICIENTS.get(bits)
        values, scale = kernels.quantize(weight, top, coefficients)
        return values, _beside(scale, weight)
    scale = _scale(weight, bits)
    return codes_of(weight, scale, bits).mul_(scale), scale


def _beside(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))


def _scale(weight: Tensor, bits: int) -> Tensor:
    """weight_scale, by PyTorch."""
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
    return _beside(torch.where(scale > 0, scale, 1.0), weight)


def codes_of(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    top = 2 ** (bits - 1) - 1
    # Written into a tensor like `weight`, since a division would forget the memory format that convolutions follow.
    return torch.div(weight.detach(), scale, out=torch.empty_like(weight)).round_().clamp_(-top, top)


def quantize_weight(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Symmetric integer codes and the scale of each output channel, so that weight ~ codes * scale.

    The scale is SAWB's (arXiv 1807.06964) up to 4 bits, see `weight_scale`.

    Args:
        weight: float32 or float64 (out, ...).
        bits: 2 to 8.

    Returns:
        Codes, floats that are whole numbers in -(2^(bits-1) - 1) to 2^(bits-1) - 1, of the shape of weight; and
        the scale, the value of one code, positive (out, 1, ...).

    Raises:
        ValueError: bits outside 2 to 8, a narrower type, or weights that are not finite.
    """
    check_exact(weight, "weights")
    check_finite(weight, "weights are")
    scale = weight_scale(weight, bits)
    return codes_of(weight, scale, bits), scale


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, unit: Tensor | None) -> Tensor:
        ctx.unit = unit
        return value

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad if ctx.unit is None else grad / ctx.unit, None, None


def straight_through(x: Tensor, value: Tensor, unit: Tensor | None = None) -> Tensor:
    """`value` in the forward pass, to the bit, and the gradient of `x`, or of x / unit, in the backward pass.

    value and unit have no gradient; unit fits x by broadcasting.
    """
    return _StraightThrough.apply(x, value.detach(), unit)
