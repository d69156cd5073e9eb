"""The grid once more, from the rules' words, by NumPy, scipy and statsmodels; without any code of saqlib.

`recomputed(results, claims)` reads results/runs.csv, results/evidence/maps.csv and results/fills/ as anybody may.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

MAP = "straight_through"


def share_above(values: np.ndarray) -> float:
    """Of all ways to give the values signs the share whose sum is at least the observed one; NaN with a gap."""
    if len(values) < 2 or not np.isfinite(values).all():
        return np.nan
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    slack = 1e-10 * np.abs(values).sum()  # sums that differ by rounding alone are equal
    return float(np.mean(sums >= values.sum() - slack))


def adjusted(p: Sequence[float], method: str) -> np.ndarray:
    """Corrected p-values, NaN for NaN."""
    p = np.array(p, dtype=float)
    there = ~np.isnan(p)
    if there.any():
        with mock.patch("gc.collect"):  # which statsmodels calls each time: a tenth of a second, hundreds of times
            p[there] = multipletests(p[there], method=method)[1]
    return p


def pairs(precisions: Sequence[str], reference: str, training: str) -> list[tuple[str, str, tuple, tuple]]:
    """Kind, label, and the trainings and precisions that are compared."""
    found = [("cost", f"{b} - {reference}", (training, b), (training, reference)) for b in precisions if b != reference]
    for place in range(1, len(precisions)):
        fewer, more = precisions[place], precisions[place - 1]
        if reference not in (fewer, more):
            found.append(("step", f"{fewer} - {more}", (training, fewer), (training, more)))
    if training == "guided":
        found += [("gain", f"guided - standard, {b}", ("guided", b), ("standard", b)) for b in precisions]
    return found


class Numbers:
    """Columns by seed of one dataset: of trained and of untrained networks."""

    def __init__(self, runs: pd.DataFrame, below: pd.DataFrame, dataset: str, seeds: Sequence[int], claims: Mapping):
        keys = ["training", "precision"]
        self.trained, self.untrained = (
            {key: rows.set_index("seed") for key, rows in frame[frame["dataset"] == dataset].groupby(keys)}
            for frame in (runs, below)
        )
        self.seeds, self.claims = list(seeds), claims

    def of(self, frames: Mapping, training: str, precision: str, column: str) -> np.ndarray:
        """A column by seed, NaN where there is no such network."""
        if (training, precision) not in frames:
            return np.full(len(self.seeds), np.nan)
        return frames[training, precision][column].reindex(self.seeds).to_numpy(float)

    def margin(self, training: str, column: str) -> np.ndarray | None:
        """By seed; None where training surely gives less than three times the half-width of its interval."""
        if column == "test_accuracy":
            return np.full(len(self.seeds), float(self.claims["margins"]["accuracy"]))
        key = training, self.claims["reference"], column
        given = self.of(self.trained, *key) - self.of(self.untrained, *key)
        if len(given) < 2 or not np.isfinite(given).all():
            return None
        half = stats.sem(given) * stats.t.ppf(0.975, len(given) - 1)
        return None if given.mean() - half < 3 * half else self.claims["margins"]["maps"] * given


def comparison(n: Numbers, columns: Sequence[str], training: str, pair: tuple) -> dict:
    """One row, uncorrected."""
    kind, label, a, b = pair
    changes = [n.of(n.trained, *a, column) - n.of(n.trained, *b, column) for column in columns]
    margins = [n.margin("standard" if kind == "gain" else training, column) for column in columns]
    return {"kind": kind, "training": training, "comparison": label} | tested(changes, margins, len(n.seeds))


def tested(changes: Sequence[np.ndarray], margins: Sequence[np.ndarray | None], seeds: int) -> dict:
    """Numbers of a comparison, of which there is a change and a margin, (seeds,) or None, for each fill."""
    refused = not changes or any(margin is None for margin in margins)
    shown = np.mean(changes, axis=0) if changes else np.full(seeds, np.nan)
    low, high = np.nan, np.nan
    if len(shown) > 1 and np.isfinite(shown).all():
        low, high = shown.mean() + np.array([-1, 1]) * stats.sem(shown) * stats.t.ppf(0.975, len(shown) - 1)
    ways = {np.sign(change.mean()) for change in changes}
    p, same, beyond = np.nan, np.nan, np.nan
    if changes:
        p = np.max([np.min([1.0, 2 * share_above(c), 2 * share_above(-c)]) for c in changes])
        if not np.isnan(p) and len(ways) > 1:
            p = 1.0
    if not refused:
        both = list(zip(changes, margins, strict=True))
        same = np.max([share_above(apart) for c, m in both for apart in (c + m, m - c)])
        beyond = np.max([share_above(np.sign(c.mean()) * c - m) for c, m in both])
        beyond = 1.0 if len(ways) > 1 and not np.isnan(beyond) else beyond
    whole = len(shown) > 1 and np.isfinite(shown).all()
    return {
        "estimate": shown.mean() if whole else np.nan, "low": low, "high": high, "p": p, "same": same,
        "beyond": beyond, "seeds": int(np.isfinite(shown).sum()),
        "margin": np.nan if refused else np.mean(margins), "side": ways.pop() if len(ways) == 1 else 0.0,
    }  # fmt: skip


def grid(
    runs: pd.DataFrame, maps: pd.DataFrame, fills: Mapping[str, Sequence[str]], claims: Mapping,
    seeds: Sequence[int] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Every comparison with its word and size. claims: the section of params.yaml, as plain values."""
    seeds = sorted(set(runs["seed"])) if seeds is None else seeds
    precisions, rows = list(runs["precision"].unique()), []
    below = maps[(maps["map"] == MAP) & (maps["network"] == "untrained")]
    for dataset in runs["dataset"].unique():
        n = Numbers(runs, below, dataset, seeds, claims)
        for training in runs["training"][runs["dataset"] == dataset].unique():
            for question, column in claims["questions"].items():
                columns = [column]
                if column == "relevance_gain":
                    columns = [f"relevance_gain_{fill}" for fill in fills[dataset]]
                for pair in pairs(precisions, claims["reference"], training):
                    if pair[2] in n.trained and pair[3] in n.trained:
                        rows.append({"dataset": dataset, "question": question} | comparison(n, columns, training, pair))
    return worded(pd.DataFrame(rows), claims["level"])


