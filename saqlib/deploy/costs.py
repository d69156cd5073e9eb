"""What a network costs: size and operations, for one image.

What is claimed is size: ONNX Runtime has no sub-byte convolutions, so fewer bits make the file smaller and not the
prediction faster. Bit-operations say what hardware with such arithmetic would save.

What a backward pass has to compute differs from image to image, since a gradient of 0 need not be passed on. Of a
network by itself an upper bound can be given: behind pooling one position of four has a gradient, and every unit passes
it on. (The operators of ONNX cannot leave zeros out.)
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from saqlib.deploy.integer import accumulator_bound
from saqlib.deploy.layers import FLOAT_BITS, Layer, read
from saqlib.lenet import LeNet

if TYPE_CHECKING:
    import pandas as pd

WORD = 4  # bytes of a float32 scale, an int32 bias, a clip


@dataclass(frozen=True)
class Cost:
    """What one network costs, for one image where that matters.

    packed_bytes: weights at their bits, with float32 scales, int32 biases and clips (float32 weights and biases for
    a float layer). macs: multiply-accumulates. bit_operations: sum of weight bits * input bits * macs over the layers,
    as QONNX counts them; the image has 8 bits, both operands of a float layer 32. peak_activation_bytes: the largest
    input and output of one layer together, the output behind pooling and activation. zero_weights: share in [0, 1].
    explanation_macs, explanation_bit_operations: upper bounds of prediction and one map together, whichever it is, with
    nothing skipped but what pooling leaves out; the gradient has 32 bits, and its way through the last layer is one row
    of weights, without multiplication.
    """

    packed_bytes: int
    macs: int
    bit_operations: int
    peak_activation_bytes: int
    zero_weights: float
    explanation_macs: int
    explanation_bit_operations: int


def cost(model: LeNet) -> Cost:
    """Size and operations of a network of `saqlib.lenet.build`; DeploymentError as in `saqlib.deploy.layers.read`."""
    layers = read(model)
    hidden = layers[:-1]
    macs = sum(layer.macs for layer in layers)
    bit_operations = sum(layer.weight_bits * layer.input_bits * layer.macs for layer in layers)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    backward = sum(layer.weight_bits * FLOAT_BITS * _backward_macs(layer) for layer in hidden)
    return Cost(
        packed_bytes=sum(map(_packed_bytes, layers)),
        macs=macs,
        bit_operations=bit_operations,
        peak_activation_bytes=max(
            _bytes(layer.inputs, layer.input_bits) + _bytes(layer.outputs, layer.activation_bits) for layer in layers
        ),
        zero_weights=zeros / sum(layer.weight.size for layer in layers),
        explanation_macs=macs + sum(map(_backward_macs, hidden)),
        explanation_bit_operations=bit_operations + backward,
    )


def by_layer(model: LeNet) -> "pd.DataFrame":
    """One row per layer: bits, packed bytes, zero weights, operations, and the bound of its accumulators."""
    import pandas as pd

    rows = [
        {
            "layer": layer.name,
            "weights": layer.weight.size,
            "weight bits": layer.weight_bits,
            "input bits": layer.input_bits,
            "packed bytes": _packed_bytes(layer),
            "zero weights": (layer.weight == 0).mean(),
            "MACs": layer.macs,
            "largest accumulator": accumulator_bound(layer) if layer.quantized else None,
        }
        for layer in read(model)
    ]
    return pd.DataFrame(rows).set_index("layer")


def _backward_macs(layer: Layer) -> int:
    """At most so many for one image's gradient in front of the layer: all the weights of each output behind pooling."""
    return layer.outputs * layer.weight[0].size


def _packed_bytes(layer: Layer) -> int:
    words = len(layer.bias) * (2 if layer.quantized else 1) + (layer.alpha is not None)
    return _bytes(layer.weight.size, layer.weight_bits) + WORD * words


def _bytes(numbers: int, bits: int) -> int:
    return -(-numbers * bits // 8)
