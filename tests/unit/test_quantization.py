"""saqlib.quantization: levels and gradients against closed forms and NumPy twins, layers in both modes, networks."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune, remove_weight_norm, weight_norm

from saqlib.errors import NotFiniteError
from saqlib.precision import check_bits
from saqlib.quantization import (
    PACT,
    QuantConv2d,
    QuantLinear,
    best_clip,
    calibrate,
    on_lattice,
    output_scale,
    pact,
    pact_layers,
    quantize_weight,
    quantized,
    quantized_once,
    set_quantizing,
    temporarily,
)

ALL_BITS = range(2, 9)
double = functools.partial(torch.tensor, dtype=torch.float64)


@pytest.mark.parametrize("bits", [1, 9, 16, 0, -2, 2.0, True, "4", None, [4]])
def test_bits_outside_2_to_8_are_refused_everywhere(bits):
    """Every entrance says which bits it supports and what it was given."""
    entrances = (
        check_bits,
        PACT,
        lambda bits: pact(torch.ones(1), torch.tensor(1.0), bits),
        lambda bits: quantize_weight(torch.ones(1, 1), bits),
        lambda bits: QuantLinear(2, 2, bits=bits),
        lambda bits: QuantConv2d(1, 1, 3, bits=bits),
        lambda bits: quantized(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), bits),
    )
    for entrance in entrances:
        with pytest.raises(ValueError, match="^bits must be a whole number from 2 to 8, not ") as error:
            entrance(bits)
        assert repr(bits) in str(error.value)


# ---------------------------------------------------------------------------------------------- activations


def numpy_pact(x: np.ndarray, alpha: float, bits: int) -> np.ndarray:
    """PACT, written from the paper."""
    step = alpha / (2**bits - 1)
    return np.rint(np.minimum(np.maximum(x, 0), alpha) / step) * step


def pact_and_gradients(x: torch.Tensor, alpha: float, bits: int, upstream: torch.Tensor, **options: bool):
    """Output of `pact` and its gradients for x and alpha under an upstream gradient."""
    x, alpha = x.clone().requires_grad_(), double(alpha).requires_grad_()
    y = pact(x, alpha, bits, **options)
    return y.detach(), *torch.autograd.grad(y, (x, alpha), upstream)


@st.composite
def pact_cases(draw):
    """Bits, alpha, inputs at a known distance from the rounding boundaries, upstream gradients."""
    bits, alpha = draw(st.integers(2, 8)), draw(st.floats(0.01, 50))
    top = 2**bits - 1
    code = st.integers(-3, top + 3)
    offset = st.floats(-0.49, 0.49) | st.just(0.0)
    pairs = draw(st.lists(st.tuples(code, offset, st.floats(-5, 5)), min_size=1, max_size=40))
    x = np.array([(code + offset) * alpha / top for code, offset, _ in pairs] + [0.0, alpha])
    return bits, alpha, x, np.array([upstream for *_, upstream in pairs] + [1.0, 2.0])


@given(pact_cases())
def test_pact_equals_its_numpy_twin(case):
    """Forward and both gradients agree with the twin in float64, also at exactly 0 and alpha."""
    bits, alpha, x, upstream = case
    y, dx, dalpha = pact_and_gradients(torch.from_numpy(x), alpha, bits, torch.from_numpy(upstream))
    np.testing.assert_allclose(y, numpy_pact(x, alpha, bits), rtol=1e-14, atol=0)
    np.testing.assert_array_equal(dx, np.where((x > 0) & (x < alpha), upstream, 0))
    np.testing.assert_allclose(dalpha, math.fsum(upstream[x >= alpha]), rtol=1e-12, atol=1e-12)
    unrounded = pact_and_gradients(torch.from_numpy(x), alpha, bits, torch.from_numpy(upstream), rounding=False)
    np.testing.assert_array_equal(unrounded[0], np.clip(x, 0, alpha))
    assert all(torch.equal(*pair) for pair in zip(unrounded[1:], (dx, dalpha), strict=True))


TABLE = [  # x, code, gradient for x, gradient for alpha; alpha = 3 at 2 bits, so that one code is worth 1
    (-1e300, 0, 0, 0),
    (-5e-324, 0, 0, 0),
    (0.0, 0, 0, 0),
    (5e-324, 0, 1, 0),
    (0.5, 0, 1, 0),  # a mid-point goes to the even code
    (0.5000001, 1, 1, 0),
    (1.5, 2, 1, 0),
    (2.5, 2, 1, 0),
    (2.5000001, 3, 1, 0),
    (math.nextafter(3, 0), 3, 1, 0),
    (3.0, 3, 0, 1),
    (math.nextafter(3, 4), 3, 0, 1),
    (math.inf, 3, 0, 1),
]


@pytest.mark.parametrize(("x", "code", "dx", "dalpha"), TABLE)
def test_pact_by_hand(x, code, dx, dalpha):
    """Values and both gradients at and beside every bound: no clamp defines a gradient, no estimator is unmasked."""
    found = pact_and_gradients(double([x]), 3.0, 2, double([1.0]))
    assert [each.item() for each in found] == [code, dx, dalpha]


def test_pact_keeps_nan_visible_and_has_no_curvature():
    """A diverged network cannot pass for a clipped one. Second derivatives: 0 for x and alpha, 1 for what is above."""
    assert pact(torch.tensor([math.nan, math.inf]), torch.tensor(2.0), 4).isnan().tolist() == [True, False]
    x, alpha = double([-1.0, 0.5, 2.0, 4.0]).requires_grad_(), double(3.0).requires_grad_()
    above = double([1.0, 2.0, 3.0, 4.0]).requires_grad_()
    dx, dalpha = torch.autograd.grad(pact(x, alpha, 2), (x, alpha), above, create_graph=True)
    found = torch.autograd.grad((dx**2).sum() + dalpha**2, (x, alpha, above), materialize_grads=True)
    assert [each.tolist() for each in found] == [[0, 0, 0, 0], 0, [0, 4, 6, 8]]


@pytest.mark.parametrize("bits", ALL_BITS)
def test_best_clip_has_the_least_squared_error_of_its_candidates(bits):
    """No other hundredth of the largest value comes closer to relu(x), and a coarse lattice clips more."""
    x = torch.randn(4000, generator=torch.Generator().manual_seed(1))

    def error(alpha):
        return np.mean((numpy_pact(x.numpy(), alpha, bits) - np.maximum(x.numpy(), 0)) ** 2)

    candidates = x.max().item() * np.arange(1, 101) / 100
    assert error(best_clip(x, bits).item()) == pytest.approx(min(map(error, candidates)), rel=1e-4)
    assert best_clip(x, 2) < 0.75 * x.max() < best_clip(x, 8)
    assert best_clip(-x.abs(), bits) == best_clip(0 * x, bits) == 1  # never active: a positive clip all the same


@pytest.mark.parametrize(
    ("alpha", "error", "message"),
    [
        (torch.tensor(0.0), ValueError, "must be positive, not 0.0; calibrate the network$"),
        (torch.tensor(-1.0), ValueError, "must be positive, not -1.0"),
        (torch.tensor(math.nan), NotFiniteError, "is not finite"),
        (torch.tensor(-math.inf), NotFiniteError, "is not finite"),
        (torch.ones(3), ValueError, r"must be a scalar, not of shape \(3,\)$"),  # would broadcast along another axis
    ],
)
def test_a_clip_that_is_no_positive_number_is_refused(alpha, error, message):
    """With it every value would become one number, or change its sign."""
    with pytest.raises(error, match=f"^the clip alpha {message}"):
        pact(torch.ones(3), alpha, 2)


@pytest.mark.parametrize("alpha", [0.5, -1.0, math.nan, math.inf])
def test_nor_is_it_taken_when_compiled(alpha):
    """There the number is not known before the call."""
    layer, x = PACT(2), torch.linspace(-1, 1, 9)
    layer.set_alpha(torch.tensor(alpha))
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="eager")
    if alpha == 0.5:
        assert torch.equal(compiled(x), layer(x))
    else:
        with pytest.raises(RuntimeError, match="the clip alpha must be positive"):
            compiled(x)


@pytest.mark.parametrize("quantizing", [True, False])
def test_pact_module_is_the_function_or_relu_during_the_warm_up(quantizing):
    """The same values and gradients, none for alpha in the warm-up; its scale is that of one code."""
    x, layer = torch.randn(100, generator=torch.Generator().manual_seed(2), requires_grad=True), PACT(4)
    layer.set_alpha(torch.tensor(1.3))
    layer.quantizing = quantizing
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, pact(x, torch.tensor(1.3), 4) if quantizing else x.relu())
    assert torch.equal(x.grad, ((x > 0) & ((x < 1.3) | (not quantizing))).float())
    assert (layer.alpha.grad is not None) == quantizing
    assert layer.scale.item() == pytest.approx(1.3 / 15) and not layer.scale.requires_grad


def test_an_alpha_that_tracks_is_the_running_largest_value():
    """By hand: it rises at once, falls by 1 % a call, and stays in evaluation and in the warm-up."""
    layer, found = PACT(4).double(), []
    layer.tracking = True
    for largest in (2.0, 1.0, 1.99, -1.0):
        y = layer(double([-3.0, largest]))
        assert y[1].item() == pytest.approx(max(largest, 0), abs=layer.scale.item() / 2)
        found.append(layer.alpha.item())
    assert found == pytest.approx([2, 2 * 0.99, 1.99, 1.99 * 0.99])
    for off in ({"training": False}, {"quantizing": False}, {"tracking": False}):
        with temporarily([layer], **off):
            layer(double([5.0]))
            assert layer.alpha.item() == found[-1]
    layer.calibrating = True  # which goes first, as at the end of the warm-up
    layer(double([5.0]))
    assert layer.alpha == best_clip(double([5.0]), 4)


def test_what_is_not_rounded_is_on_no_lattice():
    """So the layer behind it gets no value of a code, and evaluates on values."""
    layer = PACT(2, rounding=False)
    assert output_scale(layer) is None and output_scale(PACT(2)) == PACT(2).scale
    x = torch.linspace(-1, 2, 7)
    assert torch.equal(layer(x), x.clamp(0, 1)) and torch.equal(layer.eval()(x), x.clamp(0, 1))
    layer.calibrating = True  # the best clip of what only clips is the largest value
    layer(x)
    assert layer.alpha == 2 > best_clip(x, 2)


# -------------------------------------------------------------------------------------------------- weights


def numpy_weights(row: np.ndarray, clip: float, bits: int) -> np.ndarray:
    """Symmetric weights of one output channel."""
    top = 2 ** (bits - 1) - 1
    return np.clip(np.rint(row / clip * top), -top, top) * clip / top


def sawb_clip(row: np.ndarray, bits: int) -> float:
    """With the coefficients of the paper's authors, for 3 and 15 levels."""
    c1, c2 = {2: (2.6, -1.71), 4: (12.035, -12.03)}[bits]
    return min(c1 * math.sqrt(np.mean(row**2)) + c2 * np.mean(np.abs(row)), np.abs(row).max())


