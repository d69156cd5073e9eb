"""Claims as readings of the grid, and the table of maps."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.claims import RULES, Claim
from saqlib.findings import COLUMNS, MAPS_COLUMNS, both, maps_table, readings, registered_rows, size_of, state
from saqlib.grid import BEYOND, EQUIVALENT, HIGHER, LOWER, OPEN, UNDECIDED, WITHIN, grid
from saqlib.registered import Registered, evaluate
from saqlib.scores import GRADIENT
from saqlib.statistics import holm
from tests.helpers import made_evidence as made
from tests.helpers.parameters import RAW
from tests.unit.test_registered import frames

QUANTIZED = made.PRECISIONS[1:]
FILLS = {"mnist": made.FILLS}


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


def read(*asked, effect=None, accuracy=lambda t, p: 0.0, precisions=made.PRECISIONS, fills=FILLS, **options):
    """The rows of claims by training, claim and comparison, and the grid; asked: test, questions, precisions."""
    ours = [Claim(f"A{place}", "abstract", "", *each) for place, each in enumerate(asked, 1)]
    claims, maps = made.claims(hypotheses=ours), made.maps(effect, **options)
    maps = maps[maps.precision.isin(precisions)]
    runs = made.runs(maps, accuracy)
    verdicts, _ = grid(runs, maps, fills, claims)
    table = readings(verdicts, runs, maps, fills, claims)
    assert list(table) == COLUMNS and (table.dataset == "mnist").all() and (table.group == "abstract").all()
    return table.set_index(["training", "claim", "comparison"]), verdicts.set_index(["training", "comparison"])


def test_claims_are_read_from_the_grid():
    """Accuracy stays at 4 bits and falls at 2, maps fall at both; numbers are the grid's, words by what is claimed."""
    asked = (("loss", ("accuracy",), QUANTIZED), ("steps", ("faithfulness",), made.PRECISIONS),
             ("gain", ("focus",), QUANTIZED), ("joint_loss", ("faithfulness",), QUANTIZED))  # fmt: skip
    effect = lambda t, p, m, c: -0.2 * (c.startswith("rel") and p != "fp32") + 0.3 * (t == "guided")  # noqa: E731
    table, verdicts = read(*asked, effect=effect, accuracy=lambda t, p: -3.0 * (p == "w2a2"))
    own, guided = table.loc["standard"], table.loc["guided"]
    assert own.verdict["A1"].tolist() == ["equivalent", "equivalent", "supported"]
    assert own.reading["A1"].tolist() == ["equivalent", "equivalent", "lower, beyond the margin"]
    assert list(own.loc["A2"].index) == ["w4a4 - fp32", "mixed - w4a4", "w2a2 - mixed"]
    assert own.verdict["A2"].tolist() == ["supported", "equivalent", "equivalent"]
    assert "A3" not in own.index and set(guided.verdict["A3"]) == {"supported"}
    assert set(guided.reading["A3"]) == {"higher, beyond the margin"}
    assert own.reading["A4"].tolist() == ["map lost, accuracy kept", "map lost, accuracy kept", "both lost"]
    assert own.verdict["A4"].tolist() == ["undecided", "undecided", "supported"]
    cells = verdicts.loc["standard", "w2a2 - fp32"].set_index("question")[["estimate", "low", "p", "p_holm"]]
    joint = own.loc["A4", "w2a2 - fp32, and accuracy"]
    assert joint[["estimate", "low"]].tolist() == cells.loc["faithfulness", ["estimate", "low"]].tolist()
    assert joint.p == cells.loc[["accuracy", "faithfulness"]].p.max()
    assert own.loc["A1", "w2a2 - fp32"][["estimate", "low", "p", "p_holm"]].tolist() == cells.loc["accuracy"].tolist()


@pytest.mark.parametrize(
    ("map_", "points", "verdict", "reading"),
    [(-0.3, -3.0, "supported", "both lost"), (0.3, -3.0, "opposite", "map kept, accuracy lost"),
     (-0.3, 3.0, "opposite", "map lost, accuracy kept"), (0.3, 3.0, "undecided", "both kept"),
     (0.0, 0.0, "equivalent", "both kept"), (0.0, -3.0, "undecided", "map kept, accuracy lost")],
)  # fmt: skip
def test_given_up_together(map_, points, verdict, reading):
    """Both lower; one for the other, whichever; neither; or something else."""
    effect = lambda t, p, m, c: map_ * (p == "w2a2")  # noqa: E731
    asked, points_of = ("joint_loss", ("focus",), ("w2a2",)), lambda t, p: points * (p == "w2a2")
    table, _ = read(asked, effect=effect, accuracy=points_of, generator=2)
    assert set(table.verdict) == {verdict} and set(table.reading) == {reading} and len(table) == 2


def test_an_opposite_and_what_was_not_run():
    """The other way than is claimed; a comparison, training or fill that is not there."""
    effect = lambda t, p, m, c: 0.3 * (p != "fp32") - 0.6 * (t == "guided")  # noqa: E731
    asked = ("loss", ("focus",), QUANTIZED), ("gain", ("focus",), made.PRECISIONS)
    table, _ = read(*asked, effect=effect, precisions=("fp32", "w2a2"))
    assert table.verdict.tolist() == ["opposite"] * 4
    assert list(table.index.get_level_values("comparison")) == ["w2a2 - fp32"] * 2 + [
        "guided - standard, fp32", "guided - standard, w2a2",
    ]  # fmt: skip
    asked = [(test, ("faithfulness",), ("w2a2",)) for test in ("loss", "joint_loss", "mitigation")]
    none, _ = read(*asked, effect=effect, fills={"mnist": ()})
    assert none.p.isna().all() and set(none.verdict) == {"undecided"} and set(none.reading[:2]) == {"undecided"}
    assert read()[0].empty and read(("steps", ("focus",), QUANTIZED), precisions=("fp32", "w2a2"))[0].empty


