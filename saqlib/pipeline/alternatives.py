"""Words for the figures of a notebook, for whoever does not see them: from paper/alt.yaml into the outputs' metadata.

They stand where nbconvert looks for them, `image/png: {alt: ...}`. A cell that saves figures shows those; any other is
described as a whole, under `notebook/cell`.
"""

import ast
import re
from typing import Any

import yaml

from saqlib import paths
from saqlib.pipeline.forms import PICTURE, Notebook, text

SOURCE = paths.ROOT / "paper" / "alt.yaml"


def alternatives() -> dict[str, str]:
    """What each figure shows, in words: by its name, or by `notebook/cell` for one that a notebook alone shows."""
    return yaml.safe_load(SOURCE.read_text(encoding="utf-8"))


def described(notebook: Notebook, stem: str) -> Notebook:
    """The notebook with words for every picture that has some; other metadata of outputs are none.

    stem: the notebook's own name, such as `05_compare`.
    """
    words = alternatives()
    cells = [_described(cell, stem, words) if cell["cell_type"] == "code" else cell for cell in notebook["cells"]]
    return notebook | {"cells": cells}


def _described(cell: Notebook, stem: str, words: dict[str, str]) -> Notebook:
    names = iter(shown(cell, stem, words))
    outputs = [
        output | {"metadata": _metadata(words.get(next(names)))} if is_picture(output) else output
        for output in cell["outputs"]
    ]
    return cell | {"outputs": outputs}


def _metadata(alt: str | None) -> dict[str, Any]:
    return {PICTURE: {"alt": alt}} if alt else {}


def is_picture(output: Notebook) -> bool:
    """Whether an output shows a picture."""
    return PICTURE in output.get("data", {})


def shown(cell: Notebook, stem: str, words: dict[str, str]) -> list[str]:
    """The name of each picture of a cell: of the figures that it saves, if there are as many, else that of the cell."""
    count = sum(map(is_picture, cell["outputs"]))
    saved = saves(text(cell["source"]), words)
    return saved if count == len(saved) else [f"{stem}/{cell['id']}"] * count


def saves(code: str, names: dict[str, str]) -> list[str]:
    """Those of the names that a cell saves: `save(figure, "curves")`, or all of `save(figure, f"saliency_{name}")`."""
    patterns = [
        pattern
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "save"
        for pattern in map(_pattern, node.args)
    ]
    return [name for name in names if any(pattern and re.fullmatch(pattern, name) for pattern in patterns)]


def _pattern(node: ast.expr) -> str:
    """A pattern for what a string can be; nothing for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_pattern(part) if isinstance(part, ast.Constant) else ".+" for part in node.values)
    return ""
