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

from saqlib.grid import BEYOND, EQUIVALENT, HIGHER, LOWER, UNDECIDED
from saqlib.scores import (
    ANSWERS,
    FAITHFULNESS,
    GRADIENT,
    PASS_THROUGH,
    PRIMARY,
    SEED_TO_SEED,
    TRAINED,
    UNTRAINED,
)
from saqlib.statistics import t_interval
from study import files
from study.report import labels

MISSING = "–"
CELL = ["dataset", "training", "precision"]
NO_SCORES = {*CELL, "seed", "images", "test_accuracy", "positive_biases"}
OF_MAPS = {*PRIMARY, FAITHFULNESS, "sensitivity_max", "amplitude", "dead_rate"}  # other scores are in `secondary`


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
    names = {name: words for name, words in labels.QUESTIONS.items() if name in runs} | {"amplitude": "amplitude"}
    means = runs.groupby(["dataset", "precision", "training"], sort=False)[list(names)].mean().rename(columns=names)
    written = [
        files.write(files.inside(folder, f"{'-'.join(cell)}.json"), json.dumps(row.round(4).to_dict(), indent=1) + "\n")
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
    """`0.53 [−0.61, 0.77]`, as an interval stands that is not even; without one the mean alone."""
    if not np.isfinite([mean, low, high]).all():
        return number(mean, digits)
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"


def ranged(mean: float, low: float, high: float, digits: int = 3) -> str:
    """`0.53 (0.48 to 0.62)`, a mean and what it is the mean of."""
    return f"{number(mean, digits)} ({number(low, digits)} to {number(high, digits)})"


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
    shown = _wide(numbers.assign(text=_texts(numbers, digits=2), column=columns), ["precision"], "column")
    return Table("accuracy", numbers.drop(columns="metric"), shown)


def controls(maps: pd.DataFrame, reference: str) -> pd.DataFrame:
    """What explains no network, scored by those of the reference: their untrained twins' maps, and labels.CONTROLS.

    maps: as study.frames.Collection.maps. Only what is a network has an amplitude.
    """
    own = maps[maps.precision == reference]
    untrained = own[(own["map"] == GRADIENT) & (own.network == UNTRAINED)].assign(map=UNTRAINED)
    blind = own[own["map"].isin(labels.CONTROLS)].assign(amplitude=np.nan)
    return pd.concat([untrained, blind], ignore_index=True).drop(columns=["precision", "network"])


def clarity(runs: pd.DataFrame, controls: pd.DataFrame) -> Table:
    """The scores of maps: one row per network or control, one column per score.

    controls: dataset, training, map, seed and the scores, on the same images as the networks of that dataset, training
    and seed. They stand below those networks.
    """
    return _maps("clarity", runs, controls, [column for column in _scores(runs) if column in OF_MAPS])


def relevance_gain(maps: pd.DataFrame, controls: pd.DataFrame) -> Table:
    """The relevance gain of straight-through maps under every fill, whether it qualifies or not: as `clarity`."""
    networks = maps[(maps["map"] == GRADIENT) & (maps.network == TRAINED)].drop(columns="map")
    return _maps("relevance_gain", networks, controls, [column for column in maps if column.startswith(labels.GAIN)])


def _maps(name: str, runs: pd.DataFrame, controls: pd.DataFrame, scores: Sequence[str]) -> Table:
    keys, there = [*CELL[:2], "map"], [score for score in scores if score in controls]
    networks = over_seeds(runs.rename(columns={"precision": "map"}), keys, scores)
    numbers = _together(networks, over_seeds(controls, keys, there))
    return Table(name, numbers, _spread(numbers, keys))


def secondary(runs: pd.DataFrame) -> Table:
    """The secondary scores: one row per network, one column per score that is in no other table."""
    numbers = over_seeds(runs, CELL, [column for column in _scores(runs) if column not in OF_MAPS])
    return Table("secondary", numbers, _spread(numbers, CELL))


def focus(runs: pd.DataFrame) -> Table:
    """Gini index of the whole map and near the object, for networks with and without a first-layer bias above 0.

    Without one, what is blank in an image has a gradient of exactly 0, as the pixels far from a digit are. The numbers
    are mean, least and largest over networks of every precision, and how many they are.
    """
    keys = [*CELL[:2], "biases"]
    long = runs.assign(biases=np.where(runs.positive_biases > 0, "some above 0", "none above 0"))
    long = long.melt(keys, ["gini", "gini_near"], "metric")
    numbers = long.groupby([*keys, "metric"], sort=False).value.agg(["mean", "min", "max", "count"]).reset_index()
    numbers = numbers.rename(columns={"min": "low", "max": "high", "count": "networks"})
    return Table("focus", numbers, _spread(numbers, [*keys, "networks"], ranged))


def maps(numbers: pd.DataFrame) -> Table:
    """How faithful every map is, as saqlib.findings.maps_table gives it.

    Shown is the mean over the fills that qualify, of all seeds: one row per map, one column per precision.
    """
    own = numbers[(numbers.fill == "qualifying") & (numbers.seeds == "all")]
    shown = _wide(own.assign(text=_texts(own)), [*CELL[:2], "map"], "precision")
    return Table("maps", numbers, shown)


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
    means = runs.groupby(CELL, sort=False, as_index=False)[["test_accuracy", *ANSWERS]].mean()
    left = retained.pivot(index=CELL, columns="metric", values="estimate").add_prefix("retained_")
    numbers = costs.merge(means, on=CELL, how="left").merge(left.reset_index(), on=CELL, how="left")
    return Table("deployment", numbers, _shown(numbers, LISTED["deployment"]))


def device(measured: pd.DataFrame, runs: pd.DataFrame, maps: pd.DataFrame) -> Table:
    """Flash, memory and instructions of a network on two microcontrollers, with accuracy and both maps' faithfulness.

    measured: results/device/measured.csv, whose columns `study.device` explains; without rows where nothing was. runs,
    maps: as `study.frames.Collection` has them. test_accuracy, in percent, and faithfulness_<map> are means over seeds.
    """
    trained = maps[maps["map"].isin([GRADIENT, PASS_THROUGH]) & (maps.network == TRAINED)]
    faithful = trained.groupby([*CELL, "map"])[FAITHFULNESS].mean().unstack("map")[[GRADIENT, PASS_THROUGH]]
    left = runs.groupby(CELL)[["test_accuracy"]].mean().join(faithful.add_prefix(f"{FAITHFULNESS}_"))
    numbers = measured.merge(left.reset_index(), on=CELL)
    return Table("device", numbers, _shown(numbers, LISTED["device"]))


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


def _texts(numbers: pd.DataFrame, digits: int = 3, form: Callable[..., str] = interval) -> list[str]:
    return [form(*bounds, digits) for bounds in numbers[["mean", "low", "high"]].itertuples(index=False)]


def _spread(numbers: pd.DataFrame, keys: list[str], form: Callable[..., str] = interval) -> pd.DataFrame:
    """Tidy means as text: one row per key, one column per score, under headings with arrows."""
    return _wide(numbers.assign(text=_texts(numbers, form=form)), keys, "metric").rename(columns=labels.heading)


def _wide(frame: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """A row for each key, in words, and a column for each value of `column`, in the order of the frame: its `text`."""
    wide = frame.pivot(index=keys, columns=column, values="text")[frame[column].unique()].fillna(MISSING)
    table = frame[keys].drop_duplicates().merge(wide.reset_index(), on=keys).rename_axis(columns=None)
    words = {key: table[key].map(FORMS[key]) for key in keys if key in FORMS}
    return table.assign(**words).rename(columns={key: key.capitalize() for key in keys})


# ---------------------------------------------------------------------------------------------------- the grid

SYMBOLS = {LOWER: "▽", HIGHER: "▲", EQUIVALENT: "○", UNDECIDED: "·"}
LOST = "▼"  # lower, beyond the margin
COLOURS = {LOST: "#a33b00", "▽": "#a33b00", "▲": "#0b4f8a", "○": "#00653b", "·": "#6b6b6b"}
LEGEND = {LOST: "lower, beyond the margin", "▽": "lower", "▲": "higher", "○": "equivalent", "·": "undecided"}


def symbol(word: str, size: str) -> str:
    """The sign of a verdict of the grid, by its word and its size."""
    return LOST if (word, size) == (LOWER, BEYOND) else SYMBOLS[word]


def grid(verdicts: pd.DataFrame, name: str = "grid") -> Table:
    """Every comparison with its verdict, as saqlib.grid.grid gives it: of all seeds, or of those that confirm.

    Shown is one row per question and one column per comparison: the symbol, as LEGEND has it, and the estimate; bold
    where the verdict is firm. What grows with stability's score is how much a map changes: there less is better.
    """
    text = []
    for row in verdicts.to_dict("records"):
        digits = 2 if row["question"] == "accuracy" else 3
        shown = f"{symbol(row['word'], row['size'])} {number(row['estimate'], digits)}"
        text.append(f"**{shown}**" if row["firm"] else shown)
    wide = _wide(verdicts.assign(text=text), [*CELL[:2], "question"], "comparison")
    return Table(name, verdicts, wide.rename(columns=lambda column: column.replace(" - ", " − ")))


def coloured(table: Table) -> str:
    """The grid as HTML for a notebook, each verdict in the colour of its symbol; the same bytes each time."""

    def look(cell: str) -> str:
        symbol = cell.strip("*")[:1]
        return f"color: {COLOURS[symbol]};" + "font-weight: bold;" * cell.startswith("**") if symbol in COLOURS else ""

    style = table.shown.style.map(look).format(lambda cell: cell.strip("*")).hide(axis="index")
    legend = "; ".join(f"{symbol} {words}" for symbol, words in LEGEND.items())
    return style.set_caption(f"{legend}; bold: firm").set_uuid(table.name).to_html()


# ---------------------------------------------------------------------------------------- findings, row by row

_CLAIM = {"Claim": "claim", "Dataset": "dataset", "Training": "training", "Question": "question"}
_COMPARED = {name: column for name, column in _CLAIM.items() if name != "Claim"} | {"Comparison": "comparison"}
_CELL = {"Dataset": "dataset", "Training": "training", "Precision": "precision"}
YES_NO = {True: "yes", False: "no", "": MISSING}
ESTIMATE = "Estimate [95 % interval]"
INTERVALS = {"estimate": ("estimate", "low", "high"), "confirming": ("confirming", "confirming_low", "confirming_high")}
COSTS = {  # heading: the column of results/deployment.csv, its unit, and decimals
    "Packed (kB)": ("packed_bytes", 1e3, 1),
    "File, packed (kB)": ("packed_file_bytes", 1e3, 1),
    "File, INT8 (kB)": ("qcdq_file_bytes", 1e3, 1),
    "Activations (kB)": ("peak_activation_bytes", 1e3, 1),
    "Bit-operations (M)": ("bit_operations", 1e6, 1),
    "with map, at most (M)": ("explanation_bit_operations", 1e6, 1),
    "Zero weights (%)": ("zero_weights", 1e-2, 1),
}
# What people see of a table, each row of numbers a row: headings, and below them a column as FORMS has it, several
# columns together, or a number in a unit with so many decimals. An estimate stands with its interval.
LISTED = {
    "deployment": _CELL | COSTS | {"Accuracy (%)": ("test_accuracy", 1, 2)}
    | {labels.name(f"retained_{score}"): (f"retained_{score}", 1, 2) for score in ANSWERS},
    "device": _CELL
    | {"Processor": "core", "Flash (kB)": ("flash_bytes", 1e3, 1), "RAM without map (kB)": ("ram_bytes", 1e3, 1),
       "Stack (kB)": ("stack_bytes", 1e3, 2), "Instructions, class (M)": ("class_instructions", 1e6, 2),
       "straight-through map (M)": ("straight_through_instructions", 1e6, 2),
       "map passed through (M)": ("pass_through_instructions", 1e6, 2), "Accuracy (%)": ("test_accuracy", 1, 2),
       "Faithfulness, straight-through": ("faithfulness_straight_through", 1, 3),
       "passed through": ("faithfulness_pass_through", 1, 3)},
    "during": _CELL | {"Step": "{step} ({words})", labels.question("accuracy"): ("accuracy", 1, 1)}
    | {labels.question(score): (score, 1, 3) for score in (*ANSWERS, "amplitude")},
    "grid_tests": _COMPARED
    | {"p, equivalent (Holm)": "p_equivalent_holm", "p, beyond the margin (Holm)": "p_beyond_holm",
       "Least fill": ("low_fill", 1, 3), "Largest fill": ("high_fill", 1, 3), "Ratio of errors": ("error_ratio", 1, 2)},
    "alternatives": _COMPARED | {"Word": "word", "Alternative": "alternative", "There": "estimate"},
    "claims": _CLAIM
    | {"Comparison": "comparison", ESTIMATE: "estimate", "p": "p", "p (Holm)": "p_holm", "Reading": "reading"},
    "registered": _CLAIM
    | {"Comparison": "comparison", "All seeds [95 % interval]": "estimate", "Confirming seeds": "confirming",
       "p (Holm)": "p_holm", "Word": "word", "Expected": "expected", "Came": "came"},
    "power": _CLAIM | {"Comparison": "comparison", "Supported": ("supported", 1, 2), "Refuted": ("refuted", 1, 2),
                       "Expected": "expected"},
    "randomization": _CELL
    | {"Score": "likeness", "Layers drawn anew, to": "redrawn", "Likeness": "alike", "Seed to seed": "beside",
       ESTIMATE: "estimate", "p (Holm)": "p_holm", "Verdict": "verdict"},
}  # fmt: skip
FORMS = {
    "dataset": labels.dataset, "map": labels.map_name, "variant": labels.plain, "likeness": labels.name,
    "alike": number, "beside": number, "p": p_value, "p_holm": p_value, "p_equivalent_holm": p_value,
    "p_beyond_holm": p_value, "came": YES_NO.get, "comparison": labels.comparison, "alternative": labels.map_name,
}  # fmt: skip


def listed(name: str, frame: pd.DataFrame, questions: Mapping[str, str] | None = None) -> Table:
    """A table of LISTED, a row for each row of the frame.

    Args:
        name: `grid_tests` and `grid_confirming_tests` show the second frame of saqlib.grid.grid; `claims` readings and
            registered_rows of saqlib.findings; `registered` evaluate of saqlib.registered with `came`, `power` power;
            `randomization` randomized of saqlib.findings.
        questions: the column that answers each, which decides how many decimals its estimates have; three when None.
    """
    headings = LISTED[name.replace("_confirming", "")]
    return Table(name, frame, _shown(frame, headings, questions))


def _shown(frame: pd.DataFrame, headings: Mapping, questions: Mapping[str, str] | None = None) -> pd.DataFrame:
    rows = frame.to_dict("records")
    return pd.DataFrame({head: [_cell(row, column, questions) for row in rows] for head, column in headings.items()})


def _cell(row: Mapping, column: str | tuple[str, float, int], questions: Mapping[str, str] | None) -> str:
    if isinstance(column, tuple):
        key, unit, digits = column
        return number(row[key] / unit, digits)
    if column in INTERVALS:
        digits = digits_of(questions[row["question"]]) if questions else 3
        return bracketed(*(row[name] for name in INTERVALS[column]), digits)
    return column.format_map(row) if "{" in column else FORMS.get(column, str)(row[column])


def registered(found: pd.DataFrame, questions: Mapping[str, str]) -> Table:
    """Registered claims, as saqlib.registered.evaluate gives them, and whether the expected word came."""
    came = (found.word == found.expected).astype(object).where(found.expected != "", "")
    return listed("registered", found.assign(came=came), questions)


def alternatives(found: pd.DataFrame) -> Table:
    """Everything that could take a verdict of the grid back, as saqlib.firmness.alternatives gives it.

    Shown are the knife-edges: the alternatives that disagree.
    """
    return Table("alternatives", found, _shown(found[~found.agrees.astype(bool)], LISTED["alternatives"]))


def ablations(effects: pd.DataFrame, questions: Mapping[str, str]) -> Table:
    """Every effect of saqlib.findings.effects; questions: the column that answers each, for the digits.

    Shown is one row per variant and comparison, each effect with its interval, and beside one that lost its sign the
    word `reversed`.
    """
    text = [_effect(row, questions) for row in effects.to_dict("records")]
    shown = _wide(effects.assign(text=text), ["variant", "dataset", "training", "comparison"], "question")
    return Table("ablations", effects, shown.rename(columns=str.capitalize))


def _effect(row: Mapping, questions: Mapping[str, str]) -> str:
    text = _cell(row, "estimate", questions)
    lost = text != MISSING and row["holds"] in (False,)  # it is "" where the main grid concludes nothing
    return f"{text} reversed" if lost else text
