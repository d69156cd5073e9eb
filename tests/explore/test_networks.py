"""The committed networks without PyTorch: the same images, answers and scores as with it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saqlib import clarity, paths, stored
from saqlib.data import images as data
from saqlib.datasets import DATASETS
from saqlib.explore import networks
from saqlib.params import ParamsError
from saqlib.saliency.gradient import input_gradient


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_sample_is_that_of_the_library(dataset):
    """Test images as they are; the train file holds training and validation images in one."""
    images, labels = data.load(dataset, "test", sample=True)
    found = networks.sample(dataset)
    assert (found[0] == images.numpy()).all() and (found[1] == labels.numpy()).all()
    image, truth = networks.picture(dataset, 7)
    assert (image == images[7].numpy()).all() and truth == str(truth)
    assert (networks.sample(dataset, "train")[0][:1100] == data.load(dataset, "train", sample=True)[0].numpy()).all()


@pytest.mark.parametrize("number", [-1, 300])
def test_a_picture_that_is_not_there_is_refused(number):
    """Before anything is trained or shown."""
    with pytest.raises(ParamsError, match=f"no picture {number}: the sample holds 0 to 299"):
        networks.picture("mnist", number)


def test_every_precision_stands_in_order_and_the_control_last():
    """From the largest file to the smallest."""
    found = networks.files("mnist", "guided")
    assert list(found) == ["fp32", "w4a4", "mixed", "w2a2", networks.UNTRAINED]
    with pytest.raises(ParamsError, match="holds no network of mnist, guided training"):
        networks.files("mnist", "guided", paths.SAMPLE)


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_a_network_answers_as_in_pytorch(precision):
    """Class, confidence, map and both scores are those of the trained network."""
    image, _ = networks.picture("mnist", 7)
    found = networks.files("mnist", "guided")
    (answer,) = networks.ask({precision: found[precision]}, "mnist", image)
    shown = data.as_input(torch.from_numpy(image.copy())[None])
    network = stored.load_model(f"mnist-{precision}-guided", seed=0)
    with torch.no_grad():
        chances = network(shown).softmax(1)[0]
    maps = input_gradient(network, shown)
    assert answer.label == chances.argmax() and answer.confidence == pytest.approx(chances.max().item(), abs=1e-5)
    np.testing.assert_allclose(answer.map, maps[0], atol=1e-6)
    assert answer.focus == pytest.approx(clarity.gini(maps).item(), abs=1e-5)
    assert answer.coherence == pytest.approx(clarity.morans_i(maps).item(), abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(2, 9))
def test_scores_are_those_of_clarity(seed, height, width):
    """The twins agree on any map, of any shape."""
    saliency = np.random.default_rng(seed).normal(size=(height, width))
    maps = torch.from_numpy(saliency)[None]
    assert networks.gini(saliency) == pytest.approx(clarity.gini(maps).item(), abs=1e-9)
    assert networks.morans_i(saliency) == pytest.approx(clarity.morans_i(maps).item(), abs=1e-9)


def test_a_dead_map_has_no_score():
    """As in clarity."""
    assert np.isnan(networks.gini(np.zeros((3, 3)))) and np.isnan(networks.morans_i(np.ones((3, 3))))


def test_pixels_leave_by_their_magnitude():
    """The most salient ones or the least; a removed pixel becomes zero or the mean image's; the image itself stays."""
    image, _ = networks.picture("mnist", 7)
    saliency = -np.arange(784.0).reshape(28, 28)
    before = image.copy()
    assert (networks.remove("mnist", image, saliency, 0.0) == image).all()
    most, least = (networks.remove("mnist", image, saliency, 0.5, first) for first in networks.ORDERS)
    assert not most[14:].any() and (most[:14] == image[:14]).all()
    assert not least[:14].any() and (least[14:] == image[14:]).all()
    mean = networks.sample("mnist", "train")[0].mean(0)
    assert np.abs(networks.remove("mnist", image, saliency, 1.0, fill="mean") - mean).max() <= 0.5
    assert (image == before).all()
