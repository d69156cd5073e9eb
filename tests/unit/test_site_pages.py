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
import torch
from PIL import Image

from saqlib.data import DATASETS, as_input
from saqlib.saliency import input_gradient
from saqlib.scores import FILLS
from study import explore, models, paths
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
    assert cells[0]["source"] == "# One: MNIST\n", "no two pages of one title"
    assert figures == ["clarity"] and 'id="figure-clarity"' in first and 'alt="a &quot;b&quot;"' in first
    assert 'id="figure-02_train-plot-curves"' in second and 'id="figure-02_train-plot-curves-2"' in third
    assert re.search(r'alt="[^"]{40,}" width="8" height="8"', second), "words of paper/alt.yaml, and a size"
    assert len(list((tmp_path / pictures.FIGURES).iterdir())) == 1, "the same picture is one file"


# -------------------------------------------------------------------------------------------------------- the paper


@pytest.fixture(scope="module")
def body() -> str:
    """What Typst makes of the paper with the committed results."""
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


def test_the_supplement_is_a_page_of_its_own_and_links_find_their_page():
    """Of the paper's form; without a supplement there is one page."""
    page = '# T\n\n<a href="#tab-b">1</a><a href="#eq"> <i id="eq">\n\n(supplement)=\n\n## Supplement\n\n### More\n\n'
    found = paper.parted(page + '(tab-b)=\n\n### B\n\n<a href="#eq"><a href="#tab-b">')
    assert found["paper"].startswith('# T\n\n<a href="supplement.html#tab-b">1</a><a href="#eq"> <i id="eq">')
    assert "supplement" in found["paper"].split("toctree")[1]
    assert (
        found["supplement"]
        == '# Supplement\n\n## More\n\n(tab-b)=\n\n## B\n\n<a href="paper.html#eq"><a href="#tab-b">'
    )
    assert paper.parted("# T\n") == {"paper": "# T\n"}


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
    cells = {path.stem: f"05_results.html#figure-{path.stem}" for path in (paths.RESULTS / "figures").glob("*.png")}
    text = paper.text(body, paths.RESULTS, tmp_path, cells)
    assert 'href="results/' not in text and csv_pages.address("results/tables/accuracy.csv#L2") in text
    images = re.findall(r"<img [^>]+>", text)
    assert len(images) == text.count('class="made"') == body.count("<img ") > 8
    assert all(re.search(r'alt="[^"]{40,}" width="\d+" height="\d+"', image) for image in images)


# ---------------------------------------------------------------------------------------------------------- tables


def test_every_csv_has_a_page_with_its_lines_and_a_copy(tmp_path):
    """The anchor L5 holds the values of line 5 of the file; every page says, in words of its own, what the file is."""
    sentences = set()
    for path in csv_pages.write(paths.RESULTS, tmp_path):
        raw = path.read_text().splitlines()
        page = (tmp_path / f"{csv_pages.page(path)}.md").read_text()
        found = re.findall(r'<tr id="L(\d+)">(.*?)</tr>', page)
        assert [int(number) for number, _ in found] == list(range(2, len(raw) + 1))
        if len(raw) > 1:  # a table of what was not run has no row
            first = re.findall(r"<td[^>]*>(.*?)</td>", found[-1][1])[1]
            assert raw[-1].startswith(first.replace("&#x27;", "'"))
        assert (tmp_path / "_static" / "results" / path.relative_to(paths.RESULTS)).read_bytes() == path.read_bytes()
        assert re.fullmatch(r"[A-Z].{20,}\.", csv_pages.about(path)), path
        sentences.add((csv_pages.about(path), *path.parts[-2:-1]))
        unexplained = [name for name in raw[0].split(",") if name != "dataset" and not csv_pages.explained(name)]
        assert unexplained == [] and page.count("<dt>") >= raw[0].count(",") - 1, path
    assert len(sentences) == len(list(csv_pages.sources(paths.RESULTS)))
    odd = paths.RESULTS / "tables" / "odd.csv"
    assert csv_pages.about(odd) == "" and csv_pages.title(odd) == "Odd"
    assert csv_pages.address("results/tables/accuracy.csv#L5") == "table_accuracy.html#L5"
    assert csv_pages.address("results/runs.csv#L9") == "file_runs.html#L9"


def test_what_a_table_says_is_text_on_its_page(tmp_path):
    """No HTML, no end of the block that HTML stands in; what is strong in the Markdown is bold, long words may wrap."""
    results = tmp_path / "results"
    (results / "tables").mkdir(parents=True)
    bad = "<script>x()</script>", '"a\n```\nb"', "word " * 20
    (results / "tables" / "odd.csv").write_text("a,<b>,c\n" + ",".join(bad) + "\n")
    (results / "tables" / "odd.md").write_text(r"| A | B\|C |" + "\n| --- | --- |\n| **▼ 1** | <script> |\n")
    csv_pages.write(results, tmp_path)
    page = (tmp_path / "table_odd.md").read_text()
    assert "<script" not in page and "<b>" not in page.replace("<b>▼ 1</b>", "") and '<th title="">B|C</th>' in page
    assert page.count("```") == 6 and '<td class="long">word' in page


