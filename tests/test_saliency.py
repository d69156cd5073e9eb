"""Saliency: maps against captum and central differences; masks against a stable sort, pixel by pixel."""

import captum.attr
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saqlib import model
from saqlib.quantization import pact_layers
from saqlib.saliency import (
    DeadNetworkError,
    check_alive,
    evaluating,
    input_gradient,
    logit_gradient,
    mask_least_salient,
)

PIXELS = 28 * 28


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random pictures in 256 grey levels, as a network takes them."""
    return torch.randint(256, (count, 1, 28, 28), generator=generator(), dtype=torch.uint8).to(dtype) / 255


def smooth_network() -> nn.Sequential:
    """A network whose derivative is the limit of its differences, in float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 30), nn.Tanh(), nn.Linear(30, 10)).double()


def moody_network() -> nn.Sequential:
    """A network that behaves differently in training: batch norm and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 24 * 24, 10)
    )


def dead_network() -> nn.Module:
    """A 2-bit network whose last clip is a usual constant, 10: so wide that every activation rounds to 0."""
    network = model.build("w2a2", seed=0)
    pact_layers(network)["act4"].set_alpha(torch.tensor(10.0))
    return network


# ----------------------------------------------------------------------------------------------------- maps


def test_map_equals_central_differences_of_the_logit():
    """On a smooth network every pixel's value is the logit's slope there, for given targets."""
    network, images, targets = smooth_network(), images_of(2, torch.float64), torch.tensor([3, 8])
    step = 1e-5 * torch.eye(PIXELS, dtype=torch.float64).view(PIXELS, 1, 28, 28)
    found = input_gradient(network, images, targets)
    assert found.shape == (2, 28, 28)
    for image, target, saliency in zip(images, targets, found, strict=True):
        slope = (network(image + step) - network(image - step))[:, target] / 2e-5
        torch.testing.assert_close(saliency.flatten(), slope.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("precision", ["fp32", "w4a4", "mixed", "w2a2"])
def test_map_equals_captum_s_signed_saliency_of_the_logit(precision):
    """Captum, given the same evaluated network and the predicted classes, finds the same map."""
    network, images = model.build(precision, seed=0).eval(), images_of(6)
    predicted = network(images).argmax(1)
    oracle = captum.attr.Saliency(network)
    expected = oracle.attribute(images.clone().requires_grad_(), target=predicted, abs=False)
    torch.testing.assert_close(input_gradient(network, images), expected.squeeze(1), rtol=1e-5, atol=1e-8)
    others = (predicted + 1) % 10
    expected = oracle.attribute(images.clone().requires_grad_(), target=others, abs=False)
    torch.testing.assert_close(input_gradient(network, images, others), expected.squeeze(1), rtol=1e-5, atol=1e-8)


def test_map_is_of_the_logit_and_not_of_the_log_probability():
    """The gradient of the log-softmax is another one at the tested images, so the two cannot be confused."""
    network, images = smooth_network(), images_of(3, torch.float64)
    ours = input_gradient(network, images)
    of_probability = input_gradient(nn.Sequential(network, nn.LogSoftmax(1)), images)
    assert (ours - of_probability).abs().max() > 0.01 * ours.abs().max()


def test_map_of_a_batch_is_the_maps_of_its_images():
    """No image sees another one, in evaluation mode not even through batch norm."""
    images = images_of(4)
    for network in (smooth_network().float(), moody_network(), model.build("w2a2", seed=0)):
        singles = torch.cat([input_gradient(network, image[None]) for image in images])
        torch.testing.assert_close(input_gradient(network, images), singles, rtol=1e-4, atol=1e-6)


def test_map_leaves_the_network_as_it_was():
    """Modes (also mixed ones), running statistics, parameters, their gradients and flags are untouched."""
    network, images = moody_network(), images_of(3)
    network[0].eval()
    network[5].bias.requires_grad_(False)
    network[5].weight.grad = torch.full_like(network[5].weight, 7.0)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    input_gradient(network, images)
    assert [m.training for m in network] == [False, True, True, True, True, True] and network.training
    assert [p.requires_grad for p in network.parameters()] == [True] * 5 + [False]
    assert [p.grad is None for p in network.parameters()] == [True] * 4 + [False, True]
    assert (network[5].weight.grad == 7).all()
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not images.requires_grad


@pytest.mark.parametrize("training", [False, True])
def test_map_is_taken_in_evaluation_mode_whatever_the_modes_are(training):
    """A dropout layer left in training mode, below a parent in either mode, does not make the map random."""
    network, images = moody_network(), images_of(2)
    network.eval()
    expected = input_gradient(network, images)
    network.training = training
    network[3].train()
    assert torch.equal(input_gradient(network, images), expected)
    assert network[3].training and network.training == training


def test_evaluating_restores_the_modes_after_an_error():
    """An exception inside the block leaves no network in evaluation mode."""
    network = moody_network()
    with pytest.raises(KeyError), evaluating(network):
        assert not any(m.training for m in network.modules())
        raise KeyError
    assert all(m.training for m in network.modules())


def test_map_can_be_taken_where_gradients_are_off():
    """A caller's no_grad and frozen parameters do not matter: the map is of the pixels."""
    network, images = smooth_network(), images_of(2, torch.float64)
    expected = input_gradient(network, images)
    network.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(input_gradient(network, images), expected)


