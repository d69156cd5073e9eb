"""Maps that know nothing: what a score gives to noise, to a single pixel, and to the image itself.

(One control more, the untrained network, is a network: the caller has it.) After Adebayo et al., arXiv 1810.03292.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, one_hot, pad


def control_maps(images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """One map of each control, which explains no network; several channels of an image count as their mean.

    Args:
        images: float (B, C, H, W) in [0, 1].
        generator: of the noise and of the random pixel.

    Returns:
        Maps (B, H, W) by name: `white_noise`, `one_hot` (a single random pixel), `sobel` (the edges of the image) and
        `intensity` (the image itself); the names are among saqlib.words.CONTROLS.

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
    """Length of the Sobel gradient of the images, edges replicated.

    Args:
        images: float (B, C, H, W); several channels count as their mean.

    Returns:
        Maps (B, H, W), not negative.

    Raises:
        ValueError: the images are not (B, C, H, W).
    """
    images = _grey(images)
    horizontal = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(images)
    kernels = torch.stack([horizontal, horizontal.T])[:, None]
    return conv2d(pad(images, (1, 1, 1, 1), mode="replicate"), kernels).norm(dim=1)


def _grey(images: Tensor) -> Tensor:
    """Images of one channel (B, 1, H, W): as they are, or the mean of their channels."""
    if images.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), not {tuple(images.shape)}")
    return images if images.shape[1] == 1 else images.mean(1, keepdim=True)