DRAWS = {
    "gaussian": lambda g: g.standard_normal(50_000),
    "laplace": lambda g: g.laplace(size=50_000),
    "uniform": lambda g: g.uniform(-1, 1, 50_000),
}


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("distribution", DRAWS)
def test_weight_clip_is_within_2_percent_of_the_best(bits, distribution):
    """The squared error at our clip is at most 2 % above the least that any clip reaches."""
    row = DRAWS[distribution](np.random.default_rng(0))
    clips = np.linspace(0.1, 1, 200) * np.abs(row).max()
    least = min(np.mean((numpy_weights(row, clip, bits) - row) ** 2) for clip in clips)
    codes, scale = quantize_weight(torch.from_numpy(row)[None], bits)
    assert np.mean(((codes * scale)[0].numpy() - row) ** 2) <= 1.02 * least


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("shape", [(6, 75), (6, 3, 5, 5)])
def test_weights_equal_their_numpy_twin(bits, shape):
    """Channel by channel, whatever the others are, the values are those of the published coefficients."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weight *= torch.logspace(-2, 2, 6).view(-1, *[1] * (len(shape) - 1))
    codes, scale = quantize_weight(weight, bits)
    assert scale.shape == (6, *[1] * (len(shape) - 1))
    for row, value in zip(weight.flatten(1).numpy(), (codes * scale).flatten(1).numpy(), strict=True):
        np.testing.assert_allclose(value, numpy_weights(row, sawb_clip(row, bits), bits), rtol=1e-12)


@pytest.mark.parametrize(("bits", "codes", "scale"), [(2, [0, 0, 0, 1], 1.745), (4, [0, 0, 0, 7], 2 / 7)])
def test_weights_by_hand(bits, codes, scale):
    """Moments 1 and 1/2: at 2 bits the clip is 2.6 - 1.71 / 2; at 4 bits the line lies above the largest magnitude."""
    found = quantize_weight(double([[0, 0, 0, 2]]), bits)
    assert (found[0].tolist(), found[1].item()) == ([codes], pytest.approx(scale))


@given(
    st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=30),
    st.integers(2, 8),
)
def test_codes_are_whole_symmetric_and_below_half_a_step_inside_the_clip(values, bits):
    """Codes lie in -(2^(b-1) - 1) to 2^(b-1) - 1; what is not clipped is at most half a step away."""
    weight = double([values])
    codes, scale = quantize_weight(weight, bits)
    top = 2 ** (bits - 1) - 1
    assert torch.equal(codes, codes.round()) and codes.abs().max() <= top
    assert torch.equal(quantize_weight(-weight, bits)[0], -codes)
    error = (codes * scale - weight).abs()
    assert (error[weight.abs() <= top * scale] <= scale / 2 * (1 + 1e-9)).all()


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 2e-38, 1e-30, 1e-8, 0.3, 1e8])
def test_constant_weights_get_a_positive_scale_and_survive(bits, magnitude):
    """A channel of one magnitude is met exactly, where SAWB's line would erase it; denormal ones divide by no 0."""
    weight = torch.full((2, 25), magnitude)
    weight[0, ::2] *= -1
    codes, scale = quantize_weight(weight, bits)
    assert (scale > 0).all() and scale.isfinite().all() and codes.isfinite().all()
    if magnitude == 0 or magnitude > 1e-37:
        torch.testing.assert_close(codes * scale, weight, rtol=1e-5, atol=0)
    alpha = best_clip(weight[1], bits)
    assert alpha > 0 and pact(weight[1], alpha, bits).isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_that_are_not_finite_are_refused_or_stay_visible(bad, bits):
    """No code stands for them, and no clip follows from them; in training they make their channel NaN, so the loss."""
    weight = torch.ones(2, 5)
    weight[0, 3] = bad
    values, _ = on_lattice(weight, bits)
    assert values[0].isnan().any() and values[1].isfinite().all()
    with pytest.raises(NotFiniteError, match="^weights are not finite"):
        quantize_weight(weight, bits)
    if bad != -math.inf:  # which is nothing to a ReLU
        with pytest.raises(NotFiniteError, match="^the largest activation to calibrate on is not finite"):
            best_clip(weight, bits)
    with pytest.raises(ValueError, match="the batch is empty"):
        best_clip(torch.zeros(0, 3), bits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32])
