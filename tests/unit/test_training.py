"""Steps against slow references; the loop's schedule, switch, records and warm-up; what nobody trains on."""

import copy
import io
import math
from dataclasses import replace

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib import quantization, training
from saqlib.data import as_input
from saqlib.errors import NotFiniteError
from saqlib.lenet import Shape, build
from saqlib.quantization import PACT, QuantConv2d, QuantLinear, pact_layers, set_quantizing
from saqlib.saliency import SATURATED, input_gradient
from saqlib.training import guided_step, make_optimizer, standard_step, train, warm_up
from tests.helpers.called import VECTOR_MATH, Called
from tests.helpers.networks import plain_twin
from tests.helpers.trainings import GUIDED, OPTIMIZER, QUANTIZATION, assert_same_trainings, digits, trained, watch

PRECISIONS = ["fp32", "w4a4", "w2a2"]
TRAININGS = pytest.mark.parametrize("guided", [None, GUIDED], ids=["standard", "guided"])


@pytest.fixture(params=["standard", "guided"])
def step(request):
    """A step of training: network, optimizer, images, labels."""
    if request.param == "standard":
        return standard_step
    return lambda *given: guided_step(*given, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def images() -> training.Images:
    """What is trained on: six batches an epoch."""
    return digits(300)


@pytest.fixture
def batch(images) -> tuple[Tensor, Tensor]:
    """A batch as the network takes it, in float64 so that rounding cannot move a code or a pixel's rank."""
    return as_input(images.train[:12]).double(), images.train_labels[:12]


def network(name: str) -> nn.Module:
    """A network of one seed in float64, with a last layer that makes it opinionated, as if it were trained."""
    net = build(name, seed=1).double()
    with torch.no_grad():
        net.dense3.weight *= 30
    return net.train()


def adam(net: nn.Module, **clips: float) -> torch.optim.Optimizer:
    """The optimiser of the study, with these settings of the clips changed."""
    return make_optimizer(net, OPTIMIZER, replace(QUANTIZATION, **clips))


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


def assert_same(values: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-6) -> None:
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=rtol, atol=rtol * value.abs().max().item(), msg=name)


def test_standard_step_is_a_plain_pytorch_step(batch):
    """Three steps of the full-precision network equal Adam on a LeNet of PyTorch's own modules."""
    x, y = batch
    net, other = network("fp32"), network("fp32")
    plain = plain_twin(other)
    ours, theirs = make_optimizer(net, OPTIMIZER), torch.optim.Adam(plain.parameters(), lr=OPTIMIZER.learning_rate)
    for _ in range(3):
        theirs.zero_grad()
        expected = F.cross_entropy(plain(x), y)
        expected.backward()
        theirs.step()
        loss = standard_step(net, ours, x, y)
        assert loss.shape == () and not loss.requires_grad
        assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert_same(dict(net.named_parameters()), dict(other.named_parameters()))


@pytest.mark.parametrize("name", ["w4a4", "w2a2"])
def test_standard_step_adds_the_penalty_of_alpha_and_nothing_else(name, batch):
    """Gradients are those of cross-entropy + penalty * sum of alpha^2; the alphas have a learning rate of their own."""
    x, y = batch
    net = network(name)
    other = copy.deepcopy(net)
    standard_step(net, adam(net, alpha_penalty=0.3, alpha_learning_rate=1e-4), x, y)
    penalty = sum(layer.alpha.square() for layer in pact_layers(other).values())
    (F.cross_entropy(other(x), y) + 0.3 * penalty).backward()
    assert_same(gradients(net), gradients(other))
    for layer, before in zip(pact_layers(net).values(), pact_layers(other).values(), strict=True):
        # Adam's first step is as long as the learning rate.
        assert abs(layer.alpha.item() - before.alpha.item()) == pytest.approx(1e-4, rel=1e-3)
    weight = net.dense1.weight - other.dense1.weight
    assert weight.abs().max().item() == pytest.approx(OPTIMIZER.learning_rate, rel=1e-3)


def test_clips_stay_in_the_warm_up_and_above_their_floor(batch):
    """While nothing is quantized neither the loss nor the penalty moves one; then none falls below a thousandth."""
    net = network("w4a4")
    set_quantizing(net, False)
    before = [layer.alpha.item() for layer in pact_layers(net).values()]
    standard_step(net, adam(net, alpha_penalty=0.3), *batch)
    assert [layer.alpha.item() for layer in pact_layers(net).values()] == before
    set_quantizing(net, True)
    standard_step(net, adam(net, alpha_penalty=1e3, alpha_learning_rate=1e3), *batch)
    floors = [alpha * quantization.ALPHA_FLOOR for alpha in before]
    assert [layer.alpha.item() for layer in pact_layers(net).values()] == pytest.approx(floors, rel=1e-6)


