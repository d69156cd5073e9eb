"""Tests of saqlib.report.during: what the curves and maps of training show, where the switch is drawn, their files."""

import numpy as np
import pandas as pd
import pytest

from saqlib.evidence.during import around_the_switch
from saqlib.names import FAITHFULNESS
from saqlib.report import during, style
from tests import frames
from tests.report.drawn import check_files, check_style

SWITCH = 40
STEPS = np.arange(0, 110, 10)
IMAGE = np.random.default_rng(3).integers(0, 256, (28, 28), dtype=np.uint8)


def make_during(precisions=frames.PRECISIONS, **changes):
    """Two datasets, both trainings: every score rises with the step, more in fp32; the errors are .01."""
    cells = frames.grid(seeds=1, datasets=frames.DATASETS, precisions=precisions).drop(columns="seed")
    frame = pd.concat([cells.assign(step=step) for step in STEPS], ignore_index=True)
    slope = frame.precision.map({"fp32": 3.0, "w4a4": 2.0, "mixed": 1.5, "w2a2": 1.0}) * (
        1 + (frame.training == "guided")
    )
    frame["switch"] = np.where(frame.precision == "fp32", np.nan, SWITCH)
    frame["accuracy"] = 99.5 - 89.5 * np.exp(-frame.step / 10)
    for score in ("gini", "morans_i", FAITHFULNESS, "amplitude"):
        frame[score], frame[f"{score}_se"] = slope * frame.step / 100, 0.01
    return frame.assign(**changes)


def make_records(columns=11):
    """Two networks of each of two datasets, one of which switches."""
    steps, rng = STEPS[:columns], np.random.default_rng(3)
    courses = {
        "fp32": during.Course(steps, rng.normal(size=(len(steps), 28, 28)), None),
        "w2a2": during.Course(steps, rng.normal(size=(len(steps), 28, 28)), SWITCH),
    }
    return {"one": (IMAGE, courses), "two": (IMAGE, courses)}


DRAWN = {
    "during": lambda: during.courses(make_during()),
    "training_maps": lambda: during.training_maps(make_records()),
}


@pytest.mark.parametrize("name", DRAWN)
def test_saved_twice_the_same(name, tmp_path):
    """Drawn and saved twice, PNG and PDF have the same bytes, a sensible width, and something on them."""
    check_files(DRAWN[name], name, tmp_path)


def test_style_is_the_papers_whatever_was_set():
    """A style that the notebook has set neither reaches the figure nor is touched by it."""
    check_style(DRAWN["during"])


@pytest.mark.parametrize("name", DRAWN)
def test_no_text_is_smaller_than_six_points(name):
    """The paper shows them as wide as they are drawn."""
    figure = DRAWN[name]()
    figure.canvas.draw()
    assert min(text.get_size() for text in figure.findobj(lambda a: hasattr(a, "get_fontsize")) if text.get_text()) >= 6


def panels(frame):
    """The panels by row and column."""
    return np.array(during.courses(frame).axes).reshape(5, 4)


