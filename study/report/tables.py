"""The tables of the paper: from one frame of numbers a CSV for machines and Markdown for people.

Means over seeds stand with half the width of their 95 % t-interval. The CSV holds the same numbers in tidy form. The
bytes depend on the numbers alone. A table has the networks, scores, methods and fills of its frame, in that order.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from saqlib.scores import ANSWERS, PRIMARY, SEED_TO_SEED
from saqlib.statistics import t_interval
from study import files
from study.report import labels

MISSING = "–"
CELL = ["dataset", "training", "precision"]
NO_SCORES = {*CELL, "seed", "images", "control", "method", "test_accuracy"}
CLAIM = ["claim", "dataset", "training", "question"]


@dataclass(frozen=True)
class Table:
    """One table: `numbers` in tidy form for the CSV, `shown` as text, with its headings, for people."""

    name: str
    numbers: pd.DataFrame
    shown: pd.DataFrame


def write(table: Table, folder: Path) -> list[Path]:
    """Write <name>.csv and <name>.md into the folder, each whole or not at all; the paths."""
    contents = {"csv": files.csv(table.numbers), "md": markdown(table.shown)}
    return [files.write(folder / f"{table.name}.{end}", content) for end, content in contents.items()]


def markdown(shown: pd.DataFrame) -> str:
    """The frame as a Markdown table; the index is left out."""
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.astype(str).to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def metrics(runs: pd.DataFrame, folder: Path) -> list[Path]:
    """Write <cell>.json with means over the seeds for every cell of the runs and no other, for `dvc metrics`."""
    names = labels.QUESTIONS | {"amplitude": "amplitude"}
    means = runs.groupby(["dataset", "precision", "training"], sort=False)[list(names)].mean().rename(columns=names)
    written = [
        files.write(folder / f"{'-'.join(cell)}.json", json.dumps(row.round(4).to_dict(), indent=1) + "\n")
        for cell, row in means.iterrows()
    ]
    for old in set(folder.glob("*.json")) - set(written):  # last, so that a full disk takes nothing
        old.unlink()
    return written


# -------------------------------------------------------------------------------------------- cells of text


def interval(mean: float, low: float, high: float, digits: int = 3) -> str:
    """`0.578 ± 0.003`; without an interval the mean alone, without a mean a dash."""
    if not np.isfinite([mean, low, high]).all():
        return number(mean, digits)
    return f"{number(mean, digits)} ± {(high - low) / 2:.{digits}f}"


def bracketed(mean: float, low: float, high: float, digits: int = 3) -> str:
    """`0.53 [−0.61, 0.77]`, as an interval stands that is not even; without a mean a dash."""
    if not np.isfinite(mean):
        return MISSING
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"


def number(value: float, digits: int = 3) -> str:
    """A number with a true minus sign, or a dash for NaN."""
    if not np.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def p_value(p: float) -> str:
    """`0.012`, `< 0.001`, or a dash for NaN."""
    return "< 0.001" if p < 0.001 else number(p)


def digits_of(column: str) -> int:
    """Decimals of an estimate: points of accuracy two, everything else three."""
    return 2 if column == "test_accuracy" else 3


# ------------------------------------------------------------------------------------------ means over seeds


def over_seeds(runs: pd.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Mean and 95 % t-interval over the seeds: the keys, then metric, mean, low, high, seeds.

    Seeds without a value are left out and `seeds` says how many remain; with fewer than 2 there is no
    interval. Rows keep the order in which the keys first appear.
    """
    rows = []
    for key, group in runs.groupby(list(keys), sort=False, dropna=False):
        for column in columns:
            values = group[column].to_numpy(float)
            values = values[np.isfinite(values)]
            alone = [values.sum() if len(values) else np.nan, np.nan, np.nan]
            rows.append([*key, column, *(t_interval(values) if len(values) > 1 else alone), len(values)])
    return pd.DataFrame(rows, columns=[*keys, "metric", "mean", "low", "high", "seeds"])


