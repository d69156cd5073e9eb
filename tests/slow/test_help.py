"""Whatever can be started by its name says how it is used, and by that changes nothing; also without docstrings."""

import os
import shutil
import subprocess
import sys

import pytest

from study import paths

FOLDERS = ("saqlib", "study", "benchmarks", "tests/sample", ".ci", "site")
ENTRIES = [
    path.relative_to(paths.ROOT)
    for folder in FOLDERS
    for path in sorted((paths.ROOT / folder).rglob("*.py"))
    if "node_modules" not in path.parts and '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the commands are made of, and a folder for what Python compiles of it."""
    root = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("node_modules", "__pycache__")
    for name in (*FOLDERS, "locks", "paper", "docs"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=ignore)
    for name in ("params.yaml", "README.md", "pyproject.toml", "dvc.yaml"):
        shutil.copy(paths.ROOT / name, root)
    return root


def run(root, *arguments: str, optimize: str = "") -> subprocess.CompletedProcess:
    """Python in the copy: its study and saqlib, not ours."""
    environment = os.environ | {
        "PYTHONPATH": str(root), "PYTHONPYCACHEPREFIX": str(root.parent / "compiled"), "PYTHONOPTIMIZE": optimize,
    }  # fmt: skip
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)


def state(root) -> dict:
    """Every file and when it was written."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def started(entry) -> list[str]:
    """How a person starts it: a module of a package by its name, a script by its path."""
    if entry.parts[0] not in ("saqlib", "study", "benchmarks"):
        return [str(entry)]
    return ["-m", ".".join(entry.with_suffix("").parts).removesuffix(".__main__")]


@pytest.mark.parametrize("optimize", ["", "2"])
@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_help_prints_the_usage_and_writes_nothing(entry, optimize, checkout):
    """No file is new, changed or gone."""
    before = state(checkout)
    done = run(checkout, *started(entry), "--help", optimize=optimize)
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr[-500:]
    assert state(checkout) == before


def test_commands_work_without_docstrings(checkout):
    """An explanation is drawn; a comparison that cannot be made, since here is no history, ends in one line."""
    model, picture = paths.RESULTS / "models" / "mnist-w2a2-guided.explain.onnx", paths.SAMPLE / "seven.png"
    command = ["-m", "saqlib.deploy.explain", str(model), str(picture), "-o", str(checkout.parent / "seven.png")]
    done = run(checkout, *command, optimize="2")
    assert done.returncode == 0 and done.stdout.startswith("class: 7"), done.stderr
    done = run(checkout, "-m", "study.run", "verify", optimize="2")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
