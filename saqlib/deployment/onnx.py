"""ONNX graphs of a trained network: its prediction, and its explanation for devices without autograd.

The quantized graphs reproduce the network exactly, not nearly. Codes run through them as whole numbers in
float32 (QuantizeLinear - Clip - DequantizeLinear with scale 1), the int32 bias is added inside the layer, and
the scale of the accumulator is applied behind the pooling, where no optimiser can fold it into the weights.
Sums stay below 2^24, so every runtime, at every optimisation level, gets the same accumulator and then
evaluates the network's own float32 expression on it.

The usual form, with the real scales in the DequantizeLinear around each layer, was measured on trained
networks and 10,000 test images (ONNX Runtime 1.31, a processor with AVX2). Unfused, near ties between two
codes flip: up to 79 images had a logit wrong, by up to 0.86. Fused to QLinearConv, the default, 78 to 656
images changed their class, because the u8 x s8 kernels saturate in 16 bits on processors without VNNI. In the
form chosen here all logits are equal bit for bit, in both files and at all levels, without any runtime
option. The price is that the runtime calls its float kernels. It has no sub-byte convolutions in either form,
so what low bits save here is bytes, not time.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from saqlib import files, words
from saqlib.deployment.integer import check_accumulators
from saqlib.deployment.layers import INPUT_BITS, Layer, read
from saqlib.deployment.packing import pack
from saqlib.grid import Cell
from saqlib.network.lenet import CLASSES, INPUT_SCALE, POOL, SIDE, LeNet

PRODUCER = "saqlib"

# The smallest container of each weight width: type, its bits, the first opset and IR version that know it.
PLAIN = (TensorProto.INT8, 8, 13, 7)
CONTAINERS = {2: (TensorProto.INT2, 2, 25, 13), 3: (TensorProto.INT4, 4, 21, 10), 4: (TensorProto.INT4, 4, 21, 10)}

POOLING = {"kernel_shape": [POOL, POOL], "strides": [POOL, POOL]}


def export_onnx(model: LeNet, path: Path | str, packed: bool, *, cell: Cell | None = None) -> None:
    """Write the prediction as an ONNX file: `images` float (B, 1, 28, 28) in [0, 1] to `logits` (B, 10).

    A layer in full precision stays float: its sums are equal only to rounding, and a network of such layers is the same
    file either way. The same network gives the same bytes.

    Args:
        model: of `saqlib.network.build`.
        path: the file to write.
        packed: weights of 2 bits in INT2 (opset 25), of 3 and 4 bits in INT4 (opset 21), others in INT8; not packed:
            all in INT8, at opset 13, for any runtime.
        cell: named in the metadata, with its classes.

    Raises:
        DeploymentError: a network that cannot be deployed (see `saqlib.deployment.layers.read`), or whose accumulators
            could reach 2^24.
    """
    layers = _checked(model)
    graph = _Graph(packed)
    _forward(graph, layers)
    _save(graph, layers, {"logits": (CLASSES,)}, "prediction", cell, Path(path))


def export_explanation(model: LeNet, path: Path | str, packed: bool, *, cell: Cell | None = None) -> None:
    """Write prediction and saliency map as one ONNX file: `images` to `logits` (B, 10) and `map` (B, 28, 28).

    The map is the gradient of the predicted class's logit for the pixels, by the straight-through surrogate,
    as `saqlib.saliency.input_gradient` has it: the backward pass written as operators, for runtimes without
    autograd. packed, cell, errors: as for `export_onnx`.
    """
    layers = _checked(model)
    graph = _Graph(packed)
    _forward(graph, layers, tracing=True)
    _backward(graph, layers)
    outputs = {"logits": (CLASSES,), "map": (SIDE, SIDE)}
    _save(graph, layers, outputs, "explanation", cell, Path(path))


def _checked(model: LeNet) -> tuple[Layer, ...]:
    layers = read(model)
    check_accumulators(layers)
    return layers


# ------------------------------------------------------------------------------------------------ the graphs


class _Graph:
    """Nodes and constants in the making. A tensor is known by its name; a constant of a known name is kept once."""

    def __init__(self, packed: bool):
        self.packed = packed
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.opset, self.ir_version = PLAIN[2:]

    def node(self, operator: str, *inputs: str, to: str, also: tuple[str, ...] = (), **attributes) -> str:
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
    if layer.activation_bits is None:
        return graph.node("Relu", x, to=out)
    step = graph.scalar(f"{layer.name}.step", layer.step)
    codes = graph.quantize(x, step, layer.activation_bits, to=f"{layer.name}.out.codes")
    if following.quantized:
        return graph.exact(codes, to=out)
    return graph.node("DequantizeLinear", codes, step, to=out)


def _backward(graph: _Graph, layers: tuple[Layer, ...]) -> None:
    """Add the nodes from `logits` back to `map`, behind a traced forward pass.

    Rounding is the identity here (straight through), PACT a mask, pooling a way back to the first largest
    value, a layer its transpose with the values of its weights.
    """
    *hidden, last = layers
    predicted = graph.node("ArgMax", "logits", to="class", axis=1, keepdims=0)
    gradient = graph.node("Gather", _weight_values(graph, last), predicted, to=f"{last.name}.gradient", axis=0)
    for layer in reversed(hidden):
        gradient = _through_activation(graph, layer, gradient)
        weight = _weight_values(graph, layer)
        if layer.pooled:
            gradient = graph.node("MaxUnpool", gradient, f"{layer.name}.where", to=f"{layer.name}.unpooled", **POOLING)
        operator, options = ("ConvTranspose", {"pads": [layer.padding] * 4}) if layer.pooled else ("MatMul", {})
        gradient = graph.node(operator, gradient, weight, to=f"{layer.name}.gradient", **options)
    graph.node("Squeeze", gradient, graph.constant("channel", np.array([1])), to="map")


def _through_activation(graph: _Graph, layer: Layer, gradient: str) -> str:
    name, value = layer.name, f"{layer.name}.value"
    if layer.pooled:
        side = round((layer.outputs // len(layer.weight)) ** 0.5)
        shape = graph.constant(f"{name}.shape", np.array([-1, len(layer.weight), side, side]))
        gradient = graph.node("Reshape", gradient, shape, to=f"{name}.reshaped")
    passes = graph.node("Greater", value, graph.scalar("nothing", 0), to=f"{name}.positive")
    if layer.alpha is not None:
        unclipped = graph.node("Less", value, graph.scalar(f"{name}.alpha", layer.alpha), to=f"{name}.below")
        passes = graph.node("And", passes, unclipped, to=f"{name}.passes")
    return graph.node("Where", passes, gradient, graph.scalar("nothing", 0), to=f"{name}.masked")


def _weight_values(graph: _Graph, layer: Layer) -> str:
    """The weights as the network uses them: codes times scale."""
    if not layer.quantized:
        return f"{layer.name}.weight"
    scale = graph.constant(f"{layer.name}.weight.scale", layer.weight_scale)
    return graph.node("DequantizeLinear", f"{layer.name}.weight", scale, to=f"{layer.name}.values", axis=0)


# -------------------------------------------------------------------------------------------------- the file


def _save(
    graph: _Graph, layers: tuple[Layer, ...], outputs: dict[str, tuple], kind: str, cell: Cell | None, path: Path
) -> None:
    """Check the graph and write it under a temporary name, then move."""
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            str(cell) if cell else PRODUCER,
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ("B", 1, SIDE, SIDE))],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("B", *shape)) for name, shape in outputs.items()],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", graph.opset)],
        ir_version=graph.ir_version,
        producer_name=PRODUCER,
    )
    helper.set_model_props(proto, _metadata(layers, kind, cell))
    onnx.checker.check_model(proto, full_check=True)
    files.write(path, proto.SerializeToString(deterministic=True))


def _metadata(layers: tuple[Layer, ...], kind: str, cell: Cell | None) -> dict[str, str]:
    scales = {layer.name: float(layer.step) for layer in layers if layer.step is not None}
    metadata = {
        "kind": kind,
        "scales": json.dumps({"input": INPUT_SCALE} | scales),
        "session_options": json.dumps({}),  # the runtime needs none
    }
    if cell:
        metadata |= {"cell": str(cell), "classes": json.dumps(words.CLASSES[cell.dataset])}
    return metadata
