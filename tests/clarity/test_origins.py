"""Where the loss comes from: quantizers off, finite differences, layers drawn anew, each against what it must equal."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import relu

from saqlib import stored
from saqlib.clarity import origins
from saqlib.clarity.images import scored_images
from saqlib.clarity.preservation import preservation_scores
from saqlib.clarity.removal import symmetric_relevance_gain
from saqlib.clarity.scores import gini
from saqlib.clarity.seed import untrained
from saqlib.clarity.subject import Subject
from saqlib.names import PRESERVATION, PRIMARY
from saqlib.network.quantization import PACT, set_quantizing
from saqlib.saliency.gradient import input_gradient
from saqlib.saliency.methods import finite_differences
from tests.clarity.conftest import FP32, SCORING, W2A2

STEPS, FEW = 9, 6


@pytest.fixture(scope="module", params=[FP32, W2A2], ids=str)
def few(request, root) -> Subject:
    """A network in front of a few images."""
    scored = scored_images("mnist", SCORING)
    return Subject.predicting(stored.load_model(request.param, 0, root), scored, STEPS).first(FEW)


@pytest.fixture(scope="module")
def quantized(root) -> Subject:
    """The one of two bits."""
    scored = scored_images("mnist", SCORING)
    return Subject.predicting(stored.load_model(W2A2, 0, root), scored, STEPS).first(FEW)


@pytest.fixture(scope="module")
def calibration() -> torch.Tensor:
    """The images of the untrained twin."""
    return scored_images("mnist", SCORING).images


@pytest.fixture(scope="module")
def twin(few, calibration):
    """An untrained network of the same bits."""
    return untrained(few.network, calibration, seed=0)


@pytest.fixture(scope="module")
def found(few, twin, calibration) -> dict[str, torch.Tensor]:
    """All arrays, without their dimensions."""
    return {name: values for name, (_, values) in origins.origins(few, twin, calibration).items()}


def test_arrays_have_the_dimensions_that_are_named(few, twin, calibration):
    """A quantized network has a square of maps, the reference, which has nothing to switch off, none."""
    arrays = origins.origins(few, twin, calibration)
    sizes = {name: len(labels) for name, labels in origins.NAMES.items()}
    sizes |= {"few": FEW, "score": len(PRIMARY), "fill": len(few.fills), "likeness": len(PRESERVATION)}
    for name, (dims, values) in arrays.items():
        assert values.shape == tuple(sizes[dim] for dim in dims), name
    switched = {"switched_scores", "switched_gain", "switched_predicted"}
    always = {"difference_scores", "difference_gain", "cascade"}
    assert set(arrays) == (always | switched if few.network.precision.quantized else always)


def test_the_network_stays_as_it_was(root, few, twin, calibration, found):
    """Weights, clips and switches: what was asked of copies and inside contexts is undone."""
    original = stored.load_model(W2A2 if few.network.precision.quantized else FP32, 0, root)
    for name, value in original.state_dict().items():
        assert torch.equal(few.network.state_dict()[name], value), name
    for one, other in zip(original.modules(), few.network.modules(), strict=True):
        assert getattr(one, "quantizing", None) == getattr(other, "quantizing", None)
        assert not getattr(other, "calibrating", False)


# ------------------------------------------------------------------------------------------------ quantizers off


def by_hand(network, images, *, weights: bool, activations: bool) -> torch.Tensor:
    """The network's logits from its layers' own values, with quantizers on or off."""
    x, scale = images, 1 / 255
    for block in network.blocks():
        if not block.pooled and x.dim() == 4:
            x = x.flatten(1)
        weight, bias = block.layer._values(scale) if weights else (block.layer.weight, block.layer.bias)
        if block.pooled:
            x = torch.nn.functional.conv2d(x, weight, bias, padding=block.layer.padding)
            x = torch.nn.functional.max_pool2d(x, 2)
        else:
            x = torch.nn.functional.linear(x, weight, bias)
        if block.activation is not None:
            x = block.activation(x) if activations else relu(x)
            scale = block.activation.scale if activations else None
    return x


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("activations", [True, False])
def test_quantizers_off_leave_the_layers_in_full_precision(quantized, weights, activations):
    """Logits are those of layers written out by hand, and so are gradients where the codes of two pixels do not tie."""
    images = quantized.images.clone().requires_grad_()
    with origins.quantizing(quantized.network, weights=weights, activations=activations):
        with torch.no_grad():
            logits = quantized.network(quantized.images)
        maps = quantized.gradient_of(quantized.network)
    expected = by_hand(quantized.network, images, weights=weights, activations=activations)
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-3, atol=1e-3)
    if weights:  # sums of codes tie in the pooling, and a tie is broken otherwise by rounded values
        return
    (slope,) = torch.autograd.grad(expected.gather(1, quantized.targets[:, None]).sum(), images)
    torch.testing.assert_close(maps, slope.squeeze(1), rtol=1e-3, atol=1e-3 * slope.abs().max().item())


def test_all_off_is_the_network_before_it_quantizes(quantized):
    """What its warm-up trains."""
    network = copy.deepcopy(quantized.network)
    set_quantizing(network, False)
    with origins.quantizing(quantized.network, weights=False, activations=False):
        assert torch.equal(quantized.gradient_of(quantized.network), quantized.gradient_of(network))


@pytest.mark.parametrize("broken", [False, True])
def test_afterwards_every_layer_does_as_before(quantized, broken):
    """Layer by layer, whatever each did, and after an error, too."""
    network = copy.deepcopy(quantized.network)
    network.act2.quantizing = network.dense1.quantizing = False

    def states():
        return [layer.quantizing for layer in network.modules() if hasattr(layer, "quantizing")]

    before = states()
    try:
        with origins.quantizing(network, weights=False, activations=True):
            found = [(isinstance(x, PACT), x.quantizing) for x in network.modules() if hasattr(x, "quantizing")]
            assert all(on == is_activation for is_activation, on in found) and len(found) == 9
            if broken:
                raise KeyError
    except KeyError:
        pass
    assert states() == before and len(set(before)) == 2


def test_with_both_on_the_map_scores_what_it_always_does(found, few):
    """The corner of the square is the ordinary map's, to the last bit, and the classes are the predicted ones."""
    if not few.network.precision.quantized:
        return
    maps = few.gradient_of(few.network)
    expected = few.scores(maps)
    assert torch.equal(found["switched_scores"][0, 0], expected.scores)
    assert torch.equal(found["switched_gain"][0, 0], expected.gains)
    assert torch.equal(found["switched_predicted"][0, 0], few.targets)


