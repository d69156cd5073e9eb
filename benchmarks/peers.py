"""What people use today for the same purpose: quantized layers of Brevitas, and guided training as it was released.

Both are written here in their documented way, and as well as that way allows.
"""

from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import Saliency
from torch import Tensor, nn

from saqlib.lenet import CLASSES, FLAT, KERNEL, PADDING
from saqlib.precision import LAYERS, Precision, Shape

INPUT_BITS = 8
SETTLING_CALLS = 310  # an activation of Brevitas collects statistics for 300 calls, then its scale is a parameter
SETTLING_IMAGES = 8


def brevitas_layers() -> ModuleType | None:
    """The module brevitas.nn, or None where Brevitas is not installed (`make bench` installs it)."""
    try:
        import brevitas.nn
    except ImportError:
        return None
    return brevitas.nn


class BrevitasNet(nn.Module):
    """Our network in layers of Brevitas: images float (B, 1, 28, 28) in [0, 1] to logits (B, 10).

    After the library's own LeNet (getting started: weights, activations and biases quantized), with our shapes and
    bits, and weight scales per output channel as ours are. pool_first: pooling before the activation as in our
    network, where the library's example has it behind; it makes the activation four times as cheap.
    """

    def __init__(self, precision: Precision, shape: Shape, *, pool_first: bool = False):
        super().__init__()
        from brevitas import nn as layers
        from brevitas.quant import Int8WeightPerChannelFloat, Int32Bias

        self.pool_first = pool_first
        (c1, c2), (d1, d2) = shape.channels, shape.hidden
        bits = dict(zip(LAYERS, precision.layers, strict=True))

        def options(name: str) -> dict:
            return {
                "weight_bit_width": bits[name].weight,
                "weight_quant": Int8WeightPerChannelFloat,
                "bias_quant": Int32Bias,
            }

        def activation(name: str) -> nn.Module:
            return layers.QuantReLU(bit_width=bits[name].activation, return_quant_tensor=True)

        self.input = layers.QuantIdentity(bit_width=INPUT_BITS, return_quant_tensor=True)
        self.conv1 = layers.QuantConv2d(1, c1, KERNEL, padding=PADDING, **options("conv1"))
        self.conv2 = layers.QuantConv2d(c1, c2, KERNEL, **options("conv2"))
        self.dense1 = layers.QuantLinear(c2 * FLAT, d1, bias=True, **options("dense1"))
        self.dense2 = layers.QuantLinear(d1, d2, bias=True, **options("dense2"))
        self.dense3 = layers.QuantLinear(d2, CLASSES, bias=True, **options("dense3"))
        self.act1, self.act2 = activation("conv1"), activation("conv2")
        self.act3, self.act4 = activation("dense1"), activation("dense2")

    def forward(self, images: Tensor) -> Tensor:
        x = self.input(images)
        for conv, activation in ((self.conv1, self.act1), (self.conv2, self.act2)):
            x = conv(x)
            x = activation(F.max_pool2d(x, 2)) if self.pool_first else F.max_pool2d(activation(x), 2)
        x = x.flatten(1)
        x = self.act3(self.dense1(x))
        x = self.act4(self.dense2(x))
        return self.dense3(x)


def brevitas_network(precision: Precision, shape: Shape, *, seed: int, favoured: bool = False) -> BrevitasNet:
    """A network of Brevitas layers whose activations have settled, as they have for most of a training.

    favoured: with what our own network does beyond the library's example, pooling first and channels last.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BrevitasNet(precision, shape, pool_first=favoured)
        if favoured:
            model = model.to(memory_format=torch.channels_last)
        model.train()
        with torch.no_grad():
            for _ in range(SETTLING_CALLS):
                model(torch.rand(SETTLING_IMAGES, 1, 28, 28))
    return model


# --------------------------------------------------------------------------------------- the released procedure


def released_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    rng: np.random.Generator,
    fraction: float = 0.5,
    ranking: str = "signed",
) -> Tensor:
    """One guided step as the released code of saliency-guided training takes it (Ismail et al., arXiv 2111.14338).

    Map: captum's Saliency of the log-probability of the label, in evaluation mode, a forward pass of its own. Masking:
    one image after the other. Loss: cross-entropy + KL, two more forward passes. Same arguments and result as
    saqlib.training.guided_step, but for `rng`, which draws as many numbers as pixels are masked.
    """
    model.eval()
    watched = images.detach().clone().requires_grad_()
    network = LogProbabilities(model)
    saliency = Saliency(network).attribute(watched, labels, abs=False).mean(1).detach().cpu()
    masked = mask_one_by_one(images, saliency, fraction, rng, ranking=ranking)
    model.train()
    optimizer.zero_grad()
    clean, hidden = network(watched), network(masked)
    divergence = F.kl_div(hidden, clean, log_target=True, reduction="batchmean")
    loss = F.cross_entropy(clean, labels) + divergence
    loss.backward()
    optimizer.step()
    return loss.detach()


class LogProbabilities(nn.Module):
    """A network that ends in log_softmax, as the released one does."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return F.log_softmax(self.model(images), 1)


def mask_one_by_one(
    images: Tensor, saliency: Tensor, fraction: float, rng: np.random.Generator, *, ranking: str = "signed"
) -> Tensor:
    """Uniform noise in the image's own range in place of its least salient pixels; images (B, 1, 28, 28)."""
    key = saliency.flatten(1)
    count = int(fraction * key.shape[1])
    chosen = torch.topk(key.abs() if ranking == "magnitude" else key, count, dim=1, largest=False).indices
    masked = images.detach().clone()
    for i in range(len(masked)):
        low, high = images[i].min().item(), images[i].max().item()
        masked[i].view(-1)[chosen[i]] = torch.from_numpy(rng.uniform(low, high, count)).float()
    return masked
