"""What a map is read against: controls, shaken images of known sensitivity, other surrogates, layers redrawn."""

import copy
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from saqlib import controls
from saqlib.controls import SURROGATES, control_maps, quantizing, sensitivity_max, sobel, surrogate_maps
from saqlib.lenet import Bits, Precision, build
from saqlib.quantization import PACT, QuantLinear, calibrate, pact_layers
from saqlib.saliency import input_gradient, replacing

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
    assert list(found) == ["image", "white_noise", "one_hot", "sobel"]
    assert all(maps.shape == (6, 28, 28) and torch.equal(maps, again[name]) for name, maps in found.items())
    assert not torch.equal(found["white_noise"], other["white_noise"])
    assert found["white_noise"].mean().item() == pytest.approx(0, abs=0.05)
    assert found["white_noise"].std().item() == pytest.approx(1, abs=0.05)
    assert (found["one_hot"].flatten(1).sort(1).values == torch.tensor([0.0] * 783 + [1.0])).all()
    assert found["one_hot"].flatten(1).argmax(1).unique().numel() > 1
    assert torch.equal(found["sobel"], sobel(images)) and torch.equal(found["image"], images.squeeze(1))
    before = images.clone()
    found["image"].add_(1)
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

    def __init__(self, threshold=0.0):
        super().__init__()
        self.threshold = threshold

    def forward(self, images):
        energy = torch.relu(images.flatten(1).square().sum(1) / 2 - self.threshold)
        return torch.stack([energy, images.flatten(1).mean(1)], dim=1)


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("saturated", ["stop", "pass"])
def test_sensitivity_by_twin(network, images, count, saturated):
    """Of each image, also of a single one, the largest change over the draws, relative to its map.

    Noise comes image by image from the given generator, and the global one does not move.
    """
    images, state, way = images[:count], torch.get_rng_state(), {"saturated": saturated}
    targets = network(images).argmax(1)
    found = sensitivity_max(network, images, targets, generator=generator(), radius=0.05, draws=4, **way)
    assert torch.equal(torch.get_rng_state(), state)
    noise = 0.05 * (2 * torch.rand((4 * count, 1, 28, 28), generator=generator()) - 1)
    maps, repeated = input_gradient(network, images, targets, **way), targets.repeat_interleave(4)
    shaken = input_gradient(network, images.repeat_interleave(4, 0) + noise, repeated, **way)
    change = (shaken - maps.repeat_interleave(4, 0)).flatten(1).norm(dim=1).view(count, 4).amax(1)
    torch.testing.assert_close(found, (change / maps.flatten(1).norm(dim=1)).double(), rtol=1e-4, atol=0)


def test_sensitivity_of_what_does_not_change(images):
    """Of a linear network 0; without noise 0; of an image whose gradient is 0 there is none."""
    targets = torch.zeros(6, dtype=torch.int64)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(784, 5))
    assert (sensitivity_max(flat, images, targets, generator=generator()) == 0).all()
    assert (sensitivity_max(Quadratic(), images, targets, generator=generator(), radius=0.0) == 0).all()
    images[2] = 0.01
    found = sensitivity_max(Quadratic(threshold=1.0), images, targets, generator=generator())
    assert found.isnan().nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("activations", [True, False])
def test_quantizers_off_leave_the_layers_in_full_precision(network, images, weights, activations):
    """Logits are those of a network that was built without them, with the same weights and clips."""
    layers = [Bits(weights and bits.weight or None, activations and bits.activation or None)
              for bits in network.precision.layers]  # fmt: skip
    other = build(Precision("other", tuple(layers)), seed=0).eval()
    for name, layer in pact_layers(other).items():
        layer.set_alpha(getattr(network, name).alpha)
    with quantizing(network, weights=weights, activations=activations):
        torch.testing.assert_close(network(images), other(images), rtol=1e-3, atol=1e-3)


