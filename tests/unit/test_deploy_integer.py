"""Tests of saqlib.deploy.layers and .integer: shapes by hand, refusals, equality with the network at every layer."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saqlib import quantization
from saqlib.deploy import DeploymentError, cost, export_c, export_explanation, export_onnx, integer, integer_network
from saqlib.deploy.layers import read
from saqlib.lenet import build
from saqlib.precision import Bits, Precision, Shape
from tests.helpers.deployed import behaviour, changed, network, network_with_ties
from tests.helpers.networks import sample

IMAGES = sample()[0].numpy()

# ------------------------------------------------------------------------------------------------------- layers


IN_PLACE = {
    "warm-up": (
        lambda model: quantization.set_quantizing(model, False),
        "conv1 still computes in full precision.*set_quantizing",
    ),
    "clip 0": (lambda model: model.act2.alpha.fill_(0), "clip behind conv2 is 0.0"),
    "clip NaN": (lambda model: model.act2.alpha.fill_(np.nan), "clip behind conv2 is nan"),
    "weight NaN": (lambda model: model.conv2.weight[0, 0].fill_(np.nan), "weight of conv2 is not"),
    "scale infinite": (lambda model: model.conv1.weight_scale.fill_(np.inf), "weight_scale of conv1"),
    "bias large": (lambda model: model.dense1.bias.fill_(1e9), "bias of dense1 does not fit int32"),
    "double": (lambda model: model.double(), "weight of conv1 is torch.float64"),
}
UNFIT = {kind: (partial(changed, "w2a2", change), message) for kind, (change, message) in IN_PLACE.items()} | {
    "float input": (
        lambda: build(Precision("odd", (Bits(8, None), *[Bits(2, 2)] * 3, Bits(8)))),
        "conv2 has 2-bit weights but a full-precision input",
    ),
    "unrounded": (
        lambda: build(dataclasses.replace(Precision.parse("w4a4"), rounding=False)),
        "activation behind conv1 clips without rounding",
    ),
    "foreign": (lambda: nn.Sequential(), "not a Sequential"),
    "second network": (lambda: build("w4a4", shape=Shape((2, 3, 4), ())), "only a LeNet .* not a BatchNormNet"),
}  # fmt: skip
USES = {
    "prediction": lambda model, path: export_onnx(model, path, packed=True),
    "explanation": lambda model, path: export_explanation(model, path, packed=True),
    "integers": lambda model, path: integer_network(model),
    "C": lambda model, path: export_c(model, path),
    "costs": lambda model, path: cost(model),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_an_unfit_network_is_refused_by_all(kind, tmp_path):
    """The message names the layer; no file, no integers, no costs: NaN would become code 0, and its answer a class."""
    make, message = UNFIT[kind]
    for use in USES.values():
        with pytest.raises(DeploymentError, match=message):
            use(make(), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------- integers


def deviations(trained, integers):
    """Codes and logits, of the sample's 300 test images, in which the network and its integer form differ."""
    expected, leaving = behaviour(trained), integers.codes(IMAGES)
    leaving["dense3"] = leaving["dense3"].astype(np.float32) * read(trained)[-1].output_scale
    return sum(int((expected[name] != leaving[name]).sum()) for name in expected)


def layer_with(**changes):
    """A dense layer of one output and two inputs, 2-bit codes in and out, with changes."""
    plain = {"weight": np.zeros((1, 2), np.int8), "step": np.float32(1), "alpha": np.float32(3)}
    return dataclasses.replace(read(network("w2a2"))[2], **plain | changes)


@pytest.mark.parametrize(("precision", "edges"), [("w4a4", 8), ("mixed", 8), ("w2a2", 8), ("w2a2", 2)])
def test_equals_the_network_at_every_layer(precision, edges):
    """Every code, logit and class is the network's, bit for bit, also where values lie exactly between two codes."""
    for trained in (network(precision, edges), network_with_ties(precision)):
        integers = integer_network(trained)
        assert deviations(trained, integers) == 0
        classes = integers.classes(IMAGES)
        np.testing.assert_array_equal(classes, behaviour(trained)["dense3"].argmax(1))


