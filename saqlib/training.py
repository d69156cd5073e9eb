"""Training of any network, standard or saliency-guided: a single step, or all of them for one seed or several at once.

`train` runs a full-precision warm-up, calibrates the clips and trains quantized to the end. Until then every precision
of a seed trains the same network, to the bit: `warm_up` trains it once, and each precision goes on from what it left.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from saqlib.data import as_input
from saqlib.errors import NotFiniteError, check_finite, one_of
from saqlib.evaluation import check_network, check_targets, evaluating, logits_of, temporarily
from saqlib.quantization import PACT, calibrate, pact_layers, quantized_once, set_quantizing
from saqlib.saliency import logit_gradient, mask_least_salient, passing, saliency_now
from saqlib.stacked import Stacked

RANGES = ("learned", "largest")  # of an activation: PACT's clip, or the running largest value, with nothing clipped
CHUNK = 500  # images a forward pass without gradients takes at once
NONE_IGNORED = -(2**31)  # a label that is no class is an error, also -100, which PyTorch would leave out
OBSERVED = 1000  # validation images on which the shares of clipped and zero codes are measured


class DivergedError(RuntimeError):
    """A loss, a weight or a map stopped being finite."""


# ------------------------------------------------------------------------------------------- settings and records


@dataclass(frozen=True)
class Optimizer:
    """Adam on batches of `batch_size`; learning_rate: the peak of its one-cycle schedule."""

    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Quantization:
    """How the clips of PACT are trained.

    alpha_learning_rate: peak of their schedule. alpha_penalty: times the sum of alpha^2, added to the loss.
    calibration_images: the first training images, on which the clips are set after the warm-up. range: `learned`; or
    `largest`, the running largest value of each activation, which no gradient moves and nothing in a batch exceeds.
    """

    alpha_learning_rate: float
    alpha_penalty: float
    calibration_images: int
    range: str = "learned"


@dataclass(frozen=True)
class Guided:
    """The options of guided_step: share of masked pixels, weight of the divergence, and how the map ranks pixels."""

    fraction: float
    weight: float
    ranking: str
    saturated: str = "stop"


@dataclass(frozen=True)
class Images:
    """What a network trains on: uint8 images (N, H, W) or (N, C, H, W), and int64 labels (N,), of two splits.

    Raises ValueError if there is not one label for each image: others would be learned, without a word.
    """

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor

    def __post_init__(self):
        for images, labels in ((self.train, self.train_labels), (self.validation, self.validation_labels)):
            if not len(images):
                raise ValueError("a split has no images")
            check_targets(labels, len(images))

    def batches(self, orders: Sequence[torch.Generator], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch: the batches of each order side by side, as a network takes them, and their labels."""
        epochs = [torch.randperm(len(self.train), generator=order).split(size) for order in orders]
        for parts in zip(*epochs, strict=True):
            indices = torch.cat(parts)
            yield as_input(self.train[indices]), self.train_labels[indices]


@dataclass(frozen=True)
class Watch:
    """The fixed images, uint8 (K, 28, 28), and labels (K,) whose maps are recorded `records` times during training."""

    images: Tensor
    labels: Tensor
    records: int


