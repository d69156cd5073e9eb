"""The loop: the schedule's switch, what a seed fixes, what is recorded on the way, and how a bad end is told."""

import copy
import io
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from saqlib.data.images import as_input, load
from saqlib.network.initial import build
from saqlib.network.quantization import PACT, QuantConv2d, QuantLinear, pact_layers
from saqlib.pipeline import study
from saqlib.saliency.gradient import input_gradient
from saqlib.training import looking, loop, steps

STUDY = study.load(scale="smoke")
OPTIMIZER = replace(STUDY.optimizer, batch_size=50)
QUANTIZATION = replace(STUDY.quantization, calibration_images=100)
QUANTIZED = {"quantization": QUANTIZATION, "warmup_epochs": 1.0}


@pytest.fixture(scope="module")
def images() -> loop.Images:
    """A few of the sample's digits: 300 to train on, 100 to validate."""
    train, labels = load("mnist", "train", sample=True)
    return loop.Images(train[:300], labels[:300], *load("mnist", "validation", sample=True))


# ------------------------------------------------------------------------------------------------ one network


def train(precision: str, images: loop.Images, *, seed: int = 0, epochs: int = 2, **options) -> tuple:
    """A network of the seed, trained, and its history."""
    net = build(precision, seed=seed)
    options = {"optimizer": OPTIMIZER} | (QUANTIZED if net.precision.quantized else {}) | options
    return net, loop.train(net, images, seed=seed, epochs=epochs, **options)


def watch(images: loop.Images, records: int) -> loop.Watch:
    return loop.Watch(images.validation[:3], images.validation_labels[:3], records)


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("guided", [None, STUDY.guided], ids=["standard", "guided"])
def test_until_the_switch_a_quantized_network_is_the_full_precision_one(images, guided):
    """The same weights and maps, bit for bit, until the warm-up ends; other ones from the next step on."""
    weights = {"fp32": [], "w2a2": []}
    histories = {}
    for precision, seen in weights.items():
        net = build(precision, seed=0)

        def look(history, net=net, seen=seen):
            if len(history.steps) > len(seen):
                seen.append(net.dense3.weight.detach().clone())

        options = {} if precision == "fp32" else QUANTIZED
        histories[precision] = loop.train(
            net, images, seed=0, epochs=2, optimizer=OPTIMIZER, guided=guided,
            watch=watch(images, 12), on_progress=look, **options,
        )  # fmt: skip
    full, low = histories.values()
    assert full.steps == low.steps == list(range(13))
    equal = [torch.equal(*pair) for pair in zip(*weights.values(), strict=True)]
    assert equal == [True] * 7 + [False] * 6  # the weights before the steps 0 to 6, of 6 an epoch
    maps_equal = [torch.equal(*pair) for pair in zip(full.maps, low.maps, strict=True)]
    assert maps_equal == [True] * 6 + [False] * 7  # the network of step 6 is quantized already
    assert full.epochs[0]["loss"] == low.epochs[0]["loss"]
    assert full.epochs[1]["loss"] != low.epochs[1]["loss"]


@pytest.mark.parametrize("warmup_epochs", [0, 0.5, 0.99])
def test_every_quantized_network_ends_quantized_and_calibrated(images, warmup_epochs):
    """Also with a warm-up that ends within the last step; the network is left in evaluation mode."""
    net, _ = train("w2a2", images, epochs=1, warmup_epochs=warmup_epochs)
    quantized = [m for m in net.modules() if isinstance(m, (PACT, QuantConv2d, QuantLinear))]
    assert len(quantized) == 9 and all(m.quantizing for m in quantized)
    started = pact_layers(build("w2a2", seed=0))
    for name, layer in pact_layers(net).items():
        assert not layer.calibrating
        assert not torch.isclose(layer.alpha, started[name].alpha, rtol=1e-4), name
    assert not any(m.training for m in net.modules())


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_a_seed_fixes_the_run(images, precision):
    """The same seed gives the same bits, another one other weights, whatever the global generator does."""
    first, history = train(precision, images, guided=STUDY.guided)
    torch.manual_seed(12345)
    again, same_history = train(precision, images, guided=STUDY.guided)
    assert states_equal(first, again) and history.epochs == same_history.epochs
    other, _ = train(precision, images, seed=1, guided=STUDY.guided)
    assert not states_equal(first, other)


def test_watching_does_not_change_the_run(images):
    """Maps are recorded for one seed only, so recording must leave the weights as they would have been."""
    unwatched, _ = train("w2a2", images)
    watched, history = train("w2a2", images, watch=watch(images, 5))
    assert states_equal(unwatched, watched)
    assert history.steps == [0, 2, 5, 7, 10, 12]
    assert [tuple(maps.shape) for maps in history.maps] == [(3, 28, 28)] * 6
    assert torch.equal(
        history.maps[-1],
        input_gradient(watched, as_input(images.validation[:3]), images.validation_labels[:3]),
    )


