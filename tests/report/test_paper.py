"""Tests of saqlib.report.paper and of the paper: numbers are read while it compiles, and a missing one stops it."""

import json
import re
import shutil

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import typst

from saqlib import files, paths, words
from saqlib.evidence.by_fill import by_fill
from saqlib.evidence.claims import evaluate
from saqlib.evidence.during import around_the_switch
from saqlib.evidence.first_run import first_run
from saqlib.evidence.retained import retained
from saqlib.evidence.settings import GROUPS
from saqlib.evidence.verdicts import VERDICTS
from saqlib.names import SEED_TO_SEED
from saqlib.pipeline import study
from saqlib.report import ablations, amplitude, during, paper, style, tables, verdict_tables
from tests import frames
from tests.report.test_ablations import make_effects
from tests.report.test_during import make_during

RUNS = "seed\n0\n1\n"
CLARITY = "dataset,training,map,metric,mean,low,high\nmnist,standard,fp32,gini,0.6251,0.6,0.65\n"
TABLES = {"accuracy": "dataset\n", "clarity": CLARITY} | dict.fromkeys(("verdicts", "claims", "first_run"), "claim\n")
QUOTE = (
    '#assert(fixed(clarity("mnist", "standard", "{map}", "gini").value, 2) == "{number}", message: "another number")'
)


@pytest.fixture
def root(tmp_path):
    """A folder with results of one row and the project's own reader of results; its paper is written by a test."""
    (tmp_path / "paper").mkdir()
    for name in ("results.typ", "alt.yaml"):
        shutil.copy(paths.ROOT / "paper" / name, tmp_path / "paper")
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
    """Rounded half away from zero, with a true minus sign, and no minus zero."""
    given = f'"{value}"' if isinstance(value, str) else value
    write(root, f'#assert(fixed({given}, {digits}) == "{text}", message: fixed({given}, {digits}))')
    paper.build(root)


def test_the_command_ends_in_one_message(root, monkeypatch):
    """Exit code 1 where something is missing."""
    monkeypatch.setattr(paper, "build", lambda: (_ for _ in ()).throw(paper.PaperError("no number")))
    with pytest.raises(SystemExit, match="no number"):
        paper.main()


# --- the paper itself, on made-up results in the form that the library writes ---

SETTINGS = study.load()
COSTS = ("packed_bytes", "bit_operations", "explanation_bit_operations", "zero_weights", "peak_activation_bytes",
         "packed_file_bytes", "qcdq_file_bytes")  # fmt: skip
PAPER = (paths.ROOT / "paper" / "paper.typ").read_text()


def planted(precision: str, training: str, metric: str) -> float:
    """With fewer bits accuracy falls and the Gini index rises: every verdict is said of something."""
    return {"test_accuracy": -20, "gini": 10}.get(metric, 0) * frames.PRECISIONS.index(precision)


