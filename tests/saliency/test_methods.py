"""Other methods of making a map: analytic networks, brute force, and captum as the oracle for gradients."""

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn

from saqlib.saliency.gradient import input_gradient
from saqlib.saliency.methods import (
    finite_differences,
    integrated_gradients,
    log_probability_gradient,
    occlusion,
    smoothgrad,
)


class HalfSquares(nn.Module):
    """Logits whose first is half the sum of squares, so that its gradient is the image."""

    def forward(self, images):
        return torch.stack([images.flatten(1).square().sum(1) / 2, images.flatten(1).sum(1)], dim=1)


@pytest.fixture
def model():
    """A small network with a layer whose mode matters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(576, 5)
    ).eval()


@pytest.fixture
def images():
    """Images with dark ground."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.random((5, 1, 28, 28)) * (rng.random((5, 1, 28, 28)) < 0.5)).float()


TARGETS = torch.tensor([0, 1, 2, 3, 4])


def generator(seed=0):
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)


def test_input_gradient_equals_captum(model, images):
    """The map that all others are compared with is captum's signed Saliency of the logit."""
    expected = Saliency(model).attribute(images.clone().requires_grad_(), target=TARGETS, abs=False)
    torch.testing.assert_close(input_gradient(model, images, TARGETS), expected.squeeze(1), rtol=0, atol=1e-6)


def test_log_probability_gradient_equals_captum(model, images):
    """The gradient of the log-probability is captum's on the network with a log-softmax."""
    whole = nn.Sequential(model, nn.LogSoftmax(dim=1)).eval()
    expected = Saliency(whole).attribute(images.clone().requires_grad_(), target=TARGETS, abs=False)
    maps = log_probability_gradient(model, images, TARGETS)
    torch.testing.assert_close(maps, expected.squeeze(1), rtol=0, atol=1e-6)
    assert not maps.requires_grad


def test_log_probability_gradient_dies_of_confidence(images):
    """At a margin beyond float32 the log-probability has no gradient left, the logit has."""
    network = nn.Sequential(HalfSquares(), nn.Linear(2, 2, bias=False))
    network[1].weight.data = torch.tensor([[9.0, 0.0], [0.0, 0.0]])
    targets = torch.zeros(5, dtype=torch.int64)
    assert (log_probability_gradient(network, images, targets) == 0).all()
    torch.testing.assert_close(input_gradient(network, images, targets), 9 * images.squeeze(1))


def test_smoothgrad_is_a_mean_over_noise(images):
    """With gradient x it is the image plus noise of deviation / sqrt(samples)."""
    targets = torch.zeros(5, dtype=torch.int64)
    maps = smoothgrad(HalfSquares(), images, targets, generator=generator(), samples=16, deviation=0.2)
    assert (maps - images.squeeze(1)).std().item() == pytest.approx(0.2 / 16**0.5, rel=0.05)
    assert (maps < 0).any()


def test_smoothgrad_without_noise_is_the_gradient(model, images):
    """Nearly no noise leaves the input gradient, signs and targets included."""
    maps = smoothgrad(model, images, TARGETS, generator=generator(), samples=3, deviation=1e-7)
    torch.testing.assert_close(maps, input_gradient(model, images, TARGETS), rtol=0, atol=1e-5)


