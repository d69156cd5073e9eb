"""Frames such as study.frames makes them, made up: one row per network, with effects where a test plants them."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from saqlib.scores import FAITHFULNESS, GAINS, PRESERVATION, PRIMARY

DATASETS = ("mnist", "fashion_mnist")
PRECISIONS = ("fp32", "w4a4", "mixed", "w2a2")
TRAININGS = ("standard", "guided")
LIKENESS = tuple(f"preservation_{name}" for name in PRESERVATION)
SCORES = (*dict.fromkeys((*PRIMARY, *GAINS)), FAITHFULNESS, "amplitude")
METRICS = ("test_accuracy", *SCORES, *LIKENESS)


def grid(
    *,
    seeds: int = 3,
    datasets: Sequence[str] = ("mnist",),
    precisions: Sequence[str] = PRECISIONS,
    **columns: Callable[[np.random.Generator], float],
) -> pd.DataFrame:
    """One row per network: dataset, precision, training, seed; each further column a function of a generator."""
    rng, places = np.random.default_rng(5), product(datasets, precisions, TRAININGS, range(seeds))
    frame = pd.DataFrame(places, columns=["dataset", "precision", "training", "seed"])
    return frame.assign(**{name: [value(rng) for _ in range(len(frame))] for name, value in columns.items()})


def make_runs(
    effect: Callable[[str, str, str], float] | None = None,
    *,
    seeds: int = 10,
    noise: float = 0.01,
    generator: int = 0,
    datasets: Sequence[str] = ("mnist",),
    precisions: Sequence[str] = PRECISIONS,
) -> pd.DataFrame:
    """Runs with accuracy, every score and likeness: a level in [0, 1) of each dataset and seed, plus noise.

    effect(precision, training, metric) is what a test plants, in units of the noise; without one the null holds.
    The levels, shared by all networks of a seed, cancel in paired differences. Accuracy lies 90 higher.
    """
    frame = grid(seeds=seeds, datasets=datasets, precisions=precisions)
    rng = np.random.default_rng(generator)
    groups = pd.factorize(frame.dataset)[0] * seeds + frame.seed
    for metric in METRICS:
        level = rng.random(len(datasets) * seeds)[groups] + 90 * (metric == "test_accuracy")
        planted = [
            effect(p, t, metric) if effect else 0.0 for p, t in zip(frame.precision, frame.training, strict=True)
        ]
        frame[metric] = level + noise * (np.array(planted) + rng.normal(size=len(frame)))
    return frame.assign(dead_rate=0.0)


def of_the_reference(frame: pd.DataFrame) -> pd.DataFrame:
    """Its networks, without their precision: untrained networks, or pairs of seeds."""
    return frame[frame.precision == "fp32"].drop(columns="precision")
