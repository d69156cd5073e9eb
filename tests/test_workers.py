"""Workers: jobs in order, each in one thread, on the device of params.yaml, wherever they run."""

import ctypes
import subprocess
import sys
import types

import joblib
import psutil
import pytest
import torch
from joblib.externals import loky

from saqlib import paths, workers
from saqlib.params import ParamsError
from saqlib.workers import Engine


@pytest.fixture(scope="module", autouse=True)
def no_workers_left():
    """The pool of joblib stays alive for minutes if nobody ends it."""
    yield
    loky.get_reusable_executor().shutdown(wait=True)


@pytest.fixture
def two_threads():
    """A process with more than one thread of PyTorch's."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def threads_and(value: int) -> tuple[int, int]:
    return torch.get_num_threads(), value


def failing(value: int) -> None:
    raise InterruptedError(f"{value} in {torch.get_num_threads()} thread")


JOBS = [(value,) for value in (5, 3, 9)]


# ---------------------------------------------------------------------------------------------------- jobs


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_map_keeps_the_order_and_gives_each_task_one_thread(two_threads, n_jobs):
    """In this process, whose own setting comes back afterwards, and in workers."""
    assert Engine().map(threads_and, JOBS, n_jobs=n_jobs) == [(1, 5), (1, 3), (1, 9)]
    assert torch.get_num_threads() == 2


def test_threads_come_back_after_an_error(two_threads):
    """The error is the task's own."""
    with pytest.raises(InterruptedError, match="^5 in 1 thread$"):
        Engine().map(failing, JOBS, n_jobs=1)
    assert torch.get_num_threads() == 2


def test_no_jobs_are_no_work():
    """Nothing is started for an empty list, for any number of processes."""
    assert Engine().map(threads_and, []) == Engine().map(threads_and, [], n_jobs=2) == []


def test_processes_are_one_a_core_but_no_more_than_jobs(monkeypatch):
    """An idle worker would only cost its start."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    monkeypatch.setattr(workers, "available_memory", lambda: 2**40)
    assert [workers.processes(jobs) for jobs in (0, 1, 3, 4, 10)] == [1, 1, 3, 4, 4]


def test_map_starts_as_many_processes_as_there_are_cores_unless_told(monkeypatch):
    """joblib is given that number, or the one that the caller names."""
    asked = []

    class Parallel:
        def __init__(self, n_jobs):
            asked.append(n_jobs)

        def __call__(self, calls):
            return [function(*given, **named) for function, given, named in calls]

    monkeypatch.setattr(joblib, "Parallel", Parallel)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(workers, "available_memory", lambda: 2**40)
    for n_jobs in (None, 4):
        assert Engine().map(threads_and, JOBS, n_jobs=n_jobs) == [(1, 5), (1, 3), (1, 9)]
    assert asked == [2, 4]


def test_processes_fit_into_memory(monkeypatch):
    """A worker takes a gigabyte; a machine of many cores and little memory starts fewer, and at least one."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
    for gigabytes, expected in ((500, 64), (64, 64), (10.5, 10), (0.5, 1), (0, 1)):
        monkeypatch.setattr(workers, "available_memory", lambda gigabytes=gigabytes: int(gigabytes * 2**30))
        assert workers.processes(100) == expected


@pytest.mark.parametrize(
    ("group", "expected"),
    [({}, 70), ({"max": "max", "current": "5"}, 70), ({"max": "50", "current": "20"}, 30),
     ({"max": "500", "current": "20"}, 70), ({"max": "50", "current": "60"}, 0)],
    ids=["none", "no limit", "the group's", "the system's", "used up"],
)  # fmt: skip
def test_available_memory_is_the_least_of_system_and_control_group(group, expected, tmp_path, monkeypatch):
    """A container's limit counts, less what it has taken."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=70))
    monkeypatch.setattr(workers, "CONTROL_GROUP", tmp_path)
    for name, text in group.items():
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    assert workers.available_memory() == expected


WORKING = """
import os, pathlib, sys, time
sys.path[:0] = [{root!r}, {folder!r}]
from saqlib.workers import Engine
from task import work
Engine().map(work, [(i,) for i in range(2)], n_jobs=2)
"""
TASK = """
import os, pathlib, time
def work(i):
    pathlib.Path(__file__).with_name(f"{os.getpid()}.pid").touch()
    time.sleep(1000)
"""


def test_workers_end_with_the_process_that_waits_for_them(tmp_path):
    """A kernel that is killed, or that runs out of memory, leaves nobody at work."""
    (tmp_path / "task.py").write_text(TASK)
    program = WORKING.format(root=str(paths.ROOT), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        while len(pids := list(tmp_path.glob("*.pid"))) < 2:
            assert process.poll() is None
        at_work = [psutil.Process(int(path.stem)) for path in pids]
        process.kill()
        process.wait()
        for worker in at_work:
            worker.wait()  # for ever, if it did not end
    finally:
        process.kill()


# -------------------------------------------------------------------------------------------------- devices


def test_device_is_that_of_the_settings(monkeypatch):
    """`auto` takes a GPU where there is one, a name is taken as it is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Engine(device="auto").pick_device().type == "cuda"
    assert Engine(device="cuda").pick_device().type == "cuda"
    assert Engine(device="cpu").pick_device().type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Engine(device="auto").pick_device().type == "cpu"
    assert Engine(device="cpu").pick_device().type == "cpu"
    with pytest.raises(ParamsError, match="cuda.*no GPU"):
        Engine(device="cuda").pick_device()


@pytest.mark.parametrize(
    "wrong, nearest", [({"device": "cudaa"}, "did you mean 'cuda'"), ({"device": "gpu"}, "unknown device 'gpu'")]
)
def test_unknown_engine_is_refused(wrong, nearest):
    """When it is made, with the names that there are."""
    with pytest.raises(ParamsError, match=nearest):
        Engine(**wrong)


# --------------------------------------------------------------------------------------------------- memory


class Library:
    """A C library that notes how its allocator is told to behave."""

    def __init__(self):
        self.told = []

    def mallopt(self, option: int, value: int) -> int:
        self.told.append((option, value))
        return 1


def test_freed_memory_is_kept_on_linux(monkeypatch):
    """glibc never maps a block of its own for up to 1 GiB and hands back only what is over 2 GiB."""
    library = Library()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    workers.keep_freed_memory()
    mmap_threshold, trim_threshold = -3, -1  # of glibc's malloc.h
    assert dict(library.told) == {mmap_threshold: 2**30, trim_threshold: 2**31 - 1}


@pytest.mark.parametrize("platform, library", [("linux", object()), ("darwin", Library()), ("win32", Library())])
def test_elsewhere_memory_is_left_alone(monkeypatch, platform, library):
    """A C library without this setting, as musl, and other systems go on as they are."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    workers.keep_freed_memory()
    assert not getattr(library, "told", [])


def test_every_task_keeps_freed_memory(monkeypatch):
    """Also the one that runs in this process."""
    calls = []
    monkeypatch.setattr(workers, "keep_freed_memory", lambda: calls.append(1))
    Engine().map(threads_and, JOBS, n_jobs=1)
    assert len(calls) == 3
