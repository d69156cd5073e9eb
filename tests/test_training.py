"""Training: each step against a slow reference, the schedule's switch, and what is recorded on the way."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib import config, data, model, quantization, saliency, training
from saqlib.quantization import PACT, QuantConv2d, QuantLinear, pact_layers

PARAMS = config.load(scale="smoke")
SETTINGS = replace(PARAMS.training, batch_size=50, calibration_images=100)
PRECISIONS = ["fp32", "w4a4", "w2a2"]


@pytest.fixture(scope="module")
def images() -> training.Images:
    """A few of the sample's digits: 300 to train on, 100 to validate."""
    train, labels = data.load("mnist", "train", sample=True)
    return training.Images(train[:300], labels[:300], *data.load("mnist", "validation", sample=True))


@pytest.fixture
def batch(images) -> tuple[Tensor, Tensor]:
    """A batch as the network takes it, in float64 so that rounding cannot move a code or a pixel's rank."""
    return training.as_input(images.train[:12]).double(), images.train_labels[:12]


def network(precision: str) -> nn.Module:
    """A network of one seed in float64, with a last layer that makes it opinionated, as if it were trained."""
    net = model.build(precision, seed=1).double()
    with torch.no_grad():
        net.dense3.weight *= 30
    return net.train()


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=rtol * value.abs().max().item(), msg=name)


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all parameters, relative to the largest gradient of each."""
    return max(((found[name] - value).abs().max() / value.abs().max()).item() for name, value in expected.items())


# ---------------------------------------------------------------------------------------------------- steps


def test_standard_step_is_a_plain_pytorch_step(batch):
    """Three steps of the full-precision network equal Adam on a LeNet written out with torch.nn.functional."""
    x, y = batch
    net = network("fp32")
    plain = {name: value.detach().clone().requires_grad_() for name, value in net.named_parameters()}

    def forward(x: Tensor) -> Tensor:
        for layer in ("conv1", "conv2"):
            padding = 2 if layer == "conv1" else 0
            x = F.conv2d(x, plain[f"{layer}.weight"], plain[f"{layer}.bias"], padding=padding)
            x = F.max_pool2d(x.relu(), 2)
        x = x.flatten(1)
        for layer in ("dense1", "dense2"):
            x = F.linear(x, plain[f"{layer}.weight"], plain[f"{layer}.bias"]).relu()
        return F.linear(x, plain["dense3.weight"], plain["dense3.bias"])

    ours = training.make_optimizer(net, SETTINGS)
    theirs = torch.optim.Adam(plain.values(), lr=SETTINGS.learning_rate)
    for _ in range(3):
        theirs.zero_grad()
        expected = F.cross_entropy(forward(x), y)
        expected.backward()
        theirs.step()
        loss = training.standard_step(net, ours, x, y)
        assert loss.shape == () and not loss.requires_grad
        assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert_same(dict(net.named_parameters()), plain)


@pytest.mark.parametrize("precision", ["w4a4", "w2a2"])
def test_standard_step_adds_the_penalty_of_alpha_and_nothing_else(precision, batch):
    """Gradients are those of cross-entropy + penalty * sum of alpha^2; the alphas have a learning rate of their own."""
    x, y = batch
    net = network(precision)
    other = copy.deepcopy(net)
    before = {name: layer.alpha.item() for name, layer in pact_layers(net).items()}
    settings = replace(SETTINGS, alpha_penalty=0.3, alpha_learning_rate=1e-4)
    training.standard_step(net, training.make_optimizer(net, settings), x, y)
    penalty = sum(layer.alpha.square() for layer in pact_layers(other).values())
    (F.cross_entropy(other(x), y) + 0.3 * penalty).backward()
    assert_same(gradients(net), gradients(other))
    for name, layer in pact_layers(net).items():  # Adam's first step is as long as the learning rate
        assert abs(layer.alpha.item() - before[name]) == pytest.approx(1e-4, rel=1e-3)
    weight = net.dense1.weight - other.dense1.weight
    assert weight.abs().max().item() == pytest.approx(SETTINGS.learning_rate, rel=1e-3)


def published_step(
    net: nn.Module, x: Tensor, y: Tensor, noise: Tensor, ranking: str = "magnitude", loss: str = "published"
) -> dict[str, Tensor]:
    """Gradients of saliency-guided training as published, nothing shared between its passes. `loss` names mutants.

    Captum sees the whole batch, since on a lattice many sums are 0 but for rounding, which depends on the batch.
    """
    watched, masked = x.clone().requires_grad_(), x.clone()
    maps = captum.attr.Saliency(net).attribute(watched, target=y, abs=ranking == "magnitude")
    for i in range(len(x)):
        least = maps[i].flatten().argsort(stable=True)[: 28 * 28 // 2]  # of equal ones (background) the first
        low, high = x[i].min(), x[i].max()
        masked[i].view(-1)[least] = low + (high - low) * noise[i][least]
    net.zero_grad()
    clean, hidden = net(x), net(masked)
    cross_entropy = nn.CrossEntropyLoss()(clean, y)
    if loss == "clean side detached":
        clean = clean.detach()
    if loss == "masked side detached":
        hidden = hidden.detach()
    if loss == "other direction":
        clean, hidden = hidden, clean
    p, q = clean.softmax(1), hidden.softmax(1)
    divergence = (p * (p.log() - q.log())).sum() / (len(x) if loss != "mean over classes too" else p.numel())
    (cross_entropy + divergence).backward()
    return gradients(net)


@pytest.mark.parametrize("ranking", saliency.RANKINGS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_guided_step_equals_the_published_procedure(precision, ranking, batch):
    """Sharing the clean forward changes no gradient: captum, a sort and two forwards find the same."""
    x, y = batch
    net = network(precision)
    other = copy.deepcopy(net)
    optimizer = training.make_optimizer(net, replace(SETTINGS, alpha_penalty=0.0))
    own = torch.Generator().manual_seed(4)
    noise = torch.rand(len(x), 28 * 28, generator=torch.Generator().manual_seed(4)).double()
    training.guided_step(net, optimizer, x, y, generator=own, ranking=ranking)
    assert_same(gradients(net), published_step(other, x, y, noise, ranking))


@pytest.mark.parametrize(
    "mutant", ["clean side detached", "masked side detached", "other direction", "mean over classes too"]
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_guided_step_differs_from_its_near_misses(precision, mutant, batch):
    """Direction, scale and both differentiated sides of the divergence show in the gradients of the tested batch."""
    x, y = batch
    net = network(precision)
    noise = torch.rand(len(x), 28 * 28, generator=torch.Generator().manual_seed(4)).double()
    published = published_step(net, x, y, noise)
    assert largest_difference(published_step(net, x, y, noise, loss=mutant), published) > 1e-3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_guided_step_that_masks_nothing_is_a_standard_step(precision, batch):
    """With fraction 0 the divergence is exactly 0: the same loss, the same gradients."""
    x, y = batch
    guided, standard = network(precision), network(precision)
    own = torch.Generator()
    loss = training.guided_step(guided, training.make_optimizer(guided, SETTINGS), x, y, generator=own, fraction=0)
    assert loss == training.standard_step(standard, training.make_optimizer(standard, SETTINGS), x, y)
    assert_same(gradients(guided), gradients(standard), rtol=1e-9)


def test_guided_step_weighs_the_divergence(batch):
    """The loss is linear in `weight`, and weight 0 leaves the cross-entropy."""
    x, y = batch
    losses = []
    for weight in (0.0, 1.0, 3.0):
        net = network("w2a2")
        optimizer, own = training.make_optimizer(net, SETTINGS), torch.Generator().manual_seed(0)
        losses.append(training.guided_step(net, optimizer, x, y, generator=own, weight=weight).item())
    assert losses[0] == pytest.approx(F.cross_entropy(network("w2a2")(x), y).item(), rel=1e-12)
    assert losses[1] > losses[0] * (1 + 1e-4)
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-9)


@pytest.mark.parametrize("step", ["standard", "guided"])
def test_steps_give_the_images_no_gradient(step, batch):
    """The caller's images are neither changed nor differentiated, even if they ask for it."""
    x, y = batch
    before = x.clone()
    x.requires_grad_()
    net = network("w2a2")
    optimizer = training.make_optimizer(net, SETTINGS)
    if step == "standard":
        training.standard_step(net, optimizer, x, y)
    else:
        training.guided_step(net, optimizer, x, y, generator=torch.Generator())
    assert x.grad is None
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("step", ["standard", "guided"])
def test_a_step_forgets_the_gradients_before_it(step, batch):
    """What an earlier backward left behind does not enter the step."""
    x, y = batch
    found = []
    for left_behind in (None, 1e3):
        net = network("w4a4")
        if left_behind is not None:
            for parameter in net.parameters():
                parameter.grad = torch.full_like(parameter, left_behind)
        optimizer = training.make_optimizer(net, SETTINGS)
        if step == "standard":
            training.standard_step(net, optimizer, x, y)
        else:
            training.guided_step(net, optimizer, x, y, generator=torch.Generator().manual_seed(0))
        found.append(gradients(net))
    assert_same(found[1], found[0], rtol=1e-12)


