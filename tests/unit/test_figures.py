"""Tests of study.report.style and of the figures: looks of precisions, what is shown, files, print."""

import base64
import io
import re
from itertools import combinations
from types import SimpleNamespace

import IPython
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color, to_hex
from matplotlib.text import Text
from PIL import Image
from scipy import stats

from study import paths, settings
from study.report import effects, figures, labels, main_figures, style, training
from tests.helpers import made
from tests.helpers.made import DATASETS, DRAWN, FIVE, PRECISIONS, TRAININGS

PAPER = (paths.ROOT / "paper" / "paper.typ").read_text(encoding="utf-8")
NO_PRECISIONS = {"data", "ablations", "looks", "saturation", "guidance", "fills"}  # or beside the panels
ENDS = ("training_maps", "which_map")  # show not all precisions, but the first and the last
WORDS = [labels.precision(name) for name in FIVE]
AGAIN = ("gradients", "training_maps")  # one of each kind, whose bytes are compared


@pytest.fixture(scope="module")
def drawn():
    """Every figure by name, of five precisions, drawn while a notebook has a style of its own."""
    with plt.rc_context({"font.size": 31.0, "axes.spines.top": True, "xtick.labelsize": 31.0}):
        figures_of = {name: draw(FIVE) for name, draw in DRAWN.items()}
        assert plt.rcParams["font.size"] == 31.0
    plt.close("all")  # each can still be drawn and saved
    return figures_of


@pytest.fixture(autouse=True)
def close_figures():
    """Leave no figure open."""
    yield
    plt.close("all")


@style.styled
def line(values=(0, 1)):
    """The least that is a figure."""
    figure, axes = plt.subplots()
    axes.plot(values)
    return figure


# ---------------------------------------------------------------------------------------- order, colours, markers


def test_the_papers_precisions_keep_their_looks():
    """Whichever are asked for, and in whatever order: their places are those of params.yaml."""
    expected = {"fp32": ("#222222", "o"), "w4a4": ("#0072B2", "s"), "mixed": ("#CC79A7", "D"), "w2a2": ("#E69F00", "^")}
    assert style.looks(["w2a2", "fp32", "mixed", "w4a4", "w2a2"]) == expected
    assert list(style.looks(["w2a2", "fp32"])) == ["fp32", "w2a2"]
    assert style.looks(["mixed"]) == {"mixed": expected["mixed"]}


def test_a_new_precision_takes_the_place_that_params_gives_it(monkeypatch):
    """Between its neighbours; the last one is the lowest, and looks as the lowest of the paper does."""
    grid = SimpleNamespace(precisions=("fp32", "w4a4", "mixed", "w3a3", "w2a2"))
    monkeypatch.setattr(settings, "load", lambda: SimpleNamespace(grid=grid))
    assert style.in_order(["w3a3", "w2a2", "fp32", "w4a4", "mixed"]) == list(grid.precisions)
    assert style.in_order(["w2a2", "w3a3"])[-1] == "w2a2"
    assert style.looks(["w2a2", "w3a3"])["w2a2"] == ("#E69F00", "^")
    assert list(style.looks(grid.precisions).values())[:3] == list(style.looks(PRECISIONS).values())[:3]


@pytest.mark.parametrize("count", [1, 2, 8, 20])
def test_looks_are_different(count):
    """Colours, Okabe and Ito's, and markers of eight; colours with markers of many more."""
    shown = style.looks([f"w{i}a{i}" for i in range(count)])
    assert len(set(shown.values())) == count == len(shown)
    assert all(len(set(each)) >= min(count, 8) for each in zip(*shown.values(), strict=True))


