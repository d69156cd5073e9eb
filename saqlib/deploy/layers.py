"""A trained network as a row of layers in plain NumPy: what deployment reads instead of modules and autograd.

A layer comes with what stands behind it: pooling (after a convolution) and the activation. The integer network, the
ONNX graphs and the cost table all start here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saqlib.evaluation import evaluating
from saqlib.lenet import INPUT_SCALE, KERNEL, POOL, SIDE, Block, LeNet
from saqlib.quantization import PACT, QuantConv2d, QuantLinear

INPUT_BITS, FLOAT_BITS = 8, 32
INT32_LIMIT = 2**31


class DeploymentError(ValueError):
    """A network that cannot be deployed as asked; the message says which layer, why, and what to do."""


@dataclass(frozen=True)
class Layer:
    """One layer with its pooling and activation.

    weight: (out, in, 5, 5) or (out, in), and bias: (out,); float32 in a float layer, otherwise codes, int8 and int32.
    weight_scale: the value of one weight code; output_scale: the value of one unit of the accumulator; both float32
    (out,), None for a float layer. weight_bits, input_bits: of the layer's operands, 32 for a float layer.
    activation_bits: behind the activation, 32 if there is no PACT. alpha, step: the clip of PACT and the value of one
    code, or None. positions: output pixels before pooling. padding: rows and columns of zeros around the input.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray
    weight_scale: np.ndarray | None
    output_scale: np.ndarray | None
    weight_bits: int
    input_bits: int
    activation_bits: int
    alpha: np.float32 | None
    step: np.float32 | None
    positions: int
    padding: int
    last: bool

    @property
    def quantized(self) -> bool:
        return self.weight_bits < FLOAT_BITS

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


def read(model: LeNet) -> tuple[Layer, ...]:
    """The layers of a network from `saqlib.lenet.build`, in order, as evaluation mode computes them.

    The model's mode stays as it was. Raises DeploymentError if the network is in its full-precision warm-up, if its
    numbers are not float32 or not finite, if a clip is not positive or does not round, or if a layer has low-bit
    weights but an input that is not on a lattice.
    """
    if not isinstance(model, LeNet):
        raise DeploymentError(f"only a LeNet of saqlib.lenet.build can be deployed, not a {type(model).__name__}")
    with evaluating(model):
        return tuple(_layers(model))


def _layers(model: LeNet) -> Iterator[Layer]:
    side, scale, bits = SIDE, INPUT_SCALE, INPUT_BITS
    for block in model.blocks():
        module, quantized = block.layer, isinstance(block.layer, (QuantConv2d, QuantLinear))
        pact = block.activation if isinstance(block.activation, PACT) else None
        padding = module.padding[0] if block.pooled else 0
        side = side + 2 * padding - KERNEL + 1 if block.pooled else 1
        _check(block, pact, quantized, scale)
        yield Layer(
            name=block.name,
            weight=_array(module.codes()).astype(np.int8) if quantized else _array(module.weight),
            bias=_array(module.bias_codes(scale)).astype(np.int32) if quantized else _array(module.bias),
            weight_scale=_array(module.weight_scale.flatten()) if quantized else None,
            output_scale=_array(module.output_scale(scale)) if quantized else None,
            weight_bits=module.bits if quantized else FLOAT_BITS,
            input_bits=bits if quantized else FLOAT_BITS,
            activation_bits=pact.bits if pact else FLOAT_BITS,
            alpha=_array(pact.alpha)[()] if pact else None,
            step=_array(pact.scale)[()] if pact else None,
            positions=side**2,
            padding=padding,
            last=block.activation is None,
        )
        side //= POOL if block.pooled else 1
        scale, bits = (pact.scale, pact.bits) if pact else (None, None)


def _check(block: Block, pact: PACT | None, quantized: bool, input_scale: Tensor | float | None) -> None:
    name, module = block.name, block.layer
    if not all(each.quantizing for each in (module, pact) if hasattr(each, "quantizing")):
        raise DeploymentError(
            f"{name} still computes in full precision (warm-up); "
            "call saqlib.quantization.set_quantizing(model, True), calibrate and train before deploying"
        )
    for part, values in module.state_dict().items():
        if values.dtype != torch.float32:
            raise DeploymentError(f"the {part} of {name} is {values.dtype}; call model.float() before deploying")
        if not values.isfinite().all():
            raise DeploymentError(f"the {part} of {name} is not finite (NaN or infinity); train the network again")
    if pact and not (0 < pact.alpha.item() < float("inf")):
        raise DeploymentError(
            f"the clip behind {name} is {pact.alpha.item()}, not a positive number; "
            "calibrate the network (saqlib.quantization.calibrate) and train it again"
        )
    if pact and not pact.rounding:
        raise DeploymentError(f"the activation behind {name} clips without rounding, so it has no codes to deploy")
    if quantized and input_scale is None:
        raise DeploymentError(
            f"{name} has {module.bits}-bit weights but a full-precision input; give the layer before it activation bits"
        )
    if quantized and not module.bias_codes(input_scale).abs().max() < INT32_LIMIT:  # nor NaN
        raise DeploymentError(f"the bias of {name} does not fit int32 at the scale of its accumulator; train it again")


def _array(tensor: Tensor) -> np.ndarray:
    return np.array(tensor.detach().cpu().numpy(), order="C")