@pytest.mark.parametrize(("weights", "activations"), [(0, 1), (1, 0), (1, 1)])
def test_each_corner_is_judged_by_the_deployed_network(quantized, twin, calibration, weights, activations):
    """The map of the network with quantizers off; the network that is asked for it has them on."""
    arrays = origins.origins(quantized, untrained(quantized.network, calibration, 0), calibration)
    with origins.quantizing(quantized.network, weights=weights == 0, activations=activations == 0):
        maps = input_gradient(quantized.network, quantized.images, quantized.targets)
        predicted = quantized.network(quantized.images).argmax(1)
    corner = {name: values[weights, activations] for name, (dims, values) in arrays.items() if "weights" in dims}
    assert torch.equal(corner["switched_scores"][PRIMARY.index("gini")], gini(maps))
    for fill, others in quantized.fills.items():
        gain = symmetric_relevance_gain(
            quantized.network, quantized.images, quantized.targets, maps, STEPS, fill=others
        )
        torch.testing.assert_close(corner["switched_gain"][list(quantized.fills).index(fill)], gain)
    assert torch.equal(corner["switched_predicted"], predicted)


# -------------------------------------------------------------------------------------------- finite differences


def test_differences_are_those_of_the_network_itself(found, few):
    """Beside the gradient, whose windows have their mean: both know 2 x 2 pixels, no more."""
    maps = few.gradient_of(few.network).unflatten(1, (14, 2)).unflatten(3, (14, 2)).mean((2, 4))
    wide = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
    slopes = [finite_differences(few.network, few.images, few.targets, codes / 255) for codes in (16, 32)]
    assert origins.DIFFERENCES == ("gradient", "16 codes", "32 codes")
    for row, each in enumerate([wide, *slopes]):
        expected = few.scores(each)
        torch.testing.assert_close(found["difference_scores"][row], expected.scores, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found["difference_gain"][row], expected.gains, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------- randomization


def redrawn(few, twin, calibration, names) -> torch.Tensor:
    """The map with these layers taken from the twin, and the clips behind them set anew, in one pass from the front."""
    network = copy.deepcopy(few.network)
    for block in network.blocks():
        if block.name in names:
            block.layer.load_state_dict(copy.deepcopy(getattr(twin, block.name).state_dict()))
            if isinstance(block.activation, PACT):
                block.activation.calibrating = True
    with torch.no_grad():
        network(calibration)
    for layer in network.modules():
        if isinstance(layer, PACT):
            layer.calibrating = False
    return input_gradient(network, few.images, few.targets)


def test_layers_are_redrawn_from_the_last_to_the_first(found, few, twin, calibration):
    """Each step draws one layer more, dense3 first."""
    assert origins.CASCADE == ("dense3", "dense2", "dense1", "conv2", "conv1")
    maps = few.gradient_of(few.network)
    for step in range(5):
        alike = preservation_scores(maps, redrawn(few, twin, calibration, origins.CASCADE[: step + 1]))
        for row, name in enumerate(PRESERVATION):
            torch.testing.assert_close(found["cascade"][step, row], alike[name], rtol=1e-4, atol=1e-4)


def test_the_last_step_is_the_untrained_twin(found, few, twin):
    """With all layers drawn anew and all clips set on the twin's own images, nothing of the network is left."""
    alike = preservation_scores(few.gradient_of(few.network), few.gradient_of(twin))
    for row, name in enumerate(PRESERVATION):
        torch.testing.assert_close(found["cascade"][-1, row], alike[name], rtol=0, atol=0, equal_nan=True)


def test_a_trained_map_is_lost_on_the_way(found):
    """A map that knows the network changes with it."""
    cosine = found["cascade"][:, PRESERVATION.index("cosine")].mean(1)
    assert cosine.max() < 0.9 and cosine[-1].abs() < 0.5


# ---------------------------------------------------------------------------------------------- dead networks


def test_a_dead_network_scores_nowhere(quantized, calibration):
    """Maps that are no maps: NaN, but for what is found once its activations no longer round to 0."""
    network = copy.deepcopy(quantized.network)
    network.act4.alpha.data.fill_(1e9)
    dead = replace(quantized, network=network)
    arrays = origins.origins(dead, untrained(network, calibration, 0), calibration)
    for name in ("difference_scores", "difference_gain", "cascade"):
        assert arrays[name][1].isnan().all(), name
    assert arrays["switched_gain"][1][:, 0].isnan().all()
