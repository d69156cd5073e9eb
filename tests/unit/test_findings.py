"""Ratios, where the loss comes from, ablations: rules on numbers that are known, and again by code of its own."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.findings import effects, randomized, ratio, recovered, retained, surrogate
from saqlib.scores import FILLS, GRADIENT, PRESERVATION
from study import settings
from tests.helpers import frames, twin_origins
from tests.helpers.frames import DATASETS, PRECISIONS, TRAININGS

CLAIMS = settings.load().claims
QUALIFYING = {"mnist": ("mean", "blur")}
SCORES = ["gini", "morans_i", *(f"relevance_gain_{fill}" for fill in FILLS)]
SEEDS = 8
STATES = [(weights, activations) for weights in ("on", "off") for activations in ("on", "off")]
WAYS = (GRADIENT, "16 codes", "32 codes")


# --- what is retained ---


def test_ratio_of_means_has_fiellers_interval():
    """Its bounds are where the t-test of y - r x reaches 5 %, and one seed near 0 does not blow it up."""
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 0.3, 10)
    y = 0.5 * x + rng.normal(0, 0.1, 10)
    found = ratio(pd.Series(y), pd.Series(x))
    assert found.mean == pytest.approx(y.mean() / x.mean())
    for bound in (found.low, found.high):
        assert stats.ttest_1samp(y - bound * x, 0).pvalue == pytest.approx(0.05)
    assert stats.ttest_1samp(y - 0.5 * (found.low + found.high) * x, 0).pvalue > 0.05
    x[0] = 1e-6
    assert ratio(pd.Series(y), pd.Series(x)).high < 1.5


@pytest.mark.parametrize(
    ("y", "x"),
    [([1.0], [2.0]), ([1.0, 1.1, np.nan], [2.0, 2.1, 2.2]), ([1, 1.1, 1.2], [2, np.inf, 2]), ([1, 1.1], [-2, -2.1]),
     ([1, 1, 1], [-1, 0.5, 0.6])],
    ids=["one seed", "a gap", "infinite", "a loss", "uncertain"],
)  # fmt: skip
def test_without_a_gain_there_is_no_share(y, x):
    """Nor with one seed or a missing value; a ratio of two losses is no share that is retained."""
    assert np.isnan(ratio(pd.Series(y), pd.Series(x))).all()


def test_retained_share():
    """1 for the reference, .5 for half its gain over the untrained network, NaN without one; seeds by their number."""

    def halved(precision, training, metric):
        return {"fp32": 100, "w2a2": 50}.get(precision, 0) * (metric == "gini")

    runs = frames.make_runs(halved, noise=0.001, datasets=DATASETS)
    floor, rng = runs[runs.precision == "mixed"].drop(columns="precision"), np.random.default_rng(1)
    floor = floor.assign(**{name: floor[name] + rng.normal(size=len(floor)) for name in ("morans_i", "faithfulness")})
    table = retained(runs, floor, "fp32")
    assert list(table.columns) == ["dataset", "training", "metric", "precision", "estimate", "low", "high"]
    assert len(table) == 2 * 2 * 5 * len(PRECISIONS)
    rows = table.set_index(["dataset", "training", "metric", "precision"]).sort_index()
    assert list(rows.loc["mnist", "standard", "gini", "fp32"]) == pytest.approx([1.0, 1.0, 1.0])
    half = rows.loc["fashion_mnist", "guided", "gini", "w2a2"]
    assert half.low < 0.5 < half.high and half.high - half.low < 0.05
    assert rows.loc["mnist", "standard", "morans_i", "w2a2"].isna().all()
    other = retained(runs, floor, "w2a2", ["gini"]).set_index("precision").estimate
    assert other["fp32"].to_numpy() == pytest.approx([2] * 4, abs=0.1) and set(other["w2a2"].round(12)) == {1}
    pd.testing.assert_frame_equal(retained(runs, floor.sample(frac=1, random_state=0), "fp32"), table)
    fewer = retained(runs, floor[floor.seed > 0], "fp32")
    assert fewer[["estimate", "low", "high"]].isna().all(axis=None)


# --- where the loss comes from ---


def rows(level, seed=0, seeds=SEEDS, **keys) -> pd.DataFrame:
    """Scores of networks around a level, or one for each score."""
    rng = np.random.default_rng(seed)
    values = {score: level(score) if callable(level) else level for score in SCORES}
    noise = {score: value + 0.01 * rng.standard_normal(seeds) for score, value in values.items()}
    return pd.DataFrame({"dataset": "mnist", "training": "standard", "seed": range(seeds), **keys} | noise)


def comes_back(back, top=1.0, wild=0.0):
    """The words on a network that scores .2 where the reference scores `top`; back: what each state adds."""
    maps = [rows(lambda score, at=at: 0.2 + back(*at, score), k, precision="w2a2", weights=at[0], activations=at[1])
            for k, at in enumerate(STATES)]  # fmt: skip
    maps[1].loc[0, "gini"] += wild * SEEDS  # weights on, activations off
    found = recovered(pd.concat(maps), rows(top, 9, precision="fp32", method=GRADIENT), QUALIFYING, CLAIMS)
    return found.set_index(["question", "off"])


def test_a_factor_that_gives_back_half_explains_the_loss():
    """Activations give back three quarters, weights a quarter; half by one wild seed is not enough."""
    gives = {("on", "on"): 0, ("on", "off"): 0.6, ("off", "on"): 0.2, ("off", "off"): 0.8}
    found = comes_back(lambda w, a, _: gives[w, a])
    for question in ("focus", "coherence", "faithfulness"):
        assert found.word[question].to_dict() == {"weights": "does not", "activations": "explains", "both": "explains"}
        np.testing.assert_allclose(found.estimate[question], [0.25, 0.75, 1], atol=0.05)
    assert (found.low < found.estimate).all() and (found.estimate < found.high).all()
    row = comes_back(lambda w, a, _: 0.0, wild=0.6).loc["focus", "activations"]
    assert row.estimate > 0.5 and row.low < 0 and row.word == "does not"


def test_faithfulness_must_come_back_under_every_fill_that_qualifies():
    """With one of two fills it is not enough; a fill that does not qualify has no say."""
    for fill, expected in (("blur", "does not"), ("zero", "explains")):
        missing = f"relevance_gain_{fill}"
        found = comes_back(lambda w, a, score, m=missing: 0.8 * (a == "off" and score != m))
        assert found.word["faithfulness", "activations"] == expected
        assert found.word["focus", "activations"] == "explains"


@pytest.mark.parametrize("top", [0.2, 0.1])
def test_without_a_loss_nothing_comes_back(top):
    """The reference scores no more than the network."""
    found = comes_back(lambda w, a, _: 0.5 * (a == "off"), top)
    assert (found.word == "no loss").all() and found.estimate.isna().all()


def slopes(gains, seeds=SEEDS):
    """gains: of a precision and a way to find the slope, the level of every score."""
    made = [
        rows(lambda score, p=p, d=d: gains(p, d, score), k, seeds, precision=p, difference=d)
        for k, (p, d) in enumerate((p, d) for p in ("fp32", "w2a2") for d in WAYS)
    ]
    return surrogate(pd.concat(made), QUALIFYING, CLAIMS)


@pytest.mark.parametrize(
    ("fp32", "w2a2", "word"), [(0.1, 0.3, "supported"), (0.3, 0.1, "opposite"), (0.3, 0.3, "undecided")]
)
def test_an_artefact_is_a_larger_lead_of_the_slope_at_few_bits(fp32, w2a2, word):
    """Not a lead as such: at the reference there is one, too. Few seeds decide nothing."""
    lead = {"fp32": fp32, "w2a2": w2a2}
    found = slopes(lambda p, d, _: 0.4 + lead[p] * (d != GRADIENT))
    assert found.precision.tolist() == ["w2a2"] * 2 and found.difference.tolist() == ["16 codes", "32 codes"]
    assert (found.verdict == word).all() and (found.artefact == word).all()
    np.testing.assert_allclose(found.estimate, w2a2 - fp32, atol=0.02)
    for seeds in (1, 2):
        assert (slopes(lambda p, d, _: 0.4 + lead[p] * (d != GRADIENT), seeds).artefact == "undecided").all()


@pytest.mark.parametrize("seeds", [9, 2, 1])
def test_every_word_is_found_again(seeds):
    """By code of its own, on random numbers with all kinds of effects."""
    rng, at = np.random.default_rng(seeds), iter(range(10**6))
    keys = [(t, p) for t in TRAININGS for p in PRECISIONS]
    level = {key: rng.normal(0, 0.3) for key in keys}

    def made(t, p, **more):
        return rows(level[t, p] + rng.normal(0, 0.05), next(at), seeds, precision=p, **more).assign(training=t)

    tables = {
        "switched": [made(t, p, weights=w, activations=a) for t, p in keys if p != "fp32" for w, a in STATES],
        "methods": [made(t, p, method=GRADIENT) for t, p in keys],
        "differences": [made(t, p, difference=d) for t, p in keys for d in WAYS],
        "cascade": [made(t, p, redrawn=r) for t, p in keys for r in ("dense3", "conv1")]
        + [made(t, "fp32", redrawn="seed_to_seed") for t in TRAININGS],
    }
    tables = {name: pd.concat(each) for name, each in tables.items()}
    cascade = tables["cascade"]
    for k, name in enumerate(PRESERVATION):
        cascade[f"preservation_{name}"] = cascade.gini + k * cascade.morans_i
    found = {
        "switched": recovered(tables["switched"], tables["methods"], QUALIFYING, CLAIMS),
        "surrogate": surrogate(tables["differences"], QUALIFYING, CLAIMS),
        "randomization": randomized(cascade, CLAIMS),
    }
    twin_origins.check(found, tables, QUALIFYING, CLAIMS)


# --- ablations ---

QUESTIONS = {"accuracy": "test_accuracy", "focus": "gini", "coherence": "morans_i", "faithfulness": "relevance_gain"}
FILLS_OF = {"mnist": ("mean", "blur"), "fashion_mnist": ("noise",)}


def bits_cost(precision, training, metric):
    """Every score falls with every step down; guidance gives the Gini index as much as two steps cost."""
    return -30 * PRECISIONS.index(precision) + 60 * (training == "guided") * (metric == "gini")


def variant(effect=bits_cost, *, precisions=("fp32", "w2a2"), trainings=TRAININGS, changed=("w2a2",), seeds=6):
    """A variant's table: networks of these cells, those of the precisions or trainings in `changed` others."""
    runs = frames.make_runs(effect, seeds=seeds, generator=3, datasets=DATASETS)
    runs = runs[runs.precision.isin(precisions) & runs.training.isin(trainings)].sample(frac=1, random_state=0)
    runs = runs.sort_values(["dataset", "training"], kind="stable", ascending=False)
    return runs.assign(changed=runs.precision.isin(changed) | runs.training.isin(changed))


