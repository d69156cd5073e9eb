"""Figures made of pictures: the classes, saliency maps of a few images and of all classes; how a map is shown.

A map is shown as the magnitude of the gradient. Gradients of different networks have different units, so each
panel has a scale of its own unless said otherwise: black is 0, and the brightest colour is the 99th percentile
of the panel (8 of 784 pixels lie above it) or more.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saqlib.evidence.kept_maps import Maps
from saqlib.report.style import DOUBLE, RED, bare, styled

PERCENTILE = 99
SMALLEST = 6.1  # points: what is smaller cannot be read in print
MAP_COLOURS = "inferno"


def top(magnitudes: np.ndarray) -> float:
    """The brightest value of a panel's scale: the 99th percentile, or the maximum where that is 0."""
    return float(np.percentile(magnitudes, PERCENTILE) or magnitudes.max())


def is_dead(saliency: np.ndarray) -> bool:
    """Whether there is no map to show: all zero, or not finite."""
    return not np.isfinite(saliency).all() or not saliency.any()


def show_map(axes: Axes, saliency: np.ndarray, vmax: float | None = None) -> None:
    """One map (28, 28) into a panel, up to `vmax` or on its own scale; a dead map is hatched, not black."""
    bare(axes)
    if is_dead(saliency):
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.add_patch(Rectangle((0, 0), 1, 1, facecolor="white", edgecolor="#777777", hatch="////"))
        return
    magnitude = np.abs(saliency)
    axes.imshow(magnitude, cmap=MAP_COLOURS, vmin=0, vmax=vmax or top(magnitude))


def show_image(axes: Axes, image: np.ndarray) -> None:
    """One uint8 image (28, 28), dark on white."""
    bare(axes)
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=255)


@styled
def classes(images: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]]) -> Figure:
    """A few images of every class of every dataset.

    images: for each title uint8 (examples, 10, 28, 28); names: its ten classes.
    """
    figure = plt.figure(figsize=(DOUBLE, 0.5 + sum(0.25 + 0.68 * len(rows) for rows in images.values())))
    ratios = [0.25 + 0.68 * len(rows) for rows in images.values()]
    blocks = figure.subfigures(len(images), 1, height_ratios=ratios, squeeze=False)[:, 0]
    for block, (title, rows) in zip(blocks, images.items(), strict=True):
        block.suptitle(title, x=0.01, ha="left", weight="bold")
        panels = block.subplots(len(rows), len(rows[0]), squeeze=False, gridspec_kw={"wspace": 0, "hspace": 0})
        for line, row in zip(panels, rows, strict=True):
            for axes, image in zip(line, row, strict=True):
                show_image(axes, image)
        for axes, name in zip(panels[0], names[title], strict=True):
            axes.set_title(name)
    return figure


@styled
def saliency_grid(
    images: np.ndarray,
    names: Sequence[str],
    blocks: Mapping[str, Mapping[str, Maps]],
    scale: Literal["panel", "row"] = "panel",
) -> Figure:
    """Rows: one test image a class. Columns: the image, then for each training the precisions.

    images: uint8 (K, 28, 28); names: K classes; blocks: training -> precision -> Maps. Below each map stand its
    Gini index and Moran's I; a wrong class has a red frame.
    scale: each panel's own 99th percentile, or one for all maps of a row.
    """
    columns = [(training, precision) for training, group in blocks.items() for precision in group]
    figure, panels = _panels(len(images), [len(group) for group in blocks.values()])
    for i, line in enumerate(panels):
        show_image(line[0], images[i])
        line[0].set_ylabel(names[i], rotation=0, ha="right", va="center", labelpad=4)
        shown = [blocks[training][precision] for training, precision in columns]
        alive = [network.maps[i] for network in shown if not is_dead(network.maps[i])]
        vmax = top(np.abs(np.stack(alive))) if scale == "row" and alive else None
        for axes, network in zip(line[1:], shown, strict=True):
            show_map(axes, network.maps[i], vmax)
            _caption(axes, network, i)
    _titles(panels[0], columns)
    whose = "panel's" if scale == "panel" else "row's"
    scale_bar(figure, f"|gradient of the predicted class's logit| / the {whose} {PERCENTILE}th percentile")
    return figure


