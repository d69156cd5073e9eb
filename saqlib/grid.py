"""One verdict per comparison: of two precisions, or of two trainings, in one question on one dataset.

    verdicts, tests = grid(runs, maps, fills, claims)                      # of all seeds
    verdicts, tests = grid(runs, maps, fills, claims, seeds=range(10, 20))

The replicate is the seed, and differences are paired by it. Three exact sign-flip tests (saqlib.statistics) are made of
each comparison: that there is a change, two-sided; that it is smaller than its margin, two one-sided tests; that it is
larger than its margin, one-sided, in the direction of the change. Each is corrected by Holm's method within a family:
one question, dataset and training, and one kind of comparison (with full precision, step by step, of guidance). So in
one family the chance of any change that is not there is at most the level, and so is that of calling any change within
its margin though it is at it or beyond, or the reverse. Of faithfulness there are several numbers, one for each fill
that qualifies: its estimate is their mean, its p-value the largest, and 1 where the means do not go one way.

A word is said of the number, not of its worth: of stability, which max-sensitivity answers, `higher` is less steady.

Sources: Schuirmann (1987), J. Pharmacokinet. Biopharm. 15, for two one-sided tests; Berger (1982), Technometrics 24,
for the largest p-value; Benjamini and Hochberg (1995), J. R. Stat. Soc. B 57.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from saqlib.claims import ACCURACY, Array, Claims
from saqlib.scores import GRADIENT, RELEVANCE_GAIN, UNTRAINED
from saqlib.statistics import holm, interval_if_any, sign_flips

LOWER, HIGHER, EQUIVALENT, UNDECIDED = "lower", "higher", "equivalent", "undecided"
WORDS = {
    LOWER: "the first of the two has a lower score, significantly after Holm's correction; of faithfulness, under "
    "every fill that qualifies.",
    HIGHER: "the same the other way round.",
    EQUIVALENT: "no such difference, and two one-sided tests show that it is smaller than the margin.",
    UNDECIDED: "everything else: so many seeds cannot tell.",
}
BEYOND, WITHIN, OPEN = "beyond the margin", "within the margin", "open"
TO_REFERENCE, STEP, GUIDANCE = "reference", "step", "guidance"  # the kinds of comparisons
TIMES = 3  # what training surely gives must be so many half-widths of its interval, for a margin to rest on it

CELL = ["dataset", "training", "precision"]
KEYS = ["dataset", "training", "question", "comparison"]
COLUMNS = [*KEYS, "estimate", "low", "high", "p", "p_holm", "p_bh", "word", "size", "margin", "seeds", "firm"]
TESTS = ["p_equivalent", "p_equivalent_holm", "p_beyond", "p_beyond_holm", "low_fill", "high_fill", "error_ratio"]
Fills = Mapping[str, Sequence[str]]  # of each dataset those that qualify
Networks = Mapping[tuple[str, str, str], pd.DataFrame]  # by dataset, training and precision; indexed by the seed


@dataclass(frozen=True)
class Difference:
    """One comparison: scores of `a` minus scores of `b`, each (seeds, parts), a part for each fill or only one.

    margin: (seeds, parts), what would not matter; NaN, all of it, where it is refused.
    """

    dataset: str
    training: str
    question: str
    comparison: str
    kind: str
    a: Array
    b: Array
    margin: Array

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The values of KEYS."""
        return self.dataset, self.training, self.question, self.comparison

    @property
    def family(self) -> tuple[str, str, str, str]:
        """Those that Holm's correction counts together."""
        return self.dataset, self.training, self.question, self.kind

    @cached_property
    def change(self) -> Array:
        """What is tested: (seeds, parts)."""
        return self.a - self.b


# -------------------------------------------------------------------------------------------------- the comparisons


def by_network(frame: pd.DataFrame, seeds: Sequence[int] | None = None) -> Networks:
    """The rows of each dataset, training and precision, in the order of these seeds; NaN where one has no row.

    frame: one row per network, with CELL and seed. ValueError if a column lacks, or a network has two rows.
    """
    if lacking := [name for name in (*CELL, "seed") if name not in frame]:
        raise ValueError(f"the frame of networks lacks the column {lacking[0]}")
    if twice := frame.duplicated([*CELL, "seed"]).sum():
        raise ValueError(f"{twice} network(s) stand twice in the frame")
    seeds = sorted(frame.seed.unique()) if seeds is None else list(seeds)
    return {key: own.set_index("seed").reindex(seeds) for key, own in frame.groupby(CELL, sort=False)}


def parts_of(column: str, fills: Sequence[str]) -> list[str]:
    """The columns that answer a question: of the relevance gain one for each fill, else the column itself."""
    return [f"{RELEVANCE_GAIN}_{fill}" for fill in fills] if column == RELEVANCE_GAIN else [column]


