"""Tests of saqlib.evidence.claims: planted effects from frames to verdicts, families, and what cannot be told."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from saqlib.evidence import claims
from saqlib.evidence.claims import COLUMNS, KEYS, evaluate
from saqlib.evidence.statistics import holm
from saqlib.evidence.verdicts import EQUIVALENT, NO_LOSS, OPPOSITE, SUPPORTED, TOO_FEW, UNDECIDED, VERDICTS
from saqlib.pipeline import study
from tests.frames import DATASETS, PRECISIONS, evidence, make_runs

FROZEN = study.load().claims
MAPS = ("focus", "coherence", "faithfulness")
FAMILIES = {"A1": 3, "A2": 3, "A3": 3, "A4": 3, "A5": 4, "B1": 1, "B2": 6, "B3": 1, "B4": 3}


def falling(size):
    """Everything falls by `size` with each step from fp32 to w2a2, in both trainings."""
    return lambda precision, training, metric: -size * PRECISIONS.index(precision)


def answers(effect=None, *, given=0.5, fills=("mean", "noise", "blur"), settings=FROZEN, **options):
    """The answers on made-up runs, the same for every set of images."""
    return evaluate(evidence(make_runs(effect, **options), given=given, fills=fills), settings)


def words(found, training=None):
    """The verdicts by claim, of one training or of all."""
    table = found.verdicts()
    table = table if training is None else table[table.training == training]
    return {claim: set(group.verdict) for claim, group in table.groupby("claim")}


# --- planted effects ---


def test_every_claim_and_question_has_a_verdict_on_every_dataset_and_training():
    """Those that compare trainings under guided; a row for each comparison, in the columns of the contract."""
    found = answers(datasets=DATASETS)
    tests, table = found.tests(), found.verdicts()
    assert list(tests.columns) == COLUMNS == [
        "claim", "group", "dataset", "training", "question", "comparison", "estimate", "low", "high", "p", "p_holm",
        "verdict",
    ]  # fmt: skip
    for claim in FROZEN.hypotheses:
        trainings = ["guided"] if claim.id in ("A5", "B2") else ["standard", "guided"]
        own = table[table.claim == claim.id]
        expected = [(d, t, q) for d in DATASETS for t in trainings for q in claim.questions]
        assert list(own[["dataset", "training", "question"]].itertuples(index=False, name=None)) == expected
        assert set(own.group) == {claim.group} and set(own.text) == {claim.text}
    assert set(tests.verdict) | set(table.verdict) <= set(VERDICTS)
    assert set(table.group) == {"abstract", "ours"}


def test_a_fall_with_every_bit_supports_the_falls():
    """Everything that says so is supported, guidance changes nothing, and four bits cost what matters."""
    found = words(answers(falling(8.0), given=2.0))
    assert all(found[claim] == {SUPPORTED} for claim in ("A1", "A2", "A3", "A4", "B3", "B4"))
    assert found["A5"] == {EQUIVALENT}
    steep = words(answers(falling(80.0), given=2.0))
    assert steep["B1"] == {OPPOSITE}


def test_a_rise_is_the_opposite():
    """The same claims come out opposite, and what presumes a loss is not asked."""
    found = answers(falling(-8.0))
    assert all(words(found)[claim] == {OPPOSITE} for claim in ("A1", "A2", "A3", "B3"))
    assert words(found)["A4"] == {UNDECIDED}, "both gained together is neither both lost nor one for the other"
    assert words(found)["B4"] == {UNDECIDED}
    assert set(found.verdicts().query("claim in ['B2', 'B4']").why) == {NO_LOSS}


def test_maps_that_gain_while_accuracy_falls_are_the_opposite_of_a_joint_loss():
    """Either way round."""
    for sign in (1, -1):
        found = answers(lambda p, t, m, s=sign: (-8 if m == "test_accuracy" else 8) * s * PRECISIONS.index(p))
        assert words(found)["A4"] == {OPPOSITE}


def test_one_precision_is_enough_for_a_joint_loss():
    """And not for a loss as such, nor for one that grows with every step: those are undecided, and say why."""
    found = answers(lambda p, t, m: -20 * (p == "w2a2"))
    assert words(found)["A4"] == {SUPPORTED}
    assert words(found)["A1"] == words(found)["A3"] == {UNDECIDED}
    said = found.verdicts().query("claim == 'A1'").why.iloc[0]
    assert said == "equivalent: w4a4 - fp32, mixed - fp32; supported: w2a2 - fp32"


@pytest.mark.parametrize(("sign", "expected"), [(1, SUPPORTED), (-1, OPPOSITE)])
def test_guided_training(sign, expected):
    """A gain of guided training at every precision is A5; a smaller loss than standard training's is B2."""
    gain = answers(lambda p, t, m: sign * 10 * (t == "guided"), generator=1)
    assert words(gain)["A5"] == {expected}
    lost = lambda p, t, m: -30 * (p != "fp32") + sign * 12 * (t == "guided" and p != "fp32")  # noqa: E731
    assert words(answers(lost))["B2"] == {expected}
    same = answers(lambda p, t, m: -30 * (p != "fp32"))
    assert words(same)["B2"] == {EQUIVALENT}