def accuracy(runs: pd.DataFrame) -> Table:
    """Test accuracy in percent: one row per precision, one column per dataset and training."""
    numbers = over_seeds(runs, CELL, ["test_accuracy"])
    columns = numbers.dataset.map(labels.dataset) + ", " + numbers.training
    shown = _wide(_with_text(numbers, digits=2).assign(column=columns), ["precision"], "column")
    return Table("accuracy", numbers.drop(columns="metric"), shown.rename(columns={"precision": "Precision"}))


def clarity(runs: pd.DataFrame, controls: pd.DataFrame) -> Table:
    """The scores of maps: one row per network or control, one column per score.

    controls: dataset, training, control, seed and the scores, on the same images as the networks of that
    dataset, training and seed. They stand below those networks; only one that is a network has an amplitude.
    """
    there = {*controls, *PRIMARY, *ANSWERS, "amplitude", "dead_rate"}  # the others are in the table `secondary`
    return _maps("clarity", runs, controls, [column for column in _scores(runs) if column in there])


def relevance_gain(runs: pd.DataFrame, controls: pd.DataFrame) -> Table:
    """The relevance gain under every fill, whether it qualifies or not: as `clarity`, one column per fill."""
    return _maps("relevance_gain", runs, controls, [column for column in runs if column.startswith(labels.GAIN)])


def _maps(name: str, runs: pd.DataFrame, controls: pd.DataFrame, scores: Sequence[str]) -> Table:
    networks = over_seeds(runs.rename(columns={"precision": "map"}), [*CELL[:2], "map"], scores)
    there = [score for score in scores if score in controls]
    numbers = _together(networks, over_seeds(controls.rename(columns={"control": "map"}), [*CELL[:2], "map"], there))
    shown = numbers.assign(map=[labels.CONTROLS.get(each, each) for each in numbers["map"]])
    return Table(name, numbers, _spread(shown, [*CELL[:2], "map"]))


def secondary(runs: pd.DataFrame) -> Table:
    """The secondary scores: one row per network, one column per score. runs: as `Collection.secondary`."""
    numbers = over_seeds(runs, CELL, _scores(runs))
    return Table("secondary", numbers, _spread(numbers, CELL))


def convergence(methods: pd.DataFrame, reference: str) -> Table:
    """Whether other methods' maps tell the same: each precision minus the reference, seed by seed, by method.

    methods: dataset, training, precision, method, seed and the clarity scores.
    """
    keys, scores = [*CELL, "method"], _scores(methods)
    index = ["dataset", "training", "method", "seed"]
    base = methods[methods.precision == reference].set_index(index)[scores]
    other = methods[methods.precision != reference].set_index(index)
    differences = other[scores].sub(base.reindex(other.index)).assign(precision=other.precision).reset_index()
    numbers = over_seeds(differences, keys, scores)
    shown = _spread(numbers.assign(method=numbers.method.map(labels.method)), keys)
    return Table("convergence", numbers, shown.rename(columns={"Precision": f"Precision − {reference}"}))


def preservation(runs: pd.DataFrame, seed_to_seed: pd.DataFrame, reference: str) -> Table:
    """Likeness to the same seed's reference map, and below it what to read it against: two seeds of the reference.

    seed_to_seed: dataset, training, seed and the columns preservation_* of the runs.
    """
    scores = [column for column in runs if column.startswith("preservation_")]
    quantized = over_seeds(runs[runs.precision != reference], CELL, scores)
    numbers = _together(quantized, over_seeds(seed_to_seed.assign(precision=SEED_TO_SEED), CELL, scores))
    shown = numbers.assign(precision=numbers.precision.replace(SEED_TO_SEED, f"two {reference} seeds"))
    return Table("preservation", numbers, _spread(shown, CELL))


