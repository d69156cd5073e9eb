"""Claims and their verdicts: planted effects, the null, families, the rule."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from saqlib.evidence import claims
from saqlib.evidence.claims import NOT_SUPPORTED, OPPOSITE, SUPPORTED
from saqlib.names import PRIMARY
from saqlib.pipeline import study
from tests.frames import DATASETS, PRECISIONS, make_runs

FROZEN = study.load().claims
FAMILIES = {"H1": 3, "H1'": 1, "H2": 1, "H3": 12, "H4": 4, "H5": 4, "H6": 16, "H7": 12, "H8": 5, "H9": 12}


def evaluate(runs, settings=FROZEN):
    """The claims on one table for every set of images."""
    return claims.evaluate({"primary": runs, "all": runs, "matched": runs}, settings)


def only(*ids, **changes):
    """The frozen claims, some of them, with changes."""
    chosen = tuple(claim for claim in FROZEN.hypotheses if claim.id in ids)
    return replace(FROZEN, hypotheses=chosen, **changes)


def falling(size):
    """Everything falls by `size` with each step from fp32 to w2a2, in both trainings."""
    return lambda precision, training, metric: -size * PRECISIONS.index(precision)


# --- planted effects ---


def test_every_claim_stands_on_every_dataset_and_training():
    """H1 to H9 have rows for both datasets and both trainings; those that compare trainings, for guided."""
    table = evaluate(make_runs(datasets=DATASETS))
    assert list(table.columns) == claims.COLUMNS
    there = set(table[["claim", "dataset", "training"]].itertuples(index=False, name=None))
    for claim in FAMILIES:
        trainings = ("guided",) if claim in ("H6", "H7") else ("standard", "guided")
        assert {t for c, d, t in there if c == claim and d == "fashion_mnist"} == set(trainings)
    assert set(table.verdict) <= set(claims.VERDICTS)


def test_a_fall_with_every_bit_supports_the_falls():
    """When accuracy and every score fall by much at each step, H1 to H5, H8 and H9 are supported."""
    table = evaluate(make_runs(falling(8.0)))
    for claim in ("H1", "H2", "H3", "H4", "H5", "H8", "H9"):
        assert set(table[table.claim == claim].verdict) == {SUPPORTED}, claim
    assert (table[table.claim == "H3"].estimate < 0).all()
    assert set(table[table.claim == "H6"].verdict) == {NOT_SUPPORTED}


def test_a_rise_is_the_opposite():
    """When everything rises instead, the same claims come out opposite, H5 alone supported."""
    table = evaluate(make_runs(falling(-8.0)))
    for claim in ("H1", "H2", "H3", "H4", "H8", "H9"):
        assert set(table[table.claim == claim].verdict) == {OPPOSITE}, claim
    assert set(table[table.claim == "H5"].verdict) == {SUPPORTED}


def test_clarity_up_while_accuracy_falls_is_the_falsifier_of_the_trade_off():
    """H5 is opposite when the scores rise as accuracy falls."""
    runs = make_runs(lambda p, t, m: (-8 if m == "test_accuracy" else 8) * PRECISIONS.index(p))
    assert set(evaluate(runs, only("H5")).verdict) == {OPPOSITE}


@pytest.mark.parametrize(("sign", "expected"), [(1, SUPPORTED), (-1, OPPOSITE)])
def test_guided_training(sign, expected):
    """A gain of guided training at every precision is H6, a gain that grows as bits go is H7."""
    gain = make_runs(lambda p, t, m: sign * 10 * (t == "guided"), generator=1)
    assert set(evaluate(gain, only("H6")).verdict) == {expected}
    assert set(evaluate(gain, only("H7")).verdict) == {NOT_SUPPORTED}
    mitigation = make_runs(lambda p, t, m: sign * 12 * (t == "guided" and p != "fp32"))
    assert set(evaluate(mitigation, only("H7")).verdict) == {expected}


@pytest.mark.parametrize(("loss", "expected"), [(0.1, SUPPORTED), (0.5, NOT_SUPPORTED), (0.9, OPPOSITE)])
def test_the_margin_of_accuracy(loss, expected):
    """A loss well inside half a point does not matter, one at the margin is open, one beyond it matters."""
    runs = make_runs(lambda p, t, m: -loss / 0.05 * (p == "w4a4"), noise=0.05, generator=4)
    assert set(evaluate(runs, only("H1'")).verdict) == {expected}


def test_outside_counts_on_both_sides():
    """Mixed above both ends: the test against H8 pays for its two sides, 5 scores x 2 x 1/2^10 = .0098."""
    runs = make_runs(lambda p, t, m: 20 * (p == "mixed"))
    assert set(evaluate(runs, only("H8", level=0.0099)).verdict) == {OPPOSITE}
    assert set(evaluate(runs, only("H8", level=0.0097)).verdict) == {NOT_SUPPORTED}


def test_estimates_by_hand():
    """The estimate is the mean difference in the order of the words, p that of 10 equal signs."""
    runs = make_runs(falling(8.0))
    row = evaluate(runs, only("H3")).query("metric == 'gini' and comparison == 'w2a2 - fp32'").iloc[0]
    table = runs[runs.training == row.training].pivot(index="seed", columns="precision", values="gini")
    assert row.estimate == pytest.approx((table.w2a2 - table.fp32).mean())
    assert row.low < row.estimate < row.high
    assert row.p == 2 / 2**10
    assert row.p_holm == pytest.approx(12 * 2 / 2**10)
    assert row.seeds == 10


def test_mitigation_by_hand():
    """The estimate of H7 is (guided b - guided fp32) - (standard b - standard fp32)."""
    runs = make_runs(generator=3)
    row = evaluate(runs, only("H7")).query("metric == 'morans_i'").iloc[1]
    mean = runs.groupby(["training", "precision"]).morans_i.mean()
    assert row.comparison == "guided - standard, mixed - fp32"
    guided = mean["guided", "mixed"] - mean["guided", "fp32"]
    assert row.estimate == pytest.approx(guided - (mean["standard", "mixed"] - mean["standard", "fp32"]))


def test_correlations_stay_in_their_range():
    """The interval of a rank correlation does not leave [-1, 1], however few the seeds."""
    table = evaluate(make_runs(seeds=3, generator=6), only("H2", "H4", "H5"))
    assert table.low.min() == -1 and table.high.max() == 1
    assert (table.low <= table.estimate).all() and (table.estimate <= table.high).all()


def test_each_claim_reads_its_own_set_of_images():
    """H3 is read from the primary images, H9 from those of matched confidence."""
    flat, steep = make_runs(generator=1), make_runs(falling(8.0), generator=1)
    table = claims.evaluate({"primary": steep, "all": flat, "matched": flat}, only("H3", "H9"))
    assert set(table[table.claim == "H3"].verdict) == {SUPPORTED}
    assert set(table[table.claim == "H9"].verdict) == {NOT_SUPPORTED}


# --- the rule ---


@pytest.mark.parametrize(
    ("p", "against", "direction", "expected"),
    [
        (0.05, 0.05, 1, SUPPORTED),
        (0.05, 0.05, -1, OPPOSITE),
        (0.0501, 0.0501, 1, NOT_SUPPORTED),
        (0.0501, 0.0501, -1, NOT_SUPPORTED),
        (0.01, 0.99, -1, NOT_SUPPORTED),
        (0.99, 0.01, 1, NOT_SUPPORTED),
        (0.0, 0.0, 0, NOT_SUPPORTED),
        (np.nan, np.nan, 1, NOT_SUPPORTED),
    ],
)
def test_the_rule_of_one_score(p, against, direction, expected):
    """A verdict needs the level, included, and the direction; NaN is never a verdict."""
    assert claims.verdict(p, against, direction, 0.05) == expected


@pytest.mark.parametrize("witness", ["morans_i", "symmetric_relevance_gain"])
@pytest.mark.parametrize(("gini", "contrary"), [(SUPPORTED, OPPOSITE), (OPPOSITE, SUPPORTED)])
def test_the_rule_of_clarity(witness, gini, contrary):
    """Gini decides, unless Moran's I or the relevance gain says the contrary; foreground mass has no veto."""
    calm = dict.fromkeys(PRIMARY, NOT_SUPPORTED)
    assert claims.clarity_verdict(calm) == NOT_SUPPORTED
    assert claims.clarity_verdict(calm | {"gini": gini}) == gini
    assert claims.clarity_verdict(calm | {"gini": gini, witness: gini}) == gini
    assert claims.clarity_verdict(calm | {"gini": gini, witness: contrary}) == NOT_SUPPORTED
    assert claims.clarity_verdict(calm | {"gini": gini, "foreground_mass": contrary}) == gini
    assert claims.clarity_verdict(calm | {witness: gini}) == NOT_SUPPORTED


