"""What a network's map is read against: maps that know nothing, shaken images, and the same map made in other ways.

Controls explain no network: what a score gives to noise, to a single pixel, and to the image itself; and the map of an
untrained network. After Adebayo et al., arXiv 1810.03292.

Surrogates: the straight-through map of the same weights with something else in the place of PACT, to see what of it
costs the map: its clip, its rounding, or both. Each is judged by the network as it is deployed. What gives a loss back
was what had caused it.

Cascading randomization: the layers drawn anew one after the other, from the last to the first (Adebayo et al.). A map
that stays as it was explains the image, not what the network has learned.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d, one_hot, pad

from saqlib.evaluation import temporarily
from saqlib.lattice import straight_through
from saqlib.lenet import LAYERS, LeNet, build
from saqlib.quantization import PACT, calibrate, pact, pact_layers
from saqlib.saliency import DeadNetworkError, input_gradient, replacing
from saqlib.scores import IMAGE, dead

UNTRAINED_SEED = 1000  # the untrained twin's first seed, none that a network is trained with
GRADIENT_IMAGES = 2048  # images in one gradient
CASCADE = tuple(reversed(LAYERS))
EDGES = "sobel"  # the control that is the edges of the image


def control_maps(images: Tensor, generator: Generator) -> dict[str, Tensor]:
    """One map of each control, which explains no network; several channels of an image count as their mean.

    Args:
        images: float (B, C, H, W) in [0, 1].
        generator: of the noise and of the random pixel.

    Returns:
        Maps (B, H, W) by name: `image` (the image itself), `white_noise`, `one_hot` (a single random pixel) and `sobel`
        (the edges of the image).

    Raises:
        ValueError: the images are not (B, C, H, W).
    """
    grey = _grey(images).squeeze(1)
    pixels = grey.flatten(1)
    noise = torch.randn(pixels.shape, generator=generator)
    chosen = torch.randint(pixels.shape[1], (len(pixels),), generator=generator)
    return {
        IMAGE: grey.clone(),
        "white_noise": noise.view_as(grey),
        "one_hot": one_hot(chosen, pixels.shape[1]).float().view_as(grey),
        EDGES: sobel(images),
    }


def sobel(images: Tensor) -> Tensor:
    """Length of the Sobel gradient of images (B, C, H, W), edges replicated, channels as their mean: maps (B, H, W)."""
    images = _grey(images)
    horizontal = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(images)
    kernels = torch.stack([horizontal, horizontal.T])[:, None]
    return conv2d(pad(images, (1, 1, 1, 1), mode="replicate"), kernels).norm(dim=1)


def _grey(images: Tensor) -> Tensor:
    if images.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), not {tuple(images.shape)}")
    return images if images.shape[1] == 1 else images.mean(1, keepdim=True)


def untrained(network: LeNet, images: Tensor, seed: int) -> LeNet:
    """A network like this one, calibrated on these images but not trained, in evaluation mode."""
    twin = build(network.precision, shape=network.shape, seed=UNTRAINED_SEED + seed).eval()
    calibrate(twin, images)
    return twin


def gradient_or_zeros(model: nn.Module, images: Tensor, targets: Tensor, saturated: str = "stop") -> Tensor:
    """Input gradients (B, H, W) of the logits of these classes; a dead network's are all zero."""
    try:
        return input_gradient(model, images, targets, saturated=saturated)
    except DeadNetworkError:
        return torch.zeros_like(images[:, 0])