def test_logit_gradient_keeps_the_graph_only_when_asked():
    """A guided step differentiates the same forward pass twice; everybody else frees it."""
    network, images = smooth_network(), images_of(2, torch.float64).requires_grad_()
    targets = torch.tensor([0, 1])
    logits = network(images)
    first = logit_gradient(logits, images, targets, retain_graph=True)
    assert torch.equal(logit_gradient(logits, images, targets), first)
    with pytest.raises(RuntimeError, match="second time"):
        logit_gradient(logits, images, targets)


# -------------------------------------------------------------------------------------------- dead networks


def test_dead_network_is_refused_although_its_surrogate_has_a_gradient():
    """Equal logits for every input: the map that autograd would still return is not shown."""
    network, images = dead_network(), images_of(4)
    network.eval()
    watched = images.clone().requires_grad_()
    logits = network(watched)
    assert (logits == logits[0]).all()
    assert logit_gradient(logits, watched, torch.zeros(4, dtype=torch.long)).abs().max() > 0
    for some in (images, images[:1]):
        with pytest.raises(DeadNetworkError, match="logits do not depend on the input"):
            input_gradient(network, some)
    with pytest.raises(DeadNetworkError):
        check_alive(network, images)


@pytest.mark.parametrize("precision", ["fp32", "w4a4", "mixed", "w2a2"])
def test_alive_network_is_explained(precision):
    """Batches that could look dead, of one image, of equal images or of blank ones, are explained all the same."""
    network = model.build(precision, seed=0)
    one = images_of(1)
    for images in (one, one.expand(3, -1, -1, -1), torch.zeros_like(one), torch.ones_like(one)):
        assert input_gradient(network, images).abs().amax((1, 2)).gt(0).all()
    check_alive(network, one)


# ------------------------------------------------------------------------------------------------------ masks


@st.composite
def maskings(draw):
    """Images of own ranges, saliency with many ties, a count of pixels, a ranking."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, distinct = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 7, 10_000]))
    low = rng.uniform(0, 0.5, (batch, 1, 1, 1))
    images = low + rng.uniform(0, 1, (batch, 1, 28, 28)) * rng.uniform(0, 0.5, (batch, 1, 1, 1))
    saliency = rng.integers(-distinct, distinct, (batch, 28, 28), endpoint=True) / distinct
    count = draw(st.integers(0, PIXELS))
    ranking = draw(st.sampled_from(["magnitude", "signed"]))
    return torch.from_numpy(images).float(), torch.from_numpy(saliency).float(), count, ranking


@given(maskings())
def test_mask_replaces_exactly_the_least_salient_pixels(case):
    """The first `count` of a stable sort become noise in the image's range; every other pixel keeps its bits."""
    images, saliency, count, ranking = case
    before = images.clone()
    fraction = (count + 0.5) / PIXELS if count < PIXELS else 1.0  # rounded down to whole pixels
    masked = mask_least_salient(images, saliency, fraction, generator(), ranking=ranking)
    assert torch.equal(images, before)
    assert masked.shape == images.shape and masked.dtype == images.dtype
    for image, other, scores in zip(images.flatten(1), masked.flatten(1), saliency.flatten(1), strict=True):
        key = scores.abs() if ranking == "magnitude" else scores
        order = key.argsort(stable=True)
        least, kept = order[:count], order[count:]
        assert torch.equal(other[kept], image[kept])
        assert (other[least] != image[least]).float().sum() >= count - 2  # noise may hit a value by chance
        assert image.min() <= other.min() and other.max() <= image.max()


