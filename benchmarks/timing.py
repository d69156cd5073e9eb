"""Timing of several variants side by side, in one thread and one process."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from study.processes import keep_freed_memory

WARM_UP = 5  # calls of each variant before anything is timed


@dataclass(frozen=True)
class Times:
    """Seconds a call of each variant, one value a round: by the clock and of the processor."""

    wall: dict[str, np.ndarray]
    processor: dict[str, np.ndarray]

    def milliseconds(self, name: str) -> float:
        """The median wall time of a variant."""
        return 1e3 * float(np.median(self.wall[name]))


@dataclass(frozen=True)
class Ratio:
    """How many times as long one variant takes as another: of the medians, and the quartiles over the rounds."""

    wall: float
    low: float
    high: float
    processor: float


def one_thread() -> None:
    """Set the process up as a worker of the experiment is: one thread, freed memory kept. For all variants alike."""
    torch.set_num_threads(1)
    keep_freed_memory()


def interleaved(variants: dict[str, Callable[[], object]], rounds: int) -> Times:
    """Call every variant once a round, after a warm-up, beginning each round with another one.

    What slows the machine down for a while, another program or its clock, then slows all of them down alike.
    """
    names = list(variants)
    for name in names:
        for _ in range(WARM_UP):
            variants[name]()
    wall, processor = ({name: [] for name in names} for _ in range(2))
    for round_ in range(rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            began, began_processor = time.perf_counter(), time.thread_time()
            variants[name]()
            processor[name].append(time.thread_time() - began_processor)
            wall[name].append(time.perf_counter() - began)
    return Times(*({name: np.array(values) for name, values in clock.items()} for clock in (wall, processor)))


def ratio(times: Times, slow: str, fast: str) -> Ratio:
    """`slow` over `fast`."""
    low, high = np.quantile(times.wall[slow] / times.wall[fast], (0.25, 0.75))
    of_medians = [float(np.median(clock[slow]) / np.median(clock[fast])) for clock in (times.wall, times.processor)]
    return Ratio(of_medians[0], float(low), float(high), of_medians[1])
