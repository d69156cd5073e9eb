"""A quantized network in C, for processors without floats: class, logits and both saliency maps.

saq.c and saq.h, in device/, are the same for every network. `export_c` puts model.h beside a copy of them: the weights'
codes, packed, and what is worked out here so that the device needs no float.

Levels: an activation is monotone in a whole number, the sum, so all that counts of its float32 expression are the sums
at which something changes: the value is above 0, the code rises (`saqlib.deploy.integer` has these thresholds), the
clip is reached. No code tells the last: the largest begins half a step below the clip, and the straight-through
gradient goes on up to it. The bias is subtracted from all of them.

Scales: on the way back the gradient of each channel is multiplied by the scale of its weights, as a whole number of 15
bits in units of a power of two. EXPONENT has the powers of all layers.

Ternary rows: where a 2-bit weight is -1, saq.c adds top - code in place of -code, and the levels rise by as many tops.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from saqlib.deploy.integer import IntegerNetwork, accumulator_bound, integer_network
from saqlib.deploy.layers import DeploymentError, Layer
from saqlib.deploy.onnx import pack
from saqlib.files import write
from saqlib.lenet import LeNet

SOURCES = Path(__file__).with_name("device")
BITS = 4  # at most: of codes, and of the weights between the first and the last layer
OUTPUTS = {"conv1": 28, "conv2": 19, "dense1": 497, "dense2": 497, "dense3": 10}  # at most: see the sums in saq.c
SUM_LIMIT = 2**15 - 1  # the sums of two pixels share 32 bits
PIECE = 16  # bits: a row of weights is packed in whole pieces
CHANNELS = 8  # of conv1, whose 2-bit codes fill a piece: only so ternary weights follow
SCALE_BITS = 15


def export_c(model: LeNet, folder: Path | str) -> None:
    """Write model.h, saq.c and saq.h: a C99 program of one network, without floats, heap or library.

    saq.h says how to call it, saq.c how it works. Classes and logits are those of `saqlib.deploy.integer`, to the bit.
    Both maps of `saqlib.saliency.input_gradient` come out to 0.1 % of their largest value. The same network gives the
    same bytes.

    Args:
        model: of `saqlib.lenet.build`, with codes of 2 to 4 bits behind the layers, weights of 2 to 4 bits between the
            first and the last one, and of 2 to 8 bits in these.
        folder: where the three files go; made if need be. Each is written whole or not at all.

    Raises:
        DeploymentError: a network without an integer form (see `saqlib.deploy.integer_network`), with more bits or
            wider layers, or whose sums could exceed 16 bits; the message names the layer.
        OSError: the folder cannot be written.
    """
    network, folder = integer_network(model), Path(folder)
    for layer in network.layers:
        _check(layer)
    contents = {name: (SOURCES / name).read_bytes() for name in ("saq.c", "saq.h")}
    contents["model.h"] = "\n".join(_header(network)).encode() + b"\n"
    for name, content in contents.items():
        write(folder / name, content)


def _check(layer: Layer) -> None:
    name, fault = layer.name, None
    if len(layer.weight) > OUTPUTS[name]:
        fault = f"{name} has {len(layer.weight)} outputs, and saq.c has room for {OUTPUTS[name]}"
    elif not layer.last and layer.activation_bits > BITS:
        fault = f"the activation behind {name} has {layer.activation_bits} bits, and saq.c takes 2 to {BITS}"
    elif _packed(layer) and layer.weight_bits > BITS:
        fault = f"{name} has {layer.weight_bits}-bit weights, and saq.c takes 2 to {BITS} bits there"
    elif _packed(layer) and (reach := _reach(layer).max()) >= SUM_LIMIT:
        fault = f"the sums of {name} can reach {reach:,}, and saq.c holds them in 16 bits, below {SUM_LIMIT:,}"
    if fault:
        raise DeploymentError(f"{fault}; train a network with fewer")


# ------------------------------------------------------------------------------------------------------- the numbers


def _packed(layer: Layer) -> bool:
    """Whether its weights are packed; those of the first and the last layer are bytes."""
    return layer.name != "conv1" and not layer.last


def _ternary(layer: Layer) -> bool:
    fits = not layer.pooled or layer.weight.shape[1] == CHANNELS
    return _packed(layer) and layer.weight_bits == 2 and fits


def _rows(layer: Layer) -> np.ndarray:
    """The weights of each output in the order in which saq.c meets them, int8 (out, n): channels last."""
    return np.moveaxis(layer.weight, 1, -1).reshape(len(layer.weight), -1)


def _reach(layer: Layer) -> np.ndarray:
    """The largest magnitude of each output's sum, its bias apart, whatever the image: int64 (out,)."""
    return (2**layer.input_bits - 1) * np.abs(_rows(layer).astype(np.int64)).sum(1)


