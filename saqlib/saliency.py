"""Saliency maps of any network, and what guided training hides with their help.

    from saqlib.saliency import METHODS, input_gradient, mask_least_salient

    maps = input_gradient(model, images)                                    # (B, H, W), signed
    maps = input_gradient(model, images, saturated="pass")                  # also where activations are clipped
    masked = mask_least_salient(images, maps, 0.5, torch.Generator())       # (B, C, H, W)

Every method takes a model, any network of images to logits (B, classes), which is run in evaluation mode and stays as
it was; images, float (B, C, H, W), for the networks here (B, 1, 28, 28) in [0, 1]; and targets, int64 (B,), the classes
to explain. It returns signed maps, float (B, H, W), of several channels the value that is largest in magnitude. It
raises ValueError if there are no images, or if they or the targets are of another shape or type; as NotFiniteError, if
a pixel, a parameter or the map itself is NaN or infinite: a map would still look plausible.

A map is the gradient of a logit, not of a probability: the gradient of a log-softmax vanishes for confident images. For
a quantized network the exact derivative is zero almost everywhere; what autograd returns, and what every gradient here
shows, is that of the straight-through surrogate that trained the network. Occlusion and finite differences need none.

That surrogate is 0 where an activation is clipped, where the evidence is strongest. `saturated="pass"` lets it
pass there, with the deployed forward pass: it is the gradient of no function, but shows what the network has seen.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, relu

from saqlib.errors import check_finite, one_of
from saqlib.evaluation import (
    CUT,
    check_logits,
    check_targets,
    check_uncoupled,
    differentiating,
    evaluating,
    logits_of,
    temporarily,
)
from saqlib.lattice import straight_through
from saqlib.quantization import PACT

OCCLUSION_WINDOW, OCCLUSION_STRIDE = 4, 2
DIFFERENCE_WINDOW = 2
CHUNK_IMAGES = 2048  # images in one gradient or forward pass
RANKINGS = ("magnitude", "signed")  # what "least salient" means: the words of guided training | its released code
SATURATED = ("stop", "pass")  # what a clipped activation does with the gradient
NO_CLIPS = (nn.Hardsigmoid, nn.LogSigmoid, nn.Sigmoid, nn.Softsign, nn.Tanh)  # they saturate, but have no clip to pass
ROUNDING = 6  # decimals of a count of pixels: 0.29 * 100 is a little less than 29


class DeadNetworkError(RuntimeError):
    """The logits do not depend on the input, so there is nothing to explain."""


@contextmanager
def replacing(modules: Iterable[nn.Module], replacement: Callable[..., Tensor]) -> Iterator[None]:
    """Inside, these modules give replacement(module, input, output), before any hook of theirs sees what they gave."""
    before = [(module, module.inplace) for module in modules if getattr(module, "inplace", False)]
    handles = [
        module.register_forward_hook(lambda module, inputs, output: replacement(module, *inputs, output), prepend=True)
        for module in modules
    ]
    for module, _ in before:
        module.inplace = False
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, inplace in before:
            module.inplace = inplace


def clips(model: nn.Module) -> list[nn.Module]:
    """The activations that clip to [0, a]: PACT, nn.ReLU6 and nn.Hardtanh(0, a), but no functions (relu6, clamp).

    Raises ValueError, naming it, for a module that saturates in another way, with no clip whose gradient could pass.
    """
    for name, module in model.named_modules():
        other_range = isinstance(module, nn.Hardtanh) and module.min_val != 0
        if other_range or isinstance(module, NO_CLIPS):
            known = 'saturated="pass" is for clips to [0, a], those of PACT, nn.ReLU6 and nn.Hardtanh(0, a)'
            raise ValueError(f"{known}; {name or 'the network'} is {module}")
    return [module for module in model.modules() if isinstance(module, PACT | nn.Hardtanh)]


@contextmanager
def passing(model: nn.Module, saturated: str = "pass") -> Iterator[None]:
    """Inside, clipped activations pass the gradient on: 1 wherever their input is above 0. Values stay as they are.

    saturated: `pass`; or `stop`, which leaves the network as it is. Raises ValueError as `clips` does.
    """
    one_of(saturated, SATURATED, "saturated")
    through = clips(model) if saturated == "pass" else []
    ours, others = ([module for module in through if isinstance(module, kind)] for kind in (PACT, nn.Hardtanh))
    with temporarily(ours, passing=True), replacing(others, lambda _, x, output: straight_through(relu(x), output)):
        yield


@torch.no_grad()
def check_alive(model: nn.Module, images: Tensor) -> None:
    """Raise DeadNetworkError if the logits are the same for the images, their negatives and a blank image.

    model, images (in [0, 1]) and other errors: as of every method.
    """
    images, _ = _checked_input(model, images, None)
    probes = torch.cat([images, 1 - images, torch.zeros_like(images[:1])])
    with evaluating(model):
        logits = logits_of(model, probes)
    check_finite(logits, "the network's logits are")
    if (logits == logits[0]).all():
        raise DeadNetworkError(
            "the network is dead: its logits do not depend on the input, so its saliency map means nothing. "
            "Calibrate the activations (saqlib.quantization.calibrate) and train it again."
        )


def _checked_input(model: nn.Module, images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Images and targets as autograd takes them, without history."""
    check_uncoupled(model)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be float (B, C, H, W), not {images.dtype} {tuple(images.shape)}")
    if not images.numel():
        raise ValueError(f"there are no images to explain: {tuple(images.shape)}")
    if targets is not None:
        check_targets(targets, len(images))
    check_finite(images.detach(), "images are")
    for name, value in model.named_parameters():  # which a clip or a ReLU would hide
        check_finite(value.detach(), f"the network's {name} is")
    return _usable(images).detach(), None if targets is None else _usable(targets)


