"""The rows of claims.csv once more: read from grid.csv, and of mitigation computed from the numbers of every seed.

Written from the claims' words, without any code of saqlib.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tests.helpers import twin_grid

KEYS = ["dataset", "training", "question", "comparison"]
NUMBERS = ["estimate", "low", "high", "p", "p_holm"]


def recomputed(results: Path, claims: Mapping) -> pd.DataFrame:
    """Claim, KEYS, NUMBERS, verdict and reading. claims: the section of params.yaml, as plain values."""
    table = pd.read_csv(results / "tables" / "grid.csv")
    grid = {tuple(row[key] for key in KEYS): row for row in table.to_dict("records")}
    places = dict.fromkeys((dataset, training) for dataset, training, *_ in grid)
    found = []
    for claim in claims["hypotheses"]:
        for dataset, training in places:
            for question in claim["questions"]:
                if claim["test"] == "mitigation":
                    own = mitigated(results, claims, grid, dataset, question, claim["precisions"])
                    own = own if training == "guided" else []
                else:
                    own = read(grid, claim, claims["reference"], dataset, training, question)
                keys = {"claim": claim["id"], "dataset": dataset, "training": training, "question": question}
                found += [keys | each for each in own]
    return pd.DataFrame(found)[["claim", *KEYS, *NUMBERS, "verdict", "reading"]]


def read(grid: Mapping, claim: Mapping, reference: str, dataset: str, training: str, question: str) -> Iterator[dict]:
    """The rows of a claim that stand in the grid."""
    named, test = claim["precisions"], claim["test"]
    labels = [f"{b} - {reference}" for b in named]
    if test == "steps":
        labels = [f"{fewer} - {more}" for more, fewer in zip(named, named[1:], strict=False)]
    elif test == "gain":
        labels = [f"guided - standard, {b}" for b in named]
    for label in labels:
        row = grid.get((dataset, training, question, label))
        if row is None:
            continue
        numbers = {name: row[name] for name in ("comparison", *NUMBERS)}
        if test != "joint_loss":
            wanted = "higher" if test == "gain" else "lower"
            said = "" if row["size"] == "open" or row["word"] in ("equivalent", "undecided") else f", {row['size']}"
            yield numbers | {"verdict": verdict(row["word"], wanted), "reading": row["word"] + said}
            continue
        points = grid[dataset, training, "accuracy", label]
        words = {row["word"], points["word"]}
        word = words.pop() if len(words) == 1 else "opposite" if words == {"lower", "higher"} else "undecided"
        word = {"lower": "supported", "higher": "undecided"}.get(word, word)
        larger = {name: np.max([row[name], points[name]]) for name in ("p", "p_holm")}
        mine, theirs = left(row), left(points)
        reading = f"map {mine}, accuracy {theirs}"
        if mine == theirs:
            reading = "open" if mine == "open" else f"both {mine}"
        yield numbers | larger | {"comparison": f"{label}, and accuracy", "verdict": word, "reading": reading}


def verdict(word: str, wanted: str) -> str:
    """What a word of the grid is to a claim."""
    if word in ("lower", "higher"):
        return "supported" if word == wanted else "opposite"
    return word


def left(row: Mapping) -> str:
    """What became of a score."""
    if row["word"] == "lower":
        return "kept" if row["size"] == "within the margin" else "lost"
    return "open" if row["word"] == "undecided" else "kept"


def mitigated(
    results: Path, claims: Mapping, grid: Mapping, dataset: str, question: str, named: Sequence[str]
) -> list[dict]:
    """Losses of guided minus those of standard training, in units and as shares of what training gives."""
    runs, maps, fills = twin_grid.read(results)
    below = maps[(maps["map"] == twin_grid.MAP) & (maps["network"] == "untrained")]
    n = twin_grid.Numbers(runs, below, dataset, sorted(set(runs["seed"])), claims)
    column, reference = claims["questions"][question], claims["reference"]
    columns = [column] if column != "relevance_gain" else [f"relevance_gain_{fill}" for fill in fills[dataset]]
    both, rows, asked = ("guided", "standard"), [], []
    for b in named:
        if any((t, b) not in n.trained for t in both):
            continue
        top, low = ({t: [n.of(n.trained, t, p, c) for c in columns] for t in both} for p in (reference, b))
        lost = [[x - y for x, y in zip(low[t], top[t], strict=True)] for t in both]
        margins = {t: [n.margin(t, c) for c in columns] for t in both}
        change = [guided - standard for guided, standard in zip(*lost, strict=True)]
        units = twin_grid.tested(change, margins["standard"], len(n.seeds))
        shares = [np.full(len(n.seeds), np.nan) for _ in columns]
        if all(margin is not None and (margin > 0).all() for t in both for margin in margins[t]):
            given = [
                [y - n.of(n.untrained, t, reference, c) for c, y in zip(columns, top[t], strict=True)] for t in both
            ]
            kept = [[1 + x / g for x, g in zip(*each, strict=True)] for each in zip(lost, given, strict=True)]
            shares = [guided - standard for guided, standard in zip(*kept, strict=True)]
        tenth = [np.full(len(n.seeds), claims["margins"]["maps"]) for _ in columns]
        share = twin_grid.tested(shares, tenth, len(n.seeds))
        rows += [units | {"comparison": f"guided - standard, {b} - {reference}"},
                 share | {"comparison": f"guided - standard, share kept at {b}"}]  # fmt: skip
        asked += [grid[dataset, "standard", question, f"{b} - {reference}"]["word"] == "lower"] * 2
    if not rows:
        return []
    table = pd.DataFrame(rows).assign(dataset=dataset, training="guided", question=question, kind="mitigation")
    table.loc[~np.array(asked), ["p", "same"]] = np.nan
    table = twin_grid.worded(table, claims["level"])
    words = {"higher": "loses less", "lower": "loses more", "equivalent": "loses as much", "undecided": "open"}
    table["reading"] = [words[word] if there else "no loss" for word, there in zip(table["word"], asked, strict=True)]
    table["verdict"] = [verdict(word, "higher") for word in table["word"]]
    return table[["comparison", *NUMBERS, "verdict", "reading"]].to_dict("records")
