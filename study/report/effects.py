"""Figures of effects with intervals: where the loss comes from, and whether conclusions survive other settings."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saqlib.data import DATASETS
from saqlib.findings import FACTORS
from study.report import labels
from study.report.figures import face, legend, of_precisions, ticks
from study.report.style import DOUBLE, GREY, RED, TRAINING_COLOURS, in_order, in_turn, styled

# Colours and markers by the order of what they stand for; markers of finite differences.
QUESTIONS = (("#009E73", "o"), ("#0072B2", "s"), ("#CC79A7", "^"), (GREY, "D"))
DATASET_LOOKS = (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#56B4E9", "v"))
STEPS = ("o", "D", "v", "s")
DRAWN = "spearman"  # the likeness of the figure; the table has all
# Of shares at least so much is seen, and every estimate; intervals of few seeds are huge and may be cut.
SHARES, TICKS = (-0.6, 10), (-10, -1, -0.5, 0, 0.5, 1, 2, 5, 20, 100)
EVEN = 1.5  # beyond it the axis of shares is logarithmic
MAIN = "main grid"
ROW, HEAD = 0.15, 0.2  # inches, of an ablation and of the line above a comparison


# ----------------------------------------------------------------------------------- where the loss comes from


@styled
def origins(recovered: pd.DataFrame, surrogate: pd.DataFrame, randomized: pd.DataFrame) -> Figure:
    """One row per dataset: what comes back without quantizers, what finite differences add, layers drawn anew.

    The frames are those of saqlib.findings. What comes back is shown of the precision of fewest bits; layers drawn anew
    of the first training.
    """
    datasets = list(dict.fromkeys(randomized.dataset))
    figure, axes = plt.subplots(len(datasets), 3, figsize=(DOUBLE, 0.7 + 1.7 * len(datasets)), squeeze=False)
    lowest = in_order(randomized.precision)[-1]
    recovered = recovered[recovered.precision == lowest]
    questions, steps = in_turn(recovered.question, QUESTIONS), in_turn(surrogate.difference, STEPS)
    for dataset, (left, middle, right) in zip(datasets, axes, strict=True):
        _shares(left, recovered[recovered.dataset == dataset], questions)
        _leads(middle, surrogate[surrogate.dataset == dataset], steps)
        _cascade(right, randomized[(randomized.dataset == dataset) & (randomized.likeness == DRAWN)])
        left.set_ylabel(labels.dataset(dataset), weight="bold")
    titles = f"share of the loss that comes back, {lowest}", "slope more faithful than gradient", "likeness to itself"
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title)
    trainings = list(dict.fromkeys(recovered.training))
    asked = {question: {"color": colour, "marker": marker} for question, (colour, marker) in questions.items()}
    faces = {training: {"marker": "o", "markerfacecolor": face(training, GREY)} for training in trainings}
    legend(figure, asked | faces, 2, "left")
    colours = {training: {"marker": "s", "color": TRAINING_COLOURS[training]} for training in trainings}
    legend(figure, colours | {f"± {step}": {"marker": marker} for step, marker in steps.items()}, 2)
    legend(figure, of_precisions(randomized.precision) | {"two seeds": {"linestyle": "--"}}, 3, "right")
    return figure


def _shares(axes: Axes, parts: pd.DataFrame, styles: Mapping[str, Sequence[str]]) -> None:
    """The share of each loss by factor; questions side by side, open for guided training."""
    looks = {(question, training): (colour, marker, face(training, colour))
             for question, (colour, marker) in styles.items() for training in parts.training.unique()}  # fmt: skip
    _side_by_side(axes, parts, ["question", "training"], looks, "off", list(FACTORS))
    for level, line in ((0, "-"), (0.5, "--"), (1, "-")):
        axes.axhline(level, color=GREY, linewidth=0.5, linestyle=line, zorder=0)
    axes.set_yscale("symlog", linthresh=EVEN, linscale=2)
    axes.set_yticks(TICKS, TICKS)
    axes.minorticks_off()
    seen = [*SHARES, *(1.2 * parts.estimate.dropna())]
    axes.set_ylim(min(seen), max(seen))
    axes.set_xticks(axes.get_xticks(), [f"{factor}\noff" for factor in FACTORS])


def _leads(axes: Axes, leads: pd.DataFrame, markers: Mapping[str, str]) -> None:
    """What finite differences are more faithful by, less the same at the reference, by precision."""
    looks = {(training, step): (TRAINING_COLOURS[training], marker, TRAINING_COLOURS[training])
             for training in dict.fromkeys(leads.training) for step, marker in markers.items()}  # fmt: skip
    _side_by_side(axes, leads, ["training", "difference"], looks, "precision", in_order(leads.precision))
    axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
    heights = leads.estimate[np.isfinite(leads.estimate)]
    if len(heights):  # the intervals of few seeds are huge
        far = 2.5 * max(heights.abs().max(), 0.02)
        axes.set_ylim(max(-far, axes.get_ylim()[0]), min(far, axes.get_ylim()[1]))


def _cascade(axes: Axes, likeness: pd.DataFrame) -> None:
    """The likeness of maps to themselves while layers are drawn anew, beside that of two reference networks."""
    likeness = likeness[likeness.training == likeness.training.iloc[0]]
    layers = list(dict.fromkeys(likeness.redrawn))
    for precision, style in of_precisions(likeness.precision).items():
        own = likeness[likeness.precision == precision].set_index("redrawn").reindex(layers)
        axes.plot(range(len(layers)), own.alike, markersize=3, **style)
    axes.axhline(likeness.beside.iloc[0], color=GREY, linestyle="--", linewidth=0.9)
    axes.set_xticks(range(len(layers)), [layer.replace("conv", "c").replace("dense", "d") for layer in layers])
    axes.set_xlabel("layers drawn anew, up to")


def _side_by_side(axes: Axes, frame: pd.DataFrame, keys: list[str], looks: Mapping, place: str, places: list) -> None:
    """Estimates with their intervals, which need not be even: at each place the series one after the other.

    looks: colour, marker and face of each series, by its values of the keys.
    """
    for at, (key, (colour, marker, inside)) in enumerate(looks.items()):
        own = frame[(frame[keys] == list(key)).all(axis=1)].set_index(place).reindex(places)
        ends = np.abs(own[["low", "high"]].to_numpy(float).T - own.estimate.to_numpy(float))
        axes.errorbar(
            np.arange(len(places)) + 0.7 * ((at + 0.5) / len(looks) - 0.5), own.estimate, ends, color=colour,
            marker=marker, markersize=3, markerfacecolor=inside, elinewidth=0.8, linestyle="none",
        )  # fmt: skip
    ticks(axes, places)


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
