"""Tests of saqlib.deployment.integer: equality with the network at every layer, thresholds where codes rise."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saqlib.deployment import integer
from saqlib.deployment.layers import DeploymentError, read
from tests.trained import MUTATIONS, QUANTIZED, behaviour, inputs, network, network_with_ties, sample


def deviations(trained, integers):
    """Codes and logits, of the sample's 300 test images, in which the network and its integer form differ."""
    expected = behaviour(trained, inputs())
    leaving = integers.codes(sample("test")[0].numpy())
    leaving["dense3"] = leaving["dense3"].astype(np.float32) * read(trained)[-1].output_scale
    return sum(int((expected[name] != leaving[name]).sum()) for name in expected)


def layer_with(**changes):
    """A dense layer of three outputs and two inputs, 2-bit codes in and out, with changes."""
    return dataclasses.replace(read(network("w2a2"))[2], **changes)


@pytest.mark.parametrize(("precision", "edges"), [("w4a4", "w8"), ("mixed", "w8"), ("w2a2", "w8"), ("w2a2", "same")])
def test_equals_the_network_at_every_layer(precision, edges):
    """Every code behind every activation and every logit is the network's, bit for bit."""
    trained = network(precision, edges)
    assert deviations(trained, integer.integer_network(trained)) == 0


@pytest.mark.parametrize("precision", QUANTIZED)
def test_equals_the_network_on_ties(precision):
    """The equality holds where values lie exactly between two codes."""
    trained = network_with_ties(precision)
    assert deviations(trained, integer.integer_network(trained)) == 0


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_equality_catches(mutation, monkeypatch):
    """A network that rounds half up, rounds down or has a float bias differs from the integers."""
    trained = network_with_ties("w4a4")
    integers = integer.integer_network(trained)
    monkeypatch.setattr(*MUTATIONS[mutation])
    assert deviations(trained, integers) > 0


@pytest.mark.parametrize("precision", QUANTIZED)
def test_classes_are_the_networks(precision):
    """The class comes out of whole numbers as it comes out of the logits."""
    classes = integer.integer_network(network(precision)).classes(sample("test")[0].numpy())
    np.testing.assert_array_equal(classes, behaviour(network(precision), inputs())["dense3"].argmax(1))


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images / 255,
        lambda images: images.astype(np.float32),
        lambda images: images.astype(np.int64),
        lambda images: images.astype(np.int8),
        lambda images: images > 127,
        lambda images: images[0],
        lambda images: images[:, None],
        lambda images: images[:, :27],
        lambda images: images.tolist(),
        lambda images: np.where(images > 0, np.nan, 0),
    ],
    ids=["unit interval", "float", "int64", "int8", "bool", "one", "channel", "cut", "list", "nan"],
)
def test_images_that_are_no_bytes_are_refused(change):
    """A cast to bytes would make another picture: of values in [0, 1] a black one, always of the same class."""
    integers = integer.integer_network(network("w2a2"))
    images = change(sample("test")[0].numpy())
    for use in (integers.classes, integers.codes):
        with pytest.raises(DeploymentError, match=r"takes uint8 images \(B, 28, 28\), .* not (float|int|bool|uint)"):
            use(images)


@pytest.mark.parametrize("count", [0, 1, integer.BATCH, integer.BATCH + 1])
def test_any_number_of_images(count):
    """None, one, and more than are taken at once."""
    integers = integer.integer_network(network("w2a2"))
    images = np.resize(sample("test")[0].numpy(), (count, 28, 28))
    classes = integers.classes(images)
    assert classes.dtype == np.int64 and classes.shape == (count,)
    np.testing.assert_array_equal(classes, np.resize(integers.classes(sample("test")[0].numpy()), count))