class Small(nn.Module):
    """One pixel x to the logits PACT(x - 1) + PACT(x) and 0, clips at 1 and 4, of 2 bits: steps of 1/3 and 4/3."""

    def __init__(self):
        super().__init__()
        self.act, self.after, self.head = PACT(2), PACT(2), QuantLinear(2, 2, bits=2)
        self.head.weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        self.head.bias.data.zero_()
        self.act.set_alpha(torch.tensor(1.0))
        self.after.set_alpha(torch.tensor(4.0))

    def forward(self, images):
        x = images.flatten(1)
        return self.head(torch.cat([self.act(x - 1), self.after(x)], 1))


# Of the pixel the values that both activations give with each surrogate, and the gradient of their sum.
BY_HAND = {
    -0.5: {"deployed": (0, 0, 0), "clip_only": (0, 0, 0), "round_only": (0, 0, 0), "relu": (0, 0, 0)},
    0.5: {"deployed": (0, 0, 1), "clip_only": (0, 0.5, 1), "round_only": (0, 0, 1), "relu": (0, 0.5, 1)},
    1.5: {"deployed": (2 / 3, 4 / 3, 2), "clip_only": (0.5, 1.5, 2), "round_only": (2 / 3, 4 / 3, 2),
          "relu": (0.5, 1.5, 2)},
    2.4: {"deployed": (1, 8 / 3, 1), "clip_only": (1, 2.4, 1), "round_only": (4 / 3, 8 / 3, 2), "relu": (1.4, 2.4, 2)},
    6.0: {"deployed": (1, 4, 0), "clip_only": (1, 4, 0), "round_only": (5, 16 / 3, 2), "relu": (5, 6, 2)},
}  # fmt: skip


@pytest.mark.parametrize("pixel", BY_HAND)
def test_surrogates_by_hand(pixel):
    """Above the clip, between two steps, below 0: the maps, and the values that stand behind them."""
    network, image = Small().eval(), torch.full((1, 1, 1, 1), pixel)
    for name, (first, second, slope) in BY_HAND[pixel].items():
        with ExitStack() as stack:
            if name != "deployed":
                stack.enter_context(quantizing(network, weights=True, activations=False))
                stack.enter_context(replacing([network.act, network.after], SURROGATES[name]))
            given = network.act(image - 1).item(), network.after(image).item()
        assert given == pytest.approx((first, second), abs=1e-6)
        if name != "deployed":
            both = torch.cat([image, torch.full_like(image, 3.0)])  # another one, or the network is dead here
            found = surrogate_maps(network, both, torch.zeros(2, dtype=torch.int64))[name]
            assert found[0].item() == pytest.approx(slope)


def test_a_network_without_quantizers_has_no_surrogates(network, images):
    """And of one with quantizers each map is that of the network so changed, which stays as it was."""
    targets, before = network(images).argmax(1), network(images)
    assert surrogate_maps(build("fp32", seed=0).eval(), images, targets) == {}
    found = surrogate_maps(network, images, targets)
    assert list(found) == ["clip_only", "round_only", "relu", "weights_off"]
    for name, options in (("relu", (True, False)), ("weights_off", (False, True))):
        with quantizing(network, **dict(zip(("weights", "activations"), options, strict=True))):
            assert torch.equal(found[name], input_gradient(network, images, targets))
    assert torch.equal(network(images), before)
    network.act4.alpha.data.fill_(1e9)
    assert (surrogate_maps(network, images, targets)["weights_off"] == 0).all(), "a dead network has dead maps"


def test_afterwards_every_layer_does_as_before(network):
    """Layer by layer, whatever each did, and after an error, too."""
    network.act2.quantizing = network.dense1.quantizing = False

    def states():
        return [(isinstance(x, PACT), x.quantizing) for x in network.modules() if hasattr(x, "quantizing")]

    before = states()
    with pytest.raises(KeyError), quantizing(network, weights=False, activations=True):
        assert all(on == is_activation for is_activation, on in states()) and len(before) == 9
        raise KeyError
    assert states() == before


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
        blocks = [block for block in drawn.blocks() if block.name in list(found)[:step]]
        for block in blocks:
            block.layer.load_state_dict(getattr(twin, block.name).state_dict())
        calibrate(drawn, CALIBRATION, [block.activation for block in blocks if isinstance(block.activation, PACT)])
        torch.testing.assert_close(maps, input_gradient(drawn, images, targets))
    assert torch.equal(found["conv1"], input_gradient(twin, images, targets))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
