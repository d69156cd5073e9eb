"""The committed results: complete, of one piece, small, and every network in them is the one that its row tells of."""

import io
import json
import shutil
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch

from saqlib import files, paths, stored, words
from saqlib.data import images as data
from saqlib.deployment import explain
from saqlib.deployment.costs import cost
from saqlib.deployment.seed import TOLERANCE, verify
from saqlib.evidence import claims, reading, statistics
from saqlib.evidence.verdicts import VERDICTS
from saqlib.grid import Cell
from saqlib.names import FAITHFULNESS, GAINS, PRESERVATION, PRIMARY, RELEVANCE_GAIN
from saqlib.network.lenet import LeNet
from saqlib.network.quantization import pact_layers
from saqlib.pipeline import study
from saqlib.saliency.gradient import input_gradient
from saqlib.training.looking import accuracy

SETTINGS = study.load(scale="full")
CELLS = SETTINGS.grid.cells
LARGEST = 25 * 2**20  # bytes of everything in results/
KINDS = {"qcdq": "prediction", "packed": "prediction", "explain": "explanation"}  # what each ONNX file says it is
MODELS = paths.RESULTS / "models"

every_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """results/runs.csv, found by dataset, precision, training and seed."""
    return pd.read_csv(paths.RESULTS / "runs.csv", index_col=["dataset", "precision", "training", "seed"]).sort_index()


