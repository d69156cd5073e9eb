"""What a map is read against: controls, shaken images of known sensitivity, quantizers off, slopes, layers redrawn."""

import copy

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn.functional import conv2d, linear, max_pool2d, relu

from saqlib import controls
from saqlib.controls import control_maps, quantizing, sensitivity_max, sobel
from saqlib.lenet import build
from saqlib.quantization import PACT, calibrate
from saqlib.saliency import finite_differences, input_gradient

CALIBRATION = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def generator(seed=5):
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    """Images of whole codes with dark ground."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (6, 1, 28, 28)) * (rng.random((6, 1, 28, 28)) < 0.5)).float() / 255


@pytest.fixture
def network():
    """A network of two bits."""
    network = build("w2a2", seed=0).eval()
    calibrate(network, CALIBRATION)
    return network


def test_sobel_equals_scipy(images):
    """The edge map is the length of scipy's two Sobel derivatives, edges replicated."""
    for edges, image in zip(sobel(images), images[:, 0].numpy(), strict=True):
        expected = np.hypot(*(ndimage.sobel(image, axis, mode="nearest") for axis in (0, 1)))
        np.testing.assert_allclose(edges, expected, atol=1e-5)


def test_controls_are_what_they_are_called(images):
    """Gaussian noise, one pixel at its own place, edges, a copy of the image; the same for the same seed."""
    found, again, other = (control_maps(images, generator(seed)) for seed in (0, 0, 1))
    assert list(found) == ["white_noise", "one_hot", "sobel", "intensity"]
    assert all(maps.shape == (6, 28, 28) and torch.equal(maps, again[name]) for name, maps in found.items())
    assert not torch.equal(found["white_noise"], other["white_noise"])
    assert found["white_noise"].mean().item() == pytest.approx(0, abs=0.05)
    assert found["white_noise"].std().item() == pytest.approx(1, abs=0.05)
    assert (found["one_hot"].flatten(1).sort(1).values == torch.tensor([0.0] * 783 + [1.0])).all()
    assert found["one_hot"].flatten(1).argmax(1).unique().numel() > 1
    assert torch.equal(found["sobel"], sobel(images)) and torch.equal(found["intensity"], images.squeeze(1))
    before = images.clone()
    found["intensity"].add_(1)
    assert torch.equal(images, before)


def test_several_channels_count_as_their_mean(images):
    """The noise is drawn for pixels, not for channels; images without channels are refused."""
    colour = torch.cat([images, images.flip(2), images.flip(3)], dim=1)[:, :, :20, :24]
    found, expected = (control_maps(some, generator()) for some in (colour, colour.mean(1, keepdim=True)))
    assert all(torch.equal(maps, expected[name]) for name, maps in found.items())
    with pytest.raises(ValueError, match=r"images must be \(B, C, H, W\), not \(5, 28, 28\)"):
        sobel(torch.rand(5, 28, 28))


class Quadratic(nn.Module):
    """Two classes with the logits of half the sum of squares, above a threshold, and of the mean."""

    def __init__(self, threshold=0.0, scale=1.0):
        super().__init__()
        self.threshold, self.scale = threshold, scale

    def forward(self, images):
        energy = torch.relu(images.flatten(1).square().sum(1) / 2 - self.threshold)
        return self.scale * torch.stack([energy, images.flatten(1).mean(1)], dim=1)


@pytest.mark.parametrize("count", [1, 6])
def test_sensitivity_by_twin(images, count):
    """With gradient x the score is the largest |noise| / |x|, also of one image; scaling changes nothing.

    Noise comes from the given generator, and the global one does not move.
    """
    images, targets, state = images[:count], torch.zeros(count, dtype=torch.int64), torch.get_rng_state()
    noise = 0.05 * (2 * torch.rand((count * 4, 1, 28, 28), generator=generator()) - 1)
    expected = noise.flatten(1).norm(dim=1).view(count, 4).amax(1) / images.flatten(1).norm(dim=1)
    for scale in (1.0, 1e-3):
        found = sensitivity_max(Quadratic(0, scale), images, targets, generator=generator(), radius=0.05, draws=4)
        torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_sensitivity_of_what_does_not_change(images):
    """Of a linear network 0; without noise 0; of an image whose gradient is 0 there is none."""
    targets = torch.zeros(6, dtype=torch.int64)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(784, 5))
    assert (sensitivity_max(flat, images, targets, generator=generator()) == 0).all()
    assert (sensitivity_max(Quadratic(), images, targets, generator=generator(), radius=0.0) == 0).all()
    images[2] = 0.01
    found = sensitivity_max(Quadratic(threshold=1.0), images, targets, generator=generator())
    assert found.isnan().nonzero().flatten().tolist() == [2]


