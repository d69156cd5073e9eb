"""Everything that takes long, as a few lists of independent jobs: networks trained, fills decided, networks scored.

Each job is one call of a cached function of study.cells, which leaves its result in the store, whole or not at all, and
can be repeated anywhere. So nothing is sent back, any worker, node or driver may die, and the same command goes on
where it was stopped. `dvc repro` finds the results in the store and draws.
"""

import os
import re
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saqlib.errors import last_line, shown
from study import cells, files, paths, processes
from study.cells import Trained
from study.params import ParamsError
from study.settings import Study, variant

TRIES = 3  # of a list of jobs, one of whose worker processes was killed
QUIET_SECONDS = 60  # between two lines where there is no terminal
CONNECT_SECONDS = 10  # in which a cluster's address has to answer
STOPPED = "Stopped. The same command goes on from there."

# Seconds on one core of a machine of 2025, of which only the ratios matter: they decide what begins first.
EPOCH, GUIDED, QUANTIZED = 5.8, 2.8, 1.24  # of all images; factors
SCORED, PART = 40 / 1000, 0.1  # an image; the share of a score in a summary
SAMPLE = 0.02  # of all images, about


class TasksError(RuntimeError):
    """Some jobs failed; the message names each."""


@dataclass(frozen=True)
class Job:
    """One call of a function of study.cells that leaves its results in the store.

    function, arguments: the call. label: for the person, such as `train mnist-w2a2-guided seed 3`. seconds: about how
    long it takes on one core. results: files of the store that say it is done. needs: files without which it cannot
    begin, since another job makes them. gpu: whether it wants one.
    """

    function: Callable[..., Any]
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
        self.function(*self.arguments)


Result = tuple[Job, BaseException | None]  # a job that has ended, and its error


# ------------------------------------------------------------------------------------------------------- the lists


def phases(settings: Study) -> list[tuple[str, list[Job]]]:
    """Every job of a study and of its ablations: four lists, each of independent jobs, longest first.

    A list needs what the lists before it leave. That the decision on fills comes before the first test image is scored
    is the order of the lists.
    """
    size, scored = settings.size, SCORED * settings.size.images
    warm, train = trainings(each for cell in settings.grid.cells for each in cells.trained(cell, settings))
    fills, score = [], []
    for name in settings.ablations:
        calls = cells.ablation_calls(*variant(name, settings.scale))
        lists = trainings((network for network, *_ in calls), name)
        warm += lists[0]
        train += lists[1]
        score += [job_of(cells.summary_scores, call, PART * scored, name=name) for call in calls]
    for dataset in settings.grid.datasets:
        deciding = [job_of(cells.fill_gains, call, PART * scored) for call in cells.fill_calls(dataset, settings)]
        decided = tuple(path for job in deciding for path in job.results)
        fills += deciding
        for cell in (each for each in settings.grid.cells if each.dataset == dataset):
            score += [job_of(cells.score_network, call, scored, decided) for call in cells.score_calls(cell, settings)]
            course = cells.curves_call(cell, settings)
            score.append(job_of(cells.curves_of, course, PART * scored * size.records / 4, decided))
    lists = {"warm-up": warm, "train": train, "fills": fills, "score": score}
    return [(name, _longest_first(jobs)) for name, jobs in lists.items()]


def _longest_first(jobs: list[Job]) -> list[Job]:
    """Each once: what two studies ask for, such as a network that an ablation does not change, is done once."""
    return sorted({job.results: job for job in reversed(jobs)}.values(), key=lambda job: (-job.seconds, job.label))


def trainings(networks: Iterable[Trained], name: str = "") -> tuple[list[Job], list[Job]]:
    """The warm-ups that precisions share, and the trainings of these networks, each once.

    One job a network, or of LeNet on a GPU one for all seeds, as one batched network that trains from the start.
    name: of an ablation, for the labels.
    """
    networks, warm, train = list(dict.fromkeys(networks)), [], []
    for recipe, device in dict.fromkeys((each.recipe, each.device) for each in networks):
        epoch = EPOCH * (SAMPLE if recipe.sample else 1) * (GUIDED if recipe.guided else 1)
        seconds = epoch * (recipe.epochs - recipe.warmup_epochs) * (QUANTIZED if recipe.quantization else 1)
        own = [each for each in networks if each.recipe == recipe]
        if device == "cuda" and not recipe.shape.batch_norm:
            call, results = (recipe, [each.seed for each in own], device), tuple(map(_file, own))
            label = f"train {recipe.cell}, all seeds {name}".strip()
            train.append(Job(cells.train_together, call, label, seconds * len(own), results, gpu=True))
            continue
        for each in own:
            needs = ()
            if recipe.warm_up:
                call = (recipe.warm_up, each.seed, device)
                warm.append(job_of(cells.warm_up_network, call, epoch * recipe.warmup_epochs, name=name))
                needs = warm[-1].results
            train.append(job_of(cells.train_network, (recipe, each.seed, device), seconds, needs, name))
    return warm, train


