"""The first convolution: the library's own forward, and gradients equal to the library's."""

import pytest
import torch
import torch.nn.functional as F

from saqlib import convolution
from saqlib.convolution import one_channel_conv2d

SHAPES = [  # batch, channels, kernel, height, width; output widths of one strip, several, and no whole number of them
    (3, 8, 5, 28, 28),
    (1, 4, 5, 12, 12),
    (2, 3, 3, 9, 10),
    (2, 1, 1, 4, 8),
    (5, 6, 5, 5, 5),
    (2, 2, 7, 11, 30),
]


def case(shape, dtype=torch.float64):
    """Random images, weights, bias and an upstream gradient."""
    batch, channels, kernel, height, width = shape
    generator = torch.Generator().manual_seed(0)
    sizes = [
        (batch, 1, height, width),
        (channels, 1, kernel, kernel),
        (channels,),
        (batch, channels, height - kernel + 1, width - kernel + 1),
    ]
    return [torch.randn(size, generator=generator, dtype=dtype) for size in sizes]


@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_all_gradients_are_those_of_conv2d(shape):
    """Images, weights and bias, in one backward pass."""
    images, weight, bias, upstream = case(shape)
    inputs = [tensor.requires_grad_() for tensor in (images, weight, bias)]
    y, expected = one_channel_conv2d(*inputs), F.conv2d(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(y, inputs, upstream)
    for got, want in zip(found, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_memory_layouts_of_the_gradient_do_not_matter():
    """Behind a layer in channels-last, or from an expanded scalar, the upstream gradient is the same numbers."""
    images, weight, bias, upstream = case(SHAPES[0])
    images.requires_grad_()
    y = one_channel_conv2d(images, weight, bias)
    for gradient in (upstream, upstream.contiguous(memory_format=torch.channels_last), torch.ones(()).expand_as(y)):
        gradient = gradient.double()
        (found,) = torch.autograd.grad(y, images, gradient, retain_graph=True)
        (expected,) = torch.autograd.grad(F.conv2d(images, weight, bias), images, gradient)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("images_differentiable", [False, True])
@pytest.mark.parametrize("weight_differentiable", [False, True])
def test_only_what_is_asked_for_is_differentiated(monkeypatch, images_differentiable, weight_differentiable):
    """The images' product is computed for their gradient alone; without any, nothing is recorded."""
    images, weight, bias, upstream = case(SHAPES[0])
    calls, original = [], convolution.input_gradient
    monkeypatch.setattr(convolution, "input_gradient", lambda *args: calls.append(1) or original(*args))
    images.requires_grad_(images_differentiable)
    weight.requires_grad_(weight_differentiable)
    y = one_channel_conv2d(images, weight, bias)
    assert y.requires_grad == (images_differentiable or weight_differentiable)
    if weight_differentiable:
        torch.autograd.grad(y, weight, upstream, retain_graph=True)
        assert not calls
    if images_differentiable:
        torch.autograd.grad(y, images, upstream)
        assert len(calls) == 1
    with torch.no_grad():
        assert not one_channel_conv2d(images, weight, bias).requires_grad
