"""Figures over something that is removed or walked along: pixels that leave, and distance from the outline."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saqlib import words
from saqlib.report.panels import panels_of, precision_handles
from saqlib.report.style import DOUBLE, GREY, colour, in_order, marker, styled

FEWEST_PIXELS = 0.005  # of all, below which a mean over them is noise
REMOVALS = {"least": ("-", "#0072B2"), "random": ("--", "#555555"), "most": ("-", "#D55E00")}
GAIN_COLOUR = "#e3e3e3"


@styled
def removal(frame: pd.DataFrame) -> Figure:
    """Probability of the predicted class as pixels become 0; the shaded area is the relevance gain with that fill.

    frame: dataset, training, precision, seed, level (share of removed pixels), and most, least, random (the
    value with the most salient, the least salient, or random pixels removed first). One row per dataset and
    training, one column per precision. Lines are means over the seeds, thin ones the seeds.
    """
    precisions = in_order(frame.precision)
    rows = list(frame[["dataset", "training"]].drop_duplicates().itertuples(index=False, name=None))
    figure, panels = plt.subplots(
        len(rows), len(precisions), figsize=(DOUBLE, 0.45 + 1.25 * len(rows)), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for (dataset, training), line in zip(rows, panels, strict=True):
        there = frame[(frame.dataset == dataset) & (frame.training == training)]
        for precision, axes in zip(precisions, line, strict=True):
            _one(axes, there[there.precision == precision])
        line[0].set_ylabel(f"{words.dataset(dataset)}, {training}\nprobability")
    for precision, axes in zip(precisions, panels[0], strict=True):
        axes.set_title(precision)
    for axes in panels[-1]:
        axes.set(xlabel="pixels removed (%)", xlim=(0, 100), ylim=(0, 1.2), yticks=[0, 0.5, 1])
    handles = [
        Line2D([], [], color=REMOVALS["least"][1], label="least salient first"),
        Line2D([], [], color=REMOVALS["random"][1], linestyle="--", label="random"),
        Line2D([], [], color=REMOVALS["most"][1], label="most salient first"),
        plt.Rectangle((0, 0), 1, 1, facecolor=GAIN_COLOUR, label=words.name("relevance_gain_zero")),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


@styled
def deletion_accuracy(frame: pd.DataFrame) -> Figure:
    """Test accuracy as the most salient pixels become 0, and beside it as random ones do.

    frame: dataset, training, precision, seed, level (share of removed pixels), most and random (accuracy in percent).
    One row per dataset, one column per training, one line per precision: the mean over the seeds.
    """
    trainings = list(dict.fromkeys(frame.training))
    figure, panels = panels_of(frame, trainings, height=1.7)
    for dataset, line in panels.items():
        for training, axes in line.items():
            group = frame[(frame.dataset == dataset) & (frame.training == training)]
            for precision in in_order(group.precision):
                mean = group[group.precision == precision].groupby("level")[["most", "random"]].mean()
                axes.plot(100 * mean.index, mean.random, color=colour(precision), linestyle="--", linewidth=0.7)
                axes.plot(100 * mean.index, mean.most, color=colour(precision), marker=marker(precision))
            axes.set(title=f"{words.dataset(dataset)}, {training} training", xlim=(0, 90), ylim=(0, 102))
        next(iter(line.values())).set_ylabel("test accuracy (%)")
    for axes in line.values():
        axes.set_xlabel("pixels removed (%)")
    lines = [Line2D([], [], color=GREY, label="most salient first"),
             Line2D([], [], color=GREY, linestyle="--", linewidth=0.7, label="random")]  # fmt: skip
    handles = [*precision_handles(frame), *lines]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


@styled
def outline(frame: pd.DataFrame) -> Figure:
    """How the gradient's magnitude is spread around the object's outline; the object's side is shaded.

    frame: dataset, training, precision, distance (pixels, negative outside), relative (magnitude, 1 is the map's mean)
    and pixels (their share; places with few are left out). One row per
    dataset, one column per training, one line per precision.
    """
    trainings = list(dict.fromkeys(frame.training))
    frame = frame[frame.pixels >= FEWEST_PIXELS]
    figure, panels = panels_of(frame, trainings, height=1.6)
    span = frame.distance.min(), frame.distance.max()
    for dataset, line in panels.items():
        top = 1.1 * frame[frame.dataset == dataset].relative.max()
        for training, axes in line.items():
            group = frame[(frame.dataset == dataset) & (frame.training == training)]
            axes.axvspan(0, span[1], color=GAIN_COLOUR, linewidth=0)
            axes.axhline(1, color=GREY, linestyle="--", linewidth=0.7)
            for precision in in_order(group.precision):
                there = group[group.precision == precision]
                axes.plot(there.distance, there.relative, color=colour(precision), marker=marker(precision))
            axes.set(title=f"{words.dataset(dataset)}, {training} training", xlim=span, ylim=(0, top))
        next(iter(line.values())).set_ylabel("magnitude / mean")
    figure.supxlabel("distance from the outline (pixels, negative outside)", size=7)
    lines = [Line2D([], [], color=GREY, linestyle="--", linewidth=0.7, label="mean of the map"),
             plt.Rectangle((0, 0), 1, 1, facecolor=GAIN_COLOUR, label="object")]  # fmt: skip
    handles = [*precision_handles(frame), *lines]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _one(axes: Axes, group: pd.DataFrame) -> None:
    if group.empty:
        axes.set_axis_off()
        return
    mean = group.groupby("level")[list(REMOVALS)].mean()
    percent = 100 * mean.index
    axes.fill_between(percent, mean.most, mean.least, facecolor=GAIN_COLOUR, linewidth=0)
    for name, (line, shade) in REMOVALS.items():
        axes.plot(percent, mean[name], color=shade, linestyle=line)
        for _, seed in group.groupby("seed"):
            axes.plot(100 * seed.level, seed[name], color=shade, linewidth=0.3, alpha=0.4)
    gain = np.trapezoid(mean.least - mean.most, mean.index)
    text = f"area {gain:.2f}".replace("-", "−")
    axes.text(0.98, 1.0, text, transform=axes.transAxes, ha="right", va="top")
