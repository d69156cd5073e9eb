"""Tests of saqlib.evidence.ablations: which differences a variant makes, and which conclusions it leaves standing."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.evidence.ablations import COLUMNS, effects
from tests import frames

QUESTIONS = {"accuracy": "test_accuracy", "focus": "gini", "coherence": "morans_i", "faithfulness": "relevance_gain"}
FILLS = {"mnist": ("mean", "blur"), "fashion_mnist": ("noise",)}


def bits_cost(precision: str, training: str, metric: str) -> float:
    """Every score falls with every step down; guidance gives the Gini index as much as two steps cost."""
    return -30 * frames.PRECISIONS.index(precision) + 60 * (training == "guided") * (metric == "gini")


def make_runs(effect=bits_cost, **options) -> pd.DataFrame:
    return frames.make_runs(effect, datasets=frames.DATASETS, **options)


def variant(effect=bits_cost, *, precisions=("fp32", "w2a2"), trainings=frames.TRAININGS, changed=("w2a2",), seeds=6):
    """A variant's table: networks of these cells, those of the precisions or trainings in `changed` others."""
    runs = make_runs(effect, seeds=seeds, generator=3)
    runs = runs[runs.precision.isin(precisions) & runs.training.isin(trainings)]
    return runs.assign(changed=runs.precision.isin(changed) | runs.training.isin(changed))


def found(variants: dict[str, pd.DataFrame], runs: pd.DataFrame | None = None) -> pd.DataFrame:
    return effects(make_runs() if runs is None else runs, variants, QUESTIONS, "fp32", FILLS)


def test_effects_by_hand():
    """Mean paired differences with Student's intervals, of the main grid and of the variant, each on its own seeds."""
    runs, table = make_runs(), variant()
    one = found({"other": table}, runs)
    assert list(one) == COLUMNS and (one.seeds == 6).all()
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


def test_seeds_are_paired_whatever_their_order():
    """Rows in another order are the same table."""
    shuffled = variant().sample(frac=1, random_state=0)
    one, two = (found({"other": table}).sort_values(COLUMNS[:5]) for table in (variant(), shuffled))
    pd.testing.assert_frame_equal(one.reset_index(drop=True), two.reset_index(drop=True))


@pytest.mark.parametrize(
    ("options", "comparisons"),
    [
        ({"trainings": ("standard",)}, {("standard", "w2a2 - fp32")}),
        ({}, {("standard", "w2a2 - fp32"), ("guided", "w2a2 - fp32"), ("guided", "guided - standard, w2a2")}),
        (
            {"changed": ("guided",)},
            {("guided", "w2a2 - fp32"), ("guided", "guided - standard, fp32"), ("guided", "guided - standard, w2a2")},
        ),
        (
            {"precisions": ("w4a4", "mixed", "w2a2"), "trainings": ("standard",), "changed": ("mixed",)},
            {("standard", "mixed - w4a4"), ("standard", "w2a2 - mixed")},
        ),
        ({"changed": ()}, set()),
    ],
    ids=["precision", "both trainings", "guidance", "no reference", "nothing changed"],
)
def test_a_variant_makes_the_comparisons_that_it_changes(options, comparisons):
    """Precision against reference, or step by step without one; trainings where there are two; all four questions."""
    one = found({"other": variant(**options)})
    assert set(zip(one.training, one.comparison, strict=True)) == comparisons
    assert len(one) == len(comparisons) * len(frames.DATASETS) * len(QUESTIONS)


def reversed_coherence(precision: str, training: str, metric: str) -> float:
    """As in the main grid, but few bits raise Moran's I with guided training."""
    return -bits_cost(precision, training, metric) if (training, metric) == ("guided", "morans_i") else (
        bits_cost(precision, training, metric)
    )  # fmt: skip


def test_a_conclusion_is_robust_if_its_sign_holds_in_every_variant():
    """One variant that turns one difference takes that conclusion, in the rows of every variant, and no other."""
    one = found({"same": variant(), "turned": variant(reversed_coherence)})
    bits = one[one.comparison == "w2a2 - fp32"]
    assert (bits.sign == "-").all()
    turned = (bits.training == "guided") & (bits.question == "coherence")
    assert (bits[turned].holds == (bits[turned].variant == "same")).all()
    assert not bits[turned].robust.any() and turned.sum() == 4
    assert bits[~turned].holds.all() and bits[~turned].robust.all()


def test_without_a_conclusion_there_is_nothing_to_hold():
    """Where the main grid's interval holds 0 no sign is asked for, whatever a variant finds."""
    null = found({"other": variant()}, make_runs(None, noise=0.5))
    unsaid = null[(null.main_low < 0) & (null.main_high > 0)]
    assert len(unsaid) > len(null) / 2
    assert (unsaid[["sign", "holds", "robust"]] == "").all(axis=None)


def test_a_gain_is_a_conclusion_as_well():
    """The sign of the main grid may be either."""
    one = found({"other": variant()})
    gains = one[one.comparison.str.startswith("guided") & (one.question == "focus")]
    assert (gains.sign == "+").all() and gains.robust.all() and len(gains) == 2


def test_variants_that_were_not_run_are_left_out():
    """A table without rows, as at the scales that run no ablations: no effect, and the columns are there."""
    empty = pd.DataFrame(columns=["dataset", "precision", "training", "seed", "changed"])
    assert found({"none": empty}).empty and list(found({"none": empty})) == COLUMNS
    assert list(found({})) == COLUMNS
    assert set(found({"none": empty, "other": variant()}).variant) == {"other"}


def test_a_single_seed_has_a_mean_and_no_interval():
    """And a cell that the main grid lacks gives no conclusion."""
    one = found({"other": variant(seeds=1)})
    assert one.estimate.notna().all() and one[["low", "high"]].isna().all(axis=None) and (one.seeds == 1).all()
    alone = make_runs()
    lacking = found({"other": variant()}, alone[alone.training == "standard"])
    assert (lacking[lacking.training == "guided"].sign == "").all()


def test_where_no_fill_qualifies_faithfulness_is_not_measured():
    """The other questions are."""
    one = effects(make_runs(), {"other": variant()}, QUESTIONS, "fp32", {"mnist": (), "fashion_mnist": ("noise",)})
    unmeasured = (one.dataset == "mnist") & (one.question == "faithfulness")
    assert one[unmeasured].estimate.isna().all() and (one[unmeasured].sign == "").all()
    assert np.isfinite(one[~unmeasured].estimate).all()
