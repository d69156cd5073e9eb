"""Every verdict of the first run beside the second's, and why it is another one.

The folder first_run/ holds what the first run committed (at 4b7e3b2): its verdicts, its scores by seed, and those of
its untrained networks. Three things were changed since: the rule, the initial weights (and with them every network),
and what a removed pixel becomes. So each verdict is found twice in between, and the change is ascribed to the steps at
which the word changes: today's rule on the first networks; today's rule on the second networks, still with a fill of
zeros; and the second run as it is.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from saqlib.evidence.claims import Answers, evaluate
from saqlib.evidence.per_seed import Evidence
from saqlib.evidence.settings import Claims
from saqlib.evidence.verdicts import UNDECIDED
from saqlib.names import RELEVANCE_GAIN

FOLDER = Path(__file__).parent / "first_run"
NOT_SUPPORTED = "not supported"  # the first run's word for what is `undecided` or `equivalent` now
ONE_FILL = "symmetric_relevance_gain"  # the first run's relevance gain: zeros in place of pixels
KEYS = ["claim", "dataset", "training", "metric", "comparison"]
COLUMNS = [*KEYS, "verdict", "now_claim", "question", "now_comparison", "new_rule", "new_networks", "now", "why"]

# The first run's claims, those that ask the same today, and how today's label is made of the first run's; none where
# the first test was one of all precisions at once, whose counterpart is the verdict on the whole question.
COUNTERPARTS = {
    "H1": ("A1", "{}"),
    "H1'": ("B1", "{}"),
    "H2": ("A3", ""),
    "H3": ("A2", "{}"),
    "H4": ("A3", ""),
    "H5": ("A4", ""),
    "H6": ("A5", "{}"),
    "H7": ("B2", "{}"),
    "H8": ("B3", "{}"),
    "H9": ("B4", "{}, equal confidence"),
}
NO_COUNTERPART = {
    "clarity": "there is no compound word any more",
    "foreground_mass": "described, and judged no more",
}
STEPS = {"new_rule": "rule", "new_networks": "initial weights", "now": "fill"}  # what is new at each


def first_run(evidence: Evidence, claims: Claims, answers: Answers) -> pd.DataFrame:
    """One row per verdict of the first run on what the second run has.

    Args:
        evidence: the second run's scores.
        claims: today's claims.
        answers: the second run's verdicts.

    Returns:
        The columns COLUMNS: the first run's verdict, today's claim, question and comparison, the words in between, the
        word now, and why it changed; empty where it did not.
    """
    steps = {
        "new_rule": _words(evaluate(first_evidence(), claims)),
        "new_networks": _words(evaluate(replace(evidence, fills=dict.fromkeys(evidence.fills, ("zero",))), claims)),
        "now": _words(answers),
    }
    questions = {column: question for question, column in claims.questions.items()} | {ONE_FILL: None}
    questions[ONE_FILL] = questions.get(RELEVANCE_GAIN)
    first = pd.read_csv(FOLDER / "claims.csv")
    run = {(family.dataset, family.training) for family in answers.families}
    rows = [_row(row, questions, steps) for row in first.itertuples() if (row.dataset, row.training) in run]
    return pd.DataFrame(rows, columns=COLUMNS)


def first_evidence() -> Evidence:
    """What the first run measured, on the primary images: relevance gain by zeros alone."""
    frames = [pd.read_csv(FOLDER / f"{name}.csv") for name in ("runs", "untrained")]
    runs, untrained = (frame.rename(columns={ONE_FILL: f"{RELEVANCE_GAIN}_zero"}) for frame in frames)
    return Evidence({"primary": runs}, {"primary": untrained}, dict.fromkeys(runs.dataset.unique(), ("zero",)))


Words = dict[tuple[str, ...], str]


def _words(answers: Answers) -> Words:
    """The word on each comparison, and under an empty comparison that on each question; of what was asked."""
    words = {(key[0], *key[2:], ""): word for key, word in answers.words.items()}
    for family, judged in zip(answers.families, answers.judged, strict=True):
        place = (family.claim.id, family.dataset, family.training, family.question)
        made = {(*place, label): each for label, each in zip(family.labels, judged, strict=True)}
        words |= {key: each.verdict for key, each in made.items() if not each.note.endswith("was not run")}
    return words


def _row(first, questions: dict[str, str | None], steps: dict[str, Words]) -> list:
    """One verdict of the first run with its counterpart."""
    own = [getattr(first, key) for key in KEYS] + [first.verdict]
    claim, label = COUNTERPARTS[first.claim]
    question = questions.get(first.metric)
    label = label.format(first.comparison.replace("> -0.5", "> -margin"))
    key = (claim, first.dataset, first.training, question, label)
    if first.metric in NO_COUNTERPART or key not in steps["now"]:
        return [*own, "", "", "", "", "", "", NO_COUNTERPART.get(first.metric, "no claim asks it now")]
    words = {step: found.get(key, "") for step, found in steps.items()}
    return [*own, claim, question, label, *words.values(), _why(first.verdict, words)]


def _why(first: str, words: dict[str, str]) -> str:
    """The steps at which the word changes; where one could not be taken, it and the next are told together."""
    reasons, before, pending = [], UNDECIDED if first == NOT_SUPPORTED else first, []
    for step, word in words.items():
        pending.append(STEPS[step])
        if word:
            reasons += [" or ".join(pending)] if word != before else []
            before, pending = word, []
    return ", ".join(reasons)
