"""Everything that takes long, as a few lists of independent jobs: networks trained, fills decided, networks scored.

Each job is one call of a cached function of study.cells, which leaves its result in the store, whole or not at all, and
can be repeated anywhere. So nothing is sent back, any worker, node or driver may die, and the same command goes on
where it was stopped. `dvc repro` finds the results in the store and draws.
"""

import os
import pickle
import re
import socket
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saqlib.errors import last_line
from study import files, paths, processes
from study.params import ParamsError
from study.settings import Recipe, Study, variant

TRIES = 3  # of a list of jobs, one of whose worker processes was killed
QUIET_SECONDS = 60  # between two lines where there is no terminal
STOPPED = "Stopped. The same command goes on from there."

# Seconds on one core of a machine of 2025, of which only the ratios matter: they decide what begins first.
EPOCH, GUIDED, QUANTIZED = 5.8, 2.8, 1.24  # of all images; factors
SCORED, DEPLOYED, PART = 19 / 2000, 21 / 10_000, 0.2  # an image; the share of a score in a summary
SAMPLE = 0.02  # of all images, about


class TasksError(RuntimeError):
    """Some jobs failed; the message names each."""


class OtherMachineError(RuntimeError):
    """A node would give other bytes than the machine that asks, or runs other code."""


@dataclass(frozen=True)
class Job:
    """One call of a cached function of study.cells.

    function, arguments: the call. label: for the person, such as `train mnist-w2a2-guided seed 3`. seconds: about how
    long it takes on one core. results: files of the store that say it is done. needs: files without which it cannot
    begin, since another job makes them. gpu: whether it wants one.
    """

    function: str
    arguments: tuple
    label: str
    seconds: float
    results: tuple[Path, ...]
    needs: tuple[Path, ...] = ()
    gpu: bool = False

    @property
    def done(self) -> bool:
        """Whether the store holds its result."""
        return all(path.exists() for path in self.results)

    @property
    def ready(self) -> bool:
        """Whether the store holds what it needs."""
        return all(path.exists() for path in self.needs)

    def run(self) -> None:
        """Compute what the store lacks; the result stays there."""
        from study import cells

        getattr(cells, self.function)(*self.arguments)


Result = tuple[Job, BaseException | None]  # a job that has ended, and its error


# ------------------------------------------------------------------------------------------------------- the lists


def phases(settings: Study) -> list[tuple[str, list[Job]]]:
    """Every job of a study and of its ablations: four lists, each of independent jobs, longest first.

    A list needs what the lists before it leave. That the decision on fills comes before the first test image is scored
    is the order of the lists.
    """
    from study import cells

    size, scored = settings.size, SCORED * settings.size.images
    warm, train, fills, score = [], [], [], []
    variants = [variant(name, settings.scale) for name in settings.ablations]
    ablated = [(each, study, each.seeds_at(size), name)
               for name, (each, study) in zip(settings.ablations, variants, strict=True)]  # fmt: skip
    for grid, study, seeds, name in [(settings.grid, settings, size.seeds, ""), *ablated]:
        for cell in grid.cells if seeds else ():
            networks = cells.trained(cell, study, seeds)
            warm += [_warm_up(each, name) for each in networks if each.recipe.warm_up and each.device == "cpu"]
            train += _trainings(networks, name)
            calls = cells.summary_calls(cell, study, seeds) if name else ()
            score += [_job(cells.summary_scores, call, PART * scored, name=name) for call in calls]
    for dataset in settings.grid.datasets:
        deciding = [_job(cells.fill_gains, call, PART * scored) for call in cells.fill_calls(dataset, settings)]
        decided = tuple(path for job in deciding for path in job.results)
        fills += deciding
        for cell in (each for each in settings.grid.cells if each.dataset == dataset):
            score += [_job(cells.score_network, call, scored, decided) for call in cells.score_calls(cell, settings)]
            course = cells.trained(cell, settings, 1)[0], settings.scoring
            score.append(_job(cells.curves_of, course, PART * scored * size.records / 4, decided))
            score.append(_job(cells.deploy_network, cells.deploy_call(cell, settings), DEPLOYED * size.images_deployed))
    lists = {"warm-up": warm, "train": train, "fills": fills, "score": score}
    return [(name, _longest_first(jobs)) for name, jobs in lists.items()]


def _longest_first(jobs: list[Job]) -> list[Job]:
    """Each once: what two studies ask for, such as a network that an ablation does not change, is done once."""
    return sorted({job.results: job for job in reversed(jobs)}.values(), key=lambda job: (-job.seconds, job.label))


def _job(function: Any, call: tuple, seconds: float, needs: tuple[Path, ...] = (), name: str = "") -> Job:
    """The job of one call. Beside `needs` it needs every network among its arguments."""
    from study import cells

    networks = [each for each in call if isinstance(each, cells.Trained)]
    cell, seed = (networks[0].recipe.cell, networks[0].seed) if networks else (call[0].cell, call[1])
    label = f"{function.__name__.split('_')[0]} {cell} seed {seed} {name}".strip()
    needs = (*map(_file, networks), *needs)
    return Job(function.__name__, call, label, seconds, (function.path(*call),), needs)


