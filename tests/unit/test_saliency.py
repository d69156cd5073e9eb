"""Maps against captum, closed forms, a twin in NumPy and brute force; what no map is made of; what is masked."""

from fnmatch import fnmatchcase
from itertools import repeat

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import convolve2d, correlate2d
from torch import nn
from torch.nn.functional import avg_pool2d

from saqlib import saliency
from saqlib.errors import NotFiniteError
from saqlib.lenet import build
from saqlib.quantization import PACT, pact_layers
from saqlib.saliency import METHODS, RANKINGS, DeadNetworkError, check_alive, input_gradient, mask_least_salient
from tests.helpers.networks import PRECISIONS, precision

PIXELS = 28 * 28
TARGETS = torch.tensor([0, 1, 2, 3, 4])
ALL = METHODS | {"finite_differences": lambda *given: saliency.finite_differences(*given, 0.1)}


@pytest.fixture(params=ALL)
def method(request):
    """A function of network, images and targets that makes maps."""
    return ALL[request.param]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey_images(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random pictures in 256 grey levels, as a network takes them."""
    return torch.randint(256, (count, 1, 28, 28), generator=generator(), dtype=torch.uint8).to(dtype) / 255


@pytest.fixture
def model():
    """A small network with layers whose mode matters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(576, 5)
    ).eval()


@pytest.fixture
def images():
    """Five images with dark ground."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.random((5, 1, 28, 28)) * (rng.random((5, 1, 28, 28)) < 0.5)).float()


@pytest.fixture
def colour_model():
    """A network of three channels, 20 x 24 pixels and five classes."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(320, 5)).eval()


@pytest.fixture
def colour_images():
    """Pictures (5, 3, 20, 24)."""
    return torch.rand(5, 3, 20, 24, generator=generator(2))


class Answers(nn.Module):
    """Whatever `change` makes of a network's logits, or of the pixels of an image in a row."""

    def __init__(self, change, network=None):
        super().__init__()
        self.network, self.change = network or nn.Flatten(), change

    def forward(self, images):
        return self.change(self.network(images))


def half_squares() -> nn.Module:
    """Its first logit is half the sum of squares, so that the gradient is the image."""
    return Answers(lambda pixels: torch.stack([pixels.square().sum(1) / 2, pixels.sum(1)], dim=1))


def captum_saliency(network, images, targets):
    """The signed gradient (B, C, H, W), by captum."""
    oracle = captum.attr.Saliency(network)
    return oracle.attribute(images.clone().requires_grad_(), target=targets, abs=False)


@pytest.mark.parametrize("name", PRECISIONS)
def test_map_equals_captum_s_signed_saliency_of_the_logit(name):
    """Captum, given the same network and the predicted or other classes, makes the same map; a ReLU clips nothing."""
    network, images = build(precision(name), seed=0).eval(), grey_images(6)
    predicted = network(images).argmax(1)
    maps = input_gradient(network, images)
    assert torch.equal(saliency.saliency_now(network.train(), images, predicted), maps) and network.training
    for targets in (predicted, (predicted + 1) % 10):
        expected = captum_saliency(network.eval(), images, targets).squeeze(1)
        torch.testing.assert_close(input_gradient(network, images, targets), expected, rtol=1e-5, atol=1e-8)
    assert torch.equal(input_gradient(network, images, predicted), maps)
    assert torch.equal(input_gradient(network, images, saturated="pass"), maps) == (name == "fp32")


