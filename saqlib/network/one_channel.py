"""The first convolution, with an input gradient that is a matrix product.

A saliency map is the gradient for an image of one channel, and that is the dearest operator of a guided step: library
kernels vectorise over channels, of which there is one. Here the output row is cut into strips of STRIP columns; a
strip's gradient depends on its input window by one small banded matrix, so all strips of a batch are one product,
whose windows are then added up where they overlap.

The convolution is the sum of two branches, of which a backward pass runs those that it needs. What a branch holds
beside its own arguments it holds with its history, so that a second derivative sees all of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from saqlib.kernels.operators import plain

STRIP = 7


class _ParameterBranch(torch.autograd.Function):
    """The convolution, with gradients to weight and bias. images: (B, 1, H, W), in a tuple: no argument to autograd."""

    @staticmethod
    def forward(ctx, weight: Tensor, bias: Tensor, images: tuple[Tensor], padding: int) -> Tensor:
        ctx.save_for_backward(weight, *images)
        ctx.padding = padding
        return F.conv2d(_channels_last(*images), weight, bias, padding=padding)

    @staticmethod
    def backward(ctx, grad: Tensor):
        weight, images = ctx.saved_tensors
        options = [1, 1], [ctx.padding] * 2, [1, 1], False, [0, 0], 1  # strides, padding, dilation, not transposed
        given = grad, _channels_last(images), weight, [len(weight)]
        _, *found = torch.ops.aten.convolution_backward(*given, *options, [False, *ctx.needs_input_grad[:2]])
        return *found, None, None


class _ImageBranch(torch.autograd.Function):
    """Adds nothing to the output and carries its gradient to the images. weight: in a tuple, as above."""

    @staticmethod
    def forward(ctx, images: Tensor, weight: tuple[Tensor], shape: torch.Size, padding: int) -> Tensor:
        ctx.save_for_backward(*weight)
        ctx.padding = padding
        return images.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return input_gradient(grad, *ctx.saved_tensors, ctx.padding), None, None, None


def _channels_last(images: Tensor) -> Tensor:
    """The same images. With one channel both formats lie alike, and these strides make kernels choose the fast one."""
    return images.squeeze(1).unsqueeze(3).permute(0, 3, 1, 2)


def one_channel_conv2d(images: Tensor, weight: Tensor, bias: Tensor, padding: int = 0) -> Tensor:
    """F.conv2d without stride for images (B, 1, H, W) and weight (C, 1, K, K): (B, C, H + 2P - K + 1, W + 2P - K + 1).

    padding: P, rows and columns of zeros on each side.
    """
    if not plain(images, weight, bias):
        return F.conv2d(images, weight, bias, padding=padding)
    output = _ParameterBranch.apply(weight, bias, (images,), padding)
    if images.requires_grad and torch.is_grad_enabled():
        output = output.add_(_ImageBranch.apply(images, (weight,), output.shape, padding))
    return output


def input_gradient(grad: Tensor, weight: Tensor, padding: int = 0) -> Tensor:
    """The gradient for the images, (B, 1, H, W), from that of the output, (B, C, H + 2P - K + 1, W + 2P - K + 1)."""
    batch, channels, height, width = grad.shape
    kernel = weight.shape[-1]
    strip = STRIP if width % STRIP == 0 else width
    strips, window = width // strip, strip + kernel - 1
    product = grad.permute(0, 2, 3, 1).reshape(-1, strip * channels) @ _banded(weight, strip)
    windows = product.view(batch, height, strips, kernel, window)
    rows = grad.new_zeros(batch, height + kernel - 1, strips, window)
    for row in range(kernel):
        rows[:, row : row + height] += windows[:, :, :, row]
    images = grad.new_zeros(batch, 1, height + kernel - 1, width + kernel - 1)
    for i in range(strips):
        images[:, 0, :, i * strip : i * strip + window] += rows[:, :, i]
    return images[:, :, padding : images.shape[2] - padding, padding : images.shape[3] - padding].contiguous()


def _banded(weight: Tensor, strip: int) -> Tensor:
    """The matrix (strip * C, K * window) whose row (j, c) holds channel c's kernel, shifted j columns to the right."""
    channels, _, kernel, _ = weight.shape
    window = strip + kernel - 1
    matrix = weight.new_zeros(strip, channels, kernel, window)
    size = channels * kernel * window
    shifted = matrix.as_strided((strip, channels, kernel, kernel), (size + 1, kernel * window, window, 1))
    shifted.copy_(weight[:, 0])
    return matrix.view(strip * channels, kernel * window)
