"""The settings of a network: bits of each layer, widths, and how quantization is trained."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from saqlib import params
from saqlib.params import ParamsError, at_least, one_of, require

LAYERS = ("conv1", "conv2", "dense1", "dense2", "dense3")
MIN_BITS, MAX_BITS = 2, 8
EDGES = {"w8": 8, "same": None, "fp32": None}  # bits of the weights of the first and the last layer


def check_bits(bits: int) -> int:
    """Return `bits`; raise ValueError unless it is a whole number of bits that the lattice supports."""
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
    """The bits of every layer, in order. `quantized` is False for the full-precision network."""

    name: str
    layers: tuple[Bits, ...]

    @property
    def quantized(self) -> bool:
        return any(bits.weight or bits.activation for bits in self.layers)

    @classmethod
    def from_table(cls, name: str, table: dict[str, list[int]], edges: str) -> "Precision":
        """From a row of `precisions`; `edges` overrides the weights of the first and the last layer."""
        if not table:
            return cls(name, (Bits(),) * len(LAYERS))
        for layer in table:
            one_of(layer, LAYERS, f"layer in precisions.{name}")
        missing = [layer for layer in LAYERS if layer not in table]
        require(not missing, f"precisions.{name} says nothing about {', '.join(missing)}; give every layer its bits")
        layers = [cls._bits(name, layer, table[layer]) for layer in LAYERS]
        if one_of(edges, EDGES, "edges") != "same":
            layers[0] = dataclasses.replace(layers[0], weight=EDGES[edges])
            layers[-1] = dataclasses.replace(layers[-1], weight=EDGES[edges])
        return cls(name, tuple(layers))

    @staticmethod
    def _bits(name: str, layer: str, values: Any) -> Bits:
        count = 1 if layer == LAYERS[-1] else 2
        shape = "[weight bits]" if count == 1 else "[weight bits, activation bits]"
        where = f"precisions.{name}.{layer}"
        require(isinstance(values, list) and len(values) == count, f"{where} must be {shape}, not {values!r}")
        try:
            return Bits(*[check_bits(value) for value in values])
        except ValueError as error:
            raise ParamsError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Shape:
    """The widths of the layers: channels of both convolutions, units of the dense layers before the last one."""

    channels: tuple[int, ...]
    hidden: tuple[int, ...]

    def __post_init__(self):
        for name in ("channels", "hidden"):
            widths = getattr(self, name)
            require(
                len(widths) == 2 and min(widths) >= 1, f"network.{name} must be two widths of at least 1, not {widths}"
            )


@dataclass(frozen=True)
class Quantization:
    """How a quantized network is trained; a full-precision one reads nothing of it.

    alpha_learning_rate: peak for the clips of PACT. alpha_penalty: times the sum of alpha^2, added to the loss.
    calibration_images: the batch on which the clips are set after the warm-up.
    """

    edges: str
    alpha_learning_rate: float
    alpha_penalty: float
    calibration_images: int

    def __post_init__(self):
        one_of(self.edges, EDGES, "value of quantization.edges")
        at_least("quantization", self, 1, "calibration_images")
        at_least("quantization", self, 0, "alpha_learning_rate", "alpha_penalty")


def precisions(raw: Any, edges: str) -> dict[str, Precision]:
    """Every row of the section `precisions`; ParamsError for a name or bits that cannot be."""
    params.check(raw, dict, "precisions")
    for key in raw:
        valid = isinstance(key, str) and re.fullmatch("[A-Za-z][A-Za-z0-9_]*", key)
        require(valid, f"precisions: {key!r} cannot be a name; use letters, digits and underscores, a letter first")
    tables = {key: params.check(table, dict, f"precisions.{key}") for key, table in raw.items()}
    return {key: Precision.from_table(key, table, edges) for key, table in tables.items()}


def named(precision: str) -> Precision:
    """A precision of params.yaml by its name; ParamsError with the nearest one for an unknown name."""
    raw = params.read()
    edges = params.build(Quantization, raw["quantization"], "quantization").edges
    there = precisions(raw["precisions"], edges)
    return there[one_of(precision, there, "precision")]


def default_shape() -> Shape:
    """The widths of the layers in params.yaml."""
    return params.build(Shape, params.read()["network"], "network")
