"""What each test of a claim compares, by hand from the columns of a frame; and claims on planted effects."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from saqlib.claims import RULES, Measured, NotAsked
from saqlib.statistics import holm
from saqlib.verdicts import COLUMNS, EQUIVALENT, KEYS, NO_LOSS, OPPOSITE, SUPPORTED, TOO_FEW, UNDECIDED, evaluate
from study import settings
from tests.helpers.frames import DATASETS, PRECISIONS, evidence, make_runs

CLAIMS = settings.load().claims
QUANTIZED = ("w4a4", "mixed", "w2a2")
RUNS = make_runs(generator=3)
BOTH = evidence(RUNS, given=0.5)
FAMILIES = {"A1": 3, "A2": 3, "A3": 3, "A4": 3, "A5": 4, "B2": 6}


# --- what was measured ---


def measured(column="gini", source=BOTH, training="standard"):
    """One column on mnist."""
    return Measured(source, CLAIMS, "mnist", training, column)


def value(column, precision, training="standard", runs=RUNS):
    """A column of the runs by seed."""
    return runs[(runs.precision == precision) & (runs.training == training)].sort_values("seed")[column].to_numpy()


def test_arrays_by_seed_and_part():
    """In the order of the seeds, whatever that of the rows; of the relevance gain a part for each qualifying fill."""
    for runs in (RUNS, RUNS.sample(frac=1, random_state=0)):
        data = measured("relevance_gain", evidence(runs, fills=("blur", "mean")), "guided")
        for part, column in enumerate(("relevance_gain_blur", "relevance_gain_mean")):
            np.testing.assert_array_equal(data.of("w2a2")[:, part], value(column, "w2a2", "guided"))
            np.testing.assert_allclose(data.untrained[:, part], value(column, "fp32", "guided") - 0.5)


def test_a_seed_that_is_missing_is_a_gap_and_shifts_nobody():
    """Pairs stay pairs: the network of another seed never takes its place."""
    gap = (RUNS.precision == "w2a2") & (RUNS.training == "standard") & (RUNS.seed == 4)
    expected = np.where(np.arange(10) == 4, np.nan, value("gini", "w2a2"))
    np.testing.assert_array_equal(measured(source=evidence(RUNS[~gap])).of("w2a2")[:, 0], expected)


def test_what_was_not_run_is_named():
    """A precision, a training, untrained networks, a fill."""
    data = measured(source=evidence(RUNS[(RUNS.training == "standard") & (RUNS.precision != "mixed")]))
    with pytest.raises(NotAsked, match="^mixed with standard training was not run$"):
        data.of("mixed")
    with pytest.raises(NotAsked, match="^fp32 with guided training was not run$"):
        _ = replace(data, training="guided").reference
    with pytest.raises(NotAsked, match="^untrained fp32 was not run$"):
        _ = replace(data, evidence=replace(data.evidence, untrained=data.evidence.untrained.iloc[:0])).untrained
    with pytest.raises(NotAsked, match="no fill qualifies"):
        measured("relevance_gain", evidence(RUNS, fills=())).of("fp32")


# --- rules, by hand ---


def made(test, precisions, **options):
    """The comparisons of a test by label."""
    return {each.label: each for each in RULES[test].comparisons(measured(**options), precisions)}


def by_hand():
    """Of each test a label, and its parts in columns: shown, wanted, the ways to be contrary, change and margin."""
    at = lambda b, training="standard", column="gini": value(column, b, training)  # noqa: E731
    lost = {t: at("mixed", t) - at("fp32", t) for t in ("standard", "guided")}
    points = at("mixed", column="test_accuracy") - at("fp32", column="test_accuracy")
    down, step, more = lost["standard"], at("w2a2") - at("mixed"), lost["guided"] - lost["standard"]
    gained = at("w2a2", "guided") - at("w2a2")
    return {
        "loss": ("mixed - fp32", down, [-down], [[down]], [down], [0.05]),
        "steps": ("w2a2 - mixed", step, [-step], [[step]], [step], [0.05]),
        "joint_loss": ("mixed - fp32, and accuracy", down, [-points, -down], [[-points, down], [points, -down]],
                       [points, down], [0.5, 0.05]),
        "gain": ("guided - standard, w2a2", gained, [gained], [[-gained]], [gained], [0.05]),
        "mitigation": ("guided - standard, mixed - fp32", more, [more], [[-more]], [more], [0.05]),
        "mitigation, share": ("guided - standard, share kept at mixed", 2 * more, [2 * more], [[-2 * more]], [2 * more],
                              [0.1]),
    }  # fmt: skip


@pytest.mark.parametrize("case", by_hand())
def test_comparisons_by_hand(case):
    """All arrays of one comparison of each test."""
    test = case.split(",")[0]
    label, shown, wanted, contrary, change, margin = by_hand()[case]
    training = "guided" if RULES[test].trainings else "standard"
    named = ("fp32", *QUANTIZED) if RULES[test].reference else QUANTIZED
    found = made(test, named, training=training)[label]
    np.testing.assert_allclose(found.shown, shown)
    np.testing.assert_allclose(found.wanted, np.column_stack(wanted))
    for way, expected in zip(found.contrary, contrary, strict=True):
        np.testing.assert_allclose(way, np.column_stack(expected))
    np.testing.assert_allclose(found.change, np.column_stack(change))
    np.testing.assert_allclose(found.margin, np.broadcast_to(margin, found.change.shape))
    if test == "mitigation":
        assert found.loss[0] == "mixed"
        np.testing.assert_allclose(found.loss[1][:, 0], value("gini", "mixed") - value("gini", "fp32"))
    else:
        assert found.loss is None


def test_a_share_of_nothing_is_not_asked_for():
    """Where training raises the score in all seeds but one there is no share, and no error either."""
    source = evidence(RUNS)
    below = source.untrained
    below.loc[(below.seed == 7) & (below.training == "standard"), "gini"] += 1
    additive, share = made("mitigation", ("w4a4",), training="guided", source=source).values()
    assert np.isfinite(additive.shown).all() and not share.shown.size
    assert share.note == "not asked: standard training gives the reference nothing in some seed"


@pytest.mark.parametrize("test", RULES)
def test_every_rule_says_why(test):
    """A reader who asks why it is so finds a reason, beside what is compared; and some claim asks for it."""
    what, *reason = RULES[test].reason.split("\n\n")
    assert what.rstrip().endswith((".", "test.")) and " ".join(reason).strip(), test
    assert test in {claim.test for claim in CLAIMS.hypotheses}


# --- claims on planted effects ---


def falling(size):
    """Everything falls by `size` with each step from fp32 to w2a2, in both trainings."""
    return lambda precision, training, metric: -size * PRECISIONS.index(precision)


def answers(effect=None, *, given=0.5, fills=("mean", "noise", "blur"), claims=CLAIMS, **options):
    """The answers on made-up runs."""
    return evaluate(evidence(make_runs(effect, **options), given=given, fills=fills), claims)


def words(found, training=None):
    """The verdicts by claim, of one training or of all."""
    table = found.verdicts()
    table = table if training is None else table[table.training == training]
    return {claim: set(group.verdict) for claim, group in table.groupby("claim")}


EFFECTS = {  # a planted effect, what training gives, and the words that must come of it
    "fall": (falling(8.0), 2.0, dict.fromkeys(["A1", "A2", "A3", "A4"], SUPPORTED) | {"A5": EQUIVALENT}),
    "rise": (falling(-8.0), 0.5, {"A1": OPPOSITE, "A2": OPPOSITE, "A3": OPPOSITE, "A4": UNDECIDED}),
    "one for the other": (lambda p, t, m: (8, -8)[m == "test_accuracy"] * PRECISIONS.index(p), 0.5, {"A4": OPPOSITE}),
    "other for the one": (lambda p, t, m: (-8, 8)[m == "test_accuracy"] * PRECISIONS.index(p), 0.5, {"A4": OPPOSITE}),
    "one precision": (lambda p, t, m: -20 * (p == "w2a2"), 0.5, {"A4": SUPPORTED, "A1": UNDECIDED, "A3": UNDECIDED}),
    "guidance": (lambda p, t, m: 10 * (t == "guided"), 0.5, {"A5": SUPPORTED}),
    "misguidance": (lambda p, t, m: -10 * (t == "guided"), 0.5, {"A5": OPPOSITE}),
    "made up for": (lambda p, t, m: (-30 + 12 * (t == "guided")) * (p != "fp32"), 0.5, {"B2": SUPPORTED}),
    "made worse": (lambda p, t, m: (-30 - 12 * (t == "guided")) * (p != "fp32"), 0.5, {"B2": OPPOSITE}),
    "not made up for": (lambda p, t, m: -30 * (p != "fp32"), 0.5, {"B2": EQUIVALENT}),
}  # fmt: skip


@pytest.mark.parametrize("name", EFFECTS)
def test_planted_effects(name):
    """Each is called by its name on every dataset, training and question that it reaches."""
    effect, given, expected = EFFECTS[name]
    found = words(answers(effect, given=given))
    assert {claim: found[claim] for claim in expected} == {claim: {word} for claim, word in expected.items()}


def test_rows_of_every_claim_in_order():
    """Claims that compare trainings under guided; families of their own; the columns of the contract."""
    found = answers(falling(0.5), datasets=DATASETS, generator=8)
    tests, table, same = found.tests(), found.verdicts(), found.equivalence()
    assert list(tests.columns) == COLUMNS
    for claim in CLAIMS.hypotheses:
        trainings = ["guided"] if claim.id in ("A5", "B2") else ["standard", "guided"]
        own = table[table.claim == claim.id]
        expected = [(d, t, q) for d in DATASETS for t in trainings for q in claim.questions]
        assert list(own[["dataset", "training", "question"]].itertuples(index=False, name=None)) == expected
        assert set(own.group) == {claim.group} and set(own.text) == {claim.text}
    for (claim, *_), family in tests.groupby(KEYS):
        assert len(family) == FAMILIES[claim]
        np.testing.assert_allclose(family.p_holm, holm(family.p))
    pd.testing.assert_frame_equal(tests[[*KEYS, "comparison"]], same[[*KEYS, "comparison"]])
    assert set(same.seeds) == {10} and set(same.margin[(same.claim == "A1")]) == {0.5}
    np.testing.assert_allclose(same.margin[(same.claim == "A2") & (same.question == "focus")], 0.05)
    none = answers(claims=replace(CLAIMS, hypotheses=()))
    assert list(none.tests().columns) == COLUMNS and none.tests().empty and none.verdicts().empty


def test_mitigation_turns_on_the_scale_and_says_so():
    """Guided networks start twice as high and lose as much: nothing in points, something as a share."""
    both = evidence(make_runs(lambda p, t, m: (100 if t == "guided" else 0) - 30 * (p != "fp32")), given=1.0)
    higher = both.untrained
    scores = higher.columns.drop(["dataset", "training", "seed", "dead_rate"])
    higher.loc[higher.training == "guided", scores] -= 1.0  # its training gives twice as much
    found = evaluate(both, CLAIMS)
    rows = found.tests().query("claim == 'B2' and question == 'focus'").set_index("comparison").verdict
    share = rows.index.str.contains("share")
    assert set(rows[share]) == {SUPPORTED} and set(rows[~share]) == {EQUIVALENT}
    assert words(found)["B2"] == {UNDECIDED}


def test_faithfulness_needs_every_fill_that_qualifies_and_no_other():
    """A fall under two of three leaves it undecided; a fill that does not qualify changes nothing."""
    effect = lambda p, t, m: -20 * (p != "fp32") * (m not in ("relevance_gain_blur", "test_accuracy"))  # noqa: E731
    table = answers(effect).verdicts().query("claim == 'A2'").set_index(["training", "question"]).verdict
    assert set(table[:, "faithfulness"]) == {UNDECIDED} and set(table[:, "focus"]) == {SUPPORTED}
    assert words(answers(effect, fills=("mean", "noise")))["A2"] == {SUPPORTED}
    calm = answers(falling(8.0)).tests()
    wild = answers(lambda p, t, m: 90 if m == "relevance_gain_zero" else -8 * PRECISIONS.index(p)).tests()
    pd.testing.assert_frame_equal(calm, wild)
    none = answers(falling(8.0), fills=()).verdicts().query("question == 'faithfulness'")
    assert set(none.verdict) == {UNDECIDED} and set(none.why) == {"not asked: no fill qualifies"}


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_few_seeds_decide_nothing_and_say_so(seeds):
    """As at smoke and quick: a perfect effect is undecided; one seed has no interval, and none is an error."""
    found = answers(falling(50.0), seeds=seeds)
    table = found.verdicts()
    assert set(table.verdict) == {UNDECIDED}
    assert seeds == 1 or set(table[table.claim != "B2"].why) == {TOO_FEW}
    assert found.tests().low.notna().all() == (seeds > 1)


def test_what_cannot_be_compared_says_why_and_leaves_the_rest_standing():
    """One dead network; a loss that is not there; precisions and trainings that were not run."""
    runs = make_runs(falling(8.0))
    runs.loc[(runs.precision == "mixed") & (runs.training == "standard") & (runs.seed == 3), "gini"] = np.nan
    found = evaluate(evidence(runs), CLAIMS)
    rows = found.tests().query("claim == 'A2' and question == 'focus' and training == 'standard'")
    assert rows.verdict.tolist() == [SUPPORTED, UNDECIDED, SUPPORTED]
    assert found.equivalence().loc[rows.index[1], "note"] == "a network has no value"
    assert words(found, "guided")["A2"] == {SUPPORTED}
    assert set(answers(falling(-8.0)).verdicts().query("claim == 'B2'").why) == {NO_LOSS}
    runs = make_runs(falling(8.0), precisions=("fp32", "w2a2"))
    table = evaluate(evidence(runs[runs.training == "standard"]), CLAIMS).verdicts().set_index("claim")
    assert set(table.index) == {claim.id for claim in CLAIMS.hypotheses}
    assert table.why["A1"] == (
        "not asked: w4a4 with standard training was not run: w4a4 - fp32; "
        "not asked: mixed with standard training was not run: mixed - fp32; supported: w2a2 - fp32"
    )
    assert "guided training was not run" in table.why["A5"].iloc[0]
    guided = evaluate(evidence(make_runs()[make_runs().training == "guided"]), CLAIMS).verdicts()
    assert guided[guided.claim == "A5"].why.str.contains("standard training was not run").all()
