"""How many bits each layer of the network has, and how wide it is. Needs no PyTorch."""

import re
from dataclasses import dataclass

LAYERS = ("conv1", "conv2", "dense1", "dense2", "dense3")
MIN_BITS, MAX_BITS = 2, 8
EDGE_BITS = 8  # of the weights of the first and the last layer


def check_bits(bits: int) -> int:
    """Return `bits`; raise ValueError unless it is a whole number from 2 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be a whole number from {MIN_BITS} to {MAX_BITS}, not {bits!r}")
    return bits


@dataclass(frozen=True)
class Bits:
    """Bits of one layer's weights and of the activation behind it; None is full precision (or, for the last, none)."""

    weight: int | None = None
    activation: int | None = None


@dataclass(frozen=True)
class Precision:
    """The bits of every layer, in the order of LAYERS. rounding: off, activations are clipped, but not rounded."""

    name: str
    layers: tuple[Bits, ...]
    rounding: bool = True

    @property
    def quantized(self) -> bool:
        """False for the full-precision network."""
        return any(bits.weight or bits.activation for bits in self.layers)

    @classmethod
    def parse(cls, name: str) -> "Precision":
        """The precision of a name: `fp32`, or `w4a2` for 4-bit weights and 2-bit activations.

        The weights of the first and the last layer have 8 bits, whatever the name says, and logits are not quantized.
        Raises ValueError for any other name, also for one that only a study's settings define, such as `mixed`.
        """
        if name == "fp32":
            return cls(name, (Bits(),) * len(LAYERS))
        if not (found := re.fullmatch(r"w([0-9]+)a([0-9]+)", name)):
            raise ValueError(f"unknown precision {name!r}: give a Precision, 'fp32', or bits such as 'w4a4'")
        weight, activation = (check_bits(int(bits)) for bits in found.groups())
        inner = (Bits(weight, activation),) * (len(LAYERS) - 2)
        return cls(name, (Bits(EDGE_BITS, activation), *inner, Bits(EDGE_BITS)))


@dataclass(frozen=True)
class Shape:
    """The widths of the layers: channels of the convolutions, units of the dense layers before the last one.

    They say which network it is: two and two of saqlib.lenet.LeNet, three channels and no such layer of BatchNormNet.
    Raises ValueError for another number of either, or a width below 1.
    """

    channels: tuple[int, ...] = (8, 16)
    hidden: tuple[int, ...] = (120, 84)

    def __post_init__(self):
        for name in ("channels", "hidden"):
            widths = getattr(self, name)
            if not self.batch_norm and len(widths) != 2 or min(widths, default=1) < 1:
                raise ValueError(f"{name} must be two widths of at least 1, not {widths}")

    @property
    def batch_norm(self) -> bool:
        """Whether it is the second network's."""
        return (len(self.channels), len(self.hidden)) == (3, 0)