def test_only_whole_numbers_are_used():
    """Weights, biases, thresholds, multipliers and all that leaves a layer have integer types."""
    integers = integer.integer_network(network("mixed"))
    arrays = [integers.multipliers, *integers.codes(sample("test")[0].numpy()[:5]).values()]
    for layer in integers.layers:
        arrays += [layer.weight, layer.bias] + ([] if layer.thresholds is None else [layer.thresholds])
    assert {array.dtype.kind for array in arrays} == {"i"}


@given(
    scale=st.floats(2**-8, 2**3, width=32),
    step=st.floats(2**-6, 2**6, width=32),
    bits=st.integers(2, 5),
)
def test_thresholds_are_where_the_code_rises(scale, step, bits):
    """Each threshold is reached at itself and not one below, for any scale, step and bits."""
    alpha = np.float32(step) * np.float32(2**bits - 1)
    layer = layer_with(
        weight=np.zeros((1, 2), np.int8),
        output_scale=np.array([scale], np.float32),
        step=np.float32(step),
        alpha=alpha,
        activation_bits=bits,
    )
    rises = integer.thresholds(layer)[0]
    levels = np.arange(1, 2**bits)
    assert (integer.activation_codes(rises[:, None], layer)[:, 0] >= levels).all()
    assert (integer.activation_codes(rises[:, None] - 1, layer)[:, 0] < levels).all()


def test_thresholds_by_hand():
    """With one accumulator unit a quarter of a code, ties at 2, 6 and 10 go to the even codes 0, 2 and 2."""
    layer = layer_with(
        weight=np.zeros((1, 2), np.int8),
        output_scale=np.array([0.25], np.float32),
        step=np.float32(1),
        alpha=np.float32(3),
        activation_bits=2,
    )
    assert integer.thresholds(layer).tolist() == [[3, 6, 11]]


def test_a_level_out_of_reach_has_the_largest_threshold():
    """A code that no accumulator below 2^24 gives has the threshold 2^24."""
    scale = np.array([2**-24], np.float32)
    layer = layer_with(
        weight=np.zeros((1, 2), np.int8),
        output_scale=scale,
        step=np.float32(1),
        alpha=np.float32(3),
        activation_bits=2,
    )
    assert integer.thresholds(layer).tolist() == [[2**23 + 1, 2**24, 2**24]]


def test_accumulator_bound_by_hand():
    """The bound is the largest input times the magnitudes of a row, plus its bias; every magnitude adds."""
    weight, bias = np.array([[1, -1], [0, 1], [-1, 0]], np.int8), np.array([-7, 2, 9], np.int32)
    assert integer.accumulator_bound(layer_with(weight=weight, bias=bias, input_bits=2)) == 2 * 3 + 7


def test_an_accumulator_that_does_not_fit_is_refused():
    """A bias of 2^24 is an error that names the layer."""
    bias = np.array([2**24], np.int32)
    with pytest.raises(DeploymentError, match="dense1 can reach"):
        integer.check_accumulators((layer_with(weight=np.zeros((1, 2), np.int8), bias=bias),))


def test_class_multipliers_have_the_exact_ratio_of_the_scales():
    """Multipliers are the scales times one common power of two."""
    scale = np.array([0.75, 1e-3, 0.1], np.float32)
    ratio = integer.class_multipliers(scale) / scale.astype(np.float64)
    assert len(set(ratio)) == 1 and np.log2(ratio[0]) % 1 == 0


def test_scales_too_far_apart_are_refused():
    """Scales that would overflow 64 bits are an error."""
    with pytest.raises(DeploymentError, match="differ too much"):
        integer.class_multipliers(np.array([1, 2**-20], np.float32))


@pytest.mark.parametrize(("precision", "edges", "layer"), [("fp32", "w8", "conv1"), ("w2a2", "fp32", "conv1")])
def test_a_float_layer_has_no_integer_form(precision, edges, layer):
    """A full-precision network, or full-precision edges, are an error that names the first such layer."""
    with pytest.raises(DeploymentError, match=f"{layer} computes in full precision"):
        integer.integer_network(network(precision, edges))
