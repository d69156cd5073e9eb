"""A network of the reader's becomes one of few bits, with the same weights and shape."""

import pytest
import torch
from torch import nn

from saqlib.explore.quantize import quantized
from saqlib.network.quantization import PACT, QuantConv2d, QuantLinear, calibrate, set_quantizing


class Branches(nn.Module):
    """Not a sequence: nested, grouped, strided, without biases."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode="circular")
        self.body = nn.ModuleDict({"conv": nn.Conv2d(6, 6, 3, padding="same", groups=3, bias=False), "act": nn.ReLU()})
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.body["act"](self.body["conv"](x)))


def test_in_full_precision_it_is_the_same_network():
    """To the bit: every layer was replaced, none of its settings was lost, and the original is left as it was."""
    torch.manual_seed(0)
    original, x = Branches().eval(), torch.rand(4, 3, 16, 16)
    small = quantized(original, 3)
    set_quantizing(small, False)
    assert torch.equal(small(x), original(x))
    assert [type(small.stem), type(small.body["conv"]), type(small.head[3])] == [QuantConv2d, QuantConv2d, QuantLinear]
    assert isinstance(small.body["act"], PACT) and isinstance(original.body["act"], nn.ReLU)


def test_it_has_the_bits_and_8_at_the_edges():
    """Codes of the inner layers lie within the bits."""
    small = quantized(Branches(), 2)
    assert (small.stem.bits, small.body["conv"].bits, small.head[3].bits) == (8, 2, 8)
    assert {module.bits for module in small.modules() if isinstance(module, PACT)} == {2}
    assert small.body["conv"].codes().abs().max() <= 1
    calibrate(small, torch.rand(8, 3, 16, 16))
    assert torch.isfinite(small.eval()(torch.rand(2, 3, 16, 16))).all()


@pytest.mark.parametrize(
    ("network", "bits", "message"),
    [
        (nn.Sequential(nn.Flatten()), 2, "holds no nn.Conv2d and no nn.Linear"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)), 1, "bits must be a whole number"),
    ],
)
def test_what_cannot_be_quantized_is_said(network, bits, message):
    """In a sentence."""
    with pytest.raises(ValueError, match=message):
        quantized(network, bits)


def test_a_shared_relu_is_refused():
    """One clip for two places would be another network than the reader expects."""
    relu = nn.ReLU()
    with pytest.raises(ValueError, match="one nn.ReLU stands in several places"):
        quantized(nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu), 2)
