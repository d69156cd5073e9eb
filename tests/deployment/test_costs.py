"""Tests of saqlib.deployment.costs: a table of costs computed by hand."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from saqlib.deployment import costs
from tests.trained import PRECISIONS, network

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
    found = dataclasses.asdict(costs.cost(network(precision)))
    del found["zero_weights"]
    assert found == COSTS[precision] | {"macs": MACS, "explanation_macs": 2 * MACS - 840}


def test_share_of_zero_weights():
    """Half of the codes of one layer set to zero counts by that layer's size."""
    half = copy.deepcopy(network("w2a2"))
    with torch.no_grad():
        for layer in (half.conv1, half.conv2, half.dense1, half.dense2, half.dense3):
            layer.weight.copy_(layer.weight_scale.expand_as(layer.weight))
        half.dense1.weight[:60] = 0
    assert costs.cost(half).zero_weights == pytest.approx(48_000 / 2 / 62_320)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_add_up_to_the_cost(precision):
    """The table of layers sums to the network's bytes and operations, and zero weights average to its share."""
    table, total = costs.by_layer(network(precision)), costs.cost(network(precision))
    assert table["packed bytes"].sum() == total.packed_bytes and table["MACs"].sum() == total.macs
    assert np.average(table["zero weights"], weights=table["weights"]) == pytest.approx(total.zero_weights)


def test_bits_and_accumulators_of_each_layer():
    """The bits are those of the precision; an accumulator's bound is there for integers alone, and below 2^24."""
    table = costs.by_layer(network("mixed"))
    assert table["weight bits"].tolist() == [8, 4, 2, 2, 8] and table["input bits"].tolist() == [8, 4, 4, 2, 2]
    assert table["largest accumulator"].between(1, 2**24 - 1).all()
    table = costs.by_layer(network("fp32"))
    assert set(table["weight bits"]) == set(table["input bits"]) == {32}
    assert table["largest accumulator"].isna().all()
