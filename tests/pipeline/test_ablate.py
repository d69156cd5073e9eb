"""The command of an ablation: what it trains, what it takes from the store, and what it writes."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from dvc.repo import Repo

from saqlib import paths
from saqlib.evidence import reading
from saqlib.evidence.ablations import effects
from saqlib.pipeline import ablate, run, study
from saqlib.training import cell as cells
from saqlib.training import loop
from saqlib.workers import Engine

VARIANT = "edges_same"


@pytest.fixture
def trained(tmp_path, monkeypatch) -> list[tuple[str, int]]:
    """A build folder of the test's own; the precision and seed of every network that is really trained."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)  # in this process, where the spy is
    found: list[tuple[str, int]] = []
    real = loop.train_together

    def noting(networks, images, *, seeds, **options):
        found.extend((networks[0].precision.name, seed) for seed in seeds)
        return real(networks, images, seeds=seeds, **options)

    monkeypatch.setattr(loop, "train_together", noting)
    return found


def test_an_ablation_trains_what_its_patch_changes_and_nothing_twice(trained, tmp_path):
    """Full precision is the main grid's, from the store; a second run of the same command computes nothing."""
    main = study.load(scale="smoke")
    for dataset in ("mnist", "fashion_mnist"):
        cell = main.cell(dataset, "fp32", "standard")
        cells.train_cell(cell, main.recipe(cell), 2, Engine(device="cpu"), n_jobs=1)
    trained.clear()
    table = ablate.ablate(VARIANT, "smoke", tmp_path)
    assert trained == [("w2a2", 0), ("w2a2", 1)] * 2
    assert table.groupby(["dataset", "precision"], sort=False).size().tolist() == [2] * 4
    written = (tmp_path / "results" / "ablations" / f"{VARIANT}.csv").read_bytes()
    trained.clear()
    ablate.ablate(VARIANT, "smoke", tmp_path / "again")
    assert trained == []
    assert (tmp_path / "again" / "results" / "ablations" / f"{VARIANT}.csv").read_bytes() == written
    frame = pd.read_csv(tmp_path / "results" / "ablations" / f"{VARIANT}.csv")
    assert (frame.changed == (frame.precision == "w2a2")).all()
    assert frame.notna().all().all() and frame.test_accuracy.between(10, 100).all()


def test_a_scale_without_ablations_writes_a_table_without_rows(trained, tmp_path):
    """Nothing is trained, and whoever compares finds the file and no network in it."""
    assert ablate.ablate(VARIANT, "quick", tmp_path).empty and not trained
    assert reading.ablation(VARIANT, tmp_path).empty and reading.ablation("none", tmp_path).empty


def test_a_scale_without_ablations_costs_no_pytorch(tmp_path):
    """`make quick` asks for every variant in turn, and none of them is run."""
    script = (
        "import sys; from pathlib import Path; from saqlib.pipeline import ablate;"
        f"ablate.ablate({VARIANT!r}, 'quick', Path({str(tmp_path)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_network_that_diverges_ends_it_with_what_the_training_says(trained, tmp_path, monkeypatch):
    """An error that the command tells in one line, and no table."""

    def diverging(*_, **__):
        raise loop.DivergedError("seed 0: the loss is no number any more")

    monkeypatch.setattr(loop, "train_together", diverging)
    with pytest.raises(ablate.AblationError, match="^mnist-fp32-standard, seed 0: the loss is no number any more$"):
        ablate.ablate(VARIANT, "smoke", tmp_path)
    assert not (tmp_path / "results").exists()


def test_a_new_variant_is_one_entry(trained, tmp_path, monkeypatch):
    """An entry in a copy of the checkout: a stage of its own, a table, and a place among the effects."""
    entry = {
        "question": "Does another rate of learning change it?", "patch": {"optimizer.learning_rate": 0.003},
        "datasets": ["mnist"], "precisions": ["fp32", "w2a2"], "trainings": ["standard"], "seeds": 1,
    }  # fmt: skip
    copy = run.workspace(tmp_path / "copy", "smoke", ablations={"slower": entry})
    with Repo.init(copy, no_scm=True, force=True) as repo:
        assert "ablate@slower" in {stage.addressing.split(":")[-1] for stage in repo.index.stages}
    monkeypatch.setattr(paths, "PARAMS", copy / "params.yaml")
    table = ablate.ablate("slower", "smoke", tmp_path)
    assert trained == [("fp32", 0), ("w2a2", 0)] and table.changed.all()
    settings = study.load()
    assert settings.ablations.keys() == {*study.load(paths.ROOT / "params.yaml").ablations, "slower"}
    main = table.assign(**{name: 0.5 for name in table.select_dtypes("float")})
    variants = {name: reading.ablation(name, tmp_path) for name in settings.ablations}
    found = effects(main, variants, settings.claims.questions, "fp32", {"mnist": ("blur",)})
    assert set(found.variant) == {"slower"} and found.estimate.notna().all()


def test_an_unknown_variant_is_one_line():
    """With the nearest valid name and exit code 1."""
    command = [sys.executable, "-m", "saqlib.pipeline.ablate", "edge_same", "--scale", "smoke"]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(command, cwd=paths.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "did you mean 'edges_same'" in done.stderr
