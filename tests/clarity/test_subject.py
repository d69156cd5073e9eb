"""What a network is asked of maps: its own and another's, on all images and on the first, with every fill."""

import numpy as np
import pytest
import torch
from torch import nn

from saqlib import stored
from saqlib.clarity.images import scored_images
from saqlib.clarity.removal import removal_curves, symmetric_relevance_gain
from saqlib.clarity.scores import foreground_mass, gini, morans_i
from saqlib.clarity.subject import Subject, stacked
from saqlib.names import FILLS, PRIMARY
from saqlib.saliency.gradient import input_gradient
from tests.clarity.conftest import SCORING, W2A2

STEPS = 9


@pytest.fixture(scope="module")
def subject(root) -> Subject:
    """A two-bit network in front of the scored images."""
    return Subject.predicting(stored.load_model(W2A2, 0, root), scored_images("mnist", SCORING), STEPS)


@pytest.fixture
def maps(subject):
    """Maps that nobody's gradient made, one of them dead."""
    maps = torch.randn(subject.images.shape[0], 28, 28, generator=torch.Generator().manual_seed(0))
    maps[3] = 0
    return maps


def test_a_network_explains_its_own_predictions(subject):
    """The classes are the network's, the map the gradient of their logits."""
    with torch.no_grad():
        assert torch.equal(subject.targets, subject.network(subject.images).argmax(1))
    expected = input_gradient(subject.network, subject.images, subject.targets)
    assert torch.equal(subject.gradient_of(subject.network), expected)


def test_another_network_s_map_is_for_the_same_classes(subject, root):
    """Its own predictions do not matter, and it stays as it was."""
    other = stored.load_model(W2A2, 1, root)
    expected = input_gradient(other, subject.images, subject.targets)
    assert torch.equal(subject.gradient_of(other), expected)
    assert not torch.equal(expected, input_gradient(other, subject.images))


def test_a_dead_network_has_dead_maps(subject):
    """All zero, so that every score is NaN."""
    dead = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    nn.init.zeros_(dead[1].weight)
    maps = subject.gradient_of(dead)
    assert maps.shape == (len(subject.images), 28, 28) and (maps == 0).all()
    assert all(values.isnan().all() for values in subject.scores(maps))


def test_scores_are_each_score_by_itself(subject, maps):
    """Under its place among the names, and every fill by its own; the primary gain is that with zeros."""
    found = subject.scores(maps)
    asked = subject.network, subject.images, subject.targets, maps, STEPS
    expected = {
        "gini": gini(maps),
        "morans_i": morans_i(maps),
        "foreground_mass": foreground_mass(maps, subject.images.squeeze(1)),
        "relevance_gain_zero": symmetric_relevance_gain(*asked),
    }
    for name, values in zip(PRIMARY, found.scores, strict=True):
        np.testing.assert_allclose(values, expected[name], rtol=1e-12)
    for fill, values in zip(FILLS, found.gains, strict=True):
        expected = symmetric_relevance_gain(*asked, fill=subject.fills[fill])
        np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert found.scores.isnan().nonzero()[:, 1].unique().tolist() == [3]
    assert found.gains.isnan().all(0).nonzero().flatten().tolist() == [3]


def test_known_curves_are_not_made_again(subject, maps):
    """They are those of removal, and scores that are given them ask the network nothing."""
    curves = subject.curves(maps)
    for fill in FILLS:
        whole = removal_curves(subject.network, subject.images, subject.targets, maps, STEPS, subject.fills[fill])
        for found, expected in zip(curves[fill], whole, strict=True):
            np.testing.assert_array_equal(found, expected[:, 1:-1])

    def refuse(*_):
        raise AssertionError("the network was asked")

    handle = subject.network.register_forward_pre_hook(refuse)
    try:
        found = subject.scores(maps, curves)
    finally:
        handle.remove()
    for values, expected in zip(found, subject.scores(maps), strict=True):
        np.testing.assert_array_equal(values, expected)


def test_the_first_images_score_as_among_all(subject, maps):
    """With their own fills, one for each image as well as one for all."""
    few, all_of_them = subject.first(5).scores(maps[:5]), subject.scores(maps)
    for values, expected in zip(few, all_of_them, strict=True):
        np.testing.assert_allclose(values, expected[:, :5], rtol=1e-6, atol=1e-9)


def test_stacked_scores_keep_their_rows(subject, maps):
    """A row for each map, in order."""
    scores = [subject.first(4).scores(each) for each in (maps[:4], maps[4:8], maps[:4])]
    together = stacked(scores)
    assert together.scores.shape == (3, len(PRIMARY), 4) and together.gains.shape == (3, len(FILLS), 4)
    for row, each in enumerate(scores):
        np.testing.assert_array_equal(together.scores[row], each.scores)
        np.testing.assert_array_equal(together.gains[row], each.gains)
