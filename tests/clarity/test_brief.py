"""The brief scores are means of the very scores that a whole scoring gives."""

from dataclasses import replace

import pytest
import torch

from saqlib.clarity.brief import brief_scores
from saqlib.clarity.images import scored_images
from saqlib.clarity.removal import symmetric_relevance_gain
from saqlib.clarity.scores import foreground_mass, gini, morans_i
from saqlib.names import FILLS
from saqlib.network.initial import build
from saqlib.network.quantization import calibrate
from saqlib.pipeline import study
from saqlib.saliency.gradient import input_gradient

SCORING = replace(study.load(scale="smoke").scoring, images=12)


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_means_over_the_images_of_a_split(precision, split):
    """Score by score by the public functions; the mean fill is that of the training images."""
    scored = scored_images("mnist", SCORING, split)
    network = build(precision, seed=0).eval()
    calibrate(network, scored.images)
    found = brief_scores(network, "mnist", SCORING, split)
    maps = input_gradient(network, scored.images)
    targets = network(scored.images).argmax(1)
    expected = {
        "gini": gini(maps),
        "morans_i": morans_i(maps),
        "foreground_mass": foreground_mass(maps, scored.images.squeeze(1)),
        "amplitude": maps.abs().flatten(1).median(1).values.double(),
    }
    steps = SCORING.clarity.steps
    for fill in FILLS:
        gain = symmetric_relevance_gain(network, scored.images, targets, maps, steps, scored.fills[fill])
        expected[f"relevance_gain_{fill}"] = gain
    assert found == {name: pytest.approx(scores.nanmean().item(), abs=1e-3) for name, scores in expected.items()}


def test_a_dead_network_has_no_scores():
    """NaN, not an error: an ablation goes on."""
    network = build("w2a2", seed=0).eval()
    with torch.no_grad():
        network.dense3.weight.zero_()
    found = brief_scores(network, "mnist", SCORING)
    assert all(value != value for name, value in found.items())
