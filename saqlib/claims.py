"""Claims as data, and what each of their tests compares, seed by seed: one short function per test, with its reason.

A comparison holds differences that its claim wants above 0, one column per part, and is borne out only if every part
is. When its numbers become which word is said in saqlib.verdicts. The replicate is the seed.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saqlib.scores import RELEVANCE_GAIN, UNTRAINED

Array = NDArray[np.float64]

# -------------------------------------------------------------------------------------------- claims and evidence

GROUPS = ("abstract", "ours")
IMAGE_SETS = ("primary", "all", "matched")
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
class Evidence:
    """All that verdicts rest on.

    runs: one row per network: dataset, precision, training, seed, test_accuracy and the scores, with
    relevance_gain_<fill> for every fill. untrained: the scores of the reference's networks with weights drawn anew:
    dataset, training, seed, and no accuracy. fills: those that qualify on each dataset.
    """

    runs: pd.DataFrame
    untrained: pd.DataFrame
    fills: Mapping[str, Sequence[str]]

    @cached_property
    def by_seed(self) -> dict[tuple[str, ...], dict[str, Array]]:
        """The columns (seeds,) of each dataset, training and precision, UNTRAINED for one.

        A seed that some have and others lack is NaN there, so that pairs stay pairs.
        """
        found = {}
        for frame in (self.runs, self.untrained.assign(precision=UNTRAINED)):
            table = frame.set_index(["dataset", "training", "precision", "seed"]).select_dtypes("number")
            wide = table.unstack("seed")
            arrays = wide.to_numpy(float).reshape(len(wide), table.shape[1], wide.shape[1] // table.shape[1])
            for names, own in zip(wide.index, arrays, strict=True):
                found[names] = dict(zip(table.columns, own, strict=True))
        return found


class NotAsked(Exception):
    """A comparison that this run cannot make; the message says why, in a few words."""


@dataclass(frozen=True)
class Measured:
    """One column of the evidence for one dataset and training: arrays (seeds, parts).

    The relevance gain has a part for each fill that qualifies, and what is said of it must hold under every one: noise
    favours networks that were trained on noise, zeros ask where a map lies, and no single fill is above suspicion.
    """

    evidence: Evidence
    claims: Claims
    dataset: str
    training: str
    column: str

    def of(self, precision: str) -> Array:
        """What the networks of a precision score; NotAsked if they were not run."""
        columns = [self.column]
        if self.column == RELEVANCE_GAIN:
            columns = [f"{RELEVANCE_GAIN}_{fill}" for fill in self.evidence.fills[self.dataset]]
        if not columns:
            raise NotAsked("no fill qualifies")
        found = self.evidence.by_seed.get((self.dataset, self.training, precision))
        if found is None:
            which = f"{precision} with {self.training} training"
            raise NotAsked(f"{f'untrained {self.claims.reference}' if precision == UNTRAINED else which} was not run")
        return np.array([found[column] for column in columns]).T

    @property
    def reference(self) -> Array:
        """What the networks of the reference score."""
        return self.of(self.claims.reference)

    @property
    def untrained(self) -> Array:
        """What the reference's networks score before they are trained."""
        return self.of(UNTRAINED)

    @property
    def margin(self) -> Array:
        """What would not matter: a fixed number of points, or a share of what training gives in that seed."""
        if self.column == ACCURACY:
            return np.full_like(self.reference, self.claims.margins.accuracy)
        return self.claims.margins.maps * (self.reference - self.untrained)


# ------------------------------------------------------------------------------------------- what a test compares


@dataclass(frozen=True)
class Comparison:
    """One comparison; arrays have one row per seed and one column per part.

    shown: (seeds,) what its label says, for estimate and interval. wanted: every part above 0 if the claim holds.
    contrary: ways to be the opposite of the claim, each with every part above 0. change, margin: equivalent if every
    change lies within its margin; None where that is not asked. loss: the claim makes sense only if every part of it
    lies below 0; its name says which comparisons share it. note: why there is nothing to compare, and so no seed.
    """

    shown: Array
    wanted: Array
    contrary: tuple[Array, ...]
    change: Array | None = None
    margin: Array | None = None
    loss: tuple[str, Array] | None = None
    label: str = ""
    note: str = ""

    @classmethod
    def missing(cls, label: str, note: str) -> "Comparison":
        """A comparison that cannot be made."""
        return cls(np.empty(0), np.empty((0, 1)), (np.empty((0, 1)),), label=label, note=note)

    @cached_property
    def roles(self) -> dict[str, Array]:
        """The arrays that are tested, each for whether all of its parts lie above 0."""
        found = {"wanted": self.wanted} | {f"contrary {place}": way for place, way in enumerate(self.contrary)}
        if self.margin is not None:
            found |= {"above": self.change + self.margin, "below": self.margin - self.change}
        return found if self.loss is None else found | {"loss": -self.loss[1]}


