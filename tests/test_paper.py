"""The paper's compiler: numbers are read while it compiles, a missing one stops it, and nothing is lost."""

import shutil

import pytest

from saqlib import paper, paths

RUNS = "seed\n0\n1\n"
CLARITY = "dataset,training,map,metric,mean,low,high\nmnist,standard,fp32,gini,0.6251,0.6,0.65\n"
TABLES = {"accuracy": "dataset\n", "clarity": CLARITY, "verdicts": "claim\n", "claims": "claim\n"}
QUOTE = '#assert(fixed(clarity("mnist", "standard", "{map}", "gini"), 2) == "{number}", message: "another number")'


@pytest.fixture
def root(tmp_path):
    """A folder with results of one row and the project's own reader of results; its paper is written by a test."""
    (tmp_path / "paper").mkdir()
    shutil.copy(paths.ROOT / "paper" / "results.typ", tmp_path / "paper")
    shutil.copy(paths.PARAMS, tmp_path)
    (tmp_path / "results" / "tables").mkdir(parents=True)
    (tmp_path / "results" / "runs.csv").write_text(RUNS)
    for name, content in TABLES.items():
        (tmp_path / "results" / "tables" / f"{name}.csv").write_text(content)
    (tmp_path / "results" / "figures").mkdir()
    (tmp_path / "results" / "figures" / "outline.csv").write_text("dataset\n")
    return tmp_path


def write(root, text: str) -> None:
    (root / "paper" / "paper.typ").write_text(f'#import "results.typ": *\n{text}')


def test_a_number_is_read_while_the_paper_compiles(root):
    """Quoted as it stands in results/, rounded; after a change there the same text no longer holds."""
    write(root, QUOTE.format(map="fp32", number="0.63"))
    assert paper.build(root).read_bytes().startswith(b"%PDF")
    table = root / "results" / "tables" / "clarity.csv"
    table.write_text(table.read_text().replace("0.6251", "0.5"))
    with pytest.raises(paper.PaperError, match="another number"):
        paper.build(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CLARITY.replace("fp32", "w4a4"), r"(?s)0 rows, not one, for .*fp32"),
        (CLARITY + CLARITY.splitlines()[1], r"(?s)2 rows, not one, for .*fp32"),
        (CLARITY.replace("0.6251", ""), "float"),
    ],
    ids=["row gone", "row twice", "value gone"],
)
def test_a_missing_number_stops_the_build(root, content, message):
    """The message names what is missing; the PDF of an earlier build stays as it was."""
    write(root, QUOTE.format(map="fp32", number="0.63"))
    before = paper.build(root).read_bytes()
    (root / "results" / "tables" / "clarity.csv").write_text(content)
    with pytest.raises(paper.PaperError, match=message):
        paper.build(root)
    assert (root / "paper" / "paper.pdf").read_bytes() == before


def test_a_missing_figure_stops_the_build(root):
    """The message names the file."""
    write(root, '#image("../results/figures/none.pdf")')
    with pytest.raises(paper.PaperError, match=r"none\.pdf"):
        paper.build(root)


def test_the_same_results_give_the_same_bytes(root):
    """No date and no identifier of the run."""
    write(root, "#runs.len() networks")
    assert paper.build(root).read_bytes() == paper.build(root).read_bytes()


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [("0.005", 2, "0.01"), (-0.25, 1, "−0.3"), (12.3456, 2, "12.35"), (-0.0001, 2, "0.00"), (7, 0, "7")],
)
def test_numbers_have_a_fixed_count_of_decimals(root, value, digits, text):
    """Half away from zero, a true minus sign, and no minus zero."""
    given = f'"{value}"' if isinstance(value, str) else value
    write(root, f'#assert(fixed({given}, {digits}) == "{text}", message: fixed({given}, {digits}))')
    paper.build(root)


def test_the_command_ends_in_one_message(root, monkeypatch):
    """Exit code 1 where something is missing."""
    monkeypatch.setattr(paper, "build", lambda: (_ for _ in ()).throw(paper.PaperError("no number")))
    with pytest.raises(SystemExit, match="no number"):
        paper.main()