def test_the_rule_stands_in_words():
    """A reader is told the rule of each of the three functions, in whole sentences that name the verdicts."""
    assert list(claims.RULES) == ["One score", "Clarity as a whole", "A whole claim"]
    assert all(text.endswith(".") for text in claims.RULES.values())
    assert all(f"`{verdict}`" in claims.RULES["One score"] for verdict in claims.VERDICTS)


def test_sparser_but_speckled_maps_are_not_clearer():
    """Gini up and Moran's I down: each score keeps its own verdict, clarity as a whole is not supported."""
    runs = make_runs(lambda p, t, m: {"gini": 10, "morans_i": -10}.get(m, 0) * (t == "guided"))
    table = evaluate(runs, only("H6")).query("comparison == 'guided - standard, w2a2'").set_index("metric")
    assert table.verdict["gini"] == SUPPORTED
    assert table.verdict["morans_i"] == OPPOSITE
    assert table.verdict["clarity"] == NOT_SUPPORTED
    assert table.p_holm["clarity"] == table.p_holm["gini"]


def test_the_rule_of_a_whole_claim():
    """More than half, and none contrary."""
    yes, no, un = SUPPORTED, OPPOSITE, NOT_SUPPORTED
    assert claims.overall_verdict([yes, yes, un]) == yes
    assert claims.overall_verdict([no, no, un]) == no
    assert claims.overall_verdict([yes, un]) == un
    assert claims.overall_verdict([yes, yes, yes, no]) == un
    assert claims.overall_verdict([no, no, no, yes]) == un


