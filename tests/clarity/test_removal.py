"""Pixels removed or shaken: analytic networks, a plain twin, the exact promises of the gain."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from saqlib.clarity.removal import (
    areas,
    random_ranks,
    removal_curve,
    removal_curves,
    removal_ranks,
    sensitivity_max,
    symmetric_relevance_gain,
)
from saqlib.saliency.gradient import input_gradient

SIDE = 10


class Additive(nn.Module):
    """Two classes whose first has the probability sum of weight * pixel."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight).double())

    def forward(self, images):
        p = images.flatten(1).double() @ self.weight + 0.05
        return torch.stack([p.log(), (1 - p).log()], dim=1)


class Quadratic(nn.Module):
    """Two classes with the logits of half the sum of squares, above a threshold, and of the mean."""

    def __init__(self, threshold=0.0, scale=1.0):
        super().__init__()
        self.threshold, self.scale = threshold, scale

    def forward(self, images):
        energy = torch.relu(images.flatten(1).square().sum(1) / 2 - self.threshold)
        return self.scale * torch.stack([energy, images.flatten(1).mean(1)], dim=1)


@pytest.fixture
def model():
    """A small network on 10 x 10 images, with the layers whose mode matters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 5)
    ).eval()


@pytest.fixture
def batch():
    """Images with background, targets and signed maps: 37, so that the last chunk is a small one."""
    rng = np.random.default_rng(0)
    images = rng.random((37, 1, SIDE, SIDE)) * (rng.random((37, 1, SIDE, SIDE)) < 0.5)
    targets = rng.integers(0, 5, 37)
    maps = rng.normal(size=(37, SIDE, SIDE))
    return torch.from_numpy(images).float(), torch.from_numpy(targets), torch.from_numpy(maps)


def gain_twin(model, image, target, m, steps):
    """Relevance gain of one image in plain Python: one pixel after the other, one forward pass per step."""
    m = np.abs(m).ravel()
    least = sorted(range(m.size), key=lambda i: (m[i], i))
    most = sorted(range(m.size), key=lambda i: (-m[i], i))

    def probability(removed):
        pixels = image.flatten().clone()
        for i in removed:
            pixels[i] = 0
        with torch.no_grad():
            return model(pixels.view(1, 1, SIDE, SIDE)).double().softmax(1)[0, target].item()

    counts = [round(k * m.size / steps) for k in range(1, steps + 1)]
    return np.mean([probability(least[:k]) - probability(most[:k]) for k in counts])


@pytest.mark.parametrize("steps", [2, 7, 25])
def test_gain_by_numpy_twin(model, batch, steps):
    """The batched gain is that of the plain loop, with ties and step counts that do not divide the pixels."""
    images, targets, maps = batch
    maps = (2 * maps).round()
    expected = [gain_twin(model, *row, steps) for row in zip(images, targets, maps.numpy(), strict=True)]
    np.testing.assert_allclose(symmetric_relevance_gain(model, images, targets, maps, steps), expected, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, -3.0])
@pytest.mark.parametrize("steps", [3, 14, 100])
def test_constant_map_scores_exactly_zero(model, batch, value, steps):
    """A constant map, of either sign, takes pixels in one order in both directions: not nearly 0, but 0."""
    images, targets, maps = batch
    gain = symmetric_relevance_gain(model, images, targets, torch.full_like(maps, value), steps)
    assert (gain == 0).all()


def test_constant_map_scores_zero_whatever_the_place_in_the_batch(batch):
    """A forward pass that rounds differently at each place of a batch leaves a constant map at exactly 0."""

    class Rounding(Additive):
        def forward(self, images):
            return super().forward(images) + 1e-6 * torch.randn(len(images), 2)

    images, targets, maps = batch
    model = Rounding(torch.full((100,), 0.01))
    gain = symmetric_relevance_gain(model, images, targets % 2, torch.ones_like(maps), 14)
    assert (gain == 0).all()


def test_monotone_transforms_are_bit_identical(model, batch):
    """Only the order of the magnitudes counts: powers, logarithms, scale and sign change no bit."""
    images, targets, maps = batch
    expected = symmetric_relevance_gain(model, images, targets, maps, 14)
    signs = torch.where(maps.roll(1, 0) > 0, 1.0, -1.0)
    for other in [maps.abs() ** 3, maps.abs().log1p(), maps * 1e-20, maps * signs]:
        assert torch.equal(symmetric_relevance_gain(model, images, targets, other, 14), expected)


def test_reversed_ranks_reverse_the_sign(model, batch):
    """Without ties the map with the reversed order has the opposite gain."""
    images, targets, maps = batch
    gain = symmetric_relevance_gain(model, images, targets, maps, 14)
    other = symmetric_relevance_gain(model, images, targets, 10 - maps.abs(), 14)
    assert gain.abs().max() > 0.001
    torch.testing.assert_close(other, -gain, rtol=0, atol=1e-6)


def test_network_without_input_scores_zero(batch):
    """A network that ignores its input has no relevance to gain."""
    images, targets, maps = batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 5))
    nn.init.zeros_(model[1].weight)
    assert (symmetric_relevance_gain(model, images, targets, maps, 14) == 0).all()


def test_true_order_of_an_additive_network_is_the_best():
    """Of all 720 orders of 6 pixels the true contributions have the largest gain, of known size."""
    contributions = np.array([0.30, 0.05, 0.20, 0.01, 0.25, 0.10])
    model, image = Additive(contributions), torch.ones(1, 1, 2, 3)
    orders = torch.tensor(list(itertools.permutations(range(1, 7)))).double().view(-1, 2, 3)
    images, targets = image.expand(720, -1, -1, -1), torch.zeros(720, dtype=torch.int64)
    gains = symmetric_relevance_gain(model, images, targets, orders, 6)
    true = torch.tensor(contributions).view(1, 2, 3)
    best = symmetric_relevance_gain(model, image, targets[:1], true, 6)
    falls = np.sort(contributions)
    expected = np.mean([falls[::-1][:k].sum() - falls[:k].sum() for k in range(1, 7)])
    assert best.item() == pytest.approx(expected, abs=1e-12)
    assert gains.max().item() == pytest.approx(expected, abs=1e-12)
    assert (gains > expected - 1e-9).sum() == 1


def test_areas_are_the_trapezoids_of_the_curves(model, batch):
    """Deletion and insertion are areas under removal curves with common ends, the gain their difference."""
    images, targets, maps = batch
    fractions = np.linspace(0, 1, 11)
    least, most = (
        removal_curve(model, images, targets, removal_ranks(maps, most_first=first), fractions).probability
        for first in (False, True)
    )
    torch.testing.assert_close(least[:, [0, -1]], most[:, [0, -1]], rtol=0, atol=1e-6)
    found = areas(removal_curves(model, images, targets, maps, 10))
    np.testing.assert_allclose(found.insertion, np.trapezoid(least, fractions, axis=1), atol=1e-6)
    np.testing.assert_allclose(found.deletion, np.trapezoid(most, fractions, axis=1), atol=1e-6)
    assert torch.equal(found.gain, found.insertion - found.deletion)
    assert torch.equal(found.gain, symmetric_relevance_gain(model, images, targets, maps, 10))


def test_curves_are_those_of_single_removals(model, batch):
    """Both whole curves, from none to all pixels, are what `removal_curve` finds after each of the steps."""
    images, targets, maps = batch
    curves = removal_curves(model, images, targets, maps, 7)
    fractions = np.linspace(0, 1, 8)
    for curve, first in ((curves.least, False), (curves.most, True)):
        ranks = removal_ranks(maps, most_first=first)
        expected = removal_curve(model, images, targets, ranks, fractions).probability
        torch.testing.assert_close(curve, expected, rtol=0, atol=1e-6)
    assert curves.least.shape == (37, 8) and torch.equal(curves.least[:, [0, -1]], curves.most[:, [0, -1]])


def test_one_image_scores_as_in_its_batch(model, batch):
    """The other images of a batch make no difference."""
    images, targets, maps = batch
    together = symmetric_relevance_gain(model, images, targets, maps, 14)
    alone = [
        symmetric_relevance_gain(model, images[i : i + 1], targets[i : i + 1], maps[i : i + 1], 14) for i in range(37)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)


def test_dead_maps_have_no_areas(model, batch):
    """Dead maps score NaN in all three areas and leave the others alone."""
    images, targets, maps = batch
    expected = areas(removal_curves(model, images, targets, maps, 5))
    maps = maps.clone()
    maps[4], maps[36, 2, 2] = 0, torch.nan
    for area, other in zip(areas(removal_curves(model, images, targets, maps, 5)), expected, strict=True):
        assert area.isnan().nonzero().flatten().tolist() == [4, 36]
        assert torch.equal(area[5:36], other[5:36])


def test_curve_counts_pixels_and_hits(model, batch):
    """At each fraction so many pixels are gone, and `correct` is the top-1 of the network on what is left."""
    images, targets, maps = batch
    ranks = removal_ranks(maps, most_first=True)
    curve = removal_curve(model, images, targets, ranks, [0.0, 0.25, 0.9])
    for column, count in enumerate([0, 25, 90]):
        left = images.flatten(1).clone()
        left[maps.abs().flatten(1).argsort(dim=1, descending=True).argsort(dim=1) < count] = 0
        with torch.no_grad():
            logits = model(left.view_as(images)).double()
        probability = logits.softmax(1)[torch.arange(37), targets]
        torch.testing.assert_close(curve.probability[:, column], probability, rtol=0, atol=1e-6)
        assert torch.equal(curve.correct[:, column], logits.argmax(1) == targets)
    assert 0 < curve.correct.sum() < curve.correct.numel()


def test_ties_leave_by_index_in_both_directions():
    """Equal magnitudes go in the order of their index, whether the least or the most relevant leave first."""
    maps = torch.tensor([[[2.0, -1.0], [-2.0, 1.0]]])
    assert removal_ranks(maps).tolist() == [[2, 0, 3, 1]]
    assert removal_ranks(maps, most_first=True).tolist() == [[0, 2, 1, 3]]


def test_random_order_is_a_seeded_permutation(batch):
    """The line of chance is a different permutation for each image, repeated by the same seed."""
    ranks = random_ranks(batch[0], torch.Generator().manual_seed(3))
    assert torch.equal(ranks.sort(1).values, torch.arange(100).expand(37, -1))
    assert not torch.equal(ranks[0], ranks[1])
    assert torch.equal(ranks, random_ranks(batch[0], torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("training", [False, True])
def test_network_stays_as_it_was(model, batch, training):
    """Mode, parameters, buffers, gradients and flags are the same afterwards; dropout is off in between."""
    images, targets, maps = batch
    expected = symmetric_relevance_gain(model, images, targets, maps, 5)
    model.train(training)
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(symmetric_relevance_gain(model, images, targets, maps, 5), expected)
    sensitivity_max(model, images, targets, generator=generator, draws=2)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [False] + 5 * [True]
    assert [p.grad is not None for p in model.parameters()] == [False] * 4 + [True, False]
    assert (model[5].weight.grad == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1}, "between 2 and the 100 pixels"),
        ({"steps": 101}, "between 2 and the 100 pixels"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, "must fit"),
        ({"maps": torch.ones(37, 5, 5)}, "must fit"),
        ({"maps": torch.ones(37, 1, SIDE, SIDE)}, "maps must have shape"),
        ({"images": torch.ones(37, SIDE, SIDE)}, "must fit"),
    ],
)
def test_bad_input_is_named(model, batch, change, message):
    """Steps and shapes that do not fit raise a ValueError that says so."""
    arguments = dict(zip(("images", "targets", "maps"), batch, strict=True)) | {"steps": 5} | change
    with pytest.raises(ValueError, match=message):
        symmetric_relevance_gain(model, **arguments)


def test_bad_fraction_is_named(model, batch):
    """A percentage is no fraction."""
    with pytest.raises(ValueError, match=r"\[0, 1\], not \[0, 90\]"):
        removal_curve(model, batch[0], batch[1], removal_ranks(batch[2]), [0, 90])


# --- Maximal sensitivity ---


def generator():
    """A fresh generator with a fixed seed."""
    return torch.Generator().manual_seed(5)


def test_sensitivity_of_a_linear_network_is_zero(batch):
    """The gradient of a linear network does not change; nor does any without noise."""
    images, targets, _ = batch
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(100, 5))
    assert (sensitivity_max(linear, images, targets, generator=generator()) == 0).all()
    still = sensitivity_max(Quadratic(), images, targets % 2, generator=generator(), radius=0.0)
    assert (still == 0).all()


def test_sensitivity_by_twin(batch):
    """With gradient x the score is the largest |noise| / |x|; scaling the network changes nothing."""
    images = batch[0]
    targets = torch.zeros(37, dtype=torch.int64)
    arguments = {"generator": generator(), "radius": 0.05, "draws": 4}
    score = sensitivity_max(Quadratic(), images, targets, **arguments)
    noise = 0.05 * (2 * torch.rand((37 * 4, 1, SIDE, SIDE), generator=generator()) - 1)
    norms = noise.flatten(1).norm(dim=1).view(37, 4)
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


def test_sensitivity_leaves_the_global_generator_alone(model, batch):
    """Noise comes from the given generator: repeated with it, and the global one does not move."""
    state = torch.get_rng_state()
    first = sensitivity_max(model, *batch[:2], generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sensitivity_max(model, *batch[:2], generator=generator()), first)
    assert (first > 0).any()