def test_precisions_and_trainings_see_the_same_batches_and_noise(images, monkeypatch):
    """A seed's batch order is one for all, and the noise of guided training does not depend on the precision."""
    batches, noises = [], []
    original = steps.guided_step

    def standard(net, optimizer, x, y):
        batches[-1].append(x)
        optimizer.step()
        return torch.zeros(())

    def guided(net, optimizer, x, y, *, generator, **options):
        batches[-1].append(x)
        noises[-1].append(generator[0].get_state())
        return original(net, optimizer, x, y, generator=generator, **options)

    monkeypatch.setattr(loop, "standard_step", standard)
    monkeypatch.setattr(loop, "guided_step", guided)
    for precision in ("fp32", "w2a2"):
        for guidance in (None, STUDY.guided):
            batches.append([])
            noises.append([])
            train(precision, images, seed=3, guided=guidance)
    for some in batches:
        assert len(some) == 12 and all(torch.equal(a, b) for a, b in zip(some, batches[0], strict=True))
    assert len(noises[1]) == 12 and all(torch.equal(a, b) for a, b in zip(noises[1], noises[3], strict=True))
    assert not torch.equal(batches[0][0], batches[0][6])  # a new order each epoch
    epoch = torch.cat(batches[0][:6]).flatten(1).sum(1).sort().values
    assert torch.equal(epoch, as_input(images.train).flatten(1).sum(1).sort().values)  # every image once


def test_history_tells_each_epoch(images):
    """Loss, validation accuracy and the layers' shares, one entry per epoch, reported as they come."""
    lengths = []
    net, history = train("w4a4", images, epochs=3, on_progress=lambda history: lengths.append(len(history.epochs)))
    assert lengths == [1, 2, 3]
    assert [epoch["epoch"] for epoch in history.epochs] == [1, 2, 3]
    assert all(epoch["layers"].keys() == {"act1", "act2", "act3", "act4"} for epoch in history.epochs)
    last = history.epochs[-1]
    assert last["validation_accuracy"] == looking.accuracy(net, images.validation, images.validation_labels)
    assert last["layers"] == looking.activation_shares(net, images.validation)
    assert history.steps == history.maps == []


@pytest.mark.parametrize("guided", [None, STUDY.guided], ids=["standard", "guided"])
@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_training_learns(images, precision, guided):
    """Three epochs on the sample's 1,100 digits are far better than chance."""
    images = loop.Images(*load("mnist", "train", sample=True), images.validation, images.validation_labels)
    options = {"optimizer": replace(OPTIMIZER, learning_rate=0.01)}
    if precision != "fp32":
        options["quantization"] = replace(QUANTIZATION, alpha_learning_rate=0.01)
    _, history = train(precision, images, epochs=3, guided=guided, **options)
    assert history.epochs[-1]["loss"] < 0.5 * history.epochs[0]["loss"]
    assert history.epochs[-1]["validation_accuracy"] > 70


@pytest.mark.parametrize("guided", [None, STUDY.guided], ids=["standard", "guided"])
def test_a_diverged_run_stops_and_names_the_epoch(images, guided):
    """A learning rate of 1e9 is not trained to the end, and the message says where and what to do."""
    with pytest.raises(loop.DivergedError, match="epoch 1; lower optimizer.learning_rate"):
        train("fp32", images, guided=guided, optimizer=replace(OPTIMIZER, learning_rate=1e9))


def test_a_late_divergence_names_its_epoch(images, monkeypatch):
    """The epoch in the message is the one whose loss is not finite."""
    count, original = iter(range(1000)), steps.standard_step

    def poisoned(*arguments):
        return original(*arguments) * (math.nan if next(count) == 15 else 1)

    monkeypatch.setattr(loop, "standard_step", poisoned)
    with pytest.raises(loop.DivergedError, match="epoch 3;"):
        train("w2a2", images, epochs=5)


def test_a_quantized_network_needs_the_settings_of_its_clips(images):
    """It is refused before the first step, in place of training in full precision to the end."""
    with pytest.raises(ValueError, match="quantization"):
        train("w2a2", images, quantization=None)