def test_every_test_says_why_and_is_asked_for():
    """A reader who asks why it is so finds a reason, and some claim asks for it."""
    assert {claim["test"] for claim in RAW["claims"]["hypotheses"]} == set(RULES)
    assert all(len(rule.reason.split(". ")) > 1 for rule in RULES.values())


# -------------------------------------------------------------------------------------------------- making up for

MITIGATION = ("mitigation", ("focus",), QUANTIZED)
UNITS, SHARES = ([f"guided - standard, {form}" for form in forms] for forms in (
    [f"{p} - fp32" for p in QUANTIZED], [f"share kept at {p}" for p in QUANTIZED]))  # fmt: skip


@pytest.mark.parametrize(
    ("guided", "verdict", "reading"),
    [(0.12, "supported", "loses less"), (-0.12, "opposite", "loses more"), (0.0, "equivalent", "loses as much")],
)
def test_guidance_makes_up_for_a_loss_or_not(guided, verdict, reading):
    """By a tenth of what training gives, .4, or more; in the score's units and as a share, corrected together."""
    table, _ = read(MITIGATION, effect=lambda t, p, m, c: (p != "fp32") * (-0.2 + guided * (t == "guided")))
    rows = table.loc["guided", "A1"]
    assert sorted(rows.index) == sorted(UNITS + SHARES) and set(table.index.get_level_values("training")) == {"guided"}
    assert set(rows.verdict) == {verdict} and set(rows.reading) == {reading}
    np.testing.assert_allclose(rows.p_holm, holm(rows.p))
    np.testing.assert_allclose(rows.estimate[UNITS], guided, atol=0.02)
    np.testing.assert_allclose(rows.estimate[SHARES], guided / 0.4, atol=0.05)


def test_without_a_loss_there_is_nothing_to_make_up_for():
    """Where standard training has not the word `lower`; those that are not asked are no members of the family."""
    effect = lambda t, p, m, c: -0.2 * (p == "w2a2") + 0.3 * (t == "guided" and p != "fp32")  # noqa: E731
    rows = read(MITIGATION, effect=effect)[0].loc["guided", "A1"]
    asked = rows.index.str.contains("w2a2")
    assert set(rows.reading[~asked]) == {"no loss"} and set(rows.verdict[~asked]) == {"undecided"}
    assert rows.p[~asked].isna().all() and rows.estimate.notna().all()
    assert set(rows.reading[asked]) == {"loses less"} and rows.p_holm[asked].tolist() == [4 / 2**10] * 2


def of_guidance(maps):
    """The rows of mitigation by comparison."""
    runs, claims = made.runs(maps), made.claims(hypotheses=[Claim("B2", "ours", "", *MITIGATION)])
    return readings(grid(runs, maps, FILLS, claims)[0], runs, maps, FILLS, claims).set_index("comparison")


def test_the_scale_may_decide():
    """Guided networks start twice as high and lose as much: nothing in units, something as a share.

    What would not matter is a part of what standard training gives, though guided training gives more.
    """
    higher = lambda t, p, m, c: 0.4 * (t == "guided") - 0.2 * (p != "fp32")  # noqa: E731
    rows = of_guidance(made.maps(higher))
    assert set(rows.verdict[UNITS]) == {"equivalent"} and set(rows.verdict[SHARES]) == {"supported"}
    assert set(of_guidance(made.maps(higher, noise=0.03)).verdict[UNITS]) == {"undecided"}


def test_a_share_of_nothing_is_not_asked_for():
    """Where training gives too little, or nothing in one seed of many."""
    little, one = (made.maps(lambda t, p, m, c: -0.2 * (p != "fp32"), seeds=20, given=given) for given in (0.001, 0.4))
    one.loc[(one.network == "untrained") & (one.training == "guided") & (one.seed == 3), "gini"] += 0.5
    for rows in map(of_guidance, (little, one)):
        assert rows.estimate[UNITS].notna().all() and set(rows.reading[SHARES]) == {"open"}
        assert rows.loc[SHARES, ["estimate", "low", "p", "p_holm"]].isna().all(axis=None)


# ----------------------------------------------------------------------------------------------- registered, maps


def test_registered_claims_are_rows_of_the_same_table():
    """Estimates of all seeds, words of those that confirm, and what was expected where it is something else."""
    claims = [Registered("C1", "", "lower", QUANTIZED, {"default": "open"}, versus="pass_through"),
              Registered("C1", "", "higher", QUANTIZED, {"default": "refuted"}, versus="pass_through"),
              Registered("C5", "", "lower", QUANTIZED, {}, versus="occlusion", datasets=("x",))]  # fmt: skip
    found = evaluate(claims, frames(), made.claims(), 10)
    table = registered_rows(found)
    assert list(table) == COLUMNS and len(table) == len(found)
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