@dataclass
class History:
    """What happened, one entry an epoch; and at some steps the maps of the watched images, with the weights.

    switch: the number of steps after which the network quantizes, None for full precision.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)  # of (K, 28, 28)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    switch: int | None = None


# ------------------------------------------------------------------------------------------------------ one step


def make_optimizer(
    model: nn.Module, settings: Optimizer, quantization: Quantization | None = None
) -> torch.optim.Optimizer:
    """Adam with the clips of PACT in a group of their own, which carries their learning rate and L2 penalty.

    The steps below apply the penalty; they take any other optimiser of PyTorch, too. Raises ValueError if the network
    has PACT layers and `quantization` is None.
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
    """One step on the cross-entropy; returns the loss ().

    Args:
        model: any network of images to logits (B, classes). A Stacked of S networks takes S * B images and labels and
            returns their losses (S,), here and in guided_step.
        optimizer: its parameters are those that learn; from make_optimizer, it knows the clips of PACT.
        images: float (B, C, H, W), for the networks here (B, 1, 28, 28) in [0, 1].
        labels: int64 (B,); ValueError unless there is one for each image.
    """
    check_targets(labels, len(images))
    optimizer.zero_grad()
    logits = logits_of(model, images)
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
    saturated: str = "stop",
) -> Tensor:
    """One step on cross-entropy + weight * KL(f(x) || f(x~)), both terms differentiated; returns the loss ().

    x~ is x with the least salient pixels replaced by uniform noise (Ismail et al., arXiv 2111.14338). The map, which is
    the gradient of the label's logit, and the loss share the clean forward pass: two forwards, two backwards in all.

    Args:
        model, optimizer, images, labels: as in standard_step.
        generator: of the noise; for a Stacked a list, one for each network.
        fraction: share of the pixels that is replaced, in [0, 1].
        weight: of the Kullback-Leibler term, at least 0.
        ranking: see mask_least_salient.
        saturated: `pass` lets the map's gradient, not the loss's, through clipped activations (`saliency.passing`): a
            forward and a backward pass more.

    Raises:
        ValueError: a weight below 0, or what standard_step and mask_least_salient refuse, such as a map of NaN.
    """
    if not weight >= 0:
        raise ValueError(f"weight must be at least 0, not {weight}")
    check_network(model)
    optimizer.zero_grad()
    watched = images.detach().requires_grad_()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    with quantized_once(model):
        logits = logits_of(model, watched)
        # Running statistics and ranges are those of this one pass: masked images ruin them for clean ones.
        unmoved = temporarily(norms, track_running_stats=False, momentum=0.0)
        with unmoved, temporarily(pact_layers(model).values(), tracking=False):
            if saturated == "stop":
                saliency = logit_gradient(logits, watched, labels, retain_graph=True)
            else:
                with passing(model, saturated):
                    saliency = logit_gradient(logits_of(model, watched), watched, labels)
            masked_logits = model(mask_least_salient(images, saliency, fraction, generator, ranking=ranking))
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


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percentage of images, uint8 (N, H, W) or (N, C, H, W), that the network classifies as labels, int64 (N,), say.

    The model is any network of images to logits (B, classes), and is run in evaluation mode. Raises ValueError if there
    are no images, or not one label for each; as NotFiniteError, if a logit is NaN or infinite.
    """
    if not len(images):
        raise ValueError("there are no images to classify")
    check_targets(labels, len(images))
    right = 0
    with evaluating(model):
        for part, truth in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
            logits = logits_of(model, as_input(part))
            check_finite(logits, "the network's logits are")
            right += int((logits.argmax(1) == truth).sum())
    return 100 * right / len(labels)


@torch.no_grad()
def activation_shares(model: nn.Module, images: Tensor) -> dict[str, dict[str, float]]:
    """Of each PACT layer: alpha, the share of inputs at or above it (`clipped`) and of outputs that are 0 (`zero`)."""
    shares: dict[str, dict[str, float]] = {}

    def observe(name: str, layer: PACT, inputs: tuple[Tensor], output: Tensor) -> None:
        shares[name] = {
            "alpha": layer.alpha.item(),
            "clipped": (inputs[0] >= layer.alpha).float().mean().item(),
            "zero": (output == 0).float().mean().item(),
        }

    layers = pact_layers(model).items()
    hooks = [layer.register_forward_hook(functools.partial(observe, name)) for name, layer in layers]
    try:
        with evaluating(model):
            model(as_input(images))
    finally:
        for hook in hooks:
            hook.remove()
    return shares


# ----------------------------------------------------------------------------------------------- whole trainings


def train(model: nn.Module, images: Images, *, seed: int, **options: Any) -> History:
    """Train one network in place, with the `options` of `train_together`."""
    return train_together([model], images, seeds=[seed], **options)[0]


def train_together(
    models: Sequence[nn.Module], images: Images, *, seeds: Sequence[int], start: dict | None = None, **options: Any
) -> list[History]:
    """Train in place: a full-precision warm-up, calibration, then quantized to the end; leaves evaluation mode on.

    Args:
        models: one network, or LeNets of one precision, which are trained as one batched network; each one's result is
            that of training it alone, but for rounding, which a low precision amplifies: there it decides between equal
            values.
        images: of both splits.
        seeds: of each network, fixing batch order and mask noise.
        start: of one network: what `warm_up` returned for this seed and these options. The result is the same bits.
        **options: `epochs`, the warm-up included; `optimizer`, its settings; `quantization`, how the clips are trained
            (None for full precision, which never switches); `warmup_epochs` (0), also a part of an epoch; `guided`, the
            settings of guided training (None for standard); `watch`, recorded for the first network (None); and
            `on_progress(seed, history)`, called after every record and epoch (None).

    Raises:
        DivergedError: a loss, a weight or a map is not finite; the message names seed and epoch.
        ValueError: a seed is missing for a network, or the warm-up is as long as the training.
    """
    run = _Training(models, images, seeds, **options)
    if start:
        run.resume(start)
    run.go_to(run.total)
    run.record_if_due()
    for model in models:
        model.eval()
    return run.histories


def warm_up(model: nn.Module, images: Images, *, seed: int, **options: Any) -> dict[str, Any]:
    """Train a full-precision network in place up to the switch; options, but quantization, as in `train_together`.

    Returns plain values and tensors from which `train_together` goes on (`start`), for any precision of this seed.
    """
    run = _Training([model], images, [seed], **options)
    run.go_to(run.switch)
    return run.point()


class _Training:
    """The networks that train, with everything that changes while they do."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        images: Images,
        seeds: Sequence[int],
        *,
        epochs: int,
        optimizer: Optimizer,
        quantization: Quantization | None = None,
        warmup_epochs: float = 0.0,
        guided: Guided | None = None,
        watch: Watch | None = None,
        on_progress: Callable[[int, History], None] | None = None,
    ):
        if len(models) != len(seeds):
            raise ValueError(f"there must be one seed for each network, not {len(seeds)} for {len(models)}")
        self.models, self.images, self.seeds = models, images, seeds
        self.batch_size, self.quantization = optimizer.batch_size, quantization
        self.watch, self.on_progress = watch, on_progress or (lambda seed, history: None)
        self.epoch_steps = math.ceil(len(images.train) / optimizer.batch_size)
        self.step, self.total = 0, epochs * self.epoch_steps
        self.switch = int(warmup_epochs * self.epoch_steps)  # rounded down: at least the last step is quantized
        if quantization and self.switch >= self.total:
            raise ValueError(f"warmup_epochs must be less than epochs ({epochs}), not {warmup_epochs}")
        self.due = torch.linspace(0, self.total, watch.records + 1).round().int().tolist() if watch else []
        self.orders = [torch.Generator().manual_seed(2 * seed) for seed in seeds]
        self.noise = [torch.Generator(images.train.device).manual_seed(2 * seed + 1) for seed in seeds]
        self.learner = models[0] if len(models) == 1 else Stacked(models)
        if quantization and one_of(quantization.range, RANGES, "range") == "largest":
            for layer in pact_layers(self.learner).values():
                layer.tracking = True
                layer.alpha.requires_grad_(False)
        self.optimizer = make_optimizer(self.learner, optimizer, quantization)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = OneCycleLR(self.optimizer, self.peaks, total_steps=self.total)
        self.take_step = standard_step
        if guided:
            self.take_step = functools.partial(guided_step, generator=self.noise, **asdict(guided))
        self.losses: list[Tensor] = []  # of the steps of this epoch
        self.histories = [History(switch=self.switch if quantization else None) for _ in seeds]
        self.warm_weights: list[dict[str, Tensor]] = []  # after each epoch of the warm-up
        for each in {self.learner, *models}:
            each.train()
            set_quantizing(each, False)

    def go_to(self, stop: int) -> None:
        """Epoch by epoch, step by step, until `stop` steps are done."""
        while self.step < stop:
            begin = self.step - self.step % self.epoch_steps
            batches = self.images.batches(self.orders, self.batch_size)
            try:
                for images, labels in islice(batches, self.step - begin, stop - begin):
                    self._advance(images, labels)
                if self.step == begin + self.epoch_steps:
                    self._end_epoch()
            except NotFiniteError as error:
                where = f"seed {self._spoilt()}: {error} in epoch {begin // self.epoch_steps + 1}"
                raise DivergedError(f"{where}; lower optimizer.learning_rate") from None

    def _advance(self, images: Tensor, labels: Tensor) -> None:
        if self.step == self.switch and self.quantization:
            for each in {self.learner, *self.models}:
                set_quantizing(each, True)
            first = as_input(self.images.train[: self.quantization.calibration_images])
            calibrate(self.learner, first.repeat(len(self.models), 1, 1, 1))
        self.record_if_due()
        self.losses.append(self.take_step(self.learner, self.optimizer, images, labels))
        self.schedule.step()
        self.step += 1

    def _end_epoch(self) -> None:
        self._write_back()
        epoch = self.step // self.epoch_steps
        means = torch.stack(self.losses).mean(0).view(-1)
        check_finite(means, "the loss is")
        for loss, model, history in zip(means.tolist(), self.models, self.histories, strict=True):
            for value in model.state_dict().values():  # the last step may have spoilt one that no loss has seen
                check_finite(value, "a weight is")
            right = accuracy(model, self.images.validation, self.images.validation_labels)
            layers = activation_shares(model, self.images.validation[:OBSERVED])
            history.epochs.append({"epoch": epoch, "loss": loss, "validation_accuracy": right, "layers": layers})
        if self.step <= self.switch:
            self.warm_weights.append(copy.deepcopy(self.models[0].state_dict()))
        self.losses = []
        for seed, history in zip(self.seeds, self.histories, strict=True):
            self.on_progress(seed, history)

    def record_if_due(self) -> None:
        """The maps of the watched images and the weights, if they are recorded before this step."""
        if self.step in self.due:
            self._write_back()
            model, history = self.models[0], self.histories[0]
            history.steps.append(self.step)
            history.maps.append(saliency_now(model, as_input(self.watch.images), self.watch.labels).cpu())
            history.states.append({name: value.clone().cpu() for name, value in model.state_dict().items()})
            self.on_progress(self.seeds[0], history)

    def point(self) -> dict[str, Any]:
        """All that a training of any precision needs in order to go on from here."""
        return {
            "step": self.step,
            "losses": self.losses,
            "history": asdict(self.histories[0]),
            "weights": self.models[0].state_dict(),
            "warm_weights": self.warm_weights,
            "adam": self.optimizer.state_dict()["state"],
            "noise": self.noise[0].get_state(),
        }

    def resume(self, start: dict[str, Any]) -> None:
        """Go on from there, with a network whose weights have the same names."""
        start, (model,) = copy.deepcopy(start), self.models
        history = self.histories[0] = History(**start["history"] | {"switch": self.histories[0].switch})
        for weights, entry in zip(start["warm_weights"], history.epochs, strict=True):
            _load_weights(model, weights)  # the clips are this network's own, with what they would have cut
            entry["layers"] = activation_shares(model, self.images.validation[:OBSERVED])
        _load_weights(model, start["weights"])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": start["adam"]})
        self.noise[0].set_state(start["noise"])
        self.step, self.losses = start["step"], start["losses"]
        for _ in range(self.step // self.epoch_steps):  # each epoch has drawn one order
            torch.randperm(len(self.images.train), generator=self.orders[0])
        self.schedule = OneCycleLR(self.optimizer, self.peaks, total_steps=self.total, last_epoch=self.step - 1)

    def _spoilt(self) -> str:
        """The seeds with a weight that is not finite; all of them where each weight is."""
        self._write_back()
        finite = [all(value.isfinite().all() for value in model.state_dict().values()) for model in self.models]
        spoilt = [seed for seed, fine in zip(self.seeds, finite, strict=True) if not fine]
        return ", ".join(map(str, spoilt or self.seeds))

    def _write_back(self) -> None:
        if isinstance(self.learner, Stacked):
            self.learner.write_back()


def _load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load what is the same for every precision, running statistics with it; clips and scales stay."""
    own = ".alpha", ".floor", ".weight_scale"
    shared = {name: weights[name] for name in model.state_dict() if not name.endswith(own)}
    model.load_state_dict(shared, strict=False)
