"""Tests of study.report.paper and paper/results.typ: numbers are read while it compiles, and sentences are checked."""

import inspect
import json
import re
import shutil
import sys

import pandas as pd
import pytest
import typst

from saqlib import saliency, scoring
from saqlib.grid import BEYOND, LOWER, WORDS
from study import files, paths, run, settings
from study.report import labels, paper, style, tables

MAPS = (
    "dataset,training,precision,map,fill,seeds,mean,low,high,floor\nmnist,standard,fp32,image,mean,all,0.6251,0,1,0\n"
)
TABLES = dict.fromkeys(("claims", "grid", "grid_confirming", "registered"), "claim\n") | {"maps": MAPS}
QUOTE = (
    '#assert(fixed(faithful(("mnist", "standard"), "{precision}", "image", fill: "mean"), 2) == "{number}", '
    'message: "another number")'
)


@pytest.fixture
def root(tmp_path):
    """A folder with results of one row and the project's own reader of results; its paper is written by a test."""
    shutil.copytree(paths.ROOT / "paper", tmp_path / "paper", ignore=shutil.ignore_patterns("*.pdf"))
    shutil.copy(paths.PARAMS, tmp_path)
    contents = {f"tables/{name}": content for name, content in TABLES.items()}
    for name, content in (contents | {"runs": "seed\n0\n1\n", "evidence/saturation": "dataset\n"}).items():
        files.write(tmp_path / "results" / f"{name}.csv", content)
    return tmp_path


def write(root, text: str) -> None:
    (root / "paper" / "paper.typ").write_text(f'#import "results.typ": *\n{text}', encoding="utf-8")


def write_table(root, name: str, rows: list[dict]) -> None:
    files.write(root / "results" / "tables" / f"{name}.csv", files.csv(pd.DataFrame(rows)))


def test_a_number_is_read_while_the_paper_compiles(root):
    """Quoted as in results/, rounded, with the same bytes each time; after a change there the text no longer holds."""
    write(root, "#set document(date: none)\n" + QUOTE.format(precision="fp32", number="0.63"))
    first = paper.build(root).read_bytes()
    assert first.startswith(b"%PDF") and paper.build(root).read_bytes() == first
    files.write(root / "results" / "tables" / "maps.csv", MAPS.replace("0.6251", "0.5"))
    with pytest.raises(paper.PaperError, match="another number"):
        paper.build(root)
    assert (root / "paper" / "paper.pdf").read_bytes() == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MAPS.replace("fp32", "w4a4"), r"(?s)0 rows, not one, for .*fp32"),
        (MAPS + MAPS.splitlines()[1], r"(?s)2 rows, not one, for .*fp32"),
        (MAPS.replace("0.6251", ""), "float"),
    ],
    ids=["row gone", "row twice", "value gone"],
)
def test_a_missing_number_stops_the_build(root, content, message):
    """The message names what is missing."""
    write(root, QUOTE.format(precision="fp32", number="0.63"))
    files.write(root / "results" / "tables" / "maps.csv", content)
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
    assert said(root, 'alt-of("saliency_letters")') == style.alternative("saliency_letters")
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
    """Exit code 1 where something is missing; who asks for help builds nothing."""
    monkeypatch.setattr(paper, "build", lambda: (_ for _ in ()).throw(paper.PaperError("no number")))
    monkeypatch.setattr(sys, "argv", ["paper"])
    with pytest.raises(SystemExit, match="no number"):
        paper.main()
    monkeypatch.setattr(sys, "argv", ["paper", "--help"])
    with pytest.raises(SystemExit, match="0"):
        paper.main()


# ------------------------------------------------------------------------------------- sentences and what they rest on

# What a piece of content says, as a string.
SAID = "#metadata(plain({})) <said>\n"


def all_said(root, expressions: list[str]) -> list[str]:
    """What expressions of results.typ say."""
    write(root, "".join(SAID.format(expression) for expression in expressions))
    values = json.loads(typst.query(root / "paper" / "paper.typ", "<said>", field="value", root=root,
                                    ignore_system_fonts=True))  # fmt: skip
    return [re.sub(r"\s+", " ", value).strip() for value in values]


def said(root, expression: str) -> str:
    """What one says."""
    return all_said(root, [expression])[0]


def value(root, name: str):
    """A variable of results.typ."""
    write(root, f"#metadata({name}) <value>")
    source = root / "paper" / "paper.typ"
    return json.loads(typst.query(source, "<value>", field="value", one=True, root=root, ignore_system_fonts=True))


def test_a_claim_that_does_not_hold_stops_the_build_and_is_named(root):
    """With its numbers, whatever its words are made of; one that holds is printed."""
    given = "[*Four* bits lose #fixed(0.317, 2) of _it_, #cited((), [12 to #str(14)]) % (@fig).]"
    assert said(root, f"claim(true, {given})") == "Four bits lose 0.32 of it, 12 to 14 % (@fig)."
    write(root, f"#claim(1 > 2, {given})")
    with pytest.raises(paper.PaperError, match=r"no longer say: “Four bits lose 0.32 of it, 12 to 14 % \(@fig\).”"):
        paper.build(root)