def _passing(ctx, grad: Tensor):
    return grad * (ctx.saved_tensors[0] > 0), None, None


def published_step(
    net: nn.Module, x: Tensor, y: Tensor, noise: Tensor, ranking: str, saturated: str
) -> dict[str, Tensor]:
    """Gradients of saliency-guided training as published, nothing shared between its passes.

    Captum sees the whole batch, since on a lattice many sums are 0 but for rounding, which depends on the batch.
    """
    watched, masked = x.clone().requires_grad_(), x.clone()
    with pytest.MonkeyPatch.context() as patch:
        if saturated == "pass":
            patch.setattr(quantization._Pact, "backward", staticmethod(_passing))
        maps = captum.attr.Saliency(net).attribute(watched, target=y, abs=ranking == "magnitude")
    for i in range(len(x)):
        least = maps[i].flatten().argsort(stable=True)[: 28 * 28 // 2]  # of equal ones (background) the first
        low, high = x[i].min(), x[i].max()
        masked[i].view(-1)[least] = low + (high - low) * noise[i][least]
    net.zero_grad()
    clean, hidden = net(x), net(masked)
    p, q = clean.softmax(1), hidden.softmax(1)
    divergence = (p * (p.log() - q.log())).sum() / len(x)
    (nn.CrossEntropyLoss()(clean, y) + divergence).backward()
    return gradients(net)


@pytest.mark.parametrize(("ranking", "saturated"), [("magnitude", "stop"), ("signed", "stop"), ("magnitude", "pass")])
@pytest.mark.parametrize("name", PRECISIONS)
def test_guided_step_equals_the_published_procedure(name, ranking, saturated, batch):
    """Sharing the clean forward changes no gradient: captum, a sort and two forwards give the same."""
    x, y = batch
    net = network(name)
    other = copy.deepcopy(net)
    noise = torch.rand(len(x), 28 * 28, generator=torch.Generator().manual_seed(4)).double()
    own = torch.Generator().manual_seed(4)
    guided_step(net, adam(net, alpha_penalty=0.0), x, y, generator=own, ranking=ranking, saturated=saturated)
    assert_same(gradients(net), published_step(other, x, y, noise, ranking, saturated))


def test_guided_step_weighs_the_divergence(batch):
    """The loss is linear in `weight`; weight 0 leaves the cross-entropy, and so does fraction 0, gradients included."""
    x, y = batch
    losses = []
    for weight in (0.0, 1.0, 3.0):
        net = network("w2a2")
        own = torch.Generator().manual_seed(0)
        losses.append(guided_step(net, adam(net), x, y, generator=own, weight=weight).item())
    assert losses[0] == pytest.approx(F.cross_entropy(network("w2a2")(x), y).item(), rel=1e-12)
    assert losses[1] > losses[0] * (1 + 1e-4)
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-9)
    guided, standard = network("w2a2"), network("w2a2")
    loss = guided_step(guided, adam(guided), x, y, generator=torch.Generator(), fraction=0)
    assert loss == standard_step(standard, adam(standard), x, y)
    assert_same(gradients(guided), gradients(standard), rtol=1e-9)
    for weight in (-1.0, math.nan):
        with pytest.raises(ValueError, match="weight must be at least 0"):
            guided_step(net, adam(net), x, y, generator=own, weight=weight)
    with pytest.raises(ValueError, match="unknown saturated 'through'"):
        guided_step(net, adam(net), x, y, generator=own, saturated="through")


def test_a_guided_step_quantizes_its_weights_once(batch, monkeypatch):
    """Both forward passes share the weights of the step, and the next step quantizes anew."""
    calls, original, net = [], quantization.on_lattice, network("w2a2")
    monkeypatch.setattr(quantization, "on_lattice", lambda *given: calls.append(1) or original(*given))
    for steps in (1, 2):
        guided_step(net, adam(net), *batch, generator=torch.Generator())
        assert len(calls) == 5 * steps