def passed_through_by_numpy(network, image, target):
    """The map of one image (28, 28) by NumPy and SciPy: the deployed codes forward, the gradient of ReLUs backward."""
    codes, step, done = np.round(image.double().numpy() * 255)[None], 1 / 255, []
    for block in network.blocks():
        layer, shape = block.layer, codes.shape
        weight, scale = (each.detach().double().numpy() for each in (layer.codes(), layer.weight_scale))
        unit = scale.ravel() * step
        bias = np.round(layer.bias.detach().numpy() / unit)
        if block.pooled:
            padded = np.pad(codes, ((0, 0), *[(layer.padding[0],) * 2] * 2))
            sums = np.stack([sum(map(correlate2d, padded, kernels, repeat("valid"))) for kernels in weight])
            side = sums.shape[1] // 2
            windows = (sums + bias[:, None, None]).reshape(-1, side, 2, side, 2).transpose(0, 1, 3, 2, 4)
            windows = windows.reshape(-1, side, side, 4) * unit[:, None, None, None]
            z, won = windows.max(3), windows.argmax(3)
        else:
            z, won = (weight @ codes.ravel() + bias) * unit, None
        done.append((block, weight * scale, z, won, shape))
        if block.activation is not None:
            step = block.activation.alpha.item() / (2**block.activation.bits - 1)
            codes = np.round(np.clip(z, 0, block.activation.alpha.item()) / step)
    gradient = np.eye(10)[target]
    for block, weight, z, won, shape in reversed(done):
        if block.activation is not None:
            gradient = gradient.reshape(z.shape) * (z > 0)
        if not block.pooled:
            gradient = gradient @ weight
            continue
        spread = (gradient[..., None] * (np.arange(4) == won[..., None])).reshape(*z.shape, 2, 2)
        spread = spread.transpose(0, 1, 3, 2, 4).reshape(len(z), 2 * z.shape[1], 2 * z.shape[2])
        whole = np.stack([sum(map(convolve2d, spread, weight[:, channel])) for channel in range(shape[0])])
        pad = block.layer.padding[0]
        gradient = whole[:, pad : whole.shape[1] - pad, pad : whole.shape[2] - pad]
    return gradient[0]