def shown_order(figure) -> list[list[str]]:
    """Every list of precisions that a figure shows: on axes, in legends, over columns, at rows."""
    texts = [[t.get_text() for t in axes.get_xticklabels()] for axes in figure.axes]
    texts += [[t.get_text() for t in legend.get_texts()] for legend in figure.legends]
    texts += [[axes.get_title() for axes in figure.axes], [axes.get_ylabel() for axes in figure.axes]]
    lists = [[labels.precision(text.replace("\n", " ").split(",")[0]) for text in each] for each in texts]
    lists = [[text for text in each if text in WORDS] for each in lists]
    return [each for each in lists if each]


@pytest.mark.parametrize("name", sorted(set(DRAWN) - NO_PRECISIONS))
def test_w3a3_stands_between_w4a4_and_w2a2(name, drawn):
    """In every figure, wherever precisions are named; only both ends where a figure shows both ends."""
    lists = shown_order(drawn[name])
    assert lists
    for each in lists:
        block = each[: len(dict.fromkeys(each))]
        expected = [p for p in WORDS if p in block]
        assert each == block * (len(each) // len(block)) and block == expected
        assert block[-1] == "2 bits" and (len(block) >= 4 or name in ENDS)


# ------------------------------------------------------------------------------------------------- every figure


def page() -> dict[bool, float]:
    """The widths, in inches, of a column (False) and of a page's text (True), as the paper sets them."""
    margin, gutter = map(float, re.search(r"gutter\) = \(([\d.]+)cm, ([\d.]+)cm", PAPER).groups())
    width = (210 - 20 * margin) / 25.4
    return {True: width, False: (width - 10 * gutter / 25.4) / 2}


def places() -> dict[str, float]:
    """The printed width of every figure of the paper, in inches."""
    drawings = re.findall(r'drawing\("(\w+)"( \+ \w+)?((?:, \w+: [^\])]+)*)\)\[', PAPER)
    assert len(drawings) == PAPER.count('drawing("')
    return {name: page()["wide: true" in options] for name, _, options in drawings}


def test_figures_are_drawn_as_wide_as_they_are_printed():
    """The widths that figures know are those of the paper, and every figure of the paper is drawn by these tests."""
    assert page() == {True: pytest.approx(style.DOUBLE, abs=0.001), False: pytest.approx(style.SINGLE, abs=0.001)}
    assert set(places()) <= set(DRAWN)


def leaves(figure, text: Text) -> bool:
    """Whether a text reaches beyond the figure's edge."""
    (x0, y0), (x1, y1) = text.get_window_extent().get_points()
    return min(x0, y0) < -1 or x1 > figure.bbox.x1 + 1 or y1 > figure.bbox.y1 + 1


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_can_be_read_in_print_and_has_the_same_bytes_twice(name, drawn, tmp_path, monkeypatch):
    """At least six points as printed; no text is cut off or covers another; whatever the notebook has set."""
    figure, seen, draw = drawn[name], {}, Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (seen.setdefault(text), draw(text, renderer)))
    figure.draw_without_rendering()
    texts = [text for text in seen if text.get_visible() and text.get_text().strip()]
    sizes = {text.get_text(): text.get_size() * places().get(name, page()[True]) / figure.get_figwidth()
             for text in texts}  # fmt: skip
    assert len(sizes) > 5 and min(sizes.values()) >= 6, sizes
    assert not [text.get_text() for text in texts if leaves(figure, text)]
    boxes = [(text.get_text(), text.get_window_extent().padded(1)) for text in texts]
    assert not [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]
    if name in AGAIN:
        first, second = (style.save(each, name, tmp_path / folder)
                         for each, folder in ((figure, "one"), (DRAWN[name](FIVE), "two")))  # fmt: skip
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        assert first[1].read_bytes().startswith(b"%PDF") and b"CreationDate" not in first[1].read_bytes()
        image = Image.open(first[0])
        assert image.mode == "P" and image.info["dpi"] == pytest.approx((220, 220), abs=0.1)
        assert 0.01 < (np.asarray(image.convert("L")) < 200).mean() < 0.7


