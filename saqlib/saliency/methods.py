"""Other methods that should agree with the input gradient: whether a finding depends on how the map is made.

SmoothGrad; integrated gradients; the gradient of the log-probability; and two that need no gradient and so no
straight-through surrogate, occlusion and finite differences. All take images (B, C, H, W) and return maps (B, H, W),
and raise ValueError as input_gradient does for images, targets and networks of which no map can be made.

Sources: SmoothGrad, Smilkov et al., arXiv 1706.03825; integrated gradients, Sundararajan et al., arXiv 1703.01365;
occlusion, Zeiler and Fergus, arXiv 1311.2901; all by captum, which is imported where it is used: it takes a second.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from saqlib.saliency.gradient import differentiating, evaluating, logit_gradient, method, per_pixel

OCCLUSION_WINDOW, OCCLUSION_STRIDE = 4, 2
DIFFERENCE_WINDOW = 2
CHUNK_IMAGES = 2048  # images in one gradient or forward pass


@method
def smoothgrad(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
    samples: int = 25,
    deviation: float = 0.15,
) -> Tensor:
    """SmoothGrad: mean signed gradient of the target logit over noisy copies of each image, by captum.

    Args:
        model: any network of images to logits (B, classes); it is run in evaluation mode.
        images: float (B, C, H, W) in [0, 1].
        targets: int64 (B,), the classes to explain.
        generator: of the noise. (captum draws from the global one: it is seeded from this one, and put back.)
        samples: noisy copies of each image.
        deviation: of the Gaussian noise, in units of raw pixels.

    Returns:
        Maps (B, H, W), signed; of several channels the mean gradient that is largest in magnitude.
    """
    from captum.attr import NoiseTunnel, Saliency

    tunnel = NoiseTunnel(Saliency(model))
    chunk = max(1, CHUNK_IMAGES // samples)
    with differentiating(model), torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        maps = [
            tunnel.attribute(
                some.detach().clone().requires_grad_(),
                nt_samples=samples,
                stdevs=deviation,
                target=classes,
                abs=False,
            )
            for some, classes in zip(images.split(chunk), targets.split(chunk), strict=True)
        ]
    return per_pixel(torch.cat(maps)).detach()


@method
def integrated_gradients(
    model: nn.Module, images: Tensor, targets: Tensor, baseline: Tensor, *, steps: int = 50
) -> Tensor:
    """Integrated gradients: (image - baseline) times the mean gradient on the line between them, by captum.

    Of a network with a gradient, a map's values sum up to the target logit's rise from the baseline to the image. A
    straight-through surrogate is no gradient, and promises no such sum. Whatever pixel equals the baseline gets 0: a
    black one would erase the background of these images from every map; the study passes the training mean.

    Args:
        model: any network of images to logits (B, classes); it is run in evaluation mode.
        images: float (B, C, H, W).
        targets: int64 (B,), the classes to explain.
        baseline: where the line begins, (1, C, H, W) for all images or (B, C, H, W).
        steps: points on the line, those of Gauss and Legendre.

    Returns:
        Maps (B, H, W), signed; of several channels the value that is largest in magnitude.

    Raises:
        ValueError: the baseline does not fit the images.
    """
    if baseline.shape[1:] != images.shape[1:] or len(baseline) not in (1, len(images)):
        raise ValueError(
            f"the baseline must be one image or one for each of {tuple(images.shape)}, not {tuple(baseline.shape)}"
        )
    from captum.attr import IntegratedGradients

    integrator, chunk = IntegratedGradients(model), max(1, CHUNK_IMAGES // steps)
    batches = (each.split(chunk) for each in (images.detach(), baseline.to(images).expand_as(images), targets))
    with evaluating(model), torch.enable_grad():
        maps = [
            integrator.attribute(some, begin, target=classes, n_steps=steps)
            for some, begin, classes in zip(*batches, strict=True)
        ]
    return per_pixel(torch.cat(maps)).detach()


@method
@torch.no_grad()
def occlusion(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Occlusion: fall of the target logit by blanking a 4 x 4 window, mean over the windows (stride 2) of a pixel.

    Args:
        model: any network of images to logits (B, classes); it is run in evaluation mode.
        images: float (B, C, H, W) in [0, 1]; a window is blanked, set to 0, in all channels.
        targets: int64 (B,), the classes to explain.

    Returns:
        Maps (B, H, W), signed: above 0 where the window speaks for the class.
    """
    from captum.attr import Occlusion

    occluder, channels = Occlusion(model), images.shape[1]
    with evaluating(model):
        maps = [
            occluder.attribute(
                some,
                sliding_window_shapes=(channels, OCCLUSION_WINDOW, OCCLUSION_WINDOW),
                strides=(channels, OCCLUSION_STRIDE, OCCLUSION_STRIDE),
                baselines=0.0,
                target=classes,
            )
            for some, classes in zip(images.split(CHUNK_IMAGES), targets.split(CHUNK_IMAGES), strict=True)
        ]
    return torch.cat(maps)[:, 0]  # a window blanks all channels, so all have the same value


@method
@torch.no_grad()
def finite_differences(
    model: nn.Module, images: Tensor, targets: Tensor, step: float, *, window: int = DIFFERENCE_WINDOW
) -> Tensor:
    """The slope of the target logit itself, as a window of pixels is made brighter and darker.

    A quantized network is a staircase, of which a straight-through gradient tells nothing: this asks the network. Each
    pixel goes up and down by `step`, but stays in [0, 1]; the logit's difference is divided by the way that the pixels
    of the window have gone, so that a linear network gives the mean of its weights there.

    Args:
        model: any network of images to logits (B, classes); it is run in evaluation mode.
        images: float (B, C, H, W) in [0, 1].
        targets: int64 (B,), the classes to explain.
        step: above 0, in units of a pixel's range.
        window: the side of the windows that share the image out, and whose pixels have one value.

    Returns:
        Maps (B, H, W), signed. All channels of a pixel go together.

    Raises:
        ValueError: windows of this side do not share the image out, or the step is not above 0.
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
            rise = torch.cat([model(up)[:, target], -model(down)[:, target]]).double().view(2, -1).sum(0)
            slopes.append(rise / (up - down).double().sum((1, 2, 3)))
    maps = torch.stack(slopes).view(-1, rows, columns).to(images)
    return maps.repeat_interleave(window, 1).repeat_interleave(window, 2)


@method
def log_probability_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the target's log-probability, what the released code of guided training calls saliency.

    It fades for confident images and is exactly 0 beyond a margin of about 20 in float32: count its dead maps.

    Args:
        model: any network of images to logits (B, classes); it is run in evaluation mode.
        images: float (B, C, H, W).
        targets: int64 (B,), the classes to explain.

    Returns:
        Maps (B, H, W), signed; of several channels the gradient that is largest in magnitude.
    """
    images = images.detach().requires_grad_()
    with differentiating(model):
        return logit_gradient(log_softmax(model(images), dim=1), images, targets)
