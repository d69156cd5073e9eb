"""Whether a verdict is about saliency maps or about gradients alone: the same comparisons by other methods.

The map that claims are judged by is the gradient, of a quantized network the surrogate's. A claim about *maps* should
not hang on that: at least ENOUGH of four methods must have the sign that the verdict says, else it is one about
*gradients*. The gradient of the log-probability is none of the four: it is the same gradient, scaled image by image.
Signs of means over the few images that every method explained; significance is not asked again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from saqlib.evidence.claims import KEYS, Answers, Family, families
from saqlib.evidence.per_seed import Evidence
from saqlib.evidence.rules import Comparison
from saqlib.evidence.settings import ACCURACY, Claims
from saqlib.evidence.verdicts import OPPOSITE, SUPPORTED
from saqlib.names import GRADIENT

COUNTED = (GRADIENT, "integrated_gradients", "smoothgrad", "occlusion")
ENOUGH = 3
MAPS, GRADIENTS = "maps", "gradients"
COLUMNS = [*KEYS, "comparison", "verdict", *COUNTED, "agree", "about"]
# Not asked of other methods: images of equal confidence are too few, and that a loss is small has no sign.
WITHOUT_SIGN = ("loss_at_equal_confidence", "non_inferiority")


def other_methods(evidence: Evidence, claims: Claims, answers: Answers, methods: pd.DataFrame) -> pd.DataFrame:
    """One row per comparison of maps: its estimate by each of four methods, how many bear the verdict out, and the
    word.

    Args:
        evidence: what the answers rest on.
        claims: what is claimed.
        answers: the verdicts, by the gradient on all images.
        methods: one row per network and method: dataset, training, precision, method, seed and the scores.

    Returns:
        The columns COLUMNS. `about` is empty where the verdict says no sign. A comparison that other methods cannot
        make, such as one of shares of what training gives, is left out.
    """
    found = {method: _of(evidence, claims, methods[methods.method == method]) for method in COUNTED}
    rows = []
    for family, judged in zip(answers.families, answers.judged, strict=True):
        if claims.questions[family.question] != ACCURACY and family.claim.test not in WITHOUT_SIGN:
            by_method = [found[method][family.key].comparisons for method in COUNTED]
            for place, label in enumerate(family.labels):
                made = [comparisons[place] for comparisons in by_method]
                if all(isinstance(each, Comparison) for each in made):
                    rows.append([*family.key, label, *_row(judged[place].verdict, made)])
    return pd.DataFrame(rows, columns=COLUMNS)


def about(claims: Claims, methods: pd.DataFrame, answers: Answers) -> list[str]:
    """Of each verdict, in the order of the answers: maps, gradients, or nothing where it says no sign of maps.

    It is about maps if each comparison that says the verdict's word is; of the joint loss one such comparison is
    enough.
    """
    tests = {claim.id: claim.test for claim in claims.hypotheses}
    said = methods[methods.about != ""].groupby(KEYS, sort=False)
    groups = {key: group for key, group in said}
    words = []
    for key, verdict in answers.words.items():
        own = groups[key][groups[key].verdict == verdict].about if key in groups else pd.Series(dtype=str)
        enough = any if tests[key[0]] == "joint_loss" else all
        words.append("" if own.empty else MAPS if enough(own == MAPS) else GRADIENTS)
    return words


def _of(evidence: Evidence, claims: Claims, scores: pd.DataFrame) -> Mapping[tuple[str, ...], Family]:
    """The comparisons by one method, by the family's key. Other methods' maps of untrained networks were not scored."""
    accuracy = evidence.runs["primary"][["dataset", "training", "precision", "seed", ACCURACY]]
    runs = scores.drop(columns=ACCURACY, errors="ignore").merge(accuracy, on=list(accuracy.columns[:-1]))
    untrained = runs[runs.precision == claims.reference].drop(columns=["precision", ACCURACY])
    unknown = untrained.assign(**{name: np.nan for name in untrained.select_dtypes("float")})
    alone = replace(evidence, runs={"primary": runs}, untrained={"primary": unknown})
    return {family.key: family for family in families(alone, claims)}


def _row(verdict: str, made: Sequence[Comparison]) -> list:
    """The estimate of each method, how many have the sign that the verdict says, and what it is about."""
    estimates = [float(each.shown.mean()) for each in made]
    if verdict == SUPPORTED:
        agree = sum(_all_above(each.wanted) for each in made)
    elif verdict == OPPOSITE:
        agree = sum(any(_all_above(way) for way in each.contrary) for each in made)
    else:
        return [verdict, *estimates, "", ""]
    return [verdict, *estimates, agree, MAPS if agree >= ENOUGH else GRADIENTS]


def _all_above(parts: np.ndarray) -> bool:
    return bool((parts.mean(0) > 0).all())
