"""One verdict per comparison: hand-made cases of every word and size, families, margins, and the twin."""

from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats

from saqlib import grid as module
from saqlib.grid import BEYOND, COLUMNS, EQUIVALENT, HIGHER, KEYS, LOWER, OPEN, TESTS, UNDECIDED, WITHIN, grid
from saqlib.scores import GRADIENT
from study import paths
from tests.helpers import made_evidence as made
from tests.helpers import parameters, twin_grid

FILLS = {"mnist": made.FILLS, "fashion_mnist": made.FILLS}
GAINS = [f"relevance_gain_{fill}" for fill in made.FILLS]
CLAIMS = made.claims()
RAMP = np.linspace(-1, 1, 10)


def two(change, given=1.0, column="gini", seeds=10, precisions=("fp32", "w4a4")):
    """Networks of two precisions that differ by this in one column, and the untrained ones, which score `given` less.

    change, given: a number, or one for each seed.
    """
    keys = pd.DataFrame(product(["mnist"], ["standard"], precisions, range(seeds)), columns=made.KEYS)
    runs = keys.assign(test_accuracy=95.0, **dict.fromkeys(made.SCORES, 0.5)).astype({"test_accuracy": float})
    runs.loc[runs.precision == precisions[-1], column] += np.broadcast_to(change, seeds)
    below = runs[runs.precision == "fp32"].drop(columns="test_accuracy").assign(map=GRADIENT, network="untrained")
    return runs, below.assign(**{name: 0.5 - np.broadcast_to(given, seeds) for name in made.SCORES})


def verdict(frames, question="focus", claims=CLAIMS, **options):
    """The first row of a question, and what else is known of it."""
    found = [table[table.question == question].iloc[0] for table in grid(*frames, FILLS, claims, **options)]
    return pd.concat([found[0], found[1].drop(KEYS)])


# ------------------------------------------------------------------------------------------------ words and sizes


@pytest.mark.parametrize(
    ("change", "word", "size"),
    [
        (-0.30 + 0.05 * RAMP, LOWER, BEYOND),  # the margin is .1
        (-0.10 + 0.05 * RAMP, LOWER, OPEN),
        (-0.05 + 0.02 * RAMP, LOWER, WITHIN),
        (+0.30 + 0.05 * RAMP, HIGHER, BEYOND),
        (+0.10 + 0.05 * RAMP, HIGHER, OPEN),
        (+0.05 + 0.02 * RAMP, HIGHER, WITHIN),
        (+0.00 + 0.05 * RAMP, EQUIVALENT, WITHIN),
        (+0.00 + 0.50 * RAMP, UNDECIDED, OPEN),
        (+0.20 + 0.90 * RAMP, UNDECIDED, OPEN),
    ],
)
@pytest.mark.parametrize("question", ["focus", "accuracy"])
def test_every_word_and_size(change, word, size, question):
    """By hand, of a score and of accuracy, whose margin is five times as wide."""
    factor, column = (5, "test_accuracy") if question == "accuracy" else (1, "gini")
    found = verdict(two(factor * change, column=column), question)
    assert (found.word, found["size"]) == (word, size)
    assert found.margin == pytest.approx(factor * 0.1)
    assert found.estimate == pytest.approx(factor * change.mean(), abs=1e-12)
    half = stats.t.ppf(0.975, 9) * stats.sem(factor * change)
    assert (found.high - found.low) / 2 == pytest.approx(half) and found.seeds == 10


def test_p_values_in_closed_form():
    """Ten changes of one sign: two of 2^10 flips are as extreme; both margins are passed in one of them."""
    found = verdict(two(-0.05 + 0.02 * RAMP))
    assert (found.p, found.p_holm, found.p_equivalent, found.p_beyond) == (2 / 2**10, 2 / 2**10, 1 / 2**10, 1.0)
    assert verdict(two(-0.3 + 0.02 * RAMP)).p_beyond == 1 / 2**10
    assert verdict(two(0.0)).p == 1 and verdict(two(0.0)).word == EQUIVALENT
    for seeds, word in ((5, UNDECIDED), (6, LOWER)):
        assert verdict(two(-0.3 + 0.01 * RAMP[:seeds], seeds=seeds)).word == word


def test_a_change_before_equivalence_and_never_beyond_without_one():
    """What is significant and small is called lower, within the margin; what is not significant has no size."""
    results = module.PValues(np.array([-1.0, 1, 0, -1]), np.array([0.01, 0.5, 0.01, 0.5]),
                            np.array([0.01, 0.01, 0.5, 0.5]), np.array([0.01, 0.01, 0.01, 0.01]),
                            [np.array([place]) for place in range(4)])  # fmt: skip
    assert results.words(0.05) == ([LOWER, EQUIVALENT, UNDECIDED, UNDECIDED], [WITHIN, WITHIN, OPEN, OPEN])


