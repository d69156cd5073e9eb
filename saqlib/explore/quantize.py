"""A network of the reader's, quantized: its convolutions, dense layers and ReLUs become those of saqlib.network."""

import copy

import torch
from torch import nn

from saqlib.network.quantization import PACT, QuantConv2d, QuantLinear

EDGE_BITS = 8  # of the weights of the first and the last layer, as in the study


def quantized(model: nn.Module, bits: int) -> nn.Module:
    """A copy of a network whose weights and activations have so many bits, with the weights that it had.

    nn.Conv2d becomes QuantConv2d, nn.Linear QuantLinear, nn.ReLU PACT; the first and the last layer keep 8-bit weights.
    Other modules stay as they are. Calibrate it on a batch before it trains or answers (`saqlib.network.calibrate`).

    Args:
        model: any network whose layers are modules; what its forward calls as functions (F.relu) is not found.
        bits: 2 to 8.

    Raises:
        ValueError: bits outside 2 to 8; a network without such layers; a ReLU that several places share.
    """
    network = copy.deepcopy(model)
    layers = [name for name, module in network.named_modules() if type(module) in (nn.Conv2d, nn.Linear)]
    relus = [name for name, module in network.named_modules(remove_duplicate=False) if type(module) is nn.ReLU]
    if not layers:
        raise ValueError("the network holds no nn.Conv2d and no nn.Linear to quantize")
    if len({id(network.get_submodule(name)) for name in relus}) < len(relus):
        raise ValueError("one nn.ReLU stands in several places; give each its own, since each gets a clip of its own")
    for name in layers:
        _replace(
            network, name, _layer(network.get_submodule(name), EDGE_BITS if name in (layers[0], layers[-1]) else bits)
        )
    for name in relus:
        _replace(network, name, PACT(bits))
    return network


def _replace(network: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)


@torch.no_grad()
def _layer(old: nn.Conv2d | nn.Linear, bits: int) -> nn.Module:
    if isinstance(old, nn.Linear):
        new = QuantLinear(old.in_features, old.out_features, bias=old.bias is not None, bits=bits)
    else:
        new = QuantConv2d(
            old.in_channels, old.out_channels, old.kernel_size, stride=old.stride, padding=old.padding,
            dilation=old.dilation, groups=old.groups, bias=old.bias is not None, padding_mode=old.padding_mode,
            bits=bits,
        )  # fmt: skip
    new.load_state_dict(old.state_dict(), strict=False)
    return new.to(old.weight.device).train(old.training)
