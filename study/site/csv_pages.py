"""Pages of the committed CSV files, line by line: where a number of the paper links to.

Every CSV of results/ has a page; a line of it is an anchor, `table_accuracy.html#L5`. What each holds, and what its
columns are, stands in site/tables.yaml.
"""

import csv
import functools
import html
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from saqlib.scores import SCORES
from study import paths
from study.report import labels

KINDS = {"tables": "table", "figures": "figure", "fills": "fills"}  # how the name of a page begins, by folder
FOLDERS = ("tables", "", "fills", "evidence", "figures")
TITLES = {"file_runs": "All networks", "file_deployment": "All costs"}  # of pages
LONG = 30  # letters of a cell whose words may go on below


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
    name = TITLES.get(page(path), labels.plain(path.stem).capitalize())
    special = {"figures": f"{name} (figure)", "evidence": f"{name} (each network)", "fills": f"Fills, {path.stem}"}
    return special.get(path.parent.name, name)


@functools.cache
def _words() -> dict[str, dict[str, str]]:
    found = yaml.safe_load((paths.ROOT / "site" / "tables.yaml").read_text(encoding="utf-8"))
    columns = {name: words for names, words in found["columns"].items() for name in names.split(", ")}
    return found | {"columns": columns}


def about(path: Path) -> str:
    """One sentence on what a file holds; empty for an unknown one."""
    folder, stem = path.parent.name, path.stem
    if folder == "fills":
        dataset, per_seed, _ = stem.partition("_seeds")
        return _words()["tables"][f"fills{per_seed}"].format(labels.dataset(dataset))
    return _words()["tables"].get(f"{folder}/{stem}" if folder in FOLDERS else stem, "")


def explained(column: str) -> str:
    """What a column of a CSV holds; empty where its name says it."""
    if column.endswith("_se"):
        return f"the standard error of {column.removesuffix('_se')}"
    if column.startswith("retained_"):
        return f"the share of {column.removeprefix('retained_')} that is kept of what training gives"
    score = SCORES.get(labels.score_id(column))
    return _words()["columns"].get(column) or (f"{labels.name(column)}. {score.question}" if score else "")


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
    inside, shown = path.relative_to(results).as_posix(), path.with_suffix(".md")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        heads = next(reader)
        lines = [(reader.line_num, row) for row in reader]
    parts = [f"# {title(path)}\n", about(path), f"[`results/{inside}`](_static/results/{inside})", _columns(heads)]
    if shown.exists():
        of_people, _, *rows = [_cells(line) for line in shown.read_text(encoding="utf-8").splitlines()]
        parts += [_table(of_people, rows, title(path)), "## Line by line"]
    rows = ([f'<a href="#L{number}">{number}</a>', *map(_escaped, row)] for number, row in lines)
    parts.append(_table(["line", *map(_escaped, heads)], rows, "Line by line", [number for number, _ in lines]))
    return "\n\n".join(parts) + "\n"


def _escaped(value: str) -> str:
    """Text of a file as text of the page: neither HTML, nor the end of the block that HTML stands in."""
    return html.escape(value).replace("`", "&#96;")


def _cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table, as HTML; the strong ones are bold."""
    cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    return [re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", _escaped(cell)) for cell in cells]


def _columns(heads: Iterable[str]) -> str:
    known = {name: explained(name) for name in heads}
    listed = "".join(f"<dt>{name}</dt><dd>{_escaped(words)}</dd>" for name, words in known.items() if words)
    return _raw(f'<details class="columns"><summary>What the columns hold</summary><dl>{listed}</dl></details>')


def _table(heads: Iterable[str], rows: Iterable[list[str]], name: str, numbers: Iterable[int] = ()) -> str:
    """A table in a frame that scrolls, all of HTML. numbers: of the lines, which become anchors."""
    anchors = (f' id="L{number}"' for number in numbers)
    head = "".join(f'<th title="{_escaped(explained(each))}">{each}</th>' for each in heads)
    body = "\n".join(f"<tr{next(anchors, '')}>{''.join(map(_cell, row))}</tr>" for row in rows)
    frame = f'<div class="frame" tabindex="0" role="region" aria-label="{html.escape(name)}">'
    return _raw(f'{frame}<table class="lines"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>')


def _cell(content: str) -> str:
    words = re.sub(r"<[^>]+>", "", content)
    return f'<td class="long">{content}</td>' if len(words) > LONG else f"<td>{content}</td>"


def _raw(content: str) -> str:
    return f"```{{raw}} html\n{content}\n```"