@pytest.mark.parametrize("saturated", SATURATED)
def test_masked_images_do_not_enter_running_statistics(saturated, batch):
    """After a guided step those of batch norm, and a range that tracks the largest value, are of one clean forward."""
    x, y = batch

    def with_statistics() -> nn.Module:
        torch.manual_seed(0)
        norms = nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)
        net = nn.Sequential(nn.Conv2d(1, 4, 5), *norms, PACT(4), nn.Flatten(), nn.Linear(4 * 576, 10)).double()
        net[3].tracking = True
        net[3].alpha.requires_grad_(False)
        return net

    guided, clean = with_statistics(), with_statistics()
    options = {"generator": torch.Generator().manual_seed(0), "fraction": 0.9, "saturated": saturated}
    guided_step(guided, adam(guided), x, y, **options)
    clean(x)
    moved = [(layer, name) for layer in (1, 2) for name in ("running_mean", "running_var")]
    for layer, name in (*moved, (1, "num_batches_tracked"), (3, "alpha")):
        assert torch.equal(getattr(guided[layer], name), getattr(clean[layer], name)), name
    assert all(guided[layer].track_running_stats and guided[layer].momentum == 0.1 for layer in (1, 2))
    assert guided[3].tracking and guided.training


def test_a_step_leaves_the_images_and_forgets_old_gradients(step, batch):
    """The images are not differentiated, even if they ask for it; what a backward left behind does not enter."""
    x, y = batch
    before = x.clone()
    x.requires_grad_()
    results = []
    for left_behind in (0.0, 1e3):
        net = network("w4a4")
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, left_behind)
        step(net, adam(net), x, y)
        results.append(gradients(net))
    assert x.grad is None and torch.equal(x.detach(), before)
    assert_same(results[1], results[0], rtol=1e-12)


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("kind", ["float32", "float64"])  # by the kernels, by PyTorch's operators
def test_no_step_asks_mkl_for_an_exponential(batch, name, kind):
    """Of a tensor's exp or log MKL has three versions, and the processor decides which: no training may hang on it."""
    dtype, (x, y) = getattr(torch, kind), batch
    net, x = network(name).to(dtype), x.to(dtype)
    with Called() as called:
        standard_step(net, adam(net), x, y)
        guided_step(net, adam(net), x, y, generator=torch.Generator().manual_seed(0))
    assert "_log_softmax_backward_data" in called.names, "the backward pass was not seen"
    assert called.names & VECTOR_MATH <= {"sqrt"}, "but of float64, which the scale of a weight rounds to float32"


BAD_LABELS = {"too few": torch.arange(3), "one": torch.tensor([1]), "a column": torch.arange(4)[:, None],
              "shares": torch.eye(10)[:4], "float": torch.arange(4.0), "int32": torch.arange(4).int()}  # fmt: skip


@pytest.mark.parametrize("labels", BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_do_not_fit_are_refused(step, labels, batch):
    """Cross-entropy takes shares, and leaves -100 out; no training begins, and no weight moves."""
    net, pictures = network("fp32"), (255 * batch[0][:4]).byte()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"torch.int64 \(4,\)"):
        step(net, adam(net), batch[0][:4], labels)
    for label in (-100, -1, 10):
        with pytest.raises((IndexError, RuntimeError)):
            step(net, adam(net), batch[0][:4], torch.tensor([0, 1, label, 3]))
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    for splits in ((pictures, labels, pictures, torch.arange(4)), (pictures, torch.arange(4), pictures, labels)):
        with pytest.raises(ValueError, match="targets must be"):
            training.Images(*splits)
    with pytest.raises(ValueError, match="targets must be"):
        training.accuracy(net, pictures, labels)


def test_a_function_is_no_network(step, batch):
    """It has no mode to be put into, and no parameters to learn."""
    net = network("fp32")
    for ask in (lambda: step(net.forward, adam(net), *batch),
                lambda: training.accuracy(net.forward, (255 * batch[0]).byte()[:, 0], batch[1])):  # fmt: skip
        with pytest.raises(ValueError, match="^the network must be an nn.Module, not a method$"):
            ask()


