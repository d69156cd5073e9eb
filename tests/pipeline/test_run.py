"""The pipeline starts anywhere, goes on after a kill, and two runs give the same bytes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from saqlib import download, files, paths
from saqlib.data.images import DataError
from saqlib.params import ParamsError
from saqlib.pipeline import calls, run, study
from tests.workspaces import TINY, digests, finish, start


def dvc(folder: Path, *arguments: str) -> str:
    return finish(folder, start(folder, "dvc", *arguments))


# ---------------------------------------------------------------------------------------------- a run, and another


def test_runs_without_git_in_a_folder_with_a_space(calm):
    """An unpacked archive is enough: every stage ran, and DVC has nothing left to do."""
    assert " " in calm.name and not (calm / ".git").exists()
    assert "Data and pipelines are up to date." in dvc(calm, "repro", "--dry")


def test_two_runs_give_the_same_bytes(workspaces):
    """Everything under results/ and the paper are the same in two folders, executed notebooks included."""
    calm, killed, _ = workspaces
    results = digests(calm / "results")
    some = {"runs/mnist-w2a2-standard.json", "fills/mnist.csv", "notebooks/02_train-mnist-w2a2-standard.ipynb"}
    assert some <= results.keys()
    assert results == digests(killed / "results")
    assert (calm / "paper" / "paper.pdf").read_bytes() == (killed / "paper" / "paper.pdf").read_bytes()


def test_results_do_not_name_the_machine(calm):
    """No file that is committed holds the folder that it was made in."""
    for path in (calm / "results").rglob("*"):
        if path.is_file():
            assert str(calm).encode() not in path.read_bytes(), path.name


def test_goes_on_after_a_kill(workspaces):
    """Each call of a killed run skips what was finished; nothing half-written is left anywhere."""
    _, killed, logs = workspaces
    last = logs["end"]
    for stage in ("data", "train@mnist-fp32-standard", "fills@mnist", "clarity@mnist-w2a2-standard", "compare"):
        assert f"Stage '{stage}' didn't change, skipping" in last and f"Running stage '{stage}'" not in last
    assert not [path for path in killed.rglob("*.partial") if ".dvc" not in path.parts]


def test_the_store_keeps_what_was_computed(calm):
    """Two seeds of two cells, trained and scored, and the warm-ups of one: for who asks next."""
    store = calm / "build" / "store"
    kept = {kind: sorted(path.name for path in store.rglob(f"{kind}/*/*")) for kind in ("trained", "warmed", "scored")}
    assert kept["trained"] == ["0.pt", "0.pt", "1.pt", "1.pt"] and kept["warmed"] == ["0.pt", "1.pt"]
    assert kept["scored"] == ["0.nc", "0.nc", "1.nc", "1.nc"]


# ------------------------------------------------------------------------------------------------- what runs again


@pytest.fixture
def copy(calm, tmp_path):
    """A finished workspace to change at will."""
    return shutil.copytree(calm, tmp_path / "copy", symlinks=True)


def edit_params(folder: Path, edit) -> None:
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    edit(params)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def test_new_outputs_in_a_notebook_run_nothing_again(copy):
    """Only the copy is made anew, and as it is the same, DVC skips what follows."""
    path = copy / "notebooks" / "02_train.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], 99
    nbformat.write(notebook, path)
    log = dvc(copy, "repro")
    assert re.findall("Running stage '(.*)'", log) == ["source@02_train"]


def test_a_stale_stage_takes_its_seeds_from_the_store(copy):
    """A setting's message is mended: the stage runs, and no seed is trained: the files of the store are untouched."""
    kept = {path: path.stat().st_mtime_ns for path in (copy / "build" / "store").rglob("*.*")}
    settings = copy / "saqlib" / "training" / "settings.py"
    settings.write_text(settings.read_text().replace("must lie in [0, 1]", "must be a share"))
    before = digests(copy / "results")
    log = dvc(copy, "repro")
    assert "Running stage 'train@mnist-w2a2-standard'" in log and "Running stage 'clarity" not in log
    assert {path: path.stat().st_mtime_ns for path in (copy / "build" / "store").rglob("*.*")} == kept
    assert digests(copy / "results") == before


