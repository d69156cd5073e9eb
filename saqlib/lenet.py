"""The network of the paper: LeNet-5 in shape, without batch norm, built for one precision.

conv1 5x5 (padded) - pool - activation - conv2 5x5 - pool - activation
- dense1 - activation - dense2 - activation - dense3

Pooling stands before the activation. Both are monotone, so the values are the same and the activation has a quarter
of the work.

And a second network, `BatchNormNet`, to see whether what holds for one holds for another.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib.kernels import fused
from saqlib.kernels.operators import plain
from saqlib.precision import LAYERS, Bits, Precision, Shape
from saqlib.quantization import PACT, QuantConv2d, QuantLinear, calibrate, output_scale

SIDE = 28  # pixels of a side of the image
CLASSES = 10
INPUT_SCALE = 1 / 255  # the value of one code of a uint8 image
KERNEL = 5
PADDING = 2  # of the first convolution, as if the image had LeNet's 32 x 32 pixels
POOL = 2
FLAT = 5 * 5  # pixels left of 28 x 28 after two convolutions and two poolings
MEANS = 2  # a side of what the second network's dense layer sees
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
        first, second, third, fourth, last = precision.layers
        act1, act2, act3, act4 = (_activation(bits, precision.rounding) for bits in precision.layers[:-1])
        self.conv1, self.act1 = _conv(1, c1, first, kernel_size=KERNEL, padding=PADDING), act1
        self.conv2, self.act2 = _conv(c1, c2, second, kernel_size=KERNEL), act2
        self.dense1, self.act3 = _dense(c2 * FLAT, d1, third), act3
        self.dense2, self.act4 = _dense(d1, d2, fourth), act4
        self.dense3 = _dense(d2, CLASSES, last)
        self.to(memory_format=torch.channels_last)

    def blocks(self) -> Iterator[Block]:
        """The layers in order: what a forward pass and a deployment run through."""
        activations = (self.act1, self.act2, self.act3, self.act4, None)
        for name, activation in zip(LAYERS, activations, strict=True):
            yield Block(name, getattr(self, name), activation, pooled=name.startswith("conv"))

    def forward(self, images: Tensor) -> Tensor:
        _check(images, self.conv1.weight.dtype)
        if fused.fits(self, images):
            return fused.forward(self, images, INPUT_SCALE)
        return self.run(images)

    def run(self, x: Tensor) -> Tensor:
        """By PyTorch's operators, whatever the number of channels: several networks side by side have one each."""
        x, scale = _channels_last(x), INPUT_SCALE
        for _, layer, activation, pooled in self.blocks():
            x = x if pooled else x.flatten(1)
            x = layer(x, scale) if isinstance(layer, (QuantConv2d, QuantLinear)) else layer(x)
            if pooled:
                x = F.max_pool2d(x, POOL)
            if activation is not None:
                x, scale = activation(x), output_scale(activation)
        return x


class BatchNormNet(nn.Module):
    """The second network: three convolutions 3x3 with batch norm, pooled by the mean to 2x2, and one dense layer.

    Images in, logits out and errors are those of LeNet. Its four layers have the bits of LeNet's first three and of its
    last. Batch norm, with the convolutions' bias in it, is in full precision, so nothing behind it is on a lattice.
    """

    def __init__(self, precision: Precision, shape: Shape):
        super().__init__()
        self.precision, self.shape = precision, shape
        inputs = 1
        for place, outputs in enumerate(shape.channels, start=1):
            bits = precision.layers[place - 1]
            self.add_module(f"conv{place}", _conv(inputs, outputs, bits, kernel_size=3, padding=1, bias=False))
            self.add_module(f"norm{place}", nn.BatchNorm2d(outputs))
            self.add_module(f"act{place}", _activation(bits, precision.rounding))
            inputs = outputs
        self.dense1 = _dense(inputs * MEANS**2, CLASSES, precision.layers[-1])
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        _check(images, self.dense1.weight.dtype)
        x = self.act1(F.max_pool2d(self.norm1(self.conv1(_channels_last(images))), POOL))
        x = self.act2(F.max_pool2d(self.norm2(self.conv2(x)), POOL))
        x = self.act3(self.norm3(self.conv3(x)))
        return self.dense1(F.adaptive_avg_pool2d(x, MEANS).flatten(1))


