"""What every score of a saliency map starts from: its magnitude, its ranks, and whether it is dead.

Signed maps are accepted everywhere and their magnitude is taken here, in float64. A dead map (all zero, or
not finite) becomes a row of NaN, so that each score computed from it is NaN by arithmetic and can be
counted; no denominator holds an epsilon, which would make a score depend on the scale of the map.
"""

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor


def magnitude(maps: Tensor) -> Tensor:
    """Absolute values of maps (B, H, W) as float64 (B, H * W), NaN in the rows of dead maps.

    Raises ValueError for another shape.
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must have shape (images, height, width), not {tuple(maps.shape)}")
    return maps.detach().double().abs().flatten(1).masked_fill(dead(maps)[:, None], torch.nan)


def dead(maps: Tensor) -> Tensor:
    """Which maps (B, H, W) say nothing, being all zero or not finite somewhere: bool (B,)."""
    flat = maps.flatten(1)
    return (flat == 0).all(1) | ~flat.isfinite().all(1)


def stable_ranks(values: Tensor, *, descending: bool = False) -> Tensor:
    """Place of each value in its sorted row, from 0: int64 (B, n).

    Among equals the earlier column comes first in both directions, so a constant row has one order; NaN, too.
    """
    keys = values.nan_to_num(0.0).numpy(force=True)
    return torch.from_numpy(rankdata(-keys if descending else keys, method="ordinal", axis=1).astype(np.int64) - 1)


def mid_ranks(values: Tensor) -> Tensor:
    """Rank of each value in its row, from 1, equal ones sharing the mean: float64 (B, n); a row with NaN is NaN."""
    return torch.from_numpy(rankdata(values.numpy(force=True), axis=1))
