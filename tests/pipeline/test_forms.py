"""The forms of a notebook, each from a notebook as Jupyter writes it."""

import nbformat
import pytest

from saqlib.pipeline import forms


@pytest.fixture
def notebook() -> dict:
    """Prose, a cell of parameters, and a cell that printed twice to stdout, once to stderr and gave a result."""
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=9, metadata={"collapsed": True}, id="sum")
    cell.outputs = [
        nbformat.v4.new_output("stream", text="a\n"),
        nbformat.v4.new_output("stream", name="stderr", text="bar 3/4"),
        nbformat.v4.new_output("stream", text="b\n"),
        nbformat.v4.new_output("execute_result", data={"text/plain": "2"}, execution_count=9),
    ]
    parameters = nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]}, id="parameters")
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Prose"), parameters, cell])


def test_code_alone_has_neither_prose_nor_outputs(notebook):
    """Ids, tags and source of the cells of code."""
    cells = forms.code_only(notebook)["cells"]
    assert [(cell["id"], cell["source"], cell["outputs"]) for cell in cells] == [
        ("parameters", "x = 1", []), ("sum", "1 + 1", [])
    ]  # fmt: skip
    assert cells[0]["metadata"] == {"tags": ["parameters"]}


def test_clean_keeps_what_a_reader_sees(notebook):
    """Printed text in one piece, results, counts from 1; no stderr, no metadata. Cleaning twice changes nothing."""
    clean = forms.clean(notebook)
    last = clean["cells"][-1]
    assert [output.get("text", output.get("data")) for output in last["outputs"]] == ["a\nb\n", {"text/plain": "2"}]
    assert last["execution_count"] == last["outputs"][1]["execution_count"] == 2 and last["metadata"] == {}
    assert forms.clean(clean) == clean
    nbformat.validate(nbformat.from_dict(clean))


def test_prose_and_code_come_together_again(notebook):
    """The code alone, executed, and the notebook's prose are the notebook."""
    clean = forms.clean(notebook)
    executed = {**clean, "cells": [cell for cell in clean["cells"] if cell["cell_type"] == "code"]}
    assert forms.with_prose(notebook, executed) == clean


def test_prose_about_the_sample_is_no_other_runs(notebook):
    """Without it the rest is as it was; a notebook that has none stays as it is."""
    said = nbformat.v4.new_markdown_cell("> From the sample.", metadata={"tags": [forms.SAMPLE]})
    with_it = notebook | {"cells": [notebook.cells[0], said, *notebook.cells[1:]]}
    assert forms.of_a_run(with_it) == forms.of_a_run(notebook) == notebook


def test_prose_does_not_go_around_other_code(notebook):
    """A changed or a lost cell is an error that says so."""
    executed = forms.clean(notebook)
    notebook.cells[-1].source = "1 + 2"
    with pytest.raises(forms.FormError, match="code has changed"):
        forms.with_prose(notebook, executed)
    del notebook.cells[-1]
    with pytest.raises(forms.FormError, match="has lost cells"):
        forms.with_prose(notebook, executed)