def test_accuracy_is_the_percentage_of_right_answers(images, monkeypatch):
    """Counted in chunks, in evaluation mode, as one pass would count; of none or of NaN there is no number."""
    pictures, labels = images.validation, images.validation_labels
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(28 * 28, 10)).eval()
    right = (net(as_input(pictures)).argmax(1) == labels).float().mean().item()
    monkeypatch.setattr(training, "CHUNK", 7)
    assert training.accuracy(net.train(), pictures, labels) == pytest.approx(100 * right)
    assert net.training and net[1].training
    with pytest.raises(ValueError, match="no images"):
        training.accuracy(net, pictures[:0], labels[:0])
    with pytest.raises(ValueError, match="no images"):
        training.Images(pictures, labels, pictures[:0], labels[:0])
    net[2].bias.data[3] = torch.nan
    with pytest.raises(NotFiniteError):
        training.accuracy(net, pictures, labels)


def test_activation_shares_count_clipped_inputs_and_zero_outputs(images):
    """By hand: pixels at or above alpha, and pixels that round to 0; no hook stays behind."""
    net = nn.Sequential(nn.Flatten(), PACT(2))
    net[1].set_alpha(torch.tensor(0.6))
    pixels = as_input(images.validation)
    shares = training.activation_shares(net, images.validation)["1"]
    assert shares["alpha"] == pytest.approx(0.6)
    assert shares["clipped"] == pytest.approx((pixels >= 0.6).float().mean().item())
    assert shares["zero"] == pytest.approx((pixels <= 0.1).float().mean().item())
    assert 0.05 < shares["clipped"] < 0.5 < shares["zero"] < 0.95
    assert not net[1]._forward_hooks
    assert training.activation_shares(nn.Sequential(nn.Flatten(), nn.ReLU()), images.validation) == {}


@TRAININGS
def test_until_the_switch_a_quantized_network_is_the_full_precision_one(images, guided):
    """The same weights and maps, bit for bit, until the warm-up ends; other ones from the next step on."""
    histories = [trained(name, images, guided=guided, watch=watch(images, 12))[1] for name in ("fp32", "w2a2")]
    full, low = histories
    assert full.steps == low.steps == list(range(13)) and (full.switch, low.switch) == (None, 6)
    weights = [[state["dense3.weight"] for state in history.states] for history in histories]
    equal = [torch.equal(*pair) for pair in zip(*weights, strict=True)]
    assert equal == [True] * 7 + [False] * 6  # the weights before the steps 0 to 6, of 6 an epoch
    equal = [torch.equal(*pair) for pair in zip(full.maps, low.maps, strict=True)]
    assert equal == [True] * 6 + [False] * 7  # the network of step 6 is quantized already
    assert full.epochs[0]["loss"] == low.epochs[0]["loss"] and full.epochs[1]["loss"] != low.epochs[1]["loss"]


@pytest.mark.parametrize("warmup_epochs", [0, 0.5, 0.99])
def test_every_quantized_network_ends_quantized_and_calibrated(images, warmup_epochs, monkeypatch):
    """Once, on the first images in their own order, also with a warm-up that ends within the last step."""
    calibrated, original = [], training.calibrate
    monkeypatch.setattr(training, "calibrate", lambda *given: calibrated.append(given[1]) or original(*given))
    net, _ = trained("w2a2", images, epochs=1, warmup_epochs=warmup_epochs)
    (batch,) = calibrated
    assert torch.equal(batch, as_input(images.train[: QUANTIZATION.calibration_images]))
    quantized = [m for m in net.modules() if isinstance(m, (PACT, QuantConv2d, QuantLinear))]
    assert len(quantized) == 9 and all(m.quantizing for m in quantized)
    initial = pact_layers(build("w2a2", seed=0))
    for name, layer in pact_layers(net).items():
        assert not layer.calibrating
        assert not torch.isclose(layer.alpha, initial[name].alpha, rtol=1e-4), name
    assert not any(m.training for m in net.modules())


@pytest.mark.parametrize("name", ["fp32", "w2a2"])
def test_a_seed_fixes_the_run(images, name):
    """Whatever the global generator does, and whether maps are recorded or not; another seed has other weights."""
    first = trained(name, images, guided=GUIDED)
    torch.manual_seed(12345)
    again, history = trained(name, images, guided=GUIDED, watch=watch(images, 5))
    assert history.steps == [0, 2, 5, 7, 10, 12] and [tuple(maps.shape) for maps in history.maps] == [(3, 28, 28)] * 6
    last = input_gradient(again, as_input(images.validation[:3]), images.validation_labels[:3])
    assert torch.equal(history.maps[-1], last)
    assert_same_trainings(first, (again, replace(history, steps=[], maps=[])))
    other, _ = trained(name, images, seed=1, guided=GUIDED)
    assert not torch.equal(first[0].conv1.weight, other.conv1.weight)


