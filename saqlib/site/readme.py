"""The README's first screen, written from results/: python -m saqlib.site.readme

It says in Markdown what the site's front page says. A test compares, so the README cannot say anything else than
results/ do.
"""

from collections.abc import Sequence
from pathlib import Path

from saqlib import files, paths, words
from saqlib.errors import told
from saqlib.site import front
from saqlib.site.findings import Chain, Runs, Standing, mitigation, standings

BEGIN = "<!-- answer: written by `python -m saqlib.site.readme` from results/ -->\n"
END = "<!-- end of answer -->\n"
NOT_YET = """\
The full run is not in this repository yet. `make quick` shows every figure and table in minutes, from short training.
"""
ANSWER = """\
{answer}

{table}
Means over {seeds} seeds ({order}); ↗ ↘ where the change from {reference} to {lowest} lies
beyond chance, ≈ where it does not.

<img src="{picture}" alt="{alt}" width="850">

{claims}
A claim holds where all comparisons that it makes do, each quantized precision with full precision for instance;
*undecided* is no evidence against it. {robust}
[All verdicts](results/tables/verdicts.md), [every test](results/tables/claims.md), [all tables](results/tables).
Every verdict again, by code of its own from the committed numbers of each seed: `make env`, then
`.venv/bin/python -m pytest tests/evidence/test_recomputed.py`, 2 minutes. From the images: `make reproduce`, then
`make verify`.
"""
PICTURE = "results/figures/glance.png"
ALTERNATIVE = "Saliency maps of two images at each precision, and the faithfulness of maps over the precisions"


def answer(root: Path = paths.ROOT) -> str:
    """The text between the README's marks, from results/; a sentence in its stead before the first full run."""
    results = root / "results"
    if not (results / "tables" / "verdicts.csv").exists():
        return NOT_YET
    runs = Runs(results)
    return ANSWER.format(
        answer=f"**{front.answer(runs, mitigation(results))}** {front.changed(results)}".strip(),
        table=table(runs),
        seeds=runs.frame.seed.nunique(),
        order=" → ".join(runs.precisions),
        reference=runs.precisions[0],
        lowest=runs.precisions[-1],
        picture=PICTURE,
        alt=ALTERNATIVE,
        claims=claims(standings(results)),
        robust=front.robust(runs, results),
    )


def table(runs: Runs) -> str:
    """At most five rows: a quantity over the precisions on each dataset, and which way it goes."""
    heads = ["", *map(words.dataset, runs.datasets)]
    rows = [
        [f"{name}, {asked}", *(_chain(runs.chain(metric, dataset, training)) for dataset in runs.datasets)]
        for name, asked, metric, training in front.asked(runs)
    ]
    return _markdown(heads, rows)


def _chain(chain: Chain) -> str:
    numbers = " → ".join(f"{number.value:.2f}".replace("-", "−") for number in chain.numbers)
    return f"{numbers} {front.ARROWS[chain.direction][0]}"


def claims(found: Sequence[Standing]) -> str:
    """A row for each claim of the abstract: its text, how it stands, and where it holds if that depends."""
    rows = []
    for standing in found:
        where = f": {standing.where}" if standing.word.startswith("depends") else ""
        rows.append([f"{standing.claim} {standing.text}", f"{standing.word}{where}"])
    return _markdown(["Claim of the abstract", ""], rows)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
