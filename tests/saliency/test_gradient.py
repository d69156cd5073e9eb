"""The saliency map against captum and central differences; a dead network is refused, any other is explained."""

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saqlib.network.initial import build
from saqlib.network.quantization import pact_layers
from saqlib.saliency.gradient import (
    DeadNetworkError,
    check_alive,
    evaluating,
    input_gradient,
    logit_gradient,
    per_pixel,
)

PIXELS = 28 * 28


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random pictures in 256 grey levels, as a network takes them."""
    return torch.randint(256, (count, 1, 28, 28), generator=generator(), dtype=torch.uint8).to(dtype) / 255


def smooth_network() -> nn.Sequential:
    """A network whose derivative is the limit of its differences, in float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 30), nn.Tanh(), nn.Linear(30, 10)).double()


def moody_network() -> nn.Sequential:
    """A network that behaves differently in training: batch norm and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 24 * 24, 10)
    )


def dead_network() -> nn.Module:
    """A 2-bit network whose last clip is 100: so wide that every activation rounds to 0."""
    network = build("w2a2", seed=0)
    pact_layers(network)["act4"].set_alpha(torch.tensor(100.0))
    return network


# ----------------------------------------------------------------------------------------------------- maps


def test_map_equals_central_differences_of_the_logit():
    """On a smooth network every pixel's value is the logit's slope there, for given targets."""
    network, images, targets = smooth_network(), images_of(2, torch.float64), torch.tensor([3, 8])
    step = 1e-5 * torch.eye(PIXELS, dtype=torch.float64).view(PIXELS, 1, 28, 28)
    found = input_gradient(network, images, targets)
    assert found.shape == (2, 28, 28)
    for image, target, saliency in zip(images, targets, found, strict=True):
        slope = (network(image + step) - network(image - step))[:, target] / 2e-5
        torch.testing.assert_close(saliency.flatten(), slope.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("precision", ["fp32", "w4a4", "mixed", "w2a2"])
def test_map_equals_captum_s_signed_saliency_of_the_logit(precision):
    """Captum, given the same evaluated network and the predicted classes, finds the same map."""
    network, images = build(precision, seed=0).eval(), images_of(6)
    predicted = network(images).argmax(1)
    oracle = captum.attr.Saliency(network)
    expected = oracle.attribute(images.clone().requires_grad_(), target=predicted, abs=False)
    torch.testing.assert_close(input_gradient(network, images), expected.squeeze(1), rtol=1e-5, atol=1e-8)
    others = (predicted + 1) % 10
    expected = oracle.attribute(images.clone().requires_grad_(), target=others, abs=False)
    torch.testing.assert_close(input_gradient(network, images, others), expected.squeeze(1), rtol=1e-5, atol=1e-8)


def test_map_is_of_the_logit_and_not_of_the_log_probability():
    """The gradient of the log-softmax is another one at the tested images, so the two cannot be confused."""
    network, images = smooth_network(), images_of(3, torch.float64)
    ours = input_gradient(network, images)
    of_probability = input_gradient(nn.Sequential(network, nn.LogSoftmax(1)), images)
    assert (ours - of_probability).abs().max() > 0.01 * ours.abs().max()


def test_map_of_a_batch_is_the_maps_of_its_images():
    """No image sees another one, in evaluation mode not even through batch norm."""
    images = images_of(4)
    for network in (smooth_network().float(), moody_network(), build("w2a2", seed=0)):
        singles = torch.cat([input_gradient(network, image[None]) for image in images])
        torch.testing.assert_close(input_gradient(network, images), singles, rtol=1e-4, atol=1e-6)


def test_map_leaves_the_network_as_it_was():
    """Modes (also mixed ones), running statistics, parameters, their gradients and flags are untouched."""
    network, images = moody_network(), images_of(3)
    network[0].eval()
    network[5].bias.requires_grad_(False)
    network[5].weight.grad = torch.full_like(network[5].weight, 7.0)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    input_gradient(network, images)
    assert [m.training for m in network] == [False, True, True, True, True, True] and network.training
    assert [p.requires_grad for p in network.parameters()] == [True] * 5 + [False]
    assert [p.grad is None for p in network.parameters()] == [True] * 4 + [False, True]
    assert (network[5].weight.grad == 7).all()
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not images.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_map_is_taken_in_evaluation_mode_whatever_the_modes_are(training):
    """A dropout layer left in training mode, below a parent in either mode, does not make the map random."""
    network, images = moody_network(), images_of(2)
    network.eval()
    expected = input_gradient(network, images)
    network.training = training
    network[3].train()
    assert torch.equal(input_gradient(network, images), expected)
    assert network[3].training and network.training == training


def test_evaluating_restores_the_modes_after_an_error():
    """An exception inside the block leaves no network in evaluation mode."""
    network = moody_network()
    with pytest.raises(KeyError), evaluating(network):
        assert not any(m.training for m in network.modules())
        raise KeyError
    assert all(m.training for m in network.modules())


def test_map_can_be_taken_where_gradients_are_off():
    """A caller's no_grad and frozen parameters do not matter: the map is of the pixels."""
    network, images = smooth_network(), images_of(2, torch.float64)
    expected = input_gradient(network, images)
    network.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(input_gradient(network, images), expected)


