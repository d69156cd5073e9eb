"""Tests of saqlib.site.glance: the picture of the front page shows the committed maps and every mean."""

import re

import numpy as np
from PIL import Image

from saqlib import paths
from saqlib.site import glance, networks
from saqlib.site.findings import Runs


def test_the_picture_shows_the_maps_and_the_means(tmp_path):
    """Ten pictures on one scale per image, the brightest of which reaches the top, and each mean in words."""
    runs = Runs(paths.RESULTS)
    html = glance.picture(paths.RESULTS, tmp_path, runs)
    sources = re.findall(r'src="_static/([^"]+)" alt="([^"]+)"', html)
    assert len(sources) == len(runs.datasets) * (1 + len(runs.precisions))
    for dataset in runs.datasets:
        mean = runs.seeds("faithfulness", dataset, "standard").mean()
        told = ", ".join(f"{precision} {mean[precision]:.2f}" for precision in runs.precisions)
        assert f"standard training {told}" in html
    brightness = [np.asarray(Image.open(tmp_path / source), float).mean() for source, _ in sources[1:5]]
    assert brightness[0] == max(brightness), "the full-precision map has the largest gradients"


def test_the_image_is_one_that_every_network_reads():
    """The first such example: all four precisions agree with its class."""
    images = networks.examples("fashion_mnist").images
    for precision in ("fp32", "w2a2"):
        logits, _ = networks.answers(networks.models(paths.RESULTS)[f"fashion_mnist-{precision}-standard"], images)
        assert logits.argmax(1)[0] == 0


def test_ticks_are_round_and_few():
    """Three to six between both ends."""
    assert glance._ticks(0, 0.79) == [0, 0.2, 0.4, 0.6]
    assert glance._ticks(-0.14, 0.26) == [-0.1, 0, 0.1, 0.2]
