"""Networks side by side: each one's numbers are those it has alone, and no network sees another one."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib.data.images import load
from saqlib.network import lenet
from saqlib.network.initial import build
from saqlib.network.lattice import pact
from saqlib.network.quantization import PACT, calibrate, pact_layers, set_quantizing
from saqlib.network.settings import LAYERS, Bits, Precision, Shape
from saqlib.pipeline import study
from saqlib.training import loop, steps
from saqlib.training.stacked import Stacked, StackedPact

STUDY = study.load(scale="smoke")
OPTIMIZER = replace(STUDY.optimizer, batch_size=50)
QUANTIZATION = replace(STUDY.quantization, calibration_images=100)
PRECISIONS = list(STUDY.precisions)
SEEDS = (0, 1, 5)
BATCH = 12


@pytest.fixture(scope="module")
def images() -> loop.Images:
    """200 of the sample's digits to train on, 100 to validate."""
    train, labels = load("mnist", "train", sample=True)
    return loop.Images(train[:200], labels[:200], *load("mnist", "validation", sample=True))


def alone(precision: str | Precision) -> list[nn.Module]:
    """One network a seed in float64, so that rounding cannot move a code or a pixel's rank."""
    return [build(precision, seed=seed).double().train() for seed in SEEDS]


def batches() -> tuple[list[Tensor], list[Tensor]]:
    """Another batch for each network, of images without two equal pixels: between those only rounding decides."""
    numbers = torch.Generator().manual_seed(0)
    x = torch.rand(len(SEEDS), BATCH, 1, 28, 28, generator=numbers, dtype=torch.float64)
    return list(x), list(torch.randint(10, (len(SEEDS), BATCH), generator=numbers))


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def assert_equal_states(found: list[nn.Module], expected: list[nn.Module], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        for name, value in other.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("quantizing", [True, False], ids=["quantized", "warm-up"])
def test_logits_are_those_of_the_networks_alone(precision, quantizing):
    """Each network's batch goes through that network, calibrated on its own activations."""
    networks, (x, _) = alone(precision), batches()
    together = Stacked(networks).train()
    for each in (together, *networks):
        set_quantizing(each, quantizing)
    calibrate(together, torch.cat(x))
    for network, own in zip(networks, x, strict=True):
        calibrate(network, own)
    # A calibrated clip is so many hundredths of the largest value: on a lattice that makes exact ties between codes,
    # and float64 does not decide them. This takes every value off them.
    with torch.no_grad():
        for each in (together, *networks):
            for layer in pact_layers(each).values():
                layer.alpha.mul_(0.98765)
    expected = torch.cat([network(own) for network, own in zip(networks, x, strict=True)])
    torch.testing.assert_close(together(torch.cat(x)), expected, rtol=1e-10, atol=1e-10)
    alphas = [[layer.alpha.item() for layer in pact_layers(network).values()] for network in networks]
    assert len({tuple(some) for some in alphas}) == (len(SEEDS) if precision != "fp32" else 1)


@pytest.mark.parametrize("procedure", ["standard", "guided"])
@pytest.mark.parametrize("bits", [None, 8], ids=["fp32", "w8a8"])
def test_three_steps_are_those_of_the_networks_alone(bits, procedure, monkeypatch):
    """Losses, weights, alphas and scales after three steps, every network with its own batches and noise.

    With 8 bits and pooled by the mean: on a coarse lattice values of a pooling window or of a map are often equal but
    for rounding, and another one is then the largest, or masked, under another kernel.
    """
    monkeypatch.setattr(lenet.F, "max_pool2d", F.avg_pool2d)
    layers = tuple(Bits(bits, bits) for _ in LAYERS)
    precision = Precision("even", layers)
    networks, (x, y) = alone(precision), batches()
    copies = copy.deepcopy(networks)
    together = Stacked(copies).train()
    optimizer = steps.make_optimizer(together, OPTIMIZER, QUANTIZATION)
    optimizers = [steps.make_optimizer(network, OPTIMIZER, QUANTIZATION) for network in networks]
    noise, noise_together = generators(), generators()
    for _ in range(3):
        if procedure == "standard":
            losses = steps.standard_step(together, optimizer, torch.cat(x), torch.cat(y))
            expected = [steps.standard_step(*each) for each in zip(networks, optimizers, x, y, strict=True)]
        else:
            losses = steps.guided_step(together, optimizer, torch.cat(x), torch.cat(y), generator=noise_together)
            expected = [
                steps.guided_step(*each, generator=own)
                for *each, own in zip(networks, optimizers, x, y, noise, strict=True)
            ]
        torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-9, atol=1e-9)
    together.write_back()
    assert_equal_states(copies, networks, 1e-7)


