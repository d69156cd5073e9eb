"""The forms of a notebook, what is refused before one runs, and the contract that the paper's notebooks keep."""

import ast
import json
import os
import re

import nbformat
import pytest

from study import notebooks, paths
from study.notebooks import NotebookError

PARAMETERS = 'scale = "smoke"  # smoke | quick | full\ndataset = "mnist"\nseed = 3'


@pytest.fixture
def notebook() -> dict:
    """Prose, a cell of parameters, and a cell that printed twice to stdout, once to stderr and gave a result."""
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=9, metadata={"collapsed": True}, id="sum")
    cell.outputs = [
        nbformat.v4.new_output("stream", text="a\n"),
        nbformat.v4.new_output("stream", name="stderr", text="bar 3/4"),
        nbformat.v4.new_output("stream", text="b\n"),
        nbformat.v4.new_output("execute_result", data={"text/plain": "2"}, execution_count=9),
        nbformat.v4.new_output(
            "display_data", data={"image/png": "aa=="}, metadata={"image/png": {"alt": "A curve", "width": 9}}
        ),
        nbformat.v4.new_output("display_data", data={notebooks.WIDGET: {}, "text/plain": "a bar"}),
    ]
    parameters = nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]}, id="parameters")
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Prose"), parameters, cell])


# ------------------------------------------------------------------------------------------------------------ forms


def test_code_without_prose_and_outputs(notebook):
    """Ids, tags and source of cells of code; blind to outputs, counts, metadata and words, not to tags and order."""
    cells = notebooks.code_only(notebook)["cells"]
    assert [(cell["id"], cell["source"], cell["outputs"]) for cell in cells] == [
        ("parameters", "x = 1", []), ("sum", "1 + 1", [])
    ]  # fmt: skip
    assert cells[0]["metadata"] == {"tags": ["parameters"]}
    before = notebooks.code_only(notebook)
    notebook.cells[0].source, notebook.cells[2].execution_count, notebook.cells[2].outputs = "# Words", 7, []
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.9"}
    assert notebooks.code_only(notebook) == before
    notebook.cells[1].metadata = {}
    assert notebooks.code_only(notebook) != before


def test_clean_is_what_a_reader_sees(notebook):
    """Printed text in one piece, results, words of a picture, counts from 1; no stderr, no widget. Twice is once."""
    clean = notebooks.clean(notebook)
    last = clean["cells"][-1]
    assert [output.get("text", output.get("data")) for output in last["outputs"]] == [
        "a\nb\n", {"text/plain": "2"}, {"image/png": "aa=="}
    ]  # fmt: skip
    assert last["execution_count"] == last["outputs"][1]["execution_count"] == 2 and last["metadata"] == {}
    assert last["outputs"][2]["metadata"] == {"image/png": {"alt": "A curve"}}
    assert notebooks.clean(clean) == clean
    nbformat.validate(nbformat.from_dict(clean))


def test_prose_and_code_come_together_again(notebook):
    """The code alone, executed, and the notebook's prose are the notebook; prose about the sample is no other run's."""
    clean = notebooks.clean(notebook)
    executed = {**clean, "cells": [cell for cell in clean["cells"] if cell["cell_type"] == "code"]}
    assert notebooks.with_prose(notebook, executed) == clean
    about = nbformat.v4.new_markdown_cell("> From the sample.", metadata={"tags": [notebooks.SAMPLE]})
    with_it = notebook | {"cells": [notebook.cells[0], about, *notebook.cells[1:]]}
    assert notebooks.of_a_run(with_it) == notebooks.of_a_run(notebook) == notebook