def own(runs: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The rows of a cell, by seed."""
    return runs.loc[cell.dataset, cell.precision, cell.training]


def report(cell: Cell) -> dict:
    """What training wrote of each seed."""
    return json.loads((paths.RESULTS / "runs" / f"{cell}.json").read_text())["seeds"]


def network(cell: Cell) -> LeNet:
    """The committed network, of seed 0."""
    return stored.restore(stored.read_cell(MODELS / f"{cell}.pt"), 0)


def onnx_file(cell: Cell, kind: str):
    """One of the committed ONNX files of a cell."""
    return MODELS / f"{cell}.{kind}.onnx"


def logits_of(model: LeNet, images: torch.Tensor) -> np.ndarray:
    """What the network answers, (N, 10)."""
    with torch.no_grad():
        return np.concatenate([model(data.as_input(part)).numpy() for part in images.split(500)])


def committed() -> list:
    """Files of results/ that git takes; of the notebooks that run once for each cell only the example."""
    example = "fashion_mnist-w2a2-guided"
    found = [path for path in paths.RESULTS.rglob("*") if path.is_file()]
    return [path for path in found if not path.stem.startswith(("02_train-", "03_clarity-")) or example in path.stem]


# --- tables ---


def test_they_fit_into_git():
    """All committed files together stay below the limit."""
    assert sum(path.stat().st_size for path in committed()) <= LARGEST


def test_every_network_has_one_row_with_every_score(runs):
    """160 networks, accuracies in percent, no score missing."""
    expected = {(c.dataset, c.precision, c.training, seed) for c in CELLS for seed in range(SETTINGS.size.seeds)}
    assert set(runs.index) == expected and len(runs) == len(expected)
    assert runs.test_accuracy.between(10, 100).all()
    assert np.isfinite(runs[[*PRIMARY, "dead_rate"]]).all(axis=None)


@every_cell
def test_accuracies_are_those_of_training(runs, cell):
    """runs.csv says what training wrote, of every seed."""
    assert own(runs, cell).test_accuracy.to_dict() == {int(s): run["test_accuracy"] for s, run in report(cell).items()}


@every_cell
def test_histories_are_whole_and_end_in_the_accuracy_that_is_told(cell):
    """As many epochs as params.yaml says, in order, the last one with the validation accuracy of the network."""
    for run in report(cell).values():
        assert [epoch["epoch"] for epoch in run["history"]] == list(range(1, SETTINGS.size.epochs[cell.dataset] + 1))
        assert run["history"][-1]["validation_accuracy"] == run["validation_accuracy"]
        assert np.isfinite([epoch["loss"] for epoch in run["history"]]).all()


@pytest.mark.parametrize(("table", "metrics"), [("accuracy", ("test_accuracy",)), ("clarity", PRIMARY)])
def test_tables_are_those_of_the_runs(runs, table, metrics):
    """Means and intervals of the tables, computed anew from the rows of runs.csv."""
    found = pd.read_csv(paths.RESULTS / "tables" / f"{table}.csv").rename(columns={"map": "precision"})
    found = found if "metric" in found else found.assign(metric=metrics[0])
    found = found.set_index(["dataset", "training", "precision", "metric"])
    for cell in CELLS:
        for metric in metrics:
            row = found.loc[(cell.dataset, cell.training, cell.precision, metric)]
            expected = statistics.t_interval(own(runs, cell)[metric].to_numpy())
            assert [row["mean"], row.low, row.high] == pytest.approx(list(expected), rel=1e-6, abs=1e-6)


OLD_NAME = "symmetric_relevance_gain"  # of relevance_gain_zero, in results/ until they are made anew


def test_faithfulness_is_the_mean_of_the_fills_that_qualify(runs):
    """By the table of each dataset; the relevance gain with zeros goes by its old name, too."""
    assert list(runs.columns) == [
        "test_accuracy", "gini", "morans_i", "foreground_mass", OLD_NAME, *GAINS, FAITHFULNESS,
        "amplitude", "dead_rate", *(f"preservation_{name}" for name in PRESERVATION),
    ]  # fmt: skip
    np.testing.assert_allclose(runs[OLD_NAME], runs.relevance_gain_zero, rtol=1e-6)
    for dataset in SETTINGS.grid.datasets:
        own = runs.loc[dataset]
        columns = [f"{RELEVANCE_GAIN}_{fill}" for fill in reading.fills(dataset)]
        expected = own[columns].mean(axis=1, skipna=False) if columns else np.nan
        np.testing.assert_allclose(own[FAITHFULNESS], expected, rtol=1e-6)


def test_every_claim_has_its_verdicts():
    """Each question on each dataset, under each training or under the guided one; rows of its own behind each."""
    tests, found = (pd.read_csv(paths.RESULTS / "tables" / f"{name}.csv") for name in ("claims", "verdicts"))
    assert list(tests.columns) == claims.COLUMNS
    expected = {
        (claim.id, claim.group, dataset, training, question)
        for claim in SETTINGS.claims.hypotheses for dataset in SETTINGS.grid.datasets for question in claim.questions
        for training in (("guided",) if claim.test in claims.BETWEEN_TRAININGS else SETTINGS.grid.trainings)
    }  # fmt: skip
    assert set(found[claims.KEYS].itertuples(index=False, name=None)) == expected and len(found) == len(expected)
    assert set(tests[claims.KEYS].itertuples(index=False, name=None)) == expected
    assert {*tests.verdict, *found.verdict} <= set(VERDICTS)


def test_every_verdict_of_the_first_run_stands_beside_the_second_s():
    """All 266, with the reason of each that is another one now."""
    found = pd.read_csv(paths.RESULTS / "tables" / "first_run.csv", keep_default_na=False)
    assert len(found) == 266
    before = found.verdict.replace("not supported", "undecided")
    assert ((found.why == "") <= (before == found.now)).all()


@every_cell
def test_costs_are_those_of_the_network_and_its_files(cell):
    """The row of deployment.csv: bytes, operations and zero weights counted anew, sizes as the files have them."""
    table = pd.read_csv(paths.RESULTS / "deployment.csv", dtype=str).set_index(["dataset", "precision", "training"])
    row = table.loc[(cell.dataset, cell.precision, cell.training)]
    sizes = {f"{kind}_file_bytes": onnx_file(cell, kind).stat().st_size for kind in KINDS}
    expected = files.csv(pd.DataFrame([asdict(cost(network(cell))) | sizes]))
    assert row.to_dict() == pd.read_csv(io.StringIO(expected), dtype=str).iloc[0].to_dict()


# --- networks ---


@every_cell
def test_a_model_file_is_the_cell_that_its_name_says(cell):
    """Cell, bits of every layer and widths as in params.yaml, and one network: that of seed 0."""
    content = stored.read_cell(MODELS / f"{cell}.pt")
    assert content["cell"] == str(cell) and list(content["seeds"]) == [0]
    model = stored.restore(content, 0)
    assert (model.precision, model.shape) == (SETTINGS.precisions[cell.precision], SETTINGS.shape)


def test_swapped_model_files_are_refused(tmp_path):
    """A committed network under the name of another cell is not read."""
    for cell, other in zip(CELLS, CELLS[1:] + CELLS[:1], strict=True):
        shutil.copy(MODELS / f"{cell}.pt", tmp_path / f"{other}.pt")
        with pytest.raises(stored.ModelFileError, match=f"holds {cell}, not the cell of its name"):
            stored.read_cell(tmp_path / f"{other}.pt")


@every_cell
def test_clips_are_those_at_the_end_of_the_history(cell):
    """Each learned clip of the network is, to the last digit told, what training wrote after its last epoch."""
    told = report(cell)["0"]["history"][-1]["layers"]
    assert {name: layer["alpha"] for name, layer in told.items()} == {
        name: round(layer.alpha.item(), 6) for name, layer in pact_layers(network(cell)).items()
    }
    assert bool(told) == SETTINGS.precisions[cell.precision].quantized


@every_cell
def test_onnx_files_are_the_network_of_their_cell(cell):
    """On the sample: equal logits, classes and maps at every level of optimisation, and equal integers."""
    images, _ = data.load(cell.dataset, "test", sample=True)
    verify(network(cell), {kind: onnx_file(cell, kind) for kind in KINDS}, images)
    for kind, says in KINDS.items():
        metadata = {entry.key: entry.value for entry in onnx.load(onnx_file(cell, kind)).metadata_props}
        assert (metadata["cell"], metadata["kind"]) == (str(cell), says)
        assert tuple(json.loads(metadata["classes"])) == words.CLASSES[cell.dataset]


@every_cell
def test_what_a_device_shows_is_the_networks(cell):
    """Class and map of one picture, by the command that needs no PyTorch, are those of the network in PyTorch."""
    images, _ = data.load(cell.dataset, "test", sample=True)
    found = explain.explain(explain.open_model(onnx_file(cell, "explain")), images[0].numpy())
    model, x = network(cell), data.as_input(images[:1])
    expected = input_gradient(model, x)[0].numpy()
    assert found.label == int(model(x).argmax())
    np.testing.assert_allclose(found.map, expected, atol=1e-4 * np.abs(expected).max())


@every_cell
def test_accuracy_on_the_sample_is_what_the_row_says(cell):
    """The committed network, run here on the committed images, gives to the digit what training wrote of it."""
    told = report(cell)["0"]["sample_accuracy"]
    images, labels = data.load(cell.dataset, "test", sample=True)
    assert round(accuracy(network(cell), images, labels), 4) == told


@every_cell
@pytest.mark.parametrize("kind", ["qcdq", "packed"])
def test_accuracy_on_the_sample_is_the_same_from_every_file(cell, kind):
    """onnxruntime alone is right on exactly as many images as PyTorch; for a quantized cell every class is equal."""
    images, labels = data.load(cell.dataset, "test", sample=True)
    session = onnxruntime.InferenceSession(onnx_file(cell, kind), providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"images": data.as_input(images).numpy()})[0].argmax(1)
    expected = logits_of(network(cell), images).argmax(1)
    assert (found == labels.numpy()).sum() == (expected == labels.numpy()).sum()
    if SETTINGS.precisions[cell.precision].quantized:
        np.testing.assert_array_equal(found, expected)


@every_cell
def test_accuracy_on_all_test_images_is_that_of_the_row(runs, cell):
    """Where the images were downloaded: exactly; in full precision but for images that it hardly decides on."""
    try:
        images, labels = data.load(cell.dataset, "test")
    except data.DataError:
        pytest.skip("needs `make data`")
    logits = logits_of(network(cell), images)
    second, first = np.sort(logits, axis=1)[:, -2:].T
    undecided = 0 if SETTINGS.precisions[cell.precision].quantized else (first - second <= 2 * TOLERANCE).sum()
    right = (logits.argmax(1) == labels.numpy()).sum()
    told = own(runs, cell).test_accuracy[0] * len(labels) / 100
    assert told == pytest.approx(round(told), abs=1e-6)
    assert abs(right - round(told)) <= undecided
