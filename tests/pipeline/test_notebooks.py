"""Parameters are checked, copies are clean, and the notebooks of the paper keep their contract."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from saqlib import paths, processes
from saqlib.pipeline import forms, notebooks
from saqlib.pipeline.notebooks import NotebookError

PARAMETERS = 'scale = "smoke"  # smoke | quick | full\ndataset = "mnist"\nseed = 3'


def code(source: str, *tags: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def toy(*sources: str) -> nbformat.NotebookNode:
    """A notebook by the contract: prose, parameters, then the cells of `sources`."""
    cells = [nbformat.v4.new_markdown_cell("# Toy"), code(PARAMETERS, "parameters"), *map(code, sources)]
    return nbformat.v4.new_notebook(cells=cells, metadata=forms.METADATA)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkout of its own: notebooks/ and build/ below a folder whose name holds a space."""
    root = tmp_path / "a folder"
    for name in ("notebooks", "build"):
        (root / name).mkdir(parents=True)
        monkeypatch.setattr(paths, name.upper(), root / name)
    return root


def put(folder, notebook, name="toy") -> None:
    nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")


def printed(path) -> list[str]:
    """What each code cell of a notebook printed."""
    cells = json.loads(path.read_text())["cells"]
    outputs = [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]
    return ["".join("".join(output.get("text", "")) for output in some) for some in outputs]


# ------------------------------------------------------------------------------------- copies of the code


def test_code_copy_is_blind_to_prose_outputs_counts_and_metadata(folder):
    """The copy that stages depend on is the same after a run in JupyterLab, and after a mended sentence."""
    notebook = toy("print(1)")
    put(folder, notebook)
    before = notebooks.code("toy").read_bytes()
    cell = notebook.cells[2]
    cell.outputs = [nbformat.v4.new_output("stream", text="1\n")]
    cell.execution_count = 7
    cell.metadata = {"collapsed": True, "execution": {"iopub.execute_input": "now"}}
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.9"}
    notebook.cells[0].source = "# A toy"
    notebook.cells.append(nbformat.v4.new_markdown_cell("And a last word."))
    put(folder, notebook)
    assert notebooks.code("toy").read_bytes() == before


@pytest.mark.parametrize("change", ["source", "tags", "order"])
def test_code_copy_sees_what_a_run_depends_on(folder, change):
    """A change of the code, of a tag or of the order of cells is a change of the copy."""
    notebook = toy("a = 1", "b = 2")
    put(folder, notebook)
    before = notebooks.code("toy").read_bytes()
    if change == "source":
        notebook.cells[2].source = "a = 2"
    elif change == "tags":
        notebook.cells[1].metadata = {}
    else:
        notebook.cells[2:] = notebook.cells[:1:-1]
    put(folder, notebook)
    assert notebooks.code("toy").read_bytes() != before


def test_code_copy_is_a_valid_notebook(folder):
    """The copy passes nbformat's schema and names the kernel python3."""
    notebook = toy("print(1)")
    notebook.metadata["kernelspec"]["name"] = "somebodys-env"
    put(folder, notebook)
    copy = nbformat.read(notebooks.code("toy"), as_version=4)
    nbformat.validate(copy)
    assert copy.metadata.kernelspec.name == "python3"


# ---------------------------------------------------------------------------------------------- execution


def test_two_runs_give_the_same_bytes(folder):
    """Times, random ids, progress bars and the cuts of a stream leave no trace in an executed notebook."""
    put(
        folder,
        toy(
            "import sys, time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.05)",
            "print(time.time(), file=sys.stderr)",
            "from IPython.display import Markdown\nMarkdown('*a*')",
            "from ipywidgets import IntProgress\nIntProgress()",
            "dataset",
        ),
    )
    outputs = [folder / "one.ipynb", folder / "two.ipynb"]
    for output in outputs:
        notebooks.run("toy", output, {"dataset": "fashion_mnist"})
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    executed = nbformat.read(outputs[0], as_version=4)
    nbformat.validate(executed)
    codes = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, 8))
    assert [len(cell.outputs) for cell in codes] == [0, 0, 1, 0, 1, 0, 1]
    assert codes[2].outputs[0].text == "0\n1\n2\n"
    assert codes[-1].outputs[0].data["text/plain"] == "'fashion_mnist'"


def test_times_are_kept_beside_the_run(folder):
    """Where a run's time went, cell by cell, in the scratch folder: never in the notebook."""
    put(folder, toy("print(1)"))
    notebooks.run("toy", folder / "out.ipynb", {})
    times = json.loads((folder / "build" / "times" / "out.json").read_text())
    assert [source for source, _ in times["cells"]][-1] == "print(1)"
    assert all(seconds >= 0 for _, seconds in times["cells"]) and times["seconds"] > 0
    assert "duration" not in (folder / "out.ipynb").read_text()


