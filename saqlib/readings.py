"""Claims as readings of the grid, and how faithful each map is: what tables say in words and numbers.

The four verdict words of a claim need all of its comparisons to agree (saqlib.verdicts); its readings do not: each
comparison is read from the grid, where it has a word and a size of its own.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from saqlib.claims import RULES, Claims
from saqlib.grid import HIGHER, LOWER, OPEN, UNDECIDED, WITHIN
from saqlib.registered import REFUTED, SUPPORTED
from saqlib.scores import FAITHFULNESS, GRADIENT, RELEVANCE_GAIN, UNTRAINED
from saqlib.statistics import interval_if_any
from saqlib.verdicts import COLUMNS, NO_LOSS, OPPOSITE, Answers

LOST, KEPT = "lost", "kept"
MITIGATED = {"supported": "loses less", "opposite": "loses more", "equivalent": "loses as much", "undecided": OPEN}
VERDICT_OF = {SUPPORTED: "supported", REFUTED: OPPOSITE, OPEN: UNDECIDED}  # of a registered word
MAPS_COLUMNS = ["dataset", "training", "precision", "map", "fill", "seeds", "mean", "low", "high", "floor"]


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
