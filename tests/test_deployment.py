"""Tests of saqlib.deployment: ONNX's own byte layout, and a cost table computed by hand."""

import copy
import dataclasses
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from trained import PRECISIONS, network, sample

from saqlib import config, deployment
from saqlib.clarity import PRIMARY
from saqlib.config import Cell
from saqlib.deployment import DeploymentError, pack, unpack

ONNX_TYPES = {2: ml_dtypes.int2, 4: ml_dtypes.int4, 8: np.int8}


def codes_of(bits):
    return st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), max_size=40)


# --- pack, unpack ---


@given(st.integers(2, 8).flatmap(lambda bits: st.tuples(st.just(bits), codes_of(bits))))
def test_unpack_returns_what_was_packed(case):
    """Every length and bit-width comes back, in ceil(N bits / 8) bytes."""
    bits, codes = case
    data = pack(np.array(codes, np.int8), bits)
    assert len(data) == -(-len(codes) * bits // 8)
    assert unpack(data, bits, (len(codes),)).tolist() == codes


@pytest.mark.parametrize("bits", ONNX_TYPES)
@given(st.data())
def test_bytes_are_those_of_onnx(bits, data):
    """The bytes are the raw data that the onnx package writes for the same codes."""
    codes = data.draw(codes_of(bits))
    tensor = numpy_helper.from_array(np.array(codes, np.int8).astype(ONNX_TYPES[bits]))
    assert pack(codes, bits) == tensor.raw_data


@pytest.mark.parametrize(
    ("codes", "bits", "data"),
    [([1, -1, 0, 1, -1], 2, [0b01_00_11_01, 0b11]), ([7, -7, 1], 4, [0x97, 0x01]), ([-127, 3], 8, [0x81, 3])],
)
def test_pack_by_hand(codes, bits, data):
    """The first code lies in the lowest bits; the rest of the last byte is zero."""
    assert list(pack(codes, bits)) == data


def test_shape_is_kept():
    """Codes of a convolution come back in its shape."""
    codes = np.random.default_rng(0).integers(-1, 2, (4, 3, 5, 5))
    np.testing.assert_array_equal(unpack(pack(codes, 2), 2, codes.shape), codes)


@pytest.mark.parametrize("code", [2, -3, 0.5, float("nan")])
def test_what_is_no_code_is_refused(code):
    """A number that 2 bits cannot hold is an error that names it and the range."""
    with pytest.raises(ValueError, match=rf"{code} is not a 2-bit code: expected a whole number from -2 to 1"):
        pack(np.array([0, code, 1]), 2)


@pytest.mark.parametrize("data", [b"", b"12"])
def test_a_wrong_number_of_bytes_is_refused(data):
    """Bytes that do not match the shape are an error that gives both numbers."""
    with pytest.raises(ValueError, match=f"take 1 bytes, but there are {len(data)}"):
        unpack(data, 2, (4,))


# --- cost ---

# Of the network of params.yaml: 200, 3200, 48000, 10080 and 840 weights in 8, 16, 120, 84 and 10 channels, which are
# used 784, 100, 1, 1 and 1 times. Every channel has a scale and a bias of 4 bytes, every activation a clip.
MACS = 156_800 + 320_000 + 48_000 + 10_080 + 840
SCALES = 4 * (238 + 238 + 4)
COSTS = {
    "fp32": {
        "packed_bytes": 4 * (62_320 + 238),
        "bit_operations": 32 * 32 * MACS,
        "peak_activation_bytes": 4 * (784 + 1568),
        "explanation_bit_operations": 32 * 32 * (2 * MACS - 840),
    },
    "w4a4": {
        "packed_bytes": 200 + 1600 + 24_000 + 5040 + 840 + SCALES,
        "bit_operations": 64 * 156_800 + 16 * (320_000 + 48_000 + 10_080) + 8 * 4 * 840,
        "peak_activation_bytes": 784 + 784,
        "explanation_bit_operations": 16_111_360 + 32 * (8 * 156_800 + 4 * (320_000 + 48_000 + 10_080)),
    },
    "mixed": {
        "packed_bytes": 200 + 1600 + 12_000 + 2520 + 840 + SCALES,
        "bit_operations": 64 * 156_800 + 16 * 320_000 + 2 * 4 * 48_000 + 4 * 10_080 + 8 * 2 * 840,
        "peak_activation_bytes": 784 + 784,
        "explanation_bit_operations": 15_592_960 + 32 * (8 * 156_800 + 4 * 320_000 + 2 * (48_000 + 10_080)),
    },
    "w2a2": {
        "packed_bytes": 200 + 800 + 12_000 + 2520 + 840 + SCALES,
        "bit_operations": 64 * 156_800 + 4 * (320_000 + 48_000 + 10_080) + 8 * 2 * 840,
        "peak_activation_bytes": 784 + 392,
        "explanation_bit_operations": 11_560_960 + 32 * (8 * 156_800 + 2 * (320_000 + 48_000 + 10_080)),
    },
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_cost_by_hand(precision):
    """Bytes and operations of each precision are those of the table computed by hand."""
    found = dataclasses.asdict(deployment.cost(network(precision)))
    del found["zero_weights"]
    assert found == COSTS[precision] | {"macs": MACS, "explanation_macs": 2 * MACS - 840}


def test_share_of_zero_weights():
    """Half of the codes of one layer set to zero counts by that layer's size."""
    half = copy.deepcopy(network("w2a2"))
    with torch.no_grad():
        for layer in (half.conv1, half.conv2, half.dense1, half.dense2, half.dense3):
            layer.weight.copy_(layer.weight_scale.expand_as(layer.weight))
        half.dense1.weight[:60] = 0
    assert deployment.cost(half).zero_weights == pytest.approx(48_000 / 2 / 62_320)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_add_up_to_the_cost(precision):
    """The table of layers sums to the network's bytes and operations, and zero weights average to its share."""
    table, total = deployment.layers(network(precision)), deployment.cost(network(precision))
    assert table["packed bytes"].sum() == total.packed_bytes and table["MACs"].sum() == total.macs
    assert np.average(table["zero weights"], weights=table["weights"]) == pytest.approx(total.zero_weights)


# --- files ---


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The files of the 2-bit network."""
    return deployment.deploy(network("w2a2"), Cell("mnist", "w2a2", "standard"), tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_report_is_the_cells_row(precision, tmp_path):
    """A row has the cell's names, its costs and the sizes of the three files on disk."""
    cell = Cell("mnist", precision, "guided")
    row = deployment.report(network(precision), cell, tmp_path, sample("test")[0])
    assert list(row)[:3] == ["dataset", "precision", "training"] and row["precision"] == precision
    assert row["packed_bytes"] == COSTS[precision]["packed_bytes"]
    for kind in ("qcdq", "packed", "explain"):
        assert row[f"{kind}_file_bytes"] == (tmp_path / f"mnist-{precision}-guided.{kind}.onnx").stat().st_size
    assert len(list(tmp_path.iterdir())) == 3


def test_a_cell_is_reported_from_its_model_file(tmp_path, monkeypatch):
    """The first seed below the root is loaded, checked on the test images, and its files lie in results/models."""
    asked = []
    monkeypatch.setattr(deployment.experiment, "load_model", lambda *which: asked.append(which) or network("w2a2"))
    cell = Cell("mnist", "w2a2", "standard")
    row = deployment.report_cell(cell, config.load(scale="smoke"), tmp_path)
    assert asked == [(cell, 0, tmp_path)]
    files = {path.name for path in (tmp_path / "results" / "models").iterdir()}
    assert files == {f"{cell}.{kind}.onnx" for kind in ("qcdq", "packed", "explain")}
    assert row["packed_file_bytes"] < row["qcdq_file_bytes"]


@pytest.mark.parametrize("kind", ["qcdq", "packed", "explain"])
def test_verify_finds_the_file_that_is_another_network(kind, deployed, tmp_path):
    """A file whose logits differ is an error that names it and the level."""
    other = deployment.deploy(network("w4a4"), Cell("mnist", "w4a4", "standard"), tmp_path)
    with pytest.raises(DeploymentError, match=rf"w4a4-standard.{kind}.onnx at ORT_DISABLE_ALL .* a logit by"):
        deployment.verify(network("w2a2"), deployed | {kind: other[kind]}, sample("test")[0][:20])


def test_verify_finds_a_wrong_map(deployed, monkeypatch):
    """Equal logits with another map are an error that counts the images."""
    monkeypatch.setattr(deployment, "input_gradient", lambda model, images: torch.ones(len(images), 28, 28))
    with pytest.raises(DeploymentError, match="the map of 20 images"):
        deployment.verify(network("w2a2"), deployed, sample("test")[0][:20])


def test_verify_finds_wrong_integers(deployed, monkeypatch):
    """Integers that give other classes are an error."""
    always_zero = SimpleNamespace(classes=lambda images: np.zeros(len(images), int))
    monkeypatch.setattr(deployment, "integer_network", lambda _: always_zero)
    with pytest.raises(DeploymentError, match="integer inference differs"):
        deployment.verify(network("w2a2"), deployed, sample("test")[0][:20])


def test_a_class_counts_as_wrong_only_beyond_the_tolerance():
    """Two logits that the network itself hardly separates may swap; two that it separates may not."""
    expected = np.array([[0.0, 1.0], [1.00001, 1.0], [1.0, 0.0]])
    found = np.array([[1.0, 0.0], [1.0, 1.00001], [1.0, 0.0]])
    assert deployment._wrong_classes(found, expected).tolist() == [True, False, False]


# --- table ---


def test_table_joins_costs_accuracy_and_clarity():
    """Accuracy is the mean over the seeds, retained clarity the estimate, each beside the right cell."""
    costs = pd.DataFrame([
        {"dataset": "mnist", "precision": precision, "training": "standard", "qcdq_file_bytes": 1,
         "packed_file_bytes": 2, "explain_file_bytes": 3} | dataclasses.asdict(deployment.cost(network(precision)))
        for precision in ("fp32", "w2a2")
    ])  # fmt: skip
    runs = pd.DataFrame({
        "dataset": "mnist", "training": "standard", "precision": ["w2a2", "w2a2", "fp32"],
        "test_accuracy": [90.0, 92.0, 99.0],
    })  # fmt: skip
    retained = pd.DataFrame([
        {"dataset": "mnist", "training": "standard", "precision": precision, "metric": metric, "estimate": value}
        for precision, value in (("fp32", 1.0), ("w2a2", 0.5))
        for metric in PRIMARY
    ])  # fmt: skip
    made = deployment.table(costs, runs, retained)
    assert made.name == "deployment"
    assert made.numbers.test_accuracy.tolist() == [99.0, 91.0]
    assert made.numbers.retained_morans_i.tolist() == [1.0, 0.5]
    assert made.shown["Packed (kB)"].tolist() == ["250.2", "18.3"]
    assert made.shown["Accuracy (%)"].tolist() == ["99.00", "91.00"]
