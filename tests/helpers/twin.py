"""Every verdict once more, from the committed CSVs and params.yaml alone, by NumPy, scipy and statsmodels.

It reads what anybody may read: networks.csv, untrained.csv and methods.csv of results/evidence/, results/fills/,
and the section `claims` of params.yaml. Written from the claims' words, with no code of saqlib.
"""

from functools import cache
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

LABELS = ["claim", "dataset", "training", "question"]


# ------------------------------------------------------------------------------------- p-values of "above 0"


@cache
def _signs(seeds: int) -> np.ndarray:
    return np.array(list(product([1.0, -1.0], repeat=seeds)))


def flips(columns: np.ndarray) -> np.ndarray:
    """Of each column (seeds, columns) the share of all flips of signs whose sum is at least the observed one."""
    observed = columns.sum(0) - 1e-10 * np.abs(columns).sum(0)  # sums that differ by rounding alone are equal
    return (_signs(len(columns)) @ columns >= observed).mean(0)


def above(arrays: list[np.ndarray]) -> list[float]:
    """P-value of "above 0" for each array; NaN if a value is missing or there are fewer than two."""
    found = np.full(len(arrays), np.nan)
    whole = [place for place, array in enumerate(arrays) if len(array) > 1 and np.isfinite(array).all()]
    if whole:
        found[whole] = flips(np.column_stack([arrays[place] for place in whole]))
    return found.tolist()


def corrected(p: list[float]) -> np.ndarray:
    """Holm's correction by statsmodels, of what was tested."""
    found, tested = np.full(len(p), np.nan), np.isfinite(p)
    if tested.any():
        with mock.patch("gc.collect", int):  # which statsmodels calls each time: a tenth of a second
            found[tested] = multipletests(np.array(p)[tested], method="holm")[1]
    return found


def by(table: pd.DataFrame, *keys: str) -> dict[tuple[str, ...], pd.DataFrame]:
    """The rows of each combination of keys, in the order of their seeds."""
    return {key: rows.sort_values("seed") for key, rows in table.groupby(list(keys))}


@cache
def _networks(results: Path, dataset: str) -> list[dict[tuple[str, ...], pd.DataFrame]]:
    """Of one dataset networks.csv and untrained.csv, by their keys."""
    keys = {"networks": ("images", "training", "precision"), "untrained": ("images", "training")}
    tables = {"networks": pd.read_csv(results / "evidence" / "networks.csv"), "untrained": _untrained(results)}
    return [by(table[table.dataset == dataset], *keys[name]) for name, table in tables.items()]


def _untrained(results: Path) -> pd.DataFrame:
    """The reference's networks before they were trained; maps.csv has them on the primary images."""
    if (results / "evidence" / "untrained.csv").exists():
        return pd.read_csv(results / "evidence" / "untrained.csv")
    maps = pd.read_csv(results / "evidence" / "maps.csv")
    own = (maps["map"] == "straight_through") & (maps.network == "untrained")
    return maps[own & (maps.precision == maps.precision.iloc[0])].assign(images="primary")


class Numbers:
    """The CSVs of one dataset."""

    def __init__(self, results: Path, dataset: str, claims: dict):
        self.networks, self.untrained = _networks(results, dataset)
        table = pd.read_csv(results / "fills" / f"{dataset}.csv")
        self.fills, self.claims = table.fill[table.qualifies].tolist(), claims

    def columns(self, question: str) -> list[str]:
        """What answers a question."""
        column = self.claims["questions"][question]
        return [f"relevance_gain_{fill}" for fill in self.fills] if column == "relevance_gain" else [column]

    def of(self, column: str, training: str, precision: str, images: str = "primary") -> np.ndarray:
        """A column by seed."""
        return self.networks[images, training, precision][column].to_numpy()

    def margin(self, column: str, training: str, images: str = "primary") -> np.ndarray:
        """What does not matter, by seed."""
        reference = self.of(column, training, self.claims["reference"], images)
        if column == "test_accuracy":
            return np.full(len(reference), self.claims["margins"]["accuracy"])
        below = self.untrained[images, training][column].to_numpy()
        return self.claims["margins"]["maps"] * (reference - below)


