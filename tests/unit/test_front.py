"""The first screen of README and site says what results/ say; and what the README names exists and runs."""

import importlib.util
import re
from collections.abc import Sequence

import pandas as pd
import pytest

import saqlib.data
from saqlib.deploy import explain
from study import explore, paths
from study.site import front

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.relative_to(paths.ROOT): path.read_text(encoding="utf-8") for path in (paths.ROOT / "docs").glob("*.md")}


@pytest.fixture
def runs(tmp_path):
    """Three seeds on one dataset: accuracy falls, Gini stays, guidance makes up for lost faithfulness."""
    rows = [
        {"dataset": "mnist", "precision": precision, "training": training, "seed": seed, "gini": 0.5, "morans_i": 0.5,
         "test_accuracy": 99 - bits + 0.1 * seed,
         "faithfulness": 0.6 - bits * (0.01 if training == "guided" else 0.2) - 0.01 * seed * bits}
        for training in ("standard", "guided") for bits, precision in enumerate(("fp32", "w2a2")) for seed in range(3)
    ]  # fmt: skip
    frame, folder = pd.DataFrame(rows), tmp_path / "results"
    (folder / "tables").mkdir(parents=True)
    frame.to_csv(folder / "runs.csv", index=False)
    keys = ["dataset", "training", "precision"]
    means = frame.groupby(keys, sort=False).mean().reset_index()
    accuracy = means.rename(columns={"test_accuracy": "mean"})[[*keys, "mean"]]
    accuracy.to_csv(folder / "tables" / "accuracy.csv", index=False)
    clarity = means.melt(keys, ["gini", "morans_i", "faithfulness"], var_name="metric", value_name="mean")
    clarity.rename(columns={"precision": "map"}).to_csv(folder / "tables" / "clarity.csv", index=False)
    return front.Runs(folder)


def guidance(**words: Sequence[str]) -> pd.DataFrame:
    """Verdicts on guidance by dataset, one that was not asked, and others that are not on it."""
    rows = [("B2", dataset, "faithfulness", word, "0.1") for dataset, own in words.items() for word in own]
    rows += [("B2", "mnist", "faithfulness", "undecided", ""), ("B2", "mnist", "focus", "supported", "0.1"),
             ("A2", "mnist", "faithfulness", "supported", "0.1")]  # fmt: skip
    return pd.DataFrame(rows, columns=["claim", "dataset", "question", "verdict", "p"])


# ------------------------------------------------------------------------------------------------- the first screen


def test_the_answer_is_one_sentence_that_turns_with_the_results(runs):
    """Sizes, directions, counts of guidance; what rises is said to rise, what chance explains is no change."""
    assert front.answer(runs, guidance(mnist=["supported", "opposite"], fashion_mnist=["undecided"])) == (
        "From fp32 to w2a2, accuracy falls by 1.00 points on MNIST, and the faithfulness of the saliency map falls by "
        "0.21 on MNIST; saliency-guided training surely makes up for part of that in 1 of 2 comparisons on MNIST and "
        "in 0 of 1 comparisons on FashionMNIST."
    )
    frame = runs.frame
    runs.frame = frame.assign(test_accuracy=-frame.test_accuracy, faithfulness=[0.1, 0.2, 0.3, 0.2, 0.1, 0.3] * 2)
    answer = front.answer(runs, guidance())
    assert "accuracy rises by 1.00 points on MNIST" in answer
    assert answer.endswith("the saliency map does not change beyond chance on MNIST.")


def test_each_number_of_the_table_is_that_of_its_line(runs, tmp_path):
    """A row for each question; the arrow is that of the paired change over the seeds."""
    rows = front.table(runs, lambda number: f"{number.value}@{number.line}").splitlines()[2:]
    assert [row.split()[-2] for row in rows] == ["↘", "≈", "≈", "↘", "≈"]
    links = re.findall(r"(\S+)@(\S+)#L(\d+)", "".join(rows))
    assert len(rows) == 5 and len(links) == 10
    for value, path, line in links:
        row = (tmp_path / path).read_text().splitlines()[int(line) - 1]
        assert row.split(",")[-1] == value


ABLATED = [("edges_same", "mnist", "w2a2 - fp32", "True"), ("edges_same", "fashion_mnist", "w2a2 - fp32", "True"),
           ("signed_ranking", "mnist", "w2a2 - fp32", "True"),
           ("signed_ranking", "mnist", "guided - standard, fp32", "True"),
           ("signed_ranking", "fashion_mnist", "guided - standard, fp32", "False"),
           ("signed_ranking", "fashion_mnist", "guided - standard, w2a2", "False"),
           ("quarter_masked", "mnist", "guided - standard, w2a2", "True"),
           ("mixed_w2a4", "mnist", "w2a2 - mixed", "False")]  # fmt: skip


