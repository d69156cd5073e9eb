"""What a test of a claim says in words: every kind of ending, and what few seeds allow."""

import re

import numpy as np
import pytest

from saqlib import words
from saqlib.evidence import claims
from saqlib.evidence.claims import CLARITY, NOT_SUPPORTED, OPPOSITE, SUPPORTED
from saqlib.pipeline import study
from saqlib.report.sentences import sentence
from tests.frames import PRECISIONS, make_runs

CLAIMS = study.load().claims


def make_row(**changes):
    """One row of the table of tests, supported, with changes."""
    row = {
        "metric": "gini", "comparison": "w2a2 - fp32", "estimate": -0.123456, "low": -0.2, "high": -0.05,
        "p": 0.002, "p_holm": 0.0234, "least_p": 0.02, "seeds": 10, "verdict": SUPPORTED,
    }  # fmt: skip
    return row | changes


def evaluate(effect=None, **options):
    """The frozen claims on made-up runs, the same for every set of images."""
    runs = make_runs(effect, **options)
    return claims.evaluate({"primary": runs, "all": runs, "matched": runs}, CLAIMS)


# --- one test ---


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "Gini index, w2a2 - fp32: -0.123 (95 % interval -0.200 to -0.050; corrected p = 0.023), as claimed.",
        ),
        (
            {"verdict": OPPOSITE, "estimate": 0.1, "low": 0.05, "high": 0.15, "p_holm": 0.0009},
            "Gini index, w2a2 - fp32: +0.100 (95 % interval +0.050 to +0.150; corrected p < 0.001), "
            "the opposite of the claim.",
        ),
        (
            {"verdict": NOT_SUPPORTED, "p_holm": 1.0, "high": 0.0},
            "Gini index, w2a2 - fp32: -0.123 (95 % interval -0.200 to +0.000; corrected p = 1.000), "
            "which does not bear the claim out.",
        ),
        (
            {"metric": "test_accuracy", "comparison": "w4a4 - fp32 > -0.5", "p_holm": 0.001},
            "Test accuracy, w4a4 - fp32 > -0.5: -0.12 points (95 % interval -0.20 to -0.05; corrected p = 0.001), "
            "as claimed.",
        ),
        (
            {"metric": "test_accuracy", "comparison": "w2a2 < mixed < w4a4 < fp32", "estimate": 0.8},
            "Test accuracy, w2a2 < mixed < w4a4 < fp32: +0.80 (95 % interval -0.20 to -0.05; corrected p = 0.023), "
            "as claimed.",
        ),
        (
            {"verdict": NOT_SUPPORTED, "p_holm": 0.75, "least_p": 0.75, "seeds": 5},
            "Gini index, w2a2 - fp32: -0.123 (95 % interval -0.200 to -0.050; corrected p = 0.750). "
            "Too few seeds: with 5 the corrected p cannot fall below 0.750.",
        ),
        (
            {"p": np.nan, "p_holm": np.nan, "estimate": np.nan, "least_p": 1.0, "seeds": 1, "verdict": NOT_SUPPORTED},
            "Could not be tested: 1 seed(s), or a network without a value.",
        ),
        (
            {"metric": CLARITY, "verdict": NOT_SUPPORTED},
            "Clarity as a whole, w2a2 - fp32: -0.123 (95 % interval -0.200 to -0.050; corrected p = 0.023), "
            "which does not bear the claim out.",
        ),
    ],
    ids=["supported", "opposite", "not supported", "points", "correlation", "too few", "no test", "clarity"],
)
def test_sentence_of_a_test(changes, expected):
    """The score in words, estimate and interval with their signs, the corrected p, and what it means."""
    assert sentence(make_row(**changes), 0.05) == expected


@pytest.mark.parametrize(("least", "few"), [(0.05, False), (0.0501, True)])
def test_too_few_seeds_is_a_matter_of_the_level(least, few):
    """Where the least p is the level itself, the test can still succeed."""
    text = sentence(make_row(least_p=least), 0.05)
    assert ("Too few seeds" in text) == few and ("as claimed" in text) != few
    assert "Too few seeds" in sentence(make_row(least_p=least), 0.01)


def test_every_row_has_a_sentence_that_fits_it():
    """All rows of real evaluations: score, comparison and estimate are named, and the ending is the verdict's."""
    endings = {
        SUPPORTED: "as claimed.",
        OPPOSITE: "the opposite of the claim.",
        NOT_SUPPORTED: "which does not bear the claim out.",
    }
    met = set()
    for size in (8.0, -8.0):
        table = evaluate(lambda p, t, m, size=size: -size * PRECISIONS.index(p))
        for row in table.to_dict("records"):
            text = sentence(row, CLAIMS.level)
            assert text.startswith(f"{words.name(row['metric'])}, {row['comparison']}: ")
            assert text.endswith(f", {endings[row['verdict']]}")
            estimate = float(re.search(r": ([+-]\d+\.\d+)", text).group(1))
            assert estimate == pytest.approx(row["estimate"], abs=0.0051 if "accuracy" in row["metric"] else 0.00051)
            met.add(row["verdict"])
    assert met == set(endings)


@pytest.mark.parametrize("seeds", [2, 5])
def test_too_few_seeds_are_said_to_be_too_few(seeds):
    """With 5 seeds a sign-flip test cannot reach .05: a perfect effect is not supported, and the sentence says why."""
    table = evaluate(lambda p, t, m: -50 * PRECISIONS.index(p), seeds=seeds)
    flips = table[table.claim.isin(["H1", "H3", "H9"])]
    texts = [sentence(row, CLAIMS.level) for row in flips.to_dict("records")]
    assert texts and all(f"Too few seeds: with {seeds} the corrected p" in text for text in texts)


def test_one_seed_is_said_to_have_no_test():
    """A single seed, or a network without a value, gives an honest sentence."""
    texts = {sentence(row, CLAIMS.level) for row in evaluate(seeds=1).to_dict("records")}
    assert texts == {"Could not be tested: 1 seed(s), or a network without a value."}
