"""The parts of the site: notebooks, paper, tables by line, networks as scripts, links; tests/slow builds it whole."""

import base64
import gzip
import io
import json
import re
from collections import Counter

import jinja2
import numpy as np
import pytest
from PIL import Image

from saqlib.data import DATASETS
from study import explore, paths
from study.report.paper import PaperError
from study.site import build, csv_pages, networks, notebooks, paper, pictures

# -------------------------------------------------------------------------------------------------------- notebooks


def picture(**words: str) -> dict:
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "PNG")
    data = {"image/png": base64.b64encode(content.getvalue()).decode()}
    return {"output_type": "display_data", "metadata": {"image/png": words}, "data": data}


def code(source: str, *tags: str, id: str = "cell", outputs=()) -> dict:
    return {"cell_type": "code", "id": id, "metadata": {"tags": list(tags)}, "source": source, "outputs": list(outputs)}


def prepared(stem: str, folder, *cells: dict) -> tuple[list[dict], list[str]]:
    intro = {"cell_type": "markdown", "id": "intro", "metadata": {}, "source": "# One"}
    notebook, figures = notebooks.prepared({"cells": [intro, *cells], "metadata": {}}, stem, folder)
    return notebook["cells"], figures


def test_defaults_that_were_overridden_are_left_out_and_code_is_folded(tmp_path):
    """The origin says at which scale it ran, and how to run it oneself."""
    cells, _ = prepared("01_data", tmp_path, code('scale = "smoke"', "parameters"),
                        code('scale = "full"', "injected-parameters"), code("1"))  # fmt: skip
    sources = [cell["source"] for cell in cells]
    assert sources[2:] == ['scale = "full"', "1"] and "`full`" in sources[1] and "01_data.ipynb" in sources[1]
    assert all("hide-input" in cell["metadata"]["tags"] for cell in cells[2:])


def test_a_figure_has_its_words_and_is_found_by_its_name(tmp_path):
    """The paper finds a figure of results/ by its name; one that a notebook alone shows has the name of its cell."""
    shown = code("draw()", id="plot-curves", outputs=[picture(), picture()])
    saved = code("1", outputs=[picture(name="clarity", alt='a "b"')])
    cells, figures = prepared("02_train-mnist", tmp_path, saved, shown)
    (first,), (second, third) = ([output["data"]["text/html"] for output in cell["outputs"]] for cell in cells[2:])
    assert figures == ["clarity"] and 'id="figure-clarity"' in first and 'alt="a &quot;b&quot;"' in first
    assert 'id="figure-02_train-plot-curves"' in second and 'id="figure-02_train-plot-curves-2"' in third
    assert re.search(r'alt="[^"]{40,}" width="8" height="8"', second), "words of paper/alt.yaml, and a size"
    assert len(list((tmp_path / pictures.FIGURES).iterdir())) == 1, "the same picture is one file"


# -------------------------------------------------------------------------------------------------------- the paper


@pytest.fixture(scope="module")
def body() -> str:
    """What Typst makes of the paper with the committed results."""
    if not (paths.RESULTS / "tables" / "grid.csv").exists():
        pytest.skip("results/tables/grid.csv is not there yet: an earlier version wrote results/")
    return paper.body(paths.ROOT)


def test_headings_become_the_pages_own_with_their_anchors(tmp_path):
    """Formulas are numbered in their order, and keep the anchor that the text refers to; another form is an error."""
    text = paper.text(
        '<p>Title</p><p>Sub</p><p>Us</p><div>Abstract</div><h2>1 A &amp; B</h2><h3 id="sec-x">1.1 C</h3><p>a ± b</p>'
        '<math display="block">x</math><math id="eq-y" display="block">y</math>',
        tmp_path, tmp_path, {},
    )  # fmt: skip
    assert text.startswith("# Title\n") and "\n## 1 A & B\n\n(sec-x)=\n\n### 1.1 C\n" in text
    assert '<div class="equation"><math display="block">x</math><span>(1)</span></div>' in text
    assert '<div class="equation" id="eq-y"><math display="block">y</math><span>(2)</span></div>' in text
    with pytest.raises(PaperError, match="does not begin with title"):
        paper.text("<main></main>", tmp_path, tmp_path, {})


def test_every_number_stands_in_the_line_that_it_links_to(body):
    """Of the linked means of tables, each is that line's, rounded."""
    links = re.findall(r'<a href="results/(\S+?)#L(\d+)"[^>]*class="number">(.*?)</a>', body)
    checked = Counter()
    for file, line, shown in links:
        header, row = ((paths.RESULTS / file).read_text().splitlines()[i].split(",") for i in (0, int(line) - 1))
        match = re.fullmatch(r"(−?)(\d+\.(\d+))±.*", shown)
        if match and "mean" in header:
            value = float(row[header.index("mean")])
            assert abs(value - float(match[1].replace("−", "-") + match[2])) <= 0.51 * 10 ** -len(match[3])
            checked[file] += 1
    assert len(links) > 400 and sum(checked.values()) > 300 and len(checked) >= 4


def test_numbers_pictures_and_cells_are_linked(body, tmp_path):
    """Numbers to the pages of lines, each figure to its notebook's cell, with words and sizes."""
    cells = {path.stem: f"05_compare.html#figure-{path.stem}" for path in (paths.RESULTS / "figures").glob("*.png")}
    text = paper.text(body, paths.RESULTS, tmp_path, cells)
    assert 'href="results/' not in text and csv_pages.address("results/tables/accuracy.csv#L2") in text
    images = re.findall(r"<img [^>]+>", text)
    assert len(images) == text.count('class="made"') == body.count("<img ") > 8
    assert all(re.search(r'alt="[^"]{40,}" width="\d+" height="\d+"', image) for image in images)


