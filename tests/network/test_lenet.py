"""LeNet: layers as its precision says, nearer to full precision the more bits, integer arithmetic in evaluation."""

import copy

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saqlib.data.images import as_input, load
from saqlib.datasets import DATASETS
from saqlib.network import lenet
from saqlib.network.initial import build
from saqlib.network.quantization import PACT, QuantConv2d, QuantLinear, pact_layers
from saqlib.network.settings import EDGES, LAYERS, Bits, Precision, named

QUANTIZED = ["w4a4", "mixed", "w2a2"]
PRECISIONS = ["fp32", *QUANTIZED]
EIGHT_BITS = Precision("w8a8", (Bits(8, 8),) * 4 + (Bits(8),))


@pytest.fixture(scope="module")
def codes() -> torch.Tensor:
    """uint8 pictures (60, 28, 28) of both datasets."""
    return torch.cat([load(name, "test", sample=True)[0][:30] for name in DATASETS])


@pytest.fixture(scope="module")
def images(codes) -> torch.Tensor:
    return as_input(codes)


def layers(net: nn.Module) -> dict[str, nn.Module]:
    return {name: getattr(net, name) for name in LAYERS}


# ---------------------------------------------------------------------------------------------- what is built


@pytest.mark.parametrize("precision", PRECISIONS)
def test_images_in_logits_out(precision):
    """float (B, 1, 28, 28) to (B, 10), for one image or several, in both modes."""
    net = build(precision)
    for mode in (True, False):
        net.train(mode)
        for count in (1, 5):
            logits = net(torch.rand(count, 1, 28, 28))
            assert logits.shape == (count, 10) and logits.dtype == torch.float32 and logits.isfinite().all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_are_plain_ones_to_whoever_walks_the_modules(precision):
    """Two nn.Conv2d and three nn.Linear of LeNet's shapes, whose weights are their parameters."""
    net = build(precision)
    found = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert [isinstance(module, nn.Conv2d) for module in found] == [True, True, False, False, False]
    shapes = [(8, 1, 5, 5), (16, 8, 5, 5), (120, 400), (84, 120), (10, 84)]
    assert [tuple(module.weight.shape) for module in found] == shapes
    assert [tuple(module.bias.shape) for module in found] == [shape[:1] for shape in shapes]
    assert all(isinstance(module.weight, nn.Parameter) for module in found)
    assert list(layers(net).values()) == found


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 32, 32), (2, 1, 28, 27), (2, 28, 28), (1, 28, 28)])
def test_images_of_another_shape_are_refused_in_one_line(shape):
    """The error says what this network takes and what it was given, before any layer sees the images."""
    net = build("w2a2", seed=0)
    with pytest.raises(ValueError) as error:
        net(torch.zeros(shape))
    assert str(error.value) == f"this network takes images (B, 1, 28, 28), not {shape}"


def test_bits_are_those_of_the_table():
    """Layer by layer, the edges' 8 bits included; full precision has neither codes nor clips."""
    table = {
        "w4a4": ([8, 4, 4, 4, 8], [4, 4, 4, 4]),
        "mixed": ([8, 4, 2, 2, 8], [4, 4, 2, 2]),
        "w2a2": ([8, 2, 2, 2, 8], [2, 2, 2, 2]),
    }
    for precision, (weights, activations) in table.items():
        net = build(precision)
        assert [layer.bits for layer in layers(net).values()] == weights
        assert [layer.bits for layer in pact_layers(net).values()] == activations
    full = build("fp32")
    assert not any(isinstance(module, (PACT, QuantConv2d, QuantLinear)) for module in full.modules())
    assert sum(isinstance(module, nn.ReLU) for module in full.modules()) == 4


@pytest.mark.parametrize("edges", EDGES)
def test_every_kind_of_edges_runs_in_both_modes(edges, images):
    """Also plain first and last layers around quantized ones."""
    raw = {layer: [2, 2] for layer in LAYERS[:-1]} | {"dense3": [2]}
    precision = Precision.from_table("w2a2", raw, edges)
    net = build(precision, seed=0)
    assert isinstance(net.conv1, QuantConv2d) == isinstance(net.dense3, QuantLinear) == (edges != "fp32")
    trained, evaluated = net(images), net.eval()(images)
    assert trained.std(0).gt(0).all()
    torch.testing.assert_close(trained.double().mean(), evaluated.double().mean(), rtol=0.05, atol=0.01)