def test_masked_images_do_not_enter_batch_norm_s_statistics(batch):
    """After a guided step the running statistics are those of one clean forward; a naive step's are not."""
    x, y = batch

    def with_batch_norm() -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 576, 10)]
        return nn.Sequential(*layers).double()

    guided, clean = with_batch_norm(), with_batch_norm()
    own = torch.Generator().manual_seed(0)
    training.guided_step(guided, training.make_optimizer(guided, SETTINGS), x, y, generator=own, fraction=0.9)
    clean(x)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(guided[1], name), getattr(clean[1], name)), name
    assert guided[1].track_running_stats and guided.training
    once = clean[1].running_mean.clone()
    clean(torch.rand_like(x))
    assert not torch.allclose(clean[1].running_mean, once)


# --------------------------------------------------------------------------------------------------- looking


def test_as_input_maps_bytes_to_the_unit_interval():
    """0 to 255 becomes 0 to 1 in one channel, and back without loss."""
    codes = torch.arange(256, dtype=torch.uint8).repeat(4)[: 28 * 28].view(1, 28, 28)
    x = training.as_input(codes)
    assert x.shape == (1, 1, 28, 28) and x.dtype == torch.float32
    assert (x.min(), x.max()) == (0, 1)
    assert torch.equal((x * 255).round().squeeze(1), codes.float())