@styled
def few_maps(
    images: np.ndarray, names: Sequence[str], blocks: Mapping[str, Mapping[str, Maps]], control: np.ndarray
) -> Figure:
    """A few images, enlarged, each with all its maps on one scale, the control's too: brightness can be compared.

    images: uint8 (K, 28, 28), every fourth of which is shown; names: K classes; blocks: training -> precision -> Maps;
    control: maps (K, 28, 28) of a network that was not trained. A wrong class has a red frame.
    """
    columns = [(training, precision) for training, group in blocks.items() for precision in group]
    chosen = range(0, len(images), 4)
    figure, panels = _panels(len(chosen), [*(len(group) for group in blocks.values()), 1], text=0.06)
    for i, line in zip(chosen, panels, strict=True):
        show_image(line[0], images[i])
        line[0].set_ylabel(names[i], rotation=0, ha="right", va="center", labelpad=4)
        networks = [blocks[training][precision] for training, precision in columns]
        maps = [*(network.maps[i] for network in networks), control[i]]
        alive = [each for each in maps[:-1] if not is_dead(each)]
        vmax = top(np.abs(np.stack(alive))) if alive else None
        for axes, each in zip(line[1:], maps, strict=True):
            show_map(axes, each, vmax)
        for axes, network in zip(line[1:], networks, strict=False):
            _framed(axes, network, i)
    _titles(panels[0][:-1], columns)
    panels[0][-1].set_title("untrained")
    scale_bar(
        figure, f"|gradient of the predicted class's logit| / the {PERCENTILE}th percentile of the row's networks"
    )
    return figure


def _panels(rows: int, blocks: Sequence[int], text: float = 0.19) -> tuple[Figure, np.ndarray]:
    """Square panels with `text` of their height below each, and a gap before each block; the axes without the gaps."""
    gap = 0.18  # in panels
    widths = [1.0] + [width for block in blocks for width in (gap, *[1.0] * block)]
    left, right, above, below = 0.55, 0.05, 0.42, 0.6  # inches
    side = (DOUBLE - left - right) / (sum(widths) + 0.05 * (len(widths) - 1))
    height = side * (rows + (rows - 1) * text) + above + below
    figure = plt.figure(figsize=(DOUBLE, height), layout="none")
    grid = figure.add_gridspec(
        rows, len(widths), width_ratios=widths, wspace=0.06, hspace=text,
        left=left / DOUBLE, right=1 - right / DOUBLE, top=1 - above / height, bottom=below / height,
    )  # fmt: skip
    used = [i for i, width in enumerate(widths) if width == 1.0]
    return figure, np.array([[figure.add_subplot(grid[row, i]) for i in used] for row in range(rows)])


def _caption(axes: Axes, network: Maps, i: int) -> None:
    values = {"G": network.gini[i], "I": network.morans_i[i]}
    text = "dead map" if is_dead(network.maps[i]) else ", ".join(f"{k} {_short(v)}" for k, v in values.items())
    axes.text(0.5, -0.03, text, transform=axes.transAxes, ha="center", va="top", size=SMALLEST)
    _framed(axes, network, i)


def _framed(axes: Axes, network: Maps, i: int) -> None:
    """A red frame where the class that is explained is wrong."""
    if not network.correct[i]:
        axes.spines[:].set(visible=True, color=RED, linewidth=1.6)


def _short(value: float) -> str:
    """`.58` for 0.58, `1.0` for what rounds to 1."""
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else f"{value:.1f}"


def _titles(line: Sequence[Axes], columns: Sequence[tuple[str, str]]) -> None:
    """The precision above each column, the training above the first of its block."""
    line[0].set_title("input")
    for axes, (training, precision) in zip(line[1:], columns, strict=True):
        axes.set_title(precision)
        if (training, precision) == next(column for column in columns if column[0] == training):
            axes.annotate(
                f"{training} training", (0, 1), (0, 15), xycoords="axes fraction", textcoords="offset points",
                weight="bold", size=7.5,
            )  # fmt: skip


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
