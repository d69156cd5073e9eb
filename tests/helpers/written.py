"""What the stages write, made up: results/runs/<cell>.json, scores/<cell>.nc and results/fills/<dataset>.csv."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from saqlib.scores import FILLS, GRADIENT, PRESERVATION, PRIMARY, UNTRAINED
from study import files
from study.settings import Cell

SEEDS, IMAGES, FEW, LEVELS, SHOWN = 3, 40, 12, 5, 30
QUALIFYING = ("mean", "noise", "blur")
CONTROLS = ("white_noise", "sobel")
OTHER_METHODS = ("log_probability", "smoothgrad", "occlusion", "integrated_gradients")
DIFFERENCES, CASCADE = ("gradient", "16 codes", "32 codes"), ("dense3", "dense2", "dense1", "conv2", "conv1")
# What is added to every score of a cell's maps, by cell, score or fill, and `gradient` or another method.
Effect = Callable[[Cell, str, str], float]


def squares(count: int) -> np.ndarray:
    """Images with an object of 12 x 12 pixels in the middle: 8 pixels from its outline to the edge of the image."""
    return np.pad(np.full((count, 12, 12), 200, np.uint8), ((0, 0), (8, 8), (8, 8)))


def nothing(cell: Cell, score: str, method: str) -> float:
    """Every score is as random as every other."""
    return 0.0


def make_scores(
    cell: Cell, rng: np.random.Generator, *, seeds: int = SEEDS, effect: Effect = nothing, errors: float = 0.2
) -> xr.Dataset:
    """The scores of a cell as saqlib.scoring labels them, filled with random numbers; dead maps are NaN.

    errors: the share of the images that the network classifies wrongly.
    """
    labels = np.arange(IMAGES) % 10
    dead = rng.random((seeds, IMAGES)) < 0.1

    def random(*names: int) -> np.ndarray:
        return rng.random((seeds, *names))

    def of_images(*names: int) -> np.ndarray:
        return np.where(dead.reshape(seeds, *(1,) * len(names), IMAGES), np.nan, random(*names, IMAGES))

    def raised(values: np.ndarray, names: Iterable[str], method: str) -> np.ndarray:
        """Values (..., names, images) with what is planted."""
        return values + np.array([effect(cell, name, method) for name in names])[:, None]

    def of_maps(names: tuple[str, ...]) -> np.ndarray:
        trained = raised(of_images(len(names)), names, GRADIENT)
        return np.stack([trained, of_images(len(names))], axis=1)

    def of_methods(names: tuple[str, ...]) -> np.ndarray:
        return np.stack([raised(random(len(names), FEW), names, method) for method in OTHER_METHODS], axis=1)

    fills = tuple(FILLS)
    found = {
        "label": ("image", labels),
        "predicted": (("seed", "image"), np.where(rng.random((seeds, IMAGES)) < 1 - errors, labels, (labels + 1) % 10)),
        "probability": (("seed", "image"), rng.random((seeds, IMAGES))),
        "dead": (("seed", "image"), dead.astype(float)),
        "entropy": (("seed", "image"), of_images()),
        "auroc": (("seed", "image"), of_images()),
        "scores": (("seed", "map", "score", "image"), of_maps(PRIMARY)),
        "relevance_gain": (("seed", "map", "fill", "image"), of_maps(fills)),
        "amplitude": (("seed", "map", "image"), of_images(2)),
        "preservation": (("seed", "likeness", "image"), random(len(PRESERVATION), IMAGES)),
        "sensitivity_max": (("seed", "few"), random(FEW)),
        "method_scores": (("seed", "explainer", "score", "few"), of_methods(PRIMARY)),
        "method_gain": (("seed", "explainer", "fill", "few"), of_methods(fills)),
        "difference_scores": (("seed", "difference", "score", "few"), random(len(DIFFERENCES), len(PRIMARY), FEW)),
        "difference_gain": (("seed", "difference", "fill", "few"), random(len(DIFFERENCES), len(FILLS), FEW)),
        "cascade": (("seed", "redrawn", "likeness", "few"), random(len(CASCADE), len(PRESERVATION), FEW)),
        "control_scores": (("seed", "control", "score", "image"), random(len(CONTROLS), len(PRIMARY), IMAGES)),
        "control_gain": (("seed", "control", "fill", "image"), random(len(CONTROLS), len(FILLS), IMAGES)),
        "curves": (("seed", "order", "level"), random(3, LEVELS)),
        "accuracies": (("seed", "accuracy_order", "accuracy_level"), random(2, LEVELS)),
        "gradient": (("seed", "draw"), rng.normal(size=(seeds, 7))),
        "kept_image": (("kept", "y", "x"), squares(SHOWN)),
        "kept_map": (("kept", "y", "x"), rng.normal(size=(SHOWN, 28, 28))),
    }
    if cell.precision != "fp32":
        square = ("seed", "weights", "activations")
        found["switched_scores"] = ((*square, "score", "few"), random(2, 2, len(PRIMARY), FEW))
        found["switched_gain"] = ((*square, "fill", "few"), random(2, 2, len(FILLS), FEW))
        found["switched_predicted"] = ((*square, "few"), rng.integers(10, size=(seeds, 2, 2, FEW)))
    named_twice = {"scores": "relevance_gain", "method_scores": "method_gain", "control_scores": "control_gain"}
    for whose, gain in named_twice.items():
        found[whose][1][:, :, -1] = found[gain][1][:, :, 0]  # one score: the first fill is zero
    if cell.precision == "fp32":
        found["seed_to_seed"] = (("seed", "likeness", "image"), random(len(PRESERVATION), IMAGES))
    places = np.arange(100, 100 + IMAGES)
    names = {
        "seed": range(seeds), "image": places, "few": places[:FEW], "score": list(PRIMARY), "fill": list(FILLS),
        "likeness": list(PRESERVATION), "map": [GRADIENT, UNTRAINED], "explainer": list(OTHER_METHODS),
        "control": list(CONTROLS), "order": ["most", "least", "random"], "level": np.linspace(0, 1, LEVELS),
        "accuracy_order": ["most", "random"], "accuracy_level": np.linspace(0, 0.8, LEVELS),
        "kept": places[:SHOWN][::-1], "difference": list(DIFFERENCES), "redrawn": list(CASCADE),
    }  # fmt: skip
    if cell.precision != "fp32":
        names |= {"weights": ["on", "off"], "activations": ["on", "off"]}
    return xr.Dataset(found, names)


def write_cell(
    root: Path, cell: Cell, rng: np.random.Generator, *, accuracy: Callable[[Cell], float] = lambda cell: 90, **options
) -> xr.Dataset:
    """The files of one trained and scored cell under `root`; the scores. accuracy: in percent, the least of a seed."""
    scores = make_scores(cell, rng, **options)
    files.write_dataset(root / "scores" / f"{cell}.nc", scores)
    write_fills(root, cell.dataset)
    layers = {"act1": {"alpha": 2.0, "clipped": 0.1, "zero": 0.5}} if cell.precision != "fp32" else {}
    epochs = [{"epoch": e, "loss": 1 / e, "validation_accuracy": 90.0 + e, "layers": layers} for e in (1, 2)]
    runs = {
        str(seed): {"test_accuracy": round(accuracy(cell) + rng.random(), 2), "history": epochs}
        for seed in range(scores.sizes["seed"])
    }
    report = json.dumps({"cell": str(cell), "seeds": runs})
    files.write(root / "results" / "runs" / f"{cell}.json", report)
    return scores


def write_fills(root: Path, dataset: str, qualifying: Iterable[str] = QUALIFYING) -> None:
    """The table that says which fills qualify on a dataset."""
    table = pd.DataFrame({"fill": FILLS, "qualifies": [fill in qualifying for fill in FILLS]})
    files.write(root / "results" / "fills" / f"{dataset}.csv", files.csv(table))
