"""Verdicts can be computed again from the committed CSVs by code that shares nothing with ours."""

import numpy as np
import pandas as pd
import pytest

from saqlib import files, paths
from saqlib.evidence.claims import evaluate
from saqlib.evidence.runs import collect
from saqlib.evidence.verdicts import VERDICTS
from saqlib.pipeline import study
from saqlib.report import tables, verdict_tables
from tests.evidence.twin import LABELS, recomputed
from tests.evidence.written import write_cell, write_fills
from tests.parameters import RAW

STUDY = study.load()
STEPS = {"fp32": 0.0, "w4a4": 0.06, "mixed": 0.25, "w2a2": 0.5}


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch):
    """In every call statsmodels' correction collects garbage: a tenth of a second, hundreds of times."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def planted(cell, score, method):
    """Gini falls with the bits, Moran's I rises; gains fall under most fills; guidance helps, more so at few bits."""
    fall, guided = STEPS[cell.precision], cell.training == "guided"
    if score == "morans_i":
        return 0.6 * fall + 1.0
    if score == "blur" and cell.dataset == "mnist":
        return 1.0
    return 1.0 - fall + guided * (0.3 + 0.5 * fall)


def accurate(cell):
    """Four bits cost next to nothing, two bits three points."""
    return 95 - {"fp32": 0, "w4a4": 0.02, "mixed": 1.5, "w2a2": 3}[cell.precision]


def write_results(root, seeds):
    """results/ below `root`, as the notebook writes it, of made-up networks with those effects."""
    rng = np.random.default_rng(11)
    for cell in STUDY.grid.cells:
        write_cell(root, cell, rng, seeds=seeds, effect=planted, accuracy=accurate, errors=0.02)
    write_fills(root, "mnist", ["mean", "noise"])
    found = collect(STUDY.grid, "fp32", root)
    for name, frame in found.per_seed().items():
        files.write(root / "results" / "evidence" / f"{name}.csv", files.csv(frame))
    answers = evaluate(found.evidence, STUDY.claims)
    tables.write(verdict_tables.claims(answers.tests(), STUDY.claims.questions), root / "results" / "tables")
    summary = answers.verdicts().assign(firm=True, about="")
    tables.write(verdict_tables.verdicts(summary), root / "results" / "tables")


def check(results):
    """claims.csv and verdicts.csv are what the twin finds; the words that it finds."""
    tests, answers = recomputed(results, RAW["claims"])
    written = pd.read_csv(results / "tables" / "claims.csv")
    keys = [*LABELS, "comparison"]
    pd.testing.assert_frame_equal(written[keys], tests[keys])
    np.testing.assert_allclose(written[["p", "p_holm"]], tests[["p", "p_holm"]], rtol=1e-6)
    pd.testing.assert_series_equal(written.verdict, tests.verdict)
    whole = pd.read_csv(results / "tables" / "verdicts.csv")
    pd.testing.assert_frame_equal(whole[[*LABELS, "verdict"]], answers)
    return set(tests.verdict) | set(answers.verdict)


@pytest.mark.parametrize(("seeds", "words"), [(10, set(VERDICTS)), (2, {"undecided"})])
def test_made_up_results_are_computed_again(tmp_path, seeds, words):
    """From CSVs of ten seeds, with every word among them, and of two, as at smoke and quick."""
    write_results(tmp_path, seeds)
    assert check(tmp_path / "results") == words


def test_the_committed_results_are_computed_again():
    """Those of the paper."""
    if not (paths.RESULTS / "evidence" / "networks.csv").exists():
        pytest.skip("the first run did not keep the numbers of every seed")
    check(paths.RESULTS)
