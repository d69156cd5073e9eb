"""What is left of the maps at few bits, whether they follow the network, how faithful each map is, what ablations leave
of the conclusions, and claims as readings of the grid.

A claim is no verdict of its own: each of its comparisons is read from the grid, where it has a word and a size. Only
whether guidance makes up for a loss compares differences with each other, and is tested here.

The words follow rules that were fixed before anything was scored. A map *follows the network* if it is less like
itself, once layers are drawn anew, than the maps of two networks that share nothing but the data. A *conclusion* is the
sign of a paired difference in the main grid whose 95 % interval leaves 0 out; it is *robust* if the mean difference has
that sign in every ablation that changes one of its two networks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from saqlib.claims import ACCURACY, RULES, Claims
from saqlib.grid import (
    EQUIVALENT,
    HIGHER,
    KEYS,
    LOWER,
    OPEN,
    TO_REFERENCE,
    UNDECIDED,
    WITHIN,
    Difference,
    Fills,
    differences,
    p_values,
    parts_of,
    untrained_rows,
)
from saqlib.registered import REFUTED, SUPPORTED, signs
from saqlib.scores import FAITHFULNESS, GRADIENT, PRESERVATION, PRIMARY, RELEVANCE_GAIN, SEED_TO_SEED, UNTRAINED
from saqlib.statistics import NO_INTERVAL, interval_if_any, ratio, t_interval

Key = tuple[str, str, str]  # dataset, precision, training
OPPOSITE = "opposite"
VERDICTS = (SUPPORTED, OPPOSITE, EQUIVALENT, UNDECIDED)
VERDICT_OF = {SUPPORTED: SUPPORTED, REFUTED: OPPOSITE, OPEN: UNDECIDED}  # of a registered word
NUMBERS = ["estimate", "low", "high", "p", "p_holm"]
COLUMNS = ["claim", "group", *KEYS, *NUMBERS, "verdict", "reading"]  # of results/tables/claims.csv
LOST, KEPT, NO_LOSS = "lost", "kept", "no loss"
MITIGATED = {HIGHER: "loses less", LOWER: "loses more", EQUIVALENT: "loses as much", UNDECIDED: OPEN}
MAPS_COLUMNS = ["dataset", "training", "precision", "map", "fill", "seeds", "mean", "low", "high", "floor"]


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


# ------------------------------------------------------------------------------------------------------ layers anew


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
            apart = pd.concat([beside - own for own in maps.values()], axis=1).to_numpy()
            found = signs(np.repeat(apart, 2, axis=1), len(maps), level=claims.level, sides=2)  # shown, and tested
            for (name, own), (*numbers, word) in zip(maps.items(), found, strict=True):
                means = own.mean(), beside.mean()
                rows.append([dataset, training, likeness, redrawn, name, *means, *numbers, VERDICT_OF[word]])
    names = ["dataset", "training", "likeness", "redrawn", "precision", "alike", "beside", *NUMBERS, "verdict"]
    return pd.DataFrame(rows, columns=names)


def _by_seed(frame: pd.DataFrame, **keys: str) -> pd.DataFrame:
    """The rows with these keys."""
    for name, value in keys.items():
        frame = frame[frame[name] == value]
    return frame.set_index("seed")


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
        questions: the column that answers each; the relevance gain is averaged over the fills that qualify. What the
            variant was not scored by is left out.
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
        there = {*runs.columns.intersection(table.columns), FAITHFULNESS}
        for training, comparison, a, b in _pairs(cells, reference):
            if cells[a].changed.any() or cells[b].changed.any():
                for question, column in ((q, column) for q, column in columns.items() if column in there):
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
        gains = group[parts_of(RELEVANCE_GAIN, fills.get(key[0], ()))]
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


# --------------------------------------------------------------------------------------------- claims as readings


def size_of(word: str, size: str) -> str:
    """A verdict of the grid as one reads it: `lower, beyond the margin`, `higher`, `equivalent`, `undecided`."""
    return f"{word}, {size}" if word in (LOWER, HIGHER) and size != OPEN else word


def state(word: str, size: str) -> str:
    """What became of a score: `lost` if it is lower by more than the margin allows or may be, `kept` if it is higher,
    equivalent, or lower within the margin; else `open`.
    """
    if word == UNDECIDED:
        return OPEN
    return LOST if word == LOWER and size != WITHIN else KEPT


def both(of_map: str, accuracy: str) -> str:
    """What is given up together: `both lost`, `map lost, accuracy kept`, `map lost, accuracy open`, ..., `open`."""
    if of_map == accuracy:
        return OPEN if of_map == OPEN else f"both {of_map}"
    return f"map {of_map}, accuracy {accuracy}"


def readings(
    verdicts: pd.DataFrame, runs: pd.DataFrame, maps: pd.DataFrame, fills: Fills, claims: Claims
) -> pd.DataFrame:
    """Every comparison of every claim, in the order of the grid; one whose networks were not run has no row.

    Args:
        verdicts: as of saqlib.grid.grid, of all seeds.
        runs, maps, fills, claims: what they were made of.

    Returns:
        The columns COLUMNS; estimate, interval and p-values are the grid's. verdict: `supported` if the change is
        significant and goes the way that is claimed, `opposite` if it goes the other way, `equivalent`, `undecided`. A
        loss, a step or a gain is read as `size_of` has it, the joint loss as `both`, of mitigation MITIGATED, or
        `no loss` where standard training was not shown to lose anything.
    """
    sizes = [size_of(*each) for each in zip(verdicts.word, verdicts["size"], strict=True)]
    parts = verdicts.assign(reading=sizes), _joint(verdicts, claims), mitigation(verdicts, runs, maps, fills, claims)
    known = pd.concat([part[[*KEYS, *NUMBERS, "word", "reading"]] for part in parts if len(part)] or [parts[0]])
    rows = []
    for claim in claims.hypotheses:
        rule = RULES[claim.test]
        labels = rule.comparisons(claim.precisions, claims.reference)
        own = known[known.question.isin(claim.questions) & known.comparison.isin(labels)]
        words = {(LOWER, HIGHER)[rule.side > 0]: SUPPORTED, (LOWER, HIGHER)[rule.side < 0]: OPPOSITE}
        rows.append(own.assign(claim=claim.id, group=claim.group, verdict=own.word.replace(words)))
    return pd.concat(rows, ignore_index=True)[COLUMNS] if rows else pd.DataFrame(columns=COLUMNS)


def _joint(verdicts: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """Of each comparison of a score the same of accuracy with it: the word `lower` if both are, `higher` if one of them
    is and the other lower, and `equivalent` if both are; the larger p-value.
    """
    asked = verdicts.question.map(claims.questions) == ACCURACY
    found = verdicts[~asked].merge(verdicts[asked], on=["dataset", "training", "comparison"], suffixes=("", "_points"))
    words = found[["word", "word_points"]]
    lower, higher, same = (words == word for word in (LOWER, HIGHER, EQUIVALENT))
    apart = lower.any(axis=1) & higher.any(axis=1)
    word = np.select([lower.all(axis=1), apart, same.all(axis=1)], [LOWER, HIGHER, EQUIVALENT], UNDECIDED)
    sizes = [zip(found[f"word{end}"], found[f"size{end}"], strict=True) for end in ("", "_points")]
    reading = [both(state(*own), state(*points)) for own, points in zip(*sizes, strict=True)]
    largest = {p: found[[p, f"{p}_points"]].max(axis=1, skipna=False) for p in ("p", "p_holm")}
    return found.assign(comparison=found.comparison + ", and accuracy", word=word, reading=reading, **largest)


def mitigation(
    verdicts: pd.DataFrame, runs: pd.DataFrame, maps: pd.DataFrame, fills: Fills, claims: Claims
) -> pd.DataFrame:
    """What guided training loses minus what standard training loses, from the reference to each precision: in units of
    the score, and as the share that is kept of what training gives.

    Tested as comparisons of the grid are, all of one dataset and question in one family; only where standard training
    has the word `lower`, since otherwise there is nothing to make up for. No share where the margin is refused, or
    training gives nothing in some seed.

    Arguments as of `readings`. Returns KEYS, NUMBERS, word and reading.
    """
    found = differences(runs, untrained_rows(maps, claims.reference), fills, claims)
    losses = {each.key: each for each in found if each.kind == TO_REFERENCE}
    lower = set(verdicts[verdicts.word == LOWER][KEYS].itertuples(index=False, name=None))
    pairs, asked = [], []
    for (dataset, training, question, comparison), guided in losses.items():
        standard = losses.get((dataset, "standard", question, comparison))
        if training == "guided" and standard is not None and claims.questions[question] != ACCURACY:
            precision, kept = comparison.split(" - ")[0], [_kept(each, claims) for each in (guided, standard)]
            points = guided.change, standard.change, standard.margin
            shares = *kept, np.full_like(standard.margin, claims.margins.maps)
            for label, arrays in zip(RULES["mitigation"].labels, (points, shares), strict=True):
                label = label.format(precision, reference=claims.reference)
                pairs.append(Difference(dataset, training, question, label, "mitigation", *arrays))
                asked.append(standard.key in lower)
    results = p_values(pairs)
    tested = {name: np.where(asked, getattr(results, name), np.nan) for name in ("p", "p_equivalent")}
    results = replace(results, **tested)
    rows = []
    numbers = zip(results.p, results.corrected(results.p), results.words(claims.level)[0], strict=True)
    for each, there, (p, p_holm, word) in zip(pairs, asked, numbers, strict=True):
        reading = MITIGATED[word] if there else NO_LOSS
        rows.append([*each.key, *interval_if_any(each.change.mean(1)), p, p_holm, word, reading])
    return pd.DataFrame(rows, columns=[*KEYS, *NUMBERS, "word", "reading"])


def _kept(loss: Difference, claims: Claims) -> np.ndarray:
    """The share that is kept of what training gives: (seeds, parts)."""
    given = loss.margin / claims.margins.maps
    return 1 + loss.change / (given if (given > 0).all() else np.nan)


def registered_rows(found: pd.DataFrame) -> pd.DataFrame:
    """Registered comparisons as rows of the table of claims: its columns, and `reading`.

    Estimates are of all seeds, p-values and verdicts of those that confirm. The reading is the registered word with
    what was expected, where that is another one; empty where a comparison is only described.

    found: as of saqlib.registered.evaluate.
    """
    other = np.where(found.word != found.expected, ", expected " + found.expected.astype(str), "")
    reading = found.word.astype(str) + np.where(found.expected != "", other, "")
    own = found.assign(group="ours", verdict=found.word.map(VERDICT_OF).fillna(""), reading=reading)
    return own[COLUMNS]


# ----------------------------------------------------------------------------------------------------- every map


def maps_table(maps: pd.DataFrame, fills: Sequence[str], exploring: int) -> pd.DataFrame:
    """How faithful every map is under each fill, of all seeds and of those that confirm.

    Args:
        maps: one row per network and map, as results/evidence/maps.csv: relevance_gain_<fill> of these fills, and
            faithfulness, their mean over those that qualify.
        fills: in this order.
        exploring: how many seeds, from 0, do not confirm.

    Returns:
        The columns MAPS_COLUMNS. fill: each of them, and `qualifying`, the mean of those that do. seeds: `all`, and
        `confirming` if there are such. mean, low, high: with the 95 % t-interval over the seeds; floor: the mean of the
        same method on the untrained networks of that precision, or of those that there are; NaN without any. The
        straight-through maps of untrained networks are rows of their own, `untrained`. A map that was not scored under
        a fill has no row.
    """
    columns = {fill: f"{RELEVANCE_GAIN}_{fill}" for fill in fills} | {"qualifying": FAITHFULNESS}
    trained, below = maps[maps.network != UNTRAINED], maps[maps.network == UNTRAINED]
    keys, floors = ["dataset", "training", "map"], dict(iter(below.groupby(["dataset", "training", "map"])))
    straight = below[below["map"] == GRADIENT]
    straight = straight[straight.precision == straight.precision.iloc[:1].squeeze()] if len(straight) else straight
    rows = []
    parts = pd.concat([trained, straight.assign(map=UNTRAINED)])
    for (*key, precision), own in parts.groupby([*keys, "precision"], sort=False):
        base = floors.get(tuple(key), below.iloc[:0])
        base = base[base.precision == precision] if precision in set(base.precision) else base
        for fill, column in columns.items():
            for which, values in (("all", own[column]), ("confirming", own[column][own.seed >= exploring])):
                values = values.dropna()
                if len(values):
                    bounds = values.mean(), *interval_if_any(values)[1:]
                    rows.append([*key[:2], precision, key[2], fill, which, *bounds, base[column].mean()])
    found = pd.DataFrame(rows, columns=MAPS_COLUMNS)
    order = found.groupby(["dataset", "training"], sort=False).ngroup()
    return found.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)
