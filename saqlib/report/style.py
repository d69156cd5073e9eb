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

from saqlib import files, params

STYLE = Path(__file__).with_name("style.mplstyle")
SINGLE, DOUBLE = 3.317, 6.89  # widths of one and of two columns of the paper, in inches: figures are printed at 100 %

# Okabe and Ito's colours: told apart with any colour vision, and in print by their lightness and markers. The first
# precision of params.yaml takes the first, and so on.
COLOURS = ("#222222", "#0072B2", "#CC79A7", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#F0E442")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<")
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


def order() -> list[str]:
    """The precisions of params.yaml: the grid's in its order, whose last one is the lowest, then the others."""
    raw = params.read()
    return list(dict.fromkeys([*raw["grid"]["precisions"], *raw["precisions"]]))


def colour(precision: str) -> str:
    """The colour of a precision, by its place in params.yaml."""
    return COLOURS[_place(precision) % len(COLOURS)]


def marker(precision: str) -> str:
    """The marker of a precision, by its place in params.yaml."""
    return MARKERS[_place(precision) % len(MARKERS)]


def _place(precision: str) -> int:
    known = order()
    return known.index(precision) if precision in known else len(known)


def in_order(precisions: Sequence[str]) -> list[str]:
    """Precisions in the order of params.yaml, then any others as they come."""
    there, known = list(dict.fromkeys(precisions)), order()
    return [p for p in known if p in there] + [p for p in there if p not in known]


def bare(axes: Axes) -> None:
    """A panel for a picture: no ticks, no frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
