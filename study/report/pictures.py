"""Figures made of pictures: the classes, saliency maps of a few images and of all classes; how a map is shown.

A map is shown as the magnitude of the gradient. Gradients of different networks have different units, so each
panel has a scale of its own: black is 0, and the brightest colour is the 99th percentile of the panel (8 of 784
pixels lie above it) or more.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saqlib.scores import SCORES
from study.report import labels
from study.report.style import DOUBLE, RED, bare, styled

if TYPE_CHECKING:
    from study.frames import Maps

PERCENTILE = 99
SMALLEST = 6.1  # points: what is smaller cannot be read in print
MAP_COLOURS = "inferno"
GAP, BESIDE = 0.24, 0.06  # before each block of maps, and before each map, in panels
ORDER_COLOURS = {"most": "#D55E00", "least": "#0072B2"}  # which salient pixels leave first, as in the figure of curves
Blocks = Mapping[str, Mapping[str, "Maps"]]  # training -> precision -> maps


def top(magnitudes: np.ndarray) -> float:
    """The brightest value of a panel's scale: the 99th percentile, or the maximum where that is 0."""
    return float(np.percentile(magnitudes, PERCENTILE) or magnitudes.max())


def is_dead(saliency: np.ndarray) -> bool:
    """Whether there is no map to show: all zero, or not finite."""
    return not np.isfinite(saliency).all() or not saliency.any()


def show_map(axes: Axes, saliency: np.ndarray) -> None:
    """One map (28, 28) into a panel, on its own scale; a dead map is hatched, not black."""
    bare(axes)
    if is_dead(saliency):
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.add_patch(Rectangle((0, 0), 1, 1, facecolor="white", edgecolor="#777777", hatch="////"))
        return
    magnitude = np.abs(saliency)
    axes.imshow(magnitude, cmap=MAP_COLOURS, vmin=0, vmax=top(magnitude))


def show_image(axes: Axes, image: np.ndarray) -> None:
    """One uint8 image (28, 28), dark on white."""
    bare(axes)
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=255)


@styled
def classes(images: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]]) -> Figure:
    """A few images of every class of every dataset.

    images: for each title uint8 (examples, 10, 28, 28); names: its ten classes.
    """
    ratios = [0.25 + 0.68 * len(rows) for rows in images.values()]
    figure = plt.figure(figsize=(DOUBLE, 0.5 + sum(ratios)))
    blocks = figure.subfigures(len(images), 1, height_ratios=ratios, squeeze=False)[:, 0]
    for block, (title, rows) in zip(blocks, images.items(), strict=True):
        block.suptitle(title, x=0.01, ha="left", weight="bold")
        panels = block.subplots(len(rows), len(rows[0]), squeeze=False, gridspec_kw={"wspace": 0, "hspace": 0})
        for axes, image in zip(panels.flat, np.concatenate(rows), strict=True):
            show_image(axes, image)
        for axes, name in zip(panels[0], names[title], strict=True):
            axes.set_title(name)
    return figure


@styled
def saliency_grid(images: np.ndarray, names: Sequence[str], blocks: Blocks) -> Figure:
    """Rows: one test image a class. Columns: the image, then for each training the precisions.

    images: uint8 (K, 28, 28); names: K classes; blocks: training -> precision -> Maps. Below each map stand its
    Gini index and Moran's I; a wrong class has a red frame.
    """
    columns = [("" if place else training, *named) for training, group in blocks.items()
               for place, named in enumerate(group.items())]  # fmt: skip
    gaps = [GAP if training else BESIDE for training, *_ in columns]
    figure, panels = grid([0, *gaps], [0, *[0.19] * (len(images) - 1)], 0.55, 0.05, 0.42, 0.6)
    for i, line in enumerate(panels):
        show_image(line[0], images[i])
        line[0].set_ylabel(names[i], rotation=0, ha="right", va="center", labelpad=4)
        for axes, (*_, network) in zip(line[1:], columns, strict=True):
            show_map(axes, network.maps[i])
            axes.text(0.5, -0.03, _caption(network, i), transform=axes.transAxes, ha="center", va="top", size=SMALLEST)
            if not network.correct[i]:
                axes.spines[:].set(visible=True, color=RED, linewidth=1.6)
    panels[0][0].set_title("input")
    for axes, (training, precision, _) in zip(panels[0][1:], columns, strict=True):
        axes.set_title(labels.precision(precision), size=6.5)
        if training:
            over(axes, f"{training} training")
    scale_bar(figure, f"|gradient of the predicted class's logit| / the panel's {PERCENTILE}th percentile")
    return figure


