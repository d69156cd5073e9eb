"""What a question measures, seed by seed: the numbers that comparisons are made of.

A question is answered by one column of the runs, or by several at once: the relevance gain has one for each fill that
qualifies, and what is said of it must hold for every one of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saqlib.evidence.settings import ACCURACY, Claims
from saqlib.names import RELEVANCE_GAIN

Array = NDArray[np.float64]


class NotAsked(Exception):
    """A comparison that this run cannot make; the message says why, in a few words."""


@dataclass(frozen=True)
class Evidence:
    """All that verdicts rest on.

    runs: by set of images, one row per network: dataset, precision, training, seed, test_accuracy and the scores, with
    relevance_gain_<fill> for every fill. untrained: by set of images the scores of the reference's networks with
    weights drawn anew: dataset, training, seed, and no accuracy. fills: those that qualify on each dataset.
    """

    runs: Mapping[str, pd.DataFrame]
    untrained: Mapping[str, pd.DataFrame]
    fills: Mapping[str, Sequence[str]]

    @cached_property
    def networks(self) -> dict[tuple[str, ...], pd.DataFrame]:
        """The rows of each set of images, dataset, training and precision, by seed."""
        return _by_seed(self.runs, ["dataset", "training", "precision"])

    @cached_property
    def floors(self) -> dict[tuple[str, ...], pd.DataFrame]:
        """The rows of the untrained networks of each set of images, dataset and training, by seed."""
        return _by_seed(self.untrained, ["dataset", "training"])


def _by_seed(frames: Mapping[str, pd.DataFrame], keys: list[str]) -> dict[tuple[str, ...], pd.DataFrame]:
    """Rows by keys; a seed that some have and others lack is a row of NaN there, so that pairs stay pairs."""
    return {
        (images, *names): group.set_index("seed").reindex(sorted(frame.seed.unique()))
        for images, frame in frames.items()
        for names, group in frame.groupby(keys, sort=False)
    }


@dataclass(frozen=True)
class Measured:
    """One column of the evidence for one dataset, training and set of images: arrays (seeds, parts).

    A column for every qualifying fill is one part each, where `column` is relevance_gain.
    """

    evidence: Evidence
    claims: Claims
    dataset: str
    training: str
    column: str
    images: str = "primary"

    def of(self, precision: str) -> Array:
        """What the networks of a precision score; NotAsked if they were not run."""
        return self._read(self.evidence.networks, f"{precision} with {self.training} training", precision)

    @property
    def reference(self) -> Array:
        """What the networks of the reference score."""
        return self.of(self.claims.reference)

    @property
    def untrained(self) -> Array:
        """What the reference's networks score before they are trained."""
        return self._read(self.evidence.floors, f"untrained {self.claims.reference}")

    @property
    def margin(self) -> Array:
        """What would not matter: a fixed number of points, or a share of what training gives in that seed."""
        if self.column == ACCURACY:
            return np.full_like(self.reference, self.claims.margins.accuracy)
        return self.claims.margins.maps * (self.reference - self.untrained)

    def _read(self, rows: Mapping[tuple[str, ...], pd.DataFrame], what: str, *names: str) -> Array:
        columns = self._columns()
        found = rows.get((self.images, self.dataset, self.training, *names))
        if found is None:
            raise NotAsked(f"{what} was not run")
        return found[columns].to_numpy(float)

    def _columns(self) -> list[str]:
        if self.column != RELEVANCE_GAIN:
            return [self.column]
        if not self.evidence.fills[self.dataset]:
            raise NotAsked("no fill qualifies")
        return [f"{RELEVANCE_GAIN}_{fill}" for fill in self.evidence.fills[self.dataset]]
