"""Ratios, where the loss comes from, ablations: rules on numbers that are known, and again by code of its own."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.findings import effects, randomized, retained
from saqlib.scores import PRESERVATION, SEED_TO_SEED
from saqlib.statistics import ratio
from study import settings
from tests.helpers import made, twin_origins, twin_tables
from tests.helpers.made import DATASETS, PRECISIONS, QUESTIONS, TRAININGS

CLAIMS = settings.load().claims


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
    """1 for the reference, .5 for half its gain over the untrained network, and as the twin finds it, row by row.

    There is none without a gain, nor where an untrained network is missing; their order does not count.
    """

    def halved(precision, training, metric):
        return {"fp32": 100, "w2a2": 50}.get(precision, 0) * (metric == "gini")

    runs, rng = made.runs(seeds=10, effect=halved, noise=0.001), np.random.default_rng(1)
    floor = runs[runs.precision == "mixed"].drop(columns="precision").sample(frac=1, random_state=0)
    floor = floor.assign(**{name: floor[name] + rng.normal(size=len(floor)) for name in ("morans_i", "faithfulness")})
    for reference, below in (("fp32", floor), ("w2a2", floor), ("fp32", floor[floor.seed > 0])):
        table, twin = retained(runs, below, reference), twin_tables.retained(runs, below, reference)
        assert list(table) == ["dataset", "training", "metric", "precision", "estimate", "low", "high"]
        found, expected = (each.set_index(list(table)[:4]).sort_index() for each in (table, twin))
        assert found.index.equals(expected.index)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    rows = retained(runs, floor, "fp32", ["gini"]).groupby("precision").estimate
    assert rows.mean()[["fp32", "w2a2"]].tolist() == pytest.approx([1, 0.5], abs=0.01) and (rows.size() == 4).all()


# --- layers drawn anew ---


@pytest.mark.parametrize("seeds", [9, 2, 1])
def test_every_word_is_found_again(seeds):
    """By code of its own, on random numbers with all kinds of effects."""
    rng, parts = np.random.default_rng(seeds), []
    places = [(t, p, r) for t in TRAININGS for p in PRECISIONS for r in ("dense3", "conv1")]
    for training, precision, redrawn in [*places, *((t, "fp32", SEED_TO_SEED) for t in TRAININGS)]:
        keys = {"dataset": "mnist", "training": training, "precision": precision, "redrawn": redrawn}
        level = rng.normal(0, 0.3, len(PRESERVATION))
        likeness = {f"preservation_{name}": at + 0.01 * rng.standard_normal(seeds)
                    for name, at in zip(PRESERVATION, level, strict=True)}  # fmt: skip
        parts.append(pd.DataFrame({**keys, "seed": range(seeds), **likeness}))
    cascade = pd.concat(parts)
    found = randomized(cascade, CLAIMS)
    assert seeds < 9 or set(found.verdict) == {"supported", "opposite", "undecided"}
    twin_origins.check(found, cascade, CLAIMS)


# --- ablations ---

FILLS_OF = {"mnist": ("mean", "blur"), "fashion_mnist": ("noise",)}


def bits_cost(precision, training, metric):
    """Every score falls with every step down; guidance gives the Gini index as much as two steps cost."""
    return -30 * PRECISIONS.index(precision) + 60 * (training == "guided") * (metric == "gini")


def variant(effect=bits_cost, *, precisions=("fp32", "w2a2"), trainings=TRAININGS, changed=("w2a2",), seeds=6):
    """A variant's table: networks of these cells, those of the precisions or trainings in `changed` others."""
    runs = made.runs(seeds=seeds, effect=effect, generator=3)
    runs = runs[runs.precision.isin(precisions) & runs.training.isin(trainings)].sample(frac=1, random_state=0)
    runs = runs.sort_values(["dataset", "training"], kind="stable", ascending=False)
    return runs.assign(changed=runs.precision.isin(changed) | runs.training.isin(changed))


def found(variants, runs=None, fills=FILLS_OF):
    """The effects of some variants."""
    runs = made.runs(seeds=10, effect=bits_cost) if runs is None else runs
    return effects(runs, variants, QUESTIONS, "fp32", fills)


def test_effects_by_hand():
    """Mean paired differences with Student's intervals, of the main grid and of the variant, each on its own seeds."""
    runs, table = made.runs(seeds=10, effect=bits_cost), variant()
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
    null = found({"other": variant()}, made.runs(seeds=10, noise=0.5))
    unsaid = null[(null.main_low < 0) & (null.main_high > 0)]
    assert len(unsaid) > len(null) / 2 and (unsaid[["sign", "holds", "robust"]] == "").all(axis=None)
    runs = made.runs(seeds=10, effect=bits_cost)
    one = found({"other": variant(seeds=1)}, runs[runs.training == "standard"], FILLS_OF | {"mnist": ()})
    unmeasured = (one.dataset == "mnist") & (one.question == "faithfulness")
    assert one[~unmeasured].estimate.notna().all() and one[["low", "high"]].isna().all(axis=None)
    assert (one.seeds[~unmeasured] == 1).all() and (one.sign[unmeasured | (one.training == "guided")] == "").all()


def test_variants_that_were_not_run_are_left_out():
    """A table without rows, as at the scales that run no ablations: no effect, and the columns are there."""
    empty = pd.DataFrame(columns=["dataset", "precision", "training", "seed", "changed"])
    assert found({"none": empty}).empty and list(found({"none": empty})) == list(found({"other": variant()}))
    assert set(found({"none": empty, "other": variant()}).variant) == {"other"} and found({}).empty