def _usable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which autograd would refuse."""
    return tensor.clone() if tensor.is_inference() else tensor


def method(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a function (model, images, targets, ...) that makes maps: check what it takes and what it gives.

    Maps are made outside of a caller's inference mode and autocast.
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def checked(*args: Any, **options: Any) -> Tensor:
        bound = signature.bind(*args, **options)
        values = bound.arguments
        with torch.inference_mode(False), torch.autocast(values["images"].device.type, enabled=False):
            values["images"], values["targets"] = _checked_input(
                values["model"], values["images"], values.get("targets")
            )
            maps = make(*bound.args, **bound.kwargs)
        check_finite(maps, "the map is")
        return maps

    return checked


# ------------------------------------------------------------------------------------------------------ gradients


def logit_gradient(logits: Tensor, images: Tensor, targets: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Map (B, H, W) of each image's target logit; logits (B, classes), computed from images (B, C, H, W).

    Raises ValueError for logits without a gradient, and for logits or targets of another shape: of some, autograd makes
    a map that means something else.
    """
    check_targets(targets, len(check_logits(logits, len(images))))
    chosen = logits.gather(1, targets[:, None]).sum()
    with torch.autocast(images.device.type, enabled=False):  # float16 holds no gradient below 6e-8
        (gradient,) = torch.autograd.grad(chosen, images, retain_graph=retain_graph, allow_unused=True)
    if gradient is None:
        raise ValueError(CUT)
    return per_pixel(gradient)


def per_pixel(values: Tensor) -> Tensor:
    """Values of pixels (B, C, H, W) as maps (B, H, W): of several channels the one that is largest in magnitude."""
    if values.shape[1] == 1:
        return values.squeeze(1)
    return values.gather(1, values.abs().argmax(1, keepdim=True)).squeeze(1)


