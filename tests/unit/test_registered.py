"""Registered claims: each test by hand, words of confirming seeds beside estimates of all, the power to find them."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from saqlib.registered import (
    COLUMNS,
    KEYS,
    OPEN,
    REFUTED,
    SUPPORTED,
    Frames,
    Registered,
    evaluate,
    power,
    shares,
    together,
)
from saqlib.scores import CANDIDATE_FILLS, GRADIENT
from study import paths, settings
from tests.helpers import made_evidence as made
from tests.helpers import twin_grid
from tests.helpers.twin_tables import fieller

QUANTIZED = made.PRECISIONS[1:]
GAINS = [f"relevance_gain_{fill}" for fill in made.FILLS]
CLAIMS = made.claims()
RAMP = np.linspace(-1, 1, 10)
LOSS = {GRADIENT: 0.16, "pass_through": 0.01, "clip_only": 0.15, "round_only": 0.02, "occlusion": 0.04}


def claim(test, **options) -> Registered:
    """A claim that expects to be supported everywhere."""
    options = {"id": "C", "text": "", "precisions": QUANTIZED, "expected": {"default": SUPPORTED}} | options
    return Registered(test=test, **options)


def frames(loss=LOSS, *, seeds=20, noise=0.01) -> Frames:
    """Maps that lose so much of their faithfulness at any but full precision, where a twentieth is clipped."""
    of = made.maps(lambda t, p, m, c: -loss[m] * (p != "fp32"), names=tuple(loss), seeds=seeds, noise=noise)
    layers = pd.DataFrame({"layer": ["conv1", "conv2"]})
    saturation = made.networks(seeds).merge(layers, how="cross").query("precision != 'fp32'").assign(clipped=0.05)
    return Frames(of, saturation, made.runs(of), {}, {"mnist": made.FILLS})


def column(of: Frames, precision, name, training="standard", network="trained", score=None):
    """By seed, the mean over the fills or one of them."""
    own = of.maps.query("precision == @precision and training == @training and network == @network")
    own = own[own["map"] == name].sort_values("seed")
    return own[GAINS].mean(axis=1).to_numpy() if score is None else own[score].to_numpy()


def one(test, of=None, **options):
    """The first row: w4a4 of standard training, ten of twenty seeds confirming."""
    return evaluate([claim(test, **options)], of or frames(), CLAIMS, 10).iloc[0]


# ------------------------------------------------------------------------------------------------------ the tests


def test_one_map_below_another_under_every_fill():
    """Estimate of all seeds, p of those that confirm: two-sided, the largest fill's, three precisions corrected."""
    of = frames()
    found = one("lower", of, versus="pass_through")
    change = column(of, "w4a4", GRADIENT) - column(of, "w4a4", "pass_through")
    assert found.comparison == f"w4a4: {GRADIENT} - pass_through"
    assert (found.estimate, found.confirming) == pytest.approx((change.mean(), change[10:].mean()))
    assert (found.seeds, found.confirming_seeds) == (20, 10)
    assert (found.p, found.p_holm, found.word) == (2 / 2**10, 6 / 2**10, SUPPORTED)
    assert one("higher", of, versus="pass_through").word == REFUTED
    one_fill = replace(of, maps=of.maps.copy())
    where = (of.maps["map"] == GRADIENT) & (of.maps.precision == "w4a4")
    one_fill.maps.loc[where, GAINS[2]] += 0.14 + 0.05 * np.sin(np.arange(where.sum()))
    changes = [column(one_fill, "w4a4", GRADIENT, score=gain) - column(one_fill, "w4a4", "pass_through", score=gain)
               for gain in GAINS]  # fmt: skip
    found = one("lower", one_fill, versus="pass_through")
    assert found.p == pytest.approx(2 * max(twin_grid.share_above(-c[10:]) for c in changes)) and found.word == OPEN


def test_the_share_that_comes_back():
    """Of the mean over the fills, with Fieller's interval: half of it, and more than nothing."""
    of = frames()
    found = one("recovered", of, map="pass_through")
    top, straight = column(of, "fp32", GRADIENT), column(of, "w4a4", GRADIENT)
    back = column(of, "w4a4", "pass_through") - straight
    expected = fieller(back, top - straight)
    assert found[["estimate", "low", "high"]].tolist() == pytest.approx(expected, rel=1e-6)
    assert found.word == SUPPORTED and np.isnan(found.p)
    confirming = fieller(back[10:], (top - straight)[10:])
    assert found[["confirming", "confirming_low", "confirming_high"]].tolist() == pytest.approx(confirming, rel=1e-6)
    assert one("recovered", of, map="clip_only").word == REFUTED
    lost = one("lost", of, map="clip_only", least=0.8, above=0.5)
    assert lost.word == SUPPORTED
    assert lost.estimate == pytest.approx(1 - one("recovered", of, map="clip_only").estimate)
    assert one("lost", of, map="pass_through", least=0.8, above=0.5).word == REFUTED
    found = one("recovered", frames({GRADIENT: 0.0, "pass_through": 0.0}), map="pass_through")
    assert np.isnan(found.estimate) and found.word == OPEN, "of no loss nothing comes back"