# ---------------------------------------------------------------------------------------------------------- tables


def test_every_csv_has_a_page_with_its_lines_and_a_copy(tmp_path):
    """The anchor L5 holds the values of line 5 of the file, and every page says what the file is."""
    for path in csv_pages.write(paths.RESULTS, tmp_path):
        raw = path.read_text().splitlines()
        page = (tmp_path / f"{csv_pages.page(path)}.md").read_text()
        found = re.findall(r'<tr id="L(\d+)">.*?</th>(.*?)</tr>', page)
        assert [int(number) for number, _ in found] == list(range(2, len(raw) + 1))
        if len(raw) > 1:  # a table of what was not run has no row
            first = re.findall(r"<td>(.*?)</td>", found[-1][1])[0]
            assert raw[-1].startswith(first.replace("&#x27;", "'"))
        assert (tmp_path / "_static" / "results" / path.relative_to(paths.RESULTS)).read_bytes() == path.read_bytes()
        assert re.fullmatch(r"[A-Z].{20,}\.", csv_pages.about(path)), path
    odd = paths.RESULTS / "tables" / "odd.csv"
    assert csv_pages.about(odd) == "" and csv_pages.title(odd) == "Odd"
    assert csv_pages.address("results/tables/accuracy.csv#L5") == "table_accuracy.html#L5"
    assert csv_pages.address("results/runs.csv#L9") == "file_runs.html#L9"


# --------------------------------------------------------------------------------------------- networks, links, parts


def value(path):
    """What a script of data sets."""
    text = path.read_text()
    return json.loads(text[text.index("] = ") + 4 :].rstrip(";\n"))


def test_the_scripts_of_data_hold_files_pictures_and_answers(tmp_path):
    """Byte for byte the committed files; for every network the answers to one test image of each class."""
    runtime = tmp_path / "onnxruntime-web" / "dist"
    runtime.mkdir(parents=True)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (runtime / name).write_bytes(name.encode())
    networks.write(paths.RESULTS, tmp_path, tmp_path)
    models, sizes = value(tmp_path / "data-models.js"), value(tmp_path / "data-sizes.js")
    for name, path in networks.models(paths.RESULTS).items():
        assert gzip.decompress(base64.b64decode(models[name])) == path.read_bytes()
        assert sizes[name] == path.stat().st_size
    answers = value(tmp_path / "data-answers.js")
    for dataset, known in value(tmp_path / "data-pictures.js").items():
        images, labels = explore.sample(dataset)
        assert tuple(known["classes"]) == DATASETS[dataset].classes and len(known["images"]) == 10
        for label, image in enumerate(known["images"]):
            pixels = np.frombuffer(base64.b64decode(image), np.uint8).reshape(28, 28)
            assert labels[(images == pixels).all((1, 2)).argmax()] == label
        assert {name for name in answers[dataset]} == {name for name in models if name.startswith((dataset, "untr"))}
        for name, output, size in (("untrained", "logits", 100), (f"{dataset}-w2a2-guided", "map", 7840)):
            packed = gzip.decompress(base64.b64decode(answers[dataset][name][output]))
            assert np.frombuffer(packed, np.float32).size == size


@pytest.mark.parametrize("both", [True, False])
def test_the_gradient_is_a_choice_where_the_files_have_both_maps(both):
    """One map of files of an earlier version needs no switch, and no words about it."""
    page = jinja2.Template((build.SOURCES / "pages" / "draw.md").read_text(encoding="utf-8"))
    text = page.render(kinds={}, datasets={}, trainings=[], pass_through=both)
    assert [text.count(part) for part in ('name="gradient"', "**Which gradient?**")] == [2 * both, both]


def test_links_into_the_repository_lead_to_pages():
    """Where there is no page for it the words stay; foreign links and anchors are left."""
    links = {
        "[a](../params.yaml)": "a",
        "[b](machines.md#x)": "[b](machines.md#x)",
        "[c](../results/tables/claims.md)": "[c](table_claims.md)",
        "[d](../site/pages/change.md)": "[d](change.md)",
        "[e](../results/notebooks/01_data.ipynb)": "[e](01_data.ipynb)",
    } | {each: each for each in ("[f](https://g.h)", "[i](#j)", "![k](l.png)")}
    assert build.on_the_site(" ".join(links), "docs", paths.RESULTS) == " ".join(links.values())


def test_a_missing_package_is_named_with_the_command_that_brings_it(tmp_path, monkeypatch):
    """In one line, be it a runtime of npm's or a package of Python's."""
    monkeypatch.setattr(build, "MODULES", tmp_path)
    monkeypatch.setattr(build, "find_spec", lambda name: name)
    with pytest.raises(SystemExit, match=r"onnxruntime-web/dist is missing; run `make site`"):
        build.main([])
    monkeypatch.setattr(build, "find_spec", lambda name: None if name == "furo" else name)
    with pytest.raises(SystemExit, match=r"^furo is missing; run `make site`"):
        build.main([])


def test_scripts_are_small_and_need_nothing():
    """Plain JavaScript, no import but of the runtime from memory; npm's lock names hashes and no registry."""
    for path in (build.SOURCES / "static").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300
        assert re.findall(r"import\(\w+\)|import .* from|require\(", text) in ([], ["import(address)"])
    lock = json.loads((build.SOURCES / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages and all("resolved" not in package and package["integrity"] for package in packages.values())
