"""The scored images: their order, and what takes the place of their pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saqlib.clarity.fills import fill_images
from saqlib.clarity.images import scored_images
from saqlib.data import images as data
from saqlib.names import FILLS
from tests.clarity.conftest import IMAGES, SCORING


@pytest.mark.parametrize("split", ["test", "validation"])
def test_images_stand_at_their_places_in_random_order(split):
    """Image and label of each place; every place once; the first of a larger number are those of a smaller one."""
    scored = scored_images("mnist", SCORING, split)
    images, labels = data.load("mnist", split, sample=True)
    assert torch.equal(scored.raw, images[scored.places]) and torch.equal(scored.labels, labels[scored.places])
    assert torch.equal(scored.images, data.as_input(scored.raw))
    assert len(scored.places.unique()) == IMAGES and not torch.equal(scored.places.sort().values, scored.places)
    fewer = scored_images("mnist", replace(SCORING, images=7), split)
    assert torch.equal(fewer.places, scored.places[:7])


def test_more_images_than_there_are_are_all_of_them():
    """A split has as many images as it has."""
    assert len(scored_images("mnist", replace(SCORING, images=999), "validation").places) == 100


@pytest.mark.parametrize("split", ["test", "validation"])
def test_fills_know_the_training_images_alone(split):
    """The mean is that of each pixel over the training images, whatever is scored; the other fills need none."""
    scored = scored_images("fashion_mnist", SCORING, split)
    assert list(scored.fills) == list(FILLS)
    training = data.load("fashion_mnist", "train", sample=True)[0].numpy()
    expected = np.stack([image / 255 for image in training]).mean(0)
    np.testing.assert_allclose(scored.fills["mean"][0, 0], expected, rtol=1e-6)
    for fill in ("zero", "noise", "blur"):
        assert torch.equal(scored.fills[fill], fill_images(fill, scored.images))
