"""A fresh run beside the committed one: a changed verdict fails, differences count in half-widths, parts compare."""

import shutil

import numpy as np
import pandas as pd
import pytest

from study import paths, verify
from study.verify import VerifyError

CELLS = [(dataset, training) for dataset in ("mnist", "fashion_mnist") for training in ("standard", "guided")]


@pytest.fixture(autouse=True)
def scratch(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(verify, "REPORT", tmp_path / "build" / "verify.csv")


@pytest.fixture
def committed(tmp_path):
    """results/ with one claim of two tests, and one row per cell in every other table."""
    cells = pd.DataFrame(CELLS, columns=["dataset", "training"])
    claim = cells.assign(claim="A1", question="accuracy")[["claim", "dataset", "training", "question"]]
    pairs = [claim.assign(comparison=f"{name} - fp32", estimate=-1.0, low=-1.5, high=-0.5) for name in ("w4a4", "w2a2")]
    write(tmp_path / "committed", "claims", pd.concat(pairs))
    write(tmp_path / "committed", "verdicts", claim.assign(verdict="supported"))
    for name in verify.MEASURED:
        write(tmp_path / "committed", name, cells.assign(precision="fp32", mean=90.0, low=88.0, high=92.0))
    return tmp_path / "committed"


def write(folder, name, frame) -> None:
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "tables" / f"{name}.csv", index=False)


def edited(committed, name, edit):
    """A copy of the committed results in which `edit` has changed the frame of one table."""
    fresh = shutil.copytree(committed, committed.parent / "fresh")
    frame = pd.read_csv(fresh / "tables" / f"{name}.csv")
    changed = edit(frame)
    write(fresh, name, frame if changed is None else changed)
    return fresh


def test_the_same_results_verify(committed, tmp_path):
    """Every verdict and number is compared, and every number is written down."""
    text, same = verify.verify(committed, committed)
    assert same and text.endswith("None of 4 verdicts changed; 36 of 36 numbers equal.\nEvery number: build/verify.csv")
    assert len(pd.read_csv(tmp_path / "build" / "verify.csv")) == 36


def test_a_changed_verdict_fails_and_is_marked(committed):
    """One of four is enough, and it is the one that is marked."""
    words = ["supported", "supported", "undecided", "supported"]
    fresh = edited(committed, "verdicts", lambda frame: frame.__setitem__("verdict", words))
    text, same = verify.verify(fresh, committed)
    assert not same and "1 of 4 verdicts changed" in text
    assert [line for line in text.splitlines() if "CHANGED" in line] == [
        "| A1, FashionMNIST, standard, accuracy | supported | undecided (CHANGED) | 2 | 0.00 |  |"
    ]


@pytest.mark.parametrize("name, column, half", [("claims", "estimate", 0.5), ("accuracy", "mean", 2.0)])
def test_difference_is_in_half_widths_of_the_committed_interval(committed, name, column, half):
    """A number that moves by a quarter of its interval's half-width moves by 0.25, up or down, in its own row only."""

    def edit(frame):
        frame.loc[1, column] -= 0.25 * half
        return frame.assign(low=-100.0, high=100.0)  # the fresh interval does not count

    found = verify.numbers(edited(committed, name, edit), committed)
    moved = found[found.difference > 0]
    assert list(moved.table) == [name] and moved.difference.item() == pytest.approx(0.25)
    assert moved.half_width.item() == pytest.approx(half)


def test_numbers_without_an_interval(committed):
    """Two that were not measured are equal; one alone, or a difference where there was no spread, is infinite."""
    frame = pd.read_csv(committed / "tables" / "accuracy.csv")
    frame.loc[0, "mean"], frame.loc[1:, ["low", "high"]] = np.nan, 90.0
    write(committed, "accuracy", frame)
    fresh = edited(committed, "accuracy", lambda frame: frame.__setitem__("mean", [np.nan, np.nan, 90.1, 90.0]))
    found = verify.numbers(fresh, committed)
    assert found[found.table == "accuracy"].difference.tolist() == [0.0, np.inf, np.inf, 0.0]


def test_a_run_on_one_dataset_is_compared_with_its_part(committed):
    """The other dataset is neither missing nor changed, and the text says that it was not run."""
    fresh = shutil.copytree(committed, committed.parent / "fresh")
    for path in (fresh / "tables").iterdir():
        frame = pd.read_csv(path)
        frame[frame.dataset == "mnist"].to_csv(path, index=False)
    text, same = verify.verify(fresh, committed)
    assert same and "None of 2 verdicts changed (of 4 committed ones, the others were not run); 18 of 18" in text


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("accuracy", lambda frame: frame.assign(precision="w3a3"), "accuracy.csv.*no row mnist standard w3a3.*setting"),
        ("verdicts", lambda frame: frame.drop(columns="question"), "verdicts.csv of .* has no column question"),
    ],
)
def test_a_run_of_other_settings_or_another_version_is_refused(committed, name, edit, message):
    """What cannot be compared is named, with its file."""
    with pytest.raises(VerifyError, match=message):
        verify.verify(edited(committed, name, edit), committed)


def test_what_is_missing_is_named(committed, monkeypatch, tmp_path):
    """A folder without tables, no git, and an untouched clone, which would be compared with itself."""
    with pytest.raises(VerifyError, match="verdicts.csv does not exist; `make reproduce` writes it"):
        verify.verify(tmp_path / "nothing", committed)
    with pytest.raises(VerifyError, match="git has no results/ here .*; name the folder"):
        verify.verify(committed)
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr(paths, "RESULTS", committed)
    with pytest.raises(VerifyError, match="nothing has been run here"):
        verify.verify(committed=committed)
    (tmp_path / "build" / "executed").mkdir(parents=True)
    (tmp_path / "build" / "executed" / "05_compare.ipynb").touch()
    assert verify.verify(committed=committed)[1]