def test_the_least_that_a_reader_runs_can_be_drawn():
    """One dataset, one training, one seed, no loss to explain, nothing that was measured of faithfulness."""
    own = "dataset == 'mnist' and training == 'standard' and precision in ('fp32', 'w2a2')"
    runs = made.runs(seeds=1).query(own).assign(faithfulness=np.nan)
    numbers = {name: frame.query(own if "training" in frame else "dataset == 'mnist'")
               for name, frame in made.main_numbers().items()}  # fmt: skip
    nothing = {name: frame.assign(**dict.fromkeys(frame.columns.intersection(["mean", "low", "high", "kept"]), np.nan))
               for name, frame in numbers.items()}  # fmt: skip
    least = [
        figures.clarity(runs, made.controls().iloc[:0]), figures.preservation(runs, runs, "fp32"),
        figures.amplitude(runs, made.of_the_reference(runs)), figures.removal(made.removal().query(own)),
        main_figures.map_first(nothing["map_first"], 0.5), main_figures.which_map(nothing["which_map"], "fp32"),
        main_figures.saturation(nothing["saturation"]), main_figures.guidance(nothing["guidance"], 0.5),
        main_figures.fills(nothing["fills"]), main_figures.looks({"mnist": made.looks(1)}),
    ]  # fmt: skip
    for figure in least:
        figure.draw_without_rendering()


def test_a_new_dataset_is_in_every_figure(monkeypatch):
    """In a panel of its own, in the legend of ablations with a look of its own."""
    numbers = made.main_numbers()
    numbers = {name: pd.concat([own, own[own.dataset == "mnist"].assign(dataset="letters")])
               for name, own in numbers.items()}  # fmt: skip
    titles = [axes.get_title(loc="left") for axes in main_figures.map_first(numbers["map_first"], 0.5).axes]
    assert titles == ["MNIST", "FashionMNIST", "letters"]
    titles = [axes.get_title() for axes in main_figures.which_map(numbers["which_map"], "fp32").axes]
    assert titles[-2:] == ["letters, standard", "letters, guided"]
    assert main_figures.fills(numbers["fills"]).axes[-1].get_title() == "letters"
    changes = pd.concat([made.ablated(), made.ablated().assign(dataset="letters")])
    handles = effects.ablations(changes).legends[0].legend_handles[:3]
    assert len({(to_hex(handle.get_color()), handle.get_marker()) for handle in handles}) == 3


# ------------------------------------------------------------------------------------ files, notebooks, and words


def test_a_backend_that_turns_interactive_stays_so():
    """What a notebook's backend does at the first figure outlasts it: later figures are shown too."""

    @style.styled
    def first():
        matplotlib.interactive(True)
        return plt.figure()

    try:
        first()
        line()
        assert plt.isinteractive()
    finally:
        matplotlib.interactive(False)


def test_a_notebook_shows_the_figure_with_its_words(tmp_path, monkeypatch):
    """Once, with alt text and name where nbconvert looks for them, in few colours; elsewhere nothing is shown."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options)))
    style.save(line(), "curves", tmp_path, pd.DataFrame({"a": [1 / 3], "b": ["x"]}))
    assert (tmp_path / "curves.csv").read_bytes() == b"a,b\n0.33333333,x\n" and not shown and plt.get_fignums()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=True))
    plt.close("all")
    style.save(line(), "curves", tmp_path)
    ((data, options),) = shown
    assert options["metadata"] == {"image/png": {"alt": style.alternatives()["curves"], "name": "curves"}}
    assert options["raw"] and not plt.get_fignums()
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert image.mode == "P" and image.info["dpi"] == pytest.approx((style.ON_SCREEN,) * 2, abs=0.1)


def test_every_figure_has_words():
    """Its own, or those of its kind, as a new dataset's maps; and a figure that nobody has described."""
    words = style.alternatives()
    datasets = settings.load().grid.datasets
    every = [name + d if name.endswith("_") else name for name in DRAWN for d in datasets]
    assert set(every) <= set(words) and all(len(style.alternative(name)) > 60 for name in every)
    assert style.alternative("saliency_letters") == words["saliency_*"]
    assert style.alternative("something_new") == "Figure: something new."


