"""What the benchmark's variants compute: nothing here is timed."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import arithmetic, breakdown, peers, stages, steps, timing
from benchmarks.__main__ import as_table
from saqlib.kernels import library
from saqlib.network.initial import build
from saqlib.network.lattice import quantize_weight
from saqlib.network.lenet import LeNet
from saqlib.network.settings import LAYERS
from saqlib.pipeline import study
from saqlib.pipeline.study import Study
from saqlib.saliency.masking import least_salient
from saqlib.training import steps as training
from saqlib.training.steps import guided_step, make_optimizer, standard_step

SIZE = 16
BREVITAS = pytest.mark.skipif(
    peers.brevitas_layers() is None, reason="Brevitas is not installed: it belongs to the extra `bench` (make bench)"
)


@pytest.fixture(scope="module")
def settings() -> Study:
    """The experiment's own numbers."""
    return study.load()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """A few images of the sample with their labels."""
    return steps.sample_batches(SIZE, 1)[0]


class Recorder(nn.Module):
    """A network that keeps every batch it is given."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images.detach().clone())
        return self.network(images)


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
    recorder = Recorder(theirs)
    optimizer = torch.optim.SGD(recorder.parameters(), lr=1)  # a step by the gradient, where Adam divides by small ones
    expected = peers.released_step(recorder, optimizer, images, labels, rng=np.random.default_rng(0))
    masked = recorder.seen[-1]
    monkeypatch.setattr(training, "mask_least_salient", lambda *arguments, **options: masked)
    optimizer = torch.optim.SGD(ours.parameters(), lr=1)
    loss = guided_step(ours, optimizer, images, labels, generator=torch.Generator())
    cross_entropy = F.cross_entropy(_trained_a_little(settings)(images), labels)
    assert loss > cross_entropy.item() + 1e-3  # the divergence takes part
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6)


def test_released_step_makes_three_forward_passes(settings, batch):
    """One for the map, in evaluation mode, then clean and masked images in training mode."""
    network = build("fp32", seed=0)
    modes = []
    network.register_forward_hook(lambda module, *_: modes.append(module.training))
    optimizer = make_optimizer(network, settings.optimizer, settings.quantization)
    peers.released_step(network, optimizer, *batch, rng=np.random.default_rng(0))
    assert modes == [False, True, True]


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


def test_released_map_is_the_gradient_of_the_log_probability(settings, batch):
    """The pixels masked are those with the most negative gradient of log p of the label."""
    images, labels = batch
    recorder = Recorder(_trained_a_little(settings))
    optimizer = make_optimizer(recorder, settings.optimizer)
    watched = images.clone().requires_grad_()
    chosen = F.log_softmax(recorder.network(watched), 1).gather(1, labels[:, None]).sum()
    gradient = torch.autograd.grad(chosen, watched)[0].flatten(1)
    peers.released_step(recorder, optimizer, images, labels, rng=np.random.default_rng(0))
    changed = (recorder.seen[-1] != images).flatten(1)
    assert (changed.sum(1) == 392).all()
    largest_hidden = gradient.masked_fill(~changed, -math.inf).amax(1)
    smallest_kept = gradient.masked_fill(changed, math.inf).amin(1)
    assert (largest_hidden <= smallest_kept + 1e-6).all()  # which of equal ones are hidden is left to topk


# ----------------------------------------------------------------------------------------------------- Brevitas


@BREVITAS
def test_brevitas_network_has_our_shapes(settings):
    """Layer by layer, weights and biases have the shapes of our network's."""
    ours = build("w4a4")
    theirs = peers.BrevitasNet(settings.precisions["w4a4"], settings.shape)
    for name in LAYERS:
        mine, reference = getattr(ours, name), getattr(theirs, name)
        assert mine.weight.shape == reference.weight.shape
        assert mine.bias.shape == reference.bias.shape


