"""Tests of study.report.paper and paper/results.typ: numbers are read while it compiles; a missing one stops it."""

import inspect
import json
import re
import shutil

import pandas as pd
import pytest
import typst

from saqlib import saliency, scoring
from saqlib.grid import BEYOND, LOWER, WORDS
from study import files, paths, run, settings
from study.report import labels, paper, style, tables
from tests.helpers.made import DATASETS, TRAININGS

SETTINGS = settings.load()
CLARITY = "dataset,training,map,metric,mean,low,high\nmnist,standard,fp32,gini,0.6251,0.6,0.65\n"
TABLES = {"accuracy": "dataset\n", "clarity": CLARITY}
TABLES |= dict.fromkeys(("claims", "grid", "registered", "alternatives"), "claim\n")
QUOTE = (
    '#assert(fixed(clarity("mnist", "standard", "{map}", "gini").value, 2) == "{number}", message: "another number")'
)
CELLS = [(dataset, training) for dataset in DATASETS for training in TRAININGS]


@pytest.fixture
def root(tmp_path):
    """A folder with results of one row and the project's own reader of results; its paper is written by a test."""
    for name in ("results.typ", "alt.yaml", "first_run.csv", "second_run.csv", "explaining.csv"):
        (tmp_path / "paper").mkdir(exist_ok=True)
        shutil.copy(paths.ROOT / "paper" / name, tmp_path / "paper")
    shutil.copy(paths.PARAMS, tmp_path)
    contents = {f"tables/{name}": content for name, content in TABLES.items()} | {"runs": "seed\n0\n1\n"}
    for name, content in (contents | dict.fromkeys(("figures/outline", "evidence/image_sets"), "dataset\n")).items():
        files.write(tmp_path / "results" / f"{name}.csv", content)
    return tmp_path


def write(root, text: str) -> None:
    (root / "paper" / "paper.typ").write_text(f'#import "results.typ": *\n{text}', encoding="utf-8")


def write_table(root, name: str, rows: list[dict]) -> None:
    files.write(root / "results" / "tables" / f"{name}.csv", files.csv(pd.DataFrame(rows)))


def test_a_number_is_read_while_the_paper_compiles(root):
    """Quoted as in results/, rounded, with the same bytes each time; after a change there the text no longer holds."""
    write(root, "#set document(date: none)\n" + QUOTE.format(map="fp32", number="0.63"))
    first = paper.build(root).read_bytes()
    assert first.startswith(b"%PDF") and paper.build(root).read_bytes() == first
    files.write(root / "results" / "tables" / "clarity.csv", CLARITY.replace("0.6251", "0.5"))
    with pytest.raises(paper.PaperError, match="another number"):
        paper.build(root)
    assert (root / "paper" / "paper.pdf").read_bytes() == first


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
    """The message names what is missing."""
    write(root, QUOTE.format(map="fp32", number="0.63"))
    files.write(root / "results" / "tables" / "clarity.csv", content)
    with pytest.raises(paper.PaperError, match=message):
        paper.build(root)


def test_numbers_have_a_fixed_count_of_decimals(root):
    """Rounded half away from zero, with a true minus sign, and no minus zero."""
    given = [('"0.005"', 2, "0.01"), (-0.25, 1, "−0.3"), (12.3456, 2, "12.35"), (-0.0001, 2, "0.00"), (7, 0, "7")]
    lines = [f'#assert(fixed({value}, {n}) == "{text}", message: fixed({value}, {n}))' for value, n, text in given]
    write(root, "\n".join(lines))
    paper.build(root)


def test_figures_have_words_and_a_new_datasets_maps_those_of_their_kind(root):
    """A figure that is missing, or that nobody has described, stops the build, which names it."""
    assert said(root, 'alt-of("maps_letters")') == style.alternative("maps_letters")
    assert said(root, 'alt-of("curves")') == style.alternatives()["curves"]
    for text, message in (('#alt-of("none")', "no words for the figure none"),
                          ('#image("../results/figures/none.pdf")', r"none\.pdf")):  # fmt: skip
        write(root, text)
        with pytest.raises(paper.PaperError, match=message):
            paper.build(root)


