"""The one command line: workspaces leave the checkout as it is, nothing is lost where something is wrong."""

import pandas as pd
import pytest
import yaml

from saqlib.data import DataError
from study import cells, download, files, frames, notebooks, paths, results, run, settings, tasks
from study.settings import ParamsError
from tests.helpers.workspaces import TINY, digests, edit_params


@pytest.fixture
def workspace(tmp_path):
    """A workspace of a tiny grid, in a folder with a space."""
    return run.workspace(tmp_path / "a folder", "smoke", **TINY)


# -------------------------------------------------------------------------------------------------------- workspaces


def test_a_workspace_changes_only_what_it_is_told(tmp_path):
    """The numbers of params.yaml, scale and edits apart, are those of the checkout, whose results are not taken."""
    folder = run.workspace(tmp_path / "w", "smoke", trainings={"guided": {"fraction": 0.25}})
    assert not (folder / "results").exists()
    ours, theirs = (yaml.safe_load((root / "params.yaml").read_text()) for root in (paths.ROOT, folder))
    assert theirs["scale"] == "smoke" and theirs["trainings"]["guided"].pop("fraction") == 0.25
    ours["trainings"]["guided"].pop("fraction")
    assert ours | {"scale": "smoke"} == theirs


def test_a_second_workspace_in_a_folder_leaves_its_results(workspace, tmp_path):
    """Only what the pipeline reads is written anew; a file that is gone from the checkout is gone there, too."""
    result = files.write(workspace / "results" / "runs.csv", "a result")
    old = files.write(workspace / "study" / "old.py", "")
    run.workspace(workspace, "smoke", **TINY)
    assert result.read_text() == "a result" and not old.exists()


def test_metrics_are_written_nowhere_else(tmp_path, monkeypatch):
    """A name in the table that leads out of the folder is refused in one line."""
    row = {"dataset": "../../evil", "precision": "fp32", "training": "standard", "test_accuracy": 1.0, "amplitude": 1.0}
    monkeypatch.setattr(frames, "runs", lambda: pd.DataFrame([row]))
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "a" / "results")
    with pytest.raises(SystemExit, match="^results/runs.csv: .*evil"):
        run.main(["metrics"])
    assert not list(tmp_path.rglob("*.json"))


def test_the_checkout_is_no_scratch_folder():
    """A workspace replaces what is in its folder: never the checkout itself."""
    before = digests(paths.NOTEBOOKS)
    with pytest.raises(run.PipelineError, match="is the checkout itself"):
        run.workspace(paths.ROOT, "smoke")
    assert digests(paths.NOTEBOOKS) == before


def test_unusable_edits_write_nothing(tmp_path):
    """A scratch folder with a grid that is empty is not even begun."""
    with pytest.raises(ParamsError, match="trainings"):
        run.workspace(tmp_path / "w", "smoke", grid={"trainings": []})
    assert not (tmp_path / "w").exists()


def test_unusable_params_stop_before_anything_is_removed(workspace):
    """One sentence that names the nearest valid value; DVC, which removes outputs before a run, never starts."""
    edit_params(workspace, grid__precisions=["w2a3"])
    before = digests(workspace)
    with pytest.raises(ParamsError, match="unknown precision in grid.precisions 'w2a3'; did you mean 'w2a2'"):
        run.repro(workspace)
    assert digests(workspace) == before


@pytest.mark.parametrize("command", ["reproduce", "quick"])
def test_without_a_network_nothing_is_lost(command, tmp_path, monkeypatch):
    """Images come before anything is replaced or removed."""
    folder = run.workspace(tmp_path / "w", "smoke", **TINY)
    edit_params(folder, scale="quick")
    committed = files.write(folder / "results" / "figures" / "data.png", b"committed")
    earlier = files.write(folder / "build" / "quick" / "study" / "mine.py", b"earlier")

    def unreachable(dataset, report):
        raise DataError(f"{dataset} could not be fetched")

    monkeypatch.setattr(download, "fetch", unreachable)
    for name, path in {"ROOT": folder, "PARAMS": folder / "params.yaml", "BUILD": folder / "build"}.items():
        monkeypatch.setattr(paths, name, path)
    with pytest.raises(SystemExit) as stop:
        run.main([command])
    assert stop.value.code == "mnist could not be fetched"
    assert committed.read_bytes() == b"committed" and earlier.read_bytes() == b"earlier"