@pytest.mark.parametrize(
    ("numerator", "least", "above", "word"),
    [
        (0.60 + 0.05 * RAMP, 0.5, 0.0, SUPPORTED),
        (0.50 + 0.05 * RAMP, 0.5001, 0.0, OPEN),
        (0.50 + 0.05 * RAMP, 0.4999, 0.0, SUPPORTED),
        (0.60 + 1.50 * RAMP, 0.5, 0.0, OPEN),  # its interval holds 0
        (0.40 + 0.05 * RAMP, 0.5, 0.0, REFUTED),
        (0.85 + 0.02 * RAMP, 0.8, 0.5, SUPPORTED),
        (0.85 + 0.90 * RAMP, 0.8, 0.5, OPEN),
    ],
)
def test_the_rule_of_a_share(numerator, least, above, word):
    """Of a denominator of 1 the share is the numerator."""
    values = np.stack([numerator, 1 + 1e-6 * RAMP], axis=1)
    assert shares(values, least, above)[0].word == word


def test_not_inferior_by_the_margin():
    """One-sided; the margin is a tenth of what training gives, seed by seed; the estimate is the change itself."""
    of = frames()
    found = one("not_inferior", of, map="pass_through")
    change = column(of, "w4a4", "pass_through") - column(of, "fp32", GRADIENT)
    margin = 0.1 * (column(of, "fp32", GRADIENT) - column(of, "fp32", GRADIENT, network="untrained"))
    assert found.estimate == pytest.approx(change.mean()) and found.word == SUPPORTED
    assert found.p == pytest.approx(twin_grid.share_above((change + margin)[10:]))
    assert one("not_inferior", of, map="clip_only").word == REFUTED
    assert one("not_inferior", frames({GRADIENT: 0.16, "pass_through": 0.04}), map="pass_through").word == OPEN


def test_a_smaller_share_lost():
    """Each method's loss as a share of what training gives it, paired by seed."""
    of = frames()
    found = one("loses_less", of, map="occlusion")
    share = {}
    for name in ("occlusion", GRADIENT):
        top, below = column(of, "fp32", name), column(of, "fp32", name, network="untrained")
        share[name] = (top - column(of, "w4a4", name)) / (top - below)
    assert found.estimate == pytest.approx((share["occlusion"] - share[GRADIENT]).mean())
    assert found.estimate == pytest.approx(-0.12 / 0.4, abs=0.02) and found.word == SUPPORTED
    for seed, word in ((3, SUPPORTED), (13, OPEN)):  # training gives nothing in one seed, which confirms or does not
        nothing = of.maps.copy()
        where = (nothing["map"] == "occlusion") & (nothing.network == "untrained") & (nothing.seed == seed)
        nothing.loc[where, GAINS] = 2.0
        assert one("loses_less", replace(of, maps=nothing), map="occlusion").word == word


def test_where_a_claim_is_only_described():
    """Estimates without a word."""
    found = one("loses_less", map="occlusion", datasets=("fashion_mnist",))
    assert (found.word, found.expected) == ("", "") and np.isfinite(found.estimate)


# ------------------------------------------------------------------------------------------------------- together


def test_clipped_and_lost_go_together():
    """Over seeds, within each stratum: what is clipped in a seed is lost in it."""
    of = frames({GRADIENT: 0.16})
    lost = 0.05 * np.random.default_rng(0).random(20)
    falls = (of.maps.precision != "fp32") & (of.maps.network == "trained")
    of.maps.loc[falls, GAINS] -= lost[of.maps.seed[falls]][:, None]
    with_clips = replace(of, saturation=of.saturation.assign(clipped=lost[of.saturation.seed]))
    found = one("together", with_clips)
    assert (found.dataset, found.comparison, found.word) == ("all", "clipped, lost", SUPPORTED)
    assert 0.5 < found.confirming < 1 and found.p < 0.05
    against = replace(of, saturation=of.saturation.assign(clipped=-lost[of.saturation.seed]))
    assert one("together", against).word == REFUTED
    assert one("together", of).word == OPEN, "one clipped share for all seeds"


