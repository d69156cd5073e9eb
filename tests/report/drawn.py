"""What must hold for every figure of scores, and the frames that several of them are made of."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from saqlib.report import style

PRECISIONS = ("w2a2", "fp32", "w4a4")  # not in the order of the figures
IN_ORDER = ["fp32", "w4a4", "w2a2"]


def check_files(draw: Callable[[], Figure], name: str, folder: Path) -> None:
    """Drawn and saved twice, PNG and PDF have the same bytes, a sensible width, and something on them."""
    first = style.save(draw(), name, folder / "one")
    second = style.save(draw(), name, folder / "two")
    assert [path.name for path in first] == [f"{name}.png", f"{name}.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    picture = np.asarray(Image.open(first[0]).convert("L"))
    assert picture.shape[1] >= style.SINGLE * 220 - 1
    assert 0.01 < (picture < 200).mean() < 0.6
    assert first[1].read_bytes().startswith(b"%PDF") and b"CreationDate" not in first[1].read_bytes()


def check_style(draw: Callable[[], Figure]) -> None:
    """A style that the notebook has set neither reaches the figure nor is touched by it."""
    with plt.rc_context({"font.size": 31.0, "axes.spines.top": True}):
        figure = draw()
        assert plt.rcParams["font.size"] == 31.0
    axes = figure.axes[0]
    assert axes.xaxis.label.get_size() == 7
    assert not axes.spines["top"].get_visible()
    assert figure.get_figwidth() <= style.DOUBLE


def dashed_across(axes) -> list[float]:
    """The heights of the lines that run through the whole panel, from left to right: those of bands."""
    return [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
