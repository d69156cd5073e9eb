"""ONNX graphs of a trained network: its prediction, and its explanation for devices without autograd.

The quantized graphs reproduce the network exactly, not nearly. Codes run through them as whole numbers in float32
(QuantizeLinear - Clip - DequantizeLinear with scale 1), the int32 bias is added inside the layer, and the scale of the
accumulator is applied behind the pooling, where no optimiser can fold it into the weights. Sums stay below 2^24, so
every runtime, at every optimisation level, gets the same accumulator and then evaluates the network's own float32
expression on it.

The usual form, with the real scales in the DequantizeLinear around each layer, was measured on trained networks and
10,000 test images (ONNX Runtime 1.31, AVX2): unfused, up to 79 images had a logit wrong, by up to 0.86, since near ties
between two codes flip; fused to QLinearConv, the default, 78 to 656 images changed their class, because the u8 x s8
kernels saturate in 16 bits on processors without VNNI. The price of the form chosen here is that the runtime calls its
float kernels. It has no sub-byte convolutions in either form, so what low bits save is bytes, not time.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from saqlib.deploy.explain import MAPS
from saqlib.deploy.integer import check_accumulators
from saqlib.deploy.layers import INPUT_BITS, Layer, read
from saqlib.files import write
from saqlib.lenet import CLASSES, INPUT_SCALE, POOL, SIDE, LeNet
from saqlib.quantization import check_bits

PRODUCER = "saqlib"

# The smallest container of each weight width: type, its bits, the first opset and IR version that know it.
PLAIN = (TensorProto.INT8, 8, 13, 7)
CONTAINERS = {2: (TensorProto.INT2, 2, 25, 13), 3: (TensorProto.INT4, 4, 21, 10), 4: (TensorProto.INT4, 4, 21, 10)}

POOLING = {"kernel_shape": [POOL, POOL], "strides": [POOL, POOL]}


def pack(codes, bits: int) -> bytes:
    """Whole numbers in -2^(bits-1) to 2^(bits-1) - 1, of any shape, as `bits`-bit two's complement, lowest bit first.

    bits: 2 to 8; for 2, 4 and 8 the layout is that of ONNX's INT2, INT4 and INT8. Returns ceil(N * bits / 8) bytes, the
    last one padded with zero bits. Raises ValueError for a code that is no whole number or does not fit.
    """
    check_bits(bits)
    codes = np.asarray(codes).ravel()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    unfit = codes[~((codes == np.rint(codes)) & (codes >= low) & (codes <= high))]
    if unfit.size:
        raise ValueError(f"{unfit[0]} is not a {bits}-bit code: expected a whole number from {low} to {high}")
    stream = codes.astype(np.int64)[:, None] >> np.arange(bits) & 1
    return np.packbits(stream.astype(np.uint8), bitorder="little").tobytes()


def unpack(data: bytes, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The codes, int8 of `shape`, that `pack` put into bytes; ValueError for a wrong number of bytes."""
    check_bits(bits)
    count = int(np.prod(shape))
    expected = -(-count * bits // 8)
    if len(data) != expected:
        raise ValueError(f"{count} codes of {bits} bits take {expected} bytes, but there are {len(data)}")
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    digits = stream[: count * bits].reshape(count, bits)
    place_values = 2 ** np.arange(bits)
    place_values[-1] *= -1  # two's complement
    return (digits @ place_values).astype(np.int8).reshape(shape)


def export_onnx(
    model: LeNet, path: Path | str, packed: bool, *, name: str | None = None, classes: Sequence[str] | None = None
) -> None:
    """Write the prediction as an ONNX file: `images` float (B, 1, 28, 28) in [0, 1] to `logits` (B, 10).

    A layer in full precision stays float: its sums are equal only to rounding, and a network of such layers is the same
    file either way. The same network gives the same bytes.

    Args:
        model: of `saqlib.lenet.build`.
        path: the file to write.
        packed: weights of 2 bits in INT2 (opset 25), of 3 and 4 bits in INT4 (opset 21), others in INT8; not packed:
            all in INT8, at opset 13, for any runtime.
        name, classes: of the network, such as `mnist-w2a2-guided`, and of its ten classes; for the metadata.

    Raises:
        DeploymentError: a network that cannot be deployed (see `saqlib.deploy.layers.read`), or whose accumulators
            could reach 2^24.
    """
    _export(model, Path(path), packed, "prediction", name, classes)


def export_explanation(
    model: LeNet, path: Path | str, packed: bool, *, name: str | None = None, classes: Sequence[str] | None = None
) -> None:
    """Write prediction and saliency maps as one ONNX file: `images` to `logits` (B, 10) and two maps (B, 28, 28).

    Both are gradients of the predicted class's logit for the pixels, as `saqlib.saliency.input_gradient` has them: its
    backward pass written as operators, for runtimes without autograd. `map` is the straight-through one, 0 where an
    activation is clipped; `pass_through` lets the gradient through there (`saturated="pass"`). They share the forward
    pass and the weights. Where no activation has a clip, as in full precision, they are one map by two names.
    packed, name, classes, errors: as for `export_onnx`.
    """
    _export(model, Path(path), packed, "explanation", name, classes)


def _export(model: LeNet, path: Path, packed: bool, kind: str, name: str | None, classes: Sequence[str] | None) -> None:
    layers, graph, outputs = read(model), _Graph(packed), {"logits": (CLASSES,)}
    check_accumulators(layers)
    _forward(graph, layers, tracing=kind == "explanation")
    if kind == "explanation":
        for saturated, output in MAPS.items():
            _backward(graph, layers, saturated, output)
            outputs[output] = (SIDE, SIDE)
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("B", 1, SIDE, SIDE))
    values = [helper.make_tensor_value_info(key, TensorProto.FLOAT, ("B", *size)) for key, size in outputs.items()]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, name or PRODUCER, [images], values, list(graph.constants.values())),
        opset_imports=[helper.make_opsetid("", graph.opset)],
        ir_version=graph.ir_version,
        producer_name=PRODUCER,
    )
    scales = {layer.name: float(layer.step) for layer in layers if layer.step is not None}
    metadata = {
        "kind": kind,
        "scales": json.dumps({"input": INPUT_SCALE} | scales),
        "session_options": json.dumps({}),  # the runtime needs none
    }
    metadata |= {"cell": name} if name else {}
    metadata |= {"classes": json.dumps(list(classes))} if classes else {}
    helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    write(path, proto.SerializeToString(deterministic=True))