def _file(network: Any) -> Path:
    """Where the store holds a network."""
    from study import cells

    return cells.train_network.path(network.recipe, network.seed, network.device)


def _warm_up(network: Any, name: str) -> Job:
    """The full-precision beginning of a network, which those of other precisions share."""
    from study import cells

    recipe = network.recipe.warm_up
    call, seconds = (recipe, network.seed, network.device), _epoch(recipe) * recipe.warmup_epochs
    return _job(cells.warm_up_network, call, seconds, name=name)


def _trainings(networks: list[Any], name: str) -> list[Job]:
    """One job a seed, or on a GPU one for all seeds of the cell, as one batched network that trains from the start."""
    from study import cells

    recipe, device = networks[0].recipe, networks[0].device
    seconds = _epoch(recipe) * (recipe.epochs - recipe.warmup_epochs) * (QUANTIZED if recipe.quantization else 1)
    if device == "cuda":
        call, label = (recipe, range(len(networks)), device), f"train {recipe.cell}, all seeds {name}".strip()
        results = tuple(map(_file, networks))
        return [Job("train_together", call, label, seconds * len(networks), results, gpu=True)]
    jobs = []
    for each in networks:
        warm = (cells.warm_up_network.path(recipe.warm_up, each.seed, device),) if recipe.warm_up else ()
        jobs.append(_job(cells.train_network, (recipe, each.seed, device), seconds, warm, name))
    return jobs


def _epoch(recipe: Recipe) -> float:
    return EPOCH * (SAMPLE if recipe.sample else 1) * (GUIDED if recipe.guided else 1)


# ------------------------------------------------------------------------------------------------------ doing them


def fill(settings: Study, engine: str = "local", shard: tuple[int, int] = (0, 1)) -> tuple[int, int, int]:
    """Compute what the store lacks of one share of the jobs; how many are done, there are, and wait for other shares.

    shard: which share of how many; each list is dealt out one by one, done or not, so that shares fit together.
    Raises TasksError, after everything else is done, if a job failed.
    """
    files.sweep(paths.BUILD / "store")
    part, parts = shard
    lists = [(name, jobs[part::parts]) for name, jobs in phases(settings)]
    progress, failures = Progress([job for _, jobs in lists for job in jobs]), []
    for _, jobs in lists:
        ready = [job for job in jobs if not job.done and job.ready]
        for job, error in ENGINES[engine](ready, progress):
            failures += [(job, error)] if error else []
            progress(job, error)
    progress.end()
    jobs = [job for _, jobs in lists for job in jobs]
    done, waiting = sum(job.done for job in jobs), sum(not job.done and not job.ready for job in jobs)
    if failures:
        each = [f"{job.label}: {last_line(error)}" for job, error in failures]
        without = f"\n{waiting} more jobs wait for what these leave." if waiting else ""
        raise TasksError("\n".join(each) + f"{without}\n{STOPPED}")
    return done, len(jobs), waiting


class Progress:
    """Reports what is done: on a terminal in one line that changes, elsewhere now and then in a line of its own."""

    def __init__(self, jobs: Sequence[Job]):
        todo = [job for job in jobs if not job.done]
        self.total, self.done, self.left = len(jobs), len(jobs) - len(todo), sum(job.seconds for job in todo)
        self.finished, self.began = 0.0, time.monotonic()
        self.terminal, self.reported, self.width = sys.stderr.isatty(), time.monotonic(), 0
        if todo:
            print(f"{len(todo)} of {len(jobs)} jobs to do", file=sys.stderr, flush=True)

    def __call__(self, job: Job, error: BaseException | None) -> None:
        """After each job."""
        self.finished, self.left = self.finished + job.seconds, self.left - job.seconds
        if error:
            self.line(f"{job.label} failed: {error}", lasting=True)
        else:
            self.done += 1
            minutes = (time.monotonic() - self.began) * self.left / self.finished / 60
            self.line(f"{job.label}, about {max(minutes, 0):.0f} min left")

    def line(self, what: str, lasting: bool = False) -> None:
        """One line; lasting: it stays on a terminal, and is printed at once elsewhere."""
        line = f"[{self.done}/{self.total}] {what}"
        if self.terminal:
            print(f"\r{line:<{self.width}}", end="\n" if lasting else "", file=sys.stderr, flush=True)
            self.width = 0 if lasting else len(line)
        elif lasting or time.monotonic() - self.reported > QUIET_SECONDS or self.done == self.total:
            print(line, file=sys.stderr, flush=True)
            self.reported = time.monotonic()

    def end(self) -> None:
        """Leave the changing line."""
        if self.terminal and self.width:
            print(file=sys.stderr)