# ------------------------------------------------------------------------------------------ fewer bits


def test_quantized_logits_differ_from_full_precision_the_more_the_fewer_bits():
    """The same weights, the same images: 2 bits are further away than 4, and 8 bits are close."""
    images = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    full = build("fp32", seed=0)(images)

    def distance(precision):
        logits = build(precision, seed=0)(images)
        return ((logits - full).norm() / (full - full.mean(0)).norm()).item()

    eight, four, two = (distance(p) for p in (EIGHT_BITS, "w4a4", "w2a2"))
    assert eight < 0.1 and 2 * eight < four < two


# ------------------------------------------------------------------------------------- integers in evaluation


def integer_logits(net: nn.Module, pictures: torch.Tensor) -> tuple[np.ndarray, int]:
    """The network on uint8 pictures in int64, from its state alone; and the largest magnitude of an accumulator."""
    code, scale, largest = F.pad(pictures.long()[:, None], (2, 2, 2, 2)), 1 / 255, 0
    for name, layer in layers(net).items():
        weight = layer.codes().long()
        bias = (layer.bias.detach() / (layer.weight_scale.flatten() * scale)).round().long()
        if isinstance(layer, nn.Conv2d):
            windows = code.unfold(2, 5, 1).unfold(3, 5, 1)
            sums = torch.einsum("bcyxij,ocij->boyx", windows, weight) + bias.view(-1, 1, 1)
            sums = sums.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5))
        else:
            sums = code.flatten(1) @ weight.T + bias
        largest = max(largest, sums.abs().max().item())
        unit = (layer.weight_scale.flatten() * scale).view(-1, *[1] * (sums.dim() - 2))
        values = sums * unit
        if name != "dense3":
            activation = getattr(net, f"act{LAYERS.index(name) + 1}")
            scale = activation.scale
            code = (values.relu().minimum(activation.alpha.detach()) / scale).round().long()
    return values.numpy(), largest


@pytest.mark.parametrize("precision", [*map(named, QUANTIZED), EIGHT_BITS], ids=lambda p: p.name)
def test_evaluation_is_integer_arithmetic(precision, codes, images):
    """Float32 containers give what int64 gives, bit for bit, and no accumulator reaches 2^24."""
    net = build(precision, seed=1).eval()
    expected, largest = integer_logits(net, codes)
    assert np.array_equal(net(images).detach().numpy(), expected)
    assert largest < 2**24


@pytest.mark.parametrize("precision", [*map(named, QUANTIZED), EIGHT_BITS], ids=lambda p: p.name)
def test_no_input_can_make_an_accumulator_inexact(precision):
    """The worst input of each layer, the largest code at every weight that is not 0, stays below 2^24."""
    net = build(precision, seed=1).eval()
    top, scale = 255, 1 / 255
    for index, layer in enumerate(layers(net).values()):
        sums = top * layer.codes().abs().flatten(1).sum(1) + layer.bias_codes(scale).abs()
        assert sums.max() < 2**24
        assert top * (2 ** (layer.bits - 1) - 1) * layer.weight[0].numel() < 2**24  # whatever training does to them
        if index < 4:
            activation = list(pact_layers(net).values())[index]
            top, scale = 2**activation.bits - 1, activation.scale


@pytest.mark.parametrize("precision", QUANTIZED)
def test_evaluation_does_not_depend_on_the_batch(precision, images):
    """Whole numbers add up exactly in any order, so an image alone gives the same bits as in a batch."""
    net = build(precision, seed=1).eval()
    together = net(images)
    assert torch.equal(torch.cat([net(image[None]) for image in images]), together)
    assert torch.equal(net(images.flip(0)).flip(0), together)