def differences(
    runs: pd.DataFrame, untrained: pd.DataFrame, fills: Fills, claims: Claims, seeds: Sequence[int] | None = None
) -> list[Difference]:
    """Every comparison of the grid, untested: datasets, trainings, questions, and precisions in the order of the runs.

    untrained: the reference's networks before they are trained, as runs; without any row no margin is known. Other
    arguments as of `grid`; ValueError for networks that stand twice, and if a column or the reference is missing.
    """
    networks = by_network(runs, seeds)
    precisions = list(dict.fromkeys(runs.precision))
    if claims.reference not in precisions:
        raise ValueError(f"no network of the runs is {claims.reference}, which others are compared with")
    seeds = list(networks[next(iter(networks))].index)
    floors = by_network(untrained, seeds)
    found = []
    for dataset, training in dict.fromkeys((dataset, training) for dataset, training, _ in networks):
        for question, column in claims.questions.items():
            columns = parts_of(column, fills.get(dataset, ()))
            if lacking := [name for name in columns if name not in runs]:
                raise ValueError(f"the runs lack the column {lacking[0]}, which answers {question}")
            for kind, label, base, (a, b) in _pairs(dataset, training, precisions, claims.reference):
                if a in networks and b in networks:
                    top = (dataset, base, claims.reference)
                    given = _values(networks, top, columns, seeds) - _values(floors, top, columns, seeds)
                    margin = _share(given, claims.margins.maps)
                    if column == ACCURACY:
                        margin = np.full_like(given, claims.margins.accuracy)
                    both = (_values(networks, each, columns, seeds) for each in (a, b))
                    found.append(Difference(dataset, training, question, label, kind, *both, margin))
    return found


def _share(given: Array, share: float) -> Array:
    """A share of what training gives in each seed, (seeds, parts), or NaN where that is too uncertain: where for some
    part the lower end of its 95 % interval is less than TIMES the half-width of that interval.
    """
    found = [interval_if_any(part) for part in given.T]
    sure = all(each.low >= TIMES * (each.high - each.low) / 2 for each in found)  # not of NaN
    return share * given if sure else np.full_like(given, np.nan)


def _pairs(dataset: str, training: str, precisions: Sequence[str], reference: str) -> Iterator[tuple]:
    """Kind, label, the training whose gain the margin is a part of, and the two networks of each comparison."""
    at = {precision: (dataset, training, precision) for precision in precisions}
    for b in precisions:
        if b != reference:
            yield TO_REFERENCE, f"{b} - {reference}", training, (at[b], at[reference])
    for more, fewer in zip(precisions, precisions[1:], strict=False):
        if reference not in (more, fewer):  # that step is the comparison with the reference
            yield STEP, f"{fewer} - {more}", training, (at[fewer], at[more])
    if training == "guided":
        for b in precisions:
            yield GUIDANCE, f"guided - standard, {b}", "standard", (at[b], (dataset, "standard", b))


def _values(networks: Networks, key: tuple[str, str, str], columns: Sequence[str], seeds: Sequence[int]) -> Array:
    """(seeds, columns); NaN of networks that are not there."""
    if key not in networks or not columns:
        return np.full((len(seeds), max(1, len(columns))), np.nan)
    return networks[key].reindex(columns=columns).to_numpy(float)


# ------------------------------------------------------------------------------------------------------- the words


@dataclass(frozen=True)
class PValues:
    """The p-values of every comparison, and which are corrected together; arrays (comparisons,).

    side: the sign of the change, 0 where the fills do not go one way. p two-sided, p_equivalent of two one-sided
    tests, p_beyond one-sided: each the largest over the parts, and NaN where a value is missing.
    """

    side: Array
    p: Array
    p_equivalent: Array
    p_beyond: Array
    families: Sequence[Array]

    def corrected(self, p: Array) -> Array:
        """By Holm's method within each family."""
        found = np.full_like(p, np.nan)
        for family in self.families:
            found[family] = holm(p[family])
        return found

    def words(self, level: float) -> tuple[list[str], list[str]]:
        """Of each comparison word and size. A significant change comes before equivalence, and may be within the
        margin.
        """
        holds = {name: self.corrected(getattr(self, name)) <= level for name in ("p", "p_equivalent", "p_beyond")}
        changed = holds["p"] & (self.side != 0)
        words = np.select([changed & (self.side < 0), changed, holds["p_equivalent"]], [LOWER, HIGHER, EQUIVALENT],
                          UNDECIDED)  # fmt: skip
        sizes = np.select([holds["p_equivalent"], changed & holds["p_beyond"]], [WITHIN, BEYOND], OPEN)
        return words.tolist(), sizes.tolist()


