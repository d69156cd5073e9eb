"""Ablations: does a conclusion keep its sign when a number of the study is another one?

A conclusion is the sign of a paired difference in the main grid whose 95 % interval leaves 0 out: of a precision minus
the reference (or minus the precision before it, where a variant has no reference), and of guided minus standard
training. It is *robust* if the mean difference has that sign in every variant that changes one of its two networks.
Means over all scored images, as ablations are scored; the replicate is the seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from saqlib.evidence.statistics import t_interval
from saqlib.names import FAITHFULNESS, RELEVANCE_GAIN

KEYS = ["dataset", "training", "comparison", "question"]
COLUMNS = [
    "variant", *KEYS, "main", "main_low", "main_high", "estimate", "low", "high", "seeds", "sign", "holds", "robust",
]  # fmt: skip

Key = tuple[str, str, str]  # dataset, precision, training


class Pair(NamedTuple):
    """Two cells that are compared: what stands in the columns training and comparison, and which minus which."""

    training: str
    comparison: str
    a: Key
    b: Key


def effects(
    runs: pd.DataFrame,
    variants: Mapping[str, pd.DataFrame],
    questions: Mapping[str, str],
    reference: str,
    fills: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Every difference that a variant changes, beside the same one in the main grid.

    Args:
        runs: one row per network of the main grid, means over all scored images: dataset, precision, training, seed,
            test_accuracy and the scores.
        variants: results/ablations/<variant>.csv by name, with the same columns and `changed`, whether the variant's
            network is another one than the main grid's. One without rows was not run.
        questions: the column that answers each; the relevance gain is averaged over the fills that qualify.
        reference: the precision that others are compared with.
        fills: of each dataset those that qualify.

    Returns:
        The columns COLUMNS, one row per variant, pair and question. `main` and `estimate` are mean differences over
        seeds with their intervals, `seeds` the variant's count. `sign` is the conclusion: `+`, `-`, or nothing where
        the main grid's interval holds 0. `holds`: the variant's mean has that sign; `robust`: it has it in every
        variant. Both are empty without a conclusion.
    """
    columns = {question: FAITHFULNESS if name == RELEVANCE_GAIN else name for question, name in questions.items()}
    main, rows = _by_cell(runs, fills), []
    for name, table in variants.items():
        cells = _by_cell(table, fills)
        for pair in _pairs(cells, reference):
            if cells[pair.a].changed.any() or cells[pair.b].changed.any():
                for question, column in columns.items():
                    whole, *bounds = _difference(main, pair, column)[:3]
                    found = _difference(cells, pair, column)
                    rows.append([name, pair.a[0], pair.training, pair.comparison, question, whole, *bounds, *found])
    frame = pd.DataFrame(rows, columns=COLUMNS[:-3])
    return _concluded(frame)


def _concluded(frame: pd.DataFrame) -> pd.DataFrame:
    """With sign, holds and robust."""
    signs = np.select([frame.main_low > 0, frame.main_high < 0], ["+", "-"], "")
    wanted = np.select([signs == "+", signs == "-"], [1, -1], 0)
    holds = pd.Series(np.sign(frame.estimate) == wanted, frame.index)
    robust = holds.groupby([frame[key] for key in KEYS]).transform("all") if len(frame) else holds
    said = signs != ""
    return frame.assign(sign=signs, holds=holds.astype(object).where(said, ""),
                        robust=robust.astype(object).where(said, ""))  # fmt: skip


def _by_cell(frame: pd.DataFrame, fills: Mapping[str, Sequence[str]]) -> dict[Key, pd.DataFrame]:
    """The rows of each cell by seed, with faithfulness; NaN where no fill qualifies."""
    found = {}
    for key, group in frame.groupby(["dataset", "precision", "training"], sort=False):
        gains = group[[f"{RELEVANCE_GAIN}_{fill}" for fill in fills.get(key[0], ())]]
        faithfulness = gains.mean(axis=1, skipna=False) if gains.shape[1] else np.nan
        found[key] = group.assign(**{FAITHFULNESS: faithfulness}).set_index("seed")
    return found


def _pairs(cells: Mapping[Key, pd.DataFrame], reference: str) -> Iterator[Pair]:
    """What a variant compares: precisions within a training, then trainings within a precision."""
    datasets, precisions, trainings = (list(dict.fromkeys(key[axis] for key in cells)) for axis in range(3))
    for dataset in datasets:
        for training in trainings:
            if reference in precisions:
                steps = [(precision, reference) for precision in precisions if precision != reference]
            else:
                steps = list(zip(precisions[1:], precisions, strict=False))
            for fewer, more in steps:
                yield Pair(training, f"{fewer} - {more}", (dataset, fewer, training), (dataset, more, training))
        if {"standard", "guided"} <= set(trainings):
            for p in precisions:
                yield Pair("guided", f"guided - standard, {p}", (dataset, p, "guided"), (dataset, p, "standard"))


def _difference(cells: Mapping[Key, pd.DataFrame], pair: Pair, column: str) -> tuple[float, float, float, int]:
    """Mean, interval and count of the seeds that both cells have; NaN where there is nothing to tell."""
    if pair.a not in cells or pair.b not in cells:
        return np.nan, np.nan, np.nan, 0
    found = (cells[pair.a][column] - cells[pair.b][column]).dropna()
    if len(found) < 2:
        return float(found.mean()), np.nan, np.nan, len(found)
    return *t_interval(found), len(found)
