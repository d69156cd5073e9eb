"""Where the loss comes from: what each of three ways to ask says, by rules that were fixed before anything was scored.

A *factor*, the quantizers of weights, of activations or of both, explains a loss if the map without it gives back at
least a set share of the loss, with an interval above 0. There is an *artefact of the surrogate* if finite differences
are more faithful than the gradient by more than they are at the reference. A map *follows the network* if it is less
like itself, once layers are drawn anew, than the maps of two networks that share nothing but the data.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from saqlib.evidence.retained import ratio
from saqlib.evidence.settings import ACCURACY, Claims
from saqlib.evidence.statistics import Interval, holm, sign_flips, t_interval
from saqlib.evidence.verdicts import every, word
from saqlib.names import GRADIENT, PRESERVATION, RELEVANCE_GAIN, SEED_TO_SEED

FACTORS = {"weights": ("off", "on"), "activations": ("on", "off"), "both": ("off", "off")}  # weights, activations
EXPLAINS, NOT, NO_LOSS = "explains", "does not", "no loss"
KEYS = ["dataset", "training", "precision"]
Fills = Mapping[str, Sequence[str]]  # of each dataset those that qualify


def recovered(switched: pd.DataFrame, methods: pd.DataFrame, fills: Fills, claims: Claims) -> pd.DataFrame:
    """What the map gives back of a loss, as a share of it, when quantizers are switched off.

    Args:
        switched: one row per quantized network and state of its quantizers, with the scores of the map.
        methods: one row per network and method; the gradient's of the reference are what a loss starts from.
        fills: those that qualify.
        claims: questions, reference, and the share that a factor must give back.

    Returns:
        dataset, training, precision, question, off (the factor); estimate, low, high: the share, (off - on) /
        (reference - on), with Fieller's interval, of faithfulness the mean over the fills; word: of faithfulness what
        holds under every fill. `no loss` where the loss is no loss, or its own interval holds 0: there is no share.
    """
    full = methods[(methods.method == GRADIENT) & (methods.precision == claims.reference)]
    rows = []
    for (dataset, training, precision), own in switched.groupby(KEYS, sort=False):
        top = full[(full.dataset == dataset) & (full.training == training)].set_index("seed")
        maps = {state: group.set_index("seed") for state, group in own.groupby(["weights", "activations"])}
        for question, columns in _columns(claims, fills[dataset]).items():
            for factor, state in FACTORS.items():
                back, lost = (each[columns] - maps["on", "on"][columns] for each in (maps[state], top))
                shown = ratio(back.mean(axis=1, skipna=False), lost.mean(axis=1, skipna=False))
                said = _explains([ratio(back[c], lost[c]) for c in columns], claims.margins.recovered)
                rows.append([dataset, training, precision, question, factor, *shown, said])
    return pd.DataFrame(rows, columns=[*KEYS, "question", "off", "estimate", "low", "high", "word"])


def _explains(shares: Sequence[Interval], enough: float) -> str:
    if not shares or not np.isfinite([share.mean for share in shares]).all():
        return NO_LOSS
    return EXPLAINS if all(share.mean >= enough and share.low > 0 for share in shares) else NOT


def surrogate(differences: pd.DataFrame, fills: Fills, claims: Claims) -> pd.DataFrame:
    """Whether finite differences are more faithful than the gradient, by more at few bits than at the reference.

    Args:
        differences: one row per network and way to find its slope, with the scores of the map.
        fills: those that qualify.
        claims: the reference, and the level of both steps of one precision together.

    Returns:
        dataset, training, precision, difference (its step); estimate, low, high: slope minus gradient, less the same at
        the reference, mean over the fills; p, p_holm, verdict: of the exact sign-flip test, under every fill; artefact:
        the word that every step says.
    """
    rows = []
    for (dataset, training), group in differences.groupby(KEYS[:2], sort=False):
        columns = [f"{RELEVANCE_GAIN}_{fill}" for fill in fills[dataset]]
        leads = {precision: _leads(own, columns) for precision, own in group.groupby("precision", sort=False)}
        for precision in [each for each in leads if each != claims.reference]:
            more = {step: leads[precision][step] - leads[claims.reference][step] for step in leads[precision]}
            found = _tested([each.to_numpy() for each in more.values()], claims.level)
            said = every([row[-1] for row in found])
            rows += [[dataset, training, precision, *row, said] for row in _labelled(more, found)]
    return pd.DataFrame(rows, columns=[*KEYS, "difference", *TESTED, "artefact"])


def _leads(own: pd.DataFrame, columns: list[str]) -> dict[str, pd.DataFrame]:
    """Of one network's finite differences, step by step, what they score above the gradient: by seed, by fill."""
    maps = {name: group.set_index("seed")[columns] for name, group in own.groupby("difference", sort=False)}
    return {name: each - maps[GRADIENT] for name, each in maps.items() if name != GRADIENT}


