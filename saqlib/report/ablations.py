"""Whether conclusions survive other numbers: the effects of every ablation beside those of the main grid."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saqlib import words
from saqlib.report.style import DOUBLE, GREY, RED, styled
from saqlib.report.tables import MISSING, Table, bracketed
from saqlib.report.verdict_tables import digits_of

MAIN = "main grid"
COLOURS = {"mnist": "#0072B2", "fashion_mnist": "#E69F00"}
MARKERS = {"mnist": "o", "fashion_mnist": "s"}
ROW, HEAD = 0.15, 0.2  # inches, of a variant and of the line above a comparison


def table(effects: pd.DataFrame, questions: Mapping[str, str]) -> Table:
    """Every effect of saqlib.evidence.ablations.effects; questions: the column that answers each, for the digits.

    Shown is one row per variant and comparison, each effect with its interval, and beside one that lost its sign the
    word `reversed`.
    """
    keys = ["variant", "dataset", "training", "comparison"]
    texts = [_text(row, digits_of(questions[row["question"]])) for row in effects.to_dict("records")]
    shown = effects[keys].drop_duplicates().reset_index(drop=True)
    for question in dict.fromkeys(effects.question):
        own = effects.assign(text=texts)[effects.question == question][[*keys, "text"]]
        shown = shown.merge(own.rename(columns={"text": question.capitalize()}), on=keys, how="left")
    shown["dataset"] = shown.dataset.map(words.dataset)
    shown["variant"] = shown.variant.map(in_words)
    shown = shown.rename(columns={key: key.capitalize() for key in keys})
    return Table("ablations", effects, shown)


def _text(row: Mapping, digits: int) -> str:
    if not np.isfinite(row["estimate"]):
        return MISSING
    value = bracketed(row["estimate"], row["low"], row["high"], digits)
    return f"{value} reversed" if row["holds"] is False or row["holds"] == np.False_ else value


def in_words(variant: str) -> str:
    """`edges same` for `edges_same`."""
    return variant.replace("_", " ")


@styled
def forest(effects: pd.DataFrame) -> Figure:
    """Every effect with its 95 % interval, a block for each comparison, the main grid on top of it.

    One column per question. Filled: the main grid; open: variants; a red cross: the sign of the main grid's conclusion
    is lost; pale: the main grid concludes nothing. Without any effect the figure says so.
    """
    if effects.empty:
        figure, axes = plt.subplots(figsize=(DOUBLE, 0.6))
        axes.set_axis_off()
        axes.text(0.5, 0.5, "No ablation was run at this scale.", ha="center", va="center", transform=axes.transAxes)
        return figure
    questions = list(dict.fromkeys(effects.question))
    places, heads = _layout(effects)
    height = ROW * len(places) + HEAD * len(heads) + 0.75
    figure, panels = plt.subplots(1, len(questions), figsize=(DOUBLE, height), sharey=True, squeeze=False)
    for axes, question in zip(panels[0], questions, strict=True):
        _column(axes, effects[effects.question == question], places)
        unit = " (points)" if question == "accuracy" else ""
        axes.set(title=question.capitalize() + unit, ylim=(max(places.values()) + 1.2 * ROW, -0.1))
        axes.locator_params(axis="x", nbins=4)
        for place in heads.values():
            axes.axhline(place - 0.55 * HEAD, color=GREY, linewidth=0.4, alpha=0.5)
    first = panels[0, 0]
    first.set_yticks(list(places.values()), [in_words(variant) for _, variant in places])
    for axes in panels[0]:
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    for (training, comparison), place in heads.items():
        text = comparison if comparison.startswith("guided - ") else f"{comparison}, {training}"
        first.annotate(
            text.replace(" - ", " − "), (0, place), (-82, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", weight="bold", va="center", size=6.5, annotation_clip=False,
        )  # fmt: skip
    figure.legend(handles=_handles(effects), loc="outside upper center", ncols=6, columnspacing=1.2)
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


def _column(axes: Axes, effects: pd.DataFrame, places: Mapping) -> None:
    """One question: the main grid once for each comparison and dataset, and every variant."""
    datasets = list(dict.fromkeys(effects.dataset))
    axes.axvline(0, color=GREY, linewidth=0.7, zorder=0)
    for row in effects.to_dict("records"):
        key = row["training"], row["comparison"]
        shift = 0.2 * ROW * (2 * datasets.index(row["dataset"]) - len(datasets) + 1)
        _point(axes, row, places[key, row["variant"]] + shift, "", row["holds"])
    for row in effects.drop_duplicates(["dataset", "training", "comparison"]).to_dict("records"):
        shift = 0.2 * ROW * (2 * datasets.index(row["dataset"]) - len(datasets) + 1)
        _point(axes, row, places[(row["training"], row["comparison"]), MAIN] + shift, "main", True)


def _point(axes: Axes, row: Mapping, at: float, which: str, holds: object) -> None:
    """An effect with its interval; which: `main`, or nothing for the variant's own."""
    names = ("main", "main_low", "main_high") if which else ("estimate", "low", "high")
    middle, low, high = (row[name] for name in names)
    shade, alpha = COLOURS.get(row["dataset"], GREY), 1.0 if row["sign"] else 0.35
    if np.isfinite([low, high]).all():
        axes.plot([low, high], [at, at], color=shade, linewidth=0.8, alpha=alpha, zorder=2)
    lost = row["sign"] and not holds
    style = {"marker": "x", "color": RED, "markersize": 4.5, "markeredgewidth": 1.2} if lost else {
        "marker": MARKERS.get(row["dataset"], "D"), "color": shade, "markersize": 3.2,
        "markerfacecolor": shade if which else "white", "markeredgewidth": 0.8,
    }  # fmt: skip
    axes.plot([middle], [at], linestyle="none", alpha=alpha, zorder=3, **style)


def _handles(effects: pd.DataFrame) -> list[Line2D]:
    def of(label: str, **style) -> Line2D:
        return Line2D([], [], linestyle="none", markersize=4, label=label, **style)

    found = [
        of(words.dataset(d), marker=MARKERS.get(d, "D"), color=COLOURS.get(d, GREY))
        for d in dict.fromkeys(effects.dataset)
    ]
    return [
        *found,
        of(MAIN, marker="o", color="black"),
        of("variant", marker="o", color="black", markerfacecolor="white"),
        of("sign lost", marker="x", color=RED, markeredgewidth=1.2),
        of("no conclusion in the main grid", marker="o", color="black", alpha=0.35),
    ]