def test_results_of_an_earlier_version_are_one_line(root, monkeypatch):
    """The file that is missing is named, and what writes it; an earlier PDF stays; no traceback."""
    (root / "results" / "tables" / "grid.csv").unlink()
    write(root, "Text")
    (root / "paper" / "paper.pdf").write_bytes(b"as it was")
    build = paper.build
    monkeypatch.setattr(paper, "build", lambda: build(root))
    with pytest.raises(SystemExit) as stopped:
        run.main(["paper"])
    message = str(stopped.value)
    assert "grid.csv is not there; run the stage that writes it" in message and len(message.splitlines()) == 1
    assert (root / "paper" / "paper.pdf").read_bytes() == b"as it was"


def test_a_page_at_which_typst_fails_is_set_a_little_wider(root):
    """Only for its faults that hang on where a page ends; any other is reported."""
    write(root, '#assert(sys.inputs.leading != "0.55", message: "internal error: parent group")')
    paper.build(root)
    for text in ('false, message: "internal error: parent group"', 'sys.inputs.leading != "0.55", message: "no row"'):
        write(root, f"#assert({text})")
        with pytest.raises(paper.PaperError, match="parent group|no row"):
            paper.build(root)


def test_the_command_ends_in_one_message(monkeypatch):
    """Exit code 1 where something is missing."""
    monkeypatch.setattr(paper, "build", lambda: (_ for _ in ()).throw(paper.PaperError("no number")))
    with pytest.raises(SystemExit, match="no number"):
        paper.main()


# ------------------------------------------------------------------------- conclusions: chosen by verdicts

# What a piece of content says, as a string; links and emphasis left out.
PLAIN = """
#let plain(it) = if type(it) == str { it } else if it == [ ] { " " } else if it.has("text") { it.text } else if (
  it.has("children")) { it.children.map(plain).join() } else if it.has("body") { plain(it.body) } else if (
  it.has("child")) { plain(it.child) } else { "?" }
"""


def all_said(root, expressions: list[str]) -> list[str]:
    """What expressions of results.typ say."""
    write(root, PLAIN + "".join(f"#metadata(plain({expression})) <said>\n" for expression in expressions))
    values = json.loads(typst.query(root / "paper" / "paper.typ", "<said>", field="value", root=root,
                                    ignore_system_fonts=True))  # fmt: skip
    return [re.sub(r"\s+", " ", value).strip() for value in values]


def said(root, expression: str) -> str:
    """What one says."""
    return all_said(root, [expression])[0]


def decide(root, words: list[str], asked=(("A1", "accuracy"),), seeds=10):
    """claims.csv with a comparison for each word; runs of so many seeds."""
    rows = [{"claim": claim, "group": "abstract", "question": question, "verdict": word}
            for claim, question in asked for word in words]  # fmt: skip
    write_table(root, "claims", rows)
    files.write(root / "results" / "runs.csv", "seed\n" + "".join(f"{seed}\n" for seed in range(seeds)))


def test_a_conclusion_is_counted(root):
    """Another word in claims.csv is another sentence; nobody writes it by hand."""
    decide(root, ["supported"] * 3 + ["undecided", "equivalent", "undecided"])
    expressions = ['told("A1", "accuracy")', 'message("A1", "accuracy")', 'conclusion("abstract")']
    told = "less accuracy than fp32 in 3 of 6 comparisons (1 equivalent, 2 undecided)"
    assert all_said(root, expressions) == [told, f"L{told[1:]}.", (
        "Of the abstract's claims: Quantization lowers accuracy (A1) is supported in 3 of 6 comparisons (1 equivalent, "
        "2 undecided). An undecided comparison is no evidence against a claim."
    )]  # fmt: skip
    decide(root, ["supported"] * 2)
    assert said(root, expressions[0]) == "less accuracy than fp32 in 2 of 2 comparisons"
    assert said(root, 'told("A2", "focus")') == "less focus than fp32: not compared in this run"


def test_every_claim_has_a_sentence(root):
    """Of each question; all tests of params.yaml are known, and all sentences differ."""
    asked = [(claim.id, question) for claim in SETTINGS.claims.hypotheses for question in claim.questions]
    decide(root, ["opposite"], asked)
    sentences = all_said(root, [f'told("{claim}", "{question}")' for claim, question in asked])
    assert len(set(sentences)) == len(asked)
    for (_, question), sentence in zip(asked, sentences, strict=True):
        assert question in sentence and sentence.endswith("in 0 of 1 comparisons (1 opposite)")


