"""One cell's maps, scored: every score of every test image, seed by seed, beside controls and other methods.

scores/<cell>.nc is a labelled dataset (xarray); a dead map is NaN. Its dimensions are seed, image (place in the test
split, in random order), few (the first images, for scores that cost many gradients), score, fill (what stands in the
place of a removed pixel), likeness, map, control, explainer, order and level of removal, draw, and kept (images whose
maps are kept, one of each class first).
"""

import json
from collections.abc import Mapping, Sequence
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
from saqlib.names import FILLS, GRADIENT, PRESERVATION, PRIMARY, RELEVANCE_GAIN, UNTRAINED, further_scores
from saqlib.network import fused
from saqlib.network.lenet import LeNet
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
    reference = Cell(cell.dataset, scoring.reference, cell.training)
    own, other = (networks(each, seeds, root) for each in (cell, reference))
    tasks = {}
    for seed in range(seeds):
        task = (cell.dataset, scoring, seed, own[seed], likened(other, seed, cell == reference))
        tasks[kept_file(*task)] = task
    jobs = [(path, *task) for path, task in tasks.items() if store.kept(path, files.read_dataset) is None]
    engine.map(keep_scores, jobs, n_jobs)
    of_seeds = [files.read_dataset(path) for path in tasks]
    shared = ["label", "kept_image", "kept_map"]  # kept_map is of seed 0
    together = xr.concat([each.drop_vars(shared) for each in of_seeds], "seed", coords="minimal", compat="override")
    return together.assign_coords(seed=range(seeds)).assign({name: of_seeds[0][name] for name in shared})


def networks(cell: Cell, seeds: int, root: Path) -> list[LeNet]:
    """The trained networks of a cell, in evaluation mode; ModelFileError if there are not so many."""
    content = stored.read_cell(stored.model_file(cell, root))
    return [stored.restore(content, seed) for seed in range(seeds)]


def likened(reference: Sequence[LeNet], seed: int, is_reference: bool) -> dict[str, LeNet | None]:
    """Of the networks of the reference cell those whose maps a seed's are likened to, as `score_seed` takes them."""
    neighbour = reference[(seed + 1) % len(reference)] if is_reference else None
    return {"preservation": reference[seed], "seed_to_seed": neighbour}


def kept_file(dataset: str, scoring: Scoring, seed: int, network: LeNet, likened: Mapping[str, LeNet | None]) -> Path:
    """Where the store keeps what `score_seed` makes of these arguments."""
    digests = [each and stored.digest(each) for each in (network, *likened.values())]
    common = [asdict(scoring), data.fingerprint(dataset, sample=scoring.sample), fused.kind(network.shape, "cpu")]
    key = store.key("saqlib.clarity.seed", *common, seed, *digests)
    return store.folder("scored", key) / f"{seed}.nc"


def keep_scores(path: Path, *task: Any) -> None:
    """Score one network, `task` being the arguments of `score_seed`, and keep that in a file."""
    files.write_dataset(path, score_seed(*task))


def save_cell(cell: Cell, scores: xr.Dataset, root: Path = paths.ROOT) -> None:
    """Write scores/<cell>.nc and, with each seed's means over all images, results/clarity/<cell>.json."""
    files.write_dataset(root / "scores" / f"{cell}.nc", scores)
    files.write(root / "results" / "clarity" / f"{cell}.json", json.dumps(summary(cell, scores), indent=1) + "\n")


def summary(cell: Cell, scores: xr.Dataset) -> dict:
    """Mean of each score over the images of a seed that have one; None where no image has."""
    columns = {name: scores[name] for name in ("probability", *further_scores(scores))}
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
