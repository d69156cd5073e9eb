"""Figures of effects with intervals: how faithful maps are, and whether conclusions survive other settings."""

from collections.abc import Hashable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saqlib.data import DATASETS
from saqlib.scores import GRADIENT, IMAGE, PASS_THROUGH
from study.report import labels
from study.report.figures import Styles, legend, of_precisions
from study.report.style import DOUBLE, GREY, RED, in_order, in_turn, styled

# The rows of the figure `maps` below full precision, and its lines.
MAPS = (GRADIENT, "clip_only", "round_only", PASS_THROUGH, "integrated_gradients", "occlusion")
FULL, BARE = {"linestyle": "-", "linewidth": 0.7}, {"linestyle": "--", "linewidth": 0.7}
OPEN = {"markerfacecolor": "white"}
TWO_MAPS = {GRADIENT: {"color": "#D55E00", "marker": "o"}, PASS_THROUGH: {"color": "#009E73", "marker": "D"} | OPEN}
DATASET_LOOKS = (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#56B4E9", "v"))
CELL = ["dataset", "training"]  # of a panel
# What the figure `variants` shows, and what its rows say behind the precision.
VARIANTS = {"eight_bits": "", "max_range": "no clip", "unrounded": "not rounded", "batch_norm": "batch norm"}
MAIN = "main grid"
ROW, HEAD = 0.15, 0.2  # inches, of an ablation and of the line above a comparison


# ------------------------------------------------------------------------------------- how faithful maps are


@styled
def maps(numbers: pd.DataFrame, reference: str) -> Figure:
    """How faithful the maps of one network are: of fewest bits filled, of most bits open, the reference above them.

    numbers: as saqlib.findings.maps_table gives them; shown are means of the fills that qualify, of all seeds. A panel
    for each dataset and training, with lines at the reference's straight-through map and at the bare image.
    """
    own = numbers[(numbers.fill == "qualifying") & (numbers.seeds == "all")].rename(columns={"map": "row"})
    most, *_, fewest = [each for each in in_order(own.precision) if each != reference] * 2
    styles = of_precisions([reference, most, fewest])
    styles[most] |= OPEN if most != fewest else {}
    top = own[(own.precision == reference) & (own.row == GRADIENT)]
    below = own[own.precision.isin([most, fewest]) & own.row.isin(MAPS)]
    points = pd.concat([top.assign(row=reference), below]).assign(series=lambda frame: frame.precision)
    words = {reference: labels.precision(reference)} | {name: labels.map_name(name) for name in MAPS}
    bare = own[(own.precision == reference) & (own.row == IMAGE)]
    figure, _ = _strips(points, words, styles, [(top, FULL), (bare, BARE)])
    lines = {labels.precision(reference): FULL, labels.map_name(IMAGE): BARE}
    legend(figure, {labels.precision(each): styles[each] for each in dict.fromkeys([most, fewest])} | lines)
    return figure


@styled
def variants(numbers: pd.DataFrame) -> Figure:
    """Straight-through maps, filled, beside pass-through maps, open, and the share of units that are clipped.

    numbers: as study.report.tables.variants gives them: a row for each precision of the main grid, then for each of a
    variant, and a panel for each dataset and training.
    """
    numbers = numbers.assign(row=list(zip(numbers.variant, numbers.precision, strict=True)), series=numbers.metric)
    pairs = [(variant, each) for variant in dict.fromkeys(numbers.variant) for each in in_order(numbers.precision)]
    words = {pair: _variant(*pair) for pair in pairs if pair in set(numbers.row)}
    figure, panels = _strips(numbers[numbers.metric != "clipped"], words, TWO_MAPS)
    clipped = numbers[numbers.metric == "clipped"].dropna(subset="mean")
    for row in clipped.itertuples():
        axes, place = panels[row.dataset, row.training], list(words).index(row.row)
        axes.text(1.02, place, f"{100 * row.mean:.1f} %", transform=axes.get_yaxis_transform(), va="center", size=6.5)
    legend(figure, {labels.map_name(name): style for name, style in TWO_MAPS.items()})
    return figure


def _variant(variant: str, precision: str) -> str:
    return ", ".join(filter(None, [labels.precision(precision), VARIANTS.get(variant, labels.plain(variant))]))


def _strips(
    points: pd.DataFrame, words: Mapping[Hashable, str], styles: Styles, lines: Sequence[tuple[pd.DataFrame, dict]] = ()
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Means with intervals side by side in rows: the figure, and a panel for each dataset and training.

    points: dataset, training, row, series, mean, low, high. words: of each row, from the top. styles: of each series.
    lines: down a panel, at most one mean for each, and their style. Limits are those of the means: intervals of few
    seeds are huge.
    """
    cells = list(points.groupby(CELL, sort=False))
    size = (DOUBLE, 0.75 + ROW * len(words))
    figure, axes = plt.subplots(1, len(cells), figsize=size, sharey=True, squeeze=False)
    panels = {}
    for panel, (cell, own) in zip(axes[0], cells, strict=True):
        panels[cell] = panel
        for at, (name, style) in enumerate(styles.items()):
            series = own[own.series == name].set_index("row").reindex(list(words))
            ends = series[["low", "high"]].sub(series["mean"], axis=0).abs().to_numpy().T
            places = np.arange(len(words)) + 0.4 * ((at + 0.5) / len(styles) - 0.5)
            panel.errorbar(series["mean"], places, xerr=ends, linestyle="none", markersize=3.2, elinewidth=0.8, **style)
        levels = [frame.groupby(CELL)["mean"].mean().get(cell, np.nan) for frame, _ in lines]
        for level, (_, style) in zip(levels, lines, strict=True):
            panel.axvline(level, color=GREY, zorder=0, **style)
        seen = np.array([*own["mean"], *levels])
        seen = seen[np.isfinite(seen)]
        if len(seen):
            margin = 0.1 * np.ptp(seen) or 0.01
            panel.set_xlim(min(0, seen.min() - margin), seen.max() + margin)
        panel.axvline(0, color=GREY, linewidth=0.5, zorder=0)
        panel.set(title=f"{labels.dataset(cell[0])}, {cell[1]}", ylim=(len(words) - 0.5, -0.5))
        panel.locator_params(axis="x", nbins=4)
        panel.tick_params(axis="y", length=0)
    axes[0, 0].set_yticks(range(len(words)), list(words.values()))
    figure.supxlabel("faithfulness")
    return figure, panels


# -------------------------------------------------------------------------------------------------- ablations


@styled
def ablations(effects: pd.DataFrame) -> Figure:
    """Every effect with its 95 % interval, a block for each comparison, the main grid on top of it.

    One column per question. Filled: the main grid; open: variants; a red cross: the sign of the main grid's conclusion
    is lost; pale: the main grid concludes nothing. Without any effect the figure says so.
    """
    if effects.empty:
        figure, axes = plt.subplots(figsize=(DOUBLE, 0.6))
        axes.set_axis_off()
        axes.text(0.5, 0.5, "No ablation was run at this scale.", ha="center", va="center", transform=axes.transAxes)
        return figure
    styles = in_turn([*DATASETS, *effects.dataset], DATASET_LOOKS)
    questions, (places, heads) = list(dict.fromkeys(effects.question)), _layout(effects)
    size = (DOUBLE, ROW * len(places) + HEAD * len(heads) + 0.75)
    figure, (panels,) = plt.subplots(1, len(questions), figsize=size, sharey=True, squeeze=False)
    for axes, question in zip(panels, questions, strict=True):
        _column(axes, effects[effects.question == question], places, styles)
        unit = " (points)" if question == "accuracy" else ""
        axes.set(title=question.capitalize() + unit, ylim=(max(places.values()) + 1.2 * ROW, -0.1))
        axes.locator_params(axis="x", nbins=4)
        axes.hlines([place - 0.55 * HEAD for place in heads.values()], 0, 1, transform=axes.get_yaxis_transform(),
                    color=GREY, linewidth=0.4, alpha=0.5)  # fmt: skip
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(list(places.values()), [labels.plain(variant) for _, variant in places])
    for (training, comparison), place in heads.items():
        text = comparison if comparison.startswith("guided - ") else f"{comparison}, {training}"
        panels[0].annotate(
            text.replace(" - ", " − "), (0, place), (-82, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", weight="bold", va="center", size=6.5, annotation_clip=False,
        )  # fmt: skip
    there = [name for name in styles if name in set(effects.dataset)]
    kinds = {labels.dataset(name): dict(zip(("color", "marker"), styles[name], strict=True)) for name in there}
    of = {"color": "black", "marker": "o"}
    kinds |= {MAIN: of, "variant": of | {"markerfacecolor": "white"}, "sign lost": {"color": RED, "marker": "x"}}
    legend(figure, kinds | {"no conclusion in the main grid": of | {"alpha": 0.35}})
    return figure


def _layout(effects: pd.DataFrame) -> tuple[dict, dict]:
    """The height of each comparison's variants, by comparison and variant, and of its heading, from the top."""
    places, heads, at = {}, {}, 0.0
    for key, group in effects.groupby(["training", "comparison"], sort=False):
        heads[key] = at + HEAD / 2
        at += HEAD
        for variant in [MAIN, *dict.fromkeys(group.variant)]:
            places[key, variant] = at + ROW / 2
            at += ROW
    return places, heads


def _column(axes: Axes, effects: pd.DataFrame, places: Mapping, styles: Mapping[str, Sequence[str]]) -> None:
    """One question: the main grid once for each comparison and dataset, and every variant."""
    main = effects.drop_duplicates(["dataset", "training", "comparison"]).assign(variant=MAIN, holds=True)
    main[["estimate", "low", "high"]] = main[["main", "main_low", "main_high"]]
    axes.axvline(0, color=GREY, linewidth=0.7, zorder=0)
    for row in pd.concat([effects, main]).itertuples():
        shift = 0.2 * ROW * (2 * list(styles).index(row.dataset) - len(styles) + 1)
        at = places[(row.training, row.comparison), row.variant] + shift
        (colour, marker), alpha = styles[row.dataset], 1.0 if row.sign else 0.35
        if np.isfinite([row.low, row.high]).all():
            axes.plot([row.low, row.high], [at, at], color=colour, linewidth=0.8, alpha=alpha, zorder=2)
        style = {"marker": marker, "color": colour, "markersize": 3.2, "markeredgewidth": 0.8,
                 "markerfacecolor": colour if row.variant == MAIN else "white"}  # fmt: skip
        if row.sign and not row.holds:
            style = {"marker": "x", "color": RED, "markersize": 4.5, "markeredgewidth": 1.2}
        axes.plot([row.estimate], [at], linestyle="none", alpha=alpha, zorder=3, **style)