def test_precisions_and_trainings_see_the_same_batches(images, monkeypatch):
    """A seed's order is one for all, a new one each epoch, in which every image stands once; noise has its own seed."""
    batches, noises = [], []

    def record(net, optimizer, x, y, **options):
        batches[-1].append(x)
        noises.extend(generator.initial_seed() for generator in options.get("generator", ()))
        optimizer.step()
        return torch.zeros(())

    monkeypatch.setattr(training, "standard_step", record)
    monkeypatch.setattr(training, "guided_step", record)
    for name, guided in (("fp32", None), ("fp32", GUIDED), ("w2a2", None), ("w2a2", GUIDED)):
        batches.append([])
        trained(name, images, seed=3, guided=guided)
        assert torch.equal(torch.stack(batches[-1]), torch.stack(batches[0]))
    assert noises == [7] * 24  # 2 * 3 + 1; the order's is 2 * 3, and another network's neither
    first, second = (torch.cat(batches[0][i : i + 6]) for i in (0, 6))
    assert not torch.equal(first, second)
    for epoch in (first, second, as_input(images.train)):
        assert torch.equal(epoch.flatten(1).sum(1).sort().values, first.flatten(1).sum(1).sort().values)


def test_history_has_an_entry_for_each_epoch(images):
    """Loss, validation accuracy and the layers' shares, reported as they come."""
    lengths = []
    net, history = trained("w4a4", images, epochs=3, on_progress=lambda _, now: lengths.append(len(now.epochs)))
    assert lengths == [1, 2, 3] and [epoch["epoch"] for epoch in history.epochs] == [1, 2, 3]
    assert all(epoch["layers"].keys() == {"act1", "act2", "act3", "act4"} for epoch in history.epochs)
    last = history.epochs[-1]
    assert last["validation_accuracy"] == training.accuracy(net, images.validation, images.validation_labels)
    assert last["layers"] == training.activation_shares(net, images.validation)
    assert history.steps == history.maps == history.states == []


def test_learning_rates_follow_one_cycle(images, monkeypatch):
    """Weights and clips rise from a 25th of their peak to it in 3 tenths of the steps, then fall, along cosines.

    300 images in batches of 70 are five steps an epoch, the last one with the 20 that are left.
    """
    rates, sizes = [], []

    def step(net, optimizer, x, y):
        rates.append([group["lr"] for group in optimizer.param_groups])
        sizes.append(len(x))
        optimizer.step()
        return torch.tensor(float(len(sizes)))

    monkeypatch.setattr(training, "standard_step", step)
    optimizer, clips = replace(OPTIMIZER, batch_size=70), replace(QUANTIZATION, alpha_learning_rate=0.03)
    _, history = trained("w4a4", images, epochs=4, optimizer=optimizer, quantization=clips)
    assert sizes == [70, 70, 70, 70, 20] * 4
    assert [epoch["loss"] for epoch in history.epochs] == [3, 8, 13, 18]  # the mean of each epoch's own
    for each, peak in zip(zip(*rates, strict=True), (optimizer.learning_rate, 0.03), strict=True):
        for i, rate in enumerate(each):
            start, end, share = (peak / 25, peak, i / 5) if i <= 5 else (peak, peak / 25 / 1e4, (i - 5) / 14)
            assert rate == pytest.approx(end + (start - end) * (1 + math.cos(math.pi * share)) / 2, rel=1e-9)


@TRAININGS
@pytest.mark.parametrize("warmup", [0, 1])
def test_a_range_is_learned_or_the_largest_value(images, guided, warmup, monkeypatch):
    """Nothing in a batch lies above the largest, and nothing else moves it: each clip is what the batches left."""
    original, tops = PACT.adapt, {}

    def adapt(layer: PACT, x: Tensor) -> None:
        original(layer, x)
        if not layer.simple and layer.quantizing and not layer.calibrating:
            tops.setdefault(layer, []).append(x.max().item())

    monkeypatch.setattr(PACT, "adapt", adapt)
    largest = replace(QUANTIZATION, range="largest", alpha_penalty=1.0, alpha_learning_rate=1.0)
    options = {"guided": guided, "warmup_epochs": warmup}
    net, history = trained("w4a4", images, quantization=largest, **options)
    for layer in pact_layers(net).values():
        expected = 0.0
        for top in tops[layer]:
            expected = max(0.99 * expected, top)
        assert layer.alpha.item() == pytest.approx(expected, rel=1e-5) and len(tops[layer]) == 6 * (2 - warmup)
    _, learned = trained("w4a4", images, **options)
    clipped = [[shares["clipped"] for shares in each.epochs[-1]["layers"].values()] for each in (history, learned)]
    assert max(clipped[0]) < 1e-3 < 1e-2 < max(clipped[1]) and len(tops) == 4
    with pytest.raises(ValueError, match="unknown range 'larges'"):
        trained("w4a4", images, quantization=replace(QUANTIZATION, range="larges"))


