"""Tests of saqlib.deployment.layers: shapes by hand, and the networks that it refuses."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from saqlib.deployment.costs import cost
from saqlib.deployment.integer import integer_network
from saqlib.deployment.layers import DeploymentError, read
from saqlib.deployment.onnx import export_explanation, export_onnx
from saqlib.network import quantization
from saqlib.network.initial import build
from saqlib.network.lattice import quantize_weight
from saqlib.network.settings import Bits, Precision, Shape
from tests.trained import network

BEHIND = {"act1": "conv1", "act2": "conv2", "act3": "dense1", "act4": "dense2"}
USES = {
    "layers": lambda model, path: read(model),
    "prediction": lambda model, path: export_onnx(model, path, packed=False),
    "packed": lambda model, path: export_onnx(model, path, packed=True),
    "explanation": lambda model, path: export_explanation(model, path, packed=True),
    "integers": lambda model, path: integer_network(model),
    "costs": lambda model, path: cost(model),
}


def test_shapes_by_hand():
    """Inputs, outputs and multiply-accumulates of each layer of the network of params.yaml."""
    table = {layer.name: (layer.inputs, layer.outputs, layer.macs) for layer in read(network("w2a2"))}
    assert table == {
        "conv1": (28 * 28, 8 * 14 * 14, 28 * 28 * 25 * 8),
        "conv2": (8 * 14 * 14, 16 * 5 * 5, 10 * 10 * 25 * 8 * 16),
        "dense1": (400, 120, 400 * 120),
        "dense2": (120, 84, 120 * 84),
        "dense3": (84, 10, 840),
    }


def test_bits_of_each_layer():
    """Mixed precision has 4-bit convolutions, 2-bit dense layers and 8-bit edges."""
    bits = [(layer.weight_bits, layer.input_bits, layer.activation_bits) for layer in read(network("mixed"))]
    assert bits == [(8, 8, 4), (4, 4, 4), (2, 4, 2), (2, 2, 2), (8, 2, None)]


def test_codes_times_scale_are_the_weights():
    """A layer's codes times its scale are the values that quantize_weight gives."""
    trained = network("w4a4")
    for layer in read(trained):
        codes, scale = quantize_weight(getattr(trained, layer.name).weight, layer.weight_bits)
        np.testing.assert_array_equal(layer.weight, codes.numpy())
        np.testing.assert_array_equal(layer.weight_scale, scale.flatten().numpy())


def test_a_network_in_training_mode_is_read_as_in_evaluation_and_stays_so():
    """Reading does not depend on the mode and does not change it."""
    trained = copy.deepcopy(network("w2a2")).train()
    for layer, expected in zip(read(trained), read(network("w2a2")), strict=True):
        np.testing.assert_array_equal(layer.weight, expected.weight)
        np.testing.assert_array_equal(layer.bias, expected.bias)
    assert all(module.training for module in trained.modules())


def test_the_warm_up_is_refused():
    """A network that still computes in full precision is an error that names the switch."""
    warming = copy.deepcopy(network("w2a2"))
    quantization.set_quantizing(warming, False)
    with pytest.raises(DeploymentError, match="conv1 still computes in full precision.*set_quantizing"):
        read(warming)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_that_is_no_positive_number_is_refused(alpha):
    """An alpha of zero, below or not finite is an error that names the layer."""
    broken = copy.deepcopy(network("w2a2"))
    with torch.no_grad():
        broken.act2.alpha.fill_(alpha)
    with pytest.raises(DeploymentError, match="clip behind conv2"):
        read(broken)


def test_low_bit_weights_behind_a_float_activation_are_refused():
    """A layer whose input is not on a lattice is an error that names it."""
    layers = (Bits(8, None), *[Bits(2, 2)] * 3, Bits(8))
    built = build(Precision("odd", layers), shape=Shape((8, 16), (120, 84)))
    with pytest.raises(DeploymentError, match="conv2 has 2-bit weights but a full-precision input"):
        read(built)


def test_a_bias_beyond_int32_is_refused():
    """A bias that its scale carries past int32 is an error that names the layer."""
    broken = copy.deepcopy(network("w2a2"))
    with torch.no_grad():
        broken.dense1.bias.fill_(1e9)
    with pytest.raises(DeploymentError, match="bias of dense1 does not fit int32"):
        read(broken)


def test_another_network_is_refused():
    """A module that network.build did not make is an error that names its type."""
    with pytest.raises(DeploymentError, match="not a Sequential"):
        read(nn.Sequential())


PARTS = [
    (precision, name)
    for precision in ("fp32", "w2a2")
    for name in build(precision, seed=0).state_dict()
    if not name.endswith("floor")  # of the optimiser: nothing that is deployed reads it
]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("precision", "name"), PARTS)
def test_a_network_that_is_not_finite_is_refused_by_all(precision, name, value, tmp_path):
    """Whatever of it: no file, no integers, no costs. NaN would become code 0, and its answer a class."""
    broken = copy.deepcopy(network(precision))
    layer, part = name.split(".")
    with torch.no_grad():
        values = broken.state_dict()[name]
        values[(-1,) * values.ndim] = value
    said = f"clip behind {BEHIND[layer]}" if part == "alpha" else f"the {part} of {layer} is not finite"
    for use in USES.values():
        with pytest.raises(DeploymentError, match=said):
            use(broken, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_bias_whose_code_is_no_number_is_refused(monkeypatch):
    """A comparison with NaN is false, whichever way it is meant."""
    monkeypatch.setattr(quantization._QuantizedLayer, "bias_codes", lambda layer, scale: layer.bias * float("nan"))
    with pytest.raises(DeploymentError, match="bias of conv1 does not fit int32"):
        read(network("w2a2"))
