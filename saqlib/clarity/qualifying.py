"""Which fills qualify on a dataset: decided on validation images, before a test image is scored.

A map that explains nothing must lose. The image itself knows no network, and with zeros in the place of removed pixels
it beats every network's map: what is removed last is then what is bright, and background has nothing to lose. With such
a fill the relevance gain measures where a map lies. So a fill qualifies only if the image itself scores below the
reference network's own map, in every seed: one network that a bare image explains better is doubt enough.
"""

import json
from pathlib import Path

import pandas as pd

from saqlib import files, paths, store, stored
from saqlib.clarity.fill_gains import ITSELF, fill_gains
from saqlib.clarity.settings import Scoring
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.names import FILLS, GRADIENT
from saqlib.network import fused
from saqlib.network.lenet import LeNet
from saqlib.workers import Engine

TRAINING = "standard"  # guided networks learn from images with noise in them: that fill would suit them


def score_fills(
    dataset: str, scoring: Scoring, seeds: int, engine: Engine, root: Path = paths.ROOT, *, n_jobs: int | None = None
) -> pd.DataFrame:
    """The relevance gain of the reference networks' maps and of the image itself, on validation images.

    Args:
        dataset: its reference cell of standard training is trained, under `root`.
        scoring: how many images, in how many steps, and which precision is the reference.
        seeds: how many, from 0 on.
        engine: where.
        n_jobs: worker processes, one a core when None.

    Returns:
        One row per seed and fill, with the columns seed, fill, gradient and intensity: means over the images.

    Raises:
        ModelFileError: the cell was not trained, or not with so many seeds.
    """
    cell = Cell(dataset, scoring.reference, TRAINING)
    content = stored.read_cell(stored.model_file(cell, root))
    networks = [stored.restore(content, seed) for seed in range(seeds)]
    kept = [kept_file(dataset, scoring, network) for network in networks]
    jobs = [(path, dataset, scoring, network) for path, network in zip(kept, networks, strict=True)
            if store.kept(path, read_gains) is None]  # fmt: skip
    engine.map(keep_gains, jobs, n_jobs)
    tables = [pd.DataFrame({"seed": seed, "fill": list(FILLS)} | read_gains(path)) for seed, path in enumerate(kept)]
    return pd.concat(tables, ignore_index=True)


def kept_file(dataset: str, scoring: Scoring, network: LeNet) -> Path:
    """Where the store keeps the gains of one network."""
    read = [dataset, scoring.clarity.steps, scoring.images, data.fingerprint(dataset, sample=scoring.sample)]
    decides = [*read, fused.kind(network.shape, "cpu"), stored.digest(network)]
    return store.folder("fills", store.key("saqlib.clarity.fill_gains", *decides)) / "gains.json"


def keep_gains(path: Path, dataset: str, scoring: Scoring, network: LeNet) -> None:
    """Find the gains of one network and keep them in a file."""
    files.write(path, json.dumps(fill_gains(dataset, scoring, network)))


def read_gains(path: Path) -> dict[str, list[float]]:
    gains = json.loads(path.read_text(encoding="utf-8"))
    if gains.keys() != {GRADIENT, ITSELF}:
        raise ValueError(f"{path} holds no gains")
    return gains


def qualify(table: pd.DataFrame) -> pd.DataFrame:
    """The decision on each fill.

    Args:
        table: of `score_fills`.

    Returns:
        One row per fill, in order: fill; gradient and intensity, means over the seeds; least_lead, the smallest lead of
        the gradient over the image in any seed; seeds; and qualifies, whether that lead is above 0.
    """
    leads = table[GRADIENT] - table[ITSELF]
    by_fill = table.assign(least_lead=leads.where(leads.notna(), float("-inf"))).groupby("fill", sort=False)
    found = by_fill.agg({GRADIENT: "mean", ITSELF: "mean", "least_lead": "min", "seed": "count"})
    found = found.rename(columns={"seed": "seeds"})
    return found.assign(qualifies=found.least_lead > 0).reset_index()


def save_fills(dataset: str, table: pd.DataFrame, root: Path = paths.ROOT) -> pd.DataFrame:
    """Write the decision, results/fills/<dataset>.csv, and what it rests on, <dataset>_seeds.csv; the decision."""
    decision, folder = qualify(table), root / "results" / "fills"
    files.write(folder / f"{dataset}_seeds.csv", files.csv(table))
    files.write(folder / f"{dataset}.csv", files.csv(decision))
    return decision