def p_values(found: Sequence[Difference], places: Sequence[int] | None = None) -> PValues:
    """The tests of these comparisons, which have the same seeds.

    places: of the seeds that are looked at, one as often as it is named; all when None. With fewer than two seeds every
    p-value is NaN; ValueError for more than saqlib.statistics.MOST_PAIRS.
    """
    families: dict[tuple[str, ...], list[int]] = {}
    for place, each in enumerate(found):
        families.setdefault(each.family, []).append(place)
    groups = [np.array(family) for family in families.values()]
    nothing = np.full(len(found), np.nan)
    places = slice(None) if places is None else list(places)
    change = np.hstack([each.change for each in found])[places] if found else np.empty((0, 0))
    if len(change) < 2:
        return PValues(np.zeros(len(found)), nothing, nothing, nothing, groups)
    margin = np.hstack([each.margin for each in found])[places]
    starts = np.cumsum([0, *(each.change.shape[1] for each in found[:-1])])
    side = np.sign(change.mean(0))
    tests = np.hstack([side * change, change + margin, margin - change, side * change - margin])
    there, above, below, beyond = np.split(sign_flips(tests), 4)
    largest = np.maximum.reduceat(
        np.stack([np.minimum(1.0, 2 * there), np.maximum(above, below), beyond]), starts, axis=1
    )  # NaN if one part is
    one_way = np.minimum.reduceat(side, starts) == np.maximum.reduceat(side, starts)
    p, p_equivalent, p_beyond = largest
    p, p_beyond = (np.where(one_way | np.isnan(values), values, 1.0) for values in (p, p_beyond))
    return PValues(np.where(one_way, side[starts], 0), p, p_equivalent, p_beyond, groups)


# -------------------------------------------------------------------------------------------------------- the grid


def untrained_rows(maps: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Of the frame of maps the reference's untrained networks under the method that every question is asked of."""
    return maps[(maps["map"] == GRADIENT) & (maps.network == UNTRAINED) & (maps.precision == reference)]


def grid(
    runs: pd.DataFrame,
    maps: pd.DataFrame,
    fills: Fills,
    claims: Claims,
    seeds: Sequence[int] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every comparison with its word, and what else is known of it.

    Args:
        runs: one row per network: dataset, training, precision, seed and the columns of the questions; of the relevance
            gain one for each fill.
        maps: one row per network and map, as results/evidence/maps.csv: of these the untrained networks are read, for
            margins.
        fills: those that qualify, by dataset.
        claims: level, reference, margins and questions.
        seeds: those that are looked at; all of the runs when None.

    The margin of accuracy is a number of points, that of a score a share of what training gives it, seed by seed: the
    reference minus its untrained network, of standard training where trainings are compared. It is refused where what
    training surely gives (the lower end of the 95 % interval of its mean) is less than TIMES the half-width of that
    interval, under any fill: a tenth of what may be nothing is no margin.

    Returns:
        verdicts, one row per comparison with the columns COLUMNS: estimate, low, high: mean difference over the seeds
        with its 95 % t-interval, which is not corrected (points of accuracy, the score's unit); p, p_holm, p_bh:
        two-sided, in its family, in the whole grid; word and size; margin: its mean, NaN where it is refused, and the
        size is then open; seeds: how many have a value in both; firm: False, until saqlib.firmness has looked.
        And tests, in the same order: KEYS and TESTS. low_fill, high_fill: least and largest estimate over the fills;
        error_ratio: of accuracy the share of errors of the first as a multiple of that of the second.
        A comparison that lacks a network or a value is undecided, with NaN. ValueError as of `differences`.
    """
    found = differences(runs, untrained_rows(maps, claims.reference), fills, claims, seeds)
    results = p_values(found)
    words, sizes = results.words(claims.level)
    rows, tests = [], []
    for place, each in enumerate(found):
        counted = np.isfinite(each.change).all(1).sum()
        shown = interval_if_any(each.change.mean(1))
        rows.append([*each.key, *shown, words[place], sizes[place], _mean(each.margin), counted])
        means = [_mean(fill) for fill in each.change.T] if each.change.shape[1] > 1 else [np.nan]
        of_errors = claims.questions[each.question] == ACCURACY
        ratio_of_errors = (100 - _mean(each.a)) / (100 - _mean(each.b)) if of_errors else np.nan
        tests.append([*each.key, np.min(means), np.max(means), ratio_of_errors])
    verdicts = pd.DataFrame(rows, columns=[*KEYS, "estimate", "low", "high", "word", "size", "margin", "seeds"])
    verdicts = verdicts.assign(p=results.p, p_holm=results.corrected(results.p), p_bh=_rates(results.p), firm=False)
    rest = pd.DataFrame(tests, columns=[*KEYS, *TESTS[-3:]])
    for name in ("p_equivalent", "p_beyond"):
        rest[name] = getattr(results, name)
        rest[f"{name}_holm"] = results.corrected(rest[name].to_numpy())
    return verdicts[COLUMNS], rest[[*KEYS, *TESTS]]


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else np.nan


def _rates(p: Array) -> Array:
    """Benjamini and Hochberg's adjusted p-values, NaN for NaN."""
    there = ~np.isnan(p)
    found = np.full_like(p, np.nan)
    found[there] = stats.false_discovery_control(p[there]) if there.any() else []
    return found