def test_the_ablations_are_summed_up(runs):
    """How many variants touch a conclusion on faithfulness, in which it loses its sign; others do not count."""

    def words(rows, question="faithfulness", sign="-"):
        table = pd.DataFrame(rows, columns=["variant", "dataset", "comparison", "holds"])
        return front.robust(runs, table.assign(question=question, sign=sign, seeds=6))

    assert words(ABLATED) == (
        "With other numbers in the study (6 seeds), the change of faithfulness from fp32 to w2a2 keeps its sign in all "
        "2 variants that touch it; the effect of guidance on faithfulness loses its sign in 1 of 2 variants "
        "(signed ranking on FashionMNIST)."
    )
    assert words(ABLATED[:3]).endswith("in all 2 variants that touch it.")
    assert words(ABLATED, sign="") == words(ABLATED, question="focus") == words([]) == ""


def test_how_a_claim_stands_is_counted():
    """Of each question by itself: how many bear it out, what the others say; the abstract's claims alone."""
    words = {"focus": ["supported"] * 2, "coherence": ["undecided", "equivalent", "opposite", "undecided"]}
    rows = [("A2", "abstract", question, word) for question, own in words.items() for word in own]
    found = pd.DataFrame(
        [*rows, ("B2", "ours", "focus", "opposite")], columns=["claim", "group", "question", "verdict"]
    )
    assert front.claims(found).splitlines()[2:] == [
        "| A2 Quantization makes saliency maps less clear. "
        "| focus: 2 of 2; coherence: 0 of 4 (1 opposite, 1 equivalent, 2 undecided) |"
    ]


# ------------------------------------------------------------------------------------------------------- the README


def test_the_answer_is_that_of_results():
    """Drift between README and results/ fails; `python -m study.site.front` mends it, and what is around it stays."""
    assert front.filled(README) == README == front.filled(README.replace("Faithfulness: ", ""))
    with pytest.raises(ValueError, match="end of answer"):
        front.filled(README.replace(front.END, ""))


def test_the_readme_is_short_and_what_it_links_to_exists():
    """Somebody reads it in five minutes; the rest is in docs/, to which it links. There, too, no link is dead."""
    assert len(README.split()) <= 1400
    assert all(f"]({name})" in README for name in map(str, DOCS))
    for path, text in {"README.md": README, **DOCS}.items():
        links = map("".join, re.findall(r'\]\(([^)#:\s]+)[)#]|src="([^":]+)"', text))
        assert [link for link in links if not (paths.ROOT / path).parent.joinpath(link).exists()] == []


def test_the_modules_that_it_runs_exist():
    """Every `python -m` is a module, every `make` a target with a line of help; so also in docs/."""
    text, makefile = README + "".join(DOCS.values()), (paths.ROOT / "Makefile").read_text(encoding="utf-8")
    modules = set(re.findall(r"python -m ((?:saqlib|study)[\w.]*)", text))
    assert modules and [module for module in modules if importlib.util.find_spec(module) is None] == []
    targets = set(re.findall(r"^([\w-]+):.*## ", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([\w-]+)", text, flags=re.MULTILINE)) <= targets


def test_its_python_runs(monkeypatch):
    """The example works as it stands, with the committed network, on the sample in place of the downloaded images."""
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    load, names = saqlib.data.load, {}
    monkeypatch.setattr(saqlib.data, "load", lambda dataset, split: load(dataset, split, paths.SAMPLE))
    exec(code, names)
    assert names["maps"].shape == (10, 28, 28) and names["maps"].abs().sum() > 0
    right = names["network"](saqlib.data.as_input(names["images"])).argmax(1) == names["labels"]
    assert right.double().mean() > 0.9


def test_its_explanation_runs(tmp_path):
    """The command as it stands, but for the file that it writes: a 2-bit network reads the shipped seven."""
    (command,) = re.findall(r"`python (-m saqlib\.deploy\.explain [^`]+)`", README)
    explain.main(command.split()[2:-1] + [str(tmp_path / "seven.png")])
    assert (tmp_path / "seven.png").exists()
    shipped, truth = explore.picture("mnist", 7)
    assert truth == "7" and (explain.read_image(paths.SAMPLE / "seven.png") == shipped).all()
