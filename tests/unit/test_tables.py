"""Tests of study.report.tables: the numbers, the text, the bytes."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from saqlib.dependence import COUNTED, about, by_fill, other_methods, robustness, standing
from saqlib.scores import PRIMARY, SEED_TO_SEED, UNTRAINED
from saqlib.verdicts import COLUMNS, evaluate
from study import settings
from study.report import tables
from tests.helpers import made
from tests.helpers.made import DATASETS, FIVE, PRECISIONS, TRAININGS

CLAIMS = settings.load().claims
CELL = ["dataset", "training", "precision"]


def methods(precisions=FIVE, names=COUNTED):
    """Every method, with the scores of the runs of another seed of the generator."""
    every = [made.runs(precisions, generator=i).assign(method=name) for i, name in enumerate(names)]
    drop = [*made.LIKENESS, "test_accuracy", "amplitude", "dead_rate"]
    return pd.concat(every, ignore_index=True).drop(columns=drop)


def left(precisions=FIVE):
    """As saqlib.findings.retained gives it."""
    places = [(d, t, m, p) for d in DATASETS for t in TRAININGS for m in ("gini", "morans_i", "faithfulness")
              for p in precisions]  # fmt: skip
    frame = pd.DataFrame(places, columns=["dataset", "training", "metric", "precision"])
    return frame.assign(estimate=0.5, low=-0.61, high=0.77)


def of_networks(precisions=FIVE):
    """The tables of networks, costs and findings."""
    runs = made.runs(precisions)
    costs = made.grid(precisions, 1).drop(columns="seed")
    costs = costs.assign(**{column: 1000.0 for column, *_ in tables.COSTS.values()})
    around = made.during(precisions).query("step in (30, 100)")
    return [
        tables.accuracy(runs), tables.clarity(runs, made.controls(runs)),
        tables.relevance_gain(runs, made.controls(runs)),
        tables.secondary(made.grid(precisions).assign(entropy=0.5, auroc=0.7)),
        tables.convergence(methods(precisions), "fp32"),
        tables.preservation(runs, made.of_the_reference(runs), "fp32"), tables.retained(left(precisions)),
        tables.deployment(costs, runs, left(precisions)),
        tables.during(around.assign(when=np.where(around.step == 30, "before", "end"))),
        tables.listed("switched", made.recovered(precisions)), tables.listed("surrogate", made.surrogate(precisions)),
        tables.listed("randomization", made.randomized(precisions)),
    ]  # fmt: skip


def of_claims():
    """The tables of claims, of networks that fall with the bits on one dataset and do nothing on the other."""
    falling = made.runs(seeds=8, effect=lambda p, t, m: -8 * PRECISIONS.index(p))
    calm = made.runs(seeds=8, generator=1)
    both = made.evidence(pd.concat([falling[falling.dataset == "mnist"], calm[calm.dataset != "mnist"]]))
    answers = evaluate(both, CLAIMS)
    every = pd.concat([both.runs["primary"].assign(method=method) for method in COUNTED])
    agreed, alternatives = other_methods(both, CLAIMS, answers, every), robustness(both, CLAIMS, resamples=1)
    summary = answers.verdicts().join(standing(alternatives, answers)).assign(about=about(CLAIMS, agreed, answers))
    return [
        tables.listed("claims", answers.tests(), CLAIMS.questions), tables.listed("equivalence", answers.equivalence()),
        tables.listed("verdicts", summary), tables.robustness(alternatives),
        tables.listed("by_fill", by_fill(both, CLAIMS)), tables.other_methods(agreed),
        tables.ablations(made.ablated(), made.QUESTIONS),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def every():
    """All tables by name."""
    return {table.name: table for table in [*of_networks(), *of_claims()]}


NAMES = ["accuracy", "clarity", "relevance_gain", "secondary", "convergence", "preservation", "retained", "deployment",
         "during", "switched", "surrogate", "randomization", "claims", "equivalence", "verdicts", "robustness",
         "by_fill", "other_methods", "ablations"]  # fmt: skip


# ------------------------------------------------------------------------------------------------- every table


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_its_two_files(name, every, tmp_path):
    """The same bytes twice; the CSV reads back; every line of the Markdown has as many cells; words, no identifiers."""
    assert list(every) == NAMES
    table = every[name]
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
    assert not [line for line in lines if "_" in line or "nan" in line] and "FashionMNIST" in first[1].read_text()


@pytest.mark.parametrize("name", NAMES[:12])
def test_w3a3_stands_between_w4a4_and_w2a2(name, every):
    """In every table of networks, as people and as machines read it."""
    table = every[name]
    key = "map" if "map" in table.numbers else "precision"
    heading = next(column for column in table.shown if column.startswith(("Precision", "Map")))
    for names in (table.numbers[key], table.shown[heading]):
        order = [name for name in dict.fromkeys(names) if name in FIVE]
        assert order == [name for name in FIVE if name in order] and len(order) >= 4


def test_a_new_score_method_and_dataset_are_in_every_table():
    """In a column or in rows of their own, in the order of the frame, though nothing here lists them."""
    runs = made.runs()
    runs = pd.concat([runs, runs[runs.dataset == "mnist"].assign(dataset="letters")])
    runs = runs.assign(peak=0.5, relevance_gain_hot=0.5)
    below = made.controls(runs).assign(peak=0.25, relevance_gain_hot=0.5)
    shown = tables.clarity(runs, below).shown
    assert "Peak" in shown and list(dict.fromkeys(shown.Dataset)) == ["MNIST", "FashionMNIST", "letters"]
    assert shown.set_index("Map").Peak["white noise"].iloc[0].startswith("0.250")
    assert "Relevance gain, hot ↑" in tables.relevance_gain(runs, below).shown
    assert "letters, guided" in tables.accuracy(runs).shown
    named = tables.convergence(methods(names=[*COUNTED, "new_method"]).assign(peak=0.5), "fp32").shown
    assert "Peak" in named and "new method" in set(named.Method)
    row = dict.fromkeys(("claim", "dataset", "training", "question", "comparison", "verdict", "agree", "about"), "")
    agreed = tables.other_methods(pd.DataFrame([row | {"gradient": 0.1, "new_method": 0.2}])).shown
    assert list(agreed)[-4:] == ["gradient of the logit", "new method", "Agree", "About"]


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
    values = made.runs(FIVE).query(own).test_accuracy
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert shown.loc["w2a2", "FashionMNIST, guided"] == f"{values.mean():.2f} ± {half:.2f}"
    assert list(shown.index) == list(FIVE) and list(shown)[:2] == ["MNIST, standard", "MNIST, guided"]


def test_controls_stand_below_their_networks(every):
    """For each dataset and training; ids in the numbers and words where shown; only networks have an amplitude."""
    table = every["clarity"]
    assert table.numbers["map"].unique().tolist()[:7] == [*FIVE, UNTRAINED, "white_noise"]
    block = table.shown[(table.shown.Dataset == "FashionMNIST") & (table.shown.Training == "guided")]
    assert block["Map"].tolist()[:7] == [*FIVE, "untrained network", "white noise"]
    headings = ["Gini index ↑", "Moran's I ↑", "Foreground mass ↑", "Relevance gain, zero ↑", "Faithfulness ↑",
                "Amplitude", "Dead rate ↓"]  # fmt: skip
    assert list(table.shown)[3:] == headings
    gains = every["relevance_gain"].shown
    assert list(gains)[3:] == [f"Relevance gain, {fill} ↑" for fill in ("zero", "mean", "noise", "blur")]
    runs = made.runs()
    below = made.controls(runs)
    below.loc[below.control != UNTRAINED, "amplitude"] = np.nan
    amplitude = tables.clarity(runs, below).shown.set_index("Map").Amplitude
    assert (amplitude["white noise"] == tables.MISSING).all() and (amplitude["fp32"] != tables.MISSING).all()


def test_a_retained_share_shows_both_ends_of_its_interval():
    """Which is not even: half its width would say something else; a share of nothing is a dash."""
    frame = left().query("metric == 'gini' and dataset == 'mnist' and training == 'standard'")
    frame = frame.assign(estimate=[0.53, np.nan, 1, 1, 1])
    assert tables.retained(frame).shown["Gini index ↑"].tolist()[:2] == ["0.530 [−0.610, 0.770]", "–"]


def test_convergence_is_a_paired_difference(every):
    """Each method's score minus that of the same seed and method at fp32, by hand for one cell."""
    own = "dataset == 'mnist' and training == 'guided' and method == 'occlusion'"
    wide = methods().query(own).pivot(index="seed", columns="precision", values="gini")
    numbers = every["convergence"].numbers.query(f"{own} and precision == 'w2a2' and metric == 'gini'")
    assert numbers["mean"].item() == pytest.approx((wide.w2a2 - wide.fp32).mean())
    assert set(every["convergence"].numbers.metric) == {*PRIMARY, "faithfulness"}
    assert {"gradient of the logit", "SmoothGrad"} <= set(every["convergence"].shown.Method)


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
    numbers, shown = every["deployment"].numbers, every["deployment"].shown
    means = made.runs(FIVE).groupby(CELL)[["test_accuracy", "faithfulness"]].mean()
    expected = means.loc[pd.MultiIndex.from_frame(numbers[CELL])]
    np.testing.assert_allclose(numbers[["test_accuracy", "faithfulness"]], expected)
    assert set(numbers.retained_morans_i) == {0.5} and set(shown["Faithfulness, retained"]) == {"0.50"}
    assert set(shown["Packed (kB)"]) == {"1.0"} and shown["Accuracy (%)"][0] == f"{numbers.test_accuracy[0]:.2f}"


