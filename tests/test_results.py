"""The committed results: complete, of one piece, small, and their networks are what the tables say."""

import json

import numpy as np
import pandas as pd
import pytest

from saqlib import config, data, experiment, explain, paths, statistics, training
from saqlib.clarity import PRIMARY
from saqlib.saliency import input_gradient

SETTINGS = config.load()
CELLS = SETTINGS.grid.cells
LARGEST = 25 * 2**20  # bytes of everything in results/


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return pd.read_csv(paths.RESULTS / "runs.csv")


def committed() -> list:
    """Files of results/ that git takes; of the notebooks that run once a cell only the example."""
    example = "fashion_mnist-w2a2-guided"
    files = [path for path in paths.RESULTS.rglob("*") if path.is_file()]
    return [path for path in files if not path.stem.startswith(("02_train-", "03_clarity-")) or example in path.stem]


def test_they_fit_into_git():
    assert sum(path.stat().st_size for path in committed()) <= LARGEST


def test_every_network_has_one_row_with_every_score(runs):
    """160 networks, accuracies in percent, no score missing."""
    keys = ["dataset", "precision", "training", "seed"]
    expected = {(*map(str, (c.dataset, c.precision, c.training)), s) for c in CELLS for s in range(SETTINGS.size.seeds)}
    assert set(runs[keys].itertuples(index=False, name=None)) == expected and len(runs) == len(expected)
    assert runs.test_accuracy.between(10, 100).all()
    assert np.isfinite(runs[[*PRIMARY, "dead_rate"]]).all(axis=None)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_accuracies_are_those_of_training(runs, cell):
    """runs.csv says what training wrote."""
    report = json.loads((paths.RESULTS / "runs" / f"{cell}.json").read_text())["seeds"]
    own = runs[(runs.dataset == cell.dataset) & (runs.precision == cell.precision) & (runs.training == cell.training)]
    assert own.set_index("seed").test_accuracy.to_dict() == {int(s): run["test_accuracy"] for s, run in report.items()}


@pytest.mark.parametrize(("table", "metrics"), [("accuracy", ("test_accuracy",)), ("clarity", PRIMARY)])
def test_tables_are_those_of_the_runs(runs, table, metrics):
    """Means and intervals of the tables, computed anew from the rows of runs.csv."""
    found = pd.read_csv(paths.RESULTS / "tables" / f"{table}.csv").rename(columns={"map": "precision"})
    found = found if "metric" in found else found.assign(metric=metrics[0])
    found = found.set_index(["dataset", "training", "precision", "metric"])
    for (dataset, mode, precision), group in runs.groupby(["dataset", "training", "precision"]):
        for metric in metrics:
            row = found.loc[(dataset, mode, precision, metric)]
            expected = statistics.t_interval(group[metric].to_numpy())
            assert [row["mean"], row.low, row.high] == pytest.approx(list(expected), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_committed_network_is_as_good_as_its_row(runs, cell):
    """On the sample of the test images, which are a few hundred: within ten points of its accuracy on all of them."""
    content = experiment.read_cell(paths.RESULTS / "models" / f"{cell}.pt")
    network = experiment.restore(content, 0)
    images, labels = data.load(cell.dataset, "test", sample=True)
    row = runs.query("dataset == @cell.dataset and precision == @cell.precision and training == @cell.training")
    expected = row.set_index("seed").test_accuracy[0]
    assert training.accuracy(network, images, labels) == pytest.approx(expected, abs=10)


@pytest.mark.parametrize("cell", ["mnist-w2a2-guided", "fashion_mnist-mixed-standard"])
def test_the_committed_onnx_files_are_the_committed_networks(cell):
    """Class and map of one picture, with onnxruntime alone, are those of the network in PyTorch."""
    network = experiment.restore(experiment.read_cell(paths.RESULTS / "models" / f"{cell}.pt"), 0)
    images, _ = data.load(cell.split("-")[0], "test", sample=True)
    x = training.as_input(images[:1])
    found = explain.explain(explain.open_model(paths.RESULTS / "models" / f"{cell}.explain.onnx"), images[0].numpy())
    expected = input_gradient(network, x)[0].numpy()
    assert found.label == int(network(x).argmax())
    np.testing.assert_allclose(found.map, expected, atol=1e-4 * np.abs(expected).max())