def job_of(function: Any, call: tuple, seconds: float = 0, needs: tuple[Path, ...] = (), name: str = "") -> Job:
    """The job of one call of a cached function. Beside `needs` it needs every network among its arguments."""
    networks = [each for each in call if isinstance(each, Trained)]
    cell, seed = (networks[0].recipe.cell, networks[0].seed) if networks else (call[0].cell, call[1])
    label = f"{function.__name__.split('_')[0]} {cell} seed {seed} {name}".strip()
    return Job(function, call, label, seconds, (function.path(*call),), (*map(_file, networks), *needs))


def _file(network: Trained) -> Path:
    """Where the store holds a network."""
    return cells.train_network.path(network.recipe, network.seed, network.device)


# ------------------------------------------------------------------------------------------------------ doing them


def fill(settings: Study, engine: str = "local", shard: tuple[int, int] = (0, 1)) -> tuple[int, int, int]:
    """Compute what the store lacks of one share of the jobs; how many are done, there are, and wait for other shares.

    shard: which share of how many; each list is dealt out one by one, done or not, so that shares fit together.
    Raises TasksError, after everything else is done, if a job failed.
    """
    files.sweep(paths.BUILD / "store")
    part, parts = shard
    lists = {name: jobs[part::parts] for name, jobs in phases(settings)}
    every = [job for jobs in lists.values() for job in jobs]
    progress, failures = Progress(every), []
    if not all(job.done for job in every):
        from saqlib.kernels import fused

        print(fused.reason(settings.shape, cells.pick_device(settings.device)), file=sys.stderr)
    for name, jobs in lists.items():
        if not (ready := [job for job in jobs if not job.done and job.ready]):
            continue
        began = time.monotonic()
        with closing(ENGINES[engine](ready, progress)) as ended:
            for job, error in ended:
                failures += [f"{job.label}: {last_line(error)}"] if error else []
                progress(job, error)
        minutes = (time.monotonic() - began) / 60
        progress.line(f"{name}: {len(ready)} jobs in {minutes:.1f} min", lasting=True)
    progress.end()
    done, waiting = sum(job.done for job in every), sum(not job.done and not job.ready for job in every)
    if failures:
        without = [f"{waiting} more jobs wait for what these leave."] if waiting else []
        raise TasksError("\n".join([*failures, *without, STOPPED]))
    return done, len(every), waiting


class Progress:
    """Reports what is done: on a terminal in one line that changes, elsewhere now and then in a line of its own."""

    def __init__(self, jobs: Sequence[Job]):
        todo = [job for job in jobs if not job.done]
        self.total, self.done, self.left = len(jobs), len(jobs) - len(todo), sum(job.seconds for job in todo)
        self.finished, self.began = 0.0, time.monotonic()
        self.terminal, self.reported = sys.stderr.isatty(), self.began
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
            print(f"\r\x1b[K{line}", end="\n" if lasting else "", file=sys.stderr, flush=True)
        elif lasting or time.monotonic() - self.reported > QUIET_SECONDS or self.done == self.total:
            print(line, file=sys.stderr, flush=True)
            self.reported = time.monotonic()

    def end(self) -> None:
        """Leave the changing line."""
        if self.terminal and self.finished:
            print(file=sys.stderr)


# --------------------------------------------------------------------------------------------------------- engines