# ------------------------------------------------------------------------------------------- what figures show


def test_clarity_shows_seeds_means_and_intervals(drawn):
    """Every seed is a joined line; each mean carries the t-interval of its own networks; controls are bands."""
    runs, figure = made.runs(FIVE), drawn["clarity"]
    axes = figure.axes[0]
    group = runs.query("dataset == 'mnist' and training == 'guided'")
    table = group.pivot(index="precision", columns="seed", values="gini").loc[list(FIVE)]
    joined = [each.get_ydata() for each in axes.lines if each.get_linestyle() == "-"]
    assert all(any(np.array_equal(each, table[seed]) for each in joined) for seed in table)
    low, high = stats.t.interval(0.95, 2, table.loc["w2a2"].mean(), stats.sem(table.loc["w2a2"]))
    bars = [bar for container in axes.containers for bar in container.lines[2][0].get_segments()]
    assert any(np.allclose(bar[:, 1], [low, high]) for bar in bars)
    across = [{each.get_ydata()[0] for each in axes.lines if list(each.get_xdata()) == [0, 1]} for axes in figure.axes]
    levels = made.controls(FIVE).groupby("map").gini.mean()[["untrained", "white_noise", "image"]]  # no single pixel
    assert [sorted(heights) for heights in across[:3]] == [pytest.approx(sorted(levels))] * 3
    assert list(across[3]) == [pytest.approx(levels.untrained)]  # what is no network is not shaken
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["MNIST", "FashionMNIST"]


def test_few_seeds_do_not_stretch_the_axis():
    """The interval of two seeds, 13 times their spread, runs out of the panel; the seeds fill it."""
    runs = made.runs(seeds=2)
    own = runs[runs.dataset == "mnist"].gini
    axes = figures.clarity(runs, made.controls().query("map == 'untrained'")).axes[0]
    low, high = axes.get_ylim()
    assert -0.1 < low < 0 and own.max() < high < own.max() + 0.1
    low, high = figures.amplitude(runs, made.of_the_reference(runs)).axes[0].get_ylim()
    assert 0 < low < runs.amplitude.min() and high < 1.3 * runs.amplitude.max()


def test_preservation_leaves_the_reference_out_and_draws_two_seeds_of_it(reference="w4a4"):
    """The axis has the other precisions; a line lies at each training's mean likeness of two reference seeds."""
    runs = made.runs()
    pairs = runs[runs.precision == reference]
    pairs = pairs.assign(preservation_spearman=np.where(pairs.training == "guided", 8.0, 7.0))
    figure = figures.preservation(runs, pairs, reference)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["full\nprecision", "4/2\nbits", "2\nbits"]
    assert [each.get_ydata()[0] for each in axes.lines if list(each.get_xdata()) == [0, 1]] == [7.0, 8.0]
    assert figure.legends[0].get_texts()[-1].get_text() == "two seeds of 4 bits, that training"


def test_gradients_leave_out_the_largest_fiftieth():
    """The axis ends, on both sides, at the 98th percentile of the magnitudes of its own dataset."""
    sample = made.gradients()
    sample["gradient"] *= np.where(sample.dataset == "mnist", 1, 10)
    for axes, dataset in zip(figures.gradients(sample).axes, DATASETS, strict=True):
        limit = np.percentile(sample[sample.dataset == dataset].gradient.abs(), 98)
        np.testing.assert_allclose(axes.get_ylim(), (-limit, limit))


