"""The tables of the claims: every comparison, every verdict, and what verdicts depend on."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from saqlib import words
from saqlib.evidence.other_methods import COUNTED
from saqlib.evidence.settings import ACCURACY
from saqlib.report.tables import MISSING, Table, bracketed, number, p_value


def claims(tests: pd.DataFrame, questions: Mapping[str, str]) -> Table:
    """Every comparison, as saqlib.evidence.claims.Answers.tests gives them; questions: the column that answers each."""
    digits = [digits_of(questions[question]) for question in tests.question]
    bounds = tests[["estimate", "low", "high"]].itertuples(index=False)
    shown = _keys(tests) | {
        "Comparison": tests.comparison,
        "Estimate [95 % interval]": [bracketed(*bound, d) for bound, d in zip(bounds, digits, strict=True)],
        "p": tests.p.map(p_value),
        "p (Holm)": tests.p_holm.map(p_value),
        "Verdict": tests.verdict,
    }
    return Table("claims", tests, pd.DataFrame(shown))


def equivalence(tests: pd.DataFrame) -> Table:
    """The tests within a margin, as saqlib.evidence.claims.Answers.equivalence gives them."""
    shown = _keys(tests) | {
        "Comparison": tests.comparison,
        "Margin": tests.margin.map(number),
        "p": tests.p.map(p_value),
        "p (Holm)": tests.p_holm.map(p_value),
        "Note": tests.note,
    }
    return Table("equivalence", tests, pd.DataFrame(shown))


def verdicts(answers: pd.DataFrame) -> Table:
    """The verdict on each question of each claim, as saqlib.evidence.claims.Answers.verdicts gives it.

    And what saqlib.evidence.robustness.standing says of each, and `about`, maps or gradients.
    """
    shown = _keys(answers) | {
        "Verdict": answers.verdict,
        "Stays": answers.stays.astype(str) + "/" + answers.alternatives.astype(str),
        "Firm": np.where(answers.verdict == "undecided", MISSING, np.where(answers.firm, "yes", "no")),
        "About": answers.about.replace("", MISSING),
        "Because": answers.why,
    }
    shown["Claim"] = answers.claim + " " + answers.text
    return Table("verdicts", answers, pd.DataFrame(shown))


def robustness(found: pd.DataFrame) -> Table:
    """Every verdict under every alternative, as saqlib.evidence.robustness gives it: how often it stays the same."""
    keys = ["claim", "dataset", "training", "question"]
    text = found.assign(text=found.same.astype(str) + "/" + found.cases.astype(str))
    rows = found.drop_duplicates(keys)
    wide = text.pivot(index=keys, columns="alternative", values="text")
    wide = wide.reindex(index=pd.MultiIndex.from_frame(rows[keys]), columns=found.alternative.unique())
    shown = pd.DataFrame(_keys(rows) | {"Verdict": rows.verdict}).reset_index(drop=True)
    shown = pd.concat([shown, wide.fillna(MISSING).reset_index(drop=True).rename_axis(columns=None)], axis=1)
    return Table("robustness", found, shown.assign(Firm=np.where(rows.firm, "yes", "no")))


def by_fill(found: pd.DataFrame) -> Table:
    """Every comparison of faithfulness by each fill alone, as saqlib.evidence.by_fill gives it."""
    bounds = found[["estimate", "low", "high"]].itertuples(index=False)
    shown = _keys(found) | {
        "Comparison": found.comparison,
        "Fill": found.fill,
        "Qualifies": np.where(found.qualifies, "yes", "no"),
        "Estimate [95 % interval]": [bracketed(*bound) for bound in bounds],
        "p (Holm)": found.p_holm.map(p_value),
        "Verdict": found.verdict,
    }
    return Table("by_fill", found, pd.DataFrame(shown))


def other_methods(found: pd.DataFrame) -> Table:
    """Every comparison of maps by four methods, as saqlib.evidence.other_methods gives it."""
    shown = _keys(found) | {"Comparison": found.comparison, "Verdict": found.verdict}
    shown |= {words.METHODS[method]: found[method].map(number) for method in COUNTED}
    shown |= {"Agree": found.agree, "About": found.about.replace("", MISSING)}
    return Table("other_methods", found, pd.DataFrame(shown))


def first_run(found: pd.DataFrame) -> Table:
    """Every verdict of the first run beside the second's, as saqlib.evidence.first_run gives it."""
    shown = {
        "First claim": found.claim,
        "Dataset": found.dataset.map(words.dataset),
        "Training": found.training,
        "Score": found.metric.map(lambda metric: "Clarity as a whole" if metric == "clarity" else words.name(metric)),
        "First comparison": found.comparison,
        "First verdict": found.verdict,
        "Claim": (found.now_claim + " " + found.question).str.strip().replace("", MISSING),
        "New rule": found.new_rule.replace("", MISSING),
        "New networks": found.new_networks.replace("", MISSING),
        "Verdict": found.now.replace("", MISSING),
        "What changed it": found.why,
    }
    return Table("first_run", found, pd.DataFrame(shown))


def digits_of(column: str) -> int:
    """Decimals of an estimate: points of accuracy two, everything else three."""
    return 2 if column == ACCURACY else 3


def _keys(frame: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        "Claim": frame.claim,
        "Dataset": frame.dataset.map(words.dataset),
        "Training": frame.training,
        "Question": frame.question,
    }
