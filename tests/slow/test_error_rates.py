"""The promises of verdicts, by simulation: 2,000 families of ten seeds each; and those of the tests below them."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from saqlib.grid import BEYOND, EQUIVALENT, HIGHER, LOWER, WITHIN, Difference, p_values
from saqlib.statistics import sign_flips, t_interval

LEVEL = 0.05
REPEATS = 2000
# The most families that may go wrong: the level, and what a simulation of that many is off by once in a thousand times.
MOST = stats.binom.ppf(0.999, REPEATS, LEVEL) / REPEATS


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


@pytest.mark.parametrize(("fills", "effect"), [(1, 1.25), (3, 1.4)])
def test_power(fills, effect):
    """What ten seeds see: all three comparisons are found in 72 to 88 of 100 families at this effect.

    In standard deviations of the paired difference; three fills share half of their noise.
    """
    for side, word in ((1, HIGHER), (-1, LOWER)):
        words, _ = of_the_grid(side * effect, fills=fills)
        assert 0.72 <= (words == word).all(1).mean() <= 0.88


@pytest.mark.parametrize(("fills", "margin"), [(1, 1.25), (3, 1.35)])
def test_power_of_equivalence(fills, margin):
    """Where nothing differs, all three are called equivalent in as many families, if the margin is so wide."""
    words, _ = of_the_grid(0.0, fills=fills, margin=margin)
    assert 0.72 <= (words == EQUIVALENT).all(1).mean() <= 0.88


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
