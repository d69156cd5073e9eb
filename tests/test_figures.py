"""Tests of saqlib.figures and saqlib.drawing: the data behind the figures, and the bytes of the files."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from saqlib import drawing, figures
from saqlib.clarity import PRIMARY, SCORES

PRESERVATION = [f"preservation_{score.id}" for score in SCORES.values() if score.group == "preservation"]
PRECISIONS = ["w2a2", "fp32", "w4a4"]  # not in the order of the figures


@pytest.fixture(autouse=True)
def close_figures():
    """Leave no figure open."""
    yield
    plt.close("all")


def grid(seeds=3, datasets=("mnist",), **columns):
    """A row a network; each column is a function of a random generator."""
    rng = np.random.default_rng(5)
    return pd.DataFrame([
        {"dataset": d, "precision": p, "training": t, "seed": s} | {c: value(rng) for c, value in columns.items()}
        for d in datasets for p in PRECISIONS for t in ("standard", "guided") for s in range(seeds)
    ])  # fmt: skip


def make_runs(seeds=3):
    """Random runs with every column that a figure reads."""
    scores = {column: np.random.Generator.random for column in [*PRIMARY, *PRESERVATION]}
    return grid(seeds, test_accuracy=lambda rng: 90 + rng.random(), **scores)


def make_controls():
    """Three controls, each with a level of its own."""
    rows = make_runs().query("precision == 'fp32'").drop(columns="precision")
    level = {"reinit": 0.0, "white_noise": 2.0, "one_hot": 9.0}
    return pd.concat([rows.assign(control=c, **dict.fromkeys(PRIMARY, v)) for c, v in level.items()])


def make_curves():
    """Straight lines: least 1 - x/2, random 1 - x, most falls to 0 at once."""
    levels = np.linspace(0, 1, 5)
    frame = pd.concat([grid(2).assign(level=level) for level in levels], ignore_index=True)
    return frame.assign(least=1 - frame.level / 2, random=1 - frame.level, most=0.0)


def make_accuracies():
    """Most salient first falls twice as fast as random."""
    frame = pd.concat([grid(2).assign(level=level) for level in np.arange(10) / 10], ignore_index=True)
    return frame.assign(most=90 - 80 * frame.level, random=90 - 40 * frame.level)


def make_outline():
    """A peak at the outline."""
    places = [d for d in range(-8, 7) if d]
    frame = pd.concat([grid(1).assign(distance=d, relative=2 / abs(d)) for d in places], ignore_index=True)
    return frame.assign(pixels=1 / len(places), salient=1 / len(places))


def make_history():
    """Two seeds, three epochs, two layers."""
    rows = [
        {"seed": s, "epoch": e, "loss": 1 / e, "validation_accuracy": 90.0 + e + s} for s in (0, 1) for e in (1, 2, 3)
    ]
    history = pd.DataFrame(rows)
    layers = pd.concat([
        history[["seed", "epoch"]].assign(layer=layer, alpha=1.0 + i, clipped=0.1, zero=0.5)
        for i, layer in enumerate(["conv1", "conv2"])
    ])  # fmt: skip
    return history, layers


def make_deployment():
    """Six networks: w2a2 smallest, then w4a4, then fp32."""
    size = {"w2a2": 10_000, "w4a4": 20_000, "fp32": 180_000}
    frame = grid(1, test_accuracy=np.random.Generator.random, retained_gini=np.random.Generator.random)
    return frame.assign(packed_bytes=frame.precision.map(size))


DRAWN = {
    "trade_off": lambda: figures.trade_off(make_runs()),
    "clarity": lambda: figures.clarity(make_runs(), make_controls()),
    "preservation": lambda: figures.preservation(make_runs(), make_runs().query("precision == 'fp32'")),
    "curves": lambda: figures.curves(make_curves()),
    "deletion_accuracy": lambda: figures.deletion_accuracy(make_accuracies()),
    "outline": lambda: figures.outline(make_outline()),
    "training": lambda: figures.training(*make_history()),
    "gradients": lambda: figures.gradients(grid(50, gradient=lambda rng: rng.normal())),
    "pareto": lambda: figures.pareto(make_deployment()),
}


# --- every figure ---


@pytest.mark.parametrize("name", DRAWN)
def test_saved_twice_the_same(name, tmp_path):
    """Drawn and saved twice, PNG and PDF have the same bytes, a sensible width, and something on them."""
    first = drawing.save(DRAWN[name](), name, tmp_path / "one")
    second = drawing.save(DRAWN[name](), name, tmp_path / "two")
    assert [path.name for path in first] == [f"{name}.png", f"{name}.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    picture = np.asarray(Image.open(first[0]).convert("L"))
    assert picture.shape[1] >= 3.4 * 220 - 1
    assert 0.01 < (picture < 200).mean() < 0.6
    assert first[1].read_bytes().startswith(b"%PDF") and b"CreationDate" not in first[1].read_bytes()


@pytest.mark.parametrize("name", DRAWN)
def test_style_is_the_papers_whatever_was_set(name):
    """A style that the notebook has set neither reaches the figure nor is touched by it."""
    with plt.rc_context({"font.size": 31.0, "axes.spines.top": True}):
        figure = DRAWN[name]()
        assert plt.rcParams["font.size"] == 31.0
    axes = figure.axes[0]
    assert axes.xaxis.label.get_size() == 7
    assert not axes.spines["top"].get_visible()
    assert figure.get_figwidth() <= drawing.DOUBLE


@pytest.mark.parametrize("name", ["trade_off", "clarity", "preservation", "curves"])
def test_one_seed_and_one_dataset_can_be_drawn(name, tmp_path):
    """The least that a reader can run gives a figure too."""
    runs = make_runs(1).query("dataset == 'mnist' and training == 'standard'")
    drawn = {
        "trade_off": lambda: figures.trade_off(runs),
        "clarity": lambda: figures.clarity(runs, make_controls()),
        "preservation": lambda: figures.preservation(runs, runs),
        "curves": lambda: figures.curves(make_curves().query("dataset == 'mnist' and precision == 'w2a2'")),
    }
    assert all(path.stat().st_size > 1000 for path in drawing.save(drawn[name](), name, tmp_path))


def test_a_backend_that_turns_interactive_stays_so():
    """What a notebook's backend does at the first figure outlasts it: later figures are shown too."""

    @drawing.styled
    def first():
        matplotlib.interactive(True)
        return plt.figure()

    assert not plt.isinteractive()
    try:
        first()
        assert plt.isinteractive()
        figures.pareto(make_deployment())
        assert plt.isinteractive()
    finally:
        matplotlib.interactive(False)