@pytest.mark.parametrize(
    "change",
    [lambda x: x / 255, lambda x: x.astype(np.int64), lambda x: x[0], lambda x: x[:, :27], lambda x: x.tolist()],
    ids=["unit interval", "int64", "one", "cut", "list"],
)
def test_images_that_are_no_bytes_are_refused(change):
    """A cast to bytes would make another picture: of values in [0, 1] a black one, always of the same class."""
    integers = integer_network(network("w2a2"))
    for use in (integers.classes, integers.codes):
        with pytest.raises(DeploymentError, match=r"takes uint8 images \(B, 28, 28\), .* not (float|int|bool|uint)"):
            use(change(IMAGES))


@pytest.mark.parametrize("count", [0, 1, integer.BATCH + 1])
def test_any_number_of_images(count):
    """None, one, and more than are taken at once."""
    integers = integer_network(network("w2a2"))
    classes = integers.classes(np.resize(IMAGES, (count, 28, 28)))
    assert classes.dtype == np.int64 and classes.shape == (count,)
    np.testing.assert_array_equal(classes, np.resize(integers.classes(IMAGES), count))


def test_only_whole_numbers_are_used():
    """All parameters and all that leaves a layer have integer types; a float layer has no such form."""
    with pytest.raises(DeploymentError, match="conv1 computes in full precision"):
        integer_network(network("w2a2", None))
    integers = integer_network(network("mixed"))
    arrays = [integers.multipliers, *integers.thresholds, *integers.codes(IMAGES[:5]).values()]
    for layer in integers.layers:
        arrays += [layer.weight, layer.bias]
    assert {array.dtype.kind for array in arrays} == {"i"}


@given(scale=st.floats(2**-8, 2**3, width=32), step=st.floats(2**-6, 2**6, width=32), bits=st.integers(2, 5))
def test_thresholds_are_where_the_code_rises(scale, step, bits):
    """Each threshold is reached at itself and not one below, for any scale, step and bits."""
    alpha = np.float32(step) * np.float32(2**bits - 1)
    scales = np.array([scale], np.float32)
    layer = layer_with(output_scale=scales, step=np.float32(step), alpha=alpha, activation_bits=bits)
    rises = integer.thresholds(layer)[0]
    levels = np.arange(1, 2**bits)
    assert (integer.activation_codes(rises[:, None], layer)[:, 0] >= levels).all()
    assert (integer.activation_codes(rises[:, None] - 1, layer)[:, 0] < levels).all()


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.25, [3, 6, 11]), (2**-24, [2**23 + 1, 2**24, 2**24])], ids=["ties", "out of reach"]
)
def test_thresholds_by_hand(scale, expected):
    """Ties at 2, 6 and 10 go to the even codes 0, 2 and 2; a code that no accumulator below 2^24 gives has 2^24."""
    assert integer.thresholds(layer_with(output_scale=np.array([scale], np.float32))).tolist() == [expected]


def test_accumulator_bound_by_hand():
    """The bound is the largest input times the magnitudes of a row, plus its bias; from 2^24 on it is refused."""
    weight, bias = np.array([[1, -1], [0, 1], [-1, 0]], np.int8), np.array([-7, 2, 9], np.int32)
    assert integer.accumulator_bound(layer_with(weight=weight, bias=bias, input_bits=2)) == 2 * 3 + 7
    with pytest.raises(DeploymentError, match="dense1 can reach"):
        integer.check_accumulators((layer_with(bias=np.array([2**24], np.int32)),))


def test_class_multipliers_have_the_exact_ratio_of_the_scales():
    """Multipliers are the scales times one common power of two; scales that would overflow 64 bits are refused."""
    scale = np.array([0.75, 1e-3, 0.1], np.float32)
    ratio = integer.class_multipliers(scale) / scale.astype(np.float64)
    assert len(set(ratio)) == 1 and np.log2(ratio[0]) % 1 == 0
    with pytest.raises(DeploymentError, match="differ too much"):
        integer.class_multipliers(np.array([1, 2**-20], np.float32))
