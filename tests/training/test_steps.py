"""Steps: each against a slow reference, and what a step must leave alone; the optimiser; accuracy."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib.data.images import as_input, load
from saqlib.network import quantization
from saqlib.network.initial import build
from saqlib.network.quantization import pact_layers, set_quantizing
from saqlib.pipeline import study
from saqlib.saliency.settings import RANKINGS
from saqlib.training import steps
from tests.called import VECTOR_MATH, Called

STUDY = study.load(scale="smoke")
OPTIMIZER, QUANTIZATION = STUDY.optimizer, STUDY.quantization
PRECISIONS = ["fp32", "w4a4", "w2a2"]


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """300 of the sample's digits, uint8, and their labels."""
    images, labels = load("mnist", "train", sample=True)
    return images[:300], labels[:300]


@pytest.fixture
def batch(digits) -> tuple[Tensor, Tensor]:
    """A batch as the network takes it, in float64 so that rounding cannot move a code or a pixel's rank."""
    images, labels = digits
    return as_input(images[:12]).double(), labels[:12]


def network(precision: str) -> nn.Module:
    """A network of one seed in float64, with a last layer that makes it opinionated, as if it were trained."""
    net = build(precision, seed=1).double()
    with torch.no_grad():
        net.dense3.weight *= 30
    return net.train()


def adam(net: nn.Module, **clips: float) -> torch.optim.Optimizer:
    """The optimiser of params.yaml, with these settings of the clips changed."""
    return steps.make_optimizer(net, OPTIMIZER, replace(QUANTIZATION, **clips))


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=rtol * value.abs().max().item(), msg=name)


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all parameters, relative to the largest gradient of each."""
    return max(((found[name] - value).abs().max() / value.abs().max()).item() for name, value in expected.items())


# ------------------------------------------------------------------------------------------------- standard


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

    ours = steps.make_optimizer(net, OPTIMIZER)
    theirs = torch.optim.Adam(plain.values(), lr=OPTIMIZER.learning_rate)
    for _ in range(3):
        theirs.zero_grad()
        expected = F.cross_entropy(forward(x), y)
        expected.backward()
        theirs.step()
        loss = steps.standard_step(net, ours, x, y)
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
    steps.standard_step(net, adam(net, alpha_penalty=0.3, alpha_learning_rate=1e-4), x, y)
    penalty = sum(layer.alpha.square() for layer in pact_layers(other).values())
    (F.cross_entropy(other(x), y) + 0.3 * penalty).backward()
    assert_same(gradients(net), gradients(other))
    for name, layer in pact_layers(net).items():  # Adam's first step is as long as the learning rate
        assert abs(layer.alpha.item() - before[name]) == pytest.approx(1e-4, rel=1e-3)
    weight = net.dense1.weight - other.dense1.weight
    assert weight.abs().max().item() == pytest.approx(OPTIMIZER.learning_rate, rel=1e-3)


def test_a_step_of_the_warm_up_leaves_the_clips_alone(batch):
    """While nothing is quantized no clip is used, so neither the loss nor the penalty moves one."""
    net = network("w2a2")
    set_quantizing(net, False)
    before = [layer.alpha.item() for layer in pact_layers(net).values()]
    steps.standard_step(net, adam(net, alpha_penalty=0.3), *batch)
    assert [layer.alpha.item() for layer in pact_layers(net).values()] == before


def test_a_step_never_carries_a_clip_below_its_floor(batch):
    """A penalty that would pull every clip far below zero ends at a thousandth of the calibrated one."""
    net = network("w4a4")
    floors = [layer.alpha.item() * quantization.ALPHA_FLOOR for layer in pact_layers(net).values()]
    steps.standard_step(net, adam(net, alpha_penalty=1e3, alpha_learning_rate=1e3), *batch)
    assert [layer.alpha.item() for layer in pact_layers(net).values()] == pytest.approx(floors, rel=1e-6)


def test_a_network_with_clips_needs_their_settings():
    """Without them a quantized network is refused; a full-precision one has no clips and needs none."""
    with pytest.raises(ValueError, match="PACT layers; give the settings of their clips"):
        steps.make_optimizer(network("w4a4"), OPTIMIZER)
    (group,) = steps.make_optimizer(network("fp32"), OPTIMIZER).param_groups
    assert len(group["params"]) == 10 and group["lr"] == OPTIMIZER.learning_rate


# --------------------------------------------------------------------------------------------------- guided


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


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_guided_step_equals_the_published_procedure(precision, ranking, batch):
    """Sharing the clean forward changes no gradient: captum, a sort and two forwards find the same."""
    x, y = batch
    net = network(precision)
    other = copy.deepcopy(net)
    optimizer = adam(net, alpha_penalty=0.0)
    own = torch.Generator().manual_seed(4)
    noise = torch.rand(len(x), 28 * 28, generator=torch.Generator().manual_seed(4)).double()
    steps.guided_step(net, optimizer, x, y, generator=own, ranking=ranking)
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
    loss = steps.guided_step(guided, adam(guided), x, y, generator=own, fraction=0)
    assert loss == steps.standard_step(standard, adam(standard), x, y)
    assert_same(gradients(guided), gradients(standard), rtol=1e-9)


def test_guided_step_weighs_the_divergence(batch):
    """The loss is linear in `weight`, and weight 0 leaves the cross-entropy."""
    x, y = batch
    losses = []
    for weight in (0.0, 1.0, 3.0):
        net = network("w2a2")
        optimizer, own = adam(net), torch.Generator().manual_seed(0)
        losses.append(steps.guided_step(net, optimizer, x, y, generator=own, weight=weight).item())
    assert losses[0] == pytest.approx(F.cross_entropy(network("w2a2")(x), y).item(), rel=1e-12)
    assert losses[1] > losses[0] * (1 + 1e-4)
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-9)


# ------------------------------------------------------------------------------------------------ both alike


@pytest.mark.parametrize("step", ["standard", "guided"])
def test_steps_give_the_images_no_gradient(step, batch):
    """The caller's images are neither changed nor differentiated, even if they ask for it."""
    x, y = batch
    before = x.clone()
    x.requires_grad_()
    net = network("w2a2")
    optimizer = adam(net)
    if step == "standard":
        steps.standard_step(net, optimizer, x, y)
    else:
        steps.guided_step(net, optimizer, x, y, generator=torch.Generator())
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
        optimizer = adam(net)
        if step == "standard":
            steps.standard_step(net, optimizer, x, y)
        else:
            steps.guided_step(net, optimizer, x, y, generator=torch.Generator().manual_seed(0))
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
    steps.guided_step(guided, adam(guided), x, y, generator=own, fraction=0.9)
    clean(x)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(guided[1], name), getattr(clean[1], name)), name
    assert guided[1].track_running_stats and guided.training
    once = clean[1].running_mean.clone()
    clean(torch.rand_like(x))
    assert not torch.allclose(clean[1].running_mean, once)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["float32", "float64"])  # by the kernels, by PyTorch's operators
