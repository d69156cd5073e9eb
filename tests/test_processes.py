"""Tests of saqlib.processes: no process is left behind, whatever it ignores and wherever it has gone."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from saqlib import paths, processes

# A process that starts two more: one in a session of its own, which starts another one, and one that ignores signals.
FAMILY = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
if len(sys.argv) > 1:
    more = sys.argv[1:]
    subprocess.Popen([sys.executable, __file__, *more[1:]], start_new_session=more[0] == "session")
    if len(more) == 3:
        subprocess.Popen([sys.executable, __file__, "same"])
pathlib.Path(f"{os.getpid()}.pid").touch()
time.sleep(1000)
"""
MEMBERS = 5


def family(folder: Path) -> list[str]:
    """The command of such a process, which leaves a file named after each member in its folder."""
    (folder / "family.py").write_text(FAMILY)
    return [sys.executable, str(folder / "family.py"), "session", "same", "session"]


def members(folder: Path) -> set[int]:
    return {int(path.stem) for path in folder.glob("*.pid")}


def wait_for_all(folder: Path, process: subprocess.Popen) -> set[int]:
    """Every member of the family, once all have started."""
    while len(members(folder)) < MEMBERS:
        assert process.poll() is None
    return members(folder)


def alive(pids: set[int]) -> set[int]:
    """Those that still run."""
    return set(filter(processes.runs, pids))


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_whole_tree_ends_with_the_block(tmp_path, error):
    """Children of children, in sessions of their own and deaf to signals; the error of the block comes through."""
    try:
        with processes.started(family(tmp_path), tmp_path) as process:
            pids = wait_for_all(tmp_path, process)
            assert alive(pids) == pids and os.getsid(process.pid) == process.pid
            if error:
                raise error
    except (ValueError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    assert alive(pids) == set() and process.returncode == -9


def test_a_process_that_has_ended_is_no_error(tmp_path):
    """Its exit code is what it was."""
    with processes.started([sys.executable, "-c", "raise SystemExit(3)"], tmp_path) as process:
        assert process.wait() == 3
    assert process.returncode == 3


def test_text_is_utf8_whatever_the_machine_s_own_encoding(tmp_path):
    """What is no UTF-8 comes as escapes; nothing breaks."""
    program = "import sys; sys.stdout.buffer.write('é '.encode() + b'\\xff')"
    with processes.started([sys.executable, "-c", program], tmp_path, stdout=subprocess.PIPE) as process:
        assert process.communicate()[0] == "é \\xff"


def test_a_worker_ends_with_its_parent(tmp_path):
    """Also in the middle of its work, when the parent is killed and can tell nobody."""
    worker = f"import sys; sys.path.insert(0, {str(paths.ROOT)!r}); from saqlib import processes; import time\n"
    worker += "processes.end_with_parent()\nprint('works', flush=True)\ntime.sleep(1000)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {worker!r}]).wait()"
    with processes.started([sys.executable, "-c", parent], tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "works\n"
        (child,) = psutil.Process(process.pid).children()
        process.kill()
        child.wait()  # for ever, if it did not end
