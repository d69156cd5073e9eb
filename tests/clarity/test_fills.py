"""What stands in the place of a removed pixel: closed forms, scipy's Gaussian, and the promises of each fill."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.ndimage import gaussian_filter

from saqlib.clarity.fills import fill_images
from saqlib.names import FILLS


@pytest.fixture
def images():
    """Images of three channels, with values from 0.2 to 0.9, that are higher than wide."""
    return 0.2 + 0.7 * torch.rand(9, 3, 30, 20, generator=torch.Generator().manual_seed(0))


# --- each fill by itself ---


def test_zero_is_the_background(images):
    """One image for all, of nothing."""
    fill = fill_images("zero", images)
    assert fill.shape == (1, 3, 30, 20) and (fill == 0).all()


def test_mean_is_that_of_each_pixel(images):
    """One image for all: the mean over the images given, of each pixel and channel by itself."""
    fill = fill_images("mean", images)
    assert fill.shape == (1, 3, 30, 20)
    np.testing.assert_allclose(fill[0], images.double().numpy().mean(0), rtol=1e-6)


def test_noise_is_uniform_in_the_image_s_own_range(images):
    """By the Kolmogorov-Smirnov test, for an image of a narrow range and one of a wide one."""
    images[0] = 0.4 + 0.1 * images[0]
    fill = fill_images("noise", images)
    assert fill.shape == images.shape
    for image, other in zip(images, fill, strict=True):
        low, high = image.min().item(), image.max().item()
        assert low <= other.min() and other.max() <= high
        assert stats.kstest(other.flatten().numpy(), "uniform", (low, high - low)).pvalue > 1e-3


def test_noise_is_another_for_each_image_and_pixel(images):
    """Neither images nor channels share their noise, and an image of one value leaves it no range."""
    assert (fill_images("noise", torch.full_like(images, 0.3)) == 0.3).all()
    fill = fill_images("noise", torch.cat([torch.zeros(9, 3, 30, 1), torch.ones(9, 3, 30, 19)], 3))
    correlation = np.corrcoef(fill.flatten(0, 1).flatten(1).numpy())
    assert np.abs(correlation - np.eye(27)).max() < 0.2


def test_noise_agrees_between_calls_and_for_the_first_images(images):
    """The same noise in every call, and an image keeps its noise when fewer follow it; the global generator rests."""
    state = torch.get_rng_state()
    fill = fill_images("noise", images)
    assert torch.equal(fill_images("noise", images), fill)
    for count in (1, 2, 5):
        assert torch.equal(fill_images("noise", images[:count]), fill[:count])
    assert torch.equal(torch.get_rng_state(), state)


def test_blur_of_one_pixel_is_a_gaussian_without_its_centre():
    """Closed form: the weight of the lit pixel in the mean of each other one, and nothing at its own place."""
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 12, 15] = 1.0
    y, x = np.mgrid[:28, :28]

    def weights(row, column):
        return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 2.8**2))

    total = np.array([[weights(row, column).sum() - 1 for column in range(28)] for row in range(28)])
    expected = weights(12, 15) / total
    expected[12, 15] = 0
    np.testing.assert_allclose(fill_images("blur", image)[0, 0], expected, atol=1e-7)


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


@given(value=st.floats(0, 1, width=32))
def test_blur_of_one_grey_is_that_grey(value):
    """Up to the edges: a mean of equal pixels."""
    image = torch.full((1, 2, 9, 12), value)
    torch.testing.assert_close(fill_images("blur", image), image, rtol=1e-6, atol=1e-7)


@given(seed=st.integers(0, 99), row=st.integers(0, 9), column=st.integers(0, 9))
def test_blur_does_not_know_the_pixel_itself(seed, row, column):
    """Whatever a pixel holds, what takes its place is the same, to rounding; that of its neighbours is not."""
    image = torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(seed))
    other = image.clone()
    other[0, 0, row, column] += 1
    rise = (fill_images("blur", other) - fill_images("blur", image))[0, 0]
    assert rise[row, column].abs() < 1e-6
    assert rise[row - 1 if row else 1, column] > 0.05


# --- all of them ---


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_lies_in_the_range_of_the_images(fill, images):
    """Each is an image, of the same type and within what the images hold, but for the black one."""
    found = fill_images(fill, images)
    assert found.dtype == images.dtype and found.shape[1:] == images.shape[1:] and len(found) in (1, len(images))
    assert found.max() <= images.max() and (fill == "zero" or found.min() >= images.min())


@pytest.mark.parametrize("fill", FILLS)
def test_images_stay_as_they_are(fill, images):
    """A fill is a new tensor."""
    before = images.clone()
    fill_images(fill, images).add_(1)
    assert torch.equal(images, before)


@pytest.mark.parametrize("fill", ["zero", "noise", "blur"])
def test_other_images_make_no_difference(fill, images):
    """All but the mean are made of the image alone."""
    found, changed = fill_images(fill, images).expand_as(images), images.clone()
    changed[1:] = changed[1:].flip(0).square()
    assert torch.equal(fill_images(fill, changed).expand_as(images)[0], found[0])


# --- images of one's own, and what is refused ---


def test_images_of_one_s_own_are_taken_as_they_are(images):
    """As many as are filled, or one for all; of another type they are converted."""
    for own in (images.flip(0), images[:1]):
        assert torch.equal(fill_images(own, images), own)
        assert torch.equal(fill_images(own.double(), images), own)


@pytest.mark.parametrize(("name", "nearest"), [("zeros", "zero"), ("Mean", "mean"), ("gaussian noise", "noise")])
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest, images):
    """One line that says what is valid."""
    with pytest.raises(ValueError) as error:
        fill_images(name, images)
    message = f"unknown fill {name!r}; did you mean {nearest!r}? (valid: zero, mean, noise, blur)"
    assert str(error.value) == message


@pytest.mark.parametrize("shape", [(2, 3, 30, 20), (9, 1, 30, 20), (1, 3, 20, 30), (3, 30, 20), (30, 20)])
def test_images_that_do_not_fit_are_refused(shape, images):
    """The message holds both shapes."""
    with pytest.raises(ValueError) as error:
        fill_images(torch.zeros(shape), images)
    message = f"fill must be one image for all or as many as are filled, (9, 3, 30, 20), not {shape}"
    assert str(error.value) == message


@pytest.mark.parametrize("fill", [None, 0.0, np.zeros((1, 3, 30, 20))])
def test_what_is_neither_name_nor_images_is_refused(fill, images):
    """The message says what it was."""
    with pytest.raises(ValueError, match=f"not {type(fill).__name__}$"):
        fill_images(fill, images)