def _difference(change: Array, margin: Array, side: int, loss: tuple[str, Array] | None = None) -> Comparison:
    """A change that the claim wants on one side of 0; its opposite is the other side."""
    return Comparison(change.mean(1), side * change, (-side * change,), change, margin, loss)


def loss(data: Measured, b: str) -> Comparison:
    """Each precision minus the reference, wanted below 0.

    Paired by seed, since a seed fixes initial weights, batches and noise for every precision: what differs between
    seeds is often larger than what bits cost, and cancels.
    """
    return _difference(data.of(b) - data.reference, data.margin, -1)


def steps(data: Measured, more: str, fewer: str) -> Comparison:
    """Each precision minus the one before it, wanted below 0.

    "The fewer, the stronger" says that every step costs something. A trend test over all precisions does not ask that:
    it rejects for one large step from the reference, with nothing after it.
    """
    return _difference(data.of(fewer) - data.of(more), data.margin, -1)


def joint_loss(data: Measured, b: str) -> Comparison:
    """At one precision accuracy and the score both below the reference: an intersection-union test.

    A correlation over precisions would only repeat that both depend on bits. The opposite is that one is given up and
    the other gained, which may go either way round. The estimate is the score's; the accuracy's stands with its own
    claim.
    """
    accuracy = replace(data, column=ACCURACY)
    points, score = accuracy.of(b) - accuracy.reference, data.of(b) - data.reference
    both, apart = np.hstack([points, score]), np.hstack([points, -score])
    return Comparison(score.mean(1), -both, (-apart, apart), both, np.hstack([accuracy.margin, data.margin]))


def gain(data: Measured, b: str) -> Comparison:
    """Guided minus standard training at each precision, wanted above 0.

    What would not matter is a part of what standard training gives: guidance is compared with that.
    """
    standard = replace(data, training="standard")
    return _difference(data.of(b) - standard.of(b), standard.margin, 1)


def mitigation(data: Measured, b: str) -> Comparison:
    """Guided training loses less than standard training, in units of the score and as a share of what training gives.

    Both scales, since the answer of the first run turned on which one is taken: where guided networks start higher they
    may lose more and still keep a larger part. Asked only where standard training loses something that could be made
    up.
    """
    change, standard = data.of(b) - data.reference, replace(data, training="standard")
    lost = standard.of(b) - standard.reference
    return _difference(change - lost, standard.margin, 1, (b, lost))


def mitigation_as_a_share(data: Measured, b: str) -> Comparison:
    """Guided training keeps a larger share of what training gives the reference than standard training."""
    standard = replace(data, training="standard")
    change = _share_kept(data, b) - _share_kept(standard, b)
    margin = np.full_like(change, data.claims.margins.maps)
    return _difference(change, margin, 1, (b, standard.of(b) - standard.reference))


def _share_kept(data: Measured, b: str) -> Array:
    given = data.reference - data.untrained
    if not (given > 0).all():  # a share of nothing, or of a loss, is no number
        raise NotAsked(f"{data.training} training gives the reference nothing in some seed")
    return (data.of(b) - data.untrained) / given


@dataclass(frozen=True)
class Rule:
    """One test: by label what it compares, and what it takes. A label names precisions by their place.

    of: which precisions one comparison is of. fewest: how many a claim must name. reference: whether it may name the
    reference; elsewhere that is what the others are compared with. accuracy: whether accuracy may be asked for.
    trainings: whether it compares these, and so stands under `guided`. lenient: whether one comparison is enough.
    """

    forms: Mapping[str, Callable[..., Comparison]]
    of: Literal["each", "neighbours"] = "each"
    fewest: int = 1
    reference: bool = False
    accuracy: bool = False
    trainings: bool = False
    lenient: bool = False

    @property
    def reason(self) -> str:
        """What is compared and why so, for a reader."""
        return inspect.getdoc(next(iter(self.forms.values())))

    def comparisons(self, data: Measured, precisions: Sequence[str]) -> tuple[Comparison, ...]:
        """Those of one claim, in the order of its precisions; what cannot be compared says why."""
        groups = {"each": zip(precisions), "neighbours": zip(precisions, precisions[1:], strict=False)}
        found = []
        for names in groups[self.of]:
            for form, compare in self.forms.items():
                label = form.format(*names, reference=data.claims.reference)
                try:
                    found.append(replace(compare(data, *names), label=label))
                except NotAsked as why_not:
                    found.append(Comparison.missing(label, f"not asked: {why_not}"))
        return tuple(found)


RULES = {
    "loss": Rule({"{0} - {reference}": loss}, accuracy=True),
    "steps": Rule({"{1} - {0}": steps}, "neighbours", fewest=3, reference=True, accuracy=True),  # one step is no trend
    "joint_loss": Rule({"{0} - {reference}, and accuracy": joint_loss}, lenient=True),
    "gain": Rule({"guided - standard, {0}": gain}, reference=True, trainings=True),
    "mitigation": Rule(
        {
            "guided - standard, {0} - {reference}": mitigation,
            "guided - standard, share kept at {0}": mitigation_as_a_share,
        },
        trainings=True,
    ),
}
