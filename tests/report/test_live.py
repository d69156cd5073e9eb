"""Tests of saqlib.report.live: what a panel shows is what a training has come to."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from saqlib.report import live
from saqlib.report.pictures import top

RNG = np.random.default_rng(0)
LOOK = live.Look(
    cell="mnist-w2a2-guided",
    images=RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8),
    names=("0", "1", "2"),
    steps=[0, 10, 20],
    maps=RNG.normal(size=(3, 3, 28, 28)),
    scores={"Focus": np.array([0.4, 0.5, 0.6]), "Faithfulness": np.array([0.1, 0.2, np.nan])},
    curves={0: ([1, 2], [2.0, 1.0], [50.0, 80.0]), 1: ([1], [2.5], [40.0])},
    switch=10,
    steps_per_epoch=10,
    epochs=4,
)


@pytest.fixture
def panels():
    """The axes of a drawn look, by their left titles; pictures under "images" and "maps"."""

    def drawn(look, ranges=None):
        figure = live.draw(look, ranges)
        found = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}
        shown = [axes for axes in figure.axes if axes.images]
        found |= {"images": [axes for axes in shown if axes.get_title()], "figure": figure}
        return found | {"maps": [axes for axes in shown if not axes.get_title()]}

    yield drawn
    plt.close("all")


def test_curves_are_those_given_one_for_each_seed(panels):
    """Over epochs; a seed that is behind has a shorter line."""
    drawn = panels(LOOK)
    assert [list(line.get_ydata()) for line in drawn[live.LOSS].lines[:2]] == [[2.0, 1.0], [2.5]]
    assert [list(line.get_ydata()) for line in drawn[live.ACCURACY].lines[:2]] == [[50.0, 80.0], [40.0]]
    assert list(drawn["Focus"].lines[0].get_xdata()) == [0, 1, 2], "records are counted in epochs"


def test_the_latest_maps_have_the_colours_and_the_scale_of_the_figures(panels):
    """Magnitudes of the last record, black at 0, brightest at the map's own 99th percentile; each image is named."""
    drawn = panels(LOOK)
    assert [axes.get_title() for axes in drawn["images"]] == ["0", "1", "2"]
    for k, axes in enumerate(drawn["maps"]):
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), np.abs(LOOK.maps[-1, k]))
        assert image.get_cmap().name == "inferno"
        assert image.get_clim() == (0, top(np.abs(LOOK.maps[-1, k])))


def test_the_switch_is_marked_in_every_panel_and_nowhere_in_full_precision(panels):
    """Where quantization was switched on, in epochs."""
    for switch, expected in ((10, 1), (None, 0)):
        drawn = panels(replace(LOOK, switch=switch))
        for name in (live.LOSS, live.ACCURACY, "Focus", "Faithfulness"):
            marks = [line for line in drawn[name].lines if line.get_linestyle() == "--"]
            assert [list(line.get_xdata()) for line in marks] == [[1, 1]] * expected


def test_an_earlier_look_knows_nothing_of_what_came_later():
    """At the first record no epoch is over; at the second one, and the title says the step."""
    first, second = LOOK.until(0), LOOK.until(1)
    assert first.curves == {0: ([], [], [])} and second.curves == {0: ((1,), (2.0,), (50.0,))}
    assert len(first.maps) == 1 and second.scores["Focus"].tolist() == [0.4, 0.5]
    assert second.title == "mnist-w2a2-guided, seed 0: step 10 of 40"


def test_cells_side_by_side_have_one_scale(panels):
    """The range of each panel holds both looks, and what is not known counts for nothing."""
    other = replace(LOOK, scores={"Focus": np.array([0.9, 0.9, 0.9]), "Faithfulness": np.full(3, np.nan)})
    ranges = live.limits([LOOK, other])
    low, high = ranges["Focus"]
    assert low < 0.4 and high > 0.9 and ranges["Faithfulness"] == live.limits([LOOK])["Faithfulness"]
    assert panels(LOOK, ranges)["Focus"].get_ylim() == ranges["Focus"]


def test_a_look_before_the_first_epoch_says_so(panels):
    """Nothing to draw is no error."""
    drawn = panels(LOOK.until(0))
    assert [text.get_text() for text in drawn[live.LOSS].texts] == ["not yet"]
    assert live.limits([]) == {}
