"""The executed notebooks as pages: code folded, each figure with words, a size and an anchor.

The anchor of a figure is `figure-<name>` in the page of the notebook that shows it, so that the paper can link to the
place where it is made. Its name and its words are metadata of the output (`study.report.style.show`).
"""

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from study.notebooks import INJECTED, PARAMETERS, PICTURE, load, text
from study.report import labels
from study.report.style import alternative
from study.site import pictures

Notebook = dict[str, Any]
LONGEST = 12  # rows of a table that is shown at once
TALLEST = 480  # pixels of a figure: it stands on the screen with what is said of it
ROWS = {"text/html": "<tr", "text/markdown": r"^\|(?! ?-)"}  # how the rows of a table begin, its head included


def write(results: Path, pages: Path) -> dict[str, str]:
    """Write every notebook of results/notebooks as a page; the address of each figure's cell, by the figure's name."""
    made = {}
    for path in sorted((results / "notebooks").glob("*.ipynb")):
        page, figures = prepared(load(path), path.stem, pages / "_static")
        (pages / path.name).write_text(json.dumps(page), encoding="utf-8")
        made |= {name: f"{path.stem}.html#figure-{name}" for name in figures}
    return made


def prepared(notebook: Notebook, name: str, static: Path) -> tuple[Notebook, list[str]]:
    """A notebook for Sphinx, and the figures of results/figures that it shows.

    Args:
        notebook: as it was executed.
        name: of its file, such as `02_train-mnist`.
        static: the folder of the pages' static files; pictures go there.
    """
    stem, _, dataset = name.partition("-")
    cells, counts = [], Counter()
    injected = any(_tagged(cell, INJECTED) for cell in notebook["cells"])
    for cell in notebook["cells"]:
        if injected and _tagged(cell, PARAMETERS):
            continue  # the defaults, which the run did not use
        if cell["cell_type"] == "code":
            outputs = [_with_words(each, f"{stem}/{cell['id']}", counts, static) for each in cell["outputs"]]
            tags = [*cell["metadata"].get("tags", []), "hide-input"]
            cell = cell | {"metadata": cell["metadata"] | {"tags": tags}, "outputs": outputs}
        cells.append(cell)
    figures = [name for name in counts if "/" not in name]
    title, *lines = text(cells[0]["source"]).splitlines(keepends=True)
    if dataset:  # else two pages would have one title
        title = f"{title.rstrip()}: {labels.dataset(dataset)}\n"
    first = cells[0] | {"source": "".join([title, *lines])}
    return notebook | {"cells": [first, _origin(notebook, stem), *cells[1:]]}, figures


def _folded(content: str, row: str) -> str:
    """Markdown or HTML, under a line to click on where it is a table of many rows."""
    rows = len(re.findall(row, content, flags=re.MULTILINE)) - 1
    summary = f"<summary>Show the table, {rows} rows</summary>"
    return f"<details>{summary}\n\n{content}\n\n</details>" if rows > LONGEST else content


def _tagged(cell: Notebook, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


def _origin(notebook: Notebook, stem: str) -> Notebook:
    """Where this copy comes from: the scale that it ran at, and the notebook to run oneself."""
    code = "\n".join(text(cell["source"]) for cell in notebook["cells"] if _tagged(cell, INJECTED))
    scale = re.search(r'^scale = "(\w+)"', code, flags=re.MULTILINE)
    how = f" at scale `{scale.group(1)}`" if scale else ""
    note = f"As the pipeline ran it{how}; to run it yourself: `make lab`, then `notebooks/{stem}.ipynb`."
    return {"cell_type": "markdown", "id": "origin", "metadata": {}, "source": f":::{{note}}\n{note}\n:::"}


def _with_words(output: Notebook, cell: str, counts: Counter, static: Path) -> Notebook:
    """An output; a long table folded, a picture as an element with words, size and anchor.

    cell: its name where it has none of its own.
    """
    if PICTURE not in (data := output.get("data", {})):
        folded = {kind: _folded(text(data[kind]), row) for kind, row in ROWS.items() if kind in data}
        return output | {"data": data | folded} if folded else output
    words = output["metadata"].get(PICTURE, {})
    name = words.get("name", cell)
    counts[name] += 1
    anchor = "-".join(["figure", *name.split("/"), *([str(counts[name])] if counts[name] > 1 else [])])
    content, alt = base64.b64decode(text(output["data"][PICTURE])), words.get("alt") or alternative(name)
    return output | {"data": {"text/html": pictures.stored(content, "", static, alt, anchor=anchor, tallest=TALLEST)}}
