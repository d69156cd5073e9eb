"""Tests of study.report.paper and paper/results.typ: numbers are read while it compiles, and sentences are checked."""

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

MAPS = (
    "dataset,training,precision,map,fill,seeds,mean,low,high,floor\nmnist,standard,fp32,image,mean,all,0.6251,0,1,0\n"
)
TABLES = dict.fromkeys(("claims", "grid", "grid_confirming", "registered"), "claim\n") | {"maps": MAPS}
QUOTE = (
    '#assert(fixed(faithful(("mnist", "standard"), "fp32", "image", fill: "mean"), 2) == "0.63", '
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
    write(root, "#set document(date: none)\n" + QUOTE)
    first = paper.build(root).read_bytes()
    assert first.startswith(b"%PDF") and paper.build(root).read_bytes() == first
    files.write(root / "results" / "tables" / "maps.csv", MAPS.replace("0.6251", "0.5"))
    with pytest.raises(paper.PaperError, match="another number"):
        paper.build(root)
    assert (root / "paper" / "paper.pdf").read_bytes() == first


def test_results_of_an_earlier_version_are_one_line(root, monkeypatch):
    """The file that is missing is named, and what writes it; an earlier PDF stays; no traceback."""
    (root / "results" / "tables" / "grid.csv").unlink()
    write(root, "Text")
    (root / "paper" / "paper.pdf").write_bytes(b"as it was")
    build = paper.build
    monkeypatch.setattr(paper, "build", lambda: build(root))
    monkeypatch.setattr("sys.argv", ["paper"])
    for command in (paper.main, lambda: run.main(["paper"])):
        with pytest.raises(SystemExit) as stopped:
            command()
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


# ------------------------------------------------------------------------------------- sentences and what they rest on

# What a piece of content says, as a string.
SAID = "#metadata(plain({})) <said>\n"


def all_said(root, expressions: list[str]) -> list[str]:
    """What expressions of results.typ say."""
    write(root, "".join(SAID.format(expression) for expression in expressions))
    values = json.loads(typst.query(root / "paper" / "paper.typ", "<said>", field="value", root=root,
                                    ignore_system_fonts=True))  # fmt: skip
    return [re.sub(r"\s+", " ", value).strip() for value in values]


def value(root, name: str):
    """A variable of results.typ."""
    write(root, f"#metadata({name}) <value>")
    source = root / "paper" / "paper.typ"
    return json.loads(typst.query(source, "<value>", field="value", one=True, root=root, ignore_system_fonts=True))


CLAIM = "claim({}, [*Four* bits lose #fixed(0.317, 2) of _it_, #cited((), [12 to #str(14)]) % (@fig).])"
PAIR = "whichever(({}, [the gain stays]), ({}, [it goes]))"
MANY = "(0.42, -0.051, 0.3).map(number => (value: number, rows: ()))"
VERDICTS = [(word, size) for word in WORDS for size in (BEYOND, "open")]
SAYS = {  # numbers are rounded half away from zero, with a true minus sign and no minus zero
    'fixed("0.005", 2)': "0.01", "fixed(-0.25, 1)": "−0.3", "fixed(12.3456, 2)": "12.35", "fixed(-0.0001, 2)": "0.00",
    "fixed(7, 0)": "7", f"span({MANY}, 0, factor: 100)": "−5 to 42", f"span({MANY}, 0)": "0",
    'alt-of("saliency_letters")': style.alternative("saliency_letters"),
    'alt-of("curves")': style.alternatives()["curves"],
    CLAIM.format("true"): "Four bits lose 0.32 of it, 12 to 14 % (@fig).",
    PAIR.format("false", "true"): "it goes", PAIR.format("true", "true"): "the gain stays",
    **{f'mark((word: "{word}", size: "{size}"))': tables.symbol(word, size) for word, size in VERDICTS},
    **{f'in-words("{name}")': labels.map_name(name) for name in labels.CONTROLS | labels.MAPS},
    **{f'in-words("{name}")': word for name, word in labels.PRECISIONS.items()},
}  # fmt: skip


def test_the_paper_uses_the_words_of_figures_and_tables(root):
    """For numbers, figures, maps, precisions and verdicts; of several sentences it prints the first that holds."""
    assert dict(zip(SAYS, all_said(root, list(SAYS)), strict=True)) == SAYS


@pytest.mark.parametrize(
    ("text", "maps", "message"),
    [
        (QUOTE, MAPS.replace("fp32", "w4a4"), r"(?s)0 rows, not one, for .*fp32"),
        (QUOTE, MAPS + MAPS.splitlines()[1], r"(?s)2 rows, not one, for .*fp32"),
        (QUOTE, MAPS.replace("0.6251", ""), "float"),
        ('#alt-of("none")', MAPS, "no words for the figure none"),
        ('#image("../results/figures/none.pdf")', MAPS, r"none\.pdf"),
        (f"#{CLAIM.format('1 > 2')}", MAPS, r"no longer say: “Four bits lose 0.32 of it, 12 to 14 % \(@fig\).”"),
        (f"#{PAIR.format('false', 'false')}", MAPS, "no longer say: “it goes”"),
    ],
    ids=["row gone", "row twice", "value gone", "no words", "no figure", "claim does not hold", "no sentence holds"],
)
def test_what_is_missing_or_does_not_hold_stops_the_build(text, maps, message, root):
    """The message names it: of a sentence its words and numbers, whatever they are made of."""
    write(root, text)
    files.write(root / "results" / "tables" / "maps.csv", maps)
    with pytest.raises(paper.PaperError, match=message):
        paper.build(root)


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
    assert all_said(root, ["registered-count()"]) == ["All 1 registered comparisons came as expected"]
    label = "w2a2: guided_pass_through - w2a2, accuracy"
    rows += [registered_row("C7", "variant_higher", label, False, name, "open") for name in ("mnist", "fashion_mnist")]
    write_table(root, "registered", rows)
    counted, named = all_said(root, ["registered-count()", "registered-failures()"])
    assert counted == "Of 3 registered comparisons, 1 came as expected"
    places = "C7, MNIST, guided, 2 bits; FashionMNIST, guided, 2 bits"
    assert named == f"We expected supported: Guidance by pass-through maps gives a higher accuracy ({places}): open"
    better = registered_row("C4", "together", "clipped, lost", False, "all")
    write_table(root, "registered", [better, *rows])
    better = "We expected open: Of two seeds the one that clips more units loses more of its map (C4, all networks)"
    assert all_said(root, ["registered-failures()"]) == [f"{named}. {better}: supported"], "what failed stands first"


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


def test_verdicts_of_the_grid_have_the_colours_of_the_table(root):
    """The sign is that of the confirming seeds, beside the estimate of all, with a dash where there is none."""
    assert value(root, "mark-colours") == tables.COLOURS
    row = {"dataset": "mnist", "training": "guided", "comparison": "a - b", "word": LOWER, "size": BEYOND}
    rows = [row | {"question": "accuracy", "estimate": -0.12345}, row | {"question": "focus", "estimate": ""}]
    write_table(root, "grid", rows)
    write_table(root, "grid_confirming", [rows[0], rows[1] | {"word": "undecided"}])
    assert all_said(root, [f"marked(grid-table.at({place}))" for place in range(2)]) == ["▼ −0.12", "· –"]
