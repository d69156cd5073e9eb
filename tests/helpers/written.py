"""What the stages write, made up: results/runs/<cell>.json, scores/<cell>.nc and results/fills/<dataset>.csv."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from saqlib.controls import CASCADE
from saqlib.scores import FILLS, GAINS, GRADIENT, PASS_THROUGH, PRESERVATION, PRIMARY
from study import files
from study.settings import Cell

SEEDS, IMAGES, FEW, LEVELS, SHOWN = 3, 40, 12, 5, 30
QUALIFYING = ("mean", "noise", "blur")
METHODS = (GRADIENT, PASS_THROUGH, "occlusion")
OF_THE_QUANTIZED = ("clip_only", "fp32_twin")
ON_FEW = ("image", "white_noise")
DESCRIBING = ("entropy", "auroc", "gini_near", "dead")
SCORES = (*PRIMARY, *GAINS, "amplitude", *DESCRIBING, "relevance_gain_zero", "sensitivity_max")
ARRAYS = {  # of a cell's scores, with their axes
    "probability": "seed image", "scores": "seed map score image", "floors": "seed explainer score few",
    "preservation": "seed likeness image", "seed_to_seed": "seed likeness image",
    "cascade": "seed redrawn likeness few", "curves": "seed order level",
    "accuracies": "seed accuracy_order accuracy_level", "gradient": "seed draw", "kept_map": "seed kept y x",
}  # fmt: skip


def squares(count: int) -> np.ndarray:
    """Images with an object of 12 x 12 pixels in the middle: 8 pixels from its outline to the edge of the image."""
    return np.pad(np.full((count, 12, 12), 200, np.uint8), ((0, 0), (8, 8), (8, 8)))


def make_scores(cell: Cell, rng: np.random.Generator) -> xr.Dataset:
    """The scores of a cell as saqlib.scoring labels them, filled with random numbers; dead maps are NaN."""
    places = np.arange(100, 100 + IMAGES)
    names = {
        "seed": range(SEEDS), "image": places, "few": places[:FEW], "score": list(SCORES), "explainer": list(METHODS),
        "map": [*METHODS, *(OF_THE_QUANTIZED if cell.precision != "fp32" else ()), *ON_FEW],
        "likeness": list(PRESERVATION), "order": ["most", "least", "random"], "level": np.linspace(0, 1, LEVELS),
        "accuracy_order": ["most", "random"], "accuracy_level": np.linspace(0, 0.8, LEVELS),
        "kept": places[:SHOWN][::-1], "redrawn": list(CASCADE),
    }  # fmt: skip
    sizes = {axis: len(labels) for axis, labels in names.items()} | {"draw": 7, "y": 28, "x": 28}

    def random(axes: str) -> xr.DataArray:
        dims = axes.split()
        return xr.DataArray(rng.random([sizes[axis] for axis in dims]), {a: names[a] for a in dims if a in names}, dims)

    found = xr.Dataset({name: random(axes) for name, axes in ARRAYS.items()})
    scores, dead, wrong = found.scores, random("seed image") < 0.1, random("seed image") < 0.2
    scores.loc[{"map": GRADIENT}] = scores.sel(map=GRADIENT).where(~dead)
    scores.loc[{"map": GRADIENT, "score": "dead"}] = dead.astype(float)
    scores[:, -2:, :, FEW:] = scores[:, :, -2:, FEW:] = np.nan  # on the first images only
    scores[:, 1:, -5:-2] = scores[:, 2:, -1] = np.nan  # of the straight-through map only, and with it the pass-through
    label = xr.DataArray(np.arange(IMAGES) % 10, dims="image")
    predicted = xr.where(wrong, (label + 1) % 10, label)
    images = xr.DataArray(squares(SHOWN), dims=("kept", "y", "x"))
    found["kept_map"] = found.kept_map - 0.5
    return found.assign(label=label, predicted=predicted, kept_image=images, kept_map_pass_through=found.kept_map + 1)


def write_cell(root: Path, cell: Cell, rng: np.random.Generator) -> xr.Dataset:
    """The files of one trained and scored cell under `root`; the scores."""
    scores = make_scores(cell, rng)
    files.write_dataset(root / "scores" / f"{cell}.nc", scores)
    write_fills(root, cell.dataset)
    layers = {} if cell.precision == "fp32" else {name: {"clipped": rng.random()} for name in ("act1", "act2")}
    last = {"history": [{"layers": {}}, {"layers": layers}]}
    known = {"positive_biases": 1} | last
    runs = {str(seed): {"test_accuracy": round(90 + rng.random(), 2)} | known for seed in range(SEEDS)}
    report = json.dumps({"cell": str(cell), "seeds": runs})
    files.write(root / "results" / "runs" / f"{cell}.json", report)
    return scores


def write_fills(root: Path, dataset: str, qualifying: Iterable[str] = QUALIFYING) -> None:
    """The table that says which fills qualify on a dataset."""
    table = pd.DataFrame({"fill": FILLS, "qualifies": [fill in qualifying for fill in FILLS]})
    files.write(root / "results" / "fills" / f"{dataset}.csv", files.csv(table))
