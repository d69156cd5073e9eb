"""Tests of study.explore: images, answers and scores as with PyTorch; the desk shows them; networks of one's own."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from saqlib import scores
from saqlib.data import as_input, load
from saqlib.removal import fill_images
from saqlib.saliency import input_gradient
from study import explore, models, paths
from study.report.pictures import MAP_COLOURS, PERCENTILE
from study.settings import TRAININGS

IMAGE, TRUTH = explore.picture("mnist", 7)


def test_the_sample_is_that_of_the_library():
    """Test images as they are; the train file holds training and validation images in one."""
    for found, expected in zip(explore.sample("mnist"), load("mnist", "test", paths.SAMPLE), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (explore.sample("mnist", "train")[0][:1100] == load("mnist", "train", paths.SAMPLE)[0].numpy()).all()
    with pytest.raises(ValueError, match="no picture 300: the sample holds 0 to 299"):
        explore.picture("mnist", 300)


def test_every_precision_stands_in_order_and_the_control_last():
    """From the largest file to the smallest."""
    assert list(explore.files("mnist", "guided")) == ["fp32", "w4a4", "mixed", "w2a2", explore.UNTRAINED]
    with pytest.raises(ValueError, match="holds no network of mnist, guided training"):
        explore.files("mnist", "guided", paths.SAMPLE)
    assert explore.TRAININGS == TRAININGS


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
@pytest.mark.parametrize("saturated", explore.MAPS)
def test_a_network_answers_as_in_pytorch(precision, saturated):
    """Class, confidence, either map and both scores are those of the trained network."""
    networks = {precision: explore.files("mnist", "guided")[precision]}
    (answer,) = explore.ask(networks, "mnist", IMAGE, saturated)
    network, shown = models.load(f"mnist-{precision}-guided"), as_input(torch.from_numpy(IMAGE.copy())[None])
    with torch.no_grad():
        chances = network(shown).softmax(1)[0]
    maps = input_gradient(network, shown, saturated=saturated)
    assert answer.label == chances.argmax() and answer.confidence == pytest.approx(chances.max().item(), abs=1e-5)
    np.testing.assert_allclose(answer.map, maps[0], atol=1e-6)
    assert answer.focus == pytest.approx(scores.gini(maps).item(), abs=1e-5)
    assert answer.coherence == pytest.approx(scores.morans_i(maps).item(), abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(2, 9))
def test_scores_are_those_of_the_library(seed, height, width):
    """The twins agree on any map, of any shape."""
    saliency = np.random.default_rng(seed).normal(size=(height, width))
    maps = torch.from_numpy(saliency)[None]
    assert explore.gini(saliency) == pytest.approx(scores.gini(maps).item(), abs=1e-9)
    assert explore.morans_i(saliency) == pytest.approx(scores.morans_i(maps).item(), abs=1e-9)
    assert np.isnan(explore.gini(0 * saliency)) and np.isnan(explore.morans_i(0 * saliency))


def test_pixels_leave_by_their_magnitude():
    """The most salient ones or the least; a removed pixel becomes what it does in the study; the image itself stays."""
    saliency, before = -np.arange(784.0).reshape(28, 28), IMAGE.copy()
    assert (explore.remove("mnist", IMAGE, saliency, 0.0) == IMAGE).all()
    most, least = (explore.remove("mnist", IMAGE, saliency, 0.5, first, "zero") for first in explore.ORDERS)
    assert not most[14:].any() and (most[:14] == IMAGE[:14]).all()
    assert not least[:14].any() and (least[14:] == IMAGE[14:]).all()
    mean = explore.sample("mnist", "train")[0].mean(0)
    zero, removed, noise, blur = (explore.remove("mnist", IMAGE, saliency, 1, fill=fill) for fill in scores.FILLS)
    assert not zero.any() and np.abs(removed - mean).max() <= 0.5
    np.testing.assert_array_equal(explore.remove("mnist", IMAGE, saliency, 1), removed, "by default")
    shown = as_input(torch.from_numpy(IMAGE.copy())[None])
    np.testing.assert_allclose(blur, 255 * fill_images("blur", shown)[0, 0], atol=0.51)
    assert noise.std() > 60 and abs(noise.mean() - (IMAGE.min() + IMAGE.max()) / 2) < 10
    assert (IMAGE == before).all()


def test_the_table_says_what_the_networks_answer():
    """One column for the image, dark on white, and for each network; then also what removal leaves of confidence."""
    shown = explore.table("mnist", "guided", IMAGE, TRUTH)
    answers = explore.ask(explore.files("mnist", "guided"), "mnist", IMAGE)
    assert shown.count("<img") == 1 + len(answers) == shown.count("alt=")
    for answer in answers:
        assert f"{answer.name}<br>{explore.percent(answer.confidence)}<" in shown
        assert f"focus {answer.focus:.2f}" in shown
    source = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', shown)[1])
    assert (np.asarray(Image.open(io.BytesIO(source))) == 255 - IMAGE).all()
    less = explore.table("mnist", "guided", IMAGE, TRUTH, share=0.3)
    left = explore.remove("mnist", IMAGE, answers[0].map, 0.3, fill="mean")
    sure = explore.confidence(explore.files("mnist", "guided")["fp32"], left, answers[0].label)
    assert less.count("<img") == 1 + 2 * len(answers) and f"{answers[0].name}<br>{explore.percent(sure)}" in less
    wrong = [explore.table("mnist", "guided", IMAGE, truth).count("#D62728") for truth in (TRUTH, "8", "")]
    assert wrong == [1, 5, 0], "the untrained network's, all, and without a truth none"
    assert explore.sentence("mnist", "guided", IMAGE) == "full precision: 7, 4 bits: 7, 4/2 bits: 7, 2 bits: 7"


@given(st.floats(0, 1))
@example(0.9997)
def test_what_is_not_certain_is_not_100_percent(share):
    """Rounded to a tenth of a percent, but never to 100 %, which would look surer than 99.9 % elsewhere."""
    words = explore.percent(share)
    assert "100" not in words and abs(float(words.removeprefix("over ").removesuffix(" %")) - 100 * share) <= 0.11


def test_every_handle_changes_what_is_shown():
    """At once; in the colours of the figures, where a dead map is black."""
    assert (explore.COLOURS, explore.PERCENTILE) == (MAP_COLOURS, PERCENTILE)
    found = explore.coloured(np.linspace(-1, 1, 784).reshape(28, 28)).astype(int)
    assert found.sum(-1)[0, 0] == found.sum(-1).max() and not explore.coloured(np.zeros((28, 28)))[..., 1].any()
    desk = explore.Desk("mnist", "guided", 7)
    assert desk.handles["fill"].options == scores.FILLS and desk.handles["fill"].value == "mean"
    chosen = {"share": 0.4, "first": "least", "fill": "blur", "picture": 8, "training": "standard", "saturated": "pass"}
    for handle, value in (chosen | {"dataset": "fashion_mnist"}).items():
        before = desk.shown.value
        desk.handles[handle].value = value
        assert desk.shown.value != before, handle
    image, truth = explore.picture("fashion_mnist", 8)
    expected = explore.table("fashion_mnist", "standard", image, truth, 0.4, "least", "blur", "pass")
    assert desk.shown.value == expected


def test_clipped_networks_are_compared_with_both_maps():
    """The pass-through map stands beside the straight-through one where activations are clipped."""
    networks = {name: models.load(f"mnist-{name}-guided") for name in ("fp32", "w2a2")}
    _, *panels = explore.compare(networks, "mnist", 7).axes
    titles = [axes.get_title() for axes in panels]
    assert [title.split("\n")[0] for title in titles[:2]] == ["fp32: 7", "w2a2: 7"]
    assert titles[2:] == ["w2a2\npass-through"]
    shown = as_input(torch.from_numpy(IMAGE.copy())[None])
    score = scores.gini(input_gradient(networks["w2a2"], shown, saturated="pass")).item()
    assert panels[2].get_xlabel().startswith(f"focus {score:.2f}, ")
    plt.close("all")
