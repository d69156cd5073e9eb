"""What is left of the maps at few bits, whether they follow the network, how faithful each map is, what ablations leave
of the conclusions, and claims as readings of the grid.

The four verdict words of a claim need all of its comparisons to agree (saqlib.verdicts); its readings do not: each
comparison is read from the grid, where it has a word and a size of its own.

The words follow rules that were fixed before anything was scored. A map *follows the network* if it is less like
itself, once layers are drawn anew, than the maps of two networks that share nothing but the data. A *conclusion* is the
sign of a paired difference in the main grid whose 95 % interval leaves 0 out; it is *robust* if the mean difference has
that sign in every ablation that changes one of its two networks.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from saqlib.claims import RULES, Claims, Comparison
from saqlib.grid import HIGHER, LOWER, OPEN, UNDECIDED, WITHIN
from saqlib.registered import REFUTED, SUPPORTED
from saqlib.scores import FAITHFULNESS, GRADIENT, PRESERVATION, PRIMARY, RELEVANCE_GAIN, SEED_TO_SEED, UNTRAINED
from saqlib.statistics import NO_INTERVAL, interval_if_any, ratio, t_interval
from saqlib.verdicts import COLUMNS, NO_LOSS, OPPOSITE, Answers, judge

TESTED = ["estimate", "low", "high", "p", "p_holm", "verdict"]
Fills = Mapping[str, Sequence[str]]  # of each dataset those that qualify
Key = tuple[str, str, str]  # dataset, precision, training
LOST, KEPT = "lost", "kept"
MITIGATED = {"supported": "loses less", "opposite": "loses more", "equivalent": "loses as much", "undecided": OPEN}
VERDICT_OF = {SUPPORTED: "supported", REFUTED: OPPOSITE, OPEN: UNDECIDED}  # of a registered word
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
    nothing = Comparison.missing("", "no fill qualifies")
    found = [Comparison(each.mean(1), each, (-each,)) if each.size else nothing for each in arrays]
    (judged,) = judge([found], level)
    pairs = zip(found, judged, strict=True)
    return [[*interval_if_any(each.shown), own.p, own.p_holm, own.verdict] for each, own in pairs]


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


def readings(answers: Answers, claims: Claims, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Every comparison of every claim, with the columns of Answers.tests, and `reading`.

    A loss, a step or a gain is read as `size_of` has it, the joint loss as `both`. Of mitigation, which compares two
    differences and stands in no cell of the grid, it is the verdict in other words, `no loss` where standard training
    was shown to lose nothing. Empty where the grid lacks the comparison.

    verdicts: as of saqlib.grid.grid, of the same seeds.
    """
    tests = answers.tests()
    notes = [each.note for judged in answers.judged for each in judged]
    keys = ["dataset", "training", "question", "comparison"]
    cells = verdicts[keys].itertuples(index=False, name=None)
    said = dict(zip(cells, zip(verdicts.word, verdicts["size"], strict=True), strict=True))
    rules = {claim.id: claim.test for claim in claims.hypotheses}
    found = []
    for row, note in zip(tests.itertuples(), notes, strict=True):
        comparison = row.comparison.removesuffix(", and accuracy")
        own = said.get((row.dataset, row.training, row.question, comparison))
        accuracy = said.get((row.dataset, row.training, "accuracy", comparison))
        if RULES[rules[row.claim]].lenient:
            found.append(both(state(*own), state(*accuracy)) if own and accuracy else "")
        elif rules[row.claim] == "mitigation":
            found.append("no loss" if note == NO_LOSS else MITIGATED[row.verdict])
        else:
            found.append(size_of(*own) if own else "")
    return tests.assign(reading=found)


def registered_rows(found: pd.DataFrame) -> pd.DataFrame:
    """Registered comparisons as rows of the table of claims: its columns, and `reading`.

    Estimates are of all seeds, p-values and verdicts of those that confirm. The reading is the registered word with
    what was expected, where that is another one; empty where a comparison is only described.

    found: as of saqlib.registered.evaluate.
    """
    other = np.where(found.word != found.expected, ", expected " + found.expected.astype(str), "")
    reading = found.word.astype(str) + np.where(found.expected != "", other, "")
    own = found.assign(group="ours", verdict=found.word.map(VERDICT_OF).fillna(""), reading=reading)
    return own[[*COLUMNS, "reading"]]


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