def test_no_step_asks_mkl_for_an_exponential(digits, precision, kind):
    """Of a tensor's exp or log MKL has three versions, and the processor decides which: no training may hang on it."""
    images, labels = digits
    net = network(precision).to(getattr(torch, kind))
    x = as_input(images[:12]).to(getattr(torch, kind))
    with Called() as called:
        steps.standard_step(net, adam(net), x, labels[:12])
        steps.guided_step(net, adam(net), x, labels[:12], generator=torch.Generator().manual_seed(0))
    assert "_log_softmax_backward_data" in called.names, "the backward pass was not seen"
    assert called.names & VECTOR_MATH <= {"sqrt"}, "but of float64, which the scale of a weight rounds to float32"


def test_guided_step_takes_any_network_of_several_channels():
    """Of three channels the largest gradient ranks a pixel, which is then masked in all three; any size of image."""
    numbers = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 8, 9, generator=numbers).double()
    y = torch.randint(4, (6,), generator=numbers)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(5 * 6 * 7, 4)).double()
    with torch.no_grad():
        net[3].weight *= 10
    other = copy.deepcopy(net)
    noise = torch.rand(6, 3 * 8 * 9, generator=torch.Generator().manual_seed(4)).view(6, 3, 8, 9).double()
    maps = captum.attr.Saliency(other).attribute(x.clone().requires_grad_(), target=y).amax(1)
    masked = x.clone()
    for i in range(6):
        low, high = x[i].min(), x[i].max()
        for pixel in maps[i].flatten().argsort()[: 8 * 9 // 4].tolist():
            row, column = divmod(pixel, 9)
            masked[i, :, row, column] = low + (high - low) * noise[i, :, row, column]
    clean, hidden = other(x), other(masked)
    p, q = clean.softmax(1), hidden.softmax(1)
    (F.cross_entropy(clean, y) + 2 * (p * (p / q).log()).sum() / 6).backward()
    own = torch.Generator().manual_seed(4)
    steps.guided_step(net, steps.make_optimizer(net, OPTIMIZER), x, y, generator=own, fraction=0.25, weight=2)
    assert_same(gradients(net), gradients(other), rtol=1e-9)


def test_a_guided_step_quantizes_its_weights_once(batch, monkeypatch):
    """Both forward passes share the weights of the step: half the work, and the same bits as without sharing."""

    def step(net) -> None:
        noise = torch.Generator().manual_seed(0)
        steps.guided_step(net, adam(net), *batch, generator=noise)

    calls = []
    real = quantization.on_lattice
    monkeypatch.setattr(quantization, "on_lattice", lambda *given: calls.append(1) or real(*given))
    shared, apart = network("w2a2"), network("w2a2")
    calls.clear()
    step(shared)
    assert len(calls) == 5
    monkeypatch.setattr(steps, "quantized_once", lambda model: nullcontext())
    step(apart)
    assert len(calls) == 5 + 10
    for name, value in shared.state_dict().items():
        assert torch.equal(value, apart.state_dict()[name]), name
    assert all(layer.kept is None for layer in (shared.conv1, shared.dense3)), "the next step quantizes anew"
