"""Networks side by side: each one's numbers are those it has alone, and no network sees another one."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib import config, data, experiment, model, paths, training
from saqlib.config import Cell
from saqlib.quantization import calibrate, pact, pact_layers, set_quantizing
from saqlib.side_by_side import SideBySide, _StackedPact

PARAMS = config.load(scale="smoke")
SETTINGS = replace(PARAMS.training, batch_size=50, calibration_images=100)
PRECISIONS = list(PARAMS.precisions)
SEEDS = (0, 1, 5)
BATCH = 12


@pytest.fixture(scope="module")
def images() -> training.Images:
    """200 of the sample's digits to train on, 100 to validate."""
    train, labels = data.load("mnist", "train", sample=True)
    return training.Images(train[:200], labels[:200], *data.load("mnist", "validation", sample=True))


def alone(precision: str | config.Precision) -> list[nn.Module]:
    """One network a seed in float64, so that rounding cannot move a code or a pixel's rank."""
    return [model.build(precision, seed=seed).double().train() for seed in SEEDS]


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
    together = SideBySide(networks).train()
    for each in (together, *networks):
        set_quantizing(each, quantizing)
    calibrate(together, torch.cat(x))
    for network, own in zip(networks, x, strict=True):
        calibrate(network, own)
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
    monkeypatch.setattr(model.F, "max_pool2d", F.avg_pool2d)
    layers = tuple(config.Bits(bits, bits) for _ in config.LAYERS)
    precision = config.Precision("even", layers)
    networks, (x, y) = alone(precision), batches()
    copies = copy.deepcopy(networks)
    together = SideBySide(copies).train()
    optimizer = training.make_optimizer(together, SETTINGS)
    optimizers = [training.make_optimizer(network, SETTINGS) for network in networks]
    noise, noise_together = generators(), generators()
    for _ in range(3):
        if procedure == "standard":
            losses = training.standard_step(together, optimizer, torch.cat(x), torch.cat(y))
            expected = [training.standard_step(*each) for each in zip(networks, optimizers, x, y, strict=True)]
        else:
            losses = training.guided_step(together, optimizer, torch.cat(x), torch.cat(y), generator=noise_together)
            expected = [
                training.guided_step(*each, generator=own)
                for *each, own in zip(networks, optimizers, x, y, noise, strict=True)
            ]
        torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-9, atol=1e-9)
    together.write_back()
    assert_equal_states(copies, networks, 1e-7)


def test_stacked_pact_is_pact_with_each_networks_alpha():
    """Values and both gradients, at the bounds too."""
    x = torch.tensor([-1.0, 0.0, 0.3, 0.8, 1.0, 1.3, 2.0]).repeat(5, len(SEEDS), 1).double().requires_grad_()
    alphas = torch.tensor([0.8, 1.0, 2.0]).double().requires_grad_()
    weights = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).double()
    y = _StackedPact.apply(x, alphas, 3)
    found = torch.autograd.grad((y * weights).sum(), (x, alphas))
    for i in range(len(SEEDS)):
        own, alpha = x[:, i].detach().requires_grad_(), alphas[i].detach().requires_grad_()
        expected = pact(own, alpha, 2)
        assert torch.equal(y[:, i], expected)
        for one, other in zip(found, torch.autograd.grad((expected * weights[:, i]).sum(), (own, alpha)), strict=True):
            torch.testing.assert_close(one[:, i] if one.dim() > 1 else one[i], other)


def test_other_widths_and_edges():
    """Layer widths and the edges' precision come from the networks, not from params.yaml."""
    layers = tuple(config.Bits(weight=3, activation=5) for _ in config.LAYERS[:-1])
    precision = config.Precision("w3a5", (*layers, config.Bits(weight=None, activation=None)))
    shape = config.Network(channels=(3, 5), hidden=(12, 7))
    networks = [model.build(precision, network=shape, seed=seed).double().train() for seed in SEEDS]
    x = torch.rand(len(SEEDS), 4, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.cat([network(own) for network, own in zip(networks, x, strict=True)])
    torch.testing.assert_close(SideBySide(networks).train()(x.flatten(0, 1)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training_", ["standard", "guided"])
@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_whole_trainings_agree(images, precision, training_):
    """Two epochs with warm-up, switch and calibration: equal to float32's rounding, which a 2-bit network amplifies."""
    guided = PARAMS.guided if training_ == "guided" else None
    options = {"epochs": 2, "warmup_epochs": 1, "settings": SETTINGS, "guided": guided}
    watch = training.Watch(images.validation[:3], images.validation_labels[:3], 4)
    networks, others = ([model.build(precision, seed=seed) for seed in SEEDS] for _ in range(2))
    calls = []
    histories = training.train_together(
        networks, images, seeds=SEEDS, watch=watch, on_progress=lambda *call: calls.append(call), **options
    )
    expected = [
        training.train(other, images, seed=seed, watch=watch if seed == 0 else None, **options)
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


def test_a_cell_of_several_seeds_at_once_leaves_what_single_ones_leave(images, monkeypatch, tmp_path):
    """On a GPU a cell is one job; its files are those of one job a seed, and its accuracies nearly so."""
    jobs = []

    def in_turn(task, calls, *_):
        jobs.append([seeds for _, _, seeds, _ in calls])
        for call in calls:
            task(*call)

    monkeypatch.setattr(experiment, "parallel", in_turn)
    settings = replace(PARAMS, size=replace(PARAMS.size, seeds=3, epochs=config.Epochs(2, 2)))
    cell, runs = Cell("mnist", "w4a4", "guided"), {}
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(paths, "BUILD", tmp_path / kind)
        # The plan is a GPU's, the work this machine's.
        answers = iter([torch.device(kind)] + [torch.device("cpu")] * 3)
        monkeypatch.setattr(experiment, "pick_device", lambda _, answers=answers: next(answers))
        runs[kind] = experiment.train_cell(cell, settings)
    assert jobs == [[[0], [1], [2]], [[0, 1, 2]]]
    for one, other in zip(runs["cpu"], runs["cuda"], strict=True):
        assert one.seed == other.seed and one.state.keys() == other.state.keys()
        assert one.history.steps == other.history.steps and len(one.history.maps) == len(other.history.maps)
        assert other.test_accuracy == pytest.approx(one.test_accuracy, abs=5)


def test_a_diverged_network_is_named_and_spoils_no_other(images):
    """A loss that is not finite is that of its own seed."""
    networks = [model.build("fp32", seed=seed) for seed in SEEDS]
    with torch.no_grad():
        networks[1].dense3.bias[0] = torch.nan
    with pytest.raises(training.DivergedError, match="^seed 1: .* epoch 1;"):
        training.train_together(
            networks, images, seeds=SEEDS, epochs=1, warmup_epochs=0, settings=SETTINGS, guided=PARAMS.guided
        )
