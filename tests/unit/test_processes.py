"""Workers fit the machine, settings of a person decide nothing, one level of instructions is set where it can be."""

import ctypes
import os
import sys
import types

import joblib
import psutil
import pytest
import torch

from saqlib.kernels import library
from study import paths, processes

# ---------------------------------------------------------------------------------------------------------- workers


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


def test_jobs_keep_their_order_and_have_one_thread_each(two_threads):
    """The process's own number of threads comes back afterwards, also after an error."""
    jobs = [(value,) for value in (5, 3, 9)]
    assert processes.run_all(threads_and, jobs, n_jobs=1) == [(1, 5), (1, 3), (1, 9)]
    with pytest.raises(InterruptedError, match="^5 in 1 thread$"):
        processes.run_all(failing, jobs, n_jobs=1)
    assert torch.get_num_threads() == 2
    assert processes.run_all(threads_and, []) == []


@pytest.mark.parametrize(
    ("jobs", "gigabytes", "expected"),
    [(0, 500, 1), (1, 500, 1), (3, 500, 3), (10, 500, 4), (10, 3.5, 3), (10, 0.5, 1), (10, 0, 1)],
)
def test_workers_are_one_a_core_if_memory_allows(jobs, gigabytes, expected, monkeypatch):
    """On four cores: no more than jobs, a gigabyte each, at least one."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    monkeypatch.setattr(processes, "available_memory", lambda: int(gigabytes * 2**30))
    assert processes.worker_count(jobs) == expected


@pytest.mark.parametrize(
    ("group", "expected"),
    [({}, 70), ({"max": "max", "current": "5"}, 70), ({"max": "50", "current": "20"}, 30),
     ({"max": "500", "current": "20"}, 70), ({"max": "50", "current": "60"}, 0)],
    ids=["none", "no limit", "the group's", "the system's", "used up"],
)  # fmt: skip
def test_available_memory_is_the_least_of_system_and_control_group(group, expected, tmp_path, monkeypatch):
    """A container's limit counts, less what it has taken."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=70))
    monkeypatch.setattr(processes, "CONTROL_GROUP", tmp_path)
    for name, text in group.items():
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    assert processes.available_memory() == expected


def test_freed_memory_is_kept_where_glibc_is(monkeypatch):
    """It never maps a block of its own for up to 1 GiB and hands back only what is over 2 GiB; elsewhere nothing."""
    options = {}
    found = types.SimpleNamespace(mallopt=options.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: found)
    processes.keep_freed_memory()
    mmap_threshold, trim_threshold = -3, -1  # of glibc's malloc.h
    assert options == {mmap_threshold: 2**30, trim_threshold: 2**31 - 1}
    del found.mallopt
    processes.keep_freed_memory()


# ------------------------------------------------------------------------------------------------------ environment


def test_a_stage_sees_where_things_are_and_no_settings(tmp_path):
    """Folders, proxies, threads and cards pass; what is not on the list does not, whatever it is called."""
    passed = {"HTTPS_PROXY": "p", "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "1", "HOME": "/h", "CC": "gcc",
              "LOKY_MAX_CPU_COUNT": "2", "MKL_CBWR": "AVX2"}  # fmt: skip
    lost = {"PYTHONPATH": "/x", "MPLBACKEND": "Agg", "DVC_ROOT": "/y", "LC_CTYPE": "C", "IPYTHONDIR": "/i",
            "GIT_DIR": "/g", "PYTHONSTARTUP": "/s", "SOMETHING_NEW": "1", "BASH_ENV": "/b"}  # fmt: skip
    given = {"PATH": "/bin"} | passed | lost
    found = processes.environment(tmp_path / "root", tmp_path / "scratch", given)
    assert {name: found[name] for name in passed} == passed
    assert found["PYTHONPATH"] == str(tmp_path / "root") and found["SHELL"] == "/bin/sh"
    assert found["PATH"].split(os.pathsep) == [os.path.dirname(sys.executable), "/bin"]
    assert not {"DVC_ROOT", "LC_CTYPE", "GIT_DIR", "PYTHONSTARTUP", "SOMETHING_NEW", "BASH_ENV"} & found.keys()
    assert {found[name] for name in processes.SETTINGS} == {str(tmp_path / "scratch")}
    assert {path.name: path.read_text() for path in (tmp_path / "scratch").iterdir()} == {
        "config": "[core]\n    no_scm = true\n", "matplotlibrc": ""
    }  # fmt: skip


def test_settled_variables_end_with_the_block(monkeypatch):
    """Inside they are those of this process; afterwards what was there is there again, and no folder is left."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), processes.settled() as found:
        assert dict(os.environ) == found and os.environ["MPLBACKEND"] != "Agg"
        assert os.environ["PYTHONPATH"] == str(paths.ROOT)
        raise ZeroDivisionError
    assert dict(os.environ) == before and not os.path.exists(found["IPYTHONDIR"])


def test_kernels_that_anybody_could_exchange_are_not_loaded(tmp_path, monkeypatch):
    """A command ends before it computes; a folder that is the user's own is none of its business."""
    monkeypatch.setattr(library, "folder", lambda: tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match=f"everybody may write into {tmp_path}; chmod o-w"):
        processes.pin_cpu_level()
    tmp_path.chmod(0o775)
    processes.pin_cpu_level()


@pytest.mark.parametrize(
    ("machine", "flags", "pinned"),
    [("x86_64", {"avx2", "fma", "avx512f"}, True), ("AMD64", {"avx2", "fma"}, True), ("x86_64", {"avx2"}, False),
     ("x86_64", set(), False), ("arm64", {"avx2", "fma"}, False)],
)  # fmt: skip
def test_the_cpu_level_is_set_where_the_processor_has_it(monkeypatch, machine, flags, pinned):
    """A library that is to use what the processor lacks would stop with an illegal instruction."""
    for name in processes.AVX2:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes.platform, "machine", lambda: machine)
    monkeypatch.setattr(library, "processor_flags", lambda: flags)
    processes.pin_cpu_level()
    assert {name: os.environ.get(name) for name in processes.AVX2} == (
        processes.AVX2 if pinned else dict.fromkeys(processes.AVX2)
    )
