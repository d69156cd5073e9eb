"""Tests of saqlib.site.readme, and of the README: its answer is what results/ say, and what it names exists."""

import importlib.util
import json
import re

import pytest

import saqlib.data
from saqlib import paths
from saqlib.data import images as data
from saqlib.deployment import explain
from saqlib.explore import networks
from saqlib.site import front, readme
from saqlib.site.findings import Runs, mitigation, standings

TEXT = (paths.ROOT / "README.md").read_text()


def test_the_answer_is_that_of_results():
    """Drift between README and results/ fails; `python -m saqlib.site.readme` mends it."""
    assert readme.filled(TEXT) == TEXT


def test_the_answer_is_the_front_pages():
    """The same sentence, every number of its table with its arrow, every claim as it stands there."""
    answer, runs = readme.answer(), Runs(paths.RESULTS)
    assert front.answer(runs, mitigation(paths.RESULTS)) in answer
    for _, _, metric, training in front.asked(runs):
        for dataset in runs.datasets:
            chain = runs.chain(metric, dataset, training)
            numbers = " → ".join(f"{number.value:.2f}".replace("-", "−") for number in chain.numbers)
            assert f"{numbers} {front.ARROWS[chain.direction][0]}" in answer
    for standing in standings(paths.RESULTS):
        (line,) = [line for line in answer.splitlines() if line.startswith(f"| {standing.claim} {standing.text} |")]
        assert standing.word in line and (not standing.word.startswith("depends") or standing.where in line)


def test_the_metrics_that_it_shows_are_the_committed_ones():
    """Names and numbers of the lines that it prints of `dvc metrics show`."""
    names = re.search(r"^Path +(accuracy.*)$", TEXT, flags=re.MULTILINE).group(1).split()
    rows = re.findall(r"^(results/metrics/\S+\.json) +(.*)$", TEXT, flags=re.MULTILINE)
    assert len(rows) >= 2
    for path, numbers in rows:
        shown = dict(zip(names, map(float, numbers.split()), strict=True))
        assert shown == json.loads((paths.ROOT / path).read_text())


def test_what_stands_around_the_answer_stays(tmp_path):
    """Another answer, and back."""
    other = readme.filled(TEXT, tmp_path)
    assert other != TEXT and readme.filled(other) == TEXT


def test_the_picture_is_there():
    """The one for the first screen."""
    (name,) = re.findall(r'<img src="([^"]+)" alt="[^"]+"', readme.answer())
    assert (paths.ROOT / name).exists()


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
