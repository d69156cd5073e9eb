"""One finished run of a tiny grid, for the tests of the pipeline."""

import shutil

import pytest

from study import paths, run
from tests.helpers.workspaces import TINY, digests, finish, start


@pytest.fixture(scope="session")
def calm(tmp_path_factory):
    """A finished workspace in a folder with a space and without git; whoever changes it works on a copy."""
    before = digests(paths.RESULTS) | digests(paths.NOTEBOOKS)
    folder = run.workspace(tmp_path_factory.mktemp("pipeline") / "a folder", "smoke", **TINY)
    finish(folder, start(folder, "study.run", "reproduce"))
    assert digests(paths.RESULTS) | digests(paths.NOTEBOOKS) == before, "the checkout was written to"
    return folder


@pytest.fixture
def copy(calm, tmp_path):
    """A finished workspace to change at will."""
    return shutil.copytree(calm, tmp_path / "copy", symlinks=True)
