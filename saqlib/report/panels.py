"""What figures of several panels share: the panels themselves, and what their legends say."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saqlib.report.style import DOUBLE, GREY, TRAINING_COLOURS, colour, in_order, marker


def panels_of(
    frame: pd.DataFrame, metrics: Sequence[str], height: float, width: float = DOUBLE
) -> tuple[Figure, dict[str, dict[str, Axes]]]:
    """One row per dataset, one column per score; the panels by dataset and score."""
    datasets = list(dict.fromkeys(frame.dataset))
    size = (width, 0.3 + height * len(datasets))
    figure, panels = plt.subplots(len(datasets), len(metrics), figsize=size, squeeze=False)
    by_name = {dataset: dict(zip(metrics, line, strict=True)) for dataset, line in zip(datasets, panels, strict=True)}
    return figure, by_name


def precision_handles(frame: pd.DataFrame) -> list[Line2D]:
    """Each precision in its colour and with its marker."""
    return [
        Line2D([], [], linestyle="none", marker=marker(p), color=colour(p), label=p) for p in in_order(frame.precision)
    ]


def training_handles(frame: pd.DataFrame) -> list[Line2D]:
    """Filled for standard, open for the others."""
    return [
        Line2D([], [], linestyle="none", marker="o", markeredgecolor=GREY,
               markerfacecolor=GREY if t == "standard" else "white", label=f"{t} training")
        for t in dict.fromkeys(frame.training)
    ]  # fmt: skip


def training_lines(frame: pd.DataFrame, marker: str = "o", line: str = "-") -> list[Line2D]:
    """Each training in its colour."""
    return [
        Line2D([], [], color=TRAINING_COLOURS[t], label=f"{t} training", marker=marker, linestyle=line)
        for t in dict.fromkeys(frame.training)
    ]


def training_legend(figure: Figure, frame: pd.DataFrame, more: Sequence[Line2D] = ()) -> None:
    """A legend above the panels: the trainings, then what else there is."""
    handles = [*training_lines(frame), *more]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
