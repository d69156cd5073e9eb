"""What handing out a job costs: the list of a thousand jobs, and as many that only write an empty file."""

import importlib.util
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from study import settings, tasks

SEEDS = 24  # for each cell: some 1,000 jobs
WORKERS = 2  # what are done before these have started is not timed


@dataclass(frozen=True)
class Touch(tasks.Job):
    """A job that leaves an empty file."""

    def run(self) -> None:
        self.results[0].touch()


def rows() -> list[dict[str, str]]:
    """One row for the lists, and one for each engine that is there: milliseconds a job, and the driver's own."""
    raw = settings.read() | {"ablations": {}}
    raw["scales"]["smoke"]["seeds"] = SEEDS
    study, ticks = settings.from_dict(raw, "smoke"), [_now()]
    count = sum(len(jobs) for _, jobs in tasks.phases(study))
    table = [_row("the lists, keys included", [*ticks, _now()], count)]
    for engine in tasks.ENGINES:
        if engine == "local" or importlib.util.find_spec(engine):
            table.append(_row(engine, _times(engine, count), count - WORKERS))
    return table


def _times(engine: str, count: int) -> list[tuple[float, float]]:
    """When each job ended, from the first on before which all workers have started."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Touch("", (), f"job {i}", 0.0, (Path(folder) / str(i),)) for i in range(count)]
        ends = []
        for _, error in tasks.ENGINES[engine](jobs, tasks.Progress([])):
            if error:
                raise error
            ends.append(_now())
    return ends[WORKERS - 1 :]


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _row(what: str, times: list[tuple[float, float]], count: int) -> dict[str, str]:
    whole, own = (1000 * (last - first) / count for first, last in zip(times[0], times[-1], strict=True))
    return {"what": what, "milliseconds a job": f"{whole:.2f}", "of the driver's processor time": f"{own:.2f}"}