def saliency_now(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Maps of float images (B, C, H, W) in the middle of training; a dead network's maps are recorded as they are."""
    watched = images.detach().requires_grad_()
    with evaluating(model):
        return logit_gradient(logits_of(model, watched), watched, labels)


@method
def input_gradient(
    model: nn.Module, images: Tensor, targets: Tensor | None = None, *, saturated: str = "stop"
) -> Tensor:
    """Saliency map: gradient of the logit of the target class for the pixels (Simonyan et al., arXiv 1312.6034).

    Args:
        model, images: as of every method.
        targets: the predicted classes when None.
        saturated: what a clipped activation does with the gradient. `stop`: the straight-through gradient of training,
            0 there. `pass`: 1 wherever its input is above 0. A network of ReLU has nothing clipped, and one map.

    Raises DeadNetworkError if the logits do not depend on the input, and ValueError as `clips` and every method.
    """
    with differentiating(model), passing(model, saturated):
        images.requires_grad_()
        logits = logits_of(model, images)
        check_finite(logits.detach(), "the network's logits are")
        if (logits == logits[0]).all():
            check_alive(model, images.detach())
        return logit_gradient(logits, images, logits.argmax(1) if targets is None else targets)


@method
def log_probability_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the target's log-probability, what the released code of guided training calls saliency.

    It fades for confident images and is exactly 0 beyond a margin of about 20 in float32: count its dead maps.
    """
    images = images.detach().requires_grad_()
    with differentiating(model):
        return logit_gradient(log_softmax(logits_of(model, images), dim=1), images, targets)


@method
def smoothgrad(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator | None = None,
    samples: int = 25,
    deviation: float = 0.15,
    saturated: str = "stop",
) -> Tensor:
    """Mean signed gradient of the target logit over noisy copies of each image (Smilkov et al., arXiv 1706.03825).

    Args:
        model, images, targets: as of every method.
        generator: of the noise, one of seed 0 when None. (captum draws from the global one: it is seeded from this one,
            and put back.)
        samples: noisy copies of each image.
        deviation: of the Gaussian noise, in units of raw pixels.
        saturated: of the gradients, as in `input_gradient`.
    """
    from captum.attr import NoiseTunnel, Saliency  # here and below: captum takes a second

    ask = functools.partial(logits_of, model)
    tunnel, options = NoiseTunnel(Saliency(ask)), {"nt_samples": samples, "stdevs": deviation, "abs": False}
    chunk = max(1, CHUNK_IMAGES // samples)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    with differentiating(model), passing(model, saturated), torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        maps = [
            tunnel.attribute(part.clone().requires_grad_(), target=classes, **options)
            for part, classes in zip(images.split(chunk), targets.split(chunk), strict=True)
        ]
    return per_pixel(torch.cat(maps)).detach()


@method
def integrated_gradients(
    model: nn.Module, images: Tensor, targets: Tensor, baseline: Tensor | None = None, *, steps: int = 50
) -> Tensor:
    """(image - baseline) times the mean gradient on the line between them (Sundararajan et al., arXiv 1703.01365).

    Of a network with a gradient, a map's values sum up to the target logit's rise from the baseline to the image. A
    straight-through surrogate is no gradient, and promises no such sum. Whatever pixel equals the baseline gets 0: a
    black one erases the background of these images from every map; the study passes the training mean.

    Args:
        model, images, targets: as of every method.
        baseline: where the line begins, (1, C, H, W) for all images or (B, C, H, W); a black image when None.
        steps: points on the line, those of Gauss and Legendre.

    Raises:
        ValueError: the baseline does not fit the images; and as of every method.
    """
    baseline = torch.zeros_like(images[:1]) if baseline is None else baseline
    if baseline.shape[1:] != images.shape[1:] or len(baseline) not in (1, len(images)):
        raise ValueError(
            f"the baseline must be one image or one for each of {tuple(images.shape)}, not {tuple(baseline.shape)}"
        )
    from captum.attr import IntegratedGradients

    integrator, chunk = IntegratedGradients(functools.partial(logits_of, model)), max(1, CHUNK_IMAGES // steps)
    batches = (each.split(chunk) for each in (images.detach(), baseline.to(images).expand_as(images), targets))
    with evaluating(model), torch.enable_grad():
        maps = [
            integrator.attribute(part, begin, target=classes, n_steps=steps)
            for part, begin, classes in zip(*batches, strict=True)
        ]
    return per_pixel(torch.cat(maps)).detach()


@method
@torch.no_grad()
def occlusion(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Fall of the target logit by blanking a window, mean over the windows of a pixel.

    The windows, 4 x 4 pixels with a stride of 2, are set to 0 in all channels (Zeiler and Fergus, arXiv 1311.2901). A
    value is above 0 where they speak for the class. Arguments, result and errors are those of every method.
    """
    from captum.attr import Occlusion

    occluder, channels = Occlusion(functools.partial(logits_of, model)), images.shape[1]
    with evaluating(model):
        maps = [
            occluder.attribute(
                part,
                sliding_window_shapes=(channels, OCCLUSION_WINDOW, OCCLUSION_WINDOW),
                strides=(channels, OCCLUSION_STRIDE, OCCLUSION_STRIDE),
                baselines=0.0,
                target=classes,
            )
            for part, classes in zip(images.split(CHUNK_IMAGES), targets.split(CHUNK_IMAGES), strict=True)
        ]
    return torch.cat(maps)[:, 0]  # a window blanks all channels, so all have the same value


@method
@torch.no_grad()
def finite_differences(
    model: nn.Module, images: Tensor, targets: Tensor, step: float, *, window: int = DIFFERENCE_WINDOW
) -> Tensor:
    """The slope of the target logit itself, as a window of pixels is made brighter and darker.

    A quantized network is a staircase, of which a straight-through gradient says nothing: this asks the network. Each
    pixel goes up and down by `step`, but stays in [0, 1]; the logit's difference is divided by the way that the pixels
    of the window have gone, so that a linear network gives the mean of its weights there.

    Args:
        model, images, targets: as of every method, images in [0, 1]. All channels of a pixel go together.
        step: above 0, in units of a pixel's range.
        window: the side of the windows that share the image out, and whose pixels have one value.

    Raises:
        ValueError: windows of this side do not share the image out, or the step is not above 0; as of every method.
    """
    height, width = images.shape[2:]
    if height % window or width % window:
        raise ValueError(f"windows of {window} pixels do not share out an image of {height} x {width}")
    if not step > 0:
        raise ValueError(f"the step must be above 0, not {step}")
    rows, columns = height // window, width // window
    masks = torch.eye(rows * columns, device=images.device).view(-1, 1, rows, columns)
    masks = masks.repeat_interleave(window, 2).repeat_interleave(window, 3)
    slopes = []
    with evaluating(model):
        for image, target in zip(images, targets.tolist(), strict=True):
            up, down = ((image + sign * step * masks).clamp_(0, 1) for sign in (1, -1))
            brighter, darker = (logits_of(model, each)[:, target].double() for each in (up, down))
            slopes.append((brighter - darker) / (up - down).double().sum((1, 2, 3)))
    maps = torch.stack(slopes).view(-1, rows, columns).to(images)
    return maps.repeat_interleave(window, 1).repeat_interleave(window, 2)


# The study scores each of these: a new entry appears in every table and figure of methods.
METHODS: dict[str, Callable[..., Tensor]] = {
    "straight_through": input_gradient,
    "pass_through": functools.partial(input_gradient, saturated="pass"),
    "log_probability": log_probability_gradient,
    "smoothgrad": smoothgrad,
    "smoothgrad_pass_through": functools.partial(smoothgrad, saturated="pass"),
    "occlusion": occlusion,
    "integrated_gradients": integrated_gradients,
}


# -------------------------------------------------------------------------------------------------------- masking


def mask_least_salient(
    images: Tensor,
    saliency: Tensor,
    fraction: float,
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    ranking: str = "magnitude",
) -> Tensor:
    """Replace the least salient pixels of each image by uniform noise in that image's own range.

    A pixel is replaced in all its channels. Exactly so many pixels are replaced as `fraction` says, rounded down, ties
    going to the first ones.

    Args:
        images: float (B, C, H, W).
        saliency: maps, float (B, H, W), with or without a gradient.
        fraction: share of the pixels in [0, 1].
        generator: of the noise; or several, each for as many images, in order.
        ranking: `magnitude` masks the smallest |saliency| (the words of saliency-guided training, Ismail et al.,
            arXiv 2111.14338), `signed` the most negative (its released code).

    Returns:
        New images (B, C, H, W); those given stay as they are.

    Raises:
        ValueError: a fraction or ranking outside these, maps that do not fit the images, or generators that cannot
            share them equally; as NotFiniteError, a pixel or a map that is NaN or infinite.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1], not {fraction!r}")
    one_of(ranking, RANKINGS, "ranking")
    if images.ndim != 4 or saliency.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"images (B, C, H, W) and maps (B, H, W) must fit, not {tuple(images.shape)} and {tuple(saliency.shape)}"
        )
    if not (images.is_floating_point() and saliency.is_floating_point()):
        raise ValueError(f"images and maps must be float, not {images.dtype} and {saliency.dtype}")
    check_finite(images.detach(), "images are")
    check_finite(saliency.detach(), "the map is")
    flat = images.flatten(1)
    key = saliency.detach().flatten(1)
    count = math.floor(round(fraction * key.shape[1], ROUNDING))
    least = least_salient(key.abs() if ranking == "magnitude" else key, count)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    generators = [generator] if isinstance(generator, torch.Generator) else generator
    if not generators or len(flat) % len(generators):
        raise ValueError(f"{len(generators)} generators cannot share {len(flat)} images equally")
    share = len(flat) // len(generators), flat.shape[1]
    noise = torch.cat([torch.rand(share, generator=g, device=g.device) for g in generators]).to(flat.device)
    # With weights of 0 and 1 this is `where`, to the bit, and five times as fast.
    weights = least.repeat(1, images.shape[1]).to(flat.dtype)
    return torch.lerp(flat, low + (high - low) * noise, weights).view_as(images)


def least_salient(key: Tensor, count: int) -> Tensor:
    """Mask of the `count` smallest values of each row of key (B, n): bool (B, n), ties going to the first columns."""
    if count == 0:
        return torch.zeros_like(key, dtype=torch.bool)
    threshold = _kth_smallest(key, count)
    mask = key <= threshold
    surplus = mask.sum(1) - count
    for row in surplus.nonzero().flatten().tolist():  # ties at the threshold: keep the first ones
        tied = (key[row] == threshold[row]).nonzero().flatten()
        mask[row, tied[len(tied) - surplus[row] :]] = False
    return mask


def _kth_smallest(key: Tensor, count: int) -> Tensor:
    """The `count`-th smallest value of each row, (B, 1); NumPy's vectorised selection is ten times kthvalue's speed."""
    if key.is_cuda:
        return key.kthvalue(count, dim=1, keepdim=True).values
    ordered = np.partition(key.float().numpy() if key.dtype == torch.bfloat16 else key.numpy(), count - 1, axis=1)
    return torch.from_numpy(ordered[:, count - 1 : count]).to(key.dtype)
