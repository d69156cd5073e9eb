"""The six figures of the main text, each of one table of numbers and with one message.

    map_first(numbers, margin)    first the map, then the accuracy
    which_map(numbers)            the network keeps it, its gradient does not
    saturation(numbers)           what saturates loses it
    guidance(numbers, margin)     what guidance gives, its price, and which ranking
    fills(numbers)                black is not removed
    looks(shown)                  looks do not tell

study.report.compare makes the numbers; results/figures/<name>.csv holds them, and each figure is drawn from it again by
whoever reads it.
"""

import textwrap
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from saqlib.scores import FAITHFULNESS, GRADIENT, IMAGE, PASS_THROUGH
from study.report import labels, tables
from study.report.effects import MAIN, without
from study.report.figures import SHADED, Styles, legend, of_precisions, of_trainings
from study.report.pictures import SMALLEST, grid, scale_bar, show_image, show_map
from study.report.style import DOUBLE, FIRST, GREY, SINGLE, TRAINING_COLOURS, in_order, styled
from study.report.style import looks as looks_of

MAPS = (GRADIENT, "clip_only", "round_only", PASS_THROUGH, "integrated_gradients", "occlusion")  # rows of which_map
OTHER_METHODS = MAPS[-2:]  # full precision has a mark of its own in their rows
BARE = {"linestyle": "--", "linewidth": 0.8}
OPEN = {"markerfacecolor": "white"}
TWO_MAPS = {GRADIENT: {"color": "#D55E00", "marker": "o"}, PASS_THROUGH: {"color": "#009E73", "marker": "D"} | OPEN}
CELL = ["dataset", "training"]  # of a panel
# What is said of a variant behind its precision. The last one is another network, in a panel of its own.
VARIANTS = {"eight_bits": "", "max_range": "nothing clipped", "unrounded": "not rounded", "batch_norm": ""}
RANKINGS = {"magnitude": {"color": "#0072B2", "marker": "o"}, "signed": {"color": "#D55E00", "marker": "s"} | OPEN}
RANKED = {"magnitude": "ranked by magnitude", "signed": "by sign"}
FILL_WORDS = {"zero": "black"}
ROW = 0.15  # inches
GAP, BESIDE, BLOCK = 0.42, 0.06, 0.35  # between rows, maps and datasets of `looks`, in panels


# ------------------------------------------------------------------------------------ accuracy and faithfulness


@styled
def map_first(numbers: pd.DataFrame, margin: float) -> Figure:
    """Change in accuracy over the share of faithfulness that is kept: arrows from full precision to the fewest bits.

    numbers: dataset, training, precision, seed, kept (of what training gives the reference's map), points (of
    accuracy, minus the reference's), and of means, which have no seed, kept_low, ..., points_high. Rows of the
    precision `image` have what the bare image would keep. margin: in points, shaded. A panel for each dataset.
    """
    own, groups = numbers[numbers.precision != IMAGE], list(numbers.groupby("dataset", sort=False))
    means, shapes = own[own.seed.isna()], looks_of(own.precision)
    low = own.groupby("dataset", sort=False).points.min().clip(upper=-margin) - 0.2 * margin
    high = max(margin, own.points.max()) + 0.2 * margin
    heights = {"height_ratios": high - low}  # so that a point is as long in each panel
    figure, panels = plt.subplots(len(groups), 1, figsize=(SINGLE, 0.9 + 0.45 * (high - low).sum()), sharex=True,
                                  squeeze=False, gridspec_kw=heights)  # fmt: skip
    for axes, (dataset, here) in zip(panels[:, 0], groups, strict=True):
        axes.axhspan(-margin, margin, zorder=0, **SHADED)
        axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
        for training, chain in here.groupby("training", sort=False):
            colour, seeds = TRAINING_COLOURS[training], chain[chain.seed.notna()]
            axes.scatter(100 * seeds.kept, seeds.points, s=2, color=colour, alpha=0.35, linewidth=0, zorder=1)
            for level in chain.kept[chain.precision == IMAGE].dropna():
                axes.axvline(100 * level, color=colour, zorder=1, **BARE)
            of_means = chain[chain.seed.isna()].set_index("precision")
            _arrows(axes, of_means.drop(IMAGE, errors="ignore").loc[lambda own: in_order(own.index)], colour, shapes)
        axes.set(ylim=(low[dataset], high))
        axes.set_title(labels.dataset(dataset), loc="left", weight="bold")
    figure.supylabel("change in accuracy (points)")
    panels[-1, 0].set_xlabel("share of the gradient map's faithfulness that is kept (%)")
    grey = {name: {"marker": look.marker} for name, look in shapes.items()}
    lines = of_trainings(means.training, marker="") | {"the bare image": BARE, "within the margin": SHADED}
    legend(figure, grey | lines, ncols=3)
    return figure