# --------------------------------------------------------------------------------------------------------- engines


def _on_this_machine(jobs: list[Job], progress: Progress) -> Iterator[Result]:
    """Each job in one thread of a worker process, as many as cores and memory allow; on GPUs one job each at a time.

    A worker that is killed takes its pool with it; what had not ended begins again in a new one.
    """
    # loky replaces a worker that has grown by 300 MB, as ours do on purpose, and warns of it.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs")
    for _ in range(TRIES):
        left = yield from _in_a_pool(jobs)
        jobs = [job for job in left if not job.done]
        yield from ((job, None) for job in left if job.done)
        if not jobs:
            return
        progress.line("a worker process was killed; what it did begins again", lasting=True)
    error = RuntimeError(f"a worker process was killed {TRIES} times; is there enough memory?")
    yield from ((job, error) for job in jobs)


def _in_a_pool(jobs: list[Job]) -> Generator[Result, None, list[Job]]:
    """What ends in one pool of workers; those that have not when a worker is killed are returned."""
    from concurrent.futures import FIRST_COMPLETED, wait

    from joblib.externals import loky
    from joblib.externals.loky.process_executor import BrokenProcessPool

    if not jobs:
        return []
    gpus = _gpus() if any(job.gpu for job in jobs) else 0
    workers = gpus or processes.worker_count(len(jobs))
    pool, waiting, running, left = loky.ProcessPoolExecutor(max_workers=workers), jobs[::-1], {}, []
    try:
        # No more at a time than there are workers: loky loses its way where it is stopped with calls that wait.
        while (waiting and not left) or running:
            while waiting and not left and len(running) < workers:
                job, gpu = waiting.pop(), len(waiting) % gpus if gpus else None
                try:
                    running[pool.submit(_attempt, os.getpid(), job, gpu)] = job
                except BrokenProcessPool:
                    left.append(job)
            for call in wait(running, return_when=FIRST_COMPLETED).done:
                job, error = running.pop(call), call.exception()
                if isinstance(error, BrokenProcessPool):
                    left.append(job)
                else:
                    yield job, error
        return left + waiting
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _attempt(parent: int, job: Job, gpu: int | None) -> None:
    """A job in a worker."""
    if gpu is not None:
        import torch

        torch.cuda.set_device(gpu)
    processes.in_one_thread(parent, job.run)


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _on_ray(jobs: list[Job], progress: Progress) -> Iterator[Result]:
    """Jobs on a Ray cluster: that of RAY_ADDRESS, else one of this machine alone. Its nodes have to see this folder.

    Ray repeats what was lost with a node. Nodes that join later get their share.
    """
    if not jobs:
        return
    ray = _ray()
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    remote = ray.remote(max_retries=-1)(_travelling())
    busy = {
        remote.options(num_cpus=1, num_gpus=int(job.gpu)).remote(str(paths.ROOT), pickle.dumps(job)): job
        for job in jobs
    }
    while busy:
        for reference in ray.wait(list(busy), num_returns=1)[0]:
            error = _error(ray, reference)
            if isinstance(error, OtherMachineError):
                raise error
            yield busy.pop(reference), error


def _ray() -> Any:
    """Ray, which sends nobody its statistics; ParamsError with the command that installs it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ParamsError("Ray is not installed: pip install 'saqlib[ray]'") from None
    return ray


def _error(ray: Any, reference: Any) -> BaseException | None:
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause or error
    return None


def _travelling() -> Callable[..., None]:
    """`run_packed` as a function that travels by value: a node need not know this folder before it is called."""

    def work(root: str, packed: bytes) -> None:
        import importlib
        import sys

        if sys.path[:1] != [root]:
            sys.path.insert(0, root)
        importlib.import_module("study.tasks").run_packed(root, packed)

    return work


def run_packed(root: str, packed: bytes) -> None:
    """Do a pickled job on a machine that works by the code of `root` and gives the same bytes, or raise.

    A result's file is named by all that decides it: a machine for which that is another name has other releases of
    packages, another kind of processor, or other code.
    """
    node = socket.gethostname()
    if paths.ROOT != Path(root):
        raise OtherMachineError(f"{node} runs {paths.ROOT}, not the code of {root}")
    processes.pin_cpu_level()
    job = pickle.loads(packed)
    processes.in_one_thread(-1, job.run)
    if not job.done:
        raise OtherMachineError(f"{node} has other packages or another processor: what it computes has other bytes")


ENGINES = {"local": _on_this_machine, "ray": _on_ray}


# ----------------------------------------------------------------------------------------------------- the command


def shard_of(text: str) -> tuple[int, int]:
    """`3/20` as (3, 20); ParamsError for what is not a share."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise ParamsError(f"--shard {text!r}: expected I/N, such as 3/20")
    part, parts = map(int, match.groups())
    if part >= parts:
        raise ParamsError(f"--shard {text}: the shares of {parts} are numbered from 0 to {parts - 1}")
    return part, parts
