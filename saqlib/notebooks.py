"""Notebooks as stages: a source-only copy to depend on, and a clean executed copy to keep.

    python -m saqlib.notebooks source NAME                  write build/notebooks/NAME.ipynb
    python -m saqlib.notebooks run NAME OUTPUT -p key value ...   execute that copy, keep it as OUTPUT
    python -m saqlib.notebooks refresh [NAME ...]           execute in place at the notebooks' defaults

A stage depends on the source-only copy, so that new outputs in a notebook re-run nothing. An executed copy
holds nothing that changes from one run to the next (times, hosts, random ids): two runs give the same bytes.
"""

import argparse
import difflib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from saqlib import files, paths

KERNEL = "python3"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL},
    "language_info": {"name": "python"},
}
INJECTED = "injected-parameters"  # papermill's tag for its cell; here also the id, else random
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL_START = 300  # seconds that a busy machine may take to start a kernel

Notebook = dict[str, Any]


class NotebookError(RuntimeError):
    """A notebook or a parameter that does not exist, or a cell that failed; the message is for the person."""


# ------------------------------------------------------------------------------------------- source and clean


def source_only(notebook: Notebook) -> Notebook:
    """Cells with their source, ids and tags; no outputs, no counts, no other metadata."""
    return _normal([_bare(cell) for cell in notebook["cells"]])


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
    tags = cell["metadata"].get("tags", [])
    bare = {
        "cell_type": cell["cell_type"],
        "id": INJECTED if INJECTED in tags else cell["id"],
        "metadata": {"tags": tags} if tags else {},
        "source": _text(cell["source"]),
    }
    return bare | ({"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {})


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def _clean_outputs(outputs: Iterable[Notebook], count: int) -> list[Notebook]:
    """Printed text in one piece, data without metadata; progress bars (stderr) and widgets are left out."""
    kept: list[Notebook] = []
    for output in outputs:
        kind = output["output_type"]
        if kind == "stream":
            if output["name"] == "stderr":
                continue
            text = _text(output["text"])
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] += text  # where a stream is cut depends on timing
            else:
                kept.append({"output_type": kind, "name": "stdout", "text": text})
        elif kind == "error":
            kept.append({key: output[key] for key in ("output_type", "ename", "evalue", "traceback")})
        elif WIDGET not in output["data"]:
            number = {"execution_count": count} if kind == "execute_result" else {}
            kept.append({"output_type": kind, "data": output["data"], "metadata": {}} | number)
    return kept


# ------------------------------------------------------------------------------------------------- the stages


def source(name: str) -> Path:
    """Write build/notebooks/<name>.ipynb, the copy of a notebook that stages depend on; its path."""
    copy = paths.BUILD / "notebooks" / f"{name}.ipynb"
    bare = source_only(_read(_notebook(name)))
    return files.write(copy, json.dumps(bare, ensure_ascii=False, indent=1) + "\n")


def run(name: str, output: Path, parameters: dict[str, str]) -> None:
    """Execute the source-only copy of a notebook with these parameters; write it clean to `output`.

    Raises NotebookError for an unknown notebook or parameter, before anything runs, and for a cell that
    fails: `output` is then left as it was, and the notebook up to the failure lies in build/failed/. How long it
    took, cell by cell, lies in build/times/, where git does not look.
    """
    began = time.perf_counter()
    copy = paths.BUILD / "notebooks" / f"{name}.ipynb"
    if not copy.exists():
        source(name)
    _check_parameters(name, copy, parameters)
    executed = _execute(copy, output.stem, parameters)
    files.write(output, _as_saved(clean(executed)))
    times = {"seconds": time.perf_counter() - began, "cells": _seconds(executed)}
    files.write(paths.BUILD / "times" / f"{output.stem}.json", json.dumps(times, indent=1) + "\n")


def _seconds(executed: Notebook) -> list[tuple[str, float]]:
    """Source and duration of every code cell that papermill ran."""
    cells = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    return [(_text(cell["source"]), cell["metadata"]["papermill"]["duration"] or 0.0) for cell in cells]


def refresh(names: Iterable[str] = ()) -> None:
    """Execute notebooks (all by default) in place at their defaults, as references for the tests."""
    for name in list(names) or _names():
        path = _notebook(name)
        files.write(path, _as_saved(clean(_execute(source(name), name, {}))))


def _names() -> list[str]:
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))


def _notebook(name: str) -> Path:
    _require_one_of(name, _names(), f"there is no notebook {name!r} in {paths.NOTEBOOKS.name}/")
    return paths.NOTEBOOKS / f"{name}.ipynb"


def _require_one_of(name: str, valid: Iterable[str], problem: str) -> None:
    if name not in valid:
        nearest = difflib.get_close_matches(name, valid, n=1, cutoff=0)
        raise NotebookError(problem + (f"; did you mean {nearest[0]!r}?" if nearest else ""))


def _check_parameters(name: str, path: Path, parameters: dict[str, str]) -> None:
    """Papermill itself only warns of a parameter that the notebook lacks."""
    declared = _papermill().inspect_notebook(path)
    for key in parameters:
        _require_one_of(key, declared, f"notebook {name} has no parameter {key!r}")
        default = declared[key]["default"]
        if default[0] not in "\"'":
            raise NotebookError(
                f"parameter {key!r} of notebook {name} is not a name (its default is {default});"
                f" only names are passed, values are read from {paths.PARAMS.name}"
            )


def _papermill() -> ModuleType:
    """Papermill, imported where a notebook runs, and without a grammar of URIs that no notebook needs.

    jsonschema would compile that grammar on import, for two seconds at the start of every stage.
    """
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill

    return papermill


def _execute(path: Path, label: str, parameters: dict[str, str]) -> Notebook:
    """The notebook after a run of all its cells, in its own folder as in JupyterLab."""
    papermill = _papermill()
    unfinished = paths.BUILD / "failed" / f"{label}.ipynb"
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))
    try:
        papermill.execute_notebook(
            path,
            unfinished,
            parameters,
            kernel_name=KERNEL,
            cwd=paths.NOTEBOOKS,
            progress_bar=sys.stderr.isatty(),
            stderr_file=sys.stderr,
            start_timeout=KERNEL_START,
            extra_arguments=["--log-level=CRITICAL"],  # errors of cells come back in the notebook
        )
    except papermill.PapermillExecutionError as error:
        raise NotebookError(
            f"{label} stopped in cell [{error.exec_count}] with {error.ename}: {error.evalue}\n"
            f"The notebook up to there, with the traceback: {unfinished}"
        ) from None
    executed = _read(unfinished)
    unfinished.unlink()
    return executed


def _as_saved(notebook: Notebook) -> str:
    """The text that Jupyter itself would write, so that saving the file there changes nothing."""
    import nbformat

    return nbformat.writes(nbformat.from_dict(notebook)) + "\n"


def _read(path: Path) -> Notebook:
    return json.loads(path.read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.notebooks", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("source", help="write the source-only copy of a notebook")
    one.add_argument("name")
    one = commands.add_parser("run", help="execute a notebook and keep a clean copy")
    one.add_argument("name")
    one.add_argument("output", type=Path)
    one.add_argument("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), dest="parameters")
    one = commands.add_parser("refresh", help="execute notebooks in place at their defaults")
    one.add_argument("names", nargs="*")
    options = parser.parse_args(arguments)
    try:
        if options.command == "source":
            source(options.name)
        elif options.command == "run":
            run(options.name, options.output, dict(options.parameters))
        else:
            refresh(options.names)
    except NotebookError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