def test_the_statistic_and_its_p_value_by_hand():
    """The mean correlation over strata, and of all orders of five seeds the share that is as high.

    Levels of strata do not count: pooled, more bits clip less and lose less. A seed that is alike in all strata counts
    once, as one order holds for all of them: by one for each stratum a chance likeness would look surer.
    """
    rng, levels = np.random.default_rng(2), 10 * np.repeat([0, 1, 2], 2)
    values = np.tile(rng.normal(size=(5, 2)), 3) + 0.2 * rng.normal(size=(5, 6)) + levels
    (found,) = together(values, 0.05, permutations=20_000)
    pairs = [(values[:, place], values[:, place + 1]) for place in (0, 2, 4)]
    assert found.estimate == pytest.approx(np.mean([stats.pearsonr(a, b)[0] for a, b in pairs]))
    orders = [list(order) for order in permutations(range(5))]
    drawn = [np.mean([stats.pearsonr(a[order], b)[0] for a, b in pairs]) for order in orders]
    assert found.p == pytest.approx(np.mean(np.array(drawn) >= found.estimate - 1e-12), abs=0.015)


# ------------------------------------------------------------------------------------------------------- variants


def variant(of: Frames, gain=0.0, points=0.0, seeds=range(10, 16)) -> pd.DataFrame:
    """The networks of w4a4 with another score and accuracy, and those of fp32, which are the main grid's."""
    own = of.runs[of.runs.seed.isin(seeds) & of.runs.precision.isin(["fp32", "w4a4"])].copy()
    own["changed"] = own.precision == "w4a4"
    draw = np.random.default_rng(0).normal(size=len(own))
    own.loc[own.changed, GAINS] += (gain + 0.001 * draw[own.changed])[:, None]
    own.loc[own.changed, "test_accuracy"] += points + 0.001 * draw[own.changed]
    return own


def test_each_variant_is_one_single_test():
    """Six seeds, one-sided, no correction: 1 of 64."""
    of = frames()
    with_it = replace(of, variants={"max_range": variant(of, 0.1, -0.2)})
    found = evaluate([claim("variant_higher", variant="max_range", precisions=("w4a4",))], with_it, CLAIMS, 10)
    assert found.comparison.tolist() == [f"w4a4: max_range - w4a4, {GRADIENT}"] * 2
    assert found.training.tolist() == ["standard", "guided"]
    assert (found.p == 1 / 64).all() and (found.p_holm == 1 / 64).all() and (found.word == SUPPORTED).all()
    assert found.estimate.tolist() == pytest.approx([0.1, 0.1], abs=0.002) and (found.seeds == 6).all()
    accuracy = {"variant": "max_range", "precisions": ("w4a4",), "score": "test_accuracy"}
    assert one("variant_not_inferior", with_it, **accuracy).word == SUPPORTED
    assert one("variant_higher", with_it, **accuracy).word == REFUTED
    assert one("variant_not_inferior", with_it, **accuracy).question == "accuracy"
    renamed = variant(of, 0.0).replace({"precision": {"w4a4": "w8a8", "fp32": "x"}}).assign(changed=False)
    eight = replace(of, variants={"eight_bits": renamed})
    options = {"variant": "eight_bits", "precisions": ("w8a8",), "against": "w2a2"}
    found = one("variant_higher", eight, **options)
    assert found.comparison == f"w8a8: eight_bits - w2a2, {GRADIENT}" and np.isfinite(found.estimate)
    lost = replace(of, variants={"max_range": variant(of, 0.1, -0.7)})
    assert one("variant_not_inferior", lost, **accuracy).word == REFUTED


def test_a_variant_of_another_map_or_of_none():
    """Where the main grid was not scored by a map there is no number; a variant that was not run has no row."""
    of = frames()
    options = {"variant": "guided", "precisions": ("w4a4",), "map": "pass_through"}
    found = one("variant_higher", replace(of, variants={"guided": variant(of)}), **options)
    assert (found.word, found.seeds) == (OPEN, 6) and np.isnan(found.estimate)
    assert evaluate([claim("variant_higher", variant="other")], of, CLAIMS, 10).empty
    unchanged = replace(of, variants={"guided": variant(of).assign(changed=False)})
    assert evaluate([claim("variant_higher", **options)], unchanged, CLAIMS, 10).empty
    other = {f"pass_through_{gain}": of.runs[gain] for gain in GAINS}
    higher = variant(of).assign(**{name: values + 0.1 for name, values in other.items()})
    passed = replace(of, runs=of.runs.assign(**other), variants={"guided": higher})
    assert one("variant_higher", passed, **options).word == SUPPORTED


# -------------------------------------------------------------------------------------------------- all together


def test_before_there_are_confirming_seeds():
    """Estimates, and no word."""
    tests = [claim("lower", versus="pass_through"), claim("recovered", map="pass_through"), claim("together")]
    found = evaluate(tests, frames(seeds=10), CLAIMS, 10)
    assert list(found) == COLUMNS and (found.word == OPEN).all() and (found.confirming_seeds == 0).all()
    assert np.isfinite(found.estimate[:6]).all() and found.confirming.isna().all()


