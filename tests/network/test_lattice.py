"""The lattice: levels and gradients against closed forms and NumPy twins, scales against the best."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saqlib.errors import NotFiniteError
from saqlib.network.lattice import best_clip, on_lattice, pact, quantize_weight, straight_through

ALL_BITS = range(2, 9)


class ReferencePact:
    """PACT in NumPy, written from the paper: forward, and what backward returns for x and for alpha."""

    def __init__(self, alpha: float, bits: int):
        self.alpha, self.step = alpha, alpha / (2**bits - 1)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return np.rint(np.minimum(np.maximum(x, 0), self.alpha) / self.step) * self.step

    def backward(self, x: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, float]:
        inside = (x > 0) & (x < self.alpha)
        return np.where(inside, grad, 0), math.fsum(grad[x >= self.alpha])


def gradients(function, x: torch.Tensor, alpha: torch.Tensor, upstream: torch.Tensor):
    """Output of `function(x, alpha)` and its gradients for x and alpha under an upstream gradient."""
    x, alpha = x.clone().requires_grad_(), alpha.clone().requires_grad_()
    y = function(x, alpha)
    return y.detach(), *torch.autograd.grad(y, (x, alpha), upstream)


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def round_through(x: torch.Tensor) -> torch.Tensor:
    return x + (x.round() - x).detach()


# ---------------------------------------------------------------------------------------------- activations


@pytest.mark.parametrize("bits", ALL_BITS)
def test_pact_has_exactly_two_to_the_bits_levels(bits):
    """A fine sweep meets the codes 0 to 2^bits - 1, all and no other; 0 stays 0, alpha stays alpha."""
    alpha, top = double(1.7), 2**bits - 1
    y = pact(torch.linspace(-1, 3, 20_001, dtype=torch.float64), alpha, bits)
    assert torch.equal((y * top / alpha).round().unique(), torch.arange(top + 1, dtype=torch.float64))
    torch.testing.assert_close(y.unique(), torch.arange(top + 1) * (alpha / top), rtol=1e-15, atol=0)
    assert pact(double([0.0]), alpha, bits).item() == 0
    assert pact(alpha[None], alpha, bits).item() == pytest.approx(1.7, rel=1e-15)


@given(st.lists(st.floats(-100, 100), min_size=1), st.floats(0.01, 50), st.integers(2, 8))
def test_pact_is_monotone_and_idempotent(values, alpha, bits):
    """A larger input never gives a smaller output, and quantizing a second time changes nothing."""
    x, alpha = double(sorted(values)), double(alpha)
    y = pact(x, alpha, bits)
    assert (y.diff() >= 0).all()
    torch.testing.assert_close(pact(y, alpha, bits), y, rtol=1e-14, atol=0)


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
    twin = ReferencePact(alpha, bits)
    y, dx, dalpha = gradients(
        lambda x, a: pact(x, a, bits), torch.from_numpy(x), double(alpha), torch.from_numpy(upstream)
    )
    np.testing.assert_allclose(y, twin.forward(x), rtol=1e-14, atol=0)
    expected_dx, expected_dalpha = twin.backward(x, upstream)
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_allclose(dalpha, expected_dalpha, rtol=1e-12, atol=1e-12)


TABLE = [  # x, code, gradient for x, gradient for alpha; alpha = 3 at 2 bits, so that one code is worth 1
    (-1e300, 0, 0, 0),
    (-0.4, 0, 0, 0),
    (-5e-324, 0, 0, 0),
    (-0.0, 0, 0, 0),
    (0.0, 0, 0, 0),
    (5e-324, 0, 1, 0),
    (0.5, 0, 1, 0),  # a mid-point goes to the even code
    (0.5000001, 1, 1, 0),
    (1.0, 1, 1, 0),
    (1.5, 2, 1, 0),
    (2.5, 2, 1, 0),
    (2.5000001, 3, 1, 0),
    (math.nextafter(3, 0), 3, 1, 0),
    (3.0, 3, 0, 1),
    (math.nextafter(3, 4), 3, 0, 1),
    (1e300, 3, 0, 1),
]


@pytest.mark.parametrize(("x", "code", "dx", "dalpha"), TABLE)
def test_pact_table_at_and_around_0_alpha_and_the_mid_points(x, code, dx, dalpha):
    """Codes round half to even; the gradient is 1 on the open interval for x and from alpha on for alpha."""
    y, found_dx, found_dalpha = gradients(lambda x, a: pact(x, a, 2), double([x]), double(3.0), double([7.0]))
    assert (y.item(), found_dx.item(), found_dalpha.item()) == (code, 7 * dx, 7 * dalpha)


@pytest.mark.parametrize("x_type", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha_type", [torch.float32, torch.float64])
def test_next_to_alpha_exactly_one_of_the_two_gets_the_gradient(x_type, alpha_type):
    """The numbers before, at and behind alpha, in the type of x, whatever the type of alpha."""
    middle = torch.tensor(3.0, dtype=x_type)
    x = torch.stack([middle.nextafter(0 * middle), middle, middle.nextafter(2 * middle)])
    alpha, upstream = torch.tensor(3.0, dtype=alpha_type), torch.tensor([1, 10, 100], dtype=x_type)
    _, dx, dalpha = gradients(lambda x, a: pact(x, a, 2), x, alpha, upstream)
    assert (dx.tolist(), dalpha.item()) == ([1, 0, 0], 110)


def test_rounding_is_half_to_even_and_not_half_up_or_down():
    """At the mid-points of 4 bits our codes differ from both mutants, and from each at other places."""
    x = double([code + 0.5 for code in range(15)])
    ours = pact(x, double(15.0), 4)
    assert ours.tolist() == [0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14]
    assert (ours != (x + 0.5).floor()).sum() == 8
    assert (ours != x.floor()).sum() == 7


def test_gradient_of_alpha_is_the_sum_over_the_batch():
    """Twice the same batch gives twice the scalar gradient; a mean would not."""
    x, upstream = double([[4.0, 1.0], [3.0, -1.0], [9.0, 2.0]]), double([[1, 2], [3, 4], [5, 6]])
    _, _, once = gradients(lambda x, a: pact(x, a, 2), x, double(3.0), upstream)
    _, _, twice = gradients(lambda x, a: pact(x, a, 2), torch.cat([x, x]), double(3.0), torch.cat([upstream, upstream]))
    assert once.shape == ()
    assert (once.item(), twice.item()) == (1 + 3 + 5, 18)


def test_no_clamp_defines_a_gradient():
    """The clamp of PyTorch 2.14 has other gradients at its bounds than PACT: pinned, should either change."""
    x = double([-0.4, 0.0, 0.3, 1.0, 2.6, 3.0, 3.4])
    upstream = torch.ones_like(x)

    def clamp_of_codes(x, alpha):
        step = (alpha / 3).detach()
        return round_through(x / step).clamp(0, 3) * step + 0 * alpha

    def clamp_of_values(x, alpha):
        clipped = torch.minimum(x.clamp(min=0), alpha)
        return clipped + (pact(x, alpha, 2) - clipped).detach()

    ours = gradients(lambda x, a: pact(x, a, 2), x, double(3.0), upstream)
    by_codes = gradients(clamp_of_codes, x, double(3.0), upstream)
    by_values = gradients(clamp_of_values, x, double(3.0), upstream)
    assert [y.tolist() for y, _, _ in (ours, by_codes, by_values)] == [[0, 0, 0, 1, 3, 3, 3]] * 3
    assert ours[1].tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert by_codes[1].tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert by_values[1].tolist() == [0, 0, 1, 1, 1, 0.5, 0]
    assert (ours[2].item(), by_values[2].item()) == (2, 1.5)


def test_straight_through_gradient_is_masked_outside_the_clip():
    """An unmasked straight-through estimator passes gradient below 0 and above alpha; PACT does not."""
    x = double([-2.0, -0.1, 0.0, 1.0, 3.0, 5.0])
    _, dx, _ = gradients(lambda x, a: pact(x, a, 2), x, double(3.0), torch.ones_like(x))
    unmasked = x.clone().requires_grad_()
    round_through(unmasked).sum().backward()
    assert dx.tolist() == [0, 0, 0, 1, 0, 0]
    assert unmasked.grad.tolist() == [1] * 6


def test_eight_bits_follow_relu_and_clip():
    """The finest lattice is within half a code of min(relu(x), alpha), and coarser ones are further away."""
    x, alpha = torch.linspace(-2, 4, 5001, dtype=torch.float64), double(3.0)
    clipped = x.clamp(0, 3)
    errors = [(pact(x, alpha, bits) - clipped).abs().max().item() for bits in ALL_BITS]
    assert errors[-1] <= 1.5 / 255 + 1e-12
    assert errors == sorted(errors, reverse=True)


def test_pact_keeps_what_is_not_finite_visible():
    """NaN stays NaN, so that a diverged network cannot pass for a clipped one."""
    assert pact(torch.tensor([math.nan, math.inf]), torch.tensor(2.0), 4).tolist()[1] == 2
    assert pact(torch.tensor([math.nan]), torch.tensor(2.0), 4).isnan().all()


def test_pact_leaves_its_input_alone():
    """The quantizer writes into no tensor but its own."""
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    pact(x, torch.tensor(1.0), 2)
    assert torch.equal(x, before)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_best_clip_has_the_least_squared_error_of_its_candidates(bits):
    """No other hundredth of the largest value comes closer to relu(x), and a coarse lattice clips more."""
    x = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    clip = best_clip(x, bits)

    def error(alpha):
        return np.mean((ReferencePact(alpha, bits).forward(x.numpy()) - np.maximum(x.numpy(), 0)) ** 2)

    candidates = x.max().item() * np.arange(1, 101) / 100
    assert error(clip.item()) == pytest.approx(min(map(error, candidates)), rel=1e-4)
    assert best_clip(x, 2) < 0.75 * x.max() < best_clip(x, 8)


def test_best_clip_of_nothing_positive_is_one():
    """A layer that is never active gets a clip all the same, a positive one."""
    assert best_clip(-torch.rand(20), 4).item() == 1
    assert best_clip(torch.zeros(20), 2).item() == 1


# -------------------------------------------------------------------------------------------------- weights


class ReferenceWeights:
    """Symmetric weights of one output channel in NumPy: SAWB up to 4 bits, the largest magnitude above."""

    COEFFICIENTS = {2: (2.6, -1.71), 4: (12.035, -12.03)}  # of the paper's authors, for 3 and 15 levels

    def __init__(self, bits: int):
        self.bits, self.top = bits, 2 ** (bits - 1) - 1

    def clip(self, row: np.ndarray) -> float:
        c1, c2 = self.COEFFICIENTS[self.bits]
        estimate = c1 * math.sqrt(np.mean(row**2)) + c2 * np.mean(np.abs(row))
        return min(estimate, np.abs(row).max())

    def value(self, row: np.ndarray, clip: float) -> np.ndarray:
        step = clip / self.top
        return np.clip(np.rint(row / step), -self.top, self.top) * step

    def error(self, row: np.ndarray, clip: float) -> float:
        return float(np.mean((self.value(row, clip) - row) ** 2))


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
    twin = ReferenceWeights(bits)
    least = min(twin.error(row, clip) for clip in np.linspace(0.1, 1, 200) * np.abs(row).max())
    codes, scale = quantize_weight(torch.from_numpy(row)[None], bits)
    assert np.mean(((codes * scale)[0].numpy() - row) ** 2) <= 1.02 * least


@pytest.mark.parametrize("bits", [2, 4])
def test_weights_equal_their_numpy_twin(bits):
    """Channel by channel, the values are those of the published coefficients."""
    weight = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    codes, scale = quantize_weight(weight, bits)
    twin = ReferenceWeights(bits)
    for row, value in zip(weight.flatten(1).numpy(), (codes * scale).flatten(1).numpy(), strict=True):
        np.testing.assert_allclose(value, twin.value(row, twin.clip(row)), rtol=1e-12)


def test_weights_by_hand():
    """Moments 1 and 1/2: at 2 bits clip = 2.6 - 1.71 / 2, at 4 bits the largest magnitude is smaller."""
    weight = double([[0, 0, 0, 2]])
    codes, scale = quantize_weight(weight, 2)
    assert (codes.tolist(), scale.item()) == ([[0, 0, 0, 1]], pytest.approx(1.745))
    codes, scale = quantize_weight(weight, 4)
    assert (codes.tolist(), scale.item()) == ([[0, 0, 0, 7]], pytest.approx(2 / 7))


@given(
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=30),
    st.integers(2, 8),
    st.integers(-8, 8),
    st.floats(0.01, 100),
)
def test_weights_are_scale_equivariant(values, bits, exponent, factor):
    """Q(c w) = c Q(w): the same codes and c times the scale, exactly for powers of two."""
    values = [value if abs(value) > 1e-6 else 0.0 for value in values]  # squares of less are lost in float32
    weight = torch.tensor([values])
    codes, scale = quantize_weight(weight, bits)
    codes_of_power, scale_of_power = quantize_weight(weight * 2.0**exponent, bits)
    assert torch.equal(codes_of_power, codes)
    if weight.any():
        assert torch.equal(scale_of_power, scale * 2.0**exponent)
        _, scaled = quantize_weight(weight.double() * factor, bits)
        torch.testing.assert_close(scaled, quantize_weight(weight.double(), bits)[1] * factor, rtol=1e-7, atol=0)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e-8, 0.3, 1e8])
def test_constant_weights_get_a_positive_scale_and_survive(bits, magnitude):
    """A channel of one magnitude has a positive scale and is met exactly; SAWB's line would erase it."""
    weight = torch.full((2, 25), magnitude)
    weight[0, ::2] *= -1
    codes, scale = quantize_weight(weight, bits)
    assert (scale > 0).all() and scale.isfinite().all()
    torch.testing.assert_close(codes * scale, weight, rtol=1e-5, atol=0)


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


