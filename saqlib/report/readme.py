"""The answer on the README's first screen, written from results/: python -m saqlib.report.readme

A test compares, so the README cannot say anything else than results/ do.
"""

from pathlib import Path

import pandas as pd

from saqlib import files, paths, words
from saqlib.report import tables

BEGIN = "<!-- answer: written by `python -m saqlib.report.readme` from results/ -->\n"
END = "<!-- end of answer -->\n"
NOT_YET = """\
The full run is not in this repository yet. `make quick` shows every figure and table in minutes, from short training.
"""
ANSWER = """\
![Saliency maps of four precisions, without and with saliency guidance](results/figures/saliency_mnist.png)

Test accuracy in percent, mean over the seeds and half the 95 % interval ([all tables](results/tables)):

{accuracy}
The verdict on each claim ([every test](results/tables/claims.md), [the rule](saqlib/evidence/verdicts.py)):

{verdicts}"""


def answer(root: Path = paths.ROOT) -> str:
    """The text between the README's marks, from results/tables; a sentence in its stead before the first full run."""
    folder = root / "results" / "tables"
    if not (folder / "verdicts.csv").exists():
        return NOT_YET
    accuracy = (folder / "accuracy.md").read_text()
    return ANSWER.format(accuracy=accuracy, verdicts=tables.markdown(_verdicts(pd.read_csv(folder / "verdicts.csv"))))


def _verdicts(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per claim and question, one column per dataset and training; a dash where a claim compares trainings."""
    columns = summary.dataset.map(words.dataset) + ", " + summary.training
    claims = summary.claim + " " + summary.text
    if "question" in summary:  # the first run's verdicts have none
        claims += " " + summary.question.str.capitalize() + "."
    wide = summary.assign(column=columns, row=claims).pivot(index="row", columns="column", values="verdict")
    wide = wide.reindex(index=claims.unique(), columns=columns.unique()).fillna(tables.MISSING)
    return wide.reset_index(names="Claim")


def filled(readme: str, root: Path = paths.ROOT) -> str:
    """The README with its answer as results/ give it. Raises ValueError if a mark is gone."""
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md needs the lines {BEGIN.strip()!r} and {END.strip()!r} around its answer")
    before, rest = readme.split(BEGIN, 1)
    return before + BEGIN + answer(root) + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    path = paths.ROOT / "README.md"
    files.write(path, filled(path.read_text()))
