"""The reading copy: python -m saqlib.site.build

Writes build/site/ from committed results: the front page, the networks in the browser, the paper, the executed
notebooks and every table. Nothing is trained, executed or fetched. The pages open by a double click, and from a server.
"""

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jinja2

from saqlib import paths
from saqlib.errors import told
from saqlib.report.paper import PaperError
from saqlib.site import front, glance, lines, networks, notebooks, paper, pictures
from saqlib.site.findings import Runs

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


class SiteError(RuntimeError):
    """The site cannot be built; the message says what is missing and which command brings it."""


def build(root: Path = paths.ROOT, out: Path = OUT) -> Path:
    """Write the site to `out`, whole or not at all; what stood there is replaced at the end.

    Args:
        root: the folder that holds results/ and paper/.
        out: the folder of the finished site.

    Raises:
        SiteError: a package or a file is missing.
        PaperError: the paper does not compile from these results.
        PictureError: a figure has no words.
    """
    _require()
    pages, partial = (out.with_name(f"{out.name}.{end}") for end in ("pages", "partial"))
    for folder in (pages, partial):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        write_pages(root, pages)
        _sphinx(pages, partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        for folder in (pages, partial):
            shutil.rmtree(folder, ignore_errors=True)
    return out


def _require() -> None:
    """Raise SiteError unless what the site is made with is there."""
    for package in ("sphinx", "myst-nb", "furo"):
        try:
            version(package)
        except PackageNotFoundError:
            raise SiteError(
                f"{package} is not installed; run `make site`, or pip install --editable '.[site]'"
            ) from None
    for name in ["onnxruntime-web/dist", *FONTS.values()]:
        if not (MODULES / name).exists():
            raise SiteError(f"site/node_modules/{name} is missing; run `make site`, or `npm ci` in site/")


def write_pages(root: Path, pages: Path) -> None:
    """Write the sources that Sphinx reads: pages in Markdown, prepared notebooks, static files."""
    results, static = root / "results", pages / "_static"
    shutil.copytree(SOURCES / "static", static)
    shutil.copy(SOURCES / "conf.py", pages)
    for name, source in FONTS.items():
        (static / "fonts").mkdir(exist_ok=True)
        shutil.copyfile(MODULES / source, static / "fonts" / name)
    cells = notebooks.write(results, pages)
    tables = lines.write(results, pages)
    paper.write(root, pages, cells)
    networks.write(results, MODULES, static)
    runs = Runs(results)
    known = front.parts(results, glance.picture(results, static, runs)) | {
        "notebooks": sorted(path.stem for path in (results / "notebooks").glob("*.ipynb")),
        "tables": [
            {"page": lines.page(path), "title": lines.title(path), "about": lines.about(path)} for path in tables
        ],
    }
    for path in sorted((SOURCES / "pages").glob("*.md")):
        template = jinja2.Template(path.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined)
        (pages / path.name).write_text(template.render(known), encoding="utf-8")


def _sphinx(pages: Path, out: Path) -> None:
    from sphinx.cmd.build import build_main

    if build_main(["-q", "-W", "--keep-going", "-d", str(pages / ".doctrees"), str(pages), str(out)]):
        raise SiteError("Sphinx does not build the pages; its messages stand above")


def main() -> None:
    """The command line above; one readable message and exit code 1 where something is missing."""
    with told(SiteError, PaperError, pictures.PictureError):
        print(build() / "index.html")


if __name__ == "__main__":
    main()
