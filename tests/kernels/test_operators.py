"""The kernels against PyTorch's operators, on numbers whose sums are exact in any order: ties are ties in both."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from saqlib.kernels import library, operators
from saqlib.network.lattice import SAWB_COEFFICIENTS, _scale, codes_of, pact

pytestmark = pytest.mark.skipif(library.library() is None, reason=f"no kernels here: {library.why_not()}")
ALPHA = 0.5


def exact(generator: torch.Generator, *shape: int, top: int = 3) -> torch.Tensor:
    """Small multiples of 1/8, many of them equal: every sum of products here is exact in float32."""
    return torch.randint(-top, top + 1, shape, generator=generator) / 8


def reference(block: int, x, weight, bias, alpha, levels, unit):
    """Convolution, pooling and activation by PyTorch; x and the output channels last where the kernels have them so."""
    y = F.conv2d(x, weight, bias, padding=2) if block == 1 else F.conv2d(x.permute(0, 3, 1, 2), weight, bias)
    y = F.max_pool2d(y, 2)
    if unit is not None:
        y = y * unit[:, None, None]
    if levels >= 0:
        y = pact(y, alpha, levels.bit_length()) if levels else F.relu(y)
    return y.permute(0, 2, 3, 1)


CASES = [(block, levels, scaled) for block in (1, 2) for levels in (-1, 0, 3, 15) for scaled in (False, True)]


@pytest.mark.parametrize("batch", [1, 5, 128])
@pytest.mark.parametrize(("block", "levels", "scaled"), CASES)
def test_a_block_is_convolution_pooling_and_activation(block, levels, scaled, batch):
    """Output equal to the bit; the gradients of input, weights, bias and clip, too, up to the order of their sums."""
    generator = torch.Generator().manual_seed(7 * block + levels + batch)
    inputs, weights = ((1, 28, 28), (8, 1, 5, 5)) if block == 1 else ((14, 14, 8), (16, 8, 5, 5))
    tensors = [exact(generator, batch, *inputs), exact(generator, *weights), exact(generator, weights[0])]
    tensors[0][:, ..., :3] = 0
    unit = 2.0 ** torch.randint(-2, 2, (weights[0],), generator=generator) if scaled else None
    outcomes = []
    for by_kernels in (False, True):
        x, weight, bias = (tensor.clone().requires_grad_() for tensor in tensors)
        alpha = torch.tensor(ALPHA, requires_grad=True)
        if by_kernels:
            run = operators.block1 if block == 1 else operators.block2
            y = run(x, weight, bias, operators.Activation(alpha if levels > 0 else None, levels), unit)
        else:
            y = reference(block, x, weight, bias, alpha, levels, unit)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        wanted = [x, weight, bias, *([alpha] if levels > 0 else [])]
        found = torch.autograd.grad(y, wanted, grad, retain_graph=True)
        if scaled:  # the unit is a constant of evaluation, where only the input and the clip are asked
            found = [found[0], *found[3:]]
        outcomes.append((y.detach(), found))
    (y, theirs), (ours, own) = outcomes
    assert torch.equal(y, ours)
    if levels > 0:
        shares = [(y > 0.99 * ALPHA).any(), (y == 0).any(), ((y > 0) & (y < 0.99 * ALPHA)).any()]
        assert all(shares)
    for a, b in zip(theirs, own, strict=True):
        terms = grad.abs().sum().item() if a.dim() == 0 else max(1.0, a.abs().max().item())
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5 * terms if a.dim() else 1e-7 * terms)


def test_codes_in_place_of_values():
    """as_codes: whole numbers, the values divided by one step; gradients of the image times 1 / step."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = exact(generator, 4, 1, 28, 28), exact(generator, 8, 1, 5, 5), exact(generator, 8)
    alpha, found = torch.tensor(ALPHA, requires_grad=True), []
    for as_codes in (False, True):
        images = x.clone().requires_grad_()
        y = operators.block1(images, weight, bias, operators.Activation(alpha, 15, as_codes))
        found.append((y.detach(), *torch.autograd.grad(y.sum(), [images, alpha])))
    step = ALPHA / 15
    assert torch.equal(found[1][0], (found[0][0] / step).round())
    torch.testing.assert_close(found[1][1], found[0][1] / step)
    torch.testing.assert_close(found[1][2], found[0][2] / step)


