"""Figures of what happens while a network trains: scores and maps of seed 0 at the recorded steps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from saqlib.scores import ANSWERS
from study.report import labels
from study.report.figures import legend
from study.report.pictures import PERCENTILE, grid, over, scale_bar, show_image, show_map
from study.report.style import DOUBLE, GREY, RED, in_order, looks, styled

SCORES = ("accuracy", *ANSWERS, "amplitude")  # from top to bottom
THICK, THIN = 1.3, 0.7  # lines of both ends of the order of precisions, and of what lies between
SWITCH = (0, (3, 2))
TICKS = (0, 50, 90, 99)  # of accuracies, on an axis on which each step is a tenth of the errors
LARGEST, GAP, HEAD = 0.62, 0.04, 0.7  # a map, in inches; above maps, and above those of a title, in maps
NO_ERRORS = 0.05  # percentage points below all errors: half an image of a thousand


@styled
def courses(during: pd.DataFrame) -> Figure:
    """Accuracy, the answers and the amplitude against the step, the switch to quantization marked.

    during: of study.frames.collect_during. One row per score, one column per dataset and training; both
    trainings of a dataset share an axis. One line per precision, with a band of one standard error over the images.
    """
    columns = list(during.groupby(["dataset", "training"], sort=False))
    size = (DOUBLE, 0.6 + 1.05 * len(SCORES))
    figure, panels = plt.subplots(len(SCORES), len(columns), figsize=size, sharex="col", squeeze=False)
    between = in_order(during.precision)[1:-1]
    lines = {precision: {"linestyle": "-", "color": look.colour, "linewidth": THIN if precision in between else THICK}
             for precision, look in looks(during.precision).items()}  # fmt: skip
    top = _percent(_nines(during.accuracy.max()) + 0.2)
    for line, score in zip(panels, SCORES, strict=True):
        line[0].set_ylabel(labels.question(score))
        shared: dict[str, Axes] = {}  # guided training is to be read beside standard training
        for axes, ((dataset, _), own) in zip(line, columns, strict=True):
            if shared.setdefault(dataset, axes) is not axes:
                axes.sharey(shared[dataset])
            _course(axes, own, score, lines)
            if score == "accuracy":
                axes.set_yscale("function", functions=(_nines, _percent))
                axes.set(yticks=[tick for tick in TICKS if tick <= top], ylim=(0, top))
    for axes, ((dataset, training), _) in zip(panels[0], columns, strict=True):
        axes.set_title(f"{labels.dataset(dataset)}, {training}")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    legend(figure, lines | {"switch to quantization": {"linestyle": SWITCH, "linewidth": 0.8}})
    return figure


def _course(axes: Axes, frame: pd.DataFrame, score: str, lines: Mapping[str, dict]) -> None:
    """The lines of one score; a dead map is a gap."""
    if frame[score].isna().all():
        axes.text(0.5, 0.5, "no fill qualifies", transform=axes.transAxes, ha="center", va="center", color=GREY)
    for precision, style in lines.items():
        own = frame[frame.precision == precision]
        axes.plot(own.step, own[score], **style)
        if f"{score}_se" in own:
            low, high = own[score] - own[f"{score}_se"], own[score] + own[f"{score}_se"]
            axes.fill_between(own.step, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if frame.switch.notna().any():
        axes.axvline(frame.switch.min(), color=GREY, linestyle=SWITCH, linewidth=0.8, zorder=0)
    axes.set_xlim(0, frame.step.max())


def _nines(percent: NDArray) -> NDArray:
    return -np.log10(np.clip(100 + NO_ERRORS - np.asarray(percent, dtype=float), NO_ERRORS / 2, None))


def _percent(nines: NDArray) -> NDArray:
    return 100 + NO_ERRORS - 10 ** -np.asarray(nines, dtype=float)


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
    rows = [("" if place else title, image, *named) for title, (image, courses) in records.items()
            for place, named in enumerate(courses.items())]  # fmt: skip
    columns = min(most, *(len(course.steps) for *_, course in rows))
    gaps = [HEAD if title else GAP for title, *_ in rows]
    figure, panels = grid([0, *[GAP] * columns], gaps, 0.95, 0.05, 0.05, 0.5, largest=LARGEST)
    for line, (title, image, name, course) in zip(panels, rows, strict=True):
        chosen = np.unique(np.linspace(0, len(course.steps) - 1, columns).round().astype(int))
        show_image(line[0], image)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        _row(line[1:], course, chosen)
        if title:
            over(line[0], title)
            for axes, words in zip(line, ["input", *(f"step {step}" for step in course.steps[chosen])], strict=True):
                axes.set_title(words)
    scale_bar(figure, f"|gradient of the true class's logit| / the panel's {PERCENTILE}th percentile")
    return figure


def _row(line: Sequence[Axes], course: Course, chosen: NDArray) -> None:
    """The chosen maps of one network, and a line where the first one of a quantized network begins."""
    for axes, r in zip(line, chosen, strict=True):
        show_map(axes, course.maps[r])
    quantized = course.steps[chosen] >= (np.inf if course.switch is None else course.switch)
    if quantized.any():
        axes = line[quantized.argmax()]
        axes.plot([-0.02] * 2, [-0.02, 1.02], transform=axes.transAxes, color=RED, linewidth=1.6, clip_on=False,
                  zorder=5)  # fmt: skip
