"""The training of a network, or of several seeds at once: a full-precision warm-up, then quantized to the end.

Until quantization is switched on, every precision of a seed trains the same network, to the bit. So the warm-up is run
once, and each precision goes on from what it left.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from saqlib.data.images import as_input
from saqlib.errors import NotFiniteError
from saqlib.network.quantization import calibrate, set_quantizing
from saqlib.network.settings import Quantization
from saqlib.training.looking import accuracy, activation_shares, finite, saliency_now
from saqlib.training.records import History, Images, Point, Watch, copies, load_weights
from saqlib.training.settings import Guided, Optimizer
from saqlib.training.stacked import Stacked
from saqlib.training.steps import guided_step, make_optimizer, standard_step

OBSERVED = 1000  # validation images on which the shares of clipped and zero codes are measured


class DivergedError(RuntimeError):
    """A loss, a weight or a map stopped being finite."""


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
    start: Point | None = None,
    on_epoch: Callable[[Point], None] | None = None,
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
        start: where to go on, for one network: what `warm_up` gave for this seed and these settings, or what on_epoch
            was called with in a training like this one that was stopped. The result is the same, to the bit.
        on_epoch: called at the end of every epoch but the last, for one network, with the point that was reached.

    Raises:
        DivergedError: a loss, a weight or a map is not finite; the message names seed and epoch.
        ValueError: a seed is missing for a network, or the warm-up is as long as the training.
    """
    run = _Training(models, images, seeds, optimizer, quantization, guided, watch, on_progress)
    run.on_epoch = on_epoch
    run.plan(epochs, warmup_epochs)
    if start:
        run.resume(start)
    run.go_to(run.total)
    run.finish()
    return run.histories


def warm_up(
    model: nn.Module,
    images: Images,
    *,
    seed: int,
    epochs: int,
    warmup_epochs: float,
    optimizer: Optimizer,
    guided: Guided | None = None,
    watch: Watch | None = None,
    on_progress: Callable[[int, History], None] | None = None,
) -> Point:
    """Train a full-precision network in place up to the switch; arguments and errors as in `train_together`.

    Returns the point that `train_together` goes on from, for any precision of this seed.
    """
    run = _Training([model], images, [seed], optimizer, None, guided, watch, on_progress)
    run.plan(epochs, warmup_epochs)
    run.go_to(run.switch)
    return run.point()


