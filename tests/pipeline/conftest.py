"""Every stage of dvc.yaml, and a pipeline that has run, for the tests of the pipeline."""

import time
from pathlib import Path

import pytest
from dvc.repo import Repo

from saqlib import paths
from saqlib.pipeline import run
from tests.workspaces import TINY, digests, finish, kill, start

# Appended to a workspace's files.py, which is no dependency of any stage: whoever writes a file that one of the
# workspace's files pause-* names stops there for ever.
PAUSE = """

_write = write


def write(path, content):
    import signal

    written, root = _write(path, content), Path(__file__).parents[1]
    for wanted in root.glob("pause-*"):
        try:
            matches = path.match(wanted.read_text())
        except FileNotFoundError:  # another one stops there
            continue
        if matches:
            wanted.unlink(missing_ok=True)
            _write(root / wanted.name.replace("pause", "paused"), "")
            signal.pause()
    return written
"""
# Files that each kind of stage writes, in the order of the pipeline: where a run is killed. Deployment runs beside
# clarity, and might be done before that is killed: both stop.
WRITTEN = {
    "code": ("build/code/network.py",),
    "data": ("results/figures/data.png",),
    "train": ("store/trained/*/1.pt",),
    "fills": ("results/fills/mnist.csv",),
    "clarity and deploy": ("scores/*.nc", "*.qcdq.onnx"),
    "compare": ("results/tables/accuracy.csv",),
    "paper": ("paper/paper.pdf",),
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
        logs = {stage: killed_at(killed, *names) for stage, names in WRITTEN.items()}
        logs["end"] = finish(killed, start(killed, "saqlib.pipeline.run", "reproduce"))
        finish(calm, undisturbed)
    finally:
        if undisturbed.poll() is None:
            kill(undisturbed)
    assert digests(paths.ROOT / "results") | digests(paths.NOTEBOOKS) == before, "the checkout was written to"
    return calm, killed, logs


def killed_at(folder: Path, *names: str) -> str:
    """A run that is killed, with all that it has started, as it has written these files; what it had said."""
    for i, name in enumerate(names):
        (folder / f"pause-{i}").write_text(name)
    paused = [folder / f"paused-{i}" for i in range(len(names))]
    process = start(folder, "saqlib.pipeline.run", "reproduce")
    try:
        while not all(each.exists() for each in paused):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)  # between two looks; how long decides nothing
    finally:
        kill(process)
    for each in paused:
        each.unlink()
    return (folder / "log").read_text()


@pytest.fixture(scope="session")
def calm(workspaces):
    """A finished workspace in a folder with a space and without git; whoever changes it works on a copy."""
    return workspaces[0]
