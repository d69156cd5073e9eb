"""Tests of saqlib.report.sentences: a verdict with every number that it rests on."""

import re

import numpy as np
import pandas as pd
import pytest

from saqlib.evidence.claims import evaluate
from saqlib.evidence.verdicts import EQUIVALENT, OPPOSITE, SUPPORTED, UNDECIDED
from saqlib.pipeline import study
from saqlib.report.sentences import ENDINGS, sentence
from tests.frames import PRECISIONS, evidence, make_runs

CLAIMS = study.load().claims
KEYS = {"claim": "A2", "dataset": "mnist", "training": "standard", "question": "focus"}


def make(verdict, why="", question="focus", **changes):
    """A verdict, and the one test behind it."""
    test = {"comparison": "w2a2 - fp32", "estimate": -0.123456, "low": -0.2, "high": -0.05, "p_holm": 0.0234}
    keys = KEYS | {"question": question}
    return keys | {"verdict": verdict, "why": why}, pd.DataFrame([keys | test | changes])


@pytest.mark.parametrize(
    ("verdict", "changes", "expected"),
    [
        (SUPPORTED, {}, "Focus: as claimed. w2a2 - fp32: -0.123 [-0.200, -0.050], p = 0.023."),
        (
            OPPOSITE, {"estimate": 0.1, "low": 0.05, "high": 0.15, "p_holm": 0.0009},
            "Focus: the opposite of the claim. w2a2 - fp32: +0.100 [+0.050, +0.150], p < 0.001.",
        ),
        (
            EQUIVALENT, {"p_holm": 1.0, "high": 0.0},
            "Focus: no change that would matter. w2a2 - fp32: -0.123 [-0.200, +0.000], p = 1.000.",
        ),
        (
            UNDECIDED, {"why": "seeds are too few"},
            "Focus: undecided (seeds are too few). w2a2 - fp32: -0.123 [-0.200, -0.050], p = 0.023.",
        ),
        (
            UNDECIDED, {"why": "not asked: no loss was shown", "p_holm": np.nan},
            "Focus: undecided (not asked: no loss was shown). w2a2 - fp32: -0.123 [-0.200, -0.050], not tested.",
        ),
        (
            UNDECIDED, {"estimate": np.nan, "p_holm": np.nan, "why": "a network has no value"},
            "Focus: undecided (a network has no value). w2a2 - fp32: not measured.",
        ),
    ],
    ids=["supported", "opposite", "equivalent", "too few", "not asked", "no value"],
)  # fmt: skip
def test_sentence_of_a_verdict(verdict, changes, expected):
    """The question, what is said of it and why, estimate and interval with their signs, the corrected p."""
    why = changes.pop("why", "")
    row, tests = make(verdict, why, **changes)
    assert sentence(row, tests, "gini") == expected


def test_accuracy_is_told_in_points():
    """With two decimals."""
    row, tests = make(SUPPORTED, question="accuracy")
    expected = "Accuracy: as claimed. w2a2 - fp32: -0.12 points [-0.20, -0.05], p = 0.023."
    assert sentence(row, tests, "test_accuracy") == expected


def test_every_comparison_behind_a_verdict_is_told_and_no_other():
    """The deciding ones, not the first one: each in the order of the tests, with its own estimate."""
    met = set()
    for size in (8.0, -8.0, 0.0):
        answers = evaluate(evidence(make_runs(lambda p, t, m, s=size: -s * PRECISIONS.index(p), generator=3)), CLAIMS)
        tests = answers.tests()
        for row in answers.verdicts().to_dict("records"):
            own = tests
            for key in KEYS:
                own = own[own[key] == row[key]]
            text = sentence(row, tests, CLAIMS.questions[row["question"]])
            places = [text.index(f"{label}: ", text.index(". ")) for label in own.comparison]
            assert places == sorted(places) and text.count("[") == len(own)
            estimates = [float(each) for each in re.findall(r": ([+-]\d+\.\d+)", text)]
            np.testing.assert_allclose(estimates, own.estimate, atol=0.0051)
            assert text.startswith(f"{row['question'].capitalize()}: {ENDINGS[row['verdict']]}")
            met.add(row["verdict"])
    assert met == set(ENDINGS)


@pytest.mark.parametrize("seeds", [2, 5])
def test_too_few_seeds_are_said_to_be_too_few(seeds):
    """A perfect effect is undecided, and the sentence says why."""
    answers = evaluate(evidence(make_runs(lambda p, t, m: -50 * PRECISIONS.index(p), seeds=seeds)), CLAIMS)
    row = answers.verdicts().iloc[0]
    assert "Accuracy: undecided (seeds are too few). " in sentence(row, answers.tests(), "test_accuracy")


def test_one_seed_is_said_to_measure_nothing():
    """An interval needs two."""
    answers = evaluate(evidence(make_runs(seeds=1)), CLAIMS)
    assert "w4a4 - fp32: not measured" in sentence(answers.verdicts().iloc[0], answers.tests(), "test_accuracy")
