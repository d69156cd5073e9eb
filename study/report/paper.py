"""The paper as PDF: Typst reads every number from results/ while it compiles.

    python -m study.report.paper                   write paper/paper.pdf

A number, table or figure that is missing in results/ stops the build, and so does a sentence that they no longer bear
out; the message names it.
"""

import argparse
import re
from pathlib import Path

import typst

from saqlib.errors import exit_with_message
from study import files, paths

# Between lines, in em; the first one at which Typst can write the PDF. Where a float meets the end of a page its tags
# for screen readers may end in an internal error (typst issues 8487, 8776), which a hair's breadth more avoids.
LEADINGS = ("0.55", "0.56", "0.57", "0.58", "0.54", "0.59", "0.53")
POSITIONAL = ("internal error: parent group", "tags weren't properly closed")


class PaperError(RuntimeError):
    """The paper does not compile; the message says which number or file is missing, and where."""


def build(root: Path = paths.ROOT) -> Path:
    """Compile paper/paper.typ under `root` with the fonts that come with Typst, so that bytes repeat; the PDF's path.

    Raises PaperError, with Typst's own words, and leaves an earlier PDF as it was.
    """
    source = root / "paper" / "paper.typ"
    for leading in LEADINGS:
        try:
            pdf = typst.compile(source, root=root, ignore_system_fonts=True, sys_inputs={"leading": leading})
            return files.write(source.with_suffix(".pdf"), pdf)
        except (typst.TypstError, FileNotFoundError) as error:
            reason = reason_of(error)
            if not any(fault in reason for fault in POSITIONAL):
                break
    raise PaperError(f"{source.name} does not compile: {reason}")


def reason_of(error: Exception) -> str:
    """Why Typst fails: in its own words, or in one line that names the file that is not there."""
    words = str(getattr(error, "diagnostic", error))
    missing = re.search(r"file not found \(searched at (.+)\)", words)
    return f"{missing[1]} is not there; run the stage that writes it (make reproduce)" if missing else words


def main() -> None:
    """The command line above; one readable message and exit code 1 where something is missing."""
    argparse.ArgumentParser(prog="python -m study.report.paper", description="Write paper/paper.pdf.").parse_args()
    with exit_with_message(PaperError):
        print(build())


if __name__ == "__main__":
    main()
