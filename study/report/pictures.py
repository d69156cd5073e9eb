"""Figures made of pictures: the classes, saliency maps of a few images and of all classes; how a map is shown.

A map is shown as the magnitude of the gradient. Gradients of different networks have different units, so each
panel has a scale of its own unless said otherwise: black is 0, and the brightest colour is the 99th percentile
of the panel (8 of 784 pixels lie above it) or more.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from saqlib.scores import FAITHFULNESS, SCORES, UNTRAINED
from study.report import labels
from study.report.style import DOUBLE, RED, TRAINING_COLOURS, bare, in_order, styled

if TYPE_CHECKING:
    from study.frames import Maps

PERCENTILE = 99
SMALLEST = 6.1  # points: what is smaller cannot be read in print
MAP_COLOURS = "inferno"
ENLARGED = 4  # every fourth image is shown where images are enlarged
GAP, BESIDE = 0.24, 0.06  # before each block of maps, and before each map, in panels
CHART = 1.9  # its width, in inches
Blocks = Mapping[str, Mapping[str, "Maps"]]  # training -> precision -> maps


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
def saliency_grid(
    images: np.ndarray, names: Sequence[str], blocks: Blocks, scale: Literal["panel", "row"] = "panel"
) -> Figure:
    """Rows: one test image a class. Columns: the image, then for each training the precisions.

    images: uint8 (K, 28, 28); names: K classes; blocks: training -> precision -> Maps. Below each map stand its
    Gini index and Moran's I; a wrong class has a red frame.
    scale: each panel's own 99th percentile, or one for all maps of a row.
    """
    figure, panels = _rows(images, names, blocks, range(len(images)), 0.19, shared=scale == "row")
    for i, line in enumerate(panels):
        for axes, (*_, network) in zip(line[1:], _columns(blocks), strict=True):
            axes.text(0.5, -0.03, _caption(network, i), transform=axes.transAxes, ha="center", va="top", size=SMALLEST)
    _titles(panels[0], blocks)
    whose = "panel's" if scale == "panel" else "row's"
    scale_bar(figure, f"|gradient of the predicted class's logit| / the {whose} {PERCENTILE}th percentile")
    return figure


@styled
def few_maps(images: np.ndarray, names: Sequence[str], blocks: Blocks, control: np.ndarray) -> Figure:
    """A few images, enlarged, each with all its maps on one scale, the control's too: brightness can be compared.

    images: uint8 (K, 28, 28), every fourth of which is shown; names: K classes; blocks: training -> precision -> Maps;
    control: maps (K, 28, 28) of a network that was not trained. A wrong class has a red frame.
    """
    figure, panels = _rows(images, names, blocks, range(0, len(images), ENLARGED), BESIDE, True, control)
    _titles(panels[0], blocks)
    panels[0][-1].set_title(UNTRAINED)
    whose = "row's networks"
    scale_bar(figure, f"|gradient of the predicted class's logit| / the {PERCENTILE}th percentile of the {whose}")
    return figure


def _columns(blocks: Blocks) -> "list[tuple[str, str, Maps]]":
    """The columns of maps: the training where its block begins, else "", the precision, and the maps."""
    return [("" if place else training, *named) for training, group in blocks.items()
            for place, named in enumerate(group.items())]  # fmt: skip


def _rows(
    images: np.ndarray, names: Sequence[str], blocks: Blocks, chosen: Sequence[int], gap: float, shared: bool,
    control: np.ndarray | None = None,
) -> tuple[Figure, np.ndarray]:  # fmt: skip
    """The chosen images, each with its maps, those of a control last; the figure, and the axes."""
    columns = _columns(blocks)
    gaps = [GAP if training else BESIDE for training, *_ in columns] + [GAP] * (control is not None)
    figure, panels = grid([0, *gaps], [0, *[gap] * (len(chosen) - 1)], 0.55, 0.05, 0.42, 0.6)
    for i, line in zip(chosen, panels, strict=True):
        line[0].set_ylabel(names[i], rotation=0, ha="right", va="center", labelpad=4)
        vmax = _row(line, i, images, [network for *_, network in columns], shared)
        if control is not None:
            show_map(line[-1], control[i], vmax)
    return figure, panels


def _titles(line: Sequence[Axes], blocks: Blocks) -> None:
    line[0].set_title("input")
    for axes, (training, precision, _) in zip(line[1:], _columns(blocks), strict=False):
        axes.set_title(precision)
        if training:
            over(axes, f"{training} training")


def _row(line: Sequence[Axes], i: int, images: np.ndarray, networks: "Sequence[Maps]", shared: bool) -> float | None:
    """Image i and its maps, a wrong class in a red frame; the brightest value, if all maps share a scale."""
    show_image(line[0], images[i])
    alive = [network.maps[i] for network in networks if not is_dead(network.maps[i])]
    vmax = top(np.abs(np.stack(alive))) if shared and alive else None
    for axes, network in zip(line[1:], networks, strict=False):
        show_map(axes, network.maps[i], vmax)
        if not network.correct[i]:
            axes.spines[:].set(visible=True, color=RED, linewidth=1.6)
    return vmax


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


# ------------------------------------------------------------------------------- the README's first screen


@styled
def glance(shown: "Mapping[str, tuple[NDArray[np.uint8], Mapping[str, Maps]]]", runs: pd.DataFrame) -> Figure:
    """A row for each dataset: an image, its map at every precision on one scale, and faithfulness over the precisions.

    The image is the first that every one of these networks classifies correctly, or the first one if there is none.

    Args:
        shown: by dataset, images (K, 28, 28) and, by precision, the Maps of one training for them.
        runs: one row per network, with dataset, precision, training, seed and faithfulness.
    """
    count = max(len(networks) for _, networks in shown.values())
    figure, panels = grid([0, *[BESIDE] * count], [0, *[0.52] * (len(shown) - 1)], 0.14, 2.5, 0.42, 0.3)
    for line, (dataset, (images, networks)) in zip(panels, shown.items(), strict=True):
        at = int(np.all([network.correct for network in networks.values()], axis=0).argmax())
        _row(line, at, images, list(networks.values()), shared=True)
        box = line[0].get_position()
        chart = figure.add_axes((0.985 - CHART / DOUBLE, box.y0, CHART / DOUBLE, box.height))
        _chart(chart, runs[runs.dataset == dataset], dataset)
    for axes, precision in zip(panels[0][1:], networks, strict=True):
        axes.set_title(precision)
    handles, names = chart.get_legend_handles_labels()
    figure.legend(handles, names, loc="upper right", ncols=len(names), bbox_to_anchor=(0.99, 1.0))
    figure.text(0.02, 0.985, "Gradient of the logit, one scale for each image", va="top", weight="bold", size=7.5)
    return figure


def _chart(axes: Axes, runs: pd.DataFrame, dataset: str) -> None:
    """Every seed thin, the mean of each training thick."""
    precisions = in_order(runs.precision)
    for training, group in runs.groupby("training", sort=False):
        seeds = group.pivot(index="precision", columns="seed", values=FAITHFULNESS).reindex(precisions)
        colour = TRAINING_COLOURS[training]
        axes.plot(precisions, seeds, color=colour, linewidth=0.4, alpha=0.5)
        axes.plot(precisions, seeds.mean(axis=1), color=colour, marker="o", markersize=4, label=f"{training} training")
    axes.set_title(f"Faithfulness, {labels.dataset(dataset)}")
    axes.margins(x=0.08)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
