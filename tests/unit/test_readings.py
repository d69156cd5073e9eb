"""Claims as readings of the grid, and the table of maps."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.claims import Claim, Evidence
from saqlib.findings import MAPS_COLUMNS, both, maps_table, readings, registered_rows, size_of, state
from saqlib.grid import BEYOND, EQUIVALENT, HIGHER, LOWER, OPEN, UNDECIDED, WITHIN, grid, untrained_rows
from saqlib.registered import Registered, evaluate
from saqlib.scores import GRADIENT
from saqlib.verdicts import COLUMNS
from saqlib.verdicts import evaluate as evaluate_claims
from tests.helpers import made_evidence as made
from tests.unit.test_registered import frames

QUANTIZED = made.PRECISIONS[1:]


@pytest.mark.parametrize(
    ("word", "size", "read", "is_"),
    [
        (LOWER, BEYOND, "lower, beyond the margin", "lost"), (LOWER, OPEN, "lower", "lost"),
        (LOWER, WITHIN, "lower, within the margin", "kept"), (HIGHER, BEYOND, "higher, beyond the margin", "kept"),
        (EQUIVALENT, WITHIN, "equivalent", "kept"), (UNDECIDED, OPEN, "undecided", "open"),
    ],
)  # fmt: skip
def test_a_verdict_as_one_reads_it(word, size, read, is_):
    """A size is said where there is a change; a loss within the margin is none."""
    assert (size_of(word, size), state(word, size)) == (read, is_)


def test_what_is_given_up_together():
    """Map and accuracy, by name where they differ."""
    found = [both(a, b) for a, b in (("lost", "lost"), ("lost", "kept"), ("kept", "lost"), ("lost", "open"),
                                     ("kept", "kept"), ("open", "open"))]  # fmt: skip
    assert found == ["both lost", "map lost, accuracy kept", "map kept, accuracy lost", "map lost, accuracy open",
                     "both kept", "open"]  # fmt: skip


def test_claims_are_read_from_the_grid():
    """Accuracy stays at 4 bits and falls at 2, maps fall at both: a conjunction is undecided, its readings are not."""
    ours = [
        ("A1", "loss", ("accuracy",), QUANTIZED), ("A4", "joint_loss", ("faithfulness",), QUANTIZED),
        ("A3", "steps", ("faithfulness",), made.PRECISIONS), ("A5", "gain", ("focus",), QUANTIZED),
        ("B2", "mitigation", ("focus",), ("w4a4",)),
    ]  # fmt: skip
    claims = made.claims(hypotheses=[Claim(i, "abstract", "", test, asked, p) for i, test, asked, p in ours])
    maps = made.maps(lambda t, p, m, c: -0.2 * (c.startswith("rel") and p != "fp32") + 0.3 * (t == "guided"))
    runs = made.runs(maps, lambda t, p: -3.0 * (p == "w2a2"))
    fills = {"mnist": made.FILLS}
    below = untrained_rows(maps, "fp32").drop(columns=["precision", "map"])
    answers = evaluate_claims(Evidence(runs, below, fills), claims)
    table = readings(answers, claims, grid(runs, maps, fills, claims)[0])
    assert list(table) == [*COLUMNS, "reading"]
    pd.testing.assert_frame_equal(table[COLUMNS], answers.tests())
    own = table[table.training == "standard"].set_index(["claim", "comparison"]).reading
    assert own["A1"].tolist() == ["equivalent", "equivalent", "lower, beyond the margin"]
    assert own["A4"].tolist() == ["map lost, accuracy kept", "map lost, accuracy kept", "both lost"]
    assert own["A3", "w4a4 - fp32"] == "lower, beyond the margin" != own["A3", "mixed - w4a4"]
    guided = table[table.training == "guided"].set_index(["claim", "comparison"]).reading
    assert (guided["A5"] == "higher, beyond the margin").all()
    assert set(guided["B2"]) == {"no loss"}
    nothing = readings(answers, claims, grid(runs, maps, fills, claims)[0].iloc[:0])
    assert (nothing.reading[nothing.claim != "B2"] == "").all()


def test_registered_claims_are_rows_of_the_same_table():
    """Estimates of all seeds, words of those that confirm, and what was expected where it is something else."""
    claims = [Registered("C1", "", "lower", QUANTIZED, {"default": "open"}, versus="pass_through"),
              Registered("C1", "", "higher", QUANTIZED, {"default": "refuted"}, versus="pass_through"),
              Registered("C5", "", "lower", QUANTIZED, {}, versus="occlusion", datasets=("x",))]  # fmt: skip
    found = evaluate(claims, frames(), made.claims(), 10)
    table = registered_rows(found)
    assert list(table) == [*COLUMNS, "reading"] and len(table) == len(found)
    rows = table.groupby("claim", sort=False).first()
    assert rows.reading.tolist() == ["supported, expected open", ""]
    assert table.verdict.unique().tolist() == ["supported", "opposite", ""]
    assert set(table.reading) == {"supported, expected open", "refuted", ""}
    assert (table.question == "faithfulness").all() and table.estimate.equals(found.estimate)
    none = registered_rows(evaluate([], frames(), made.claims(), 10))
    assert none.empty and list(none) == list(table)


def test_the_table_of_maps():
    """Each fill and their mean, all seeds and those that confirm, above the floor of the same method."""
    maps = made.maps(names=(GRADIENT, "occlusion"), seeds=6)
    maps["faithfulness"] = maps[[f"relevance_gain_{fill}" for fill in made.FILLS]].mean(axis=1)
    maps["relevance_gain_zero"] = maps.faithfulness.where(maps["map"] == GRADIENT)
    image = maps[(maps["map"] == GRADIENT) & (maps.network == "trained")].assign(map="image")
    table = maps_table(pd.concat([maps, image], ignore_index=True), ("zero", *made.FILLS), exploring=4)
    assert list(table) == MAPS_COLUMNS and not table.duplicated(MAPS_COLUMNS[:6]).any()
    rows = table.set_index(MAPS_COLUMNS[:6]).sort_index()
    own = maps.query("training == 'guided' and precision == 'w2a2' and network == 'trained'")
    values = own[own["map"] == "occlusion"].relevance_gain_blur
    row = rows.loc["mnist", "guided", "w2a2", "occlusion", "blur", "all"]
    assert row["mean"] == pytest.approx(values.mean())
    assert (row.high - row.low) / 2 == pytest.approx(stats.t.ppf(0.975, 5) * stats.sem(values))
    later = rows.loc["mnist", "guided", "w2a2", "occlusion", "qualifying", "confirming"]
    assert later["mean"] == pytest.approx(own[(own["map"] == "occlusion") & (own.seed >= 4)].faithfulness.mean())
    below = maps.query("training == 'guided' and network == 'untrained'")
    assert row.floor == pytest.approx(below[below["map"] == "occlusion"].relevance_gain_blur.mean())
    assert rows.loc["mnist", "guided", "fp32", "untrained", "mean", "all"]["mean"] == pytest.approx(
        below[below["map"] == GRADIENT].relevance_gain_mean.mean()
    )
    assert np.isnan(rows.loc["mnist", "guided", "w2a2", "image", "mean", "all"].floor)
    assert ("mnist", "guided", "w2a2", "occlusion", "zero", "all") not in rows.index
    assert "confirming" not in set(maps_table(maps, made.FILLS, exploring=6).seeds)
