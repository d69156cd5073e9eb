"""Tests of saqlib.report.figures: the data behind figures of scores, and the bytes of their files."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.names import UNTRAINED
from saqlib.report import figures, style
from tests import frames
from tests.report.drawn import IN_ORDER, PRECISIONS, check_files, check_style, dashed_across


def make_runs(seeds=3):
    """Random runs with every column that a figure reads."""
    return frames.make_runs(seeds=seeds, precisions=PRECISIONS)


def make_controls():
    """Four controls, each with a level of its own."""
    rows = make_runs().query("precision == 'fp32'").drop(columns="precision")
    level = {UNTRAINED: 0.0, "white_noise": 2.0, "one_hot": 9.0, "intensity": 4.0}
    return pd.concat([rows.assign(control=c, **dict.fromkeys(figures.SHOWN, v)) for c, v in level.items()])


def make_deployment():
    """Six networks: w2a2 smallest, then w4a4, then fp32."""
    size = {"w2a2": 10_000, "w4a4": 20_000, "fp32": 180_000}
    random = np.random.Generator.random
    frame = frames.grid(seeds=1, precisions=PRECISIONS, test_accuracy=random, faithfulness=random)
    return frame.assign(packed_bytes=frame.precision.map(size))


def make_gradients():
    """Fifty values for each network."""
    return frames.grid(seeds=50, precisions=PRECISIONS, gradient=lambda rng: rng.normal())


def drawn_preservation():
    """The figure of likeness, with the reference's own rows in place of pairs of seeds."""
    return figures.preservation(make_runs(), make_runs().query("precision == 'fp32'"), "fp32")


DRAWN = {
    "trade_off": lambda: figures.trade_off(make_runs()),
    "clarity": lambda: figures.clarity(make_runs(), make_controls()),
    "preservation": drawn_preservation,
    "gradients": lambda: figures.gradients(make_gradients()),
    "pareto": lambda: figures.pareto(make_deployment()),
}


# --- every figure ---


@pytest.mark.parametrize("name", DRAWN)
def test_saved_twice_the_same(name, tmp_path):
    """Drawn and saved twice, PNG and PDF have the same bytes, a sensible width, and something on them."""
    check_files(DRAWN[name], name, tmp_path)


@pytest.mark.parametrize("name", DRAWN)
def test_style_is_the_papers_whatever_was_set(name):
    """A style that the notebook has set neither reaches the figure nor is touched by it."""
    check_style(DRAWN[name])


@pytest.mark.parametrize("name", ["trade_off", "clarity", "preservation"])
def test_one_seed_and_one_dataset_can_be_drawn(name, tmp_path):
    """The least that a reader can run gives a figure too."""
    runs = make_runs(1).query("dataset == 'mnist' and training == 'standard'")
    drawn = {
        "trade_off": lambda: figures.trade_off(runs),
        "clarity": lambda: figures.clarity(runs, make_controls()),
        "preservation": lambda: figures.preservation(runs, runs, "fp32"),
    }
    assert all(path.stat().st_size > 1000 for path in style.save(drawn[name](), name, tmp_path))


# --- the data behind them ---


def points(axes):
    """The offsets of all scatter points of a panel."""
    return np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])


def test_trade_off_shows_every_network_and_mean():
    """A point for each network and mean, and a line for each seed and training, in order of bits."""
    runs = make_runs()
    (axes,) = figures.trade_off(runs).axes
    expected = runs[["test_accuracy", "faithfulness"]].to_numpy()
    means = runs.groupby(["precision", "training"])[["test_accuracy", "faithfulness"]].mean().to_numpy()
    shown = points(axes)
    np.testing.assert_allclose(np.sort(shown, axis=0), np.sort(np.concatenate([expected, means]), axis=0))
    assert len(axes.lines) == 6
    seed = runs.query("training == 'standard' and seed == 0").set_index("precision").loc[IN_ORDER]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), seed.test_accuracy)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), seed.faithfulness)


def test_trade_off_has_a_panel_for_each_dataset_with_a_qualifying_fill():
    """Where none qualifies faithfulness is not measured, and there is nothing to draw."""
    runs = make_runs()
    unknown = runs.assign(dataset="fashion_mnist", faithfulness=np.nan)
    assert [axes.get_title() for axes in figures.trade_off(pd.concat([runs, unknown])).axes] == ["MNIST"]
    both = pd.concat([runs, runs.assign(dataset="fashion_mnist")])
    assert [axes.get_title() for axes in figures.trade_off(both).axes] == ["MNIST", "FashionMNIST"]
    assert len(figures.trade_off(unknown).axes) == 1