@styled
def removal(
    image: np.ndarray, saliency: np.ndarray, left: Mapping[str, np.ndarray], probability: Mapping[str, np.ndarray],
    shown: Sequence[int] = (0, 3, 6),
) -> Figure:  # fmt: skip
    """How a map gets its relevance gain: pixels leave in its order, and what the network still answers is the curve.

    image: uint8 (28, 28). saliency: its map. left, probability: with the `most` and the `least` salient pixels removed
    first, what is left of the image, uint8 (K, 28, 28), and the probability of the class, (K,), at K equal steps from
    no pixel to all. shown: steps that are pictures, too. The area between the curves is the relevance gain.
    """
    figure = plt.figure(figsize=(DOUBLE, 2.5), layout="constrained")
    beside, chart = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    panels, axes = beside.subplots(2, 1 + len(shown)), chart.subplots()
    show_image(panels[0, 0], image)
    show_map(panels[1, 0], saliency)
    percent = np.linspace(0, 100, len(probability["most"]))
    axes.fill_between(percent, probability["most"], probability["least"], facecolor="#e3e3e3", linewidth=0)
    for line, (order, colour) in zip(panels, ORDER_COLOURS.items(), strict=True):
        axes.plot(percent, probability[order], color=colour, marker="o", markevery=list(shown))
        for panel, step in zip(line[1:], shown, strict=True):
            show_image(panel, left[order][step])
            panel.set_xlabel(f"{probability[order][step]:.2f}", color=colour)
            panel.set_title(f"{percent[step]:.0f} % removed" if order == "most" else "")
        line[1].set_ylabel(f"{order} salient\nfirst", color=colour)
    gain = np.trapezoid(probability["least"] - probability["most"], percent / 100)
    axes.text(0.98, 0.98, f"area = relevance gain = {gain:.2f}", transform=axes.transAxes, ha="right", va="top")
    axes.set(xlim=(0, 100), ylim=(0, 1.15), yticks=[0, 0.5, 1])
    axes.set(xlabel="pixels removed (%)", ylabel="probability of the class")
    return figure


def grid(
    columns: Sequence[float], rows: Sequence[float], left: float, right: float, above: float, below: float,
    largest: float = np.inf,
) -> tuple[Figure, np.ndarray]:  # fmt: skip
    """Square panels over the width of the page, one for each row and column: the figure, and the axes.

    columns, rows: the gap before each, in panels. The margins, and the largest panel that there may be, are in inches.
    """
    side = min(largest, (DOUBLE - left - right) / (len(columns) + sum(columns)))
    height = side * (len(rows) + sum(rows)) + above + below
    figure = plt.figure(figsize=(DOUBLE, height), layout="none")
    across, down = (np.arange(len(gaps)) + np.cumsum(gaps) for gaps in (columns, rows))
    corners = [[((left + side * x) / DOUBLE, 1 - (above + side * (y + 1)) / height) for x in across] for y in down]
    axes = [[figure.add_axes((*corner, side / DOUBLE, side / height)) for corner in line] for line in corners]
    return figure, np.array(axes)


def _caption(network: "Maps", i: int) -> str:
    """`G .58, I .44`: the Gini index and Moran's I of a map."""
    if is_dead(network.maps[i]):
        return "dead map"
    return ", ".join(f"{SCORES[name].symbol} {_short(getattr(network, name)[i])}" for name in ("gini", "morans_i"))


def _short(value: float) -> str:
    """`.58` for 0.58, `1.0` for what rounds to 1."""
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else f"{value:.1f}"


def over(axes: Axes, text: str) -> None:
    """Words over the titles of a block of panels, from the left edge of its first one."""
    axes.annotate(text, (0, 1), (0, 15), xycoords="axes fraction", textcoords="offset points", weight="bold", size=7.5)


def scale_bar(figure: Figure, label: str) -> None:
    """The colours of all maps below the panels, from 0 to the brightest, under what they mean."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0.35, 0.2 / height, 0.3, 0.07 / height))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), MAP_COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "≥ 1"])
    bar.ax.tick_params(pad=1, length=1.5, labelsize=SMALLEST)
    bar.ax.annotate(label, (0.5, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", ha="center",
                    size=6.5)  # fmt: skip
    bar.outline.set_visible(False)
