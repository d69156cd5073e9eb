"""Every stage of dvc.yaml, and a pipeline that has run, for the tests of the pipeline."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo

from saqlib import paths
from saqlib.pipeline import run

TINY = {
    "grid": {"datasets": ["mnist"], "precisions": ["fp32", "w2a2"], "trainings": ["standard"]},
    "scales": {
        "smoke": {
            "epochs": {"mnist": 2}, "warmup_epochs": 1, "images": 20, "images_expensive": 4, "images_deployed": 20
        }
    },
}  # fmt: skip
# Appended to a workspace's files.py: the second cell stops, for ever, as soon as its first seed is kept.
PAUSE = """

_write = write


def write(path, content):
    written = _write(path, content)
    if path.match("store/trained/*/0.pt") and len(list(path.parents[1].glob("*/0.pt"))) == 2:
        import signal

        _write(path.parents[4] / "paused", "")
        signal.pause()
    return written
"""


@pytest.fixture(scope="session")
def stages():
    """Every stage of dvc.yaml with its matrix written out, by its name."""
    with Repo(paths.ROOT) as repo:
        return {stage.addressing: stage for stage in repo.index.stages}


def start(folder: Path, module: str, *arguments: str) -> subprocess.Popen:
    """A command in a workspace, on the saqlib of that workspace; what it prints is kept in a file."""
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=folder, env=run.environment(folder), stdout=log, stderr=log)


def finish(folder: Path, process: subprocess.Popen) -> str:
    """What the command printed; it has to succeed."""
    status = process.wait()
    log = (folder / "log").read_text()
    assert status == 0, log
    return log


def kill(process: subprocess.Popen) -> None:
    """All at once, as when the power fails: DVC, papermill, the kernel and its workers."""
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    for each in [*tree, process]:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            pass
    process.wait()


def digests(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def workspaces(tmp_path_factory):
    """Two runs of a tiny grid: one undisturbed, one killed in the middle of a cell and taken up again; and its log.

    The first is DVC alone, in a folder with a space; the second goes on by `make reproduce`'s command, which works on
    two cells at a time.
    """
    before = digests(paths.ROOT / "results") | digests(paths.NOTEBOOKS)
    base = tmp_path_factory.mktemp("pipeline")
    calm = run.workspace(base / "a folder", "smoke", **TINY)
    killed = run.workspace(base / "killed", "smoke", **TINY)
    files = killed / "saqlib" / "files.py"
    whole = files.read_text()
    files.write_text(whole + PAUSE)
    undisturbed, process = start(calm, "dvc", "repro"), start(killed, "dvc", "repro")
    try:
        while not (killed / "paused").exists():
            assert process.poll() is None, (killed / "log").read_text()
            time.sleep(0.05)  # between two looks; how long decides nothing
        kill(process)
        assert not (killed / "models" / "mnist-w2a2-standard.pt").exists()
        files.write_text(whole)
        log = finish(killed, start(killed, "saqlib.pipeline.run", "reproduce"))
        finish(calm, undisturbed)
    finally:
        for one in (undisturbed, process):
            if one.poll() is None:
                kill(one)
    assert digests(paths.ROOT / "results") | digests(paths.NOTEBOOKS) == before, "the checkout was written to"
    return calm, killed, log


@pytest.fixture(scope="session")
def calm(workspaces):
    """A finished workspace in a folder with a space and without git; whoever changes it works on a copy."""
    return workspaces[0]