# ------------------------------------------------------------------------------------------------- faithfulness


def by_fill(*changes):
    """Faithfulness changes by so much under each fill."""
    runs, below = two(0.0)
    for column, change in zip(GAINS, changes, strict=True):
        runs.loc[runs.precision == "w4a4", column] += change
    return runs, below


def test_faithfulness_is_the_mean_over_the_fills_and_the_largest_p_value():
    """The range over the fills stands beside it."""
    wide = -0.1 + 0.2 * RAMP
    found = verdict(by_fill(-0.3 + 0.1 * RAMP, -0.2 + 0.01 * RAMP, wide), "faithfulness")
    assert found.p == 2 * twin_grid.share_above(-wide) > 0.05 and found.word == UNDECIDED
    assert found[["estimate", "low_fill", "high_fill"]].tolist() == pytest.approx([-0.2, -0.3, -0.1])
    assert np.isnan(verdict(by_fill(0, 0, 0), "focus").low_fill)


@pytest.mark.parametrize(
    ("changes", "word", "size"),
    [
        ((-0.3, -0.3, -0.3), LOWER, BEYOND), ((-0.3, -0.3, -0.08), LOWER, OPEN),
        ((-0.01, -0.01, -0.01), LOWER, WITHIN), ((-0.01, -0.01, -0.12), LOWER, OPEN),
        ((-0.3, -0.3, +0.3), UNDECIDED, OPEN),  # each is significant; together they say nothing
    ],
)  # fmt: skip
def test_all_fills_must_agree(changes, word, size):
    """On the way, and on what is within or beyond the margin; where they go apart p is 1."""
    found = verdict(by_fill(*changes), "faithfulness")
    assert (found.word, found["size"]) == (word, size)
    assert word == LOWER or (found.p, found.p_beyond) == (1, 1)


# ------------------------------------------------------------------------------------------------------- margins


@pytest.mark.parametrize(("factor", "refused"), [(1.001, False), (0.999, True)])
def test_a_margin_is_refused_where_training_surely_gives_too_little(factor, refused):
    """The lower end of the interval of what it gives must be three half-widths, so the mean four: just so, and not."""
    half = stats.t.ppf(0.975, 9) * stats.sem(RAMP)
    found = verdict(two(-0.5, 4 * factor * half + RAMP))
    assert np.isnan(found.margin) == np.isnan(found.p_equivalent) == refused
    assert found.word == LOWER and found["size"] == (OPEN if refused else BEYOND)


def test_what_training_lowers_has_no_margin():
    """Nor has what was never untrained; accuracy always has one."""
    assert np.isnan(verdict(two(-0.5, -1.0)).margin)
    runs, below = two(-0.5)
    assert np.isnan(verdict((runs, below.iloc[:0])).margin)
    assert verdict((runs, below.iloc[:0]), "accuracy").margin == 0.5


# ------------------------------------------------------------------------------------ comparisons and families


def test_the_comparisons_and_their_order():
    """Each with full precision, each step but the first, and trainings; precisions are those of the runs."""
    maps = made.maps(seeds=3)
    verdicts, tests = grid(made.runs(maps), maps, FILLS, CLAIMS)
    assert list(verdicts) == COLUMNS and list(tests) == [*KEYS, *TESTS]
    assert list(verdicts.question.unique()) == list(made.QUESTIONS)
    costs = ["w4a4 - fp32", "mixed - fp32", "w2a2 - fp32", "mixed - w4a4", "w2a2 - mixed"]
    gains = [f"guided - standard, {precision}" for precision in made.PRECISIONS]
    focus = verdicts[verdicts.question == "focus"].groupby("training", sort=False).comparison.agg(list)
    assert focus.to_dict() == {"standard": costs, "guided": costs + gains}
    pd.testing.assert_frame_equal(verdicts[KEYS], tests[KEYS])
    renamed = maps.replace({"precision": {"mixed": "w3a3"}})
    assert "w2a2 - w3a3" in set(grid(made.runs(renamed), renamed, FILLS, CLAIMS)[0].comparison)