def test_types_that_do_not_hold_codes_are_refused(dtype):
    """In eight bits of mantissa 8-bit codes turn into their neighbours."""
    with pytest.raises(ValueError, match="^what PACT clips must be float32 or float64"):
        pact(torch.ones(3, dtype=dtype), torch.tensor(1.0), 8)
    with pytest.raises(ValueError, match="^weights must be float32 or float64"):
        quantize_weight(torch.ones(2, 3, dtype=dtype), 8)
    layer = QuantLinear(6, 4, bits=4)
    with pytest.raises(ValueError, match=f"^QuantLinear takes torch.float32, as its parameters are, not {dtype}$"):
        layer(torch.ones(3, 6, dtype=dtype))
    if dtype.is_floating_point:
        with pytest.raises(ValueError, match="^the parameters of QuantLinear must be float32 or float64"):
            layer.to(dtype).eval()(torch.ones(3, 6, dtype=dtype), 0.1)


# ------------------------------------------------------------------------------------------- quantized layers

LAYERS = {
    "linear": (lambda bits, **options: QuantLinear(6, 4, bits=bits, **options), (3, 6)),
    "conv": (lambda bits, **options: QuantConv2d(2, 4, 3, bits=bits, **options), (3, 2, 5, 5)),
}
each_kind = pytest.mark.parametrize("kind", LAYERS)
several_bits = pytest.mark.parametrize("bits", [2, 4, 8])


