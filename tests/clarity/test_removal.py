"""Pixels removed: analytic networks, a plain twin, the exact promises of the gain."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from saqlib.clarity.fills import fill_images
from saqlib.clarity.removal import (
    areas,
    random_ranks,
    remains,
    removal_curves,
    removal_ranks,
    symmetric_relevance_gain,
)
from saqlib.names import FILLS

SIDE = 10
BLANK = torch.zeros(1, 1, SIDE, SIDE)
FILLINGS = [*FILLS, "images"]


class Additive(nn.Module):
    """Two classes whose first has the probability sum of weight * pixel."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight).double())

    def forward(self, images):
        p = images.flatten(1).double() @ self.weight + 0.05
        return torch.stack([p.log(), (1 - p).log()], dim=1)


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


def fill_of(kind, images):
    """A fill as the gain takes it: a name, or images of one's own."""
    return kind if kind in FILLS else torch.rand(images.shape, generator=torch.Generator().manual_seed(9))


def gain_twin(model, image, other, target, m, steps):
    """Relevance gain of one image in plain Python: one pixel after the other, one forward pass per step."""
    m = np.abs(m).ravel()
    least = sorted(range(m.size), key=lambda i: (m[i], i))
    most = sorted(range(m.size), key=lambda i: (-m[i], i))

    def probability(removed):
        pixels = image.clone()
        for i in removed:
            pixels[:, i // SIDE, i % SIDE] = other[:, i // SIDE, i % SIDE]
        with torch.no_grad():
            return model(pixels[None]).double().softmax(1)[0, target].item()

    counts = [round(k * m.size / steps) for k in range(1, steps + 1)]
    return np.mean([probability(least[:k]) - probability(most[:k]) for k in counts])


@pytest.mark.parametrize("kind", FILLINGS)
@pytest.mark.parametrize("steps", [2, 7, 25])
def test_gain_by_numpy_twin(model, batch, steps, kind):
    """The batched gain is that of the plain loop, with ties and step counts that do not divide the pixels."""
    images, targets, maps = batch
    maps, fill = (2 * maps).round(), fill_of(kind, images)
    others = fill_images(fill, images).expand_as(images)
    rows = zip(images, others, targets, maps.numpy(), strict=True)
    expected = [gain_twin(model, *row, steps) for row in rows]
    found = symmetric_relevance_gain(model, images, targets, maps, steps, fill)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", FILLINGS)
def test_gain_of_several_channels_by_the_same_twin(batch, kind):
    """A pixel leaves in all its channels, and each of them becomes that of the fill."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)).eval()
    images, targets, maps = torch.rand(7, 3, SIDE, SIDE), batch[1][:7], batch[2][:7]
    fill = fill_of(kind, images)
    rows = zip(images, fill_images(fill, images).expand_as(images), targets, maps.numpy(), strict=True)
    expected = [gain_twin(model, *row, 7) for row in rows]
    found = symmetric_relevance_gain(model, images, targets, maps, 7, fill)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_zero_is_the_fill_when_none_is_named(model, batch):
    """Without a fill the gain is that of the background."""
    expected = symmetric_relevance_gain(model, *batch, 7, fill="zero")
    assert torch.equal(symmetric_relevance_gain(model, *batch, 7), expected)
    assert torch.equal(symmetric_relevance_gain(model, *batch, 7, BLANK), expected)


def test_fills_tell_maps_apart():
    """On a black ground a map of the ground gains nothing by blanking it, and all by filling it with light."""
    weight = torch.zeros(100)
    weight[:50] = 0.01
    model, image = Additive(weight), torch.zeros(1, 1, SIDE, SIDE)
    image[0, 0, 5:] = 1.0
    maps, target = torch.zeros(1, SIDE, SIDE), torch.tensor([0])
    maps[0, :5] = 1.0
    assert symmetric_relevance_gain(model, image, target, maps, 10).item() == 0
    light = symmetric_relevance_gain(model, image, target, maps, 10, torch.ones_like(image)).item()
    assert light == pytest.approx(-0.25)  # it is the pixels of the map whose filling speaks for the class


@pytest.mark.parametrize("kind", FILLINGS)
@pytest.mark.parametrize("value", [0.1, -3.0])
@pytest.mark.parametrize("steps", [3, 14, 100])
def test_constant_map_scores_exactly_zero(model, batch, value, steps, kind):
    """A constant map, of either sign, takes pixels in one order in both directions: not nearly 0, but 0."""
    images, targets, maps = batch
    maps = torch.full_like(maps, value)
    gain = symmetric_relevance_gain(model, images, targets, maps, steps, fill_of(kind, images))
    assert (gain == 0).all()


def test_monotone_transforms_are_bit_identical(model, batch):
    """Only the order of the magnitudes counts: powers, logarithms, scale and sign change no bit."""
    images, targets, maps = batch
    expected = symmetric_relevance_gain(model, images, targets, maps, 14)
    signs = torch.where(maps.roll(1, 0) > 0, 1.0, -1.0)
    for other in [maps.abs() ** 3, maps.abs().log1p(), maps * 1e-20, maps * signs]:
        assert torch.equal(symmetric_relevance_gain(model, images, targets, other, 14), expected)


@pytest.mark.parametrize("fill", FILLINGS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_reversed_ranks_reverse_the_sign(model, batch, kind, fill):
    """Without ties the map with the reversed order has exactly the opposite gain, to the last bit."""
    images, targets, maps = batch
    maps, fill = maps.to(kind), fill_of(fill, images)
    assert all(len(each.abs().unique()) == each.numel() == len((10 - each.abs()).unique()) for each in maps)
    gain = symmetric_relevance_gain(model, images, targets, maps, 14, fill)
    assert gain.abs().max() > 0.001
    assert torch.equal(symmetric_relevance_gain(model, images, targets, 10 - maps.abs(), 14, fill), -gain)


class Rounding(Additive):
    """A network that rounds differently at each place of a batch."""

    def forward(self, images):
        return super().forward(images) + 1e-6 * torch.arange(2 * len(images)).sin().view(-1, 2)


def test_reversed_ranks_reverse_the_sign_whatever_the_place_in_the_batch(batch):
    """Both directions of a map and of its reverse lie at the same places of the same forward passes."""
    images, targets, maps = batch
    model = Rounding(torch.full((100,), 0.009))
    gain, other = (symmetric_relevance_gain(model, images, targets % 2, m, 14) for m in (maps, 10 - maps.abs()))
    assert torch.equal(other, -gain) and (gain != 0).all()


def test_constant_map_scores_zero_whatever_the_place_in_the_batch(batch):
    """A forward pass that rounds differently at each place of a batch leaves a constant map at exactly 0."""
    images, targets, maps = batch
    model = Rounding(torch.full((100,), 0.009))
    assert (symmetric_relevance_gain(model, images, targets % 2, torch.ones_like(maps), 14) == 0).all()


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
    orders = torch.stack([removal_ranks(maps), removal_ranks(maps, most_first=True)])
    least, most = remains(model, images, targets, orders, (100 * fractions).round().astype(int), BLANK).probability
    torch.testing.assert_close(least[:, [0, -1]], most[:, [0, -1]], rtol=0, atol=1e-6)
    found = areas(removal_curves(model, images, targets, maps, 10))
    np.testing.assert_allclose(found.insertion, np.trapezoid(least, fractions, axis=1), atol=1e-6)
    np.testing.assert_allclose(found.deletion, np.trapezoid(most, fractions, axis=1), atol=1e-6)
    torch.testing.assert_close(found.gain, found.insertion - found.deletion, rtol=0, atol=1e-15)
    assert torch.equal(found.gain, symmetric_relevance_gain(model, images, targets, maps, 10))


def test_curves_are_those_of_single_removals(model, batch):
    """Both whole curves, from none to all pixels, are what is left after each of the steps by itself."""
    images, targets, maps = batch
    curves = removal_curves(model, images, targets, maps, 7)
    for curve, first in ((curves.least, False), (curves.most, True)):
        ranks = removal_ranks(maps, most_first=first)[None]
        for step, found in enumerate(curve.T):
            (expected,) = remains(model, images, targets, ranks, [round(step * 100 / 7)], BLANK).probability
            torch.testing.assert_close(found, expected.squeeze(1), rtol=0, atol=1e-6)
    assert curves.least.shape == (37, 8) and torch.equal(curves.least[:, [0, -1]], curves.most[:, [0, -1]])


class Counting(nn.Module):
    """A network that counts the images it is asked about."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, images):
        self.images += len(images)
        return self.model(images)


def test_nothing_is_predicted_twice(model, batch):
    """A gain takes 2 (steps - 1) forward passes of an image; curves one more, and one of each fill that there is."""
    for kind, fillings in {"zero": 1, "mean": 1, "noise": 37, "blur": 37}.items():
        counting = Counting(model)
        symmetric_relevance_gain(counting, *batch, 14, kind)
        assert counting.images == 37 * 26
        removal_curves(counting, *batch, 14, kind)
        assert counting.images == 37 * (26 + 26 + 1) + fillings


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
    left = remains(model, images, targets, ranks[None], [0, 25, 90], BLANK)
    assert left.probability.shape == left.correct.shape == (1, 37, 3)
    for column, count in enumerate([0, 25, 90]):
        kept = images.flatten(1).clone()
        kept[maps.abs().flatten(1).argsort(dim=1, descending=True).argsort(dim=1) < count] = 0
        with torch.no_grad():
            logits = model(kept.view_as(images)).double()
        probability = logits.softmax(1)[torch.arange(37), targets]
        torch.testing.assert_close(left.probability[0, :, column], probability, rtol=0, atol=1e-6)
        assert torch.equal(left.correct[0, :, column], logits.argmax(1) == targets)
    assert 0 < left.correct.sum() < left.correct.numel()


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
    assert torch.equal(symmetric_relevance_gain(model, images, targets, maps, 5), expected)
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
        ({"fill": "blurr"}, "unknown fill 'blurr'; did you mean 'blur'"),
        ({"fill": torch.zeros(2, 1, SIDE, SIDE)}, r"as many as are filled, \(37, 1, 10, 10\), not \(2, 1, 10, 10\)"),
    ],
)
def test_bad_input_is_named(model, batch, change, message):
    """Steps and shapes that do not fit raise a ValueError that says so."""
    arguments = dict(zip(("images", "targets", "maps"), batch, strict=True)) | {"steps": 5} | change
    with pytest.raises(ValueError, match=message):
        symmetric_relevance_gain(model, **arguments)