@pytest.mark.parametrize("precision", [*map(named, QUANTIZED), EIGHT_BITS], ids=lambda p: p.name)
def test_integer_form_equals_the_form_that_is_trained(precision, images):
    """Training computes on values, evaluation on codes: in float64 the same but for rounding."""
    net = build(precision, seed=1).double()
    trained = net(images.double())
    torch.testing.assert_close(net.eval()(images.double()), trained, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_both_forms_have_nearly_the_same_gradient(precision, images):
    """Maps of the two forms point the same way; where a sum is exactly 0 or two pooled ones tie they may differ.

    On a lattice both are common. Evaluation decides them exactly; in training's sums of values rounding decides.
    """
    net = build(precision, seed=1).double()
    watched = images.double().requires_grad_()
    (trained,) = torch.autograd.grad(net(watched)[:, 3].sum(), watched)
    (evaluated,) = torch.autograd.grad(net.eval()(watched)[:, 3].sum(), watched)
    assert F.cosine_similarity(trained.flatten(1), evaluated.flatten(1)).median() > 0.9


# --------------------------------------------------------------------------------------------- plain callers


@pytest.mark.parametrize("precision", PRECISIONS)
def test_plain_callers_need_no_extra_argument(precision, images):
    """A wrapper, a copy and captum's perturbing and differentiating methods take the network as it is."""
    net = build(precision, seed=0).eval()
    some = images[:3]
    expected = net(some)
    assert torch.equal(nn.Sequential(net)(some), expected)
    assert torch.equal(copy.deepcopy(net)(some), expected)
    occlusion = captum.attr.Occlusion(net).attribute(some, (1, 14, 14), target=2, strides=(1, 14, 14))
    assert occlusion.shape == some.shape
    maps = captum.attr.Saliency(net).attribute(some.clone().requires_grad_(), target=2)
    assert maps.shape == some.shape and maps.abs().sum() > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_memory_layout_of_the_images_does_not_matter(precision, images):
    """Channels last, transposed and expanded pictures are pictures."""
    net = build(precision, seed=0).eval()
    some = images[:4]
    expected = net(some)
    torch.testing.assert_close(net(some.contiguous(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(net(some.mT.contiguous().mT), expected)
    torch.testing.assert_close(net(some[:1].expand(3, 1, 28, 28)), expected[:1].expand(3, 10))


def test_pooling_before_the_activation_is_pooling_behind_it(images):
    """Both are monotone: the classical order of LeNet gives the same bits, in full precision and on the lattice."""
    for precision in PRECISIONS:
        net = build(precision, seed=0).eval()
        scale = lenet.INPUT_SCALE
        x = images
        for conv, activation in ((net.conv1, net.act1), (net.conv2, net.act2)):
            x = F.max_pool2d(activation(lenet._call(conv, x, scale)), 2)
            scale = lenet.output_scale(activation)
        x = x.flatten(1)
        for dense, activation in ((net.dense1, net.act3), (net.dense2, net.act4)):
            x = activation(lenet._call(dense, x, scale))
            scale = lenet.output_scale(activation)
        torch.testing.assert_close(lenet._call(net.dense3, x, scale), net(images))


# ---------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("forward", ["forward", "run"])
def test_evaluation_has_a_gradient_for_every_parameter(precision, forward, images):
    """Written out: what an integer network loses by one code more, in units of the code; by kernels and without."""
    net, some, labels = build(precision, seed=1).eval(), images[:20], torch.arange(20) % 10
    F.cross_entropy(getattr(net, forward)(some), labels).backward()
    x, scale, leaves = some, lenet.INPUT_SCALE, {}
    for name, layer, activation, pooled in net.blocks():
        codes = x / scale
        codes = codes + (codes.round() - codes).detach()
        unit, size = layer.output_scale(scale), layer.weight_scale
        weight, bias = layer.codes().detach().requires_grad_(), layer.bias_codes(scale).requires_grad_()
        leaves |= {f"{name}.weight": (weight, size), f"{name}.bias": (bias, unit)}
        if pooled:
            x = F.max_pool2d(F.conv2d(codes, weight, bias, padding=layer.padding) * unit[:, None, None], 2)
        else:
            x = F.linear(codes.flatten(1), weight, bias) * unit
        if activation is not None:
            x, scale = activation(x), activation.scale
    F.cross_entropy(x, labels).backward(inputs=[leaf for leaf, _ in leaves.values()])
    found = dict(net.named_parameters())
    assert not [name for name, value in found.items() if value.grad is None or not value.grad.any()]
    for name, (leaf, unit) in leaves.items():
        expected = leaf.grad / unit
        torch.testing.assert_close(found[name].grad, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_an_evaluated_network_can_be_fine_tuned(images):
    """Three steps of plain SGD move every weight and bias, and the loss falls."""
    net, some, labels = build("w2a2", seed=1).eval(), images[:20], torch.arange(20) % 10
    before = {name: value.clone() for name, value in net.named_parameters()}
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.5), []
    for _ in range(12):
        losses.append(F.cross_entropy(net(some), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert not [name for name, value in net.named_parameters() if torch.equal(value, before[name])]


def twin(net: nn.Module) -> nn.Module:
    """A full-precision network by PyTorch's own layers alone."""

    def pooled() -> list[nn.Module]:
        return [nn.MaxPool2d(2), nn.ReLU()]

    dense = [net.dense1, nn.ReLU(), net.dense2, nn.ReLU(), net.dense3]
    conv = nn.Conv2d(1, net.conv1.out_channels, 5, padding=2, dtype=net.conv1.weight.dtype)
    conv.weight, conv.bias = net.conv1.weight, net.conv1.bias
    return nn.Sequential(conv, *pooled(), net.conv2, *pooled(), nn.Flatten(), *dense)


def test_second_derivatives_of_the_reference(images):
    """By `run`: the gradient of the squared norm of a map for all parameters and for the images is the plain twin's."""
    net = build("fp32", seed=0).double()
    found = []
    for function in (net.run, twin(net)):
        watched = images[:6].double().requires_grad_()
        (maps,) = torch.autograd.grad(function(watched)[:, 3].sum(), watched, create_graph=True)
        leaves = [value for name, value in net.named_parameters() if name.endswith("weight")]
        found.append(torch.autograd.grad((maps**2).sum(), leaves))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-12)
        assert expected.norm() > 0


@pytest.mark.parametrize("forward", ["forward", "run"])
def test_forward_mode_is_right_or_refused(forward, images):
    """torch.func and dual numbers: the twin's derivative in full precision, an error for a low one; never 0."""
    some, tangent = images[:3], torch.rand_like(images[:3])
    net = build("fp32", seed=0)
    _, found = torch.func.jvp(getattr(net, forward), (some,), (tangent,))
    torch.testing.assert_close(found, torch.func.jvp(twin(net), (some,), (tangent,))[1], rtol=1e-4, atol=1e-5)
    found = torch.func.jacrev(getattr(net, forward))(some)
    torch.testing.assert_close(found, torch.func.jacrev(twin(net))(some), rtol=1e-4, atol=1e-5)
    low = getattr(build("w2a2", seed=0).eval(), forward)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(low, (some,), (tangent,))
    with pytest.raises((RuntimeError, NotImplementedError)), torch.autograd.forward_ad.dual_level():
        low(torch.autograd.forward_ad.make_dual(some, tangent))


# ------------------------------------------------------------------------------------------------ what comes in


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64])
def test_images_of_another_type_are_refused(precision, dtype, images):
    """One line says which is wanted and who makes it."""
    with pytest.raises(ValueError, match=r"^this network takes torch.float32 in \[0, 1\], not .*saqlib.data.as_input$"):
        build(precision)((images[:2] * 255).to(dtype))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [255.0, -255.0, 11.0, torch.nan, torch.inf, -torch.inf])
def test_images_far_from_0_to_1_are_refused(precision, value, images):
    """Bytes as floats, NaN and infinity give a plausible class and map; noise around [0, 1] passes, and no image."""
    net, some = build(precision).eval(), images[:2].clone()
    some[1, 0, 13, 14] = value
    with pytest.raises(ValueError, match=r"^this network takes values in \[0, 1\], not from .* to .*; see saqlib.data"):
        net(some)
    some[1, 0, 13, 14] = 1.9
    assert net(some).isfinite().all() and net(some[:0]).shape == (0, 10)


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_no_bit(precision, dtype, images):
    """Logits of a network whose every layer is quantized are exact under autocast, too."""
    net = build(precision, seed=0).eval()
    expected = net(images)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(net(images), expected)


def test_export_and_compilation_stay_possible(images):
    """The checks ask for no value where there is none yet."""
    for precision in ("fp32", "w2a2"):
        net, some = build(precision, seed=0).eval(), images[:3]
        for strict in (True, False):
            exported = torch.export.export(net, (some,), strict=strict).module()
            torch.testing.assert_close(exported(some), net(some), rtol=1e-5, atol=1e-5)
