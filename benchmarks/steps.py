"""Training steps beside their peers: the table of goals, and the share of the machine's arithmetic that they reach."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks import arithmetic, peers
from benchmarks.timing import Times, interleaved, ratio
from saqlib.data import as_input, load
from saqlib.kernels import operators as kernels
from saqlib.lenet import build
from saqlib.training import guided_step, make_optimizer, standard_step
from study import paths
from study.settings import Study

STEPS = 4  # training steps a timed call
BATCHES = 8  # different batches, taken in turn
QUANTIZED = "w4a4"
PRODUCT = "matrix product"


@dataclass(frozen=True)
class Comparison:
    """One row of the table: what is divided by what, and the goal that was set, if any."""

    text: str
    slow: str
    fast: str
    goal: str = ""


TORCH = "pytorch"  # after a variant's name: by PyTorch's operators, not by the kernels
GOALS = (
    Comparison("PyTorch's operators / kernels, standard w4a4", f"standard w4a4 {TORCH}", "standard w4a4", ">= 2.5"),
    Comparison("PyTorch's operators / kernels, guided fp32", f"guided fp32 {TORCH}", "guided fp32", ">= 2.5"),
    Comparison("PyTorch's operators / kernels, guided w4a4", f"guided w4a4 {TORCH}", "guided w4a4", ">= 2.5"),
    Comparison("released procedure on Brevitas / guided w4a4", "released brevitas", "guided w4a4", ">= 7"),
    Comparison("Brevitas standard / standard w4a4", "standard brevitas", "standard w4a4", ">= 6"),
    Comparison("standard w4a4 / standard fp32", "standard w4a4", "standard fp32", "<= 1.2"),
    Comparison("guided w4a4 / standard fp32", "guided w4a4", "standard fp32", "<= 2.8"),
)
PARTS = (
    Comparison("guided fp32 / standard fp32", "guided fp32", "standard fp32"),
    Comparison("guided w4a4 / guided fp32", "guided w4a4", "guided fp32"),
    Comparison("guided w2a2 / guided w4a4", "guided w2a2", "guided w4a4"),
    Comparison("PyTorch's operators / kernels, standard fp32", f"standard fp32 {TORCH}", "standard fp32"),
    Comparison("guided / standard fp32, PyTorch's operators", f"guided fp32 {TORCH}", f"standard fp32 {TORCH}"),
    Comparison("released procedure on our fp32 layers / guided fp32", "released fp32", "guided fp32"),
    Comparison("our procedure on Brevitas / guided w4a4", "guided brevitas", "guided w4a4"),
    Comparison("released procedure on favoured Brevitas / guided w4a4", "released favoured", "guided w4a4"),
    Comparison("favoured Brevitas standard / standard w4a4", "standard favoured", "standard w4a4"),
)


def sample_batches(size: int, count: int = BATCHES) -> list[tuple[Tensor, Tensor]]:
    """Batches of the committed sample, as a network takes them; any images serve to time a step."""
    images, labels = load("mnist", "train", paths.SAMPLE)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).repeat(1 + size * count // 1000)
    return [(as_input(images[some]), labels[some]) for some in order.split(size)[:count]]


def make_step(
    procedure: str, layers: str, settings: Study, size: int, steps: int = STEPS, *, by_kernels: bool = True
) -> Callable[[], None]:
    """`steps` training steps of one variant as a call without arguments.

    procedure: standard, guided or released. layers: a precision of ours, or `brevitas` or `favoured` for those of
    Brevitas at the bits of w4a4. size: images a batch. by_kernels: False for PyTorch's operators.
    """
    network = make_network(layers, settings)
    optimizer = make_optimizer(network, settings.optimizer, settings.quantization)
    if procedure == "standard":
        step = standard_step
    elif procedure == "guided":
        guided = settings.guided
        step = functools.partial(
            guided_step,
            generator=torch.Generator().manual_seed(0),
            fraction=guided.fraction,
            weight=guided.weight,
            ranking=guided.ranking,
        )
    else:
        step = functools.partial(peers.released_step, rng=np.random.default_rng(0))
    batches = itertools.cycle(sample_batches(size))

    def run() -> None:
        for images, labels in itertools.islice(batches, steps):
            step(network, optimizer, images, labels)

    def run_without_kernels() -> None:
        with mock.patch.object(kernels, "library", lambda: None):
            run()

    return run if by_kernels else run_without_kernels


def make_network(layers: str, settings: Study) -> torch.nn.Module:
    """A network in training mode; layers as for make_step."""
    if layers in ("brevitas", "favoured"):
        precision, favoured = settings.precisions[QUANTIZED], layers == "favoured"
        return peers.brevitas_network(precision, settings.shape, seed=0, favoured=favoured)
    return build(settings.precisions[layers], shape=settings.shape, seed=0).train()


def available(comparisons: tuple[Comparison, ...]) -> tuple[Comparison, ...]:
    """Those that can be measured here: all, or the ones without Brevitas where it is not installed."""
    if peers.brevitas_layers():
        return comparisons
    return tuple(c for c in comparisons if not {"brevitas", "favoured"} & {c.slow.split()[1], c.fast.split()[1]})


def measure(comparisons: tuple[Comparison, ...], settings: Study, rounds: int) -> Times:
    """Time every variant that the comparisons name, and a matrix product, all interleaved."""
    names = dict.fromkeys(name for c in comparisons for name in (c.slow, c.fast))
    size = settings.optimizer.batch_size
    variants = {}
    for name in names:
        procedure, layers, *operators = name.split()
        variants[name] = make_step(procedure, layers, settings, size, by_kernels=not operators)
    return interleaved(variants | {PRODUCT: arithmetic.matrix_product()[0]}, rounds)


def comparison_rows(comparisons: tuple[Comparison, ...], times: Times) -> list[dict[str, str]]:
    """The comparisons as rows of a table."""
    rows = []
    for comparison in comparisons:
        found = ratio(times, comparison.slow, comparison.fast)
        rows.append(
            {
                "ratio": comparison.text,
                "measured": f"{found.wall:.2f}",
                "quartiles": f"{found.low:.2f} to {found.high:.2f}",
                "by processor time": f"{found.processor:.2f}",
                "goal": comparison.goal,
                "ms here": " / ".join(
                    f"{times.milliseconds(n) / STEPS:.1f}" for n in (comparison.slow, comparison.fast)
                ),
            }
        )
    return rows


def rate_rows(times: Times, settings: Study) -> list[dict[str, str]]:
    """Multiply-accumulates a second of our steps, as a share of a large matrix product's."""
    times_of_product = np.median(times.processor[PRODUCT])
    product = arithmetic.matrix_product()[1] / times_of_product
    size = settings.optimizer.batch_size
    count = {
        "standard": arithmetic.standard_macs(settings.shape, size),
        "guided": arithmetic.guided_macs(settings.shape, size),
    }
    rows = []
    for name in times.processor:
        procedure, layers, *_ = *name.split(), ""
        if procedure in count and layers in settings.precisions:
            seconds = np.median(times.processor[name]) / STEPS
            rate = count[procedure] / seconds
            rows.append(
                {
                    "step": name,
                    "million MACs": f"{count[procedure] / 1e6:.0f}",
                    "matrix products of 512 x 512": f"{seconds / times_of_product:.2f}",
                    "share of the matrix product's rate": f"{rate / product:.2f}",
                    "GMAC/s here": f"{rate / 1e9:.1f} of {product / 1e9:.1f}",
                }
            )
    return rows
