"""The claims as data: the section `claims` of params.yaml. What cannot be tested is refused before anything runs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from saqlib import params
from saqlib.names import PRIMARY, RELEVANCE_GAIN
from saqlib.params import one_of, require

GROUPS = ("abstract", "ours")
IMAGE_SETS = ("primary", "all", "matched")
ACCURACY = "test_accuracy"
COLUMNS = (ACCURACY, *PRIMARY, RELEVANCE_GAIN)  # what may answer a question: of each, more is better


@dataclass(frozen=True)
class Needs:
    """What a test needs of its claim: how many precisions, and whether it can ask about the reference and accuracy."""

    fewest: int = 1
    most: float = math.inf
    reference: bool = False  # whether the reference may be named; elsewhere it is what the others are compared with
    accuracy: bool = False  # whether accuracy may be asked for

    @property
    def count(self) -> str:
        """How many precisions, in words."""
        return f"{self.fewest}" if self.fewest == self.most else f"at least {self.fewest}"


TESTS = {
    "loss": Needs(accuracy=True),
    "steps": Needs(fewest=3, reference=True, accuracy=True),  # a single step is no trend
    "joint_loss": Needs(),  # accuracy is one of its two halves
    "gain": Needs(reference=True),
    "non_inferiority": Needs(accuracy=True),
    "mitigation": Needs(),  # what is left is a share of what training gives a map
    "between": Needs(fewest=3, most=3, accuracy=True),
    "loss_at_equal_confidence": Needs(),  # accuracy is what the images are matched by
}


@dataclass(frozen=True)
class Margins:
    """What matters: changes below these do not, percentage points of accuracy, a share of what training gives a score.

    recovered: the share of a loss that a factor must give back to explain it.
    """

    accuracy: float
    maps: float
    recovered: float

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            ok = math.isfinite(value) and value > 0
            require(ok, f"claims.margins.{field.name} must be a finite number above 0, not {value}")


@dataclass(frozen=True)
class Claim:
    """One claim and how it is tested; saqlib.evidence.rules says what a test does with questions and precisions."""

    id: str
    group: str
    text: str
    test: str
    questions: tuple[str, ...]
    precisions: tuple[str, ...]

    def __post_init__(self):
        one_of(self.group, GROUPS, f"group in claim {self.id}")
        one_of(self.test, TESTS, f"test in claim {self.id}")
        for name in ("questions", "precisions"):
            values = getattr(self, name)
            require(len(values) > 0, f"claim {self.id}: {name} is empty; name at least one")
            require(len(set(values)) == len(values), f"claim {self.id}: {name} has one of its values twice")
        needs, count = TESTS[self.test], len(self.precisions)
        if not needs.fewest <= count <= needs.most:
            raise params.ParamsError(
                f"claim {self.id}: the test {self.test} takes {needs.count} precisions, not {count} "
                f"({', '.join(self.precisions)})"
            )


@dataclass(frozen=True)
class Claims:
    """The claims, and what their verdicts need: level of the tests, margins, reference, columns that answer."""

    level: float
    reference: str
    margins: Margins
    questions: dict[str, str]
    hypotheses: tuple[Claim, ...]

    def __post_init__(self):
        require(0 < self.level < 1, f"claims.level must lie in (0, 1), not {self.level}")
        ids = [claim.id for claim in self.hypotheses]
        require(len(set(ids)) == len(ids), "claims.hypotheses gives two claims the same id")
        for question, column in self.questions.items():
            one_of(column, COLUMNS, f"column in claims.questions.{question}")
        for claim in self.hypotheses:
            self._check(claim)

    def _check(self, claim: Claim) -> None:
        """Questions that are there and that the test can ask; the reference only where it belongs."""
        needs = TESTS[claim.test]
        for question in claim.questions:
            one_of(question, self.questions, f"question in claim {claim.id}")
            require(
                needs.accuracy or self.questions[question] != ACCURACY,
                f"claim {claim.id}: the test {claim.test} asks about maps, and {question} is not one of them",
            )
        require(
            needs.reference or self.reference not in claim.precisions,
            f"claim {claim.id}: {self.reference} is the reference; name the precisions that are compared with it",
        )


def claims(raw: Any, precisions: Iterable[str], run: Iterable[str] | None = None) -> Claims:
    """The section `claims`, every precision in it known and the reference among those that are run.

    precisions: all of params.yaml. run: those of the grid, the same when None. Raises ParamsError otherwise.
    """
    precisions = tuple(precisions)
    found = params.build(Claims, raw, "claims")
    one_of(found.reference, precisions, "precision in claims.reference")
    run = precisions if run is None else tuple(run)
    require(
        found.reference in run,
        f"grid.precisions ({', '.join(run)}) lacks {found.reference}, claims.reference: every claim compares with it",
    )
    for claim in found.hypotheses:
        for precision in claim.precisions:
            one_of(precision, precisions, f"precision in claim {claim.id}")
    return found
