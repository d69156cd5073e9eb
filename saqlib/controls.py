"""What a network's map is read against: maps that know nothing, shaken images, and the same map made in other ways.

Controls explain no network: what a score gives to noise, to a single pixel, and to the image itself; and the map of an
untrained network. After Adebayo et al., arXiv 1810.03292.

Quantizers switched off: the map of the same weights with activations, weights or both in full precision, each judged by
the network as it is deployed. If a quantizer spoils the map, the map without it says more of what the network uses.

Finite differences: the slope of the quantized network itself, beside the straight-through gradient averaged over the
same windows. If the surrogate spoils the map, the slope says more, and at low precision by more than at full.

Cascading randomization: the layers drawn anew one after the other, from the last to the first (Adebayo et al.). A map
that stays as it was explains the image, not what the network has learned.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, one_hot, pad

from saqlib.lenet import LAYERS, LeNet, build
from saqlib.quantization import PACT, calibrate
from saqlib.removal import probabilities
from saqlib.saliency import DIFFERENCE_WINDOW, DeadNetworkError, check_alive, finite_differences, input_gradient
from saqlib.scores import GRADIENT, dead

UNTRAINED_SEED = 1000  # the untrained twin's first seed, none that a network is trained with
GRADIENT_IMAGES = 2048  # images in one gradient
SWITCH = ("on", "off")
DIFFERENCE_CODES = (16, 32)  # steps of finite differences, in codes of 8-bit pixels
CASCADE = tuple(reversed(LAYERS))


def control_maps(images: Tensor, generator: Generator) -> dict[str, Tensor]:
    """One map of each control, which explains no network; several channels of an image count as their mean.

    Args:
        images: float (B, C, H, W) in [0, 1].
        generator: of the noise and of the random pixel.

    Returns:
        Maps (B, H, W) by name: `white_noise`, `one_hot` (a single random pixel), `sobel` (the edges of the image) and
        `intensity` (the image itself).

    Raises:
        ValueError: the images are not (B, C, H, W).
    """
    intensity = _grey(images).squeeze(1)
    pixels = intensity.flatten(1)
    noise = torch.randn(pixels.shape, generator=generator)
    chosen = torch.randint(pixels.shape[1], (len(pixels),), generator=generator)
    flat = {"white_noise": noise, "one_hot": one_hot(chosen, pixels.shape[1]).float()}
    maps = {name: values.view_as(intensity) for name, values in flat.items()}
    return maps | {"sobel": sobel(images), "intensity": intensity.clone()}


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


def gradient_or_zeros(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Input gradients (B, H, W) of the logits of these classes; a dead network's are all zero."""
    try:
        return input_gradient(model, images, targets)
    except DeadNetworkError:
        return torch.zeros_like(images[:, 0])


def sensitivity_max(
    model: nn.Module, images: Tensor, targets: Tensor, *, generator: Generator, radius: float = 0.02, draws: int = 10
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
        return (input_gradient(model, inputs, target.expand(len(inputs))),)  # captum repeats no single target

    chunk = max(1, GRADIENT_IMAGES // draws)
    sensitivities = []
    for some, classes in zip(images.split(chunk), targets.split(chunk), strict=True):
        score = captum_sensitivity_max(explain, some, shake, radius, draws, target=classes)
        sensitivities.append(score.double().masked_fill(dead(explain(some, classes)[0]), torch.nan))
    return torch.cat(sensitivities)


# -------------------------------------------------------------------------------------------- the map, made differently


def switched_maps(
    network: LeNet, images: Tensor, targets: Tensor
) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """By (weights, activations), each on or off: the maps with these quantizers, and the classes predicted then."""
    found = {}
    for weights in SWITCH:
        for activations in SWITCH:
            with quantizing(network, weights=weights == "on", activations=activations == "on"):
                maps = gradient_or_zeros(network, images, targets)
                found[weights, activations] = maps, probabilities(network, images).argmax(1)
    return found


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


def difference_maps(model: nn.Module, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The gradient averaged over windows, and finite differences in them with each step; a dead network's are zero."""
    gradient = _windowed(gradient_or_zeros(model, images, targets))
    found = {GRADIENT: gradient} | {f"{codes} codes": torch.zeros_like(gradient) for codes in DIFFERENCE_CODES}
    try:
        check_alive(model, images)
    except DeadNetworkError:
        return found
    slopes = [finite_differences(model, images, targets, codes / 255) for codes in DIFFERENCE_CODES]
    return dict(zip(found, [gradient, *slopes], strict=True))


def _windowed(maps: Tensor) -> Tensor:
    """Maps (B, H, W) whose pixels have the mean of their window."""
    side = DIFFERENCE_WINDOW
    return avg_pool2d(maps[:, None], side)[:, 0].repeat_interleave(side, 1).repeat_interleave(side, 2)


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
        behind.append(blocks[name].activation)
        _recalibrate(network, [layer for layer in behind if isinstance(layer, PACT)], calibration)
        maps[name] = gradient_or_zeros(network, images, targets)
    return maps


@torch.no_grad()
def _recalibrate(network: LeNet, activations: list[PACT], images: Tensor) -> None:
    """Set the clips of these activations anew, for what they take now."""
    for each in activations:
        each.calibrating = True
    network(images)
    for each in activations:
        each.calibrating = False