def row(label, wanted, contrary, shown, change=(), margin=(), gate=None) -> dict:
    """One comparison as lists of arrays, one for each fill. contrary: the ways in which the opposite may hold.

    gate: a name, and losses without which nothing is asked. shown: what estimate and interval are of.
    """
    return {
        "comparison": label, "wanted": wanted, "contrary": contrary, "shown": np.mean(shown, axis=0),
        "apart": [s * c + m for c, m in zip(change, margin, strict=True) for s in (1, -1)], "gate": gate,
    }  # fmt: skip


def comparisons(n: Numbers, claim: dict, training: str, question: str) -> list[dict]:
    """The comparisons of a claim in its order."""
    columns, reference, listed = n.columns(question), n.claims["reference"], claim["precisions"]
    at = lambda column, b, t=training, images="primary": n.of(column, t, b, images)  # noqa: E731
    lost = lambda c, b, t=training, images="primary": at(c, b, t, images) - at(c, reference, t, images)  # noqa: E731
    margin = [n.margin(c, training) for c in columns]
    found = []
    if claim["test"] == "loss":
        for b in listed:
            d = [lost(c, b) for c in columns]
            found.append(row(f"{b} - {reference}", [-x for x in d], [d], d, d, margin))
    elif claim["test"] == "steps":
        for more, fewer in zip(listed, listed[1:], strict=False):
            d = [at(c, fewer) - at(c, more) for c in columns]
            found.append(row(f"{fewer} - {more}", [-x for x in d], [d], d, d, margin))
    elif claim["test"] == "joint_loss":
        for b in listed:
            points, d = lost("test_accuracy", b), [lost(c, b) for c in columns]
            ways = [[-points, *d], [points, *(-x for x in d)]]
            margins = [n.margin("test_accuracy", training), *margin]
            label = f"{b} - {reference}, and accuracy"
            found.append(row(label, [-points, *(-x for x in d)], ways, d, [points, *d], margins))
    elif claim["test"] == "gain":
        for b in listed:
            d = [at(c, b) - at(c, b, "standard") for c in columns]
            margins = [n.margin(c, "standard") for c in columns]
            found.append(row(f"guided - standard, {b}", d, [[-x for x in d]], d, d, margins))
    elif claim["test"] == "mitigation":
        found = mitigation(n, columns, listed, lost)
    return found


def mitigation(n: Numbers, columns: list[str], listed: list[str], lost) -> list[dict]:
    """Losses of guided minus those of standard training, in units and as shares of what training gives."""
    found, reference, share = [], n.claims["reference"], n.claims["margins"]["maps"]
    for b in listed:
        gate = b, [-lost(c, b, "standard") for c in columns]
        d = [lost(c, b, "guided") - lost(c, b, "standard") for c in columns]
        margins = [n.margin(c, "standard") for c in columns]
        found.append(row(f"guided - standard, {b} - {reference}", d, [[-x for x in d]], d, d, margins, gate))
        given = {t: [n.margin(c, t) / share for c in columns] for t in ("guided", "standard")}
        label = f"guided - standard, share kept at {b}"
        if not all((values > 0).all() for both in given.values() for values in both):
            nothing = [np.full(len(x), np.nan) for x in d]
            found.append(row(label, nothing, [nothing], nothing, nothing, nothing))
            continue
        kept = {t: [1 + lost(c, b, t) / g for c, g in zip(columns, given[t], strict=True)] for t in given}
        d = [a - s for a, s in zip(kept["guided"], kept["standard"], strict=True)]
        found.append(row(label, d, [[-x for x in d]], d, d, [np.full(len(x), share) for x in d], gate))
    return found


