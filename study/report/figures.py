"""Figures made of scores: every seed is visible, means carry 95 % t-intervals, chance and controls are drawn in.

Each takes the frames that study.frames collects and returns a matplotlib figure; study.report.style.save writes it.
Datasets, trainings, precisions and scores are those of the frame. Effects with their intervals stand in
study.report.effects, what happens during training in study.report.training, pictures in study.report.pictures.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from saqlib.scores import ANSWERS, FAITHFULNESS, GRADIENT, IMAGE, PASS_THROUGH, UNTRAINED
from study.report import labels, tables
from study.report.style import DOUBLE, GREY, SINGLE, TRAINING_COLOURS, in_order, looks, styled

# The controls of the bands, and the lines through their means; the table has all controls.
BANDS = {UNTRAINED: (0, (5, 2)), "white_noise": (0, (1, 1.5)), IMAGE: (0, (5, 1.5, 1, 1.5))}
SEED_TO_SEED = (0, (4, 2))
SHOWN = (*ANSWERS, "sensitivity_max")  # what answers the four questions
FEWEST_PIXELS = 0.005  # of all, below which a mean over them is noise
REMOVALS = {
    "least": ("least salient first", {"linestyle": "-", "color": "#0072B2"}),
    "random": ("random", {"linestyle": "--", "color": "#555555"}),
    "most": ("most salient first", {"linestyle": "-", "color": "#D55E00"}),
}
BOTH_MAPS = {
    GRADIENT: ("straight-through map", {"linestyle": "--", "marker": "o", "markerfacecolor": "white"}),
    PASS_THROUGH: ("map passed through", {"linestyle": "-", "marker": "o"}),
}
SHADED = {"facecolor": "#e3e3e3", "linewidth": 0}
DASHED = {"color": GREY, "linestyle": "--", "linewidth": 0.7}
NETWORK = ["dataset", "precision", "training", "seed"]
Styles = dict[str, dict[str, Any]]  # what a legend shows, by its words


# ---------------------------------------------------------------------------------------- panels and legends


def facets(
    frame: pd.DataFrame, height: float, width: float = DOUBLE, row: str | None = "dataset", **options: Any
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """The figure, and each of its panels with its part of the frame: a row for each dataset, a column for each `col`.

    The title of a panel is its dataset, and its training where each has a column. height: of a row, in inches. options:
    of seaborn's FacetGrid.
    """
    with plt.rc_context({"figure.constrained_layout.use": False}):  # seaborn has a layout of its own
        grid = sns.FacetGrid(frame, row=row, despine=False, **options)
    grid.figure.set_size_inches(width, 0.3 + height * len(grid.axes))
    grid.figure.set_layout_engine("constrained")
    panels = [(grid.axes[i, j], own) for (i, j, _), own in grid.facet_data()]
    for axes, own in panels:
        training = f", {own.training.iloc[0]} training" if options.get("col") == "training" else ""
        axes.set_title(labels.dataset(own.dataset.iloc[0]) + training)
    return grid.figure, panels


def heads(axes: Axes, column: str, row: str, **style: Any) -> None:
    """What a column of panels shows above the first of them, what a row shows beside its first one."""
    place = axes.get_subplotspec()
    axes.set_title(column if place.is_first_row() else "")
    if place.is_first_col():
        axes.set_ylabel(row, **style)


def legend(figure: Figure, styles: Styles, ncols: int | None = None, place: str = "center") -> None:
    """A legend above the panels, in one line unless said otherwise: areas for what has a `facecolor`, else Line2D.

    styles: by words, or by a precision.
    """
    handles = [
        Patch(label=labels.precision(label), **style) if "facecolor" in style
        else Line2D([], [], label=labels.precision(label), **{"linestyle": "none", "color": GREY} | style)
        for label, style in styles.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc=f"outside upper {place}", ncols=ncols or len(handles), columnspacing=1.4)


def of_precisions(precisions: Iterable[str]) -> Styles:
    """Each precision in its colour and with its marker."""
    return {name: {"color": look.colour, "marker": look.marker} for name, look in looks(precisions).items()}


def of_trainings(trainings: Iterable[str], **style: Any) -> Styles:
    """Each training in its colour."""
    style = {"marker": "o", "linestyle": "-"} | style
    return {f"{name} training": style | {"color": TRAINING_COLOURS[name]} for name in dict.fromkeys(trainings)}


def ticks(axes: Axes, precisions: Sequence[str]) -> None:
    """A place for each precision on the horizontal axis; words one below the other, since panels are narrow."""
    axes.set_xticks(range(len(precisions)), [labels.precision(name).replace(" ", "\n") for name in precisions])
    axes.set_xlim(-0.5, len(precisions) - 0.5)
    axes.tick_params(axis="x", labelrotation=0 if len(precisions) < 5 else 90)


def _decimal(axis: Axis) -> None:
    """Numbers that are not powers on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


