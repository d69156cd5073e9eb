"""Notebooks as stages: a copy of the code to depend on, and an executed copy to read.

    python -m saqlib.pipeline.notebooks code NAME                      write build/code/NAME.ipynb
    python -m saqlib.pipeline.notebooks run NAME OUTPUT -p key value ...   execute that copy, keep it as OUTPUT
    python -m saqlib.pipeline.notebooks read [OUTPUT ...]              results/notebooks/: executed copies with prose
    python -m saqlib.pipeline.notebooks refresh [NAME ...]             execute in place at the notebooks' defaults

A stage depends on the copy of the code, without outputs and without prose, so that neither new outputs in a notebook
nor a mended sentence re-runs anything. What a stage executed lies in build/executed/; the copies in results/notebooks/
carry today's prose around it, and their pictures in 256 colours.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from saqlib import files, paths
from saqlib.errors import did_you_mean, last_line, printable, shown, told
from saqlib.pipeline import instructions
from saqlib.pipeline.alternatives import described
from saqlib.pipeline.forms import METADATA, FormError, Notebook, clean, code_only, of_a_run, text, with_prose
from saqlib.pipeline.palettes import with_palettes
from saqlib.pipeline.surroundings import in_utf8, settled

KERNEL_START = 300  # seconds that a busy machine may take to start a kernel


class NotebookError(RuntimeError):
    """A notebook or a parameter that does not exist, or a cell that failed; the message is for the person."""


def code(name: str) -> Path:
    """Write build/code/<name>.ipynb, the copy of a notebook's code that stages depend on; its path."""
    return files.write(_copy(name), code_text(name))


def code_text(name: str) -> str:
    """What `code` writes."""
    return json.dumps(code_only(_load(_notebook(name))), ensure_ascii=False, indent=1) + "\n"


def _copy(name: str) -> Path:
    return paths.BUILD / "code" / f"{name}.ipynb"


def run(name: str, output: Path, parameters: dict[str, str]) -> None:
    """Execute the copy of a notebook's code with these parameters; write it clean to `output`.

    Raises NotebookError for an unknown notebook or parameter or an output that cannot be, before anything runs, and for
    a cell that fails or a kernel that is killed: `output` is then left as it was, and the notebook up to the failure
    lies in build/failed/. How long it took, cell by cell, lies in build/times/, where git does not look.
    """
    began = time.perf_counter()
    _check_output(output)
    copy, today = _copy(name), code_text(name)
    if not copy.exists() or copy.read_text(encoding="utf-8", errors="replace") != today:
        code(name)
    _check_parameters(name, copy, parameters)
    executed = _execute(copy, output.stem, parameters)
    files.write(output, _as_saved(clean(executed)))
    times = {"seconds": time.perf_counter() - began, "cells": _seconds(executed)}
    files.write(paths.BUILD / "times" / f"{output.stem}.json", json.dumps(times, indent=1) + "\n")


def _seconds(executed: Notebook) -> list[tuple[str, float]]:
    """Source and duration of every code cell that papermill ran."""
    cells = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    return [(text(cell["source"]), cell["metadata"]["papermill"]["duration"] or 0.0) for cell in cells]


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
            stem = path.stem.split("-")[0]
            notebook = described(with_prose(of_a_run(_load(_notebook(stem))), _load(path)), stem)
        except FormError as error:
            left.append(f"{path.name} is left as it is: {error}")
        else:
            files.write(readable / path.name, _as_saved(with_palettes(notebook)))
    return left


def refresh(names: Iterable[str] = ()) -> None:
    """Execute notebooks (all by default) in place at their defaults, as references for the tests."""
    for name in list(names) or _names():
        path = _notebook(name)
        executed = _execute(code(name), name, {})
        files.write(path, _as_saved(described(with_prose(_load(path), executed), name)))


def _names() -> list[str]:
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))


def _notebook(name: str) -> Path:
    _require_one_of(name, _names(), f"there is no notebook {name!r} in {paths.NOTEBOOKS.name}/")
    return paths.NOTEBOOKS / f"{name}.ipynb"


def _require_one_of(name: str, valid: Iterable[str], problem: str) -> None:
    if name not in valid:
        raise NotebookError(problem + did_you_mean(name, valid))


