"""Tests of saqlib.deployment.onnx: ONNX Runtime equals the network, at all four optimisation levels."""

import copy
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from saqlib.deployment.layers import DeploymentError, read
from saqlib.deployment.onnx import export_explanation, export_onnx
from saqlib.deployment.packing import unpack
from saqlib.grid import Cell
from saqlib.saliency.gradient import input_gradient
from tests.trained import MUTATIONS, PRECISIONS, QUANTIZED, behaviour, inputs, network, network_with_ties

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
CONTAINERS = {TensorProto.INT2: 2, TensorProto.INT4: 4, TensorProto.INT8: 8}


def run(path, images, level="ORT_ENABLE_ALL"):
    """All outputs of an ONNX file for float images, at one optimisation level and otherwise default options."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


# --- prediction ---


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_a_quantized_network_is_reproduced_bit_for_bit(precision, packed, level, tmp_path):
    """Every logit is the network's, also where values lie exactly between two codes."""
    for trained in (network(precision), network_with_ties(precision)):
        export_onnx(trained, tmp_path / "x.onnx", packed)
        np.testing.assert_array_equal(
            run(tmp_path / "x.onnx", inputs(), level)[0], behaviour(trained, inputs())["dense3"]
        )


@pytest.mark.parametrize("level", LEVELS)
def test_a_float_network_is_reproduced(level, tmp_path):
    """In full precision the classes are equal, and the logits to 1e-4."""
    export_onnx(network("fp32"), tmp_path / "x.onnx", packed=False)
    logits = run(tmp_path / "x.onnx", inputs(), level)[0]
    with torch.no_grad():
        expected = network("fp32")(inputs()).numpy()
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_equality_catches(mutation, tmp_path, monkeypatch):
    """A network that rounds half up, rounds down or has a float bias differs from the file by more than 1e-4."""
    trained = network_with_ties("w4a4")
    export_onnx(trained, tmp_path / "x.onnx", packed=True)
    monkeypatch.setattr(*MUTATIONS[mutation])
    assert abs(run(tmp_path / "x.onnx", inputs())[0] - behaviour(trained, inputs())["dense3"]).max() > 1e-4


@pytest.mark.parametrize("edges", ["same", "fp32"])
def test_other_edges_are_exported(edges, tmp_path):
    """Edges of few bits and edges in full precision give the network's logits."""
    trained = network("w2a2", edges)
    export_onnx(trained, tmp_path / "x.onnx", packed=True)
    expected = behaviour(trained, inputs())["dense3"]
    np.testing.assert_allclose(run(tmp_path / "x.onnx", inputs())[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "packed", "opset", "bits"),
    [
        ("w4a4", False, 13, [8, 8, 8, 8, 8]),
        ("w2a2", False, 13, [8, 8, 8, 8, 8]),
        ("w4a4", True, 21, [8, 4, 4, 4, 8]),
        ("mixed", True, 25, [8, 4, 2, 2, 8]),
        ("w2a2", True, 25, [8, 2, 2, 2, 8]),
    ],
)
def test_containers_and_opsets(precision, packed, opset, bits, tmp_path):
    """Weights lie in the smallest container that the opset has, as our own bytes; biases are int32."""
    export_onnx(network(precision), tmp_path / "x.onnx", packed)
    proto = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert [entry.version for entry in proto.opset_import] == [opset]
    constants = {constant.name: constant for constant in proto.graph.initializer}
    for layer, width in zip(read(network(precision)), bits, strict=True):
        weight = constants[f"{layer.name}.weight"]
        assert CONTAINERS[weight.data_type] == width
        np.testing.assert_array_equal(unpack(weight.raw_data, width, layer.weight.shape), layer.weight)
        np.testing.assert_array_equal(numpy_helper.to_array(weight).astype(np.int8), layer.weight)
        assert constants[f"{layer.name}.bias"].data_type == TensorProto.INT32


