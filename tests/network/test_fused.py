"""The network by the kernels against the network by PyTorch's operators, layer by layer the reference."""

import pytest
import torch
import torch.nn.functional as F

from saqlib.data import images as data
from saqlib.kernels import library, operators
from saqlib.network import fused
from saqlib.network.initial import build
from saqlib.network.quantization import calibrate, set_quantizing
from saqlib.network.settings import Shape

pytestmark = pytest.mark.skipif(library.library() is None, reason=f"no kernels here: {library.why_not()}")
PRECISIONS = ("fp32", "w4a4", "mixed", "w2a2")


@pytest.fixture(scope="module")
def sample():
    images, labels = data.load("mnist", "test", sample=True)
    return data.as_input(images[:96]), labels[:96]


def both(network, images, labels):
    """Logits, maps and gradients of the parameters: by PyTorch, and by the kernels."""
    found = []
    for run in (network.run, network):
        network.zero_grad()
        watched = images.clone().requires_grad_()
        logits = run(watched)
        (maps,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), watched, retain_graph=True)
        F.cross_entropy(logits, labels).backward()
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        found.append((logits.detach(), maps, gradients))
    assert fused.fits(network, images)
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_evaluation(precision, sample):
    """Quantized logits equal to the bit, since their sums are whole numbers; maps and gradients to rounding."""
    images, labels = sample
    network = build(precision, seed=0)
    calibrate(network, images)
    (logits, maps, gradients), (ours, own_maps, own_gradients) = both(network.eval(), images, labels)
    if precision == "fp32":
        torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(ours, logits)
    torch.testing.assert_close(own_maps, maps, rtol=1e-4, atol=1e-5 * float(maps.abs().max()))
    assert own_gradients.keys() == gradients.keys() == dict(network.named_parameters()).keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own_gradients[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training(precision, sample):
    """Logits to rounding for every precision; gradients where no rounding decides between equal values."""
    images, labels = sample
    network = build(precision, seed=0)
    calibrate(network, images)
    network.train()
    (logits, *_), (ours, *_) = both(network, images, labels)
    torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
    set_quantizing(network, False)
    (logits, maps, gradients), (ours, own_maps, own_gradients) = both(network, images, labels)
    torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_maps, maps, rtol=1e-4, atol=1e-5 * float(maps.abs().max()))
    assert own_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own_gradients[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("precision", ["w4a4", "mixed", "w2a2"])
def test_calibration_reaches_every_clip(precision, sample):
    """Through the fused blocks, too: the same clips as by PyTorch's operators, none left where it was."""
    images, _ = sample
    clips = []
    for forward in ("forward", "run"):
        network = build(precision, seed=0)
        layers = [network.act1, network.act2, network.act3, network.act4]
        for layer in layers:
            layer.set_alpha(torch.tensor(123.0))
        network.forward = getattr(network, forward)
        calibrate(network, images)
        clips.append(torch.stack([layer.alpha.detach() for layer in layers]))
    assert (clips[0] < 123).all()
    torch.testing.assert_close(*clips, rtol=1e-5, atol=0)


def test_hooks_see_what_an_activation_takes(sample):
    """In PyTorch's order; and with a hook the logits are the same bits as without. One on a convolution: PyTorch."""
    images, _ = sample
    network, seen = build("w2a2", seed=0).eval(), []
    calibrate(network, images)
    with torch.no_grad():
        before = network(images)
        hook = network.act1.register_forward_hook(lambda layer, inputs, output: seen.append((*inputs, output)))
        assert torch.equal(network(images), before) and fused.fits(network, images)
        hook.remove()
        assert torch.equal(network.run(images), before)
    (taken, given), pooled = seen[0], F.max_pool2d(network.conv1(images, 1 / 255), 2)
    assert torch.equal(taken, pooled.detach()) and torch.equal(given, network.act1(pooled).detach())
    network.conv1.register_forward_hook(lambda *_: None)
    assert not fused.fits(network, images)


def test_other_networks_run_as_before(sample):
    """Other widths and float64: PyTorch's operators, and a sentence that says why."""
    images, _ = sample
    wider = build("w4a4", shape=Shape((4, 6), (12, 10)), seed=0)
    assert not fused.fits(wider, images) and wider(images).shape == (len(images), 10)
    assert "8 and 16 channels" in fused.reason(wider.shape, "cpu")
    double = build("fp32", seed=0).double()
    assert not fused.fits(double, images.double()) and double(images.double()).dtype == torch.float64


def test_kind_is_told(monkeypatch):
    """What computes: in the store's keys and beside the results."""
    shape = Shape((8, 16), (120, 84))
    assert fused.kind(shape, "cpu").startswith("fused kernels")
    assert fused.kind(shape, "cuda") == "PyTorch on cuda"
    monkeypatch.setattr(fused, "library", lambda: None)
    monkeypatch.setattr(fused, "why_not", lambda: "no C compiler")
    assert fused.kind(shape, "cpu").startswith("PyTorch, ")
    assert "no C compiler" in fused.reason(shape, "cpu")


def test_without_the_library_the_reference_runs(monkeypatch, sample):
    """No compiler: the same network by PyTorch's operators."""
    images, _ = sample
    network = build("w4a4", seed=0).eval()
    with torch.no_grad():
        ours = network(images)
        monkeypatch.setattr(operators, "library", lambda: None)
        assert not fused.fits(network, images)
        assert torch.equal(network(images), ours)
