"""What is left at lower precision of what training gives a map: ratios of means, with their intervals."""

import numpy as np
import pandas as pd
from scipy import stats

from saqlib.evidence.statistics import Interval
from saqlib.names import FAITHFULNESS, PRIMARY

METRICS = (*PRIMARY, FAITHFULNESS)


def retained(runs: pd.DataFrame, untrained: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The retained share (C_b - C_untrained) / (C_ref - C_untrained): 1 keeps what the reference learned, 0 nothing.

    The ratio is that of the means over the seeds, since in a single seed the denominator may come close to 0, with
    Fieller's 95 % interval, which is not symmetric.

    Args:
        runs: one row per network.
        untrained: dataset, training, seed and the scores of the reference's network with weights drawn anew.
        reference: its precision.

    Returns:
        dataset, training, metric, precision, estimate, low, high; NaN where training does not raise the score: where
        the denominator is negative or its interval holds 0, a ratio is no share.
    """
    rows = []
    for (dataset, training), group in runs.groupby(["dataset", "training"], sort=False):
        there = (untrained.dataset == dataset) & (untrained.training == training)
        floor = untrained[there].set_index("seed")
        for metric in METRICS:
            table = group.pivot(index="seed", columns="precision", values=metric)
            gain = table.sub(floor[metric], axis=0)
            for precision in group.precision.unique():
                found = ratio(gain[precision], gain[reference])
                rows.append([dataset, training, metric, precision, *found])
    return pd.DataFrame(rows, columns=["dataset", "training", "metric", "precision", "estimate", "low", "high"])


def ratio(numerator: pd.Series, denominator: pd.Series) -> Interval:
    """The ratio of two means over the same seeds, and its interval (Fieller, 1954, J. R. Stat. Soc. B 16)."""
    pairs = pd.concat([numerator, denominator], axis=1).to_numpy(float)
    nothing = Interval(np.nan, np.nan, np.nan)
    if len(pairs) < 2 or not np.isfinite(pairs).all():
        return nothing
    (y, x), (yy, yx, _, xx) = pairs.mean(0), np.cov(pairs.T).ravel() / len(pairs)
    t = stats.t.ppf(0.975, len(pairs) - 1)
    # The interval holds every r for which the mean of y - r x is within t standard errors of 0.
    a, b, c = x**2 - t**2 * xx, x * y - t**2 * yx, y**2 - t**2 * yy
    if x <= 0 or a <= 0:  # training lowers the score, or the denominator's own interval holds 0
        return nothing
    half = np.sqrt(max(b**2 - a * c, 0.0))
    return Interval(y / x, (b - half) / a, (b + half) / a)
