"""The paper as PDF: Typst reads every number from results/ while it compiles.

    python -m saqlib.report.paper                  write paper/paper.pdf

A number, table or figure that is missing in results/ stops the build.
"""

from pathlib import Path

import typst

from saqlib import files, paths
from saqlib.errors import told


class PaperError(RuntimeError):
    """The paper does not compile; the message says which number or file is missing, and where."""


def build(root: Path = paths.ROOT) -> Path:
    """Compile paper/paper.typ under `root` with the fonts that come with Typst, so that bytes repeat; the PDF's path.

    Raises PaperError, with Typst's own words, and leaves an earlier PDF as it was.
    """
    source = root / "paper" / "paper.typ"
    try:
        pdf = typst.compile(source, root=root, ignore_system_fonts=True)
    except (typst.TypstError, FileNotFoundError) as error:
        reason = getattr(error, "diagnostic", error)
        message = f"{source.name} does not compile; run the stage that writes what is missing.\n{reason}"
        raise PaperError(message) from None
    return files.write(source.with_suffix(".pdf"), pdf)


def main() -> None:
    """The command line above; one readable message and exit code 1 where something is missing."""
    with told(PaperError):
        print(build())


if __name__ == "__main__":
    main()
