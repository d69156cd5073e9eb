"""The first screen of README and site: the answer, two figures, what the abstract says and what we find.

    python -m study.site.front            write it into README.md

Its words stand in site/front.md, written by hand. Here are, for each of its sentences under the name that its places
have, the numbers, of all seeds from results/tables, and checks of what it says beside them, by the words of the
confirming seeds. FrontError names a sentence that results do not bear out.
"""

import argparse
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from saqlib.errors import exit_with_message, last_line
from saqlib.grid import HIGHER, LOWER, UNDECIDED, WITHIN
from saqlib.registered import OPEN, REFUTED, SUPPORTED
from saqlib.scores import GRADIENT, IMAGE
from study import files, paths, settings
from study.report.style import alternative

WORDS = paths.ROOT / "site" / "front.md"
BEGIN = "<!-- answer: written by `python -m study.site.front` from site/front.md and results/ -->\n"
END = "<!-- end of answer -->\n"
FIGURES = {"first": "map_first", "second": "which_map"}
WIDTHS = {"map_first": 420, "which_map": 850}  # in the README
DATASETS = MNIST, FASHION = "mnist", "fashion_mnist"
PRECISIONS = FULL, FOUR, MIXED, TWO = "fp32", "w4a4", "mixed", "w2a2"
CELLS = set(itertools.product(DATASETS, ("standard", "guided"), PRECISIONS))
LOSSES = [f"{precision} - {FULL}" for precision in PRECISIONS[1:]]
STEPS = [f"{fewer} - {more}" for more, fewer in itertools.pairwise(PRECISIONS)]
GAINS = [f"guided - standard, {precision}" for precision in PRECISIONS]
Part = tuple[dict[str, Any], dict[str, bool]]  # numbers and checks


class FrontError(ValueError):
    """Results do not bear out a sentence of the first screen, or the README has no place for it."""


class Tables:
    """The tables of results/ that the sentences speak of."""

    def __init__(self, results: Path):
        names = ("grid", "grid_confirming", "registered", "maps", "retained", "ablations", "accuracy", "device")
        self.all = {name: pd.read_csv(results / "tables" / f"{name}.csv") for name in names}
        self.registered = self.all["registered"].dropna(subset="came")

    def of(self, question: str, comparisons: list[str], dataset: str = "", table: str = "grid") -> pd.DataFrame:
        """Comparisons of one question, on both datasets or on one."""
        found = self.all[table]
        found = found[(found.question == question) & found.comparison.isin(comparisons)]
        return found[found.dataset == dataset] if dataset else found

    def words(self, *which) -> list[str]:
        """Words of the confirming seeds, of comparisons as of `of`."""
        return list(self.of(*which, table="grid_confirming").word)

    def claim(self, claim: str, test: str, part: str = "") -> pd.DataFrame:
        """Comparisons of a registered claim, those that name a part, and whether each is supported."""
        own = self.registered.query("claim == @claim and test == @test and comparison.str.contains(@part)")
        return own.assign(holds=own.word == SUPPORTED)

    def map(self, name: str, precision: str, column: str = "mean") -> pd.Series:
        """What a map scores on each dataset with each training, the mean over the fills that qualify."""
        own = self.all["maps"].query(
            "map == @name and precision == @precision and fill == 'qualifying' and seeds == 'all'"
        )
        return own.set_index(["dataset", "training"])[column]


def to(values: pd.Series, digits: int = 2, sign: str = "") -> str:
    """`0.12 to 0.28`, the least and the largest of some numbers."""
    return " to ".join(f"{value:{sign}.{digits}f}".replace("-", "−") for value in (values.min(), values.max()))


def both(values: pd.Series) -> str:
    """`0.31 and 0.44`, of standard and guided training."""
    return " and ".join(f"{value:.2f}" for value in values)


# ---------------------------------------------------------------------------------------------------- the sentences


def _four_bits(t: Tables) -> dict[str, bool]:
    found = t.of("accuracy", LOSSES[:1], table="grid_confirming").set_index(["dataset", "training"])
    within, lower = found["size"] == WITHIN, found.word == LOWER
    return {
        "three kinds of network lose less than the margin at 4 bits": within.drop((FASHION, "guided")).all(),
        "guided FashionMNIST may lose more at 4 bits": lower[FASHION, "guided"] and not within[FASHION, "guided"],
        "faithfulness is lower at 4 bits": set(t.words("faithfulness", LOSSES[:1])) == {LOWER},
    }


def _lost(t: Tables) -> Part:
    left = t.all["retained"].query("metric == 'faithfulness' and precision == @FOUR")["mean"]
    return {"share": to(100 - 100 * left, 0)}, _four_bits(t)


