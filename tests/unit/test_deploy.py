"""Tests of saqlib.deploy: packed codes, ONNX files that equal the network, costs by hand, verification, face."""

import copy
import dataclasses
import json
from types import SimpleNamespace
from unittest.mock import Mock

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

import saqlib.files
from saqlib import deploy
from saqlib.data import DATASETS
from saqlib.deploy import DeploymentError, check, costs, export_c, export_explanation, export_onnx, pack, unpack
from saqlib.deploy.explain import open_session
from saqlib.deploy.layers import read
from saqlib.lenet import build
from saqlib.precision import Bits
from saqlib.saliency import input_gradient
from study import paths
from tests.helpers.deployed import behaviour, calibrated, earlier, network, network_with_ties
from tests.helpers.networks import PRECISIONS, QUANTIZED, inputs, sample

IMAGES, _ = sample()
CONTAINERS = {TensorProto.INT2: 2, TensorProto.INT4: 4, TensorProto.INT8: 8}
ONNX_TYPES = {2: ml_dtypes.int2, 4: ml_dtypes.int4, 8: np.int8}


def test_the_face_has_its_names():
    """All that is promised loads; an unknown name is an AttributeError."""
    assert all(callable(getattr(deploy, name)) for name in deploy.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'export'"):
        deploy.export  # noqa: B018


# ------------------------------------------------------------------------------------------------------ packing


def codes_of(bits):
    return st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), max_size=40)


