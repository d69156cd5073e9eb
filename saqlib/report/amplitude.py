"""The amplitude of the gradient by precision: the most visible effect of few bits, which maps on scales of their own
do not show.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from saqlib import words
from saqlib.names import UNTRAINED
from saqlib.report.panels import training_lines
from saqlib.report.style import GREY, SINGLE, TRAINING_COLOURS, in_order, styled
from saqlib.report.tables import over_seeds

DASHES = (0, (5, 2))


@styled
def amplitude(runs: pd.DataFrame, untrained: pd.DataFrame) -> Figure:
    """Median magnitude over the precisions on a logarithmic axis: a small dot per network, large the means.

    untrained: dataset and amplitude of the reference's networks before training; a band spans them. One panel per
    dataset.
    """
    datasets = list(dict.fromkeys(runs.dataset))
    figure, panels = plt.subplots(1, len(datasets), figsize=(SINGLE, 1.9), sharey=True, squeeze=False)
    for dataset, axes in zip(datasets, panels[0], strict=True):
        before = untrained[untrained.dataset == dataset].amplitude
        axes.axhspan(before.min(), before.max(), facecolor=GREY, alpha=0.2, linewidth=0, zorder=0)
        axes.axhline(before.mean(), color=GREY, linewidth=0.8, linestyle=DASHES, zorder=1)
        _dots(axes, runs[runs.dataset == dataset])
        axes.set(title=words.dataset(dataset), yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    panels[0, 0].set_ylabel("median |gradient of the logit|")
    handles = [
        *training_lines(runs, line="none"),
        Line2D([], [], color=GREY, linewidth=0.9, linestyle=DASHES, label=words.CONTROLS[UNTRAINED]),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.0)
    return figure


def numbers(runs: pd.DataFrame) -> pd.DataFrame:
    """What is drawn: dataset, training, precision, metric, mean, low, high, seeds."""
    return over_seeds(runs, ["dataset", "training", "precision"], ["amplitude"])


def _dots(axes: Axes, runs: pd.DataFrame) -> None:
    """The networks of each training beside those of the other, and their mean."""
    precisions, trainings = in_order(runs.precision), list(dict.fromkeys(runs.training))
    for training in trainings:
        shift = 0.3 * (trainings.index(training) - (len(trainings) - 1) / 2)
        there = runs[runs.training == training]
        means = [there[there.precision == precision].amplitude.mean() for precision in precisions]
        at = np.arange(len(precisions)) + shift
        shade = TRAINING_COLOURS[training]
        axes.plot(_places(there.precision, precisions, shift), there.amplitude, color=shade, linestyle="none",
                  marker="o", markersize=1.8, alpha=0.5, zorder=2)  # fmt: skip
        axes.plot(at, means, color=shade, linewidth=0.7, marker="o", markersize=4, zorder=3)
    axes.set_xticks(range(len(precisions)), precisions)
    axes.set_xlim(-0.5, len(precisions) - 0.5)


def _places(values: pd.Series, precisions: Sequence[str], shift: float) -> np.ndarray:
    return values.map({precision: place for place, precision in enumerate(precisions)}).to_numpy(float) + shift
