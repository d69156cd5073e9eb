"""The first convolution, with an input gradient that is a matrix product.

A saliency map is the gradient for an image of one channel, and that is the dearest operator of a guided step: library
kernels vectorise over channels, of which there is one. Here the output row is cut into strips of STRIP columns; a
strip's gradient depends on its input window by one small banded matrix, so all strips of a batch are one product,
whose windows are then added up where they overlap.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 7


class _ImageBranch(torch.autograd.Function):
    """Adds nothing to the output and carries its gradient to the images.

    As a branch of its own it is run only when the images' gradient is asked for, and the library's convolution, which
    sees the images as constants, only when the weights' gradient is.
    """

    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, shape: torch.Size, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding = padding
        return images.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return input_gradient(grad, *ctx.saved_tensors, ctx.padding), None, None, None


def one_channel_conv2d(images: Tensor, weight: Tensor, bias: Tensor, padding: int = 0) -> Tensor:
    """F.conv2d without stride for images (B, 1, H, W) and weight (C, 1, K, K): (B, C, H + 2P - K + 1, W + 2P - K + 1).

    padding: P, rows and columns of zeros on each side.
    """
    # With one channel both memory formats lie alike in memory; these strides make the kernels choose the fast one.
    constant = images.detach().squeeze(1).unsqueeze(3).permute(0, 3, 1, 2)
    output = F.conv2d(constant, weight, bias, padding=padding)
    if images.requires_grad and torch.is_grad_enabled():
        output = output.add_(_ImageBranch.apply(images, weight.detach(), output.shape, padding))
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
