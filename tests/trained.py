"""Small trained networks for the tests of deployment: seconds of training on the sample spread the codes."""

import copy
from functools import cache

import numpy as np
import torch

from saqlib import params
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.network import quantization
from saqlib.network.initial import build
from saqlib.network.lenet import LeNet
from saqlib.pipeline import study
from saqlib.training import loop

PRECISIONS = ("fp32", "w4a4", "mixed", "w2a2")
QUANTIZED = PRECISIONS[1:]


@cache
def sample(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images and labels of the committed sample of MNIST."""
    return data.load("mnist", split, sample=True)


@cache
def inputs() -> torch.Tensor:
    """The sample's 300 test images as a network takes them."""
    return data.as_input(sample("test")[0])


@cache
def network(precision: str, edges: str = "w8") -> LeNet:
    """A trained network of a precision, in evaluation mode. It is shared: copy it before you change it."""
    raw = params.read()
    raw["quantization"]["edges"] = edges
    recipe = study.from_dict(raw).recipe(Cell("mnist", precision, "standard"))
    trained = build(recipe.precision, shape=recipe.shape, seed=0)
    images = loop.Images(*sample("train"), *sample("validation"))
    loop.train(
        trained, images, seed=0, epochs=5, warmup_epochs=2, optimizer=recipe.optimizer, quantization=recipe.quantization
    )
    return trained


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


def behaviour(trained: LeNet, images: torch.Tensor) -> dict[str, np.ndarray]:
    """What leaves each layer of the network: codes behind the activations, channels last, and the logits."""
    leaving = {}

    def keep(name):
        def hook(activation, _, output):
            codes = (output / activation.scale).round().int()
            leaving[name] = (codes.permute(0, 2, 3, 1) if codes.ndim == 4 else codes).numpy()

        return hook

    activations = (trained.act1, trained.act2, trained.act3, trained.act4)
    names = ("conv1", "conv2", "dense1", "dense2")
    hooks = [a.register_forward_hook(keep(name)) for name, a in zip(names, activations, strict=True)]
    try:
        with torch.no_grad():
            leaving["dense3"] = trained(images).numpy()
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
