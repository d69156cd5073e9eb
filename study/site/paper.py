"""The paper and its supplement as pages, from the same Typst source as the PDF; each number is a link to its line.

Typst writes the prose, the formulas (MathML) and the tables. Here its headings become the page's own, so that they
appear in the table of contents, formulas get their numbers, and pictures their files and the cell that makes them.
"""

import html
import itertools
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import typst

from study.report.paper import PaperError, reason_of
from study.site import csv_pages, pictures

HEADING = re.compile(r'<h([23])(?: id="([^"]+)")?>(.*?)</h\1>', re.DOTALL)
TITLE = re.compile(r"<p>(?P<title>.*?)</p><p>(?P<subtitle>.*?)</p><p>(?P<authors>.*?)</p>", re.DOTALL)
SUPPLEMENT = re.compile(r"(?:^\([^)\n]+\)=\n\n)?^## Supplement\n", re.MULTILINE)
ANCHOR = re.compile(r'\bid="([^"]+)"|^\(([^)\n]+)\)=$', re.MULTILINE)
BELOW = "\n```{toctree}\n:hidden:\n\nsupplement\n```\n"
BEGIN, END = "```{raw} html\n", "\n```\n\n"  # of what stays HTML
PDF = (
    "[As PDF](_static/paper.pdf). Each number leads to the line of `results/` that it comes from, "
    "each figure to its notebook."
)


def write(root: Path, pages: Path, cells: Mapping[str, str]) -> None:
    """Write the pages of the paper and of its supplement, and the PDF beside them.

    Args:
        root: the folder that holds paper/ and results/.
        pages: the folder of the pages.
        cells: the address of the notebook cell that makes each figure, by the figure's name.

    Raises:
        PaperError: a number, table or figure is missing in results/, or Typst writes another form than expected.
    """
    shutil.copyfile(root / "paper" / "paper.pdf", pages / "_static" / "paper.pdf")
    whole = text(body(root), root / "results", pages / "_static", cells)
    for name, page in parted(whole).items():
        (pages / f"{name}.md").write_text(page, encoding="utf-8")


def parted(page: str) -> dict[str, str]:
    """The paper and, if it has one, its supplement, each a page; links between them lead from one to the other."""
    parts = dict(zip(("paper", "supplement"), SUPPLEMENT.split(page), strict=False))
    if "supplement" in parts:
        parts["paper"] += BELOW
        parts["supplement"] = "# Supplement\n" + re.sub("^### ", "## ", parts["supplement"], flags=re.MULTILINE)
    homes = {"".join(names): name for name, part in parts.items() for names in ANCHOR.findall(part)}

    def link(found: re.Match, name: str) -> str:
        home = homes.get(found[1], name)
        return found[0] if home == name else f'href="{home}.html#{found[1]}"'

    return {name: re.sub('href="#([^"]+)"', partial(link, name=name), part) for name, part in parts.items()}


def body(root: Path) -> str:
    """What Typst makes of the paper, between the tags of its body."""
    source = root / "paper" / "paper.typ"
    try:
        page = typst.compile(source, root=root, ignore_system_fonts=True, format="html", sys_inputs={"page": "yes"})
    except (typst.TypstError, FileNotFoundError) as error:
        raise PaperError(f"{source.name} does not become a page: {reason_of(error)}") from None
    return re.search(r"<body>(.*)</body>", page.decode(), re.DOTALL).group(1)


def text(body: str, results: Path, static: Path, cells: Mapping[str, str]) -> str:
    """The page in Markdown: headings as such, everything else as HTML."""
    head = TITLE.match(body)
    if head is None:
        raise PaperError("the page of the paper does not begin with title, subtitle and authors")
    body = re.sub(r"</?section[^>]*>", "", body[head.end() :])
    body = HEADING.sub(_heading, _figures(_equations(_numbers(body)), results, static, cells))
    page = f"""# {_plain(head["title"])}

{BEGIN}<p class="subtitle">{head["subtitle"]}</p>{END}{PDF}

{BEGIN}<p class="authors">{head["authors"]}</p>{body}{END}"""
    return page.replace(BEGIN + END, "")


def _heading(found: re.Match) -> str:
    level, anchor, words = found.groups()
    target = f"({anchor})=\n\n" if anchor else ""
    return f"{END}{target}{'#' * int(level)} {_plain(words)}\n\n{BEGIN}"


def _plain(words: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", words))


def _numbers(body: str) -> str:
    """Links into results/ lead to the pages of its lines; around ± stand the narrow spaces that HTML has lost."""
    body = re.sub(r'href="(results/[^"]+)"', lambda found: f'href="{csv_pages.address(found[1])}"', body)
    return body.replace("±", "\u2009±\u2009")


def _equations(body: str) -> str:
    """Each formula on a line of its own with its number, as in the PDF."""
    number = itertools.count(1)

    def numbered(found: re.Match) -> str:
        math = f'<math display="block">{found["inside"]}</math>'
        return f'<div class="equation"{found["id"] or ""}>{math}<span>({next(number)})</span></div>'

    return re.sub(r'(?s)<math(?P<id> id="[^"]+")? display="block">(?P<inside>.*?)</math>', numbered, body)


def _figures(body: str, results: Path, static: Path, cells: Mapping[str, str]) -> str:
    """Pictures in files of their own, each with a link to the cell that makes it behind its caption."""

    def shown(found: re.Match) -> str:
        name, alt, between = found["name"], html.unescape(found["alt"]), found["between"]
        content = (results / "figures" / f"{name}.png").read_bytes()
        image = pictures.stored(content, name, static, alt, pictures.DENSITY)
        made = f' <a class="made" href="{cells[name]}">Made in this cell</a>' if name in cells else ""
        return f"{image}{between}{made}</figcaption>"

    pattern = r'<p><img src="results/figures/(?P<name>\w+)\.png" alt="(?P<alt>[^"]*)"></p>(?P<between>.*?)</figcaption>'
    return re.sub(pattern, shown, body, flags=re.DOTALL)
