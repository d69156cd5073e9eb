"""Tests of saqlib.evidence.robustness: each alternative is the one that it says, and firm is what stays."""

from dataclasses import replace

import numpy as np
import pytest

from saqlib.evidence import robustness as module
from saqlib.evidence.claims import KEYS, evaluate
from saqlib.evidence.robustness import COLUMNS, robustness, standing
from saqlib.evidence.settings import TESTS
from saqlib.evidence.statistics import page_trend
from saqlib.evidence.verdicts import EQUIVALENT, OPPOSITE, SUPPORTED, UNDECIDED
from saqlib.pipeline import study
from tests.frames import PRECISIONS, evidence, make_runs

FROZEN = study.load().claims
EVERY = {"no Holm correction", "signed ranks", "t-tests", "one seed left out", "seeds resampled"}


def falling(size):
    """Everything falls by `size` with each step from fp32 to w2a2."""
    return lambda precision, training, metric: -size * PRECISIONS.index(precision)


def of(found, alternative=None, **keys):
    """The rows with these keys."""
    keys |= {"alternative": alternative} if alternative else {}
    for key, value in keys.items():
        found = found[found[key] == value]
    return found


def the(found, **keys):
    """The one row with these keys."""
    (row,) = of(found, **keys).to_dict("records")
    return row


def claims(*ids):
    """Some of the frozen claims."""
    return replace(FROZEN, hypotheses=tuple(claim for claim in FROZEN.hypotheses if claim.id in ids))


LOSS = {"claim": "A2", "training": "standard", "question": "focus"}


def test_a_large_effect_is_firm_everywhere():
    """Every alternative that applies is there with its number of cases, and all say the same."""
    both = evidence(make_runs(falling(8.0)))
    found = robustness(both, FROZEN, resamples=20)
    assert list(found.columns) == COLUMNS
    fills, images = {"mean alone", "noise alone", "blur alone"}, {"all images", "matched images"}
    for claim in FROZEN.hypotheses:
        for question in claim.questions:
            own = of(found, claim=claim.id, question=question, training="guided")
            expected = EVERY | (fills if question == "faithfulness" else set())
            expected |= images if question != "accuracy" and claim.test != "loss_at_equal_confidence" else set()
            expected |= {"trend for steps"} if claim.test == "steps" else set()
            assert set(own.alternative) == expected, (claim.id, question)
            cases = own.set_index("alternative").cases
            assert cases["one seed left out"] == 10 and cases["seeds resampled"] == 20
            assert (cases.drop(["one seed left out", "seeds resampled"]) == 1).all()
    losses = found[found.claim.isin(["A1", "A2", "A3", "A4", "B3", "B4"])]
    assert losses.firm.all() and (losses.same == losses.cases).all() and set(losses.otherwise) == {""}
    assert len(TESTS) == len({claim.test for claim in FROZEN.hypotheses})


def test_the_verdicts_are_those_of_the_claims():
    """In their order; `standing` finds each, and counts the alternatives under which it stays."""
    both = evidence(make_runs(falling(1.5), generator=3))
    found, answers = robustness(both, FROZEN, resamples=5), evaluate(both, FROZEN)
    rows = found.drop_duplicates(KEYS)
    assert rows.verdict.tolist() == list(answers.words.values())
    summary = standing(found, answers)
    assert summary.firm.tolist() == rows.firm.tolist()
    for key, own in zip(answers.words, summary.itertuples(index=False), strict=True):
        group = of(found, **dict(zip(KEYS, key, strict=True)))
        assert (own.stays, own.alternatives) == (sum(group.stays), len(group))
    assert 0 < summary.stays.sum() < summary.alternatives.sum()


def test_one_fill_alone():
    """A fall under mean and noise, nothing with a blur: undecided, supported by two of three fills."""
    runs = make_runs(lambda p, t, m: -20 * (p != "fp32") * (m != "relevance_gain_blur"), generator=1)
    both = evidence(runs, given=2.0)
    found = of(robustness(both, claims("A2"), resamples=2), training="standard", question="faithfulness")
    words = {fill: the(found, alternative=f"{fill} alone")["otherwise"] for fill in ("mean", "noise", "blur")}
    assert words == {"mean": "supported 1", "noise": "supported 1", "blur": "equivalent 1"}
    assert not found.firm.any() and set(found.verdict) == {UNDECIDED}


def test_a_fill_counts_only_where_it_qualifies():
    """Datasets differ in that; a fill of one is no alternative for the other."""
    runs = make_runs(falling(8.0), datasets=("mnist", "fashion_mnist"))
    both = replace(evidence(runs), fills={"mnist": ("mean",), "fashion_mnist": ("noise", "blur")})
    found = robustness(both, claims("A2"), resamples=2)
    alone = found[found.alternative.str.endswith("alone")]
    assert {d: set(g.alternative) for d, g in alone.groupby("dataset")} == {
        "mnist": {"mean alone"}, "fashion_mnist": {"noise alone", "blur alone"},
    }  # fmt: skip
    assert robustness(replace(both, fills={"mnist": (), "fashion_mnist": ()}), claims("A2"), resamples=2).size


