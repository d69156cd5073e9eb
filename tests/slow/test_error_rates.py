"""The promises of verdicts, by simulation: 2,000 families of ten seeds each; and those of the tests below them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from saqlib.claims import ACCURACY, RULES, Claims, Comparison
from saqlib.grid import BEYOND, HIGHER, LOWER, WITHIN, Difference, p_values
from saqlib.statistics import sign_flips, t_interval
from saqlib.verdicts import EQUIVALENT, NO_LOSS, OPPOSITE, SUPPORTED, UNDECIDED, Judged, judge, whole
from study import settings

LEVEL = 0.05
ORDER = ["fp32", "w4a4", "mixed", "w2a2"]
CLAIMS = settings.load().claims
SCORE = "relevance_gain"  # a column with a part for each fill
Effect = Callable[[str, str, str, str], float]  # of training, precision, column and set of images


@dataclass(frozen=True)
class Drawn:
    """One family's networks, in place of saqlib.claims.Measured: a level of the seed, an effect, and noise.

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
) -> list[list[Judged]]:
    """Verdicts on so many families of one test. With so little given nothing can be equivalent."""
    (own,) = {claim.precisions for claim in CLAIMS.hypotheses if claim.test == test and len(claim.questions) > 1}
    training = "guided" if test in ("gain", "mitigation") else "standard"
    rng = np.random.default_rng(0)
    made = []
    for _ in range(repeats):
        data = Drawn(rng, effect, seeds, fills, given, training=training)
        made.append(RULES[test].comparisons(data, own))
    return judge(made, LEVEL)


def share(found: Sequence[Sequence[Judged]], *words: str, which: slice = slice(None)) -> float:
    """The share of families in which any comparison (of those chosen) is called one of these words."""
    return float(np.mean([any(each.verdict in words for each in family[which]) for family in found]))


# --- families ---

REPEATS = 2000
# The most families that may go wrong: the level, and what a simulation of that many is off by once in a thousand times.
MOST = stats.binom.ppf(0.999, REPEATS, LEVEL) / REPEATS


def below(size, *, only=ORDER):
    """Everything falls by so much at these precisions, in all but the reference."""
    return lambda training, precision, column, images: -size * (precision in only and precision != "fp32")


def standard_loses(training, precision, column, images):
    """Both trainings lose as much: there is something to make up for, and nothing is made up."""
    return -5.0 * (precision != "fp32")


def accuracy_alone(training, precision, column, images):
    """Accuracy falls by much, the score not at all."""
    return -5.0 * (column == ACCURACY and precision != "fp32")


# For each test the state in which it errs most easily.
NULLS = {
    "loss": (nothing, {}),
    "steps": (nothing, {}),
    "joint_loss": (accuracy_alone, {}),
    "gain": (nothing, {}),
    "mitigation": (standard_loses, {"given": 20.0}),
}


@pytest.mark.parametrize("fills", [1, 3])
@pytest.mark.parametrize("test", NULLS)
def test_a_change_that_is_not_there_is_rarely_found(test, fills):
    """Under each test's null hypothesis at most 1 family in 20 has any comparison called supported or opposite."""
    effect, options = NULLS[test]
    found = families(test, effect, repeats=REPEATS, fills=fills, **options)
    if test == "mitigation":  # equal shares and equal losses: the gate is open, margins are beside the point
        assert share(found, UNDECIDED, EQUIVALENT) > 0.9 and all(each.note != NO_LOSS for each in found[0])
    assert share(found, SUPPORTED, OPPOSITE) <= MOST


def test_the_promise_is_used_up():
    """The tests are exact, not timid: with one fill a true null is rejected in .03 to .05 of the families of three."""
    found = families("loss", repeats=10_000)
    assert 0.03 <= share(found, SUPPORTED, OPPOSITE) <= stats.binom.ppf(0.999, 10_000, LEVEL) / 10_000


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("fills", [1, 3])
def test_a_change_at_the_margin_is_rarely_called_equivalent(side, fills):
    """On either side of it: at most 1 family in 20 has any comparison called equivalent."""
    found = families("loss", below(side * 2.0), repeats=REPEATS, given=20.0, fills=fills)
    assert share(found, EQUIVALENT) <= MOST
    beyond = families(
        "loss", lambda t, p, c, i: np.array([-2.0, 0, 0][:fills]) * (p != "fp32"), given=20.0, fills=fills
    )
    assert share(beyond, EQUIVALENT) <= MOST


def test_the_uncertainty_of_what_training_gives_is_part_of_equivalence():
    """A margin that is a share of something uncertain: at the true margin still at most 1 in 20."""
    rng = np.random.default_rng(1)
    change = 1.0 + rng.normal(size=(REPEATS, 10, 1))
    margin = 0.1 * (10 + 5 * rng.normal(size=(REPEATS, 10, 1)))  # of a tenth of 10, with a wide spread
    made = [[Comparison(c.mean(1), c, (-c,), c, m)] for c, m in zip(change, margin, strict=True)]
    found = judge(made, LEVEL)
    assert share(found, EQUIVALENT) <= MOST


def test_the_question_behind_a_gate_is_rarely_asked_in_vain():
    """Without any loss, at most 1 family in 20 has a comparison that is asked at all."""
    found = families("mitigation", repeats=REPEATS)
    assert np.mean([any(each.note != NO_LOSS for each in family) for family in found]) <= MOST