# --- the data behind them ---


def points(axes):
    """The offsets of all scatter points of a panel."""
    return np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])


def test_trade_off_shows_every_network_and_mean():
    """A panel holds a point a network, one at each mean, and a line a seed and training, in order of bits."""
    runs = make_runs()
    axes = figures.trade_off(runs).axes[1]
    group = runs[runs.dataset == "mnist"]
    expected = group[["test_accuracy", "morans_i"]].to_numpy()
    means = group.groupby(["precision", "training"])[["test_accuracy", "morans_i"]].mean().to_numpy()
    shown = points(axes)
    np.testing.assert_allclose(np.sort(shown, axis=0), np.sort(np.concatenate([expected, means]), axis=0))
    assert len(axes.lines) == 6
    seed = group.query("training == 'standard' and seed == 0").set_index("precision").loc[["fp32", "w4a4", "w2a2"]]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), seed.test_accuracy)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), seed.morans_i)


def test_clarity_shows_seeds_means_and_intervals():
    """Every seed is a joined line; each mean carries the t-interval of its own networks."""
    runs = make_runs()
    axes = figures.clarity(runs, make_controls()).axes[0]
    group = runs.query("dataset == 'mnist' and training == 'guided'")
    table = group.pivot(index="precision", columns="seed", values="gini").loc[["fp32", "w4a4", "w2a2"]]
    joined = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "-" and len(line.get_ydata()) == 3]
    for seed in table:
        assert any(np.array_equal(line, table[seed]) for line in joined)
    low, high = stats.t.interval(0.95, 2, table.loc["w2a2"].mean(), stats.sem(table.loc["w2a2"]))
    bars = [container.lines[2][0].get_segments()[0] for container in axes.containers]
    assert any(np.allclose(bar[:, 1], [low, high]) for bar in bars)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["fp32", "w4a4", "w2a2"]


def test_few_seeds_do_not_stretch_the_axis():
    """The interval of two seeds, 13 times their spread, runs out of the panel; the seeds fill it."""
    runs = make_runs(2)
    axes = figures.clarity(runs, make_controls().query("control == 'reinit'")).axes[0]
    low, high = axes.get_ylim()
    assert -0.1 < low < 0 and runs.gini.max() < high < runs.gini.max() + 0.1


def test_nothing_measured_is_an_empty_panel():
    """A score that no network has leaves its panel empty, without an error."""
    runs = make_runs().assign(gini=np.nan)
    assert len(figures.clarity(runs, make_controls().assign(gini=np.nan)).axes) == 4


def test_a_row_a_dataset():
    """With two datasets there are two rows, each from its own networks."""
    runs = make_runs()
    both = pd.concat([runs, runs.assign(dataset="fashion_mnist", gini=runs.gini + 100)])
    axes = figures.clarity(both, make_controls()).axes
    assert [axes[0].get_ylabel(), axes[4].get_ylabel()] == ["MNIST", "FashionMNIST"]
    assert min(np.min(line.get_ydata()) for line in axes[4].lines) >= 100


