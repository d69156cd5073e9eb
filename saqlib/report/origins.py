"""Where the loss comes from: three tables and a figure of what saqlib.evidence.origins finds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saqlib import words
from saqlib.evidence.origins import FACTORS
from saqlib.report.panels import precision_handles
from saqlib.report.style import DOUBLE, GREY, TRAINING_COLOURS, colour, in_order, marker, styled
from saqlib.report.tables import Table, bracketed, number, p_value

SHADES, POINTS = ("#009E73", "#0072B2", "#CC79A7"), ("o", "s", "^")  # of questions
STEPS = ("o", "D", "v")  # of finite differences
DRAWN = "spearman"  # the likeness of the figure; the table has all
# Of shares at least so much is seen, and every estimate; intervals of few seeds are huge and may be cut.
SHARES, TICKS = (-0.6, 10), (-10, -1, -0.5, 0, 0.5, 1, 2, 5, 20, 100)
EVEN = 1.5  # beyond it the axis of shares is logarithmic


# -------------------------------------------------------------------------------------------------------- tables


def switched(found: pd.DataFrame) -> Table:
    """The share of each loss that comes back without quantizers, as saqlib.evidence.origins.recovered gives it."""
    shown = _keys(found, ["precision", "question"]) | {
        "Off": found.off,
        "Comes back [95 % interval]": _bounds(found, 2),
        "Explains": found.word,
    }
    return Table("switched", found, pd.DataFrame(shown))


def surrogate(found: pd.DataFrame) -> Table:
    """Finite differences against the gradient, as saqlib.evidence.origins.surrogate gives it."""
    shown = _keys(found, ["precision"]) | {
        "Step": found.difference,
        "Estimate [95 % interval]": _bounds(found, 3),
        "p (Holm)": found.p_holm.map(p_value),
        "Verdict": found.verdict,
        "Artefact": found.artefact,
    }
    return Table("surrogate", found, pd.DataFrame(shown))


def randomization(found: pd.DataFrame) -> Table:
    """Likeness while layers are drawn anew, as saqlib.evidence.origins.randomized gives it."""
    shown = _keys(found, ["precision"]) | {
        "Score": found.likeness.map(lambda name: words.name(f"preservation_{name}")),
        "Layers drawn anew, to": found.redrawn,
        "Likeness": found.alike.map(number),
        "Seed to seed": found.beside.map(number),
        "Difference [95 % interval]": _bounds(found, 3),
        "p (Holm)": found.p_holm.map(p_value),
        "Verdict": found.verdict,
    }
    return Table("randomization", found, pd.DataFrame(shown))


def _keys(found: pd.DataFrame, more: list[str]) -> dict[str, pd.Series]:
    own = {"Dataset": found.dataset.map(words.dataset), "Training": found.training}
    return own | {name.capitalize(): found[name] for name in more}


def _bounds(found: pd.DataFrame, digits: int) -> list[str]:
    return [bracketed(*each, digits) for each in found[["estimate", "low", "high"]].itertuples(index=False)]


# -------------------------------------------------------------------------------------------------------- figure


@styled
def origins(recovered: pd.DataFrame, surrogate: pd.DataFrame, randomized: pd.DataFrame) -> Figure:
    """One row per dataset: what comes back without quantizers, what finite differences add, layers drawn anew.

    The frames are those of saqlib.evidence.origins. What comes back is shown of the precision of fewest bits; layers
    drawn anew of the first training.
    """
    datasets = list(dict.fromkeys(randomized.dataset))
    figure, panels = plt.subplots(len(datasets), 3, figsize=(DOUBLE, 0.7 + 1.7 * len(datasets)), squeeze=False)
    lowest = in_order(randomized.precision)[-1]
    for dataset, (left, middle, right) in zip(datasets, panels, strict=True):
        _shares(left, recovered[(recovered.dataset == dataset) & (recovered.precision == lowest)])
        _leads(middle, surrogate[surrogate.dataset == dataset])
        _cascade(right, randomized[(randomized.dataset == dataset) & (randomized.likeness == DRAWN)])
        left.set_ylabel(words.dataset(dataset), weight="bold")
    titles = f"share of the loss that comes back, {lowest}", "slope more faithful than gradient", "likeness to itself"
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    figure.legend(handles=_question_handles(recovered), loc="outside upper left", ncols=2)
    figure.legend(handles=_step_handles(surrogate), loc="outside upper center", ncols=2)
    beside = Line2D([], [], color=GREY, linestyle="--", label="two seeds")
    figure.legend(handles=[*precision_handles(randomized), beside], loc="outside upper right", ncols=3)
    return figure


def _shares(axes: Axes, found: pd.DataFrame) -> None:
    """The share of each loss by factor; questions side by side, open for guided training."""
    questions, trainings = (list(dict.fromkeys(found[name])) for name in ("question", "training"))
    series = [(question, training) for question in questions for training in trainings]
    for place, (question, training) in enumerate(series):
        own = found[(found.question == question) & (found.training == training)].set_index("off").reindex(FACTORS)
        at, shade = np.arange(len(FACTORS)) + _shift(place, len(series)), SHADES[questions.index(question)]
        face = shade if training == "standard" else "white"
        _points(axes, at, own, shade, POINTS[questions.index(question)], face)
    for level, line in ((0, "-"), (0.5, "--"), (1, "-")):
        axes.axhline(level, color=GREY, linewidth=0.5, linestyle=line, zorder=0)
    axes.set_yscale("symlog", linthresh=EVEN, linscale=2)
    axes.set_yticks(TICKS, TICKS)
    axes.minorticks_off()
    seen = [*SHARES, *(1.2 * found.estimate.dropna())]
    axes.set(ylim=(min(seen), max(seen)), xlim=(-0.5, len(FACTORS) - 0.5))
    axes.set_xticks(range(len(FACTORS)), [f"{factor}\noff" for factor in FACTORS])


def _leads(axes: Axes, found: pd.DataFrame) -> None:
    """What finite differences are more faithful by, less the same at the reference, by precision."""
    steps, trainings = (list(dict.fromkeys(found[name])) for name in ("difference", "training"))
    precisions = in_order(found.precision)
    series = [(training, step) for training in trainings for step in steps]
    for place, (training, step) in enumerate(series):
        own = found[(found.training == training) & (found.difference == step)].set_index("precision")
        at = np.arange(len(precisions)) + _shift(place, len(series))
        shade = TRAINING_COLOURS[training]
        _points(axes, at, own.reindex(precisions), shade, STEPS[steps.index(step)], shade)
    axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
    heights = found.estimate[np.isfinite(found.estimate)]
    if len(heights):  # the intervals of few seeds are huge
        far = 2.5 * max(heights.abs().max(), 0.02)
        axes.set_ylim(max(-far, axes.get_ylim()[0]), min(far, axes.get_ylim()[1]))
    axes.set_xticks(range(len(precisions)), precisions)
    axes.set_xlim(-0.5, len(precisions) - 0.5)


def _cascade(axes: Axes, found: pd.DataFrame) -> None:
    """The likeness of maps to themselves while layers are drawn anew, beside that of two reference networks."""
    found = found[found.training == found.training.iloc[0]]
    layers = list(dict.fromkeys(found.redrawn))
    for precision in in_order(found.precision):
        own = found[found.precision == precision].set_index("redrawn").reindex(layers)
        axes.plot(range(len(layers)), own.alike, color=colour(precision), marker=marker(precision), markersize=3)
    axes.axhline(found.beside.iloc[0], color=GREY, linestyle="--", linewidth=0.9)
    axes.set_xticks(range(len(layers)), [layer.replace("conv", "c").replace("dense", "d") for layer in layers])
    axes.set_xlabel("layers drawn anew, up to")


def _shift(place: int, count: int) -> float:
    return 0.7 * ((place + 0.5) / count - 0.5)


def _points(axes: Axes, at: np.ndarray, own: pd.DataFrame, shade: str, form: str, face: str) -> None:
    """Estimates with their intervals, which need not be even."""
    ends = np.abs(own[["low", "high"]].to_numpy(float).T - own.estimate.to_numpy(float))
    axes.errorbar(
        at, own.estimate, ends, color=shade, marker=form, markersize=3, markerfacecolor=face, elinewidth=0.8,
        linestyle="none",
    )  # fmt: skip


def _question_handles(found: pd.DataFrame) -> list[Line2D]:
    questions, trainings = (list(dict.fromkeys(found[name])) for name in ("question", "training"))
    handles = [_handle(color=shade, marker=form, label=question)
               for question, shade, form in zip(questions, SHADES, POINTS, strict=False)]  # fmt: skip
    faces = [(training, GREY if training == "standard" else "white") for training in trainings]
    return handles + [_handle(color=GREY, marker="o", markerfacecolor=face, label=name) for name, face in faces]


def _step_handles(found: pd.DataFrame) -> list[Line2D]:
    steps, trainings = (list(dict.fromkeys(found[name])) for name in ("difference", "training"))
    handles = [_handle(color=TRAINING_COLOURS[training], marker="s", label=training) for training in trainings]
    return handles + [
        _handle(color=GREY, marker=form, label=f"± {step}") for step, form in zip(steps, STEPS, strict=False)
    ]


def _handle(**style) -> Line2D:
    return Line2D([], [], linestyle="none", **style)