def found(variants, runs=None, fills=FILLS_OF):
    """The effects of some variants."""
    runs = frames.make_runs(bits_cost, datasets=DATASETS) if runs is None else runs
    return effects(runs, variants, QUESTIONS, "fp32", fills)


def test_effects_by_hand():
    """Mean paired differences with Student's intervals, of the main grid and of the variant, each on its own seeds."""
    runs, table = frames.make_runs(bits_cost, datasets=DATASETS), variant()
    one = found({"other": table}, runs)
    assert list(one) == [
        "variant", "dataset", "training", "comparison", "question", "main", "main_low", "main_high", "estimate", "low",
        "high", "seeds", "sign", "holds", "robust",
    ] and (one.seeds == 6).all()  # fmt: skip
    columns = QUESTIONS | {"faithfulness": ["relevance_gain_mean", "relevance_gain_blur"]}
    for question, column in columns.items():
        own = one[(one.dataset == "mnist") & (one.training == "guided") & (one.question == question)]
        (row,) = own[own.comparison == "w2a2 - fp32"].to_dict("records")
        for frame, names in ((runs, ("main", "main_low", "main_high")), (table, ("estimate", "low", "high"))):
            own = frame[(frame.dataset == "mnist") & (frame.training == "guided")]
            low, high = (own[own.precision == p].sort_values("seed")[column].to_numpy() for p in ("w2a2", "fp32"))
            difference = (low - high).reshape(len(low), -1).mean(1)
            interval = stats.t.interval(0.95, len(low) - 1, difference.mean(), stats.sem(difference))
            assert [row[name] for name in names] == pytest.approx([difference.mean(), *interval])