def _back(t: Tables) -> Part:
    repair = t.claim("C2", "recovered")
    return {"share": int(100 * repair.estimate.min()), "seeds": repair.confirming_seeds.min()}, {
        "the clip takes the faithfulness (C1)": t.claim("C1", "lower").holds.all(),
        "passing through restores more than half (C2)": repair.holds.all() and len(repair) == 12,
        "rounding takes nothing (C3)": t.claim("C3", "recovered").holds.all(),
        "clipping takes everything (C3)": t.claim("C3", "lost").holds.all(),
        "integrated gradients lose less (C5)": t.claim("C5", "loses_less", "integrated").holds.all(),
    }


def _maps(t: Tables) -> Part:
    loss, integrated = (t.map(name, FULL) - t.map(name, TWO) for name in (GRADIENT, "integrated_gradients"))
    fewer = 0 < integrated.max() < loss.min() / 2
    return {"gradient": to(loss), "integrated": integrated.max()}, {"integrated gradients lose less than half": fewer}


def _a1(t: Tables) -> Part:
    four = -t.of("accuracy", LOSSES[:1], FASHION).set_index("training").estimate["guided"]
    mnist, fashion = (both(-t.of("accuracy", LOSSES[2:], dataset).estimate) for dataset in DATASETS)
    checks = {"accuracy is lower at 2 bits": set(t.words("accuracy", LOSSES[2:])) == {LOWER}}
    return {"four": four, "mnist": mnist, "fashion": fashion}, checks | _four_bits(t)


def _a2(t: Tables) -> Part:
    change = -t.of("faithfulness", LOSSES).estimate
    focus, coherence = (t.words(question, LOSSES).count(LOWER) for question in ("focus", "coherence"))
    most = -min(t.of(question, LOSSES).estimate.min() for question in ("focus", "coherence"))
    gradient, image = (both(t.map(name, TWO)[MNIST]) for name in (GRADIENT, IMAGE))
    numbers = {"count": len(change), "change": to(change), "gradient": gradient, "image": image}
    return numbers | {"coherence": coherence, "most": most}, {
        "faithfulness is lower in all": set(t.words("faithfulness", LOSSES)) == {LOWER},
        "focus is lower in all, coherence in most": focus == len(change) and len(change) / 2 < coherence < len(change),
        "intervals of map and image overlap": (t.map(GRADIENT, TWO, "low") <= t.map(IMAGE, TWO, "high"))[MNIST].all(),
    }


def _a3(t: Tables) -> Part:
    accuracy, faithful = (t.words(question, STEPS) for question in ("accuracy", "faithfulness"))
    first, every = (t.of("faithfulness", [comparison]).estimate.to_numpy() for comparison in LOSSES[::2])
    counts = {"accuracy": accuracy.count(LOWER), "faithful": faithful.count(LOWER), "count": len(accuracy)}
    return counts | {"share": to(pd.Series(100 * first / every), 0)}, {
        "no step raises either": HIGHER not in accuracy + faithful,
        "most steps lower both": min(counts["accuracy"], counts["faithful"]) > len(accuracy) / 2,
        "the first step takes more than half": (first / every).min() > 0.5,
    }


def _a4(t: Tables) -> Part:
    passed = t.claim("C2", "not_inferior")
    maps, accuracy = (t.claim("C4", test, "max_range") for test in ("variant_higher", "variant_not_inferior"))
    numbers = {"lack": -passed.estimate.min(), "good": passed.holds.sum(), "count": len(passed)}
    return numbers | {"price": -accuracy.estimate.min()}, {
        "an unclipped range keeps the map (C4)": len(maps) == 4 and maps.holds.all(),
        "at a price in accuracy (C4)": 0 < -accuracy.estimate.min() < 1,
        "most pass-through maps are no worse (C2)": passed.holds.mean() > 0.5 and passed.estimate.min() < 0,
    } | _four_bits(t)


def _a5(t: Tables) -> Part:
    mnist, fashion = (t.of("faithfulness", GAINS, dataset).estimate for dataset in DATASETS)
    words, price = t.words("faithfulness", GAINS, MNIST), -t.of("accuracy", GAINS, FASHION).estimate
    signed = t.of("faithfulness", GAINS, FASHION, "ablations").query("variant == 'signed_ranking'").estimate
    numbers = {"fashion": to(fashion), "price": to(price, 1), "signed": to(signed, sign="+"), "mnist": to(mnist)}
    return numbers | {"sure": words.count(HIGHER), "count": len(words)}, {
        "faithfulness is higher on FashionMNIST": set(t.words("faithfulness", GAINS, FASHION)) == {HIGHER},
        "accuracy is lower on FashionMNIST": set(t.words("accuracy", GAINS, FASHION)) == {LOWER},
        "faithfulness is higher on MNIST": LOWER not in words and mnist.min() > 0,
    }


