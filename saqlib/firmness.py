"""Which verdicts of the grid stay when something else had been decided: alternatives that can disagree, by name.

seeds resampled     the word is found again in at least FIRM_SHARE of the resamples of the seeds (in place of
                    `equivalent` a change within the margin will do: it says that the change is small)
matched images      the word is found again on images of equal confidence at every precision; of maps only
<method>            another method of saliency: its change as a multiple of the gradient's, with Fieller's interval,
                    disagrees if it is surely less than a set share (claims.margins.recovered), or has the other sign.
                    A vote of signs would call a change of -.008 beside one of -.136 agreement
<ablation>          its mean difference has the sign that the word says; where the word is `equivalent`, it is within
                    the margin

A verdict is **firm** if it says something (it is not `undecided`) and no alternative that applies disagrees. Those that
do are its knife-edges: `alternatives(...)` lists all of them, the column `agrees` tells which.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from saqlib.claims import ACCURACY, Array, Claims
from saqlib.grid import (
    EQUIVALENT,
    HIGHER,
    KEYS,
    LOWER,
    UNDECIDED,
    WITHIN,
    Difference,
    Fills,
    differences,
    p_values,
    untrained_rows,
)
from saqlib.scores import UNTRAINED
from saqlib.statistics import ratio

FIRM_SHARE = 0.9  # of resamples: one in ten may differ, since resampled seeds repeat, and are fewer than they seem
RESAMPLES = 500
METHODS = ("integrated_gradients", "smoothgrad", "occlusion")  # the log-probability's gradient is the same gradient
SIGNS = {LOWER: -1, HIGHER: 1}
COLUMNS = [*KEYS, "word", "alternative", "estimate", "low", "high", "agrees"]
Row = tuple[tuple[str, ...], str, float, float, float, bool]  # key, alternative, estimate, low, high, agrees


def alternatives(
    runs: pd.DataFrame,
    maps: pd.DataFrame,
    fills: Fills,
    claims: Claims,
    *,
    seeds: Sequence[int] | None = None,
    matched: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
    methods: Sequence[str] = METHODS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each verdict that says something and each alternative that applies to it.

    Args:
        runs, maps, fills, claims, seeds: as of saqlib.grid.grid.
        matched: as runs, over images of equal confidence.
        effects: what ablations leave of each difference, as saqlib.findings.effects has it.
        methods: values of the column `map`.
        resamples: how often the seeds are drawn anew, with replacement.
        seed: of these draws.

    Returns:
        The columns COLUMNS. estimate, low, high: of resamples the share that says the word; of images and ablations the
        difference; of methods the ratio of its change to the gradient's. agrees: whether the word stays.
    """
    found = differences(runs, untrained_rows(maps, claims.reference), fills, claims, seeds)
    words = dict(zip([each.key for each in found], p_values(found).words(claims.level)[0], strict=True))
    rows = [*_resampled(found, words, claims, resamples, np.random.default_rng(seed))]
    of_maps = replace(claims, questions={q: column for q, column in claims.questions.items() if column != ACCURACY})
    if matched is not None:
        other = differences(matched, untrained_rows(maps, claims.reference), fills, of_maps, seeds)
        for each, *said in zip(other, *p_values(other).words(claims.level), strict=True):
            agrees = _stays(words[each.key], *said)
            rows.append((each.key, "matched images", float(each.change.mean()), np.nan, np.nan, agrees))
    for method in methods:
        rows += _by_method(method, found, words, maps, fills, of_maps, seeds)
    if effects is not None:
        rows += _ablated(effects, words, {each.key: float(each.margin.mean()) for each in found})
    place = {key: number for number, key in enumerate(words)}
    rows = sorted((row for row in rows if words.get(row[0], UNDECIDED) != UNDECIDED), key=lambda row: place[row[0]])
    return pd.DataFrame([[*key, words[key], *rest] for key, *rest in rows], columns=COLUMNS)


def firm(verdicts: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The verdicts of the grid with their column `firm`: whether each says something and no alternative disagrees.

    found: what `alternatives` gives for the same seeds.
    """
    against = set(found[~found.agrees.astype(bool)][KEYS].itertuples(index=False, name=None))
    stays = np.array([key not in against for key in verdicts[KEYS].itertuples(index=False, name=None)], dtype=bool)
    return verdicts.assign(firm=stays & (verdicts.word != UNDECIDED))


def _stays(word: str, other: str, size: str) -> bool:
    """Whether a verdict is found again. `equivalent` says that a change is small, not that there is none."""
    return other == word or (word == EQUIVALENT and size == WITHIN)


def _resampled(
    found: Sequence[Difference], words: dict, claims: Claims, resamples: int, draw: np.random.Generator
) -> Iterator[Row]:
    same, count = np.zeros(len(found)), len(found[0].change) if found else 0
    if count < 2 or not resamples:
        return
    own = [words[each.key] for each in found]
    for _ in range(resamples):
        places = np.sort(draw.integers(count, size=count))
        said = p_values(found, places.tolist()).words(claims.level)
        same += [_stays(*each) for each in zip(own, *said, strict=True)]
    for each, share in zip(found, same / resamples, strict=True):
        yield each.key, "seeds resampled", float(share), np.nan, np.nan, bool(share >= FIRM_SHARE)


def _by_method(
    method: str,
    found: Sequence[Difference],
    words: dict,
    maps: pd.DataFrame,
    fills: Fills,
    claims: Claims,
    seeds: Sequence[int] | None,
) -> Iterator[Row]:
    """The ratio of a method's change to the gradient's, where the gradient's has a sign and the method was scored."""
    own = maps[(maps["map"] == method) & (maps.network != UNTRAINED)]
    if own.empty:
        return
    changes: dict[tuple[str, ...], Array] = {
        each.key: each.change for each in differences(own, own.iloc[:0], fills, claims, seeds)
    }
    for each in found:
        if words[each.key] in SIGNS and each.key in changes:
            side = SIGNS[words[each.key]]  # a ratio has a denominator above 0
            share = ratio(side * changes[each.key].mean(1), side * each.change.mean(1))
            if np.isfinite(share).all():
                yield each.key, method, *share, bool(share.mean > 0 and share.high >= claims.margins.recovered)


def _ablated(effects: pd.DataFrame, words: dict, margins: dict) -> Iterator[Row]:
    for row in effects.itertuples():
        key = row.dataset, row.training, row.question, row.comparison
        if key in words and np.isfinite(row.estimate):
            side = SIGNS.get(words[key])
            agrees = np.sign(row.estimate) == side if side else abs(row.estimate) <= margins[key]
            yield key, row.variant, row.estimate, row.low, row.high, bool(agrees)