# What ten seeds can see: for each test the effect, in standard deviations
# of the paired difference, at which its whole claim is called what it should be in about 80 of 100 families; with one
# part, and with three fills whose noise has nothing in common. Real fills share most of theirs and lie between.
POWER = {
    "loss": (1.25, 1.45, lambda e: below(e)),
    "steps": (1.3, 1.5, lambda e: lambda t, p, c, i: -e * ORDER.index(p)),
    "joint_loss": (1.15, 1.35, lambda e: below(e)),
    "gain": (1.35, 1.55, lambda e: lambda t, p, c, i: e * (t == "guided")),
}


@pytest.mark.parametrize("fills", [1, 3])
@pytest.mark.parametrize("test", POWER)
def test_power(test, fills):
    """The effects named are those that are seen in 72 to 88 of 100 families, and the sign decides the word."""
    one_part, three_parts, effect = POWER[test]
    size = one_part if fills == 1 else three_parts
    for sign, expected in ((1, SUPPORTED), (-1, OPPOSITE)) if test in ("loss", "steps", "gain") else ((1, SUPPORTED),):
        found = families(test, effect(sign * size), repeats=600, fills=fills)
        assert 0.72 <= np.mean([whole(test, family) == expected for family in found]) <= 0.88


@pytest.mark.parametrize(("fills", "margin"), [(1, 1.25), (3, 1.4)])
def test_power_of_equivalence(fills, margin):
    """Where nothing differs, all three comparisons are called equivalent in about 80 of 100 families."""
    found = families("loss", repeats=600, given=10 * margin, fills=fills)
    assert 0.72 <= np.mean([whole("loss", family) == EQUIVALENT for family in found]) <= 0.88


# --- one verdict per comparison ---


def of_the_grid(change: float | Sequence[float], *, comparisons: int = 3, fills: int = 1, margin: float = 2.0,
                spread: float = 0.0) -> tuple[list[list[str]], list[list[str]]]:  # fmt: skip
    """Words and sizes of REPEATS families of the grid, whose comparisons have ten seeds.

    change: the mean of each comparison's difference, in its standard deviations; with a level that the fills share.
    margin: its mean; spread: its standard deviation over the seeds.
    """
    rng, found = np.random.default_rng(11), []
    change = np.broadcast_to(change, comparisons)
    for family in range(REPEATS):
        reference = rng.normal(size=(10, 1)) / np.sqrt(2)  # all are compared with it
        gives = margin + spread * rng.normal(size=(10, 1)) * np.ones(fills)
        for place in range(comparisons):
            own = change[place] + rng.normal(size=(10, fills)) / np.sqrt(2)
            keys = str(family), "standard", "faithfulness", str(place), "reference"
            found.append(Difference(*keys, own, reference * np.ones(fills), gives))
    return tuple(np.reshape(each, (REPEATS, comparisons)) for each in p_values(found).words(LEVEL))


@pytest.mark.parametrize("fills", [1, 3])
def test_a_word_of_the_grid_is_rarely_wrong(fills):
    """Where nothing differs at most 1 family in 20 has any comparison called lower or higher."""
    words, _ = of_the_grid(0.0, fills=fills, margin=1e-6)
    assert np.isin(words, [LOWER, HIGHER]).any(1).mean() <= MOST
    if fills == 1:
        assert np.isin(words, [LOWER, HIGHER]).any(1).mean() >= 0.02  # the promise is used


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("fills", [1, 3])
def test_at_the_margin_neither_within_nor_beyond_is_said(fills, side, spread):
    """On either side, with a margin that is itself uncertain: each in at most 1 family in 20, whatever the word."""
    words, sizes = of_the_grid(side * 2.0, fills=fills, spread=spread)
    assert (words == EQUIVALENT).any(1).mean() <= MOST
    assert (sizes == WITHIN).any(1).mean() <= MOST
    assert (sizes == BEYOND).any(1).mean() <= MOST


def test_a_true_null_beside_two_large_changes():
    """The third of a family is called changed in at most 1 of 20, though the others are found every time."""
    words, _ = of_the_grid([5.0, -5.0, 0.0])
    assert (words[:, 0] == HIGHER).mean() > 0.99 and (words[:, 1] == LOWER).mean() > 0.99
    assert np.isin(words[:, 2], [LOWER, HIGHER]).mean() <= MOST


# --- the tests that verdicts are made of ---


def test_error_rate_of_one_sided_tests_under_the_null():
    """Of 20,000 null columns of 10 seeds a share of .05 or just below is rejected."""
    p = sign_flips(np.random.default_rng(8).normal(size=(10, 20_000)))
    low, high = stats.binom.interval(0.999, 20_000, 51 / 1024)
    assert low * 0.85 <= np.count_nonzero(p <= 0.05) <= high


@pytest.mark.parametrize("n", [3, 10])
def test_t_interval_coverage(n):
    """Over 4,000 normal samples, the nominal 95 % interval holds the true mean in 95 %."""
    samples = np.random.default_rng(n).normal(2.0, 3.0, size=(4000, n))
    hits = sum(low <= 2.0 <= high for _, low, high in map(t_interval, samples))
    low, high = stats.binom.interval(0.999, 4000, 0.95)
    assert low <= hits <= high
