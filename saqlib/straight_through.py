"""One value in the forward pass, the gradient of another in the backward pass; and the types that hold whole codes."""

import torch
from torch import Tensor

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
