"""Tests of saqlib.evidence.other_methods: three of four methods with one sign make a verdict one about maps."""

from dataclasses import replace

import pandas as pd
import pytest

from saqlib.evidence.claims import KEYS, evaluate
from saqlib.evidence.other_methods import COLUMNS, COUNTED, GRADIENTS, MAPS, about, other_methods
from saqlib.evidence.verdicts import EQUIVALENT, OPPOSITE, SUPPORTED
from saqlib.names import OTHER_METHODS
from saqlib.pipeline import study
from tests.frames import PRECISIONS, evidence, make_runs

FROZEN = study.load().claims
MAPS_ASKED = ["A2", "A3", "A4", "A5", "B2", "B3"]


def falling(size):
    """Everything falls by `size` with each step from fp32 to w2a2."""
    return lambda precision, training, metric: -size * PRECISIONS.index(precision)


def found(size=8.0, *, contrary=(), silent=(), claims=FROZEN):
    """Answers, and the table of methods: all fall as the gradient does, but for some that rise, or are not there."""
    both = evidence(make_runs(falling(size)))
    answers = evaluate(both, claims)
    methods = pd.concat(
        [
            make_runs(falling(-size if method in contrary else size), generator=place).assign(method=method)
            for place, method in enumerate(("gradient", *OTHER_METHODS))
            if method not in silent
        ]
    ).drop(columns="test_accuracy")
    return answers, other_methods(both, claims, answers, methods), claims


def test_every_comparison_of_maps_stands_there_with_four_methods():
    """In the order of the tests; no accuracy, no images of equal confidence, nothing that has no sign."""
    answers, table, _ = found()
    assert list(table.columns) == COLUMNS and COUNTED[1:] == (
        "integrated_gradients", "smoothgrad", "occlusion",
    )  # fmt: skip
    assert list(table.claim.unique()) == MAPS_ASKED and "accuracy" not in set(table.question)
    tests = answers.tests().set_index([*KEYS, "comparison"]).verdict
    for row in table.itertuples():
        assert row.verdict == tests[tuple(row[1:7])]
    assert not table.comparison.str.contains("share").any(), "what training gives other methods was not scored"


def test_estimates_are_those_of_each_method():
    """The mean difference of that method's own scores."""
    _, table, _ = found()
    runs = make_runs(falling(8.0), generator=3)  # of occlusion
    mean = runs[runs.training == "guided"].groupby("precision").gini.mean()
    row = table.query("claim == 'A2' and training == 'guided' and question == 'focus' and comparison == 'w2a2 - fp32'")
    assert OTHER_METHODS[2] == "occlusion" and row.occlusion.item() == pytest.approx(mean["w2a2"] - mean["fp32"])


@pytest.mark.parametrize(
    ("contrary", "agree", "word"),
    [
        ((), 4, MAPS),
        (("occlusion",), 3, MAPS),
        (("occlusion", "smoothgrad"), 2, GRADIENTS),
        (("log_probability", "occlusion"), 3, MAPS),
    ],
)
@pytest.mark.parametrize(("size", "verdict"), [(8.0, SUPPORTED), (-8.0, OPPOSITE)])
def test_three_of_four(contrary, agree, word, size, verdict):
    """Whichever way the verdict goes; the gradient of the log-probability is none of the four."""
    _, table, _ = found(size, contrary=contrary)
    rows = table[(table.claim.isin(["A2", "A3", "B3"])) & (table.verdict == verdict)]
    assert len(rows) and set(rows.agree) == {agree} and set(rows.about) == {word}


def test_a_verdict_without_a_sign_is_about_nothing():
    """Neither equivalent nor undecided comparisons are asked of other methods."""
    answers, table, claims = found()
    rows = table[table.verdict.isin([EQUIVALENT, "undecided"])]
    assert len(rows) and set(rows.about) == {""} and set(rows.agree) == {""}
    words = dict(zip(answers.words, about(claims, table, answers), strict=True))
    for key, word in words.items():
        signed = answers.words[key] in (SUPPORTED, OPPOSITE) and key[0] in MAPS_ASKED and key[4] != "accuracy"
        assert word == (MAPS if signed else "")


def test_a_question_is_about_maps_if_each_of_its_comparisons_is():
    """One comparison that only gradients bear out is enough against it; of a joint loss one is enough for it."""
    answers, table, claims = found()
    chosen = (table.comparison == "w4a4 - fp32") | (table.comparison == "w4a4 - fp32, and accuracy")
    table.loc[chosen, "about"] = GRADIENTS
    words = dict(zip(answers.words, about(claims, table, answers), strict=True))
    assert words["A2", "abstract", "mnist", "standard", "focus"] == GRADIENTS
    assert words["A4", "abstract", "mnist", "standard", "focus"] == MAPS
    assert words["B3", "ours", "mnist", "standard", "focus"] == MAPS


def test_faithfulness_needs_the_sign_under_every_fill():
    """A method whose gain rises under one fill does not bear a fall out."""
    both = evidence(make_runs(falling(8.0)))
    answers = evaluate(both, FROZEN)

    def of(method):
        runs = make_runs(falling(8.0)).assign(method=method)
        if method in ("occlusion", "smoothgrad"):
            runs["relevance_gain_blur"] *= -1
        return runs

    table = other_methods(both, FROZEN, answers, pd.concat([of(method) for method in COUNTED]))
    rows = table[table.claim == "A2"].groupby("question").agree.unique()
    assert rows["faithfulness"].tolist() == [2] and rows["focus"].tolist() == [4]


def test_two_seeds_have_estimates_and_no_word():
    """As at smoke."""
    both = evidence(make_runs(seeds=2))
    answers = evaluate(both, FROZEN)
    methods = pd.concat([make_runs(seeds=2).assign(method=method) for method in COUNTED])
    table = other_methods(both, FROZEN, answers, methods)
    assert table[list(COUNTED)].notna().all(axis=None) and set(table.about) == {""}
    assert set(about(FROZEN, table, answers)) == {""}
    empty = replace(FROZEN, hypotheses=())
    assert about(empty, other_methods(both, empty, evaluate(both, empty), methods), evaluate(both, empty)) == []
