"""The tables of means once more, from the committed CSVs of results/evidence/, by pandas and scipy."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, stats

PRIMARY = ["gini", "morans_i", "foreground_mass"]
GAINS = [f"relevance_gain_{fill}" for fill in ("zero", "mean", "noise", "blur")]
OF_MAPS = [*PRIMARY, "faithfulness", "sensitivity_max"]
DESCRIBING = ["entropy", "auroc", "gini_near"]
BLIND = ["white_noise", "one_hot", "sobel", "image"]
ROWS = ["dataset", "training"]


def means(frame: pd.DataFrame, keys: list[str], scores: list[str]) -> pd.DataFrame:
    """Mean and 95 % t-interval over the seeds: the keys, metric, mean, low, high; a single seed has no interval."""
    long = frame.melt(keys, [s for s in scores if s in frame], "metric", "value").dropna(subset="value")
    found = long.groupby([*keys, "metric"]).value.agg(["mean", "count", "sem"]).reset_index()
    half = stats.t.ppf(0.975, found["count"].clip(lower=2) - 1) * found["sem"]
    return found.assign(low=found["mean"] - half, high=found["mean"] + half)[[*keys, "metric", "mean", "low", "high"]]


def fieller(y: np.ndarray, x: np.ndarray) -> tuple[float, float, float]:
    """The ratio of two means and every ratio r for which a t-test does not reject that y - r x is 0 on average."""
    nothing = (np.nan, np.nan, np.nan)
    if len(x) < 2 or not np.isfinite([x, y]).all() or x.mean() <= 0 or stats.ttest_1samp(x, 0).pvalue >= 0.05:
        return nothing
    ratio, limit = y.mean() / x.mean(), stats.t.ppf(0.975, len(x) - 1)
    if np.allclose(y, x):
        return 1.0, 1.0, 1.0

    def beyond(r: float) -> float:
        d = y - r * x
        return abs(d.mean()) - limit * d.std(ddof=1) / np.sqrt(len(d))

    ends = []
    for side in (-1, 1):
        step = 1e-6
        while beyond(ratio + side * step) < 0:
            step *= 2
        ends.append(optimize.brentq(beyond, ratio, ratio + side * step, xtol=1e-13))
    return ratio, *ends


def retained(networks: pd.DataFrame, untrained: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Shares of what training gives, with Fieller's interval."""
    rows = []
    for (dataset, training, precision), group in networks.groupby([*ROWS, "precision"]):
        same = (networks.dataset == dataset) & (networks.training == training)
        top = networks[same & (networks.precision == reference)].set_index("seed")
        floor = untrained[(untrained.dataset == dataset) & (untrained.training == training)].set_index("seed")
        own = group.set_index("seed")
        for metric in [*PRIMARY, "faithfulness"]:
            y, x = (each[metric] - floor[metric] for each in (own, top))
            share = fieller(y.to_numpy(), x.to_numpy())
            rows.append([dataset, training, precision, metric, *share])
    return pd.DataFrame(rows, columns=[*ROWS, "precision", "metric", "mean", "low", "high"])


def every_map(maps: pd.DataFrame, exploring: int) -> pd.DataFrame:
    """How faithful each map is under each fill and their mean, by all seeds and by those that confirm."""
    trained = maps[maps.network == "trained"]
    names = {name: name.removeprefix("relevance_gain_") for name in GAINS} | {"faithfulness": "qualifying"}
    parts = {"all": trained, "confirming": trained[trained.seed >= exploring]}
    found = pd.concat({which: means(own, [*ROWS, "precision", "map"], list(names)) for which, own in parts.items()})
    found = found.reset_index(0, names="seeds").assign(fill=lambda frame: frame.metric.map(names))
    return found.drop(columns="metric")


def tables(results: Path, reference: str, exploring: int) -> dict[str, pd.DataFrame]:
    """By name, with the columns that tell rows apart, metric, mean, low and high."""
    e = {name: pd.read_csv(results / "evidence" / f"{name}.csv") for name in ("networks", "maps", "likeness")}
    networks = e["networks"][e["networks"].images == "primary"]
    straight = e["maps"][e["maps"]["map"] == "straight_through"].drop(columns="map")
    untrained = straight[(straight.network == "untrained") & (straight.precision == reference)]
    blind = e["maps"][(e["maps"].precision == reference) & e["maps"]["map"].isin(BLIND)].drop(columns="amplitude")
    controls = pd.concat([untrained.assign(map="untrained"), blind])
    mapped, shown = (own.rename(columns={"precision": "map"}) for own in
                     (networks, straight[straight.network == "trained"]))  # fmt: skip
    likeness = [column for column in networks if column.startswith("preservation_")]
    quantized, pairs = networks[networks.precision != reference], e["likeness"].assign(precision="seed_to_seed")
    return {
        "accuracy": means(networks, [*ROWS, "precision"], ["test_accuracy"]),
        "clarity": pd.concat([
            means(mapped, [*ROWS, "map"], [*OF_MAPS, "amplitude", "dead_rate"]),
            means(controls, [*ROWS, "map"], [*OF_MAPS, "amplitude"]),
        ]),
        "relevance_gain": pd.concat([means(frame, [*ROWS, "map"], GAINS) for frame in (shown, controls)]),
        "secondary": means(networks, [*ROWS, "precision"], DESCRIBING),
        "preservation": pd.concat([means(frame, [*ROWS, "precision"], likeness) for frame in (quantized, pairs)]),
        "retained": retained(networks, untrained, reference),
        "maps": every_map(e["maps"], exploring),
    }  # fmt: skip
