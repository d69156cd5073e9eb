"""The precisions of the paper and the committed sample, for the tests of several areas."""

from functools import cache
from pathlib import Path

import torch

from saqlib import data
from saqlib.precision import Bits, Precision

SAMPLE = Path(__file__).resolve().parents[1] / "sample"
PRECISIONS = ("fp32", "w4a4", "mixed", "w2a2")
QUANTIZED = PRECISIONS[1:]
MIXED = Precision("mixed", (Bits(8, 4), Bits(4, 4), Bits(2, 2), Bits(2, 2), Bits(8)))


def precision(name: str) -> Precision:
    """A precision of the paper, or `w<N>a<N>`, by its name."""
    return MIXED if name == "mixed" else Precision.parse(name)


@cache
def sample(split: str = "test", dataset: str = "mnist") -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images and labels of the committed sample."""
    return data.load(dataset, split, SAMPLE)


@cache
def inputs(dataset: str = "mnist") -> torch.Tensor:
    """The sample's 300 test images as a network takes them."""
    return data.as_input(sample("test", dataset)[0])