def retained(numbers: pd.DataFrame) -> Table:
    """What is left of what training gives, as saqlib.findings.retained has it: a row per dataset, training, precision.

    The intervals are those of ratios, which do not lie evenly around them, so both ends are shown.
    """
    numbers = numbers.rename(columns={"estimate": "mean"})
    return Table("retained", numbers, _spread(numbers, CELL, bracketed))


def deployment(costs: pd.DataFrame, runs: pd.DataFrame, retained: pd.DataFrame) -> Table:
    """What each cell costs, with the accuracy and the scores that are left.

    costs: results/deployment.csv. runs: one row per network, as results/runs.csv. retained: as saqlib.findings.retained
    gives it. test_accuracy, in percent, and what answers a question are means over seeds, retained_<score> is the
    estimate for each score.
    """
    means = runs.groupby(CELL, sort=False, as_index=False)[list(labels.QUESTIONS)].mean()
    left = retained.pivot(index=CELL, columns="metric", values="estimate").add_prefix("retained_")
    numbers = costs.merge(means, on=CELL, how="left").merge(left.reset_index(), on=CELL, how="left")
    return Table("deployment", numbers, _shown(numbers, LISTED["deployment"]))


def during(around: pd.DataFrame) -> Table:
    """What stands before the switch and at the end of training, as study.frames.around_the_switch gives it."""
    words = around.when.replace({"before": "before the switch"})
    numbers = around[[*CELL, "when", "step", "accuracy", *ANSWERS, "amplitude"]]
    return Table("during", numbers, _shown(numbers.assign(words=words), LISTED["during"]))


def _scores(frame: pd.DataFrame) -> list[str]:
    """The columns that score a map by itself; of the relevance gain that by zeros, since it has a table of its own."""
    beside = ("preservation_", labels.GAIN)
    columns = [column for column in frame if not column.startswith(beside) or column in PRIMARY]
    return [column for column in columns if column not in NO_SCORES]


def _together(upper: pd.DataFrame, lower: pd.DataFrame) -> pd.DataFrame:
    """Both frames, for each dataset and training the rows of `lower` below those of `upper`."""
    both = pd.concat([upper, lower])
    group = both.groupby(["dataset", "training"], sort=False).ngroup()
    return both.iloc[np.argsort(group, kind="stable")].reset_index(drop=True)


def _with_text(numbers: pd.DataFrame, digits: int = 3, form: Callable[..., str] = interval) -> pd.DataFrame:
    bounds = numbers[["mean", "low", "high"]].itertuples(index=False)
    return numbers.assign(text=[form(*bound, digits) for bound in bounds])


def _spread(numbers: pd.DataFrame, keys: Sequence[str], form: Callable[..., str] = interval) -> pd.DataFrame:
    """Tidy means as text: one row per key, one column per score, under headings with arrows."""
    text = _with_text(numbers, form=form).assign(dataset=numbers.dataset.map(labels.dataset))
    return _wide(text, keys, "metric").rename(columns=labels.heading)


def _wide(frame: pd.DataFrame, keys: Sequence[str], column: str) -> pd.DataFrame:
    """A row for each key and a column for each value of `column`, in the order of the frame, with its `text`."""
    wide = frame.pivot(index=list(keys), columns=column, values="text")[frame[column].unique()].fillna(MISSING)
    return frame[list(keys)].drop_duplicates().merge(wide.reset_index(), on=list(keys)).rename_axis(columns=None)


# ---------------------------------------------------------------------------------------- findings, row by row

