"""Networks for the tests of deployment: the committed ones, one with ties, and what they compute layer by layer."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch

from saqlib import quantization
from saqlib.lenet import LeNet, build
from saqlib.precision import Bits, Precision
from study import models
from tests.helpers.networks import inputs


@cache
def network(precision: str, edges: int | None = 8) -> LeNet:
    """A trained network in evaluation mode. It is shared: copy it before you change it.

    edges: bits of the first and the last layer's weights; of other than 8, the network is the trained one calibrated.
    """
    trained = models.load(f"mnist-{precision}-standard")
    if edges == 8:
        return trained
    first, *inner, _ = trained.precision.layers
    return calibrated(trained, Bits(edges, first.activation), *inner, Bits(edges))


def calibrated(trained: LeNet, *layers: Bits) -> LeNet:
    """A network with the weights of another, but other bits of its layers."""
    other = build(Precision("other", layers), shape=trained.shape, seed=0)
    names = other.state_dict().keys()
    weights = {k: v for k, v in trained.state_dict().items() if k in names and not k.endswith("scale")}
    other.load_state_dict(weights, strict=False)
    quantization.calibrate(other, inputs()[:50])
    return other.eval()


def changed(precision: str, change: Callable[[LeNet], object]) -> LeNet:
    """A trained network after a change in place."""
    other = copy.deepcopy(network(precision))
    with torch.no_grad():
        change(other)
    return other


def network_with_ties(precision: str) -> LeNet:
    """A network whose scales are powers of two, so that many values lie exactly between two codes."""

    def tie(model: LeNet) -> None:
        for _, layer, *_ in model.blocks():
            unit = 255 if layer is model.conv1 else 1  # undoes the scale of the input, 1 / 255
            layer.weight_scale.copy_((layer.weight_scale / unit).log2().round().exp2() * unit)
        for activation in quantization.pact_layers(model).values():
            activation.alpha.copy_(activation.scale.log2().round().exp2() * (2**activation.bits - 1))

    return changed(precision, tie)


def earlier(path: Path) -> bytes:
    """An ONNX file as it was written before explanations had a pass-through map."""
    proto = onnx.load(path)
    made = [node.output[0] for node in proto.graph.node]
    if "map" in made:
        del proto.graph.node[made.index("map") + 1 :], proto.graph.output[2:]
    return proto.SerializeToString(deterministic=True)


def behaviour(trained: LeNet) -> dict[str, np.ndarray]:
    """What leaves each layer of the network: codes behind the activations, channels last, and the logits."""
    leaving, observed = {}, copy.deepcopy(trained)
    names = {block.activation: block.name for block in observed.blocks()}

    def observe(activation, _, output):
        codes = (output / activation.scale).round().int()
        leaving[names[activation]] = (codes.permute(0, 2, 3, 1) if codes.ndim == 4 else codes).numpy()

    for activation in quantization.pact_layers(observed).values():
        activation.register_forward_hook(observe)
    with torch.no_grad():
        leaving["dense3"] = observed(inputs()).numpy()
    return leaving
