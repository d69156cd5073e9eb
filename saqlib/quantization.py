"""Low precision for any network: values on a lattice in the forward pass, straight-through gradients backward.

Activations follow PACT (Choi et al., arXiv 1805.06085): clip to [0, alpha] with a learned alpha, then 2^k levels.
Weights follow SAWB (arXiv 1807.06964): symmetric codes, the clip estimated from E|w| and E[w^2] of each output
channel. A 2-bit weight has three levels, {-1, 0, 1} times its scale. Everything rounds half to even.

In evaluation a layer that knows the scale of its input computes on integer codes held in float32. Every accumulator
stays below 2^24, so the sums are exact in any order, and integer-only inference gives the same numbers. Narrower types
would round codes and sums to plausible others: they are refused, and autocast stops at these layers.
"""

import copy
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from saqlib.errors import check_finite
from saqlib.evaluation import check_network, hooked, temporarily
from saqlib.kernels import operators as kernels
from saqlib.lattice import check_exact, codes_of, on_lattice, straight_through, to_codes
from saqlib.lattice import quantize_weight as quantize_weight  # a public name of this module
from saqlib.precision import EDGE_BITS, MAX_BITS, check_bits

CALIBRATION_STEPS = 100  # candidate clips between 0 and the largest activation
ALPHA_FLOOR = 1e-3  # alpha never falls below this fraction of its calibrated value
RANGE_DECAY = 0.99  # of an alpha that tracks the largest value, in each call
SAME_BITS = 1.25  # between two scales of the same bits, one training step apart; one bit fewer about doubles a scale

# ---------------------------------------------------------------------------------------------- activations


class _Pact(torch.autograd.Function):
    """The forward may clamp; the backward is written out, because a clamp's own gradient changed in PyTorch 2.14."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor, levels: int | None) -> Tensor:
        ctx.save_for_backward(x, alpha)
        clipped = x.clamp(0.0, check_clip(alpha))
        if levels is None:
            return clipped
        step = alpha / levels
        return clipped.div_(step).round_().mul_(step)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, alpha = ctx.saved_tensors
        grad_x = grad_alpha = None
        # These two kernels are masks, strict at their bounds, and five times as fast as comparing and selecting.
        if ctx.needs_input_grad[0]:  # 0 < x < alpha
            grad_x = torch.ops.aten.hardtanh_backward(grad, x, 0.0, alpha.item())
        if ctx.needs_input_grad[1]:  # x > the number before alpha, so x >= alpha
            before = torch.nextafter(alpha.to(x.dtype), x.new_zeros(())).item()
            grad_alpha = torch.ops.aten.threshold_backward(grad, x, before).sum()
        return grad_x, grad_alpha, None


def check_clip(alpha: Tensor) -> float:
    """The number in alpha; ValueError unless it is a positive one."""
    if alpha.dim():
        raise ValueError(f"the clip alpha must be a scalar, not of shape {tuple(alpha.shape)}")
    number = alpha.item()
    if torch.compiler.is_compiling():  # and the number has no value yet
        torch._assert_async((alpha > 0) & alpha.isfinite(), "the clip alpha must be positive; calibrate the network")
        return number
    check_finite(alpha, "the clip alpha is")
    if number <= 0:
        raise ValueError(f"the clip alpha must be positive, not {number}; calibrate the network")
    return number


def pact(x: Tensor, alpha: Tensor, bits: int, *, rounding: bool = True) -> Tensor:
    """Clip to [0, alpha] and, unless `rounding` is off, round to 2^bits levels (PACT, Choi et al., arXiv 1805.06085).

    The gradient is 1 on 0 < x < alpha for x, and summed over x >= alpha for alpha.

    x: float32 or float64, any shape. alpha: the clip, a positive scalar tensor. Returns the shape of x, on the lattice
    {0, ..., 2^bits - 1} * alpha / (2^bits - 1). Raises ValueError for bits outside 2 to 8, a clip that is no positive
    scalar, or x of a narrower type.
    """
    check_exact(x, "what PACT clips")
    levels = 2 ** check_bits(bits) - 1
    return _Pact.apply(x, alpha, levels if rounding else None)


def best_clip(x: Tensor, bits: int, *, rounding: bool = True) -> Tensor:
    """The alpha among max(x) * (1, 2, ..., 100) / 100 whose PACT values are closest to relu(x) in squared error.

    x: any shape. rounding: as of `pact`; without it the closest is max(x). Returns a scalar; 1 if x has no positive
    value, or none whose codes have one, since nothing can be calibrated then. Raises ValueError for no values,
    NotFiniteError for NaN or infinity.
    """
    if not x.numel():
        raise ValueError("there are no activations to calibrate on: the batch is empty")
    x = x.detach().flatten().relu()
    top = x.max()
    check_finite(top, "the largest activation to calibrate on is")
    if top <= CALIBRATION_STEPS * 2**MAX_BITS * torch.finfo(x.dtype).tiny:
        return torch.ones_like(top)
    candidates = top * torch.arange(1, CALIBRATION_STEPS + 1, device=x.device) / CALIBRATION_STEPS
    errors = torch.stack([F.mse_loss(pact(x, alpha, bits, rounding=rounding), x) for alpha in candidates])
    return candidates[errors.argmin()]


# ------------------------------------------------------------------------------------------------- layers


def _exactly(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer's forward pass in the type of its parameters, float32 or float64, also where autocast is on."""

    @functools.wraps(forward)
    def call(self: nn.Module, x: Tensor, *rest: Tensor | float | None) -> Tensor:
        own = self.weight if isinstance(self, _QuantizedLayer) else self.alpha
        check_exact(own, f"the parameters of {type(self).__name__}")
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return forward(self, x.to(own.dtype), *rest)
        if x.dtype != own.dtype:
            raise ValueError(f"{type(self).__name__} takes {own.dtype}, as its parameters are, not {x.dtype}")
        return forward(self, x, *rest)

    return call


