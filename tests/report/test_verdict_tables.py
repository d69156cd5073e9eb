"""Tests of saqlib.report.verdict_tables: every comparison, verdict and alternative, as numbers and as text."""

import pandas as pd
import pytest

from saqlib.evidence.by_fill import by_fill
from saqlib.evidence.claims import COLUMNS, evaluate
from saqlib.evidence.first_run import first_run
from saqlib.evidence.other_methods import COUNTED, about, other_methods
from saqlib.evidence.robustness import robustness, standing
from saqlib.pipeline import study
from saqlib.report import verdict_tables
from saqlib.report.tables import MISSING
from tests.frames import DATASETS, PRECISIONS, evidence, make_runs
from tests.report.tabled import check

CLAIMS = study.load().claims


@pytest.fixture(scope="module")
def every():
    """All tables, of networks that fall with the bits on one dataset and do nothing on the other."""
    runs = make_runs(lambda p, t, m: -8 * PRECISIONS.index(p), datasets=DATASETS)
    calm = make_runs(datasets=DATASETS, generator=1)
    both = evidence(pd.concat([runs[runs.dataset == "mnist"], calm[calm.dataset != "mnist"]], ignore_index=True))
    answers = evaluate(both, CLAIMS)
    methods = pd.concat([both.runs["primary"].assign(method=method) for method in COUNTED])
    agreed, alternatives = other_methods(both, CLAIMS, answers, methods), robustness(both, CLAIMS, resamples=3)
    summary = answers.verdicts().join(standing(alternatives, answers)).assign(about=about(CLAIMS, agreed, answers))
    made = [
        verdict_tables.claims(answers.tests(), CLAIMS.questions),
        verdict_tables.equivalence(answers.equivalence()),
        verdict_tables.verdicts(summary),
        verdict_tables.robustness(alternatives),
        verdict_tables.by_fill(by_fill(both, CLAIMS)),
        verdict_tables.other_methods(agreed),
        verdict_tables.first_run(first_run(both, CLAIMS, answers)),
    ]
    return {table.name: table for table in made}


NAMES = ["claims", "equivalence", "verdicts", "robustness", "by_fill", "other_methods", "first_run"]


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_its_three_files(name, every, tmp_path):
    """The same bytes each time, the numbers in the CSV, one table in Markdown, one of booktabs in LaTeX."""
    assert list(every) == NAMES
    check(every[name], tmp_path)


def test_the_claims_csv_has_the_columns_of_the_contract(every):
    """Those that others read, in their order, and no others."""
    assert list(every["claims"].numbers.columns) == COLUMNS


def test_estimates_stand_in_the_digits_of_their_question(every):
    """Points of accuracy with two decimals, scores with three, each with both ends of its interval."""
    shown, numbers = every["claims"].shown, every["claims"].numbers
    for question, digits in (("accuracy", 2), ("focus", 3)):
        place = numbers.index[numbers.question == question][0]
        row = numbers.loc[place]
        text = f"{row.estimate:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]".replace("-", "−")
        assert shown["Estimate [95 % interval]"][place] == text


def test_verdicts_say_whether_they_are_firm_and_what_they_are_about(every):
    """An undecided one is neither; the text of the claim stands beside its id."""
    shown = every["verdicts"].shown
    first = shown.iloc[0]
    assert (first.Claim, first.Dataset, first.Question) == ("A1 Quantization lowers accuracy.", "MNIST", "accuracy")
    assert (first.Verdict, first.Firm, first.About) == ("supported", "yes", MISSING)
    maps = shown[shown.Claim.str.startswith("A2") & (shown.Dataset == "MNIST")]
    assert set(maps.About) == {"maps"} and set(maps.Firm) == {"yes"}
    assert set(shown[shown.Verdict == "undecided"].Firm) == {MISSING}


def test_robustness_has_one_row_per_verdict_and_one_column_per_alternative(every):
    """How often it stays the same, and a dash where an alternative does not apply."""
    made = every["robustness"]
    assert len(made.shown) == len(every["verdicts"].shown)
    first = made.shown.iloc[0]
    assert first["one seed left out"] == "10/10" and first["blur alone"] == MISSING and first.Firm == "yes"
    rows = made.numbers.set_index(["claim", "dataset", "training", "question", "alternative"])
    for row in made.shown.itertuples(index=False):
        key = row.Claim, {"MNIST": "mnist"}.get(row.Dataset, "fashion_mnist"), row.Training, row.Question
        assert row[list(made.shown.columns).index("t-tests")] == f"{rows.same[*key, 't-tests']}/1"


def test_every_fill_stands_beside_the_others(every):
    """Four rows for a comparison, and which of them count."""
    shown = every["by_fill"].shown
    assert shown.Fill[:4].tolist() == ["zero", "mean", "noise", "blur"]
    assert shown.Qualifies[:4].tolist() == ["no", "yes", "yes", "yes"]
    assert len(set(shown.Comparison[:4])) == 1 and set(shown.Question) == {"faithfulness"}


def test_methods_stand_under_their_words(every):
    """A reader sees no identifiers."""
    columns = every["other_methods"].shown.columns
    assert list(columns[6:10]) == ["gradient of the logit", "integrated gradients", "SmoothGrad", "occlusion"]


def test_the_first_run_stands_beside_the_second(every):
    """266 verdicts, each with its counterpart or a dash and the reason."""
    shown = every["first_run"].shown
    assert len(shown) == 266
    row = shown[shown["First claim"] == "H3"].iloc[0]
    assert (row["First verdict"], row.Claim, row.Verdict) == ("supported", "A2 focus", "supported")
    lost = shown[shown.Score == "Clarity as a whole"].iloc[0]
    assert (lost.Claim, lost.Verdict) == (MISSING, MISSING) and lost["What changed it"]
