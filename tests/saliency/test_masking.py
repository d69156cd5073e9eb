"""What guided training hides: masks against a stable sort, pixel by pixel, and noise in each image's own range."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from saqlib.saliency.masking import mask_least_salient

PIXELS = 28 * 28


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(count: int) -> torch.Tensor:
    """Random pictures in 256 grey levels, as a network takes them."""
    return torch.randint(256, (count, 1, 28, 28), generator=generator(), dtype=torch.uint8).float() / 255


@st.composite
def maskings(draw):
    """Images of own ranges, saliency with many ties, a count of pixels, a ranking."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, distinct = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 7, 10_000]))
    low = rng.uniform(0, 0.5, (batch, 1, 1, 1))
    images = low + rng.uniform(0, 1, (batch, 1, 28, 28)) * rng.uniform(0, 0.5, (batch, 1, 1, 1))
    saliency = rng.integers(-distinct, distinct, (batch, 28, 28), endpoint=True) / distinct
    count = draw(st.integers(0, PIXELS))
    ranking = draw(st.sampled_from(["magnitude", "signed"]))
    return torch.from_numpy(images).float(), torch.from_numpy(saliency).float(), count, ranking


@given(maskings())
def test_mask_replaces_exactly_the_least_salient_pixels(case):
    """The first `count` of a stable sort become noise in the image's range; every other pixel keeps its bits."""
    images, saliency, count, ranking = case
    before = images.clone()
    fraction = (count + 0.5) / PIXELS if count < PIXELS else 1.0  # rounded down to whole pixels
    masked = mask_least_salient(images, saliency, fraction, generator(), ranking=ranking)
    assert torch.equal(images, before)
    assert masked.shape == images.shape and masked.dtype == images.dtype
    for image, other, scores in zip(images.flatten(1), masked.flatten(1), saliency.flatten(1), strict=True):
        key = scores.abs() if ranking == "magnitude" else scores
        order = key.argsort(stable=True)
        least, kept = order[:count], order[count:]
        assert torch.equal(other[kept], image[kept])
        assert (other[least] != image[least]).float().sum() >= count - 2  # noise may hit a value by chance
        assert image.min() <= other.min() and other.max() <= image.max()


def test_mask_never_takes_the_most_salient_pixel():
    """As long as one pixel stays, it is the one with the largest |saliency|, here a negative one."""
    images, saliency = images_of(2), torch.rand(2, 28, 28, generator=generator(1))
    saliency[0, 5, 6] = saliency[1, 20, 3] = -9.0
    masked = mask_least_salient(images, saliency, (PIXELS - 0.5) / PIXELS, generator())
    assert (masked == images).sum() == 2
    assert masked[0, 0, 5, 6] == images[0, 0, 5, 6] and masked[1, 0, 20, 3] == images[1, 0, 20, 3]


def test_rankings_differ_on_negative_saliency():
    """`signed` masks the most negative gradients, `magnitude` the smallest: on these rows nothing in common."""
    images = images_of(1)
    saliency = torch.linspace(-1, 1, PIXELS).view(1, 28, 28)
    changed = {
        ranking: (mask_least_salient(images, saliency, 0.25, generator(), ranking=ranking) != images).flatten()
        for ranking in ("magnitude", "signed")
    }
    quarter = PIXELS // 4
    assert changed["signed"][:quarter].sum() >= quarter - 1 and not changed["signed"][quarter:].any()
    middle = slice(3 * quarter // 2, 5 * quarter // 2)
    assert changed["magnitude"][middle].sum() >= quarter - 1
    assert changed["magnitude"].sum() == changed["magnitude"][middle].sum()
    default = mask_least_salient(images, saliency, 0.25, generator())
    assert torch.equal(default != images, changed["magnitude"].view_as(images))


def test_nothing_or_everything_can_be_masked():
    """Fraction 0 returns equal images in a tensor of their own, fraction 1 nothing but noise."""
    images, saliency = images_of(3), torch.zeros(3, 28, 28)
    nothing = mask_least_salient(images, saliency, 0, generator())
    assert torch.equal(nothing, images) and nothing.data_ptr() != images.data_ptr()
    everything = mask_least_salient(images, saliency, 1, generator())
    assert (everything != images).float().mean() > 0.99


def test_noise_is_uniform_over_each_image_s_own_range():
    """Kolmogorov and Smirnov find no difference to a uniform between the image's least and largest value."""
    low, high = torch.linspace(0, 0.4, 20).view(-1, 1, 1, 1), torch.linspace(1, 0.5, 20).view(-1, 1, 1, 1)
    images = low + (high - low) * (images_of(20) > 0.5)
    masked = mask_least_salient(images, torch.zeros(20, 28, 28), 1.0, generator(5))
    unit = ((masked - low) / (high - low)).flatten(1)
    assert scipy.stats.kstest(unit.flatten(), "uniform").pvalue > 0.01
    assert unit.corrcoef().fill_diagonal_(0).abs().max() < 0.2  # each image has noise of its own
    blank = torch.full((1, 1, 28, 28), 0.3)
    assert torch.equal(mask_least_salient(blank, torch.zeros(1, 28, 28), 0.5, generator()), blank)


def test_noise_comes_from_the_given_generator_alone():
    """Equal generators give equal masks, one generator a new mask each time, and no other source is touched."""
    images, saliency = images_of(2), torch.rand(2, 28, 28, generator=generator(1))
    first, same = (mask_least_salient(images, saliency, 0.5, generator(9)) for _ in range(2))
    assert torch.equal(first, same)
    own, outside = generator(9), torch.get_rng_state()
    mask_least_salient(images, saliency, 0.5, own)
    assert not torch.equal(mask_least_salient(images, saliency, 0.5, own), first)
    assert torch.equal(torch.get_rng_state(), outside)


def test_the_amount_of_noise_does_not_depend_on_the_map():
    """Paired seeds stay paired: whatever is masked, the generator ends in the same state."""
    states = []
    for fraction, ranking, saliency in [
        (0, "magnitude", torch.zeros(2, 28, 28)),
        (0.7, "signed", torch.randn(2, 28, 28)),
    ]:
        own = generator(3)
        mask_least_salient(images_of(2), saliency, fraction, own, ranking=ranking)
        states.append(own.get_state())
    assert torch.equal(*states)
    assert not torch.equal(states[0], generator(3).get_state())


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan"), float("inf")])
def test_bad_fraction_is_refused(fraction):
    """A share outside [0, 1] is an error that names it."""
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\]") as error:
        mask_least_salient(images_of(1), torch.zeros(1, 28, 28), fraction, generator())
    assert repr(fraction) in str(error.value)