class PACT(nn.Module):
    """The activation that replaces ReLU, with one learned clip `alpha` for the layer; any shape in and out.

    Calibrate a new network (`calibrate`): alpha is 1 until then. `quantizing` off: it is a plain ReLU. `calibrating`
    on: each call first sets alpha to the best clip for its own input. `tracking` on: each call in training first sets
    it to the running largest value. `passing` on: the gradient of x is that of ReLU, and alpha has none. `inplace` on:
    x is overwritten, as by nn.ReLU(inplace=True).

    bits: 2 to 8, otherwise ValueError; the output has 2^bits levels from 0 to alpha. rounding: off, it only clips.
    """

    def __init__(self, bits: int, *, rounding: bool = True):
        super().__init__()
        self.bits, self.rounding = check_bits(bits), rounding
        self.alpha = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("floor", torch.tensor(ALPHA_FLOOR))
        self.quantizing = True
        self.calibrating = self.tracking = self.passing = self.inplace = False

    @property
    def scale(self) -> Tensor:
        """The value of one code, a scalar without gradient."""
        return self.alpha.detach() / (2**self.bits - 1)

    @property
    def simple(self) -> bool:
        """Whether a call is `pact` with the alpha that is there, or ReLU: what the kernels compute."""
        sets_alpha = self.calibrating or self.tracking and self.training
        return not sets_alpha and self.rounding

    @_exactly
    def forward(self, x: Tensor) -> Tensor:
        given, x = x, x.clone() if self.inplace else x
        self.adapt(x)
        values = self.clip(x) if self.quantizing else F.relu(x)
        values = straight_through(F.relu(x), values) if self.passing else values
        return given.copy_(values) if self.inplace else values

    def clip(self, x: Tensor) -> Tensor:
        """`pact` of x with this alpha."""
        return pact(x, self.alpha, self.bits, rounding=self.rounding)

    @torch.no_grad()
    def adapt(self, x: Tensor) -> None:
        """Set alpha on the input of a call, where a call does; of S networks side by side (saqlib.stacked) each one."""
        own = x.chunk(len(self.alpha), 1) if self.alpha.dim() else (x,)
        if self.calibrating:
            best = [best_clip(each, self.bits, rounding=self.rounding) for each in own]
            self.set_alpha(torch.stack(best).view_as(self.alpha))
        elif self.tracking and self.training and self.quantizing:
            largest = torch.stack([each.max() for each in own]).view_as(self.alpha)
            self.alpha.copy_(torch.maximum(RANGE_DECAY * self.alpha, largest))

    @torch.no_grad()
    def set_alpha(self, alpha: Tensor) -> None:
        """Set the clip, and with it the floor under which no step carries it."""
        self.alpha.copy_(alpha)
        self.floor.copy_(alpha * ALPHA_FLOOR)

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Lift alpha back to its floor; an optimiser step may have carried it below zero."""
        self.alpha.copy_(torch.maximum(self.alpha, self.floor))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _QuantizedLayer:
    """What QuantConv2d and QuantLinear share: low-bit weights, int32 bias codes, exact evaluation.

    The scale of the weights is recomputed in every training call. In evaluation it is frozen, or that of the state that
    was loaded, until the weights are others.
    """

    def __init__(self, *args, bits: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.bits = check_bits(bits)
        self.quantizing = True
        self.cache: dict[nn.Module, tuple] | None = None  # of quantized_once: values by layer, from its first call
        self.register_buffer("weight_scale", None)
        self.freeze()

    def freeze(self) -> None:
        """Set the scale to that of the weights as they are now."""
        self.weight_scale, self.scaled = on_lattice(self.weight, self.bits)[1], self.checksum()

    def refresh(self) -> None:
        """Set the scale anew if the weights are others than those that it was set for."""
        if kernels.plain(self.weight) and self.scaled != self.checksum():
            self.freeze()

    def checksum(self) -> list[int]:
        """Of the weights of each output channel; it tells whether the scale is still theirs."""
        return torch.hash_tensor(self.weight.detach().flatten(1), 1).tolist()

    def codes(self) -> Tensor:
        """The weights' integer codes under the frozen scale, as floats of the weight's shape."""
        self.refresh()
        return codes_of(self.weight, self.weight_scale, self.bits)

    def _load_from_state_dict(self, state: dict, prefix: str, *rest) -> None:
        *_, errors = rest
        weight, scale = (state.get(f"{prefix}{name}") for name in ("weight", "weight_scale"))
        super()._load_from_state_dict(state, prefix, *rest)
        if weight is None or scale is None or scale.shape != self.weight_scale.shape:
            return
        own = on_lattice(self.weight, self.bits)[1]
        # The scale of a state was that of its weights, or of those a step before.
        ratio = (self.weight_scale / own).median()
        if ratio <= 1 / SAME_BITS or ratio >= SAME_BITS:
            errors.append(
                f"{prefix}weight_scale is of another precision: not that of these weights with {self.bits} bits"
            )
        self.scaled = self.checksum()

    def bias_codes(self, input_scale: Tensor | float) -> Tensor | None:
        """The bias in units of input_scale * weight_scale: whole numbers (int32 range), shape (out,); None without."""
        return None if self.bias is None else (self.bias.detach() / self.output_scale(input_scale)).round_()

    def output_scale(self, input_scale: Tensor | float) -> Tensor:
        """The value of one unit of the accumulator, per output channel, shape (out,).

        input_scale: the value of one code of the input; of S networks side by side (saqlib.stacked) S of them.
        """
        scale = self.weight_scale.flatten()
        if isinstance(input_scale, Tensor) and input_scale.dim():
            input_scale = input_scale.repeat_interleave(len(scale) // len(input_scale))
        return scale * input_scale

    def train(self, mode: bool = True):
        # Entering evaluation freezes the scale of the weights as they are now, not as the last batch saw them.
        if not mode:
            self.freeze() if self.training else self.refresh()
        return super().train(mode)

    @_exactly
    def forward(self, x: Tensor, input_scale: Tensor | float | None = None) -> Tensor:
        """x: the layer's input; input_scale: the value of one code of x, or None if x is not on a lattice."""
        if self.training or not self.quantizing or input_scale is None:
            return self._apply_to(x, *self.values(input_scale))
        accumulator = self._apply_to(to_codes(x, input_scale), *self.as_codes(input_scale))
        return accumulator * self.output_scale(input_scale).view(-1, *[1] * (self.weight.dim() - 2))

    def values(self, input_scale: Tensor | float | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as a call of `forward` takes them: on their lattices while the layer quantizes."""
        if not self.quantizing:
            return self.weight, self.bias
        if self.cache and self in self.cache:
            return self.cache[self]
        if self.training:
            values, self.weight_scale = on_lattice(self.weight, self.bits)
        else:
            values = self.codes().mul_(self.weight_scale)
        weight = straight_through(self.weight, values)
        bias = self.bias
        if bias is not None and input_scale is not None:
            bias = straight_through(bias, self.bias_codes(input_scale) * self.output_scale(input_scale))
        if self.cache is not None:
            self.cache[self] = weight, bias
        return weight, bias

    def as_codes(self, input_scale: Tensor | float) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as `codes` and `bias_codes` have them, with straight-through gradients."""
        weight, bias = straight_through(self.weight, self.codes(), self.weight_scale), self.bias
        if bias is not None:
            bias = straight_through(bias, self.bias_codes(input_scale), self.output_scale(input_scale))
        return weight, bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


class QuantConv2d(_QuantizedLayer, nn.Conv2d):
    """nn.Conv2d with low-bit weights: float (B, in, H, W) to (B, out, H', W').

    In a network of your own it is called as nn.Conv2d is, and its bias stays float. Given the value of one code of its
    input (`input_scale`), it has a bias of whole codes, too, and evaluates on integer codes.

    bits: of the weights, 2 to 8, otherwise ValueError; their 2^bits - 1 levels are symmetric, with a scale for each
    output channel. All other arguments are those of nn.Conv2d.
    """

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class QuantLinear(_QuantizedLayer, nn.Linear):
    """nn.Linear with low-bit weights: float (B, in) to (B, out); all else as in QuantConv2d."""

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


# --------------------------------------------------------------------------------------------- whole networks


def pact_layers(model: nn.Module) -> dict[str, PACT]:
    """The PACT activations of a network by name, in order; empty for a full-precision one."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PACT)}


def output_scale(activation: nn.Module) -> Tensor | None:
    """The value of one code behind an activation; None if its output is not on a lattice."""
    return activation.scale if isinstance(activation, PACT) and activation.quantizing and activation.rounding else None


def set_quantizing(model: nn.Module, on: bool) -> None:
    """Switch any network with layers of this module between its quantized form and full precision, for a warm-up."""
    for module in model.modules():
        if isinstance(module, (PACT, _QuantizedLayer)):
            module.quantizing = on


def quantized_once(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, each layer quantizes its weights in its first call only: for several calls with the same parameters."""
    return temporarily([module for module in model.modules() if isinstance(module, _QuantizedLayer)], cache={})


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor, layers: Iterable[PACT] | None = None) -> None:
    """Set every alpha to the best clip on one batch, layer by layer, each behind the quantized layers before it.

    The batch, such as the first few hundred of the training images, runs through the network once, in its own mode.
    layers: those of the network whose alpha is set; all when None.
    """
    with temporarily(pact_layers(model).values() if layers is None else layers, calibrating=True):
        model(images.clone())  # which a network may overwrite