def test_mitigation_turns_on_the_scale_and_says_so():
    """Guided networks start twice as high and lose as much: nothing in points, something as a share."""

    def effect(precision, training, metric):
        return (100 if training == "guided" else 0) - 30 * (precision != "fp32")

    runs = make_runs(effect)
    both = evidence(runs, given=1.0)
    higher = both.untrained["primary"]
    scores = higher.columns.drop(["dataset", "training", "seed", "dead_rate"])
    higher.loc[higher.training == "guided", scores] -= 1.0  # its training gives twice as much
    both.untrained["primary"] = higher
    found = evaluate(both, FROZEN)
    rows = found.tests().query("claim == 'B2' and question == 'focus'").set_index("comparison").verdict
    assert set(rows[rows.index.str.contains("share")]) == {SUPPORTED}
    assert set(rows[~rows.index.str.contains("share")]) == {EQUIVALENT}
    assert words(found)["B2"] == {UNDECIDED}


@pytest.mark.parametrize(("loss", "expected"), [(0.1, SUPPORTED), (0.5, UNDECIDED), (0.9, OPPOSITE)])
def test_the_margin_of_accuracy(loss, expected):
    """A loss well inside half a point does not matter, one at the margin is open, one beyond it matters."""
    found = answers(lambda p, t, m: -loss / 0.05 * (p == "w4a4"), noise=0.05, generator=4)
    assert set(found.verdicts().query("claim == 'B1' and question == 'accuracy'").verdict) == {expected}


def test_outside_is_the_opposite_of_between():
    """Mixed above both ends, or below both."""
    for sign in (20, -20):
        assert words(answers(lambda p, t, m, s=sign: s * (p == "mixed")))["B3"] == {OPPOSITE}


def test_faithfulness_needs_every_fill_and_the_other_questions_none():
    """A fall under two fills of three: faithfulness is undecided, the fill that says nothing shows in the p-value."""
    found = answers(lambda p, t, m: -20 * (p != "fp32") * (m not in ("relevance_gain_blur", "test_accuracy")))
    table = found.verdicts().query("claim == 'A2'").set_index(["training", "question"]).verdict
    assert set(table[:, "faithfulness"]) == {UNDECIDED} and set(table[:, "focus"]) == {SUPPORTED}
    alone = answers(lambda p, t, m: -20 * (p != "fp32") * (m != "relevance_gain_blur"), fills=("mean", "noise"))
    assert words(alone)["A2"] == {SUPPORTED}


def test_a_fill_that_does_not_qualify_decides_nothing():
    """Whatever happens with zeros, the answers are the same; without any fill nothing is said of faithfulness."""
    calm = answers(falling(8.0)).tests()
    wild = answers(lambda p, t, m: 90 if m == "relevance_gain_zero" else -8 * PRECISIONS.index(p)).tests()
    pd.testing.assert_frame_equal(calm, wild)
    none = answers(falling(8.0), fills=()).verdicts()
    rows = none[none.question == "faithfulness"]
    assert set(rows.verdict) == {UNDECIDED} and set(rows.why) == {"not asked: no fill qualifies"}
    assert set(none[none.question == "focus"].query("claim == 'A2'").verdict) == {SUPPORTED}


def test_each_question_reads_its_own_set_of_images():
    """The loss from the primary images, that at equal confidence from the matched ones."""
    flat, steep = make_runs(generator=1), make_runs(falling(8.0), generator=1)
    both = evidence(steep)
    found = evaluate(replace(both, runs={"primary": steep, "all": flat, "matched": flat}), FROZEN)
    assert words(found)["A2"] == {SUPPORTED} and words(found)["B4"] == {EQUIVALENT}


# --- rows by hand ---


def test_estimates_by_hand():
    """The mean difference in the order of the words with its t-interval, p that of 10 equal signs, Holm of three."""
    runs = make_runs(falling(8.0))
    rows = evaluate(evidence(runs), FROZEN).tests()
    row = rows.query("claim == 'A2' and question == 'focus' and comparison == 'w2a2 - fp32'").iloc[0]
    table = runs[runs.training == row.training].pivot(index="seed", columns="precision", values="gini")
    difference = table.w2a2 - table.fp32
    assert row.estimate == pytest.approx(difference.mean())
    assert row.high - row.low == pytest.approx(2 * 2.2621572 * difference.sem())
    assert row.p == 2 / 2**10 and row.p_holm == pytest.approx(3 * 2 / 2**10)


def test_faithfulness_is_told_as_the_mean_over_fills():
    """The estimate is that of the column `faithfulness`, where this is the mean of the qualifying fills."""
    runs = make_runs(generator=2)
    gains = ["relevance_gain_mean", "relevance_gain_noise", "relevance_gain_blur"]
    rows = evaluate(evidence(runs), FROZEN).tests()
    row = rows.query("claim == 'A2' and question == 'faithfulness' and comparison == 'mixed - fp32'").iloc[0]
    mean = runs[runs.training == "standard"].groupby("precision")[gains].mean().mean(axis=1)
    assert row.estimate == pytest.approx(mean["mixed"] - mean["fp32"])


