"""A worker: by the code of the study's folder, on a machine of the same kind, or not at all."""

import os
import subprocess
import sys

import pytest
from joblib.externals.loky.backend.reduction import dumps

from saqlib import paths, store
from saqlib.pipeline import study, worker
from tests.pipeline.made import made

SHAPE = study.load(scale="smoke").shape
ROOT = str(paths.ROOT)


def test_a_machine_is_its_packages_and_what_computes():
    """All that is in a key of the store beside code, settings and data."""
    here = worker.machine(SHAPE)
    assert here.keys() == {*store.NUMERICS, "computing"} and "PyTorch" in here["computing"]


@pytest.mark.parametrize("what", ["torch", "numpy", "computing"])
def test_another_machine_is_named_with_what_differs(tmp_path, what):
    """Nothing is done there."""
    asking = worker.machine(SHAPE) | {what: "another"}
    with pytest.raises(worker.OtherMachineError, match=f"has {what} .*, not another: what it computes has other bytes"):
        worker.run(ROOT, worker.packed(made(tmp_path, 1), SHAPE), asking)
    assert not list(tmp_path.iterdir())


def test_another_folder_s_code_is_refused(tmp_path):
    """A node on which another copy of the library was loaded before."""
    with pytest.raises(worker.OtherMachineError, match=f"not the code of {tmp_path}"):
        worker.run(str(tmp_path), worker.packed(made(tmp_path, 1), SHAPE), {})


def test_the_study_s_folder_comes_first_whatever_is_installed(tmp_path):
    """A process that knows nothing of the library gets the function by value, and with it the folder's own code."""
    (tmp_path / "elsewhere" / "saqlib").mkdir(parents=True)
    (tmp_path / "elsewhere" / "saqlib" / "__init__.py").write_text("raise SystemExit('the wrong saqlib')")
    call = dumps((worker.travelling(), (ROOT, worker.packed(made(tmp_path, 1), SHAPE), {})))
    (tmp_path / "call").write_bytes(call)
    script = "import pickle, sys; work, given = pickle.load(open(sys.argv[1], 'rb')); work(*given)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "elsewhere")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(tmp_path / "call")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.txt").exists()