@BREVITAS
@pytest.mark.parametrize("precision", ["w4a4", "mixed", "w2a2"])
def test_brevitas_network_has_our_bits(settings, precision):
    """Weights have the bits of the precision, a scale per channel and our lattice's levels; so have activations."""
    bits = dict(zip(LAYERS, settings.precisions[precision].layers, strict=True))
    network = peers.brevitas_network(settings.precisions[precision], settings.shape, seed=0)
    for name in LAYERS:
        layer = getattr(network, name)
        quantized = layer.quant_weight()
        assert quantized.bit_width.item() == bits[name].weight
        assert quantized.scale.numel() == len(layer.weight)
        codes = quantized.int().float()
        assert codes.abs().max() <= 2 ** (bits[name].weight - 1) - 1
        reference, _ = quantize_weight(layer.weight.detach(), bits[name].weight)
        assert codes.shape == reference.shape
    for activation, name in zip((network.act1, network.act2, network.act3, network.act4), LAYERS, strict=False):
        output = activation(torch.randn(64, 64))
        assert output.bit_width.item() == bits[name].activation
        assert not output.signed
        assert len(output.value.unique()) <= 2 ** bits[name].activation


@BREVITAS
def test_brevitas_network_has_settled(settings):
    """Its activation scales are parameters by now: an input three times as large does not change them."""
    network = peers.brevitas_network(settings.precisions["w4a4"], settings.shape, seed=0)
    x = torch.rand(16, 16)
    for activation in (network.input, network.act1, network.act2, network.act3, network.act4):
        assert torch.equal(activation(x).scale, activation(3 * x).scale)


@BREVITAS
@pytest.mark.parametrize("layers", ["brevitas", "favoured"])
def test_brevitas_network_learns(settings, layers):
    """A few steps lower the loss, so what is timed is a network that trains."""
    network = steps.make_network(layers, settings)
    optimizer = make_optimizer(network, settings.optimizer, settings.quantization)
    losses = [standard_step(network, optimizer, *some).item() for some in steps.sample_batches(64, 60)]
    assert losses[0] == pytest.approx(math.log(10), abs=0.3)
    assert np.mean(losses[-4:]) < 0.8 * losses[0]


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


def test_ratio_is_that_of_the_medians():
    """Of the wall times 2, 4, 9 against 1, 2, 3: 4 / 2; quartiles of 2, 2, 3."""
    times = timing.Times(
        {"slow": np.array([2.0, 4.0, 9.0]), "fast": np.array([1.0, 2.0, 3.0])},
        {"slow": np.array([6.0, 6.0, 6.0]), "fast": np.array([1.0, 2.0, 4.0])},
    )
    assert timing.ratio(times, "slow", "fast") == timing.Ratio(wall=2.0, low=2.0, high=2.5, processor=3.0)


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


def test_rows_without_brevitas_are_left_out_where_it_is_missing(monkeypatch):
    """What remains compares our own layers alone, and the released procedure on them."""
    monkeypatch.setattr(peers, "brevitas_layers", lambda: None)
    left = steps.available(steps.GOALS + steps.PARTS)
    assert 0 < len(left) < len(steps.GOALS + steps.PARTS)
    assert not any("brevitas" in c.text.lower() for c in left)


def test_time_of_a_stage_is_split_into_work_and_the_rest(tmp_path):
    """Training and scoring are work; a cell that only works by hand, imports, and the time outside any cell are not."""
    cells = [
        ["import torch", 2.0],
        ['if output != ".":\n    experiment.train_cell(cell)', 0.5],
        ["runs = train_cell(cell, recipe)", 60.0],
        ["plt.show()", 1.5],
    ]
    for cell in ("a", "b"):
        (tmp_path / f"02_train-{cell}.json").write_text(json.dumps({"seconds": 80.0, "cells": cells}))
    assert stages.rows(tmp_path) == [
        {
            "stage": "02_train", "runs": "2", "seconds": "160", "work": "120 (75%)", "imports": "4 (2%)",
            "other cells": "4 (2%)", "kernel and papermill": "32 (20%)",
        }
    ]  # fmt: skip
    assert stages.rows(tmp_path / "nothing") == []


def test_table_lines_up():
    """Every line of the Markdown table is equally long and has its header's cells."""
    lines = as_table([{"a": "1", "long name": "x"}, {"a": "1000", "long name": ""}]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.count("|") for line in lines] == [3, 3, 3, 3]