def test_controls_are_bands():
    """Two of the three controls are drawn at their levels in every panel; the single pixel is the table's."""
    figure = figures.clarity(make_runs(), make_controls())
    for axes in figure.axes:
        heights = {line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]}
        assert {0.0, 2.0} <= heights and 9.0 not in heights
    assert "white noise" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_preservation_leaves_fp32_out_and_draws_the_ceiling():
    """The axis has the quantized precisions; a line lies at each training's mean ceiling."""
    runs = make_runs()
    ceiling = runs[runs.precision == "fp32"].assign(preservation_spearman=7.0)
    ceiling.loc[ceiling.training == "guided", "preservation_spearman"] = 8.0
    axes = figures.preservation(runs, ceiling).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["w4a4", "w2a2"]
    assert [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]] == [7.0, 8.0]


def test_curves_shade_the_gain():
    """Shaded is the area between most and least salient first; its mean height is written down."""
    axes = figures.curves(make_curves()).axes[0]
    area = axes.collections[0].get_paths()[0].vertices
    assert area[:, 0].min() == 0 and area[:, 0].max() == 100
    assert any(np.allclose(vertex, [100, 0.5]) for vertex in area)
    random = [line for line in axes.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(random[0].get_ydata(), 1 - np.linspace(0, 1, 5))
    assert axes.texts[0].get_text() == "area 0.75"


def test_deletion_accuracy_has_a_random_line_beside_each_precision():
    """Solid the most salient first, dashed random, both in percent of the pixels, means over the seeds."""
    figure = figures.deletion_accuracy(make_accuracies())
    assert [axes.get_title() for axes in figure.axes] == ["MNIST, standard training", "MNIST, guided training"]
    dashed, solid = figure.axes[0].lines[:2]
    assert (dashed.get_linestyle(), solid.get_linestyle()) == ("--", "-")
    np.testing.assert_allclose(solid.get_xdata(), np.arange(0, 100, 10))
    np.testing.assert_allclose(solid.get_ydata(), 90 - 8 * np.arange(10))
    np.testing.assert_allclose(dashed.get_ydata(), 90 - 4 * np.arange(10))
    assert len(figure.axes[0].lines) == 2 * len(PRECISIONS)


def test_outline_shades_the_object_and_draws_the_mean():
    """A line a precision over the distance, the object's side shaded, 1 dashed."""
    figure = figures.outline(make_outline())
    assert [axes.get_title() for axes in figure.axes] == ["MNIST, standard training", "MNIST, guided training"]
    axes = figure.axes[0]
    mean, *lines = axes.lines
    assert set(mean.get_ydata()) == {1} and mean.get_linestyle() == "--" and len(lines) == len(PRECISIONS)
    np.testing.assert_allclose(lines[0].get_xdata(), [d for d in range(-8, 7) if d])
    np.testing.assert_allclose(lines[0].get_ydata(), [2 / abs(d) for d in range(-8, 7) if d])
    shaded = axes.patches[0].get_bbox()
    assert (shaded.x0, shaded.x1) == (0, 6)


def test_training_has_fewer_panels_without_quantization():
    """fp32 has loss and accuracy; a quantized cell alpha, clipped and zero as well, the shares in percent."""
    history, layers = make_history()
    assert len(figures.training(history, layers[:0]).axes) == 2
    axes = figures.training(history, layers).axes
    assert len(axes) == 5
    np.testing.assert_allclose(axes[1].lines[-1].get_ydata(), [91.5, 92.5, 93.5])
    np.testing.assert_allclose(axes[4].lines[-1].get_ydata(), 50)


def test_pareto_front():
    """The front keeps what nothing as small or smaller beats; of equals, the first."""
    frame = pd.DataFrame({"bytes": [3, 1, 2, 2, 4, 1], "value": [5.0, 1.0, 4.0, 3.0, 5.0, 0.5]})
    best = figures.front(frame, "bytes", "value")
    assert best[["bytes", "value"]].to_numpy().tolist() == [[1, 1.0], [2, 4.0], [3, 5.0]]


def test_pareto_leaves_out_what_nobody_measured():
    """With few seeds retained clarity may be NaN throughout: its column is left out."""
    frame = make_deployment()
    assert len(figures.pareto(frame).axes) == 2
    assert len(figures.pareto(frame.assign(retained_gini=np.nan)).axes) == 1


# --- saving ---


def test_the_plotted_numbers_are_saved(tmp_path):
    """With numbers, a CSV stands beside the pictures."""
    frame = pd.DataFrame({"a": [1 / 3], "b": ["x"]})
    drawing.save(figures.pareto(make_deployment()), "pareto", tmp_path, frame)
    assert (tmp_path / "pareto.csv").read_bytes() == b"a,b\n0.33333333,x\n"


def test_order_and_colours_of_precisions():
    """The paper's precisions come in order of bits, others behind; each has a colour that stays the same."""
    assert drawing.in_order(["w2a2", "w3a3", "fp32", "w2a2"]) == ["fp32", "w2a2", "w3a3"]
    known = [drawing.colour(p) for p in drawing.ORDER]
    assert len(set(known)) == 4
    assert drawing.colour("w3a3") == drawing.colour("w3a3") not in known
