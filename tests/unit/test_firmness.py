"""What verdicts of the grid depend on: every alternative by hand, and what it makes of a verdict."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from saqlib.firmness import COLUMNS, _stays, alternatives, firm
from saqlib.grid import BEYOND, EQUIVALENT, KEYS, LOWER, OPEN, UNDECIDED, WITHIN, grid
from saqlib.scores import GRADIENT
from tests.helpers import made_evidence as made

FILLS = {"mnist": made.FILLS}
CLAIMS = made.claims()
METHOD = "occlusion"
LOST = ("mnist", "standard", "faithfulness", "w4a4 - fp32")


def effect(training, precision, name, column):
    """Faithfulness falls by .2 at few bits, by other methods by .05; focus stays."""
    return -(0.2 if name == GRADIENT else 0.05) * (precision != "fp32" and column.startswith("relevance"))


MAPS = made.maps(effect, names=(GRADIENT, METHOD))
RUNS = made.runs(MAPS)


def found(**options):
    """The alternatives, by key and name; resamples only where a test asks for them."""
    table = alternatives(RUNS, MAPS, FILLS, CLAIMS, **{"resamples": 0, "methods": ()} | options)
    assert list(table) == COLUMNS
    return table.set_index([*KEYS, "alternative"]).sort_index()


@pytest.mark.parametrize(
    ("word", "other", "size", "stays"),
    [
        (LOWER, LOWER, OPEN, True), (LOWER, UNDECIDED, OPEN, False), (EQUIVALENT, LOWER, WITHIN, True),
        (EQUIVALENT, LOWER, OPEN, False), (EQUIVALENT, UNDECIDED, OPEN, False), (LOWER, EQUIVALENT, WITHIN, False),
    ],
)  # fmt: skip
def test_when_a_word_is_found_again(word, other, size, stays):
    """`equivalent` says that a change is small: one that is there and small does not contradict it."""
    assert _stays(word, other, size) == stays


def test_seeds_drawn_anew():
    """A clear loss is found in every resample; one that ten seeds just show is not found in nine of ten."""
    rows = found(resamples=20)
    clear = rows.loc[(*LOST, "seeds resampled")]
    assert clear.estimate == 1 and clear.agrees
    change = np.linspace(-1, 1, 10) - 0.6
    faint = RUNS.copy()
    own, top = ((faint.precision == p) & (faint.training == "standard") for p in ("w4a4", "fp32"))
    faint.loc[own, "test_accuracy"] = faint.test_accuracy[top].to_numpy() + change
    claims = replace(CLAIMS, level=0.2)
    verdicts = grid(faint, MAPS, FILLS, claims)[0].set_index(KEYS)
    key = ("mnist", "standard", "accuracy", "w4a4 - fp32")
    assert verdicts.word[key] == LOWER
    table = alternatives(faint, MAPS, FILLS, claims, resamples=50, methods=())
    row = table.set_index([*KEYS, "alternative"]).loc[(*key, "seeds resampled")]
    assert 0.3 < row.estimate < 0.95 and row.agrees == (row.estimate >= 0.9)
    pd.testing.assert_frame_equal(table, alternatives(faint, MAPS, FILLS, claims, resamples=50, methods=()))


def test_images_of_equal_confidence():
    """The word must be found again; accuracy is not asked, since it is of all images."""
    matched = made.runs(made.maps(lambda *key: effect(*key) * (key[1] != "w4a4"), generator=1))
    rows = found(matched=matched).xs("matched images", level="alternative")
    assert not rows.agrees[LOST] and rows.agrees[(*LOST[:3], "w2a2 - fp32")]
    assert "accuracy" not in rows.index.get_level_values("question")


@pytest.mark.parametrize(
    ("share", "spread", "least", "agrees"),
    [(0.4, 0.5, 0.5, True), (0.4, 0.05, 0.5, False), (0.25, 0.05, 0.2, True), (-0.05, 2.0, 0.5, False),
     (1.5, 0.5, 0.5, True)],
)  # fmt: skip
def test_another_method_disagrees_only_where_that_is_sure(share, spread, least, agrees):
    """An interval that reaches half of the gradient's loss is no disagreement, unless the method itself gains."""
    other, gains = MAPS.copy(), [column for column in MAPS if column.startswith("relevance")]
    own = (MAPS.training == "standard") & (MAPS.network == "trained")
    at = {key: own & (MAPS["map"] == key[0]) & (MAPS.precision == key[1])
          for key in ((METHOD, "w4a4"), (METHOD, "fp32"))}  # fmt: skip
    change = -0.2 * (share + spread * np.linspace(-1, 1, 10))
    other.loc[at[METHOD, "w4a4"], gains] = other.loc[at[METHOD, "fp32"], gains].to_numpy() + change[:, None]
    claims, methods = replace(CLAIMS, margins=replace(CLAIMS.margins, recovered=least)), (METHOD, "not scored")
    table = alternatives(RUNS, other, FILLS, claims, resamples=0, methods=methods).set_index([*KEYS, "alternative"])
    row = table.loc[(*LOST, METHOD)]
    assert row.estimate == pytest.approx(share, abs=0.05) and row.agrees == agrees
    assert (row.high > 0.5) == (spread > 0.1) and row.low < row.estimate < row.high
    assert set(table.word) <= {"lower", "higher"}, "of no change there is no ratio"


def test_ablations():
    """The same sign where the word has one; within the margin where it is equivalence."""
    verdicts = grid(RUNS, MAPS, FILLS, CLAIMS)[0].set_index(KEYS)
    same = ("mnist", "standard", "accuracy", "w4a4 - fp32")
    assert (verdicts.word[LOST], verdicts["size"][LOST], verdicts.word[same]) == (LOWER, BEYOND, EQUIVALENT)
    rows = [
        (LOST, "a", -0.01, True), (LOST, "b", +0.01, False), (same, "a", 0.49, True), (same, "b", -0.51, False),
        (same, "not run", np.nan, None),
    ]  # fmt: skip
    effects = pd.DataFrame([[*key, name, value, 0, 0] for key, name, value, _ in rows],
                           columns=[*KEYS, "variant", "estimate", "low", "high"])  # fmt: skip
    table = found(effects=effects)
    assert {(key[:4], key[4]): agrees for key, agrees in table.agrees.items()} == {
        (key, name): agrees for key, name, _, agrees in rows if agrees is not None
    }


def test_firm_is_what_says_something_and_no_alternative_disagrees():
    """Knife-edges are the rows that disagree; what is undecided has no row and is not firm."""
    verdicts = grid(RUNS, MAPS, FILLS, CLAIMS)[0]
    table = alternatives(RUNS, MAPS, FILLS, CLAIMS, resamples=0, methods=(METHOD,))
    settled = firm(verdicts, table).set_index(KEYS)
    assert not settled.firm[LOST] and settled.firm[("mnist", "standard", "accuracy", "w4a4 - fp32")]
    three = grid(RUNS, MAPS, FILLS, CLAIMS, seeds=range(3))[0]
    assert (three.word == UNDECIDED).all() and not firm(three, table.iloc[:0]).firm.any()
    assert UNDECIDED not in set(table.word)
    pd.testing.assert_frame_equal(firm(verdicts, table).drop(columns="firm"), verdicts.drop(columns="firm"))
    assert firm(verdicts, table.iloc[:0]).firm.tolist() == (verdicts.word != UNDECIDED).tolist()


def test_without_seeds_to_draw():
    """One seed says nothing, so there is nothing to ask."""
    assert alternatives(RUNS, MAPS, FILLS, CLAIMS, seeds=[0]).empty
