"""Tests of saqlib.evidence.first_run: nothing of the first run is lost, and changes are ascribed to what made them."""

import io
import subprocess

import pandas as pd
import pytest

from saqlib import paths
from saqlib.evidence.claims import evaluate
from saqlib.evidence.first_run import COLUMNS, COUNTERPARTS, FOLDER, KEYS, _why, first_evidence, first_run
from saqlib.evidence.statistics import paired_sign_flip
from saqlib.pipeline import study
from tests.frames import DATASETS, PRECISIONS, evidence, make_runs

FROZEN = study.load().claims
COMMIT = "4b7e3b2"


def second(effect=None, **options):
    """The table for a made-up second run."""
    both = evidence(make_runs(effect, datasets=DATASETS, **options))
    return first_run(both, FROZEN, evaluate(both, FROZEN))


def falling(precision, training, metric):
    """Everything falls with every step."""
    return -8 * PRECISIONS.index(precision)


def committed(path):
    """A file of the first run as git has it; skips where the history is not there."""
    done = subprocess.run(["git", "show", f"{COMMIT}:{path}"], cwd=paths.ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this checkout is without the first run's history")
    return pd.read_csv(io.StringIO(done.stdout))


@pytest.mark.parametrize(("name", "path"), [("claims", "results/tables/claims.csv"), ("runs", "results/runs.csv")])
def test_the_copy_is_what_was_committed(name, path):
    """Every row, and of the columns those that are kept, value by value."""
    kept, first = pd.read_csv(FOLDER / f"{name}.csv"), committed(path)
    pd.testing.assert_frame_equal(kept, first[list(kept.columns)])


def test_every_verdict_of_the_first_run_is_there():
    """266 rows in their order with their words, whatever the second run finds; fewer where less was run."""
    table, first = second(), pd.read_csv(FOLDER / "claims.csv")
    assert list(table.columns) == COLUMNS and len(table) == len(first) == 266
    pd.testing.assert_frame_equal(table[[*KEYS, "verdict"]], first[[*KEYS, "verdict"]])
    narrow = evidence(make_runs())
    assert set(first_run(narrow, FROZEN, evaluate(narrow, FROZEN)).dataset) == {"mnist"}


def test_every_verdict_has_a_counterpart_or_a_reason_for_none():
    """Foreground mass and the compound word have none; every other has today's claim, question, comparison, word."""
    table = second(falling)
    none = table[table.now_claim == ""]
    assert set(none.metric) == {"clarity", "foreground_mass"} and (none.why != "").all() and set(none.now) == {""}
    there = table[table.now_claim != ""]
    assert (there.now != "").all() and (there.new_networks != "").all()
    assert set(there[there.new_rule == ""].claim) == {"H9"}, (
        "its images were not kept, so no word for the first networks"
    )
    assert dict(zip(there.claim, there.now_claim, strict=True)) == {h: a for h, (a, _) in COUNTERPARTS.items()}
    words = {"test_accuracy": "accuracy", "gini": "focus", "morans_i": "coherence",
             "symmetric_relevance_gain": "faithfulness"}  # fmt: skip
    assert (there.question == there.metric.map(words)).all()


def test_the_words_now_are_those_of_the_answers():
    """Row by row: of a comparison its own, of a test over all precisions that of the whole question."""
    both = evidence(make_runs(falling, datasets=DATASETS))
    answers = evaluate(both, FROZEN)
    rows = answers.tests().set_index(["claim", "dataset", "training", "question", "comparison"]).verdict
    whole = answers.verdicts().set_index(["claim", "dataset", "training", "question"]).verdict
    for row in first_run(both, FROZEN, answers).query("now_claim != ''").itertuples():
        place = row.now_claim, row.dataset, row.training, row.question
        assert row.now == (rows[*place, row.now_comparison] if row.now_comparison else whole[place])


def test_the_new_rule_on_the_first_networks():
    """From the first run's own scores by seed: of a difference the same p-value as then, in a family of its own."""
    tests = evaluate(first_evidence(), FROZEN).tests()
    first = pd.read_csv(FOLDER / "claims.csv")
    now = tests.query("claim == 'A2'").set_index(["dataset", "training", "question", "comparison"]).p
    for metric, question in (("gini", "focus"), ("symmetric_relevance_gain", "faithfulness")):
        for row in first[(first.claim == "H3") & (first.metric == metric)].itertuples():
            assert now[row.dataset, row.training, question, row.comparison] == pytest.approx(row.p)
    runs = pd.read_csv(FOLDER / "runs.csv").query("dataset == 'mnist' and training == 'guided'")
    table = runs.pivot(index="seed", columns="precision", values="gini")
    assert now["mnist", "guided", "focus", "mixed - fp32"] == paired_sign_flip(table.mixed, table.fp32)


@pytest.mark.parametrize(
    ("first", "words", "expected"),
    [
        ("supported", ("supported", "supported", "supported"), ""),
        ("not supported", ("undecided", "undecided", "undecided"), ""),
        ("not supported", ("equivalent", "equivalent", "equivalent"), "rule"),
        ("supported", ("supported", "undecided", "undecided"), "initial weights"),
        ("supported", ("supported", "supported", "opposite"), "fill"),
        ("supported", ("undecided", "undecided", "supported"), "rule, fill"),
        ("opposite", ("", "supported", "supported"), "rule or initial weights"),
        ("supported", ("", "supported", "equivalent"), "fill"),
    ],
)
def test_why(first, words, expected):
    """The steps at which the word changes; where one is missing, it and the next are told together."""
    assert _why(first, dict(zip(("new_rule", "new_networks", "now"), words, strict=True))) == expected


def test_a_fill_is_what_changes_faithfulness_alone():
    """Second networks that fall with zeros and rise under the qualifying fills: the last step, of no other score."""

    def effect(precision, training, metric):
        up = metric in ("relevance_gain_mean", "relevance_gain_noise", "relevance_gain_blur")
        return (1 if up else -1) * 8 * PRECISIONS.index(precision)

    table = second(effect)
    rows = table[(table.claim == "H3") & (table.now_claim != "")]
    faithful = rows.question == "faithfulness"
    assert set(rows[faithful].new_networks) == {"supported"} and set(rows[faithful].now) == {"opposite"}
    assert rows[faithful].why.str.endswith("fill").all() and not rows[~faithful].why.str.contains("fill").any()
