"""What every score of a saliency map starts from: its magnitude, its ranks, and whether it is dead.

Signed maps are accepted everywhere and their magnitude is taken here. A dead map (all zero, or not finite) becomes a
row of NaN, so that each score computed from it is NaN by arithmetic and can be counted; no denominator holds an
epsilon, which would make a score depend on the scale of the map.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def magnitude(maps: Tensor) -> Tensor:
    """Absolute values of maps (B, H, W) as float64 (B, H * W), NaN in the rows of dead maps.

    Raises ValueError for another shape.
    """
    return absolute(maps).double()


def absolute(maps: Tensor) -> Tensor:
    """As `magnitude`, but float32 maps stay float32: their order is found faster."""
    if maps.ndim != 3:
        raise ValueError(f"maps must have shape (images, height, width), not {tuple(maps.shape)}")
    values = maps.detach() if maps.dtype == torch.float32 else maps.detach().double()
    return values.abs().flatten(1).masked_fill(dead(maps)[:, None], torch.nan)


def dead(maps: Tensor) -> Tensor:
    """Which maps (B, H, W) say nothing, being all zero or not finite somewhere: bool (B,)."""
    flat = maps.flatten(1)
    return (flat == 0).all(1) | ~flat.isfinite().all(1)


# ------------------------------------------------------------------------------------------------------- ranks


def stable_ranks(values: Tensor, *, descending: bool = False) -> Tensor:
    """Place of each value in its sorted row, from 0: int64 (B, n).

    Among equals the earlier column comes first in both directions, so a constant row has one order; NaN, too.
    """
    values = values.nan_to_num(0.0).numpy(force=True)
    if not _has_keys(values):
        return torch.from_numpy(_scipy_ranks(-values if descending else values, "ordinal").astype(np.int64) - 1)
    order = _columns(_sorted_keys(values, descending=descending))
    return torch.from_numpy(_at(order, np.broadcast_to(np.arange(values.shape[1]), order.shape)))


def mid_ranks(values: Tensor) -> Tensor:
    """Rank of each value in its row, from 1, equal ones sharing the mean: float64 (B, n); a row with NaN is NaN."""
    values = values.numpy(force=True)
    if not _has_keys(values):
        return torch.from_numpy(_scipy_ranks(values, "average"))
    keys = _sorted_keys(values)
    last = values.shape[1] - 1
    places, rises = np.arange(last + 1), np.diff(keys >> VALUE_BITS, axis=1) != 0
    edge = np.ones((len(values), 1), bool)
    starts = np.where(np.hstack([edge, rises]), places, 0)
    ends = np.where(np.hstack([rises, edge]), places, last)
    first, final = np.maximum.accumulate(starts, 1), np.minimum.accumulate(ends[:, ::-1], 1)[:, ::-1]
    ranks = _at(_columns(keys), (first + final) / 2 + 1)
    ranks[np.isnan(values).any(1)] = np.nan
    return torch.from_numpy(ranks)


# A float32 that is not negative orders as its bits do. With the column in the lower half of a 64-bit key, one sort of
# integers, which NumPy does with vector instructions, finds an order whose ties go by column: five times as fast.
VALUE_BITS = np.uint64(32)


def _has_keys(values: NDArray) -> bool:
    return values.dtype == np.float32 and not (values < 0).any()


def _sorted_keys(values: NDArray[np.float32], *, descending: bool = False) -> NDArray[np.uint64]:
    """Each row's keys in ascending order: the value's bits (their complement when descending) above the column."""
    bits = (values + np.float32(0)).view(np.uint32)  # the sum makes 0 of -0
    keys = (~bits if descending else bits).astype(np.uint64) << VALUE_BITS
    keys |= np.arange(values.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    return keys


def _columns(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _at(order: NDArray[np.int64], values: NDArray) -> NDArray:
    """Each row's values moved to the columns that `order` names."""
    moved = np.empty_like(values)
    np.put_along_axis(moved, order, values, axis=1)
    return moved


def _scipy_ranks(values: NDArray, method: str) -> NDArray:
    from scipy.stats import rankdata  # takes a second, and maps of networks are float32

    return rankdata(values, method=method, axis=1)