def test_scale_belongs_to_the_output_channel():
    """Each channel is quantized as if it were alone; the scale broadcasts over weights of any rank."""
    for shape in [(3, 7), (3, 2, 5, 5)]:
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(4))
        weight *= torch.logspace(-2, 2, 3).view(-1, *[1] * (len(shape) - 1))
        codes, scale = quantize_weight(weight, 4)
        assert scale.shape == (3, *[1] * (len(shape) - 1))
        for channel in range(3):
            alone = quantize_weight(weight[channel : channel + 1], 4)
            assert torch.equal(codes[channel], alone[0][0]) and torch.equal(scale[channel], alone[1][0])


# ------------------------------------------------------------------------------------------ what is refused, and how

NARROW = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_clip_that_is_not_positive_is_refused(alpha):
    """With it every value would become one number, or change its sign."""
    with pytest.raises(ValueError, match=f"^the clip alpha must be positive, not {alpha}; calibrate the network$"):
        pact(torch.ones(3), torch.tensor(alpha), 2)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf])
def test_a_clip_that_is_not_finite_is_refused(alpha):
    """NaN compares with nothing, so it is asked for by name."""
    with pytest.raises(NotFiniteError, match="^the clip alpha is not finite"):
        pact(torch.ones(3), torch.tensor(alpha), 2)