# ---------------------------------------------------------------------------------------- refused before it runs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkout with one notebook, which leaves a file where it runs."""
    for name in ("notebooks", "build", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(paths, name.upper(), tmp_path / name)
    cell = nbformat.v4.new_code_cell
    cells = [cell(PARAMETERS, metadata={"tags": ["parameters"]}), cell(f"open({str(tmp_path / 'ran')!r}, 'w')")]
    toy = nbformat.v4.new_notebook(cells=cells, metadata=notebooks.METADATA)
    nbformat.write(toy, tmp_path / "notebooks" / "toy.ipynb")
    yield tmp_path
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("toi", {}, "there is no notebook 'toi' in notebooks/; did you mean 'toy'"),
        ("../notebooks/toy", {}, "there is no notebook"),
        ("to\ny", {}, "there is no notebook"),
        ("toy", {"datset": "mnist"}, "notebook toy has no parameter 'datset'; did you mean 'dataset'"),
        ("toy", {"seed": "4"}, "parameter 'seed' of notebook toy is not a name"),
        ("toy", {"dataset": "a\nb"}, "parameter 'dataset' of notebook toy cannot be"),
        ("toy", {"dataset": "\udcff"}, "parameter 'dataset' of notebook toy cannot be"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_runs(folder, name, parameters, message):
    """A notebook or a parameter that is none, and values: those are read from params.yaml."""
    with pytest.raises(NotebookError, match=re.escape(message)) as error:
        notebooks.run(name, folder / "out.ipynb", parameters)
    assert str(error.value).isprintable()


def test_an_output_that_cannot_be_written_is_refused(folder):
    """A folder, a device, another kind of file."""
    (folder / "there.ipynb").mkdir()
    os.mkfifo(folder / "fifo.ipynb")
    for name in ("there.ipynb", "fifo.ipynb", "out.txt", "out"):
        with pytest.raises(NotebookError) as error:
            notebooks.run("toy", folder / name, {})
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_copy_whose_code_has_changed_is_left_as_it_is(folder):
    """A sentence says so, of a changed and of a lost cell; a copy of today's code gets today's prose."""
    executed = folder / "build" / "executed"
    executed.mkdir()
    source = json.loads((folder / "notebooks" / "toy.ipynb").read_text())
    (executed / "toy-a.ipynb").write_text(json.dumps(notebooks.clean(source)))
    first, second = source["cells"]
    for name, cells in {"b": [first, second | {"source": "2"}], "c": [first, second, second | {"id": "x"}]}.items():
        (executed / f"toy-{name}.ipynb").write_text(json.dumps(notebooks.clean(source | {"cells": cells})))
    assert notebooks.read() == [
        "toy-b.ipynb is left as it is: the notebook's code has changed since this copy was executed",
        "toy-c.ipynb is left as it is: the notebook has lost cells since this copy was executed",
    ]
    assert [path.name for path in (folder / "results" / "notebooks").iterdir()] == ["toy-a.ipynb"]


# ----------------------------------------------------------------------------------------- the notebooks of the paper

PAPER = sorted(paths.NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(params=PAPER, ids=lambda path: path.stem)
def paper(request) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def test_a_notebook_begins_with_prose_and_parameters(paper):
    """A heading that says what it takes and feeds; constants at the size of the sample; no other cell of parameters."""
    first, second, *rest = [cell for cell in paper.cells if notebooks.SAMPLE not in cell.metadata.get("tags", [])]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "*Feeds*" in first.source and "*Takes*" in first.source
    assert second.metadata.get("tags") == ["parameters"]
    assert not any("parameters" in cell.metadata.get("tags", []) for cell in rest)
    defaults = {}
    for node in ast.parse(second.source).body:
        assert isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        defaults[node.targets[0].id] = node.value.value
    assert defaults.get("scale", "smoke") == "smoke"
    if "scale" in defaults:  # what has none reads results/ and writes nothing
        assert defaults["output"] == "build/smoke"


def test_a_notebook_is_clean_and_can_be_compared(paper):
    """Every code cell has run, in order (nbval passes over one without a count), and holds what a reader sees."""
    codes = [cell for cell in paper.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
    assert not any(output.output_type == "error" for cell in codes for output in cell.outputs)
    nbformat.validate(paper)
    assert notebooks.clean(paper) == paper, "run `make notebooks`"


def test_a_notebook_has_short_cells(paper):
    """Logic lies in saqlib; a cell is read at a glance."""
    for cell in paper.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 20, cell.source