def test_every_panel_has_its_courses():
    """Row by score, column by dataset and training, one line per precision against the step, from fp32 to w2a2."""
    frame = make_during()
    found = panels(frame)
    assert [axes.get_title() for axes in found[0]] == [
        "MNIST, standard", "MNIST, guided", "FashionMNIST, standard", "FashionMNIST, guided"
    ]  # fmt: skip
    assert [axes.get_ylabel() for axes in found[:, 0]] == list(during.ROWS.values())
    for row, score in enumerate(during.ROWS):
        for place in range(4):
            dataset, training = frames.DATASETS[place // 2], frames.TRAININGS[place % 2]
            there = frame[(frame.dataset == dataset) & (frame.training == training)]
            lines = found[row, place].lines[:4]
            for line, precision in zip(lines, frames.PRECISIONS, strict=True):
                own = there[there.precision == precision]
                np.testing.assert_array_equal(line.get_xdata(), own.step)
                np.testing.assert_array_equal(line.get_ydata(), own[score])
                assert line.get_color() == style.colour(precision)


def test_the_switch_is_marked_in_every_panel():
    """A dashed line at its step, and none where no network quantizes."""
    for axes in panels(make_during()).flat:
        marks = [line for line in axes.lines if list(line.get_xdata()) == [SWITCH, SWITCH]]
        assert len(marks) == 1 and marks[0].get_linestyle() == "--"
    for axes in panels(make_during(switch=np.nan)).flat:
        assert len(axes.lines) == 4


def test_bands_are_one_standard_error():
    """Around each line of a score, on both sides; accuracy has none."""
    found = panels(make_during())
    assert not found[0, 0].collections and len(found[1, 0].collections) == 4
    band = found[1, 0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(3.01) and band[:, 1].min() == pytest.approx(-0.01)


def test_trainings_of_a_dataset_share_an_axis():
    """Guided training, twice as high here, is read beside standard training; all accuracies have one axis."""
    found = panels(make_during())
    for row in range(1, 5):
        assert found[row, 0].get_ylim() == found[row, 1].get_ylim()
        assert found[row, 0].get_ylim()[1] >= 6
    assert len({axes.get_ylim() for axes in found[0]}) == 1


def test_the_axis_of_accuracy_gives_each_tenth_of_the_errors_the_same_room():
    """From 90 to 99 % is as far as from 99 to 99.9; the axis ends above the best network, and 100 % can be drawn."""
    low, middle, high = during._nines(np.array([90, 99, 99.9]))
    assert middle - low == pytest.approx(1, abs=0.05) and high - middle == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(during._percent(during._nines(np.array([1, 50, 99.2, 100]))), [1, 50, 99.2, 100])
    assert found_top(make_during(accuracy=100.0)) > 100 > found_top(make_during()) > 99.5


def found_top(frame) -> float:
    return panels(frame)[0, 0].get_ylim()[1]


def test_a_score_that_nobody_measured_says_why():
    """Where no fill qualifies there is no faithfulness: the panel is not just empty."""
    (text,) = panels(make_during(faithfulness=np.nan, faithfulness_se=np.nan))[3, 0].texts
    assert text.get_text() == "no fill qualifies"


def test_training_maps_choose_steps_evenly_and_mark_the_switch():
    """First and last record are shown, each network in its row; a line before the first quantized map, in that row."""
    records = make_records()
    figure = during.training_maps(records, most=6)
    found = np.array(figure.axes[:14]).reshape(2, 7)
    assert [axes.get_title() for axes in found[0]] == ["input", *(f"step {step}" for step in range(0, 101, 20))]
    assert [line[0].get_ylabel() for line in found] == ["fp32", "w2a2"]
    np.testing.assert_array_equal(found[1, 3].images[0].get_array(), np.abs(records["one"][1]["w2a2"].maps[4]))
    assert [text.get_text() for text in figure.texts] == ["one", "two"]
    marked = [place for place, axes in np.ndenumerate(found) if axes.lines]
    assert marked == [(1, 3)]  # the map of that very step is quantized


def test_few_records_do_not_make_huge_maps():
    """At scale smoke there are five: a map is no larger than in the paper."""
    figure = during.training_maps(make_records(columns=3))
    box = figure.axes[1].get_position()
    assert box.width * figure.get_figwidth() <= during.LARGEST + 1e-6


def test_the_table_holds_what_stands_around_the_switch():
    """Two rows of each quantized cell, in the words of the figure; a score that was not measured is a dash."""
    found = during.table(around_the_switch(make_during(faithfulness=np.nan)))
    assert len(found.numbers) == len(found.shown) == 2 * 16
    assert list(found.numbers) == ["dataset", "training", "precision", "when", "step", *during.ROWS]
    first = found.shown[(found.shown.Dataset == "MNIST") & (found.shown.Training == "guided")].iloc[0]
    assert (first.Step, first.Faithfulness) == ("30 (before the switch)", "–")
