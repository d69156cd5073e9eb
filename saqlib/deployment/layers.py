"""A trained network as a row of layers in plain NumPy: what deployment reads instead of modules and autograd.

A layer comes with what stands behind it: pooling (after a convolution) and the activation. The integer
network, the ONNX graphs and the cost table all start here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from saqlib.network.lenet import INPUT_SCALE, KERNEL, POOL, SIDE, LeNet
from saqlib.network.quantization import PACT, QuantConv2d, QuantLinear
from saqlib.saliency.gradient import evaluating

INPUT_BITS = 8
INT32_LIMIT = 2**31


class DeploymentError(ValueError):
    """A network that cannot be deployed as asked; the message says which layer, why, and what to do."""


@dataclass(frozen=True)
class Layer:
    """One layer with its pooling and activation.

    weight: (out, in, 5, 5) or (out, in); int8 codes if `weight_bits` is set, float32 otherwise. bias: (out,),
    int32 codes or float32. weight_scale: the value of one weight code; output_scale: the value of one unit of
    the accumulator; both float32 (out,), None for a float layer. alpha, step: clip of the activation and
    value of one of its codes, None if there is no PACT. positions: output pixels of the layer, before
    pooling. padding: rows and columns of zeros around its input.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray
    weight_bits: int | None
    weight_scale: np.ndarray | None
    output_scale: np.ndarray | None
    input_bits: int | None
    positions: int
    padding: int
    activation_bits: int | None
    alpha: np.float32 | None
    step: np.float32 | None
    last: bool

    @property
    def quantized(self) -> bool:
        return self.weight_bits is not None

    @property
    def pooled(self) -> bool:
        return self.weight.ndim == 4

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.weight.size * self.positions

    @property
    def inputs(self) -> int:
        """Numbers that enter for one image."""
        side = round(self.positions**0.5) + KERNEL - 1 - 2 * self.padding if self.pooled else 1
        return self.weight.shape[1] * side**2

    @property
    def outputs(self) -> int:
        """Numbers that leave for one image, behind pooling."""
        return self.weight.shape[0] * (self.positions // POOL**2 if self.pooled else 1)

    @property
    def top_code(self) -> int:
        """The largest code behind the activation."""
        return 2**self.activation_bits - 1


def read(model: LeNet) -> tuple[Layer, ...]:
    """The layers of a network from `saqlib.network.build`, in order, as evaluation mode computes them.

    The model's mode stays as it was. Raises DeploymentError if the network is in its full-precision warm-up,
    if a weight, a bias or a scale is not finite, if a clip is not a positive number, or if a layer has low-bit
    weights but an input that is not on a lattice.
    """
    if not isinstance(model, LeNet):
        raise DeploymentError(f"only a network of saqlib.network.build can be deployed, not a {type(model).__name__}")
    with evaluating(model):
        return tuple(_layers(model))


def _layers(model: LeNet) -> Iterator[Layer]:
    side, scale, bits = SIDE, INPUT_SCALE, INPUT_BITS
    for name, module, activation, pooled in model.blocks():
        padding = module.padding[0] if pooled else 0
        side = side + 2 * padding - KERNEL + 1 if pooled else 1
        yield _layer(name, module, activation, scale, bits, side**2, padding)
        side //= POOL if pooled else 1
        pact = isinstance(activation, PACT)
        scale, bits = (activation.scale, activation.bits) if pact else (None, None)


def _layer(name, module, activation, input_scale, input_bits, positions, padding) -> Layer:
    quantized = isinstance(module, (QuantConv2d, QuantLinear))
    pact = activation if isinstance(activation, PACT) else None
    _check(name, module, pact, quantized, input_scale)
    return Layer(
        name=name,
        weight=_array(module.codes()).astype(np.int8) if quantized else _array(module.weight),
        bias=_array(module.bias_codes(input_scale)).astype(np.int32) if quantized else _array(module.bias),
        weight_bits=module.bits if quantized else None,
        weight_scale=_array(module.weight_scale.flatten()) if quantized else None,
        output_scale=_array(module.output_scale(input_scale)) if quantized else None,
        input_bits=input_bits,
        positions=positions,
        padding=padding,
        activation_bits=pact.bits if pact else None,
        alpha=_array(pact.alpha)[()] if pact else None,
        step=_array(pact.scale)[()] if pact else None,
        last=activation is None,
    )


def _check(name: str, module: nn.Module, pact: PACT | None, quantized: bool, input_scale) -> None:
    if not all(each.quantizing for each in (module, pact) if hasattr(each, "quantizing")):
        raise DeploymentError(
            f"{name} still computes in full precision (warm-up); "
            "call saqlib.network.set_quantizing(model, True), calibrate and train before deploying"
        )
    for part, values in module.state_dict().items():
        if not values.isfinite().all():
            raise DeploymentError(f"the {part} of {name} is not finite (NaN or infinity); train the network again")
    if pact and not (0 < pact.alpha.item() < float("inf")):
        raise DeploymentError(
            f"the clip behind {name} is {pact.alpha.item()}, not a positive number; "
            "calibrate the network (saqlib.network.calibrate) and train it again"
        )
    if quantized and input_scale is None:
        raise DeploymentError(
            f"{name} has {module.bits}-bit weights but a full-precision input; give the layer before it activation bits"
        )
    if quantized and not module.bias_codes(input_scale).abs().max() < INT32_LIMIT:  # nor NaN
        raise DeploymentError(f"the bias of {name} does not fit int32 at the scale of its accumulator; train it again")


def _array(tensor: Tensor) -> np.ndarray:
    return np.array(tensor.detach().cpu().numpy(), order="C")
