"""Networks side by side: each one's numbers are those of its own, and no network sees another one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib import lenet
from saqlib.lenet import build
from saqlib.precision import LAYERS, Bits, Precision, Shape
from saqlib.quantization import PACT, calibrate, pact, pact_layers, set_quantizing
from saqlib.stacked import Stacked, StackedPact
from saqlib.training import DivergedError, guided_step, make_optimizer, standard_step, train_together
from tests.helpers.networks import PRECISIONS, precision
from tests.helpers.trainings import GUIDED, OPTIMIZER, QUANTIZATION, digits

SEEDS = (0, 1, 5)
BATCH = 12


def networks_of(bits: Precision, **options) -> list[nn.Module]:
    """One network a seed in float64, so that rounding cannot move a code or a pixel's rank."""
    return [build(bits, seed=seed, **options).double().train() for seed in SEEDS]


def batches() -> tuple[Tensor, Tensor]:
    """Another batch for each network, of images without two equal pixels: between those only rounding decides."""
    numbers = torch.Generator().manual_seed(0)
    x = torch.rand(len(SEEDS), BATCH, 1, 28, 28, generator=numbers, dtype=torch.float64)
    return x, torch.randint(10, (len(SEEDS), BATCH), generator=numbers)


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("quantizing", [True, False], ids=["quantized", "warm-up"])
def test_logits_are_those_of_the_single_networks(name, quantizing):
    """Each network's batch goes through that network, calibrated on its own activations."""
    networks, (x, _) = networks_of(precision(name)), batches()
    together = Stacked(networks).train()
    for each in (together, *networks):
        set_quantizing(each, quantizing)
    calibrate(together, x.flatten(0, 1))
    for network, own in zip(networks, x, strict=True):
        calibrate(network, own)
    # A calibrated clip is so many hundredths of the largest value: on a lattice that makes exact ties between codes,
    # and float64 does not decide them. This takes every value off them.
    with torch.no_grad():
        for each in (together, *networks):
            for layer in pact_layers(each).values():
                layer.alpha.mul_(0.98765)
    expected = torch.cat([network(own) for network, own in zip(networks, x, strict=True)])
    torch.testing.assert_close(together(x.flatten(0, 1)), expected, rtol=1e-10, atol=1e-10)
    alphas = {tuple(layer.alpha.item() for layer in pact_layers(network).values()) for network in networks}
    assert len(alphas) == (len(SEEDS) if name != "fp32" else 1)


@pytest.mark.parametrize("step", [standard_step, guided_step])
@pytest.mark.parametrize("variant", ["full precision", "8 bits", "unrounded", "largest range", "passing"])
def test_three_steps_are_those_of_the_single_networks(variant, step, monkeypatch):
    """Losses, weights, alphas and scales after three steps, every network with its own batches and noise.

    With 8 bits and pooled by the mean: on a coarse lattice values of a pooling window or of a map are often equal but
    for rounding, and another one is then the largest, or masked, under another kernel.
    """
    monkeypatch.setattr(lenet.F, "max_pool2d", F.avg_pool2d)
    bits = Bits() if variant == "full precision" else Bits(8, 8)
    even = Precision("even", (bits,) * len(LAYERS), rounding=variant != "unrounded")
    networks, (x, y) = networks_of(even), batches()
    copies = copy.deepcopy(networks)
    together = Stacked(copies).train()
    for each in (together, *networks):
        for layer in pact_layers(each).values():
            assert layer.rounding == (variant != "unrounded")
            layer.tracking = variant == "largest range"
            if variant == "passing":  # a lot is clipped, and lies off exact ties between codes
                layer.set_alpha(0.4321 * layer.alpha)
    optimizer, *optimizers = (make_optimizer(each, OPTIMIZER, QUANTIZATION) for each in (together, *networks))
    noise, same_noise = ([torch.Generator().manual_seed(seed) for seed in SEEDS] for _ in range(2))
    saturated = "pass" if variant == "passing" else "stop"
    for _ in range(3):
        guidance = {"generator": noise, "saturated": saturated} if step is guided_step else {}
        losses = step(together, optimizer, x.flatten(0, 1), y.flatten(), **guidance)
        expected = [
            step(*each, **guidance | ({"generator": own} if guidance else {}))
            for *each, own in zip(networks, optimizers, x, y, same_noise, strict=True)
        ]
        torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-9, atol=1e-9)
    together.write_back()
    for one, other in zip(copies, networks, strict=True):
        for name, value in other.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-7, atol=1e-7, msg=name)


def test_stacked_pact_is_pact_with_each_networks_alpha():
    """Values and both gradients, at the bounds too."""
    x = torch.tensor([-1.0, 0.0, 0.3, 0.8, 1.0, 1.3, 2.0]).repeat(5, len(SEEDS)).double().requires_grad_()
    layer = StackedPact(PACT(2), len(SEEDS)).double()
    layer.set_alpha(torch.tensor([0.8, 1.0, 2.0]))
    weights = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).double()
    y = layer(x)
    grad_x, grad_alpha = torch.autograd.grad((y * weights).sum(), (x, layer.alpha))
    per_network = [each.chunk(len(SEEDS), 1) for each in (x, y, weights, grad_x)]
    for i, (own, output, weight, grad) in enumerate(zip(*per_network, strict=True)):
        own, alpha = own.detach().requires_grad_(), layer.alpha[i].detach().requires_grad_()
        expected = pact(own, alpha, 2)
        assert torch.equal(output, expected)
        expected_grads = torch.autograd.grad((expected * weight).sum(), (own, alpha))
        torch.testing.assert_close((grad, grad_alpha[i]), expected_grads)


def test_other_widths_and_edges():
    """Layer widths and the edges' precision come from the networks; other networks are refused."""
    layers = (Bits(3, 5),) * (len(LAYERS) - 1)
    networks = networks_of(Precision("w3a5", (*layers, Bits())), shape=Shape(channels=(3, 5), hidden=(12, 7)))
    x, _ = batches()
    expected = torch.cat([network(own) for network, own in zip(networks, x, strict=True)])
    torch.testing.assert_close(Stacked(networks).train()(x.flatten(0, 1)), expected, rtol=1e-10, atol=1e-10)
    for other in (nn.Linear(2, 2), build("w4a4", shape=Shape((2, 3, 4), ()))):
        with pytest.raises(ValueError, match="train yours one by one"):
            Stacked([other])


def test_a_diverged_network_is_named_and_spoils_no_other():
    """A loss that is not finite is that of its own seed; the weights of the others stay finite."""
    networks = [build("fp32", seed=seed) for seed in SEEDS]
    with torch.no_grad():
        networks[1].dense3.bias[0] = torch.nan
    with pytest.raises(DivergedError, match="^seed 1: .* epoch 1;"):
        train_together(networks, digits(200), seeds=SEEDS, epochs=1, optimizer=OPTIMIZER, guided=GUIDED)
    finite = [all(value.isfinite().all() for value in network.state_dict().values()) for network in networks]
    assert finite == [True, False, True]
