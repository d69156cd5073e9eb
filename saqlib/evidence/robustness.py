"""Whether a verdict would be the same had we decided otherwise: each one again under every reasonable alternative.

An answer is **firm** if it says something (it is not `undecided`) and stays the same under all alternatives that apply:
each qualifying fill by itself; every set of images; without Holm's correction; with signed ranks (a median) or
Student's t in place of sign flips of the mean; with a trend test in place of steps; without any one seed; and in at
least FIRM_SHARE of resamples of the seeds. Everything else depends on a choice, and is reported with that.

That all comparisons must agree is no alternative here: whatever the strict reading decides, the lenient one decides
alike (saqlib.evidence.verdicts).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saqlib.evidence import verdicts
from saqlib.evidence.by_fill import alone
from saqlib.evidence.claims import KEYS, Answers, Family, evaluate, families
from saqlib.evidence.per_seed import Evidence
from saqlib.evidence.rules import Comparison
from saqlib.evidence.settings import ACCURACY, Claims
from saqlib.evidence.statistics import page_trend, signed_ranks, t_tests
from saqlib.evidence.verdicts import EQUIVALENT, OPPOSITE, SUPPORTED, UNDECIDED, Decision

FIRM_SHARE = 0.9  # of resamples: one in ten may differ, since resampled seeds repeat, and are fewer than they seem
RESAMPLES = 1000
COLUMNS = [*KEYS, "verdict", "alternative", "cases", "same", "otherwise", "stays", "firm"]

Words = dict[tuple[str, ...], str]  # the verdict by the family's key


def robustness(evidence: Evidence, claims: Claims, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """One row per verdict and alternative: in how many of its cases the verdict stays the same.

    Args:
        evidence: the scores of every network.
        claims: what is claimed.
        resamples: how often the seeds are drawn anew, with replacement.
        seed: of these draws.

    Returns:
        The columns COLUMNS: `otherwise` counts the other words that were found; `stays` is whether the verdict does
        under that alternative, and `firm`, the same in all rows of a verdict, whether it says something and stays
        under every one.
    """
    answers = evaluate(evidence, claims)
    found: dict[str, list[Words]] = {}
    for name, words in _alternatives(evidence, claims, answers, resamples, seed):
        found.setdefault(name, []).append(words)
    rows = [row for family in answers.families for row in _rows(family, answers.words[family.key], found)]
    return pd.DataFrame(rows, columns=COLUMNS)


def standing(found: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """What the alternatives leave of each verdict, one row for each, in the order of the answers.

    Returns:
        stays: under how many alternatives; alternatives: of how many that apply; firm.
    """
    groups = found.groupby(KEYS, sort=False)
    counts = groups.agg(stays=("stays", "sum"), alternatives=("stays", "size"), firm=("firm", "first"))
    return counts.reindex(pd.MultiIndex.from_tuples(answers.words, names=KEYS)).reset_index(drop=True)


def _rows(family: Family, verdict: str, found: Mapping[str, Sequence[Words]]) -> list[list]:
    """The rows of one verdict: an alternative applies if it has a word on it."""
    rows = []
    for name, cases in found.items():
        said = [words[family.key] for words in cases if family.key in words]
        if said:
            others = pd.Series([word for word in said if word != verdict], dtype=str).value_counts()
            otherwise = ", ".join(f"{word} {count}" for word, count in others.items())
            same = said.count(verdict)
            rows.append([name, len(said), same, otherwise, _stays(name, len(said), same)])
    firm = verdict != UNDECIDED and all(row[-1] for row in rows)
    return [[*family.key, verdict, *row, firm] for row in rows]


def _stays(name: str, cases: int, same: int) -> bool:
    return same >= FIRM_SHARE * cases if name == "seeds resampled" else same == cases


# -------------------------------------------------------------------------------------------------- alternatives


def _alternatives(
    evidence: Evidence, claims: Claims, answers: Answers, resamples: int, seed: int
) -> Iterator[tuple[str, Words]]:
    """Each alternative's name with the words on those families to which it applies; several cases have one name."""
    yield from _fills(evidence, claims)
    yield from _images(evidence, claims)
    for name, change in (
        ("no Holm correction", {"correct": False}),
        ("signed ranks", {"test": signed_ranks}),
        ("t-tests", {"test": t_tests}),
    ):
        yield name, _judged(answers.families, replace(Decision(claims.level), **change))
    yield "trend for steps", _trends(answers, claims.level)
    seeds, draw = _seeds(answers), np.random.default_rng(seed)
    chosen = [("one seed left out", np.delete(np.arange(seeds), left_out)) for left_out in range(seeds)]
    chosen += [("seeds resampled", draw.integers(seeds, size=seeds)) for _ in range(resamples)]
    for name, rows in chosen:
        yield name, _judged([_taken(family, rows) for family in answers.families], Decision(claims.level))