def test_a_pass_computes_what_it_is_asked_for(monkeypatch):
    """The images' gradient alone runs no sum over weights, and the weights' none over images."""
    asked = []
    kernels = library.library()

    class Spy:
        def __getattr__(self, name):
            asked.append(name)
            return getattr(kernels, name)

    generator = torch.Generator().manual_seed(0)
    x, weight, bias = exact(generator, 2, 1, 28, 28), exact(generator, 8, 1, 5, 5), exact(generator, 8)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = operators.block1(x, weight, bias, operators.Activation()).sum()
    monkeypatch.setattr(operators, "library", Spy)
    torch.autograd.grad(y, x, retain_graph=True)
    assert asked == ["block1_images"]
    torch.autograd.grad(y, weight)
    assert asked == ["block1_images", "block1_weights"]


def test_a_second_derivative_is_refused():
    """Not left out in silence, neither of a block nor of a dense layer; the message names the way."""
    x, weight = torch.rand(2, 1, 28, 28, requires_grad=True), torch.rand(8, 1, 5, 5, requires_grad=True)
    rows, matrix = torch.rand(2, 5, requires_grad=True), torch.rand(3, 5, requires_grad=True)
    outputs = {
        x: operators.block1(x, weight, torch.rand(8), operators.Activation()),
        rows: operators.linear(rows, matrix, torch.rand(3)),
    }
    for inputs, output in outputs.items():
        with pytest.raises(RuntimeError, match="second derivative.*run"):
            torch.autograd.grad(output.sum(), inputs, create_graph=True)


@pytest.mark.parametrize("levels", [-1, 0, 3])
@pytest.mark.parametrize("row", [8, 13])
@pytest.mark.parametrize("column", [8, 13])
def test_nan_is_never_swallowed(levels, row, column):
    """A NaN that reaches one of the four sums of a window, whichever, comes out: pixel 8 reaches row 10, 13 row 11."""
    x = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x[0, 0, row, column] = torch.nan
    y = operators.block1(x, torch.ones(8, 1, 5, 5), torch.zeros(8), operators.Activation(torch.tensor(1.0), levels))
    assert y[0, 5, 5].isnan().all()


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 35), st.integers(0, 10**6))
def test_a_dense_layer_of_any_size(batch, inputs, outputs, seed):
    """Equal to the library's matrix product, gradients included."""
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = exact(generator, batch, inputs), exact(generator, outputs, inputs), exact(generator, outputs)
    grad, found = exact(generator, batch, outputs), []
    for layer in (F.linear, operators.linear):
        arguments = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = layer(*arguments)
        found.append((y.detach(), *torch.autograd.grad(y, arguments, grad)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(8, 1, 5, 5), (16, 8, 5, 5), (120, 400), (10, 84), (3, 7)])
def test_weights_on_their_lattice(bits, shape):
    """Scale to rounding of PyTorch's, and the values are codes of that very scale; zeros and equal magnitudes, too."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(bits))
    weight[0], weight[1] = 0.0, 0.25
    if weight.dim() == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    values, scale = operators.quantize(weight, 2 ** (bits - 1) - 1, SAWB_COEFFICIENTS.get(bits))
    scale = scale.view(-1, *[1] * (weight.dim() - 1))
    torch.testing.assert_close(scale, _scale(weight, bits), rtol=2e-5, atol=0)
    assert torch.equal(values, codes_of(weight, scale, bits) * scale)
    assert (values[0] == 0).all() and scale[0] == 1


def test_what_the_kernels_do_not_take():
    """Other types and devices, autocast: PyTorch's operators."""
    assert operators.runs(torch.zeros(1), torch.nn.Parameter(torch.zeros(1)))
    assert not operators.runs(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert not operators.runs(torch.zeros(1, dtype=torch.bfloat16))
    assert not operators.runs(torch.zeros(1, device="meta"))
    with torch.autocast("cpu"):
        assert not operators.runs(torch.zeros(1))
