"""The reading copy: python -m study.site.build

Writes build/site/ from committed results: the front page, the networks in the browser, the paper, the executed
notebooks, every table and docs/. Nothing is trained, executed or fetched. The pages open by a double click, and from a
server.
"""

import argparse
import posixpath
import re
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import jinja2
import pandas as pd

from saqlib.data import DATASETS
from saqlib.errors import exit_with_message
from saqlib.scores import FILLS
from study import paths
from study.report import labels
from study.report.paper import PaperError
from study.report.style import GREY, alternative, looks
from study.site import csv_pages, front, networks, notebooks, paper, pictures

SOURCES = paths.ROOT / "site"
MODULES = SOURCES / "node_modules"
OUT = paths.BUILD / "site"
FONTS = {
    "sans.woff2": "@fontsource-variable/source-sans-3/files/source-sans-3-latin-wght-normal.woff2",
    "sans-italic.woff2": "@fontsource-variable/source-sans-3/files/source-sans-3-latin-wght-italic.woff2",
    "serif.woff2": "@fontsource-variable/source-serif-4/files/source-serif-4-latin-wght-normal.woff2",
    "serif-italic.woff2": "@fontsource-variable/source-serif-4/files/source-serif-4-latin-wght-italic.woff2",
    "math.woff2": "@fontsource/stix-two-math/files/stix-two-math-latin-400-normal.woff2",
}
PAGES = {"paper/paper.pdf": "paper.md", "results/README.md": "tables.md"}  # what stands for these files
WAYS = """\


**[Draw a digit](draw.md)** and see the networks answer in your browser · [the paper](paper.md) ·
[all tables](tables.md) · [change one thing](change.md)

:::{container} first-screen
"""
LINK = re.compile(r"(?<!!)\[(?P<words>[^\]]+)\]\((?P<target>[^)\s]+)\)")


class SiteError(RuntimeError):
    """The site cannot be built; the message says what is missing and which command brings it."""


def build(root: Path = paths.ROOT, out: Path = OUT) -> Path:
    """Write the site to `out`, whole or not at all; an earlier one is replaced at the end.

    Args:
        root: the folder that holds results/, paper/ and docs/.
        out: the folder of the finished site.

    Raises:
        SiteError: a package or a file is missing.
        PaperError: the paper does not compile from these results.
        FrontError: a sentence of the front page is not true of them.
    """
    missing = [name for name in ("sphinx", "myst_nb", "furo") if find_spec(name) is None]
    needed = [MODULES / name for name in ("onnxruntime-web/dist", *FONTS.values())]
    if missing := [*missing, *(str(path) for path in needed if not path.exists())]:
        raise SiteError(f"{missing[0]} is missing; run `make site`, which installs what the site is made with")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f"{out.name}.") as folder:
        pages, made = Path(folder, "pages"), Path(folder, "site")
        write_pages(root, pages)
        _sphinx(pages, made)
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
    return out


def write_pages(root: Path, pages: Path) -> None:
    """Write the sources that Sphinx reads: pages in Markdown, prepared notebooks, static files."""
    results, static = root / "results", pages / "_static"
    shutil.copytree(SOURCES / "static", static)
    shutil.copy(SOURCES / "conf.py", pages)
    for name, source in FONTS.items():
        (static / "fonts").mkdir(exist_ok=True)
        shutil.copyfile(MODULES / source, static / "fonts" / name)
    cells = notebooks.write(results, pages)
    tables = csv_pages.write(results, pages)
    paper.write(root, pages, cells)
    networks.write(results, MODULES, static)
    docs = sorted((root / "docs").glob("*.md"))
    known = _known(root, static) | {
        "docs": [path.stem for path in docs],
        "notebooks": sorted(path.stem for path in (results / "notebooks").glob("*.ipynb")),
        "tables": [{"page": csv_pages.page(path), "title": csv_pages.title(path), "about": csv_pages.about(path)}
                   for path in tables],
    }  # fmt: skip
    for path in sorted((SOURCES / "pages").glob("*.md")):
        template = jinja2.Template(path.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined)
        (pages / path.name).write_text(template.render(known), encoding="utf-8")
    for path in docs:
        text = on_the_site(path.read_text(encoding="utf-8"), "docs", results)
        (pages / path.name).write_text(text, encoding="utf-8")


def _known(root: Path, static: Path) -> dict[str, object]:
    """What the pages of site/pages/ leave open, from results/: the front page, and the names of the grid."""
    results = root / "results"
    datasets, trainings, precisions = pd.read_csv(results / "runs.csv")[["dataset", "training", "precision"]].agg(
        lambda names: list(dict.fromkeys(names))
    )
    colours = {name: look.colour for name, look in looks(precisions).items()} | {labels.UNTRAINED: GREY}
    return {
        "front": _front(root, static),
        "datasets": {name: DATASETS[name].title for name in datasets},
        "trainings": trainings,
        "kinds": {name: {"colour": colour, "words": labels.precision(name)} for name, colour in colours.items()},
        "fills": FILLS,
        "removed": round(100 * networks.REMOVED),
    }


def _front(root: Path, static: Path) -> str:
    """The README, with the figures of the site, and its ways to other pages."""

    def picture(name: str) -> str:
        content = (root / "results" / "figures" / f"{name}.png").read_bytes()
        return pictures.stored(content, name, static, alternative(name), pictures.DENSITY)

    readme = front.filled((paths.ROOT / "README.md").read_text(encoding="utf-8"), root, picture)
    page = on_the_site(readme, "", root / "results").replace(front.END, ":::\n")
    return re.sub(rf"\[Paper\][^\n]*\n\n{re.escape(front.BEGIN)}", lambda _: WAYS, page)


def on_the_site(page: str, folder: str, results: Path) -> str:
    """Markdown with links into the repository, each leading to the page of the site instead; words where there is none.

    Args:
        page: the text.
        folder: of its file in the repository, such as `docs`; from there links are relative.
        results: the folder results/.
    """

    def replaced(found: re.Match) -> str:
        words, target = found["words"], found["target"]
        if ":" in target or target.startswith("#"):
            return found[0]
        place, _, anchor = target.partition("#")
        path = Path(posixpath.normpath(posixpath.join(folder, place)))
        ending = f"#{anchor}" if anchor else ""
        if path.parent.as_posix() in ("docs", "site/pages") or path.as_posix() in PAGES:
            return f"[{words}]({PAGES.get(path.as_posix(), path.name)}{ending})"
        if path.parent.name == "notebooks" and (results / "notebooks" / path.name).exists():
            return f"[{words}]({path.name})"
        table = results.joinpath(*path.with_suffix(".csv").parts[1:])
        if path.parts[0] == "results" and path.suffix in (".csv", ".md") and table in csv_pages.sources(results):
            return f"[{words}]({csv_pages.page(table)}.md)"
        return words

    return LINK.sub(replaced, page)


def _sphinx(pages: Path, out: Path) -> None:
    from sphinx.cmd.build import build_main

    if build_main(["-q", "-W", "--keep-going", "-d", str(pages / ".doctrees"), str(pages), str(out)]):
        raise SiteError("Sphinx does not build the pages; its messages are above")


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m study.site.build", description="Write the site to build/site/.")
    parser.parse_args(arguments)
    with exit_with_message(SiteError, PaperError, front.FrontError):
        print(build() / "index.html")


if __name__ == "__main__":
    main()
