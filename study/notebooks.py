"""Notebooks as stages: executed clean, kept for a reader, and compared with what they were.

A stage depends on a copy of the code (study.dvc), without outputs and without prose, so that neither new outputs in a
notebook nor a mended sentence re-runs anything. What a stage executed lies in build/executed/; the copies in
results/notebooks/ carry today's prose around it. An executed copy holds nothing that changes from one run to the next
(times, hosts, random ids): two runs give the same bytes.
"""

import ast
import json
import logging
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from saqlib.errors import did_you_mean, last_line, printable, shown
from study import files, paths, processes

KERNEL_START = 300  # seconds that a busy machine may take to start a kernel
KERNEL_OPTIONS = [
    "--log-level=CRITICAL",  # errors of cells come back in the notebook
    "--HistoryManager.enabled=False",
    # A configuration of the machine's (/etc/ipython) is read all the same; what it could change is said here.
    "--InteractiveShell.ast_node_interactivity=last_expr",
    "--InlineBackend.figure_formats={'png'}",
]
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PARAMETERS, INJECTED = "parameters", "injected-parameters"  # papermill's tags; the second is also its cell's id here
SAMPLE = "sample"  # our tag of prose about the outputs at the defaults, on the sample: no other run's copy has it
PICTURE = "image/png"
WIDGET = "application/vnd.jupyter.widget-view+json"

Notebook = dict[str, Any]


class NotebookError(RuntimeError):
    """A notebook or a parameter that does not exist, a cell that failed, or a copy of other code; for the person."""


# -------------------------------------------------------------------------------------------------------- commands


def run(name: str, output: Path, parameters: dict[str, str]) -> None:
    """Execute the code of a notebook with these parameters; write it clean to `output`.

    Raises NotebookError for an unknown notebook or parameter or an output that cannot be, before anything runs, and for
    a cell that fails or a kernel that is killed: `output` is then left as it was, and the notebook up to the failure
    lies in build/failed/. How long it took, cell by cell, lies in build/times/, where git does not look.
    """
    began = time.perf_counter()
    _check_output(output)
    notebook = load(_path(name))
    _check_parameters(name, notebook, parameters)
    executed = _execute(code_only(notebook), output.stem, parameters)
    files.write(output, _as_saved(clean(executed)))
    cells = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    seconds = [(text(cell["source"]), cell["metadata"]["papermill"]["duration"] or 0.0) for cell in cells]
    times = {"seconds": time.perf_counter() - began, "cells": seconds}
    files.write(paths.BUILD / "times" / f"{output.stem}.json", json.dumps(times, indent=1) + "\n")


def read(outputs: Iterable[Path] = ()) -> list[str]:
    """Give executed copies today's prose and keep them in results/notebooks/; a sentence for each that is left.

    outputs: files in build/executed/, and those alone. With none, everything that was executed here; where nothing was,
    as in a fresh clone, the copies in results/notebooks/ themselves. A copy whose code has changed is left as it is.
    """
    readable = paths.RESULTS / "notebooks"
    outputs = list(outputs) or sorted((paths.BUILD / "executed").glob("*.ipynb")) or sorted(readable.glob("*.ipynb"))
    left = []
    for path in outputs:
        try:
            notebook = with_prose(of_a_run(load(_path(path.stem.split("-")[0]))), load(path))
        except NotebookError as error:
            left.append(f"{path.name} is left as it is: {error}")
        else:
            files.write(readable / path.name, _as_saved(notebook))
    return left


def refresh(names: Iterable[str] = ()) -> None:
    """Execute notebooks (all by default) in place at their defaults, as references for the tests."""
    for name in list(names) or _names():
        notebook = load(_path(name))
        executed = _execute(code_only(notebook), name, {})
        files.write(_path(name), _as_saved(with_prose(notebook, executed)))


def load(path: Path) -> Notebook:
    """A notebook file as it is."""
    return json.loads(path.read_text(encoding="utf-8"))


