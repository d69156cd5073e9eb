"""Where tasks are done: on a pool of this machine's workers, or on a Ray cluster. None of it decides a result."""

import concurrent.futures
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

from joblib.externals import loky
from joblib.externals.loky.process_executor import BrokenProcessPool

from saqlib import paths
from saqlib.network.settings import Shape
from saqlib.params import ParamsError
from saqlib.pipeline import worker
from saqlib.pipeline.kinds import Task
from saqlib.pipeline.plan import LOOK_SECONDS, Plan

TRIES = 3  # of a task whose worker process was killed
AHEAD = 64  # tasks at least that are handed to a cluster at a time


class KilledError(RuntimeError):
    """The worker process of a task was killed, as often as it was tried."""


Tell = Callable[[Plan, str], None]  # called with the plan after each task, and with what happened


# ------------------------------------------------------------------------------------------------- this machine


class _Slot:
    """One worker process, started when it is first needed and again when it was killed."""

    def __init__(self, gpu: int | None):
        self.gpu, self.pool, self.work = gpu, None, worker.travelling()

    def start(self, task: Task, asking: worker.Machine, shape: Shape) -> concurrent.futures.Future:
        """Begin a task."""
        if self.pool is None:
            self.pool = loky.ProcessPoolExecutor(max_workers=1)
        return self.pool.submit(self.work, str(paths.ROOT), worker.packed(task, shape), asking, os.getpid(), self.gpu)

    def end(self) -> None:
        """Kill the process, whatever it does."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, kill_workers=True)
            self.pool = None


def local(plan: Plan, workers: int, gpus: int, shape: Shape, tell: Tell) -> None:
    """Do what can be done in that many worker processes, of which the first ones have a GPU each.

    A process each pool, so that one that is killed takes no other with it, and its task is known.
    """
    # loky replaces a worker that has grown by 300 MB, as ours do on purpose, and warns of it.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs")
    asking, tries = worker.machine(shape), Counter()
    slots = [_Slot(number if number < gpus else None) for number in range(workers)]
    idle, busy, again = slots[::-1], {}, []

    def begin() -> None:
        for slot in idle[::-1]:
            found = again.pop() if again else plan.take(gpu=slot.gpu is not None)
            if found:
                idle.remove(slot)
                busy[slot.start(found[1], asking, shape)] = (slot, found)

    try:
        begin()
        while busy:
            waits = LOOK_SECONDS if idle and plan.left else None
            for future in concurrent.futures.wait(busy, waits, concurrent.futures.FIRST_COMPLETED).done:
                slot, (rank, task) = busy.pop(future)
                idle.append(slot)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    slot.end()
                    tries[rank] += 1
                    if tries[rank] < TRIES:
                        again.append((rank, task))
                        tell(plan, f"{task}: its worker process was killed; it begins again")
                        continue
                    error = KilledError(f"its worker process was killed {TRIES} times; is there enough memory?")
                _settle(plan, task, error, tell)
            begin()
    finally:
        for slot in slots:
            slot.end()


def _settle(plan: Plan, task: Task, error: BaseException | None, tell: Tell) -> None:
    if error is None:
        plan.finish(task)
        tell(plan, str(task))
    elif isinstance(error, worker.OtherMachineError):
        raise error
    else:
        plan.fail(task, error)
        tell(plan, f"{task} failed: {error}")


# --------------------------------------------------------------------------------------------------- a cluster


def cluster(plan: Plan, shape: Shape, tell: Tell) -> None:
    """Do what can be done on a Ray cluster: that of RAY_ADDRESS, else one of this machine alone.

    Ray repeats what was lost with a node. Nodes that join later get their share.
    """
    ray = _ray()
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    remote = ray.remote(max_retries=-1)(worker.travelling())
    asking, busy, looked, most = worker.machine(shape), {}, -LOOK_SECONDS, AHEAD

    def begin() -> None:
        while len(busy) < most and (found := plan.take(gpu=True)):
            _, task = found
            wanted = {"num_cpus": 1, "num_gpus": int(task.gpu)}
            job = remote.options(**wanted).remote(str(paths.ROOT), worker.packed(task, shape), asking)
            busy[job] = task

    begin()
    while busy:
        finished, _ = ray.wait(list(busy), num_returns=1, timeout=LOOK_SECONDS if plan.left else None)
        if finished:  # and what else is
            finished = ray.wait(list(busy), num_returns=len(busy), timeout=0)[0]
        for job in finished:
            _settle(plan, busy.pop(job), _error(ray, job), tell)
        if time.monotonic() - looked > LOOK_SECONDS:
            looked, most = time.monotonic(), max(AHEAD, 2 * int(ray.cluster_resources().get("CPU", 1)))
        begin()


def _ray() -> Any:
    """Ray, which tells nobody that it is used; ParamsError with the command that installs it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ParamsError("Ray is not installed: pip install 'saqlib[ray]'") from None
    return ray


def _error(ray: Any, job: Any) -> BaseException | None:
    try:
        ray.get(job)
    except ray.exceptions.RayTaskError as error:
        return error.cause or error
    return None
