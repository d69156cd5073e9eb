"""What all figures share: the style, the looks of precisions, and how a figure is saved, shown and put into words."""

import base64
import functools
import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, ParamSpec

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from study import files, paths, settings

STYLE = Path(__file__).with_name("style.mplstyle")
ALTERNATIVES = paths.ROOT / "paper" / "alt.yaml"
SINGLE, DOUBLE = 3.317, 6.89  # widths of one and of two columns of the paper, in inches: figures are printed at 100 %
ON_SCREEN = 120  # dots per inch of what a notebook shows
PALETTE = 256  # colours of a picture: a third of the bytes, and for the eye the same

# Okabe and Ito's colours: different with any colour vision, and in print by their lightness and by markers.
FIRST, LAST = ("#222222", "o"), ("#E69F00", "^")
BETWEEN, MARKERS = ("#0072B2", "#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#F0E442"), "sDvPX*p"
TRAINING_COLOURS = {"standard": "#0072B2", "guided": "#D55E00"}
GREY = "#8a8a8a"
RED = "#D62728"

# No dates, no names of programs: the same figure has the same bytes.
PDF = {"CreationDate": None, "Creator": None, "Producer": None}

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


# ------------------------------------------------------------------------------------------------- precisions


class Look(NamedTuple):
    """How a precision is drawn."""

    colour: str
    marker: str


def looks(precisions: Iterable[str]) -> dict[str, Look]:
    """The look of each precision, from the first of the order, full precision, to the last, that of fewest bits.

    The order is that of `grid.precisions` in params.yaml, in which also those count that are not asked for, so that a
    precision looks the same in all figures. Names that params.yaml does not have are results of another study: then
    the order is that in which they come. The first and the last have looks of their own; colour and marker together
    are different for any two of 44.
    """
    there = list(dict.fromkeys(precisions))
    order = list(settings.load().grid.precisions)
    if not set(there) <= set(order):
        order = there
    between = [Look(BETWEEN[i % len(BETWEEN)], MARKERS[i % len(MARKERS)]) for i in range(len(order) - 2)]
    every = [Look(*FIRST), *between, Look(*LAST)][: len(order)]
    return {precision: look for precision, look in zip(order, every, strict=True) if precision in there}


def in_order(precisions: Iterable[str]) -> list[str]:
    """Each precision once, in the order of `looks`: the last is the one of fewest bits."""
    return list(looks(precisions))


# ----------------------------------------------------------------------------------------- files and notebooks


def save(figure: Figure, name: str, folder: Path, numbers: pd.DataFrame | None = None) -> list[Path]:
    """Write <name>.png and <name>.pdf into the folder, and the plotted numbers as <name>.csv; the paths.

    The bytes depend on the figure alone, and each file is written whole or not at all. A notebook shows the figure.
    """
    contents = {"png": _png(figure), "pdf": _printed(figure, "pdf", metadata=PDF)}
    if numbers is not None:
        contents["csv"] = files.csv(numbers)
    written = [files.write(folder / f"{name}.{end}", content) for end, content in contents.items()]
    show(figure, name)
    return written


def show(figure: Figure, name: str) -> None:
    """Show a figure in a notebook and close it; anywhere else nothing happens.

    Its words (`alt`) and its name are in the output's metadata, where nbconvert looks for them.
    """
    if "IPython" not in sys.modules or not hasattr(sys.modules["IPython"].get_ipython(), "kernel"):
        return
    from IPython.display import display

    picture = base64.b64encode(_png(figure, dpi=ON_SCREEN)).decode()
    display({"image/png": picture}, raw=True, metadata={"image/png": {"alt": alternative(name), "name": name}})
    plt.close(figure)


def _printed(figure: Figure, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    # Saving would give a figure that has laid itself out the style's layout, and move its panels.
    with plt.style.context(["default", STYLE, {"figure.constrained_layout.use": False}]):
        figure.savefig(buffer, format=form, **options)
    return buffer.getvalue()


def _png(figure: Figure, **options) -> bytes:
    image = Image.open(io.BytesIO(_printed(figure, "png", **options)))
    buffer = io.BytesIO()
    widest = Image.Quantize.MAXCOVERAGE  # a median cut would show steps in the scale of maps
    reduced = image.convert("RGB").quantize(PALETTE, method=widest, dither=Image.Dither.NONE)
    reduced.save(buffer, format="png", optimize=True, dpi=image.info["dpi"])
    return buffer.getvalue()


def alternatives() -> dict[str, str]:
    """What each figure shows, in words, as paper/alt.yaml has it."""
    return yaml.safe_load(ALTERNATIVES.read_text(encoding="utf-8"))


def alternative(name: str) -> str:
    """The words for one figure; where paper/alt.yaml has none those of its kind, `maps_*` for `maps_letters`."""
    words = alternatives()
    kinds = [kind for kind in words if kind.endswith("*") and name.startswith(kind[:-1])]
    return words.get(name) or (words[max(kinds, key=len)] if kinds else f"Figure: {name.replace('_', ' ')}.")


def bare(axes: Axes) -> None:
    """A panel for a picture: no ticks, no frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