# ------------------------------------------------------------------------------------------------ the graphs


class _Graph:
    """Nodes and constants in the making. A tensor is known by its name; what makes a known one is there once."""

    def __init__(self, packed: bool):
        self.packed = packed
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.opset, self.ir_version = PLAIN[2:]

    def node(self, operator: str, *inputs: str, to: str, also: tuple[str, ...] = (), **attributes) -> str:
        if all(to not in node.output for node in self.nodes):
            self.nodes.append(helper.make_node(operator, inputs, [to, *also], **attributes))
        return to

    def constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.float32(value))

    def codes(self, layer: Layer) -> str:
        """The weight codes of a layer, in the smallest container if the file is packed."""
        name = f"{layer.name}.weight"
        kind, bits, opset, ir_version = CONTAINERS.get(layer.weight_bits, PLAIN) if self.packed else PLAIN
        self.opset, self.ir_version = max(self.opset, opset), max(self.ir_version, ir_version)
        data = pack(layer.weight, bits)
        self.constants[name] = helper.make_tensor(name, kind, layer.weight.shape, data, raw=True)
        return name

    def exact(self, codes: str, to: str) -> str:
        """Integer codes as the same whole numbers in float32."""
        return self.node("DequantizeLinear", codes, self.scalar("one", 1), to=to)

    def quantize(self, x: str, step: str, bits: int, to: str) -> str:
        """Values to codes: round half to even, saturate at 0 and 2^bits - 1."""
        zero = self.constant("zero", np.uint8(0))
        if bits == INPUT_BITS:
            return self.node("QuantizeLinear", x, step, zero, to=to)
        self.node("QuantizeLinear", x, step, zero, to=f"{to}.unclipped")
        top = self.constant(f"top{bits}", np.uint8(2**bits - 1))
        return self.node("Clip", f"{to}.unclipped", zero, top, to=to)


def _forward(graph: _Graph, layers: tuple[Layer, ...], tracing: bool = False) -> None:
    """Add the nodes from `images` to `logits`.

    `<name>.value` is then what enters the activation of a layer, and with tracing `<name>.where` tells from where in
    its window each pooled value came.
    """
    x = "images"
    if layers[0].quantized:
        codes = graph.quantize(x, graph.scalar("input.step", INPUT_SCALE), INPUT_BITS, to="input.codes")
        x = graph.exact(codes, to="input")
    for layer, following in zip(layers, (*layers[1:], None), strict=True):
        x = _layer(graph, layer, x, tracing)
        if following is not None:
            x = _activation(graph, layer, x, following)


