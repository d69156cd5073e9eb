"""The pipeline by one command: it starts anywhere, its stages are complete and narrow, and it knows what is stale."""

import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from dvc.repo import Repo
from dvc.utils.serialize import load_yaml

from study import dvc, paths, settings
from tests.helpers.workspaces import digests, finish, start

NOTEBOOK = re.compile(r"python -m study\.run notebook (\w+) (\S+)")


@pytest.fixture(scope="module")
def stages():
    """Every stage of dvc.yaml with its matrix written out, by its name."""
    with Repo(str(paths.ROOT), config={"core": {"no_scm": True}}) as repo:
        return {stage.addressing: stage for stage in repo.index.stages}


def dependencies(stage) -> set[str]:
    return {str(dep) for dep in stage.deps}


def check(folder) -> tuple[int, str]:
    """`make check` in a folder: its exit code and its last line."""
    command = [sys.executable, "-m", "study.run", "check"]
    done = subprocess.run(command, cwd=folder, env=dvc.environment(folder), capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


# ------------------------------------------------------------------------------------------------------ a finished run


def test_it_runs_without_git_in_a_folder_with_a_space(calm):
    """An unpacked archive is enough: every stage ran, and DVC has nothing left to do."""
    assert " " in calm.name and not (calm / ".git").exists()
    assert "Data and pipelines are up to date." in finish(calm, start(calm, "dvc", "repro", "--dry"))
    assert check(calm) == (0, dvc.UP_TO_DATE)


def test_it_leaves_what_a_reader_looks_for(calm):
    """Tables, figures, executed notebooks (one a dataset at most), models, the paper; no part of a file."""
    names = set(digests(calm))
    cells = [str(cell) for cell in settings.load(calm / "params.yaml").grid.cells]
    for cell in cells:
        assert {f"models/{cell}.pt", f"results/runs/{cell}.json", f"scores/{cell}.nc", f"results/during/{cell}.csv",
                f"results/metrics/{cell}.json", f"results/models/{cell}.qcdq.onnx"} <= names  # fmt: skip
    assert {"results/runs.csv", "results/tables/claims.csv", "results/tables/grid.csv", "results/deployment.csv",
            "results/device/measured.csv", "results/device/model.h", "results/tables/device.csv",
            "results/fills/mnist.csv", "results/ablations/edges_same.csv", "results/figures/data.png",
            "paper/paper.pdf"} <= names  # fmt: skip
    executed = {name for name in names if name.startswith("results/notebooks/")}
    assert executed == {f"results/notebooks/{name}.ipynb" for name in
                        ("01_data", "02_train-mnist", "03_clarity-mnist", "04_deploy", "05_results", "06_why",
                         "07_checks")}  # fmt: skip
    assert not [name for name in names if name.endswith(".partial")]


def test_the_store_holds_each_network_once(calm):
    """Two seeds of two cells, trained and scored by all cores before the first notebook began; then two deployed."""
    count = {folder.name: sum(path.is_file() for path in folder.rglob("*"))
             for folder in (calm / "build" / "store").iterdir()}  # fmt: skip
    assert count == {"warmed": 2, "trained": 4, "fills": 1, "scored": 4, "curves": 2, "deployed": 2}
    assert "13 of 13 jobs are done." in finish(calm, start(calm, "study.run", "tasks"))


def test_results_do_not_name_the_machine(calm):
    """No file that is committed holds the folder that it was made in."""
    for path in (calm / "results").rglob("*"):
        assert not path.is_file() or str(calm).encode() not in path.read_bytes(), path.name


# ------------------------------------------------------------------------------------------------------- what is stale


def test_check_needs_no_models_and_names_what_is_stale(copy):
    """As in a fresh clone, where git has results/ alone; a comment or a sentence is nothing, a changed line is."""
    for name in ("models", "scores", "data", "build", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(copy / name, ignore_errors=True)
    assert check(copy) == (0, dvc.UP_TO_DATE)
    module, notebook = copy / "saqlib" / "findings.py", copy / "notebooks" / "03_clarity.ipynb"
    code = module.read_text()
    module.write_text(code + "# a comment\n")
    notebook.write_text(notebook.read_text().replace("# ", "# The ", 1))
    assert check(copy) == (0, dvc.UP_TO_DATE)
    module.write_text(code + "changed = True\n")
    status, words = check(copy)
    assert status == 1 and words.startswith(dvc.STALE) and words.endswith("It would begin with compare.")


def test_check_sees_an_edited_result(copy):
    """A number of results/ that no stage wrote."""
    runs = copy / "results" / "runs.csv"
    runs.write_text(runs.read_text() + "\n")
    assert check(copy)[1].endswith("It would begin with compare.")


def test_the_lock_names_the_stages_of_today(stages):
    """DVC leaves what it recorded of a stage that was renamed or removed; such entries go by hand."""
    locked = load_yaml(str(paths.ROOT / "dvc.lock"))["stages"]
    assert locked.keys() == {name.rpartition(":")[2] for name in stages}


@pytest.mark.parametrize("damaged", ["{{{", "<<<<<<< HEAD\nschema: '2.0'\n", "just text\n"])
def test_check_of_a_damaged_lock_is_one_line(copy, damaged):
    """As after a merge: that it could not be checked, and no traceback."""
    (copy / "dvc.lock").write_text(damaged)
    status, words = check(copy)
    assert status == 1 and "could not be checked" in words and "dvc.lock" in words


def test_a_stale_stage_takes_its_networks_from_the_store(copy):
    """What a stage prints is changed: it runs, no file of the store is written, and no result is another one."""
    store = {path: path.stat().st_mtime_ns for path in (copy / "build" / "store").rglob("*.*")}
    before = digests(copy / "results")
    path = copy / "notebooks" / "02_train.ipynb"
    notebook = nbformat.read(path, as_version=4)
    next(cell for cell in notebook.cells if cell.cell_type == "code" and "import" in cell.source).source += "\npass"
    nbformat.write(notebook, path)
    log = finish(copy, start(copy, "dvc", "repro", "train@mnist", "clarity@mnist"))
    assert re.findall("Running stage '(.*)'", log) == ["code", "train@mnist"]
    assert {path: path.stat().st_mtime_ns for path in store} == store and digests(copy / "results") == before


# ---------------------------------------------------------------------------------------------------------- dvc.yaml


def test_notebooks_are_started_once_a_dataset_at_most(stages):
    """At most nine executed copies of the whole grid, of which three only read results; each is an output."""
    runs = {name: match for name, stage in stages.items() if (match := NOTEBOOK.match(stage.cmd))}
    assert len(runs) <= 9 and {match[1] for match in runs.values()} == {
        path.stem for path in paths.NOTEBOOKS.glob("*.ipynb") if path.stem[:2].isdigit()
    }
    assert all(match[2] in {str(out) for out in stages[name].outs} for name, match in runs.items())
    assert len((paths.ROOT / "dvc.yaml").read_text().splitlines()) <= 180


def test_stages_depend_on_their_code_and_on_the_numerics(stages):
    """On one copy of code, never on a file whose words change by hand; what draws, on the lock of the report."""
    drawing = set()
    for name, stage in stages.items():
        (kind, _, part), deps = name.partition("@"), dependencies(stage)
        code = part if kind == "show" else kind
        if code in dvc.CODE:
            assert {dep for dep in deps if dep.startswith("build/code/")} == {f"build/code/{code}.py"}, name
            assert "locks/numerics.lock" in deps or kind == "paper"
            assert not any(dep.startswith(("notebooks", "saqlib", "study", "locks/tools")) for dep in deps), name
        drawing |= {kind} if "locks/report.lock" in deps else set()
    parts = {name.removeprefix("show@").split("@")[0] for name in stages}
    assert parts == {*dvc.CODE, "code", "metrics", "notebooks"} and drawing == {"data", "compare", "show", "paper"}


def test_what_the_grid_decides_depends_on_the_grid(stages):
    """Which cells there are, and which of an ablation: after an edit of the grid no table of the old one stays."""
    for name, stage in stages.items():
        if name.partition("@")[0] in {"train", "clarity", "ablate", "deploy", "device", "compare", "show"}:
            assert "grid" in {each for dep in stage.params for each in dep.params}, name


def test_fills_are_decided_before_a_test_image_is_scored(stages):
    """Every stage that scores test images waits for the decision on its dataset, and the decision knows no score."""
    for dataset in settings.load().grid.datasets:
        assert f"results/fills/{dataset}.csv" in dependencies(stages[f"clarity@{dataset}"])
        assert not any(dep.startswith(("scores", "results")) for dep in dependencies(stages[f"fills@{dataset}"]))