def plain(layer: nn.Module, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weight, bias) if isinstance(layer, nn.Linear) else F.conv2d(x, weight, bias)


@each_kind
@several_bits
def test_layer_equals_the_plain_layer_on_quantized_weights(kind, bits):
    """In training: codes * scale, and the gradients of the plain layer, unmasked; plain itself in the warm-up."""
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer, x = make(bits), torch.randn(shape, requires_grad=True)
    y = layer(x)
    upstream = torch.randn_like(y)
    found = torch.autograd.grad(y, (x, layer.weight, layer.bias), upstream)
    codes, scale = quantize_weight(layer.weight, bits)
    weight = (codes * scale).requires_grad_()
    expected_y = plain(layer, x, weight, layer.bias)
    torch.testing.assert_close(y, expected_y)
    expected = torch.autograd.grad(expected_y, (x, weight, layer.bias), upstream)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)
    assert codes.abs().eq(2 ** (bits - 1) - 1).any()  # at or beyond the clip, and still trained
    set_quantizing(layer, False)
    assert torch.equal(layer(x, 0.5), plain(layer, x, layer.weight, layer.bias))


@each_kind
@several_bits
@pytest.mark.parametrize("bias", [True, False])
def test_layer_in_evaluation_is_integer_arithmetic(kind, bits, bias):
    """On codes of the input it equals int64 arithmetic with bias codes, scaled once at the end by channel."""
    torch.manual_seed(1)
    make, shape = LAYERS[kind]
    layer, codes, input_scale = make(bits, bias=bias).eval(), torch.randint(0, 16, shape), torch.tensor(0.03)
    bias_codes = layer.bias_codes(input_scale)
    assert (bias_codes is not None) == bias
    integers = plain(layer, codes, layer.codes().long(), bias_codes.long() if bias else None)
    unit = layer.output_scale(input_scale)
    assert torch.equal(unit, layer.weight_scale.flatten() * input_scale)
    expected = integers.double() * unit.double().view(-1, *[1] * (len(shape) - 2))
    found = layer(codes * input_scale, input_scale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    unbatched = layer((codes * input_scale)[0], input_scale)  # also without a batch, or with more axes
    torch.testing.assert_close(unbatched, found[0])
    if kind == "linear":
        assert torch.equal(layer((codes * input_scale)[None], input_scale)[0], found)


NEW_WEIGHTS = {
    "copied": lambda layer, weight: layer.weight.copy_(weight),
    "behind autograd": lambda layer, weight: layer.weight.data.copy_(weight),
    "set": lambda layer, weight: setattr(layer, "weight", nn.Parameter(weight)),
    "as data": lambda layer, weight: setattr(layer.weight, "data", weight),
    "loaded": lambda layer, weight: layer.load_state_dict({"weight": weight}, strict=False),
    "one channel": lambda layer, weight: layer.weight[0].copy_(weight[0]),
}


@each_kind
@pytest.mark.parametrize("way", NEW_WEIGHTS)
@torch.no_grad()
def test_the_scale_is_that_of_the_weights_as_they_are(kind, way):
    """Evaluation starts with the scale of the last weights, not of the last batch, and follows whatever sets others."""
    make, shape = LAYERS[kind]
    layer, x = make(4), torch.rand(shape)
    layer(x)
    layer.weight.mul_(2)  # as an optimiser's last step may
    frozen = quantize_weight(layer.weight, 4)[1]
    assert torch.equal(layer.eval().weight_scale, frozen)
    layer(x, 1 / 255)
    assert torch.equal(layer.weight_scale, frozen)
    for call in (lambda: layer(x), lambda: layer(x, 1 / 255), layer.eval):
        NEW_WEIGHTS[way](layer, 3 * layer.weight)
        call()
        codes, scale = quantize_weight(layer.weight, 4)
        assert torch.equal(layer.weight_scale, scale) and torch.equal(layer.codes(), codes), way
        assert layer.weight_scale[0] > 2 * frozen[0]


@each_kind
@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 10**6))
@settings(deadline=None)
def test_a_state_is_taken_with_its_bits_and_no_others(kind, bits, others, seed):
    """To the bit, scales included, also those of the step before its weights; of other bits it is refused by name."""
    torch.manual_seed(seed)
    make, shape = LAYERS[kind]
    saved, layer = make(bits), make(others).eval()
    saved(torch.rand(shape))
    with torch.no_grad():
        saved.weight.add_(1e-3 * torch.randn_like(saved.weight))
    if bits == others:
        layer.load_state_dict(saved.state_dict())
        layer(torch.rand(shape), 1 / 255)
        assert all(torch.equal(value, saved.state_dict()[name]) for name, value in layer.state_dict().items())
    else:
        with pytest.raises(RuntimeError, match=f"weight_scale is of another precision.* with {others} bits"):
            layer.load_state_dict(saved.state_dict())