def p_values(rows: list[dict]) -> None:
    """Uncorrected p-values of every comparison, all arrays tested at once."""
    arrays, places = [], []

    def all_above(parts: list[np.ndarray]) -> slice:
        arrays.extend(parts)
        return slice(len(arrays) - len(parts), len(arrays))

    for each in rows:
        gate = None if each["gate"] is None else all_above(each["gate"][1])
        parts = all_above(each["wanted"]), [all_above(way) for way in each["contrary"]], all_above(each["apart"])
        places.append((*parts, gate))
    p = np.array(above(arrays))
    for each, (wanted, contrary, apart, gate) in zip(rows, places, strict=True):
        for_, against = 2 * p[wanted].max(), 2 * len(contrary) * np.min([p[way].max() for way in contrary])
        each["p"] = float(np.minimum(1.0, np.minimum(for_, against)))
        each["toward"] = np.sign(against - for_)
        each["same"] = p[apart].max() if each["apart"] else np.nan
        each["loss"] = None if gate is None else (each["gate"][0], np.minimum(1.0, 2 * p[gate].max()))


def family(rows: list[dict], level: float) -> list[dict]:
    """Corrected p-values and words; what presumes a loss that is not there is not asked."""
    gates = dict(each["loss"] for each in rows if each["loss"])
    shown = dict(zip(gates, corrected(list(gates.values())) <= level, strict=True))
    for each in rows:
        each["asked"] = each["loss"] is None or bool(shown[each["loss"][0]])
        if not each["asked"]:
            each.update(p=np.nan, same=np.nan)
    p, same = (corrected([each[name] for each in rows]) for name in ("p", "same"))
    for each, p_holm, same_holm in zip(rows, p, same, strict=True):
        each.update(p_holm=p_holm, same_holm=same_holm, verdict="undecided")
        if p_holm <= level and each["toward"]:
            each["verdict"] = "supported" if each["toward"] > 0 else "opposite"
        elif same_holm <= level:
            each["verdict"] = "equivalent"
    return rows


def whole(test: str, rows: list[dict]) -> str:
    """The word on the question."""
    said = [each["verdict"] for each in rows if each["asked"]]
    if test == "joint_loss" and ("supported" in said) != ("opposite" in said):
        return "supported" if "supported" in said else "opposite"
    return said[0] if len(set(said)) == 1 and said[0] in ("supported", "opposite", "equivalent") else "undecided"


Key = tuple[str, str, str, str]


def families(results: Path, claims: dict) -> dict[Key, tuple[str, list[dict]]]:
    """The test of every claim, dataset, training and question, with its comparisons."""
    order = pd.read_csv(results / "evidence" / "networks.csv")[["dataset", "training"]].drop_duplicates()
    numbers = {dataset: Numbers(results, dataset, claims) for dataset in order.dataset.unique()}
    return {
        (claim["id"], dataset, training, question):
            (claim["test"], comparisons(numbers[dataset], claim, training, question))
        for claim in claims["hypotheses"]
        for dataset, training in order.itertuples(index=False, name=None)
        if training == "guided" or claim["test"] not in ("gain", "mitigation")
        for question in claim["questions"]
    }  # fmt: skip


def judge(found: dict[Key, tuple[str, list[dict]]], level: float) -> dict:
    """The word on each key; the comparisons know theirs from then on."""
    p_values([each for _, rows in found.values() for each in rows])
    return {key: whole(kind, family(rows, level)) for key, (kind, rows) in found.items()}


def recomputed(results: Path, claims: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every comparison as in claims.csv and equivalence.csv, and every question's verdict."""
    found = families(results, claims)
    words = judge(found, claims["level"])
    tests = []
    for key, (_, rows) in found.items():
        for each in rows:
            shown = each["shown"]
            low, high = stats.t.interval(0.95, len(shown) - 1, shown.mean(), stats.sem(shown))
            own = {"estimate": shown.mean(), "low": low, "high": high}
            names = ("comparison", "p", "p_holm", "same", "same_holm", "verdict")
            tests.append(dict(zip(LABELS, key, strict=True)) | {k: each[k] for k in names} | own)
    return pd.DataFrame(tests), pd.DataFrame(
        [[*key, word] for key, word in words.items()], columns=[*LABELS, "verdict"]
    )
