"""What scores do while networks train: results/during/<cell>.csv of every cell as one frame.

Of seed 0 and on validation images, so it describes and decides nothing.
"""

from pathlib import Path

import pandas as pd

from saqlib import paths
from saqlib.evidence import reading
from saqlib.grid import Grid
from saqlib.names import FAITHFULNESS, RELEVANCE_GAIN

KEYS = ["dataset", "training", "precision", "step"]


def collect_during(grid: Grid, root: Path = paths.ROOT) -> pd.DataFrame:
    """One row per cell and recorded step.

    Returns:
        dataset, training, precision, step, switch (NaN in full precision), accuracy in percent, the scores and
        `faithfulness`, the mean over the fills that qualify, NaN where none does. Each score has its standard error
        over the images, `<score>_se`; that of faithfulness is the mean of the fills' errors, which is never less than
        the error of their mean.

    Raises:
        MissingError: a file is missing; the message names the stage.
    """
    frames = []
    for dataset in grid.datasets:
        fills = reading.fills(dataset, root)
        for cell in (cell for cell in grid.cells if cell.dataset == dataset):
            found = reading.during(cell, root)
            for end in ("", "_se"):
                found[f"{FAITHFULNESS}{end}"] = found[[f"{RELEVANCE_GAIN}_{fill}{end}" for fill in fills]].mean(
                    axis=1, skipna=False
                )
            frames.append(found.assign(dataset=dataset, training=cell.training, precision=cell.precision))
    together = pd.concat(frames, ignore_index=True)
    return together[[*KEYS, *together.columns.drop(KEYS)]]


def around_the_switch(during: pd.DataFrame) -> pd.DataFrame:
    """Of each cell the last row before its switch and its last row of all, one below the other, with `when`.

    `when` is `before` or `end`. In full precision, which never switches, the switch of the dataset and training's
    other cells counts; without any there is no `before`.
    """
    rows = []
    for (dataset, training, _), group in during.groupby(KEYS[:3], sort=False):
        beside = during[(during.dataset == dataset) & (during.training == training)]
        before = group[group.step < beside.switch.min()]
        rows += [before.tail(1).assign(when="before"), group.tail(1).assign(when="end")]
    return pd.concat(rows, ignore_index=True)
