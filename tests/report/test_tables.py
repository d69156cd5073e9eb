"""Tests of saqlib.report.tables: the numbers, the text, the bytes."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.deployment.costs import cost
from saqlib.evidence.retained import METRICS, retained
from saqlib.names import PRIMARY, SEED_TO_SEED, UNTRAINED
from saqlib.report import tables
from tests import frames
from tests.report.tabled import check
from tests.trained import network


def make_runs(seeds=4):
    """Two datasets, two trainings, three precisions; every number is different."""
    return frames.make_runs(seeds=seeds, datasets=frames.DATASETS, precisions=("fp32", "w4a4", "w2a2"))


def make_controls(runs):
    """White noise and untrained networks on the images of the runs."""
    rows = runs[runs.precision == "fp32"].drop(columns="precision")
    return pd.concat([rows.assign(control=UNTRAINED), rows.assign(control="white_noise")])


@pytest.fixture(scope="module", params=["accuracy", "clarity", "relevance_gain", "preservation", "retained"])
def table(request):
    """Each of the paper's tables in turn."""
    runs = make_runs()
    if request.param == "accuracy":
        return tables.accuracy(runs)
    if request.param == "clarity":
        return tables.clarity(runs, make_controls(runs))
    if request.param == "preservation":
        return tables.preservation(runs, runs[runs.precision == "fp32"].drop(columns="precision"), "fp32")
    if request.param == "relevance_gain":
        return tables.relevance_gain(runs, make_controls(runs))
    return tables.retained(retained(runs, make_controls(runs).query("control == 'white_noise'"), "fp32"))


def test_every_table_has_its_three_files(table, tmp_path):
    """The same bytes each time, the numbers in the CSV, one table in Markdown, one of booktabs in LaTeX."""
    check(table, tmp_path)


def test_mean_and_interval_over_seeds():
    """Mean and interval are those of scipy; seeds without a value are not counted."""
    runs = make_runs(seeds=5)
    runs.loc[(runs.precision == "w2a2") & (runs.seed == 3), "gini"] = np.nan
    keys = ["dataset", "training", "precision"]
    numbers = tables.over_seeds(runs, keys, ["gini"]).set_index(keys)
    assert set(numbers.loc[(slice(None), slice(None), "w2a2"), "seeds"]) == {4}
    row = numbers.loc["mnist", "guided", "w4a4"]
    values = runs.query("dataset == 'mnist' and training == 'guided' and precision == 'w4a4'").gini
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    np.testing.assert_allclose([row["mean"], row.low, row.high], [values.mean(), low, high])


def test_one_seed_has_a_mean_and_no_interval():
    """A single seed is shown as it is; none at all as a dash."""
    runs = make_runs(seeds=1)
    numbers = tables.over_seeds(runs, ["dataset", "training", "precision"], ["gini"])
    assert numbers["mean"].tolist() == runs.sort_values("seed").gini.tolist()
    assert numbers.low.isna().all()
    none = tables.over_seeds(runs.assign(gini=np.nan), ["dataset"], ["gini"])
    assert none["mean"].isna().all() and set(none.seeds) == {0}


def test_accuracy_by_place():
    """A cell of the accuracy table shows the mean and half the interval of its own runs."""
    runs = make_runs()
    shown = tables.accuracy(runs).shown.set_index("Precision")
    values = runs.query("dataset == 'fashion_mnist' and training == 'guided' and precision == 'w2a2'").test_accuracy
    half = stats.t.ppf(0.975, 3) * stats.sem(values)
    assert shown.loc["w2a2", "FashionMNIST, guided"] == f"{values.mean():.2f} ± {half:.2f}"
    assert list(shown.index) == ["fp32", "w4a4", "w2a2"]
    assert list(shown.columns[:2]) == ["MNIST, standard", "MNIST, guided"]


def test_clarity_shows_controls_below_their_networks():
    """For each dataset and training: the precisions, then the controls, ids in the numbers and words where shown."""
    runs = make_runs()
    made = tables.clarity(runs, make_controls(runs))
    assert made.numbers["map"].unique().tolist() == ["fp32", "w4a4", "w2a2", UNTRAINED, "white_noise"]
    shown = made.shown
    block = shown[(shown.Dataset == "FashionMNIST") & (shown.Training == "guided")]
    assert block["Map"].tolist() == ["fp32", "w4a4", "w2a2", "untrained network", "white noise"]
    assert {"Gini index ↑", "Dead rate ↓"} <= set(shown.columns)
    assert shown.index[shown.Dataset == "MNIST"].max() < shown.index[shown.Dataset == "FashionMNIST"].min()


def test_the_relevance_gain_has_a_column_for_each_fill():
    """Networks and controls, whether the fill qualifies or not; amplitude and death are of networks alone."""
    runs = make_runs()
    made = tables.relevance_gain(runs, make_controls(runs))
    assert list(made.shown.columns[3:]) == [f"Relevance gain, {fill} ↑" for fill in ("zero", "mean", "noise", "blur")]
    assert not (made.shown == tables.MISSING).any(axis=None)
    controls = make_controls(runs)
    controls.loc[controls.control != UNTRAINED, "amplitude"] = np.nan
    clarity = tables.clarity(runs, controls).shown.set_index("Map")
    assert not (clarity.loc[["untrained network", "fp32"], "Amplitude"] == tables.MISSING).any()
    assert {"Faithfulness ↑", "Amplitude"} <= set(clarity.columns)
    assert set(clarity.loc["white noise", "Amplitude"]) == {tables.MISSING}


