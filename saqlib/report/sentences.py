"""What a test of a claim says, in words, with the numbers that decided."""

from collections.abc import Mapping

import numpy as np

from saqlib import words
from saqlib.evidence.claims import NOT_SUPPORTED, OPPOSITE, SUPPORTED

ENDINGS = {
    SUPPORTED: "as claimed",
    OPPOSITE: "the opposite of the claim",
    NOT_SUPPORTED: "which does not bear the claim out",
}


def sentence(row: Mapping, level: float) -> str:
    """One row of saqlib.evidence.claims.evaluate as a sentence; level: of the tests."""
    if np.isnan(row["p"]):
        return f"Could not be tested: {row['seeds']} seed(s), or a network without a value."
    digits = 2 if row["metric"] == "test_accuracy" else 3
    unit = " points" if row["metric"] == "test_accuracy" and "<" not in row["comparison"] else ""
    estimate, low, high = (f"{row[key]:+.{digits}f}" for key in ("estimate", "low", "high"))
    found = (
        f"{words.name(row['metric'])}, {row['comparison']}: {estimate}{unit} "
        f"(95 % interval {low} to {high}; corrected p {_p(row['p_holm'])})"
    )
    if row["least_p"] > level:
        return f"{found}. Too few seeds: with {row['seeds']} the corrected p cannot fall below {row['least_p']:.3f}."
    return f"{found}, {ENDINGS[row['verdict']]}."


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