# ---------------------------------------------------------------------------------- scores over the precisions


@styled
def clarity(runs: pd.DataFrame, controls: pd.DataFrame) -> Figure:
    """Each score over the precisions, every seed joined, with what controls score as grey bands.

    controls: as study.report.tables.controls gives them. A band spans the controls of all seeds and trainings. One row
    per dataset, one column per score.
    """
    parts = {control: controls[controls["map"] == control] for control in BANDS}
    bands = [(labels.map_name(name), own, GREY, BANDS[name]) for name, own in parts.items() if len(own)]
    return _by_score(runs, SHOWN, bands)


@styled
def preservation(runs: pd.DataFrame, seed_to_seed: pd.DataFrame, reference: str) -> Figure:
    """Likeness to the same seed's reference map over the precisions, beside the likeness of two reference seeds.

    seed_to_seed: dataset, training, seed and the columns preservation_* of the runs; a band spans its seeds.
    """
    words = f"two seeds of {labels.precision(reference)}, that training"
    pairs = seed_to_seed.groupby("training", sort=False)
    bands = [(words, own, TRAINING_COLOURS[training], SEED_TO_SEED) for training, own in pairs]
    metrics = [column for column in runs if column.startswith("preservation_")]
    return _by_score(runs[runs.precision != reference], metrics, bands)


def _by_score(runs: pd.DataFrame, metrics: Sequence[str], bands: Sequence[tuple]) -> Figure:
    """A row for each dataset and a column for each score; bands: words, what it spans, colour, dashes of its mean."""
    figure, panels = facets(runs.melt(NETWORK, metrics, "metric"), 1.75, col="metric", sharex=False, sharey=False)
    for axes, own in panels:
        dataset, metric = own[["dataset", "metric"]].iloc[0]
        for _, values, colour, dashes in bands:
            _band(axes, values[values.dataset == dataset].get(metric, pd.Series(dtype=float)), colour, dashes)
        _paired(axes, own, "value")
        _fit(axes)
        heads(axes, labels.heading(metric), labels.dataset(dataset), weight="bold")
    lines = {words: {"linestyle": dashes, "linewidth": 0.9} for words, _, _, dashes in bands}
    legend(figure, of_trainings(runs.training) | lines)
    return figure


@styled
def amplitude(runs: pd.DataFrame, untrained: pd.DataFrame) -> Figure:
    """Median magnitude of the gradient over the precisions, on a logarithmic axis: the most visible effect of few bits.

    Maps on scales of their own do not show it. untrained: dataset and amplitude of the reference's networks before
    training; a band spans them. One panel per dataset.
    """
    figure, panels = facets(runs, 1.6, SINGLE, row=None, col="dataset")
    seen = pd.concat([runs.amplitude, untrained.amplitude])  # intervals of few seeds are huge and may be cut
    for axes, own in panels:
        _band(axes, untrained[untrained.dataset == own.dataset.iloc[0]].amplitude, GREY, BANDS[UNTRAINED])
        _paired(axes, own, "amplitude")
        axes.set(yscale="log", ylim=(0.8 * seen.min(), 1.25 * seen.max()))
        _decimal(axes.yaxis)
    panels[0][0].set_ylabel("median |gradient of the logit|")
    before = {labels.map_name(UNTRAINED): {"linestyle": BANDS[UNTRAINED], "linewidth": 0.9}}
    legend(figure, of_trainings(runs.training, linestyle="none") | before)
    return figure


def _paired(axes: Axes, runs: pd.DataFrame, metric: str) -> None:
    """One dot per network, the precisions of a seed joined, mean and interval beside them; trainings side by side."""
    precisions, count = in_order(runs.precision), runs.training.nunique()
    for place, (training, own) in enumerate(runs.groupby("training", sort=False)):
        colour, shift = TRAINING_COLOURS[training], 0.22 * (place - (count - 1) / 2)
        at = np.arange(len(precisions)) + shift
        seeds = own.pivot(index="precision", columns="seed", values=metric).reindex(precisions)
        axes.plot(at, seeds, color=colour, linewidth=0.4, alpha=0.35, zorder=2)
        axes.plot(at, seeds, color=colour, linestyle="none", marker="o", markersize=1.6, alpha=0.55, zorder=3)
        means = tables.over_seeds(own, ["precision"], [metric]).set_index("precision").reindex(precisions)
        ends = means[["low", "high"]].sub(means["mean"], axis=0).abs().to_numpy().T
        axes.errorbar(at + np.sign(shift or 1) * 0.12, means["mean"], ends, color=colour, linestyle="none", marker="o",
                      markersize=3.2, elinewidth=0.9, zorder=4)  # fmt: skip
    ticks(axes, precisions)


