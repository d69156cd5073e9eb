"""Maps that stand beside the input gradient: controls that know nothing, and other methods that should agree.

Controls are no explanations; they show what a score gives to noise, to a single pixel, and to the image
itself. (The fifth control, a re-initialised network, is a network: the caller has it.) Convergence maps
answer whether a finding depends on the input gradient: SmoothGrad, occlusion, which needs no gradient and
so no straight-through surrogate, and the gradient of the log-probability. All return (B, H, W).

Sources: SmoothGrad, Smilkov et al., arXiv 1706.03825; occlusion, Zeiler and Fergus, arXiv 1311.2901; both
by captum. Controls after Adebayo et al., arXiv 1810.03292.
"""

import torch
from captum.attr import NoiseTunnel, Occlusion, Saliency
from torch import Tensor, nn
from torch.nn.functional import conv2d, log_softmax, one_hot, pad

from saqlib.saliency import evaluating, logit_gradient

CONTROLS = {
    "white_noise": "white noise",
    "one_hot": "one random pixel",
    "sobel": "edges of the image",
    "intensity": "the image itself",
}  # id -> what a table or figure calls it, in the order of control_maps

OCCLUSION_WINDOW, OCCLUSION_STRIDE = 4, 2
CHUNK_IMAGES = 2048  # images in one gradient or forward pass


def control_maps(images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """One map of each control for images (B, 1, H, W) in [0, 1]; the keys are those of CONTROLS."""
    pixels = images.squeeze(1).flatten(1)
    noise = torch.randn(pixels.shape, generator=generator)
    chosen = torch.randint(pixels.shape[1], (len(pixels),), generator=generator)
    flat = {"white_noise": noise, "one_hot": one_hot(chosen, pixels.shape[1]).float()}
    maps = {name: values.view_as(images.squeeze(1)) for name, values in flat.items()}
    return maps | {"sobel": sobel(images), "intensity": images.squeeze(1).clone()}


def sobel(images: Tensor) -> Tensor:
    """Length of the Sobel gradient of images (B, 1, H, W), edges replicated."""
    horizontal = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(images)
    kernels = torch.stack([horizontal, horizontal.T])[:, None]
    return conv2d(pad(images, (1, 1, 1, 1), mode="replicate"), kernels).norm(dim=1)


def smoothgrad(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
    samples: int = 25,
    deviation: float = 0.15,
) -> Tensor:
    """Mean signed gradient of the target logit over noisy copies of each image (B, 1, H, W), by captum.

    samples: copies an image. deviation: of the Gaussian noise, in units of raw pixels in [0, 1]. captum
    draws from the global generator: it is seeded from `generator` here, and put back.
    """
    tunnel = NoiseTunnel(Saliency(model))
    chunk = max(1, CHUNK_IMAGES // samples)
    with evaluating(model), torch.enable_grad(), torch.random.fork_rng():
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
    return torch.cat(maps).squeeze(1).detach()


@torch.no_grad()
def occlusion(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Fall of the target logit by blanking a 4 x 4 window, mean over the windows (stride 2) of a pixel."""
    occluder = Occlusion(model)
    with evaluating(model):
        maps = [
            occluder.attribute(
                some,
                sliding_window_shapes=(1, OCCLUSION_WINDOW, OCCLUSION_WINDOW),
                strides=(1, OCCLUSION_STRIDE, OCCLUSION_STRIDE),
                baselines=0.0,
                target=classes,
            )
            for some, classes in zip(images.split(CHUNK_IMAGES), targets.split(CHUNK_IMAGES), strict=True)
        ]
    return torch.cat(maps).squeeze(1)


def log_probability_gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the target's log-probability, what the released code of guided training calls saliency.

    It fades for confident images and is exactly 0 beyond a margin of about 20 in float32: count its dead
    maps.
    """
    images = images.detach().requires_grad_()
    with evaluating(model), torch.enable_grad():
        return logit_gradient(log_softmax(model(images), dim=1), images, targets)
