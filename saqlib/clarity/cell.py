"""One cell's maps, scored: every score of every test image, seed by seed, beside controls and other methods.

scores/<cell>.nc is a labelled dataset (xarray); a dead map is NaN. Its dimensions are seed, image (place in the test
split, in random order), few (the first images, for scores that cost many gradients), score, fill (what stands in the
place of a removed pixel), likeness, map, control, explainer, order and level of removal, draw, and kept (images whose
maps are kept, one of each class first).
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from saqlib import files, paths, store, stored
from saqlib.clarity.seed import score_seed
from saqlib.clarity.settings import Scoring
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.names import FILLS, GRADIENT, PRESERVATION, PRIMARY, RELEVANCE_GAIN, UNTRAINED
from saqlib.network import fused
from saqlib.workers import Engine


def score_cell(
    cell: Cell, scoring: Scoring, seeds: int, engine: Engine, root: Path = paths.ROOT, *, n_jobs: int | None = None
) -> xr.Dataset:
    """Every score of a trained cell, of those seeds that the store does not hold yet.

    The seeds are scored side by side, one thread each; the result is the same for any number of workers. The maps of a
    dead network count as dead maps.

    Args:
        cell: its models lie under `root`, and so do those of its reference cell.
        scoring: all that decides the scores but the networks.
        seeds: how many, from 0 on.
        engine: where.
        n_jobs: worker processes, one a core when None.

    Raises:
        ModelFileError: the cell or its reference cell was not trained, or not with so many seeds.
    """
    tasks = _tasks(cell, scoring, seeds, root)
    jobs = [(path, *task) for path, task in tasks.items() if store.kept(path, files.read_dataset) is None]
    engine.map(_score, jobs, n_jobs)
    of_seeds = [files.read_dataset(path) for path in tasks]
    shared = ["label", "kept_image", "kept_map"]  # kept_map is of seed 0
    together = xr.concat([each.drop_vars(shared) for each in of_seeds], "seed", coords="minimal", compat="override")
    return together.assign_coords(seed=range(seeds)).assign({name: of_seeds[0][name] for name in shared})


def _tasks(cell: Cell, scoring: Scoring, seeds: int, root: Path) -> dict[Path, tuple]:
    """What is to be scored, by the file in which the store keeps it, a task for each seed."""
    reference = Cell(cell.dataset, scoring.reference, cell.training)
    own, other = (_digests(each, seeds, root) for each in (cell, reference))
    shape = stored.load_model(cell, 0, root).shape
    common = [asdict(scoring), data.fingerprint(cell.dataset, sample=scoring.sample), fused.kind(shape, "cpu")]
    tasks = {}
    for seed in range(seeds):
        neighbour = (seed + 1) % seeds if cell == reference else None
        likened = [other[seed], None if neighbour is None else other[neighbour]]
        key = store.key(__name__, *common, seed, own[seed], likened)
        tasks[store.folder("scored", key) / f"{seed}.nc"] = (cell, scoring, seed, neighbour, root)
    return tasks


def _digests(cell: Cell, seeds: int, root: Path) -> list[str]:
    """A hash of each seed's network: its bits, its widths and its weights."""
    content = stored.read_cell(stored.model_file(cell, root))
    common = json.dumps([content["precision"], content["network"]], sort_keys=True).encode()
    states = [stored.restore(content, seed).state_dict() for seed in range(seeds)]
    weights = [b"".join(values.numpy().tobytes() for values in state.values()) for state in states]
    return [hashlib.sha256(common + each).hexdigest() for each in weights]


def _score(path: Path, *task: Any) -> None:
    files.write_dataset(path, score_seed(*task))


def save_cell(cell: Cell, scores: xr.Dataset, root: Path = paths.ROOT) -> None:
    """Write scores/<cell>.nc and, with each seed's means over all images, results/clarity/<cell>.json."""
    files.write_dataset(root / "scores" / f"{cell}.nc", scores)
    files.write(root / "results" / "clarity" / f"{cell}.json", json.dumps(summary(cell, scores), indent=1) + "\n")


def summary(cell: Cell, scores: xr.Dataset) -> dict:
    """Mean of each score over the images of a seed that have one; None where no image has."""
    columns = {name: scores[name] for name in ("probability", "entropy", "auroc", "dead")}
    for which, prefix in ((GRADIENT, ""), (UNTRAINED, f"{UNTRAINED}_")):
        columns |= {f"{prefix}{name}": scores.scores.sel(map=which, score=name) for name in PRIMARY}
        gains = scores.relevance_gain.sel(map=which)
        columns |= {f"{prefix}{RELEVANCE_GAIN}_{fill}": gains.sel(fill=fill) for fill in FILLS}
        columns[f"{prefix}amplitude"] = scores.amplitude.sel(map=which)
    for array in ("preservation", "seed_to_seed"):
        if array in scores:
            columns |= {f"{array}_{name}": scores[array].sel(likeness=name) for name in PRESERVATION}
    means = {name: values.mean("image", skipna=True) for name, values in columns.items()}
    return {
        "cell": str(cell),
        "images": scores.sizes["image"],
        "seeds": {
            str(seed): {name: _rounded(values.sel(seed=seed).item()) for name, values in means.items()}
            for seed in scores.seed.values.tolist()
        },
    }


def _rounded(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
