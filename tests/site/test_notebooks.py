"""Tests of saqlib.site.notebooks: code folded, figures with words and anchors, where they are made."""

import base64
import io

import pytest
from PIL import Image

from saqlib import paths
from saqlib.pipeline.alternatives import alternatives
from saqlib.site import notebooks, pictures


def picture() -> dict:
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "PNG")
    return {
        "output_type": "display_data",
        "metadata": {},
        "data": {"image/png": base64.b64encode(content.getvalue()).decode()},
    }


def code(source: str, *tags: str, id: str = "cell", outputs=()) -> dict:
    return {"cell_type": "code", "id": id, "metadata": {"tags": list(tags)}, "source": source, "outputs": list(outputs)}


def notebook(*cells: dict) -> dict:
    return {
        "cells": [{"cell_type": "markdown", "id": "intro", "metadata": {}, "source": "# One"}, *cells],
        "metadata": {},
    }


def html(cell: dict) -> list[str]:
    return [output["data"]["text/html"] for output in cell["outputs"]]


def test_defaults_that_were_overridden_are_left_out_and_code_is_folded(tmp_path):
    """The origin says at which scale it ran, and how to run it oneself."""
    shown, _ = notebooks.prepared(
        notebook(code('scale = "smoke"', "parameters"), code('scale = "full"', "injected-parameters"), code("1")),
        "01_data", tmp_path,
    )  # fmt: skip
    sources = [cell["source"] for cell in shown["cells"]]
    assert sources[2:] == ['scale = "full"', "1"] and "`full`" in sources[1] and "01_data.ipynb" in sources[1]
    assert all("hide-input" in cell["metadata"]["tags"] for cell in shown["cells"][2:])


def test_a_saved_figure_has_its_words_and_is_found_by_its_name(tmp_path):
    """As many pictures as figures: each its own, in their order."""
    cell = code('for name in x:\n    save(a, f"saliency_{name}")', outputs=[picture() for _ in range(4)])
    shown, made = notebooks.prepared(notebook(cell), "05_compare", tmp_path)
    assert made == [name for name in alternatives() if name.startswith("saliency_")]
    for name, element in zip(made, html(shown["cells"][2]), strict=True):
        assert f'id="figure-{name}"' in element and 'width="8"' in element
        assert pictures.alternative(name).split("'")[0] in element


def test_a_figure_that_a_notebook_alone_shows_is_described_by_its_cell(tmp_path):
    """Two pictures of one cell have two anchors; a cell without words is an error that names it."""
    shown, made = notebooks.prepared(
        notebook(code("draw()", id="explain", outputs=[picture(), picture()])), "04_deploy", tmp_path
    )
    first, second = html(shown["cells"][2])
    assert made == [] and 'id="figure-04_deploy-explain"' in first and 'id="figure-04_deploy-explain-2"' in second
    with pytest.raises(pictures.PictureError, match="05_compare/new"):
        notebooks.prepared(notebook(code("draw()", id="new", outputs=[picture()])), "05_compare", tmp_path)


def test_every_committed_figure_has_the_cell_that_makes_it(tmp_path):
    """So that the paper can link each to where it comes from."""
    made = notebooks.write(paths.RESULTS, tmp_path)
    assert made.keys() == {path.stem for path in (paths.RESULTS / "figures").glob("*.png")}
    assert made["clarity"] == "05_compare.html#figure-clarity" and made["data"].startswith("01_data.html")
