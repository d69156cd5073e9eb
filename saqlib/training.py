"""Training of a network, or of several seeds at once: standard or guided, full precision or quantized; its history.

A guided step (Ismail et al., arXiv 2111.14338) adds KL(f(x) || f(x~)) to the loss, where x~ is x with its least salient
pixels replaced by noise. It shares the clean forward pass between the map and the loss: two forwards, one backward to
the input alone, one backward through both forwards.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saqlib import config
from saqlib.quantization import PACT, calibrate, pact_layers, quantized_once, set_quantizing
from saqlib.saliency import evaluating, logit_gradient, mask_least_salient
from saqlib.side_by_side import SideBySide

CHUNK = 500  # images a forward pass without gradients takes at once
OBSERVED = 1000  # validation images on which the shares of clipped and zero codes are measured


class DivergedError(RuntimeError):
    """The loss stopped being finite."""


# ---------------------------------------------------------------------------------------------------- steps


def make_optimizer(model: nn.Module, settings: config.Training) -> torch.optim.Optimizer:
    """Adam with the alphas of PACT in a group of their own, which carries their learning rate and L2 penalty."""
    alphas = [layer.alpha for layer in pact_layers(model).values()]
    own = {id(alpha) for alpha in alphas}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in own]}]
    if alphas:
        groups.append({"params": alphas, "lr": settings.alpha_learning_rate, "alpha_penalty": settings.alpha_penalty})
    return torch.optim.Adam(groups, lr=settings.learning_rate, fused=True)


def standard_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    """One step on the cross-entropy. images float (B, 1, 28, 28) in [0, 1], labels int64 (B,). Returns the loss ().

    A SideBySide of S networks takes S * B images and labels and returns their losses (S,), here and in guided_step.
    """
    optimizer.zero_grad()
    return _descend(model, optimizer, F.cross_entropy(model(images), labels, reduction="none"))


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

    images float (B, 1, 28, 28) in [0, 1], labels int64 (B,); x~ has the `fraction` of pixels with the smallest
    gradient of the label's logit replaced by uniform noise from `generator` (for a SideBySide: a list, one for each
    network). Returns the loss ().
    """
    optimizer.zero_grad()
    watched = images.detach().requires_grad_()
    with quantized_once(model):
        logits = model(watched)
        saliency = logit_gradient(logits, watched, labels, retain_graph=True)
        masked = mask_least_salient(images, saliency, fraction, generator, ranking=ranking)
        with _batch_norm_statistics_kept(model):
            masked_logits = model(masked)
    log_clean, log_masked = F.log_softmax(logits, 1), F.log_softmax(masked_logits, 1)
    divergence = F.kl_div(log_masked, log_clean, log_target=True, reduction="none").sum(1)
    return _descend(model, optimizer, F.nll_loss(log_clean, labels, reduction="none") + weight * divergence)


def _descend(model: nn.Module, optimizer: torch.optim.Optimizer, losses: Tensor) -> Tensor:
    """One step on the mean of the images' losses (B,), or on those of each network of a SideBySide."""
    loss = losses.view(len(model.networks), -1).mean(1) if isinstance(model, SideBySide) else losses.mean()
    # Naming the inputs spares the gradient of the images, which a guided step made require one.
    loss.sum().backward(inputs=[p for group in optimizer.param_groups for p in group["params"] if p.requires_grad])
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


# --------------------------------------------------------------------------------------------------- looking


def as_input(images: Tensor) -> Tensor:
    """uint8 images (B, 28, 28) as a network takes them: float (B, 1, 28, 28) in [0, 1]."""
    return images.unsqueeze(1).float() / 255


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percentage of uint8 images (N, 28, 28) that the network, in evaluation mode, classifies as labels (N,) says."""
    with evaluating(model):
        right = sum(
            int((model(as_input(some)).argmax(1) == truth).sum())
            for some, truth in zip(images.split(CHUNK), labels.split(CHUNK), strict=True)
        )
    return 100 * right / len(labels)


@torch.no_grad()
def activation_shares(model: nn.Module, images: Tensor) -> dict[str, dict[str, float]]:
    """Of each PACT layer: alpha, the share of inputs at or above it (`clipped`) and of outputs that are 0 (`zero`)."""
    shares: dict[str, dict[str, float]] = {}

    def observer(name: str) -> Callable[..., None]:
        def observe(layer: PACT, inputs: tuple[Tensor], output: Tensor) -> None:
            shares[name] = {
                "alpha": layer.alpha.item(),
                "clipped": (inputs[0] >= layer.alpha).float().mean().item(),
                "zero": (output == 0).float().mean().item(),
            }

        return observe

    hooks = [layer.register_forward_hook(observer(name)) for name, layer in pact_layers(model).items()]
    try:
        with evaluating(model):
            model(as_input(images))
    finally:
        for hook in hooks:
            hook.remove()
    return shares


def saliency_now(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Maps of float images (B, 1, 28, 28) in the middle of training; a dead network's maps are recorded as they are."""
    watched = images.detach().requires_grad_()
    with evaluating(model):
        return logit_gradient(model(watched), watched, labels)


# --------------------------------------------------------------------------------------------- whole trainings


@dataclass(frozen=True)
class Images:
    """What a network trains on: uint8 images (N, 28, 28) and int64 labels (N,) of two splits."""

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor


@dataclass
class History:
    """What happened, one entry an epoch; and the maps of the watched images at some steps."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)  # of (K, 28, 28)


@dataclass(frozen=True)
class Watch:
    """The fixed validation images whose maps are recorded `records` times during training."""

    images: Tensor  # uint8 (K, 28, 28)
    labels: Tensor
    records: int


def train(
    model: nn.Module, images: Images, *, seed: int, on_progress: Callable[[History], None] | None = None, **options: Any
) -> History:
    """Train one network in place, as train_together does with its `options`; on_progress(history) without the seed."""
    report = (lambda _, history: on_progress(history)) if on_progress else None
    return train_together([model], images, seeds=[seed], on_progress=report, **options)[0]


def train_together(
    models: Sequence[nn.Module],
    images: Images,
    *,
    seeds: Sequence[int],
    epochs: int,
    warmup_epochs: float,
    settings: config.Training,
    guided: config.Guided | None = None,
    watch: Watch | None = None,
    on_progress: Callable[[int, History], None] | None = None,
) -> list[History]:
    """Train in place: a full-precision warm-up, calibration of the alphas, then quantized to the end.

    models: one network, or LeNets of one precision, which are trained as one batched network; each one's result is that
    of training it alone, but for rounding, which a low precision amplifies: there it decides between equal values.
    seeds: of each, fixing batch order and mask noise. guided: its settings, or None for standard training. A
    full-precision network runs the same schedule without the switch. watch: recorded for the first network.
    on_progress(seed, history) is called after every record and epoch. Leaves the networks in evaluation mode. Raises
    DivergedError, naming seed and epoch, as soon as an epoch's loss is not finite.
    """
    learner = models[0] if len(models) == 1 else SideBySide(models)
    steps_per_epoch = math.ceil(len(images.train) / settings.batch_size)
    total = epochs * steps_per_epoch
    switch = int(warmup_epochs * steps_per_epoch)  # rounded down, so that at least the last step is quantized
    due = _record_steps(watch, total)
    orders = [torch.Generator().manual_seed(2 * seed) for seed in seeds]
    advance = _step(guided, [torch.Generator(images.train.device).manual_seed(2 * seed + 1) for seed in seeds])
    optimizer = make_optimizer(learner, settings)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=total)
    histories = [History() for _ in seeds]
    everyone = {learner, *models}
    for model in everyone:
        model.train()
        set_quantizing(model, False)

    for epoch in range(epochs):
        losses = []
        for x, y in _batches(images, orders, settings.batch_size):
            step = epoch * steps_per_epoch + len(losses)
            if step == switch:
                for model in everyone:
                    set_quantizing(model, True)
                calibrate(learner, as_input(images.train[: settings.calibration_images]).repeat(len(models), 1, 1, 1))
            if step in due:
                _record(histories[0], step, learner, models[0], watch)
                _report(on_progress, seeds[:1], histories)
            losses.append(advance(learner, optimizer, x, y))
            schedule.step()
        _write_back(learner)
        means = torch.stack(losses).mean(0).view(-1).tolist()
        for seed, loss, model, history in zip(seeds, means, models, histories, strict=True):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"seed {seed}: the loss is not finite in epoch {epoch + 1}; lower training.learning_rate"
                )
            history.epochs.append(_summary(epoch, loss, model, images))
        _report(on_progress, seeds, histories)
    if total in due:
        _record(histories[0], total, learner, models[0], watch)
        _report(on_progress, seeds[:1], histories)
    for model in models:
        model.eval()
    return histories


def _step(guided: config.Guided | None, noise: list[torch.Generator]) -> Callable[..., Tensor]:
    if guided is None:
        return standard_step
    options = {"fraction": guided.fraction, "weight": guided.weight, "ranking": guided.ranking}
    return functools.partial(guided_step, generator=noise, **options)


def _batches(images: Images, orders: list[torch.Generator], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: the batches of each order side by side, as a network takes them."""
    epochs = [torch.randperm(len(images.train), generator=order).split(size) for order in orders]
    for some in zip(*epochs, strict=True):
        which = torch.cat(some)
        yield as_input(images.train[which]), images.train_labels[which]


def _write_back(learner: nn.Module) -> None:
    if isinstance(learner, SideBySide):
        learner.write_back()


def _record_steps(watch: Watch | None, total: int) -> set[int]:
    if watch is None:
        return set()
    return set(torch.linspace(0, total, watch.records + 1).round().int().tolist())


def _record(history: History, step: int, learner: nn.Module, model: nn.Module, watch: Watch) -> None:
    _write_back(learner)
    history.steps.append(step)
    history.maps.append(saliency_now(model, as_input(watch.images), watch.labels).cpu())


def _report(
    on_progress: Callable[[int, History], None] | None, seeds: Sequence[int], histories: Sequence[History]
) -> None:
    if on_progress:
        for seed, history in zip(seeds, histories, strict=False):
            on_progress(seed, history)


def _summary(epoch: int, loss: float, model: nn.Module, images: Images) -> dict[str, Any]:
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "validation_accuracy": accuracy(model, images.validation, images.validation_labels),
        "layers": activation_shares(model, images.validation[:OBSERVED]),
    }