def test_costs_on_a_device_stand_beside_what_is_left(drawn):
    """The first processor and training; the map's instructions are added to the class's; without rows it is empty."""
    numbers, (flash, work, left, both) = made.on_device(FIVE), drawn["device"].axes
    own = numbers.query("core == 'Cortex-M0' and training == 'standard' and dataset == 'mnist'")
    shown = {axes: [tuple(map(list, line.get_data())) for line in axes.lines] for axes in drawn["device"].axes}
    assert [len(lines) for lines in shown.values()] == [2, 2, 4, 4]  # two datasets, below with two maps
    assert (list(own.flash_bytes / 1e3), list(own.test_accuracy)) in shown[flash]
    assert (list(own.class_instructions / 1e6), list(own.test_accuracy)) in shown[work]
    for name in ("straight_through", "pass_through"):
        total = own.class_instructions / 1e6 + own[f"{name}_instructions"] / 1e6
        assert (list(own.flash_bytes / 1e3), list(own[f"faithfulness_{name}"])) in shown[left]
        assert (list(total), list(own[f"faithfulness_{name}"])) in shown[both]
    assert not any(axes.lines for axes in figures.device(numbers.iloc[:0]).axes)


def test_removal_shades_the_gain(drawn):
    """Shaded is the area between most and least salient first; its mean height is written down."""
    axes = drawn["curves"].axes[0]
    area = axes.collections[0].get_paths()[0].vertices
    assert area[:, 0].min() == 0 and area[:, 0].max() == 100
    assert any(np.allclose(vertex, [100, 0.5]) for vertex in area)
    random = next(each for each in axes.lines if each.get_linestyle() == "--")
    np.testing.assert_allclose(random.get_ydata(), 1 - np.linspace(0, 1, 5))
    assert axes.texts[0].get_text() == "area 0.75"


def test_lines_over_removed_pixels_and_distance(drawn):
    """Solid the most salient first, dashed random, means over the seeds; near the outline a line for each precision."""
    axes = drawn["deletion_accuracy"].axes[0]
    dashed, solid = axes.lines[0], axes.lines[len(FIVE)]
    assert (dashed.get_linestyle(), solid.get_linestyle()) == ("--", "-") and len(axes.lines) == 2 * len(FIVE)
    np.testing.assert_allclose(solid.get_xydata().T, [np.arange(0, 100, 10), 90 - 8 * np.arange(10)])
    np.testing.assert_allclose(dashed.get_ydata(), 90 - 4 * np.arange(10))
    axes = drawn["outline"].axes[0]
    mean, *lines = axes.lines
    assert set(mean.get_ydata()) == {1} and mean.get_linestyle() == "--" and len(lines) == len(FIVE)
    np.testing.assert_allclose(lines[0].get_ydata(), [2 / abs(d) for d in range(-8, 7) if d])
    shaded = axes.patches[0].get_bbox()
    assert (shaded.x0, shaded.x1) == (0, 6) and axes.get_title() == "MNIST, standard training"


# ----------------------------------------------------------------------------------------------------- training


def panels(figure):
    """The panels of `courses` by row and column."""
    return np.array(figure.axes).reshape(5, 4)


