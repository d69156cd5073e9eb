"""Pages of the committed CSV files, line by line: where a number of the paper links to.

Every CSV of results/ has a page; a line of it is an anchor, `table_accuracy.html#L5`.
"""

import csv
import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from study.report import tables

KINDS = {"tables": "table", "figures": "figure", "fills": "fills"}  # how the name of a page begins, by folder
FOLDERS = ("tables", "", "fills", "evidence", "figures")
TITLES = {"runs": "All networks"}
# What a file holds, where no function is there for it alone.
ABOUT = {
    "runs": "One row for each trained network: its accuracy and the means of its scores.",
    "deployment": "Bytes and operations of each network, as the deployment notebook wrote them.",
    "claims": "Every comparison behind the verdicts: mean paired difference, interval, p-value, corrected p-value.",
    "equivalence": "The same comparisons, tested for a change that is smaller than the margin stated beforehand.",
    "verdicts": "The verdict on each question of each claim, why, and whether it stays with other ways of analysis.",
    "by_fill": "Every comparison of faithfulness with one fill alone in place of all that qualify.",
    "switched": "How much of a lost score comes back when quantizers are switched off in the map alone.",
    "surrogate": "How much more faithful finite differences are than the straight-through gradient.",
    "randomization": "How alike maps stay as layers are drawn anew, from the last to the first.",
    "figures": "What the figure `{}` plots.",
    "evidence": "The numbers of every seed, from which tables and verdicts can be computed again.",
    "fills": "By validation images: what a removed pixel may become, and whether it qualifies.",
}


def sources(results: Path) -> Iterator[Path]:
    """Every CSV of results/ that has a page: the tables first, then the others."""
    for folder in FOLDERS:
        yield from sorted((results / folder).glob("*.csv"))


def page(path: Path) -> str:
    """The name of the page of a CSV: `table_accuracy`, `file_runs`, `figure_outline`."""
    return f"{KINDS.get(path.parent.name, 'file')}_{path.stem}"


def address(line: str) -> str:
    """`table_accuracy.html#L5` of `results/tables/accuracy.csv#L5`."""
    path, _, anchor = line.partition("#")
    return f"{page(Path(path))}.html#{anchor}"


def title(path: Path) -> str:
    """The heading of a page."""
    name = TITLES.get(path.stem, path.stem.replace("_", " ").capitalize())
    return {"figures": f"{name} (figure)", "fills": f"Fills, {path.stem}"}.get(path.parent.name, name)


def about(path: Path) -> str:
    """One sentence on what a file holds: of a table, that of the function that makes it; empty for an unknown one."""
    kind = path.parent.name
    if kind in ABOUT:
        return ABOUT[kind].format(path.stem)
    made = getattr(tables, path.stem, None) if kind == "tables" else None
    text = made.__doc__ if made else ABOUT.get(path.stem, "")
    return " ".join(re.split(r"(?<=\.)\s", text)[0].split())


def write(results: Path, pages: Path) -> list[Path]:
    """Write a page for each CSV, and a copy of it to take away; the CSV files in the order of the list.

    Raises ValueError for a file whose rows cannot be named by their line.
    """
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
    return "\n\n".join([*parts, f"```{{raw}} html\n{_listing(path)}\n```\n"])


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
