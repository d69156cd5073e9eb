"""What `dvc metrics show results/metrics` shows: means of the runs, one row for each cell, narrow enough to read."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from saqlib import paths
from saqlib.pipeline import summary


def test_means_are_those_of_the_runs(tmp_path):
    """Over the seeds; files of cells that are gone are removed."""
    columns = ["dataset", "precision", "training", "seed", *summary.NAMES, "dead_rate"]
    rows = [["mnist", "fp32", "standard", seed, 99 + seed, 0.5 + seed, 0.5, 0.25, 0.125, 0.0] for seed in (0, 1)]
    rows += [["mnist", "w2a2", "guided", 0, 98.12345, 0.25, 0.5, 0.25, 0.125, 0.0]]
    runs = pd.DataFrame(rows, columns=columns)
    (tmp_path / "results" / "metrics").mkdir(parents=True)
    (tmp_path / "results" / "metrics" / "old.json").write_text("{}")
    runs.to_csv(tmp_path / "results" / "runs.csv")
    summary.write(tmp_path)
    found = {path.name: json.loads(path.read_text()) for path in (tmp_path / "results" / "metrics").iterdir()}
    others = {"coherence": 0.5, "faithfulness": 0.25, "amplitude": 0.125}
    assert found == {
        "mnist-fp32-standard.json": {"accuracy": 99.5, "focus": 1.0} | others,
        "mnist-w2a2-guided.json": {"accuracy": 98.1234, "focus": 0.25} | others,
    }


def test_the_committed_ones_are_those_of_the_committed_runs(tmp_path):
    """Drift fails; `python -m saqlib.pipeline.summary` mends it."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs.csv").write_bytes((paths.RESULTS / "runs.csv").read_bytes())
    for path in summary.write(tmp_path):
        assert (paths.RESULTS / "metrics" / path.name).read_text() == path.read_text()


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone as somebody has it who has just cloned."""
    if not (paths.ROOT / ".git").exists():
        pytest.skip("an unpacked archive has no commits to compare")
    folder = tmp_path_factory.mktemp("clone") / "clone"
    subprocess.run(["git", "clone", "-q", paths.ROOT, folder], check=True)
    return folder


def dvc(folder, *arguments: str) -> str:
    """What a command of DVC prints there, called as a person calls it, in a shell with the environment; it succeeds."""
    person = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    named = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | person | named, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_metrics_are_shown_from_a_clone(clone):
    """One line for each cell, labelled, that fits a terminal."""
    shown = dvc(clone, "metrics", "show", "results/metrics").splitlines()
    assert shown[0].split()[:4] == ["Path", "accuracy", "amplitude", "coherence"]
    assert len(shown) == 1 + len(list((clone / "results" / "metrics").iterdir())) and max(map(len, shown)) <= 140


def test_a_change_of_numbers_and_of_settings_is_shown_with_its_names(clone):
    """Beside the last commit: what was accuracy, what it is; which bits were changed."""
    path = clone / "results" / "metrics" / "mnist-w2a2-guided.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"accuracy": values["accuracy"] + 0.5}))
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("fraction: 0.5 ", "fraction: 0.25 "))
    (line,) = dvc(clone, "metrics", "diff", "HEAD", "--targets", "results/metrics").splitlines()[1:]
    assert "mnist-w2a2-guided.json" in line and "accuracy" in line and line.split()[-1] == "0.5"
    (line,) = dvc(clone, "params", "diff", "HEAD").splitlines()[1:]
    assert line.split() == ["params.yaml", "trainings.guided.fraction", "0.5", "0.25"]


def test_plots_have_named_axes(clone, tmp_path):
    """Of the tables that DVC draws."""
    dvc(clone, "plots", "show", "results/deployment.csv", "-o", str(tmp_path / "plots"))
    page = (tmp_path / "plots" / "index.html").read_text()
    for words in ("bytes of the packed file", "bit operations of one prediction"):
        assert words in page


def test_an_experiment_runs_and_is_listed(clone):
    """`dvc exp run -S`: nothing is both in git and in DVC's cache, at which DVC would refuse."""
    dvc(clone, "exp", "run", "--name", "smaller", "--single-item", "-S", "scale=smoke", "source@01_data")
    listed = dvc(clone, "exp", "show", "--csv", "--only-changed").splitlines()
    assert any("smaller" in line and "smoke" in line for line in listed)
    stages = yaml.safe_load((clone / "dvc.yaml").read_text())["stages"].values()
    listing = subprocess.run(["git", "ls-files"], cwd=clone, check=True, capture_output=True, text=True)
    held = listing.stdout.split()
    for stage in stages:
        outs = [out for kind in ("outs", "metrics", "plots") for out in stage.get("do", stage).get(kind, [])]
        for out in (each for each in outs if isinstance(each, str)):  # a name alone is kept in DVC's cache
            pattern = re.compile(re.sub(r"\\\$\\\{[^}]*\}", "[^/]+", re.escape(out)) + "(/.*)?")
            assert not [name for name in held if pattern.fullmatch(name)], out