def test_accuracy_is_the_percentage_of_right_answers(images, monkeypatch):
    """Counted in chunks, in evaluation mode, as one pass over all images would count; the mode is restored."""
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(28 * 28, 10))
    net.eval()
    right = (net(training.as_input(images.train)).argmax(1) == images.train_labels).float().mean().item()
    net.train()
    monkeypatch.setattr(training, "CHUNK", 7)
    assert training.accuracy(net, images.train, images.train_labels) == pytest.approx(100 * right)
    assert net.training and net[1].training


def test_activation_shares_count_clipped_inputs_and_zero_outputs(images):
    """By hand: pixels at or above alpha, and pixels that round to 0; no hook stays behind."""
    net = nn.Sequential(nn.Flatten(), PACT(2))
    net[1].set_alpha(torch.tensor(0.6))
    pixels = training.as_input(images.validation)
    shares = training.activation_shares(net, images.validation)["1"]
    assert shares["alpha"] == pytest.approx(0.6)
    assert shares["clipped"] == pytest.approx((pixels >= 0.6).float().mean().item())
    assert shares["zero"] == pytest.approx((pixels <= 0.1).float().mean().item())
    assert 0.05 < shares["clipped"] < 0.5 < shares["zero"] < 0.95
    assert not net[1]._forward_hooks
    assert training.activation_shares(nn.Sequential(nn.Flatten(), nn.ReLU()), images.validation) == {}


# ------------------------------------------------------------------------------------------------ one network


def train(precision: str, images: training.Images, *, seed: int = 0, epochs: int = 2, **options) -> tuple:
    """A network of the seed, trained, and its history."""
    net = model.build(precision, seed=seed)
    options = {"warmup_epochs": 1.0, "settings": SETTINGS} | options
    return net, training.train(net, images, seed=seed, epochs=epochs, **options)


def watch(images: training.Images, records: int) -> training.Watch:
    return training.Watch(images.validation[:3], images.validation_labels[:3], records)


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("guided", [None, PARAMS.guided], ids=["standard", "guided"])
def test_until_the_switch_a_quantized_network_is_the_full_precision_one(images, guided):
    """The same weights and maps, bit for bit, until the warm-up ends; other ones from the next step on."""
    weights = {"fp32": [], "w2a2": []}
    histories = {}
    for precision, seen in weights.items():
        net = model.build(precision, seed=0)

        def look(history, net=net, seen=seen):
            if len(history.steps) > len(seen):
                seen.append(net.dense3.weight.detach().clone())

        histories[precision] = training.train(
            net, images, seed=0, epochs=2, warmup_epochs=1, settings=SETTINGS, guided=guided,
            watch=watch(images, 12), on_progress=look,
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
    started = pact_layers(model.build("w2a2", seed=0))
    for name, layer in pact_layers(net).items():
        assert not layer.calibrating
        assert not torch.isclose(layer.alpha, started[name].alpha, rtol=1e-4), name
    assert not any(m.training for m in net.modules())


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_a_seed_fixes_the_run(images, precision):
    """The same seed gives the same bits, another one other weights, whatever the global generator does."""
    first, history = train(precision, images, guided=PARAMS.guided)
    torch.manual_seed(12345)
    again, same_history = train(precision, images, guided=PARAMS.guided)
    assert states_equal(first, again) and history.epochs == same_history.epochs
    other, _ = train(precision, images, seed=1, guided=PARAMS.guided)
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
        saliency.input_gradient(watched, training.as_input(images.validation[:3]), images.validation_labels[:3]),
    )


