"""Tests of saqlib.tables: the numbers, the text, the bytes."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib import claims, config, tables
from saqlib.clarity import PRIMARY, SCORES

PRESERVATION = [f"preservation_{score.id}" for score in SCORES.values() if score.group == "preservation"]


def make_runs(seeds=4):
    """Two datasets, two trainings, three precisions; every number is different."""
    rng = np.random.default_rng(0)
    rows = [
        {"dataset": dataset, "precision": precision, "training": training, "seed": seed, "dead_rate": 0.0}
        | {"test_accuracy": 90 + rng.random()}
        | {column: rng.random() for column in [*PRIMARY, *PRESERVATION]}
        for dataset in ("mnist", "fashion_mnist")
        for precision in ("fp32", "w4a4", "w2a2")
        for training in ("standard", "guided")
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def make_controls(runs):
    """White noise and re-initialised networks on the images of the runs."""
    rows = runs[runs.precision == "fp32"].drop(columns="precision")
    return pd.concat([rows.assign(control="reinit"), rows.assign(control="white_noise")])


@pytest.fixture(params=["accuracy", "clarity", "preservation", "retained", "claims", "verdicts"])
def table(request):
    """Each of the paper's tables in turn."""
    runs = make_runs()
    if request.param == "accuracy":
        return tables.accuracy(runs)
    if request.param == "clarity":
        return tables.clarity(runs, make_controls(runs))
    if request.param == "preservation":
        return tables.preservation(runs, runs[runs.precision == "fp32"].drop(columns="precision"))
    if request.param == "retained":
        return tables.retained(claims.retained(runs, make_controls(runs).query("control == 'white_noise'")))
    settings = config.load().claims
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
    assert not set(text) & set("±↑↓−≥") - set()
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
    """For each dataset and training: the precisions, then the controls, under headings with arrows."""
    runs = make_runs()
    shown = tables.clarity(runs, make_controls(runs)).shown
    block = shown[(shown.Dataset == "FashionMNIST") & (shown.Training == "guided")]
    assert block["Map"].tolist() == ["fp32", "w4a4", "w2a2", "re-initialised network", "white noise"]
    assert {"Gini index ↑", "Dead rate ↓"} <= set(shown.columns)
    assert shown.index[shown.Dataset == "MNIST"].max() < shown.index[shown.Dataset == "FashionMNIST"].min()


def test_convergence_is_a_paired_difference():
    """Each method's score minus that of the same seed and method at fp32, by hand for one cell."""
    rng = np.random.default_rng(0)
    methods = pd.concat(
        [make_runs().assign(method=m, **{s: rng.random(48) for s in PRIMARY}) for m in ("gradient", "occlusion")]
    )
    numbers = tables.convergence(methods).numbers
    one = methods.query("dataset == 'mnist' and training == 'guided' and method == 'occlusion'")
    wide = one.pivot(index="seed", columns="precision", values="gini")
    found = numbers.query(
        "dataset == 'mnist' and training == 'guided' and method == 'occlusion'"
        " and precision == 'w2a2' and metric == 'gini'"
    )
    assert found["mean"].item() == pytest.approx((wide.w2a2 - wide.fp32).mean())
    assert len(numbers) == 2 * 2 * 2 * 2 * 4
    assert "occlusion" in set(tables.convergence(methods).shown["Method"])


def test_secondary_scores_have_their_arrows():
    """The scores at hand are shown, with the direction that is better."""
    runs = make_runs().assign(entropy=0.5, auroc=0.7)
    assert list(tables.secondary(runs).shown.columns[3:])[-2:] == ["Normalised entropy ↓", "Foreground AUROC ↑"]


def test_preservation_shows_the_ceiling():
    """fp32 against itself is left out; the ceiling ends each block."""
    runs = make_runs()
    shown = tables.preservation(runs, runs[runs.precision == "fp32"].drop(columns="precision")).shown
    assert shown.Precision.tolist() == ["w4a4", "w2a2", "two fp32 seeds (ceiling)"] * 4


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
