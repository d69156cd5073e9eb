"""Low-bit layers: what the functions of the lattice say, in both modes, kept and restored, calibrated."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saqlib.network.lattice import best_clip, pact, quantize_weight
from saqlib.network.quantization import (
    PACT,
    QuantConv2d,
    QuantLinear,
    calibrate,
    pact_layers,
    quantized_once,
    set_quantizing,
)
from saqlib.network.settings import Quantization, check_bits
from saqlib.training.settings import Optimizer
from saqlib.training.steps import make_optimizer, standard_step


@pytest.mark.parametrize("bits", [1, 9, 16, 0, -2, 2.0, True, "4", None])
def test_bits_outside_2_to_8_are_refused_everywhere(bits):
    """Every entrance says which bits it supports and what it was given."""
    entrances = (
        check_bits,
        PACT,
        lambda bits: pact(torch.ones(1), torch.tensor(1.0), bits),
        lambda bits: quantize_weight(torch.ones(1, 1), bits),
        lambda bits: QuantLinear(2, 2, bits=bits),
        lambda bits: QuantConv2d(1, 1, 3, bits=bits),
    )
    for entrance in entrances:
        with pytest.raises(ValueError, match="from 2 to 8") as error:
            entrance(bits)
        assert repr(bits) in str(error.value)


def test_pact_module_is_relu_while_it_does_not_quantize():
    """The warm-up sees a plain ReLU: same values, same gradient, none for alpha."""
    x = torch.randn(100, generator=torch.Generator().manual_seed(2), requires_grad=True)
    layer = PACT(2)
    layer.quantizing = False
    y = layer(x)
    assert torch.equal(y, x.relu())
    y.sum().backward()
    assert torch.equal(x.grad, (x > 0).float())
    assert layer.alpha.grad is None


def test_pact_module_computes_what_the_function_does():
    """The module adds nothing to pact(x, alpha, bits) but its own alpha and scale."""
    x = torch.randn(100, generator=torch.Generator().manual_seed(2))
    layer = PACT(4)
    layer.set_alpha(torch.tensor(1.3))
    assert torch.equal(layer(x), pact(x, torch.tensor(1.3), 4))
    assert layer.scale.item() == pytest.approx(1.3 / 15)
    assert not layer.scale.requires_grad


def least_alpha_of_200_adversarial_steps() -> float:
    """The smallest alpha while a penalty and a learning rate out of all measure push it down from 0.8."""
    torch.manual_seed(0)
    model = nn.Sequential(PACT(2), nn.Linear(4, 10))
    model[0].set_alpha(torch.tensor(0.8))
    clips = Quantization("w8", alpha_learning_rate=10.0, alpha_penalty=5.0, calibration_images=1)
    optimizer = make_optimizer(model, Optimizer(8, 0.01), clips)
    least = math.inf
    for _ in range(200):
        standard_step(model, optimizer, 10 * torch.rand(8, 4), torch.randint(10, (8,)))
        least = min(least, model[0].alpha.item())
    return least


def test_alpha_stays_positive_over_200_adversarial_steps(monkeypatch):
    """Alpha stops at a thousandth of its calibrated value; the same steps without a floor cross zero, and are told."""
    assert least_alpha_of_200_adversarial_steps() == pytest.approx(0.8e-3, rel=1e-6)
    monkeypatch.setattr(PACT, "keep_positive", lambda layer: None)
    with pytest.raises(ValueError, match="^the clip alpha must be positive, not -"):
        least_alpha_of_200_adversarial_steps()


def test_every_parameter_is_in_exactly_one_group_and_the_alphas_in_their_own():
    """No alpha is stepped twice, nor with the weights' settings."""
    model = nn.Sequential(QuantLinear(4, 4, bits=2), PACT(2), nn.Sequential(PACT(4), QuantLinear(4, 10, bits=8)))
    clips = Quantization("w8", alpha_learning_rate=0.02, alpha_penalty=0.3, calibration_images=1)
    weights, alphas = make_optimizer(model, Optimizer(8, 0.01), clips).param_groups
    listed = [id(p) for p in weights["params"] + alphas["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters()}
    assert {id(p) for p in alphas["params"]} == {id(layer.alpha) for layer in pact_layers(model).values()}
    assert (weights["lr"], alphas["lr"], alphas["alpha_penalty"]) == (0.01, 0.02, 0.3)
    assert weights["weight_decay"] == alphas["weight_decay"] == 0


def test_weight_rounding_is_half_to_even():
    """Ternary codes of a channel whose scale is 2: the mid-points +-1 go to the even code 0."""
    layer = QuantLinear(5, 1, bits=2, bias=False)
    layer.eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0, 1.0, 1.0001, -1.0001, 9.0]]))
    layer.weight_scale.fill_(2.0)
    assert layer.codes().tolist() == [[0, 0, 1, -1, 1]]