def test_learning_rates_follow_one_cycle(images, monkeypatch):
    """Weights and clips rise from a 25th of their peak to it in 3 tenths of the steps, then fall, along cosines.

    300 images in batches of 70 are five steps an epoch, the last one with the 20 that are left.
    """
    found, sizes = [], []

    def step(net, optimizer, x, y):
        found.append([group["lr"] for group in optimizer.param_groups])
        sizes.append(len(x))
        optimizer.step()
        return torch.zeros(())

    monkeypatch.setattr(loop, "standard_step", step)
    optimizer, clips = replace(OPTIMIZER, batch_size=70), replace(QUANTIZATION, alpha_learning_rate=0.03)
    train("w4a4", images, epochs=4, optimizer=optimizer, quantization=clips)
    assert sizes == [70, 70, 70, 70, 20] * 4
    for rates, peak in zip(zip(*found, strict=True), (optimizer.learning_rate, 0.03), strict=True):
        for i, rate in enumerate(rates):
            start, end, share = (peak / 25, peak, i / 5) if i <= 5 else (peak, peak / 25 / 1e4, (i - 5) / 14)
            assert rate == pytest.approx(end + (start - end) * (1 + math.cos(math.pi * share)) / 2, rel=1e-9)


# --------------------------------------------------------------------------------------------------- warm-up


def resumed(precision: str, images: loop.Images, start: loop.Point, **options) -> tuple:
    """A network of the seed that goes on from a warm-up, which has been in a file."""
    kept = io.BytesIO()
    torch.save(start, kept)
    kept.seek(0)
    return train(precision, images, start=torch.load(kept, weights_only=True), **options)


@pytest.mark.parametrize("guided", [None, STUDY.guided], ids=["standard", "guided"])
@pytest.mark.parametrize("warmup", [0.5, 1.0, 1.5, 2.0], ids=lambda epochs: f"{epochs} epochs")
def test_every_precision_goes_on_from_one_warm_up(images, guided, warmup):
    """Bit for bit the weights, history and maps of a training that was never interrupted, wherever the switch is."""
    common = {"epochs": 3, "guided": guided, "watch": watch(images, 6)}
    network = build("fp32", seed=0)
    warm = loop.warm_up(network, images, seed=0, warmup_epochs=warmup, optimizer=OPTIMIZER, **common)
    assert warm["step"] == int(warmup * 6)
    for precision in ("fp32", "w4a4", "mixed", "w2a2"):
        whole, history = train(precision, images, warmup_epochs=warmup, **common)
        net, other = resumed(precision, images, warm, warmup_epochs=warmup, **common)
        assert states_equal(whole, net) and net.state_dict().keys() == whole.state_dict().keys()
        assert history.epochs == other.epochs and history.steps == other.steps
        assert all(torch.equal(a, b) for a, b in zip(history.maps, other.maps, strict=True))
        assert all(
            value.stride() == other_value.stride()
            for value, other_value in zip(whole.parameters(), net.parameters(), strict=True)
        )


def test_full_precision_goes_on_from_its_own_warm_up(images):
    """Without a switch: the training as if it had never stopped."""
    warm = loop.warm_up(build("fp32", seed=0), images, seed=0, epochs=2, warmup_epochs=0.5, optimizer=OPTIMIZER)
    whole, history = train("fp32", images)
    net, other = resumed("fp32", images, warm)
    assert states_equal(whole, net) and history.epochs == other.epochs


@pytest.mark.parametrize("guided", [None, STUDY.guided], ids=["standard", "guided"])
@pytest.mark.parametrize("precision", ["fp32", "w4a4", "w2a2"])
@pytest.mark.parametrize("warmup", [0.5, 1.0, 1.5])
def test_a_training_goes_on_from_the_end_of_any_epoch(images, precision, guided, warmup):
    """Before, at and after the switch: the same bits as a training that was never stopped."""
    common = {"epochs": 3, "guided": guided, "watch": watch(images, 6), "warmup_epochs": warmup}
    points: list[loop.Point] = []
    whole, history = train(precision, images, on_epoch=lambda point: points.append(copy.deepcopy(point)), **common)
    assert [point["step"] for point in points] == [6, 12]
    for point in points:
        net, other = resumed(precision, images, point, **common)
        assert states_equal(whole, net)
        assert history.epochs == other.epochs and history.steps == other.steps
        assert all(torch.equal(a, b) for a, b in zip(history.maps, other.maps, strict=True))


@pytest.mark.parametrize("lost", ["adam", "noise", "order", "losses"])
def test_all_of_a_warm_up_counts(images, lost):
    """Another state of the optimizer, of the noise or of the order, or losses left out, and the training differs."""
    common = {"epochs": 2, "guided": STUDY.guided}
    warm = loop.warm_up(build("fp32", seed=0), images, seed=0, warmup_epochs=0.5, optimizer=OPTIMIZER, **common)
    other = loop.warm_up(build("fp32", seed=1), images, seed=1, warmup_epochs=0.5, optimizer=OPTIMIZER, **common)
    whole, history = train("w2a2", images, warmup_epochs=0.5, **common)
    net, found = resumed("w2a2", images, warm | {lost: other[lost]}, warmup_epochs=0.5, **common)
    assert not states_equal(whole, net) or history.epochs != found.epochs