def test_few_seeds_say_that_they_are_too_few(root):
    """Whatever stands in the table: with 5 seeds no test reaches the level, with 6 one does."""
    expressions = ['told("A1", "accuracy")', 'conclusion("abstract")']
    decide(root, ["undecided"] * 4, seeds=5)
    sentences = all_said(root, expressions)
    assert sentences[0] == "5 seeds are too few to say anything of accuracy"
    assert all("too few" in sentence for sentence in sentences)
    decide(root, ["undecided"] * 4, seeds=6)
    assert "too few" not in said(root, expressions[0])


def test_constants_are_those_of_the_code(root):
    """What the method section says of SmoothGrad, integrated gradients, occlusion and finite differences."""
    write(root, "#metadata(constants) <constants>")
    source = root / "paper" / "paper.typ"
    values = typst.query(source, "<constants>", field="value", one=True, root=root, ignore_system_fonts=True)
    found = json.loads(values)
    defaults = {}
    for name, method in (("smoothgrad", saliency.smoothgrad), ("integrated", saliency.integrated_gradients)):
        values = inspect.signature(method).parameters
        defaults[name] = {key: values[key].default for key in found[name]}
    assert {name: found.pop(name) for name in defaults} == defaults
    assert found.pop("occlusion") == {"window": saliency.OCCLUSION_WINDOW, "stride": saliency.OCCLUSION_STRIDE}
    codes = round(255 * scoring.DIFFERENCE_STEP)
    assert found == {"differences": {"window": saliency.DIFFERENCE_WINDOW, "codes": codes}}


def test_verdicts_of_the_grid_have_the_symbols_of_the_table(root):
    """And the same colours; an estimate with the decimals of its question, a dash without one; bold is firm."""
    every = [(word, size) for word in WORDS for size in (BEYOND, "open")]
    rows = [{"word": word, "size": size, "estimate": -0.12345, "question": "accuracy", "firm": False, "line": "x"}
            for word, size in every]  # fmt: skip
    given = [f"mark(({', '.join(f'{key}: {json.dumps(value)}' for key, value in row.items())}))" for row in rows]
    assert all_said(root, given) == [tables.symbol(*each) for each in every]
    write(root, "#metadata(mark-colours) <said>")
    source = root / "paper" / "paper.typ"
    colours = typst.query(source, "<said>", field="value", one=True, root=root, ignore_system_fonts=True)
    assert json.loads(colours) == tables.COLOURS
    row = rows[every.index((LOWER, BEYOND))] | {"dataset": "mnist"}
    others = [row | {"firm": True, "question": "focus"}, row | {"estimate": "", "word": "undecided"}]
    write_table(root, "grid", [row, *others])
    shown = all_said(root, [f"marked(grid-table.at({place}))" for place in range(3)])
    assert shown == ["▼ −0.12", "▼ −0.123", "· –"]
    assert said(root, "grid-message()") == "2 of 3 comparisons are decided, 1 of them firmly."


def test_what_came_of_registered_claims(root):
    """Those that are only described do not count; none may be registered."""
    assert said(root, "registered-message()") == "No claim is registered."
    write_table(root, "registered", [{"claim": "C1", "came": came} for came in (True, False, "", True)])
    assert said(root, "registered-message()") == "2 of 3 registered comparisons came as expected."


def test_the_paper_and_the_figures_call_a_map_alike(root):
    """Its words in tables of the paper, and everywhere else."""
    names = [name for name in (labels.CONTROLS | labels.MAPS) if name != "untrained"] + ["integrated_gradients"]
    assert all_said(root, [f'in-words("{name}")' for name in names]) == [labels.map_name(name) for name in names]


def test_how_often_maps_follow_the_network_is_said_by_verdicts(root):
    """Of layers drawn anew the last step, whatever the first ones say."""
    words = ["supported", "supported", "undecided", "opposite"]
    for verdicts, shown in ((["supported"] * 4, "in every comparison"), (words, "in 2 of 4")):
        layers = [{"dataset": d, "training": t, "redrawn": layer, "verdict": word if layer == "conv1" else "opposite"}
                  for (d, t), word in zip(CELLS, verdicts, strict=True) for layer in ("dense3", "conv1")]  # fmt: skip
        write_table(root, "randomization", layers)
        sentence = said(root, "of-randomization()")
        assert shown in sentence and ("more like itself in 1" in sentence) == ("opposite" in verdicts)