# --------------------------------------------------------------------------------------------------- the command line


def test_help_writes_nothing(capsys, monkeypatch):
    """For every command."""
    monkeypatch.setattr(files, "write", lambda *_: pytest.fail("something was written"))
    commands = run._parser()._subparsers._group_actions[0].choices
    for arguments in (["--help"], *([command, "--help"] for command in commands)):
        with pytest.raises(SystemExit) as stop:
            run.main(arguments)
        assert stop.value.code == 0 and capsys.readouterr().out


def test_what_a_stage_has_left_is_listed_with_its_hashes(tmp_path, monkeypatch):
    """For the cells of a dataset and no others; one that is missing is an error with its name."""
    for name, folder in {"ROOT": tmp_path, "BUILD": tmp_path / "build"}.items():
        monkeypatch.setattr(paths, name, folder)
    grid = [cell for cell in settings.load(scale="smoke").grid.cells if cell.dataset == "mnist"]
    for cell in settings.load(scale="smoke").grid.cells:
        files.write(tmp_path / "models" / f"{cell}.pt", str(cell))
        files.write(tmp_path / "results" / "runs" / f"{cell}.json", "{}")
    listed = yaml.safe_load(run.write_list("train", "mnist", "smoke").read_text())
    assert set(listed) == {name for cell in grid for name in (f"models/{cell}.pt", f"results/runs/{cell}.json")}
    assert len({listed[f"models/{cell}.pt"] for cell in grid}) == len(grid)
    (tmp_path / "models" / f"{grid[0]}.pt").unlink()
    with pytest.raises(FileNotFoundError, match=str(grid[0])):
        run.write_list("train", "mnist", "smoke")


def test_the_folder_of_images_is_there_though_the_sample_is_read(tmp_path, monkeypatch):
    """DVC stops where a stage did not leave it, as in a fresh clone at scale smoke, which fetches nothing."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "run", lambda *_: None)
    run.main(["notebook", "01_data", "x.ipynb", "-p", "scale", "smoke"])
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"mnist", "fashion_mnist"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fills", "mnits"], "unknown dataset 'mnits'; did you mean 'mnist'"),
        (["fills", "mnist", "--scale", "quik"], "unknown scale 'quik'; did you mean 'quick'"),
        (["tasks", "--shard", "3/2"], "the shares of 2 are numbered from 0 to 1"),
        (["notebook", "01_dato", "x.ipynb"], "there is no notebook '01_dato' in notebooks/; did you mean '01_data'"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message, monkeypatch):
    """Exit code 1, the nearest valid name, and nothing is computed or written."""
    for module, name in ((cells, "train_network"), (tasks, "fill"), (notebooks, "_execute"), (files, "write")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("something was begun"))
    with pytest.raises(SystemExit) as stop:
        run.main(arguments)
    assert message in stop.value.code and "\n" not in stop.value.code


def test_what_was_done_is_told(monkeypatch, capsys):
    """Which fills qualify, or that none does; how many jobs of a share are done, and what has to be done first."""
    decisions = [pd.DataFrame({"fill": ["zero", "mean", "blur"], "qualifies": [False, each, each]}) for each in (1, 0)]
    monkeypatch.setattr(results, "decide_fills", lambda *_: decisions.pop(0).astype({"qualifies": bool}))
    monkeypatch.setattr(tasks, "fill", lambda study, engine, share: (4, 6, 2) if share == (1, 2) else (6, 6, 0))
    for command, words in (
        ("fills mnist", "Fills that qualify on mnist: mean, blur."),
        ("fills mnist", "Fills that qualify on mnist: none."),
        ("tasks --shard 1/2", "4 of 6 jobs are done; 2 wait for networks of other shares: run this one again."),
        ("tasks", "6 of 6 jobs are done."),
    ):
        run.main([*command.split(), "--scale", "smoke"])
        assert capsys.readouterr().out == f"{words}\n"