def test_smoothgrad_follows_its_generator_alone(model, images):
    """The given generator decides the noise, and the global one does not move."""
    state = torch.get_rng_state()
    first, again, other = (smoothgrad(model, images, TARGETS, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


BASELINES = {"one for all": 1, "one for each": 5}


@pytest.mark.parametrize("count", BASELINES.values(), ids=BASELINES)
def test_integrated_gradients_of_half_squares_are_their_rise(images, count):
    """Closed form: with gradient x the integral is half the square of the pixel less that of the baseline."""
    baseline = torch.rand(count, 1, 28, 28, generator=generator(3))
    targets = torch.zeros(5, dtype=torch.int64)
    maps = integrated_gradients(HalfSquares(), images, targets, baseline)
    torch.testing.assert_close(maps, ((images.square() - baseline.square()) / 2).squeeze(1), rtol=1e-5, atol=1e-6)
    assert not maps.requires_grad


def test_integrated_gradients_are_complete(images):
    """A map sums up to the logit's rise from the baseline to the image, in a network that bends."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 5, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(576, 5)).eval()
    network[0].weight.data *= 10  # far from linear: the gradient at the image alone would not do
    baseline = torch.rand(1, 1, 28, 28, generator=generator(3))
    with torch.no_grad():
        rise = (network(images) - network(baseline)).gather(1, TARGETS[:, None]).squeeze(1)
    sums = integrated_gradients(network, images, TARGETS, baseline, steps=200).sum((1, 2))
    torch.testing.assert_close(sums, rise, rtol=2e-3, atol=2e-3)
    alone = (input_gradient(network, images, TARGETS) * (images - baseline).squeeze(1)).sum((1, 2))
    assert (alone - rise).abs().min() > 0.05


def test_integrated_gradients_in_parts_are_those_of_each_image(model):
    """More images than one batch takes: nobody gets another's baseline, target or gradient."""
    many = torch.rand(90, 1, 28, 28, generator=generator(4))
    baselines, targets = torch.rand(90, 1, 28, 28, generator=generator(5)), torch.arange(90) % 5
    maps = integrated_gradients(model, many, targets, baselines)
    for i in (0, 39, 40, 41, 89):
        alone = integrated_gradients(model, many[i : i + 1], targets[i : i + 1], baselines[i : i + 1])
        torch.testing.assert_close(maps[i : i + 1], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (1, 3, 28, 28), (5, 28, 28)])
def test_a_baseline_that_does_not_fit_is_refused(model, images, shape):
    """One line with both shapes."""
    with pytest.raises(ValueError) as error:
        integrated_gradients(model, images, TARGETS, torch.zeros(shape))
    assert str(error.value) == f"the baseline must be one image or one for each of (5, 1, 28, 28), not {shape}"


def test_occlusion_by_brute_force(model, images):
    """Each pixel holds the mean fall of the logit over the 4 x 4 windows, two apart, that cover it."""
    with torch.no_grad():
        before = model(images).gather(1, TARGETS[:, None]).squeeze(1)
        total, count = torch.zeros(5, 28, 28), torch.zeros(28, 28)
        for row in range(0, 25, 2):
            for column in range(0, 25, 2):
                window = (..., slice(row, row + 4), slice(column, column + 4))
                blanked = images.clone()
                blanked[window] = 0
                fall = before - model(blanked).gather(1, TARGETS[:, None]).squeeze(1)
                total[window] += fall[:, None, None]
                count[window] += 1
    torch.testing.assert_close(occlusion(model, images, TARGETS), total / count, rtol=0, atol=1e-5)


def windows_of(maps, side=2):
    """The mean of each window, (B, H / side, W / side)."""
    return maps.unflatten(2, (-1, side)).unflatten(1, (-1, side)).mean((2, 4))


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("step", [0.03, 0.2, 1.5])
def test_finite_differences_of_a_linear_network_are_its_mean_weights(images, step, window):
    """Closed form, wherever pixels stop at 0 or 1: there the way that they go is shorter, and so is the rise."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 5)).double()
    images = images.double().contiguous()
    images[:, :, ::2, ::2] = torch.where(images[:, :, ::2, ::2] > 0.5, 1.0, 0.0).double()
    even = torch.rand(5, 28 // window, 28 // window, generator=generator()).double() - 0.5
    even = even.repeat_interleave(window, 1).repeat_interleave(window, 2)
    network[1].weight.data = even.flatten(1)
    maps = finite_differences(network, images, TARGETS, step, window=window)
    torch.testing.assert_close(maps, even)
    assert not maps.requires_grad


def test_finite_differences_give_a_window_the_mean_of_its_weights():
    """Where all pixels of a window may go both ways, whatever their weights are."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 5)).double()
    grey = torch.full((5, 1, 28, 28), 0.5, dtype=torch.float64)
    maps = finite_differences(network, grey, TARGETS, 32 / 255)
    weights = network[1].weight.detach().view(5, 28, 28)
    torch.testing.assert_close(windows_of(maps), windows_of(weights))
    torch.testing.assert_close(maps, windows_of(maps).repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_finite_differences_by_brute_force(model, images):
    """Window by window, one image at a time: the rise of the target's logit over the mean way of its pixels."""
    expected = torch.zeros(5, 28, 28)
    with torch.no_grad():
        for row in range(0, 28, 2):
            for column in range(0, 28, 2):
                window = (..., slice(row, row + 2), slice(column, column + 2))
                up, down = images.clone(), images.clone()
                up[window], down[window] = (up[window] + 0.1).clamp(max=1), (down[window] - 0.1).clamp(min=0)
                rise = (model(up) - model(down)).gather(1, TARGETS[:, None]).squeeze(1)
                expected[window] = (rise / (up - down).sum((1, 2, 3)))[:, None, None]
    torch.testing.assert_close(finite_differences(model, images, TARGETS, 0.1), expected, rtol=1e-3, atol=1e-4)


def test_finite_differences_ask_the_staircase_and_not_its_surrogate():
    """A network that rounds: the slope of its steps, 0 where no step is near, though a surrogate would give 1."""

    class Stairs(nn.Module):
        def forward(self, images):
            return images.flatten(1).mul(4).round().div(4).sum(1, keepdim=True).expand(-1, 5)

    level = torch.full((1, 1, 2, 2), 0.5)
    target = torch.tensor([0])
    assert (finite_differences(Stairs(), level, target, 0.1) == 0).all()
    torch.testing.assert_close(finite_differences(Stairs(), level, target, 0.2), torch.full((1, 2, 2), 1.25))


def test_finite_differences_refuse_what_they_cannot_do(model, images):
    """Windows that do not share out the image, or no step: one line that says so."""
    with pytest.raises(ValueError, match=r"^windows of 3 pixels do not share out an image of 28 x 28$"):
        finite_differences(model, images, TARGETS, 0.1, window=3)
    with pytest.raises(ValueError, match=r"^the step must be above 0, not 0$"):
        finite_differences(model, images, TARGETS, 0)


@pytest.mark.parametrize(
    "method",
    ["smoothgrad", "integrated_gradients", "occlusion", "log_probability_gradient", "finite_differences"],
)
def test_network_stays_as_it_was(model, images, method):
    """Mode, gradients and parameters are the same afterwards, and the maps those of evaluation mode."""
    methods = {
        "smoothgrad": lambda: smoothgrad(model, images, TARGETS, generator=generator(), samples=2),
        "integrated_gradients": lambda: integrated_gradients(model, images, TARGETS, images.mean(0, keepdim=True)),
        "occlusion": lambda: occlusion(model, images, TARGETS),
        "log_probability_gradient": lambda: log_probability_gradient(model, images, TARGETS),
        "finite_differences": lambda: finite_differences(model, images, TARGETS, 0.1),
    }
    expected = methods[method]()
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    maps = methods[method]()
    assert torch.equal(maps, expected)
    assert maps.shape == (5, 28, 28)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not images.requires_grad


# ------------------------------------------------------------------------------------------ several channels


@pytest.fixture
def colour_model():
    """A network of three channels, 20 x 24 pixels and five classes."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(320, 5)).eval()


@pytest.fixture
def colour_images():
    """Pictures (5, 3, 20, 24)."""
    return torch.rand(5, 3, 20, 24, generator=generator(2))


def strongest(gradient):
    """Of each pixel's channels the value that is largest in magnitude."""
    high, low = gradient.amax(1), gradient.amin(1)
    return torch.where(high >= -low, high, low)


def test_gradients_of_several_channels_are_the_strongest_ones(colour_model, colour_images):
    """Of captum's gradients: SmoothGrad nearly without noise that of the logit, and that of the log-probability."""
    expected = Saliency(colour_model).attribute(colour_images.clone().requires_grad_(), target=TARGETS, abs=False)
    maps = smoothgrad(colour_model, colour_images, TARGETS, generator=generator(), samples=3, deviation=1e-7)
    torch.testing.assert_close(maps, strongest(expected), rtol=0, atol=1e-5)
    whole = nn.Sequential(colour_model, nn.LogSoftmax(dim=1)).eval()
    expected = Saliency(whole).attribute(colour_images.clone().requires_grad_(), target=TARGETS, abs=False)
    maps = log_probability_gradient(colour_model, colour_images, TARGETS)
    torch.testing.assert_close(maps, strongest(expected), rtol=0, atol=1e-6)


def test_smoothgrad_of_several_channels_takes_the_mean_before_the_strongest():
    """With gradient x the noise of each channel averages out before the channels are compared, not afterwards."""
    images = torch.tensor([0.1, -0.4, 0.1]).view(1, 3, 1, 1).expand(1, 3, 20, 24)
    maps = smoothgrad(HalfSquares(), images, torch.tensor([0]), generator=generator(), samples=900, deviation=0.3)
    noisy = images + 0.3 * torch.randn(900, 3, 20, 24, generator=generator())
    assert (maps + 0.4).abs().max() < 0.06
    assert (strongest(noisy).mean(0) + 0.4).abs().min() > 0.06


def test_integrated_gradients_of_several_channels_are_the_strongest_ones():
    """Each channel has an integral of its own: with gradient x and a black baseline, half its square."""
    images = torch.tensor([0.1, -0.4, 0.3]).view(1, 3, 1, 1).expand(1, 3, 20, 24)
    maps = integrated_gradients(HalfSquares(), images, torch.tensor([0]), torch.zeros(1, 3, 20, 24))
    torch.testing.assert_close(maps, torch.full((1, 20, 24), 0.08))


def test_occlusion_of_several_channels_blanks_them_together(colour_model, colour_images):
    """Each pixel holds the mean fall of the logit over the windows of all channels that cover it."""
    with torch.no_grad():
        before = colour_model(colour_images).gather(1, TARGETS[:, None]).squeeze(1)
        total, count = torch.zeros(5, 20, 24), torch.zeros(20, 24)
        for row in range(0, 17, 2):
            for column in range(0, 21, 2):
                window = (..., slice(row, row + 4), slice(column, column + 4))
                blanked = colour_images.clone()
                blanked[window] = 0
                fall = before - colour_model(blanked).gather(1, TARGETS[:, None]).squeeze(1)
                total[window] += fall[:, None, None]
                count[window] += 1
    torch.testing.assert_close(occlusion(colour_model, colour_images, TARGETS), total / count, rtol=0, atol=1e-5)


def test_finite_differences_of_several_channels_go_together(colour_images):
    """Of a linear network the mean weight of a window in all channels."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 24, 5)).double()
    grey = torch.full_like(colour_images, 0.5, dtype=torch.float64)
    weights = network[1].weight.detach().view(5, 3, 20, 24).mean(1)
    torch.testing.assert_close(windows_of(finite_differences(network, grey, TARGETS, 0.1)), windows_of(weights))
