"""The training of a network, or of several seeds at once: a full-precision warm-up, then quantized to the end."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saqlib.data.images import as_input
from saqlib.network.quantization import PACT, calibrate, pact_layers, set_quantizing
from saqlib.network.settings import Quantization
from saqlib.saliency.gradient import evaluating, logit_gradient
from saqlib.training.settings import Guided, Optimizer
from saqlib.training.stacked import Stacked
from saqlib.training.steps import accuracy, guided_step, make_optimizer, standard_step

OBSERVED = 1000  # validation images on which the shares of clipped and zero codes are measured


class DivergedError(RuntimeError):
    """The loss stopped being finite."""


@dataclass(frozen=True)
class Images:
    """What a network trains on: uint8 images (N, H, W) or (N, C, H, W), and int64 labels (N,), of two splits."""

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
    optimizer: Optimizer,
    quantization: Quantization | None = None,
    warmup_epochs: float = 0.0,
    guided: Guided | None = None,
    watch: Watch | None = None,
    on_progress: Callable[[int, History], None] | None = None,
) -> list[History]:
    """Train in place: a full-precision warm-up, calibration of the clips, then quantized to the end.

    Leaves the networks in evaluation mode.

    Args:
        models: one network, or LeNets of one precision, which are trained as one batched network; each one's result is
            that of training it alone, but for rounding, which a low precision amplifies: there it decides between equal
            values.
        images: of both splits.
        seeds: of each network, fixing batch order and mask noise.
        epochs: the warm-up is part of them.
        optimizer: its settings.
        quantization: how the clips are trained; None for networks of full precision, which never switch.
        guided: the settings of guided training, None for standard.
        watch: recorded for the first network.
        on_progress: called with seed and history after every record and epoch.

    Raises:
        DivergedError: an epoch's loss is not finite; the message names seed and epoch.
    """
    run = _Training(models, images, seeds, optimizer, quantization, guided, watch, on_progress)
    run.plan(epochs, warmup_epochs)
    for epoch in range(epochs):
        run.one_epoch(epoch)
    run.finish()
    return run.histories


class _Training:
    """The networks that train, with everything that changes while they do."""

    def __init__(self, models, images, seeds, optimizer, quantization, guided, watch, on_progress):
        self.models, self.images, self.seeds = models, images, seeds
        self.settings, self.quantization = optimizer, quantization
        self.watch, self.on_progress = watch, on_progress
        self.learner = models[0] if len(models) == 1 else Stacked(models)
        self.optimizer = make_optimizer(self.learner, optimizer, quantization)
        self.orders = [torch.Generator().manual_seed(2 * seed) for seed in seeds]
        noise = [torch.Generator(images.train.device).manual_seed(2 * seed + 1) for seed in seeds]
        self.advance = _step(guided, noise)
        self.histories = [History() for _ in seeds]

    def plan(self, epochs: int, warmup_epochs: float) -> None:
        """Count the steps: when quantization is switched on, and when maps are recorded."""
        steps_per_epoch = math.ceil(len(self.images.train) / self.settings.batch_size)
        self.step, self.total = 0, epochs * steps_per_epoch
        self.switch = int(warmup_epochs * steps_per_epoch)  # rounded down, so that at least the last step is quantized
        self.due = _record_steps(self.watch, self.total)
        peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, peaks, total_steps=self.total)
        for model in self._everyone():
            model.train()
            set_quantizing(model, False)

    def one_epoch(self, epoch: int) -> None:
        """All batches once; then what they did goes into the histories."""
        losses = []
        for x, y in _batches(self.images, self.orders, self.settings.batch_size):
            if self.step == self.switch and self.quantization:
                self._quantize()
            self._record_if_due()
            losses.append(self.advance(self.learner, self.optimizer, x, y))
            self.schedule.step()
            self.step += 1
        self._write_back()
        means = torch.stack(losses).mean(0).view(-1).tolist()
        for seed, loss, model, history in zip(self.seeds, means, self.models, self.histories, strict=True):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"seed {seed}: the loss is not finite in epoch {epoch + 1}; lower optimizer.learning_rate"
                )
            history.epochs.append(_summary(epoch, loss, model, self.images))
        self._report(self.seeds)

    def finish(self) -> None:
        self._record_if_due()
        for model in self.models:
            model.eval()

    def _everyone(self) -> set[nn.Module]:
        return {self.learner, *self.models}

    def _quantize(self) -> None:
        for model in self._everyone():
            set_quantizing(model, True)
        images = as_input(self.images.train[: self.quantization.calibration_images])
        calibrate(self.learner, images.repeat(len(self.models), 1, 1, 1))

    def _record_if_due(self) -> None:
        if self.step in self.due:
            self._write_back()
            self.histories[0].steps.append(self.step)
            maps = saliency_now(self.models[0], as_input(self.watch.images), self.watch.labels)
            self.histories[0].maps.append(maps.cpu())
            self._report(self.seeds[:1])

    def _write_back(self) -> None:
        if isinstance(self.learner, Stacked):
            self.learner.write_back()

    def _report(self, seeds: Sequence[int]) -> None:
        if self.on_progress:
            for seed, history in zip(seeds, self.histories, strict=False):
                self.on_progress(seed, history)


def _step(guided: Guided | None, noise: list[torch.Generator]) -> Callable[..., Tensor]:
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


def _record_steps(watch: Watch | None, total: int) -> set[int]:
    if watch is None:
        return set()
    return set(torch.linspace(0, total, watch.records + 1).round().int().tolist())


def _summary(epoch: int, loss: float, model: nn.Module, images: Images) -> dict[str, Any]:
    return {
        "epoch": epoch + 1,
        "loss": loss,
        "validation_accuracy": accuracy(model, images.validation, images.validation_labels),
        "layers": activation_shares(model, images.validation[:OBSERVED]),
    }


# ---------------------------------------------------------------------------------------------------- looking


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