def test_some_seeds_only():
    """As if there were no others; a network that lacks one of them has a gap."""
    maps = made.maps(lambda t, p, m, c: 0.05 * (p != "fp32"), seeds=12)
    runs = made.runs(maps)
    own, tests = grid(runs, maps, FILLS, CLAIMS, seeds=range(2, 12))
    later = [frame[frame.seed >= 2] for frame in (runs, maps)]
    for found, expected in zip((own, tests), grid(*later, FILLS, CLAIMS), strict=True):
        pd.testing.assert_frame_equal(found, expected)
    assert (own.seeds == 10).all() and not own.firm.any()
    short = runs[(runs.seed < 11) | (runs.precision != "w4a4")]
    found = grid(short, maps, FILLS, CLAIMS)[0].set_index("comparison").loc["w4a4 - fp32"]
    assert (found.word == UNDECIDED).all() and found.p.isna().all() and (found.seeds == 11).all()


@pytest.mark.parametrize("seeds", [0, 1])
def test_too_few_seeds_to_test(seeds):
    """No p-value, no word, no error."""
    maps = made.maps(seeds=2)
    found = grid(made.runs(maps), maps, FILLS, CLAIMS, seeds=range(seeds))[0]
    assert found.p.isna().all() and (found.word == UNDECIDED).all() and found.low.isna().all()


def test_the_ratio_of_errors():
    """.31 points at 99.16 % are 37 % more errors."""
    runs, below = two(-0.31, column="test_accuracy")
    runs["test_accuracy"] += 99.16 - 95
    found = verdict((runs, below), "accuracy")
    assert found.error_ratio == pytest.approx(1.15 / 0.84)
    assert np.isnan(verdict((runs, below), "focus").error_ratio)


def test_frames_that_are_not():
    """One line that names what is wrong."""
    runs, below = two(0.1)
    for frame, message in (
        (runs.drop(columns="gini"), "the runs lack the column gini, which answers focus"),
        (runs.drop(columns="seed"), "lacks the column seed"),
        (pd.concat([runs, runs.iloc[:3]]), "3 network.s. stand twice"),
        (runs[runs.precision != "fp32"], "no network of the runs is fp32"),
    ):
        with pytest.raises(ValueError, match=message):
            grid(frame, below, FILLS, CLAIMS)


# ------------------------------------------------------------------------------------------------------ the twin


def compare(found, tests, expected, rtol=1e-6, atol=1e-9):
    """Every number and word is the twin's."""
    complete = len(expected) == len(found)
    expected = found[KEYS].merge(expected, on=KEYS, validate="one_to_one")
    assert complete and len(expected) == len(found)
    for name in ("word", "size", "seeds"):
        assert found[name].tolist() == expected[name].tolist(), name
    for name in ("estimate", "low", "high", "p", "p_holm", "p_bh", "margin"):
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=atol, err_msg=name)
    for name, other in (("p_equivalent", "same"), ("p_beyond", "beyond")):
        np.testing.assert_allclose(tests[name], expected[other], rtol=rtol, err_msg=name)
        np.testing.assert_allclose(tests[f"{name}_holm"], expected[f"{other}_holm"], rtol=rtol, err_msg=name)


@given(
    st.integers(0, 10_000), st.integers(2, 11), st.floats(0, 0.08), st.floats(0.001, 0.05), st.floats(-0.1, 0.6),
    st.sampled_from([(), ("mean",), made.FILLS]), st.booleans(),
)  # fmt: skip
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
def test_the_twin_agrees(generator, seeds, size, noise, given_, fills, gap):
    """On random frames: effects of either sign by cell and question, of all sizes beside noise and margin."""
    rng = np.random.default_rng(generator)
    planted = {}
    effect = lambda *key: planted.setdefault(key, size * rng.normal())  # noqa: E731
    maps = made.maps(effect, seeds=seeds, noise=noise, generator=generator, given=given_)
    runs = made.runs(maps, lambda *key: effect(*key, "", "") * 10)
    if gap:
        runs.loc[rng.integers(len(runs)), "gini"] = np.nan
    claims = replace(CLAIMS, level=float(rng.choice([0.05, 0.2])))
    found = grid(runs, maps, {"mnist": fills}, claims)
    compare(*found, twin_grid.grid(runs, maps, {"mnist": fills}, asdict(claims)))


@pytest.mark.parametrize("name", ["grid", "grid_confirming"])
def test_the_committed_grid_is_the_twins(name):
    """Every word of the paper's grid once more, from the committed CSVs."""
    results = paths.ROOT / "results"
    raw = parameters.RAW
    seeds = sorted(pd.read_csv(results / "runs.csv").seed.unique())
    if name == "grid_confirming":
        seeds = [seed for seed in seeds if seed >= raw["scales"][raw["scale"]]["exploring"]]
    found, tests = (pd.read_csv(results / "tables" / f"{each}.csv") for each in (name, f"{name}_tests"))
    # From CSVs of eight digits, in which a difference of two scores keeps fewer.
    compare(found, tests, twin_grid.recomputed(results, raw["claims"], seeds), rtol=1e-4, atol=1e-7)