class _Training:
    """The networks that train, with everything that changes while they do."""

    def __init__(self, models, images, seeds, optimizer, quantization, guided, watch, on_progress):
        if len(models) != len(seeds):
            raise ValueError(f"there must be one seed for each network, not {len(seeds)} for {len(models)}")
        self.models, self.images, self.seeds = models, images, seeds
        self.settings, self.quantization = optimizer, quantization
        self.watch, self.on_progress = watch, on_progress
        self.learner = models[0] if len(models) == 1 else Stacked(models)
        self.optimizer = make_optimizer(self.learner, optimizer, quantization)
        self.orders = [torch.Generator().manual_seed(2 * seed) for seed in seeds]
        self.noise = [torch.Generator(images.train.device).manual_seed(2 * seed + 1) for seed in seeds]
        self.advance = _step(guided, self.noise)
        self.histories = [History() for _ in seeds]
        self.ends: list[dict[str, Tensor]] = []  # the weights after each epoch of the warm-up
        self.on_epoch: Callable[[Point], None] | None = None

    def plan(self, epochs: int, warmup_epochs: float) -> None:
        """Count the steps: when quantization is switched on, and when maps are recorded."""
        self.steps_per_epoch = math.ceil(len(self.images.train) / self.settings.batch_size)
        self.step, self.total = 0, epochs * self.steps_per_epoch
        self.switch = int(warmup_epochs * self.steps_per_epoch)  # rounded down: at least the last step is quantized
        if self.quantization and self.switch >= self.total:
            raise ValueError(f"warmup_epochs must be less than epochs ({epochs}), not {warmup_epochs}")
        self.due = _record_steps(self.watch, self.total)
        for history in self.histories:
            history.switch = self.switch if self.quantization else None
        peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, peaks, total_steps=self.total)
        for model in self._everyone():
            model.train()
            set_quantizing(model, False)

    def go_to(self, stop: int) -> None:
        """Step by step until `stop` steps are done; after the last one of an epoch, sum it up."""
        while self.step < stop:
            if self.step % self.steps_per_epoch == 0:
                self._begin_epoch()
            try:
                self._advance()
            except NotFiniteError as error:  # as a map, before there is a loss
                raise _diverged(self._spoilt(), str(error), self.step // self.steps_per_epoch + 1) from None
            if self.step % self.steps_per_epoch == 0:
                self._end_epoch()

    def _advance(self) -> None:
        x, y = next(self.batches)
        if self.step == self.switch and self.quantization:
            self._quantize()
        self._record_if_due()
        self.losses.append(self.advance(self.learner, self.optimizer, x, y))
        self.schedule.step()
        self.step += 1

    def _spoilt(self) -> list[int]:
        """The seeds with a weight that is not finite; all of them where each weight is."""
        self._write_back()
        pairs = zip(self.seeds, self.models, strict=True)
        return [seed for seed, model in pairs if not finite(model)] or list(self.seeds)

    def _begin_epoch(self) -> None:
        self.begun = [order.get_state() for order in self.orders]
        self.batches, self.losses = self.images.batches(self.orders, self.settings.batch_size), []

    def _end_epoch(self) -> None:
        self._write_back()
        epoch = self.step // self.steps_per_epoch
        means = torch.stack(self.losses).mean(0).view(-1).tolist()
        for seed, loss, model, history in zip(self.seeds, means, self.models, self.histories, strict=True):
            if not math.isfinite(loss):
                raise _diverged([seed], "the loss is not finite", epoch)
            if not finite(model):  # the last step may have spoilt what no loss has seen
                raise _diverged([seed], "a weight is not finite", epoch)
            history.epochs.append(_summary(epoch, loss, model, self.images))
        if self.step <= self.switch:
            self.ends.append(copies(self.models[0].state_dict()))
        self._report(self.seeds)
        if self.on_epoch and self.step < self.total:
            self.on_epoch(self.point())

    def point(self) -> Point:
        """All that is needed in order to go on from here; up to the switch, for a training of any precision."""
        between = self.step % self.steps_per_epoch == 0
        return {
            "step": self.step,
            "weights": copies(self.models[0].state_dict()),
            "adam": self.optimizer.state_dict()["state"],
            "order": self.orders[0].get_state() if between else self.begun[0],
            "noise": self.noise[0].get_state(),
            "losses": [] if between else self.losses,
            "history": asdict(self.histories[0]),
            "ends": self.ends,
        }

    def resume(self, start: Point) -> None:
        """Go on from there, with a network whose weights have the same names."""
        (model,), (history,) = self.models, self.histories
        for name in ("steps", "maps", "states"):
            setattr(history, name, list(start["history"][name]))
        history.epochs = [entry | {} for entry in start["history"]["epochs"]]
        # The clips stay what they are here: what they would have cut in the warm-up is this network's own.
        for weights, entry in zip(start["ends"], history.epochs, strict=False):
            load_weights(model, weights)
            entry["layers"] = activation_shares(model, self.images.validation[:OBSERVED])
        self.ends = list(start["ends"])
        self.step = start["step"]
        if self.step > self.switch and self.quantization:
            set_quantizing(model, True)
            model.load_state_dict(start["weights"])
        else:
            load_weights(model, start["weights"])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": start["adam"]})
        self._catch_up(start)

    def _catch_up(self, start: Point) -> None:
        """Learning rate, generators and the batches of a begun epoch as they were there."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a schedule that steps before the optimizer does
            for _ in range(self.step):
                self.schedule.step()
        self.orders[0].set_state(start["order"])
        self.noise[0].set_state(start["noise"])
        if self.step % self.steps_per_epoch:
            self._begin_epoch()
            self.batches = islice(self.batches, self.step % self.steps_per_epoch, None)
            self.losses = list(start["losses"])

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
            state = self.models[0].state_dict()
            self.histories[0].states.append({name: value.clone().cpu() for name, value in state.items()})
            self._report(self.seeds[:1])

    def _write_back(self) -> None:
        if isinstance(self.learner, Stacked):
            self.learner.write_back()

    def _report(self, seeds: Sequence[int]) -> None:
        if self.on_progress:
            for seed, history in zip(seeds, self.histories, strict=False):
                self.on_progress(seed, history)


def _diverged(seeds: Sequence[int], what: str, epoch: int) -> DivergedError:
    return DivergedError(f"seed {', '.join(map(str, seeds))}: {what} in epoch {epoch}; lower optimizer.learning_rate")


def _step(guided: Guided | None, noise: list[torch.Generator]) -> Callable[..., Tensor]:
    if guided is None:
        return standard_step
    options = {"fraction": guided.fraction, "weight": guided.weight, "ranking": guided.ranking}
    return functools.partial(guided_step, generator=noise, **options)


def _record_steps(watch: Watch | None, total: int) -> set[int]:
    if watch is None:
        return set()
    return set(torch.linspace(0, total, watch.records + 1).round().int().tolist())


def _summary(epoch: int, loss: float, model: nn.Module, images: Images) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": loss,
        "validation_accuracy": accuracy(model, images.validation, images.validation_labels),
        "layers": activation_shares(model, images.validation[:OBSERVED]),
    }
