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
    "grid_confirming": "The same grid of the confirming seeds alone.",
    "grid_tests": "Behind each verdict: equivalence and size against the margin, the range over the fills.",
    "grid_confirming_tests": "The same of the confirming seeds alone.",
    "power": "How often each registered claim would get which word, if new seeds were like the exploring ones.",
    "claims": "Every comparison of each claim: mean paired difference, interval, p-values, and how it is read.",
    "verdicts": "The conjunctions: one word for all comparisons of a claim, dataset, training and question, and why.",
    "randomization": "How alike maps stay as layers are drawn anew, from the last to the first.",
    # Tables of the second run, which go with its results.
    "equivalence": "The same comparisons, tested for a change that is smaller than the margin stated beforehand.",
    "by_fill": "Every comparison of faithfulness with one fill alone in place of all that qualify.",
    "switched": "How much of a lost score comes back when quantizers are switched off in the map alone.",
    "surrogate": "How much more faithful finite differences are than the straight-through gradient.",
    "robustness": "Every conjunction under every alternative: how often it stays the same.",
    "other_methods": "Every comparison of maps by several methods of saliency.",
    "convergence": "Each precision minus the reference, seed by seed, by method of saliency.",
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
    made = getattr(tables, path.stem, None) if path.parent.name == "tables" else None
    known = ABOUT.get(path.parent.name, ABOUT.get(path.stem, ""))
    return " ".join(re.split(r"(?<=\.)\s", made.__doc__)[0].split()) if made else known.format(path.stem)


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
    return "\n\n".join([*parts, f"```{{raw}} html\n{_listing(path)}\n```\n"])


def _listing(path: Path) -> str:
    """The CSV as a table in which a row knows its line."""
    rows = csv.reader(path.read_text(encoding="utf-8").splitlines(keepends=True))
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in next(rows))
    lines = []
    for row in rows:
        number = rows.line_num
        values = "".join(f"<td>{html.escape(value)}</td>" for value in row)
        lines.append(f'<tr id="L{number}"><th><a href="#L{number}">{number}</a></th>{values}</tr>\n')
    return (
        '<div class="table-wrapper"><table class="lines"><thead><tr><th>line</th>'
        f"{heads}</tr></thead><tbody>\n{''.join(lines)}</tbody></table></div>"
    )