def _layer(graph: _Graph, layer: Layer, x: str, tracing: bool) -> str:
    name = layer.name
    if layer.quantized:
        weight = graph.exact(graph.codes(layer), to=f"{name}.codes")
        bias = graph.exact(graph.constant(f"{name}.bias", layer.bias), to=f"{name}.bias.codes")
    else:
        weight = graph.constant(f"{name}.weight", layer.weight)
        bias = graph.constant(f"{name}.bias", layer.bias)
    value = "logits" if layer.last else f"{name}.value"
    summed = f"{name}.sum" if layer.quantized or layer.pooled else value
    if layer.pooled:
        graph.node("Conv", x, weight, bias, to=summed, pads=[layer.padding] * 4)
        pooled = f"{name}.pooled" if layer.quantized else value
        summed = graph.node("MaxPool", summed, to=pooled, also=(f"{name}.where",) if tracing else (), **POOLING)
    else:
        flat = graph.node("Flatten", x, to=f"{name}.flat") if layer.name == "dense1" else x
        graph.node("Gemm", flat, weight, bias, to=summed, transB=1)
    if layer.quantized:
        # Behind the pooling, not before: no optimiser may then fold the scale into the weights.
        shape = (-1, 1, 1) if layer.pooled else (-1,)
        scale = graph.constant(f"{name}.scale", layer.output_scale.reshape(shape))
        graph.node("Mul", summed, scale, to=value)
    return value


def _activation(graph: _Graph, layer: Layer, x: str, following: Layer) -> str:
    out = f"{layer.name}.out"
    if layer.step is None:
        return graph.node("Relu", x, to=out)
    step = graph.scalar(f"{layer.name}.step", layer.step)
    codes = graph.quantize(x, step, layer.activation_bits, to=f"{layer.name}.out.codes")
    if following.quantized:
        return graph.exact(codes, to=out)
    return graph.node("DequantizeLinear", codes, step, to=out)


def _backward(graph: _Graph, layers: tuple[Layer, ...], saturated: str, output: str) -> None:
    """Add the nodes from `logits` back to a map, behind a traced forward pass.

    Rounding is the identity here (straight through), PACT a mask, pooling a way back to the first largest value, a
    layer its transpose with the values of its weights. Ways back share what they have in common, which ends at the
    first clip.
    """
    *hidden, last = layers
    predicted = graph.node("ArgMax", "logits", to="class", axis=1, keepdims=0)
    gradient = graph.node("Gather", _weight_values(graph, last), predicted, to=f"{last.name}.gradient", axis=0)
    way = ""
    for layer in reversed(hidden):
        if layer.alpha is not None and saturated == "pass":
            way = ".passed"
        gradient = _through_activation(graph, layer, gradient, way)
        weight, name = _weight_values(graph, layer), f"{layer.name}{way}"
        if layer.pooled:
            gradient = graph.node("MaxUnpool", gradient, f"{layer.name}.where", to=f"{name}.unpooled", **POOLING)
        operator, options = ("ConvTranspose", {"pads": [layer.padding] * 4}) if layer.pooled else ("MatMul", {})
        gradient = graph.node(operator, gradient, weight, to=f"{name}.gradient", **options)
    graph.node("Squeeze", gradient, graph.constant("channel", np.array([1])), to=output)


def _through_activation(graph: _Graph, layer: Layer, gradient: str, way: str) -> str:
    """The gradient where the activation lets it through: above 0, and on the plain way below the clip."""
    name, value = layer.name, f"{layer.name}.value"
    if layer.pooled:
        side = round((layer.outputs // len(layer.weight)) ** 0.5)
        shape = graph.constant(f"{name}.shape", np.array([-1, len(layer.weight), side, side]))
        gradient = graph.node("Reshape", gradient, shape, to=f"{name}{way}.reshaped")
    passes = graph.node("Greater", value, graph.scalar("nothing", 0), to=f"{name}.positive")
    if layer.alpha is not None and not way:
        unclipped = graph.node("Less", value, graph.scalar(f"{name}.alpha", layer.alpha), to=f"{name}.below")
        passes = graph.node("And", passes, unclipped, to=f"{name}.passes")
    return graph.node("Where", passes, gradient, graph.scalar("nothing", 0), to=f"{name}{way}.masked")


def _weight_values(graph: _Graph, layer: Layer) -> str:
    """The weights as the network uses them: codes times scale."""
    if not layer.quantized:
        return f"{layer.name}.weight"
    scale = graph.constant(f"{layer.name}.weight.scale", layer.weight_scale)
    return graph.node("DequantizeLinear", f"{layer.name}.weight", scale, to=f"{layer.name}.values", axis=0)
