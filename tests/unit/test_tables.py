"""Tests of study.report.tables: the numbers, the text, the bytes."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib import findings, grid
from saqlib.scores import SEED_TO_SEED, UNTRAINED
from study.report import tables
from tests.helpers import made, made_tables
from tests.helpers.made import FIVE, PRECISIONS

CELL = ["dataset", "training", "precision"]
# ------------------------------------------------------------------------------------------------- every table


@pytest.fixture(scope="module")
def every():
    """All tables by name."""
    return made_tables.every_table(FIVE)


def test_every_table_has_its_two_files(every, tmp_path):
    """The CSV reads back; every line of the Markdown has as many cells; words, no identifiers; the same bytes twice."""
    for name, table in every.items():
        first, second = (tables.write(table, tmp_path / folder) for folder in ("one", "two"))
        assert [path.name for path in first] == [f"{name}.csv", f"{name}.md"]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        read = pd.read_csv(first[0])
        numeric = table.numbers.select_dtypes("number").columns
        assert list(read.columns) == list(table.numbers.columns) and len(read) == len(table.numbers)
        np.testing.assert_allclose(read[numeric], table.numbers[numeric].astype(float), rtol=1e-7)
        lines = first[1].read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(table.shown) + 2 and set(lines[1]) == set("| -")
        assert {line.replace(r"\|", "").count("|") for line in lines} == {table.shown.shape[1] + 1}
        assert not [line for line in lines if "_" in line or "nan" in line] and "FashionMNIST" in "".join(lines)


def test_w3a3_stands_between_w4a4_and_w2a2(every):
    """In every table of networks, as people and as machines read it."""
    columns = {name: next((key for key in ("map", "precision") if key in table.numbers), None)
               for name, table in every.items() if name != "maps"}  # fmt: skip
    assert sum(key is not None for key in columns.values()) == 10
    assert [name for name in every["maps"].shown if name in FIVE] == list(FIVE)
    for name, key in columns.items():
        shown = every[name].shown.filter(regex="^(Precision|Map)")
        for names in (every[name].numbers[key], shown.iloc[:, 0]) if key else ():
            order = [name for name in dict.fromkeys(names) if name in FIVE]
            assert order == [name for name in FIVE if name in order] and len(order) >= 4


def test_a_new_score_method_and_dataset_are_in_every_table():
    """In a column or in rows of their own, in the order of the frame, though nothing here lists them."""
    runs = made.runs()
    runs = pd.concat([runs, runs[runs.dataset == "mnist"].assign(dataset="letters")])
    below, maps = made.controls(), made.scored_maps()
    shown = tables.clarity(runs, below).shown
    assert list(dict.fromkeys(shown.Dataset)) == ["MNIST", "FashionMNIST", "letters"]
    assert shown.set_index("Map")["Gini index ↑"]["white noise"].iloc[0].startswith("0.141")
    named = tables.relevance_gain(maps.assign(relevance_gain_hot=0.5), below.assign(relevance_gain_hot=0.5)).shown
    assert "Relevance gain, hot ↑" in named
    assert "letters, guided" in tables.accuracy(runs).shown
    assert list(tables.secondary(runs.assign(peak=0.5)).shown) == ["Dataset", "Training", "Precision", "Peak"]
    other = maps[maps["map"] == "occlusion"].assign(map="new_method")
    assert "new method" in set(tables.maps(findings.maps_table(other, ("mean",), 1)).shown.Map)


# ----------------------------------------------------------------------------------------------- what they hold


def test_mean_and_interval_over_seeds():
    """Those of scipy; seeds without a value are not counted; a single seed has no interval, none no mean."""
    runs = made.runs(seeds=5)
    runs.loc[(runs.precision == "w2a2") & (runs.seed == 3), "gini"] = np.nan
    numbers = tables.over_seeds(runs, CELL, ["gini"]).set_index(CELL)
    assert set(numbers.loc[(slice(None), slice(None), "w2a2"), "seeds"]) == {4}
    values = runs.query("dataset == 'mnist' and training == 'guided' and precision == 'w4a4'").gini
    interval = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    row = numbers.loc["mnist", "guided", "w4a4"]
    np.testing.assert_allclose([row["mean"], row.low, row.high], [values.mean(), *interval])
    one = tables.over_seeds(made.runs(seeds=1), CELL, ["gini"])
    assert one["mean"].notna().all() and one.low.isna().all()
    none = tables.over_seeds(runs.assign(gini=np.nan), ["dataset"], ["gini"])
    assert none["mean"].isna().all() and set(none.seeds) == {0}


def test_accuracy_by_place(every):
    """A cell of the accuracy table shows the mean and half the interval of its own runs."""
    shown = every["accuracy"].shown.set_index("Precision")
    own = "dataset == 'fashion_mnist' and training == 'guided' and precision == 'w2a2'"
    values = made_tables.runs(FIVE).query(own).test_accuracy
    half = stats.t.ppf(0.975, 9) * stats.sem(values)
    assert shown.loc["w2a2", "FashionMNIST, guided"] == f"{values.mean():.2f} ± {half:.2f}"
    assert list(shown.index) == list(FIVE) and list(shown)[:2] == ["MNIST, standard", "MNIST, guided"]


def test_controls_stand_below_their_networks(every):
    """For each dataset and training; ids in the numbers and words where shown; only networks have an amplitude."""
    table = every["clarity"]
    assert table.numbers["map"].unique().tolist()[:7] == [*FIVE, UNTRAINED, "white_noise"]
    block = table.shown[(table.shown.Dataset == "FashionMNIST") & (table.shown.Training == "guided")]
    assert block["Map"].tolist()[:7] == [*FIVE, "untrained network", "white noise"]
    headings = ["Gini index ↑", "Moran's I ↑", "Foreground mass ↑", "Faithfulness ↑", "Amplitude", "Dead rate ↓",
                "Maximal sensitivity ↓"]  # fmt: skip
    assert list(table.shown)[3:] == headings
    gains = every["relevance_gain"].shown
    assert sorted(list(gains)[3:]) == [f"Relevance gain, {fill} ↑" for fill in ("blur", "mean", "noise", "zero")]
    amplitude = table.shown.set_index("Map").Amplitude
    assert (amplitude["white noise"] == tables.MISSING).all() and (amplitude["untrained network"] != "–").all()


def test_controls_are_those_of_the_reference():
    """Its untrained twins' straight-through maps and what knows no network, beside no other precision."""
    maps = made.scored_maps()
    maps.loc[maps.precision != "fp32", "gini"] = 9
    found = tables.controls(maps, "fp32")
    assert found["map"].unique().tolist() == [UNTRAINED, "white_noise", "one_hot", "sobel", "image"]
    assert len(found) == 5 * 4 * 3 and (found.gini < 1).all()
    assert found.gini[found["map"] == UNTRAINED].tolist() == [0.001 * seed for seed in (0, 1, 2)] * 4


