"""Tests of saqlib.report.tables: the numbers, the text, the bytes."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.deployment.costs import cost
from saqlib.evidence import claims
from saqlib.evidence.retained import retained
from saqlib.names import PRIMARY, SEED_TO_SEED, UNTRAINED
from saqlib.pipeline import study
from saqlib.report import tables
from tests import frames
from tests.trained import network


def make_runs(seeds=4):
    """Two datasets, two trainings, three precisions; every number is different."""
    return frames.make_runs(seeds=seeds, datasets=frames.DATASETS, precisions=("fp32", "w4a4", "w2a2"))


def make_controls(runs):
    """White noise and untrained networks on the images of the runs."""
    rows = runs[runs.precision == "fp32"].drop(columns="precision")
    return pd.concat([rows.assign(control=UNTRAINED), rows.assign(control="white_noise")])


@pytest.fixture(scope="module", params=["accuracy", "clarity", "preservation", "retained", "claims", "verdicts"])
def table(request):
    """Each of the paper's tables in turn."""
    runs = make_runs()
    if request.param == "accuracy":
        return tables.accuracy(runs)
    if request.param == "clarity":
        return tables.clarity(runs, make_controls(runs))
    if request.param == "preservation":
        return tables.preservation(runs, runs[runs.precision == "fp32"].drop(columns="precision"), "fp32")
    if request.param == "retained":
        return tables.retained(retained(runs, make_controls(runs).query("control == 'white_noise'"), "fp32"))
    settings = study.load().claims
    tested = claims.evaluate({"primary": runs, "all": runs, "matched": runs}, settings)
    return tables.claims(tested) if request.param == "claims" else tables.verdicts(claims.summary(tested, settings))


def test_three_files_with_the_same_bytes_each_time(table, tmp_path):
    """A table writes CSV, Markdown and LaTeX of its name, byte for byte the same twice, and nothing else."""
    first = [path.read_bytes() for path in tables.write(table, tmp_path / "one")]
    second = [path.read_bytes() for path in tables.write(table, tmp_path / "two")]
    assert first == second
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [f"{table.name}.{end}" for end in ("csv", "md", "tex")]
    assert all(content.endswith(b"\n") and b"\r" not in content for content in first)


def test_csv_holds_the_numbers(table, tmp_path):
    """Read back, the CSV has the columns and, to 8 digits, the values of the frame."""
    read = pd.read_csv(tables.write(table, tmp_path)[0], keep_default_na=True)
    assert list(read.columns) == list(table.numbers.columns)
    numeric = table.numbers.select_dtypes("number").columns
    np.testing.assert_allclose(read[numeric], table.numbers[numeric].astype(float), rtol=1e-7)
    assert len(read) == len(table.numbers)


def test_markdown_is_one_table(table):
    """Every line has the same number of cells, below a head and a rule."""
    lines = tables.markdown(table.shown).splitlines()
    assert len(lines) == len(table.shown) + 2
    assert {line.replace(r"\|", "").count("|") for line in lines} == {table.shown.shape[1] + 1}
    assert set(lines[1]) == set("| -")


def test_latex_is_booktabs_and_plain_ascii(table):
    """The LaTeX has the three rules of booktabs, as many cells a row as columns, and no bare special sign."""
    text = tables.latex(table.shown)
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {row.replace(r"\&", "").count("&") for row in rows} == {table.shown.shape[1] - 1}
    assert not set(text) & set("±↑↓−≥")
    assert "_" not in text.replace(r"\_", "")
    assert "%" not in text.replace(r"\%", "")


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
    assert len(numbers) == 2 * 2 * 2 * 2 * 4
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


def test_table_joins_costs_accuracy_and_clarity():
    """Accuracy is the mean over the seeds, retained clarity the estimate, each beside the right cell."""
    costs = pd.DataFrame([
        {"dataset": "mnist", "precision": precision, "training": "standard", "qcdq_file_bytes": 1,
         "packed_file_bytes": 2, "explain_file_bytes": 3} | dataclasses.asdict(cost(network(precision)))
        for precision in ("fp32", "w2a2")
    ])  # fmt: skip
    runs = pd.DataFrame({
        "dataset": "mnist", "training": "standard", "precision": ["w2a2", "w2a2", "fp32"],
        "test_accuracy": [90.0, 92.0, 99.0],
    })  # fmt: skip
    kept = pd.DataFrame([
        {"dataset": "mnist", "training": "standard", "precision": precision, "metric": metric, "estimate": value}
        for precision, value in (("fp32", 1.0), ("w2a2", 0.5))
        for metric in PRIMARY
    ])  # fmt: skip
    made = tables.deployment(costs, runs, kept)
    assert made.name == "deployment"
    assert made.numbers.test_accuracy.tolist() == [99.0, 91.0]
    assert made.numbers.retained_morans_i.tolist() == [1.0, 0.5]
    assert made.shown["Packed (kB)"].tolist() == ["250.2", "18.3"]
    assert made.shown["Accuracy (%)"].tolist() == ["99.00", "91.00"]
