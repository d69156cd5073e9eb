"""Tests of saqlib.evidence.rules: what each test compares, by hand from the columns of a frame."""

import numpy as np
import pytest

from saqlib.evidence.per_seed import Measured, NotAsked
from saqlib.evidence.rules import RULES
from saqlib.pipeline import study
from tests.frames import evidence, make_runs

CLAIMS = study.load().claims
QUANTIZED = ("w4a4", "mixed", "w2a2")
RUNS = make_runs(generator=3)
BOTH = evidence(RUNS, given=0.5)


def made(test, precisions, *, column="gini", training="standard", source=BOTH):
    """The comparisons of a test by label."""
    data = Measured(source, CLAIMS, "mnist", training, column)
    return {label: compare() for label, compare in RULES[test](data, precisions)}


def value(column, precision, training="standard", runs=RUNS):
    """A column of the runs by seed."""
    return runs[(runs.precision == precision) & (runs.training == training)][column].to_numpy()


def check(comparison, shown, wanted, contrary, change=None, margin=None):
    """All arrays of a comparison, its parts given as a list of columns."""
    np.testing.assert_allclose(comparison.shown, shown)
    np.testing.assert_allclose(comparison.wanted, np.column_stack(wanted))
    assert len(comparison.contrary) == len(contrary)
    for found, expected in zip(comparison.contrary, contrary, strict=True):
        np.testing.assert_allclose(found, np.column_stack(expected))
    if change is None:
        assert comparison.change is None and comparison.margin is None
    else:
        np.testing.assert_allclose(comparison.change, np.column_stack(change))
        np.testing.assert_allclose(comparison.margin, np.broadcast_to(margin, comparison.change.shape))


@pytest.mark.parametrize(("column", "margin"), [("gini", 0.05), ("test_accuracy", 0.5)])
def test_loss(column, margin):
    """Each precision minus the reference, wanted below 0."""
    found = made("loss", QUANTIZED, column=column)
    assert list(found) == ["w4a4 - fp32", "mixed - fp32", "w2a2 - fp32"]
    change = value(column, "mixed") - value(column, "fp32")
    check(found["mixed - fp32"], change, [-change], [[change]], [change], margin)


def test_loss_under_every_fill():
    """A part for each, and the estimate is their mean."""
    found = made("loss", QUANTIZED, column="relevance_gain")["w2a2 - fp32"]
    fills = [f"relevance_gain_{fill}" for fill in ("mean", "noise", "blur")]
    change = [value(fill, "w2a2") - value(fill, "fp32") for fill in fills]
    check(found, np.mean(change, axis=0), [-c for c in change], [change], change, 0.05)


def test_steps():
    """Each precision minus the one before it, the reference the first."""
    found = made("steps", ("fp32", *QUANTIZED))
    assert list(found) == ["w4a4 - fp32", "mixed - w4a4", "w2a2 - mixed"]
    change = value("gini", "w2a2") - value("gini", "mixed")
    check(found["w2a2 - mixed"], change, [-change], [[change]], [change], 0.05)


def test_joint_loss():
    """Accuracy and score both below; the opposite is one below and one above, either way round."""
    found = made("joint_loss", QUANTIZED)["w4a4 - fp32, and accuracy"]
    points = value("test_accuracy", "w4a4") - value("test_accuracy", "fp32")
    score = value("gini", "w4a4") - value("gini", "fp32")
    apart = [[-points, score], [points, -score]]
    check(found, score, [-points, -score], apart, [points, score], [0.5, 0.05])


def test_gain():
    """Guided minus standard at each precision, the reference included; a tenth of what standard training gives."""
    raised = evidence(RUNS.assign(gini=RUNS.gini + (RUNS.training == "guided")), given=0.5)
    wider = raised.untrained["primary"]
    wider = wider.assign(gini=wider.gini - 3 * (wider.training == "guided"))
    raised = evidence(raised.runs["primary"])
    raised.untrained["primary"] = wider
    found = made("gain", ("fp32", *QUANTIZED), training="guided", source=raised)
    assert list(found)[0] == "guided - standard, fp32"
    change = 1 + value("gini", "w2a2", "guided") - value("gini", "w2a2")
    check(found["guided - standard, w2a2"], change, [change], [[-change]], [change], 0.05)