def _standing(t: Tables) -> Part:
    new, every = ((t.all[name].word != UNDECIDED).sum() for name in ("grid_confirming", "grid"))
    other = t.registered[t.registered.came.astype(str) == "False"]
    worse, better = (other[other.expected == word] for word in (SUPPORTED, OPEN))
    counts = {"registered": len(t.registered), "came": len(t.registered) - len(other), "better": len(better)}
    guidance, accuracy = (("C7", "variant_higher"), ("C4", "variant_not_inferior"))
    asked, failed = (rows.groupby(["claim", "test"]).size().to_dict() for rows in (t.registered, worse))
    for name, key in (("guidance", guidance), ("range", accuracy)):
        counts[name] = f"{failed.get(key)} of {asked.get(key)}"
    return counts | {"count": len(t.all["grid"]), "new": new, "every": every}, {
        "accuracy without a clip is all that failed beside guidance": set(failed) == {guidance, accuracy},
        "none is refuted": REFUTED not in set(other.word),
    }


def _scope(t: Tables) -> Part:
    seeds, device = t.all["accuracy"].seeds, t.all["device"].query("precision == @TWO")
    sizes = {"flash": "flash_bytes", "memory": "ram_bytes", "buffer": "map_bytes"}
    sizes = {name: device[column].max() / 1000 for name, column in sizes.items()}
    return {"networks": seeds.sum(), "seeds": seeds.min()} | sizes, {}


PARTS = (_lost, _back, _maps, _a1, _a2, _a3, _a4, _a5, _standing, _scope)


def text(root: Path, picture: Callable[[str], str]) -> str:
    """The first screen; of another run than the full one the grid, and a line that says so.

    Args:
        root: the folder that holds results/.
        picture: the element of a figure, by its name.

    Raises:
        FrontError: a sentence is not true of these results, or a number of it is not there.
    """
    tables, words = root / "results" / "tables", WORDS.read_text(encoding="utf-8")
    seeds = pd.read_csv(tables / "accuracy.csv", index_col=["dataset", "training", "precision"]).seeds
    if not CELLS <= set(seeds.index) or seeds.min() < settings.load(scale="full").size.seeds:
        grid = (tables / "grid.md").read_text(encoding="utf-8")
        return f"The answer is the full run's. These are the comparisons of another ({seeds.min()} seeds).\n\n{grid}"
    read = Tables(root / "results")
    found = {part.__name__[1:]: part(read) for part in PARTS}
    for name, (_, checks) in found.items():
        if wrong := [check for check, holds in checks.items() if not holds]:
            sentences = [each.strip() for each in re.split(r"(?<=[.*]) |[|\n]", words) if f"{{{name}[" in each]
            raise FrontError(f"results/ do not say that {wrong[0]}, as {WORDS.name} does: {' '.join(sentences)}")
    figures = {place: picture(name) for place, name in FIGURES.items()}
    filled = words.format(figures=figures, **{name: numbers for name, (numbers, _) in found.items()})
    if missing := re.search(r"[^.|]*\bnan\b[^.|]*", filled):
        raise FrontError(f"results/ lack a number: {missing[0].strip()}")
    return filled


# ------------------------------------------------------------------------------------------------------- the README


def element(name: str) -> str:
    """A figure of the README."""
    side = ' align="right"' if name == FIGURES["first"] else ""  # the words stand beside it
    return f'<img src="results/figures/{name}.png" alt="{alternative(name)}" width="{WIDTHS[name]}"{side}>'


def filled(readme: str, root: Path = paths.ROOT, picture: Callable[[str], str] = element) -> str:
    """The text of the README with the first screen that results/ give. Raises FrontError if it has no place for it."""
    if BEGIN not in readme or END not in readme:
        raise FrontError(f"README.md needs the lines {BEGIN.strip()!r} and {END.strip()!r} around its answer")
    before, rest = readme.split(BEGIN, 1)
    try:
        answer = text(root, picture)
    except (OSError, LookupError, NameError, TypeError, ValueError, AttributeError) as error:  # of edits
        if isinstance(error, FrontError):
            raise
        why = f"{type(error).__name__}: {last_line(error)}"
        raise FrontError(f"results/ are not what `compare` wrote ({why}); dvc repro compare writes them") from None
    return before + BEGIN + answer + END + rest.split(END, 1)[1]


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m study.site.front", description="Renew the answer in README.md.")
    parser.parse_args(arguments)
    path = paths.ROOT / "README.md"
    with exit_with_message(FrontError):
        files.write(path, filled(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