def test_stacked_pact_is_pact_with_each_networks_alpha():
    """Values and both gradients, at the bounds too."""
    x = torch.tensor([-1.0, 0.0, 0.3, 0.8, 1.0, 1.3, 2.0]).repeat(5, len(SEEDS)).double().requires_grad_()
    layer = StackedPact(PACT(2), len(SEEDS)).double()
    layer.set_alpha(torch.tensor([0.8, 1.0, 2.0]))
    weights = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).double()
    y = layer(x)
    grad_x, grad_alpha = torch.autograd.grad((y * weights).sum(), (x, layer.alpha))
    per_network = [each.chunk(len(SEEDS), 1) for each in (x, y, weights, grad_x)]
    for i, (own, found, weight, grad) in enumerate(zip(*per_network, strict=True)):
        own, alpha = own.detach().requires_grad_(), layer.alpha[i].detach().requires_grad_()
        expected = pact(own, alpha, 2)
        assert torch.equal(found, expected)
        expected_grads = torch.autograd.grad((expected * weight).sum(), (own, alpha))
        torch.testing.assert_close((grad, grad_alpha[i]), expected_grads)


def test_other_widths_and_edges():
    """Layer widths and the edges' precision come from the networks, not from params.yaml."""
    layers = tuple(Bits(weight=3, activation=5) for _ in LAYERS[:-1])
    precision = Precision("w3a5", (*layers, Bits(weight=None, activation=None)))
    shape = Shape(channels=(3, 5), hidden=(12, 7))
    networks = [build(precision, shape=shape, seed=seed).double().train() for seed in SEEDS]
    x = torch.rand(len(SEEDS), 4, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.cat([network(own) for network, own in zip(networks, x, strict=True)])
    torch.testing.assert_close(Stacked(networks).train()(x.flatten(0, 1)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("guided", [None, STUDY.guided], ids=["standard", "guided"])
@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_whole_trainings_agree(images, precision, guided):
    """Two epochs with warm-up, switch and calibration: equal to float32's rounding, which a 2-bit network amplifies."""
    options = {"epochs": 2, "optimizer": OPTIMIZER, "guided": guided}
    if precision != "fp32":
        options |= {"quantization": QUANTIZATION, "warmup_epochs": 1}
    watch = loop.Watch(images.validation[:3], images.validation_labels[:3], 4)
    networks, others = ([build(precision, seed=seed) for seed in SEEDS] for _ in range(2))
    calls = []
    histories = loop.train_together(
        networks, images, seeds=SEEDS, watch=watch, on_progress=lambda *call: calls.append(call), **options
    )
    expected = [
        loop.train(other, images, seed=seed, watch=watch if seed == 0 else None, **options)
        for other, seed in zip(others, SEEDS, strict=True)
    ]
    for history, other in zip(histories, expected, strict=True):
        warm_up, last = ([each.epochs[i]["loss"] for each in (history, other)] for i in range(2))
        assert warm_up[0] == pytest.approx(warm_up[1], rel=1e-5)
        assert last[0] == pytest.approx(last[1], rel=1e-4 if precision == "fp32" else 0.05)
        assert history.steps == other.steps
        for one, same in list(zip(history.maps, other.maps, strict=True))[:2]:  # those of the warm-up
            assert F.cosine_similarity(one.flatten(1), same.flatten(1)).min() > 0.999
    if precision == "fp32":
        assert_equal_states(networks, others, 1e-3)
    assert not any(network.training for network in networks)
    assert {seed for seed, _ in calls} == set(SEEDS)


def test_a_diverged_network_is_named_and_spoils_no_other(images):
    """A loss that is not finite is that of its own seed; the weights of the others stay finite."""
    networks = [build("fp32", seed=seed) for seed in SEEDS]
    with torch.no_grad():
        networks[1].dense3.bias[0] = torch.nan
    with pytest.raises(loop.DivergedError, match="^seed 1: .* epoch 1;"):
        loop.train_together(networks, images, seeds=SEEDS, epochs=1, optimizer=OPTIMIZER, guided=STUDY.guided)
    finite = [all(value.isfinite().all() for value in network.state_dict().values()) for network in networks]
    assert finite == [True, False, True]