@given(st.integers(2, 8).flatmap(lambda bits: st.tuples(st.just(bits), codes_of(bits))))
def test_unpack_returns_what_was_packed(case):
    """Every length and bit-width comes back, in ceil(N bits / 8) bytes; those of 2, 4 and 8 bits are ONNX's own."""
    bits, codes = case
    data = pack(np.array(codes, np.int8), bits)
    assert len(data) == -(-len(codes) * bits // 8)
    assert unpack(data, bits, (len(codes),)).tolist() == codes
    if bits in ONNX_TYPES:
        assert data == numpy_helper.from_array(np.array(codes, np.int8).astype(ONNX_TYPES[bits])).raw_data


@pytest.mark.parametrize(
    ("codes", "bits", "data"),
    [([1, -1, 0, 1, -1], 2, [0b01_00_11_01, 0b11]), ([7, -7, 1], 4, [0x97, 0x01]), ([-127, 3], 8, [0x81, 3])],
)
def test_pack_by_hand(codes, bits, data):
    """The first code lies in the lowest bits; the rest of the last byte is zero; a shape comes back."""
    assert list(pack(codes, bits)) == data
    assert unpack(bytes(data), bits, (len(codes), 1)).tolist() == [[code] for code in codes]


@pytest.mark.parametrize("code", [2, -3, 0.5, float("nan")])
def test_what_is_no_code_is_refused(code):
    """A number that 2 bits cannot hold is an error that names it and the range; so are bytes that fit no shape."""
    with pytest.raises(ValueError, match=rf"{code} is not a 2-bit code: expected a whole number from -2 to 1"):
        pack(np.array([0, code, 1]), 2)
    with pytest.raises(ValueError, match="take 1 bytes, but there are 2"):
        unpack(b"12", 2, (4,))


# ------------------------------------------------------------------------------------------------- ONNX: logits


def run(path, level="ORT_ENABLE_ALL"):
    """All outputs of an ONNX file for the sample's test images."""
    return open_session(path, level).run(None, {"images": inputs().numpy()})


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_a_quantized_network_is_reproduced_bit_for_bit(precision, level, tmp_path):
    """Every logit is the network's, packed or not, also where values lie exactly between two codes."""
    for trained in (network(precision), network_with_ties(precision)):
        for packed in (False, True):
            export_onnx(trained, tmp_path / "x.onnx", packed)
            np.testing.assert_array_equal(run(tmp_path / "x.onnx", level)[0], behaviour(trained)["dense3"])


def clipped_with_ties():
    """Many values lie at the bounds of PACT, and pooling finds several largest ones."""
    trained = network_with_ties("w2a2")
    with torch.no_grad():
        for activation in (trained.act1, trained.act2):
            activation.alpha.mul_(0.5)
    return trained


NETWORKS = {precision: lambda name=precision: network(name) for precision in PRECISIONS} | {
    "2-bit edges": lambda: network("w2a2", 2), "float edges": lambda: network("w2a2", None), "ties": clipped_with_ties,
    "clips in front": lambda: calibrated(network("w2a2"), Bits(8, 2), Bits(2, 2), Bits(2), Bits(), Bits()),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_maps_are_the_input_gradients(name, tmp_path):
    """Classes are the network's, logits and both maps to 1e-4; also with edges of few bits and in full precision."""
    trained = NETWORKS[name]()
    export_explanation(trained, tmp_path / "x.onnx", packed=True)
    with torch.no_grad():
        expected = trained(inputs()).numpy()
    logits, *maps = run(tmp_path / "x.onnx")
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    for found, saturated in zip(maps, ("stop", "pass"), strict=True):
        gradient = input_gradient(trained, inputs(), saturated=saturated).numpy()
        assert abs(gradient).max() > 0.1  # else 1e-4 would say little
        np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-4)
    assert (abs(maps[1] - maps[0]).max() > 0.1) == (name != "fp32")


def test_the_second_map_costs_its_own_way_back_and_no_weights(tmp_path):
    """Outputs come in their old order; ways back part at the first clip, so that full precision has one."""
    files = {name: tmp_path / f"{name}.onnx" for name in ("fp32", "clips in front", "w2a2")}
    added = {}
    for name, path in files.items():
        export_explanation(NETWORKS[name](), path, packed=True)
        now, before = onnx.load(path).graph, onnx.load_from_string(earlier(path)).graph
        assert [output.name for output in now.output] == ["logits", "map", "pass_through"]
        assert [output.name for output in before.output] == ["logits", "map"]
        assert now.initializer == before.initializer
        added[name] = [node.op_type for node in now.node[len(before.node) :]]
    convolution = ["Reshape", "Where", "MaxUnpool", "ConvTranspose"]
    assert added == {
        "fp32": ["Squeeze"],
        "clips in front": [*2 * convolution, "Squeeze"],
        "w2a2": [*2 * ["Where", "MatMul"], *2 * convolution, "Squeeze"],
    }


@pytest.mark.parametrize(
    ("precision", "packed", "opset", "bits"),
    [("w2a2", False, 13, [8] * 5), ("w4a4", True, 21, [8, 4, 4, 4, 8]), ("mixed", True, 25, [8, 4, 2, 2, 8])],
)
def test_containers_and_opsets(precision, packed, opset, bits, tmp_path):
    """Weights lie in the smallest container that the opset has, as our own bytes; biases are int32."""
    export_onnx(network(precision), tmp_path / "x.onnx", packed)
    proto = onnx.load(tmp_path / "x.onnx")
    assert [entry.version for entry in proto.opset_import] == [opset]
    constants = {constant.name: constant for constant in proto.graph.initializer}
    for layer, width in zip(read(network(precision)), bits, strict=True):
        weight = constants[f"{layer.name}.weight"]
        assert CONTAINERS[weight.data_type] == width
        np.testing.assert_array_equal(unpack(weight.raw_data, width, layer.weight.shape), layer.weight)
        np.testing.assert_array_equal(numpy_helper.to_array(weight).astype(np.int8), layer.weight)
        assert constants[f"{layer.name}.bias"].data_type == TensorProto.INT32


# ----------------------------------------------------------------------------------------------- ONNX: the file


@pytest.mark.parametrize("cell", ["mnist-w2a2-guided", "fashion_mnist-fp32-standard"])
def test_the_committed_files_are_written_again_to_the_byte(cell, tmp_path):
    """Also from the network in training mode; the slow tests try every cell."""
    from study import models

    for trained in (models.load(cell), models.load(cell).train()):
        for path in check.deploy(trained, cell, tmp_path, DATASETS[cell.split("-")[0]].classes).values():
            assert (paths.RESULTS / "models" / path.name).read_bytes() in (path.read_bytes(), earlier(path))


def test_metadata(tmp_path):
    """The file says what it is, its name, classes and scales; without a name and classes nothing is made up."""
    export_onnx(network("w2a2"), tmp_path / "x.onnx", packed=True, name="mine", classes="abcdefghij")
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "x.onnx").metadata_props}
    scales = json.loads(found["scales"])
    assert (found["kind"], found["cell"], found["session_options"]) == ("prediction", "mine", "{}")
    assert json.loads(found["classes"]) == list("abcdefghij")
    assert scales["input"] == 1 / 255 and np.float32(scales["conv2"]) == network("w2a2").act2.scale.numpy()
    export_explanation(network("w2a2"), tmp_path / "x.onnx", packed=True)
    metadata = onnx.load(tmp_path / "x.onnx").metadata_props
    assert sorted(entry.key for entry in metadata) == ["kind", "scales", "session_options"]