def test_during_is_told_in_the_words_of_the_figure(every):
    """Where it stands, and a dash for what was not measured."""
    headings = ["Step", "Accuracy (%)", "Focus", "Coherence", "Faithfulness", "Amplitude"]
    assert list(every["during"].shown)[3:] == headings
    assert set(every["during"].shown.Step) == {"30 (before the switch)", "100 (end)"}


def test_the_claims_csv_has_the_columns_of_the_contract(every):
    """Those that others read; points of accuracy with two decimals, scores with three, and both ends of intervals."""
    shown, numbers = every["claims"].shown, every["claims"].numbers
    assert list(numbers.columns) == COLUMNS
    for question, digits in (("accuracy", 2), ("focus", 3)):
        place = numbers.index[numbers.question == question][0]
        row = numbers.loc[place]
        text = f"{row.estimate:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]".replace("-", "−")
        assert shown["Estimate [95 % interval]"][place] == text


def test_verdicts_say_what_they_rest_on(every):
    """How often a verdict stays, whether it is firm, which nothing undecided is, and of what it speaks."""
    numbers, shown = every["verdicts"].numbers, every["verdicts"].shown
    assert shown.Stays[0] == f"{numbers.stays[0]}/{numbers.alternatives[0]}" and shown.Claim[0].startswith("A1 Quanti")
    assert set(shown.Firm[shown.Verdict == "undecided"]) == {"–"} and set(shown.Firm) == {"–", "yes", "no"}
    assert set(shown.Firm[numbers.firm]) == {"yes"}
    alternatives = every["robustness"].shown
    assert list(alternatives)[:5] == ["Claim", "Dataset", "Training", "Question", "Verdict"]
    assert list(alternatives)[-1] == "Firm" and len(alternatives) == len(numbers)
    assert set(every["by_fill"].shown.Qualifies) == {"yes", "no"}


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
    assert list(read) == ["accuracy", "focus", "coherence", "faithfulness", "amplitude"]
    assert read["accuracy"] == pytest.approx(means.test_accuracy, abs=5e-5)


