"""The one-channel convolution against the library's own, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from saqlib.network import one_channel


def _pair(batch: int, channels: int, size: int, kernel: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, 1, size, size), (channels, 1, kernel, kernel), (channels,)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize(
    ("batch", "channels", "size", "kernel"), [(3, 8, 28, 5), (1, 2, 12, 5), (2, 3, 9, 3), (2, 1, 18, 3), (1, 4, 5, 5)]
)
def test_equals_the_library_forward_and_backward(batch, channels, size, kernel, padding):
    """Values and all three gradients are F.conv2d's, for widths that fall into strips and widths that do not."""
    ours, theirs = _pair(batch, channels, size, kernel), _pair(batch, channels, size, kernel)
    output, expected = one_channel.one_channel_conv2d(*ours, padding), F.conv2d(*theirs, padding=padding)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=0, atol=1e-12)


def test_the_image_branch_runs_only_when_it_is_asked_for(monkeypatch):
    """A backward pass to the weights alone never computes the images' gradient."""
    images, weight, bias = _pair(2, 4, 28, 5)
    calls = []
    real = one_channel.input_gradient
    monkeypatch.setattr(one_channel, "input_gradient", lambda *given: calls.append(1) or real(*given))
    output = one_channel.one_channel_conv2d(images, weight, bias)
    output.sum().backward(inputs=[weight, bias], retain_graph=True)
    assert not calls
    assert images.grad is None
    torch.autograd.grad(output.sum(), images)
    assert calls == [1]


@pytest.mark.parametrize("padding", [0, 2])
def test_second_derivatives_are_the_library_s(padding):
    """Of each first gradient (images, weight, bias) for each of the three: the branches hide no argument."""
    found = []
    for function in (one_channel.one_channel_conv2d, lambda *given: F.conv2d(*given[:3], padding=given[3])):
        leaves = _pair(2, 3, 9, 3)
        output = function(*leaves, padding)
        first = torch.autograd.grad((output**3).sum(), leaves, create_graph=True)
        found.append([torch.autograd.grad((each**2).sum(), leaves, retain_graph=True) for each in first])
    for ours, theirs in zip(*found, strict=True):
        for mine, reference in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)
            assert reference.abs().max() > 0


def test_second_derivatives_by_differences():
    """PyTorch's own numerical check of first and second derivatives."""
    leaves = _pair(1, 2, 6, 3)
    assert torch.autograd.gradcheck(one_channel.one_channel_conv2d, leaves)
    assert torch.autograd.gradgradcheck(one_channel.one_channel_conv2d, leaves)


def test_forward_mode_and_torch_func_see_the_images():
    """A tangent of the images reaches the output: to these a branch of ours would be a constant, derivative 0."""
    images, weight, bias = (value.detach() for value in _pair(2, 4, 12, 5))
    tangent = torch.randn(images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def ours(x):
        return one_channel.one_channel_conv2d(x, weight, bias, 2)

    expected = F.conv2d(tangent, weight, padding=2)
    torch.testing.assert_close(torch.func.jvp(ours, (images,), (tangent,))[1], expected)
    with torch.autograd.forward_ad.dual_level():
        dual = ours(torch.autograd.forward_ad.make_dual(images, tangent))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, expected)
    torch.testing.assert_close(torch.func.vmap(lambda x: ours(x[None])[0])(images), ours(images))
    plain = torch.func.grad(lambda x: F.conv2d(x, weight, bias, padding=2).pow(2).sum())(images)
    torch.testing.assert_close(torch.func.grad(lambda x: ours(x).pow(2).sum())(images), plain)


def test_the_output_lies_channels_last():
    """The layout on which the network's speed rests: channels are neighbours in memory."""
    images, weight, bias = (value.detach().float() for value in _pair(2, 4, 28, 5))
    assert one_channel.one_channel_conv2d(images, weight, bias).stride(1) == 1