def _arrows(axes: Axes, chain: pd.DataFrame, colour: str, shapes: Mapping) -> None:
    """The means of one training with their intervals, and an arrow from each to the next."""
    x, y = 100 * chain.kept, chain.points
    for place in range(len(chain) - 1):
        if np.isfinite([*x.iloc[place : place + 2]]).all():
            ends = (x.iloc[place + 1], y.iloc[place + 1]), (x.iloc[place], y.iloc[place])
            axes.annotate("", *ends, zorder=2, arrowprops={"arrowstyle": "-|>,head_width=.15,head_length=.3",
                          "color": colour, "linewidth": 0.9, "shrinkA": 3, "shrinkB": 4})  # fmt: skip
    for place, (precision, row) in enumerate(chain.iterrows()):
        errors = [[[max(0, row[name] - row[f"{name}_low"])], [max(0, row[f"{name}_high"] - row[name])]]
                  for name in ("kept", "points")]  # fmt: skip
        axes.errorbar(100 * row.kept, row.points, errors[1], 100 * np.array(errors[0]), linestyle="none", zorder=3,
                      color=colour if place else FIRST[0],  # where both trainings begin
                      marker=shapes[precision].marker, markersize=4.2, elinewidth=0.7)  # fmt: skip


# ------------------------------------------------------------------------------------------------- rows of dots


@styled
def which_map(numbers: pd.DataFrame, reference: str) -> Figure:
    """How faithful the maps of one network are: of fewest bits filled, of most bits open, full precision in black.

    numbers: dataset, training, precision, map, mean, low, high of MAPS and the image, in the order of precisions. A
    panel for each dataset and training, with lines at full precision's straight-through map and at the bare image.
    Without any number the figure says so.
    """
    if numbers.empty:
        return without("No fill qualifies.")
    own = numbers.assign(panel=list(zip(*(numbers[key] for key in CELL), strict=True)), row=numbers["map"])
    most, *_, fewest = [each for each in in_order(own.precision) if each != reference] * 2
    styles = of_precisions([reference, most, fewest])
    styles[most] |= OPEN if most != fewest else {}
    full = own[own.precision == reference]
    top, bare = full[full.row == GRADIENT], full[full.row == IMAGE]
    points = [own[own.precision.isin([most, fewest])], full[full.row.isin(OTHER_METHODS)], top.assign(row=reference)]
    points = pd.concat(points).assign(series=lambda frame: frame.precision)
    words = {reference: labels.precision(reference)} | {name: labels.map_name(name) for name in MAPS}
    titles = {panel: f"{labels.dataset(panel[0])}, {panel[1]}" for panel in dict.fromkeys(own.panel)}
    figure, panels = _strips(points[points.row != IMAGE], words, styles, titles, DOUBLE)
    for panel, axes in panels.items():
        for line, style in ((top, {"linewidth": 0.7}), (bare, BARE)):
            for level in line["mean"][line.panel == panel]:
                axes.axvline(level, color=GREY, zorder=0, **style)
    figure.supxlabel("faithfulness")
    legend(figure, styles | {f"at {labels.precision(reference)}": {"linestyle": "-"}, "the bare image": BARE})
    return figure