def _names() -> list[str]:
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))


def _path(name: str) -> Path:
    _require_one_of(name, _names(), f"there is no notebook {name!r} in {paths.NOTEBOOKS.name}/")
    return paths.NOTEBOOKS / f"{name}.ipynb"


def _require_one_of(name: str, valid: Iterable[str], problem: str) -> None:
    if name not in valid:
        raise NotebookError(problem + did_you_mean(name, valid))


def _check_parameters(name: str, notebook: Notebook, parameters: dict[str, str]) -> None:
    """Papermill itself only warns of a parameter that the notebook lacks."""
    tagged = [text(cell["source"]) for cell in notebook["cells"] if PARAMETERS in _tags(cell)]
    assigned = [node for source in tagged for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    declared = {target.id: ast.unparse(node.value) for node in assigned for target in node.targets}
    for key, value in parameters.items():
        _require_one_of(key, declared, f"notebook {name} has no parameter {key!r}")
        if declared[key][0] not in "\"'":
            raise NotebookError(
                f"parameter {key!r} of notebook {name} is not a name (its default is {declared[key]});"
                f" only names are passed, values are read from {paths.PARAMS.name}"
            )
        if not value.isprintable():  # also a byte that is no text
            raise NotebookError(f"parameter {key!r} of notebook {name} cannot be {shown(value)}: it is not a name")


def _check_output(path: Path) -> None:
    """Refuse what could not be written after the whole run."""
    if path.suffix != ".ipynb":
        raise NotebookError(f"{printable(path)} is not the name of a notebook; it must end in .ipynb")
    if path.exists() and not path.is_file():
        raise NotebookError(f"{printable(path)} exists and is not a file; name another output")


# ------------------------------------------------------------------------------------------------------- execution


def _execute(notebook: Notebook, label: str, parameters: dict[str, str]) -> Notebook:
    """The notebook after a run of all its cells, in its own folder as in JupyterLab, on this interpreter."""
    unfinished = paths.BUILD / "failed" / f"{label}.ipynb"
    files.write(unfinished, _as_saved(notebook))
    processes.pin_cpu_level()
    with processes.settled():
        _run_cells(unfinished, parameters)
    executed = load(unfinished)
    unfinished.unlink()
    return executed


def _run_cells(path: Path, parameters: dict[str, str]) -> None:
    """Run all cells of a notebook in place; NotebookError if one fails."""
    # On import jsonschema would compile a grammar of URIs that no notebook needs, for two seconds.
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what goes wrong is reported here
    place = str(path).replace("{", "{{").replace("}", "}}")  # to papermill braces are places of parameters
    options: dict[str, Any] = {
        "kernel_name": METADATA["kernelspec"]["name"],
        "extra_arguments": KERNEL_OPTIONS,
        "cwd": str(paths.NOTEBOOKS),
        "progress_bar": False,
        "stderr_file": sys.stderr,
        "start_timeout": KERNEL_START,
    }
    # In a thread of its own, since nbclient would take the signals of the main one and go on as if a cell had failed.
    with ThreadPoolExecutor(1) as pool, processes.no_children_left():
        running = pool.submit(papermill.execute_notebook, place, place, parameters, **options)
        try:
            running.result()
        except papermill.PapermillExecutionError as error:
            raise NotebookError(
                f"{path.stem} stopped in cell [{error.exec_count}] with {error.ename}: {error.evalue}\n"
                f"The notebook up to there, with the traceback: {path}"
            ) from None
        except DeadKernelError:
            raise NotebookError(f"{path.stem} stopped: its kernel was killed; is there enough memory?") from None
        except RuntimeError as error:  # the kernel did not start
            raise NotebookError(f"{path.stem} did not begin: {last_line(error)}") from None


def _as_saved(notebook: Notebook) -> str:
    """The text that Jupyter itself would write, so that saving the file there changes nothing."""
    import nbformat

    return nbformat.writes(nbformat.from_dict(notebook)) + "\n"


# ----------------------------------------------------------------------------------------------------------- forms


def code_only(notebook: Notebook) -> Notebook:
    """Cells of code with their source, ids and tags; no prose, no outputs, no counts, no other metadata."""
    return _normal([_bare(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"])


def clean(notebook: Notebook) -> Notebook:
    """An executed notebook as its source, ids, tags, outputs and counts from 1 on; nothing else."""
    cells, count = [], 0
    for cell in notebook["cells"]:
        bare = _bare(cell)
        if cell["cell_type"] == "code" and bare["source"].strip():
            count += 1
            bare |= {"execution_count": count, "outputs": _clean_outputs(cell["outputs"], count)}
        cells.append(bare)
    return _normal(cells)


def _normal(cells: list[Notebook]) -> Notebook:
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def _bare(cell: Notebook) -> Notebook:
    tags = _tags(cell)
    bare = {
        "cell_type": cell["cell_type"],
        "id": INJECTED if INJECTED in tags else cell["id"],
        "metadata": {"tags": tags} if tags else {},
        "source": text(cell["source"]),
    }
    return bare | ({"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {})


def _tags(cell: Notebook) -> list[str]:
    return cell["metadata"].get("tags", [])


def text(lines: str | list[str]) -> str:
    """The source of a cell, which a file may hold line by line, in one piece."""
    return lines if isinstance(lines, str) else "".join(lines)


def _clean_outputs(outputs: Iterable[Notebook], count: int) -> list[Notebook]:
    """Printed text in one piece, data with words for a picture; progress bars (stderr) and widgets are left out."""
    cleaned: list[Notebook] = []
    for output in outputs:
        kind = output["output_type"]
        if kind == "error":
            cleaned.append({key: output[key] for key in ("output_type", "ename", "evalue", "traceback")})
        elif kind != "stream" and WIDGET not in output["data"]:
            # Of a picture its name and what it shows in words; the rest of the metadata is the machine's.
            given = output["metadata"].get(PICTURE, {})
            words = {key: given[key] for key in ("alt", "name") if key in given}
            number = {"execution_count": count} if kind == "execute_result" else {}
            metadata = {PICTURE: words} if words else {}
            cleaned.append({"output_type": kind, "data": output["data"], "metadata": metadata} | number)
        elif kind == "stream" and output["name"] == "stdout":
            printed = text(output["text"])
            if cleaned and cleaned[-1]["output_type"] == kind:
                cleaned[-1]["text"] += printed  # where a stream is cut depends on timing
            else:
                cleaned.append({"output_type": kind, "name": "stdout", "text": printed})
    return cleaned


def of_a_run(notebook: Notebook) -> Notebook:
    """A notebook without the prose that is about its outputs at the defaults."""
    return notebook | {"cells": [cell for cell in notebook["cells"] if SAMPLE not in _tags(cell)]}


def with_prose(notebook: Notebook, executed: Notebook) -> Notebook:
    """An executed copy with the prose of today's notebook around what it recorded.

    Raises NotebookError if the notebook's code is not the code that was executed.
    """
    recorded = {cell["id"]: cell for cell in clean(executed)["cells"] if cell["cell_type"] == "code"}
    cells = []
    for cell in map(_bare, notebook["cells"]):
        if cell["cell_type"] != "code":
            cells.append(cell)
            continue
        same = recorded.pop(cell["id"], None)
        if same is None or same["source"] != cell["source"]:
            raise NotebookError("the notebook's code has changed since this copy was executed")
        cells.append(same)
        if PARAMETERS in _tags(cell) and INJECTED in recorded:
            cells.append(recorded.pop(INJECTED))
    if recorded:
        raise NotebookError("the notebook has lost cells since this copy was executed")
    return _normal(cells)