# ------------------------------------------------------------------------------------------- quantized layers

LAYERS = {
    "linear": (lambda bits: QuantLinear(6, 4, bits=bits), (3, 6)),
    "conv": (lambda bits: QuantConv2d(2, 4, 3, bits=bits), (3, 2, 5, 5)),
}


def plain(layer: nn.Module, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weight, bias) if isinstance(layer, nn.Linear) else F.conv2d(x, weight, bias)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layer_equals_the_plain_layer_on_quantized_weights(kind, bits):
    """Forward with codes * scale; every gradient is that of the plain layer, the weights' unmasked."""
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


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_evaluation_has_the_gradients_of_training(kind, bits):
    """On codes, too: for x, weight and bias those of the plain layer on quantized weights, first and second ones."""
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer, input_scale = make(bits).double().eval(), 0.03
    codes = torch.randint(0, 16, shape).double()
    weight = (layer.codes() * layer.weight_scale).requires_grad_()
    bias = (layer.bias_codes(input_scale) * layer.output_scale(input_scale)).detach().requires_grad_()
    found = []
    for function, parameters in (
        (lambda x: layer(x, input_scale), (layer.weight, layer.bias)),
        (lambda x: plain(layer, x, weight, bias), (weight, bias)),
    ):
        leaves = ((codes * input_scale).requires_grad_(), *parameters)
        first = torch.autograd.grad((function(leaves[0]) ** 3).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((each**2).sum() for each in first), leaves)
        found.append([*first, *second])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
        assert expected.abs().max() > 0


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layer_refuses_types_in_which_codes_are_not_exact(kind, dtype):
    """One line that names the layer: a sum of codes needs 24 bits, float16 has 11. Another type than its own, too."""
    make, shape = LAYERS[kind]
    layer, name = make(4), make(4).__class__.__name__
    with pytest.raises(ValueError, match=f"^{name} takes torch.float32, as its parameters are, not {dtype}$"):
        layer(torch.rand(shape, dtype=dtype))
    for mode in (True, False):
        with pytest.raises(ValueError, match=f"^the parameters of {name} must be float32 or float64, .* not {dtype}$"):
            layer.to(dtype).train(mode)(torch.rand(shape, dtype=dtype), 0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_stops_at_these_layers(dtype):
    """Logits and gradients are the same bits under autocast, whatever comes in from a layer that follows it."""
    torch.manual_seed(0)
    model = nn.Sequential(QuantConv2d(1, 4, 3, bits=4), PACT(4), nn.Flatten(), QuantLinear(4 * 36, 3, bits=8)).eval()
    x = torch.rand(5, 1, 8, 8)
    expected = model(x)
    with torch.autocast("cpu", dtype=dtype):
        found = model(x)
        assert found.dtype == torch.float32 and torch.equal(found, expected)
        mixed = nn.Sequential(nn.Conv2d(1, 1, 1), model)
        assert mixed[0](x).dtype == dtype
        assert torch.equal(mixed(x), model(mixed[0](x).float()))


@pytest.mark.parametrize("kind", LAYERS)
def test_layer_does_not_quantize_when_it_is_told_so(kind):
    """During the warm-up the layer is its plain parent, bit for bit."""
    make, shape = LAYERS[kind]
    layer, x = make(2), torch.rand(shape)
    set_quantizing(layer, False)
    assert torch.equal(layer(x, 0.5), plain(layer, x, layer.weight, layer.bias))
    set_quantizing(layer, True)
    assert not torch.equal(layer(x), plain(layer, x, layer.weight, layer.bias))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layer_in_evaluation_is_integer_arithmetic(kind, bits):
    """On codes of the input the layer equals int64 arithmetic with bias codes, scaled once at the end."""
    torch.manual_seed(1)
    make, shape = LAYERS[kind]
    layer, codes = make(bits).eval(), torch.randint(0, 16, shape)
    input_scale = torch.tensor(0.03)
    integers = plain(layer, codes, layer.codes().long(), layer.bias_codes(input_scale).long())
    unit = layer.output_scale(input_scale)
    expected = integers.double() * unit.double().view(-1, *[1] * (len(shape) - 2))
    torch.testing.assert_close(layer(codes * input_scale, input_scale).double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(unit, layer.weight_scale.flatten() * input_scale)


@pytest.mark.parametrize("kind", LAYERS)
def test_bias_is_rounded_to_codes_with_a_straight_through_gradient(kind):
    """In training, too, the bias is whole units of the accumulator; its gradient is the plain one."""
    torch.manual_seed(2)
    make, shape = LAYERS[kind]
    layer = make(2)
    y = layer(torch.zeros(shape), 0.5)
    unit = layer.output_scale(0.5)
    expected = (layer.bias / unit).round() * unit
    torch.testing.assert_close(y.transpose(0, 1).flatten(1)[:, 0], expected)
    assert not torch.allclose(expected, layer.bias)
    y.sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), float(y[:, 0].numel())))


