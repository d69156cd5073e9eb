"""The desk shows what the networks answer, and every handle changes what it shows."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from saqlib.explore import desk, networks
from saqlib.report.pictures import MAP_COLOURS, PERCENTILE

IMAGE, TRUTH = networks.picture("mnist", 7)


def test_the_table_says_what_the_networks_answer():
    """One column for the image and for each network; with pixels removed also what is left of the confidence."""
    shown = desk.table("mnist", "guided", IMAGE, TRUTH)
    answers = networks.ask(networks.files("mnist", "guided"), "mnist", IMAGE)
    assert shown.count("<img") == 1 + len(answers) == shown.count("alt=")
    for answer in answers:
        assert f"{answer.name}, {answer.confidence:.0%}" in shown and f"focus {answer.focus:.2f}" in shown
    less = desk.table("mnist", "guided", IMAGE, TRUTH, share=0.3)
    left = networks.remove("mnist", IMAGE, answers[0].map, 0.3)
    sure = networks.confidence(networks.files("mnist", "guided")["fp32"], left, answers[0].label)
    assert less.count("<img") == 1 + 2 * len(answers) and f"{answers[0].name}: {sure:.0%}" in less


def test_a_wrong_class_is_red():
    """As in the figures, where the truth is known."""
    assert desk.table("mnist", "guided", IMAGE, TRUTH).count("#D62728") == 1, "the untrained network's"
    assert desk.table("mnist", "guided", IMAGE, "8").count("#D62728") == 5
    assert "#D62728" not in desk.table("mnist", "guided", IMAGE)


def test_maps_have_the_colours_of_the_figures():
    """Black is 0, the brightest colour begins at the 99th percentile; a dead map is black."""
    assert (desk.COLOURS, desk.PERCENTILE) == (MAP_COLOURS, PERCENTILE)
    saliency = np.linspace(-1, 1, 784).reshape(28, 28)
    found = desk.coloured(saliency).astype(int)
    assert found.sum(-1)[0, 0] == found.sum(-1)[-1, -1] == found.sum(-1).max()
    assert np.abs(found[13, -1]).sum() < 20 and not desk.coloured(np.zeros((28, 28)))[..., 1].any()


def test_the_picture_is_that_of_the_sample():
    """Dark on white."""
    source = re.search(r'src="data:image/png;base64,([^"]+)"', desk.table("mnist", "guided", IMAGE))[1]
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) == 255 - IMAGE).all()


@pytest.mark.parametrize(
    ("handle", "value"),
    [("dataset", "fashion_mnist"), ("training", "standard"), ("picture", 8), ("share", 40)],
)
def test_every_handle_changes_what_is_shown(handle, value):
    """At once."""
    shown = desk.Desk("mnist", "guided", 7)
    before = shown.shown.value
    getattr(shown, handle).value = value
    assert shown.shown.value != before


@pytest.mark.parametrize(("handle", "value"), [("first", "least"), ("fill", "mean")])
def test_what_is_removed_and_what_takes_its_place(handle, value):
    """Once there is something to remove."""
    shown = desk.Desk("mnist", "guided", 7)
    shown.share.value = 40
    before = shown.shown.value
    getattr(shown, handle).value = value
    assert shown.shown.value != before


def test_the_sentence_names_every_trained_network():
    """In words that a test of the notebook compares."""
    assert desk.sentence("mnist", "guided", IMAGE) == "fp32: 7, w4a4: 7, mixed: 7, w2a2: 7"
