"""Commands where the system refuses: a disk that is full, a folder that may not be written. One line, nothing lost."""

import ctypes
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from saqlib import paths
from saqlib.pipeline import forms

SMALL = 50  # bytes that a file may have before the disk is "full"
COMMANDS = {
    "code": (["saqlib.pipeline.code", "network"], "build/code/network.py"),
    "notebook": (["saqlib.pipeline.notebooks", "code", "toy"], "build/code/toy.ipynb"),
    "refresh": (["saqlib.pipeline.notebooks", "refresh", "toy"], "notebooks/toy.ipynb"),
    "readme": (["saqlib.site.readme"], "README.md"),
    "summary": (["saqlib.pipeline.summary"], "results/metrics/mnist-fp32-standard.json"),
}


@pytest.fixture
def checkout(tmp_path):
    """The library, a notebook, tables and a README in a folder of their own."""
    root = tmp_path / "checkout"
    shutil.copytree(paths.ROOT / "saqlib", root / "saqlib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(paths.RESULTS / "tables", root / "results" / "tables")
    for name in ("README.md", "params.yaml", "results/runs.csv"):
        shutil.copy(paths.ROOT / name, root / name)
    (root / "results" / "metrics").mkdir()
    (root / "results" / "metrics" / "mnist-fp32-standard.json").write_text("{}")
    cells = [nbformat.v4.new_code_cell(f"print('{'long ' * 100}')", metadata={"tags": ["parameters"]})]
    (root / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=forms.METADATA), root / "notebooks" / "toy.ipynb")
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Every file but what Python and the compiler keep for themselves."""
    files = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def run(root: Path, command: list[str], **options) -> subprocess.CompletedProcess:
    variables = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *command]
    return subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, timeout=300, **options)


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line with which a command ended."""
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "refresh"])
def test_a_disk_that_is_full_is_one_line_that_names_the_file(checkout, name):
    """Refused by the system in the middle of a write; what was there stays, no part is left, and then it succeeds."""
    command, output = COMMANDS[name]
    before = contents(checkout)
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))}
    said = refused(run(checkout, command, **limit))
    assert said == f"{checkout / output}: File too large"
    assert contents(checkout) == before
    done = run(checkout, command)
    assert done.returncode == 0, done.stderr
    assert (checkout / output).stat().st_size > SMALL


def test_a_notebook_on_a_full_disk_stays_as_it_was(checkout):
    """Wherever the kernel or papermill meets it first: one line, the notebook untouched, no part left."""
    before = (checkout / "notebooks" / "toy.ipynb").read_bytes()
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))}
    refused(run(checkout, COMMANDS["refresh"][0], **limit))
    assert (checkout / "notebooks" / "toy.ipynb").read_bytes() == before
    assert not list(checkout.rglob("*.partial"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_is_no_folder_is_one_line(checkout, name):
    """As a results folder that may not be written, for whoever runs it, root too."""
    command, output = COMMANDS[name]
    place = (checkout / output).parent
    if name in ("refresh", "readme"):
        pytest.skip("its output lies where its input does")
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("somebody's file")
    assert place.name in refused(run(checkout, command))
    assert place.read_text() == "somebody's file"


def as_anybody() -> None:
    """Give up root's right to write where nobody may: CAP_DAC_OVERRIDE, at the next exec."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="rights are given up as Linux has it")
@pytest.mark.parametrize("name", ["readme", "summary", "code"])
def test_results_that_may_not_be_written_are_one_line(checkout, name):
    """Read-only, as another user's checkout: the system's word with the file; nothing changes."""
    command, output = COMMANDS[name]
    folder = (checkout / output).parent
    folder.mkdir(parents=True, exist_ok=True)
    probe = [sys.executable, "-c", f"open({str(folder / 'probe')!r}, 'w')"]
    before = contents(checkout)
    folder.chmod(0o555)
    try:
        if subprocess.run(probe, preexec_fn=as_anybody, capture_output=True).returncode == 0:
            pytest.skip("this process may write anywhere")
        said = refused(run(checkout, command, preexec_fn=as_anybody))
    finally:
        folder.chmod(0o755)
    assert said == f"{checkout / output}: Permission denied"
    assert contents(checkout) == before