def test_a_retained_share_shows_both_ends_of_its_interval():
    """Which is not even: half its width would say something else; a share of nothing is a dash."""
    cell = dict(zip(CELL, ("mnist", "standard", "fp32"), strict=True)) | {"low": -0.61, "high": 0.77}
    frame = pd.DataFrame([cell | {"metric": metric, "estimate": share} for metric, share in
                          (("gini", 0.53), ("morans_i", np.nan))])  # fmt: skip
    assert tables.retained(frame).shown.iloc[0, 3:].tolist() == ["0.530 [−0.610, 0.770]", "–"]


def test_maps_are_shown_by_their_means_over_the_fills_that_qualify(every):
    """A row for each map, with the interval over all seeds; every fill and the floors stand in the numbers."""
    shown = every["maps"].shown.set_index(["Dataset", "Training", "Map"])
    assert shown.loc[("MNIST", "guided", "passed through"), "w2a2"] == "0.021 ± 0.002"
    assert shown.loc[("MNIST", "guided", "clip only"), "fp32"] == tables.MISSING
    assert list(every["maps"].numbers) == findings.MAPS_COLUMNS and {"zero", "blur"} <= set(every["maps"].numbers.fill)


def test_preservation_ends_each_block_with_two_seeds_of_the_reference(reference="w4a4"):
    """The reference against itself is left out; the pair of seeds has an id in the numbers and words where shown."""
    runs = made.runs()
    pairs = runs[runs.precision == reference].drop(columns="precision").assign(preservation_spearman=0.25)
    table, others = tables.preservation(runs, pairs, reference), [p for p in PRECISIONS if p != reference]
    assert table.shown.Precision.tolist() == [*others, f"two {reference} seeds"] * 4
    numbers = table.numbers[table.numbers.precision == SEED_TO_SEED].query("metric == 'preservation_spearman'")
    assert numbers["mean"].tolist() == [0.25] * 4