def randomized(cascade: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """How like itself a map is while layers are drawn anew, against two networks of the reference.

    Args:
        cascade: one row per network and last layer that was drawn anew, and of the reference's networks one
            `seed_to_seed`, with the columns preservation_*.
        claims: the reference, and the level of all precisions together.

    Returns:
        dataset, training, likeness, redrawn (all layers from the last one to this), precision; alike and beside, the
        means of both; estimate, low, high: the reference's likeness minus the map's; p, p_holm, verdict: supported
        where the map is less like itself.
    """
    pairs, rows = cascade[cascade.redrawn == SEED_TO_SEED], []
    drawn = cascade[cascade.redrawn != SEED_TO_SEED]
    for (dataset, training, redrawn), group in drawn.groupby(["dataset", "training", "redrawn"], sort=False):
        beside = pairs[(pairs.dataset == dataset) & (pairs.training == training)].set_index("seed")
        for likeness in PRESERVATION:
            column = f"preservation_{likeness}"
            maps = {name: own.set_index("seed")[column] for name, own in group.groupby("precision", sort=False)}
            less = {name: (beside[column] - own).to_frame() for name, own in maps.items()}
            found = _tested([each.to_numpy() for each in less.values()], claims.level)
            for name, *row in _labelled(less, found):
                means = maps[name].mean(), beside[column].mean()
                rows.append([dataset, training, likeness, redrawn, name, *means, *row])
    names = ["dataset", "training", "likeness", "redrawn", "precision", "alike", "beside", *TESTED]
    return pd.DataFrame(rows, columns=names)


# ------------------------------------------------------------------------------------------------------ in common

TESTED = ["estimate", "low", "high", "p", "p_holm", "verdict"]


def _columns(claims: Claims, fills: Sequence[str]) -> dict[str, list[str]]:
    """By question about maps the columns that answer it."""
    gains = [f"{RELEVANCE_GAIN}_{fill}" for fill in fills]
    asked = {question: column for question, column in claims.questions.items() if column != ACCURACY}
    return {question: gains if column == RELEVANCE_GAIN else [column] for question, column in asked.items()}


def _labelled(named: Mapping[str, object], found: Sequence[list]) -> list[list]:
    return [[name, *row] for name, row in zip(named, found, strict=True)]


def _tested(arrays: Sequence[np.ndarray], level: float) -> list[list]:
    """A family of arrays (seeds, parts) that are to lie above 0 in every part: of each the columns TESTED."""
    ways = [(_largest_p(array), _largest_p(-array)) for array in arrays]
    p = np.array([np.minimum(1.0, 2 * np.minimum(*way)) for way in ways])
    rows = []
    for array, (above, below), own, corrected in zip(arrays, ways, p, holm(p), strict=True):
        toward = int(np.sign(below - above)) if np.isfinite(own) else 0
        rows.append([*_interval(array), own, corrected, word(corrected, toward, np.nan, level)])
    return rows


def _largest_p(array: np.ndarray) -> float:
    """One-sided, of the part that is least above 0; NaN with a gap, fewer than two seeds, or no part."""
    if len(array) < 2 or array.shape[1] == 0:
        return np.nan
    return float(sign_flips(array).max())


def _interval(array: np.ndarray) -> Interval:
    """Of the means over the parts."""
    if len(array) < 2 or array.shape[1] == 0 or not np.isfinite(array).all():
        return Interval(np.nan, np.nan, np.nan)
    return t_interval(array.mean(1))