def test_precisions_and_trainings_see_the_same_batches_and_noise(images, monkeypatch):
    """A seed's batch order is one for all, and the noise of guided training does not depend on the precision."""
    batches, noises = [], []
    original = training.guided_step

    def standard(net, optimizer, x, y):
        batches[-1].append(x)
        optimizer.step()
        return torch.zeros(())

    def guided(net, optimizer, x, y, *, generator, **options):
        batches[-1].append(x)
        noises[-1].append(generator[0].get_state())
        return original(net, optimizer, x, y, generator=generator, **options)

    monkeypatch.setattr(training, "standard_step", standard)
    monkeypatch.setattr(training, "guided_step", guided)
    for precision in ("fp32", "w2a2"):
        for settings in (None, PARAMS.guided):
            batches.append([])
            noises.append([])
            train(precision, images, seed=3, guided=settings)
    for some in batches:
        assert len(some) == 12 and all(torch.equal(a, b) for a, b in zip(some, batches[0], strict=True))
    assert len(noises[1]) == 12 and all(torch.equal(a, b) for a, b in zip(noises[1], noises[3], strict=True))
    assert not torch.equal(batches[0][0], batches[0][6])  # a new order each epoch
    epoch = torch.cat(batches[0][:6]).flatten(1).sum(1).sort().values
    assert torch.equal(epoch, training.as_input(images.train).flatten(1).sum(1).sort().values)  # every image once


def test_history_tells_each_epoch(images):
    """Loss, validation accuracy and the layers' shares, one entry an epoch, reported as they come."""
    lengths = []
    net, history = train("w4a4", images, epochs=3, on_progress=lambda history: lengths.append(len(history.epochs)))
    assert lengths == [1, 2, 3]
    assert [epoch["epoch"] for epoch in history.epochs] == [1, 2, 3]
    assert all(epoch["layers"].keys() == {"act1", "act2", "act3", "act4"} for epoch in history.epochs)
    last = history.epochs[-1]
    assert last["validation_accuracy"] == training.accuracy(net, images.validation, images.validation_labels)
    assert last["layers"] == training.activation_shares(net, images.validation)
    assert history.steps == history.maps == []


@pytest.mark.parametrize("guided", [None, PARAMS.guided], ids=["standard", "guided"])
@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_training_learns(images, precision, guided):
    """Three epochs on the sample's 1,100 digits are far better than chance."""
    images = training.Images(*data.load("mnist", "train", sample=True), images.validation, images.validation_labels)
    settings = replace(SETTINGS, learning_rate=0.01, alpha_learning_rate=0.01)
    _, history = train(precision, images, epochs=3, guided=guided, settings=settings)
    assert history.epochs[-1]["loss"] < 0.5 * history.epochs[0]["loss"]
    assert history.epochs[-1]["validation_accuracy"] > 70


@pytest.mark.parametrize("guided", [None, PARAMS.guided], ids=["standard", "guided"])
def test_a_diverged_run_stops_and_names_the_epoch(images, guided):
    """A learning rate of 1e9 is not trained to the end, and the message says where and what to do."""
    with pytest.raises(training.DivergedError, match="epoch 1; lower training.learning_rate"):
        train("fp32", images, guided=guided, settings=replace(SETTINGS, learning_rate=1e9))


def test_a_late_divergence_names_its_epoch(images, monkeypatch):
    """The epoch in the message is the one whose loss is not finite."""
    count, original = iter(range(1000)), training.standard_step

    def poisoned(*arguments):
        return original(*arguments) * (math.nan if next(count) == 15 else 1)

    monkeypatch.setattr(training, "standard_step", poisoned)
    with pytest.raises(training.DivergedError, match="epoch 3;"):
        train("w2a2", images, epochs=5)


def test_a_guided_step_quantizes_its_weights_once(batch, monkeypatch):
    """Both forward passes share the weights of the step: half the work, and the same bits as without sharing."""
    def step(net) -> None:
        noise = torch.Generator().manual_seed(0)
        training.guided_step(net, training.make_optimizer(net, SETTINGS), *batch, generator=noise)

    calls = []
    real = quantization.weight_scale
    monkeypatch.setattr(quantization, "weight_scale", lambda *given: calls.append(1) or real(*given))
    shared, apart = network("w2a2"), network("w2a2")
    calls.clear()
    step(shared)
    assert len(calls) == 5
    monkeypatch.setattr(training, "quantized_once", lambda model: nullcontext())
    step(apart)
    assert len(calls) == 5 + 10
    for name, value in shared.state_dict().items():
        assert torch.equal(value, apart.state_dict()[name]), name
    assert all(layer.kept is None for layer in (shared.conv1, shared.dense3)), "the next step quantizes anew"
