"""Pixels removed: closed forms of the fills, analytic networks, a plain twin, the exact promises of the gain."""

from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from saqlib.removal import (
    NOISE_SEED,
    fill_images,
    inner_curves,
    probabilities,
    random_ranks,
    relevance_gain,
    remains,
    removal_ranks,
    target_probability,
    whole_curves,
)
from saqlib.scores import FILLS

SIDE = 10
BLANK = torch.zeros(1, 1, SIDE, SIDE)
FILLINGS = [*FILLS, "images"]

# -------------------------------------------------------------------------------------------------------------- fills


@pytest.fixture
def images():
    """Images of three channels, with values from 0.2 to 0.9, that are higher than wide."""
    return 0.2 + 0.7 * torch.rand(9, 3, 30, 20, generator=torch.Generator().manual_seed(0))


def test_zero_is_the_background_and_mean_that_of_each_pixel(images):
    """One image for all: of nothing, and of the mean over the images given."""
    zero, mean = (fill_images(fill, images) for fill in ("zero", "mean"))
    assert zero.shape == mean.shape == (1, 3, 30, 20) and (zero == 0).all()
    np.testing.assert_allclose(mean[0], images.double().numpy().mean(0), rtol=1e-6)


def test_noise_is_uniform_in_the_image_s_own_range(images):
    """From a fixed seed: an image keeps its noise when fewer follow it, and the global generator rests."""
    images[0] = 0.4 + 0.1 * images[0]
    state, fill = torch.get_rng_state(), fill_images("noise", images)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(fill_images("noise", images[:count]), fill[:count]) for count in (1, 5, 9))
    shares = torch.rand(images.shape, generator=torch.Generator().manual_seed(NOISE_SEED))
    for image, noise, share in zip(images, fill, shares, strict=True):
        torch.testing.assert_close(noise, image.min() + (image.max() - image.min()) * share)
    assert (fill_images("noise", torch.full_like(images, 0.3)) == 0.3).all()


def test_blur_by_scipy(images):
    """The Gaussian filter of scipy, divided by that of ones and freed of the centre: deviation a tenth of the side."""

    def smooth(picture):
        return gaussian_filter(picture, 2.0, mode="constant", truncate=15)

    middle = np.zeros((301, 301))
    middle[150, 150] = 1
    centre = smooth(middle)[150, 150]
    channels = images.double().numpy().reshape(-1, 30, 20)
    for image, fill in zip(channels, fill_images("blur", images).flatten(0, 1), strict=True):
        expected = (smooth(image) - centre * image) / (smooth(np.ones_like(image)) - centre)
        np.testing.assert_allclose(fill, expected, atol=1e-6)


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_is_a_new_tensor_in_the_range_of_the_images(fill, images):
    """Of the same type and within what the images hold, but for the black one; but for the mean of the image alone."""
    before, found = images.clone(), fill_images(fill, images)
    assert found.dtype == images.dtype and found.shape[1:] == images.shape[1:] and len(found) in (1, len(images))
    assert found.max() <= images.max() and (fill == "zero" or found.min() >= images.min())
    changed = images.clone()
    changed[1:] = changed[1:].flip(0).square()
    same = torch.equal(fill_images(fill, changed).expand_as(images)[0], found.expand_as(images)[0])
    assert same == (fill != "mean")
    found.add_(1)
    assert torch.equal(images, before)
    for own in (images.flip(0), images[:1]):  # taken as they are, but for their type
        assert torch.equal(fill_images(own.double(), images), own)


# ----------------------------------------------------------------------------------------------------- relevance gain


