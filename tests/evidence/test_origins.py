"""Tests of saqlib.evidence.origins: the three rules on numbers that are known, and again by code of its own."""

import numpy as np
import pandas as pd
import pytest

from saqlib.evidence import origins
from saqlib.names import FILLS, GRADIENT, PRESERVATION
from saqlib.pipeline import study
from tests.evidence import twin_origins
from tests.frames import PRECISIONS, TRAININGS

CLAIMS = study.load().claims
QUALIFYING = {"mnist": ("mean", "blur")}
SCORES = ["gini", "morans_i", *(f"relevance_gain_{fill}" for fill in FILLS)]
SEEDS = 8
STATES = [(weights, activations) for weights in ("on", "off") for activations in ("on", "off")]


def rows(level, seed=0, seeds=SEEDS, **keys) -> pd.DataFrame:
    """Scores of networks around a level, or one for each score."""
    rng = np.random.default_rng(seed)
    values = {score: level(score) if callable(level) else level for score in SCORES}
    noise = {score: value + 0.01 * rng.standard_normal(seeds) for score, value in values.items()}
    return pd.DataFrame({"dataset": "mnist", "training": "standard", "seed": range(seeds), **keys} | noise)


# ---------------------------------------------------------------------------------------------- quantizers off


def recovered(back, top=1.0, seeds=SEEDS) -> pd.Series:
    """The words on a network that scores .2 where the reference scores `top`; back: what each state adds."""
    maps = [rows(lambda score, at=at: 0.2 + back(*at, score), k, seeds, precision="w2a2", weights=at[0],
                 activations=at[1]) for k, at in enumerate(STATES)]  # fmt: skip
    methods = rows(top, 9, seeds, precision="fp32", method=GRADIENT)
    found = origins.recovered(pd.concat(maps), methods, QUALIFYING, CLAIMS)
    return found.set_index(["question", "off"])


def test_a_factor_that_gives_back_half_explains_the_loss():
    """Activations give back three quarters, weights a quarter."""
    gives = {("on", "on"): 0, ("on", "off"): 0.6, ("off", "on"): 0.2, ("off", "off"): 0.8}
    found = recovered(lambda w, a, _: gives[w, a])
    for question in ("focus", "coherence", "faithfulness"):
        assert found.word[question].to_dict() == {"weights": "does not", "activations": "explains", "both": "explains"}
        np.testing.assert_allclose(found.estimate[question], [0.25, 0.75, 1], atol=0.05)
    assert (found.low < found.estimate).all() and (found.estimate < found.high).all()


def test_faithfulness_must_come_back_under_every_fill_that_qualifies():
    """With one of two fills it is not enough; a fill that does not qualify has no say."""
    for fill, expected in (("blur", "does not"), ("zero", "explains")):
        missing = f"relevance_gain_{fill}"
        found = recovered(lambda w, a, score, m=missing: 0.8 * (a == "off" and score != m))
        assert found.word["faithfulness", "activations"] == expected
        assert found.word["focus", "activations"] == "explains"


@pytest.mark.parametrize("top", [0.2, 0.1])
def test_without_a_loss_there_is_no_share(top):
    """The reference scores no more than the network."""
    found = recovered(lambda w, a, _: 0.5 * (a == "off"), top)
    assert (found.word == "no loss").all() and found.estimate.isna().all()


def test_half_in_the_mean_is_not_enough_where_the_interval_holds_zero():
    """One wild seed."""
    maps = [rows(0.2, k, precision="w2a2", weights=w, activations=a) for k, (w, a) in enumerate(STATES)]
    maps[1].loc[0, "gini"] += 0.6 * SEEDS  # weights on, activations off
    methods = rows(1.0, 9, precision="fp32", method=GRADIENT)
    found = origins.recovered(pd.concat(maps), methods, QUALIFYING, CLAIMS).set_index(["question", "off"])
    row = found.loc["focus", "activations"]
    assert row.estimate > 0.5 and row.low < 0 and row.word == "does not"


# -------------------------------------------------------------------------------------------- finite differences


def surrogate(gains, seeds=SEEDS) -> pd.DataFrame:
    """gains: of a precision and a way to find the slope, the level of every score."""
    ways = [(p, d) for p in ("fp32", "w2a2") for d in (GRADIENT, "16 codes", "32 codes")]
    made = [
        rows(lambda score, p=p, d=d: gains(p, d, score), k, seeds, precision=p, difference=d)
        for k, (p, d) in enumerate(ways)
    ]
    return origins.surrogate(pd.concat(made), QUALIFYING, CLAIMS)


