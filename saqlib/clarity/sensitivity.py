"""How much a map changes when its image is shaken: maximal sensitivity (Yeh et al., arXiv 1901.09392), by captum."""

import torch
from torch import Tensor, nn

from saqlib.clarity.maps import dead
from saqlib.saliency.gradient import input_gradient

GRADIENT_IMAGES = 2048  # images in one gradient


def sensitivity_max(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
    radius: float = 0.02,
    draws: int = 10,
) -> Tensor:
    """Largest relative change of the input gradient under small noise, by captum: float64 (B,), 0 = stable.

    max over draws of ||g(x + u) - g(x)|| / ||g(x)||, u uniform in [-radius, radius] in units of raw pixels
    in [0, 1]. The target class stays that of the unchanged image. A dead map gives NaN.
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