def test_mask_never_takes_the_most_salient_pixel():
    """As long as one pixel stays, it is the one with the largest |saliency|, here a negative one."""
    images, saliency = images_of(2), torch.rand(2, 28, 28, generator=generator(1))
    saliency[0, 5, 6] = saliency[1, 20, 3] = -9.0
    masked = mask_least_salient(images, saliency, (PIXELS - 0.5) / PIXELS, generator())
    assert (masked == images).sum() == 2
    assert masked[0, 0, 5, 6] == images[0, 0, 5, 6] and masked[1, 0, 20, 3] == images[1, 0, 20, 3]


def test_rankings_differ_on_negative_saliency():
    """`signed` masks the most negative gradients, `magnitude` the smallest: on these rows nothing in common."""
    images = images_of(1)
    saliency = torch.linspace(-1, 1, PIXELS).view(1, 28, 28)
    changed = {
        ranking: (mask_least_salient(images, saliency, 0.25, generator(), ranking=ranking) != images).flatten()
        for ranking in ("magnitude", "signed")
    }
    quarter = PIXELS // 4
    assert changed["signed"][:quarter].sum() >= quarter - 1 and not changed["signed"][quarter:].any()
    middle = slice(3 * quarter // 2, 5 * quarter // 2)
    assert changed["magnitude"][middle].sum() >= quarter - 1
    assert changed["magnitude"].sum() == changed["magnitude"][middle].sum()
    default = mask_least_salient(images, saliency, 0.25, generator())
    assert torch.equal(default != images, changed["magnitude"].view_as(images))


def test_nothing_or_everything_can_be_masked():
    """Fraction 0 returns equal images in a tensor of their own, fraction 1 nothing but noise."""
    images, saliency = images_of(3), torch.zeros(3, 28, 28)
    nothing = mask_least_salient(images, saliency, 0, generator())
    assert torch.equal(nothing, images) and nothing.data_ptr() != images.data_ptr()
    everything = mask_least_salient(images, saliency, 1, generator())
    assert (everything != images).float().mean() > 0.99


def test_noise_is_uniform_over_each_image_s_own_range():
    """Kolmogorov and Smirnov find no difference to a uniform between the image's least and largest value."""
    low, high = torch.linspace(0, 0.4, 20).view(-1, 1, 1, 1), torch.linspace(1, 0.5, 20).view(-1, 1, 1, 1)
    images = low + (high - low) * (images_of(20) > 0.5)
    masked = mask_least_salient(images, torch.zeros(20, 28, 28), 1.0, generator(5))
    unit = ((masked - low) / (high - low)).flatten(1)
    assert scipy.stats.kstest(unit.flatten(), "uniform").pvalue > 0.01
    assert unit.corrcoef().fill_diagonal_(0).abs().max() < 0.2  # each image has noise of its own
    blank = torch.full((1, 1, 28, 28), 0.3)
    assert torch.equal(mask_least_salient(blank, torch.zeros(1, 28, 28), 0.5, generator()), blank)


def test_noise_comes_from_the_given_generator_alone():
    """Equal generators give equal masks, one generator a new mask each time, and no other source is touched."""
    images, saliency = images_of(2), torch.rand(2, 28, 28, generator=generator(1))
    first, same = (mask_least_salient(images, saliency, 0.5, generator(9)) for _ in range(2))
    assert torch.equal(first, same)
    own, outside = generator(9), torch.get_rng_state()
    mask_least_salient(images, saliency, 0.5, own)
    assert not torch.equal(mask_least_salient(images, saliency, 0.5, own), first)
    assert torch.equal(torch.get_rng_state(), outside)


def test_the_amount_of_noise_does_not_depend_on_the_map():
    """Paired seeds stay paired: whatever is masked, the generator ends in the same state."""
    states = []
    for fraction, ranking, saliency in [
        (0, "magnitude", torch.zeros(2, 28, 28)),
        (0.7, "signed", torch.randn(2, 28, 28)),
    ]:
        own = generator(3)
        mask_least_salient(images_of(2), saliency, fraction, own, ranking=ranking)
        states.append(own.get_state())
    assert torch.equal(*states)
    assert not torch.equal(states[0], generator(3).get_state())


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan"), float("inf")])
def test_bad_fraction_is_refused(fraction):
    """A share outside [0, 1] is an error that names it."""
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\]") as error:
        mask_least_salient(images_of(1), torch.zeros(1, 28, 28), fraction, generator())
    assert repr(fraction) in str(error.value)


def test_bad_ranking_is_refused():
    """An unknown ranking is an error that names the valid ones."""
    with pytest.raises(ValueError, match="magnitude, signed, not 'random'"):
        mask_least_salient(images_of(1), torch.zeros(1, 28, 28), 0.5, generator(), ranking="random")