_CLAIM = {"Claim": "claim", "Dataset": "dataset", "Training": "training", "Question": "question"}
_CELL = {"Dataset": "dataset", "Training": "training", "Precision": "precision"}
ESTIMATE, HOLM = "Estimate [95 % interval]", {"p (Holm)": "p_holm", "Verdict": "verdict"}
COSTS = {  # heading: the column of results/deployment.csv, its unit, and decimals
    "Packed (kB)": ("packed_bytes", 1e3, 1),
    "File, packed (kB)": ("packed_file_bytes", 1e3, 1),
    "File, INT8 (kB)": ("qcdq_file_bytes", 1e3, 1),
    "Activations (kB)": ("peak_activation_bytes", 1e3, 1),
    "Bit-operations (M)": ("bit_operations", 1e6, 1),
    "with map (M)": ("explanation_bit_operations", 1e6, 1),
    "Zero weights (%)": ("zero_weights", 1e-2, 1),
}
# What people see of a table, each row of numbers a row: headings, and below them a column as FORMS has it, several
# columns together, or a number in a unit with so many decimals. An estimate stands with its interval.
LISTED = {
    "deployment": _CELL | COSTS | {"Accuracy (%)": ("test_accuracy", 1, 2)}
    | {labels.name(f"retained_{score}"): (f"retained_{score}", 1, 2) for score in ANSWERS},
    "during": _CELL | {"Step": "{step} ({words})", labels.question("accuracy"): ("accuracy", 1, 1)}
    | {labels.question(score): (score, 1, 3) for score in (*ANSWERS, "amplitude")},
    "claims": _CLAIM | {"Comparison": "comparison", ESTIMATE: "estimate", "p": "p"} | HOLM,
    "equivalence": _CLAIM
    | {"Comparison": "comparison", "Margin": "margin", "p": "p", "p (Holm)": "p_holm", "Note": "note"},
    "verdicts": _CLAIM
    | {"Claim": "{claim} {text}", "Verdict": "verdict", "Stays": "{stays}/{alternatives}", "Firm": "firm",
       "About": "about", "Because": "why"},
    "by_fill": _CLAIM
    | {"Comparison": "comparison", "Fill": "fill", "Qualifies": "qualifies", ESTIMATE: "estimate"} | HOLM,
    "switched": _CELL
    | {"Question": "question", "Off": "off", "Comes back [95 % interval]": "estimate", "Explains": "word"},
    "surrogate": _CELL | {"Step": "difference", ESTIMATE: "estimate"} | HOLM | {"Artefact": "artefact"},
    "randomization": _CELL
    | {"Score": "likeness", "Layers drawn anew, to": "redrawn", "Likeness": "alike", "Seed to seed": "beside",
       "Difference [95 % interval]": "estimate"} | HOLM,
}  # fmt: skip
FORMS = {
    "dataset": labels.dataset, "likeness": labels.name, "margin": number, "alike": number, "beside": number,
    "p": p_value, "p_holm": p_value, "qualifies": lambda yes: "yes" if yes else "no", "about": lambda of: of or MISSING,
}  # fmt: skip


def listed(name: str, frame: pd.DataFrame, questions: Mapping[str, str] | None = None) -> Table:
    """A table of LISTED, a row for each row of the frame.

    Args:
        name: `claims`, `equivalence` and `verdicts` show Answers.tests, .equivalence and .verdicts of saqlib.verdicts
            (the last one joined with dependence.standing and `about`), `by_fill` what saqlib.dependence has of that
            name, `switched`, `surrogate` and `randomization` what recovered, surrogate and randomized of
            saqlib.findings give.
        questions: the column that answers each, which decides how many decimals its estimates have; three when None.
    """
    return Table(name, frame, _shown(frame, LISTED[name], questions))


def _shown(frame: pd.DataFrame, headings: Mapping, questions: Mapping[str, str] | None = None) -> pd.DataFrame:
    rows = frame.to_dict("records")
    return pd.DataFrame({head: [_cell(row, column, questions) for row in rows] for head, column in headings.items()})


def _cell(row: Mapping, column: str | tuple[str, float, int], questions: Mapping[str, str] | None) -> str:
    if isinstance(column, tuple):
        key, unit, digits = column
        return number(row[key] / unit, digits)
    if column == "estimate":
        digits = digits_of(questions[row["question"]]) if questions else 2 if "off" in row else 3
        return bracketed(row["estimate"], row["low"], row["high"], digits)
    if column == "firm":
        return MISSING if row["verdict"] == "undecided" else "yes" if row["firm"] else "no"
    return column.format_map(row) if "{" in column else FORMS.get(column, str)(row[column])