class Additive(nn.Module):
    """Two classes whose first has the probability sum of weight * pixel."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight).double())

    def forward(self, images):
        p = images.flatten(1).double() @ self.weight + 0.05
        return torch.stack([p.log(), (1 - p).log()], dim=1)


class Rounding(Additive):
    """A network that rounds differently at each place of a batch."""

    def forward(self, images):
        return super().forward(images) + 1e-6 * torch.arange(2 * len(images)).sin().view(-1, 2)


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
@pytest.mark.parametrize(("steps", "channels"), [(2, 1), (7, 1), (7, 3)])
def test_gain_by_numpy_twin(batch, steps, channels, kind):
    """The batched gain is that of the plain loop, with ties and step counts that do not divide the pixels.

    A pixel leaves in all its channels, and each of them becomes that of the fill.
    """
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)).eval()
    images, targets, maps = (each[:9] for each in batch)
    images = torch.cat([images, torch.rand(9, channels - 1, SIDE, SIDE)], 1)
    maps, fill = (2 * maps).round(), fill_of(kind, images)
    others = fill_images(fill, images).expand_as(images)
    expected = [gain_twin(model, *row, steps) for row in zip(images, others, targets, maps.numpy(), strict=True)]
    np.testing.assert_allclose(relevance_gain(model, images, targets, maps, steps, fill), expected, atol=1e-6)


def test_mean_is_the_fill_when_none_is_named_and_needs_several_images(model, batch):
    """A single image would be its own mean, and nothing would ever be removed; every other fill takes it."""
    images, targets, maps = batch
    assert torch.equal(relevance_gain(model, *batch, 7), relevance_gain(model, *batch, 7, "mean"))
    own_mean = images.mean(0, keepdim=True)
    assert torch.equal(relevance_gain(model, *batch, 7), relevance_gain(model, *batch, 7, own_mean))
    one = images[:1], targets[:1], maps[:1]
    with pytest.raises(ValueError, match="mean of a single image is the image itself"):
        relevance_gain(model, *one, 7)
    for fill in ("zero", "noise", "blur", own_mean):
        torch.testing.assert_close(
            relevance_gain(model, *one, 7, fill), relevance_gain(model, *batch, 7, fill)[:1], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("kind", FILLINGS)
@pytest.mark.parametrize(("value", "steps"), [(0.1, 14), (-3.0, 100)])
def test_constant_map_scores_exactly_zero(batch, value, steps, kind):
    """A constant map takes pixels in one order in both directions: not nearly 0, but 0, however a batch rounds."""
    images, targets, maps = batch
    for model in (Additive(torch.full((100,), 0.009)), Rounding(torch.full((100,), 0.009))):
        constant = torch.full_like(maps, value)
        assert (relevance_gain(model, images, targets % 2, constant, steps, fill_of(kind, images)) == 0).all()


def test_monotone_transforms_are_bit_identical(model, batch):
    """Only the order of the magnitudes counts: powers, logarithms, scale and sign change no bit."""
    images, targets, maps = batch
    expected = relevance_gain(model, images, targets, maps, 14)
    signs = torch.where(maps.roll(1, 0) > 0, 1.0, -1.0)
    for other in [maps.abs() ** 3, maps.abs().log1p(), maps * 1e-20, maps * signs]:
        assert torch.equal(relevance_gain(model, images, targets, other, 14), expected)


@pytest.mark.parametrize("fill", FILLINGS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_reversed_ranks_reverse_the_sign(model, batch, kind, fill):
    """Without ties the map with the reversed order has exactly the opposite gain, wherever in a batch it lies."""
    images, targets, maps = batch
    maps, fill = maps.to(kind), fill_of(fill, images)
    assert all(len(each.abs().unique()) == each.numel() == len((10 - each.abs()).unique()) for each in maps)
    for network, classes in ((model, targets), (Rounding(torch.full((100,), 0.009)), targets % 2)):
        gain = relevance_gain(network, images, classes, maps, 14, fill)
        assert gain.abs().max() > 0.001
        assert torch.equal(relevance_gain(network, images, classes, 10 - maps.abs(), 14, fill), -gain)


def test_the_gain_is_the_area_between_whole_curves(model, batch):
    """From all pixels to none, the same ends in both directions; a dead map has none and leaves the others."""
    images, targets, maps = batch
    fractions = np.linspace(0, 1, 11)
    orders = torch.stack([removal_ranks(maps), removal_ranks(maps, most_first=True)])
    expected = remains(model, images, targets, orders, (100 * fractions).round().astype(int), BLANK).probability
    dead = maps.clone()
    dead[4], dead[36, 2, 2] = 0, torch.nan
    ends = [target_probability(model, some, targets) for some in (images, BLANK)]
    whole, partly = (whole_curves(*inner_curves(model, images, targets, m, 10, [BLANK]), *ends) for m in (maps, dead))
    torch.testing.assert_close(torch.stack(list(whole)), expected, rtol=0, atol=1e-6)
    gains = relevance_gain(model, images, targets, maps, 10, "zero")
    np.testing.assert_allclose(gains, np.trapezoid(whole.least - whole.most, fractions, axis=1), atol=1e-6)
    found = relevance_gain(model, images, targets, dead, 10, "zero")
    assert torch.equal(found[5:36], gains[5:36]) and torch.equal(partly.most[5:36], whole.most[5:36])
    for lost in (found, *partly):
        assert lost.isnan().view(37, -1).all(1).nonzero().flatten().tolist() == [4, 36]


def test_nothing_is_predicted_twice(model, batch):
    """A gain takes 2 (steps - 1) forward passes of an image."""
    passed = []
    model.register_forward_pre_hook(lambda module, given: passed.append(len(given[0])))
    relevance_gain(model, *batch, 14)
    assert sum(passed) == 37 * 26


def test_orders_of_removal(batch):
    """Ties leave by index in both directions; the line of chance is a seeded permutation, another for each image."""
    maps = torch.tensor([[[2.0, -1.0], [-2.0, 1.0]]])
    assert removal_ranks(maps).tolist() == [[2, 0, 3, 1]]
    assert removal_ranks(maps, most_first=True).tolist() == [[0, 2, 1, 3]]
    ranks = random_ranks(batch[0], torch.Generator().manual_seed(3))
    assert torch.equal(ranks.sort(1).values, torch.arange(100).expand(37, -1))
    assert not torch.equal(ranks[0], ranks[1])
    assert torch.equal(ranks, random_ranks(batch[0], torch.Generator().manual_seed(3)))


def test_network_stays_as_it_was(model, batch):
    """Mode, buffers and gradients are the same afterwards; dropout is off in between."""
    expected = relevance_gain(model, *batch, 5)
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(relevance_gain(model, *batch, 5), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    overwriting, before = nn.Sequential(nn.ReLU(inplace=True), model), batch[0].clone()
    images = batch[0].sub_(0.5)
    targets = probabilities(overwriting, images).argmax(1)
    relevance_gain(overwriting, images, targets, batch[2], 5)
    assert torch.equal(images, before - 0.5)
    with pytest.raises(ValueError, match="^the network must be an nn.Module, not a method$"):
        probabilities(model.forward, images)


COUPLED = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(100, 5))
MUST_FIT = "images (B, C, H, W), targets (B,) and maps (B, H, W) must fit; *"
NO_FILL = "fill must be one image for all or as many as are filled, (37, 1, 10, 10), not "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1}, "steps must lie between 2 and the 100 pixels *"),
        ({"steps": 101}, "steps must lie between 2 and the 100 pixels *"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, MUST_FIT),
        ({"maps": torch.ones(37, 5, 5)}, MUST_FIT),
        ({"images": torch.ones(37, SIDE, SIDE)}, MUST_FIT),
        ({"maps": torch.ones(37, 1, SIDE, SIDE)}, "maps must have shape *"),
        ({"fill": "zeros"}, "unknown fill 'zeros'; did you mean 'zero'* (valid: zero, mean, noise, blur)"),
        ({"fill": 0.5}, "fill must be a name (zero, mean, noise, blur) or a tensor of images, not float"),
        *[({"fill": torch.zeros(s)}, f"{NO_FILL}{s}") for s in [(2, 1, 10, 10), (37, 3, 10, 10), (1, 10, 10)]],
        ({"model": COUPLED}, "0, a BatchNorm2d, has no running statistics*"),
        ({"model": COUPLED.forward}, "the network must be an nn.Module, not a method"),
    ],
)
def test_bad_input_is_named(model, batch, change, message):
    """Networks, steps, shapes and fills that do not fit raise a ValueError that says what is wanted."""
    given = dict(zip(("model", "images", "targets", "maps"), (model, *batch), strict=True)) | {"steps": 5} | change
    with pytest.raises(ValueError) as error:
        relevance_gain(**given)
    assert fnmatchcase(str(error.value), message)
