"""Layers drawn anew once more, from the numbers of every seed, by NumPy, scipy and statsmodels."""

import numpy as np
import pandas as pd

from tests.helpers.twin_grid import adjusted, share_above


def check(found: pd.DataFrame, cascade: pd.DataFrame, claims) -> None:
    """The table randomization is what is found here, row by row; cascade: the CSV of results/evidence."""
    cascade = by_keys(cascade)
    for key, group in found.groupby(["dataset", "training", "likeness", "redrawn"]):
        arrays = [apart(cascade, claims, *key, precision) for precision in group.precision]
        check_family(group, arrays, claims.level)


def by_keys(frame: pd.DataFrame) -> dict[frozenset, pd.DataFrame]:
    """The rows of each combination of words, by seed."""
    keys = list(frame.select_dtypes(exclude="number"))
    groups = frame.sort_values("seed").set_index("seed").groupby(keys)
    return {frozenset(zip(keys, words, strict=True)): rows for words, rows in groups}


def seeds_of(frame: dict[frozenset, pd.DataFrame], **keys) -> pd.DataFrame:
    """The rows with these words."""
    return frame[frozenset(keys.items())]


def apart(cascade, claims, dataset, training, likeness, redrawn, precision) -> np.ndarray:
    """Likeness of two networks of the reference, less that of a map to itself: (seeds,)."""
    where, column = {"dataset": dataset, "training": training}, f"preservation_{likeness}"
    two = seeds_of(cascade, **where, precision=claims.reference, redrawn="seed_to_seed")[column]
    return (two - seeds_of(cascade, **where, precision=precision, redrawn=redrawn)[column]).to_numpy()


def check_family(group: pd.DataFrame, arrays: list[np.ndarray], level: float) -> None:
    """P-values, correction and words of one family."""
    many = len(arrays[0]) > 1
    ways = [(share_above(array), share_above(-array)) for array in arrays]
    p = [min(1.0, 2 * min(way)) if many else np.nan for way in ways]
    holm = adjusted(p, "holm")
    words = []
    for own, (above, below) in zip(holm, ways, strict=True):
        decided = own <= level and above != below
        words.append(("supported" if above < below else "opposite") if decided else "undecided")
    assert group.verdict.tolist() == words
    np.testing.assert_allclose(group[["p", "p_holm"]], np.column_stack([p, holm]), rtol=1e-5, atol=1e-6)
    if many:
        np.testing.assert_allclose(group.estimate, [array.mean() for array in arrays], rtol=1e-4, atol=1e-6)
