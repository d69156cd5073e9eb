"""What all figures share: the style, the colours, and how they are saved."""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saqlib import files

STYLE = Path(__file__).with_name("style.mplstyle")
SINGLE, DOUBLE = 3.317, 6.89  # widths of one and of two columns of the paper, in inches: figures are printed at 100 %

# Okabe and Ito's colours: told apart with any colour vision, and in print by their lightness and markers.
ORDER = ("fp32", "w4a4", "mixed", "w2a2")
COLOURS = {"fp32": "#222222", "w4a4": "#0072B2", "mixed": "#CC79A7", "w2a2": "#E69F00"}
OTHER_COLOURS = ("#009E73", "#56B4E9", "#F0E442")
MARKERS = {"fp32": "o", "w4a4": "s", "mixed": "D", "w2a2": "^"}
TRAINING_COLOURS = {"standard": "#0072B2", "guided": "#D55E00"}
GREY = "#8a8a8a"
RED = "#D62728"

# No dates, no names of programs: the same figure has the same bytes.
METADATA = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw in the style of the paper, whatever the notebook has set."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with plt.style.context(["default", STYLE]):
            figure = draw(*args, **kwargs)
            interactive = plt.isinteractive()
        # A notebook's backend turns interactive at its first figure: without this the context would take it back,
        # and no later figure would be shown.
        matplotlib.interactive(interactive)
        return figure

    return drawn


def save(figure: Figure, name: str, folder: Path, numbers: pd.DataFrame | None = None) -> list[Path]:
    """Write <name>.png and <name>.pdf into the folder, and the plotted numbers as <name>.csv; the paths.

    The bytes depend on the figure alone, and each file is written whole or not at all.
    """
    written = []
    for end, metadata in METADATA.items():
        buffer = io.BytesIO()
        # Saving would give a figure that has laid itself out the style's layout, and move its panels.
        with plt.style.context(["default", STYLE, {"figure.constrained_layout.use": False}]):
            figure.savefig(buffer, format=end, metadata=metadata)
        written.append(files.write(folder / f"{name}.{end}", buffer.getvalue()))
    if numbers is not None:
        written.append(files.write(folder / f"{name}.csv", files.csv(numbers)))
    return written


def colour(precision: str) -> str:
    """The colour of a precision; one that the paper does not know takes a spare one, the same each time."""
    return COLOURS.get(precision, OTHER_COLOURS[sum(map(ord, precision)) % len(OTHER_COLOURS)])


def marker(precision: str) -> str:
    """The marker of a precision."""
    return MARKERS.get(precision, "v")


def in_order(precisions: Sequence[str]) -> list[str]:
    """The paper's precisions from most to fewest bits, then any others as they come."""
    there = list(dict.fromkeys(precisions))
    return [p for p in ORDER if p in there] + [p for p in there if p not in ORDER]


def bare(axes: Axes) -> None:
    """A panel for a picture: no ticks, no frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
