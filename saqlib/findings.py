"""What is left of the maps at few bits, where the loss comes from, and what ablations leave of the conclusions.

The words follow rules that were fixed before anything was scored. A *factor*, the quantizers of weights, of activations
or of both, explains a loss if the map without it gives back at least a set share of the loss, with an interval above 0.
There is an *artefact of the surrogate* if finite differences are more faithful than the gradient by more than they are
at the reference. A map *follows the network* if it is less like itself, once layers are drawn anew, than the maps of
two networks that share nothing but the data. A *conclusion* is the sign of a paired difference in the main grid whose
95 % interval leaves 0 out; it is *robust* if the mean difference has that sign in every ablation that changes one of
its two networks.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from saqlib.claims import ACCURACY, Claims
from saqlib.scores import FAITHFULNESS, GRADIENT, PRESERVATION, PRIMARY, RELEVANCE_GAIN, SEED_TO_SEED
from saqlib.statistics import NO_INTERVAL, Interval, holm, sign_flips, t_interval
from saqlib.verdicts import every, word

FACTORS = {"weights": ("off", "on"), "activations": ("on", "off"), "both": ("off", "off")}  # weights, activations
EXPLAINS, NOT, NO_LOSS = "explains", "does not", "no loss"
TESTED = ["estimate", "low", "high", "p", "p_holm", "verdict"]
Fills = Mapping[str, Sequence[str]]  # of each dataset those that qualify
Key = tuple[str, str, str]  # dataset, precision, training


# ------------------------------------------------------------------------------------------------------ retained


def retained(
    runs: pd.DataFrame, untrained: pd.DataFrame, reference: str, metrics: Sequence[str] = (*PRIMARY, FAITHFULNESS)
) -> pd.DataFrame:
    """The retained share (C_b - C_untrained) / (C_ref - C_untrained): 1 keeps what the reference learned, 0 nothing.

    The ratio is that of the means over the seeds, since in a single seed the denominator may come close to 0, with
    Fieller's 95 % interval, which is not symmetric.

    Args:
        runs: one row per network.
        untrained: dataset, training, seed and the scores of the reference's network with weights drawn anew.
        reference: its precision.
        metrics: the columns.

    Returns:
        dataset, training, metric, precision, estimate, low, high; NaN where training does not raise the score: where
        the denominator is negative or its interval holds 0, a ratio is no share.
    """
    rows = []
    for (dataset, training), group in runs.groupby(["dataset", "training"], sort=False):
        floor = _by_seed(untrained, dataset=dataset, training=training)
        for metric in metrics:
            table = group.pivot(index="seed", columns="precision", values=metric)
            gain = table.sub(floor[metric], axis=0)
            for precision in group.precision.unique():
                rows.append([dataset, training, metric, precision, *ratio(gain[precision], gain[reference])])
    return pd.DataFrame(rows, columns=["dataset", "training", "metric", "precision", "estimate", "low", "high"])


def ratio(numerator: pd.Series, denominator: pd.Series) -> Interval:
    """The ratio of two means over the same seeds, and its interval (Fieller, 1954, J. R. Stat. Soc. B 16)."""
    pairs = pd.concat([numerator, denominator], axis=1).to_numpy(float)
    if len(pairs) < 2 or not np.isfinite(pairs).all():
        return NO_INTERVAL
    (y, x), (yy, yx, _, xx) = pairs.mean(0), np.cov(pairs.T).ravel() / len(pairs)
    t = stats.t.ppf(0.975, len(pairs) - 1)
    # The interval holds every r for which the mean of y - r x is within t standard errors of 0.
    a, b, c = x**2 - t**2 * xx, x * y - t**2 * yx, y**2 - t**2 * yy
    if x <= 0 or a <= 0:  # training lowers the score, or the denominator's own interval holds 0
        return NO_INTERVAL
    half = np.sqrt(max(b**2 - a * c, 0.0))
    return Interval(y / x, (b - half) / a, (b + half) / a)


# ------------------------------------------------------------------------------------------------------- origins


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
    rows = []
    for (dataset, training, precision), own in switched.groupby(["dataset", "training", "precision"], sort=False):
        top = _by_seed(methods, dataset=dataset, training=training, method=GRADIENT, precision=claims.reference)
        maps = {state: group.set_index("seed") for state, group in own.groupby(["weights", "activations"])}
        for question, column in claims.questions.items():
            columns = _gains(fills[dataset]) if column == RELEVANCE_GAIN else [column]
            for factor, state in FACTORS.items() if column != ACCURACY else ():
                back, lost = (each[columns] - maps["on", "on"][columns] for each in (maps[state], top))
                shown = ratio(back.mean(axis=1, skipna=False), lost.mean(axis=1, skipna=False))
                shares = [ratio(back[c], lost[c]) for c in columns]
                said = NO_LOSS
                if shares and np.isfinite([share.mean for share in shares]).all():
                    enough = all(share.mean >= claims.margins.recovered and share.low > 0 for share in shares)
                    said = EXPLAINS if enough else NOT
                rows.append([dataset, training, precision, question, factor, *shown, said])
    names = ["dataset", "training", "precision", "question", "off", "estimate", "low", "high", "word"]
    return pd.DataFrame(rows, columns=names)


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
    for (dataset, training), group in differences.groupby(["dataset", "training"], sort=False):
        leads = {}  # of each precision and step what finite differences score above the gradient
        for precision, own in group.groupby("precision", sort=False):
            maps = {
                name: one.set_index("seed")[_gains(fills[dataset])]
                for name, one in own.groupby("difference", sort=False)
            }
            leads[precision] = {name: each - maps[GRADIENT] for name, each in maps.items() if name != GRADIENT}
        for precision in [each for each in leads if each != claims.reference]:
            more = {step: lead - leads[claims.reference][step] for step, lead in leads[precision].items()}
            found = _tested(list(more.values()), claims.level)
            artefact = every([row[-1] for row in found])
            rows += [
                [dataset, training, precision, step, *row, artefact] for step, row in zip(more, found, strict=True)
            ]
    return pd.DataFrame(rows, columns=["dataset", "training", "precision", "difference", *TESTED, "artefact"])


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
    rows = []
    drawn = cascade[cascade.redrawn != SEED_TO_SEED]
    for (dataset, training, redrawn), group in drawn.groupby(["dataset", "training", "redrawn"], sort=False):
        pairs = _by_seed(cascade, dataset=dataset, training=training, redrawn=SEED_TO_SEED)
        for likeness in PRESERVATION:
            column = f"preservation_{likeness}"
            beside = pairs[column]
            maps = {name: own.set_index("seed")[column] for name, own in group.groupby("precision", sort=False)}
            found = _tested([(beside - own).to_frame() for own in maps.values()], claims.level)
            for (name, own), row in zip(maps.items(), found, strict=True):
                rows.append([dataset, training, likeness, redrawn, name, own.mean(), beside.mean(), *row])
    names = ["dataset", "training", "likeness", "redrawn", "precision", "alike", "beside", *TESTED]
    return pd.DataFrame(rows, columns=names)


def _by_seed(frame: pd.DataFrame, **keys: str) -> pd.DataFrame:
    """The rows with these keys."""
    for name, value in keys.items():
        frame = frame[frame[name] == value]
    return frame.set_index("seed")


def _gains(fills: Sequence[str]) -> list[str]:
    return [f"{RELEVANCE_GAIN}_{fill}" for fill in fills]


def _tested(family: Sequence[pd.DataFrame], level: float) -> list[list]:
    """A family of frames (seeds, parts) that are to lie above 0 in every part: of each the columns TESTED."""
    arrays = [frame.to_numpy() for frame in family]
    ways = np.array([[_largest_p(array), _largest_p(-array)] for array in arrays])
    p = np.minimum(1.0, 2 * ways.min(1))
    rows = []
    for array, (above, below), own, corrected in zip(arrays, ways, p, holm(p), strict=True):
        whole = array.shape[1] and len(array) > 1 and np.isfinite(array).all()
        interval = t_interval(array.mean(1)) if whole else NO_INTERVAL
        rows.append([*interval, own, corrected, word(corrected, np.sign(below - above), np.nan, level)])
    return rows


def _largest_p(array: np.ndarray) -> float:
    """One-sided, of the part that is least above 0; NaN with a gap, fewer than two seeds, or no part."""
    return float(sign_flips(array).max()) if len(array) > 1 and array.shape[1] else np.nan


# ----------------------------------------------------------------------------------------------------- ablations


def effects(
    runs: pd.DataFrame,
    variants: Mapping[str, pd.DataFrame],
    questions: Mapping[str, str],
    reference: str,
    fills: Fills,
) -> pd.DataFrame:
    """Every difference that a variant changes, beside the same one in the main grid.

    Of a precision minus the reference (or minus the precision before it, where a variant has no reference), and of
    guided minus standard training. Means over all scored images, as ablations are scored; the replicate is the seed.

    Args:
        runs: one row per network of the main grid, means over all scored images: dataset, precision, training, seed,
            test_accuracy and the scores.
        variants: results/ablations/<variant>.csv by name, with the same columns and `changed`, whether the variant's
            network is another one than the main grid's. One without rows was not run.
        questions: the column that answers each; the relevance gain is averaged over the fills that qualify.
        reference: the precision that others are compared with.
        fills: of each dataset those that qualify.

    Returns:
        One row per variant, pair and question: variant, dataset, training, comparison, question; main, main_low,
        main_high, estimate, low, high: mean differences over seeds with their intervals; seeds: the variant's count.
        sign is the conclusion: `+`, `-`, or nothing where the main grid's interval holds 0. holds: the variant's mean
        has that sign; robust: it has it in every variant. Both are empty without a conclusion.
    """
    columns = {question: FAITHFULNESS if name == RELEVANCE_GAIN else name for question, name in questions.items()}
    main, rows = _by_cell(runs, fills), []
    for name, table in variants.items():
        cells = _by_cell(table, fills)
        for training, comparison, a, b in _pairs(cells, reference):
            if cells[a].changed.any() or cells[b].changed.any():
                for question, column in columns.items():
                    whole, own = (_effect(each.get(a), each.get(b), column) for each in (main, cells))
                    rows.append([name, a[0], training, comparison, question, *whole[:3], *own])
    keys = ["dataset", "training", "comparison", "question"]
    found = ["main", "main_low", "main_high", "estimate", "low", "high", "seeds"]
    frame = pd.DataFrame(rows, columns=["variant", *keys, *found])
    signs = np.select([frame.main_low > 0, frame.main_high < 0], ["+", "-"], "")
    holds = np.sign(frame.estimate) == np.select([signs == "+", signs == "-"], [1, -1], 0)
    robust = holds.groupby([frame[key] for key in keys]).transform("all") if len(frame) else holds
    empty = {name: each.astype(object).where(signs != "", "") for name, each in (("holds", holds), ("robust", robust))}
    return frame.assign(sign=signs, **empty)


def _by_cell(frame: pd.DataFrame, fills: Fills) -> dict[Key, pd.DataFrame]:
    """The rows of each cell by seed, with faithfulness; NaN where no fill qualifies."""
    found = {}
    for key, group in frame.groupby(["dataset", "precision", "training"], sort=False):
        gains = group[_gains(fills.get(key[0], ()))]
        faithfulness = gains.mean(axis=1, skipna=False) if gains.shape[1] else np.nan
        found[key] = group.assign(**{FAITHFULNESS: faithfulness}).set_index("seed")
    return found


def _pairs(cells: Mapping[Key, pd.DataFrame], reference: str) -> Iterator[tuple[str, str, Key, Key]]:
    """What a variant compares, precisions within a training, then trainings: two columns, and which minus which."""
    datasets, precisions, trainings = (list(dict.fromkeys(key[axis] for key in cells)) for axis in range(3))
    steps = list(zip(precisions[1:], precisions, strict=False))
    if reference in precisions:
        steps = [(precision, reference) for precision in precisions if precision != reference]
    for dataset in datasets:
        for training in trainings:
            for fewer, more in steps:
                yield training, f"{fewer} - {more}", (dataset, fewer, training), (dataset, more, training)
        if {"standard", "guided"} <= set(trainings):
            for p in precisions:
                yield "guided", f"guided - standard, {p}", (dataset, p, "guided"), (dataset, p, "standard")


def _effect(a: pd.DataFrame | None, b: pd.DataFrame | None, column: str) -> tuple[float, float, float, int]:
    """Mean difference, interval and count of the seeds that both cells have; NaN where there is nothing to tell."""
    if a is None or b is None:
        return *NO_INTERVAL, 0
    found = (a[column] - b[column]).dropna()
    if len(found) < 2:
        return float(found.mean()), np.nan, np.nan, len(found)
    return *t_interval(found), len(found)
