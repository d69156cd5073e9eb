"""Tidy frames of maps, networks, clipped units and variants, made up: nothing differs but what a test plants."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from saqlib.claims import Claim, Claims, Margins
from saqlib.scores import GRADIENT

FILLS = ("mean", "noise", "blur")
PRECISIONS = ("fp32", "w4a4", "mixed", "w2a2")
TRAININGS = ("standard", "guided")
SCORES = ("gini", "morans_i", "sensitivity_max", *(f"relevance_gain_{fill}" for fill in FILLS))
KEYS = ["dataset", "training", "precision", "seed"]
QUESTIONS = {
    "accuracy": "test_accuracy", "focus": "gini", "coherence": "morans_i", "stability": "sensitivity_max",
    "faithfulness": "relevance_gain",
}  # fmt: skip
Effect = Callable[[str, str, str, str], float]  # of training, precision, map and column


def claims(level: float = 0.05, hypotheses: Sequence[Claim] = ()) -> Claims:
    """Margins and questions as in params.yaml."""
    return Claims(level, "fp32", Margins(0.5, 0.1, 0.5), QUESTIONS, tuple(hypotheses))


def networks(seeds: int = 10, datasets: Sequence[str] = ("mnist",)) -> pd.DataFrame:
    """The keys of every network."""
    return pd.DataFrame(product(datasets, TRAININGS, PRECISIONS, range(seeds)), columns=KEYS)


def maps(
    effect: Effect | None = None,
    *,
    names: Sequence[str] = (GRADIENT,),
    seeds: int = 10,
    noise: float = 0.01,
    generator: int = 0,
    given: float = 0.4,
    datasets: Sequence[str] = ("mnist",),
) -> pd.DataFrame:
    """Every map of every network, .5 in each score plus a seed's level, what is planted, and noise.

    The untrained networks of full precision score `given` less, whatever is planted.
    """
    keys, rng, parts = networks(seeds, datasets), np.random.default_rng(generator), []
    level = rng.random(seeds)[keys.seed] / 10
    for name, network in product(names, ("trained", "untrained")):
        own = keys.assign(map=name, network=network)
        for column in SCORES:
            planted = 0.0
            if effect and network == "trained":
                cells = zip(own.training, own.precision, strict=True)
                planted = np.array([effect(*cell, name, column) for cell in cells])
            lower = given * (network == "untrained")
            own[column] = 0.5 + level + planted - lower + noise * rng.normal(size=len(own))
        parts.append(own[own.precision == "fp32"] if network == "untrained" else own)
    return pd.concat(parts, ignore_index=True)


def runs(of: pd.DataFrame, accuracy: Callable[[str, str], float] = lambda t, p: 0.0) -> pd.DataFrame:
    """One row per network: the scores of its straight-through map, and about 95 % of accuracy plus what is planted."""
    own = of[(of["map"] == GRADIENT) & (of.network == "trained")].drop(columns=["map", "network"])
    planted = [accuracy(t, p) for t, p in zip(own.training, own.precision, strict=True)]
    drawn = 0.02 * np.random.default_rng(1).normal(size=len(own))
    return own.assign(test_accuracy=95 + np.array(planted) + drawn).reset_index(drop=True)
