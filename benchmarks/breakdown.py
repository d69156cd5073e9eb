"""Where the time goes: of one guided step by phase and operator, text and picture; of a score, its forward passes."""

import contextlib
import ctypes
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import thread_time
from unittest import mock

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.steps import QUANTIZED, make_step
from saqlib import scoring as scoring_module
from saqlib import training as steps
from saqlib.kernels import operators as kernels
from saqlib.lenet import LeNet
from study import models
from study.settings import Cell, Study

WARM_UP, STEPS = 10, 30
PHASE = "phase: "
SCORED = {"images": 300, "images_expensive": 60}  # fewer than the study scores, in the same proportion
OTHER = "Python and dispatch"  # time of a phase outside any operator
SMALLEST = 0.01  # of a step; what takes less is summed up
NAMED, UPRIGHT = 0.012, 0.1  # of a step: the narrowest block with a name, and with one that is not turned


@dataclass(frozen=True)
class Breakdown:
    """Milliseconds per step: phase to operator to self time."""

    phases: dict[str, dict[str, float]]

    @property
    def total(self) -> float:
        return sum(sum(operators.values()) for operators in self.phases.values())


def profile_step(settings: Study, layers: str = QUANTIZED) -> Breakdown:
    """Profile guided steps with the batch of the experiment."""
    step = make_step("guided", layers, settings, settings.optimizer.batch_size, steps=1)
    for _ in range(WARM_UP):
        step()
    with named_phases(), profile(activities=[ProfilerActivity.CPU], acc_events=True) as trace:
        for _ in range(STEPS):
            with record_function(PHASE + "rest of the step"):
                step()
    return summed(trace.events(), STEPS)


def scoring_rows(settings: Study) -> list[dict[str, str]]:
    """Of the processor time of scoring a committed network, the forward passes, and of these the first convolution.

    What is left of the forward passes is what integers could do faster: pixels that were removed are no bytes.
    """
    scoring, rows = replace(settings.scoring, **SCORED), []
    for precision in settings.grid.precisions:
        cell = Cell("fashion_mnist", precision, "standard")
        network, spent = models.load(cell), defaultdict(float)
        with contextlib.ExitStack() as stack:
            for owner, name, part in ((LeNet, "forward", "forward"), (kernels, "block1", "conv1"),
                                      (scoring_module, "score_network", "score")):  # fmt: skip
                counted = _without_gradients(getattr(owner, name), spent, part)
                stack.enter_context(mock.patch.object(owner, name, counted))
            twin = None if precision == settings.claims.reference else network  # whichever network: it costs the same
            others = {"fp32_twin": twin, "other_seed": network}
            scoring_module.score_network(cell.dataset, scoring, 0, network, others)
        rows.append({"precision": precision, "seconds": f"{spent['score']:.1f}",
                     "forward passes": f"{spent['forward'] / spent['score']:.0%}",
                     "conv1 of these": f"{spent['conv1'] / spent['forward']:.0%}"})  # fmt: skip
    return rows


def _without_gradients(function: Callable, spent: dict[str, float], part: str) -> Callable:
    """The function, whose processor time is added up; but for the whole score not that of calls with a gradient."""

    @functools.wraps(function)
    def counted(*args, **options):
        began, counts = thread_time(), part == "score" or not torch.is_grad_enabled()
        try:
            return function(*args, **options)
        finally:
            spent[part] += (thread_time() - began) * counts

    return counted


@contextlib.contextmanager
def named_phases() -> Iterator[None]:
    """Mark the parts of a guided step for the profiler."""
    parts = {
        (LeNet, "forward"): "forward passes",
        (steps, "logit_gradient"): "map: backward to the images",
        (steps, "mask_least_salient"): "masking",
        (torch.Tensor, "backward"): "backward to the weights",
        (torch.optim.Adam, "step"): "Adam",
    }
    with contextlib.ExitStack() as stack:
        for (owner, name), phase in parts.items():
            stack.enter_context(mock.patch.object(owner, name, marked(getattr(owner, name), PHASE + phase)))
        if kernels.library() is not None:
            recorded = RecordedKernels(kernels.library())
            stack.enter_context(mock.patch.object(kernels, "library", lambda: recorded))
        yield


class RecordedKernels:
    """The functions of the C library, each recorded under its name: the profiler knows PyTorch's operators only."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library

    def __getattr__(self, name: str):
        return marked(getattr(self.library, name), f"kernel {name}")


def marked(function, name: str):
    """The function, recorded under this name."""

    @functools.wraps(function, assigned=())
    def wrapper(*arguments, **options):
        with record_function(name):
            return function(*arguments, **options)

    return wrapper


def summed(events: list[FunctionEvent], steps: int) -> Breakdown:
    """Self times of the events by phase and operator; events outside any phase are not part of a step."""
    phases: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for event in events:
        owner = event
        while owner and not owner.name.startswith(PHASE):
            owner = owner.cpu_parent
        if owner:
            operator = OTHER if is_wrapper(event.name) else event.name.removeprefix("aten::")
            phases[owner.name.removeprefix(PHASE)][operator] += event.self_cpu_time_total / 1e3 / steps
    return Breakdown({phase: dict(operators) for phase, operators in phases.items()})


def is_wrapper(name: str) -> bool:
    """Whether a name is a phase, a node of the graph or the optimiser's shell and not an operator that computes."""
    return name.startswith((PHASE, "autograd::", "torch::autograd", "Optimizer.")) or name.endswith(
        ("Backward", "Backward0", "Backward1")
    )


def as_text(breakdown: Breakdown) -> str:
    """Phases in order of their time, and below each its operators, as bars."""
    lines = []
    total = breakdown.total
    for phase, operators in by_time(breakdown.phases):
        share = sum(operators.values()) / total
        lines.append(f"{share:6.1%}  {phase}")
        for operator, time in grouped(operators, total):
            lines.append(f"  {time / total:6.1%}  {operator:36} {'#' * round(100 * time / total)}")
    return "\n".join(lines)


def by_time(phases: dict[str, dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    return sorted(phases.items(), key=lambda item: -sum(item[1].values()))


def grouped(operators: dict[str, float], total: float) -> list[tuple[str, float]]:
    """Operators by time, those below SMALLEST of the step as one."""
    large = {name: time for name, time in operators.items() if time >= SMALLEST * total}
    rest = sum(operators.values()) - sum(large.values())
    return [*sorted(large.items(), key=lambda item: -item[1]), (f"{len(operators) - len(large)} smaller ones", rest)]


def draw(breakdown: Breakdown, path: Path) -> None:
    """The step as a flame graph of two floors: phases below, their operators above, widths their times."""
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    axes = figure.subplots()
    left = 0.0
    for (phase, operators), colour in zip(by_time(breakdown.phases), colormaps["Set2"].colors, strict=False):
        _block(axes, left, sum(operators.values()), 0, phase, colour, breakdown.total)
        for operator, time in grouped(operators, breakdown.total):
            _block(axes, left, time, 1, operator, (*colour, 0.6), breakdown.total)
            left += time
    axes.set(xlim=(0, breakdown.total), ylim=(0, 2), yticks=[], xlabel="ms of one guided step, on this machine")
    axes.spines[["top", "left", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _block(axes: Axes, left: float, width: float, floor: int, text: str, colour: tuple, total: float) -> None:
    axes.add_patch(Rectangle((left, floor), width, 1, facecolor=colour, edgecolor="white"))
    if width > NAMED * total:
        turn = 0 if width > UPRIGHT * total else 90
        axes.text(left + width / 2, floor + 0.5, text, rotation=turn, ha="center", va="center", fontsize=7)