@pytest.mark.parametrize("images", ["all", "matched"])
def test_other_images(images):
    """The loss is there on the primary images alone: it does not stay, and is not firm."""
    both = evidence(make_runs(falling(8.0)))
    calm = {**both.runs, images: make_runs()}
    found = robustness(replace(both, runs=calm), claims("A1", "A2"), resamples=2)
    row = the(found, alternative=f"{images} images", **LOSS)
    assert (row["verdict"], row["same"], row["otherwise"], row["firm"]) == (SUPPORTED, 0, "equivalent 1", False)
    assert of(found, claim="A1").firm.all(), "accuracy knows no images"


def one_seed(values):
    """A loss in Gini whose seeds are these at every quantized precision; everything else is silent."""
    runs = make_runs(noise=0.0, seeds=len(values))
    quantized = runs.precision != "fp32"
    runs.loc[quantized, "gini"] -= np.array(values)[runs.seed[quantized]]
    return evidence(runs, given=1e-6)


def test_one_seed_left_out():
    """A loss in nine seeds of ten, twice as large as what the tenth gains: it hangs on single seeds."""
    found = robustness(one_seed([1.0] * 9 + [-3.9]), claims("A2"), resamples=2)
    row = the(found, alternative="one seed left out", **LOSS)
    assert row["verdict"] == UNDECIDED and row["same"] == 9 and row["otherwise"] == "supported 1"


@pytest.mark.parametrize(
    ("losses", "verdict", "otherwise"),
    [
        # the exact test of a mean needs no correction to see it
        ([1.0, 1.1, 0.9, 1.2, 0.8, 1.0, 1.3, 0.7, -0.8, -0.9], UNDECIDED, {"no Holm correction": "supported 1"}),
        # one wild seed of fifteen tears the mean, and moves a median by little
        ([*np.linspace(1, 1.1, 14), -100.0], UNDECIDED, {"signed ranks": "supported 1"}),
        # all seeds lose, one of them by much: that is no doubt, but to a t-test
        ([*np.linspace(1, 1.1, 9), 50.0], SUPPORTED, {"t-tests": "undecided 1"}),
    ],
)
def test_without_correction_with_a_median_or_a_t_test(losses, verdict, otherwise):
    """Each alternative changes the one thing that it names, and of these three only one has another word."""
    rows = of(robustness(one_seed(losses), claims("A2"), resamples=2), **LOSS).set_index("alternative")
    names = ["no Holm correction", "signed ranks", "t-tests"]
    assert set(rows.verdict) == {verdict}
    assert rows.otherwise[names].to_dict() == dict.fromkeys(names, "") | otherwise


@pytest.mark.parametrize(("sign", "expected"), [(1, SUPPORTED), (-1, OPPOSITE)])
def test_a_trend_in_place_of_steps(sign, expected):
    """Three steps, the last of which is faint: a trend sees what single steps do not, and knows its direction."""
    effect = {"fp32": 0.0, "w4a4": 8.0, "mixed": 16.0, "w2a2": 16.2}
    both = evidence(make_runs(lambda p, t, m: -sign * effect[p], generator=2))
    row = the(robustness(both, claims("A3"), resamples=2), alternative="trend for steps", **LOSS | {"claim": "A3"})
    assert row["verdict"] == UNDECIDED and row["otherwise"] == f"{expected} 1"


def test_one_step_is_no_trend():
    """A single step from the reference: Page's test over all precisions rejects, without the reference it does not."""
    runs = make_runs(lambda p, t, m: -20 * (p != "fp32"), generator=1)
    table = runs[runs.training == "standard"].pivot(index="seed", columns="precision", values="gini")
    assert page_trend(-table[list(PRECISIONS)]) < 0.01
    row = the(
        robustness(evidence(runs), claims("A3"), resamples=2), alternative="trend for steps", **LOSS | {"claim": "A3"}
    )
    assert row["verdict"] == UNDECIDED and row["otherwise"] == ""


def test_where_nothing_changes_a_trend_has_nothing_to_say():
    """Equivalence stays what the steps found."""
    row = the(
        robustness(evidence(make_runs(generator=6)), claims("A3"), resamples=2),
        alternative="trend for steps", **LOSS | {"claim": "A3"},
    )  # fmt: skip
    assert row["verdict"] == EQUIVALENT and row["same"] == 1


def test_resamples_are_the_same_each_time_and_differ_by_seed():
    """Drawn from a generator of their own, all verdicts on the same seeds."""
    both = evidence(make_runs(falling(0.9), generator=4), given=0.1)
    first, again, other = (robustness(both, FROZEN, resamples=30, seed=s) for s in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)
    first, other = (each[each.alternative != "seeds resampled"].drop(columns="firm") for each in (first, other))
    assert first.equals(other)


def test_firm_is_what_stays_under_everything():
    """One of ten resamples may differ, no other case may; an undecided verdict is no answer, so never firm."""
    assert module._stays("seeds resampled", 10, 9) and not module._stays("seeds resampled", 10, 8)
    assert module._stays("one seed left out", 10, 10) and not module._stays("one seed left out", 10, 9)
    found = robustness(evidence(make_runs(seeds=3)), FROZEN, resamples=3)
    assert not found.firm.any() and set(found.verdict) == {UNDECIDED}


def test_few_seeds_are_no_error():
    """Two as at smoke, or one: nothing is firm."""
    for seeds in (1, 2):
        assert not robustness(evidence(make_runs(seeds=seeds)), FROZEN, resamples=2).firm.any()
