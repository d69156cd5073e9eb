"""Many families at once, with effects that are known: what the rules measure, drawn anew for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from saqlib.evidence import verdicts
from saqlib.evidence.rules import RULES
from saqlib.evidence.settings import ACCURACY, Claims
from saqlib.evidence.verdicts import Decision, Judged
from saqlib.pipeline import study

CLAIMS = study.load().claims
SCORE = "relevance_gain"  # a column with a part for each fill
Effect = Callable[[str, str, str, str], float]  # of training, precision, column and set of images


@dataclass(frozen=True)
class Drawn:
    """One family's networks, in place of saqlib.evidence.per_seed.Measured: a level of the seed, an effect, and noise.

    A paired difference of two networks has a standard deviation of 1, so effects are in its units; a seed's level,
    which all of its networks share, is ten times as wide. given: what training gives the reference; a tenth of it is
    the margin.
    """

    rng: np.random.Generator
    effect: Effect
    seeds: int
    fills: int
    given: float
    claims: Claims = CLAIMS
    training: str = "standard"
    column: str = SCORE
    images: str = "primary"
    drawn: dict = field(default_factory=dict)

    def of(self, precision: str) -> np.ndarray:
        """Each network is drawn once; under each fill its noise is another one."""
        place = self.training, precision, self.column, self.images
        if place not in self.drawn:
            parts = 1 if self.column == ACCURACY else self.fills
            level = self.drawn.setdefault("level", 10 * self.rng.normal(size=(self.seeds, 1)))
            noise = self.rng.normal(size=(self.seeds, parts)) / np.sqrt(2)
            self.drawn[place] = level + self.effect(*place) + noise
        return self.drawn[place]

    @property
    def reference(self) -> np.ndarray:
        """The reference among them."""
        return self.of(self.claims.reference)

    @property
    def untrained(self) -> np.ndarray:
        """As far below the reference as is given, in every seed."""
        return self.reference - self.given

    @property
    def margin(self) -> np.ndarray:
        """A tenth of what is given; of accuracy the same, to keep one unit."""
        return np.full_like(self.reference, self.claims.margins.maps * self.given)


def nothing(training: str, precision: str, column: str, images: str) -> float:
    """The null hypothesis."""
    return 0.0


def families(
    test: str,
    effect: Effect = nothing,
    *,
    repeats: int = 2000,
    seeds: int = 10,
    fills: int = 1,
    given: float = 1e-6,
    column: str = SCORE,
    precisions: Sequence[str] | None = None,
    decision: Decision | None = None,
    generator: int = 0,
) -> list[list[Judged]]:
    """Verdicts on so many families of one test. With so little given nothing can be equivalent."""
    (own,) = {claim.precisions for claim in CLAIMS.hypotheses if claim.test == test and len(claim.questions) > 1}
    training = "guided" if test in ("gain", "mitigation") else "standard"
    rng = np.random.default_rng(generator)
    made = []
    for _ in range(repeats):
        data = Drawn(rng, effect, seeds, fills, given, training=training, column=column)
        made.append([compare() for _, compare in RULES[test](data, precisions or own)])
    return verdicts.judge(made, decision or Decision(0.05))


def share(found: Sequence[Sequence[Judged]], *words: str, which: slice = slice(None)) -> float:
    """The share of families in which any comparison (of those chosen) is called one of these words."""
    return float(np.mean([any(each.verdict in words for each in family[which]) for family in found]))
