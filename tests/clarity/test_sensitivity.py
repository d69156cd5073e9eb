"""Maps of shaken images: networks whose sensitivity is known."""

import numpy as np
import pytest
import torch
from torch import nn

from saqlib.clarity.sensitivity import sensitivity_max
from saqlib.saliency.gradient import input_gradient

SIDE = 10


class Quadratic(nn.Module):
    """Two classes with the logits of half the sum of squares, above a threshold, and of the mean."""

    def __init__(self, threshold=0.0, scale=1.0):
        super().__init__()
        self.threshold, self.scale = threshold, scale

    def forward(self, images):
        energy = torch.relu(images.flatten(1).square().sum(1) / 2 - self.threshold)
        return self.scale * torch.stack([energy, images.flatten(1).mean(1)], dim=1)


@pytest.fixture
def batch():
    """Images with background, and targets."""
    rng = np.random.default_rng(0)
    images = rng.random((37, 1, SIDE, SIDE)) * (rng.random((37, 1, SIDE, SIDE)) < 0.5)
    return torch.from_numpy(images).float(), torch.from_numpy(rng.integers(0, 5, 37))


def generator():
    """A fresh generator with a fixed seed."""
    return torch.Generator().manual_seed(5)


def test_sensitivity_of_a_linear_network_is_zero(batch):
    """The gradient of a linear network does not change; nor does any without noise."""
    images, targets = batch
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(100, 5))
    assert (sensitivity_max(linear, images, targets, generator=generator()) == 0).all()
    still = sensitivity_max(Quadratic(), images, targets % 2, generator=generator(), radius=0.0)
    assert (still == 0).all()


@pytest.mark.parametrize("count", [1, 2, 37])
def test_sensitivity_by_twin(batch, count):
    """With gradient x the score is the largest |noise| / |x|, also of one image; scaling changes nothing."""
    images = batch[0][:count]
    targets = torch.zeros(count, dtype=torch.int64)
    arguments = {"generator": generator(), "radius": 0.05, "draws": 4}
    score = sensitivity_max(Quadratic(), images, targets, **arguments)
    noise = 0.05 * (2 * torch.rand((count * 4, 1, SIDE, SIDE), generator=generator()) - 1)
    norms = noise.flatten(1).norm(dim=1).view(count, 4)
    expected = norms.amax(1) / images.flatten(1).norm(dim=1)
    torch.testing.assert_close(score, expected.double(), rtol=1e-4, atol=0)
    arguments["generator"] = generator()
    scaled = sensitivity_max(Quadratic(scale=1e-3), images, targets, **arguments)
    torch.testing.assert_close(scaled, score, rtol=1e-4, atol=0)


def test_sensitivity_of_a_dead_map_is_nan(batch):
    """Where the gradient is 0 there is no relative change."""
    images, targets = batch[0].clone(), torch.zeros(37, dtype=torch.int64)
    images[2] = 0.01
    score = sensitivity_max(Quadratic(threshold=1.0), images, targets, generator=generator())
    assert (input_gradient(Quadratic(threshold=1.0), images, targets)[2] == 0).all()
    assert score.isnan().nonzero().flatten().tolist() == [2]


@pytest.fixture
def model():
    """A small network with the layers whose mode matters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 5)
    ).eval()


def test_sensitivity_leaves_the_global_generator_alone(model, batch):
    """Noise comes from the given generator: repeated with it, and the global one does not move."""
    state = torch.get_rng_state()
    first = sensitivity_max(model, *batch, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sensitivity_max(model, *batch, generator=generator()), first)
    assert (first > 0).any()


def test_network_stays_as_it_was(model, batch):
    """Mode and gradients are the same afterwards; the dropout of a network in training is off in between."""
    expected = sensitivity_max(model, *batch, generator=generator(), draws=2)
    model.train()
    assert torch.equal(sensitivity_max(model, *batch, generator=generator(), draws=2), expected)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