@styled
def saturation(numbers: pd.DataFrame) -> Figure:
    """Straight-through maps, filled, beside maps passed through, open, and the share of units that are clipped.

    numbers: dataset, training, precision, variant (MAIN or one of VARIANTS), metric (straight_through, pass_through:
    faithfulness; clipped), mean, low, high. A row for each precision and quantizer, a panel for each dataset and
    training, and for the other network.
    """
    other = numbers.variant == list(VARIANTS)[-1]
    panels = [(*cell, is_other) for *cell, is_other in zip(numbers.dataset, numbers.training, other, strict=True)]
    rows = list(zip(numbers.precision, numbers.variant.where(~other, MAIN), strict=True))
    own = numbers.assign(panel=panels, row=rows, series=numbers.metric)
    known = in_order(numbers.precision[numbers.variant == MAIN])
    order = [*known[:1], *(each for each in dict.fromkeys(numbers.precision) if each not in known), *known[1:]]
    pairs = sorted(dict.fromkeys(rows), key=lambda pair: (order.index(pair[0]), pair[1] != MAIN))
    words = {pair: ", ".join(filter(None, [labels.precision(pair[0]), VARIANTS.get(pair[1], "")])) for pair in pairs}
    titles = {panel: f"{labels.dataset(panel[0])},\n{'second network' if panel[2] else panel[1]}"
              for panel in sorted(dict.fromkeys(panels), key=lambda panel: panel[2])}  # fmt: skip
    figure, drawn = _strips(own[own.metric != "clipped"], words, TWO_MAPS, titles, DOUBLE)
    for row in own[own.metric == "clipped"].dropna(subset="mean").itertuples():
        axes, place = drawn[row.panel], list(words).index(row.row)
        axes.text(1.04, place, f"{100 * row.mean:.1f} %", transform=axes.get_yaxis_transform(), va="center", size=6.5)
    figure.supxlabel("faithfulness; at the right of each panel the share of units that are clipped")
    legend(figure, {labels.map_name(name): style for name, style in TWO_MAPS.items()})
    return figure


@styled
def guidance(numbers: pd.DataFrame, margin: float) -> Figure:
    """What guided training gives beyond standard training: faithfulness, and what it costs of accuracy.

    numbers: dataset, precision, question (faithfulness, accuracy), ranking (of the pixels that are masked: one of
    RANKINGS), mean, low, high. margin: of accuracy in points, shaded. A row for each dataset and precision. Without any
    network the figure says so.
    """
    if numbers.empty:
        return without("No guided network was trained.")
    rows = list(zip(numbers.dataset, numbers.precision, strict=True))
    own = numbers.assign(panel=numbers.question, row=rows, series=numbers.ranking)
    words: dict[Hashable, str] = {}
    for dataset in dict.fromkeys(numbers.dataset):  # a line with its name, and below it the precisions
        precisions = in_order(numbers.precision)
        words |= {dataset: labels.dataset(dataset)} | {(dataset, each): labels.precision(each) for each in precisions}
    titles = {FAITHFULNESS: "faithfulness", "accuracy": "accuracy (points)"}
    figure, panels = _strips(own, words, RANKINGS, titles, SINGLE)
    for name, label in zip(words, figure.axes[0].get_yticklabels(), strict=True):
        label.set_weight("bold" if isinstance(name, str) else "normal")
    panels["accuracy"].axvspan(-margin, margin, zorder=0, **SHADED)
    figure.supxlabel("guided minus standard training")
    shown = {words: RANKINGS[name] for name, words in RANKED.items() if name in set(numbers.ranking)}
    legend(figure, shown | {"within the margin": SHADED})
    return figure


def _strips(
    points: pd.DataFrame, words: Mapping[Hashable, str], styles: Styles, titles: Mapping[Hashable, str], width: float
) -> tuple[Figure, dict[Hashable, Axes]]:
    """Means with intervals side by side in rows: the figure, and its panels.

    points: panel, row, series, mean, low, high. words: of each row, from the top; titles: of each panel. Intervals of
    few seeds are huge, and may run out of a panel.
    """
    size = (width, 0.8 + ROW * len(words))
    figure, (every,) = plt.subplots(1, len(titles), figsize=size, sharey=True, squeeze=False)
    panels = dict(zip(titles, every, strict=True))
    for name, axes in panels.items():
        own = points[[each == name for each in points.panel]]
        series = [style for style in styles if style in set(own.series)]
        for at, shown in enumerate(series):
            means = own[own.series == shown].set_index("row").reindex(list(words))
            ends = means[["low", "high"]].sub(means["mean"], axis=0).abs().to_numpy().T
            places = np.arange(len(words)) + 0.4 * ((at + 0.5) / len(series) - 0.5)
            axes.errorbar(means["mean"], places, xerr=ends, linestyle="none", markersize=3.4, elinewidth=0.8,
                          **styles[shown])  # fmt: skip
        seen = own["mean"][np.isfinite(own["mean"])].to_numpy()
        if len(seen):
            reach = np.ptp([0, *seen])
            ends = own.loc[own.high - own.low < reach, ["low", "high"]].to_numpy()
            limits = min(0, *seen, *ends.flat), max(0, *seen, *ends.flat)
            axes.set_xlim(limits[0] - 0.1 * reach, limits[1] + 0.1 * reach)
        axes.axvline(0, color=GREY, linewidth=0.5, zorder=0)
        axes.set(title=titles[name], ylim=(len(words) - 0.5, -0.5))
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(axis="y", length=0)
    every[0].set_yticks(range(len(words)), list(words.values()))
    return figure, panels


