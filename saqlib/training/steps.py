"""One step of training, standard or guided, of any network or of several at once.

A guided step (Ismail et al., arXiv 2111.14338) adds KL(f(x) || f(x~)) to the loss, where x~ is x with its least salient
pixels replaced by noise. It shares the clean forward pass between the map and the loss: two forwards, one backward to
the input alone, one backward through both forwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib.network.quantization import pact_layers, quantized_once
from saqlib.network.settings import Quantization
from saqlib.saliency.gradient import check_targets, logit_gradient
from saqlib.saliency.masking import mask_least_salient
from saqlib.training.settings import Optimizer
from saqlib.training.stacked import Stacked

NONE_IGNORED = -(2**31)  # a label that is no class is an error, also -100, which PyTorch would leave out


def make_optimizer(
    model: nn.Module, settings: Optimizer, quantization: Quantization | None = None
) -> torch.optim.Optimizer:
    """Adam with the clips of PACT in a group of their own, which carries their learning rate and L2 penalty.

    Args:
        model: any network.
        settings: of its `learning_rate`.
        quantization: of the clips' `alpha_learning_rate` and `alpha_penalty`; None for a network without PACT layers.

    Returns:
        A torch.optim.Adam for standard_step and guided_step, which apply the penalty.

    Raises:
        ValueError: the network has PACT layers and `quantization` is None.
    """
    alphas = [layer.alpha for layer in pact_layers(model).values()]
    own = {id(alpha) for alpha in alphas}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in own]}]
    if alphas:
        if quantization is None:
            raise ValueError("the network has PACT layers; give the settings of their clips, too (quantization)")
        rate, penalty = quantization.alpha_learning_rate, quantization.alpha_penalty
        groups.append({"params": alphas, "lr": rate, "alpha_penalty": penalty})
    return torch.optim.Adam(groups, lr=settings.learning_rate, fused=True)


def standard_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    """One step on the cross-entropy.

    Args:
        model: any network of images to logits (B, classes). A Stacked of S networks takes S * B images and labels and
            returns their losses (S,), here and in guided_step.
        optimizer: its parameters are those that learn; from make_optimizer, it knows the clips of PACT.
        images: float (B, C, H, W), for the networks here (B, 1, 28, 28) in [0, 1].
        labels: int64 (B,).

    Returns:
        The loss ().

    Raises:
        ValueError: there is not one label, int64, for each image.
    """
    check_targets(labels, len(images))
    optimizer.zero_grad()
    logits = model(images)
    return _descend(model, optimizer, F.cross_entropy(logits, labels, ignore_index=NONE_IGNORED, reduction="none"))


def guided_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | Sequence[torch.Generator],
    fraction: float = 0.5,
    weight: float = 1.0,
    ranking: str = "magnitude",
) -> Tensor:
    """One step on cross-entropy + weight * KL(f(x) || f(x~)), both terms differentiated.

    x~ is x with the least salient pixels replaced by uniform noise; the map is the gradient of the label's logit.

    Args:
        model, optimizer, images, labels: as in standard_step.
        generator: of the noise; for a Stacked a list, one for each network.
        fraction: share of the pixels that is replaced, in [0, 1].
        weight: of the Kullback-Leibler term, at least 0.
        ranking: see mask_least_salient.

    Returns:
        The loss ().

    Raises:
        ValueError: a weight below 0, or what standard_step and mask_least_salient refuse, such as a map of NaN.
    """
    if not weight >= 0:
        raise ValueError(f"weight must be at least 0, not {weight}")
    optimizer.zero_grad()
    watched = images.detach().requires_grad_()
    with quantized_once(model):
        logits = model(watched)
        saliency = logit_gradient(logits, watched, labels, retain_graph=True)
        masked = mask_least_salient(images, saliency, fraction, generator, ranking=ranking)
        with _batch_norm_statistics_kept(model):
            masked_logits = model(masked)
    log_clean, log_masked = F.log_softmax(logits, 1), F.log_softmax(masked_logits, 1)
    # F.kl_div with log_target=True would exponentiate log_clean: exp of a whole tensor is MKL's, whose bits hang on the
    # processor. softmax is PyTorch's own code.
    divergence = (F.softmax(logits, 1) * (log_clean - log_masked)).sum(1)
    return _descend(model, optimizer, F.nll_loss(log_clean, labels, reduction="none") + weight * divergence)


def _descend(model: nn.Module, optimizer: torch.optim.Optimizer, losses: Tensor) -> Tensor:
    """One step on the mean of the images' losses (B,), or on those of each network of a Stacked."""
    loss = losses.view(len(model.networks), -1).mean(1) if isinstance(model, Stacked) else losses.mean()
    # Naming the inputs spares the gradient of the images, which a guided step made require one.
    learning = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    with torch.autocast(loss.device.type, enabled=False):  # float16 holds no gradient below 6e-8
        loss.sum().backward(inputs=learning)
    for group in optimizer.param_groups:
        if penalty := group.get("alpha_penalty"):
            for alpha in group["params"]:
                if alpha.grad is not None:  # there is none during the warm-up
                    alpha.grad.add_(alpha.detach(), alpha=2 * penalty)
    optimizer.step()
    for layer in pact_layers(model).values():
        layer.keep_positive()
    return loss.detach()


@contextmanager
def _batch_norm_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Masked images must not enter the running statistics of batch norm: they ruin them for clean ones."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
