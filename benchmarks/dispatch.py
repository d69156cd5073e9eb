"""What handing out a task costs: a thousand tasks of a synthetic grid, which need one another and compute nothing."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from saqlib import params, paths
from saqlib.pipeline import engines, study, tasks
from saqlib.pipeline.kinds import Task
from saqlib.pipeline.plan import Plan

SEEDS, MORE = 24, "w3a3"  # with one precision more the grid makes 1,028 tasks
WORKERS = 2


@dataclass(frozen=True)
class Stand(Task):
    """Stands for a task: leaves its files, empty."""

    def done(self) -> bool:
        return all(path.exists() for path in self.leaves)

    def do(self) -> None:
        for path in self.leaves:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def rows() -> list[dict[str, str]]:
    """One row for the list, and one for each engine that is there: milliseconds a task, and the driver's own."""
    raw = params.read() | {"ablations": {}}
    raw["scales"]["smoke"]["seeds"] = SEEDS
    raw["precisions"][MORE] = {layer: [3 for _ in bits] for layer, bits in raw["precisions"]["w4a4"].items()}
    raw["grid"]["precisions"] = [*raw["grid"]["precisions"], MORE]
    settings, found = study.from_dict(raw, "smoke"), {}
    with _store():
        began, busy = time.perf_counter(), time.process_time()
        listed = tasks.listed(settings)
        took = time.perf_counter() - began, time.process_time() - busy
        found["the list itself"] = [seconds / len(listed) for seconds in took]
        stands = [_stand(task) for task in listed]
    for name, do in _engines(settings).items():
        with _store() as folder:
            found[name] = _seconds([_moved(stand, folder) for stand in stands], do)
    return [
        {
            "what": name,
            "milliseconds a task": f"{1000 * whole:.2f}",
            "of the driver's processor time": f"{1000 * own:.2f}",
        }
        for name, (whole, own) in found.items()
    ]


def _engines(settings: study.Study) -> dict[str, Callable]:
    shape, there = settings.shape, {}
    there[f"local, {WORKERS} workers"] = lambda plan, tell: engines.local(plan, WORKERS, 0, shape, tell)
    try:
        import ray
    except ImportError:
        return there
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    there[f"Ray, {WORKERS} cores"] = lambda plan, tell: engines.cluster(plan, shape, tell)
    return there


def _seconds(stands: list[Stand], do: Callable) -> list[float]:
    """Seconds a task, and the driver's own: from the first that is done, when the workers have started, to the last."""
    plan, ends = Plan(stands), []
    do(plan, lambda plan, what: ends.append((time.perf_counter(), time.process_time())))
    if plan.failures or plan.left:
        raise RuntimeError(f"{len(plan.failures)} tasks failed, {len(plan.left)} were not begun")
    return [(last - first) / (len(ends) - WORKERS) for first, last in zip(ends[WORKERS - 1], ends[-1], strict=True)]


@contextmanager
def _store() -> Iterator[Path]:
    """A store that is empty, in place of the real one."""
    former = paths.BUILD
    with tempfile.TemporaryDirectory() as folder:
        paths.BUILD = Path(folder)
        try:
            yield paths.BUILD
        finally:
            paths.BUILD = former


def _stand(task: Task) -> Stand:
    return Stand(**{field.name: getattr(task, field.name) for field in fields(Task)})


def _moved(stand: Stand, folder: Path) -> Stand:
    """The same in another store."""
    places = {name: tuple(folder.joinpath(*path.parts[-3:]) for path in getattr(stand, name))
              for name in ("marks", "needs", "after", "leaves")}  # fmt: skip
    return Stand(stand.cell, stand.seeds, stand.variant, seconds=stand.seconds, gpu=stand.gpu, **places)
