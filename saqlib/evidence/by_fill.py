"""Each fill for itself: what the claims' comparisons of faithfulness say where removed pixels become that and no other.

A verdict on faithfulness must hold under every fill that qualifies. Where it is undecided, these rows tell whether
fills disagree or seeds are too few; fills that do not qualify stand beside them.
"""

from dataclasses import replace

import pandas as pd

from saqlib.evidence.claims import KEYS, Family, evaluate, families
from saqlib.evidence.per_seed import Evidence
from saqlib.evidence.settings import Claims
from saqlib.names import FILLS, RELEVANCE_GAIN

COLUMNS = [*KEYS, "comparison", "fill", "qualifies", "estimate", "low", "high", "p", "p_holm", "verdict"]


def by_fill(evidence: Evidence, claims: Claims) -> pd.DataFrame:
    """One row per comparison of faithfulness and fill.

    Args:
        evidence: the scores of every network.
        claims: what is claimed.

    Returns:
        The columns COLUMNS, as in Answers.tests, the fills of a comparison together; `qualifies` as on that dataset.
    """
    asked = [question for question, column in claims.questions.items() if column == RELEVANCE_GAIN]
    parts = []
    for fill in FILLS:
        tests = evaluate(replace(evidence, fills=dict.fromkeys(evidence.fills, (fill,))), claims).tests()
        tests = tests[tests.question.isin(asked)]
        parts.append(tests.assign(fill=fill, qualifies=[fill in evidence.fills[name] for name in tests.dataset]))
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)[COLUMNS]


def alone(evidence: Evidence, claims: Claims, fill: str) -> list[Family]:
    """The comparisons of faithfulness by one fill, on the datasets on which it qualifies."""
    kept = {dataset: (fill,) for dataset, qualifying in evidence.fills.items() if fill in qualifying}
    runs = {images: frame[frame.dataset.isin(list(kept))] for images, frame in evidence.runs.items()}
    found = families(replace(evidence, runs=runs, fills=kept), claims)
    return [family for family in found if claims.questions[family.question] == RELEVANCE_GAIN]
