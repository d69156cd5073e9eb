"""What was found of a claim, in words, with every number that the verdict rests on."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from saqlib.evidence.settings import ACCURACY
from saqlib.evidence.verdicts import EQUIVALENT, OPPOSITE, SUPPORTED, UNDECIDED
from saqlib.report.verdict_tables import digits_of

ENDINGS = {
    SUPPORTED: "as claimed",
    OPPOSITE: "the opposite of the claim",
    EQUIVALENT: "no change that would matter",
    UNDECIDED: "undecided",
}


def sentence(verdict: Mapping, tests: pd.DataFrame, column: str) -> str:
    """One verdict as a sentence that says what decided.

    Args:
        verdict: a row of saqlib.evidence.claims.Answers.verdicts.
        tests: the rows of Answers.tests; those of the verdict are found by its keys.
        column: the column of the runs that answers its question.

    Returns:
        The question, what is said of it and why, then each comparison with estimate, 95 % interval and corrected p.
    """
    own = tests
    for key in ("claim", "dataset", "training", "question"):
        own = own[own[key] == verdict[key]]
    because = f" ({verdict['why']})" if verdict["why"] else ""
    found = "; ".join(_found(row, digits_of(column), column) for row in own.to_dict("records"))
    return f"{verdict['question'].capitalize()}: {ENDINGS[verdict['verdict']]}{because}. {found}."


def _found(row: Mapping, digits: int, column: str) -> str:
    if np.isnan(row["estimate"]):
        return f"{row['comparison']}: not measured"
    estimate, low, high = (f"{row[key]:+.{digits}f}" for key in ("estimate", "low", "high"))
    unit = " points" if column == ACCURACY else ""
    p = "not tested" if np.isnan(row["p_holm"]) else f"p {_p(row['p_holm'])}"
    return f"{row['comparison']}: {estimate}{unit} [{low}, {high}], {p}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