# ------------------------------------------------------------------------------------------------ whole networks


def test_calibration_sets_every_alpha_behind_the_quantized_layers_before_it():
    """Layer by layer, alpha is the best clip for what really arrives there; afterwards nothing calibrates."""
    torch.manual_seed(4)
    model = nn.Sequential(QuantLinear(6, 20, bits=2), PACT(2), QuantLinear(20, 30, bits=2), PACT(4))
    x = torch.rand(50, 6)
    calibrate(model, x)
    first = model[0](x)
    assert torch.equal(model[1].alpha, best_clip(first, 2))
    assert torch.equal(model[3].alpha, best_clip(model[2](pact(first, model[1].alpha, 2)), 4))
    assert not torch.allclose(model[3].alpha, best_clip(model[2](first.relu()), 4))
    first, second = (layer.alpha.item() for layer in pact_layers(model).values())
    model(10 * x)
    assert (model[1].alpha, model[3].alpha) == (first, second)
    calibrate(model, 10 * x, [model[3]])  # only this one
    assert model[1].alpha == first and model[3].alpha > second
    assert model[3].floor.item() == pytest.approx(1e-3 * model[3].alpha.item())


def test_a_forward_that_fails_leaves_no_state():
    """A wrong batch: no layer goes on calibrating, nor with quantized weights of old."""
    model = nn.Sequential(QuantConv2d(1, 4, 3, bits=2), PACT(2), nn.Flatten(), QuantLinear(144, 10, bits=2))
    with pytest.raises(RuntimeError):
        calibrate(model, torch.rand(5, 3, 8, 8))
    assert not any(layer.calibrating for layer in pact_layers(model).values())
    with pytest.raises(RuntimeError), quantized_once(model):
        model(torch.rand(5, 3, 8, 8))
    assert model[0].cache is model[3].cache is None


