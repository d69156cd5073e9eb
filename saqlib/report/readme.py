"""The answer on the README's first screen, written from results/: python -m saqlib.report.readme

A test compares, so the README cannot say anything else than results/ do.
"""

from pathlib import Path

import pandas as pd

from saqlib import files, paths, words
from saqlib.errors import told
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
{rule}

{verdicts}"""
RULE = """\
The verdict on each claim of the abstract, question by question ([ours, too](results/tables/verdicts.md),
[every test](results/tables/claims.md), [the rule](saqlib/evidence/verdicts.py)):"""
# Until the second run is committed: what answers no question was found by the first run, whose rule is no longer here.
FIRST_RULE = """\
These are the verdicts of the first run ([every test](results/tables/claims.md), [its rule](paper/paper.pdf)). The
second run, with [claims](params.yaml) and [a rule](saqlib/evidence/verdicts.py) of its own, has not been made yet:"""


def answer(root: Path = paths.ROOT) -> str:
    """The text between the README's marks, from results/tables; a sentence in its stead before the first full run."""
    folder = root / "results" / "tables"
    if not (folder / "verdicts.csv").exists():
        return NOT_YET
    accuracy, found = (folder / "accuracy.md").read_text(encoding="utf-8"), pd.read_csv(folder / "verdicts.csv")
    if "question" not in found:
        return ANSWER.format(accuracy=accuracy, rule=FIRST_RULE, verdicts=_shown(found, found.claim + " " + found.text))
    found = found[found.group == "abstract"]
    claims = found.claim + " " + found.text + " " + found.question.str.capitalize() + "."
    return ANSWER.format(accuracy=accuracy, rule=RULE, verdicts=_shown(found, claims))


def _shown(summary: pd.DataFrame, claims: pd.Series) -> str:
    """One row per claim, one column per dataset and training; a dash where a claim compares both trainings."""
    columns = summary.dataset.map(words.dataset) + ", " + summary.training
    wide = summary.assign(column=columns, row=claims).pivot(index="row", columns="column", values="verdict")
    wide = wide.reindex(index=claims.unique(), columns=columns.unique()).fillna(tables.MISSING)
    return tables.markdown(wide.reset_index(names="Claim"))


def filled(readme: str, root: Path = paths.ROOT) -> str:
    """The README with its answer as results/ give it. Raises ValueError if a mark is gone."""
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md needs the lines {BEGIN.strip()!r} and {END.strip()!r} around its answer")
    before, rest = readme.split(BEGIN, 1)
    return before + BEGIN + answer(root) + END + rest.split(END, 1)[1]


def main() -> None:
    """Renew the answer in README.md; one readable message and exit code 1 where something is missing."""
    path = paths.ROOT / "README.md"
    with told(ValueError):
        files.write(path, filled(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