def test_logit_gradient_keeps_the_graph_only_when_asked():
    """A guided step differentiates the same forward pass twice; everybody else frees it."""
    network, images = smooth_network(), images_of(2, torch.float64).requires_grad_()
    targets = torch.tensor([0, 1])
    logits = network(images)
    first = logit_gradient(logits, images, targets, retain_graph=True)
    assert torch.equal(logit_gradient(logits, images, targets), first)
    with pytest.raises(RuntimeError, match="second time"):
        logit_gradient(logits, images, targets)


# -------------------------------------------------------------------------------------------- dead networks


def test_dead_network_is_refused_although_its_surrogate_has_a_gradient():
    """Equal logits for every input: the map that autograd would still return is not shown."""
    network, images = dead_network(), images_of(4)
    network.eval()
    watched = images.clone().requires_grad_()
    logits = network(watched)
    assert (logits == logits[0]).all()
    assert logit_gradient(logits, watched, torch.zeros(4, dtype=torch.long)).abs().max() > 0
    for some in (images, images[:1]):
        with pytest.raises(DeadNetworkError, match="logits do not depend on the input"):
            input_gradient(network, some)
    with pytest.raises(DeadNetworkError):
        check_alive(network, images)


@pytest.mark.parametrize("precision", ["fp32", "w4a4", "mixed", "w2a2"])
def test_alive_network_is_explained(precision):
    """Batches that could look dead, of one image, of equal images or of blank ones, are explained all the same."""
    network = build(precision, seed=0)
    one = images_of(1)
    for images in (one, one.expand(3, -1, -1, -1), torch.zeros_like(one), torch.ones_like(one)):
        assert input_gradient(network, images).abs().amax((1, 2)).gt(0).all()
    check_alive(network, one)


# ------------------------------------------------------------------------------------------ several channels


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_pixel_of_several_channels_has_the_value_that_is_largest_in_magnitude(channels, seed):
    """NumPy, pixel by pixel: signed, the first channel among equals; one channel is returned as it is."""
    values = np.random.default_rng(seed).integers(-3, 4, (2, channels, 4, 5)).astype(np.float32)
    found = per_pixel(torch.from_numpy(values))
    assert found.shape == (2, 4, 5)
    for place in np.ndindex(2, 4, 5):
        image, row, column = place
        pixel = values[image, :, row, column]
        assert found[place].item() == max(pixel, key=abs)


def test_map_of_several_channels_comes_from_captum_s_gradient():
    """Three channels, 20 x 24 pixels, 5 classes: of captum's three values the strongest, sign kept."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16 * 20, 5)).eval()
    images, targets = torch.rand(6, 3, 20, 24, generator=generator()), torch.tensor([0, 1, 2, 3, 4, 0])
    oracle = captum.attr.Saliency(network).attribute(images.clone().requires_grad_(), target=targets, abs=False)
    strongest, weakest = oracle.amax(1), oracle.amin(1)
    expected = torch.where(strongest.abs() >= weakest.abs(), strongest, weakest)
    found = input_gradient(network, images, targets)
    assert found.shape == (6, 20, 24) and (found < 0).any() and (found > 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("shape", [(28, 28), (2, 28, 28), (1, 2, 1, 28, 28)])
def test_images_of_other_dimensions_are_refused(shape):
    """An error in one line says what is wanted; three dimensions would be read as one image of many channels."""
    with pytest.raises(ValueError) as error:
        input_gradient(smooth_network().float(), torch.zeros(shape))
    assert str(error.value) == f"images must be float (B, C, H, W), not torch.float32 {shape}"