def test_of_sentences_for_several_outcomes_the_one_that_holds_is_printed(root):
    """The first of them; where none holds the build stops."""
    pair = "whichever(({}, [the gain stays]), ({}, [it goes]))"
    assert all_said(root, [pair.format("false", "true"), pair.format("true", "true")]) == ["it goes", "the gain stays"]
    write(root, f"#{pair.format('false', 'false')}")
    with pytest.raises(paper.PaperError, match="no longer say: “it goes”"):
        paper.build(root)


def test_many_numbers_are_the_least_and_the_most(root):
    """One where both are shown alike."""
    rows = ", ".join(f"(value: {number}, rows: ())" for number in (0.42, -0.051, 0.3))
    assert said(root, f"span(({rows}), 0, factor: 100)") == "−5 to 42"
    assert said(root, f"span(({rows}), 0)") == "0"


def test_what_is_lost_is_a_share_of_what_training_gives(root):
    """Of the method's own map at full precision, above its untrained network's."""
    row = {"dataset": "mnist", "training": "guided", "map": "occlusion", "fill": "qualifying", "seeds": "all"}
    means = {"fp32": (0.5, 0.1), "w4a4": (0.4, 0.3)}
    write_table(
        root, "maps", [row | {"precision": p, "mean": mean, "floor": floor} for p, (mean, floor) in means.items()]
    )
    assert value(root, 'lost(("mnist", "guided"), "w4a4", "occlusion").value') == pytest.approx(0.25)


def registered_row(claim, test, comparison, came=True, dataset="mnist", word="supported"):
    expected = word if came else "open" if word == "supported" else "supported"
    return {"claim": claim, "test": test, "dataset": dataset, "training": "guided", "comparison": comparison,
            "word": word, "expected": expected, "came": came}  # fmt: skip


def test_registered_claims_are_counted_and_failures_named(root):
    """Those that are only described do not count; a failure has its claim's words, its places and what was expected."""
    rows = [registered_row("C2", "recovered", "w4a4: share recovered, pass_through")]
    write_table(root, "registered", [*rows, registered_row("C5", "", "", "")])
    assert said(root, "registered-count()") == "All 1 registered comparisons came as expected"
    label = "w2a2: guided_pass_through - w2a2, accuracy"
    rows += [registered_row("C7", "variant_higher", label, False, name, "open") for name in ("mnist", "fashion_mnist")]
    write_table(root, "registered", rows)
    counted, named = all_said(root, ["registered-count()", "registered-failures()"])
    assert counted == "Of 3 registered comparisons, 1 came as expected"
    assert named == (
        "Guidance by pass-through maps gives a higher accuracy (C7) is open and not supported: "
        "MNIST, guided at 2 bits; FashionMNIST, guided at 2 bits"
    )


def test_every_registered_claim_is_found_by_its_comparisons(root):
    """By the labels that saqlib.registered writes: each of params.yaml, and no two of them are taken for each other."""
    table = paths.RESULTS / "tables" / "registered.csv"
    shutil.copy(table, root / "results" / "tables")
    texts = value(root, "registered-table.map(row => entry-of(row).text)")
    rows = pd.read_csv(table, keep_default_na=False)
    kinds = rows.comparison.str.replace(r"^\w+: ", "", regex=True)
    found = {text: set(kinds[[each == text for each in texts]]) for text in texts}
    assert set(found) == {entry.text for entry in settings.load().registered}
    assert sum(map(len, found.values())) == len(set().union(*found.values())), "one label, one claim"


def test_constants_are_those_of_the_code(root):
    """What the paper says of SmoothGrad, integrated gradients, occlusion and finite differences."""
    found = value(root, "constants")
    defaults = {}
    for name, method in (("smoothgrad", saliency.smoothgrad), ("integrated", saliency.integrated_gradients)):
        values = inspect.signature(method).parameters
        defaults[name] = {key: values[key].default for key in found[name]}
    assert {name: found.pop(name) for name in defaults} == defaults
    assert found.pop("occlusion") == {"window": saliency.OCCLUSION_WINDOW, "stride": saliency.OCCLUSION_STRIDE}
    codes = round(255 * scoring.DIFFERENCE_STEP)
    assert found == {"differences": {"window": saliency.DIFFERENCE_WINDOW, "codes": codes}}


def test_verdicts_of_the_grid_have_the_symbols_of_the_table(root):
    """And the same colours: the sign of the confirming seeds beside the estimate of all, a dash without one."""
    every = [(word, size) for word in WORDS for size in (BEYOND, "open")]
    given = [f'mark((word: "{word}", size: "{size}"))' for word, size in every]
    assert all_said(root, given) == [tables.symbol(*each) for each in every]
    assert value(root, "mark-colours") == tables.COLOURS
    row = {"dataset": "mnist", "training": "guided", "comparison": "a - b", "word": LOWER, "size": BEYOND}
    rows = [row | {"question": "accuracy", "estimate": -0.12345}, row | {"question": "focus", "estimate": ""}]
    write_table(root, "grid", rows)
    write_table(root, "grid_confirming", [rows[0], rows[1] | {"word": "undecided"}])
    assert all_said(root, [f"marked(grid-table.at({place}))" for place in range(2)]) == ["▼ −0.12", "· –"]


def test_the_paper_and_the_figures_use_the_same_words(root):
    """For maps, controls and precisions: in tables of the paper, and everywhere else."""
    names = {name: labels.map_name(name) for name in labels.CONTROLS | labels.MAPS} | labels.PRECISIONS
    assert all_said(root, [f'in-words("{name}")' for name in names]) == list(names.values())
