"""Tests of saqlib.site.findings: what a claim depends on, and chains with their lines."""

import itertools

import pandas as pd
import pytest

from saqlib.site.findings import Runs, Standing, Verdict, mitigation, standings

PLACES = list(itertools.product(("mnist", "fashion_mnist"), ("standard", "guided")))


def standing(*supported: tuple[str, str]) -> Standing:
    """A claim that these places support."""
    words = {place: "supported" if place in supported else "undecided" for place in PLACES}
    return Standing("A1", "Text.", tuple(Verdict("A1", "Text.", *place, "", words[place], "") for place in PLACES))


@pytest.mark.parametrize(
    ("supported", "word", "where"),
    [
        (PLACES, "reproduced", None),
        ([], "not reproduced", None),
        (PLACES[:2], "depends on dataset", "holds for MNIST; elsewhere undecided"),
        (PLACES[1::2], "depends on training", "holds for guided training; elsewhere undecided"),
        (PLACES[:1], "depends on dataset and training", "holds for MNIST, standard training; elsewhere undecided"),
        (PLACES[:3], "depends on dataset and training", "all but FashionMNIST, guided training: undecided there"),
    ],
)
def test_a_claim_is_reproduced_or_not_or_depends(supported, word, where):
    """The fewest axes that decide are named, and the places, whichever are fewer."""
    found = standing(*supported)
    assert found.word == word
    assert where is None or found.where == where


def test_questions_of_one_place_stand_together():
    """Each place is named once; what is said there instead is every other word that occurs."""
    asked = itertools.product(("mnist", "fashion_mnist"), ("focus", "coherence", "faithfulness"))
    words = dict.fromkeys(asked, "supported") | {
        ("mnist", "focus"): "undecided", ("mnist", "coherence"): "opposite", ("fashion_mnist", "focus"): "undecided",
    }  # fmt: skip
    verdicts = [Verdict("A2", "Text.", dataset, "guided", asked, word, "") for (dataset, asked), word in words.items()]
    found = Standing("A2", "Text.", tuple(verdicts))
    assert found.word == "depends on dataset and question"
    assert found.where == (
        "holds for MNIST (faithfulness); FashionMNIST (coherence and faithfulness); elsewhere opposite or undecided"
    )


def test_a_claim_whose_opposite_holds_everywhere_says_so():
    """That is more than not reproduced."""
    verdicts = tuple(Verdict("A1", "Text.", *place, "", "opposite", "") for place in PLACES)
    assert Standing("A1", "Text.", verdicts).word == "opposite"


VERDICTS = [
    {"claim": claim, "group": group, "dataset": "mnist", "training": "standard", "question": question,
     "text": "T.", "verdict": verdict}
    for claim, group, question, verdict in [
        ("A1", "abstract", "accuracy", "supported"), ("A2", "abstract", "focus", "supported"),
        ("A2", "abstract", "faithfulness", "equivalent"), ("B1", "ours", "accuracy", "supported")]
]  # fmt: skip


def test_claims_of_the_abstract_are_read(tmp_path):
    """Claims of our own are left out; each verdict knows its line."""
    (tmp_path / "tables").mkdir()
    pd.DataFrame(VERDICTS).to_csv(tmp_path / "tables" / "verdicts.csv", index=False)
    found = standings(tmp_path)
    assert [(each.claim, each.word) for each in found] == [("A1", "reproduced"), ("A2", "depends on question")]
    assert [each.line for each in found[1].verdicts] == [f"results/tables/verdicts.csv#L{line}" for line in (3, 4)]


def test_what_is_said_of_guidance_is_the_verdict(tmp_path):
    """On faithfulness, of each dataset; that on another question or claim is not it."""
    rows = [("B2", "mnist", "faithfulness", "supported"), ("B2", "fashion_mnist", "faithfulness", "undecided"),
            ("B2", "mnist", "focus", "opposite"), ("A2", "mnist", "faithfulness", "opposite")]  # fmt: skip
    (tmp_path / "tables").mkdir()
    frame = pd.DataFrame(rows, columns=["claim", "dataset", "question", "verdict"])
    frame.to_csv(tmp_path / "tables" / "verdicts.csv", index=False)
    assert mitigation(tmp_path) == {"mnist": "supported", "fashion_mnist": "undecided"}


def test_a_chain_has_means_lines_and_a_direction(results):
    """The numbers are those of the lines that they name; the direction is that of the paired change."""
    runs = Runs(results)
    chain = runs.chain("test_accuracy", "mnist", "standard")
    assert [number.value for number in chain.numbers] == pytest.approx([99.1, 98.1])
    assert chain.direction == -1 and chain.change.mean == pytest.approx(-1)
    assert runs.chain("gini", "mnist", "standard").direction == 0
    for number in chain.numbers:
        path, line = number.line.split("#L")
        row = (results.parent / path).read_text().splitlines()[int(line) - 1]
        assert float(row.split(",")[-1]) == number.value


def test_a_number_without_a_table_stands_in_the_runs(results):
    """The line is that of the cell's first seed."""
    found = Runs(results)
    found.frame["amplitude"] = 1.0
    first = found.chain("amplitude", "mnist", "standard").numbers[0]
    assert (first.value, first.line) == (1.0, "results/runs.csv#L2")