def sensitivity_max(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    generator: Generator,
    radius: float = 0.02,
    draws: int = 10,
    saturated: str = "stop",
) -> Tensor:
    """Largest relative change of the input gradient under small noise (Yeh et al., arXiv 1901.09392), by captum.

    max over draws of ||g(x + u) - g(x)|| / ||g(x)||, u uniform in [-radius, radius] in units of raw pixels
    in [0, 1]: float64 (B,), 0 = stable. The target class stays that of the unchanged image. A dead map gives NaN.
    Raises DeadNetworkError and ValueError as input_gradient does.
    """
    from captum.metrics import sensitivity_max as captum_sensitivity_max  # takes a second

    def shake(inputs: Tensor, radius: float) -> Tensor:
        noise = torch.rand(inputs.shape, generator=generator, device=generator.device)
        return inputs + radius * (2 * noise - 1).to(inputs)

    def explain(inputs: Tensor | tuple[Tensor], target: Tensor) -> tuple[Tensor]:
        (inputs,) = inputs if isinstance(inputs, tuple) else (inputs,)  # captum passes both, and wants a tuple
        target = target.expand(len(inputs))  # captum repeats no single one
        return (input_gradient(model, inputs, target, saturated=saturated),)

    chunk = max(1, GRADIENT_IMAGES // draws)
    sensitivities = []
    for some, classes in zip(images.split(chunk), targets.split(chunk), strict=True):
        score = captum_sensitivity_max(explain, some, shake, radius, draws, target=classes)
        sensitivities.append(score.double().masked_fill(dead(explain(some, classes)[0]), torch.nan))
    return torch.cat(sensitivities)


# -------------------------------------------------------------------------------------------- the map, made differently


# What stands in the place of a PACT that does not quantize, by the layer, its input and the ReLU of that.
SURROGATES: dict[str, Callable[[PACT, Tensor, Tensor], Tensor]] = {
    "clip_only": lambda layer, x, ramp: pact(x, layer.alpha.detach(), layer.bits, rounding=False),
    "round_only": lambda layer, x, ramp: straight_through(ramp, (ramp / layer.scale).round() * layer.scale),
    "relu": lambda layer, x, ramp: ramp,
}


def surrogate_maps(network: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Straight-through maps of a quantized network with other quantizers in the place of its own.

    Where activations are replaced, the layers behind them compute on values, with low-bit weights and float biases.

    Args:
        network: any whose activations are PACT; one without has no such maps.
        images, targets: as of every method of saqlib.saliency.

    Returns:
        Maps (B, H, W) by name, all zero where that network is dead. `clip_only`: activations clip and do not round, so
        the gradient is 0 above the clip. `round_only`: they round as before and do not clip, so it is 1 wherever the
        input is above 0. `relu`: neither. `weights_off`: activations as they are, weights and biases in full precision.
    """
    activations, maps = list(pact_layers(network).values()), {}
    if not activations:
        return maps
    for name, surrogate in SURROGATES.items():
        with quantizing(network, weights=True, activations=False), replacing(activations, surrogate):
            maps[name] = gradient_or_zeros(network, images, targets)
    with quantizing(network, weights=False, activations=True):
        maps["weights_off"] = gradient_or_zeros(network, images, targets)
    return maps


@contextmanager
def quantizing(model: nn.Module, *, weights: bool, activations: bool) -> Iterator[None]:
    """Inside, weights (with their biases) and activations quantize or not; afterwards each layer does as before.

    An activation that does not quantize does not clip, either: it is a ReLU.
    """
    layers = [each for each in model.modules() if hasattr(each, "quantizing") and not isinstance(each, PACT)]
    with temporarily(pact_layers(model).values(), quantizing=activations), temporarily(layers, quantizing=weights):
        yield


def redrawn_maps(
    network: LeNet, twin: LeNet, images: Tensor, targets: Tensor, calibration: Tensor
) -> dict[str, Tensor]:
    """The map after each layer of CASCADE has been drawn anew, too, as the untrained twin has it.

    calibration: images (B, 1, 28, 28) on which the clips behind the redrawn layers are set.
    """
    network, maps, behind = copy.deepcopy(network), {}, []
    blocks = {block.name: block for block in network.blocks()}
    for name in CASCADE:
        blocks[name].layer.load_state_dict(getattr(twin, name).state_dict())
        behind += [blocks[name].activation] if isinstance(blocks[name].activation, PACT) else []
        calibrate(network, calibration, behind)
        maps[name] = gradient_or_zeros(network, images, targets)
    return maps