# -------------------------------------------------------------------------------------------------------- costs

# Of the network of params.yaml: 200, 3200, 48000, 10080 and 840 weights in 8, 16, 120, 84 and 10 channels, which are
# used 784, 100, 1, 1 and 1 times. Every channel has a scale and a bias of 4 bytes, every activation a clip.
MACS = 156_800 + 320_000 + 48_000 + 10_080 + 840
# Of the way back: pooling leaves one position of four of the convolutions, 8 x 14 x 14 with 25 weights, 16 x 5 x 5 with
# 200; of the last layer it takes one row as it is.
BACK1, BACK2 = 8 * 14 * 14 * 25, 16 * 5 * 5 * 200
BACK = BACK1 + BACK2 + 48_000 + 10_080
SCALES = 4 * (238 + 238 + 4)
COSTS = {
    "fp32": (4 * (62_320 + 238), 32 * 32 * MACS, 4 * (784 + 1568), 32 * 32 * (MACS + BACK)),
    "w4a4": (
        200 + 1600 + 24_000 + 5040 + 840 + SCALES,
        64 * 156_800 + 16 * (320_000 + 48_000 + 10_080) + 8 * 4 * 840,
        784 + 784,
        16_111_360 + 32 * (8 * BACK1 + 4 * (BACK2 + 48_000 + 10_080)),
    ),
    "mixed": (
        200 + 1600 + 12_000 + 2520 + 840 + SCALES,
        64 * 156_800 + 16 * 320_000 + 2 * 4 * 48_000 + 4 * 10_080 + 8 * 2 * 840,
        784 + 784,
        15_592_960 + 32 * (8 * BACK1 + 4 * BACK2 + 2 * (48_000 + 10_080)),
    ),
    "w2a2": (
        200 + 800 + 12_000 + 2520 + 840 + SCALES,
        64 * 156_800 + 4 * (320_000 + 48_000 + 10_080) + 8 * 2 * 840,
        784 + 392,
        11_560_960 + 32 * (8 * BACK1 + 2 * (BACK2 + 48_000 + 10_080)),
    ),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_cost_by_hand(precision):
    """Bytes and operations are those computed by hand; the table of layers sums to them."""
    found, table = costs.cost(network(precision)), costs.by_layer(network(precision))
    assert COSTS[precision] == (
        found.packed_bytes, found.bit_operations, found.peak_activation_bytes, found.explanation_bit_operations,
    )  # fmt: skip
    assert (found.macs, found.explanation_macs) == (MACS, MACS + BACK)
    assert table["packed bytes"].sum() == found.packed_bytes and table["MACs"].sum() == found.macs
    assert np.average(table["zero weights"], weights=table["weights"]) == pytest.approx(found.zero_weights)
    codes = [getattr(block.layer, "codes", lambda w=block.layer.weight: w)() for block in network(precision).blocks()]
    assert found.zero_weights == torch.cat([each.flatten() == 0 for each in codes]).double().mean().item()
    if precision == "mixed":
        assert table["weight bits"].tolist() == [8, 4, 2, 2, 8] and table["input bits"].tolist() == [8, 4, 4, 2, 2]
        assert table["largest accumulator"].between(1, 2**24 - 1).all()


def visited(trained):
    """Of each image the gradients behind hidden layers that are not 0, each times the weights of its output."""
    observed, counts = copy.deepcopy(trained), []
    for block in list(observed.blocks())[:-1]:
        block.layer.register_forward_hook(lambda _, given, output: output.retain_grad())
        block.layer.register_forward_hook(lambda layer, given, output: counts.append((layer.weight[0].numel(), output)))
    observed(inputs().clone().requires_grad_()).max(1).values.sum().backward()
    assert len(counts) == 4
    return sum(weights * (output.grad != 0).flatten(1).sum(1) for weights, output in counts)


def test_the_way_back_of_an_image_stays_below_its_bound():
    """In the trained networks far below; not by much where every unit passes its gradient on."""
    assert max(visited(network("fp32")).max(), visited(network("w2a2")).max()) < BACK / 2
    passing = copy.deepcopy(network("fp32"))
    for weights in passing.parameters():
        weights.data.abs_()
    assert 0.9 * BACK < visited(passing).min() <= visited(passing).max() <= BACK


# ------------------------------------------------------------------------------------------------- verification


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The files of the 2-bit network."""
    return check.deploy(network("w2a2"), "mnist-w2a2-standard", tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_report_is_the_cells_row(precision, tmp_path):
    """A row has the cell's names, its costs and the sizes of the three files on disk."""
    row = check.report(network(precision), "mnist", precision, "guided", tmp_path, IMAGES[:100])
    assert list(row.items())[:3] == [("dataset", "mnist"), ("precision", precision), ("training", "guided")]
    assert row.items() >= dataclasses.asdict(costs.cost(network(precision))).items()
    for kind in ("qcdq", "packed", "explain"):
        assert row[f"{kind}_file_bytes"] == (tmp_path / f"mnist-{precision}-guided.{kind}.onnx").stat().st_size
    assert len(list(tmp_path.iterdir())) == 3


def test_the_untrained_network_is_that_of_seed_0(tmp_path):
    """The file of the control is the network before its first step, map included, and the committed one."""
    trained = network("fp32")
    path = check.deploy_untrained(trained.precision, trained.shape, tmp_path)
    check.verify(build("fp32", seed=0).eval(), {"explain": path}, IMAGES[:40])
    assert (paths.RESULTS / "models" / path.name).read_bytes() in (path.read_bytes(), earlier(path))


@pytest.mark.parametrize("kind", ["qcdq", "packed", "explain"])
def test_verify_finds_the_file_that_is_another_network(kind, deployed, tmp_path):
    """A file whose logits differ is an error that names it and the level."""
    other = check.deploy(network("w4a4"), "w4a4", tmp_path)
    with pytest.raises(DeploymentError, match=rf"w4a4.{kind}.onnx at ORT_DISABLE_ALL .* a logit by"):
        check.verify(network("w2a2"), deployed | {kind: other[kind]}, IMAGES[:20])


@pytest.mark.parametrize(("wrong", "output"), [("stop", "map"), ("pass", "pass_through")])
def test_verify_finds_a_wrong_map(wrong, output, deployed, monkeypatch):
    """Equal logits with another map of either kind are an error that names it and counts the images."""

    def other(model, images, saturated):
        return input_gradient(model, images, saturated=saturated) + (saturated == wrong)

    monkeypatch.setattr(check, "input_gradient", other)
    with pytest.raises(DeploymentError, match=f"the {output} of 20 images"):
        check.verify(network("w2a2"), deployed, IMAGES[:20])


def test_verify_finds_wrong_integers(deployed, monkeypatch):
    """Other classes of integer inference are an error."""
    always_zero = SimpleNamespace(classes=lambda images: np.zeros(len(images), int))
    monkeypatch.setattr(check, "integer_network", lambda _: always_zero)
    with pytest.raises(DeploymentError, match="integer inference differs"):
        check.verify(network("w2a2"), deployed, IMAGES[:20])


def test_a_class_counts_as_wrong_only_beyond_the_tolerance():
    """Two logits that the network itself hardly separates may swap; two that it separates may not."""
    expected = np.array([[0.0, 1.0], [1.00001, 1.0], [1.0, 0.0]])
    found = np.array([[1.0, 0.0], [1.0, 1.00001], [1.0, 0.0]])
    assert check._wrong_classes(found, expected).tolist() == [True, False, False]


@pytest.mark.parametrize("kind", ["ONNX", "C"])
def test_an_interrupted_export_leaves_the_files_that_were_there(kind, tmp_path, monkeypatch):
    """Whatever stops the writing, and no other file beside them."""

    def export(precision):
        export_c(network(precision), tmp_path) if kind == "C" else export_onnx(network(precision), tmp_path / "x", True)
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    before = export("w4a4")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(saqlib.files.os, "replace", Mock(side_effect=KeyboardInterrupt))
        export("w2a2")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