@pytest.mark.parametrize(("map_", "fills"), [("smoothgrad", {"mnist": made.FILLS}), ("pass_through", {})])
def test_what_was_not_measured_is_open(map_, fills):
    """A map that was not scored, as at a scale that does without it, and where no fill qualifies: without an error."""
    names = ("higher", "recovered", "lost", "not_inferior", "loses_less", "together")
    found = evaluate([claim(name, map=map_) for name in names], replace(frames(), fills=fills), CLAIMS, 10)
    assert len(found) == 5 * 6 + 1 and (found.word == OPEN).all() and found.estimate.isna().all()


def test_what_is_expected_by_cell():
    """A default, and exceptions."""
    tests = [claim("not_inferior", map="pass_through", expected={"default": SUPPORTED, "mnist-w2a2-guided": OPEN})]
    found = evaluate(tests, frames(), CLAIMS, 10).set_index(["training", "comparison"]).expected
    label = "w2a2: pass_through - fp32 > -margin"
    assert (found["guided", label], found["standard", label]) == (OPEN, SUPPORTED)


def test_it_is_data():
    """pydantic takes it from plain values as it does the other claims, and refuses a test that is not there."""
    raw = '{"id": "C1", "text": "x", "test": "lower", "precisions": ["w2a2"], "expected": {"default": "open"}}'
    found = TypeAdapter(Registered).validate_json(raw)
    assert found == Registered("C1", "x", "lower", ("w2a2",), {"default": OPEN})
    for old, new in (("lower", "largest"), ("open", "perhaps")):
        with pytest.raises(ValidationError):
            TypeAdapter(Registered).validate_json(raw.replace(old, new))


# ---------------------------------------------------------------------------------------------------------- power


def test_power_in_closed_form():
    """Six new seeds of a normal effect: all six above 0, under every fill at once, is the only way to find it.

    The same draws come again; a map that was not scored has no power.
    """
    of = frames({GRADIENT: 0.0, "pass_through": 0.0}, seeds=10)
    drawn = np.random.default_rng(5).normal(size=10)
    drawn = 0.8 + (drawn - drawn.mean()) / drawn.std(ddof=1)  # mean .8, spread 1, the same under every fill
    for name, values in ((GRADIENT, np.zeros(10)), ("pass_through", drawn)):
        where = (of.maps["map"] == name) & (of.maps.precision == "w4a4") & (of.maps.network == "trained")
        of.maps.loc[where, GAINS] = np.tile(values, 2)[:, None] * np.ones(3)
    tests = [claim("lower", versus=name, precisions=("w4a4",)) for name in ("pass_through", "smoothgrad")]
    pd.testing.assert_frame_equal(*(power(tests, of, CLAIMS, range(10), repeats=9) for _ in range(2)))
    found = power(tests, of, CLAIMS, range(10), confirming=6, repeats=2000)
    assert list(found) == [*KEYS, "supported", "refuted", "expected"]
    for word, expected in ((found.supported, stats.norm.cdf(0.8) ** 6), (found.refuted, stats.norm.cdf(-0.8) ** 6)):
        assert word[0] == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 2000))
        assert word[2:].isna().all()


def test_what_was_registered_follows_from_the_exploring_seeds():
    """Each expected word comes in more than half of the simulated runs, and the page has the estimates."""
    study, seen = settings.load(scale="full"), pd.read_csv(paths.RESULTS / "evidence" / "exploring.csv")
    assert set(seen.seed) == set(range(study.size.exploring))
    clipped = seen[(seen["map"] == GRADIENT) & (seen.network == "trained") & seen.clipped.notna()]
    qualifying = dict.fromkeys(study.grid.datasets, CANDIDATE_FILLS)
    known = Frames(seen, clipped.assign(layer="mean"), pd.DataFrame(), {}, qualifying)
    shares_of = power(study.registered, known, study.claims, range(study.size.exploring), repeats=200)
    for row in shares_of.itertuples():
        words = {SUPPORTED: row.supported, REFUTED: row.refuted, OPEN: 1 - row.supported - row.refuted}
        assert words[row.expected] > 0.4, row  # the draws hang on the machine's linear algebra, so shares may differ
    page = (paths.ROOT / "docs" / "registered.md").read_text(encoding="utf-8")
    found = evaluate(study.registered, known, study.claims, study.size.exploring)
    found = found[found.expected != ""].assign(map=found.comparison.str.replace(r"^\w+: ", "", regex=True))
    for (_, dataset, _), own in found.groupby(["claim", "dataset", "map"], sort=False):
        line = " to ".join(f"{value:.3f}" for value in sorted({own.estimate.min(), own.estimate.max()}))
        assert f"| {line} |" in page, (dataset, line)
