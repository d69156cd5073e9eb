"""A network before training: one set of weights for all precisions, on the lattice from the first call."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saqlib.data.images import as_input, load
from saqlib.datasets import DATASETS
from saqlib.network.initial import build
from saqlib.network.quantization import PACT, QuantConv2d, QuantLinear
from saqlib.network.settings import LAYERS, Shape
from saqlib.pipeline import study

STUDY = study.load()
QUANTIZED = ["w4a4", "mixed", "w2a2"]
PRECISIONS = ["fp32", *QUANTIZED]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Pictures (60, 1, 28, 28) of both datasets, as a network takes them."""
    return as_input(torch.cat([load(name, "test", sample=True)[0][:30] for name in DATASETS]))


def layers(net: nn.Module) -> dict[str, nn.Module]:
    return {name: getattr(net, name) for name in LAYERS}


def outputs(net: nn.Module, kind: type, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the modules of a kind return in one forward pass, by name."""
    seen = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, output.detach()))
        for name, module in net.named_modules()
        if isinstance(module, kind)
    ]
    net(images)
    for hook in hooks:
        hook.remove()
    return seen


def test_one_seed_is_one_set_of_weights_for_every_precision():
    """Precisions of a seed start from the same bits, seeds from different ones; the global generator is left alone."""
    before = torch.get_rng_state()
    nets = [build(precision, seed=3) for precision in PRECISIONS]
    other = build("fp32", seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    for name, layer in layers(nets[0]).items():
        for net in nets[1:]:
            assert torch.equal(getattr(net, name).weight, layer.weight), name
            assert torch.equal(getattr(net, name).bias, layer.bias), name
        assert not torch.equal(getattr(other, name).weight, layer.weight)


def test_weights_are_hes_and_biases_pytorchs():
    """Uniform to sqrt(6 / inputs), so that ReLU keeps the variance; biases to sqrt(1 / inputs), none of them 0."""
    for layer in layers(build("w2a2", seed=0)).values():
        inputs = layer.weight[0].numel()
        largest = layer.weight.abs().max().item() * inputs**0.5
        assert 0.9 * 6**0.5 < largest <= 1.0001 * 6**0.5
        assert layer.weight.square().mean().item() * inputs == pytest.approx(2, rel=0.2)
        assert 0 < layer.bias.abs().min() and layer.bias.abs().max() <= 1.0001 * inputs**-0.5


def test_without_a_seed_weights_come_from_the_global_generator():
    """torch.manual_seed fixes them, and the next network is another one."""
    torch.manual_seed(5)
    first, second = build("fp32"), build("fp32")
    torch.manual_seed(5)
    again = build("fp32")
    assert torch.equal(first.dense1.weight, again.dense1.weight)
    assert not torch.equal(first.dense1.weight, second.dense1.weight)


def test_widths_are_parameters():
    """Layer widths follow the Shape that is given, and params.yaml's where none is."""
    small = build("w2a2", shape=Shape((3, 5), (7, 6)))
    assert [layer.weight.shape[0] for layer in layers(small).values()] == [3, 5, 7, 6, 10]
    assert small(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert build(STUDY.precisions["w2a2"]).shape == STUDY.shape
    assert build("w2a2", shape=Shape((3, 5), (7, 6))).shape == Shape((3, 5), (7, 6))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_name_is_the_precision_of_params_yaml(precision):
    """By name or as a value, edges included, it is the same network."""
    by_name, by_value = build(precision, seed=2), build(STUDY.precisions[precision], seed=2)
    assert by_name.precision == by_value.precision == STUDY.precisions[precision]
    assert by_name.state_dict().keys() == by_value.state_dict().keys()
    assert all(torch.equal(value, by_value.state_dict()[name]) for name, value in by_name.state_dict().items())


@pytest.mark.parametrize(("name", "nearest"), [("w2a3", "w2a2"), ("fp23", "fp32"), ("mixd", "mixed")])
def test_unknown_precision_is_answered_with_the_nearest(name, nearest):
    """One sentence with the valid names, as a ValueError."""
    with pytest.raises(ValueError, match=f"unknown precision '{name}'; did you mean '{nearest}'"):
        build(name)


# ----------------------------------------------------------------------------------------- on the lattice


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_network_quantizes_from_the_first_call_on(precision, mode, images):
    """Every activation lies on its 2^k levels and uses several of them, before any training or calibration."""
    net = build(precision, seed=0).train(mode == "training")
    seen = outputs(net, PACT, images)
    assert list(seen) == ["act1", "act2", "act3", "act4"]
    for name, values in seen.items():
        layer = getattr(net, name)
        found = (values / layer.scale).round().unique()
        torch.testing.assert_close(values, (values / layer.scale).round() * layer.scale, rtol=1e-6, atol=0)
        assert 0 == found.min() and found.max() <= 2**layer.bits - 1 and len(found) >= 3, name


@pytest.mark.parametrize("precision", QUANTIZED)
def test_weights_are_on_the_lattice_from_the_first_call_on(precision, images):
    """A layer's output is that of codes * scale; codes are whole, symmetric, and more than one a layer."""
    net = build(precision, seed=0)
    seen = outputs(net, (QuantConv2d, QuantLinear), images)
    for layer in layers(net).values():
        top = 2 ** (layer.bits - 1) - 1
        used = layer.codes().unique()
        assert torch.equal(used, used.round()) and used.abs().max() <= top and len(used) >= 3
    weight = net.conv1.codes() * net.conv1.weight_scale
    bias = net.conv1.bias_codes(1 / 255) * net.conv1.output_scale(1 / 255)
    torch.testing.assert_close(seen["conv1"], F.conv2d(images, weight, bias, padding=2).detach())