def robustness(found: pd.DataFrame) -> Table:
    """Every verdict under every alternative, as saqlib.dependence.robustness gives it: how often it stays the same."""
    text = found.assign(text=found.same.astype(str) + "/" + found.cases.astype(str))
    text = text.assign(dataset=text.dataset.map(labels.dataset), Firm=np.where(text.firm, "yes", "no"))
    shown = _wide(text, [*CLAIM, "verdict", "Firm"], "alternative")
    shown = shown[[column for column in shown if column != "Firm"] + ["Firm"]]
    return Table("robustness", found, shown.rename(columns={key: key.capitalize() for key in [*CLAIM, "verdict"]}))


def other_methods(found: pd.DataFrame) -> Table:
    """Every comparison of maps by several methods, as saqlib.dependence.other_methods gives it."""
    before, after = [*CLAIM, "comparison", "verdict"], ["agree", "about"]
    methods = {name: labels.method(name) for name in found if name not in {*before, *after, "group"}}
    words = {"dataset": found.dataset.map(labels.dataset), "about": found.about.replace("", MISSING)}
    shown = found.assign(**words, **{name: found[name].map(number) for name in methods})[[*before, *methods, *after]]
    return Table("other_methods", found, shown.rename(columns=lambda name: methods.get(name, name.capitalize())))


def ablations(effects: pd.DataFrame, questions: Mapping[str, str]) -> Table:
    """Every effect of saqlib.findings.effects; questions: the column that answers each, for the digits.

    Shown is one row per variant and comparison, each effect with its interval, and beside one that lost its sign the
    word `reversed`.
    """
    keys = ["variant", "dataset", "training", "comparison"]
    words = {
        "text": [_effect(row, digits_of(questions[row["question"]])) for row in effects.to_dict("records")],
        "dataset": effects.dataset.map(labels.dataset),
        "variant": effects.variant.map(labels.plain),
    }
    return Table("ablations", effects, _wide(effects.assign(**words), keys, "question").rename(columns=str.capitalize))


def _effect(row: Mapping, digits: int) -> str:
    text = bracketed(row["estimate"], row["low"], row["high"], digits)
    lost = np.isfinite(row["estimate"]) and (row["holds"] is False or row["holds"] == np.False_)
    return f"{text} reversed" if lost else text


# --------------------------------------------------------------------------------------------------- in words

ENDINGS = {
    "supported": "as claimed",
    "opposite": "the opposite of the claim",
    "equivalent": "no change that would matter",
}


def sentence(verdict: Mapping, tests: pd.DataFrame, column: str) -> str:
    """One verdict as a sentence that says what decided.

    Args:
        verdict: a row of saqlib.verdicts.Answers.verdicts.
        tests: the rows of Answers.tests; those of the verdict are found by its keys.
        column: the column of the runs that answers its question.

    Returns:
        The question, what is said of it and why, then each comparison with estimate, 95 % interval and corrected p.
    """
    own = tests[(tests[CLAIM] == [verdict[key] for key in CLAIM]).all(axis=1)]
    because = f" ({verdict['why']})" if verdict["why"] else ""
    compared = "; ".join(_compared(row, column) for row in own.to_dict("records"))
    said = ENDINGS.get(verdict["verdict"], verdict["verdict"])
    return f"{verdict['question'].capitalize()}: {said}{because}. {compared}."


def _compared(row: Mapping, column: str) -> str:
    if np.isnan(row["estimate"]):
        return f"{row['comparison']}: not measured"
    estimate, low, high = (f"{row[key]:+.{digits_of(column)}f}" for key in ("estimate", "low", "high"))
    unit, p = " points" if column == "test_accuracy" else "", row["p_holm"]
    tested = "not tested" if np.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{row['comparison']}: {estimate}{unit} [{low}, {high}], {tested}"