def _fit(axes: Axes) -> None:
    """Limits from seeds, means and the lines of bands, not from intervals: those of few seeds are huge."""
    heights = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    heights = heights[np.isfinite(heights)]
    if len(heights):
        margin = 0.08 * np.ptp(heights) or 0.01
        axes.set_ylim(heights.min() - margin, heights.max() + margin)


def _band(axes: Axes, values: pd.Series, colour: str, dashes: tuple) -> None:
    """A band from the least to the greatest value, with a line through the mean."""
    values = values[np.isfinite(values)]
    if len(values):
        axes.axhspan(values.min(), values.max(), facecolor=colour, alpha=0.2, linewidth=0, zorder=0)
        axes.axhline(values.mean(), color=colour, linewidth=0.8, linestyle=dashes, zorder=1)


@styled
def gradients(sample: pd.DataFrame) -> Figure:
    """Distribution of the signed gradient values of each precision, standard against guided training.

    sample: dataset, precision, training, gradient. Values beyond the 98th percentile of magnitude of a
    dataset are left out.
    """
    figure, panels = facets(sample, 1.7, row=None, col="dataset", sharey=False)
    trainings = list(dict.fromkeys(sample.training))
    for axes, own in panels:
        limit = np.percentile(own.gradient.abs(), 98)
        sns.violinplot(
            own[own.gradient.abs() <= limit], x="precision", y="gradient", hue="training", ax=axes,
            order=in_order(own.precision), hue_order=trainings, split=len(trainings) == 2, inner="quart",
            palette=TRAINING_COLOURS, density_norm="width", linewidth=0.5, cut=0, gap=0.08, saturation=1, legend=False,
        )  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
        axes.set(xlabel="", ylabel="", ylim=(-limit, limit))
        ticks(axes, in_order(own.precision))
    panels[0][0].set_ylabel("gradient of the logit by a pixel")
    legend(figure, of_trainings(trainings, marker="s", linestyle="none"))
    return figure


@styled
def device(numbers: pd.DataFrame) -> Figure:
    """What bits buy on a device without floats, and what is left: costs against accuracy and faithfulness.

    numbers: as study.report.tables.device has them; the first processor and the first training are drawn, nothing of a
    frame without rows. On the left flash, on the right instructions: of the class beside accuracy, and of class and map
    beside the faithfulness of that map. A line for each dataset, named at its right end.
    """
    own, shown = numbers.merge(numbers[["core", "training"]].iloc[:1]), looks(numbers.precision)
    figure, grid = plt.subplots(2, 2, sharex="col", sharey="row", figsize=(DOUBLE, 3.4))
    for dataset, chain in own.groupby("dataset", sort=False):
        flash, work = chain.flash_bytes / 1e3, chain.class_instructions / 1e6
        for name, (_, style) in BOTH_MAPS.items():
            faithful, with_map = chain[f"{FAITHFULNESS}_{name}"], work + chain[f"{name}_instructions"] / 1e6
            lines = [(flash, chain.test_accuracy), (work, chain.test_accuracy), (flash, faithful), (with_map, faithful)]
            for axes, (x, y) in zip(grid.flat, lines, strict=True):
                if name == PASS_THROUGH:  # in full precision both maps are one, and so are their names
                    right = x.iloc[0], y.iloc[0]
                    axes.annotate(labels.dataset(dataset), right, (0, 5), textcoords="offset points", ha="right")
                elif axes in grid[0]:
                    continue  # drawn with the other map
                axes.plot(x, y, color=GREY, linewidth=0.8, zorder=1, linestyle=style["linestyle"])
                for precision, *point in zip(chain.precision, x, y, strict=True):
                    look = shown[precision]
                    axes.scatter(*point, marker=look.marker, edgecolor=look.colour, s=26, linewidth=1.0, zorder=2,
                                 facecolor="white" if name == GRADIENT else look.colour)  # fmt: skip
    for axes, words in zip(grid[1], ("flash (kB)", "instructions (millions)"), strict=True):
        axes.set(xscale="log", xlabel=words)
        axes.margins(0.12)
        _decimal(axes.xaxis)
    grid[0, 0].set_ylabel("accuracy (%)")
    grid[1, 0].set_ylabel(labels.name(FAITHFULNESS).lower())
    legend(figure, of_precisions(shown) | dict(BOTH_MAPS.values()))
    return figure


