"""saqlib.kernels against PyTorch's operators, on numbers whose sums are exact in any order: ties are ties in both."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from saqlib.kernels import fused, library, operators
from saqlib.lattice import SAWB_COEFFICIENTS, _scale, codes_of
from saqlib.lenet import Shape, build
from saqlib.quantization import QuantConv2d, calibrate, pact, pact_layers, set_quantizing
from saqlib.saliency import passing
from tests.helpers.networks import PRECISIONS, inputs, precision, sample

needs_kernels = pytest.mark.skipif(library.library() is None, reason=f"no kernels here: {library.why_not()}")
ALPHA = 0.5


# --------------------------------------------------------------------------------------------------- the library


NO_KERNELS = {"nowhere/cc": "was not found", "": "CC is empty", "cc 'x": "CC is", "cc -march=x86-64-v4": "processor",
              "false": "false", "true": "lenet.so", "cc --no-such": "", "cc": ""}  # fmt: skip


@pytest.mark.parametrize("command", NO_KERNELS)
def test_without_a_library_there_is_a_reason(command, monkeypatch, tmp_path):
    """No compiler, one that fails or writes nothing, a file in place of the folder: one line says why.

    The network is the same by PyTorch's operators.
    """
    images, network = inputs()[:20], build("w4a4", seed=0).eval()
    with torch.no_grad():
        expected = network.run(images)
    monkeypatch.setenv("CC", command)
    monkeypatch.setattr(library, "folder", lambda: tmp_path / "folder")
    if command == "cc":
        (tmp_path / "folder").write_text("")
    library._load.cache_clear()
    try:
        assert library.library() is None and library.why_not() and "\n" not in library.why_not()
        assert NO_KERNELS[command] in library.why_not()
        assert fused.kind(Shape(), "cpu").startswith("PyTorch, ")
        assert library.why_not() in fused.reason(Shape(), "cpu") and not fused.fits(network, images)
        assert torch.equal(network(images), expected)
    finally:
        library._load.cache_clear()


@needs_kernels
def test_what_computes_has_a_name_and_a_place(monkeypatch, tmp_path):
    """In the store's keys and beside the results; in the checkout or, installed alone, in the user's cache."""
    assert fused.kind(Shape(), "cpu").startswith("fused kernels") and fused.kind(Shape(), "cuda") == "PyTorch on cuda"
    assert "8 and 16 channels" in fused.reason(Shape((4, 6)), "cpu")
    assert library.folder() == library.CHECKOUT / "build" / "kernels"
    monkeypatch.setattr(library, "CHECKOUT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert library.folder() == tmp_path / "cache" / "saqlib"


# ------------------------------------------------------------------------------------------------- the operators


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


@needs_kernels
@pytest.mark.parametrize("batch", [1, 5, 128])
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("levels", [-1, 0, 3, 15])
@pytest.mark.parametrize("scaled", [False, True])
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
        found = torch.autograd.grad(y, wanted, grad)
        if scaled:  # the unit is a constant of evaluation, where only the input and the clip are asked
            found = [found[0], *found[3:]]
        outcomes.append((y.detach(), found))
    (y, theirs), (ours, own) = outcomes
    assert torch.equal(y, ours)
    if levels > 0:
        assert (y > 0.99 * ALPHA).any() and (y == 0).any() and ((y > 0) & (y < 0.99 * ALPHA)).any()
    for a, b in zip(theirs, own, strict=True):
        terms = grad.abs().sum().item() if a.dim() == 0 else max(1.0, a.abs().max().item())
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5 * terms if a.dim() else 1e-7 * terms)


@needs_kernels
def test_a_pass_computes_what_it_is_asked_for(monkeypatch):
    """The images' gradient alone runs no sum over weights, and the weights' none over images; each pass its own."""
    kernels, generator = Mock(wraps=library.library()), torch.Generator().manual_seed(0)
    x, weight, bias = exact(generator, 2, 1, 28, 28), exact(generator, 8, 1, 5, 5), exact(generator, 8)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = operators.block1(x, weight, bias, operators.Activation()).sum()
    monkeypatch.setattr(operators, "library", lambda: kernels)
    (first,) = torch.autograd.grad(y, x, retain_graph=True)
    torch.autograd.grad(3 * y, weight, retain_graph=True)
    assert [name for name, *_ in kernels.method_calls] == ["block1_images", "block1_weights"]
    assert torch.equal(torch.autograd.grad(y, x)[0], first)


@needs_kernels
def test_a_second_derivative_is_refused():
    """Not left out in silence, neither of a block nor of a dense layer; the message names the way."""
    x, weight = torch.rand(2, 1, 28, 28, requires_grad=True), torch.rand(8, 1, 5, 5, requires_grad=True)
    rows, matrix = torch.rand(2, 5, requires_grad=True), torch.rand(3, 5, requires_grad=True)
    for leaf, output in (
        (x, operators.block1(x, weight, torch.rand(8), operators.Activation())),
        (rows, operators.linear(rows, matrix, torch.rand(3))),
    ):
        with pytest.raises(RuntimeError, match="second derivative.*run"):
            torch.autograd.grad(output.sum(), leaf, create_graph=True)


@needs_kernels
@pytest.mark.parametrize("levels", [-1, 0, 3])
@pytest.mark.parametrize(("row", "column"), [(8, 8), (8, 13), (13, 8), (13, 13)])
def test_nan_is_never_swallowed(levels, row, column):
    """A NaN that reaches one of the four sums of a window, whichever, comes out: pixel 8 reaches row 10, 13 row 11."""
    x = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x[0, 0, row, column] = torch.nan
    y = operators.block1(x, torch.ones(8, 1, 5, 5), torch.zeros(8), operators.Activation(torch.tensor(1.0), levels))
    assert y[0, 5, 5].isnan().all()


@needs_kernels
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 35), st.integers(0, 10**6))
def test_a_dense_layer_of_any_size(batch, columns, outputs, seed):
    """Equal to the library's matrix product, gradients included."""
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = exact(generator, batch, columns), exact(generator, outputs, columns), exact(generator, outputs)
    grad, found = exact(generator, batch, outputs), []
    for layer in (F.linear, operators.linear):
        arguments = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = layer(*arguments)
        found.append((y.detach(), *torch.autograd.grad(y, arguments, grad)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needs_kernels
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


# --------------------------------------------------------------------------------------------- the whole network


@needs_kernels
@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("mode", ["training", "warm-up", "evaluation", "passing"])
def test_the_network_by_the_kernels_is_the_network(name, mode):
    """Quantized logits in evaluation equal to the bit, all else to rounding; gradients where none decides a tie.

    Also of clips that many units exceed, and that let the gradient through.
    """
    images, labels = inputs()[:96], sample()[1][:96]
    network, found = build(precision(name), seed=0), []
    calibrate(network, images)
    network.train(mode in ("training", "warm-up"))
    set_quantizing(network, mode != "warm-up")
    assert fused.fits(network, images)
    for layer in pact_layers(network).values() if mode == "passing" else ():
        layer.set_alpha(layer.alpha / 2)
        layer.alpha.requires_grad_(False)  # there it has no gradient, or one of 0
    for run in (network.run, network):
        network.zero_grad()
        watched = images.clone().requires_grad_()
        with passing(network, "pass" if mode == "passing" else "stop"):
            logits = run(watched)
            (maps,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), watched, retain_graph=True)
        F.cross_entropy(logits, labels).backward()
        gradients = {key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None}
        found.append({"logits": logits.detach(), "maps": maps} | gradients)
    expected, ours = found
    assert ours.keys() == expected.keys()
    assert torch.equal(ours["logits"], expected["logits"]) or name == "fp32" or network.training
    for key, value in expected.items():
        if key == "logits" or mode != "training":
            atol = 1e-5 * max(float(value.abs().max()), key == "logits")
            torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=atol)