def check(folder: Path) -> tuple[int, str]:
    """`make check` in a folder: its exit code and its last line."""
    command = [sys.executable, "-m", "saqlib.pipeline.run", "check"]
    done = subprocess.run(command, cwd=folder, env=calls.environment(folder), capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


def test_check_needs_no_models_and_names_what_is_stale(copy):
    """As in a fresh clone, where git has results/ alone; after one changed line it says which stage would run."""
    for name in ("models", "scores", "data", "build"):
        shutil.rmtree(copy / name)
    for name in ("cache", "tmp"):
        shutil.rmtree(copy / ".dvc" / name)
    before = digests(copy)
    assert check(copy) == (0, run.UP_TO_DATE)
    here = {name for name in digests(copy) if not name.startswith(".dvc/tmp") and "__pycache__" not in name}
    assert here == {name for name in before if "__pycache__" not in name}
    module = copy / "saqlib" / "evidence" / "claims.py"
    code = module.read_text()
    module.write_text(code + "# a comment\n")
    assert check(copy) == (0, run.UP_TO_DATE)
    module.write_text(code + "changed = True\n")
    assert check(copy) == (
        1, "results/ do not belong to the code as it stands: run `make reproduce`. DVC would begin with code@evidence."
    )  # fmt: skip


def test_check_costs_seconds_however_many_stages_there_are(monkeypatch):
    """It reads dvc.lock once and loads no PyTorch."""
    recorded, reads = run._recorded(), []
    said = "".join(f"Stage '{name}' didn't change, skipping\n" for name in recorded) + run.UP_TO_DATE
    monkeypatch.setattr(run, "said", lambda *_: (0, said, ""))
    monkeypatch.setattr(run, "_recorded", lambda: reads.append("once") or recorded)
    assert run.check() == run.UP_TO_DATE and reads == ["once"] and len(recorded) > 50
    command = [sys.executable, "-c", "import sys, saqlib.pipeline.run; print('torch' in sys.modules)"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("damaged", ["{{{", "<<<<<<< HEAD\nschema: '2.0'\n", "just text\n"])
def test_check_of_a_damaged_lock_is_one_line(tmp_path, damaged):
    """As after a merge: what DVC says of it, and no traceback."""
    folder = run.workspace(tmp_path / "w", "smoke", **TINY)
    (folder / "dvc.lock").write_text(damaged)
    status, said = check(folder)
    assert status == 1 and "could not be checked" in said and "dvc.lock" in said


# ---------------------------------------------------------------------------------------------- the command line


def test_unusable_params_stop_before_anything_is_removed(tmp_path):
    """One sentence that names the nearest valid value; DVC, which removes outputs before a run, never starts."""
    folder = run.workspace(tmp_path / "w", "smoke", **TINY)
    edit_params(folder, lambda params: params["grid"].update(precisions=["w2a3"]))
    before = digests(folder)
    with pytest.raises(ParamsError, match="unknown precision in grid.precisions 'w2a3'; did you mean 'w2a2'"):
        run.repro(folder)
    assert digests(folder) == before


def test_unusable_edits_write_nothing(tmp_path):
    """A scratch folder with a grid that is empty is not even begun."""
    with pytest.raises(ParamsError, match="grid.trainings is empty"):
        run.workspace(tmp_path / "w", "smoke", grid={"trainings": []})
    assert not (tmp_path / "w").exists()


def test_the_checkout_is_no_scratch_folder():
    """A workspace replaces what is in its folder: never the checkout itself."""
    before = digests(paths.NOTEBOOKS)
    with pytest.raises(run.PipelineError, match="is the checkout itself"):
        run.workspace(paths.ROOT, "smoke")
    assert digests(paths.NOTEBOOKS) == before


def test_a_workspace_changes_only_what_it_is_told(tmp_path):
    """The numbers of params.yaml, scale and edits apart, are those of the checkout."""
    folder = run.workspace(tmp_path / "w", "smoke", trainings={"guided": {"fraction": 0.25}})
    ours, theirs = (yaml.safe_load((root / "params.yaml").read_text()) for root in (paths.ROOT, folder))
    assert theirs["scale"] == "smoke" and theirs["trainings"]["guided"].pop("fraction") == 0.25
    ours["trainings"]["guided"].pop("fraction")
    assert ours | {"scale": "smoke"} == theirs


def test_a_failed_stage_ends_in_one_sentence_and_exit_code_1(tmp_path, monkeypatch, capfd):
    """The stage has said what was wrong; the command says that it can be repeated."""
    folder = run.workspace(tmp_path / "w", "smoke", **TINY)
    copies = {name: {"cmd": "python --version"} for name in ("source", "code")}
    failing = copies | {"data": {"cmd": "python -c 'raise SystemExit(3)'"}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": failing}))
    monkeypatch.setattr(paths, "ROOT", folder)
    with pytest.raises(SystemExit) as stop:
        run.main(["reproduce"])
    assert stop.value.code == run.STOPPED
    assert "failed to reproduce 'data'" in capfd.readouterr().err


def test_without_a_network_nothing_is_lost(tmp_path, monkeypatch):
    """Images come before DVC starts, which would remove the committed figure of them first."""
    folder = run.workspace(tmp_path / "w", "smoke", **TINY)
    edit_params(folder, lambda params: params.update(scale="quick"))
    committed = files.write(folder / "results" / "figures" / "data.png", b"committed")

    def unreachable(dataset, tell):
        raise DataError(f"{dataset} could not be fetched")

    monkeypatch.setattr(download, "fetch", unreachable)
    monkeypatch.setattr(paths, "ROOT", folder)
    monkeypatch.setattr(paths, "PARAMS", folder / "params.yaml")
    with pytest.raises(SystemExit) as stop:
        run.main(["reproduce"])
    assert stop.value.code == "mnist could not be fetched"
    assert committed.read_bytes() == b"committed"


def test_lanes_share_cells_of_both_trainings():
    """Each cell once, and half of the expensive ones in each lane."""
    names = [f"train@{cell}" for cell in study.load().grid.cells]
    lanes = run._lanes(names)
    assert sorted(name for lane in lanes for name in lane) == sorted(names)
    assert [sum("guided" in name for name in lane) for lane in lanes] == [4, 4]
    assert run._lanes(names[:1]) == [names[:1]]


def test_stages_with_a_matrix_run_in_order_for_all_that_they_name():
    """Training, then the decision on fills, then scores: each once for every cell, or for every dataset."""
    grid = study.load().grid
    found = run._matrices(paths.ROOT, grid)
    cells = [str(cell) for cell in grid.cells]
    assert list(found.items()) == [("train", cells), ("fills", list(grid.datasets)), ("clarity", cells)]


def test_stages_run_in_this_environment(tmp_path):
    """`python` in a stage is the interpreter that runs the pipeline, and saqlib the copy in the workspace."""
    folder = run.workspace(tmp_path / "w", "smoke", **TINY)
    probe = "python -c 'import sys, saqlib; print(sys.prefix, saqlib.__file__, sep=chr(10))'"
    environment = calls.environment(folder)
    done = subprocess.run(probe, shell=True, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == [sys.prefix, str(folder / "saqlib" / "__init__.py")]
