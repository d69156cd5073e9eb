"""What the tests of the reading copy share: results of a few rows, and the site itself, built once."""

import importlib.util
import shutil
from pathlib import Path

import pandas as pd
import pytest

from saqlib import paths
from saqlib.site import build

MODULES = paths.ROOT / "site" / "node_modules"
needs_npm = pytest.mark.skipif(
    not (MODULES / "onnxruntime-web").exists(),
    reason="site/node_modules is missing: run `make site`, or `npm ci` in site/",
)
needs_sphinx = pytest.mark.skipif(
    importlib.util.find_spec("myst_nb") is None, reason="Sphinx and myst-nb are not installed: run `make env`"
)
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The reading copy, from the committed results."""
    return build.build(out=tmp_path_factory.mktemp("reading") / "site")


@pytest.fixture
def results(tmp_path) -> Path:
    """results/ of three seeds on one dataset: accuracy falls, Gini stays, guidance makes up for lost faithfulness."""
    scores = {"gini": 0.5, "morans_i": 0.5, "faithfulness": 0.6}
    rows = [
        {"dataset": "mnist", "precision": precision, "training": training, "seed": seed}
        | scores
        | {
            "test_accuracy": 99 - bits + 0.1 * seed,
            "faithfulness": 0.6 - bits * (0.01 if training == "guided" else 0.2) - 0.01 * seed * bits,
        }
        for training in ("standard", "guided")
        for bits, precision in enumerate(("fp32", "w2a2"))
        for seed in range(3)
    ]
    runs = pd.DataFrame(rows)
    folder = tmp_path / "results"
    (folder / "tables").mkdir(parents=True)
    runs.to_csv(folder / "runs.csv", index=False)
    means = runs.groupby(["dataset", "training", "precision"], sort=False).mean().reset_index()
    accuracy = means.rename(columns={"test_accuracy": "mean"})[["dataset", "training", "precision", "mean"]]
    accuracy.to_csv(folder / "tables" / "accuracy.csv", index=False)
    clarity = means.melt(["dataset", "training", "precision"], [*scores], var_name="metric", value_name="mean")
    clarity.rename(columns={"precision": "map"}).to_csv(folder / "tables" / "clarity.csv", index=False)
    return folder
