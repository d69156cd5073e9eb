"""Every stage of dvc.yaml, and a pipeline that has run, for the tests of the pipeline."""

import time
from pathlib import Path

import pytest
from dvc.repo import Repo

from saqlib import paths
from saqlib.pipeline import run
from tests.workspaces import TINY, digests, finish, kill, start

# Appended to a workspace's files.py, which is no dependency of any stage: whoever writes a file that the workspace's
# `pause` names stops there for ever.
PAUSE = """

_write = write


def write(path, content):
    import signal

    written, root = _write(path, content), Path(__file__).parents[1]
    wanted = root / "pause"
    if wanted.exists() and path.match(wanted.read_text()):
        wanted.unlink(missing_ok=True)
        _write(root / "paused", "")
        signal.pause()
    return written
"""
# A file that each kind of stage writes, in the order of the pipeline: where a run is killed.
WRITTEN = {
    "code": "build/code/network.py",
    "data": "results/figures/data.png",
    "train": "store/trained/*/1.pt",
    "fills": "results/fills/mnist.csv",
    "clarity": "scores/*.nc",
    "deploy": "*.qcdq.onnx",
    "compare": "results/tables/accuracy.csv",
    "paper": "paper/paper.pdf",
}


@pytest.fixture(scope="session")
def stages():
    """Every stage of dvc.yaml with its matrix written out, by its name."""
    with Repo(paths.ROOT) as repo:
        return {stage.addressing: stage for stage in repo.index.stages}


@pytest.fixture(scope="session")
def workspaces(tmp_path_factory):
    """Two runs of a tiny grid: one undisturbed, one killed in a stage of every kind and taken up again; and its logs.

    The first is DVC alone, in a folder with a space; the second is `make reproduce`'s command, which works on two cells
    at a time.
    """
    before = digests(paths.ROOT / "results") | digests(paths.NOTEBOOKS)
    base = tmp_path_factory.mktemp("pipeline")
    calm = run.workspace(base / "a folder", "smoke", **TINY)
    killed = run.workspace(base / "killed", "smoke", **TINY)
    with (killed / "saqlib" / "files.py").open("a", encoding="utf-8") as files:
        files.write(PAUSE)
    undisturbed = start(calm, "dvc", "repro")
    try:
        logs = {stage: killed_at(killed, name) for stage, name in WRITTEN.items()}
        logs["end"] = finish(killed, start(killed, "saqlib.pipeline.run", "reproduce"))
        finish(calm, undisturbed)
    finally:
        if undisturbed.poll() is None:
            kill(undisturbed)
    assert digests(paths.ROOT / "results") | digests(paths.NOTEBOOKS) == before, "the checkout was written to"
    return calm, killed, logs


def killed_at(folder: Path, name: str) -> str:
    """A run that is killed, with all that it has started, as it has written a file; what it had said."""
    (folder / "pause").write_text(name)
    process = start(folder, "saqlib.pipeline.run", "reproduce")
    try:
        while not (folder / "paused").exists():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)  # between two looks; how long decides nothing
    finally:
        kill(process)
    (folder / "paused").unlink()
    return (folder / "log").read_text()


@pytest.fixture(scope="session")
def calm(workspaces):
    """A finished workspace in a folder with a space and without git; whoever changes it works on a copy."""
    return workspaces[0]
