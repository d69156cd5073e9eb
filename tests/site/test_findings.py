"""Tests of saqlib.site.findings: both forms of verdicts, what a claim depends on, and chains with their lines."""

import itertools

import pandas as pd
import pytest

from saqlib import paths
from saqlib.site.findings import Runs, Standing, Verdict, is_first_study, standings

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
        (PLACES[:2], "depends on dataset", "holds for MNIST"),
        (PLACES[1::2], "depends on training", "holds for guided training"),
        (PLACES[:1], "depends on dataset and training", "holds for MNIST, standard training"),
        (PLACES[:3], "depends on dataset and training", "all but FashionMNIST, guided training"),
    ],
)
def test_a_claim_is_reproduced_or_not_or_depends(supported, word, where):
    """The fewest axes that decide are named, and the places, whichever are fewer."""
    found = standing(*supported)
    assert found.word == word
    assert where is None or found.where == where


def test_a_claim_whose_opposite_holds_everywhere_says_so():
    """That is more than not reproduced."""
    verdicts = tuple(Verdict("A1", "Text.", *place, "", "opposite", "") for place in PLACES)
    assert Standing("A1", "Text.", verdicts).word == "opposite"


def write(folder, rows, name="verdicts"):
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


FIRST = [{"claim": claim, "text": "T.", "dataset": "mnist", "training": "standard", "verdict": "supported"}
         for claim in ("H1", "H7")]  # fmt: skip
SECOND = [
    {"claim": claim, "group": group, "dataset": "mnist", "training": "standard", "question": question,
     "text": "T.", "verdict": verdict}
    for claim, group, question, verdict in [
        ("A1", "abstract", "accuracy", "supported"), ("A2", "abstract", "focus", "supported"),
        ("A2", "abstract", "faithfulness", "equivalent"), ("B1", "ours", "accuracy", "supported")]
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (FIRST, [("H1", "reproduced")]),
        (SECOND, [("A1", "reproduced"), ("A2", "depends on question")]),
    ],
    ids=["first study", "second study"],
)
def test_claims_of_the_abstract_are_read_in_both_forms(rows, expected, tmp_path):
    """Claims of our own are left out; each verdict knows its line."""
    write(tmp_path / "tables", rows)
    write(tmp_path / "tables", rows, "claims")
    found = standings(tmp_path, paths.PARAMS)
    assert [(each.claim, each.word) for each in found] == expected
    assert found[0].verdicts[0].line == "results/tables/verdicts.csv#L2"
    assert is_first_study(tmp_path) == (rows is FIRST)


def test_claims_have_their_text_from_params_where_tables_have_none(tmp_path):
    """Wherever in params.yaml the claim stands."""
    write(tmp_path / "tables", [{k: v for k, v in SECOND[0].items() if k != "text"}], "claims")
    params = tmp_path / "params.yaml"
    params.write_text("claims: {hypotheses: [{id: A1, text: Less.}]}")
    (found,) = standings(tmp_path, params)
    assert found.text == "Less."


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


def test_what_guidance_makes_up_for_is_paired(results):
    """Standard training loses .2 and more, guided .01 and more: the difference, seed by seed, is .19."""
    found = Runs(results).made_up_for("symmetric_relevance_gain", "mnist")
    assert list(found) == pytest.approx([0.19] * 3)


def test_faithfulness_is_taken_where_the_runs_have_it(results):
    """The second study's column comes before the first's."""
    runs = pd.read_csv(results / "runs.csv")
    assert Runs(results).faithfulness == "symmetric_relevance_gain"
    runs.assign(faithfulness=1.0).to_csv(results / "runs.csv", index=False)
    found = Runs(results)
    assert found.faithfulness == "faithfulness"
    first = found.chain("faithfulness", "mnist", "standard").numbers[0]
    assert (first.value, first.line) == (1.0, "results/runs.csv#L2"), "no table has its mean"