def test_deployment_joins_costs_accuracy_and_scores(every):
    """Accuracy and answers are means over the seeds, what is retained an estimate, each beside the right cell."""
    numbers, shown, left = every["deployment"].numbers, every["deployment"].shown, every["retained"].numbers
    means = made_tables.runs(FIVE).groupby(CELL)[["test_accuracy", "faithfulness"]].mean()
    means["retained_gini"] = left[left.metric == "gini"].set_index(CELL)["mean"]
    np.testing.assert_allclose(numbers[list(means)], means.loc[pd.MultiIndex.from_frame(numbers[CELL])])
    assert shown["Accuracy (%)"][0] == f"{numbers.test_accuracy[0]:.2f}" and set(shown["Packed (kB)"]) == {"10.0"}
    assert shown["Faithfulness, retained"][0] == "1.00"


def test_during_is_told_in_the_words_of_the_figure(every):
    """Where it stands, and a dash for what was not measured."""
    headings = ["Step", "Accuracy (%)", "Focus", "Coherence", "Faithfulness", "Amplitude"]
    assert list(every["during"].shown)[3:] == headings
    assert set(every["during"].shown.Step) == {"30 (before the switch)", "100 (end)"}


def test_the_grid_shows_a_symbol_and_an_estimate_for_each_comparison(every):
    """A row for each question, a column for each comparison, a dash where trainings are not compared; bold is firm."""
    numbers, shown = every["grid"].numbers, every["grid"].shown
    assert list(numbers.columns) == grid.COLUMNS
    assert list(shown)[3:5] == ["w4a4 − fp32", "w3a3 − fp32"] and "guided − standard, w2a2" in shown
    assert len(shown) == 4 * len(made_tables.CLAIMS.questions)
    place = {"dataset": "mnist", "training": "guided", "question": "accuracy", "comparison": "w2a2 - fp32"}
    row = numbers[(numbers[list(place)] == list(place.values())).all(axis=1)].iloc[0]
    cell = shown[(shown.Dataset == "MNIST") & (shown.Training == "guided") & (shown.Question == "accuracy")]
    assert (row.word, row["size"]) == (grid.LOWER, grid.BEYOND)
    assert cell["w2a2 − fp32"].item() == f"▼ {row.estimate:.2f}".replace("-", "−")
    assert set(shown["guided − standard, fp32"][shown.Training == "standard"]) == {tables.MISSING}
    firm = tables.grid(numbers.assign(firm=True))
    assert firm.shown["w4a4 − fp32"].str.fullmatch(r"\*\*. −?\d+\.\d+\*\*").all()
    html = tables.coloured(firm)
    assert f"color: {tables.COLOURS['▼']}" in html and "bold" in html and "**" not in html
    assert tables.coloured(firm) == html


def test_a_symbol_for_each_verdict():
    """Different ones, all of which the legend and the colours know."""
    every = [(grid.LOWER, grid.BEYOND), (grid.LOWER, grid.OPEN), (grid.HIGHER, grid.OPEN),
             (grid.EQUIVALENT, grid.WITHIN), (grid.UNDECIDED, grid.OPEN)]  # fmt: skip
    symbols = [tables.symbol(*each) for each in every]
    assert symbols == list("▼▽▲○·") == list(tables.COLOURS) == list(tables.LEGEND)
    assert tables.symbol(grid.LOWER, grid.WITHIN) == "▽"