def worded(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """Corrected in each family, with words and sizes; and over the whole grid."""
    table["p_bh"] = adjusted(table["p"], "fdr_bh")
    for _, family in table.groupby(["dataset", "training", "question", "kind"]):
        for column in ("p", "same", "beyond"):
            table.loc[family.index, f"{column}_holm"] = adjusted(family[column], "holm")
    words, sizes = [], []
    for row in table.to_dict("records"):
        small, changed = row["same_holm"] <= level, row["p_holm"] <= level and row["side"] != 0
        word = "undecided"
        if changed:
            word = "lower" if row["side"] < 0 else "higher"
        elif small:
            word = "equivalent"
        size = "open"
        if word != "undecided" and small:
            size = "within the margin"
        elif changed and row["beyond_holm"] <= level:
            size = "beyond the margin"
        words.append(word)
        sizes.append(size)
    return table.assign(word=words, size=sizes)


def read(results: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, list[str]]]:
    """Networks, maps, and of each dataset the fills that qualify."""
    runs, maps = pd.read_csv(results / "runs.csv"), pd.read_csv(results / "evidence" / "maps.csv")
    fills = {}
    for dataset in runs["dataset"].unique():
        table = pd.read_csv(results / "fills" / f"{dataset}.csv")
        fills[dataset] = table["fill"][table["qualifies"]].tolist()
    return runs, maps, fills


def recomputed(results: Path, claims: Mapping, seeds: Sequence[int] | None = None) -> pd.DataFrame:
    """The grid of the committed numbers: what results/tables/grid.csv has, or grid_confirming.csv of these seeds."""
    return grid(*read(results), claims, seeds)
