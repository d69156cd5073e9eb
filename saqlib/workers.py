"""Worker processes, each with one thread: where and how fast something is computed, never what comes out."""

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqlib.params import one_of, require
from saqlib.processes import end_with_parent

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK = 1 << 30
LARGEST_SURPLUS = (1 << 31) - 1
WORKER_BYTES = 1 << 30  # what a worker takes while it trains or scores on all images
CONTROL_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Engine:
    """Where work is done: in worker processes of this machine. device: of the training."""

    device: str = "auto"

    def __post_init__(self):
        one_of(self.device, DEVICES, "device")

    def pick_device(self) -> "torch.device":
        """The device to train on; `auto` takes a GPU where there is one. ParamsError for a GPU that is not there."""
        import torch

        there = torch.cuda.is_available()
        if self.device == "auto":
            return torch.device("cuda" if there else "cpu")
        require(self.device != "cuda" or there, "device is cuda, but PyTorch sees no GPU here; set it to auto or cpu")
        return torch.device(self.device)

    def map(self, task: Callable[..., Any], jobs: list[tuple], n_jobs: int | None = None) -> list[Any]:
        """Run `task(*job)` for every job, each in one thread of a worker process; the results in the order of the jobs.

        n_jobs: processes, one a core when None; with one, the work is done in this process.
        """
        import joblib

        calls = [joblib.delayed(in_one_thread)(os.getpid(), task, *job) for job in jobs]
        return joblib.Parallel(n_jobs=n_jobs or processes(len(jobs)))(calls)


def processes(jobs: int) -> int:
    """One a core that this process may use (LOKY_MAX_CPU_COUNT), if memory allows, no more than jobs, at least one."""
    import joblib

    return max(1, min(joblib.cpu_count(), jobs, available_memory() // WORKER_BYTES))


def available_memory() -> int:
    """Bytes that this process and its children may still take, by the system and by its control group."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        told = [(CONTROL_GROUP / f"memory.{name}").read_text(encoding="utf-8") for name in ("max", "current")]
        most, taken = map(int, told)
    except (OSError, ValueError):  # no control groups, or one without a limit, which says `max`
        return free
    return min(free, max(0, most - taken))


def in_one_thread(asked_by: int, task: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task with one thread of PyTorch's. asked_by: the process that waits for the result."""
    import torch

    if os.getppid() == asked_by:  # a worker of this machine, and no longer of use without its parent
        end_with_parent()
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return task(*arguments)
    finally:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Make glibc's allocator reuse large blocks, for the whole process; elsewhere nothing happens.

    A training step allocates and frees the same megabytes of activations every time. By default glibc maps and unmaps
    each such block, so every step faults all its pages in again: a third of a standard step's time.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # a C library without mallopt, such as musl
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
    mallopt(M_TRIM_THRESHOLD, LARGEST_SURPLUS)
