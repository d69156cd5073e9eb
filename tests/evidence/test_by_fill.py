"""Tests of saqlib.evidence.by_fill: every fill for itself, beside those that count."""

import numpy as np
import pandas as pd
import pytest

from saqlib.evidence.by_fill import COLUMNS, alone, by_fill
from saqlib.evidence.claims import evaluate
from saqlib.names import FILLS
from saqlib.pipeline import study
from tests.frames import DATASETS, PRECISIONS, evidence, make_runs

CLAIMS = study.load().claims
FALLS = {"relevance_gain_mean": -8, "relevance_gain_noise": 8, "relevance_gain_zero": -3}


@pytest.fixture(scope="module")
def disagreeing():
    """Faithfulness falls with the bits by the mean and by zeros, rises by noise, and does nothing by blur."""
    runs = make_runs(lambda p, t, m: FALLS.get(m, 0) * PRECISIONS.index(p), datasets=DATASETS)
    found = evidence(runs)
    found.fills["mnist"] = ("mean", "noise")
    return found


def test_a_row_for_every_comparison_and_fill(disagreeing):
    """Those of faithfulness, each with four fills in their order, in the order of the claims."""
    found = by_fill(disagreeing, CLAIMS)
    tests = evaluate(disagreeing, CLAIMS).tests().query("question == 'faithfulness'")
    assert list(found.columns) == COLUMNS
    assert found.fill.tolist() == [*FILLS] * len(tests)
    keys = ["claim", "dataset", "training", "comparison"]
    assert found[keys][::4].to_numpy().tolist() == tests[keys].to_numpy().tolist()


def test_which_fills_count_depends_on_the_dataset(disagreeing):
    """As the table of fills says of each."""
    found = by_fill(disagreeing, CLAIMS)
    counted = found[found.qualifies].groupby("dataset").fill.unique()
    assert {name: tuple(fills) for name, fills in counted.items()} == disagreeing.fills


def test_a_disagreement_is_told(disagreeing):
    """The verdict is undecided; by itself each fill says what it does, with its own estimate."""
    tests = evaluate(disagreeing, CLAIMS).tests().query("claim == 'A2' and question == 'faithfulness'")
    assert set(tests.verdict) == {"undecided"}
    found = by_fill(disagreeing, CLAIMS).query("claim == 'A2' and comparison == 'w2a2 - fp32' and dataset == 'mnist'")
    said = found[found.training == "standard"].set_index("fill").verdict
    assert (said["zero"], said["mean"], said["noise"]) == ("supported", "supported", "opposite")
    assert said["blur"] not in ("supported", "opposite")
    runs = disagreeing.runs["primary"].query("dataset == 'mnist' and training == 'standard'")
    wide = runs.pivot(index="seed", columns="precision", values="relevance_gain_noise")
    row = found[(found.training == "standard") & (found.fill == "noise")]
    np.testing.assert_allclose(row.estimate, (wide.w2a2 - wide.fp32).mean())


def test_alone_leaves_out_where_a_fill_does_not_qualify(disagreeing):
    """On MNIST blur does not count, so it overturns nothing there."""
    assert {family.dataset for family in alone(disagreeing, CLAIMS, "blur")} == {"fashion_mnist"}
    both = alone(disagreeing, CLAIMS, "mean")
    assert {family.dataset for family in both} == set(DATASETS)
    assert {family.question for family in both} == {"faithfulness"}


def test_nothing_qualifies(disagreeing):
    """Every fill is still reported, and none counts."""
    nothing = evidence(make_runs(), fills=())
    found = by_fill(nothing, CLAIMS)
    assert not found.qualifies.any() and pd.notna(found.estimate).all()