class Branches(nn.Module):
    """Not a sequence: nested, grouped, strided, without biases."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode="circular")
        self.body = nn.ModuleDict({"conv": nn.Conv2d(6, 6, 3, padding="same", groups=3, bias=False), "act": nn.ReLU()})
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.body["act"](self.body["conv"](x)))


def test_a_network_of_ones_own_is_quantized_layer_by_layer():
    """In full precision it is the same to the bit, and the original as it was; then with 8 bits at the edges."""
    torch.manual_seed(0)
    original, x = Branches().eval(), torch.rand(4, 3, 16, 16)
    original.stem.bias.requires_grad_(False)
    small = quantized(original, 2)
    set_quantizing(small, False)
    assert torch.equal(small(x), original(x))
    set_quantizing(small, True)
    layers = small.stem, small.body["conv"], small.head[3]
    assert [(type(layer), layer.bits) for layer in layers] == [(QuantConv2d, 8), (QuantConv2d, 2), (QuantLinear, 8)]
    assert [layer.bits for layer in pact_layers(small).values()] == [2, 2]
    assert isinstance(original.body["act"], nn.ReLU) and not small.stem.bias.requires_grad
    assert layers[1].codes().abs().max() <= 1
    calibrate(small, x)
    assert small(x).isfinite().all()
    assert isinstance(quantized(nn.Linear(2, 2), 4), QuantLinear)


class Overwriting(nn.Module):
    """Its activation works in place, and what it returns is dropped."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)

    def forward(self, x):
        x = self.first(x)
        self.act(x)
        return self.last(x)