def test_claims_have_readings_and_registered_ones_what_came(every):
    """Both in one table, whose columns others read; of a registered claim both estimates, and yes, no or a dash."""
    shown, numbers = every["claims"].shown, every["claims"].numbers
    assert list(numbers.columns) == findings.COLUMNS
    assert {"lower, beyond the margin", "higher"} & set(shown.Reading) and "C1" in set(shown.Claim)
    for question, digits in (("accuracy", 2), ("focus", 3)):  # points of accuracy, and scores
        place = numbers.index[numbers.question == question][0]
        row = numbers.loc[place]
        text = f"{row.estimate:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]".replace("-", "−")
        assert shown["Estimate [95 % interval]"][place] == text
    numbers, shown = every["registered"].numbers, every["registered"].shown
    assert set(numbers.came) == {False, ""} and set(shown.Came) == {"no", tables.MISSING}
    row = numbers.iloc[0]
    text = f"{row.confirming:.3f} [{row.confirming_low:.3f}, {row.confirming_high:.3f}]".replace("-", "−")
    assert shown["Confirming seeds"][0] == text
    assert shown.Comparison[0] == "w4a4: straight-through - passed through"
    whole = tables.registered(numbers.drop(columns="came").assign(word="open", expected="open"), made.QUESTIONS)
    assert set(whole.shown.Came) == {"yes"}
    assert set(every["power"].shown.Supported) == {"1.00", "0.00"}


def test_focus_of_networks_with_and_without_a_bias_above_0(every):
    """Mean, least and largest over networks of every precision, those of each kind by themselves."""
    runs, table = made_tables.runs(FIVE), every["focus"]
    for row in table.numbers.to_dict("records"):
        own = runs[(runs.dataset == row["dataset"]) & (runs.training == row["training"])]
        own = own[(own.positive_biases > 0) == (row["biases"] == "some above 0")][row["metric"]]
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((own.mean(), own.min(), own.max()))
        assert row["networks"] == len(own) == 25
    assert table.shown.shape == (8, 6) and " to " in table.shown.iloc[0, -1]


def test_alternatives_show_the_knife_edges(every):
    """Those that disagree, methods in words; the numbers have all."""
    table = every["alternatives"]
    assert len(table.shown) == (~table.numbers.agrees.astype(bool)).sum() < len(table.numbers)
    assert "integrated gradients" in set(table.shown.Alternative)


def test_ablations_have_a_row_for_each_variant_and_comparison(every):
    """Effects with intervals, two decimals for points; `reversed` beside a lost sign."""
    shown, first = every["ablations"].shown, made.ablated().iloc[0]
    assert len(shown) == len(made.ablated()) / 4
    assert list(shown)[4:] == ["Accuracy", "Focus", "Coherence", "Faithfulness"]
    turned = shown.Coherence.str.endswith("reversed")
    assert turned.sum() == 2 and set(shown[turned].Variant) == {"turned"}
    assert shown.Accuracy[0].startswith(f"{first.estimate:.2f}".replace("-", "−") + " [")
    assert tables.ablations(made.ablated().iloc[:0], made.QUESTIONS).shown.empty


def test_text_of_intervals_and_p_values():
    """True minus sign, no minus zero, a dash for what is not there; small p-values are given as a bound."""
    given = [(0.5, 0.4, 0.6), (-0.5, -0.6, -0.4), (-0.0001, np.nan, np.nan), (np.nan, np.nan, np.nan)]
    assert [tables.interval(*each) for each in given] == ["0.500 ± 0.100", "−0.500 ± 0.100", "0.000", "–"]
    assert [tables.bracketed(*each) for each in given[1:]] == ["−0.500 [−0.600, −0.400]", "0.000", "–"]
    shown = [tables.p_value(p) for p in (0.0009, 0.001, 0.04321, 1.0, np.nan)]
    assert shown == ["< 0.001", "0.001", "0.043", "1.000", "–"]


def test_metrics_are_one_file_for_each_cell(tmp_path):
    """Means over the seeds in the words of the questions; what is no cell any more goes."""
    (tmp_path / "old-cell-gone.json").write_text("{}", encoding="utf-8")
    runs = made.runs()
    written = tables.metrics(runs, tmp_path)
    assert sorted(written) == sorted(tmp_path.iterdir()) and len(written) == 16
    means = runs.query("dataset == 'mnist' and precision == 'w2a2' and training == 'guided'").mean(numeric_only=True)
    read = json.loads((tmp_path / "mnist-w2a2-guided.json").read_text(encoding="utf-8"))
    assert list(read) == ["accuracy", "focus", "coherence", "stability", "faithfulness", "amplitude"]
    assert read["accuracy"] == pytest.approx(means.test_accuracy, abs=5e-5)
