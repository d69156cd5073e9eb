"""Every stage of dvc.yaml, and a pipeline that has run, for the tests of the pipeline."""

import time

import pytest
from dvc.repo import Repo

from saqlib import paths
from saqlib.pipeline import run
from tests.workspaces import TINY, digests, finish, kill, start

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