def by_hand(network, images, *, weights: bool, activations: bool) -> torch.Tensor:
    """The network's logits from its layers' own values, with quantizers on or off."""
    x, scale = images, 1 / 255
    for block in network.blocks():
        x = x.flatten(1) if not block.pooled and x.dim() == 4 else x
        weight, bias = block.layer.weight, block.layer.bias
        if weights:
            weight = block.layer.codes() * block.layer.weight_scale.view(-1, *[1] * (weight.ndim - 1))
            if scale is not None:
                unit = block.layer.output_scale(scale)
                bias = (bias / unit).round() * unit
        if block.pooled:
            x = max_pool2d(conv2d(x, weight, bias, padding=block.layer.padding), 2)
        else:
            x = linear(x, weight, bias)
        if block.activation is not None:
            x = block.activation(x) if activations else relu(x)
            scale = block.activation.scale if activations else None
    return x


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("activations", [True, False])
def test_quantizers_off_leave_the_layers_in_full_precision(network, images, weights, activations):
    """Logits are those of layers written out by hand; the maps and classes are those of the network so switched."""
    with quantizing(network, weights=weights, activations=activations), torch.no_grad():
        logits = network(images)
        maps = input_gradient(network, images, logits.argmax(1))
    expected = by_hand(network, images, weights=weights, activations=activations)
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-3, atol=1e-3)
    on = tuple("on" if each else "off" for each in (weights, activations))
    found, predicted = controls.switched_maps(network, images, logits.argmax(1))[on]
    assert torch.equal(found, maps) and torch.equal(predicted, logits.argmax(1))


@pytest.mark.parametrize("broken", [False, True])
def test_afterwards_every_layer_does_as_before(network, broken):
    """Layer by layer, whatever each did, and after an error, too."""
    network.act2.quantizing = network.dense1.quantizing = False

    def states():
        return [(isinstance(x, PACT), x.quantizing) for x in network.modules() if hasattr(x, "quantizing")]

    before = states()
    try:
        with quantizing(network, weights=False, activations=True):
            assert all(on == is_activation for is_activation, on in states()) and len(before) == 9
            if broken:
                raise KeyError
    except KeyError:
        pass
    assert states() == before


def test_differences_are_those_of_the_network_itself(network, images):
    """Beside the gradient, whose windows have their mean: both know 2 x 2 pixels, no more."""
    targets = network(images).argmax(1)
    found = controls.difference_maps(network, images, targets)
    assert list(found) == ["gradient", "16 codes", "32 codes"]
    windows = input_gradient(network, images, targets).unflatten(1, (14, 2)).unflatten(3, (14, 2)).mean((2, 4))
    torch.testing.assert_close(found["gradient"], windows.repeat_interleave(2, 1).repeat_interleave(2, 2))
    for codes in (16, 32):
        slopes = finite_differences(network, images, targets, codes / 255)
        torch.testing.assert_close(found[f"{codes} codes"], slopes)


def test_layers_are_redrawn_from_the_last_to_the_first(network, images):
    """Each step draws one layer more and sets the clips behind all of them anew; the last step is the twin itself."""
    twin = controls.untrained(network, CALIBRATION, seed=0)
    expected = build("w2a2", seed=1000).eval()
    calibrate(expected, CALIBRATION)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in twin.state_dict().items())
    targets, before = network(images).argmax(1), copy.deepcopy(network.state_dict())
    found = controls.redrawn_maps(network, twin, images, targets, CALIBRATION)
    assert list(found) == ["dense3", "dense2", "dense1", "conv2", "conv1"]
    for step, maps in enumerate(found.values(), 1):
        drawn = copy.deepcopy(network)
        for block in drawn.blocks():
            if block.name in list(found)[:step]:
                block.layer.load_state_dict(getattr(twin, block.name).state_dict())
                if isinstance(block.activation, PACT):
                    block.activation.calibrating = True
        with torch.no_grad():
            drawn(CALIBRATION)
        for layer in drawn.modules():
            if isinstance(layer, PACT):
                layer.calibrating = False
        torch.testing.assert_close(maps, input_gradient(drawn, images, targets))
    assert torch.equal(found["conv1"], input_gradient(twin, images, targets))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