# -------------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("verdict", "changes", "expected"),
    [
        ("supported", {}, "Focus: as claimed. w2a2 - fp32: -0.123 [-0.200, -0.050], p = 0.023."),
        ("opposite", {"estimate": 0.1, "low": 0.05, "high": 0.15, "p_holm": 0.0009},
         "Focus: the opposite of the claim. w2a2 - fp32: +0.100 [+0.050, +0.150], p < 0.001."),
        ("equivalent", {"p_holm": 1.0, "high": 0.0},
         "Focus: no change that would matter. w2a2 - fp32: -0.123 [-0.200, +0.000], p = 1.000."),
        ("undecided", {"why": "not asked: no loss was shown", "p_holm": np.nan},
         "Focus: undecided (not asked: no loss was shown). w2a2 - fp32: -0.123 [-0.200, -0.050], not tested."),
        ("undecided", {"estimate": np.nan, "p_holm": np.nan, "why": "a network has no value"},
         "Focus: undecided (a network has no value). w2a2 - fp32: not measured."),
        ("supported", {"question": "accuracy"},
         "Accuracy: as claimed. w2a2 - fp32: -0.12 points [-0.20, -0.05], p = 0.023."),
    ],
)  # fmt: skip
def test_sentence_of_a_verdict(verdict, changes, expected):
    """The question, what is said of it and why, estimate and interval with their signs, the corrected p."""
    row = {"claim": "A2", "dataset": "mnist", "training": "standard", "question": "focus", "why": ""}
    row["verdict"] = verdict
    test = {"comparison": "w2a2 - fp32", "estimate": -0.123456, "low": -0.2, "high": -0.05, "p_holm": 0.0234}
    row |= {key: value for key, value in changes.items() if key in row}
    tests = pd.DataFrame([row | test | {key: value for key, value in changes.items() if key in test}])
    assert tables.sentence(row, tests, CLAIMS.questions[row["question"]]) == expected


def test_every_comparison_behind_a_verdict_is_in_its_sentence_and_no_other(every):
    """Each in the order of the tests, with its own estimate."""
    tests, keys = every["claims"].numbers, ["claim", "dataset", "training", "question"]
    for row in every["verdicts"].numbers.to_dict("records"):
        own = tests[(tests[keys] == [row[key] for key in keys]).all(axis=1)]
        text = tables.sentence(row, tests, CLAIMS.questions[row["question"]])
        found = re.findall(r"([^:;]+): ([+-]\d+\.\d+)", text[text.index(". ") + 2 :])
        assert [label.strip() for label, _ in found] == own.comparison.tolist()
        np.testing.assert_allclose([float(value) for _, value in found], own.estimate, atol=0.0051)
