"""Figures of what happens while a network trains: scores and maps of seed 0 at the recorded steps."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from saqlib import words
from saqlib.names import FAITHFULNESS
from saqlib.report.pictures import PERCENTILE, scale_bar, show_image, show_map
from saqlib.report.style import DOUBLE, GREY, RED, colour, in_order, styled
from saqlib.report.tables import Table, number

ROWS = {
    "accuracy": "Accuracy (%)",
    "gini": "Focus",
    "morans_i": "Coherence",
    FAITHFULNESS: "Faithfulness",
    "amplitude": "Amplitude",
}
WIDTHS = {"fp32": 1.3, "w2a2": 1.3}  # both ends of the scale of precisions; what lies between is drawn thinner
SWITCH = (0, (3, 2))
TICKS = (0, 50, 90, 99)  # of accuracies, on an axis on which each step is a tenth of the errors
LARGEST = 0.62  # inches, of a map
NO_ERRORS = 0.05  # percentage points below all errors: half an image of a thousand


@styled
def courses(during: pd.DataFrame) -> Figure:
    """Accuracy, the answers and the amplitude against the step, the switch to quantization marked.

    during: of saqlib.evidence.during.collect_during. One row per score, one column per dataset and training; both
    trainings of a dataset share an axis. One line per precision, with a band of one standard error over the images.
    """
    columns = list(during[["dataset", "training"]].drop_duplicates().itertuples(index=False, name=None))
    size = (DOUBLE, 0.6 + 1.05 * len(ROWS))
    figure, panels = plt.subplots(len(ROWS), len(columns), figsize=size, sharex="col", squeeze=False)
    for column, (dataset, training) in zip(panels.T, columns, strict=True):
        there = during[(during.dataset == dataset) & (during.training == training)]
        for axes, score in zip(column, ROWS, strict=True):
            _course(axes, there, score)
        column[0].set_title(f"{words.dataset(dataset)}, {training}")
        column[-1].set_xlabel("step")
    for line, (score, label) in zip(panels, ROWS.items(), strict=True):
        line[0].set_ylabel(label)
        if score == "accuracy":
            top = _percent(_nines(during.accuracy.max()) + 0.2)
            for axes in line:
                axes.set_yscale("function", functions=(_nines, _percent))
                axes.set(yticks=[tick for tick in TICKS if tick <= top], ylim=(0, top))
        else:
            _share(line, [dataset for dataset, _ in columns])
    handles = [
        Line2D([], [], color=colour(p), linewidth=WIDTHS.get(p, 0.7), label=p) for p in in_order(during.precision)
    ]
    handles.append(Line2D([], [], color=GREY, linestyle=SWITCH, linewidth=0.8, label="switch to quantization"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _course(axes: Axes, there: pd.DataFrame, score: str) -> None:
    """The lines of one score; a dead map is a gap."""
    if there[score].isna().all():
        axes.text(0.5, 0.5, "no fill qualifies", transform=axes.transAxes, ha="center", va="center", color=GREY)
    for precision in in_order(there.precision):
        group = there[there.precision == precision]
        axes.plot(group.step, group[score], color=colour(precision), linewidth=WIDTHS.get(precision, 0.7))
        if f"{score}_se" in group:
            low, high = group[score] - group[f"{score}_se"], group[score] + group[f"{score}_se"]
            axes.fill_between(group.step, low, high, color=colour(precision), alpha=0.15, linewidth=0)
    if there.switch.notna().any():
        axes.axvline(there.switch.min(), color=GREY, linestyle=SWITCH, linewidth=0.8, zorder=0)
    axes.set_xlim(0, there.step.max())


def _nines(percent: NDArray) -> NDArray:
    return -np.log10(np.clip(100 + NO_ERRORS - np.asarray(percent, dtype=float), NO_ERRORS / 2, None))


def _percent(nines: NDArray) -> NDArray:
    return 100 + NO_ERRORS - 10 ** -np.asarray(nines, dtype=float)


def _share(line: NDArray, datasets: list[str]) -> None:
    """The same limits for all panels of a dataset: guided training is to be read beside standard training."""
    for dataset in dict.fromkeys(datasets):
        own = [axes for axes, name in zip(line, datasets, strict=True) if name == dataset]
        limits = np.array([axes.get_ylim() for axes in own])
        for axes in own:
            axes.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def table(around: pd.DataFrame) -> Table:
    """What stands before the switch and at the end, as saqlib.evidence.during.around_the_switch gives it."""
    shown = {
        "Dataset": around.dataset.map(words.dataset),
        "Training": around.training,
        "Precision": around.precision,
        "Step": around.step.astype(str) + np.where(around.when == "before", " (before the switch)", " (end)"),
    }
    shown |= {label: around[score].map(lambda x, d=1 if score == "accuracy" else 3: number(x, d))
              for score, label in ROWS.items()}  # fmt: skip
    return Table("during", around[["dataset", "training", "precision", "when", "step", *ROWS]], pd.DataFrame(shown))


class Course(NamedTuple):
    """The maps of one image while one network trains: steps (R,), maps (R, 28, 28), and where quantization begins."""

    steps: NDArray
    maps: NDArray
    switch: int | None


@styled
def training_maps(records: Mapping[str, tuple[NDArray, Mapping[str, Course]]], most: int = 9) -> Figure:
    """How the maps of an image come about while networks train, one network a row, the switch to quantization marked.

    records: for each title the image, uint8 (28, 28), and the course of each network by what stands beside its row. All
    courses of a title have the same steps, of which up to `most` are shown, evenly chosen. Each panel has its own
    scale.
    """
    count = sum(len(courses) for _, courses in records.values())
    columns = min(most, min(len(course.steps) for _, courses in records.values() for course in courses.values()))
    left, head, below = 0.95, 0.45, 0.5  # inches
    side = min(LARGEST, (DOUBLE - left - 0.05) / (columns + 1))
    right = (left + side * (columns + 1)) / DOUBLE
    height = count * side + head * len(records) + below
    figure = plt.figure(figsize=(DOUBLE, height), layout="none")
    ceiling = height
    for title, (image, courses) in records.items():
        bottom = ceiling - head - len(courses) * side
        panels = figure.add_gridspec(
            len(courses), columns + 1, left=left / DOUBLE, right=right, wspace=0.04, hspace=0.04,
            top=(ceiling - head) / height, bottom=bottom / height,
        ).subplots(squeeze=False)  # fmt: skip
        for line, (name, course) in zip(panels, courses.items(), strict=True):
            _row(line, image, name, course)
        panels[0, 0].set_title("input")
        for axes, r in zip(panels[0, 1:], _chosen(course.steps, columns), strict=True):
            axes.set_title(f"step {course.steps[r]}")
        figure.text(left / DOUBLE, (ceiling - 0.1) / height, title, weight="bold", va="top", size=7.5)
        ceiling = bottom
    scale_bar(figure, f"|gradient of the true class's logit| / the panel's {PERCENTILE}th percentile")
    return figure


def _row(line: NDArray, image: NDArray, name: str, course: Course) -> None:
    """One network: its name, the image, its maps, and a line where the first one of a quantized network begins."""
    show_image(line[0], image)
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    chosen = _chosen(course.steps, len(line) - 1)
    for axes, r in zip(line[1:], chosen, strict=True):
        show_map(axes, course.maps[r])
    quantized = [] if course.switch is None else [i for i, r in enumerate(chosen) if course.steps[r] >= course.switch]
    if quantized:
        line[1 + quantized[0]].plot([-0.02, -0.02], [-0.02, 1.02], transform=line[1 + quantized[0]].transAxes,
                                    color=RED, linewidth=1.6, clip_on=False, zorder=5)  # fmt: skip


def _chosen(steps: NDArray, count: int) -> NDArray:
    """The places of `count` records, the first and the last among them."""
    return np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))