def runs_and_controls() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ten seeds of every cell; controls that score less, of the reference alone."""
    runs = frames.make_runs(planted, seeds=10, datasets=frames.DATASETS)
    below = runs[runs.precision == "fp32"].drop(columns="precision")
    below = below.assign(**{score: below[score] - 1 for score in frames.SCORES})
    return runs, pd.concat([below.assign(control=control) for control in words.CONTROLS])


def tables_of_claims(runs: pd.DataFrame) -> list[tables.Table]:
    """All tables of the claims that the paper reads, of these runs."""
    found, settings = frames.evidence(runs), SETTINGS.claims
    answers = evaluate(found, settings)
    summary = answers.verdicts()
    summary = summary.assign(firm=summary.verdict == "supported", about="")
    return [
        verdict_tables.claims(answers.tests(), settings.questions),
        verdict_tables.verdicts(summary),
        verdict_tables.by_fill(by_fill(found, settings)),
        verdict_tables.first_run(first_run(found, settings, answers)),
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The paper beside everything that it reads: tables and figures as the library writes them."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(paths.ROOT / "paper", root / "paper", ignore=shutil.ignore_patterns("*.pdf"))
    shutil.copy(paths.PARAMS, root)
    runs, controls = runs_and_controls()
    every = frames.grid(seeds=3, datasets=frames.DATASETS, entropy=lambda rng: rng.random())
    costs = frames.grid(seeds=1, datasets=frames.DATASETS, **dict.fromkeys(COSTS, lambda rng: rng.random()))
    kept = retained(runs, controls[controls.control == "untrained"], "fp32")
    for table in (
        tables.accuracy(runs),
        tables.clarity(runs, controls),
        tables.relevance_gain(runs, controls),
        tables.secondary(every.assign(auroc=0.5, sensitivity_max=0.5)),
        tables.convergence(pd.concat([runs.assign(method=method) for method in words.METHODS]), "fp32"),
        tables.preservation(runs, runs[runs.precision == "fp32"].drop(columns="precision"), "fp32"),
        tables.retained(kept),
        tables.deployment(costs.drop(columns="seed"), runs, kept),
        *tables_of_claims(runs),
    ):
        tables.write(table, root / "results" / "tables")
    files.write(root / "results" / "runs.csv", files.csv(runs))
    places = pd.concat([every.query("seed == 0").assign(distance=d) for d in (-2, -1, 1, 2)])
    outline = places.assign(relative=1.0, pixels=0.25, salient=0.25)
    for name in re.findall(r'drawing\("(\w+)"', PAPER):
        for full in [name + dataset for dataset in frames.DATASETS] if name.endswith("_") else [name]:
            style.save(plt.figure(figsize=(1, 1)), full, root / "results" / "figures")
    files.write(root / "results" / "figures" / "outline.csv", files.csv(outline))
    files.write(root / "results" / "figures" / "amplitude.csv", files.csv(amplitude.numbers(runs)))
    files.write(root / "results" / "figures" / "during.csv", files.csv(make_during()))
    tables.write(ablations.table(make_effects(), SETTINGS.claims.questions), root / "results" / "tables")
    tables.write(during.table(around_the_switch(make_during())), root / "results" / "tables")
    plt.close("all")
    return root


def in_paper(root, selector: str) -> list:
    """The elements of the paper that a selector of Typst finds, with everything in them."""
    return json.loads(typst.query(root / "paper" / "paper.typ", selector, root=root, ignore_system_fonts=True))


def texts(content) -> list[str]:
    """Every piece of text in an element, in order."""
    if isinstance(content, dict):
        own = [content["text"]] if isinstance(content.get("text"), str) else []
        return own + [text for value in content.values() for text in texts(value)]
    return [text for item in content for text in texts(item)] if isinstance(content, list) else []


def test_the_paper_compiles_from_what_the_library_writes(made):
    """Tables in tidy form, figures, params.yaml: nothing that it asks for is missing."""
    assert paper.build(made).read_bytes().startswith(b"%PDF")


def test_a_reader_sees_words_and_no_identifiers(made):
    """Controls, methods and the pair of seeds stand in the tables as everywhere else in the results."""
    shown = texts(in_paper(made, "figure"))
    assert {*words.CONTROLS.values(), *words.METHODS.values(), "two fp32 seeds"} <= set(shown)
    identifiers = {*words.CONTROLS, *words.METHODS, *words.DATASETS, SEED_TO_SEED} - {"occlusion"}
    assert not identifiers & set(shown) and not [text for text in shown if "_" in text]


@pytest.mark.parametrize("group", GROUPS)
def test_every_verdict_stands_in_the_paper(made, group):
    """A row for each claim and question of a group, the word of each dataset and training in its place, or a dash."""
    found = pd.read_csv(made / "results" / "tables" / "verdicts.csv")
    found = found.set_index(["claim", "question", "dataset", "training"])
    assert set(found.verdict) == set(VERDICTS)
    columns = [(dataset, training) for dataset in frames.DATASETS for training in frames.TRAININGS]
    expected = [
        found.verdict.get((claim.id, question, *column), "–")
        for claim in SETTINGS.claims.hypotheses if claim.group == group
        for question in claim.questions for column in columns
    ]  # fmt: skip
    first = next(claim.text for claim in SETTINGS.claims.hypotheses if claim.group == group)
    (table,) = [each["body"] for each in in_paper(made, "figure") if first in " ".join(texts(each["body"]))]
    assert [text for text in texts(table) if text in (*VERDICTS, "–")] == expected


@pytest.mark.parametrize(
    "name",
    [
        *TABLES,
        "relevance_gain",
        "preservation",
        "retained",
        "secondary",
        "convergence",
        "deployment",
        "by_fill",
        "during",
        "ablations",
    ],
)
def test_the_paper_needs_every_table(name, made, tmp_path):
    """Without one of its tables there is no paper, and the message names the table."""
    root = tmp_path / "root"
    shutil.copytree(made, root)
    (root / "results" / "tables" / f"{name}.csv").unlink()
    with pytest.raises(paper.PaperError, match=rf"{name}\.csv"):
        paper.build(root)


def test_without_ablations_the_paper_says_so(made, tmp_path):
    """One sentence in place of the section's figure, at the scales that run none."""
    root = tmp_path / "root"
    shutil.copytree(made, root)
    tables.write(ablations.table(make_effects().iloc[:0], SETTINGS.claims.questions), root / "results" / "tables")
    assert paper.build(root).read_bytes().startswith(b"%PDF")
    captions = [" ".join(texts(each["caption"])) for each in in_paper(root, "figure")]
    assert not [text for text in captions if "the sign is lost" in text]
    assert [
        text for each in in_paper(made, "figure") if "the sign is lost" in (text := " ".join(texts(each["caption"])))
    ]
