"""The front page: for somebody with half a minute. Question, answer, a table, a picture, the claims, two commands.

Every word and number that a result decides is made here from results/; the rest stands in site/pages/index.md.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from saqlib import words
from saqlib.evidence.verdicts import EQUIVALENT, OPPOSITE, SUPPORTED, UNDECIDED
from saqlib.names import FAITHFULNESS
from saqlib.report.ablations import in_words
from saqlib.site import lines
from saqlib.site.findings import (
    Ablated,
    Chain,
    Number,
    Runs,
    Standing,
    Verdict,
    ablated,
    changed_by_fill,
    listed,
    mitigation,
    standings,
)

ARROWS = {1: ("↗", "rises"), 0: ("≈", "no change that can be told from chance"), -1: ("↘", "falls")}
# What a row of the table is called, what it asks, and the column of the runs that answers.
ROWS = (
    ("Accuracy (%)", "test images", "test_accuracy"),
    ("Focus", "do few pixels carry the map?", "gini"),
    ("Coherence", "do they stand together?", "morans_i"),
)
USED = "does the network use them?"
# What a verdict says of guidance and the faithfulness that fewer bits cost, on some datasets or on all.
GUIDANCE = {
    SUPPORTED: "saliency-guided training makes up for part of that{}",
    EQUIVALENT: "saliency-guided training changes nothing that matters in that{}",
    OPPOSITE: "saliency-guided training loses more{}",
    UNDECIDED: "whether saliency-guided training makes up for part of that{} is undecided",
}


def answer(runs: Runs, guidance: Mapping[str, str]) -> str:
    """The answer in one sentence: what fewer bits cost, and whether guidance makes up for it.

    guidance: the verdict on that by dataset, as saqlib.site.findings.mitigation gives it.
    """
    first = runs.trainings[0]
    accuracy = {d: runs.chain("test_accuracy", d, first) for d in runs.datasets}
    faithful = {d: runs.chain(FAITHFULNESS, d, first) for d in runs.datasets}
    parts = [f"From {runs.precisions[0]} to {runs.precisions[-1]}, accuracy {_moves(accuracy, ' points')}"]
    parts.append(f"the faithfulness of the saliency map {_moves(faithful, '')}")
    said = []
    for word, clause in GUIDANCE.items():
        there = [words.dataset(dataset) for dataset, found in guidance.items() if found == word]
        if there:
            said.append(clause.format("" if len(there) == len(guidance) else f" on {listed(there)}"))
    return "; ".join([f"{', and '.join(parts)}", *said]) + "."


def changed(results: Path) -> str:
    """How many of the first run's verdicts were decided by a fault of its analysis; empty if none was."""
    asked, others = changed_by_fill(results)
    if not others:
        return ""
    where = listed([f"{count} on {words.dataset(dataset)}" for dataset, count in others.items()])
    return (
        f"A first run said otherwise in {sum(others.values())} of {asked} verdicts on faithfulness ({where}),"
        " by a fault of its analysis: it made removed pixels black, which changes nothing where there is no object."
    )


def robust(runs: Runs, results: Path) -> str:
    """Whether the answer on faithfulness hangs on a number of the study, by its ablations; empty if none was run."""
    first, last = runs.precisions[0], runs.precisions[-1]
    asked = {
        f"the change of faithfulness from {first} to {last}": ablated(results, f"{last} - {first}"),
        "what guidance does to faithfulness": ablated(results, "guided - "),
    }
    said = [f"{what} {_survives(found)}" for what, found in asked.items() if found]
    seeds = max((found.seeds for found in asked.values() if found), default=0)
    return f"With other numbers in the study ({seeds} seeds), {'; '.join(said)}." if said else ""


def _survives(found: Ablated) -> str:
    if not found.against:
        return f"keeps its sign in all {found.variants} variants that touch it"
    where = [f"{in_words(variant)} on {listed([words.dataset(dataset) for dataset in datasets])}"
             for variant, datasets in found.against.items()]  # fmt: skip
    return f"loses its sign in {len(where)} of {found.variants} variants ({'; '.join(where)})"


