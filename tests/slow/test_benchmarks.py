"""What the benchmark's variants compute: nothing here is timed."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import arithmetic, breakdown, peers, stages, steps, timing
from saqlib import training
from saqlib.kernels import library
from saqlib.lenet import LeNet, build
from saqlib.saliency import least_salient
from saqlib.training import guided_step, make_optimizer, standard_step
from study import settings as study
from study.settings import Study

SIZE = 16


@pytest.fixture(scope="module")
def settings() -> Study:
    """The experiment's own numbers."""
    return study.load()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """A few images of the sample with their labels."""
    return steps.sample_batches(SIZE, 1)[0]


def _trained_a_little(settings: Study) -> LeNet:
    network = build("fp32", seed=0)
    optimizer = make_optimizer(network, settings.optimizer, settings.quantization)
    for images, labels in steps.sample_batches(64, 10):
        standard_step(network, optimizer, images, labels)
    return network


# --------------------------------------------------------------------------------------- the released procedure


def test_released_step_takes_our_step_on_the_same_masked_images(settings, batch, monkeypatch):
    """In full precision and with the same noise, loss and gradients are those of our guided step."""
    images, labels = batch
    ours, theirs = _trained_a_little(settings), _trained_a_little(settings)
    seen = []
    theirs.register_forward_pre_hook(lambda _, batch: seen.append(batch[0].detach().clone()))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1)  # a step by the gradient, where Adam divides by small ones
    expected = peers.released_step(theirs, optimizer, images, labels, rng=np.random.default_rng(0))
    masked = seen[-1]
    monkeypatch.setattr(training, "mask_least_salient", lambda *arguments, **options: masked)
    optimizer = torch.optim.SGD(ours.parameters(), lr=1)
    loss = guided_step(ours, optimizer, images, labels, generator=torch.Generator())
    cross_entropy = F.cross_entropy(_trained_a_little(settings)(images), labels)
    assert loss > cross_entropy.item() + 1e-3  # the divergence takes part
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ranking", ["signed", "magnitude"])
def test_released_masking_hides_the_least_salient_half(batch, ranking):
    """Exactly the pixels of our own selection change, to values in their image's range."""
    images = 0.25 + 0.5 * batch[0]
    images[..., 0, 0], images[..., 0, 1] = 0.1, 0.9  # the range of every image
    saliency = torch.randn(SIZE, 28, 28, generator=torch.Generator().manual_seed(0))
    masked = peers.mask_one_by_one(images, saliency, 0.5, np.random.default_rng(0), ranking=ranking)
    key = saliency.flatten(1)
    chosen = least_salient(key.abs() if ranking == "magnitude" else key, 392)
    assert torch.equal((masked != images).flatten(1), chosen)
    noise = masked.flatten(1)[chosen]
    assert noise.min() >= 0.1 and noise.max() <= 0.9
    assert noise.mean().item() == pytest.approx(0.5, abs=0.01)


# ------------------------------------------------------------------------------------------------- its own parts


@pytest.mark.parametrize("procedure", ["standard", "guided"])
def test_macs_are_those_that_pytorch_counts(settings, procedure):
    """Counted by hand from shapes; counted by PyTorch from the operators it runs, in a network of plain layers."""
    network, batch = settings.shape, 3
    (c1, c2), (d1, d2) = network.channels, network.hidden
    plain = nn.Sequential(
        *(nn.Conv2d(1, c1, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(c1, c2, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(c2 * 25, d1), nn.ReLU(), nn.Linear(d1, d2), nn.ReLU(), nn.Linear(d2, 10)),
    )
    images = torch.rand(batch, 1, 28, 28)
    with FlopCounterMode(display=False) as counter:
        if procedure == "guided":
            watched = images.clone().requires_grad_() + 0  # the counter cannot watch a leaf
            torch.autograd.grad(plain(watched).sum(), watched)
            forward = sum(arithmetic.layer_macs(network)) * batch
            (plain(images).sum() + plain(images).sum()).backward()
            expected = arithmetic.guided_macs(network, batch) + forward  # the map shares its forward pass in our step
        else:
            plain(images).sum().backward()
            expected = arithmetic.standard_macs(network, batch)
    assert counter.get_total_flops() == 2 * expected


def test_interleaved_calls_each_variant_once_a_round_in_turning_order():
    """After the warm-up, every round calls all variants, beginning with another one."""
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = timing.interleaved(variants, rounds=4)
    assert "".join(calls[3 * timing.WARM_UP :]) == "abc" + "bca" + "cab" + "abc"
    assert all(len(times.wall[name]) == len(times.processor[name]) == 4 for name in "abc")


def test_breakdown_accounts_for_the_whole_step(settings, monkeypatch):
    """Every phase of a guided step appears, and the marks are gone afterwards."""
    monkeypatch.setattr(breakdown, "WARM_UP", 1)
    monkeypatch.setattr(breakdown, "STEPS", 2)
    before = training.logit_gradient
    found = breakdown.profile_step(settings, "fp32")
    assert training.logit_gradient is before
    assert set(found.phases) == {
        "forward passes",
        "map: backward to the images",
        "masking",
        "backward to the weights",
        "Adam",
        "rest of the step",
    }
    backward = "kernel block2_weights" if library.library() else "convolution_backward"
    assert backward in found.phases["backward to the weights"]
    assert ("kernel product" if library.library() else "mm") in found.phases["map: backward to the images"]
    text = breakdown.as_text(found).splitlines()
    shares = [float(line.split("%")[0]) for line in text if line[8] != " "]  # operators are indented
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_time_of_a_stage_is_split_into_work_and_the_rest(tmp_path):
    """Training and scoring are work; a cell that only works by hand, imports, and the time outside any cell are not."""
    cells = [
        ["import torch", 2.0],
        ["from study.results import train_cell", 0.5],
        ["runs = train_cell(cell, recipe)", 60.0],
        ["plt.show()", 1.5],
    ]
    for cell in ("a", "b"):
        (tmp_path / f"02_train-{cell}.json").write_text(json.dumps({"seconds": 80.0, "cells": cells}))
    assert stages.rows(tmp_path) == [
        {
            "stage": "02_train", "runs": "2", "seconds": "160", "work": "120 (75%)", "imports": "5 (3%)",
            "other cells": "3 (2%)", "kernel and papermill": "32 (20%)",
        }
    ]  # fmt: skip
    assert stages.rows(tmp_path / "nothing") == []


@pytest.mark.skipif(library.library() is None, reason=f"no kernels here: {library.why_not()}")
def test_forward_passes_are_a_part_of_scoring_and_the_first_convolution_one_of_these(monkeypatch):
    """A row for each precision; the network's functions are unmarked afterwards."""
    monkeypatch.setattr(breakdown, "SCORED", {"images": 6, "images_expensive": 3})
    before = LeNet.forward
    rows = breakdown.scoring_rows(study.load(scale="smoke"))
    assert LeNet.forward is before and [row["precision"] for row in rows] == ["fp32", "w4a4", "mixed", "w2a2"]
    parts = [int(row[name].rstrip("%")) for row in rows for name in ("forward passes", "conv1 of these")]
    assert all(0 < part < 100 for part in parts)
