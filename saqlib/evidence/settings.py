"""The claims as data: the section `claims` of params.yaml."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from saqlib import params
from saqlib.params import one_of, require

TESTS = ("difference", "non_inferiority", "trend", "correlation", "gain", "mitigation", "between")
IMAGE_SETS = ("primary", "all", "matched")


@dataclass(frozen=True)
class Claim:
    """One claim of the abstract and how it is tested; saqlib.evidence.claims says what a test does with precisions."""

    id: str
    text: str
    test: str
    metrics: tuple[str, ...]
    precisions: tuple[str, ...]
    expected: str
    images: str

    def __post_init__(self):
        one_of(self.test, TESTS, f"test in claim {self.id}")
        one_of(self.expected, ("higher", "lower"), f"value of expected in claim {self.id}")
        one_of(self.images, IMAGE_SETS, f"set of images in claim {self.id}")
        for name in ("metrics", "precisions"):
            require(len(getattr(self, name)) > 0, f"claim {self.id}: {name} is empty; name at least one")


@dataclass(frozen=True)
class Claims:
    """The claims, and what their verdicts need: level of the tests, margin of accuracy, reference precision."""

    level: float
    margin: float
    reference: str
    hypotheses: tuple[Claim, ...]

    def __post_init__(self):
        require(0 < self.level < 1, f"claims.level must lie in (0, 1), not {self.level}")
        require(self.margin > 0, f"claims.margin must be above 0, not {self.margin}")
        ids = [claim.id for claim in self.hypotheses]
        require(len(set(ids)) == len(ids), "claims.hypotheses gives two claims the same id")


def claims(raw: Any, precisions: Iterable[str]) -> Claims:
    """The section `claims`, every precision in it known; ParamsError otherwise."""
    found = params.build(Claims, raw, "claims")
    one_of(found.reference, precisions, "precision in claims.reference")
    for claim in found.hypotheses:
        for precision in claim.precisions:
            one_of(precision, precisions, f"precision in claim {claim.id}")
    return found
