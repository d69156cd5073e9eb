"""What stands in the place of a removed pixel.

No fill is neutral: it tells the network something of its own, and a score made with one fill alone measures that, too.

zero   the background of these images: removing background is no change, so a map wins by lying on the object
mean   the mean of the pixel over many images: what is known of a pixel before the image is seen
noise  uniform in the image's own range: as far from any image as from another, and what guided training hides with
blur   the mean of the other pixels, weighted by a Gaussian of their distance: what the surroundings say of it

A fill of one value shows the network which pixels have left, and their outline can speak for the class (Rong et al.,
ROAD, arXiv 2202.00449). Blurring hides that outline as ROAD's own imputation does, but ROAD solves a linear system for
each set of removed pixels, 52,000 of them for a network of this study. Here the fill of a pixel depends on the image
alone: it is the same whichever pixels left before, and both directions of removal end at the same image.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from saqlib.names import FILLS
from saqlib.params import one_of

NOISE_SEED = 0
BLUR = 0.1  # deviation of the Gaussian in shorter sides of the image: 2.8 of 28 pixels, about the width of a stroke


def fill_images(fill: str | Tensor, images: Tensor) -> Tensor:
    """The images from which the pixels come that stand in the place of removed ones.

    Args:
        fill: `zero`, `mean` (of each pixel over the images given), `noise` (from a fixed seed: two calls agree, and the
            first images of a batch get the noise that they get alone) or `blur`; or images (B, C, H, W), or one for
            all, (1, C, H, W).
        images: float (B, C, H, W).

    Returns:
        Float (B, C, H, W), or (1, C, H, W) where it is the same for all.

    Raises:
        ValueError: another name (the message says the nearest valid one), or images that do not fit.
    """
    if isinstance(fill, str):
        return _MAKERS[one_of(fill, FILLS, "fill")](images)
    if not isinstance(fill, Tensor):
        raise ValueError(f"fill must be a name ({', '.join(FILLS)}) or a tensor of images, not {type(fill).__name__}")
    if fill.ndim != images.ndim or fill.shape[1:] != images.shape[1:] or len(fill) not in (1, len(images)):
        raise ValueError(
            f"fill must be one image for all or as many as are filled, {tuple(images.shape)}, not {tuple(fill.shape)}"
        )
    return fill.to(images)


def _zero(images: Tensor) -> Tensor:
    return torch.zeros_like(images[:1])


def _mean(images: Tensor) -> Tensor:
    return images.mean(0, keepdim=True)


def _noise(images: Tensor) -> Tensor:
    uniform = torch.rand(images.shape, generator=torch.Generator().manual_seed(NOISE_SEED)).to(images)
    low, high = (bound.view(-1, *[1] * (images.ndim - 1)) for bound in images.flatten(1).aminmax(dim=1))
    return low + (high - low) * uniform


def _blur(images: Tensor) -> Tensor:
    """The weighted mean of all pixels, without the pixel itself, whose weight is 1."""
    deviation = BLUR * min(images.shape[-2:])
    rows, columns = (_gaussian(size, deviation).to(images.device) for size in images.shape[-2:])
    weights = rows.sum(1)[:, None] * columns.sum(1)
    whole = images.double()
    return ((rows @ whole @ columns - whole) / (weights - 1)).to(images)


def _gaussian(size: int, deviation: float) -> Tensor:
    """Weight of each place on a line of so many pixels, (size, size), for each place: 1 for itself."""
    # By math.exp: the exponential of a tensor is MKL's, whose bits hang on the processor.
    by_distance = torch.tensor([math.exp(-((d / deviation) ** 2) / 2) for d in range(size)], dtype=torch.float64)
    places = torch.arange(size)
    return by_distance[(places[:, None] - places).abs()]


_MAKERS: dict[str, Callable[[Tensor], Tensor]] = dict(zip(FILLS, (_zero, _mean, _noise, _blur), strict=True))