def test_families():
    """The comparisons of one claim, dataset, training and question, and no others, are corrected together."""
    tests = answers(falling(0.5), datasets=DATASETS, generator=8).tests()
    sizes = tests.groupby(KEYS).size()
    for claim, size in FAMILIES.items():
        assert set(sizes[claim]) == {size}, claim
    for _, family in tests.groupby(KEYS):
        np.testing.assert_allclose(family.p_holm, holm(family.p))


def test_the_level_decides():
    """A stricter level turns what was supported into what is undecided: the frozen level is in use."""
    for level, expected in ((0.0058, UNDECIDED), (0.0059, SUPPORTED)):
        found = answers(falling(8.0), given=1e-6, settings=replace(FROZEN, level=level))
        assert words(found)["A2"] == {expected}


def test_margins_and_seeds_stand_beside_the_tests_of_equivalence():
    """One row per comparison, in the order of the tests; no margin where none is asked."""
    found = answers(given=0.5)
    tests, same = found.tests(), found.equivalence()
    pd.testing.assert_frame_equal(tests[[*KEYS, "comparison"]], same[[*KEYS, "comparison"]])
    assert set(same.seeds) == {10}
    assert set(same[same.question == "accuracy"].query("claim == 'A1'").margin) == {0.5}
    np.testing.assert_allclose(same[same.question == "focus"].query("claim == 'A2'").margin, 0.05)
    assert same[same.claim == "B1"][["margin", "p"]].isna().all(axis=None)
    asked = same[(same.note == "") & (same.claim != "B1")]
    assert asked.p.notna().all() and set(asked.note) == {""}


# --- what cannot be told ---


@pytest.mark.parametrize("seeds", [2, 5])
def test_too_few_seeds_are_said_to_be_too_few(seeds):
    """As at smoke and quick: a perfect effect is undecided, and estimates with their intervals are there."""
    found = answers(falling(50.0), seeds=seeds)
    table = found.verdicts()
    assert set(table.verdict) == {UNDECIDED}
    assert set(table[~table.claim.isin(["B2", "B4"])].why) == {TOO_FEW}
    assert found.tests().low.notna().all()


def test_one_seed_has_no_test():
    """A single seed gives NaN and no verdict, not an error."""
    tests = answers(seeds=1).tests()
    assert tests[["p", "p_holm", "estimate", "low", "high"]].isna().all(axis=None)
    assert set(tests.verdict) == {UNDECIDED}


def test_a_network_without_a_value_is_its_comparisons_alone():
    """One dead network: what it takes part in is undecided and says so, everything else stands."""
    runs = make_runs(falling(8.0))
    runs.loc[(runs.precision == "mixed") & (runs.training == "standard") & (runs.seed == 3), "gini"] = np.nan
    found = evaluate(evidence(runs), FROZEN)
    rows = found.tests().query("claim == 'A2' and question == 'focus' and training == 'standard'")
    assert rows.verdict.tolist() == [SUPPORTED, UNDECIDED, SUPPORTED]
    assert rows.p.isna().tolist() == [False, True, False]
    assert found.equivalence().loc[rows.index[1], "note"] == "a network has no value"
    assert words(found, "guided")["A2"] == {SUPPORTED}


def test_precisions_that_were_not_run_are_named():
    """No claim is missing without a word: what cannot be compared is undecided, and says which network is not there."""
    runs = make_runs(falling(8.0), precisions=("fp32", "w2a2"))
    found = evaluate(evidence(runs[runs.training == "standard"]), FROZEN)
    table = found.verdicts().set_index("claim")
    assert set(table.index) == {claim.id for claim in FROZEN.hypotheses}
    assert table.why["A1"] == (
        "not asked: w4a4 with standard training was not run: w4a4 - fp32; "
        "not asked: mixed with standard training was not run: mixed - fp32; supported: w2a2 - fp32"
    )
    assert set(table.verdict["A5"]) == {UNDECIDED}
    assert "guided training was not run" in table.why["A5"].iloc[0]
    assert words(found)["A4"] == {SUPPORTED}, "one precision is enough for it"


def test_claims_that_share_no_training_of_the_grid():
    """Guided networks alone: the gain over standard training is not asked."""
    runs = make_runs(falling(8.0))
    table = evaluate(evidence(runs[runs.training == "guided"]), FROZEN).verdicts()
    assert set(table.training) == {"guided"}
    assert set(table[table.claim == "A5"].why.str.contains("standard training was not run")) == {True}


def test_no_claims_no_rows():
    """An empty list of claims is an empty table with its columns."""
    found = answers(settings=replace(FROZEN, hypotheses=()))
    assert list(found.tests().columns) == COLUMNS and found.tests().empty and found.verdicts().empty
    assert claims.families(evidence(make_runs()), replace(FROZEN, hypotheses=())) == []
