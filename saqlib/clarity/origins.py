"""Where the loss comes from: three ways to change how a quantized network's map is made, or the network behind it.

Quantizers switched off: the map of the same weights with activations, weights or both in full precision, each judged by
the network as it is deployed. If a quantizer spoils the map, the map without it says more of what the network uses.

Finite differences: the slope of the quantized network itself, beside the straight-through gradient averaged over the
same windows. If the surrogate spoils the map, the slope says more, and at low precision by more than at full.

Cascading randomization: the layers drawn anew one after the other, from the last to the first (Adebayo et al.,
arXiv 1810.03292). A map that stays as it was explains the image, not what the network has learned.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from saqlib.clarity.preservation import preservation_scores
from saqlib.clarity.removal import probabilities
from saqlib.clarity.subject import Subject, stacked
from saqlib.names import PRESERVATION
from saqlib.network.quantization import PACT
from saqlib.network.settings import LAYERS
from saqlib.saliency.gradient import DeadNetworkError, check_alive
from saqlib.saliency.methods import DIFFERENCE_WINDOW, finite_differences

SWITCH = ("on", "off")
STEPS = (16, 32)  # of finite differences, in codes of 8-bit pixels
DIFFERENCES = ("gradient", *(f"{codes} codes" for codes in STEPS))
CASCADE = tuple(reversed(LAYERS))
NAMES = {
    "weights": list(SWITCH),
    "activations": list(SWITCH),
    "difference": list(DIFFERENCES),
    "redrawn": list(CASCADE),
}


def origins(few: Subject, twin: nn.Module, calibration: Tensor) -> dict[str, tuple]:
    """What the three ways give for one network: arrays by name, each with its dimensions; NAMES labels those.

    Args:
        few: the network in front of the images on which it is asked.
        twin: an untrained network like it.
        calibration: images on which the clips behind layers that are drawn anew are set.
    """
    found = _differences(few) | _cascade(few, twin, calibration)
    return found | _switched(few) if few.network.precision.quantized else found


# ------------------------------------------------------------------------------------------------ quantizers off


def _switched(few: Subject) -> dict[str, tuple]:
    """The scores of the maps with quantizers on and off, and what the network predicts then."""
    maps, predicted = [], []
    for weights in SWITCH:
        for activations in SWITCH:
            with quantizing(few.network, weights=weights == "on", activations=activations == "on"):
                maps.append(few.gradient_of(few.network))
                predicted.append(probabilities(few.network, few.images).argmax(1))
    by_map, square = stacked([few.scores(each) for each in maps]), (len(SWITCH), len(SWITCH))
    return {
        "switched_scores": (("weights", "activations", "score", "few"), by_map.scores.unflatten(0, square)),
        "switched_gain": (("weights", "activations", "fill", "few"), by_map.gains.unflatten(0, square)),
        "switched_predicted": (("weights", "activations", "few"), torch.stack(predicted).unflatten(0, square)),
    }


@contextmanager
def quantizing(model: nn.Module, *, weights: bool, activations: bool) -> Iterator[None]:
    """Inside, weights (with their biases) and activations quantize or not; afterwards each layer does as before.

    An activation that does not quantize does not clip, either: it is a ReLU.
    """
    before = [(layer, layer.quantizing) for layer in model.modules() if hasattr(layer, "quantizing")]
    for layer, _ in before:
        layer.quantizing = activations if isinstance(layer, PACT) else weights
    try:
        yield
    finally:
        for layer, state in before:
            layer.quantizing = state


# -------------------------------------------------------------------------------------------- finite differences


def _differences(few: Subject) -> dict[str, tuple]:
    """The scores of the gradient, averaged over windows, and of finite differences in them."""
    asked = few.network, few.images, few.targets
    gradient = _windowed(few.gradient_of(few.network))
    try:
        check_alive(few.network, few.images)
        slopes = [finite_differences(*asked, codes / 255) for codes in STEPS]
    except DeadNetworkError:
        slopes = [torch.zeros_like(gradient)] * len(STEPS)
    by_map = stacked([few.scores(each) for each in (gradient, *slopes)])
    return {
        "difference_scores": (("difference", "score", "few"), by_map.scores),
        "difference_gain": (("difference", "fill", "few"), by_map.gains),
    }


def _windowed(maps: Tensor) -> Tensor:
    """Maps (B, H, W) whose pixels have the mean of their window."""
    side = DIFFERENCE_WINDOW
    means = avg_pool2d(maps[:, None], side)[:, 0]
    return means.repeat_interleave(side, 1).repeat_interleave(side, 2)


# ------------------------------------------------------------------------------------------------- randomization


def _cascade(few: Subject, twin: nn.Module, calibration: Tensor) -> dict[str, tuple]:
    """How much the map is like itself while layers are drawn anew, the last one first."""
    maps, network = few.gradient_of(few.network), copy.deepcopy(few.network)
    blocks, behind, likeness = {block.name: block for block in network.blocks()}, [], []
    for name in CASCADE:
        blocks[name].layer.load_state_dict(getattr(twin, name).state_dict())
        behind.append(blocks[name].activation)
        _recalibrate(network, [layer for layer in behind if isinstance(layer, PACT)], calibration)
        found = preservation_scores(maps, few.gradient_of(network))
        likeness.append(torch.stack([found[score] for score in PRESERVATION]))
    return {"cascade": (("redrawn", "likeness", "few"), torch.stack(likeness))}


@torch.no_grad()
def _recalibrate(network: nn.Module, activations: list[PACT], images: Tensor) -> None:
    """Set the clips of these activations anew, for what they take now."""
    for each in activations:
        each.calibrating = True
    network(images)
    for each in activations:
        each.calibrating = False