def test_parameters_arrive_as_names(folder):
    """Papermill's own command line would turn 2e4 into a number and true into a truthy word."""
    put(folder, toy("print(repr(scale), repr(dataset))"))
    notebooks.run("toy", folder / "out.ipynb", {"scale": "2e4", "dataset": "true"})
    assert printed(folder / "out.ipynb")[-1] == "'2e4' 'true'\n"


def test_cells_run_in_the_folder_of_the_notebook(folder):
    """As in JupyterLab and in nbval, whatever folder the command was given in."""
    put(folder, toy("from pathlib import Path\nprint(Path.cwd().name, Path.cwd().parent.name)"))
    notebooks.run("toy", folder / "out.ipynb", {})
    assert printed(folder / "out.ipynb")[-1] == "notebooks a folder\n"


def test_unknown_parameter_fails_before_anything_runs(folder):
    """Papermill warns and goes on; here it is an error that names the nearest valid parameter."""
    put(folder, toy("from pathlib import Path\nPath('ran').touch()"))
    with pytest.raises(NotebookError, match="toy has no parameter 'datset'; did you mean 'dataset'?"):
        notebooks.run("toy", folder / "out.ipynb", {"datset": "mnist"})
    assert not (folder / "out.ipynb").exists() and not (folder / "notebooks" / "ran").exists()


def test_only_names_are_passed(folder):
    """A parameter whose default is a number cannot be set: numbers stand in params.yaml."""
    put(folder, toy())
    with pytest.raises(NotebookError, match="parameter 'seed' of notebook toy is not a name"):
        notebooks.run("toy", folder / "out.ipynb", {"seed": "4"})


def test_a_failed_cell_leaves_the_last_good_output(folder):
    """The half-executed notebook lies in build/failed/, the output is untouched, the cell is named."""
    put(folder, toy("assert dataset == 'mnist', f'no {dataset} here'"))
    output = folder / "out.ipynb"
    notebooks.run("toy", output, {})
    good = output.read_bytes()
    with pytest.raises(NotebookError, match=r"^out stopped in cell \[3\] with AssertionError: no letters"):
        notebooks.run("toy", output, {"dataset": "letters"})
    assert output.read_bytes() == good
    failed = nbformat.read(folder / "build" / "failed" / "out.ipynb", as_version=4)
    assert failed.cells[-1].outputs[0].ename == "AssertionError"
    notebooks.run("toy", output, {})
    assert not (folder / "build" / "failed" / "out.ipynb").exists()


def test_refresh_keeps_outputs_in_place(folder):
    """After a refresh the notebook holds prose, outputs and counts 1..n; a second refresh changes no byte."""
    put(folder, toy("print('hello')"))
    notebooks.refresh()
    path = folder / "notebooks" / "toy.ipynb"
    once = path.read_bytes()
    assert printed(path) == ["", "hello\n"]
    notebooks.refresh(["toy"])
    assert path.read_bytes() == once


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["code", "toi"], "there is no notebook 'toi' in notebooks/; did you mean 'toy'?"),
        (
            ["run", "toy", "x.ipynb", "-p", "skale", "full"],
            "notebook toy has no parameter 'skale'; did you mean 'scale'?",
        ),
    ],
)
def test_command_line_says_one_sentence_and_exits_with_1(folder, arguments, message):
    """A string given to SystemExit goes to stderr, and the exit code is 1."""
    put(folder, toy())
    with pytest.raises(SystemExit) as stop:
        notebooks.main(arguments)
    assert stop.value.code == message


@pytest.mark.parametrize(
    "name", ["../notebooks/toy", "notebooks/toy", "/etc/passwd", "", "..", "toy.ipynb", "to\ny", "toy\x00"]
)
def test_only_a_name_names_a_notebook(folder, name):
    """Paths and what is no name are refused, although a file is there."""
    put(folder, toy())
    with pytest.raises(NotebookError, match="there is no notebook") as error:
        notebooks.run(name, folder / "out.ipynb", {})
    assert str(error.value).isprintable() and not (folder / "out.ipynb").exists()


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(folder):
    """A folder, a device, another kind of file; and where a folder of it is a file, the system's word."""
    put(folder, toy(f"open({str(folder / 'ran')!r}, 'w')"))
    (folder / "there.ipynb").mkdir()
    os.mkfifo(folder / "fifo.ipynb")
    for name in ("there.ipynb", "fifo.ipynb", "out.txt", "out"):
        with pytest.raises(NotebookError) as error:
            notebooks.run("toy", folder / name, {})
        assert name in str(error.value) and "\n" not in str(error.value)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("value", ["a\nb", "\udcff", "\x1b[31m", "\x00"])