def test_every_panel_has_its_courses(drawn):
    """Row by score, column by dataset and training, one line per precision, bands of one standard error."""
    frame, every = made.during(FIVE), panels(drawn["during"])
    places = [(dataset, name) for dataset in DATASETS for name in TRAININGS]
    assert [axes.get_title() for axes in every[0]] == [f"{labels.dataset(d)}, {t}" for d, t in places]
    for row, score in zip(every, training.SCORES, strict=True):
        assert row[0].get_ylabel() == labels.question(score)
        for axes, (dataset, name) in zip(row, places, strict=True):
            there = frame[(frame.dataset == dataset) & (frame.training == name)].set_index("precision")
            for each, (precision, look) in zip(axes.lines, style.looks(FIVE).items(), strict=False):
                np.testing.assert_array_equal(each.get_ydata(), there.loc[precision, score])
                assert each.get_color() == look.colour
            switch = [each for each in axes.lines if list(each.get_xdata()) == [made.SWITCH] * 2]
            assert len(switch) == 1 and switch[0].get_linestyle() == "--"
        if score != "accuracy":  # both trainings of a dataset on one axis
            assert row[0].get_ylim() == row[1].get_ylim() and row[2].get_ylim() == row[3].get_ylim()
    band = every[1, 0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(5.01) and not every[0, 0].collections


def test_the_axis_of_accuracy_gives_each_tenth_of_the_errors_the_same_room():
    """From 90 to 99 % is as far as from 99 to 99.9, and 100 % can be drawn."""
    low, middle, high = training._nines(np.array([90, 99, 99.9]))
    assert middle - low == pytest.approx(1, abs=0.05) and high - middle == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(training._percent(training._nines(np.array([1, 50, 99.2, 100]))), [1, 50, 99.2, 100])


def test_what_was_not_measured_says_why_and_what_never_switches_has_no_mark():
    """Where no fill qualifies there is no faithfulness; where no network quantizes there is no switch."""
    frame = made.during(accuracy=100.0, faithfulness=np.nan, faithfulness_se=np.nan, switch=np.nan)
    every = panels(training.courses(frame))
    assert every[0, 0].get_ylim()[1] > 100
    assert every[3, 0].texts[0].get_text() == "no fill qualifies"
    assert {len(axes.lines) for axes in every.flat} == {4}


def test_training_maps_choose_steps_evenly_and_mark_the_switch():
    """First and last record are shown, each network in its row; a line before the first quantized map, in that row."""
    records = made.records()
    figure = training.training_maps(records, most=6)
    every = np.array(figure.axes[:14]).reshape(2, 7)
    assert [axes.get_title() for axes in every[0]] == ["input", *(f"step {step}" for step in range(0, 101, 20))]
    assert [row[0].get_ylabel() for row in every] == ["fp32", "w2a2"]
    np.testing.assert_array_equal(every[1, 3].images[0].get_array(), np.abs(records["one"][1]["w2a2"].maps[4]))
    assert [place for place, axes in np.ndenumerate(every) if axes.lines] == [(1, 3)]  # the map of that very step
    few = training.training_maps(made.records(count=3))  # of a small scale
    assert few.axes[1].get_position().width * few.get_figwidth() <= training.LARGEST + 1e-6


# ------------------------------------------------------------------------------------------------------ effects


def marks(axes) -> list[tuple]:
    """(row, mean, face) of every mark of a panel."""
    names = [label.get_text() for label in axes.figure.axes[0].get_yticklabels()]
    return [
        (names[round(y)], x, to_hex(each[0].get_markerfacecolor()))
        for each in axes.containers for x, y in zip(*each[0].get_data(), strict=True) if np.isfinite(x)
    ]  # fmt: skip


def test_which_map_shows_the_means(drawn):
    """Full precision above the maps of the fewest bits, filled, and the most, open; image and reference as lines."""
    figure, table = drawn["which_map"], made.map_means(FIVE).query("fill == 'qualifying' and seeds == 'all'")
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["full precision", "straight-through", "clip only", "round only", "passed through",
                    "integrated gradients", "occlusion"]  # fmt: skip
    assert [axes.get_title() for axes in figure.axes[:2]] == ["MNIST, standard", "MNIST, guided"]
    own = table.query("dataset == 'fashion_mnist' and training == 'guided'").set_index(["precision", "map"])["mean"]
    expected = [("full precision", own["fp32", "straight_through"], "#222222")]
    expected += [
        (labels.map_name(name), own["fp32", name], "#222222") for name in ("integrated_gradients", "occlusion")
    ]
    for precision, face in (("w4a4", "#ffffff"), ("w2a2", "#e69f00")):
        expected += [(labels.map_name(name), own[precision, name], face) for name in main_figures.MAPS]
    assert sorted(marks(figure.axes[3])) == sorted(expected)
    lines = [line.get_xdata()[0] for line in figure.axes[3].lines if line.get_linestyle() != "None"]
    assert sorted(lines) == pytest.approx(sorted([own["fp32", "straight_through"], own["fp32", "image"], 0]))


def test_saturation_stands_beside_the_main_grid_with_what_is_clipped(drawn):
    """Straight-through filled, passed through open, the share beside each quantized network; another network alone."""
    figure, table = drawn["saturation"], made.main_numbers(FIVE)["saturation"]
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["full precision", "8 bits", "4 bits", "w3a3", "4/2 bits", "2 bits", "2 bits, nothing clipped",
                    "2 bits, not rounded"]  # fmt: skip
    assert [axes.get_title() for axes in figure.axes] == [
        "MNIST,\nstandard", "MNIST,\nguided", "FashionMNIST,\nstandard", "FashionMNIST,\nguided",
        "MNIST,\nsecond network"]  # fmt: skip
    own = table.query("dataset == 'mnist' and training == 'guided' and variant == 'max_range'").set_index("metric")
    assert ("2 bits, nothing clipped", own["mean"].straight_through, "#d55e00") in marks(figure.axes[1])
    assert ("2 bits, nothing clipped", own["mean"].pass_through, "#ffffff") in marks(figure.axes[1])
    shares = [[text.get_text() for text in axes.texts] for axes in (*figure.axes[:2], figure.axes[-1])]
    assert shares == [["5.0 %"] * 4 + ["2.0 %"] * 2, ["5.0 %"] * 4 + ["2.0 %"] * 3, ["2.0 %"] * 2]
    assert {mark[0] for mark in marks(figure.axes[-1])} == {"full precision", "2 bits"}


def test_map_first_goes_from_full_precision_to_the_fewest_bits(drawn):
    """A mark for each mean, a faint point for each seed, the image's line, arrows from mean to mean, and the margin."""
    axes, table = drawn["map_first"].axes[1], made.main_numbers(FIVE)["map_first"].query("dataset == 'fashion_mnist'")
    means = table[table.seed.isna() & (table.precision != "image")]
    shown = np.array([np.ravel(each[0].get_data()) for each in axes.containers], float)
    np.testing.assert_allclose(shown, means[["kept", "points"]].to_numpy(float) * [100, 1])
    seeds = np.concatenate([np.asarray(each.get_offsets()) for each in axes.collections if len(each.get_offsets()) > 1])
    np.testing.assert_allclose(seeds, table[table.seed.notna()][["kept", "points"]].to_numpy(float) * [100, 1])
    dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == pytest.approx(list(100 * table.kept[table.precision == "image"]))
    arrows = [(each.xyann, each.xy) for each in axes.texts]
    own = means[means.training == "guided"][["kept", "points"]] * [100, 1]
    places = [tuple(row) for row in own.to_numpy()]
    assert arrows[len(FIVE) - 1 :] == list(zip(places, places[1:], strict=False))
    box = axes.patches[0].get_bbox()
    assert (box.y0, box.y1) == (-0.5, 0.5)


def test_guidance_shows_gain_and_price_by_ranking(drawn):
    """A row for each dataset and precision below the dataset's name; by magnitude filled, by sign open."""
    figure, table = drawn["guidance"], made.main_numbers(FIVE)["guidance"]
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["MNIST", *WORDS, "FashionMNIST", *WORDS]
    for axes, question in zip(figure.axes, ("faithfulness", "accuracy"), strict=True):
        own = table[table.question == question]
        for ranking, face in (("magnitude", "#0072b2"), ("signed", "#ffffff")):
            expected = [
                (labels.precision(row.precision), row.mean, face) for row in own[own.ranking == ranking].itertuples()
            ]
            assert [mark for mark in marks(axes) if mark[2] == face] == expected and len(expected) == 10
    assert "No guided network" in main_figures.guidance(table.iloc[:0], 0.5).axes[0].texts[0].get_text()


def test_fills_are_bars_of_map_and_image(drawn):
    """In the order of the fills; what does not qualify is shaded."""
    axes, table = drawn["fills"].axes[0], made.main_numbers(FIVE)["fills"].query("dataset == 'mnist'")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["black", "mean", "noise", "blur"]
    *bars, shaded = axes.patches
    expected = [*table["mean"][table["map"] == "straight_through"], *table["mean"][table["map"] == "image"]]
    assert [bar.get_height() for bar in bars] == pytest.approx(expected)
    assert (shaded.get_x(), shaded.get_width()) == (-0.5, 1)


def test_looks_have_their_scores_below_and_each_map_its_scale(drawn):
    """A block for each dataset: the image, its maps, each up to its 99th percentile; a dash for what was not scored."""
    shown, every = made.looks(), drawn["looks"].axes[:16]
    panels = np.array(every).reshape(2, 8)
    np.testing.assert_array_equal(panels[1, 4].images[0].get_array(), shown.images[1])
    for column, name in enumerate(shown.maps, 5):
        image = panels[1, column].images[0]
        np.testing.assert_array_equal(image.get_array(), np.abs(shown.maps[name][1]))
        assert image.get_clim() == (0, pytest.approx(np.percentile(np.abs(shown.maps[name][1]), 99)))
    below = [[text.get_text() for text in axes.texts] for axes in panels[1, 4:]]
    assert below == [["b", "all images"], ["0.25", "0.12"], ["−0.75", "0.12"], ["–", "0.12"]]
    assert [axes.get_title() for axes in panels[0, :4]] == [
        "input", "full\nprecision", "2 bits,\npassed\nthrough", "untrained"]  # fmt: skip


def dots(axes) -> list[tuple]:
    """(effect, marker, face, alpha) of every point of a panel."""
    every = [each for each in axes.lines if len(each.get_xdata()) == 1]
    return [(each.get_xdata()[0], each.get_marker(), each.get_markerfacecolor(), each.get_alpha()) for each in every]


def test_every_effect_is_a_point_and_the_main_grid_one_for_each_comparison(drawn):
    """A column per question: open points for variants, filled ones for the main grid, a red cross for a lost sign."""
    changes, figure = made.ablated(), drawn["ablations"]
    assert [axes.get_title() for axes in figure.axes] == ["Accuracy (points)", "Focus", "Coherence", "Faithfulness"]
    for axes, question in zip(figure.axes, made.QUESTIONS, strict=True):
        own = changes[changes.question == question]
        main = own.drop_duplicates(["dataset", "training", "comparison"]).main
        assert sorted(x for x, *_ in dots(axes)) == pytest.approx(sorted([*own.estimate, *main]))
        filled = [x for x, marker, face, _ in dots(axes) if marker != "x" and not same_color(face, "white")]
        assert sorted(filled) == pytest.approx(sorted(main))
        assert sum(marker == "x" for _, marker, *_ in dots(axes)) == (2 if question == "coherence" else 0)
        bars = {tuple(np.round(each.get_xdata(), 6)) for each in axes.lines if len(each.get_xdata()) == 2}
        assert {tuple(pair) for pair in own[["low", "high"]].round(6).to_numpy()} <= bars
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:3] == ["main grid", "same again", "turned"]
    heads = [text.get_text() for text in figure.axes[0].texts]
    assert heads == ["2 bits − full precision, standard", "2 bits − full precision, guided",
                     "guided − standard, 2 bits"]  # fmt: skip


def test_what_the_main_grid_does_not_conclude_is_pale_and_nothing_is_said_to_be_nothing():
    """Whatever the variants find there; a scale that runs no ablations still has the figure."""
    pale = made.ablated().assign(sign="", holds="", robust="")
    assert {alpha for axes in effects.ablations(pale).axes for *_, alpha in dots(axes)} == {0.35}
    assert "No ablation was run" in effects.ablations(pale.iloc[:0]).axes[0].texts[0].get_text()
