"""Figures made of numbers: every seed is visible, means carry 95 % t-intervals, chance and controls are drawn in.

Each takes the frames that saqlib.collect reads and returns a matplotlib figure; saqlib.drawing.save writes it.
Pictures stand in saqlib.map_figures.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saqlib import words
from saqlib.clarity import PRIMARY
from saqlib.drawing import DOUBLE, GREY, SINGLE, TRAINING_COLOURS, colour, in_order, marker, styled
from saqlib.statistics import t_interval

# The controls of the bands, and the lines through their means; the table has all controls.
BANDS = {"reinit": (0, (5, 2)), "white_noise": (0, (1, 1.5)), "sobel": (0, (5, 1.5, 1, 1.5))}
CEILING = (0, (4, 2))
FEWEST_PIXELS = 0.005  # of all, below which a mean over them is noise


@styled
def trade_off(runs: pd.DataFrame) -> Figure:
    """Accuracy against each clarity score: a point a network, the precisions of a seed joined.

    A row a dataset, a column a score. Filled points: standard training; open ones: guided.
    """
    figure, panels = _panels(runs, PRIMARY, height=1.55)
    for dataset, line in panels.items():
        for metric, axes in line.items():
            for training, group in runs[runs.dataset == dataset].groupby("training", sort=False):
                _joined(axes, group, "test_accuracy", metric, filled=training == "standard")
            axes.set_xlabel(f"{words.dataset(dataset)} accuracy (%)")
            axes.set_ylabel(words.name(metric))
    handles = [*_precision_handles(runs), *_training_handles(runs)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _joined(axes: Axes, group: pd.DataFrame, x: str, y: str, filled: bool) -> None:
    """A thin line a seed through its precisions, small points, and a large one at each mean."""
    precisions = in_order(group.precision)
    for _, seed in group.groupby("seed"):
        seed = seed.set_index("precision").reindex(precisions)
        axes.plot(seed[x], seed[y], color=GREY, linewidth=0.4, alpha=0.6, zorder=1)
    for precision in precisions:
        points = group[group.precision == precision]
        face = colour(precision) if filled else "white"
        style = {"marker": marker(precision), "edgecolor": colour(precision), "facecolor": face}
        axes.scatter(points[x], points[y], s=6, linewidth=0.4, alpha=0.7, zorder=2, **style)
        axes.scatter(points[x].mean(), points[y].mean(), s=34, linewidth=1.0, zorder=3, **style)


@styled
def clarity(runs: pd.DataFrame, controls: pd.DataFrame, metrics: Sequence[str] = PRIMARY) -> Figure:
    """Each score over the precisions, every seed joined, with what controls score as grey bands.

    controls: dataset, training, control, seed and the scores. A band spans the controls of all seeds and
    trainings. A row a dataset, a column a score.
    """
    figure, panels = _panels(runs, metrics, height=1.75)
    for dataset, line in panels.items():
        there = controls[controls.dataset == dataset].groupby("control")
        for metric, axes in line.items():
            for control, dashes in BANDS.items():
                if control in there.groups:
                    _band(axes, there.get_group(control)[metric], GREY, dashes)
            _paired(axes, runs[runs.dataset == dataset], metric)
    _label_rows(panels)
    shown = [control for control in BANDS if control in set(controls.control)]
    bands = [_band_handle(BANDS[control], words.CONTROLS[control]) for control in shown]
    _training_legend(figure, runs, bands)
    return figure


@styled
def preservation(runs: pd.DataFrame, ceiling: pd.DataFrame) -> Figure:
    """Likeness to the same seed's fp32 map over the precisions, with the likeness of two fp32 seeds as ceiling.

    ceiling: dataset, training, seed and the columns preservation_* of the runs; a band spans its seeds.
    """
    metrics = [column for column in runs if column.startswith("preservation_")]
    quantized = runs[runs.precision != "fp32"]
    figure, panels = _panels(quantized, metrics, height=1.7)
    for dataset, line in panels.items():
        for metric, axes in line.items():
            for training, group in ceiling[ceiling.dataset == dataset].groupby("training", sort=False):
                _band(axes, group[metric], TRAINING_COLOURS[training], CEILING)
            _paired(axes, quantized[quantized.dataset == dataset], metric)
    _label_rows(panels)
    _training_legend(figure, runs, [_band_handle(CEILING, "two fp32 seeds of that training")])
    return figure


def _paired(axes: Axes, runs: pd.DataFrame, metric: str) -> None:
    """A dot a network, the precisions of a seed joined, mean and interval beside them; trainings side by side."""
    precisions = in_order(runs.precision)
    trainings = list(dict.fromkeys(runs.training))
    for training in trainings:
        table = runs[runs.training == training].pivot(index="precision", columns="seed", values=metric)
        table = table.reindex(precisions)
        shift = 0.22 * (trainings.index(training) - (len(trainings) - 1) / 2)
        at = np.arange(len(precisions)) + shift
        shade = TRAINING_COLOURS[training]
        axes.plot(at, table, color=shade, linewidth=0.4, alpha=0.35, zorder=2)
        axes.plot(at, table, color=shade, linestyle="none", marker="o", markersize=1.6, alpha=0.55, zorder=3)
        _mean_points(axes, at + np.sign(shift or 1) * 0.12, table.to_numpy(float), shade)
    _fit(axes)
    axes.set_xticks(range(len(precisions)), precisions)
    axes.set_xlim(-0.5, len(precisions) - 0.5)


def _fit(axes: Axes) -> None:
    """Limits from seeds, means and the lines of bands, not from intervals: those of few seeds are huge."""
    heights = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    heights = heights[np.isfinite(heights)]
    if len(heights):
        margin = 0.08 * np.ptp(heights) or 0.01
        axes.set_ylim(heights.min() - margin, heights.max() + margin)


def _mean_points(axes: Axes, at: np.ndarray, table: np.ndarray, shade: str) -> None:
    """Mean and 95 % t-interval of each row at its place; with one seed the mean alone."""
    for x, values in zip(at, table, strict=True):
        values = values[np.isfinite(values)]
        if len(values) == 0:
            continue
        mean, low, high = t_interval(values) if len(values) > 1 else (values[0],) * 3
        axes.errorbar(
            x, mean, [[mean - low], [high - mean]], color=shade, marker="o", markersize=3.2, elinewidth=0.9,
            zorder=4,
        )  # fmt: skip


def _band(axes: Axes, values: pd.Series, shade: str, dashes: tuple) -> None:
    """A band from the least to the greatest value, with a line through the mean."""
    values = values[np.isfinite(values)]
    if len(values):
        axes.axhspan(values.min(), values.max(), facecolor=shade, alpha=0.2, linewidth=0, zorder=0)
        axes.axhline(values.mean(), color=shade, linewidth=0.8, linestyle=dashes, zorder=1)


def _band_handle(dashes: tuple, label: str) -> Line2D:
    return Line2D([], [], color=GREY, linewidth=0.9, linestyle=dashes, label=label)


def _label_rows(panels: dict[str, dict[str, Axes]]) -> None:
    """Scores above the first row, datasets before each row."""
    for metric, axes in next(iter(panels.values())).items():
        axes.set_title(words.heading(metric))
    for dataset, line in panels.items():
        next(iter(line.values())).set_ylabel(words.dataset(dataset), weight="bold")


# ------------------------------------------------------------------------------------------------- curves


@styled
def curves(frame: pd.DataFrame) -> Figure:
    """Probability of the predicted class as pixels are removed; the shaded area is the relevance gain.

    frame: dataset, training, precision, seed, level (share of removed pixels), and most, least, random (the
    value with the most salient, the least salient, or random pixels removed first). A row a dataset and
    training, a column a precision. Lines are means over the seeds, thin ones the seeds.
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
            _removal(axes, there[there.precision == precision])
        line[0].set_ylabel(f"{words.dataset(dataset)}, {training}\nprobability")
    for precision, axes in zip(precisions, panels[0], strict=True):
        axes.set_title(precision)
    for axes in panels[-1]:
        axes.set(xlabel="pixels removed (%)", xlim=(0, 100), ylim=(0, 1.2), yticks=[0, 0.5, 1])
    handles = [
        Line2D([], [], color=REMOVALS["least"][1], label="least salient first"),
        Line2D([], [], color=REMOVALS["random"][1], linestyle="--", label="random"),
        Line2D([], [], color=REMOVALS["most"][1], label="most salient first"),
        plt.Rectangle((0, 0), 1, 1, facecolor=GAIN_COLOUR, label="relevance gain"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


@styled
def deletion_accuracy(frame: pd.DataFrame) -> Figure:
    """Test accuracy as the most salient pixels are removed, and beside it as random ones are.

    frame: dataset, training, precision, seed, level (share of removed pixels), most and random (accuracy in
    percent). A row a dataset, a column a training, a line a precision: the mean over the seeds.
    """
    trainings = list(dict.fromkeys(frame.training))
    figure, panels = _panels(frame, trainings, height=1.7)
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
    handles = [*_precision_handles(frame), *lines]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


@styled
def outline(frame: pd.DataFrame) -> Figure:
    """How the gradient's magnitude is spread around the object's outline; the object's side is shaded.

    frame: dataset, training, precision, distance (pixels, negative outside), relative (magnitude, 1 is the map's mean)
    and pixels (their share; places with few are left out). A row a dataset, a column a training, a line a precision.
    """
    trainings = list(dict.fromkeys(frame.training))
    frame = frame[frame.pixels >= FEWEST_PIXELS]
    figure, panels = _panels(frame, trainings, height=1.6)
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
    for axes in line.values():
        axes.set_xlabel("distance from the outline (pixels, negative outside)")
    lines = [Line2D([], [], color=GREY, linestyle="--", linewidth=0.7, label="mean of the map"),
             plt.Rectangle((0, 0), 1, 1, facecolor=GAIN_COLOUR, label="object")]  # fmt: skip
    handles = [*_precision_handles(frame), *lines]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


REMOVALS = {"least": ("-", "#0072B2"), "random": ("--", "#555555"), "most": ("-", "#D55E00")}
GAIN_COLOUR = "#e3e3e3"


def _removal(axes: Axes, group: pd.DataFrame) -> None:
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


@styled
def training(history: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """How one cell learned: loss and accuracy, and of each PACT layer alpha, clipped inputs and zero outputs.

    history: seed, epoch, loss, validation_accuracy; layers: seed, epoch, layer, alpha, clipped, zero (empty
    for a full-precision network, whose figure has the first two panels alone). A thin line a seed, a thick one their
    mean.
    """
    panels = {
        "loss": (history, "training loss"),
        "validation_accuracy": (history, "validation accuracy (%)"),
        "alpha": (layers, "clip alpha"),
        "clipped": (layers, "inputs clipped (%)"),
        "zero": (layers, "outputs zero (%)"),
    }
    shown = {name: panel for name, panel in panels.items() if len(panel[0])}
    figure, axes = plt.subplots(1, len(shown), figsize=(DOUBLE if len(layers) else SINGLE, 1.7))
    for panel, (name, (frame, label)) in zip(axes, shown.items(), strict=True):
        factor = 100 if name in ("clipped", "zero") else 1
        groups = frame.groupby("layer") if frame is layers else [("", frame)]
        for (layer, group), shade in zip(groups, LAYER_COLOURS, strict=False):
            table = factor * group.pivot(index="epoch", columns="seed", values=name)
            panel.plot(table, color=shade, linewidth=0.4, alpha=0.4)
            panel.plot(table.mean(axis=1), color=shade, marker="o", markersize=2.5, label=layer)
        panel.set(xlabel="epoch", title=label, xticks=_whole(history.epoch))
    if len(layers):
        figure.legend(*axes[2].get_legend_handles_labels(), loc="outside right center")
    return figure


LAYER_COLOURS = ("#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7")


def _whole(epochs: pd.Series) -> list[int]:
    """At most six epochs to mark."""
    last = int(epochs.max())
    return list(range(1, last + 1, -(-last // 6)))


# --------------------------------------------------------------------------------- distributions, deployment


@styled
def gradients(sample: pd.DataFrame) -> Figure:
    """Distribution of the signed gradient values of each precision, standard against guided training.

    sample: dataset, precision, training, gradient. Values beyond the 98th percentile of magnitude of a
    dataset are left out.
    """
    datasets = list(dict.fromkeys(sample.dataset))
    figure, panels = plt.subplots(1, len(datasets), figsize=(DOUBLE, 2.0), squeeze=False)
    for dataset, axes in zip(datasets, panels[0], strict=True):
        group = sample[sample.dataset == dataset]
        limit = np.percentile(group.gradient.abs(), 98)
        trainings = list(dict.fromkeys(group.training))
        sns.violinplot(
            group[group.gradient.abs() <= limit], x="precision", y="gradient", hue="training", ax=axes,
            order=in_order(group.precision), hue_order=trainings, split=len(trainings) == 2, inner="quart",
            palette=TRAINING_COLOURS, density_norm="width", linewidth=0.5, cut=0, gap=0.08, saturation=1,
            legend=False,
        )  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
        axes.set(title=words.dataset(dataset), xlabel="", ylabel="", ylim=(-limit, limit))
    panels[0, 0].set_ylabel("gradient of the logit by a pixel")
    figure.legend(handles=_training_lines(sample, "s", "none"), loc="outside upper center", ncols=2)
    return figure


@styled
def pareto(frame: pd.DataFrame, metrics: Sequence[str] = ("test_accuracy", "retained_gini")) -> Figure:
    """Size of the packed network against what it keeps; the line joins what no smaller network beats.

    frame: dataset, precision, training, packed_bytes and the metrics, one row a cell. A row a dataset, a
    column a metric; a metric without any value is left out.
    """
    metrics = [metric for metric in metrics if frame[metric].notna().any()]
    figure, panels = _panels(frame, metrics, height=1.6, width=DOUBLE if len(metrics) > 2 else SINGLE * 1.5)
    for dataset, line in panels.items():
        for metric, axes in line.items():
            group = frame[frame.dataset == dataset]
            for row in group.itertuples():
                face = colour(row.precision) if row.training == "standard" else "white"
                axes.scatter(
                    row.packed_bytes / 1000, getattr(row, metric), s=26, marker=marker(row.precision),
                    facecolor=face, edgecolor=colour(row.precision), linewidth=1.0, zorder=2,
                )  # fmt: skip
            best = front(group, "packed_bytes", metric)
            axes.step(best.packed_bytes / 1000, best[metric], where="post", color=GREY, linewidth=0.8, zorder=1)
            axes.set(xscale="log", xlabel="packed size (kB)")
            axes.margins(0.12)
            _plain_log_ticks(axes, group.packed_bytes / 1000)
            axes.set_ylabel(words.name(metric))
            axes.set_title(words.dataset(dataset))
    handles = [*_precision_handles(frame), *_training_handles(frame)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if len(metrics) > 2 else 3)
    return figure


def front(frame: pd.DataFrame, cost: str, value: str) -> pd.DataFrame:
    """The rows that no row of equal or smaller cost beats in value, in the order of cost."""
    ordered = frame.sort_values([cost, value], ascending=[True, False], kind="stable")
    best = ordered[value].cummax().shift(fill_value=-np.inf)
    return ordered[ordered[value] > best]


def _plain_log_ticks(axes: Axes, values: pd.Series) -> None:
    low, high = values.min(), values.max()
    steps = [step * 10.0**power for power in range(-2, 6) for step in (1, 2, 5)]
    inside = [step for step in steps if low / 1.3 <= step <= high * 1.3]
    axes.set_xticks(inside, [f"{step:g}" for step in inside])
    axes.minorticks_off()


# ----------------------------------------------------------------------------------------- common pieces


def _panels(
    frame: pd.DataFrame, metrics: Sequence[str], height: float, width: float = DOUBLE
) -> tuple[Figure, dict[str, dict[str, Axes]]]:
    """A row a dataset, a column a score; the panels by dataset and score."""
    datasets = list(dict.fromkeys(frame.dataset))
    size = (width, 0.3 + height * len(datasets))
    figure, panels = plt.subplots(len(datasets), len(metrics), figsize=size, squeeze=False)
    by_name = {dataset: dict(zip(metrics, line, strict=True)) for dataset, line in zip(datasets, panels, strict=True)}
    return figure, by_name


def _precision_handles(frame: pd.DataFrame) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="none", marker=marker(p), color=colour(p), label=p) for p in in_order(frame.precision)
    ]


def _training_handles(frame: pd.DataFrame) -> list[Line2D]:
    """Filled for standard, open for the others."""
    return [
        Line2D([], [], linestyle="none", marker="o", markeredgecolor=GREY,
               markerfacecolor=GREY if t == "standard" else "white", label=f"{t} training")
        for t in dict.fromkeys(frame.training)
    ]  # fmt: skip


def _training_lines(frame: pd.DataFrame, marker: str = "o", line: str = "-") -> list[Line2D]:
    """Each training in its colour."""
    return [
        Line2D([], [], color=TRAINING_COLOURS[t], label=f"{t} training", marker=marker, linestyle=line)
        for t in dict.fromkeys(frame.training)
    ]


def _training_legend(figure: Figure, frame: pd.DataFrame, more: Sequence[Line2D] = ()) -> None:
    handles = [*_training_lines(frame), *more]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
