"""The tables of the paper: from one frame of numbers a CSV for machines, Markdown and LaTeX for people.

Means over seeds stand with half the width of their 95 % t-interval. The CSV holds the same numbers in tidy
form; the LaTeX needs the package booktabs. The bytes depend on the numbers alone. Tables of verdicts stand in
saqlib.report.verdict_tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from saqlib import files, words
from saqlib.evidence.statistics import t_interval
from saqlib.names import ANSWERS, FAITHFULNESS, GAINS, PRIMARY, SEED_TO_SEED
from saqlib.words import CONTROLS, METHODS, SCORES

LATEX = {"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": "$-$", "≥": r"$\ge$", "ρ": r"$\rho$"}
MISSING = "–"


@dataclass(frozen=True)
class Table:
    """One table: `numbers` in tidy form for the CSV, `shown` as text, with its headings, for people."""

    name: str
    numbers: pd.DataFrame
    shown: pd.DataFrame


def write(table: Table, folder: Path) -> list[Path]:
    """Write <name>.csv, .md and .tex into the folder, each whole or not at all; the paths."""
    contents = {"csv": files.csv(table.numbers), "md": markdown(table.shown), "tex": latex(table.shown)}
    return [files.write(folder / f"{table.name}.{end}", content) for end, content in contents.items()]


def markdown(shown: pd.DataFrame) -> str:
    """The frame as a Markdown table; the index is left out."""
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.astype(str).to_numpy().tolist()]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def latex(shown: pd.DataFrame) -> str:
    """The frame as a LaTeX tabular for the package booktabs; the index is left out."""
    text = shown.to_latex(index=False, escape=True, column_format="l" * shown.shape[1])
    for sign, command in LATEX.items():
        text = text.replace(sign, command)
    return text


# -------------------------------------------------------------------------------------------- cells of text


def interval(mean: float, low: float, high: float, digits: int = 3) -> str:
    """`0.578 ± 0.003`; without an interval the mean alone, without a mean a dash."""
    if not np.isfinite(mean):
        return MISSING
    if not np.isfinite(low) or not np.isfinite(high):
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
            if len(values) > 1:
                bounds = t_interval(values)
            else:
                bounds = [values.sum() if len(values) else np.nan, np.nan, np.nan]
            rows.append([*key, column, *bounds, len(values)])
    return pd.DataFrame(rows, columns=[*keys, "metric", "mean", "low", "high", "seeds"])


# ---------------------------------------------------------------------------------------------- the tables


def accuracy(runs: pd.DataFrame) -> Table:
    """Test accuracy in percent: one row per precision, one column per dataset and training."""
    numbers = over_seeds(runs, ["dataset", "training", "precision"], ["test_accuracy"])
    text = _text(numbers, digits=2)
    columns = text.dataset.map(words.dataset) + ", " + text.training
    shown = text.assign(column=columns).pivot(index="precision", columns="column", values="text")
    shown = shown.reindex(index=text.precision.unique(), columns=columns.unique()).fillna(MISSING)
    return Table("accuracy", numbers.drop(columns="metric"), shown.reset_index(names="Precision"))


def clarity(runs: pd.DataFrame, controls: pd.DataFrame) -> Table:
    """The scores of maps: one row per network or control, one column per score.

    controls: dataset, training, control, seed and the scores, on the same images as the networks of that
    dataset, training and seed. They stand below those networks; only one that is a network has an amplitude.
    """
    return _maps("clarity", runs, controls, [*PRIMARY, FAITHFULNESS, "amplitude", "dead_rate"])


def relevance_gain(runs: pd.DataFrame, controls: pd.DataFrame) -> Table:
    """The relevance gain under every fill, whether it qualifies or not: as `clarity`, one column per fill."""
    return _maps("relevance_gain", runs, controls, GAINS)


def _maps(name: str, runs: pd.DataFrame, controls: pd.DataFrame, scores: Sequence[str]) -> Table:
    networks = over_seeds(runs, ["dataset", "training", "precision"], scores)
    columns = [*dict.fromkeys([*PRIMARY, *GAINS]), FAITHFULNESS, "amplitude"]
    below = over_seeds(controls, ["dataset", "training", "control"], columns)
    below = below[below.metric.isin(scores)].rename(columns={"control": "precision"})
    numbers = _together(networks, below).rename(columns={"precision": "map"})
    return Table(name, numbers, _spread(_named(numbers, "map", CONTROLS), ["dataset", "training", "map"], scores))


def secondary(runs: pd.DataFrame) -> Table:
    """The secondary scores: one row per network, one column per score. runs: as `Collection.secondary`."""
    scores = [column for column in runs if column in SCORES]
    numbers = over_seeds(runs, ["dataset", "training", "precision"], scores)
    return Table("secondary", numbers, _spread(numbers, ["dataset", "training", "precision"], scores))


def convergence(methods: pd.DataFrame, reference: str) -> Table:
    """Whether other methods' maps tell the same: each precision minus the reference, seed by seed, by method.

    methods: dataset, training, precision, method, seed and the clarity scores.
    """
    keys = ["dataset", "training", "precision", "method"]
    scores = [*PRIMARY, FAITHFULNESS]
    index = ["dataset", "training", "method", "seed"]
    base = methods[methods.precision == reference].set_index(index)[scores]
    other = methods[methods.precision != reference].set_index(index)
    differences = other[scores].sub(base.reindex(other.index)).assign(precision=other.precision).reset_index()
    numbers = over_seeds(differences, keys, scores)
    shown = _spread(numbers.assign(method=numbers.method.map(METHODS)), keys, scores)
    return Table("convergence", numbers, shown.rename(columns={"Precision": f"Precision − {reference}"}))


def preservation(runs: pd.DataFrame, seed_to_seed: pd.DataFrame, reference: str) -> Table:
    """Likeness to the same seed's reference map, and below it what to read it against: two seeds of the reference.

    seed_to_seed: dataset, training, seed and the columns preservation_* of the runs.
    """
    scores = [column for column in runs if column.startswith("preservation_")]
    keys = ["dataset", "training", "precision"]
    quantized = over_seeds(runs[runs.precision != reference], keys, scores)
    numbers = _together(quantized, over_seeds(seed_to_seed.assign(precision=SEED_TO_SEED), keys, scores))
    shown = _named(numbers, "precision", {SEED_TO_SEED: f"two {reference} seeds"})
    return Table("preservation", numbers, _spread(shown, keys, scores))


def retained(numbers: pd.DataFrame) -> Table:
    """What is left of what training gives, as saqlib.evidence.retained has it: a row per dataset, training, precision.

    The intervals are those of ratios, which do not lie evenly around them, so both ends are shown.
    """
    numbers = numbers.rename(columns={"estimate": "mean"})
    scores = list(dict.fromkeys(numbers.metric))
    return Table("retained", numbers, _spread(numbers, ["dataset", "training", "precision"], scores, bracketed))


def deployment(costs: pd.DataFrame, runs: pd.DataFrame, retained: pd.DataFrame) -> Table:
    """The table `deployment`: what each cell costs, with the accuracy and the scores that are left.

    costs: the rows of saqlib.deployment.seed.report. runs: one row per network, as results/runs.csv. retained: as
    saqlib.evidence.retained gives it. test_accuracy, in percent, and what answers a question are means over seeds,
    retained_<score> is the estimate for each score.
    """
    keys = ["dataset", "training", "precision"]
    means = runs.groupby(keys, sort=False, as_index=False)[["test_accuracy", *ANSWERS]].mean()
    kept = retained.pivot(index=keys, columns="metric", values="estimate").add_prefix("retained_")
    numbers = costs.merge(means, on=keys, how="left").merge(kept.reset_index(), on=keys, how="left")
    return Table("deployment", numbers, _costs_shown(numbers))


# What people see of the table: column, heading, unit and digits. The rest stands in the CSV.
COSTS = (
    ("packed_bytes", "Packed (kB)", 1e3, 1),
    ("packed_file_bytes", "File, packed (kB)", 1e3, 1),
    ("qcdq_file_bytes", "File, INT8 (kB)", 1e3, 1),
    ("peak_activation_bytes", "Activations (kB)", 1e3, 1),
    ("bit_operations", "Bit-operations (M)", 1e6, 1),
    ("explanation_bit_operations", "with map (M)", 1e6, 1),
    ("zero_weights", "Zero weights (%)", 1e-2, 1),
    ("test_accuracy", "Accuracy (%)", 1, 2),
    *((f"retained_{score}", f"{words.name(score)}, retained", 1, 2) for score in ANSWERS),
)


def _costs_shown(numbers: pd.DataFrame) -> pd.DataFrame:
    shown = numbers[["dataset", "training", "precision"]].rename(columns=words.name)
    shown[words.name("dataset")] = numbers.dataset.map(words.dataset)
    for column, heading, unit, digits in COSTS:
        shown[heading] = [number(value / unit, digits) for value in numbers[column]]
    return shown


# ----------------------------------------------------------------------------------------------- together


def _named(numbers: pd.DataFrame, column: str, names: Mapping[str, str]) -> pd.DataFrame:
    """The frame with some identifiers of a column in words."""
    return numbers.assign(**{column: [names.get(value, value) for value in numbers[column]]})


def _together(upper: pd.DataFrame, lower: pd.DataFrame) -> pd.DataFrame:
    """Both frames, for each dataset and training the rows of `lower` below those of `upper`."""
    both = pd.concat([upper, lower])
    group = both.groupby(["dataset", "training"], sort=False).ngroup()
    return both.iloc[np.argsort(group, kind="stable")].reset_index(drop=True)


def _text(numbers: pd.DataFrame, digits: int = 3, form: Callable[..., str] = interval) -> pd.DataFrame:
    bounds = numbers[["mean", "low", "high"]].itertuples(index=False)
    return numbers.assign(text=[form(*bound, digits) for bound in bounds])


def _spread(
    numbers: pd.DataFrame, keys: Sequence[str], scores: Sequence[str], form: Callable[..., str] = interval
) -> pd.DataFrame:
    """Tidy means as text: one row per key, one column per score, under headings with arrows."""
    text = _text(numbers, form=form)
    text["dataset"] = text.dataset.map(words.dataset)
    rows = text[list(keys)].drop_duplicates()
    wide = text.pivot(index=list(keys), columns="metric", values="text")
    wide = wide.reindex(index=pd.MultiIndex.from_frame(rows), columns=list(scores)).fillna(MISSING)
    headings = {key: words.name(key) for key in keys} | {score: words.heading(score) for score in scores}
    return wide.reset_index().rename(columns=headings).rename_axis(columns=None)
