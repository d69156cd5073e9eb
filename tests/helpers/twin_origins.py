"""Where the loss comes from once more, from the numbers of every seed, by NumPy, scipy and statsmodels."""

import numpy as np
import pandas as pd

from tests.helpers.twin import corrected, flips
from tests.helpers.twin_tables import fieller

STATES = {"weights": ("off", "on"), "activations": ("on", "off"), "both": ("off", "off")}


def check(found: dict[str, pd.DataFrame], frames: dict[str, pd.DataFrame], fills, claims) -> None:
    """The tables switched, surrogate and randomization are what is found here, row by row.

    frames: the CSVs of results/evidence. fills: of each dataset those that qualify.
    """
    for row in found["switched"].itertuples():
        expected = factor(frames, fills, claims, row)
        assert row.word == expected[3], row
        np.testing.assert_allclose([row.estimate, row.low, row.high], expected[:3], rtol=1e-4, atol=1e-6)
    for key, group in found["surrogate"].groupby(["dataset", "training", "precision"]):
        arrays = [lead(frames["differences"], fills, claims, *key, step) for step in group.difference]
        words = check_family(group, arrays, claims.level)
        assert set(group.artefact) == ({words[0]} if len(set(words)) == 1 else {"undecided"})
    for key, group in found["randomization"].groupby(["dataset", "training", "likeness", "redrawn"]):
        arrays = [apart(frames["cascade"], claims, *key, precision) for precision in group.precision]
        check_family(group, arrays, claims.level)


def seeds_of(frame: pd.DataFrame, **keys) -> pd.DataFrame:
    """The rows with these values, by seed."""
    for name, value in keys.items():
        frame = frame[frame[name] == value]
    return frame.set_index("seed").sort_index()


def factor(frames, fills, claims, row) -> tuple:
    """Share, both ends, and the word on one factor."""
    where = {"dataset": row.dataset, "training": row.training}
    weights, activations = STATES[row.off]
    maps = {**where, "precision": row.precision}
    deployed = seeds_of(frames["switched"], **maps, weights="on", activations="on")
    without = seeds_of(frames["switched"], **maps, weights=weights, activations=activations)
    top = seeds_of(frames["methods"], **where, precision=claims.reference, method="gradient")
    column = claims.questions[row.question]
    columns = [f"relevance_gain_{f}" for f in fills[row.dataset]] if column == "relevance_gain" else [column]
    back, lost = ((each[columns] - deployed[columns]).to_numpy() for each in (without, top))
    parts = [fieller(back[:, i], lost[:, i]) for i in range(len(columns))]
    if any(np.isnan(part[0]) for part in parts):
        word = "no loss"
    else:
        enough = all(part[0] >= claims.margins.recovered and part[1] > 0 for part in parts)
        word = "explains" if enough else "does not"
    return (*fieller(back.mean(1), lost.mean(1)), word)


def lead(differences, fills, claims, dataset, training, precision, step) -> np.ndarray:
    """How much more finite differences lead the gradient than at the reference: (seeds, fills)."""
    columns = [f"relevance_gain_{f}" for f in fills[dataset]]

    def own(at, way):
        return seeds_of(differences, dataset=dataset, training=training, precision=at, difference=way)[columns]

    leads = [(own(at, step) - own(at, "gradient")).to_numpy() for at in (precision, claims.reference)]
    return leads[0] - leads[1]


def apart(cascade, claims, dataset, training, likeness, redrawn, precision) -> np.ndarray:
    """Likeness of two networks of the reference, less that of a map to itself: (seeds, 1)."""
    where, column = {"dataset": dataset, "training": training}, [f"preservation_{likeness}"]
    two = seeds_of(cascade, **where, precision=claims.reference, redrawn="seed_to_seed")[column]
    return (two - seeds_of(cascade, **where, precision=precision, redrawn=redrawn)[column]).to_numpy()


def check_family(group: pd.DataFrame, arrays: list[np.ndarray], level: float) -> list[str]:
    """P-values, correction and words of one family; the words."""
    many = len(arrays[0]) > 1
    ways = [[flips(x).max() if many else np.nan for x in (array, -array)] for array in arrays]
    p = [min(1.0, 2 * min(way)) if many else np.nan for way in ways]
    holm = corrected(p)
    words = []
    for own, (above, below) in zip(holm, ways, strict=True):
        decided = own <= level and above != below
        words.append(("supported" if above < below else "opposite") if decided else "undecided")
    assert group.verdict.tolist() == words
    np.testing.assert_allclose(group[["p", "p_holm"]], np.column_stack([p, holm]), rtol=1e-5, atol=1e-6)
    if many:
        np.testing.assert_allclose(group.estimate, [array.mean() for array in arrays], rtol=1e-4, atol=1e-6)
    return words