def test_an_activation_in_place_stays_in_place():
    """The values and the gradients are those of a network that takes what its activation returns."""
    torch.manual_seed(0)
    original, x = Overwriting(), torch.rand(4, 6)
    found = quantized(original, 3)
    expected = quantized(nn.Sequential(original.first, nn.ReLU(), original.last), 3)
    for net in (found, expected):
        calibrate(net, x)
        net(x).square().sum().backward()
    assert torch.equal(found(x), expected(x)) and found.act.alpha != 1
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


COMPUTED = {
    "parametrized": parametrizations.weight_norm,
    "pruned": lambda layer: prune.remove(prune.l1_unstructured(layer, "weight", 0.5), "weight"),
    "normed": lambda layer: remove_weight_norm(weight_norm(layer)),
}


@pytest.mark.parametrize("how", COMPUTED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_are_the_ones_that_are_quantized(how):
    """What pruning or a parametrization has made of the parameters, not fresh ones."""
    original = nn.Sequential(COMPUTED[how](nn.Linear(8, 8)), nn.Linear(8, 8))
    found, weight = quantized(original, 4), original[0].weight
    assert type(found[0]) is QuantLinear and torch.equal(found[0].weight, weight) and found[0].weight.requires_grad
    assert torch.equal(original[0].weight, weight)


def changed(change) -> nn.Sequential:
    """Two layers about an activation, after a change in place."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    change(network)
    return network


def tied(name: str, one: nn.Module, other: nn.Module) -> nn.Sequential:
    """Two layers that share a parameter."""
    setattr(other, name, getattr(one, name))
    return nn.Sequential(one, other)


RELU, LINEAR = nn.ReLU(), nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (changed(lambda net: prune.l1_unstructured(net[0], "weight", 0.5)), "^0 has a hook"),
        (changed(lambda net: net[0].register_forward_pre_hook(lambda *_: None)), "^0 has a hook"),
        (changed(lambda net: net[0].register_forward_hook(lambda *_: None)), "^0 has a hook"),
        (changed(lambda net: net[0].register_full_backward_hook(lambda *_: None)), "^0 has a hook"),
        (changed(lambda net: net[1].register_forward_hook(lambda *_: None)), "^1 has a hook"),
        (nn.Sequential(nn.Flatten()), "holds no nn.Conv2d and no nn.Linear"),
        (nn.Sequential(nn.Linear(2, 2), RELU, nn.Linear(2, 2), RELU), "one nn.ReLU stands in several places"),
        (nn.Sequential(LINEAR, nn.ReLU(), LINEAR), "^0 or its weight or bias stands in several places"),
        (tied("weight", nn.Embedding(2, 2), nn.Linear(2, 2)), "^1 or its weight or bias stands in several places"),
        (tied("bias", nn.Linear(3, 2), nn.Linear(2, 2)), "^0 or its weight or bias stands in several places"),
        (nn.Linear(2, 2).forward, "must be an nn.Module, not a method"),
    ],
)
def test_what_cannot_be_quantized_is_refused(network, message):
    """A hook would be lost; one clip or scale for two places would be another network than the reader expects."""
    with pytest.raises(ValueError, match=message):
        quantized(network, 2)