def test_a_retained_share_shows_both_ends_of_its_interval():
    """Which is not even: half its width would say something else; a share of nothing is a dash."""
    kept = pd.DataFrame({
        "dataset": "mnist", "training": "standard", "metric": ["gini", "gini"], "precision": ["w4a4", "w2a2"],
        "estimate": [0.53, np.nan], "low": [-0.61, np.nan], "high": [0.77, np.nan],
    })  # fmt: skip
    assert tables.retained(kept).shown["Gini index ↑"].tolist() == ["0.530 [−0.610, 0.770]", "–"]


def test_convergence_is_a_paired_difference():
    """Each method's score minus that of the same seed and method at fp32, by hand for one cell."""
    rng = np.random.default_rng(0)
    methods = pd.concat(
        [make_runs().assign(method=m, **{s: rng.random(48) for s in PRIMARY}) for m in ("gradient", "occlusion")]
    )
    table = tables.convergence(methods, "fp32")
    numbers = table.numbers
    one = methods.query("dataset == 'mnist' and training == 'guided' and method == 'occlusion'")
    wide = one.pivot(index="seed", columns="precision", values="gini")
    found = numbers.query(
        "dataset == 'mnist' and training == 'guided' and method == 'occlusion'"
        " and precision == 'w2a2' and metric == 'gini'"
    )
    assert found["mean"].item() == pytest.approx((wide.w2a2 - wide.fp32).mean())
    assert len(numbers) == 2 * 2 * 2 * 2 * 5
    assert set(numbers.method) == {"gradient", "occlusion"}
    assert set(table.shown["Method"]) == {"gradient of the logit", "occlusion"}


def test_secondary_scores_have_their_arrows():
    """The scores at hand are shown, with the direction that is better."""
    runs = make_runs().assign(entropy=0.5, auroc=0.7)
    assert list(tables.secondary(runs).shown.columns[3:])[-2:] == ["Normalised entropy ↓", "Foreground AUROC ↑"]


@pytest.mark.parametrize(("reference", "others"), [("fp32", ["w4a4", "w2a2"]), ("w4a4", ["fp32", "w2a2"])])
def test_preservation_ends_each_block_with_two_seeds_of_the_reference(reference, others):
    """The reference against itself is left out; the pair of seeds has an id in the numbers and words where shown."""
    runs = make_runs()
    pairs = runs[runs.precision == reference].drop(columns="precision").assign(preservation_spearman=0.25)
    made = tables.preservation(runs, pairs, reference)
    assert made.shown.Precision.tolist() == [*others, f"two {reference} seeds"] * 4
    of_pairs = made.numbers[made.numbers.precision == SEED_TO_SEED]
    assert of_pairs[of_pairs.metric == "preservation_spearman"]["mean"].tolist() == [0.25] * 4
    assert set(made.numbers.precision) == {*others, SEED_TO_SEED}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0.5, 0.4, 0.6), "0.500 ± 0.100"),
        ((-0.5, -0.6, -0.4), "−0.500 ± 0.100"),
        ((-0.0001, np.nan, np.nan), "0.000"),
        ((np.nan, np.nan, np.nan), "–"),
    ],
)
def test_text_of_an_interval(given, expected):
    """True minus sign, no minus zero, a dash for what is not there."""
    assert tables.interval(*given) == expected


def test_text_of_p_values():
    """Small p-values are given as a bound."""
    assert [tables.p_value(p) for p in (0.0009, 0.001, 0.04321, 1.0, np.nan)] == [
        "< 0.001", "0.001", "0.043", "1.000", "–",
    ]  # fmt: skip


def test_latex_escapes_what_latex_would_take():
    """Percent, underscore and ampersand of a cell reach the page as themselves."""
    text = tables.latex(pd.DataFrame({"a_b": ["5 % & more"]}))
    assert r"a\_b" in text and r"5 \% \& more" in text


def test_table_joins_costs_accuracy_and_scores():
    """Accuracy and answers are means over the seeds, what is retained an estimate, each beside the right cell."""
    costs = pd.DataFrame([
        {"dataset": "mnist", "precision": precision, "training": "standard", "qcdq_file_bytes": 1,
         "packed_file_bytes": 2, "explain_file_bytes": 3} | dataclasses.asdict(cost(network(precision)))
        for precision in ("fp32", "w2a2")
    ])  # fmt: skip
    runs = pd.DataFrame({
        "dataset": "mnist", "training": "standard", "precision": ["w2a2", "w2a2", "fp32"],
        "test_accuracy": [90.0, 92.0, 99.0], "gini": 0.5, "morans_i": 0.25, "faithfulness": [0.1, 0.2, 0.7],
    })  # fmt: skip
    kept = pd.DataFrame([
        {"dataset": "mnist", "training": "standard", "precision": precision, "metric": metric, "estimate": value}
        for precision, value in (("fp32", 1.0), ("w2a2", 0.5))
        for metric in METRICS
    ])  # fmt: skip
    made = tables.deployment(costs, runs, kept)
    assert made.name == "deployment"
    assert made.numbers.test_accuracy.tolist() == [99.0, 91.0]
    np.testing.assert_allclose(made.numbers.faithfulness, [0.7, 0.15])
    assert made.numbers.retained_morans_i.tolist() == [1.0, 0.5]
    assert made.shown["Packed (kB)"].tolist() == ["250.2", "18.3"]
    assert made.shown["Accuracy (%)"].tolist() == ["99.00", "91.00"]