# ---------------------------------------------------------------------------------------------- bars, and maps


@styled
def fills(numbers: pd.DataFrame) -> Figure:
    """What a map scores under each fill, beside what the bare image scores; fills that do not qualify are shaded.

    numbers: dataset, fill, map (straight_through, image), mean, low, high, qualifies. A panel for each dataset.
    """
    datasets = list(dict.fromkeys(numbers.dataset))
    figure, (panels,) = plt.subplots(1, len(datasets), figsize=(SINGLE, 1.9), sharey=True, squeeze=False)
    bars = {GRADIENT: ("full precision", "#222222"), IMAGE: ("the bare image", "#56B4E9")}
    for axes, dataset in zip(panels, datasets, strict=True):
        own = numbers[numbers.dataset == dataset]
        names = list(dict.fromkeys(own.fill))
        for at, (name, (_, colour)) in enumerate(bars.items()):
            means = own[own["map"] == name].set_index("fill").reindex(names)
            ends = means[["low", "high"]].sub(means["mean"], axis=0).abs().to_numpy().T
            axes.bar(np.arange(len(names)) + 0.38 * (at - 0.5), means["mean"], 0.36, yerr=ends, color=colour,
                     error_kw={"elinewidth": 0.8, "ecolor": GREY}, zorder=2)  # fmt: skip
        for fill in own.fill[~own.qualifies.astype(bool)].unique():
            axes.axvspan(names.index(fill) - 0.5, names.index(fill) + 0.5, zorder=0, **SHADED)
        axes.axhline(0, color=GREY, linewidth=0.5)
        axes.set(title=labels.dataset(dataset), xlim=(-0.5, len(names) - 0.5))
        axes.set_xticks(range(len(names)), [FILL_WORDS.get(name, name) for name in names])
    panels[0].set_ylabel("relevance gain")
    if len(seen := numbers["mean"].dropna()):
        panels[0].set_ylim(min(0, 1.2 * seen.min()), 1.15 * seen.max())
    figure.supxlabel("what a removed pixel becomes")
    legend(figure, {words: {"facecolor": colour} for words, colour in bars.values()} | {"does not qualify": SHADED})
    return figure


class Looks(NamedTuple):
    """Images of one dataset (K, 28, 28) with their classes; by what stands above them maps (K, 28, 28), the score of
    each (K,), and the mean score of all images.
    """

    images: NDArray
    names: Sequence[str]
    maps: Mapping[str, NDArray]
    scores: Mapping[str, NDArray]
    means: Mapping[str, float]


@styled
def looks(shown: Mapping[str, Looks]) -> Figure:
    """Images and their maps, each on its own scale, a block for each dataset; below each map its own faithfulness, and
    below the last one the mean over all images.
    """
    blocks = [["input", *block.maps] for block in shown.values()]
    gaps = [gap for block in blocks for gap in (BLOCK, *[BESIDE] * (len(block) - 1))]
    count = max(len(block.images) for block in shown.values())
    figure, panels = grid([0, *gaps[1:]], [0, *[GAP] * (count - 1)], 0.05, 0.05, 0.58, 0.72, largest=0.9)
    lines = iter(panels.T)
    for (dataset, block), names in zip(shown.items(), blocks, strict=True):
        for place, name in enumerate(names):
            column, score = next(lines), block.scores.get(name)
            column[0].set_title(textwrap.fill(name, 10), size=SMALLEST)
            for i, axes in enumerate(column[: len(block.images)]):
                if place:
                    show_map(axes, block.maps[name][i])
                else:
                    show_image(axes, block.images[i])
                _below(axes, tables.number(score[i], 2) if place else block.names[i])
            _below(axes, tables.number(block.means[name], 2) if place else "all images", line=1, weight="bold")
            if not place:
                column[0].annotate(labels.dataset(dataset), (0, 1), (0, 30), xycoords="axes fraction",
                                   textcoords="offset points", weight="bold", size=7.5)  # fmt: skip
    scale_bar(figure, "|gradient of the predicted class's logit| / the panel's 99th percentile; below, faithfulness")
    return figure


def _below(axes: Axes, words: str, line: int = 0, **style: str) -> None:
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "top"}
    axes.annotate(words, (0.5, 0), (0, -2 - 1.35 * SMALLEST * line), size=SMALLEST, **place, **style)
