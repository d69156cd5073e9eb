"""The one picture of the README's first screen: where networks look at each precision, and whether they use it."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from saqlib import words
from saqlib.evidence.kept_maps import Maps
from saqlib.names import FAITHFULNESS
from saqlib.report.pictures import show_image, show_map, top
from saqlib.report.style import DOUBLE, GREY, TRAINING_COLOURS, in_order, styled

CHART = 2.4  # width of a chart, in panels
HEIGHT = 2.9  # inches


def chosen(blocks: Sequence[Maps]) -> int:
    """The first class whose image every one of these networks classifies correctly; 0 if there is none."""
    return int(np.all([network.correct for network in blocks], axis=0).argmax())


@styled
def glance(shown: Mapping[str, tuple[NDArray[np.uint8], Mapping[str, Maps]]], runs: pd.DataFrame) -> Figure:
    """A row for each dataset: an image, its map at every precision on one scale, and faithfulness over the precisions.

    Args:
        shown: by dataset, images (K, 28, 28) and, by precision, the Maps of one training for them.
        runs: one row per network, with dataset, precision, training, seed and the relevance gain.
    """
    count = max(len(networks) for _, networks in shown.values())
    figure = plt.figure(figsize=(DOUBLE, HEIGHT), layout="none")
    grid = figure.add_gridspec(
        len(shown), count + 3, width_ratios=[*[1.0] * (count + 1), 0.55, CHART],
        left=0.02, right=0.985, top=0.86, bottom=0.13, wspace=0.06, hspace=0.42,
    )  # fmt: skip
    charts: list[Axes] = []
    for row, (dataset, (images, networks)) in enumerate(shown.items()):
        _maps([figure.add_subplot(grid[row, i]) for i in range(count + 1)], images, networks, titled=row == 0)
        charts.append(figure.add_subplot(grid[row, -1]))
        _chart(charts[-1], runs[runs.dataset == dataset], dataset)
    handles, labels = charts[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=len(labels), bbox_to_anchor=(0.99, 1.0))
    figure.text(0.02, 0.985, "Gradient of the logit, one scale for each image", va="top", weight="bold", size=7.5)
    return figure


def _maps(line: Sequence[Axes], images: NDArray[np.uint8], networks: Mapping[str, Maps], *, titled: bool) -> None:
    at = chosen(list(networks.values()))
    show_image(line[0], images[at])
    vmax = top(np.abs(np.stack([network.maps[at] for network in networks.values()])))
    for axes, (precision, network) in zip(line[1:], networks.items(), strict=True):
        show_map(axes, network.maps[at], vmax)
        if titled:
            axes.set_title(precision)


def _chart(axes: Axes, runs: pd.DataFrame, dataset: str) -> None:
    """Every seed thin, the mean of each training thick."""
    for training, group in runs.groupby("training", sort=False):
        wide = group.pivot(index="seed", columns="precision", values=FAITHFULNESS)
        wide = wide[in_order(wide.columns)]
        colour = TRAINING_COLOURS.get(training, GREY)
        for _, seed in wide.iterrows():
            axes.plot(range(len(seed)), seed, color=colour, linewidth=0.4, alpha=0.5)
        label = f"{training} training"
        axes.plot(range(wide.shape[1]), wide.mean(), color=colour, marker="o", markersize=4, label=label)
    axes.set(title=f"Faithfulness, {words.dataset(dataset)}", xticks=range(wide.shape[1]), xticklabels=wide.columns)
    axes.margins(x=0.08)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
