"""The functions of lenet.c as operators of PyTorch: float32 tensors on the CPU in and out, gradients included.

An operator has two nodes in the graph of a backward pass, one for its input and one for its parameters:

    x ---------- _Branch --+
                           +-- _Result -- output
    parameters - _Branch --+

PyTorch runs those branches that a pass asks for, so a saliency map computes no gradient of a weight, and a step of
training none of the images. _Result, which runs before them, leaves them the output's gradient in the operator.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from saqlib.kernels.library import library

SIDE, KERNEL = 28, 5
CHANNELS = (8, 16)  # of the two convolutions that lenet.c is written for
POOLED = (14, 5)  # pixels of a side behind each block
LANES = 8
PANEL = 16  # columns that `product` works on at once
NOTHING = -1  # levels of no activation


class Activation(NamedTuple):
    """What stands behind a convolution: PACT with this clip and 2^bits - 1 = `levels`, ReLU (levels 0), or NOTHING.

    as_codes: PACT's output is whole numbers, from 0 to levels, in place of values. passing: backward, what is clipped
    passes the gradient on, and alpha has none.
    """

    alpha: Tensor | None = None
    levels: int = 0
    as_codes: bool = False
    passing: bool = False

    @property
    def numbers(self) -> tuple[float, float, float]:
        """levels, alpha, and what one code of the output is worth there."""
        if self.levels <= 0:
            return self.levels, 0.0, 0.0
        return self.levels, self.alpha.item(), 1.0 if self.as_codes else (self.alpha.detach() / self.levels).item()


def runs(*tensors: Tensor) -> bool:
    """Whether the kernels may take these: float32 on the CPU, plain tensors, and a library was built."""
    fit = all(each.dtype == torch.float32 and each.device.type == "cpu" for each in tensors)
    return fit and plain(*tensors) and not torch.is_autocast_enabled("cpu") and library() is not None


def plain(*tensors: Tensor) -> bool:
    """Whether these are values, and nobody records what is done with them but autograd, backward."""
    kinds = all(type(each) in (Tensor, torch.nn.Parameter) for each in tensors)
    # To torch.func and to forward-mode differentiation an operator of ours is a constant.
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return kinds and not (torch.compiler.is_compiling() or torch.jit.is_tracing() or transformed)


# ------------------------------------------------------------------------------------------ forward and backward


class _Branch(Function):
    """Stands for some arguments of an operator; run backward only if their gradients are asked for."""

    @staticmethod
    def forward(ctx, gradient: Callable[..., tuple], needed: tuple[Tensor, ...], *arguments: Tensor) -> Tensor:
        ctx.gradient = gradient
        ctx.save_for_backward(*needed)
        return arguments[0].new_zeros(())

    @staticmethod
    def backward(ctx, _: Tensor) -> tuple:
        return None, None, *ctx.gradient(*ctx.saved_tensors)


class _Result(Function):
    """What an operator gave; backward it leaves the gradient to the branches."""

    @staticmethod
    def forward(ctx, operator: "_Operator", output: Tensor, *branches: Tensor) -> Tensor:
        ctx.operator = operator
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        if torch.is_grad_enabled():  # create_graph=True: what comes out would have no gradient, without a word
            raise RuntimeError("the kernels have no second derivative; call the network's `run`, which has one")
        ctx.operator.grad = grad.contiguous()
        zero = grad.new_zeros(())
        return None, None, zero, zero


class _Operator:
    """One call: `grad` is the gradient of its output in the backward pass that is going on.

    A subclass has the gradients `of_input(weight)` and `of_parameters(x)`, each a tuple.
    """

    grad: Tensor

    def result(self, output: Tensor, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """The output, as a function of x and the parameters."""
        if not torch.is_grad_enabled():
            return output
        there = [parameter for parameter in parameters if parameter is not None]
        from_x = _Branch.apply(self.of_input, (self.weight,), x)
        from_parameters = _Branch.apply(self.of_parameters, (x.detach(),), *there)
        return _Result.apply(self, output, from_x, from_parameters)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


# ------------------------------------------------------------------------------------------------------ the blocks


class _Block(_Operator):
    """Convolution, pooling and activation; the subclass says which of the two."""

    def __init__(self, weight: Tensor, activation: Activation, unit: Tensor | None):
        self.weight, self.activation = weight.detach(), activation
        # The gradient of the convolution's sums is that of the output times this, where the activation passes it.
        self.factor = unit
        self.step = None
        if activation.as_codes:
            self.step = activation.alpha.item() / activation.levels
            self.factor = (torch.ones(len(weight)) if unit is None else unit) / self.step

    def run(self, forward: Callable[..., None], x: Tensor, weight: Tensor, bias: Tensor, unit: Tensor | None) -> Tensor:
        output = torch.empty(len(x), self.side, self.side, len(bias))
        self.code = torch.empty(output.shape, dtype=torch.uint8)
        forward(
            len(x), _at(x), _at(weight), _at(bias), *self.activation.numbers, _at(unit), _at(output), _at(self.code)
        )
        if self.activation.passing:
            self.code -= 4 * (self.code >= 8).to(torch.uint8)  # lenet.c's CLIPPED becomes PASSED
        return output

    def of_alpha(self) -> tuple[Tensor, ...]:
        if self.activation.levels <= 0:
            return ()
        total = library().clipped(self.grad.numel(), _at(self.grad), _at(self.code))
        return (torch.tensor(total if self.step is None else total / self.step),)

    def pointers(self) -> tuple[int, int | None, int | None]:
        return len(self.grad), _at(self.grad), _at(self.code)


class _Block1(_Block):
    side = POOLED[0]

    def of_input(self, weight: Tensor) -> tuple[Tensor]:
        padded = torch.zeros(CHANNELS[0], KERNEL, LANES)
        padded[:, :, :KERNEL] = weight[:, 0]
        images = torch.empty(len(self.grad), 1, SIDE, SIDE)
        library().block1_images(*self.pointers(), _at(padded), _at(self.factor), _at(images))
        return (images,)

    def of_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        weight, bias = torch.empty(CHANNELS[0], KERNEL, LANES), torch.empty(CHANNELS[0])
        library().block1_weights(*self.pointers(), _at(x), _at(self.factor), _at(weight), _at(bias))
        return weight[:, None, :, :KERNEL], bias, *self.of_alpha()


class _Block2(_Block):
    side = POOLED[1]

    def of_input(self, weight: Tensor) -> tuple[Tensor]:
        by_output = weight.permute(0, 2, 3, 1).contiguous()
        x = torch.empty(len(self.grad), POOLED[0], POOLED[0], CHANNELS[0])
        library().block2_inputs(*self.pointers(), _at(by_output), _at(self.factor), _at(x))
        return (x,)

    def of_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        weight, bias = torch.empty(CHANNELS[1], KERNEL, KERNEL, CHANNELS[0]), torch.empty(CHANNELS[1])
        library().block2_weights(*self.pointers(), _at(x), _at(self.factor), _at(weight), _at(bias))
        return weight.permute(0, 3, 1, 2), bias, *self.of_alpha()


def block1(images: Tensor, weight: Tensor, bias: Tensor, activation: Activation, unit: Tensor | None = None) -> Tensor:
    """The first convolution (padded), pooling and activation.

    images (B, 1, 28, 28), weight (8, 1, 5, 5) and bias (8,) to (B, 14, 14, 8), channels last. unit: what one unit of
    the convolution's sums is worth, by channel (8,); 1 when None. A second derivative raises RuntimeError.
    """
    images, call = images.contiguous(), _Block1(weight, activation, unit)
    by_tap = call.weight[:, 0].permute(1, 2, 0).contiguous()
    output = call.run(library().block1_forward, images, by_tap, bias, unit)
    return call.result(output, images, weight, bias, activation.alpha)


def block2(x: Tensor, weight: Tensor, bias: Tensor, activation: Activation, unit: Tensor | None = None) -> Tensor:
    """The second convolution, pooling and activation: (B, 14, 14, 8), channels last, to (B, 5, 5, 16).

    weight, bias: (16, 8, 5, 5), (16,). The others and the error are those of `block1`.
    """
    x, call = x.contiguous(), _Block2(weight, activation, unit)
    by_tap = call.weight.permute(2, 3, 1, 0).contiguous()
    output = call.run(library().block2_forward, x, by_tap, bias, unit)
    return call.result(output, x, weight, bias, activation.alpha)


# ---------------------------------------------------------------------------------------------------- dense layers


class _Linear(_Operator):
    def __init__(self, weight: Tensor):
        self.weight = weight.detach()

    def of_input(self, weight: Tensor) -> tuple[Tensor]:
        return (_product(self.grad, weight),)

    def of_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        ones = torch.ones(1, len(x))
        return _product(self.grad.T, x), _product(ones, self.grad)[0]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A dense layer, x (B, in) to (B, out) with weight (out, in) and bias (out,); a second derivative is refused."""
    call = _Linear(weight)
    return call.result(_product(x.detach(), call.weight.T, bias), x, weight, bias)


def _product(a: Tensor, b: Tensor, start: Tensor | None = None) -> Tensor:
    """a (m, k) times b (k, n), plus start (n,); any strides."""
    out, panel = torch.empty(len(a), b.shape[1]), torch.empty(len(b), PANEL)
    shape = len(a), b.shape[1], len(b)
    library().product(*shape, _at(a), *a.stride(), _at(b), *b.stride(), _at(start), _at(panel), _at(out))
    return out


# ------------------------------------------------------------------------------------------------ quantized weights


def quantize(weight: Tensor, top: int, coefficients: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Values of a weight (out, ...) on its lattice, and the scale of each output channel (out,); no gradient.

    top: the largest code. coefficients: SAWB's c1 and c2, None where the largest magnitude is the clip.
    """
    weight = weight.detach()
    if not (weight.is_contiguous() or weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)):
        weight = weight.contiguous()
    values, scale = torch.empty_like(weight), torch.empty(len(weight))
    size = len(weight), weight.numel() // len(weight)
    library().quantize(*size, _at(weight), *(coefficients or (0.0, 0.0)), top, _at(scale), _at(values))
    return values, scale
