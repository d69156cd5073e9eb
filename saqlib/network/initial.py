"""A network before training: the weights of a seed, the same for every precision, and clips to start from."""

import torch
from torch import nn

from saqlib.network import settings
from saqlib.network.lenet import SIDE, LeNet
from saqlib.network.quantization import calibrate
from saqlib.network.settings import Precision, Shape

PROBES = 64  # random images on which a new network's clips start


def build(precision: str | Precision, *, shape: Shape | None = None, seed: int | None = None) -> LeNet:
    """The untrained network of a precision, in training mode; it quantizes from the first call on.

    Images in: float (B, 1, 28, 28) in [0, 1]; out: logits (B, 10). Its clips are calibrated on random images until they
    are calibrated on real ones. Its weights are those of He et al. (arXiv 1502.01852, uniform), its biases PyTorch's:
    with biases of 0 an untrained network's map would be 0 wherever the image is blank, and look clear.

    Args:
        precision: a name of params.yaml, or a Precision of your own.
        shape: the widths of the layers, those of params.yaml when None.
        seed: fixes the initial weights; None draws them from PyTorch's global generator.

    Raises:
        ValueError: an unknown name; the message names the nearest valid one.
    """
    if isinstance(precision, str):
        precision = settings.named(precision)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        network = LeNet(precision, shape or settings.default_shape())
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    calibrate(network, torch.rand(PROBES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    return network