def _judged(chosen: Sequence[Family], decision: Decision) -> Words:
    return Answers(chosen, verdicts.judge([family.comparisons for family in chosen], decision)).words


def _fills(evidence: Evidence, claims: Claims) -> Iterator[tuple[str, Words]]:
    """Faithfulness by one fill alone."""
    for fill in dict.fromkeys(fill for qualifying in evidence.fills.values() for fill in qualifying):
        yield f"{fill} alone", _judged(alone(evidence, claims, fill), Decision(claims.level))


def _images(evidence: Evidence, claims: Claims) -> Iterator[tuple[str, Words]]:
    """Maps over other images than the primary ones."""
    for images in ("all", "matched"):
        runs, untrained = ({**frames, "primary": frames[images]} for frames in (evidence.runs, evidence.untrained))
        chosen = families(replace(evidence, runs=runs, untrained=untrained), claims)
        chosen = [
            family
            for family in chosen
            if claims.questions[family.question] != ACCURACY and family.claim.test != "loss_at_equal_confidence"
        ]
        yield f"{images} images", _judged(chosen, Decision(claims.level))


def _trends(answers: Answers, level: float) -> Words:
    """Page's test over all precisions and over those without the first one, in place of steps that each go down."""
    words = {}
    for family in answers.families:
        made = [each for each in family.comparisons if isinstance(each, Comparison)]
        if family.claim.test == "steps" and len(made) == len(family.comparisons) > 2:
            changes = np.stack([each.change for each in made], axis=2)
            words[family.key] = _trend(changes, answers.words[family.key], level)
    return words


def _trend(changes: NDArray, verdict: str, level: float) -> str:
    """The word by trend of changes (seeds, parts, steps); whether nothing changes is not a trend test's to say."""
    if len(changes) < 2 or not np.isfinite(changes).all():
        return UNDECIDED
    levels = np.concatenate([np.zeros_like(changes[:, :, :1]), changes.cumsum(2)], axis=2)
    for word, sign in ((SUPPORTED, -1), (OPPOSITE, 1)):
        tables = [sign * part[:, start:] for part in levels.swapaxes(0, 1) for start in (0, 1)]
        if 2 * max(page_trend(table) for table in tables) <= level:
            return word
    return EQUIVALENT if verdict == EQUIVALENT else UNDECIDED


# --------------------------------------------------------------------------------------------------- other seeds


def _seeds(answers: Answers) -> int:
    """How many there are, of whatever could be compared."""
    made = [each for family in answers.families for each in family.comparisons if isinstance(each, Comparison)]
    return max((len(each.shown) for each in made), default=0)


def _taken(family: Family, rows: NDArray) -> Family:
    """The family on some of its seeds, a seed as often as it is named."""
    return replace(family, comparisons=tuple(_of(each, rows) for each in family.comparisons))


def _of(comparison: Comparison | str, rows: NDArray) -> Comparison | str:
    if isinstance(comparison, str):
        return comparison
    name, lost = comparison.loss or ("", None)
    return Comparison(
        shown=comparison.shown[rows],
        wanted=comparison.wanted[rows],
        contrary=tuple(each[rows] for each in comparison.contrary),
        change=None if comparison.change is None else comparison.change[rows],
        margin=None if comparison.margin is None else comparison.margin[rows],
        loss=None if lost is None else (name, lost[rows]),
    )
