"""The committed results: complete, of one piece, small, and every network in them is the one that its row tells of."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saqlib import data, training
from saqlib.quantization import pact_layers
from saqlib.scores import GAINS, PRIMARY
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
    """All files together stay below the limit."""
    assert sum(path.stat().st_size for path in paths.RESULTS.rglob("*") if path.is_file()) <= LARGEST


def test_the_readme_says_of_every_file_what_it_holds():
    """Each of its rows has files, and each file a row: also none is left of an earlier grid or of another name."""
    rows = [row.split("|")[1] for row in (paths.RESULTS / "README.md").read_text().splitlines() if row[:3] == "| `"]
    named = [{"README.md"}]
    for pattern in re.findall(r"`([^`]+)`", "".join(rows)):
        names = {"<cell>": map(str, CELLS), "<dataset>": STUDY.grid.datasets, "<variant>": STUDY.ablations}
        (kind,) = [name for name in names if name in pattern] or ["*"]
        asked = [pattern.replace(kind, each) for each in names.get(kind, ["*"])]
        named += [{str(path.relative_to(paths.RESULTS)) for path in paths.RESULTS.glob(each)} for each in asked]
    there = {str(path.relative_to(paths.RESULTS)) for path in paths.RESULTS.rglob("[!.]*") if path.is_file()}
    assert all(named) and {name for name in there if "/." not in name} == set().union(*named)


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


def test_networks_have_the_same_numbers_in_both_tables(runs):
    """Means of tables are computed again from evidence/networks.csv, verdicts from runs.csv."""
    found = pd.read_csv(paths.RESULTS / "evidence" / "networks.csv", index_col=KEYS).query("images == 'primary'")
    pd.testing.assert_frame_equal(found.drop(columns="images").sort_index(), runs)


def test_faithfulness_is_the_mean_of_the_fills_that_qualify(runs):
    """By the decision on each dataset; where none qualifies there is none."""
    for dataset in STUDY.grid.datasets:
        columns = [f"relevance_gain_{fill}" for fill in frames.fills(dataset)]
        own = runs.loc[dataset]
        expected = own[columns].mean(axis=1, skipna=False) if columns else np.nan
        np.testing.assert_allclose(own.faithfulness, expected, rtol=1e-6)


def test_every_registered_claim_has_a_row():
    """In the order in which they were registered, each with what was expected."""
    found = pd.read_csv(paths.RESULTS / "tables" / "registered.csv")
    registered = [claim.id for claim in STUDY.registered]
    assert list(dict.fromkeys(found.claim)) == list(dict.fromkeys(registered))
    assert found.came.notna().equals(found.expected.notna())


def test_every_figure_fits_its_page():
    """At the width of an A4 page's text, 17.5 cm, with three lines of words below."""
    sizes = {}
    for path in (paths.RESULTS / "figures").glob("*.png"):
        with Image.open(path) as picture:
            sizes[path.stem] = picture.size
    assert len(sizes) > 12 and {name for name, (width, height) in sizes.items() if 17.5 * height / width > 24} == set()


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