def test_a_value_that_is_no_name_is_refused(folder, value):
    """Also a byte that is no text, which papermill would find after the whole run."""
    put(folder, toy(f"open({str(folder / 'ran')!r}, 'w')"))
    with pytest.raises(NotebookError, match="parameter 'dataset' of notebook toy cannot be") as error:
        notebooks.run("toy", folder / "out.ipynb", {"dataset": value})
    assert str(error.value).isprintable() and not (folder / "ran").exists()


def test_the_copy_that_runs_is_of_today(folder):
    """One that an earlier version of the notebook left is never executed."""
    put(folder, toy("print('old')"))
    notebooks.code("toy")
    put(folder, toy("print('new')"))
    notebooks.run("toy", folder / "out.ipynb", {})
    assert printed(folder / "out.ipynb")[-1] == "new\n"


def test_the_kernel_is_this_interpreter(folder, monkeypatch, tmp_path):
    """Whatever Jupyter finds under the name `python3`; and it is gone when the run has ended."""
    foreign = tmp_path / "kernels" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "kernels"))
    put(folder, toy("import sys, os\nprint(sys.executable, os.getpid())"))
    notebooks.run("toy", folder / "out.ipynb", {})
    executable, pid = printed(folder / "out.ipynb")[-1].rsplit(maxsplit=1)
    assert executable == sys.executable and not processes.runs(int(pid))