def _check_parameters(name: str, path: Path, parameters: dict[str, str]) -> None:
    """Papermill itself only warns of a parameter that the notebook lacks."""
    declared = _papermill().inspect_notebook(_literally(path))
    for key, value in parameters.items():
        _require_one_of(key, declared, f"notebook {name} has no parameter {key!r}")
        default = declared[key]["default"]
        if default[0] not in "\"'":
            raise NotebookError(
                f"parameter {key!r} of notebook {name} is not a name (its default is {default});"
                f" only names are passed, values are read from {paths.PARAMS.name}"
            )
        if not value.isprintable():  # also a byte that is no text
            raise NotebookError(f"parameter {key!r} of notebook {name} cannot be {shown(value)}: it is no name")


def _check_output(path: Path) -> None:
    """Refuse what could not be written after the whole run."""
    if path.suffix != ".ipynb":
        raise NotebookError(f"{printable(path)} is no name of a notebook; it must end in .ipynb")
    if path.exists() and not path.is_file():
        raise NotebookError(f"{printable(path)} is there, and no file; name another output")


def _papermill() -> ModuleType:
    """Papermill, imported where a notebook runs, and without a grammar of URIs that no notebook needs.

    jsonschema would compile that grammar on import, for two seconds at the start of every stage.
    """
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what goes wrong is told here
    return papermill


def _execute(path: Path, label: str, parameters: dict[str, str]) -> Notebook:
    """The notebook after a run of all its cells, in its own folder as in JupyterLab, on this interpreter."""
    unfinished = paths.BUILD / "failed" / f"{label}.ipynb"
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    instructions.pin()
    with settled():
        _run_cells(path, unfinished, parameters)
    executed = _load(unfinished)
    unfinished.unlink()
    return executed


def _run_cells(path: Path, unfinished: Path, parameters: dict[str, str]) -> None:
    """Run all cells in a kernel that is gone afterwards, also after Ctrl-C or SIGTERM; NotebookError if one fails."""
    from nbclient.exceptions import DeadKernelError

    from saqlib.pipeline.kernel import OwnKernel

    papermill = _papermill()
    options: dict[str, Any] = {
        "kernel_name": METADATA["kernelspec"]["name"],
        "kernel_manager_class": OwnKernel,
        "cwd": str(paths.NOTEBOOKS),
        "progress_bar": sys.stderr.isatty(),
        "stderr_file": sys.stderr,
        "start_timeout": KERNEL_START,
    }
    # In a thread of its own, since nbclient would take the signals of the main one and go on as if a cell had failed.
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            papermill.execute_notebook, _literally(path), _literally(unfinished), parameters, **options
        )
        try:
            running.result()
        except papermill.PapermillExecutionError as error:
            raise NotebookError(
                f"{unfinished.stem} stopped in cell [{error.exec_count}] with {error.ename}: {error.evalue}\n"
                f"The notebook up to there, with the traceback: {unfinished}"
            ) from None
        except DeadKernelError:
            raise NotebookError(f"{unfinished.stem} stopped: its kernel was killed; is there enough memory?") from None
        except RuntimeError as error:  # the kernel did not start
            raise NotebookError(f"{unfinished.stem} did not begin: {last_line(error)}") from None
        finally:
            OwnKernel.end_all()


def _literally(path: Path) -> str:
    """A path as papermill takes it, to which braces are places of parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _as_saved(notebook: Notebook) -> str:
    """The text that Jupyter itself would write, so that saving the file there changes nothing."""
    import nbformat

    return nbformat.writes(nbformat.from_dict(notebook)) + "\n"


def _load(path: Path) -> Notebook:
    return json.loads(path.read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is wrong."""
    in_utf8()
    parser = argparse.ArgumentParser(prog="python -m saqlib.pipeline.notebooks", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("code", help="write the copy of a notebook's code")
    one.add_argument("name")
    one = commands.add_parser("run", help="execute a notebook and keep a clean copy")
    one.add_argument("name")
    one.add_argument("output", type=Path)
    one.add_argument("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), dest="parameters")
    one = commands.add_parser("read", help="write executed copies with today's prose")
    one.add_argument("outputs", type=Path, nargs="*")
    one = commands.add_parser("refresh", help="execute notebooks in place at their defaults")
    one.add_argument("names", nargs="*")
    options = parser.parse_args(arguments)
    with told(NotebookError, FormError):
        if options.command == "code":
            code(options.name)
        elif options.command == "run":
            run(options.name, options.output, dict(options.parameters))
        elif options.command == "read":
            print(*read(options.outputs), sep="\n")
        else:
            refresh(options.names)


if __name__ == "__main__":
    main()
