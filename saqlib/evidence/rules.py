"""What each test of a claim compares, seed by seed: one short function per test, with its reason.

A rule turns what was measured into comparisons. A comparison holds differences that its claim wants above 0, one column
per part, and is borne out only if every part is. The relevance gain has a part for each fill that qualifies: noise
favours networks that were trained on noise, zeros ask where a map lies, and no single fill is above suspicion.
When numbers become which word is said in saqlib.evidence.verdicts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from saqlib.evidence.per_seed import Array, Measured, NotAsked
from saqlib.evidence.settings import ACCURACY

HIGHER, LOWER = 1, -1  # the side of 0 on which a claim wants a change


@dataclass(frozen=True)
class Comparison:
    """One comparison; arrays have one row per seed and one column per part.

    shown: (seeds,) what its label says, for estimate and interval. wanted: every part above 0 if the claim holds.
    contrary: ways to be the opposite of the claim, each with every part above 0. change, margin: equivalent if every
    change lies within its margin; None where that is not asked. loss: the claim makes sense only if every part of it
    lies below 0; its name says which comparisons share it.
    """

    shown: Array
    wanted: Array
    contrary: tuple[Array, ...]
    change: Array | None = None
    margin: Array | None = None
    loss: tuple[str, Array] | None = None


Cases = Iterator[tuple[str, Callable[[], Comparison]]]  # labels, and how each comparison is made, or NotAsked raised
Rule = Callable[[Measured, tuple[str, ...]], Cases]  # of what was measured, and the claim's precisions


def _difference(change: Array, margin: Array, side: int, loss: tuple[str, Array] | None = None) -> Comparison:
    """A change that the claim wants on one side of 0; its opposite is the other side."""
    return Comparison(change.mean(1), side * change, (-side * change,), change, margin, loss)


def loss(data: Measured, precisions: tuple[str, ...]) -> Cases:
    """Each precision minus the reference, wanted below 0.

    Paired by seed, since a seed fixes initial weights, batches and noise for every precision: what differs between
    seeds is often larger than what bits cost, and cancels.
    """
    for b in precisions:
        label = f"{b} - {data.claims.reference}"
        yield label, lambda b=b: _difference(data.of(b) - data.reference, data.margin, LOWER)


def steps(data: Measured, precisions: tuple[str, ...]) -> Cases:
    """Each precision minus the one before it, wanted below 0.

    "The fewer, the stronger" says that every step costs something. A trend test over all precisions does not ask that:
    it rejects for one large step from the reference, with nothing after it.
    """
    for more, fewer in zip(precisions, precisions[1:], strict=False):
        label = f"{fewer} - {more}"
        yield label, lambda a=more, b=fewer: _difference(data.of(b) - data.of(a), data.margin, LOWER)


def joint_loss(data: Measured, precisions: tuple[str, ...]) -> Cases:
    """At one precision accuracy and the score both below the reference: an intersection-union test.

    A correlation over precisions would only repeat that both depend on bits. The opposite is that one is given up and
    the other gained, which may go either way round. The estimate is the score's; the accuracy's stands with its own
    claim.
    """
    accuracy = replace(data, column=ACCURACY)
    for b in precisions:

        def compare(b: str = b) -> Comparison:
            points, score = accuracy.of(b) - accuracy.reference, data.of(b) - data.reference
            both, apart = np.hstack([points, score]), np.hstack([points, -score])
            margin = np.hstack([accuracy.margin, data.margin])
            return Comparison(score.mean(1), -both, (-apart, apart), both, margin)

        yield f"{b} - {data.claims.reference}, and accuracy", compare


def gain(data: Measured, precisions: tuple[str, ...]) -> Cases:
    """Guided minus standard training at each precision, wanted above 0.

    What would not matter is a part of what standard training gives: guidance is compared with that.
    """
    standard = replace(data, training="standard")
    for b in precisions:
        label = f"guided - standard, {b}"
        yield label, lambda b=b: _difference(data.of(b) - standard.of(b), standard.margin, HIGHER)


def non_inferiority(data: Measured, precisions: tuple[str, ...]) -> Cases:
    """Each precision minus the reference, wanted above minus the margin; the opposite is a loss beyond it.

    "No significant loss" would be won by having few seeds. To be equivalent is not asked: a gain is no cost.
    """
    for b in precisions:

        def compare(b: str = b) -> Comparison:
            change = data.of(b) - data.reference
            inside = change + data.margin
            return Comparison(change.mean(1), inside, (-inside,))

        yield f"{b} - {data.claims.reference} > -margin", compare


def mitigation(data: Measured, precisions: tuple[str, ...]) -> Cases:
    """Guided training loses less than standard training, in units of the score and as a share of what training gives.

    Both scales, since the answer of the first run turned on which one is taken: where guided networks start higher they
    may lose more and still keep a larger part. Asked only where standard training loses something that could be made
    up.
    """
    standard = replace(data, training="standard")
    for b in precisions:

        def lost(b: str = b) -> tuple[str, Array]:
            return b, standard.of(b) - standard.reference

        def additive(b: str = b) -> Comparison:
            change = data.of(b) - data.reference - lost(b)[1]
            return _difference(change, standard.margin, HIGHER, lost(b))

        def share(b: str = b) -> Comparison:
            change = _kept(data, b) - _kept(standard, b)
            margin = np.full_like(change, data.claims.margins.maps)
            return _difference(change, margin, HIGHER, lost(b))

        yield f"guided - standard, {b} - {data.claims.reference}", additive
        yield f"guided - standard, share kept at {b}", share


def _kept(data: Measured, precision: str) -> Array:
    """The share of what training gives the reference that a precision keeps, in each seed."""
    given = data.reference - data.untrained
    if not (given > 0).all():  # a share of nothing, or of a loss, is no number
        raise NotAsked(f"{data.training} training gives the reference nothing in some seed")
    return (data.of(precision) - data.untrained) / given


def between(data: Measured, precisions: tuple[str, ...]) -> Cases:
    """The highest minus the middle, and the middle minus the lowest, both wanted above 0: intersection-union.

    The opposite is that the middle lies outside, beyond one end or the other. The estimate is the narrower gap.
    """
    high, middle, low = precisions

    def compare() -> Comparison:
        gaps = data.of(high) - data.of(middle), data.of(middle) - data.of(low)
        narrow = min(gaps, key=np.mean)
        both = np.hstack(gaps)
        return Comparison(narrow.mean(1), both, tuple(-gap for gap in gaps), both, np.hstack([data.margin] * 2))

    yield f"{low} < {middle} < {high}", compare


def loss_at_equal_confidence(data: Measured, precisions: tuple[str, ...]) -> Cases:
    """The loss once more, over images on which every precision is about equally sure.

    A network of few bits is often less sure, and whoever is less sure has less probability to lose when pixels go.
    Asked only where there is a loss on the primary images: of none nobody needs to know what it comes from.
    """
    matched = replace(data, images="matched")
    for b in precisions:

        def compare(b: str = b) -> Comparison:
            found = b, data.of(b) - data.reference
            return _difference(matched.of(b) - matched.reference, matched.margin, LOWER, found)

        yield f"{b} - {data.claims.reference}, equal confidence", compare


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (loss, steps, joint_loss, gain, non_inferiority, mitigation, between, loss_at_equal_confidence)
}
