"""Tests of saqlib.site.front: the sentence, the table and the claims say what results/ say."""

import re

import pandas as pd
import pytest

from saqlib import paths
from saqlib.site import front
from saqlib.site.findings import Runs, Standing, Verdict


def test_the_answer_is_one_sentence_with_the_numbers(results):
    """Sizes, directions, and the verdict on guidance."""
    assert front.answer(Runs(results), {"mnist": "supported"}) == (
        "From fp32 to w2a2, accuracy falls by 1.00 points on MNIST, and the faithfulness of the saliency map falls by "
        "0.21 on MNIST; saliency-guided training makes up for part of that."
    )


def test_the_answer_turns_with_the_results(results):
    """What rises is said to rise, what chance explains is no change; each verdict on guidance has its words."""
    runs = pd.read_csv(results / "runs.csv")
    swapped = runs.assign(test_accuracy=-runs.test_accuracy, faithfulness=[0.1, 0.2, 0.3, 0.2, 0.1, 0.3] * 2)
    swapped.to_csv(results / "runs.csv", index=False)
    answer = front.answer(Runs(results), {"mnist": "equivalent", "fashion_mnist": "undecided"})
    assert "accuracy rises by 1.00 points on MNIST" in answer
    assert "the saliency map does not change beyond chance on MNIST" in answer
    assert answer.endswith(
        "; saliency-guided training changes nothing that matters in that on MNIST; "
        "whether saliency-guided training makes up for part of that on FashionMNIST is undecided."
    )
    assert front.answer(Runs(results), {"mnist": "opposite"}).endswith("; saliency-guided training loses more.")
    assert front.answer(Runs(results), {}).endswith("beyond chance on MNIST.")


@pytest.mark.parametrize(
    ("whys", "said"),
    [
        (["fill", "rule, fill"], "in 2 of 3 verdicts on faithfulness (1 on MNIST and 1 on FashionMNIST), by a fault"),
        (["rule", "fill"], "in 1 of 3 verdicts on faithfulness (1 on FashionMNIST), by a fault"),
        (["rule", ""], None),
    ],
)
def test_a_fault_of_the_first_run_is_told(whys, said, results):
    """How many verdicts its one fill decided, of those on faithfulness that are asked again; nothing where none."""
    rows = [("mnist", "faithfulness", "supported", whys[0]), ("fashion_mnist", "faithfulness", "supported", whys[1]),
            ("mnist", "faithfulness", "supported", ""), ("mnist", "focus", "opposite", "fill"),
            ("mnist", "faithfulness", "", "no claim asks it now")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["dataset", "question", "now", "why"])
    table.to_csv(results / "tables" / "first_run.csv", index=False)
    found = front.changed(results)
    assert found.startswith("A first run said otherwise " + said) if said else found == ""


ABLATED = [("edges_same", "mnist", "w2a2 - fp32", "True"), ("edges_same", "fashion_mnist", "w2a2 - fp32", "True"),
           ("signed_ranking", "mnist", "w2a2 - fp32", "True"),
           ("signed_ranking", "mnist", "guided - standard, fp32", "True"),
           ("signed_ranking", "fashion_mnist", "guided - standard, fp32", "False"),
           ("signed_ranking", "fashion_mnist", "guided - standard, w2a2", "False"),
           ("quarter_masked", "mnist", "guided - standard, w2a2", "True"),
           ("mixed_w2a4", "mnist", "w2a2 - mixed", "False")]  # fmt: skip


def ablations(results, rows, question="faithfulness", sign="-"):
    """What is said of an ablations.csv with these variants, datasets, comparisons, and whether the sign holds."""
    table = pd.DataFrame(rows, columns=["variant", "dataset", "comparison", "holds"])
    table = table.assign(question=question, sign=sign, seeds=6)
    table.to_csv(results / "tables" / "ablations.csv", index=False)
    return front.robust(Runs(results), results)


def test_what_the_ablations_say_is_told(results):
    """How many variants touch a conclusion on faithfulness, and which take its sign; other questions are not asked."""
    assert ablations(results, ABLATED) == (
        "With other numbers in the study (6 seeds), the change of faithfulness from fp32 to w2a2 keeps its sign in all "
        "2 variants that touch it; what guidance does to faithfulness loses its sign in 1 of 2 variants "
        "(signed ranking on FashionMNIST)."
    )
    assert ablations(results, ABLATED[:3]).endswith("in all 2 variants that touch it.")
    assert ablations(results, ABLATED, sign="") == ablations(results, ABLATED, question="focus") == ""
    assert ablations(results, []) == ""


def test_the_table_has_at_most_five_rows_and_every_number_leads_to_its_line(results):
    """Each linked number is the one of the line, rounded."""
    html = front.table(Runs(results))
    assert html.count("<tr><th>") - 1 == 5
    links = re.findall(r'href="table_(\w+)\.html#L(\d+)"[^>]*>([^<]+)</a>', html)
    assert len(links) == 10
    for table, line, shown in links:
        row = (results / "tables" / f"{table}.csv").read_text().splitlines()[int(line) - 1]
        assert f"{float(row.split(',')[-1]):.2f}" == shown.replace("−", "-")


def test_a_claim_tells_by_a_sign_and_by_words_how_it_stands():
    """Never by colour alone; every verdict is in the title."""
    verdicts = [Verdict("A1", "Less & less.", "mnist", t, "", w, "results/tables/verdicts.csv#L2")
                for t, w in (("standard", "supported"), ("guided", "opposite"))]  # fmt: skip
    html = front.claims([Standing("A1", "Less & less.", tuple(verdicts))])
    assert "Less &amp; less." in html and "◐" in html and "depends on training" in html
    assert "MNIST, standard: supported; MNIST, guided: opposite" in html


def test_the_page_has_everything_that_its_template_asks_for():
    """From the committed results."""
    found = front.parts(paths.RESULTS, "<figure></figure>")
    assert {"answer", "table", "picture", "claims", "networks", "seeds", "changed", "robust"} == found.keys()