@TRAININGS
def test_a_diverged_run_stops_and_names_the_epoch(images, guided, monkeypatch):
    """A learning rate of 1e9 is not trained to the end, and the message says where and what to do; a late one, too."""
    with pytest.raises(training.DivergedError, match="^seed 0: .* epoch 1; lower optimizer.learning_rate$"):
        trained("fp32", images, guided=guided, optimizer=replace(OPTIMIZER, learning_rate=1e9))
    count = iter(range(100))
    name, original = ("guided_step", guided_step) if guided else ("standard_step", standard_step)
    monkeypatch.setattr(training, name, lambda *a, **o: original(*a, **o) * (math.nan if next(count) == 15 else 1))
    with pytest.raises(training.DivergedError, match="^seed 0: the loss is not finite .* in epoch 3;"):
        trained("w2a2", images, epochs=5, guided=guided)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    net[1].weight.register_hook(lambda grad: torch.full_like(grad, torch.nan))  # the only step's loss is finite
    with pytest.raises(training.DivergedError, match="^seed 5: a weight is not finite .* in epoch 1;"):
        train(net, images, seed=5, epochs=2, optimizer=replace(OPTIMIZER, batch_size=300))


def test_settings_fit_the_networks(images):
    """A seed for each network, quantized steps behind the warm-up, and settings of the clips, where there are any."""
    with pytest.raises(ValueError, match="one seed for each network"):
        training.train_together([build("fp32", seed=0)], images, seeds=[0, 1], epochs=1, optimizer=OPTIMIZER)
    with pytest.raises(ValueError, match="warmup_epochs must be less than epochs"):
        trained("w2a2", images, epochs=1, warmup_epochs=1)
    with pytest.raises(ValueError, match="PACT layers; give the settings of their clips"):
        trained("w4a4", images, quantization=None)
    (group,) = make_optimizer(network("fp32"), OPTIMIZER).param_groups
    assert len(group["params"]) == 10 and group["lr"] == OPTIMIZER.learning_rate


PASSING = replace(GUIDED, saturated="pass")


@pytest.mark.parametrize(
    ("name", "warmup", "guided", "own"),
    [("w2a2", 1.5, GUIDED, {}), ("w2a2", 1, None, {}), ("w4a4", 0, GUIDED, {}), ("fp32", 0.5, GUIDED, {}),
     ("fp32", 1, GUIDED, {}), ("w2a2", 0.5, PASSING, {}), ("w2a2", 1, None, {"rounding": False}),
     ("w4a4", 0.5, GUIDED, {"quantization": replace(QUANTIZATION, range="largest")}),
     ("w2a2", 0.5, None, {"shape": Shape((4, 5, 6), ())}), ("fp32", 1, GUIDED, {"shape": Shape((4, 5, 6), ())})],
)  # fmt: skip
def test_every_precision_goes_on_from_one_warm_up(images, name, warmup, guided, own):
    """As if never interrupted, bit for bit, also from a file and wherever the switch is; all of the warm-up counts.

    Its guidance stops at clips, of which it has none, whatever the precision's own does.
    """
    common, shape = {"warmup_epochs": warmup, "watch": watch(images, 6)}, own.get("shape")
    warm = {"guided": guided and GUIDED, "epochs": 2, "optimizer": OPTIMIZER} | common
    start, other = (warm_up(build("fp32", shape=shape, seed=seed), images, seed=seed, **warm) for seed in (0, 1))
    torch.save(start, file := io.BytesIO())
    file.seek(0)
    common |= {"guided": guided} | own
    whole = trained(name, images, **common)
    assert_same_trainings(whole, trained(name, images, start=torch.load(file, weights_only=True), **common))
    if warmup != 1.5:
        return
    for part in ("adam", "noise", "losses", "weights"):
        with pytest.raises(AssertionError):
            assert_same_trainings(whole, trained("w2a2", images, start=start | {part: other[part]}, **common))