@pytest.mark.parametrize("name", ["w4a4", "mixed", "w2a2"])
def test_passed_through_map_equals_a_twin_in_numpy_by_kernels_and_operators(name, monkeypatch):
    """With clips that many units exceed; the straight-through map of the same network is another one."""
    network, images = build(precision(name), seed=0).eval(), grey_images(3)
    for layer in pact_layers(network).values():
        layer.set_alpha(layer.alpha / 2)
    targets = torch.tensor([3, 0, 8])
    maps = input_gradient(network, images, targets, saturated="pass")
    expected = np.stack([passed_through_by_numpy(network, *each) for each in zip(images[:, 0], targets, strict=True)])
    np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    stopped = input_gradient(network, images, targets)
    assert (maps - stopped).abs().max() > 0.1 * maps.abs().max()
    monkeypatch.setattr("saqlib.lenet.fused.fits", lambda *_: False)
    by_operators = input_gradient(network, images, targets, saturated="pass")
    torch.testing.assert_close(by_operators, maps, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(input_gradient(network, images, targets), stopped, rtol=1e-4, atol=1e-6)


def clipping_network(activation: nn.Module) -> nn.Sequential:
    """Two layers about one activation, whose first unit is far above any clip, whose second is far below 0."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 3), activation, nn.Linear(3, 2)).eval()
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([50.0, -50.0, 0.5]))
        network[1].weight[:2].mul_(0.01)
    return network


CLIPS = {"PACT": lambda: PACT(2), "ReLU6": nn.ReLU6, "in place": lambda: nn.ReLU6(inplace=True),
         "Hardtanh": lambda: nn.Hardtanh(0, 2)}  # fmt: skip


@pytest.mark.parametrize("make", CLIPS.values(), ids=CLIPS)
def test_clipped_units_pass_the_gradient_and_dead_ones_do_not(make):
    """Closed form for each clip, also in place and with a hook; outputs, hooks and modes stay as they were."""
    network, images = clipping_network(make()), grey_images(4)
    before, logits = list(network[2]._forward_hooks), network(images)
    first, last = network[1].weight.detach(), network[3].weight.detach()
    alive = (network[1](images.flatten(1)) > 0).float()
    assert alive[:, 0].all() and not alive[:, 1].any()
    for target in (0, 1):
        targets = torch.full((4,), target)
        maps = input_gradient(network, images, targets, saturated="pass")
        torch.testing.assert_close(maps.flatten(1), (alive * last[target]) @ first)
        assert not torch.allclose(input_gradient(network, images, targets), maps, rtol=0.01, atol=0)
    assert list(network[2]._forward_hooks) == before and torch.equal(network(images), logits)
    assert getattr(network[2], "inplace", False) == getattr(make(), "inplace", False)
    network[2].register_forward_hook(lambda module, given, output: 3 * output)
    torch.testing.assert_close(input_gradient(network, images, targets, saturated="pass"), 3 * maps)


def test_passed_through_map_has_a_second_derivative():
    """As of the straight-through map: the second derivative of a linear path is that of what follows it."""
    network, images = clipping_network(nn.ReLU6()).double(), grey_images(1, torch.float64).requires_grad_()
    with saliency.passing(network):
        (gradient,) = torch.autograd.grad(network(images).square().sum(), images, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sum(), images)
    alive = (network[1](images.flatten(1)) > 0).double()
    slope = (alive * network[3].weight[:, None]).squeeze(1) @ network[1].weight  # (2, pixels)
    torch.testing.assert_close(second.flatten(), 2 * slope.T @ slope.sum(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardtanh(0.2, 2)])
def test_network_without_a_clip_to_pass_is_refused_by_name(activation):
    """Its straight-through map is made all the same."""
    network = clipping_network(activation)
    with pytest.raises(ValueError, match=rf"\[0, a\].*; 2 is {type(activation).__name__}\("):
        input_gradient(network, grey_images(2), saturated="pass")
    assert input_gradient(network, grey_images(2)).shape == (2, 28, 28)
    with pytest.raises(ValueError, match="saturated"):
        input_gradient(network, grey_images(2), saturated="passed")


def test_dead_network_is_refused_although_its_surrogate_has_a_gradient():
    """A 2-bit network whose last clip is so wide that every activation rounds to 0: autograd would return a map."""
    network, images = build("w2a2", seed=0), grey_images(4)
    pact_layers(network)["act4"].set_alpha(torch.tensor(100.0))
    assert saliency.saliency_now(network.eval(), images, torch.zeros(4, dtype=torch.long)).abs().max() > 0
    for some in (images, images[:1]):
        with pytest.raises(DeadNetworkError, match="logits do not depend on the input"):
            input_gradient(network, some)
    with pytest.raises(DeadNetworkError):
        check_alive(network, images)


@pytest.mark.parametrize("name", PRECISIONS)
def test_alive_network_is_explained(name):
    """Batches that could look dead, of one image, of equal images or of blank ones, are explained all the same."""
    network, one = build(precision(name), seed=0), grey_images(1)
    for images in (one, one.expand(3, -1, -1, -1), torch.zeros_like(one), torch.ones_like(one)):
        assert input_gradient(network, images).abs().amax((1, 2)).gt(0).all()
    check_alive(network, one)


def test_smoothgrad_follows_its_generator_alone(model, images):
    """It, or one of seed 0, decides the noise: with gradient x of deviation / sqrt(samples) around the image."""
    state = torch.get_rng_state()
    zero, again, other = (saliency.smoothgrad(model, images, TARGETS, generator=generator(s)) for s in (0, 0, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(zero, again) and torch.equal(zero, saliency.smoothgrad(model, images, TARGETS))
    assert not torch.equal(zero, other)
    targets = torch.zeros(5, dtype=torch.int64)
    maps = saliency.smoothgrad(half_squares(), images, targets, generator=generator(), samples=16, deviation=0.2)
    assert (maps - images.squeeze(1)).std().item() == pytest.approx(0.2 / 16**0.5, rel=0.05) and (maps < 0).any()


@pytest.mark.parametrize("count", [0, 1, 5], ids=["black", "one for all", "one for each"])
def test_integrated_gradients_of_half_squares_are_their_rise(images, count):
    """Closed form: with gradient x the integral is half the square of the pixel less that of the baseline."""
    baseline = torch.rand(count, 1, 28, 28, generator=generator(3)) if count else torch.zeros(1, 1, 28, 28)
    targets = torch.zeros(5, dtype=torch.int64)
    maps = saliency.integrated_gradients(half_squares(), images, targets, *[baseline] * bool(count))
    torch.testing.assert_close(maps, ((images.square() - baseline.square()) / 2).squeeze(1), rtol=1e-5, atol=1e-6)
    assert not maps.requires_grad


def test_integrated_gradients_in_parts_are_those_of_each_image(model):
    """More images than one batch takes: nobody gets another's baseline, target or gradient."""
    many = torch.rand(90, 1, 28, 28, generator=generator(4))
    baselines, targets = torch.rand(90, 1, 28, 28, generator=generator(5)), torch.arange(90) % 5
    maps = saliency.integrated_gradients(model, many, targets, baselines)
    for i in (0, 39, 40, 41, 89):
        single = saliency.integrated_gradients(model, many[i : i + 1], targets[i : i + 1], baselines[i : i + 1])
        torch.testing.assert_close(maps[i : i + 1], single, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_occlusion_by_brute_force(kind, model, images, colour_model, colour_images):
    """Each pixel holds the mean fall of the logit over the windows, of all channels and two apart, that cover it."""
    network, pictures = (model, images) if kind == "grey" else (colour_model, colour_images)
    height, width = pictures.shape[2:]
    with torch.no_grad():
        before = network(pictures).gather(1, TARGETS[:, None]).squeeze(1)
        total, count = torch.zeros(5, height, width), torch.zeros(height, width)
        for row in range(0, height - 3, 2):
            for column in range(0, width - 3, 2):
                window = (..., slice(row, row + 4), slice(column, column + 4))
                blanked = pictures.clone()
                blanked[window] = 0
                total[window] += (before - network(blanked).gather(1, TARGETS[:, None]).squeeze(1))[:, None, None]
                count[window] += 1
    torch.testing.assert_close(saliency.occlusion(network, pictures, TARGETS), total / count, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("step", [0.03, 1.5])
def test_finite_differences_of_a_linear_network_are_its_mean_weights(images, step, window):
    """Closed form, wherever pixels stop at 0 or 1: there the way that they go is shorter, and so is the rise."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 5)).double()
    images = images.double().contiguous()
    images[:, :, ::2, ::2] = torch.where(images[:, :, ::2, ::2] > 0.5, 1.0, 0.0).double()
    even = torch.rand(5, 28 // window, 28 // window, generator=generator()).double() - 0.5
    even = even.repeat_interleave(window, 1).repeat_interleave(window, 2)
    network[1].weight.data = even.flatten(1)
    maps = saliency.finite_differences(network, images, TARGETS, step, window=window)
    torch.testing.assert_close(maps, even)
    assert not maps.requires_grad


def test_finite_differences_give_a_window_the_mean_of_its_weights_in_all_channels():
    """Where all pixels of a window may go both ways, whatever their weights are."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 24, 5)).double()
    maps = saliency.finite_differences(network, torch.full((5, 3, 20, 24), 0.5, dtype=torch.float64), TARGETS, 32 / 255)
    weights = network[1].weight.detach().view(5, 3, 20, 24).mean(1)
    expected = avg_pool2d(weights, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(maps, expected)


def test_finite_differences_ask_the_staircase_and_not_its_surrogate():
    """A network that rounds: the slope of its steps, 0 where no step is near, though a surrogate would give 1."""
    stairs = Answers(lambda pixels: pixels.mul(4).round().div(4).sum(1, keepdim=True).expand(-1, 5))
    level, target = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    assert (saliency.finite_differences(stairs, level, target, 0.1) == 0).all()
    torch.testing.assert_close(saliency.finite_differences(stairs, level, target, 0.2), torch.full((1, 2, 2), 1.25))


def test_gradients_of_several_channels_are_the_strongest_ones(colour_model, colour_images):
    """Of captum's gradients, the sign kept: of the logit, nearly without noise, and of the log-probability."""

    def strongest(gradient):
        high, low = gradient.amax(1), gradient.amin(1)
        return torch.where(high >= -low, high, low)

    expected = strongest(captum_saliency(colour_model, colour_images, TARGETS))
    maps = input_gradient(colour_model, colour_images, TARGETS)
    assert maps.shape == (5, 20, 24) and (maps < 0).any() and (maps > 0).any()
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-8)
    maps = saliency.smoothgrad(colour_model, colour_images, TARGETS, samples=3, deviation=1e-7)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-5)
    whole = nn.Sequential(colour_model, nn.LogSoftmax(dim=1)).eval()
    maps = saliency.log_probability_gradient(colour_model, colour_images, TARGETS)
    torch.testing.assert_close(maps, strongest(captum_saliency(whole, colour_images, TARGETS)), rtol=0, atol=1e-6)


def test_network_stays_as_it_was(method, model, images):
    """Modes (also mixed ones, below a parent in either mode), statistics, parameters, gradients and flags."""
    expected = method(model, images, TARGETS)
    assert expected.shape == (5, 28, 28) and not expected.requires_grad
    model[5].bias.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 7.0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for mode in (True, False):
        model.train(mode)
        model[1].train(not mode)
        modes = [module.training for module in model.modules()]
        assert torch.equal(method(model, images, TARGETS), expected)
        assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True] * 5 + [False]
    assert [p.grad is None for p in model.parameters()] == [True] * 4 + [False, True]
    assert (model[5].weight.grad == 7).all() and not images.requires_grad


NOT_FINITE = [float("nan"), -float("inf")]


def refusal(function, *given, error=ValueError) -> str:
    """The one line with which it refuses."""
    with pytest.raises(error) as raised:
        function(*given)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_what_is_not_finite_has_no_map(method, value, model, images):
    """A pixel of one picture, or any parameter, also one that a ReLU turns into a 0; it is named."""
    for name, parameter in model.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter[...] = value
            assert name in refusal(method, model, images, TARGETS, error=NotFiniteError)
            parameter.copy_(before)
    images[1, 0, 3, 4] = value
    assert "images" in refusal(method, model, images, TARGETS, error=NotFiniteError)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_nor_has_a_quantized_network_or_a_sum_that_overflows(value):
    """Codes are whole numbers, NaN's too; the guard against dead networks is not deceived either."""
    networks = [Answers(lambda pixels: pixels[:, :10] * value)]
    for name in ("conv1.bias", "conv2.weight", "act1.alpha", "dense3.bias"):
        networks.append(build("w2a2", seed=0).eval())
        networks[-1].get_parameter(name).data[...] = value
    for network in networks:
        refusal(input_gradient, network, grey_images(5), TARGETS)
        refusal(check_alive, network, grey_images(5))


def test_a_slope_without_bounds_is_no_map():
    """Square roots of pixels: at 0 they are finite, and their gradient is not."""
    roots, images = Answers(lambda pixels: pixels[:, :10].sqrt()), grey_images(5)
    images[:, 0, 0, 0] = 0
    assert "the map is not finite" in refusal(input_gradient, roots, images, TARGETS, error=NotFiniteError)


COUPLED = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(784, 5))
FLOAT = "images must be float (B, C, H, W), not torch.float32 "
BAD = {  # what is changed of a network, images and targets that fit; the refusal, * for what may stand there
    "too few targets": ({"targets": TARGETS[:2]}, "targets must be torch.int64 (5,), *"),
    "one target": ({"targets": TARGETS[:1]}, "targets must be torch.int64 (5,), *"),  # it would broadcast
    "a column of targets": ({"targets": TARGETS[:, None]}, "targets must be torch.int64 (5,), *"),
    "a number as target": ({"targets": torch.tensor(1)}, "targets must be torch.int64 (5,), *"),
    "int32 targets": ({"targets": TARGETS.int()}, "targets must be torch.int64 (5,), *"),
    "float targets": ({"targets": TARGETS.float()}, "targets must be torch.int64 (5,), *"),
    "no images": ({"images": torch.zeros(0, 1, 28, 28), "targets": TARGETS[:0]}, "there are no images *"),
    "bytes": ({"images": torch.zeros(5, 1, 28, 28, dtype=torch.uint8)}, "images must be float *"),
    "no channel": ({"images": torch.zeros(5, 28, 28)}, f"{FLOAT}(5, 28, 28)"),  # it would be one of five channels
    "five axes": ({"images": torch.zeros(1, 5, 1, 28, 28)}, f"{FLOAT}(1, 5, 1, 28, 28)"),
    "two outputs": ({"model": Answers(lambda x: (x, x))}, "the network must give logits*not a tuple"),
    "named outputs": ({"model": Answers(lambda x: {"out": x})}, "the network must give logits*not a dict"),
    "one row": ({"model": Answers(sum)}, "the network must give logits*not (784,)"),
    "a function": ({"model": COUPLED.forward}, "the network must be an nn.Module, not a method"),
    "images that hang together": ({"model": COUPLED}, "0, a BatchNorm2d, has no running statistics*"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_question_to_a_network_is_refused(kind, method, model, images):
    """In one line that says what is wanted: of some, a map would be made that means something else."""
    change, message = BAD[kind]
    asked = {"model": model, "images": images, "targets": TARGETS} | change
    assert fnmatchcase(refusal(method, *asked.values()), message)


def test_maps_are_the_same_in_inference_mode_and_under_autocast(method, model, images):
    """To the bit, also of frozen parameters and images made there; a network made there is refused."""
    expected = method(model, images, TARGETS)
    with torch.no_grad():
        assert torch.equal(method(model.requires_grad_(False), images, TARGETS), expected)
    with torch.inference_mode():
        assert torch.equal(method(model, images.clone(), TARGETS.clone()), expected)
        assert "inference mode" in refusal(input_gradient, nn.Sequential(nn.Flatten(), nn.Linear(784, 5)), images)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            assert torch.equal(method(model, images, TARGETS), expected)


class Normalising(nn.Module):
    """It normalises the images that it gets where they lie."""

    def __init__(self, network, inplace):
        super().__init__()
        self.network, self.inplace = network, inplace

    def forward(self, images):
        return self.network((images if self.inplace else images.clone()).sub_(0.3).div_(0.2))


def test_images_come_back_as_they_were(method, model, images):
    """Also from a network that overwrites them, and its maps are those of one that does not."""
    before, expected = images.clone(), method(Normalising(model, inplace=False), images, TARGETS)
    assert torch.equal(method(Normalising(model, inplace=True), images, TARGETS), expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "occlusion"])
def test_a_network_that_cuts_its_gradient_is_refused(name, model, images):
    """By detach; of our own methods also one where only the parameters have a gradient."""
    assert "logits have no gradient" in refusal(METHODS[name], Answers(torch.detach, model), images, TARGETS)
    if name in ("straight_through", "pass_through", "log_probability"):
        other = Answers(lambda logits: logits.detach() * model[-1].bias.sum(), model)
        assert "logits have no gradient" in refusal(METHODS[name], other, images, TARGETS)


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (1, 3, 28, 28), (5, 28, 28)])
def test_what_does_not_fit_is_refused(model, images, shape):
    """Baselines and logits of another shape, windows that do not share out the image, a step that is none."""
    expected = f"the baseline must be one image or one for each of (5, 1, 28, 28), not {shape}"
    assert refusal(saliency.integrated_gradients, model, images, TARGETS, torch.zeros(shape)) == expected
    assert "logits (5, classes)" in refusal(saliency.logit_gradient, torch.zeros(shape[1:]), images, TARGETS)
    with pytest.raises(ValueError, match=r"^windows of 3 pixels do not share out an image of 28 x 28$"):
        saliency.finite_differences(model, images, TARGETS, 0.1, window=3)
    assert "the step must be above 0, not 0" == refusal(saliency.finite_differences, model, images, TARGETS, 0)