def test_a_clip_of_each_channel_is_refused():
    """PACT has one clip a layer; broadcasting would go along another axis than meant."""
    with pytest.raises(ValueError, match=r"^the clip alpha must be a scalar, not of shape \(3,\)$"):
        pact(torch.ones(3), torch.ones(3), 2)


@pytest.mark.parametrize("dtype", [*NARROW, torch.int32])
def test_types_that_do_not_hold_codes_are_refused(dtype):
    """In eight bits of mantissa 8-bit codes turn into their neighbours."""
    with pytest.raises(ValueError, match="^what PACT clips must be float32 or float64"):
        pact(torch.ones(3, dtype=dtype), torch.tensor(1.0), 8)
    with pytest.raises(ValueError, match="^weights must be float32 or float64"):
        quantize_weight(torch.ones(2, 3, dtype=dtype), 8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_and_activations_that_are_not_finite_are_refused(bad):
    """No code stands for them, and no clip follows from them; minus infinity is nothing to a ReLU."""
    with pytest.raises(NotFiniteError, match="^weights are not finite"):
        quantize_weight(torch.tensor([[1.0, bad], [1.0, 2.0]]), 4)
    if bad != -math.inf:
        with pytest.raises(NotFiniteError, match="^the largest activation to calibrate on is not finite"):
            best_clip(torch.tensor([1.0, bad, 2.0]), 4)
    with pytest.raises(ValueError, match="the batch is empty"):
        best_clip(torch.zeros(0, 3), 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_in_training_a_weight_that_is_not_finite_stays_visible(bad, bits):
    """It makes its channel NaN, so that the loss tells; no code hides it."""
    weight = torch.ones(2, 5)
    weight[0, 3] = bad
    values, _ = on_lattice(weight, bits)
    assert values[0].isnan().any() and values[1].isfinite().all()


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("magnitude", [1e-45, 1e-44, 2e-38])
def test_the_smallest_numbers_make_no_scale_of_zero(bits, magnitude):
    """Weights and activations that have decayed to denormal numbers: no division by 0, nothing that is NaN."""
    weight = torch.tensor([[magnitude, 0.0, -magnitude], [1.0, 0.0, -1.0]])
    for values, scale in (on_lattice(weight, bits), on_lattice(weight.double(), bits)):
        assert (scale > 0).all() and values.isfinite().all() and values[1, 0] > 0.9
    alpha = best_clip(weight[0], bits)
    assert alpha > 0 and pact(weight[0], alpha, bits).isfinite().all()


def test_pact_has_no_curvature():
    """Its first derivatives are steps: the second ones for x and alpha are 0, and 1 for what comes from above."""
    x, alpha = double([-1.0, 0.5, 2.0, 4.0]).requires_grad_(), double(3.0).requires_grad_()
    above = double([1.0, 2.0, 3.0, 4.0]).requires_grad_()
    dx, dalpha = torch.autograd.grad(pact(x, alpha, 2), (x, alpha), above, create_graph=True)
    found = torch.autograd.grad((dx**2).sum() + dalpha**2, (x, alpha, above), materialize_grads=True)
    assert [each.tolist() for each in found] == [[0, 0, 0, 0], 0, [0, 4, 6, 8]]


def test_a_straight_through_gradient_may_have_a_unit():
    """The value is a number of units: its gradient for x is one unit's share, also once more."""
    x, unit = double([1.0, 2.0]).requires_grad_(), double([4.0, 8.0])
    y = straight_through(x, double([7.0, 9.0]), unit)
    assert y.tolist() == [7, 9]
    (first,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    assert first.tolist() == [14 / 4, 18 / 8]
    assert torch.autograd.grad(first.sum(), x)[0].tolist() == [2 / 16, 2 / 64]