def _on_this_machine(jobs: list[Job], progress: Progress) -> Iterator[Result]:
    """Each job in one thread of a worker process, as many as cores and memory allow; on GPUs one job each at a time.

    A worker that is killed takes its pool with it; what had not ended begins again in a new one.
    """
    import joblib
    from joblib.externals.loky import BrokenProcessPool

    # loky replaces a worker that has grown by 300 MB, as ours do on purpose, and warns of it.
    warnings.filterwarnings("ignore", module="joblib")
    # Nor shall a process of its own say, after our last line, what a worker that was stopped had left.
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
    gpus, left = _gpus() if any(job.gpu for job in jobs) else 0, dict(enumerate(jobs))
    for _ in range(TRIES):
        calls = [joblib.delayed(_attempt)(os.getpid(), number, job, gpus) for number, job in left.items()]
        workers = gpus or processes.worker_count(len(left))
        # Of a pool of one joblib would do the work in this process, which must outlive each job.
        pool = joblib.Parallel(max(workers, 2), return_as="generator_unordered", pre_dispatch=workers, batch_size=1)
        try:
            for number, error in pool(calls):
                yield left.pop(number), error
            return
        except BrokenProcessPool:
            progress.line("a worker process was killed; what it did begins again", lasting=True)
    error = RuntimeError(f"a worker process was killed {TRIES} times; is there enough memory?")
    yield from ((job, error) for job in left.values())


def _attempt(parent: int, number: int, job: Job, gpus: int) -> tuple[int, Exception | None]:
    """A job in a worker; its number, and what went wrong."""
    try:
        if gpus:
            import torch

            torch.cuda.set_device(number % gpus)
        processes.in_one_thread(parent, job.run)
    except Exception as error:
        return number, error
    return number, None


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _on_ray(jobs: list[Job], progress: Progress) -> Iterator[Result]:
    """Jobs on a Ray cluster: that of RAY_ADDRESS, else one of this machine alone. Its nodes have to see this folder.

    Ray repeats what was lost with a node. Nodes that join later get their share; one that is another machine is left
    out, and what it was given goes to the others.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it sends nobody its statistics
    try:
        import ray
    except ImportError:
        raise ParamsError("Ray is not installed: pip install 'saqlib[ray]'") from None
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    ray.init(log_to_driver=False, ignore_reinit_error=True)
    remote = ray.remote(max_retries=-1)(run_on_node)  # which a node imports from the driver's working directory
    others: dict[str, str] = {}  # why a node is left out

    def begin(job: Job) -> Any:
        options = {"label_selector": {"ray.io/node-id": f"!in({','.join(others)})"}} if others else {}
        return remote.options(num_gpus=int(job.gpu), **options).remote(str(paths.ROOT), job)

    busy = {begin(job): job for job in jobs}
    while busy:
        (reference,), _ = ray.wait(list(busy), num_returns=1)
        job, error = busy.pop(reference), None
        try:
            node, why = ray.get(reference)
        except ray.exceptions.RayTaskError as failed:
            node, why, error = "", "", failed.cause or failed
        if not why:
            yield job, error
            continue
        if node not in others:
            others[node] = why
            progress.line(f"{why}; it is left out", lasting=True)
        if not any(
            each["Alive"] and each["Resources"].get("CPU") and each["NodeID"] not in others for each in ray.nodes()
        ):
            raise TasksError(f"{why}; no other node is left")
        busy[begin(job)] = job


def _check_address(address: str) -> None:
    """Raise TasksError if no Ray cluster answers there: Ray itself tries for two minutes, and says so in 40 lines."""
    if address in ("", "auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise TasksError(
            f"no Ray cluster answers at RAY_ADDRESS, {shown(address)} (HOST:PORT): {last_line(error)}"
        ) from None


def run_on_node(root: str, job: Job) -> tuple[str, str]:
    """Do a job on a node of a Ray cluster; the node's id, and why it is left out, if it is."""
    import ray

    return ray.get_runtime_context().get_node_id(), run_elsewhere(root, job)


def run_elsewhere(root: str, job: Job) -> str:
    """Do a job on a machine that works by the code of `root` and gives the same bytes; why it is another, or nothing.

    A result's file is named by all that decides it: a machine for which that is another name has other releases of
    packages, another kind of processor, or other code.
    """
    name = socket.gethostname()
    if paths.ROOT != Path(root):
        return f"{name} runs {paths.ROOT}, not the code of {root}"
    processes.pin_cpu_level()
    processes.in_one_thread(-1, job.run)
    return "" if job.done else f"{name} has other packages or another processor: what it computes has other bytes"


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
