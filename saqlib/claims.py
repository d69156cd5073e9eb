"""Claims as data: what is claimed, what would not matter, and which comparisons each claim is read from.

Every comparison has a word of its own (saqlib.grid); how a claim is read from these stands in saqlib.findings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GROUPS = ("abstract", "ours")
ACCURACY = "test_accuracy"  # the column of the runs


@dataclass(frozen=True)
class Margins:
    """What matters: changes below these do not, percentage points of accuracy, a share of what training gives a score.

    recovered: the share of a loss that a factor must give back to explain it.
    """

    accuracy: float
    maps: float
    recovered: float


@dataclass(frozen=True)
class Claim:
    """One claim and how it is tested: `test` names one of RULES, which says what it does with the precisions."""

    id: str
    group: str
    text: str
    test: str
    questions: tuple[str, ...]
    precisions: tuple[str, ...]


@dataclass(frozen=True)
class Claims:
    """The claims, and what their verdicts need: level of the tests, margins, reference, columns that answer."""

    level: float
    reference: str
    margins: Margins
    questions: dict[str, str]
    hypotheses: tuple[Claim, ...]


@dataclass(frozen=True)
class Rule:
    """What the claims of one test are read from.

    labels: of the comparisons, in which precisions stand by their place. side: the sign of the change that is claimed.
    reason: what is compared and why so, for a reader. steps: whether it compares neighbours, of which it takes at least
    three, since one step is no trend. reference: whether a claim may name the reference; elsewhere that is what the
    others are compared with. accuracy: whether accuracy may be asked for.
    """

    labels: tuple[str, ...]
    side: int
    reason: str
    steps: bool = False
    reference: bool = False
    accuracy: bool = False

    @property
    def fewest(self) -> int:
        """How many precisions a claim must name."""
        return 3 if self.steps else 1

    def comparisons(self, precisions: Sequence[str], reference: str) -> list[str]:
        """The labels of a claim's comparisons."""
        groups = zip(precisions, precisions[1:], strict=False) if self.steps else zip(precisions)
        return [label.format(*names, reference=reference) for names in groups for label in self.labels]


RULES = {
    "loss": Rule(
        ("{0} - {reference}",), -1,
        "Each precision minus the reference, wanted below 0. Paired by seed, since a seed fixes initial weights, "
        "batches and noise for every precision: what differs between seeds is often larger than what bits cost, and "
        "cancels.",
        accuracy=True,
    ),
    "steps": Rule(
        ("{1} - {0}",), -1,
        'Each precision minus the one before it, wanted below 0. "The fewer, the stronger" says that every step costs '
        "something. A trend test over all precisions does not ask that: it rejects for one large step from the "
        "reference, with nothing after it.",
        steps=True, reference=True, accuracy=True,
    ),
    "joint_loss": Rule(
        ("{0} - {reference}, and accuracy",), -1,
        "Accuracy and the score, both below the reference at one precision: an intersection-union test, whose p-value "
        "is the larger of the two. A correlation over precisions would only repeat that both depend on bits. Its "
        "opposite is that one is given up and the other gained, whichever. The estimate is the score's.",
    ),
    "gain": Rule(
        ("guided - standard, {0}",), 1,
        "Guided minus standard training at each precision, wanted above 0. What would not matter is a part of what "
        "standard training gives: guidance is compared with that.",
        reference=True,
    ),
    "mitigation": Rule(
        ("guided - standard, {0} - {reference}", "guided - standard, share kept at {0}"), 1,
        "Guided training loses less than standard training, in units of the score and as a share of what training "
        "gives. Both scales, since the answer of the first run turned on which one is taken: where guided networks "
        "start higher they may lose more and still keep a larger part. Asked only where standard training surely loses "
        "something that could be made up.",
    ),
}  # fmt: skip
