"""Calls of DVC: one run in a folder at a time, under settled surroundings, on files that are whole; ended as one.

DVC itself writes its lock and dvc.lock in place: a run that is killed at that moment leaves half a file, and every
later one stops at it. What it cannot read is put aside here before it starts.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import joblib
import psutil
from ruamel.yaml import YAML, YAMLError

from saqlib import files
from saqlib.pipeline import surroundings
from saqlib.processes import started

TEMPORARY = Path(".dvc", "tmp")  # in a folder: what no run depends on, and neither git nor DVC looks at
WRITTEN = ("results", "models", "scores", "paper", "build")  # folders in which a killed writer may leave a part


class CallError(RuntimeError):
    """DVC cannot run here, or a stage failed; the message is for the person."""


def environment(folder: Path) -> dict[str, str]:
    """Variables under which a stage's `python` is the one that runs now, and saqlib the one in `folder`.

    DVC has our settings in place of a person's. It leaves git alone, so that it works the same in a clone, in an
    unpacked archive and in a scratch folder that git ignores.
    """
    settled = surroundings.environment(folder, folder / TEMPORARY / "surroundings")
    files.write(Path(settled["DVC_GLOBAL_CONFIG_DIR"]) / "config", "[core]\n    no_scm = true\n")
    return settled | {"TQDM_DISABLE": "1"}  # bars of two lanes would overwrite each other; DVC names each stage


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other run of ours works in the folder (else CallError), and what a killed one has left is mended."""
    if set("{}") & set(str(folder)):
        raise CallError(f"DVC stops at a brace in the name of a folder ({folder}); move it to a name without")
    place = folder / TEMPORARY / "run.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(str(place), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise CallError(f"another run works in {folder}; wait for its end, or stop it") from None
    with lock:
        mend(folder)
        yield


def mend(folder: Path) -> None:
    """Put aside what DVC left half-written, unless a DVC is at work, and remove files that never became whole."""
    for path, read in ((folder / TEMPORARY / "rwlock", json.loads), (folder / "dvc.lock", _parsed)):
        if path.is_file() and not _readable(path, read) and not _dvc_at_work(folder):
            path.replace(path.with_name(f"{path.name}.damaged"))
            print(f"{path.name} was cut when an earlier run was killed; it is put aside as {path.name}.damaged")
    for name in WRITTEN:
        files.sweep(folder / name)


def _parsed(text: str) -> None:
    if not isinstance(YAML(typ="safe").load(text), dict):
        raise ValueError("no mapping")


def _readable(path: Path, read) -> bool:
    try:
        read(path.read_text(encoding="utf-8"))
    except (ValueError, YAMLError):
        return False
    return True


def _dvc_at_work(folder: Path) -> bool:
    """Whether some process of this machine runs DVC in the folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "dvc" in map(os.path.basename, process.cmdline()) and Path(process.cwd()) == folder:
                return True
    return False


def side_by_side(folder: Path, *calls: list[str]) -> bool:
    """Run these calls of DVC at once, each with its share of the cores; whether all succeeded.

    Whatever ends this process's work (Ctrl-C, SIGTERM) ends them with all that they have started.
    """
    share = environment(folder) | {"LOKY_MAX_CPU_COUNT": str(max(1, joblib.cpu_count() // len(calls)))}
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(started([*_dvc(), *call], folder, env=share)) for call in calls]
        return not any([process.wait() for process in running])


def said(folder: Path, *call: str) -> tuple[int, str, str]:
    """Exit code, output and errors of one call of DVC."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(folder)}
    with started([*_dvc(), *call], folder, **pipes) as process:
        output, errors = process.communicate()
        return process.returncode, output, errors


def _dvc() -> list[str]:
    return [sys.executable, "-m", "dvc"]
