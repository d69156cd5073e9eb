"""What the stages write for a cell, made up by hand: results/runs/<cell>.json and scores/<cell>.nc."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

from saqlib import files
from saqlib.grid import Cell
from saqlib.names import GRADIENT, OTHER_METHODS, PRESERVATION, PRIMARY, UNTRAINED

SEEDS, IMAGES, FEW, LEVELS, SHOWN = 3, 40, 12, 5, 30


def squares(count: int) -> np.ndarray:
    """Images with an object of 12 x 12 pixels in the middle: 8 pixels from its outline to the edge of the image."""
    return np.pad(np.full((count, 12, 12), 200, np.uint8), ((0, 0), (8, 8), (8, 8)))


def make_scores(cell: Cell, rng: np.random.Generator) -> xr.Dataset:
    """The scores of a cell as saqlib.clarity.cell labels them, filled with random numbers; dead maps are NaN."""
    labels = np.arange(IMAGES) % 10
    dead = rng.random((SEEDS, IMAGES)) < 0.1

    def of_images(*names: int) -> np.ndarray:
        values = rng.random((SEEDS, *names, IMAGES))
        return np.where(dead.reshape(SEEDS, *(1,) * len(names), IMAGES), np.nan, values)

    found = {
        "label": ("image", labels),
        "predicted": (("seed", "image"), np.where(rng.random((SEEDS, IMAGES)) < 0.8, labels, (labels + 1) % 10)),
        "probability": (("seed", "image"), rng.random((SEEDS, IMAGES))),
        "dead": (("seed", "image"), dead.astype(float)),
        "entropy": (("seed", "image"), of_images()),
        "auroc": (("seed", "image"), of_images()),
        "scores": (("seed", "map", "score", "image"), of_images(2, len(PRIMARY))),
        "preservation": (("seed", "likeness", "image"), rng.random((SEEDS, len(PRESERVATION), IMAGES))),
        "sensitivity_max": (("seed", "few"), rng.random((SEEDS, FEW))),
        "method_scores": (
            ("seed", "explainer", "score", "few"),
            rng.random((SEEDS, len(OTHER_METHODS), len(PRIMARY), FEW)),
        ),
        "control_scores": (("seed", "control", "score", "image"), rng.random((SEEDS, 2, len(PRIMARY), IMAGES))),
        "curves": (("seed", "order", "level"), rng.random((SEEDS, 3, LEVELS))),
        "accuracies": (("seed", "accuracy_order", "accuracy_level"), rng.random((SEEDS, 2, LEVELS))),
        "gradient": (("seed", "draw"), rng.normal(size=(SEEDS, 7))),
        "kept_image": (("kept", "y", "x"), squares(SHOWN)),
        "kept_map": (("kept", "y", "x"), rng.normal(size=(SHOWN, 28, 28))),
    }
    if cell.precision == "fp32":
        found["seed_to_seed"] = (("seed", "likeness", "image"), rng.random((SEEDS, len(PRESERVATION), IMAGES)))
    places = np.arange(100, 100 + IMAGES)
    names = {
        "seed": range(SEEDS), "image": places, "few": places[:FEW], "score": list(PRIMARY),
        "likeness": list(PRESERVATION), "map": [GRADIENT, UNTRAINED], "explainer": list(OTHER_METHODS),
        "control": ["white_noise", "sobel"], "order": ["most", "least", "random"], "level": np.linspace(0, 1, LEVELS),
        "accuracy_order": ["most", "random"], "accuracy_level": np.linspace(0, 0.8, LEVELS),
        "kept": places[:SHOWN][::-1],
    }  # fmt: skip
    return xr.Dataset(found, names)


def write_cell(root: Path, cell: Cell, rng: np.random.Generator) -> xr.Dataset:
    """The files of one trained and scored cell under `root`; the scores."""
    scores = make_scores(cell, rng)
    files.write_dataset(root / "scores" / f"{cell}.nc", scores)
    layers = {"act1": {"alpha": 2.0, "clipped": 0.1, "zero": 0.5}} if cell.precision != "fp32" else {}
    epochs = [{"epoch": e, "loss": 1 / e, "validation_accuracy": 90.0 + e, "layers": layers} for e in (1, 2)]
    runs = {str(seed): {"test_accuracy": 90 + 10 * rng.random(), "history": epochs} for seed in range(SEEDS)}
    report = json.dumps({"cell": str(cell), "seeds": runs})
    files.write(root / "results" / "runs" / f"{cell}.json", report)
    return scores
