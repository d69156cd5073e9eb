"""Networks for the tests of deployment: the committed ones, one with ties, and what they compute layer by layer."""

import copy
from functools import cache

import numpy as np
import torch

from saqlib import quantization
from saqlib.data import as_input, load
from saqlib.lenet import LeNet, build
from saqlib.precision import Bits, Precision
from study import models, paths

PRECISIONS = ("fp32", "w4a4", "mixed", "w2a2")
QUANTIZED = PRECISIONS[1:]


@cache
def sample() -> torch.Tensor:
    """The 300 test images of MNIST's sample, uint8."""
    return load("mnist", "test", paths.SAMPLE)[0]


@cache
def inputs() -> torch.Tensor:
    """The same images as a network takes them."""
    return as_input(sample())


@cache
def network(precision: str, edges: int | None = 8) -> LeNet:
    """A trained network in evaluation mode. It is shared: copy it before you change it.

    edges: bits of the first and the last layer's weights; of other than 8, the network is the trained one calibrated.
    """
    trained = models.load(f"mnist-{precision}-standard")
    if edges == 8:
        return trained
    first, *inner, _ = trained.precision.layers
    layers = (Bits(edges, first.activation), *inner, Bits(edges))
    other = build(Precision("other edges", layers), shape=trained.shape, seed=0)
    other.load_state_dict({k: v for k, v in trained.state_dict().items() if not k.endswith("scale")}, strict=False)
    quantization.calibrate(other, inputs()[:50])
    return other.eval()


def network_with_ties(precision: str) -> LeNet:
    """A network whose scales are powers of two, so that many values lie exactly between two codes."""
    tied = copy.deepcopy(network(precision))
    with torch.no_grad():
        for _, layer, *_ in tied.blocks():
            unit = 255 if layer is tied.conv1 else 1  # undoes the scale of the input, 1 / 255
            layer.weight_scale.copy_((layer.weight_scale / unit).log2().round().exp2() * unit)
        for activation in quantization.pact_layers(tied).values():
            activation.alpha.copy_(activation.scale.log2().round().exp2() * (2**activation.bits - 1))
    return tied


def behaviour(trained: LeNet) -> dict[str, np.ndarray]:
    """What leaves each layer of the network: codes behind the activations, channels last, and the logits."""
    leaving = {}

    def keep(name):
        def hook(activation, _, output):
            codes = (output / activation.scale).round().int()
            leaving[name] = (codes.permute(0, 2, 3, 1) if codes.ndim == 4 else codes).numpy()

        return hook

    hooks = [block.activation.register_forward_hook(keep(block.name)) for block in list(trained.blocks())[:-1]]
    try:
        with torch.no_grad():
            leaving["dense3"] = trained(inputs()).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return leaving


def _rounded_by(rule):
    """PACT with another way of rounding."""

    def pact(x, alpha, bits):
        step = alpha / (2**bits - 1)
        return rule(x.clamp(min=0).minimum(alpha) / step) * step

    return pact


# What a careless port does differently, as patches of the network: (object, attribute, replacement).
MUTATIONS = {
    "half up": (quantization, "pact", _rounded_by(lambda x: (x + 0.5).floor())),
    "floor": (quantization, "pact", _rounded_by(torch.floor)),
    "float bias": (
        quantization._QuantizedLayer,
        "bias_codes",
        lambda layer, input_scale: layer.bias.detach() / layer.output_scale(input_scale),
    ),
}