def test_the_level_decides():
    """A stricter level turns supported claims into not supported ones: the frozen level is in use."""
    runs = make_runs(falling(8.0))
    assert set(evaluate(runs, only("H3", level=0.02)).verdict) == {NOT_SUPPORTED}
    assert set(evaluate(runs, only("H3", level=0.024)).verdict) == {SUPPORTED}


def test_the_frozen_claims():
    """A change of the claims, of what they test or of the level shows in this list too."""
    assert (FROZEN.level, FROZEN.margin, FROZEN.reference) == (0.05, 0.5, "fp32")
    assert [(c.id, c.test, c.expected, c.images, len(c.metrics)) for c in FROZEN.hypotheses] == [
        ("H1", "difference", "lower", "all", 1),
        ("H1'", "non_inferiority", "higher", "all", 1),
        ("H2", "trend", "higher", "all", 1),
        ("H3", "difference", "lower", "primary", 4),
        ("H4", "trend", "higher", "primary", 4),
        ("H5", "correlation", "higher", "primary", 4),
        ("H6", "gain", "higher", "primary", 4),
        ("H7", "mitigation", "higher", "primary", 4),
        ("H8", "between", "higher", "primary", 5),
        ("H9", "difference", "lower", "matched", 4),
    ]


# --- families and the null ---


def test_families():
    """The tests of a claim on one dataset and training, and no others, are corrected together."""
    table = evaluate(make_runs(datasets=DATASETS, generator=8))
    single = table[table.metric != claims.CLARITY]
    sizes = single.groupby(["claim", "dataset", "training"]).size()
    for claim, size in FAMILIES.items():
        assert set(sizes[claim]) == {size}, claim
    for _, family in single.groupby(["claim", "dataset", "training"]):
        smallest = family.loc[family.p.idxmin()]
        assert smallest.p_holm == pytest.approx(min(1.0, smallest.p * len(family)))
        assert (family.p_holm >= family.p).all()


@pytest.mark.parametrize("claim", ["H1", "H3", "H4", "H6", "H8"])
def test_error_rate_under_the_null(claim):
    """With no effect planted, at most about 1 in 20 families has any verdict but `not supported`.

    H8's null is not the least favourable one, its rate is lower; one-sided tests against a claim have an
    error of their own, hence twice the level for the trends.
    """
    settings = only(claim)
    families = wrong = 0
    for generator in range(60):
        table = evaluate(make_runs(generator=generator), settings)
        for _, family in table[table.metric != claims.CLARITY].groupby(["dataset", "training"]):
            families += 1
            wrong += (family.verdict != NOT_SUPPORTED).any()
    rate = {"H4": 0.10, "H8": 0.10}.get(claim, 0.05)
    assert wrong <= stats.binom.ppf(0.999, families, rate)


