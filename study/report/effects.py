"""The figure of ablations: whether conclusions survive other settings."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saqlib.data import DATASETS
from study.report import labels
from study.report.figures import legend
from study.report.style import DOUBLE, GREY, RED, styled

DATASET_LOOKS = (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#56B4E9", "v"))
MAIN = "main grid"
VARIANTS = {"mixed_w4a2": "weights 4, activations 2", "mixed_w2a4": "weights 2, activations 4"}
ROW, HEAD = 0.13, 0.18  # inches, of an ablation and of the line above a comparison


@styled
def ablations(effects: pd.DataFrame) -> Figure:
    """Every effect with its 95 % interval, a block for each comparison, the main grid on top of it.

    One column per question. Filled: the main grid; open: variants; a red cross: the sign of the main grid's conclusion
    is lost; pale: the main grid concludes nothing. Without any effect the figure says so.
    """
    if effects.empty:
        return without("No ablation was run at this scale.")
    names = dict.fromkeys([*DATASETS, *effects.dataset])
    styles = dict(zip(names, cycle(DATASET_LOOKS), strict=False))
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
    panels[0].set_yticks(list(places.values()), [VARIANTS.get(variant, labels.plain(variant)) for _, variant in places])
    for (training, comparison), place in heads.items():
        text = comparison if comparison.startswith("guided - ") else f"{comparison}, {training}"
        panels[0].annotate(
            labels.in_words(text), (0, place), (-82, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", weight="bold", va="center", size=6.5, annotation_clip=False,
        )  # fmt: skip
    there = [name for name in styles if name in set(effects.dataset)]
    kinds = {labels.dataset(name): dict(zip(("color", "marker"), styles[name], strict=True)) for name in there}
    of = {"color": "black", "marker": "o"}
    kinds |= {MAIN: of, "variant": of | {"markerfacecolor": "white"}, "sign lost": {"color": RED, "marker": "x"}}
    legend(figure, kinds | {"no conclusion in the main grid": of | {"alpha": 0.35}})
    return figure


def without(words: str) -> Figure:
    """In the place of a figure that has nothing to show, why."""
    figure, axes = plt.subplots(figsize=(DOUBLE, 0.6))
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
    return figure


def _layout(effects: pd.DataFrame) -> tuple[dict, dict]:
    """The height of each comparison's variants, by comparison and variant, and of its heading, from the top.

    The main grid stands above them, if it has such a comparison (it has none of 8 bits).
    """
    places, heads, at = {}, {}, 0.0
    for key, group in effects.groupby(["training", "comparison"], sort=False):
        heads[key] = at + HEAD / 2
        at += HEAD
        main = [MAIN] if group.main.notna().any() else []
        for variant in dict.fromkeys([*main, *group.variant]):
            places[key, variant] = at + ROW / 2
            at += ROW
    return places, heads


def _column(axes: Axes, effects: pd.DataFrame, places: Mapping, styles: Mapping[str, Sequence[str]]) -> None:
    """One question: the main grid once for each comparison and dataset, and every variant."""
    main = effects.drop_duplicates(["dataset", "training", "comparison"]).assign(variant=MAIN, holds=True)
    main[["estimate", "low", "high"]] = main[["main", "main_low", "main_high"]]
    axes.axvline(0, color=GREY, linewidth=0.7, zorder=0)
    for row in pd.concat([effects, main]).dropna(subset="estimate").itertuples():
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
