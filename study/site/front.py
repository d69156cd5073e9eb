"""The first screen of the README and of the site, one Markdown text: answer, table, picture, claims.

    python -m study.site.front            write it into README.md

Every word and number that a result decides is made here from results/, and a test compares the README with it.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from saqlib.errors import exit_with_message
from saqlib.findings import VERDICTS
from saqlib.registered import SUPPORTED
from saqlib.scores import ANSWERS, FAITHFULNESS, SCORES
from saqlib.statistics import t_interval
from study import files, paths, settings
from study.report import labels
from study.report.tables import markdown

ABSTRACT = "abstract"  # the group of claims that the first screen lists
MITIGATION = "B2"  # our own claim that it adds: guidance makes up for part of what quantization costs the maps
BEGIN = "<!-- answer: written by `python -m study.site.front` from results/ -->\n"
END = "<!-- end of answer -->\n"
PICTURE = "results/figures/glance.png"
WORDS = "Saliency maps of two images at each precision, and the faithfulness of maps over the precisions"
TEXT = """\
{answer}

{table}
Means over {seeds} seeds ({order}); ↗ ↘ where the change from {reference} to {lowest} lies
beyond chance (95 % interval), ≈ where it does not.

{picture}

{claims}
*Undecided* is no evidence against a claim. {robust}
[Every comparison](results/tables/claims.md).
"""
ARROWS = {1: "↗", 0: "≈", -1: "↘"}


class Number(NamedTuple):
    """A mean over the seeds, and the line of results/ that holds it."""

    value: float
    line: str

    def __str__(self) -> str:
        return f"{self.value:.2f}".replace("-", "−")


class Chain(NamedTuple):
    """A quantity over the precisions of one dataset and training, and its mean change from the first to the last.

    direction: 1 or -1 where the 95 % t-interval of a seed's pair of networks lies above or below 0, else 0.
    """

    numbers: list[Number]
    change: float
    direction: int


class Runs:
    """results/runs.csv, and the tables of means."""

    def __init__(self, results: Path):
        self.frame = pd.read_csv(results / "runs.csv")
        self.datasets, self.trainings, self.precisions = (
            list(dict.fromkeys(self.frame[axis])) for axis in ("dataset", "training", "precision")
        )
        accuracy = _table(results, "accuracy").assign(metric="test_accuracy")
        means = pd.concat([accuracy, _table(results, "clarity").rename(columns={"map": "precision"})])
        means = means.assign(mean=pd.to_numeric(means["mean"]))
        columns = ["metric", "dataset", "training", "precision", "mean", "line"]
        self.means = {tuple(row[:4]): Number(*row[4:]) for row in means[columns].to_numpy()}

    def chain(self, metric: str, dataset: str, training: str) -> Chain:
        """A quantity over the precisions. metric: a column of runs.csv that a table has means of."""
        rows = self.frame[(self.frame.dataset == dataset) & (self.frame.training == training)]
        seeds = rows.pivot(index="seed", columns="precision", values=metric)
        change = t_interval((seeds[self.precisions[-1]] - seeds[self.precisions[0]]).to_numpy())
        numbers = [self.means[metric, dataset, training, precision] for precision in self.precisions]
        return Chain(numbers, change.mean, int(change.low > 0) - int(change.high < 0))


def _table(results: Path, name: str) -> pd.DataFrame:
    """A table of results/tables with the line that each row stands in."""
    frame = pd.read_csv(results / "tables" / f"{name}.csv", keep_default_na=False)
    return frame.assign(line=[f"results/tables/{name}.csv#L{line}" for line in range(2, len(frame) + 2)])


def text(root: Path, picture: str, number: Callable[[Number], str] = str) -> str:
    """The first screen, from results/.

    Args:
        root: the folder that holds results/.
        picture: the element of the picture.
        number: how a number of the table is written; the site makes it a link to its line.
    """
    results = root / "results"
    runs, found = Runs(results), _table(results, "claims")
    return TEXT.format(
        answer=f"**{answer(runs, found)}**",
        table=table(runs, number),
        seeds=runs.frame.seed.nunique(),
        order=" → ".join(runs.precisions),
        reference=runs.precisions[0],
        lowest=runs.precisions[-1],
        picture=picture,
        claims=claims(found),
        robust=robust(runs, _table(results, "ablations")),
    )


# ---------------------------------------------------------------------------------------------------- the sentences


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def answer(runs: Runs, found: pd.DataFrame) -> str:
    """The answer in one sentence: what fewer bits cost, and how often guidance makes up for part of it.

    found: results/tables/claims.csv; comparisons without a p-value were not asked, since there was nothing to make up.
    """
    first = runs.trainings[0]
    accuracy = {dataset: runs.chain("test_accuracy", dataset, first) for dataset in runs.datasets}
    faithful = {dataset: runs.chain(FAITHFULNESS, dataset, first) for dataset in runs.datasets}
    words = (
        f"From {runs.precisions[0]} to {runs.precisions[-1]}, accuracy {_moves(accuracy, ' points')}, and the"
        f" faithfulness of the saliency map {_moves(faithful, '')}"
    )
    asked = found[(found.claim == MITIGATION) & (found.question == FAITHFULNESS) & (found.p != "")]
    counts = [f"in {(own.verdict == SUPPORTED).sum()} of {len(own)} comparisons on {labels.dataset(dataset)}"
              for dataset, own in asked.groupby("dataset", sort=False)]  # fmt: skip
    guidance = f"; saliency-guided training surely makes up for part of that {listed(counts)}" if counts else ""
    return f"{words}{guidance}."


def _moves(chains: Mapping[str, Chain], unit: str) -> str:
    """`falls by 0.28 points on MNIST and 1.66 points on FashionMNIST`; a change that may be chance is none."""
    groups: dict[int, list[str]] = {}
    for dataset, chain in chains.items():
        size = f"{abs(chain.change):.2f}{unit} " if chain.direction else ""
        groups.setdefault(chain.direction, []).append(f"{size}on {labels.dataset(dataset)}")
    verbs = {-1: "falls by {}", 1: "rises by {}", 0: "does not change beyond chance {}"}
    return " and ".join(verbs[direction].format(listed(groups[direction])) for direction in groups)


def robust(runs: Runs, ablations: pd.DataFrame) -> str:
    """Whether the answer on faithfulness depends on a number of the study, by its ablations; empty if none was run."""
    first, last = runs.precisions[0], runs.precisions[-1]
    conclusions = ablations[(ablations.question == FAITHFULNESS) & (ablations.sign != "")]
    sentences = []
    for what, comparison in (
        (f"the change of faithfulness from {first} to {last}", f"{last} - {first}"),
        ("the effect of guidance on faithfulness", "guided - "),
    ):
        own = conclusions[conclusions.comparison.str.startswith(comparison)]
        if len(own):
            sentences.append(f"{what} {_survives(own)}")
    words = f"With other numbers in the study ({conclusions.seeds.max()} seeds), {'; '.join(sentences)}."
    return words if sentences else ""


def _survives(effects: pd.DataFrame) -> str:
    variants, lost = effects.variant.nunique(), effects[effects.holds.astype(str) == "False"]
    if lost.empty:
        return f"keeps its sign in all {variants} variants that touch it"
    where = [f"{labels.plain(variant)} on {listed(list(dict.fromkeys(map(labels.dataset, rows.dataset))))}"
             for variant, rows in lost.groupby("variant", sort=False)]  # fmt: skip
    return f"loses its sign in {len(where)} of {variants} variants ({'; '.join(where)})"


# ------------------------------------------------------------------------------------------------------- the tables


def table(runs: Runs, number: Callable[[Number], str] = str) -> str:
    """A quantity over the precisions in each row, on each dataset, and which way it goes."""
    first, last = runs.trainings[0], runs.trainings[-1]
    rows = [("Accuracy (%): test images", "test_accuracy", first)]
    for column in ANSWERS:
        question = SCORES[labels.score_id(column)].question
        rows.append((f"{labels.question(column)}: {question[0].lower()}{question[1:]}", column, first))
    if last != first:
        rows.append((f"{labels.question(FAITHFULNESS)}, with {last} training", FAITHFULNESS, last))
    shown = {"": [name for name, _, _ in rows]}
    for dataset in runs.datasets:
        chains = [runs.chain(metric, dataset, training) for _, metric, training in rows]
        shown[labels.dataset(dataset)] = [
            f"{' → '.join(map(number, chain.numbers))} {ARROWS[chain.direction]}" for chain in chains
        ]
    return markdown(pd.DataFrame(shown))


def claims(found: pd.DataFrame) -> str:
    """A row for each claim of the abstract: its text, and how many of its comparisons bear it out."""
    texts = {claim.id: claim.text for claim in settings.load().claims.hypotheses}
    own = found[found.group == ABSTRACT].groupby("claim")
    rows = [(f"{claim} {texts.get(claim, '')}", standing(rows)) for claim, rows in own]
    return markdown(pd.DataFrame(rows, columns=["Claim of the abstract", "Comparisons that bear it out"]))


def standing(found: pd.DataFrame) -> str:
    """`focus: 4 of 12 (6 equivalent, 2 undecided); faithfulness: 12 of 12`, of the comparisons of one claim."""
    parts = []
    for question, own in found.groupby("question", sort=False):
        counts = {word: (own.verdict == word).sum() for word in VERDICTS}
        others = ", ".join(f"{count} {word}" for word, count in counts.items() if count and word != SUPPORTED)
        parts.append(f"{question}: {counts[SUPPORTED]} of {len(own)}" + (f" ({others})" if others else ""))
    return "; ".join(parts)


# ------------------------------------------------------------------------------------------------------- the README


def filled(readme: str, root: Path = paths.ROOT) -> str:
    """The text of the README with the first screen that results/ give. Raises ValueError if a marker is gone."""
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md needs the lines {BEGIN.strip()!r} and {END.strip()!r} around its answer")
    before, rest = readme.split(BEGIN, 1)
    picture = f'<img src="{PICTURE}" alt="{WORDS}" width="850">'
    return before + BEGIN + text(root, picture) + END + rest.split(END, 1)[1]


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m study.site.front", description="Renew the answer in README.md.")
    parser.parse_args(arguments)
    path = paths.ROOT / "README.md"
    with exit_with_message(ValueError):
        files.write(path, filled(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