def test_bad_ranking_is_refused():
    """An unknown ranking is an error that names the valid ones."""
    with pytest.raises(ValueError, match="magnitude, signed, not 'random'"):
        mask_least_salient(images_of(1), torch.zeros(1, 28, 28), 0.5, generator(), ranking="random")


@given(st.integers(1, 4), st.floats(0, 1), st.sampled_from([1, 3, 10_000]), st.integers(0, 2**32 - 1))
def test_a_pixel_is_masked_in_all_its_channels(channels, fraction, distinct, seed):
    """Exactly int(fraction * H * W) pixels, those of a stable sort, become noise of the image's range in every channel.

    The twin draws one number for each value of an image, channels outermost; with one channel that is the formula
    of before, bit for bit.
    """
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.uniform(0.2, 0.9, (3, channels, 5, 7))).float()
    saliency = torch.from_numpy(rng.integers(-distinct, distinct, (3, 5, 7), endpoint=True)).float()
    masked = mask_least_salient(images, saliency, fraction, generator(7))
    noise = torch.rand(3, channels * 35, generator=generator(7)).unflatten(1, (channels, 35))
    low, high = (extreme[:, None, None] for extreme in images.flatten(1).aminmax(dim=1))
    expected = images.flatten(2).clone()
    for image, key, replacement in zip(expected, saliency.flatten(1), low + (high - low) * noise, strict=True):
        least = key.abs().argsort(stable=True)[: int(fraction * 35)]
        image[:, least] = replacement[:, least]
    assert torch.equal(masked.flatten(2), expected)


def test_channels_have_noise_of_their_own():
    """A masked pixel is not grey: its channels are not correlated."""
    masked = mask_least_salient(torch.eye(2).repeat(8, 3, 32, 32), torch.zeros(8, 64, 64), 1.0, generator())
    assert masked.transpose(0, 1).flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.05


def test_several_generators_share_the_images_in_order():
    """Each one's images get the noise that they would get from it alone, as networks side by side need it."""
    images, saliency = images_of(6), torch.rand(6, 28, 28, generator=generator(1))
    together = mask_least_salient(images, saliency, 0.5, [generator(2), generator(3)])
    apart = [mask_least_salient(images[i], saliency[i], 0.5, g) for i, g in
             ((slice(3), generator(2)), (slice(3, 6), generator(3)))]  # fmt: skip
    assert torch.equal(together, torch.cat(apart))


def test_generators_that_cannot_share_the_images_are_refused():
    """Four generators, six images: one line says so."""
    with pytest.raises(ValueError, match="^4 generators cannot share 6 images equally$"):
        mask_least_salient(images_of(6), torch.zeros(6, 28, 28), 0.5, [generator()] * 4)


@pytest.mark.parametrize(
    ("images", "maps"),
    [((2, 1, 28, 28), (2, 28, 27)), ((2, 1, 28, 28), (1, 28, 28)), ((2, 28, 28), (2, 28, 28)),
     ((2, 3, 8, 9), (2, 3, 8, 9))],
)  # fmt: skip
def test_maps_that_do_not_fit_the_images_are_refused(images, maps):
    """The error shows both shapes and those that would fit, in one line."""
    with pytest.raises(ValueError) as error:
        mask_least_salient(torch.zeros(images), torch.zeros(maps), 0.5, generator())
    assert str(error.value) == f"images (B, C, H, W) and maps (B, H, W) must fit, not {images} and {maps}"