@pytest.mark.parametrize(
    ("options", "comparisons"),
    [
        ({"trainings": ("standard",)}, {("standard", "w2a2 - fp32")}),
        ({}, {("standard", "w2a2 - fp32"), ("guided", "w2a2 - fp32"), ("guided", "guided - standard, w2a2")}),
        (
            {"changed": ("guided",)},
            {("guided", "w2a2 - fp32"), ("guided", "guided - standard, fp32"), ("guided", "guided - standard, w2a2")},
        ),
        ({"changed": ()}, set()),
    ],
    ids=["precision", "both trainings", "guidance", "nothing changed"],
)
def test_a_variant_makes_the_comparisons_that_it_changes(options, comparisons):
    """Precision against reference, trainings where there are two; all four questions."""
    one = found({"other": variant(**options)})
    assert set(zip(one.training, one.comparison, strict=True)) == comparisons
    assert len(one) == len(comparisons) * len(DATASETS) * len(QUESTIONS)


def test_a_conclusion_is_robust_if_its_sign_holds_in_every_variant():
    """One variant that turns one difference takes that conclusion, in the rows of every variant, and no other."""

    def turned(p, t, m):
        return bits_cost(p, t, m) * (-1 if (t, m) == ("guided", "morans_i") else 1)

    one = found({"same": variant(), "turned": variant(turned)})
    bits, gains = one[one.comparison == "w2a2 - fp32"], one[one.comparison.str.startswith("guided")]
    assert (bits.sign == "-").all() and (gains[gains.question == "focus"].sign == "+").all()
    away = (bits.training == "guided") & (bits.question == "coherence")
    assert (bits[away].holds == (bits[away].variant == "same")).all()
    assert not bits[away].robust.any() and away.sum() == 4
    assert bits[~away].holds.all() and bits[~away].robust.all()


