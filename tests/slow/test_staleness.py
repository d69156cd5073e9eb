"""A change makes stale what it can change, and nothing else: ten changes, stage by stage, for the whole grid.

DVC says what is stale, on the real dvc.yaml. So that no network need be trained for that, the outputs of the stages are
files without meaning, and dvc.lock is written for them; what the stages depend on is real.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from dvc.repo import Repo

from study import cells, dvc, paths, run, settings, store
from tests.helpers.workspaces import edit_params

DATASETS = settings.load().grid.datasets
TRAIN, FILLS, CLARITY = ({f"{stage}@{dataset}" for dataset in DATASETS} for stage in ("train", "fills", "clarity"))
SHOW = {f"show@{name}" for name in ("04_deploy", "05_results", "06_why", "07_checks")}
TRAINED, SCORED = {*TRAIN, "ablate"}, {*FILLS, *CLARITY, "ablate"}
CELLS = [str(cell) for cell in settings.load().grid.cells]


def text(path: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace something that stands in a file."""

    def change(folder: Path) -> None:
        before = (folder / path).read_text()
        assert old in before, f"{path} has no {old!r}"
        (folder / path).write_text(before.replace(old, new, 1))

    return change


def appended(*names: str) -> Callable[[Path], None]:
    """A statement at the end of each of these modules."""

    def change(folder: Path) -> None:
        for name in names:
            path = folder.joinpath(*name.split(".")).with_suffix(".py")
            path.write_text(path.read_text() + "changed = True\n")

    return change


# What is changed, the stages that are stale then, and the cells whose networks the store does not hold. The paper reads
# params.yaml as a whole: a compilation of seconds.
TABLE = {
    "a sentence, an output, a comment and a docstring": (
        lambda folder: [
            text("notebooks/02_train.ipynb", "# ", "# The ")(folder),
            text("notebooks/03_clarity.ipynb", '"execution_count": ', '"execution_count": 7, "was": ')(folder),
            text("saqlib/training.py", "import torch\n", "import torch  # why\n")(folder),
            text("saqlib/training.py", '"""', '"""So: ')(folder),
            text("benchmarks/device/board.c", "// The test bench", "// A test bench")(folder),
            text("benchmarks/device/board.ld", "/* Code", "/* The code")(folder),
        ],
        set(), []),
    "code in a notebook": (
        text("notebooks/03_clarity.ipynb", '"import ', '"import sys\\n",\n    "import '), CLARITY, []),
    "training code": (
        appended("saqlib.training"), TRAINED, CELLS),
    "scoring code": (
        appended("saqlib.scoring"), SCORED, []),
    "a rule of the verdicts": (
        appended("saqlib.findings"), {"compare"}, []),
    "C for a device": (
        text("benchmarks/device/fp32.c", "sums[i] > sums[best]", "sums[i] >= sums[best]"), {"device"}, []),
    "where and how fast": (
        appended("study.tasks", "study.processes", "study.run", "study.download"), set(), []),
    "a release of matplotlib": (
        text("locks/report.lock", "matplotlib==", "matplotlib==99."), {"data", "compare", *SHOW, "paper"}, []),
    "a setting of guidance": (
        partial(edit_params, trainings__guided__fraction=0.25), {*TRAINED, "paper"},
        [cell for cell in CELLS if cell.endswith("-guided")]),
    "other bits of a precision": (
        partial(edit_params, precisions__w2a2__dense1=[3, 3]), {*TRAINED, "paper"},
        [cell for cell in CELLS if "-w2a2-" in cell]),
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A workspace with the whole grid in which DVC takes every stage for done, and the store's keys of its cells."""
    folder = run.workspace(tmp_path_factory.mktemp("staleness") / "done", "smoke")
    with inside(folder), Repo(str(folder)) as repo:
        repo.reproduce(targets=["code"])
        for stage in repo.index.stages:
            for out in stage.outs:
                path = Path(out.fs_path)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(stage.addressing)
        repo.commit(force=True)
    assert stale(folder) == set()
    return folder, keys(folder)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The folder as the working directory, and the variables under which its stages run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in dvc.environment(folder).items():
            patch.setenv(name, value)
        yield


def stale(folder: Path) -> set[str]:
    """The stages that DVC would run because of what they depend on, once the copies of code are those of today."""
    with inside(folder), Repo(str(folder)) as repo:
        repo.reproduce(targets=["code"])
        return {stage.addressing for stage in repo.index.stages
                if stage.name not in ("code", "notebooks") and any(dep.status() for dep in stage.deps)}  # fmt: skip


def keys(folder: Path) -> dict[str, str]:
    """The store's key of the first network of every cell, by the code and the numbers of this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", folder)
        store.code_digest.cache_clear()
        study = settings.load(folder / "params.yaml")
        found = {str(cell): cells.trained(cell, study, 1)[0].key for cell in study.grid.cells}
    store.code_digest.cache_clear()
    return found


def test_what_comes_from_the_run_cache_writes_nothing_else(done):
    """DVC takes a stage of plots and metrics alone from there, and leaves whatever else it writes as it finds it."""
    with inside(done[0]), Repo(str(done[0])) as repo:
        outs = {stage.name: [out.metric or out.plot for out in stage.outs] for stage in repo.index.stages}
    assert {name for name, shown in outs.items() if shown and all(shown)} == {"metrics", *FILLS}


@pytest.mark.parametrize("what", TABLE)
def test_a_change_makes_stale_what_it_can_change(done, tmp_path, what):
    """Exactly the stages and the networks of the table, by DVC and by `make check` alike."""
    folder, before = done
    change, stages, networks = TABLE[what]
    copy = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    change(copy)
    with pytest.MonkeyPatch.context() as patch:
        for name, place in {"ROOT": copy, "NOTEBOOKS": copy / "notebooks", "BUILD": copy / "build"}.items():
            patch.setattr(paths, name, place)
        checked = set(dvc.stale()) - {"notebooks"}
    assert stale(copy) == stages == checked
    after = keys(copy)
    assert {cell for cell in after if after[cell] != before.get(cell)} == set(networks)
