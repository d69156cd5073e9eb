"""The committed results: complete, of one piece, small, and every network in them is the one that its row tells of."""

import json

import numpy as np
import pandas as pd
import pytest

from saqlib import data, training
from saqlib.claims import RULES
from saqlib.findings import VERDICTS
from saqlib.grid import WORDS
from saqlib.quantization import pact_layers
from saqlib.scores import GAINS, PRIMARY
from saqlib.statistics import t_interval
from study import frames, models, paths, settings
from study.settings import Cell

STUDY = settings.load(scale="full")
CELLS = STUDY.grid.cells
LARGEST = 25 * 2**20  # bytes of everything in results/ that git takes
KEYS = ["dataset", "precision", "training", "seed"]

every_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """results/runs.csv, found by dataset, precision, training and seed."""
    return pd.read_csv(paths.RESULTS / "runs.csv", index_col=KEYS).sort_index()


def test_they_fit_into_git():
    """Committed files together stay below the limit; of notebooks that run once for each cell only examples count."""
    found = [path for path in paths.RESULTS.rglob("*") if path.is_file() and path.parent.name != "notebooks"]
    assert sum(path.stat().st_size for path in found) <= LARGEST


def test_every_network_has_one_row_with_every_score(runs):
    """Each seed of each cell, accuracies in percent, no score missing."""
    expected = {(c.dataset, c.precision, c.training, seed) for c in CELLS for seed in range(STUDY.size.seeds)}
    assert set(runs.index) == expected and len(runs) == len(expected)
    assert runs.test_accuracy.between(10, 100).all()
    assert np.isfinite(runs[[*PRIMARY, *GAINS, "sensitivity_max", "dead_rate"]]).all(axis=None)


@every_cell
def test_accuracies_are_those_of_training(runs, cell):
    """runs.csv and the end of each history say what training wrote, of every seed; histories are whole."""
    seeds = frames.report(cell)["seeds"]
    own = runs.loc[cell.dataset, cell.precision, cell.training]
    assert own.test_accuracy.to_dict() == {int(seed): run["test_accuracy"] for seed, run in seeds.items()}
    for run in seeds.values():
        assert [epoch["epoch"] for epoch in run["history"]] == list(range(1, STUDY.size.epochs[cell.dataset] + 1))
        assert run["history"][-1]["validation_accuracy"] == run["validation_accuracy"]


@pytest.mark.parametrize(("table", "columns"), [("accuracy", ["test_accuracy"]), ("clarity", ["gini", "morans_i"])])
def test_tables_are_those_of_the_runs(runs, table, columns):
    """Means and intervals of the tables, computed anew from the rows of runs.csv."""
    found = pd.read_csv(paths.RESULTS / "tables" / f"{table}.csv").rename(columns={"map": "precision"})
    found = found if "metric" in found else found.assign(metric=columns[0])
    found = found.set_index(["dataset", "training", "precision", "metric"])
    for cell in CELLS:
        own = runs.loc[cell.dataset, cell.precision, cell.training]
        for column in columns:
            row = found.loc[(cell.dataset, cell.training, cell.precision, column)]
            expected = t_interval(own[column].to_numpy())
            assert [row["mean"], row.low, row.high] == pytest.approx(list(expected), rel=1e-6, abs=1e-6)


def test_faithfulness_is_the_mean_of_the_fills_that_qualify(runs):
    """By the decision on each dataset; where none qualifies there is none."""
    for dataset in STUDY.grid.datasets:
        columns = [f"relevance_gain_{fill}" for fill in frames.fills(dataset)]
        own = runs.loc[dataset]
        expected = own[columns].mean(axis=1, skipna=False) if columns else np.nan
        np.testing.assert_allclose(own.faithfulness, expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "seeds"), [("grid", 0), ("grid_confirming", STUDY.size.exploring)])
def test_every_comparison_has_its_verdict(name, seeds):
    """Each question of each dataset and training, in one of four words, by as many seeds as there are."""
    found = pd.read_csv(paths.RESULTS / "tables" / f"{name}.csv")
    places = found.groupby(["dataset", "training"]).question.unique().map(list)
    assert len(places) == len(STUDY.grid.datasets) * len(STUDY.grid.trainings)
    assert all(questions == list(STUDY.claims.questions) for questions in places)
    precisions = len(STUDY.grid.precisions)  # with the reference and step by step; and in all of them guidance
    counts = len(places) * (2 * precisions - 3) + len(STUDY.grid.datasets) * precisions
    assert len(found) == counts * len(STUDY.claims.questions)
    assert set(found.word) <= set(WORDS) and set(found.seeds) == {STUDY.size.seeds - seeds}


def test_every_registered_claim_has_a_row():
    """In the order in which they were registered, each with what was expected."""
    found = pd.read_csv(paths.RESULTS / "tables" / "registered.csv")
    registered = [claim.id for claim in STUDY.registered]
    assert list(dict.fromkeys(found.claim)) == list(dict.fromkeys(registered))
    assert found.came.notna().equals(found.expected.notna())


def test_every_comparison_of_every_claim_has_its_verdict():
    """On each dataset and training that it is asked of, in one of four words; registered claims stand below."""
    found = pd.read_csv(paths.RESULTS / "tables" / "claims.csv")
    found = found[~found.claim.isin([claim.id for claim in STUDY.registered])]
    expected = {(claim.id, dataset, training, question, comparison) for claim in STUDY.claims.hypotheses
                for dataset in STUDY.grid.datasets for training in STUDY.grid.trainings for question in claim.questions
                for comparison in RULES[claim.test].comparisons(claim.precisions, STUDY.claims.reference)
                if training == "guided" or not comparison.startswith("guided")}  # fmt: skip
    rows = list(found[["claim", "dataset", "training", "question", "comparison"]].itertuples(index=False, name=None))
    assert set(rows) == expected and len(rows) == len(expected)
    assert set(found.verdict) <= set(VERDICTS)


@every_cell
def test_a_committed_network_is_the_one_of_its_row(cell: Cell):
    """Bits and widths as in params.yaml; its clips and its accuracy on the sample, to the digit, as training wrote."""
    (path,) = (paths.RESULTS / "models").glob(f"{cell}.pt")
    content = models.read_cell(path)
    (seed,) = content["seeds"]
    network = models.restore(content, seed)
    assert (network.precision, network.shape) == (STUDY.precisions[cell.precision], STUDY.shape)
    run = json.loads((paths.RESULTS / "runs" / f"{cell}.json").read_text())["seeds"][str(seed)]
    clips = {name: round(layer.alpha.item(), 6) for name, layer in pact_layers(network).items()}
    assert clips == {name: layer["alpha"] for name, layer in run["history"][-1]["layers"].items()}
    images, labels = data.load(cell.dataset, "test", paths.SAMPLE)
    assert round(training.accuracy(network, images, labels), 4) == run["sample_accuracy"]