def test_layer_without_bias_works_in_both_modes():
    """bias=False is allowed, as in nn.Linear."""
    layer, x = QuantLinear(6, 4, bits=4, bias=False), torch.randint(0, 4, (3, 6)) * 0.5
    assert layer.bias_codes(0.5) is None
    trained = layer(x, 0.5)
    torch.testing.assert_close(layer.eval()(x, 0.5), trained)


@pytest.mark.parametrize("kind", LAYERS)
def test_evaluation_freezes_the_scale_as_the_weights_are_then(kind):
    """Training follows the weights; evaluation keeps the scale of the last ones, not of the last batch."""
    make, shape = LAYERS[kind]
    layer, x = make(4), torch.rand(shape)
    layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)  # as an optimiser's last step may
    frozen = quantize_weight(layer.weight, 4)[1]
    layer.eval()
    assert torch.equal(layer.weight_scale, frozen)
    with torch.no_grad():
        layer.weight.mul_(3)
    layer(x)
    layer.eval()
    assert torch.equal(layer.weight_scale, frozen)
    layer.train()(x)
    torch.testing.assert_close(layer.weight_scale, 3 * frozen)


def small_network(bits: int = 2) -> nn.Sequential:
    return nn.Sequential(QuantConv2d(1, 4, 3, bits=bits), PACT(bits), nn.Flatten(), QuantLinear(144, 10, bits=bits))


def test_state_dict_round_trip_is_bit_exact(tmp_path):
    """A network read back from a file gives the same bits as the one that was saved."""
    torch.manual_seed(3)
    images = torch.rand(5, 1, 8, 8)
    model = small_network()
    calibrate(model, images)
    model.eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = small_network().eval()
    assert not torch.equal(other(images), model(images))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(other(images), model(images))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert {"0.weight_scale", "1.alpha", "1.floor", "3.weight_scale"} <= model.state_dict().keys()


def test_calibration_sets_every_alpha_behind_the_quantized_layers_before_it():
    """Layer by layer, alpha is the best clip for what really arrives there; afterwards nothing calibrates."""
    torch.manual_seed(4)
    model = nn.Sequential(QuantLinear(6, 20, bits=2), PACT(2), QuantLinear(20, 30, bits=2), PACT(4))
    x = torch.rand(50, 6)
    calibrate(model, x)
    first = model[0](x)
    assert torch.equal(model[1].alpha, best_clip(first, 2))
    second = model[2](pact(first, model[1].alpha, 2))
    assert torch.equal(model[3].alpha, best_clip(second, 4))
    assert not torch.allclose(model[3].alpha, best_clip(model[2](first.relu()), 4))
    before = [layer.alpha.clone() for layer in pact_layers(model).values()]
    model(10 * x)
    assert [layer.alpha for layer in pact_layers(model).values()] == before


def test_calibration_ends_even_if_the_forward_fails():
    """A wrong batch leaves no layer in its calibrating state."""
    model = small_network()
    with pytest.raises(RuntimeError):
        calibrate(model, torch.rand(5, 3, 8, 8))
    assert not any(layer.calibrating for layer in pact_layers(model).values())


def test_weights_that_several_calls_share_are_quantized_once(monkeypatch):
    """Inside quantized_once two calls give what they give outside, gradients included, for one quantization a layer."""
    torch.manual_seed(5)
    model, images = small_network().double(), torch.rand(5, 1, 8, 8, dtype=torch.float64)
    calibrate(model, images)
    counted = []
    made = QuantConv2d._values
    for kind in (QuantConv2d, QuantLinear):
        monkeypatch.setattr(kind, "_values", lambda layer, scale: counted.append(layer) or made(layer, scale))

    def two_calls():
        counted.clear()
        model.zero_grad()
        (model(images).square().sum() + model(1 - images).sum()).backward()
        return [parameter.grad.clone() for parameter in model.parameters()], len(counted)

    expected, apart = two_calls()
    with quantized_once(model):
        found, together = two_calls()
    again, behind = two_calls()
    assert (apart, together, behind) == (4, 2, 4)
    for value, shared, later in zip(expected, found, again, strict=True):
        torch.testing.assert_close(shared, value, rtol=1e-12, atol=1e-12)
        assert torch.equal(later, value)


def test_sharing_ends_even_if_a_call_fails():
    """After an error each call quantizes its own weights again, so that a later step never sees old ones."""
    model = small_network()
    with pytest.raises(RuntimeError), quantized_once(model):
        model(torch.rand(5, 3, 8, 8))
    assert all(layer.kept is None for layer in (model[0], model[3]))
