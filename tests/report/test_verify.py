"""Tests of saqlib.report.verify: a changed verdict fails, differences count in half-widths, parts are compared."""

import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from saqlib import paths
from saqlib.report import verify

CELLS = [(dataset, training) for dataset in ("mnist", "fashion_mnist") for training in ("standard", "guided")]


@pytest.fixture(autouse=True)
def scratch(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(verify, "REPORT", tmp_path / "build" / "verify.csv")


@pytest.fixture
def committed(tmp_path):
    """results/ with one claim of two tests, and one row per cell in every other table."""
    folder = tmp_path / "committed"
    (folder / "tables").mkdir(parents=True)
    cells = [{"dataset": dataset, "training": training} for dataset, training in CELLS]
    claims = [
        {
            "claim": "A1",
            **cell,
            "question": "accuracy",
            "comparison": pair,
            "estimate": -1.0,
            "low": -1.5,
            "high": -0.5,
        }
        for cell in cells
        for pair in ("w4a4 - fp32", "w2a2 - fp32")
    ]
    write(folder, "claims", claims)
    verdict = {"question": "accuracy", "verdict": "supported"}
    write(folder, "verdicts", [{"claim": "A1", **cell, **verdict} for cell in cells])
    for name in verify.MEASURED:
        write(folder, name, [{**cell, "precision": "fp32", "mean": 90.0, "low": 88.0, "high": 92.0} for cell in cells])
    return folder


def write(folder, name, rows) -> None:
    pd.DataFrame(rows).to_csv(folder / "tables" / f"{name}.csv", index=False)


def edited(committed, tmp_path, name, edit):
    """A copy of the committed results in which `edit` has changed the frame of one table."""
    fresh = tmp_path / "fresh"
    shutil.copytree(committed, fresh)
    frame = pd.read_csv(fresh / "tables" / f"{name}.csv")
    write(fresh, name, edit(frame))
    return fresh


def run(fresh, committed, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        verify.main(["--fresh", str(fresh), "--committed", str(committed)])
    return ended.value.code, capsys.readouterr().out


def test_the_same_results_verify(committed, capsys, tmp_path):
    """Every verdict and number is compared, and every number is written down."""
    code, text = run(committed, committed, capsys)
    assert code == 0
    assert text.endswith("None of 4 verdicts changed; 36 of 36 numbers equal.\nEvery number: build/verify.csv\n")
    assert len(pd.read_csv(tmp_path / "build" / "verify.csv")) == 36


def test_a_changed_verdict_fails_and_is_marked(committed, capsys, tmp_path):
    """One of four is enough, and it is the one that is marked."""

    def edit(frame):
        frame.loc[2, "verdict"] = "undecided"
        return frame

    code, text = run(edited(committed, tmp_path, "verdicts", edit), committed, capsys)
    assert code == 1 and "1 of 4 verdicts changed" in text
    assert [line for line in text.splitlines() if "CHANGED" in line] == [
        "| A1, FashionMNIST, standard, accuracy | supported | undecided (CHANGED) | 2 | 0.00 |  |"
    ]


@pytest.mark.parametrize("name, column, half", [("claims", "estimate", 0.5), ("accuracy", "mean", 2.0)])
def test_difference_is_in_half_widths_of_the_committed_interval(committed, tmp_path, name, column, half):
    """A number that moves by a quarter of its interval's half-width moves by 0.25, up or down, in its own row only."""

    def edit(frame):
        frame.loc[1, column] -= 0.25 * half
        return frame.assign(low=-100.0, high=100.0)  # the fresh interval does not count

    found = verify.numbers(edited(committed, tmp_path, name, edit), committed)
    moved = found[found.difference > 0]
    assert list(moved.table) == [name] and moved.difference.item() == pytest.approx(0.25)
    assert moved.half_width.item() == pytest.approx(half)
    assert moved.number.item().startswith("A1 mnist standard" if name == "claims" else "mnist guided")


def test_numbers_without_an_interval(committed, tmp_path):
    """Two that were not measured are equal; one alone, or a difference where there was no spread, is infinite."""
    frame = pd.read_csv(committed / "tables" / "accuracy.csv")
    frame.loc[0, "mean"] = np.nan
    frame.loc[1:, ["low", "high"]] = 90.0
    write(committed, "accuracy", frame)

    def edit(frame):
        frame.loc[1, "mean"] = np.nan
        frame.loc[2, "mean"] = 90.1
        return frame

    found = verify.numbers(edited(committed, tmp_path, "accuracy", edit), committed)
    assert found[found.table == "accuracy"].difference.tolist() == [0.0, np.inf, np.inf, 0.0]


def test_a_run_on_one_dataset_is_compared_with_its_part(committed, capsys, tmp_path):
    """The other dataset is neither missing nor changed, and the text says that it was not run."""
    fresh = tmp_path / "fresh"
    shutil.copytree(committed, fresh)
    for path in (fresh / "tables").iterdir():
        frame = pd.read_csv(path)
        frame[frame.dataset == "mnist"].to_csv(path, index=False)
    code, text = run(fresh, committed, capsys)
    assert code == 0 and "None of 2 verdicts changed (of 4 committed ones, the others were not run); 18 of 18" in text


def test_a_run_of_other_settings_is_refused(committed, capsys, tmp_path):
    """A precision that the committed run does not know cannot be verified; the message names the row."""
    fresh = edited(committed, tmp_path, "accuracy", lambda frame: frame.assign(precision="w3a3"))
    code, _ = run(fresh, committed, capsys)
    assert "accuracy.csv" in code and "no row mnist standard w3a3" in code and "other settings" in code


def test_results_of_another_version_are_refused(committed, capsys, tmp_path):
    """The first run's verdicts answer no question: which file of which folder, and that another version wrote it."""
    old = edited(committed, tmp_path, "verdicts", lambda frame: frame.drop(columns="question"))
    for fresh, reference in ((committed, old), (old, committed)):
        code, _ = run(fresh, reference, capsys)
        assert code == f"verdicts.csv of {old} has no column question: another version of saqlib wrote it"


@pytest.mark.parametrize("ran", [False, True])
def test_an_untouched_clone_is_not_compared_with_itself(ran, committed, capsys, tmp_path, monkeypatch):
    """Committed results always agree with themselves: where nothing was run, that is said and no verdict printed."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr(paths, "RESULTS", committed)
    if ran:
        (tmp_path / "build" / "executed").mkdir(parents=True)
        (tmp_path / "build" / "executed" / "05_compare.ipynb").touch()
    with pytest.raises(SystemExit) as ended:
        verify.main(["--committed", str(committed)])
    if ran:
        assert ended.value.code == 0 and "None of 4 verdicts changed" in capsys.readouterr().out
    else:
        assert ended.value.code.startswith("nothing has been run here") and not capsys.readouterr().out


def test_missing_results_are_named(committed, capsys, tmp_path):
    """A folder without the tables ends the command with the file that is missing and the command that writes it."""
    code, _ = run(tmp_path / "nothing", committed, capsys)
    assert "verdicts.csv does not exist; `make reproduce` writes it" in code


def test_committed_results_are_those_of_git(committed, capsys, tmp_path):
    """Changed files in the checkout are the fresh run; outside git the folder has to be named."""
    with pytest.raises(SystemExit, match="git has no results/ here .*; name the folder"):
        verify.main(["--fresh", str(committed)])
    shutil.copytree(committed, tmp_path / "results")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "results"], ["commit", "-qm", "results"]):
        subprocess.run([*git, *command], check=True)
    fresh = edited(committed, tmp_path, "verdicts", lambda frame: frame.assign(verdict="opposite"))
    shutil.rmtree(tmp_path / "results")
    shutil.copytree(fresh, tmp_path / "results")
    with pytest.raises(SystemExit) as ended:
        verify.main(["--fresh", str(tmp_path / "results")])
    assert ended.value.code == 1 and "4 of 4 verdicts changed" in capsys.readouterr().out
