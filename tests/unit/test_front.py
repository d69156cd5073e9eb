"""The front page says what results/ say, or stops; and what README and docs name exists and runs."""

import importlib.util
import re
import shutil

import pandas as pd
import pytest

import saqlib.data
from saqlib.deploy import explain
from study import explore, paths
from study.site import front

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.relative_to(paths.ROOT): path.read_text(encoding="utf-8") for path in (paths.ROOT / "docs").glob("*.md")}


@pytest.fixture
def root(tmp_path):
    """A copy of the committed tables, to change."""
    shutil.copytree(paths.RESULTS / "tables", tmp_path / "results" / "tables")
    assert "At 4 bits" in front.text(tmp_path, str)
    return tmp_path


def change(root, table: str, rows: str, **values) -> None:
    """Other values in the first of these rows of a table."""
    path = root / "results" / "tables" / f"{table}.csv"
    frame = pd.read_csv(path)
    place = frame.query(rows).index[0]
    for column, value in values.items():
        assert frame.loc[place, column] != value
        frame.loc[place, column] = value
    frame.to_csv(path, index=False)


# ------------------------------------------------------------------------------------------------- the first screen


@pytest.mark.parametrize(
    ("table", "rows", "values", "words"),
    [
        ("grid_confirming", "question == 'faithfulness' and comparison == 'w4a4 - fp32'", {"word": "undecided"},
         "faithfulness is lower at 4 bits.*: At 4 bits three of four kinds"),
        ("grid_confirming", "question == 'accuracy' and comparison == 'w4a4 - fp32'", {"size": "open"},
         "lose less than the margin at 4 bits.*: At 4 bits three of four kinds"),
        ("grid_confirming", "question == 'accuracy' and comparison == 'w2a2 - fp32'", {"word": "equivalent"},
         "accuracy is lower at 2 bits.*: At 4 bits hardly"),
        ("grid_confirming", "question == 'faithfulness' and comparison == 'w2a2 - fp32'", {"word": "higher"},
         "faithfulness is lower in all.*: Less faithful, yes"),
        ("grid_confirming", "question == 'faithfulness' and comparison == 'w2a2 - mixed'", {"word": "higher"},
         "no step raises either.*: Mostly"),
        ("grid_confirming", "dataset == 'fashion_mnist' and question == 'faithfulness' and"
         " comparison == 'guided - standard, w2a2'", {"word": "undecided"}, "higher on FashionMNIST.*: On Fashion"),
        ("registered", "claim == 'C1'", {"word": "open"}, r"\(C1\).*: Passing it through"),
        ("registered", "claim == 'C2' and test == 'recovered'", {"word": "open"}, r"\(C2\).*: Passing it through"),
        ("registered", "claim == 'C3' and test == 'lost'", {"word": "refuted"}, r"\(C3\).*: Passing it through"),
        ("registered", "claim == 'C5'", {"word": "open"}, r"\(C5\).*: Passing it through"),
        ("registered", "comparison.str.contains('max_range')", {"word": "open"}, r"the map \(C4\).*: Not at 4 bits"),
        ("maps", "map == 'integrated_gradients' and precision == 'w2a2' and fill == 'qualifying' and seeds == 'all'",
         {"mean": 0.1}, "lose less than half.*: At 2 bits"),
        ("maps", "dataset == 'mnist' and map == 'straight_through' and precision == 'w2a2' and fill == 'qualifying'"
         " and seeds == 'all'", {"low": 0.6}, "intervals of map and image overlap.* On MNIST the map"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)  # fmt: skip
def test_another_word_stops_the_sentence_that_rests_on_it(table, rows, values, words, root):
    """It is named, with what is not so; with the committed words all of them are written."""
    change(root, table, rows, **values)
    with pytest.raises(front.FrontError, match=words):
        front.text(root, str)


def test_another_number_changes_the_text(root):
    """And nothing else."""
    before = front.text(root, str)
    change(
        root, "grid", "question == 'accuracy' and comparison == 'w2a2 - fp32' and dataset == 'mnist'", estimate=-0.4321
    )
    after = front.text(root, str)
    assert "0.43 and" in after and after != before
    assert len(after.split()) == len(before.split())


@pytest.mark.parametrize("rows", ["claim == 'C6'", "claim == 'C1' and dataset == 'mnist'"])
def test_another_failure_of_what_was_registered_stops_the_sentence(rows, root):
    """One that it does not name, whatever the claim."""
    change(root, "registered", f"({rows}) and expected == 'supported'", came="False")
    with pytest.raises(front.FrontError, match="is all that failed beside guidance"):
        front.text(root, str)


@pytest.mark.parametrize("rows", ["seed", "dataset"])
def test_another_run_has_the_grid_and_no_sentence(rows, root):
    """One with fewer seeds, or fewer networks."""
    path = root / "results" / "tables" / "accuracy.csv"
    frame = pd.read_csv(path)
    frame = frame.assign(seeds=2) if rows == "seed" else frame[frame.dataset == "mnist"]
    frame.to_csv(path, index=False)
    text = front.text(root, str)
    assert text.startswith("The answer is the full run's.") and "At 4 bits" not in text
    assert text.endswith((root / "results" / "tables" / "grid.md").read_text(encoding="utf-8"))


BROKEN = {"empty": lambda content: b"", "no text": lambda content: b"\xff" + content,
          "without rows": lambda content: content[: content.index(b"\n") + 1],
          "of one column": lambda content: re.sub(b"(?m),.*$", b"", content)}  # fmt: skip


@pytest.mark.parametrize("table", ["grid", "grid_confirming", "registered", "maps", "ablations", "device"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_table_that_is_none_is_refused_in_one_line(kind, table, root):
    """With the command that writes it; the README stays."""
    path = root / "results" / "tables" / f"{table}.csv"
    path.write_bytes(BROKEN[kind](path.read_bytes()))
    with pytest.raises(front.FrontError) as refused:
        front.filled((paths.ROOT / "README.md").read_text(encoding="utf-8"), root)
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------------------------------------ README and docs


def test_the_answer_is_that_of_results():
    """Drift between README and results/ fails; `python -m study.site.front` mends it, and what is around it stays."""
    assert front.filled(README) == README == front.filled(README.replace("| A1.", "| A9."))
    with pytest.raises(front.FrontError, match="end of answer"):
        front.filled(README.replace(front.END, ""))


def test_the_appendix_expects_the_words_of_results():
    """Of each claim how many comparisons are supported, of those that are judged."""
    found = pd.read_csv(paths.RESULTS / "tables" / "claims.csv").dropna(subset="verdict")
    found = found[found.claim != "B2"].groupby("claim").verdict
    counts = [f"{claim}: {(own == 'supported').sum()} of {len(own)} supported" for claim, own in found]
    appendix = DOCS[next(path for path in DOCS if path.stem == "artifact")]
    assert re.findall(r"\w\d: \d+ of \d+ supported", appendix) == counts


def test_the_readme_is_short_and_what_it_links_to_exists():
    """Somebody reads it in five minutes; the rest is in docs/, to which it links. There, too, no link is dead."""
    assert len(README.split()) <= 1200
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
    (command,) = re.findall(r"python (-m saqlib\.deploy\.explain .+)", README)
    explain.main(command.split()[2:-1] + [str(tmp_path / "seven.png")])
    assert (tmp_path / "seven.png").exists()
    shipped, truth = explore.picture("mnist", 7)
    assert truth == "7" and (explain.read_image(paths.SAMPLE / "seven.png") == shipped).all()
