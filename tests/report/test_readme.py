"""Tests of saqlib.report.readme, and of the README: its answer is what results/ say, and what it names exists."""

import importlib.util
import re

import pandas as pd
import pytest

import saqlib.data
from saqlib import paths
from saqlib.data import images as data
from saqlib.deployment import explain
from saqlib.explore import networks
from saqlib.report import readme, tables

TEXT = (paths.ROOT / "README.md").read_text()
SUMMARY = pd.DataFrame({
    "claim": ["A2", "A2", "A5", "B1"], "group": ["abstract", "abstract", "abstract", "ours"], "dataset": "mnist",
    "training": ["standard", "guided", "guided", "guided"], "text": ["Lower.", "Lower.", "More.", "Free."],
    "question": "focus", "verdict": ["supported", "opposite", "equivalent", "undecided"],
})  # fmt: skip


def test_the_answer_is_that_of_results():
    """Drift between README and results/ fails; `python -m saqlib.report.readme` mends it."""
    assert readme.filled(TEXT) == TEXT


def write(root, summary: pd.DataFrame) -> None:
    """results/tables below `root`, as far as the answer reads them."""
    folder = root / "results" / "tables"
    folder.mkdir(parents=True)
    summary.to_csv(folder / "verdicts.csv", index=False)
    (folder / "accuracy.md").write_text("| Precision |\n")


def test_the_answer_holds_accuracy_and_verdicts(tmp_path):
    """Both tables as results/ have them; a claim that compares trainings stands under one of them."""
    write(tmp_path, SUMMARY)
    answer = readme.answer(tmp_path)
    assert "| Precision |\n" in answer
    assert "| Claim | MNIST, standard | MNIST, guided |" in answer
    assert "| A2 Lower. Focus. | supported | opposite |" in answer
    assert f"| A5 More. Focus. | {tables.MISSING} | equivalent |" in answer
    assert readme.RULE in answer and "first run" not in answer
    assert "B1" not in answer, "ours stand behind the link"
    changed = readme.filled(TEXT, tmp_path)
    assert changed != TEXT and readme.filled(changed) == TEXT, "what stands around the answer stays"


def test_the_first_run_is_told_as_the_first_run(tmp_path):
    """Its verdicts answer no question, and follow a rule that is no longer the code's: the paper tells it."""
    write(tmp_path, SUMMARY.drop(columns=["group", "question"]))
    answer = readme.answer(tmp_path)
    assert readme.FIRST_RULE in answer and readme.RULE not in answer
    assert "| A2 Lower. | supported | opposite |" in answer and "| B1 Free. |" in answer


def test_without_tables_there_is_a_sentence(tmp_path):
    """Before any run."""
    assert readme.answer(tmp_path) == readme.NOT_YET


def test_a_mark_that_is_gone_is_named():
    """Nothing is written over text that is not the answer."""
    with pytest.raises(ValueError, match="end of answer"):
        readme.filled(TEXT.replace(readme.END, ""))


def test_what_the_readme_links_to_exists():
    """No dead link into the repository."""
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links and [link for link in links if not (paths.ROOT / link).exists()] == []


def test_the_modules_that_it_runs_exist():
    """Every `python -m saqlib...` that it names is a module."""
    modules = set(re.findall(r"python -m (saqlib[\w.]*)", TEXT))
    assert modules and [module for module in modules if importlib.util.find_spec(module) is None] == []


def test_its_python_runs(monkeypatch):
    """The example works as it stands, with the committed network, on the sample in place of the downloaded images."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names: dict = {}
    monkeypatch.setattr(saqlib.data, "load", lambda dataset, split: data.load(dataset, split, sample=True))
    exec(code, names)
    assert names["maps"].shape == (10, 28, 28) and names["maps"].abs().sum() > 0
    right = names["network"](data.as_input(names["images"])).argmax(1) == names["labels"]
    assert right.double().mean() > 0.9


def test_its_targets_are_in_the_makefile():
    """Every `make x` that it names is a target with a line of help."""
    targets = set(re.findall(r"^(\w+):.*## ", (paths.ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (\w+)", TEXT, flags=re.MULTILINE)) <= targets


def test_its_explanation_runs(tmp_path):
    """The command as it stands, but for the file that it writes: a 2-bit network reads the shipped seven."""
    (command,) = re.findall(r"`python (-m saqlib\.deployment\.explain [^`]+)`", TEXT)
    arguments = command.split()[2:-1] + [str(tmp_path / "seven.png")]
    explain.main(arguments)
    assert (tmp_path / "seven.png").exists()
    shipped, truth = networks.picture("mnist", 7)
    assert truth == "7" and (explain.read_image(paths.SAMPLE / "seven.png") == shipped).all()