@pytest.mark.parametrize(("column", "margin"), [("gini", 0.05), ("test_accuracy", 0.5)])
def test_non_inferiority(column, margin):
    """The difference is told, the difference plus the margin is tested; to be equivalent is not asked."""
    (label, found), *rest = made("non_inferiority", ("w4a4",), column=column).items()
    assert label == "w4a4 - fp32 > -margin" and not rest
    change = value(column, "w4a4") - value(column, "fp32")
    check(found, change, [change + margin], [[-change - margin]])


def test_mitigation():
    """What guided training loses less, in units of the score and as a share; standard training's loss is the gate."""
    found = made("mitigation", QUANTIZED, training="guided")
    assert list(found)[:2] == ["guided - standard, w4a4 - fp32", "guided - standard, share kept at w4a4"]
    lost = {t: value("gini", "mixed", t) - value("gini", "fp32", t) for t in ("standard", "guided")}
    change = lost["guided"] - lost["standard"]
    check(found["guided - standard, mixed - fp32"], change, [change], [[-change]], [change], 0.05)
    kept = {t: 1 + lost[t] / 0.5 for t in lost}
    change = kept["guided"] - kept["standard"]
    check(found["guided - standard, share kept at mixed"], change, [change], [[-change]], [change], 0.1)
    for label, comparison in found.items():
        name, gate = comparison.loss
        assert label.endswith((name, f"{name} - fp32"))
        np.testing.assert_allclose(gate[:, 0], value("gini", name) - value("gini", "fp32"))


def test_a_share_of_nothing_is_not_asked_for():
    """Where training raises the score in all seeds but one there is no share, and no error either."""
    source = evidence(RUNS)
    below = source.untrained["primary"].copy()
    below.loc[(below.seed == 7) & (below.training == "standard"), "gini"] += 1
    source.untrained["primary"] = below
    rule = RULES["mitigation"](Measured(source, CLAIMS, "mnist", "guided", "gini"), ("w4a4",))
    (_, additive), (_, share) = rule
    assert np.isfinite(additive().shown).all()
    with pytest.raises(NotAsked, match="standard training gives the reference nothing in some seed"):
        share()


@pytest.mark.parametrize("narrow", ["high", "low"])
def test_between(narrow):
    """Both gaps wanted; outside on either side is the opposite; the narrower one is told."""
    rise = {"w4a4": 3, "mixed": 2 if narrow == "high" else 1}
    runs = RUNS.assign(gini=RUNS.gini + RUNS.precision.map(rise).fillna(0))
    (label, found), *rest = made("between", QUANTIZED, source=evidence(runs)).items()
    assert label == "w2a2 < mixed < w4a4" and not rest
    high = value("gini", "w4a4", runs=runs) - value("gini", "mixed", runs=runs)
    low = value("gini", "mixed", runs=runs) - value("gini", "w2a2", runs=runs)
    check(found, high if narrow == "high" else low, [high, low], [[-high], [-low]], [high, low], 0.05)


def test_loss_at_equal_confidence():
    """The loss on matched images, with its margin there; asked only if there is one on the primary images."""
    source = evidence(RUNS)
    source.runs["matched"] = RUNS.assign(gini=2 * RUNS.gini)
    source.untrained["matched"] = source.untrained["primary"].assign(gini=2 * source.untrained["primary"].gini)
    found = made("loss_at_equal_confidence", QUANTIZED, source=source)["w2a2 - fp32, equal confidence"]
    change = value("gini", "w2a2") - value("gini", "fp32")
    check(found, 2 * change, [-2 * change], [[2 * change]], [2 * change], 0.1)
    assert found.loss[0] == "w2a2"
    np.testing.assert_allclose(found.loss[1][:, 0], change)


@pytest.mark.parametrize("test", RULES)
def test_every_rule_says_why(test):
    """A reader who asks why it is so finds a reason, beside what is compared."""
    what, *reason = RULES[test].__doc__.split("\n\n")
    assert what.rstrip().endswith((".", "test.")) and " ".join(reason).strip(), test
