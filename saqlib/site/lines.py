"""Pages of the committed CSV files, line by line: where a number of the paper links to.

Every CSV of results/ has a page; a line of it is an anchor, `table_accuracy.html#L5`.
"""

import csv
import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from saqlib.report import tables

TITLES = {"runs": "All networks"}
ORIGINS = {
    "runs": "One row for each trained network: its accuracy and the means of its scores.",
    "deployment": "Bytes and operations of each network, as the deployment notebook wrote them.",
}


def sources(results: Path) -> Iterator[Path]:
    """Every CSV below results/: the tables first, then the others."""
    yield from sorted((results / "tables").glob("*.csv"))
    yield from sorted(results.glob("*.csv"))
    yield from sorted((results / "fills").glob("*.csv"))
    yield from sorted((results / "evidence").glob("*.csv"))
    yield from sorted((results / "figures").glob("*.csv"))


def page(path: Path) -> str:
    """The name of the page of a CSV: `table_accuracy`, `file_runs`, `figure_outline`."""
    kind = {"tables": "table", "figures": "figure", "fills": "fills"}.get(path.parent.name, "file")
    return f"{kind}_{path.stem}"


def address(line: str) -> str:
    """`table_accuracy.html#L5` of `results/tables/accuracy.csv#L5`."""
    path, _, anchor = line.partition("#")
    return f"{page(Path(path))}.html#{anchor}"


def title(path: Path) -> str:
    """The heading of a page."""
    name = TITLES.get(path.stem, path.stem.replace("_", " ").capitalize())
    return {"figures": f"{name} (figure)", "fills": f"Fills, {path.stem}"}.get(path.parent.name, name)


def about(path: Path) -> str:
    """One sentence on what a file holds, where there is one: that of the function that makes the table."""
    if path.parent.name == "figures":
        return f"What the figure `{path.stem}` plots."
    if path.parent.name == "evidence":
        return "The numbers of every seed, from which tables and verdicts can be computed again."
    if path.parent.name == "fills":
        return "By validation images: what a removed pixel may become, and whether it qualifies."
    made = getattr(tables, path.stem, None) if path.parent.name == "tables" else None
    said = made.__doc__ if made else ORIGINS.get(path.stem, "")
    return " ".join(re.split(r"(?<=\.)\s", said)[0].split())


def write(results: Path, pages: Path) -> list[Path]:
    """Write a page for each CSV, and a copy of it to take away; the CSV files in the order of the list."""
    found = list(sources(results))
    for path in found:
        copy = pages / "_static" / "results" / path.relative_to(results)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        (pages / f"{page(path)}.md").write_text(_text(path, results), encoding="utf-8")
    return found


def _text(path: Path, results: Path) -> str:
    inside = path.relative_to(results).as_posix()
    parts = [f"# {title(path)}\n", about(path), f"[`results/{inside}`](_static/results/{inside})"]
    shown = path.with_suffix(".md")
    if shown.exists():
        parts += [shown.read_text(encoding="utf-8"), "## Line by line"]
    return "\n\n".join([*parts, _raw(_listing(path))])


def _raw(text: str) -> str:
    return f"```{{raw}} html\n{text}\n```\n"


def _listing(path: Path) -> str:
    """The CSV as a table in which a row knows its line."""
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    if len(rows) + 1 != len(path.read_text(encoding="utf-8").splitlines()):
        raise ValueError(f"{path} has a value over several lines, so its rows cannot be named by their line")
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "\n".join(
        f'<tr id="L{number}"><th><a href="#L{number}">{number}</a></th>'
        + "".join(f"<td>{html.escape(value)}</td>" for value in row)
        + "</tr>"
        for number, row in enumerate(rows, start=2)
    )
    return (
        '<div class="table-wrapper"><table class="lines"><thead><tr><th>line</th>'
        f"{heads}</tr></thead><tbody>\n{lines}\n</tbody></table></div>"
    )