# --------------------------------------------------------------------------- over pixels that leave, and distance


@styled
def removal(frame: pd.DataFrame) -> Figure:
    """Probability of the predicted class as pixels become the mean; the shaded area is the relevance gain with it.

    frame: dataset, training, precision, seed, level (share of removed pixels), and most, least, random (the
    value with the most salient, the least salient, or random pixels removed first). One row per dataset and
    training, one column per precision. Lines are means over the seeds, thin ones the seeds.
    """
    rows = frame.assign(percent=100 * frame.level, row=frame.dataset.map(labels.dataset) + ",\n" + frame.training)
    figure, panels = facets(rows, 1.25, row="row", col="precision", col_order=in_order(frame.precision))
    for axes, own in panels:
        heads(axes, labels.precision(own.precision.iloc[0]), own.row.iloc[0])
        axes.set(xlim=(0, 100), ylim=(0, 1.2), yticks=[0, 0.5, 1])
        mean = own.groupby("percent")[list(REMOVALS)].mean()
        axes.fill_between(mean.index, mean.most, mean.least, **SHADED)
        for name, (_, style) in REMOVALS.items():
            axes.plot(mean[name], **style)
            seeds = own.pivot(index="percent", columns="seed", values=name)
            axes.plot(seeds, color=style["color"], linewidth=0.3, alpha=0.4)
        gain = tables.number(np.trapezoid(mean.least - mean.most, mean.index / 100), 2)
        axes.text(0.98, 1.0, f"area {gain}", transform=axes.transAxes, ha="right", va="top")
    figure.supxlabel("pixels removed (%)")
    figure.supylabel("probability")
    legend(figure, dict(REMOVALS.values()) | {labels.name("relevance_gain_mean"): SHADED})
    return figure


@styled
def deletion_accuracy(frame: pd.DataFrame) -> Figure:
    """Test accuracy as the most salient pixels become 0, and beside it as random ones do.

    frame: dataset, training, precision, seed, level (share of removed pixels), most and random (accuracy in percent).
    One row per dataset, one column per training, one line per precision: the mean over the seeds.
    """
    figure, panels = facets(frame.assign(percent=100 * frame.level), 1.7, col="training", sharex=False)
    for axes, own in panels:
        _by_precision(axes, own, "percent", "random", linestyle="--", linewidth=0.7, marker="")
        _by_precision(axes, own, "percent", "most")
        axes.set(xlim=(0, 90), ylim=(0, 102))
    figure.supxlabel("pixels removed (%)")
    figure.supylabel("test accuracy (%)")
    lines = {"most salient first": {"linestyle": "-"}, "random": DASHED}
    legend(figure, of_precisions(frame.precision) | lines)
    return figure


@styled
def outline(frame: pd.DataFrame) -> Figure:
    """How the gradient's magnitude is spread around the object's outline; the object's side is shaded.

    frame: dataset, training, precision, distance (pixels, negative outside), relative (magnitude, 1 is the map's mean)
    and pixels (their share; places with few are left out). One row per dataset, one column per training, one line per
    precision.
    """
    frame = frame[frame.pixels >= FEWEST_PIXELS]
    span = frame.distance.min(), frame.distance.max()
    figure, panels = facets(frame, 1.6, col="training", sharex=False, sharey="row")
    for axes, own in panels:
        axes.axvspan(0, span[1], **SHADED)
        axes.axhline(1, **DASHED)
        _by_precision(axes, own, "distance", "relative")
        axes.set_xlim(span)
    for axes, _ in panels:  # when all panels of the row are drawn
        axes.set_ylim(bottom=0)
    figure.supxlabel("distance from the outline (pixels, negative outside)")
    figure.supylabel("magnitude / mean")
    legend(figure, of_precisions(frame.precision) | {"mean of the map": DASHED, "object": SHADED})
    return figure


def _by_precision(axes: Axes, own: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """One line per precision, the mean over its rows."""
    means = own.pivot_table(y, x, "precision")
    for precision, look in of_precisions(own.precision).items():
        axes.plot(means[precision], **look | style)
