"""Layers drawn anew once more, from the numbers of every seed, by NumPy, scipy and statsmodels."""

import numpy as np
import pandas as pd

from tests.helpers.twin_grid import adjusted, share_above


def check(found: pd.DataFrame, cascade: pd.DataFrame, claims) -> None:
    """The table randomization is what is found here, row by row; cascade: the CSV of results/evidence."""
    for key, group in found.groupby(["dataset", "training", "likeness", "redrawn"]):
        arrays = [apart(cascade, claims.reference, *key, precision) for precision in group.precision]
        check_family(group, arrays, claims.level)


def apart(cascade, reference, dataset, training, likeness, redrawn, precision) -> np.ndarray:
    """Likeness of two networks of the reference, less that of a map to itself: (seeds,)."""
    own = cascade[(cascade.dataset == dataset) & (cascade.training == training)].sort_values("seed")
    two, drawn = (own[(own.precision == p) & (own.redrawn == layer)][f"preservation_{likeness}"].to_numpy()
                  for p, layer in ((reference, "seed_to_seed"), (precision, redrawn)))  # fmt: skip
    return two - drawn


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