def test_packing_makes_the_file_smaller(tmp_path):
    """Packed, the files shrink from precision to precision; in INT8 containers the bits do not show."""
    sizes = {}
    for precision in PRECISIONS:
        for packed in (False, True):
            export_onnx(network(precision), tmp_path / "x.onnx", packed)
            sizes[precision, packed] = (tmp_path / "x.onnx").stat().st_size
    assert sizes["w2a2", True] < sizes["mixed", True] < sizes["w4a4", True] < sizes["w4a4", False]
    assert sizes["fp32", True] == sizes["fp32", False] > 3 * sizes["w4a4", False]
    assert abs(sizes["w2a2", False] - sizes["w4a4", False]) < 100


# --- explanation ---


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_map_is_the_input_gradient(precision, packed, tmp_path):
    """Logits and map equal the network's to 1e-4 on every test image of the sample, at every level."""
    trained = network(precision)
    export_explanation(trained, tmp_path / "x.onnx", packed)
    expected = input_gradient(trained, inputs()).numpy()
    with torch.no_grad():
        logits = trained(inputs()).numpy()
    assert abs(expected).max() > 0.1  # else 1e-4 would say little
    for level in LEVELS:
        found_logits, found = run(tmp_path / "x.onnx", inputs(), level)
        np.testing.assert_allclose(found_logits, logits, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_map_of_a_network_with_clipped_values_and_ties(tmp_path):
    """The map is right where values lie at the bounds of PACT and where pooling finds several largest values."""
    trained = network_with_ties("w2a2")
    with torch.no_grad():
        for activation in (trained.act1, trained.act2):
            activation.alpha.mul_(0.5)
    export_explanation(trained, tmp_path / "x.onnx", packed=True)
    expected = input_gradient(trained, inputs()).numpy()
    assert abs(expected).max() > 0
    np.testing.assert_allclose(run(tmp_path / "x.onnx", inputs())[1], expected, rtol=1e-5, atol=1e-4)


def test_the_map_with_float_edges(tmp_path):
    """Full-precision edges around a quantized middle give the network's map."""
    trained = network("w2a2", "fp32")
    export_explanation(trained, tmp_path / "x.onnx", packed=True)
    expected = input_gradient(trained, inputs()).numpy()
    np.testing.assert_allclose(run(tmp_path / "x.onnx", inputs())[1], expected, rtol=0, atol=1e-4)


# --- the file ---


@pytest.mark.parametrize("export", [export_onnx, export_explanation])
def test_the_same_network_gives_the_same_bytes(export, tmp_path):
    """Two exports are byte-identical, and so is that of the network in training mode."""
    contents = set()
    for i, trained in enumerate([network("mixed"), network("mixed"), copy.deepcopy(network("mixed")).train()]):
        export(trained, tmp_path / f"{i}.onnx", packed=True)
        contents.add((tmp_path / f"{i}.onnx").read_bytes())
    assert len(contents) == 1


def test_metadata(tmp_path):
    """The file says what it is, its cell, classes and scales, and that the runtime needs no option."""
    export_onnx(network("w2a2"), tmp_path / "x.onnx", packed=True, cell=Cell("fashion_mnist", "w2a2", "guided"))
    found = metadata(tmp_path / "x.onnx")
    scales = json.loads(found["scales"])
    assert found["kind"] == "prediction" and found["cell"] == "fashion_mnist-w2a2-guided"
    assert json.loads(found["classes"])[1] == "trousers"
    assert json.loads(found["session_options"]) == {}
    assert scales["input"] == 1 / 255 and np.float32(scales["conv2"]) == network("w2a2").act2.scale.numpy()


def test_without_a_cell_nothing_is_made_up(tmp_path):
    """A network that belongs to no cell has neither cell nor class names."""
    export_explanation(network("w2a2"), tmp_path / "x.onnx", packed=True)
    assert sorted(metadata(tmp_path / "x.onnx")) == ["kind", "scales", "session_options"]


def test_a_network_that_is_refused_leaves_no_file(tmp_path):
    """An error comes before anything is written."""
    broken = copy.deepcopy(network("w2a2"))
    with torch.no_grad():
        broken.dense1.bias.fill_(1e4)
        broken.act2.alpha.fill_(1e-3)
    with pytest.raises(DeploymentError, match="dense1"):
        export_onnx(broken, tmp_path / "x.onnx", packed=True)
    assert list(tmp_path.iterdir()) == []
