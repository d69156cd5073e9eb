"""Every figure as it is printed: as wide as its place in the paper, nothing smaller than 6 points, nothing cut off."""

import re
from functools import cache
from itertools import combinations

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from saqlib import paths
from saqlib.report import figures, style
from saqlib.words import CONTROLS
from tests import frames
from tests.report import (
    test_ablations,
    test_amplitude,
    test_curves,
    test_during,
    test_figures,
    test_origins,
    test_pictures,
)

SMALLEST = 6  # points
MILLIMETRES = 25.4  # in an inch
PAPER = (paths.ROOT / "paper" / "paper.typ").read_text()


def runs(**columns) -> pd.DataFrame:
    """Three seeds of every cell of the paper."""
    return frames.make_runs(seeds=3, datasets=frames.DATASETS).assign(**columns)


def of_the_reference() -> pd.DataFrame:
    """The rows of its networks, without their precision."""
    return runs().query("precision == 'fp32'").drop(columns="precision")


def controls() -> pd.DataFrame:
    """Every control, with the scores of the reference."""
    return pd.concat([of_the_reference().assign(control=control) for control in CONTROLS])


# What draws each figure of the paper; a name that ends in _ is one figure for each dataset.
WHOLE = {
    "clarity": lambda: figures.clarity(runs(), controls()),
    "trade_off": lambda: figures.trade_off(runs()),
    "preservation": lambda: figures.preservation(runs(), of_the_reference(), "fp32"),
    "pareto": lambda: figures.pareto(
        runs(packed_bytes=lambda f: 2e4 + 6e4 * (f.precision == "fp32")).query("seed == 0")
    ),
    "gradients": lambda: figures.gradients(runs(gradient=lambda f: f.gini - 0.5)),
}
MODULES = (test_ablations, test_amplitude, test_curves, test_during, test_figures, test_origins, test_pictures)
DRAWN = {name: draw for module in MODULES for name, draw in module.DRAWN.items()} | WHOLE
DRAWS = {"data": "classes", "maps_": "few_maps", "saliency_": "saliency_grid", "curves": "removal"}


def page() -> dict[bool, float]:
    """The widths, in inches, of a column (False) and of a page's text (True), as the paper sets them."""
    margin, gutter = (
        float(re.search(pattern, PAPER)[1])
        for pattern in (r"gutter\) = \(([\d.]+)cm", r"gutter\) = \([\d.]+cm, ([\d.]+)cm")
    )
    width = (210 - 20 * margin) / MILLIMETRES
    return {True: width, False: (width - 10 * gutter / MILLIMETRES) / 2}


def places() -> dict[str, float]:
    """The printed width of every figure of the paper, in inches."""
    found = re.findall(r'drawing\("(\w+)"( \+ \w+)?((?:, \w+: [^\])]+)*)\)\[', PAPER)
    assert len(found) == PAPER.count('drawing("')
    return {name: page()["wide: true" in options] for name, _, options in found}


@cache
def drawn(name: str) -> tuple[Figure, list[Text]]:
    """The figure of that name, laid out, and every piece of text that is seen on it."""
    figure, seen = DRAWN[DRAWS.get(name, name)](), {}
    with pytest.MonkeyPatch.context() as patch:
        draw = Text.draw
        patch.setattr(Text, "draw", lambda text, renderer: (seen.setdefault(text), draw(text, renderer)))
        figure.draw_without_rendering()
    return figure, [text for text in seen if text.get_visible() and text.get_text().strip()]


def test_figures_are_drawn_as_wide_as_they_are_printed():
    """The widths that figures know are those of the paper."""
    assert page() == {True: pytest.approx(style.DOUBLE, abs=0.001), False: pytest.approx(style.SINGLE, abs=0.001)}


@pytest.mark.parametrize("name", places())
def test_every_text_can_be_read_in_print(name):
    """The size of each text, times the scale at which the figure is printed."""
    figure, texts = drawn(name)
    scale = places()[name] / figure.get_figwidth()
    sizes = {text.get_text(): text.get_size() * scale for text in texts}
    assert len(sizes) > 5 and min(sizes.values()) >= SMALLEST, sizes


@pytest.mark.parametrize("name", places())
def test_no_text_is_cut_off(name):
    """Each lies on the figure, but for a pixel."""
    figure, texts = drawn(name)
    assert not [text.get_text() for text in texts if leaves(figure, text)]


@pytest.mark.parametrize("name", places())
def test_no_text_covers_another(name):
    """Labels of ticks and panels keep at least two pixels apart."""
    _, texts = drawn(name)
    boxes = [text.get_window_extent().padded(1) for text in texts]
    pairs = combinations(zip(texts, boxes, strict=True), 2)
    assert not [(a.get_text(), b.get_text()) for (a, one), (b, other) in pairs if one.overlaps(other)]


def leaves(figure: Figure, text: Text) -> bool:
    """Whether a text reaches beyond the figure's edge."""
    (x0, y0), (x1, y1) = text.get_window_extent().get_points()
    return min(x0, y0) < -1 or x1 > figure.bbox.x1 + 1 or y1 > figure.bbox.y1 + 1


def test_a_label_that_leaves_the_figure_is_noticed():
    """The check above is one."""
    figure = DRAWN["trade_off"]()
    assert leaves(figure, figure.text(0.99, 0.5, "a label that is too long"))
