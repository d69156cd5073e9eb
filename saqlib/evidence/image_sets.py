"""The sets of images over which a seed's scores are averaged.

primary   classified correctly by every precision of that seed and training, so that clarity is not accuracy again
all       every scored image
matched   primary images whose confidence lies in the same tercile at every precision; the terciles, cut from the
          confidences of all precisions together, count equally
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from saqlib.evidence.settings import IMAGE_SETS
from saqlib.params import one_of


def strata(cells: Sequence[xr.Dataset], images: str) -> NDArray[np.int64]:
    """For each seed and image the stratum over which it is averaged, -1 for an image that is left out: (S, N).

    cells: the scores of every precision of one dataset and training. Raises ValueError for an unknown set.
    """
    one_of(images, IMAGE_SETS, "set of images")
    if images == "all":
        return np.zeros(cells[0].predicted.shape, dtype=np.int64)
    correct = np.all([cell.predicted == cell.label for cell in cells], axis=0)
    if images == "primary":
        return np.where(correct, 0, -1)
    terciles = _terciles(np.stack([cell.probability for cell in cells]), correct)
    same = correct & (terciles == terciles[0]).all(axis=0)
    return np.where(same, terciles[0], -1)


def _terciles(confidence: NDArray, counted: NDArray) -> NDArray[np.int64]:
    """The tercile of each confidence (precisions, S, N) among those of the same seed that count, 0 to 2."""
    terciles = np.zeros(confidence.shape, dtype=np.int64)
    for seed, chosen in enumerate(counted):
        if chosen.any():
            edges = np.quantile(confidence[:, seed, chosen], [1 / 3, 2 / 3])
            terciles[:, seed] = np.searchsorted(edges, confidence[:, seed], side="left")
    return terciles


def mean(values: NDArray, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over the images of each stratum, then over the strata: (S,), NaN without any image.

    values: (S, N) or (N,), the same for every seed; NaN (a dead map) is left out. If there are fewer images
    than in `groups` (S, N'), they are the first ones.
    """
    values = np.broadcast_to(values, (len(groups), np.shape(values)[-1]))
    groups = groups[:, : values.shape[1]]
    rows = []
    for row, group in zip(values, groups, strict=True):
        finite = np.isfinite(row)
        means = [row[finite & (group == g)].mean() for g in range(3) if (finite & (group == g)).any()]
        rows.append(np.mean(means) if means else np.nan)
    return np.array(rows)
