"""A training as it stands: watched images with their maps, the curves so far, and what the maps score.

Maps have the colours and the scale of all figures (saqlib.report.pictures). The horizontal axis counts epochs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from saqlib.report.pictures import show_image, show_map
from saqlib.report.style import GREY, RED, styled

WIDTH, HEIGHT = 4.0, 4.6  # inches
LEFT, RIGHT, PICTURES, FIRST_ROW, ROW = 0.36, 0.06, 0.76, 1.46, 1.06  # of it: margins, and where rows begin from above
PANEL = 0.62  # height of a panel of lines
LOSS, ACCURACY = "Loss", "Validation accuracy (%)"
SEED_COLOURS = "viridis"


@dataclass(frozen=True)
class Look:
    """One look at a training.

    cell: its name. images: uint8 (K, 28, 28), called `names`. steps: of R records. maps: (R, K, 28, 28), signed.
    scores: by heading, means over the images at each record, float (R,), NaN where not known (yet). curves: epochs,
    losses and validation accuracies (%), by seed. switch: the step at which quantization is switched on, None for full
    precision. steps_per_epoch, epochs: how many there will be.
    """

    cell: str
    images: NDArray[np.uint8]
    names: Sequence[str]
    steps: Sequence[int]
    maps: NDArray
    scores: Mapping[str, NDArray]
    curves: Mapping[int, tuple[Sequence[int], Sequence[float], Sequence[float]]]
    switch: int | None
    steps_per_epoch: int
    epochs: int

    @property
    def title(self) -> str:
        """The cell, and where its first seed stands."""
        total = self.epochs * self.steps_per_epoch
        return f"{self.cell}, seed {min(self.curves, default=0)}: step {self.steps[-1]} of {total}"

    def until(self, record: int) -> "Look":
        """What was there to see at one of its records, of the first seed alone."""
        steps, first = self.steps[: record + 1], min(self.curves)
        past = [
            point for point in zip(*self.curves[first], strict=True) if point[0] * self.steps_per_epoch <= steps[-1]
        ]
        scores = {name: values[: record + 1] for name, values in self.scores.items()}
        curves = {first: tuple(zip(*past, strict=True)) if past else ([], [], [])}
        return replace(self, steps=steps, maps=self.maps[: record + 1], scores=scores, curves=curves)


def limits(looks: Sequence[Look]) -> dict[str, tuple[float, float]]:
    """The vertical range of every panel that holds all the looks, so that cells side by side can be compared."""
    values: dict[str, list[NDArray]] = {}
    for look in looks:
        for name, series in _series(look).items():
            values.setdefault(name, []).extend(np.asarray(line[1], dtype=float) for line in series.values())
    ranges = {}
    for name, lines in values.items():
        found = np.concatenate([np.empty(0), *lines])
        found = found[np.isfinite(found)]
        low, high = (found.min(), found.max()) if len(found) else (0.0, 1.0)
        margin = 0.06 * (high - low) or 0.05
        ranges[name] = (low - margin, high + margin)
    return ranges


def _series(look: Look) -> dict[str, dict[int, tuple[Sequence[float], Sequence[float]]]]:
    """The lines of each panel, by its title and the seed."""
    lines = {
        LOSS: {seed: (at, loss) for seed, (at, loss, _) in look.curves.items()},
        ACCURACY: {seed: (at, accuracy) for seed, (at, _, accuracy) in look.curves.items()},
    }
    first, times = min(look.curves, default=0), np.array(look.steps) / look.steps_per_epoch
    return lines | {name: {first: (times, values)} for name, values in look.scores.items()}


@styled
def draw(look: Look, ranges: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """The panel of one cell.

    ranges: of `limits`, those of this look alone if left out.
    """
    ranges = ranges or limits([look])
    figure = plt.figure(figsize=(WIDTH, HEIGHT), layout="none")
    figure.text(LEFT / WIDTH, 1 - 0.1 / HEIGHT, look.title, va="top", weight="bold", size=7.5)
    _pictures(figure, look)
    wide = (WIDTH - LEFT - RIGHT) / 2
    for i, name in enumerate(_series(look)):
        left, above = LEFT + (i % 2) * wide, FIRST_ROW + (i // 2) * ROW
        inches = (left, HEIGHT - above - PANEL, wide - LEFT * (1 - i % 2), PANEL)
        axes = figure.add_axes(tuple(np.divide(inches, (WIDTH, HEIGHT) * 2)))
        _lines(axes, look, name, ranges[name])
    return figure


def _pictures(figure: Figure, look: Look) -> None:
    """Two rows: the watched images with their names, their latest maps."""
    side = (WIDTH - LEFT - RIGHT) / len(look.images)
    grid = figure.add_gridspec(
        2, len(look.images), left=LEFT / WIDTH, right=1 - RIGHT / WIDTH, top=1 - (PICTURES - side) / HEIGHT,
        bottom=1 - (PICTURES + side) / HEIGHT, wspace=0.06, hspace=0.06,
    )  # fmt: skip
    for k, (image, name) in enumerate(zip(look.images, look.names, strict=True)):
        axes = figure.add_subplot(grid[0, k])
        show_image(axes, image)
        axes.set_title(name, size=5.5, pad=2)
        show_map(figure.add_subplot(grid[1, k]), look.maps[-1, k])


def _lines(axes: Axes, look: Look, name: str, limit: tuple[float, float]) -> None:
    """One panel of lines, one for each seed that is known, with the switch to quantization marked."""
    series = _series(look)[name]
    colours = plt.get_cmap(SEED_COLOURS)(np.linspace(0, 0.85, len(look.curves) or 1))
    for colour, (at, values) in zip(colours, series.values(), strict=False):
        axes.plot(at, values, color=colour, marker="o", markersize=2)
    axes.set_title(name, loc="left")
    axes.set(xlim=(-0.02 * look.epochs, 1.02 * look.epochs), ylim=limit)
    axes.set_xlabel("epoch", loc="right", labelpad=0)
    axes.locator_params(axis="y", nbins=4)
    axes.locator_params(axis="x", integer=True, nbins=6)
    if look.switch is not None:
        axes.axvline(look.switch / look.steps_per_epoch, color=RED, linewidth=0.8, linestyle="--")
        if name == LOSS:
            axes.set_title("┆ quantized", loc="right", color=RED, size=6)
    if name == ACCURACY and len(look.curves) > 1:
        axes.set_title(f"{len(look.curves)} seeds", loc="right", color=GREY, size=6)
    if not any(np.isfinite(values).any() for _, values in series.values()):
        axes.text(0.5, 0.5, "not yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