def test_without_a_conclusion_there_is_nothing_to_hold():
    """Where the main grid's interval holds 0, lacks a cell or has no fill; a single seed has a mean and no interval."""
    null = found({"other": variant()}, frames.make_runs(None, noise=0.5, datasets=DATASETS))
    unsaid = null[(null.main_low < 0) & (null.main_high > 0)]
    assert len(unsaid) > len(null) / 2 and (unsaid[["sign", "holds", "robust"]] == "").all(axis=None)
    runs = frames.make_runs(bits_cost, datasets=DATASETS)
    one = found({"other": variant(seeds=1)}, runs[runs.training == "standard"], FILLS_OF | {"mnist": ()})
    unmeasured = (one.dataset == "mnist") & (one.question == "faithfulness")
    assert one[~unmeasured].estimate.notna().all() and one[["low", "high"]].isna().all(axis=None)
    assert (one.seeds[~unmeasured] == 1).all() and (one.sign[unmeasured | (one.training == "guided")] == "").all()


def test_variants_that_were_not_run_are_left_out():
    """A table without rows, as at the scales that run no ablations: no effect, and the columns are there."""
    empty = pd.DataFrame(columns=["dataset", "precision", "training", "seed", "changed"])
    assert found({"none": empty}).empty and list(found({"none": empty})) == list(found({"other": variant()}))
    assert set(found({"none": empty, "other": variant()}).variant) == {"other"} and found({}).empty
