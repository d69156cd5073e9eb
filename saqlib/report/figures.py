"""Figures made of scores: every seed is visible, means carry 95 % t-intervals, chance and controls are drawn in.

Each takes the frames that saqlib.evidence.runs collects and returns a matplotlib figure; saqlib.report.style.save
writes it. Curves stand in saqlib.report.curves, pictures in saqlib.report.pictures.
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
from saqlib.evidence.statistics import t_interval
from saqlib.names import ANSWERS, FAITHFULNESS, UNTRAINED
from saqlib.report.panels import panels_of, precision_handles, training_handles, training_legend, training_lines
from saqlib.report.style import DOUBLE, GREY, SINGLE, TRAINING_COLOURS, colour, in_order, marker, styled

# The controls of the bands, and the lines through their means; the table has all controls.
BANDS = {UNTRAINED: (0, (5, 2)), "white_noise": (0, (1, 1.5)), "intensity": (0, (5, 1.5, 1, 1.5))}
SEED_TO_SEED = (0, (4, 2))
SHOWN = (*ANSWERS, "amplitude")  # what answers a question, and what is seen first


@styled
def trade_off(runs: pd.DataFrame, metric: str = FAITHFULNESS) -> Figure:
    """Accuracy against one score of maps: one point per network, the precisions of a seed joined.

    One panel per dataset on which the score was measured. Filled points: standard training; open ones: guided.
    """
    there = runs[runs[metric].notna()]
    datasets = list(dict.fromkeys(there.dataset)) or list(dict.fromkeys(runs.dataset))
    figure, panels = plt.subplots(len(datasets), 1, figsize=(SINGLE, 0.4 + 1.75 * len(datasets)), squeeze=False)
    for dataset, axes in zip(datasets, panels[:, 0], strict=True):
        for training, group in runs[runs.dataset == dataset].groupby("training", sort=False):
            _joined(axes, group, "test_accuracy", metric, filled=training == "standard")
        axes.set(ylabel=words.name(metric), title=words.dataset(dataset))
    axes.set_xlabel("test accuracy (%)")
    handles = [*precision_handles(runs), *training_handles(runs)]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _joined(axes: Axes, group: pd.DataFrame, x: str, y: str, filled: bool) -> None:
    """A thin line per seed through its precisions, small points, and a large one at each mean."""
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
def clarity(runs: pd.DataFrame, controls: pd.DataFrame, metrics: Sequence[str] = SHOWN) -> Figure:
    """Each score over the precisions, every seed joined, with what controls score as grey bands.

    controls: dataset, training, control, seed and the scores. A band spans the controls of all seeds and
    trainings. One row per dataset, one column per score.
    """
    figure, panels = panels_of(runs, metrics, height=1.75)
    for dataset, line in panels.items():
        there = controls[controls.dataset == dataset].groupby("control")
        for metric, axes in line.items():
            for control, dashes in BANDS.items():
                if control in there.groups and metric in controls:
                    _band(axes, there.get_group(control)[metric], GREY, dashes)
            _paired(axes, runs[runs.dataset == dataset], metric)
    _label_rows(panels)
    shown = [control for control in BANDS if control in set(controls.control)]
    bands = [_band_handle(BANDS[control], words.CONTROLS[control]) for control in shown]
    training_legend(figure, runs, bands)
    return figure


@styled
def preservation(runs: pd.DataFrame, seed_to_seed: pd.DataFrame, reference: str) -> Figure:
    """Likeness to the same seed's reference map over the precisions, beside the likeness of two reference seeds.

    seed_to_seed: dataset, training, seed and the columns preservation_* of the runs; a band spans its seeds.
    """
    metrics = [column for column in runs if column.startswith("preservation_")]
    quantized = runs[runs.precision != reference]
    figure, panels = panels_of(quantized, metrics, height=1.7)
    for dataset, line in panels.items():
        for metric, axes in line.items():
            for training, group in seed_to_seed[seed_to_seed.dataset == dataset].groupby("training", sort=False):
                _band(axes, group[metric], TRAINING_COLOURS[training], SEED_TO_SEED)
            _paired(axes, quantized[quantized.dataset == dataset], metric)
    _label_rows(panels)
    training_legend(figure, runs, [_band_handle(SEED_TO_SEED, f"two {reference} seeds of that training")])
    return figure


def _paired(axes: Axes, runs: pd.DataFrame, metric: str) -> None:
    """One dot per network, the precisions of a seed joined, mean and interval beside them; trainings side by side."""
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
    figure.legend(handles=training_lines(sample, "s", "none"), loc="outside upper center", ncols=2)
    return figure


@styled
def pareto(frame: pd.DataFrame, metrics: Sequence[str] = ("test_accuracy", FAITHFULNESS)) -> Figure:
    """Size of the packed network against what it is worth; a line for each training joins what no smaller one beats.

    Scores themselves, not shares of what training gives: those of two trainings are shares of two different things.

    frame: dataset, precision, training, packed_bytes and the metrics, one row per cell. One row of panels per dataset,
    one column per metric; a metric without any value is left out.
    """
    metrics = [metric for metric in metrics if frame[metric].notna().any()]
    figure, panels = panels_of(frame, metrics, height=1.55, width=SINGLE)
    for dataset, line in panels.items():
        for metric, axes in line.items():
            group = frame[frame.dataset == dataset]
            for training, own in group.groupby("training", sort=False):
                _sizes(axes, own, metric, filled=training == "standard", shade=TRAINING_COLOURS[training])
            axes.set(xscale="log", title=words.dataset(dataset), ylabel=_short(metric))
            axes.margins(0.12)
            _plain_log_ticks(axes, group.packed_bytes / 1000)
    figure.supxlabel("packed size (kB)", size=7)
    handles = [*precision_handles(frame), *_front_handles(frame)]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _short(metric: str) -> str:
    """The name of a score, with its unit, for the side of a small panel."""
    return "accuracy (%)" if metric == "test_accuracy" else words.name(metric).lower()


def _sizes(axes: Axes, group: pd.DataFrame, metric: str, filled: bool, shade: str) -> None:
    """The networks of one training, and the line that joins its best ones."""
    for row in group.itertuples():
        axes.scatter(
            row.packed_bytes / 1000, getattr(row, metric), s=26, marker=marker(row.precision), linewidth=1.0, zorder=2,
            facecolor=colour(row.precision) if filled else "white", edgecolor=colour(row.precision),
        )  # fmt: skip
    best = front(group, "packed_bytes", metric)
    line = "-" if filled else "--"
    axes.step(best.packed_bytes / 1000, best[metric], line, where="post", color=shade, linewidth=0.8, zorder=1)


def _front_handles(frame: pd.DataFrame) -> list[Line2D]:
    """Points and line of each training."""
    return [
        Line2D([], [], color=TRAINING_COLOURS[t], linestyle="-" if t == "standard" else "--", marker="o",
               markeredgecolor=GREY, markerfacecolor=GREY if t == "standard" else "white", label=f"{t} training")
        for t in dict.fromkeys(frame.training)
    ]  # fmt: skip


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