@st.composite
def maskings(draw):
    """Images of own ranges in several channels, maps with many ties, a count of pixels, a ranking."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, channels, distinct = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 7, 10_000]))
    low, high = rng.uniform(0, 0.5, (batch, 1, 1, 1)), rng.uniform(0.5, 1, (batch, 1, 1, 1))
    images = rng.uniform(low, high, (batch, channels, 5, 7))
    maps = rng.integers(-distinct, distinct, (batch, 5, 7), endpoint=True) / distinct
    count, ranking = draw(st.integers(0, 35)), draw(st.sampled_from(RANKINGS))
    return torch.from_numpy(images).float(), torch.from_numpy(maps).float(), count, ranking


@given(maskings())
def test_mask_replaces_exactly_the_least_salient_pixels(case):
    """The first `count` of a stable sort become noise in the image's range, in every channel; the rest keep their bits.

    The twin draws one number for each value of an image, channels outermost.
    """
    images, maps, count, ranking = case
    before = images.clone()
    fraction = (count + 0.5) / 35 if count < 35 else 1.0  # rounded down to whole pixels
    masked = mask_least_salient(images, maps, fraction, generator(7), ranking=ranking)
    noise = torch.rand(len(images), images[0].numel(), generator=generator(7)).view_as(images).flatten(2)
    low, high = (extreme[:, None, None] for extreme in images.flatten(1).aminmax(dim=1))
    expected = images.flatten(2).clone()
    for image, scores, replacement in zip(expected, maps.flatten(1), low + (high - low) * noise, strict=True):
        least = (scores.abs() if ranking == "magnitude" else scores).argsort(stable=True)[:count]
        image[:, least] = replacement[:, least]
    assert torch.equal(masked.flatten(2), expected) and masked.shape == images.shape
    assert torch.equal(images, before) and masked.data_ptr() != images.data_ptr()
    if ranking == "magnitude":
        assert torch.equal(mask_least_salient(images, maps, fraction, generator(7)), masked)


@pytest.mark.parametrize(("fraction", "pixels"), [(0.29, 29), (0.57, 57), (0.07, 7), (0.005, 0), (1.0, 100)])
def test_a_fraction_is_the_pixels_that_it_says(fraction, pixels):
    """0.29 * 100 is a little less than 29 in binary."""
    images, maps = torch.rand(1, 1, 10, 10), torch.rand(1, 10, 10)
    assert (mask_least_salient(images, maps, fraction, generator()) != images).sum() == pixels


def test_noise_comes_from_the_given_generator_only_and_always_as_much():
    """A new mask each time, no other source is touched, paired seeds stay paired, and several share the images."""
    images, maps = grey_images(2), torch.rand(2, 28, 28, generator=generator(1))
    own, outside = generator(9), torch.get_rng_state()
    first, second = (mask_least_salient(images, maps, 0.5, own) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), outside)
    less = generator(9)
    for fraction, ranking in ((0, "magnitude"), (0.7, "signed")):
        mask_least_salient(images, torch.randn(2, 28, 28), fraction, less, ranking=ranking)
    assert torch.equal(less.get_state(), own.get_state())
    assert not torch.equal(own.get_state(), generator(9).get_state())
    together = mask_least_salient(images, maps, 0.5, [generator(2), generator(3)])
    single = [mask_least_salient(images[i : i + 1], maps[i : i + 1], 0.5, generator(2 + i)) for i in (0, 1)]
    assert torch.equal(together, torch.cat(single))


def test_nothing_is_masked_by_bad_input():
    """A share that is none, an unknown ranking, generators that cannot share, whole numbers, what is not finite."""
    images, maps = grey_images(6), torch.rand(6, 28, 28)
    for fraction in (-0.01, 1.01, torch.nan, torch.inf):
        expected = f"fraction must lie in [0, 1], not {fraction!r}"
        assert refusal(mask_least_salient, images, maps, fraction, generator()) == expected
    with pytest.raises(ValueError, match="^unknown ranking 'magnitud'; did you mean 'magnitude'"):
        mask_least_salient(images, maps, 0.5, generator(), ranking="magnitud")
    with pytest.raises(ValueError, match="^4 generators cannot share 6 images equally$"):
        mask_least_salient(images, maps, 0.5, [generator()] * 4)
    assert "float" in refusal(mask_least_salient, images, maps.long(), 0.5, generator())
    for pictures, shape in ((images, (6, 28, 27)), (images, (1, 28, 28)), (images[:, 0], (6, 28, 28))):
        expected = f"images (B, C, H, W) and maps (B, H, W) must fit, not {tuple(pictures.shape)} and {shape}"
        assert refusal(mask_least_salient, pictures, torch.zeros(shape), 0.5, generator()) == expected
    for spoilt in (images, maps):
        before = spoilt.clone()
        spoilt.view(-1)[5] = torch.nan
        refusal(mask_least_salient, images, maps, 0.5, generator(), error=NotFiniteError)
        spoilt.copy_(before)