def test_a_killed_kernel_is_one_line(folder):
    """As when memory runs out; a worker that it started ends with it, and the output stays as it was."""
    lines = (
        "import os, subprocess, signal, time",
        "child = subprocess.Popen(['sleep', '600'])",
        f"open({str(folder / 'pid')!r}, 'w').write(str(child.pid))",
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    put(folder, toy("\n".join(lines)))
    with pytest.raises(NotebookError, match="^out stopped: its kernel was killed; is there enough memory[?]$"):
        notebooks.run("toy", folder / "out.ipynb", {})
    assert not (folder / "out.ipynb").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_stage_with_its_kernel_and_all_that_this_has_started(folder, number):
    """One line, the exit code of a signal, no process left, no output."""
    source = "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)"
    note = f"open({str(folder / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\ntime.sleep(600)"
    put(folder, toy(source, note))
    code = (
        "import sys; from pathlib import Path; from saqlib import paths; from saqlib.pipeline import notebooks; "
        f"paths.NOTEBOOKS = Path({str(folder / 'notebooks')!r}); paths.BUILD = Path({str(folder / 'build')!r}); "
        "notebooks.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "run", "toy", str(folder / "out.ipynb")]
    with processes.started(command, folder, stderr=subprocess.PIPE) as stage:
        while not (folder / "pids").exists() or len((folder / "pids").read_text().split()) < 2:
            assert stage.poll() is None, stage.stderr.read()
            time.sleep(0.05)
        stage.send_signal(number)
        errors = stage.communicate()[1]
    assert stage.returncode == 128 + number and errors == "Stopped.\n"
    assert not any(processes.runs(int(pid)) for pid in (folder / "pids").read_text().split())
    assert not (folder / "out.ipynb").exists()


# ----------------------------------------------------------------------------------------- copies to read


def executed(folder, *sources: str, **parameters: str):
    """A toy that was executed into build/executed/; its path there."""
    put(folder, toy(*sources))
    output = folder / "build" / "executed" / "toy-mnist.ipynb"
    notebooks.run("toy", output, parameters)
    return output


@pytest.fixture
def readable(folder, monkeypatch):
    """The folder of the copies to read."""
    monkeypatch.setattr(paths, "RESULTS", folder / "results")
    return folder / "results" / "notebooks"


def test_a_copy_to_read_has_prose_around_what_was_recorded(folder, readable):
    """Code, outputs and the injected parameters are those of the run, every sentence is there."""
    executed(folder, "print(dataset)", dataset="letters")
    assert notebooks.read() == []
    cells = json.loads((readable / "toy-mnist.ipynb").read_text())["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "code", "code"]
    assert cells[2]["metadata"]["tags"] == ["injected-parameters"]
    assert printed(readable / "toy-mnist.ipynb")[-1] == "letters\n"


def test_a_mended_sentence_is_renewed_without_a_run(folder, readable):
    """From what was executed here or, in a fresh clone, from the copy itself; outputs stay as they were."""
    output = executed(folder, "print(dataset)")
    notebooks.read()
    for source in (output, None):  # the second time nothing was executed here
        notebook = toy("print(dataset)")
        notebook.cells[0].source = f"# A better word, {source}"
        cells = json.loads((folder / "notebooks" / "toy.ipynb").read_text())["cells"]
        for new, old in zip(notebook.cells, cells, strict=True):
            new["id"] = old["id"]
        put(folder, notebook)
        if source is None:
            output.unlink()
        assert notebooks.read() == []
        cells = json.loads((readable / "toy-mnist.ipynb").read_text())["cells"]
        assert "".join(cells[0]["source"]) == f"# A better word, {source}"
        assert printed(readable / "toy-mnist.ipynb")[-1] == "mnist\n"


@pytest.mark.parametrize("change", ["source", "lost", "new"])
def test_a_copy_of_other_code_is_left_as_it_is(folder, readable, change):
    """Prose about one code around outputs of another would lie; the file is named, with the reason."""
    executed(folder, "print(dataset)", "print(seed)")
    notebooks.read()
    before = (readable / "toy-mnist.ipynb").read_bytes()
    notebook = nbformat.read(folder / "notebooks" / "toy.ipynb", as_version=4)
    if change == "source":
        notebook.cells[2].source = "print('other')"
    elif change == "lost":
        del notebook.cells[2]
    else:
        notebook.cells.append(code("print(2)"))
    put(folder, notebook)
    (sentence,) = notebooks.read()
    assert sentence.startswith("toy-mnist.ipynb is left as it is: the notebook")
    assert (readable / "toy-mnist.ipynb").read_bytes() == before


COPIES = sorted((paths.RESULTS / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", COPIES, ids=lambda path: path.stem)
def test_committed_copies_carry_the_prose_of_today(path):
    """What is read in results/notebooks/ is the notebook's own text: `make notebooks` renews it."""
    copy = json.loads(path.read_text())
    notebook = json.loads((paths.NOTEBOOKS / f"{path.stem.split('-')[0]}.ipynb").read_text())
    try:
        renewed = forms.with_prose(forms.of_a_run(notebook), copy)
    except forms.FormError:
        pytest.skip("executed by other code: `make check` says so")
    assert renewed == forms.clean(copy), "run `make notebooks`"


# ------------------------------------------------------------------------------- the notebooks of the paper

PAPER = sorted(paths.NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(params=PAPER, ids=lambda path: path.stem)
def paper(request) -> nbformat.NotebookNode:
    """One of the notebooks in notebooks/."""
    return nbformat.read(request.param, as_version=4)


def test_a_notebook_starts_with_prose_and_parameters(paper):
    """What it answers and what it feeds, then one cell of literals, tagged for papermill."""
    first, *others = paper.cells
    second, *rest = [cell for cell in others if forms.SAMPLE not in cell.metadata.get("tags", [])]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "*Feeds*" in first.source and "*Takes*" in first.source
    assert second.metadata.get("tags") == ["parameters"]
    assert not any("parameters" in cell.metadata.get("tags", []) for cell in rest)
    defaults = {}
    for node in ast.parse(second.source).body:
        assert isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        defaults[node.targets[0].id] = node.value.value
    assert defaults.get("scale", "smoke") == "smoke"
    assert defaults.get("output", "build/smoke") == "build/smoke"


@pytest.mark.parametrize("path", [path for path in PAPER if path.stem[:2].isdigit()], ids=lambda path: path.stem)
def test_a_stage_says_that_it_shows_the_sample(path):
    """Whoever opens it is told, before any number, and led to what the full run executed: there, that is not said."""
    cells = nbformat.read(path, as_version=4).cells
    said, *more = [cell for cell in cells if forms.SAMPLE in cell.metadata.get("tags", [])]
    assert cells[1] is said and not more
    (link,) = re.findall(r"\]\((.+?)\)", said.source)
    full = (paths.NOTEBOOKS / link).resolve()
    assert full.is_file() and full.parent == paths.RESULTS / "notebooks" and full.stem.split("-")[0] == path.stem
    prose = [cell.source for cell in nbformat.read(full, as_version=4).cells if cell.cell_type == "markdown"]
    assert not [source for source in prose if "from the small sample" in source]


def test_a_notebook_can_be_compared(paper):
    """Every code cell has run, in order: nbval passes over a cell without a count, whatever it prints."""
    codes = [cell for cell in paper.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
    assert paper.metadata.kernelspec.name == "python3"
    assert not any(output.output_type == "error" for cell in codes for output in cell.outputs)


def test_a_notebook_is_kept_clean(paper):
    """It holds only what a reader sees and a run needs; `make notebooks` puts it in order."""
    nbformat.validate(paper)
    assert forms.clean(paper) == paper, "run `make notebooks`"


def test_a_notebook_has_short_cells(paper):
    """Logic lies in saqlib; a cell is read at a glance."""
    for cell in paper.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 20, cell.source
