"""The network of the paper: LeNet-5 in shape, without batch norm, built for one precision.

conv1 5x5 (padded) - pool - activation - conv2 5x5 - pool - activation
- dense1 - activation - dense2 - activation - dense3

Pooling stands before the activation. Both are monotone, so the values are the same and the activation has a quarter
of the work.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib.kernels import fused
from saqlib.kernels.operators import plain
from saqlib.precision import LAYERS, Bits, Precision, Shape
from saqlib.quantization import PACT, QuantConv2d, QuantLinear, calibrate

SIDE = 28  # pixels of a side of the image
CLASSES = 10
INPUT_SCALE = 1 / 255  # the value of one code of a uint8 image
KERNEL = 5
PADDING = 2  # of the first convolution, as if the image had LeNet's 32 x 32 pixels
POOL = 2
FLAT = 5 * 5  # pixels left of 28 x 28 after two convolutions and two poolings
FAR_OUT = 10  # of [0, 1] and the noise of SmoothGrad around it; bytes, 0 to 255, lie beyond
PROBES = 64  # random images on which a new network's clips start


class Block(NamedTuple):
    """A layer and what stands behind it. activation: None behind the last layer; pooled: max pooling before it."""

    name: str
    layer: nn.Module
    activation: nn.Module | None
    pooled: bool


class LeNet(nn.Module):
    """The network of the paper: images float (B, 1, 28, 28) in [0, 1] to logits (B, 10). See `build`.

    It raises ValueError for images of another shape or type, for bytes in place of [0, 1], and for NaN or infinity: it
    would answer all the same.
    """

    def __init__(self, precision: Precision, shape: Shape):
        super().__init__()
        self.precision, self.shape = precision, shape
        (c1, c2), (d1, d2) = shape.channels, shape.hidden
        bits = dict(zip(LAYERS, precision.layers, strict=True))
        self.conv1, self.act1 = _conv(1, c1, bits["conv1"], PADDING), _activation(bits["conv1"])
        self.conv2, self.act2 = _conv(c1, c2, bits["conv2"]), _activation(bits["conv2"])
        self.dense1, self.act3 = _dense(c2 * FLAT, d1, bits["dense1"]), _activation(bits["dense1"])
        self.dense2, self.act4 = _dense(d1, d2, bits["dense2"]), _activation(bits["dense2"])
        self.dense3 = _dense(d2, CLASSES, bits["dense3"])
        self.to(memory_format=torch.channels_last)

    def blocks(self) -> Iterator[Block]:
        """The layers in order: what a forward pass and a deployment run through."""
        activations = (self.act1, self.act2, self.act3, self.act4, None)
        for name, activation in zip(LAYERS, activations, strict=True):
            yield Block(name, getattr(self, name), activation, pooled=name.startswith("conv"))

    def forward(self, images: Tensor) -> Tensor:
        self._check(images)
        if fused.fits(self, images):
            return fused.forward(self, images, INPUT_SCALE)
        return self.run(images)

    def _check(self, images: Tensor) -> None:
        if images.shape[1:] != (1, SIDE, SIDE):
            raise ValueError(f"this network takes images (B, 1, {SIDE}, {SIDE}), not {tuple(images.shape)}")
        own = self.conv1.weight.dtype
        if images.dtype != own and not torch.is_autocast_enabled(images.device.type):
            raise ValueError(f"this network takes {own} in [0, 1], not {images.dtype}; see saqlib.data.as_input")
        if plain(images) and images.numel():
            low, high = (bound.item() for bound in images.detach().aminmax())
            if not (-FAR_OUT <= low and high <= FAR_OUT):  # nor NaN
                raise ValueError(
                    f"this network takes values in [0, 1], not from {low:.4g} to {high:.4g}; see saqlib.data.as_input"
                )

    def run(self, x: Tensor) -> Tensor:
        """By PyTorch's operators, whatever the number of channels: several networks side by side have one each."""
        scale = INPUT_SCALE
        if x.shape[1] == 1:  # lies alike in both memory formats; these strides make PyTorch choose the fast one
            x = x.squeeze(1).unsqueeze(3).permute(0, 3, 1, 2)
        for block in self.blocks():
            if not block.pooled and x.dim() == 4:
                x = x.flatten(1)
            x = _call(block.layer, x, scale)
            if block.pooled:
                x = F.max_pool2d(x, POOL)
            if block.activation is not None:
                x = block.activation(x)
                scale = output_scale(block.activation)
        return x


def _conv(inputs: int, outputs: int, bits: Bits, padding: int = 0) -> nn.Module:
    if bits.weight is None:
        return nn.Conv2d(inputs, outputs, KERNEL, padding=padding)
    return QuantConv2d(inputs, outputs, KERNEL, padding=padding, bits=bits.weight)


def _dense(inputs: int, outputs: int, bits: Bits) -> nn.Module:
    return nn.Linear(inputs, outputs) if bits.weight is None else QuantLinear(inputs, outputs, bits=bits.weight)


def _activation(bits: Bits) -> nn.Module:
    return nn.ReLU() if bits.activation is None else PACT(bits.activation)


def output_scale(activation: nn.Module) -> Tensor | None:
    """The value of one code behind an activation; None if its output is not on a lattice."""
    return activation.scale if isinstance(activation, PACT) and activation.quantizing else None


def _call(layer: nn.Module, x: Tensor, scale: Tensor | float | None) -> Tensor:
    return layer(x, scale) if isinstance(layer, (QuantConv2d, QuantLinear)) else layer(x)


def build(precision: str | Precision, *, shape: Shape | None = None, seed: int | None = None) -> LeNet:
    """The untrained network of a precision, in training mode; it quantizes from the first call on.

    Images in: float (B, 1, 28, 28) in [0, 1]; out: logits (B, 10). Its clips are calibrated on random images until they
    are calibrated on real ones. Its weights are those of He et al. (arXiv 1502.01852, uniform), its biases PyTorch's:
    with biases of 0 an untrained network's map would be 0 wherever the image is blank, and look clear. The weights are
    the same for every precision of a seed.

    Args:
        precision: a Precision, or a name that `Precision.parse` takes (fp32, w4a4, w2a2, ...), otherwise ValueError.
        shape: the widths of the layers, LeNet's (8 and 16 channels, 120 and 84 units) when None.
        seed: fixes the initial weights; None draws them from PyTorch's global generator.
    """
    if isinstance(precision, str):
        precision = Precision.parse(precision)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        network = LeNet(precision, shape or Shape())
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    calibrate(network, torch.rand(PROBES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    return network


def restore(precision: Precision, shape: Shape, state: Mapping[str, Tensor]) -> LeNet:
    """A network with the weights of a `state_dict`, in evaluation mode, where scales stay as the state has them.

    Raises RuntimeError (load_state_dict's) for a state of another precision or shape.
    """
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        network = LeNet(precision, shape)
    network.eval()
    network.load_state_dict(state)
    return network
