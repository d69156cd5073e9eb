"""Tests of saqlib.pipeline.alternatives: which figures a cell shows, and their words in the notebooks' metadata."""

import json

import pytest

from saqlib import paths
from saqlib.pipeline.alternatives import alternatives, described, saves
from saqlib.pipeline.forms import clean


@pytest.mark.parametrize(
    ("source", "saved"),
    [
        ('save(figures.clarity(runs), "clarity")', True),
        ('style.save(figure, "clarity", folder)', True),
        ('save(figure, f"clar{x}")', True),
        ('print("clarity")', False),
        ("save(figure, name)", False),
    ],
)
def test_which_cell_saves_a_figure_is_read_from_its_code(source, saved):
    """From the call, not from any word."""
    assert bool(saves(source, {"clarity": "..."})) == saved


def cell(source: str, *kinds: str) -> dict:
    """A cell of code with outputs of these kinds."""
    outputs = [{"output_type": "display_data", "data": {kind: "x"}, "metadata": {}} for kind in kinds]
    return {"cell_type": "code", "id": "explain", "metadata": {}, "source": source, "outputs": outputs}


def alts(notebook: dict) -> list[str | None]:
    """The words of each output."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [output.get("metadata", {}).get("image/png", {}).get("alt") for output in outputs]


def test_pictures_get_their_words_and_keep_them():
    """A figure its own, any other picture those of its cell, a table none; a clean copy has them still."""
    words = alternatives()
    notebook = {"cells": [cell('save(f, "curves")', "image/png", "text/html"), cell("draw()", "image/png")]}
    found = described(notebook, "04_deploy")
    assert alts(found) == [words["curves"], None, words["04_deploy/explain"]]
    assert alts(clean(found)) == alts(found)


def test_a_picture_without_words_has_none():
    """Running a notebook with a new figure does not fail; the reading copy asks for its words."""
    assert alts(described({"cells": [cell("draw()", "image/png")]}, "99_new")) == [None]


def test_the_words_are_in_the_committed_notebook():
    """Where nbconvert looks for them; the other notebooks get theirs when they are next refreshed."""
    notebook = json.loads((paths.NOTEBOOKS / "04_deploy.ipynb").read_text())
    assert alternatives()["04_deploy/explain"] in alts(notebook)
