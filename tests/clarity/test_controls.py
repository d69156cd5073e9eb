"""Maps that know nothing: noise, one pixel, edges as scipy finds them, and the image itself."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from saqlib.clarity.controls import control_maps, sobel
from saqlib.names import UNTRAINED
from saqlib.words import CONTROLS

NAMES = [name for name in CONTROLS if name != UNTRAINED]  # that one is a network: the caller has it


@pytest.fixture
def images():
    """Images with dark ground."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.random((5, 1, 28, 28)) * (rng.random((5, 1, 28, 28)) < 0.5)).float()


def generator(seed=0):
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)


def test_sobel_equals_scipy(images):
    """The edge map is the length of scipy's two Sobel derivatives, edges replicated."""
    for edges, image in zip(sobel(images), images[:, 0].numpy(), strict=True):
        expected = np.hypot(*(ndimage.sobel(image, axis, mode="nearest") for axis in (0, 1)))
        np.testing.assert_allclose(edges, expected, atol=1e-5)


def test_controls_are_what_they_are_called(images):
    """One map of each control in order: Gaussian noise, one pixel at its own place, edges, the image."""
    controls = control_maps(images, generator())
    assert list(controls) == NAMES
    assert all(maps.shape == (5, 28, 28) for maps in controls.values())
    assert controls["white_noise"].mean().item() == pytest.approx(0, abs=0.05)
    assert controls["white_noise"].std().item() == pytest.approx(1, abs=0.05)
    assert (controls["one_hot"].flatten(1).sort(1).values == torch.tensor([0.0] * 783 + [1.0])).all()
    assert controls["one_hot"].flatten(1).argmax(1).unique().numel() > 1
    assert torch.equal(controls["sobel"], sobel(images))
    assert torch.equal(controls["intensity"], images.squeeze(1))


def test_controls_follow_their_generator(images):
    """The same seed gives the same controls, another seed others."""
    first, again, other = (control_maps(images, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in NAMES)
    assert not torch.equal(first["white_noise"], other["white_noise"])


def test_several_channels_count_as_their_mean(images):
    """Edges and intensity are those of the grey image; the noise is drawn for pixels, not for channels."""
    colour = torch.cat([images, images.flip(2), images.flip(3)], dim=1)[:, :, :20, :24]
    grey = colour.mean(1, keepdim=True)
    found, expected = control_maps(colour, generator()), control_maps(grey, generator())
    assert list(found) == NAMES
    for name, maps in found.items():
        assert maps.shape == (5, 20, 24), name
        assert torch.equal(maps, expected[name]), name
    assert torch.equal(sobel(colour), sobel(grey))
    torch.testing.assert_close(found["intensity"], (colour[:, 0] + colour[:, 1] + colour[:, 2]) / 3)


def test_channels_that_are_equal_are_one_channel(images):
    """A grey picture saved in colour has the same controls, but for the rounding of a mean."""
    found, expected = (control_maps(some, generator()) for some in (images.expand(-1, 3, -1, -1), images))
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name])


def test_controls_are_copies(images):
    """Whoever changes a map does not change the images."""
    before = images.clone()
    for maps in control_maps(images, generator()).values():
        maps.add_(1)
    assert torch.equal(images, before)


@pytest.mark.parametrize("make", [sobel, lambda images: control_maps(images, generator())])
def test_images_without_channels_are_refused(make):
    """The error says what shape is wanted and which came, in one line."""
    with pytest.raises(ValueError) as error:
        make(torch.rand(5, 28, 28))
    assert str(error.value) == "images must be (B, C, H, W), not (5, 28, 28)"