@pytest.mark.parametrize(
    ("lead", "word"),
    [
        ({"fp32": 0.1, "w2a2": 0.3}, "supported"),
        ({"fp32": 0.3, "w2a2": 0.1}, "opposite"),
        ({"fp32": 0.3, "w2a2": 0.3}, "undecided"),
    ],
)
def test_an_artefact_is_a_larger_lead_of_the_slope_at_few_bits(lead, word):
    """Not a lead as such: at the reference there is one, too."""
    found = surrogate(lambda p, d, _: 0.4 + lead[p] * (d != GRADIENT))
    assert found.precision.tolist() == ["w2a2"] * 2 and found.difference.tolist() == ["16 codes", "32 codes"]
    assert (found.verdict == word).all() and (found.artefact == word).all()
    np.testing.assert_allclose(found.estimate, lead["w2a2"] - lead["fp32"], atol=0.02)


def test_an_artefact_shows_with_both_steps_and_every_fill():
    """One step alone, or one fill alone, leaves it undecided."""
    found = surrogate(lambda p, d, _: 0.4 + 0.3 * (p == "w2a2" and d == "16 codes"))
    assert found.verdict.tolist() == ["supported", "undecided"] and (found.artefact == "undecided").all()
    found = surrogate(lambda p, d, s: 0.4 + 0.3 * (p == "w2a2" and d != GRADIENT and s != "relevance_gain_blur"))
    assert (found.verdict == "undecided").all()


def test_few_seeds_decide_nothing():
    """With two the smallest p-value is .5; with one there is none."""
    for seeds in (1, 2):
        found = surrogate(lambda p, d, _: 0.4 + 0.3 * (p == "w2a2" and d != GRADIENT), seeds)
        assert (found.artefact == "undecided").all()


# ------------------------------------------------------------------------------------------------- randomization


def test_a_map_that_stays_as_it_was_is_found():
    """Supported where the map is less like itself than two networks are, the opposite where it is more so."""
    rng = np.random.default_rng(0)

    def alike(level, **keys):
        values = {f"preservation_{name}": level + 0.01 * rng.standard_normal(SEEDS) for name in PRESERVATION}
        return pd.DataFrame({"dataset": "mnist", "training": "guided", "seed": range(SEEDS), **keys} | values)

    levels = {("fp32", "dense3"): 0.6, ("w2a2", "dense3"): 0.6, ("fp32", "conv1"): 0.1, ("w2a2", "conv1"): 0.1}
    made = [alike(level, precision=p, redrawn=layer) for (p, layer), level in levels.items()]
    made.append(alike(0.3, precision="fp32", redrawn="seed_to_seed"))
    found = origins.randomized(pd.concat(made), CLAIMS)
    assert len(found) == 2 * 2 * len(PRESERVATION)
    for layer, word, difference in (("dense3", "opposite", -0.3), ("conv1", "supported", 0.2)):
        own = found[found.redrawn == layer]
        assert (own.verdict == word).all()
        np.testing.assert_allclose(own.estimate, difference, atol=0.02)
        np.testing.assert_allclose(own.beside - own.alike, own.estimate)


# ------------------------------------------------------------------------------------------------- a twin


@pytest.mark.parametrize("seeds", [9, 2, 1])
def test_every_word_is_found_again(seeds):
    """By code of its own, on random numbers with all kinds of effects."""
    rng = np.random.default_rng(seeds)
    keys = [(t, p) for t in TRAININGS for p in PRECISIONS]
    level = {key: rng.normal(0, 0.3) for key in keys}
    at = iter(range(10**6))

    def made(t, p, **more):
        effect = rng.normal(0, 0.05)
        return rows(level[t, p] + effect, next(at), seeds, precision=p, **more).assign(training=t)

    switched = pd.concat([made(t, p, weights=w, activations=a) for t, p in keys if p != "fp32" for w, a in STATES])
    methods = pd.concat([made(t, p, method=GRADIENT) for t, p in keys])
    differences = pd.concat([made(t, p, difference=d) for t, p in keys for d in (GRADIENT, "16 codes", "32 codes")])
    cascade = pd.concat([made(t, p, redrawn=r) for t, p in keys for r in ("dense3", "conv1")]
                        + [made(t, "fp32", redrawn="seed_to_seed") for t in TRAININGS])  # fmt: skip
    cascade = cascade.assign(**{f"preservation_{n}": cascade.gini + k * cascade.morans_i
                                for k, n in enumerate(PRESERVATION)})  # fmt: skip
    found = {
        "switched": origins.recovered(switched, methods, QUALIFYING, CLAIMS),
        "surrogate": origins.surrogate(differences, QUALIFYING, CLAIMS),
        "randomization": origins.randomized(cascade, CLAIMS),
    }
    frames = {"switched": switched, "methods": methods, "differences": differences, "cascade": cascade}
    twin_origins.check(found, frames, QUALIFYING, study.load().claims)
