"""The network: LeNet-5 in shape, without batch norm, built for one precision.

conv1 5x5 (padded) - pool - activation - conv2 5x5 - pool - activation
- dense1 - activation - dense2 - activation - dense3

Pooling stands before the activation. Both are monotone, so the values are the same and the activation has a quarter
of the work.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib import config
from saqlib.convolution import one_channel_conv2d
from saqlib.quantization import PACT, QuantConv2d, QuantLinear, calibrate

CLASSES = 10
INPUT_SCALE = 1 / 255  # the value of one code of a uint8 image
KERNEL = 5
PADDING = 2  # of the first convolution, as if the image had LeNet's 32 x 32 pixels
FLAT = 5 * 5  # pixels left of 28 x 28 after two convolutions and two poolings
PROBES = 64  # random images on which a new network's alphas start


class LeNet(nn.Module):
    """Images float (B, 1, 28, 28) in [0, 1] to logits (B, 10); layers as `precision` says."""

    def __init__(self, precision: config.Precision, network: config.Network):
        super().__init__()
        self.precision, self.network = precision, network
        (c1, c2), (d1, d2) = network.channels, network.hidden
        bits = dict(zip(config.LAYERS, precision.layers, strict=True))
        self.conv1, self.act1 = _first_conv(c1, bits["conv1"]), _activation(bits["conv1"])
        self.conv2, self.act2 = _conv(c1, c2, bits["conv2"]), _activation(bits["conv2"])
        self.dense1, self.act3 = _dense(c2 * FLAT, d1, bits["dense1"]), _activation(bits["dense1"])
        self.dense2, self.act4 = _dense(d1, d2, bits["dense2"]), _activation(bits["dense2"])
        self.dense3 = _dense(d2, CLASSES, bits["dense3"])

    def forward(self, images: Tensor) -> Tensor:
        x, scale = images, INPUT_SCALE
        for conv, activation in ((self.conv1, self.act1), (self.conv2, self.act2)):
            x = activation(F.max_pool2d(_call(conv, x, scale), 2))
            scale = output_scale(activation)
        x = x.flatten(1)
        for dense, activation in ((self.dense1, self.act3), (self.dense2, self.act4)):
            x = activation(_call(dense, x, scale))
            scale = output_scale(activation)
        return _call(self.dense3, x, scale)


class _OneChannel:
    """Puts the fast input gradient into a convolution of one input channel."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return one_channel_conv2d(x, weight, bias, self.padding[0])


class OneChannelConv2d(_OneChannel, nn.Conv2d):
    """nn.Conv2d, 1 input channel."""


class QuantOneChannelConv2d(_OneChannel, QuantConv2d):
    """QuantConv2d, 1 input channel."""


def _first_conv(outputs: int, bits: config.Bits) -> nn.Module:
    if bits.weight is None:
        return OneChannelConv2d(1, outputs, KERNEL, padding=PADDING)
    return QuantOneChannelConv2d(1, outputs, KERNEL, padding=PADDING, bits=bits.weight)


def _conv(inputs: int, outputs: int, bits: config.Bits) -> nn.Module:
    if bits.weight is None:
        return nn.Conv2d(inputs, outputs, KERNEL)
    return QuantConv2d(inputs, outputs, KERNEL, bits=bits.weight)


def _dense(inputs: int, outputs: int, bits: config.Bits) -> nn.Module:
    return nn.Linear(inputs, outputs) if bits.weight is None else QuantLinear(inputs, outputs, bits=bits.weight)


def _activation(bits: config.Bits) -> nn.Module:
    return nn.ReLU() if bits.activation is None else PACT(bits.activation)


def output_scale(activation: nn.Module) -> Tensor | None:
    """The value of one code behind an activation; None if its output is not on a lattice."""
    return activation.scale if isinstance(activation, PACT) and activation.quantizing else None


def _call(layer: nn.Module, x: Tensor, scale: Tensor | float | None) -> Tensor:
    return layer(x, scale) if isinstance(layer, (QuantConv2d, QuantLinear)) else layer(x)


def build(
    precision: str | config.Precision, *, network: config.Network | None = None, seed: int | None = None
) -> LeNet:
    """The network of a precision: a name of params.yaml, or a Precision of your own.

    network: layer widths, those of params.yaml when None. seed: fixes the initial weights, which are then the same for
    every precision; None draws from PyTorch's global generator. A quantized network quantizes from the first call on,
    with alphas calibrated on random images until they are calibrated on real ones. Raises ConfigError (a ValueError)
    for an unknown name, naming the nearest one.
    """
    if not isinstance(precision, config.Precision) or network is None:
        settings = config.load()
        network = network or settings.network
        if not isinstance(precision, config.Precision):
            config.one_of(precision, tuple(settings.precisions), "precision")
            precision = settings.precisions[precision]
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = LeNet(precision, network).to(memory_format=torch.channels_last)
    calibrate(model, torch.rand(PROBES, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    return model
