"""What the front page tells, read from results/ as they are: verdicts, and a few quantities over the precisions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd

from saqlib import words
from saqlib.evidence.statistics import Interval, t_interval
from saqlib.evidence.verdicts import OPPOSITE, SUPPORTED
from saqlib.names import FAITHFULNESS

ABSTRACT = "abstract"  # the group of claims that the front page speaks of
MITIGATION = "B2"  # the claim of ours that it adds: guidance makes up for part of what quantization costs the maps
AXES = ("dataset", "training", "question")


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


@dataclass(frozen=True)
class Verdict:
    """One verdict, and the line of results/ that it stands in."""

    claim: str
    text: str
    dataset: str
    training: str
    question: str
    word: str
    line: str

    def at(self, axis: str) -> str:
        """Where the verdict was given, in a reader's words."""
        value = getattr(self, axis)
        return words.dataset(value) if axis == "dataset" else f"{value} training" if axis == "training" else value


@dataclass(frozen=True)
class Standing:
    """How a claim stands over all its verdicts: reproduced, not reproduced, or depending on something."""

    claim: str
    text: str
    verdicts: tuple[Verdict, ...]

    @property
    def supported(self) -> tuple[Verdict, ...]:
        """The verdicts that support it."""
        return tuple(verdict for verdict in self.verdicts if verdict.word == SUPPORTED)

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The fewest axes that decide whether a verdict supports the claim; none if all agree."""
        for count in range(len(AXES) + 1):
            for axes in combinations(AXES, count):
                if self._decided_by(axes):
                    return axes
        return AXES

    def _decided_by(self, axes: Iterable[str]) -> bool:
        found: dict[tuple[str, ...], bool] = {}
        return all(
            found.setdefault(tuple(getattr(verdict, axis) for axis in axes), verdict.word == SUPPORTED)
            == (verdict.word == SUPPORTED)
            for verdict in self.verdicts
        )

    @property
    def word(self) -> str:
        """`reproduced`, `not reproduced`, or `depends on dataset and training`."""
        if len(self.supported) == len(self.verdicts):
            return "reproduced"
        if not self.supported:
            return "opposite" if all(verdict.word == OPPOSITE for verdict in self.verdicts) else "not reproduced"
        return f"depends on {listed(self.depends_on)}"

    @property
    def where(self) -> str:
        """Where it holds, if that depends, and what is said elsewhere: the places on the side that has fewer.

        `holds for MNIST; elsewhere undecided`, or `all but FashionMNIST: undecided there`.
        """
        holds, fails = (self._places(supports) for supports in (True, False))
        others = " or ".join(sorted({verdict.word for verdict in self.verdicts} - {SUPPORTED}))
        if len(holds) <= len(fails):
            return f"holds for {'; '.join(holds)}; elsewhere {others}"
        return f"all but {'; '.join(fails)}: {others} there"

    def _places(self, supports: bool) -> list[str]:
        """Where a verdict supports the claim, or does not; questions of one place in brackets behind it."""
        *outer, last = self.depends_on
        asked = [last] if outer and last == "question" else []
        places: dict[str, dict[str, None]] = {}
        for verdict in self.verdicts:
            if (verdict.word == SUPPORTED) == supports:
                place = ", ".join(verdict.at(axis) for axis in self.depends_on if axis not in asked)
                places.setdefault(place, {}).update({verdict.at(axis): None for axis in asked})
        return [f"{place} ({listed(list(names))})" if names else place for place, names in places.items()]


def standings(results: Path) -> list[Standing]:
    """Each claim of the abstract with its verdicts, in the order of results/tables/verdicts.csv."""
    frame = pd.read_csv(results / "tables" / "verdicts.csv", keep_default_na=False)
    found: dict[str, list[Verdict]] = {}
    for index, row in frame[frame.group == ABSTRACT].iterrows():
        line = f"results/tables/verdicts.csv#L{index + 2}"
        verdict = Verdict(row.claim, row.text, row.dataset, row.training, row.question, row.verdict, line)
        found.setdefault(row.claim, []).append(verdict)
    return [Standing(claim, verdicts[0].text, tuple(verdicts)) for claim, verdicts in found.items()]


def mitigation(results: Path) -> dict[str, str]:
    """The verdict on whether guidance makes up for part of the lost faithfulness, by dataset; empty if not asked."""
    frame = pd.read_csv(results / "tables" / "verdicts.csv", keep_default_na=False)
    asked = frame[(frame.claim == MITIGATION) & (frame.question == FAITHFULNESS)]
    return dict(zip(asked.dataset, asked.verdict, strict=True))


def changed_by_fill(results: Path) -> tuple[int, dict[str, int]]:
    """How many verdicts on faithfulness the first run also gave, and how many of each dataset its one fill decided.

    From results/tables/first_run.csv: the first run wrote zeros in place of removed pixels, and `why` names the steps
    from there to here at which a word changes.
    """
    table = pd.read_csv(results / "tables" / "first_run.csv", keep_default_na=False)
    asked = table[(table.question == FAITHFULNESS) & (table.now != "")]
    changed = asked[asked.why.str.split(", ").map(lambda steps: "fill" in steps)]
    return len(asked), changed.dataset.value_counts(sort=False).to_dict()


@dataclass(frozen=True)
class Ablated:
    """What the ablations say of a conclusion on faithfulness.

    variants: how many touch it; against: those that take its sign, and on which datasets; seeds: of each variant.
    """

    variants: int
    against: dict[str, list[str]]
    seeds: int


def ablated(results: Path, comparison: str) -> Ablated | None:
    """Of the comparisons that begin so, from results/tables/ablations.csv; None if no variant touches a conclusion."""
    table = pd.read_csv(results / "tables" / "ablations.csv", keep_default_na=False)
    own = table[(table.question == FAITHFULNESS) & (table.sign != "") & table.comparison.str.startswith(comparison)]
    if own.empty:
        return None
    lost = own[own.holds.astype(str) == "False"]
    against = {variant: list(dict.fromkeys(rows.dataset)) for variant, rows in lost.groupby("variant", sort=False)}
    return Ablated(own.variant.nunique(), against, int(own.seeds.max()))


# ------------------------------------------------------------------------------------------- over the precisions


@dataclass(frozen=True)
class Number:
    """A mean over the seeds, and the line of results/ that it stands in."""

    value: float
    line: str


@dataclass(frozen=True)
class Chain:
    """A quantity over the precisions of one dataset and training, and the change from the first to the last.

    The change is that of a seed's pair of networks: its mean and 95 % t-interval over the seeds.
    """

    numbers: tuple[Number, ...]
    change: Interval

    @property
    def direction(self) -> int:
        """1 or -1 where the interval of the change lies above or below 0, else 0."""
        return int(self.change.low > 0) - int(self.change.high < 0)


class Runs:
    """results/runs.csv and the tables of means beside it."""

    def __init__(self, results: Path):
        self.frame = pd.read_csv(results / "runs.csv")
        self.tables = {name: pd.read_csv(results / "tables" / f"{name}.csv") for name in ("accuracy", "clarity")}
        self.datasets, self.trainings, self.precisions = (
            list(dict.fromkeys(self.frame[axis])) for axis in ("dataset", "training", "precision")
        )

    def seeds(self, metric: str, dataset: str, training: str) -> pd.DataFrame:
        """One row per seed, one column per precision."""
        rows = self.frame[(self.frame.dataset == dataset) & (self.frame.training == training)]
        return rows.pivot(index="seed", columns="precision", values=metric)[self.precisions]

    def chain(self, metric: str, dataset: str, training: str) -> Chain:
        """A quantity over the precisions."""
        seeds = self.seeds(metric, dataset, training)
        numbers = [self._number(metric, dataset, training, precision) for precision in self.precisions]
        return Chain(tuple(numbers), t_interval((seeds.iloc[:, -1] - seeds.iloc[:, 0]).to_numpy()))

    def _number(self, metric: str, dataset: str, training: str, precision: str) -> Number:
        name = "accuracy" if metric == "test_accuracy" else "clarity"
        table = self.tables[name]
        there = (table.dataset == dataset) & (table.training == training)
        there &= table["precision" if name == "accuracy" else "map"] == precision
        if "metric" in table:
            there &= table.metric == metric
        if there.any():
            return Number(
                float(table["mean"][there].iloc[0]), f"results/tables/{name}.csv#L{table.index[there][0] + 2}"
            )
        rows = self.frame.query("dataset == @dataset and training == @training and precision == @precision")
        return Number(float(rows[metric].mean()), f"results/runs.csv#L{rows.index[0] + 2}")
