"""saqlib.lenet: layers as its precision says, nearer to full precision the more bits, integers in evaluation."""

import copy
from dataclasses import replace

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saqlib import lenet
from saqlib.data import DATASETS
from saqlib.deploy import integer_network
from saqlib.lenet import LAYERS, Bits, Precision, Shape, build, restore
from saqlib.quantization import PACT, calibrate, pact_layers, quantized
from tests.helpers.networks import PRECISIONS, QUANTIZED, inputs, plain_twin, precision, sample

LOW = (*QUANTIZED, "w8a8")


@pytest.fixture(scope="module")
def codes() -> torch.Tensor:
    """uint8 pictures (60, 28, 28) of both datasets."""
    return torch.cat([sample("test", name)[0][:30] for name in DATASETS])


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """The same as a network takes them."""
    return torch.cat([inputs(name)[:30] for name in DATASETS])


def made(name: str, seed: int = 0, **options):
    return build(precision(name), seed=seed, **options)


def layers(net: nn.Module) -> dict[str, nn.Module]:
    return {name: getattr(net, name) for name in LAYERS}


# ---------------------------------------------------------------------------------------------- what is built


def test_a_name_says_the_bits():
    """Weights, then activations; 8-bit weights at the edges, no activation behind the last layer."""
    assert Precision.parse("fp32") == Precision("fp32", (Bits(),) * 5) and not Precision.parse("fp32").quantized
    assert Precision.parse("w4a2").layers == (Bits(8, 2), Bits(4, 2), Bits(4, 2), Bits(4, 2), Bits(8))
    assert build("w4a2").precision == Precision.parse("w4a2")
    for name, message in {
        "mixed": "unknown precision 'mixed'", "w4": "unknown precision", "w1a4": "2 to 8, not 1", "w4a9": "not 9"
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            build(name)
    for channels, hidden in (((8,), (1, 1)), ((8, 0), (1, 1)), ((1, 2, 3), (1, 1)), ((1, 2, 0), ())):
        with pytest.raises(ValueError, match="^channels must be two widths of at least 1, not "):
            Shape(channels, hidden)


@pytest.mark.parametrize("name", PRECISIONS)
def test_layers_are_those_of_the_precision(name):
    """LeNet's shapes, whose weights are their parameters, and as many bits as the table says; widths may be others."""
    net, bits = made(name), precision(name).layers
    found = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    shapes = [(8, 1, 5, 5), (16, 8, 5, 5), (120, 400), (84, 120), (10, 84)]
    assert [tuple(module.weight.shape) for module in found] == shapes and list(layers(net).values()) == found
    assert [getattr(layer, "bits", None) for layer in found] == [each.weight for each in bits]
    activations = [net.act1, net.act2, net.act3, net.act4]
    assert [getattr(layer, "bits", None) for layer in activations] == [each.activation for each in bits[:-1]]
    assert all(isinstance(layer, nn.ReLU if name == "fp32" else PACT) for layer in activations)
    small = made(name, shape=Shape((3, 5), (7, 6)))
    assert [len(layer.weight) for layer in layers(small).values()] == [3, 5, 7, 6, 10]
    for each, mode in ((net, True), (net, False), (small, True), (small, False)):
        logits = each.train(mode)(torch.rand(3, 1, 28, 28))
        assert logits.shape == (3, 10) and logits.dtype == torch.float32 and logits.isfinite().all()


def test_one_seed_is_one_set_of_weights_for_every_precision():
    """He's uniform weights, PyTorch's biases. Other seeds differ; the global generator is used without one only."""
    before = torch.get_rng_state()
    nets, other = [made(name, 3) for name in PRECISIONS], made("fp32", 4)
    assert torch.equal(torch.get_rng_state(), before)
    for name, layer in layers(nets[0]).items():
        inner = layer.weight[0].numel()
        assert 0.9 * 6**0.5 < layer.weight.abs().max() * inner**0.5 <= 1.0001 * 6**0.5
        assert 0 < layer.bias.abs().min() and layer.bias.abs().max() <= 1.0001 * inner**-0.5
        assert not torch.equal(getattr(other, name).weight, layer.weight)
        for net in nets[1:]:
            assert torch.equal(getattr(net, name).weight, layer.weight)
            assert torch.equal(getattr(net, name).bias, layer.bias)
    torch.manual_seed(5)
    first, second = build("fp32"), build("fp32")
    torch.manual_seed(5)
    assert torch.equal(build("fp32").dense1.weight, first.dense1.weight)
    assert not torch.equal(first.dense1.weight, second.dense1.weight)


def in_a_row(net: nn.Module) -> nn.Sequential:
    """The second network as modules in a row; it shares the parameters."""
    first = [net.conv1, net.norm1, nn.MaxPool2d(2), net.act1, net.conv2, net.norm2, nn.MaxPool2d(2), net.act2]
    return nn.Sequential(*first, net.conv3, net.norm3, net.act3, nn.AdaptiveAvgPool2d(2), nn.Flatten(), net.dense1)


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_second_network_is_three_convolutions_with_batch_norm(name, images):
    """The weights of a seed for every precision, its bits layer by layer, fresh statistics, and itself from a state."""
    second = Shape((16, 32, 32), ())
    net, full = (made(each, 3, shape=second) for each in (name, "fp32"))
    assert sum(p.numel() for p in full.parameters()) == 9 * (16 + 16 * 32 + 32 * 32) + 2 * 80 + 4 * 32 * 10 + 10
    for key, value in full.state_dict().items():
        assert torch.equal(net.state_dict()[key], value), key
    bits = precision(name).layers
    found = [net.conv1, net.conv2, net.conv3, net.dense1]
    assert [getattr(layer, "bits", None) for layer in found] == [each.weight for each in (*bits[:3], bits[-1])]
    activations = [net.act1, net.act2, net.act3]
    assert [getattr(layer, "bits", None) for layer in activations] == [each.activation for each in bits[:3]]
    assert torch.equal(copy.deepcopy(net)(images), in_a_row(copy.deepcopy(net))(images))
    net(images), net.eval()
    assert net.norm1.running_mean.abs().min() > 0 and torch.equal(net(images), in_a_row(net)(images))
    assert torch.equal(restore(net.precision, second, net.state_dict())(images), net(images))
    with pytest.raises(ValueError, match=r"^this network takes images \(B, 1, 28, 28\), not "):
        net(images[:, 0])


def test_the_second_network_is_what_quantized_makes_of_one_in_full_precision(images):
    """With the same clips: its edges have 8-bit weights, as those of any network."""
    shape = Shape((3, 4, 5), ())
    full, four = (made(name, shape=shape).eval() for name in ("fp32", "w4a4"))
    own = quantized(in_a_row(full), 4).eval()
    for mine, theirs in zip(pact_layers(own).values(), pact_layers(four).values(), strict=True):
        mine.set_alpha(theirs.alpha)
    assert torch.equal(own(images), four(images)) and not torch.equal(full(images), four(images))


@pytest.mark.parametrize("shape", [Shape(), Shape((3, 4, 5), ())], ids=["LeNet", "second"])
def test_a_precision_may_clip_without_rounding(shape, images):
    """Weights as ever, activations between the codes and up to the clip; also as restored."""
    unrounded = replace(precision("w2a2"), rounding=False)
    net, rounded = (build(each, shape=shape, seed=0).eval() for each in (unrounded, precision("w2a2")))
    again, values = restore(unrounded, shape, net.state_dict()), []
    assert torch.equal(net.conv1.weight, rounded.conv1.weight) and torch.equal(net(images), again(images))
    assert not torch.equal(net(images), rounded(images))
    again.act2.register_forward_hook(lambda layer, inputs, output: values.extend((inputs[0].relu(), output)))
    again.act2.set_alpha(0.05 * again.act2.alpha)
    again(images)
    taken, given = values
    assert torch.equal(given, taken.minimum(again.act2.alpha)) and (taken > given).any() and given.unique().numel() > 99


def test_quantized_logits_differ_from_full_precision_the_more_the_fewer_bits():
    """The same weights, the same images: 2 bits are further away than 4, and 8 bits are close."""
    images = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    full = made("fp32")(images)
    spread = (full - full.mean(0)).norm()
    eight, four, two = ((made(name)(images) - full).norm() / spread for name in ("w8a8", "w4a4", "w2a2"))
    assert eight < 0.1 and 2 * eight < four < two


@pytest.mark.parametrize("name", PRECISIONS)
def test_restored_from_its_state_it_is_the_same_network(name, images):
    """In evaluation mode, to the bit, without a draw; a state of another precision is refused."""
    net, before = made(name, 3).eval(), torch.get_rng_state()
    again = restore(net.precision, net.shape, net.state_dict())
    assert torch.equal(torch.get_rng_state(), before) and not again.training
    assert torch.equal(again(images), net(images))
    with pytest.raises(RuntimeError):
        restore(precision("w2a2" if name == "fp32" else "fp32"), net.shape, net.state_dict())


# ------------------------------------------------------------------------------------- integers in evaluation


@pytest.mark.parametrize("name", LOW)
def test_evaluation_is_integer_arithmetic(name, codes, images):
    """Float32 gives what integers give, to the bit, in any batch; training cannot carry an accumulator to 2^24."""
    net = made(name, 1).eval()
    sums = integer_network(net).codes(codes.numpy())["dense3"]
    together = net(images)
    assert torch.equal(together, torch.from_numpy(sums) * net.dense3.output_scale(net.act4.scale))
    assert torch.equal(torch.cat([net(image[None]) for image in images]), together)
    top = 255
    for _, layer, activation, _ in net.blocks():
        assert top * (2 ** (layer.bits - 1) - 1) * layer.weight[0].numel() < 2**24
        top = 2**activation.bits - 1 if activation else None


@pytest.mark.parametrize("name", LOW)
def test_integer_form_equals_the_form_that_is_trained(name, images):
    """Training computes on values, evaluation on codes: in float64 the same logits, and maps that point alike.

    On a lattice sums of exactly 0 and ties are common; evaluation decides them exactly, in training rounding does.
    """
    net, watched = made(name, 1).double(), images.double().requires_grad_()
    trained, found = net(watched), []
    evaluated = net.eval()(watched)
    torch.testing.assert_close(evaluated, trained, rtol=1e-6, atol=1e-6)
    for logits in (trained, evaluated):
        found.append(torch.autograd.grad(logits[:, 3].sum(), watched)[0].flatten(1))
    assert F.cosine_similarity(*found).median() > 0.9


def test_integer_form_has_the_gradients_of_the_form_that_is_trained(images, monkeypatch):
    """Of the images and of every parameter; with 8 bits and pooled by the mean no rounding decides between equals."""
    monkeypatch.setattr(lenet.F, "max_pool2d", F.avg_pool2d)
    net, watched, found = made("w8a8", 1).double(), images.double().requires_grad_(), []
    for layer in pact_layers(net).values():  # so that a lot is clipped in each, also behind the clips before it
        calibrate(net, images.double(), [layer])
        layer.set_alpha(0.49876 * layer.alpha)
    for training in (True, False):
        loss = F.cross_entropy(net.train(training)(watched), torch.arange(len(images)) % 10)
        found.append(torch.autograd.grad(loss, [watched, *net.parameters()]))
    for trained, evaluated in zip(*found, strict=True):
        assert trained.any()
        torch.testing.assert_close(evaluated, trained, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------------- beside PyTorch's own layers


@pytest.mark.parametrize("forward", ["forward", "run"])
def test_forward_mode_is_right_or_refused(forward, images):
    """torch.func and dual numbers: the twin's derivative in full precision, an error for a low one; never 0."""
    some, tangent, net = images[:3], torch.rand_like(images[:3]), made("fp32")
    _, found = torch.func.jvp(getattr(net, forward), (some,), (tangent,))
    torch.testing.assert_close(found, torch.func.jvp(plain_twin(net), (some,), (tangent,))[1], rtol=1e-4, atol=1e-5)
    low = getattr(made("w2a2").eval(), forward)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(low, (some,), (tangent,))
    with pytest.raises((RuntimeError, NotImplementedError)), torch.autograd.forward_ad.dual_level():
        low(torch.autograd.forward_ad.make_dual(some, tangent))


@pytest.mark.parametrize("name", PRECISIONS)
def test_plain_callers_need_no_extra_argument(name, images):
    """A wrapper, a copy, captum, autocast and export take the network as it is; strides of the images do not matter."""
    net, some = made(name).eval(), images[:3]
    expected = net(some)
    assert torch.equal(nn.Sequential(net)(some), expected) and torch.equal(copy.deepcopy(net)(some), expected)
    torch.testing.assert_close(net(some.mT.contiguous().mT), expected)
    torch.testing.assert_close(net(some[:1].expand(3, 1, 28, 28)), expected[:1].expand(3, 10))
    maps = captum.attr.Saliency(net).attribute(some.clone().requires_grad_(), target=2)
    assert maps.shape == some.shape and maps.abs().sum() > 0
    if name in ("fp32", "w2a2"):
        exported = torch.export.export(net, (some,), strict=False).module()
        torch.testing.assert_close(exported(some), expected, rtol=1e-5, atol=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(net(some), expected) or name == "fp32"


# ------------------------------------------------------------------------------------------------ what comes in


@pytest.mark.parametrize("name", PRECISIONS)
def test_images_of_another_shape_type_or_range_are_refused(name, images):
    """One line says what is wanted and what came; noise around [0, 1] passes, and no image."""
    net = made(name).eval()
    for shape in ((2, 3, 28, 28), (2, 1, 32, 32), (2, 28, 28), (1, 28, 28)):
        with pytest.raises(ValueError) as error:
            net(torch.zeros(shape))
        assert str(error.value) == f"this network takes images (B, 1, 28, 28), not {shape}"
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64):
        with pytest.raises(ValueError, match=r"^this network takes torch.float32 in \[0, 1\], not .*data.as_input$"):
            net((images[:2] * 255).to(dtype))
    some = images[:2].clone()
    for value in (255.0, -255.0, 11.0, torch.nan, torch.inf, -torch.inf):
        some[1, 0, 13, 14] = value
        with pytest.raises(ValueError, match=r"^this network takes values in \[0, 1\], not from .* to .*; see saqlib"):
            net(some)
    some[1, 0, 13, 14] = 1.9
    assert net(some).isfinite().all() and net(some[:0]).shape == (0, 10)