@needs_kernels
def test_calibration_sees_what_an_activation_takes():
    """Through the fused blocks, too: the same clips as by PyTorch's operators."""
    clips = []
    for forward in ("forward", "run"):
        network = build("w2a2", seed=0)
        for layer in pact_layers(network).values():
            layer.set_alpha(torch.tensor(123.0))
        network.forward = getattr(network, forward)
        calibrate(network, inputs()[:96])
        clips.append(torch.stack([layer.alpha.detach() for layer in pact_layers(network).values()]))
    assert (clips[0] < 123).all()
    torch.testing.assert_close(*clips, rtol=1e-5, atol=0)


@needs_kernels
@given(st.integers(2, 8), st.booleans(), st.booleans(), st.booleans(), st.floats(0.05, 2))
@settings(max_examples=20, deadline=None)
def test_an_activation_that_the_kernels_do_not_compute_is_called(bits, rounding, tracking, training, scale):
    """One that does not round or that sets its own clip; where it rounds in training, a tie may move all behind it."""
    images, found = inputs()[:24], []
    for forward in ("forward", "run"):
        network = build(replace(precision(f"w8a{bits}"), rounding=rounding), seed=0).train(training)
        for layer in pact_layers(network).values():
            layer.set_alpha(scale * layer.alpha)
            layer.tracking = tracking
        assert fused.fits(network, images)
        with torch.no_grad():
            logits = getattr(network, forward)(images)
        found.append((torch.stack([layer.alpha.detach() for layer in pact_layers(network).values()]), logits))
    (clips, logits), (expected_clips, expected) = found
    torch.testing.assert_close(clips[0], expected_clips[0], rtol=1e-5, atol=0)
    if rounding and not training:
        assert torch.equal(clips, expected_clips) and torch.equal(logits, expected)
    if not rounding:
        torch.testing.assert_close(clips, expected_clips, rtol=1e-5, atol=0)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


