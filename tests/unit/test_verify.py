"""A fresh run beside the committed one: whatever a claim rests on is compared, and what differs too much is named."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest

from saqlib.claims import Claim
from saqlib.findings import readings
from saqlib.grid import grid
from study import files, paths, run, verify
from tests.helpers import made_evidence as made
from tests.helpers.parameters import RAW
from tests.helpers.workspaces import edit_params


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """params.yaml, and results/ of made-up networks as the pipeline writes them."""
    root, fills = tmp_path_factory.mktemp("committed"), dict.fromkeys(RAW["grid"]["datasets"], made.FILLS)
    claims = made.claims(hypotheses=[Claim("A1", "abstract", "", "loss", ("accuracy",), made.PRECISIONS[1:])])
    maps = made.maps(lambda t, p, m, c: -0.2 * (p != "fp32"), datasets=list(fills))
    runs = made.runs(maps, lambda t, p: -3.0 * (p == "w2a2"))
    verdicts, tests = grid(runs, maps, fills, claims)
    power = pd.DataFrame({"claim": "C1", "comparison": ["w4a4", "w2a2"], "supported": [0.5, 1.0], "refuted": 0.0})
    means = runs.groupby(["dataset", "training", "precision"]).test_accuracy.mean().reset_index(name="mean")
    frames = {
        "runs": runs, "evidence/networks": runs, "evidence/maps": maps, "tables/grid": verdicts, "tables/tests": tests,
        "tables/claims": readings(verdicts, runs, maps, fills, claims), "ablations/edges": runs.assign(changed=True),
        "tables/accuracy": means.assign(low=means["mean"] - 0.1, high=means["mean"] + 0.1, seeds=10),
        "ablations/twenty_epochs": runs[runs.dataset == "fashion_mnist"].assign(changed=True),
        "deployment": means.assign(packed_bytes=16000), "during/mnist-w2a2": means.assign(step=range(len(means))),
        "tables/power": power, "during/fashion_mnist-w2a2": means,
    } | {f"fills/{name}": pd.DataFrame({"fill": made.FILLS, "qualifies": True}) for name in fills}  # fmt: skip
    for name, frame in frames.items():
        files.write(root / "results" / f"{name}.csv", files.csv(frame))
    shutil.copy(paths.PARAMS, root)
    return root / "results"


@pytest.fixture
def fresh(committed, tmp_path, monkeypatch):
    """A copy of it, to be edited."""
    monkeypatch.setattr(verify, "REPORT", tmp_path / "verify.csv")
    return shutil.copytree(committed.parent, tmp_path / "fresh") / "results"


def cells(folder, name, column, rows, value):
    table = pd.read_csv(path := folder / f"{name}.csv", dtype=str, keep_default_na=False)
    for row in np.atleast_1d(table.index[rows]) if rows is not None else ():
        table.loc[row, column] = str(value(float(table.loc[row, column]))) if callable(value) else value
    table.drop(columns=[] if rows is not None else column).to_csv(path, index=False)


def lines(folder, keep, *names):
    for path in [folder / f"{name}.csv" for name in names]:
        path.write_text("".join(keep(path.read_text().splitlines(True))))


def gone(folder, *names):
    for path in map(folder.joinpath, names):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


GRID, CLAIMS, ACCURACY, TABLES = "tables/grid", "tables/claims", "tables/accuracy", ("accuracy", "claims", "grid")
EMPTY, CELL = lambda every: every[:1], slice(0, 10)  # noqa: E731  ten seeds of one network
EDITS = {  # and what is said of each
    "every table emptied": ((lines, EMPTY, *(f"tables/{t}" for t in TABLES)), "claims.csv: no row is in both"),
    "networks emptied": ((lines, EMPTY, "runs"), "runs.csv: no row is in both"),
    "a measured table gone": ((gone, f"{ACCURACY}.csv"), "accuracy.csv cannot be read"),
    "everything gone": ((gone, "tables", "evidence", "fills", "ablations", "runs.csv"), "runs.csv cannot be read"),
    "nothing in a file": ((lines, lambda x: [], CLAIMS), "claims.csv cannot be read: No columns"),
    "a file cut": ((lines, lambda x: ["".join(x)[:900]], CLAIMS), "tables/claims.csv"),
    "no text": ((lambda folder: (folder / "runs.csv").write_bytes(b"\xff\x00"),), "runs.csv cannot be read"),
    "a row gone": ((lines, lambda x: x[:-1], GRID), "guided - standard, w2a2: missing (committed: there)"),
    "a row more": ((lines, lambda x: [*x, x[-1]], GRID), "guided - standard, w2a2: there (committed: missing)"),
    "a dataset gone": ((lines, lambda x: [line for line in x if line[0] != "m"], "runs"), "runs.csv: row mnist"),
    "a column gone": ((cells, GRID, "p_holm", None, ""), "grid.csv: column p_holm: missing (committed: there)"),
    "a key gone": ((cells, GRID, "question", None, ""), "grid.csv: column question: missing (committed: there)"),
    "a word": ((cells, GRID, "word", 2, "higher"), "w2a2 - fp32: word: higher (committed: lower)"),
    "a verdict": ((cells, CLAIMS, "verdict", 2, "undecided"), "verdict: undecided (committed: supported)"),
    "p": ((cells, GRID, "p_holm", 2, "0.9"), "p_holm: 0.9"),
    "an interval": ((cells, CLAIMS, "low", 2, lambda x: x - 1), "w2a2 - fp32: low"),
    "an estimate": ((cells, CLAIMS, "estimate", 2, lambda x: -x), "w2a2 - fp32: estimate"),
    "a mean 20 points off": ((cells, ACCURACY, "mean", 0, lambda x: x - 20), "fashion_mnist guided fp32: mean"),
    "seeds": ((cells, GRID, "seeds", 0, "9"), "seeds: 9 (committed: 10)"),
    "a margin": ((cells, GRID, "margin", 0, lambda x: x / 2), "margin: 0.25 (committed: 0.5)"),
    "a power": ((cells, "tables/power", "refuted", 1, "0.07"), "C1 w2a2: refuted: 0.07 (committed: 0"),
    "one accuracy": ((cells, "runs", "test_accuracy", 3, lambda x: x - 20), "standard fp32 3: test_accuracy"),
    "no accuracy": ((cells, "runs", "test_accuracy", 3, ""), "3: test_accuracy: - (committed: 9"),
    "evidence": ((cells, "evidence/networks", "gini", CELL, lambda x: x + 0.5), "networks.csv: mnist standard fp32"),
    "a fill": ((cells, "fills/mnist", "qualifies", 0, "False"), "mean: qualifies: False (committed: True)"),
    "an ablation": ((cells, "ablations/edges", "gini", CELL, lambda x: x + 0.5), "ablations/edges.csv: mnist"),
    "a cost": ((cells, "deployment", "packed_bytes", 0, lambda x: 9 * x), "packed_bytes: 144000.0 (committed: 1"),
    "a course": ((cells, "during/mnist-w2a2", "mean", 0, lambda x: x - 50), "during/mnist-w2a2.csv: "),
    "a setting": ((lambda folder: edit_params(folder.parent, claims__level=0.1),), "params.yaml: claims is another"),
    "settings gone": ((gone, "../params.yaml"), "params.yaml: beside results/: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", EDITS)
def test_whatever_differs_is_named_and_fails(fresh, committed, kind, capsys):
    """One edit of each kind: a line, exit code 1, and no traceback."""
    (edit, *what), words = EDITS[kind]
    edit(fresh, *what)
    with pytest.raises(SystemExit, match="1"):
        run.main(["verify", "--fresh", str(fresh), "--committed", str(committed)])
    assert words in capsys.readouterr().out


def test_what_may_differ_is_counted(fresh, committed):
    """Nothing; a number within its interval, in half-widths; two seeds exchanged; what decides nothing."""
    text, same = verify.verify(fresh, committed)
    every = [pd.read_csv(path).drop(columns=[*verify.KEYS], errors="ignore") for path in committed.rglob("*.csv")]
    numbers = sum(frame.select_dtypes("number").notna().to_numpy().sum() for frame in every)
    assert same and f"15 files: 0 of {numbers:.0f} numbers differ.\n0 differences are too large." in text
    cells(fresh, ACCURACY, "mean", 1, lambda x: x + 0.025)
    cells(fresh, "tables/power", "refuted", 1, "0.06")
    cells(fresh, "runs", "seed", slice(0, 2), lambda seed: 1 - int(seed))
    edit_params(fresh.parent, device="cpu", scales__smoke__images=30)
    text, same = verify.verify(fresh, committed)
    assert same and "| tables/accuracy.csv | 16 of 16 | 64 | 1 | 0.25 | 0 |" in text
    assert "| runs.csv | 160 of 160 | 1120 | 14 | 0.00 | 0 |" in text and len(pd.read_csv(verify.REPORT)) == 16


def test_a_run_on_part_of_the_grid_is_compared_with_that(fresh, committed):
    """The other dataset and what ablates it alone are left out, which is said; with params.yaml's, missing (above)."""
    for path in fresh.rglob("*.csv"):
        path.write_text("".join(line for line in path.read_text().splitlines(True) if "fashion" not in line))
    gone(fresh, "fills/fashion_mnist.csv", "ablations/twenty_epochs.csv")
    edit_params(fresh.parent, grid__datasets=["mnist"])
    text, same = verify.verify(fresh, committed)
    assert (
        same
        and "left out: batch_norm, fashion_mnist, twenty_epochs." in text
        and "| runs.csv | 80 of 80 |" in text
        and "during/fashion" not in text
    )


def test_there_must_be_something_to_compare(fresh, committed, monkeypatch, tmp_path):
    """No git; an untouched clone; results that were restored after the run."""
    for name, place in (("ROOT", tmp_path), ("BUILD", tmp_path), ("RESULTS", fresh)):
        monkeypatch.setattr(paths, name, place)
    with pytest.raises(verify.VerifyError, match="git has no results/ here .*; name the folder"):
        verify.verify(fresh)
    with pytest.raises(verify.VerifyError, match="nothing has been run here"):
        verify.verify(committed=committed)
    files.write(tmp_path / verify.EXECUTED, "{}")
    assert verify.verify(committed=committed)[1]
    os.utime(fresh / "runs.csv", (later := (tmp_path / verify.EXECUTED).stat().st_mtime + 10, later))
    with pytest.raises(verify.VerifyError, match="results/ have changed since the run here"):
        verify.verify(committed=committed)