def _check(images: Tensor, own: torch.dtype) -> None:
    """Raise ValueError for what a network with parameters of this type does not take."""
    if images.shape[1:] != (1, SIDE, SIDE):
        raise ValueError(f"this network takes images (B, 1, {SIDE}, {SIDE}), not {tuple(images.shape)}")
    if images.dtype != own and not torch.is_autocast_enabled(images.device.type):
        raise ValueError(f"this network takes {own} in [0, 1], not {images.dtype}; see saqlib.data.as_input")
    if plain(images) and images.numel():
        low, high = (bound.item() for bound in images.detach().aminmax())
        if not (-FAR_OUT <= low and high <= FAR_OUT):  # nor NaN
            raise ValueError(
                f"this network takes values in [0, 1], not from {low:.4g} to {high:.4g}; see saqlib.data.as_input"
            )


def _channels_last(x: Tensor) -> Tensor:
    # One channel lies alike in both memory formats; these strides make PyTorch choose the fast one.
    return x.squeeze(1).unsqueeze(3).permute(0, 3, 1, 2) if x.shape[1] == 1 else x


def _conv(inputs: int, outputs: int, bits: Bits, **options: Any) -> nn.Module:
    if bits.weight is None:
        return nn.Conv2d(inputs, outputs, **options)
    return QuantConv2d(inputs, outputs, bits=bits.weight, **options)


def _dense(inputs: int, outputs: int, bits: Bits) -> nn.Module:
    return nn.Linear(inputs, outputs) if bits.weight is None else QuantLinear(inputs, outputs, bits=bits.weight)


def _activation(bits: Bits, rounding: bool) -> nn.Module:
    return nn.ReLU() if bits.activation is None else PACT(bits.activation, rounding=rounding)


def _network(precision: Precision, shape: Shape) -> LeNet | BatchNormNet:
    return BatchNormNet(precision, shape) if shape.batch_norm else LeNet(precision, shape)


def build(precision: str | Precision, *, shape: Shape | None = None, seed: int | None = None) -> LeNet | BatchNormNet:
    """The untrained network of a precision, in training mode; it quantizes from the first call on.

    Images in: float (B, 1, 28, 28) in [0, 1]; out: logits (B, 10). Its clips are calibrated on random images until they
    are calibrated on real ones. Its weights are those of He et al. (arXiv 1502.01852, uniform), its biases PyTorch's:
    with biases of 0 an untrained network's map would be 0 wherever the image is blank, and look clear. The weights are
    the same for every precision of a seed.

    Args:
        precision: a Precision, or a name that `Precision.parse` takes (fp32, w4a4, w2a2, ...), otherwise ValueError.
        shape: the widths of the layers, LeNet's (8 and 16 channels, 120 and 84 units) when None; three channels and no
            hidden units make the second network.
        seed: fixes the initial weights; None draws them from PyTorch's global generator.
    """
    if isinstance(precision, str):
        precision = Precision.parse(precision)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        network = _network(precision, shape or Shape())
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    calibrate(network, torch.rand(PROBES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()  # those of random images, which a full-precision network sees otherwise
    return network


def restore(precision: Precision, shape: Shape, state: Mapping[str, Tensor]) -> LeNet | BatchNormNet:
    """A network with the weights of a `state_dict`, in evaluation mode, where scales stay as the state has them.

    Raises RuntimeError (load_state_dict's) for a state of another precision or shape.
    """
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        network = _network(precision, shape)
    network.eval()
    network.load_state_dict(state)
    return network