LAYERS = (nn.Conv2d, nn.Linear)  # that `quantized` replaces


def quantized(module: nn.Module, bits: int) -> nn.Module:
    """A copy of a network whose weights and activations have so many bits, with the weights that it had.

    nn.Conv2d becomes QuantConv2d, nn.Linear QuantLinear, nn.ReLU PACT; the first and the last layer have 8-bit weights.
    Other modules stay as they are. Calibrate it on a batch before it trains or answers (`calibrate`).

    module: any network whose layers are modules; what its forward calls as functions (F.relu) is not found. Raises
    ValueError for bits outside 2 to 8, a network without such layers, a ReLU, layer or parameter in several places, and
    hooks on what is replaced.
    """
    check_network(module)
    for name, each in module.named_modules():
        if type_before_parametrizations(each) in (*LAYERS, nn.ReLU) and hooked(each):
            advice = "remove it, or make it permanent (prune.remove, remove_weight_norm)"
            raise ValueError(f"{name or 'the layer'} has a hook, which would be lost; {advice}")
    network = copy.deepcopy(module)
    places = list(network.named_modules(remove_duplicate=False))
    layers = {name: each for name, each in places if type_before_parametrizations(each) in LAYERS}
    owners = Counter(id(value) for _, each in places for value in each._parameters.values())
    relus = [name for name, each in places if type(each) is nn.ReLU]
    if not layers:
        raise ValueError("the network holds no nn.Conv2d and no nn.Linear to quantize")
    if len({id(network.get_submodule(name)) for name in relus}) < len(relus):
        raise ValueError("one nn.ReLU stands in several places; give each its own, since each gets a clip of its own")
    shared = [name for name, each in layers.items() if any(owners[id(value)] > 1 for value in each.parameters())]
    if shared:
        raise ValueError(f"{shared[0]} or its weight or bias stands in several places; give each place its own")
    first, last = list(layers)[0], list(layers)[-1]
    new = {name: _quantized(each, EDGE_BITS if name in (first, last) else bits) for name, each in layers.items()}
    for name in relus:
        new[name] = PACT(bits)
        new[name].inplace = network.get_submodule(name).inplace
    for name, layer in new.items():
        if not name:  # the network is a single layer
            return layer
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer)
    return network


@torch.no_grad()
def _quantized(old: nn.Conv2d | nn.Linear, bits: int) -> nn.Module:
    # A layer of PyTorch has its sizes and options as attributes of the arguments' names.
    options = {
        name: getattr(old, name, None) for name in inspect.signature(type_before_parametrizations(old)).parameters
    }
    options |= {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
    new = (QuantLinear if isinstance(old, nn.Linear) else QuantConv2d)(**options, bits=bits)
    for name, values in new.named_parameters():
        values.copy_(getattr(old, name))  # as it is, also where a parametrization computes it from others
        source = old.parametrizations[name].parameters() if is_parametrized(old, name) else [getattr(old, name)]
        values.requires_grad_(any(each.requires_grad for each in source))
    new.freeze()
    return new.train(old.training)