def test_clarity_shows_seeds_means_and_intervals():
    """Every seed is a joined line; each mean carries the t-interval of its own networks."""
    runs = make_runs()
    axes = figures.clarity(runs, make_controls()).axes[0]
    group = runs.query("dataset == 'mnist' and training == 'guided'")
    table = group.pivot(index="precision", columns="seed", values="gini").loc[IN_ORDER]
    joined = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "-" and len(line.get_ydata()) == 3]
    for seed in table:
        assert any(np.array_equal(line, table[seed]) for line in joined)
    low, high = stats.t.interval(0.95, 2, table.loc["w2a2"].mean(), stats.sem(table.loc["w2a2"]))
    bars = [container.lines[2][0].get_segments()[0] for container in axes.containers]
    assert any(np.allclose(bar[:, 1], [low, high]) for bar in bars)
    assert [label.get_text() for label in axes.get_xticklabels()] == IN_ORDER


def test_few_seeds_do_not_stretch_the_axis():
    """The interval of two seeds, 13 times their spread, runs out of the panel; the seeds fill it."""
    runs = make_runs(2)
    axes = figures.clarity(runs, make_controls().query("control == @UNTRAINED")).axes[0]
    low, high = axes.get_ylim()
    assert -0.1 < low < 0 and runs.gini.max() < high < runs.gini.max() + 0.1


def test_nothing_measured_is_an_empty_panel():
    """A score that no network has leaves its panel empty, without an error."""
    runs = make_runs().assign(gini=np.nan)
    assert len(figures.clarity(runs, make_controls().assign(gini=np.nan)).axes) == len(figures.SHOWN)


def test_one_row_for_each_dataset():
    """With two datasets there are two rows, each from its own networks."""
    runs = make_runs()
    both = pd.concat([runs, runs.assign(dataset="fashion_mnist", gini=runs.gini + 100)])
    axes = figures.clarity(both, make_controls()).axes
    second = len(figures.SHOWN)
    assert [axes[0].get_ylabel(), axes[second].get_ylabel()] == ["MNIST", "FashionMNIST"]
    assert min(np.min(line.get_ydata()) for line in axes[second].lines) >= 100


def test_controls_are_bands():
    """The image itself among them, at their levels in every panel; the single pixel is the table's alone."""
    figure = figures.clarity(make_runs(), make_controls())
    for axes in figure.axes:
        assert set(dashed_across(axes)) == {0.0, 2.0, 4.0}
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["standard training", "guided training", "untrained network", "white noise",
                     "the image itself"]  # fmt: skip


@pytest.mark.parametrize("reference", ["fp32", "w4a4"])
def test_preservation_leaves_the_reference_out_and_draws_two_seeds_of_it(reference):
    """The axis has the other precisions; a line lies at each training's mean likeness of two reference seeds."""
    runs = make_runs()
    pairs = runs[runs.precision == reference].assign(preservation_spearman=7.0)
    pairs.loc[pairs.training == "guided", "preservation_spearman"] = 8.0
    figure = figures.preservation(runs, pairs, reference)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [p for p in IN_ORDER if p != reference]
    assert dashed_across(axes) == [7.0, 8.0]
    assert figure.legends[0].get_texts()[-1].get_text() == f"two {reference} seeds of that training"


def test_gradients_leave_out_the_largest_fiftieth():
    """The axis ends, on both sides, at the 98th percentile of the magnitudes of its own dataset."""
    sample = pd.concat(
        [make_gradients(), make_gradients().assign(dataset="fashion_mnist", gradient=lambda f: 10 * f.gradient)]
    )
    panels = figures.gradients(sample).axes
    for axes, scale in zip(panels, (1, 10), strict=True):
        limit = scale * np.percentile(make_gradients().gradient.abs(), 98)
        np.testing.assert_allclose(axes.get_ylim(), (-limit, limit))
        assert [label.get_text() for label in axes.get_xticklabels()] == IN_ORDER


def test_pareto_front():
    """The front keeps what nothing as small or smaller beats; of equals, the first."""
    frame = pd.DataFrame({"bytes": [3, 1, 2, 2, 4, 1], "value": [5.0, 1.0, 4.0, 3.0, 5.0, 0.5]})
    best = figures.front(frame, "bytes", "value")
    assert best[["bytes", "value"]].to_numpy().tolist() == [[1, 1.0], [2, 4.0], [3, 5.0]]


def test_pareto_has_a_front_for_each_training():
    """The line of a training joins its own networks alone, whatever the other one's are worth."""
    frame = make_deployment().sort_values("packed_bytes", kind="stable")
    frame["test_accuracy"] = [50.0, 90, 60, 95, 70, 99]  # standard, guided, by size
    axes = figures.pareto(frame).axes[0]
    heights = [list(dict.fromkeys(line.get_ydata())) for line in axes.lines]
    assert sorted(heights) == [[50, 60, 70], [90, 95, 99]]


def test_pareto_leaves_out_what_nobody_measured():
    """Where no fill qualifies nobody knows how faithful maps are: the column is left out."""
    frame = make_deployment()
    assert len(figures.pareto(frame).axes) == 2
    assert len(figures.pareto(frame.assign(faithfulness=np.nan)).axes) == 1