@pytest.mark.parametrize("seeds", [2, 5])
def test_too_few_seeds_are_said_to_be_too_few(seeds):
    """With 5 seeds a sign-flip test cannot reach .05: a perfect effect is not supported, and its least p says why."""
    table = evaluate(make_runs(falling(50.0), seeds=seeds))
    flips = table[table.claim.isin(["H1", "H3", "H9"])]
    assert set(flips.verdict) == {NOT_SUPPORTED}
    assert (flips.least_p > FROZEN.level).all() and set(flips.seeds) == {seeds}
    assert np.isfinite(flips.low).all()


def test_one_seed_has_no_test():
    """A single seed, or a seed with a missing score, gives NaN and no verdict, not an error."""
    table = evaluate(make_runs(seeds=1))
    assert table[["p", "p_holm", "estimate", "low", "high"]].isna().all(axis=None)
    assert set(table.seeds) == {1} and set(table.least_p) == {1.0}
    assert set(table.verdict) == {NOT_SUPPORTED}
    runs = make_runs(falling(8.0))
    runs.loc[3, "gini"] = np.nan
    table = evaluate(runs, only("H3")).query("training == 'standard'")
    lost = table.metric.isin(["gini", "clarity"])
    assert table[lost & (table.comparison == "w2a2 - fp32")].p.isna().all()
    assert set(table[~lost].verdict) == {SUPPORTED}
    assert set(table[table.metric == "gini"].least_p) == {1.0}


FLOORS = {  # of a single test with 10 seeds: sign flips of one sign, seeds all in order, no bound
    "H1": 2 / 2**10, "H1'": 0.0, "H2": 24.0**-10, "H3": 2 / 2**10, "H4": 24.0**-10, "H5": 2 / 2**10,
    "H6": 2 / 2**10, "H7": 2 / 2**10, "H8": 1 / 2**10, "H9": 2 / 2**10,
}  # fmt: skip


def test_the_least_p_is_what_a_perfect_effect_would_reach():
    """The floor of a test times the size of its family; no corrected p-value lies below it, whatever the data."""
    for runs in (make_runs(), make_runs(falling(50.0)), make_runs(falling(-50.0))):
        table = evaluate(runs)
        for claim, floor in FLOORS.items():
            rows = table[table.claim == claim]
            np.testing.assert_allclose(rows.least_p, floor * FAMILIES[claim], rtol=1e-12)
            assert (rows.p_holm >= rows.least_p * (1 - 1e-9)).all(), claim
    reached = evaluate(make_runs(falling(50.0)))
    for claim in ("H1", "H2", "H3", "H4", "H8", "H9"):
        rows = reached[reached.claim == claim]
        np.testing.assert_allclose(rows.p_holm, rows.least_p, rtol=1e-9, err_msg=claim)


def test_precisions_that_were_not_run_are_left_out():
    """Two precisions allow differences, but no trend and nothing between; no guided runs, no comparison."""
    runs = make_runs(falling(8.0))
    few = runs[runs.precision.isin(["fp32", "w2a2"]) & (runs.training == "standard")]
    table = evaluate(few)
    assert set(table.claim) == {"H1", "H3", "H9"}
    assert set(table.comparison) == {"w2a2 - fp32"}


def test_what_is_missing_is_named():
    """A set of images or a score that the runs lack is an error that names it."""
    runs = make_runs()
    with pytest.raises(ValueError, match="H9 needs the runs on matched images"):
        claims.evaluate({"primary": runs, "all": runs}, FROZEN)
    with pytest.raises(ValueError, match="H3 needs gini"):
        evaluate(runs.drop(columns="gini"), FROZEN)


# --- for a reader ---


def test_summary_counts_and_judges():
    """The summary counts the single tests and judges each claim; claims on clarity by their clarity rows."""
    runs = make_runs(lambda p, t, m: -20 * (m == "gini") * (p != "fp32"))
    summary = claims.summary(evaluate(runs), FROZEN).set_index(["claim", "training"])
    row = summary.loc["H3", "standard"]
    assert (row[SUPPORTED], row[NOT_SUPPORTED], row[OPPOSITE]) == (3, 9, 0)
    assert row.verdict == SUPPORTED
    assert row.text == FROZEN.hypotheses[3].text
    assert list(dict.fromkeys(summary.index.get_level_values("claim"))) == list(FAMILIES)