def test_a_long_table_of_a_notebook_is_folded(tmp_path):
    """Under a line that says how long it is; a short one stands open, as Markdown and as HTML."""
    for rows in (12, 13):
        html, text = ("".join([head, *(row,) * rows]) for head, row in
                      (("<table><tr></tr>", "<tr></tr>"), ("| a |\n| --- |\n", "| 1 |\n")))  # fmt: skip
        for kind, content in (("text/html", html), ("text/markdown", text)):
            output = {"output_type": "display_data", "metadata": {}, "data": {kind: content}}
            *_, cell = prepared("05_results", tmp_path, code("1", outputs=[output]))[0]
            shown = cell["outputs"][0]["data"][kind]
            assert ("Show the table, 13 rows</summary>" in shown) == (rows == 13) and content in shown


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
    packed, sizes = value(tmp_path / "data-models.js"), value(tmp_path / "data-sizes.js")
    for name, path in networks.models(paths.RESULTS).items():
        assert gzip.decompress(base64.b64decode(packed[name])) == path.read_bytes()
        assert sizes[name] == path.stat().st_size
    answers = value(tmp_path / "data-answers.js")
    for dataset, known in value(tmp_path / "data-pictures.js").items():
        images, labels = explore.sample(dataset)
        assert tuple(known["classes"]) == DATASETS[dataset].classes and len(known["images"]) == 10
        for label, image in enumerate(known["images"]):
            pixels = np.frombuffer(base64.b64decode(image), np.uint8).reshape(28, 28)
            assert labels[(images == pixels).all((1, 2)).argmax()] == label
        assert {name for name in answers[dataset]} == {name for name in packed if name.startswith((dataset, "untr"))}
        for name, output, size in (("untrained", "logits", 100), (f"{dataset}-w2a2-guided", "map", 7840)):
            content = gzip.decompress(base64.b64decode(answers[dataset][name][output]))
            assert np.frombuffer(content, np.float32).size == size


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_first_picture_shows_what_was_found(dataset):
    """By the networks in PyTorch: all are right, lose confidence by either map, and 2 bits more by the pass-through."""
    images, labels = explore.sample(dataset)
    shown = [images[labels == label][0] for label in range(10)]
    label = networks.first(dataset, shown, explore.files(dataset, "standard"))
    image, mean = (
        as_input(torch.from_numpy(each.copy())[None]) for each in (shown[label], explore.mean_image(dataset))
    )
    left = {}
    for precision in ("fp32", "w4a4", "mixed", "w2a2"):
        network = models.load(f"{dataset}-{precision}-standard")
        with torch.no_grad():
            sure = network(image).softmax(1)[0]
        assert sure.argmax() == label and sure[label] > 0.8
        for saturated in explore.MAPS:
            ranks = input_gradient(network, image, saturated=saturated).abs().flatten().argsort(descending=True)
            without = image.flatten().index_copy(0, ranks[:118], mean.flatten()[ranks[:118]]).view_as(image)
            with torch.no_grad():
                left[precision, saturated] = network(without).softmax(1)[0, label].item()
            assert left[precision, saturated] < sure[label] - 0.1, (precision, saturated)
    assert left["w2a2", "pass"] < left["w2a2", "stop"] - 0.1


def test_the_draw_page_removes_to_the_mean_and_offers_both_maps():
    """The fill that qualifies is chosen at first; the gradient is a choice, explained below."""
    page = jinja2.Template((build.SOURCES / "pages" / "draw.md").read_text(encoding="utf-8"))
    text = page.render(kinds={}, datasets={}, trainings=[], fills=FILLS, removed=15)
    assert re.findall(r'name="fill" value="(\w+)" checked', text) == ["mean"]
    assert [text.count(part) for part in ('name="gradient"', "**Which gradient?**")] == [2, 1]


def test_links_into_the_repository_lead_to_pages():
    """Where there is no page for it the words stay; foreign links and anchors are left."""
    links = {
        "[a](../params.yaml)": "a",
        "[b](machines.md#x)": "[b](machines.md#x)",
        "[c](../results/tables/claims.md)": "[c](table_claims.md)",
        "[d](../site/pages/change.md)": "[d](change.md)",
        "[e](../results/notebooks/01_data.ipynb)": "[e](01_data.ipynb)",
        "[j](../paper/paper.pdf), [l](../results/README.md)": "[j](paper.md), [l](tables.md)",
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
