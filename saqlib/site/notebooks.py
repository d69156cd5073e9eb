"""The executed notebooks as pages: code folded, each figure with words, a size and an anchor.

The anchor of a figure is `figure-<name>` in the page of the notebook whose cell saves it, so that the paper can link to
the place where it is made.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from saqlib.pipeline.alternatives import alternatives, is_picture, saves, shown
from saqlib.pipeline.forms import INJECTED, PARAMETERS, PICTURE, text
from saqlib.site import pictures

Notebook = dict[str, Any]
NATIVE = "notebooks"  # folder of the notebooks that can be run


def write(results: Path, pages: Path) -> dict[str, str]:
    """Write every notebook of results/notebooks as a page; the address of each figure's cell, by the figure's name."""
    made = {}
    for path in sorted((results / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        shown, figures = prepared(notebook, path.stem, pages / "_static")
        (pages / path.name).write_text(json.dumps(shown), encoding="utf-8")
        made |= {name: f"{path.stem}.html#figure-{name}" for name in figures}
    return made


def prepared(notebook: Notebook, name: str, static: Path) -> tuple[Notebook, list[str]]:
    """A notebook for Sphinx, and the figures of results/figures that it makes.

    Args:
        notebook: as it was executed.
        name: of its file, such as `02_train-mnist-w2a2-guided`.
        static: the folder of the pages' static files; pictures go there.

    Raises:
        PictureError: a figure has no words.
    """
    stem = name.split("-")[0]
    cells, made, words = [], [], alternatives()
    injected = any(_tagged(cell, INJECTED) for cell in notebook["cells"])
    for cell in notebook["cells"]:
        if injected and _tagged(cell, PARAMETERS):
            continue  # the defaults, which the run did not use
        if cell["cell_type"] == "code":
            made += saves(text(cell["source"]), words)
            cell = _folded(cell) | {"outputs": _with_words(cell, shown(cell, stem, words), static)}
        cells.append(cell)
    return notebook | {"cells": [cells[0], _origin(notebook, stem), *cells[1:]]}, made


def _tagged(cell: Notebook, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


def _folded(cell: Notebook) -> Notebook:
    tags = [*cell["metadata"].get("tags", []), "hide-input"]
    return cell | {"metadata": cell["metadata"] | {"tags": tags}}


def _origin(notebook: Notebook, stem: str) -> Notebook:
    """Where this copy comes from: the scale that it ran at, and the notebook to run oneself."""
    code = "\n".join(text(cell["source"]) for cell in notebook["cells"] if _tagged(cell, INJECTED))
    scale = re.search(r'^scale = "(\w+)"', code, flags=re.MULTILINE)
    how = f" at scale `{scale.group(1)}`" if scale else ""
    note = f"As the pipeline ran it{how}; to run it yourself: `make lab`, then `{NATIVE}/{stem}.ipynb`."
    return {"cell_type": "markdown", "id": "origin", "metadata": {}, "source": f":::{{note}}\n{note}\n:::"}


def _with_words(cell: Notebook, names: list[str], static: Path) -> list[Notebook]:
    """The outputs with every picture as an element that has words, size and anchor."""
    replaced, taken = [], Counter()
    for output in cell["outputs"]:
        if is_picture(output):
            name = names[taken.total()]
            taken[name] += 1
            anchor = "-".join(["figure", *name.split("/"), *([str(taken[name])] if taken[name] > 1 else [])])
            image = pictures.stored(text(output["data"][PICTURE]), static, pictures.alternative(name))
            output = output | {"data": {"text/html": pictures.linked(image, anchor)}}
        replaced.append(output)
    return replaced
