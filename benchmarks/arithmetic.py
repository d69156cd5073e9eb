"""Multiply-accumulate operations of a training step, and how fast this machine multiplies matrices."""

from collections.abc import Callable

import torch

from saqlib.lenet import CLASSES, FLAT, KERNEL
from saqlib.precision import Shape

SIDES = (28, 10)  # of the convolutions' outputs
MATRIX = 512  # rows and columns of the matrices whose product is the yardstick


def layer_macs(shape: Shape) -> tuple[int, ...]:
    """Multiply-accumulates of each layer's forward pass for one image."""
    (c1, c2), (d1, d2) = shape.channels, shape.hidden
    convolutions = [
        side**2 * inputs * outputs * KERNEL**2 for side, inputs, outputs in zip(SIDES, (1, c1), (c1, c2), strict=True)
    ]
    widths = (c2 * FLAT, d1, d2, CLASSES)
    return (*convolutions, *(a * b for a, b in zip(widths, widths[1:], strict=False)))


def standard_macs(shape: Shape, batch: int) -> int:
    """Of a standard step: forward, the weights' gradients, the inputs' gradients of all layers but the first."""
    layers = layer_macs(shape)
    return batch * (3 * sum(layers) - layers[0])


def guided_macs(shape: Shape, batch: int) -> int:
    """Of a guided step: a standard step on clean and on masked images, and a backward pass to the input alone."""
    return 2 * standard_macs(shape, batch) + batch * sum(layer_macs(shape))


def matrix_product() -> tuple[Callable[[], object], int]:
    """A product of square float32 matrices to be timed, and how many multiply-accumulates it takes."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(MATRIX, MATRIX, generator=generator) for _ in range(2))
    return (lambda: a @ b), MATRIX**3
