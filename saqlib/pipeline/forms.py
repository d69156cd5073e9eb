"""The forms of a notebook: its code alone, clean as executed, and executed with today's prose.

An executed copy holds nothing that changes from one run to the next (times, hosts, random ids): two runs give the same
bytes.
"""

from collections.abc import Iterable
from typing import Any

METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PARAMETERS, INJECTED = "parameters", "injected-parameters"  # papermill's tags; the second is also its cell's id here
SAMPLE = "sample"  # our tag of prose about the outputs at the defaults, on the sample: no other run's copy has it
PICTURE = "image/png"
WIDGET = "application/vnd.jupyter.widget-view+json"

Notebook = dict[str, Any]


class FormError(ValueError):
    """Two notebooks do not belong together; the message says why."""


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
    tags = cell["metadata"].get("tags", [])
    bare = {
        "cell_type": cell["cell_type"],
        "id": INJECTED if INJECTED in tags else cell["id"],
        "metadata": {"tags": tags} if tags else {},
        "source": text(cell["source"]),
    }
    return bare | ({"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {})


def text(lines: str | list[str]) -> str:
    """The source of a cell, which a file may hold line by line, in one piece."""
    return lines if isinstance(lines, str) else "".join(lines)


def _clean_outputs(outputs: Iterable[Notebook], count: int) -> list[Notebook]:
    """Printed text in one piece, data with words for a picture; progress bars (stderr) and widgets are left out."""
    kept: list[Notebook] = []
    for output in outputs:
        kind = output["output_type"]
        if kind == "stream":
            if output["name"] == "stderr":
                continue
            printed = text(output["text"])
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] += printed  # where a stream is cut depends on timing
            else:
                kept.append({"output_type": kind, "name": "stdout", "text": printed})
        elif kind == "error":
            kept.append({key: output[key] for key in ("output_type", "ename", "evalue", "traceback")})
        elif WIDGET not in output["data"]:
            number = {"execution_count": count} if kind == "execute_result" else {}
            kept.append({"output_type": kind, "data": output["data"], "metadata": _words(output)} | number)
    return kept


def _words(output: Notebook) -> dict[str, Any]:
    """Of an output's metadata, what a picture shows in words: the rest is the machine's."""
    alt = output["metadata"].get(PICTURE, {}).get("alt")
    return {PICTURE: {"alt": alt}} if alt else {}


def of_a_run(notebook: Notebook) -> Notebook:
    """A notebook without the prose that is about its outputs at the defaults."""
    cells = [cell for cell in notebook["cells"] if SAMPLE not in cell["metadata"].get("tags", [])]
    return notebook | {"cells": cells}


def with_prose(notebook: Notebook, executed: Notebook) -> Notebook:
    """An executed copy with the prose of today's notebook around what it recorded.

    Raises FormError if the notebook's code is not the code that was executed.
    """
    recorded = {cell["id"]: cell for cell in clean(executed)["cells"] if cell["cell_type"] == "code"}
    cells = []
    for cell in map(_bare, notebook["cells"]):
        if cell["cell_type"] != "code":
            cells.append(cell)
            continue
        found = recorded.pop(cell["id"], None)
        if found is None or found["source"] != cell["source"]:
            raise FormError("the notebook's code has changed since this copy was executed")
        cells.append(found)
        if PARAMETERS in cell["metadata"].get("tags", []) and INJECTED in recorded:
            cells.append(recorded.pop(INJECTED))
    if recorded:
        raise FormError("the notebook has lost cells since this copy was executed")
    return _normal(cells)