class Own(nn.Linear):
    """As LoRA, say: a layer with a forward pass of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def recording(network: nn.Module, calls: list, register: str, name: str) -> None:
    """A hook of one kind on one part that writes down what it is given, values or gradients."""
    kinds = {"before": "register_forward_pre_hook", "after": "register_forward_hook"}
    kinds |= {"backward": "register_full_backward_hook", "before backward": "register_full_backward_pre_hook"}

    def write_down(_, *given):
        parts = [part if isinstance(part, tuple) else (part,) for part in given]
        calls.append([each.detach() for part in parts for each in part if each is not None])

    getattr(network.get_submodule(name), kinds[register])(write_down)


@st.composite
def changed_networks(draw):
    """A network in which one thing is another, what its hooks write to, and whether the kernels still compute it."""
    network, calls = build(draw(st.sampled_from(["fp32", "w2a2"])), seed=0).eval(), []
    conv = draw(st.sampled_from(["conv1", "conv2"]))
    layer, dense = getattr(network, conv), draw(st.sampled_from(["dense1", "dense2", "dense3"]))
    kind = draw(st.sampled_from(["layer", "hook", "patched", "subclass", "activation", "bias", "layout", "type"]))
    if kind == "layer":
        usual = {"kernel_size": 5, "padding": layer.padding[0], "dilation": 1, "stride": 1, "groups": 1, "bias": True}
        others = {"kernel_size": 3, "padding": 1, "dilation": 2, "stride": 2, "groups": layer.in_channels}
        others |= {"bias": False, "padding_mode": draw(st.sampled_from(["reflect", "circular", "replicate"]))}
        name = draw(st.sampled_from([name for name, value in others.items() if value != usual.get(name)]))
        given = usual | {name: others[name]} | ({"bits": 3} if isinstance(layer, QuantConv2d) else {})
        setattr(network, conv, type(layer)(layer.in_channels, layer.out_channels, **given).eval())
    if kind == "hook":
        place = draw(st.sampled_from([conv, dense, "act1", "act3"]))
        recording(network, calls, draw(st.sampled_from(["before", "after", "backward", "before backward"])), place)
        return network, calls, place.startswith("act")
    if kind == "patched":
        name = draw(st.sampled_from(["forward", "_conv_forward"]))
        setattr(layer, name, lambda *given: 2 * getattr(type(layer), name)(layer, *given))
    if kind == "subclass":
        old = getattr(network, dense)
        setattr(network, dense, Own(old.in_features, old.out_features))
    if kind == "activation":
        setattr(
            network, draw(st.sampled_from(["act1", "act2", "act3"])), draw(st.sampled_from([nn.GELU(), nn.ReLU6()]))
        )
    if kind == "bias":
        getattr(network, dense).bias = None
    if kind == "type":
        network.double()
    if kind == "layout":  # the same numbers, laid out otherwise
        for each in (layer, getattr(network, dense)):
            each.weight.data = each.weight.data.transpose(0, 1).contiguous().transpose(0, 1)
            each.bias.data = each.bias.data.repeat_interleave(2)[::2]
    return network, calls, False


@needs_kernels
@given(changed_networks())
@settings(max_examples=150, deadline=None)
def test_what_the_kernels_were_not_written_for_is_computed_by_pytorch(case):
    """One thing changed, whatever it is: PyTorch's numbers or PyTorch's error, and every hook is called."""
    network, calls, fits = case
    images = inputs()[:3].to(network.dense1.weight.dtype)
    answers = []
    for forward in (network.run, network):
        calls.clear()
        try:
            pixels = images.clone().requires_grad_()
            logits = forward(pixels)
            gradient = torch.autograd.grad(logits.square().sum(), pixels)[0]
        except RuntimeError as error:
            answers.append(str(error))
        else:
            answers.append((logits.detach(), gradient, list(calls)))
    expected, found = answers
    if isinstance(expected, str):
        assert found == expected
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert fused.fits(network, images) == fits


@needs_kernels
def test_nor_are_global_hooks_and_autocast_passed_by():
    """Both want to see PyTorch's operators."""
    network, images, calls = build("fp32", seed=0), inputs()[:3], []
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(module))
    try:
        network(images)
    finally:
        hook.remove()
    assert {network.conv1, network.dense3} <= set(calls)
    with torch.autocast("cpu"):
        assert not fused.fits(network, images)