def _pieces(layer: Layer) -> np.ndarray:
    """Rows in whole pieces, the first weight of a piece in its highest bits: uint16."""
    bits = 2 if _ternary(layer) else 4
    rows, per_piece = _rows(layer), PIECE // bits
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % per_piece)))
    return np.frombuffer(pack(rows.reshape(-1, per_piece)[:, ::-1], bits), "<u2")


def _levels(layer: Layer, thresholds: np.ndarray) -> np.ndarray:
    """The sums from which each output is above 0, has code 1, ... top, is clipped: ascending, int64 (out, top + 2).

    What no sum reaches stands one above the largest.
    """
    sums = np.arange(accumulator_bound(layer) + 1, dtype=np.float32)[:, None]  # exact: below 2^24
    clip = (sums * layer.output_scale < layer.alpha).sum(0)  # so many stay below it, from 0 on
    levels = np.column_stack([np.ones_like(clip), thresholds, clip]) - layer.bias[:, None]
    reach, top = _reach(layer)[:, None], 3 if layer.input_bits == 2 else 15  # of one plane of 2 bits, or of two
    return np.clip(levels, -reach, reach + 1) + top * _ternary(layer) * (_rows(layer) < 0).sum(1, keepdims=True)


def _scales(layer: Layer) -> tuple[np.ndarray, int]:
    """Whole numbers up to 2^15, int64 (out,), and the exponent of their unit; 0 for an output without weights."""
    scale = np.where(_rows(layer).any(1), layer.weight_scale.astype(np.float64), 0)
    exponent = int(np.frexp(scale.max())[1]) - SCALE_BITS
    return np.where(scale > 0, np.rint(np.ldexp(scale, -exponent)).clip(1), 0).astype(np.int64), exponent


# -------------------------------------------------------------------------------------------------------- the header


def _header(network: IntegerNetwork) -> Iterator[str]:
    """model.h, line by line."""
    layers, outputs = network.layers, [len(layer.weight) for layer in network.layers]
    levels = [_levels(*pair) for pair in zip(layers[:-1], network.thresholds, strict=True)]
    largest_rise = max(np.diff(each).max() for each in levels[1:])
    yield "// The constants of one network, for saq.c, which says what they mean. Written by saqlib.deploy.export_c."
    for layer in layers:
        yield f"// {layer.name}: {layer.weight_bits}-bit weights on {layer.input_bits}-bit codes"
    yield "// The scale of each class, logit = logits[class] * scale:"
    yield f"// {', '.join(f'{scale:.9g}' for scale in layers[-1].output_scale.tolist())}"
    yield "#include <stdint.h>"
    yield ""
    yield "enum {{ C1 = {}, C2 = {}, D1 = {}, D2 = {} }};  // channels, units".format(*outputs)
    yield f"enum {{ MOST = {max(_rows(layer).shape[1] for layer in layers[1:-1])} }};  // inputs of one output"
    yield f"enum {{ EXPONENT = {sum(_scales(layer)[1] for layer in layers)} }};  // of all scales together"
    yield f"typedef uint{8 if largest_rise < 2**8 else 16}_t rise;"
    for layer, steps in zip(layers, [*levels, None], strict=True):
        yield from _constants(layer, steps)
    kind = "uint32_t" if network.multipliers.max() < 2**32 else "int64_t"
    yield from _array(kind, "dense3_multipliers", network.multipliers)  # in the ratio of the classes' scales


def _constants(layer: Layer, levels: np.ndarray | None) -> Iterator[str]:
    name, packed = layer.name, _packed(layer)
    yield ""
    if packed:
        yield f"enum {{ {name.upper()}_TERNARY = {int(_ternary(layer))} }};"
        yield from _array("uint16_t", f"{name}_weights", _pieces(layer), "0x{:04x}")
    else:
        yield from _array("int8_t", f"{name}_weights", _rows(layer))
    yield from _array("uint16_t", f"{name}_scale", _scales(layer)[0])
    if levels is None:
        yield from _array("int32_t", f"{name}_bias", layer.bias)
    else:
        yield f"enum {{ {name.upper()}_TOP = {2**layer.activation_bits - 1} }};"
        yield from _array("int16_t" if packed else "int32_t", f"{name}_start", levels[:, 0])
        yield from _array("rise" if packed else "int32_t", f"{name}_rises", np.diff(levels))


def _array(kind: str, name: str, values: np.ndarray, form: str = "{}") -> Iterator[str]:
    numbers = ", ".join(form.format(value) for value in values.ravel().tolist())
    yield f"static const {kind} {name}[{values.size}] = {{"
    yield textwrap.fill(numbers, 120)
    yield "};"
