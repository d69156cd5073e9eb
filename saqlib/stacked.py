"""The networks of several seeds as one batched network, for a GPU, which a single small network leaves idle.

Layer by layer their weights are stacked along the output channels, as groups: no network sees another one, so the
gradient of the sum of their losses is each one's own. Parameters have the names and, but for the stacking, the shapes
of one network. On a CPU it is slower than the networks one by one.
"""

import torch
from torch import Tensor, nn

from saqlib.lenet import CLASSES, LeNet
from saqlib.quantization import PACT, QuantConv2d, QuantLinear


class Stacked(LeNet):
    """S networks of one precision and shape as one. Starts as a copy of them; `write_back` hands them what it learned.

    Images float (S * B, 1, 28, 28) in [0, 1], all of the first network's before the second's, to logits (S * B, 10).
    """

    def __init__(self, networks: list[LeNet]):
        if not all(isinstance(network, LeNet) for network in networks):
            raise ValueError("only networks like saqlib.lenet.LeNet train as one; train yours one by one")
        super().__init__(networks[0].precision, networks[0].shape)
        self.networks = tuple(networks)  # a tuple, so that they do not become parts of this one
        for name, layer in networks[0].named_children():
            setattr(self, name, _stacked(layer, len(networks)))
        self.to(next(networks[0].parameters()))  # their device and type
        states = [network.state_dict() for network in networks]
        rows = {name: [torch.atleast_1d(state[name]) for state in states] for name in states[0]}
        self.load_state_dict({name: torch.cat(values) for name, values in rows.items()})

    def forward(self, images: Tensor) -> Tensor:
        count = len(self.networks)
        logits = self.run(images.view(count, -1, *images.shape[2:]).transpose(0, 1))
        return logits.view(-1, count, CLASSES).transpose(0, 1).reshape(-1, CLASSES)

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy parameters and scales into the networks that this one was made of."""
        states = [network.state_dict() for network in self.networks]
        for name, stacked in self.state_dict().items():
            for state, own in zip(states, stacked.chunk(len(states)), strict=True):
                state[name].copy_(own.view_as(state[name]))


def _stacked(layer: nn.Module, count: int) -> nn.Module:
    """A layer like this one for `count` networks; its parameters are still to be filled in."""
    if isinstance(layer, PACT):
        made = StackedPact(layer, count)
    elif isinstance(layer, nn.Conv2d):
        inputs, outputs = count * layer.in_channels, count * layer.out_channels
        options = {"bits": layer.bits} if isinstance(layer, QuantConv2d) else {}
        made = type(layer)(inputs, outputs, layer.kernel_size, padding=layer.padding, groups=count, **options)
    elif isinstance(layer, nn.Linear):
        made = StackedQuantLinear(layer, count) if isinstance(layer, QuantLinear) else StackedLinear(layer, count)
    else:
        return layer  # ReLU
    if hasattr(layer, "quantizing"):
        made.quantizing = layer.quantizing
    return made


class StackedLinear(nn.Linear):
    """S linear layers: (B, S * in) to (B, S * out)."""

    def __init__(self, layer: nn.Linear, count: int):
        super().__init__(layer.in_features, count * layer.out_features)
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return _per_network(x, self.weight, self.bias, self.count)


class StackedQuantLinear(QuantLinear):
    """S quantized linear layers: (B, S * in) to (B, S * out)."""

    def __init__(self, layer: QuantLinear, count: int):
        super().__init__(layer.in_features, count * layer.out_features, bits=layer.bits)
        self.count = count

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _per_network(x, weight, bias, self.count)


def _per_network(x: Tensor, weight: Tensor, bias: Tensor, count: int) -> Tensor:
    per_network = x.view(len(x), count, -1).transpose(0, 1)  # (S, B, in)
    weights = weight.view(count, -1, weight.shape[1]).transpose(1, 2)  # (S, in, out)
    return torch.baddbmm(bias.view(count, 1, -1), per_network, weights).transpose(0, 1).flatten(1)


class StackedPact(PACT):
    """PACT with an alpha of its own, shape (S,), for each of S networks; x (B, S * n, ...)."""

    def __init__(self, layer: PACT, count: int):
        super().__init__(layer.bits, rounding=layer.rounding)
        self.alpha = nn.Parameter(self.alpha.detach().repeat(count))
        self.floor = self.floor.repeat(count)

    def clip(self, x: Tensor) -> Tensor:
        levels = 2**self.bits - 1 if self.rounding else None
        return _StackedPactFunction.apply(x.unflatten(1, (len(self.alpha), -1)), self.alpha, levels).flatten(1, 2)


class _StackedPactFunction(torch.autograd.Function):
    """quantization.pact for x (B, S, ...) and alpha (S,), without asking the GPU for a number."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor, levels: int | None) -> Tensor:
        ctx.save_for_backward(x, alpha)
        alpha = _beside(x, alpha)
        clipped = x.relu().minimum(alpha)
        if levels is None:
            return clipped
        step = alpha / levels
        return clipped.div_(step).round_().mul_(step)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, alpha = ctx.saved_tensors
        clipped = x >= _beside(x, alpha)
        grad_x = grad.masked_fill(clipped | (x <= 0), 0.0)
        grad_alpha = grad.masked_fill(~clipped, 0.0).transpose(0, 1).flatten(1).sum(1)
        return grad_x, grad_alpha, None


def _beside(x: Tensor, alpha: Tensor) -> Tensor:
    return alpha.view(-1, *[1] * (x.dim() - 2))