def _moves(chains: dict[str, Chain], unit: str) -> str:
    """`falls by 0.28 points on MNIST and 1.66 points on FashionMNIST`; what chance explains is said to be that."""
    groups: dict[int, list[str]] = {}
    for dataset, chain in chains.items():
        size = f"{abs(chain.change.mean):.2f}{unit} on {words.dataset(dataset)}"
        shown = size if chain.direction else f"on {words.dataset(dataset)}"
        groups.setdefault(chain.direction, []).append(shown)
    verbs = {-1: "falls by {}", 1: "rises by {}", 0: "does not change beyond chance {}"}
    return " and ".join(verbs[direction].format(listed(groups[direction])) for direction in groups)


# ------------------------------------------------------------------------------------------------------- the table


def asked(runs: Runs) -> list[tuple[str, str, str, str]]:
    """The rows of the table: a name, what it asks, the column of the runs that answers, and the training."""
    first, last = runs.trainings[0], runs.trainings[-1]
    rows = [(*row, first) for row in [*ROWS, ("Faithfulness", USED, FAITHFULNESS)]]
    if last != first:
        rows.append(("Faithfulness", f"with {last} training", FAITHFULNESS, last))
    return rows


def table(runs: Runs) -> str:
    """At most five rows: a quantity over the precisions on each dataset, and which way it goes."""
    body = [_row(*row, runs) for row in asked(runs)]
    order = " → ".join(runs.precisions)
    heads = "".join(f"<th>{words.dataset(d)}<small>{order}</small></th>" for d in runs.datasets)
    return f'<table class="chains"><thead><tr><th></th>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _row(name: str, asked: str, metric: str, training: str, runs: Runs) -> str:
    cells = {words.dataset(dataset): _chain(runs.chain(metric, dataset, training)) for dataset in runs.datasets}
    shown = "".join(f'<td data-label="{dataset}">{cell}</td>' for dataset, cell in cells.items())
    return f"<tr><th>{name}<small>{asked}</small></th>{shown}</tr>"


def _chain(chain: Chain) -> str:
    arrow, meaning = ARROWS[chain.direction]
    steps = '<i aria-label="then">→</i>'.join(_linked(number) for number in chain.numbers)
    return f'<span class="chain">{steps}</span> <b class="arrow" title="{meaning}" aria-label="{meaning}">{arrow}</b>'


def _linked(number: Number) -> str:
    title = number.line.replace("#L", ", line ")
    shown = f"{number.value:.2f}".replace("-", "−")
    return f'<a class="number" href="{lines.address(number.line)}" title="{title}">{shown}</a>'


# ------------------------------------------------------------------------------------------------------ the claims


def claims(found: Sequence[Standing]) -> str:
    """A row for each claim: its text, how it stands, and where it holds."""
    return f'<table class="claims"><tbody>{"".join(map(_claim, found))}</tbody></table>'


def _claim(standing: Standing) -> str:
    kind = {"reproduced": "yes", "not reproduced": "no", "opposite": "no"}.get(standing.word, "depends")
    sign = {"yes": "✓", "no": "✗", "depends": "◐"}[kind]
    where = standing.where if kind == "depends" else ""
    verdicts = "; ".join(f"{_place(verdict)}: {verdict.word}" for verdict in standing.verdicts)
    return (
        f'<tr><td>{html.escape(standing.text)}</td><td class="{kind}"><b aria-hidden="true">{sign}</b> '
        f'<a href="{lines.address(standing.verdicts[0].line)}" title="{html.escape(verdicts)}">{standing.word}</a>'
        f"{f'<small>{html.escape(where)}</small>' if where else ''}</td></tr>"
    )


def _place(verdict: Verdict) -> str:
    return ", ".join(filter(None, (words.dataset(verdict.dataset), verdict.training, verdict.question)))


def parts(results: Path, picture: str) -> dict[str, object]:
    """Everything that site/pages/index.md leaves open, by name.

    Args:
        results: the folder results/.
        picture: the HTML of the picture.
    """
    runs = Runs(results)
    return {
        "answer": answer(runs, mitigation(results)),
        "table": table(runs),
        "picture": picture,
        "claims": claims(standings(results)),
        "changed": changed(results),
        "robust": robust(runs, results),
        "networks": str(len(runs.frame)),
        "seeds": str(runs.frame.seed.nunique()),
    }
