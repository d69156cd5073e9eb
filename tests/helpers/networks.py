"""The precisions of the paper and the committed sample, for the tests of several areas."""

from functools import cache
from pathlib import Path

import torch
from torch import nn

from saqlib import data
from saqlib.precision import Bits, Precision

SAMPLE = Path(__file__).resolve().parents[1] / "sample"
PRECISIONS = ("fp32", "w4a4", "mixed", "w2a2")
QUANTIZED = PRECISIONS[1:]
MIXED = Precision("mixed", (Bits(8, 4), Bits(4, 4), Bits(2, 2), Bits(2, 2), Bits(8)))


def precision(name: str) -> Precision:
    """A precision of the paper, or `w<N>a<N>`, by its name."""
    return MIXED if name == "mixed" else Precision.parse(name)


def plain_twin(net: nn.Module) -> nn.Sequential:
    """A full-precision network as PyTorch's own modules in the classical order; it shares the parameters."""
    order = [nn.ReLU(), nn.MaxPool2d(2)]
    dense = [net.dense1, nn.ReLU(), net.dense2, nn.ReLU(), net.dense3]
    return nn.Sequential(net.conv1, *order, net.conv2, *order, nn.Flatten(), *dense)


@cache
def sample(split: str = "test", dataset: str = "mnist") -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images and labels of the committed sample."""
    return data.load(dataset, split, SAMPLE)


@cache
def inputs(dataset: str = "mnist") -> torch.Tensor:
    """The sample's 300 test images as a network takes them."""
    return data.as_input(sample("test", dataset)[0])
