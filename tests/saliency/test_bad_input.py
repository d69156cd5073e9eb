"""What no map is made of: it would look plausible. Every method that makes maps, with every kind of bad input."""

import pytest
import torch
from torch import nn

from saqlib.errors import NotFiniteError
from saqlib.network.initial import build
from saqlib.saliency.gradient import check_alive, input_gradient, logit_gradient
from saqlib.saliency.masking import mask_least_salient
from saqlib.saliency.methods import integrated_gradients, log_probability_gradient, occlusion, smoothgrad

COUNT = 3
METHODS = {
    "input gradient": input_gradient,
    "SmoothGrad": lambda *given: smoothgrad(*given, generator=torch.Generator().manual_seed(0)),
    "integrated gradients": lambda *given: integrated_gradients(*given, torch.zeros(1, 1, 28, 28)),
    "occlusion": occlusion,
    "log-probability": log_probability_gradient,
}
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


@pytest.fixture(params=METHODS)
def method(request):
    """A function of network, images and targets that makes maps."""
    return METHODS[request.param]


@pytest.fixture
def images():
    """Images as a network takes them."""
    return torch.rand(COUNT, 1, 28, 28, generator=torch.Generator().manual_seed(0))


TARGETS = torch.tensor([1, 2, 3])


def plain() -> nn.Sequential:
    """A network of anybody's, without a check of its own, whose ReLU hides what is not finite."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10)).eval()


def refused(method, *given, error=ValueError) -> str:
    """The one line with which it refuses."""
    with pytest.raises(error) as raised:
        method(*given)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_pixel_that_is_not_finite_has_no_map(method, value, images):
    """Of one picture among others."""
    images[1, 0, 3, 4] = value
    assert "images" in refused(method, plain(), images, TARGETS, error=NotFiniteError)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ["1.weight", "1.bias", "3.weight", "3.bias"])
def test_a_network_that_is_not_finite_has_no_map(method, name, value, images):
    """Any parameter, also one that a ReLU turns into a 0 or that no gradient reaches; it is named."""
    network = plain()
    with torch.no_grad():
        network.get_parameter(name)[...] = value
    assert name in refused(method, network, images, TARGETS, error=NotFiniteError)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", ["conv1.bias", "conv2.weight", "act1.alpha", "dense3.bias"])
def test_nor_has_a_quantized_one(name, value, images):
    """Whose codes are whole numbers, NaN's too; the guard against dead networks is not deceived either."""
    network = build("w2a2", seed=0).eval()
    with torch.no_grad():
        network.get_parameter(name)[...] = value
    refused(input_gradient, network, images, TARGETS, error=ValueError)
    refused(check_alive, network, images, error=ValueError)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_an_output_that_is_not_finite_has_no_map(value, images):
    """From finite weights and pixels, by a sum that overflows or a division by 0."""

    class Overflowing(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :10] * value

    refused(input_gradient, Overflowing(), images, TARGETS, error=NotFiniteError)
    refused(check_alive, Overflowing(), images, error=NotFiniteError)


@pytest.mark.parametrize(
    "targets",
    [TARGETS[:2], TARGETS[:1], TARGETS[:, None], TARGETS.int(), TARGETS.float(), torch.tensor(1)],
    ids=["too few", "one for all", "a column", "int32", "float", "a number"],
)
def test_targets_of_another_shape_or_type_are_refused(method, targets, images):
    """Some of them would broadcast, and the map be another image's."""
    assert "targets must be torch.int64 (3,)" in refused(method, plain(), images, targets)


def test_no_images_have_no_map(method, images):
    """An error, not an empty or a failing map."""
    assert "no images" in refused(method, plain(), images[:0], TARGETS[:0])


def test_bytes_have_no_map(method, images):
    """Images as they are stored."""
    assert "must be float" in refused(method, plain(), (255 * images).byte(), TARGETS)


def test_maps_are_the_same_in_inference_mode_and_under_autocast(method, images):
    """To the bit; images made in inference mode serve, too. A network made there has no gradient, and is refused."""
    network = plain()
    expected = method(network, images, TARGETS)
    with torch.inference_mode():
        assert torch.equal(method(network, images.clone(), TARGETS.clone()), expected)
        assert "inference mode" in refused(input_gradient, plain(), images, TARGETS)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            assert torch.equal(method(network, images, TARGETS), expected)


@pytest.mark.parametrize("logits", [torch.zeros(3), torch.zeros(2, 10), torch.zeros(3, 1, 10)])
def test_logits_of_another_shape_are_refused(logits, images):
    """A gradient of them would mean something else."""
    assert "logits (3, classes)" in refused(logit_gradient, logits, images, TARGETS)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_nothing_is_masked_by_what_is_not_finite(value, images):
    """Neither a map nor a picture: NaN compares with nothing, and a mask would come out all the same."""
    maps, generator = torch.rand(COUNT, 28, 28), torch.Generator()
    for spoilt in (images, maps):
        before = spoilt.clone()
        spoilt.view(-1)[5] = value
        refused(mask_least_salient, images, maps, 0.5, generator, error=NotFiniteError)
        spoilt.copy_(before)
    assert "float" in refused(mask_least_salient, images, maps.long(), 0.5, generator)


@pytest.mark.parametrize(
    ("fraction", "pixels"), [(0.29, 29), (0.57, 57), (0.58, 58), (0.07, 7), (0.005, 0), (1.0, 100)]
)
def test_a_fraction_is_the_pixels_that_it_says(fraction, pixels):
    """0.29 * 100 is a little less than 29 in binary."""
    images, maps = torch.rand(1, 1, 10, 10), torch.rand(1, 10, 10)
    masked = mask_least_salient(images, maps, fraction, torch.Generator().manual_seed(0))
    assert (masked != images).sum() == pixels
