"""Made-up frames in the form that figures and tables read, of any precisions; and every figure drawn from them."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from saqlib.claims import Evidence
from saqlib.findings import FACTORS
from saqlib.scores import FAITHFULNESS, GAINS, PRESERVATION
from study.frames import Maps
from study.report import effects, figures, labels, pictures, training

DATASETS, TRAININGS = ("mnist", "fashion_mnist"), ("standard", "guided")
PRECISIONS = ("fp32", "w4a4", "mixed", "w2a2")
FIVE = ("fp32", "w4a4", "w3a3", "mixed", "w2a2")  # one that params.yaml does not have
QUESTIONS = {
    "accuracy": "test_accuracy",
    "focus": "gini",
    "coherence": "morans_i",
    "faithfulness": "relevance_gain",
}
LIKENESS = tuple(f"preservation_{name}" for name in PRESERVATION)
SCORES = ("gini", "morans_i", "foreground_mass", *GAINS, FAITHFULNESS, "amplitude")
METRICS = ("test_accuracy", *SCORES, *LIKENESS)
SWITCH = 40
STEPS = np.arange(0, 110, 10)
LAYERS = ("dense3", "dense2", "dense1", "conv2", "conv1")
Effect = Callable[[str, str, str], float]


def grid(precisions: Sequence[str] = PRECISIONS, seeds: int = 3, **columns: Callable[[np.random.Generator], float]):
    """One row per network; each further column is a function of a generator."""
    rng = np.random.default_rng(5)
    places = product(DATASETS, precisions, TRAININGS, range(seeds))
    frame = pd.DataFrame(places, columns=["dataset", "precision", "training", "seed"])
    return frame.assign(**{name: [value(rng) for _ in range(len(frame))] for name, value in columns.items()})


def runs(precisions: Sequence[str] = PRECISIONS, seeds: int = 3, effect: Effect | None = None, generator: int = 0):
    """Scores of networks: a level in (0, 1) of each dataset and seed, noise of .01, and an effect in its units."""
    frame, rng = grid(precisions, seeds), np.random.default_rng(generator)
    level_of = pd.factorize(frame.dataset)[0] * seeds + frame.seed
    for metric in METRICS:
        planted = [effect(p, t, metric) if effect else 0 for p, t in zip(frame.precision, frame.training, strict=True)]
        level = rng.random(len(DATASETS) * seeds)[level_of] + 90 * (metric == "test_accuracy")
        frame[metric] = level + 0.01 * (np.array(planted) + rng.normal(size=len(frame)))
    return frame.assign(dead_rate=0.0)


def of_the_reference(frame: pd.DataFrame) -> pd.DataFrame:
    """Its networks, without their precision: untrained networks, or pairs of seeds."""
    return frame[frame.precision == "fp32"].drop(columns="precision")


def controls(frame: pd.DataFrame) -> pd.DataFrame:
    """Every control, at a level of its own: 0, 1, 2, ... ."""
    rows = of_the_reference(frame)
    every = [rows.assign(control=name, **dict.fromkeys(SCORES, float(i))) for i, name in enumerate(labels.CONTROLS)]
    return pd.concat(every, ignore_index=True).drop(columns=[*LIKENESS, "dead_rate", "test_accuracy"])


def evidence(frame: pd.DataFrame, given: float = 0.5) -> Evidence:
    """The runs on every set of images, above untrained networks that score `given` less than the reference."""
    reference = of_the_reference(frame).drop(columns="test_accuracy")
    untrained = reference.assign(**{name: reference[name] - given for name in SCORES})
    sets = ("primary", "all", "matched")
    fills = dict.fromkeys(frame.dataset.unique(), ("mean", "noise", "blur"))
    return Evidence(dict.fromkeys(sets, frame), dict.fromkeys(sets, untrained), fills)


def deployment(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """One row per cell, each precision smaller than the one before it."""
    frame = runs(precisions, seeds=1)
    return frame.assign(packed_bytes=200_000 / (1 + 3 * frame.precision.map(list(precisions).index)))


def removal(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """Straight lines: least 1 - x/2, random 1 - x, most falls to 0 at once."""
    frame = pd.concat([grid(precisions, 2).assign(level=level) for level in np.linspace(0, 1, 5)], ignore_index=True)
    return frame.assign(least=1 - frame.level / 2, random=1 - frame.level, most=0.0)


def accuracies(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """Most salient first falls twice as fast as random."""
    frame = pd.concat([grid(precisions, 2).assign(level=level) for level in np.arange(10) / 10], ignore_index=True)
    return frame.assign(most=90 - 80 * frame.level, random=90 - 40 * frame.level)


def outline(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """A peak at the outline."""
    places = [d for d in range(-8, 7) if d]
    frame = pd.concat([grid(precisions, 1).assign(distance=d, relative=2 / abs(d)) for d in places], ignore_index=True)
    return frame.assign(pixels=1 / len(places), salient=1 / len(places))


def during(precisions: Sequence[str] = PRECISIONS, **changes) -> pd.DataFrame:
    """Every score rises with the step, twice as fast in guided training; the errors are .01."""
    cells = grid(precisions, 1).drop(columns="seed")
    frame = pd.concat([cells.assign(step=step) for step in STEPS], ignore_index=True)
    slope = (len(precisions) - frame.precision.map(list(precisions).index)) * (1 + (frame.training == "guided"))
    frame["switch"] = np.where(frame.precision == "fp32", np.nan, SWITCH)
    frame["accuracy"] = 99.5 - 89.5 * np.exp(-frame.step / 10)
    for score in ("gini", "morans_i", FAITHFULNESS, "amplitude"):
        frame[score], frame[f"{score}_se"] = slope * frame.step / 100, 0.01
    return frame.assign(**changes)


def estimates(columns: str, *axes: Sequence[str], **words) -> pd.DataFrame:
    """A row for every combination, with random estimates, some of which are missing."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(product(DATASETS, TRAININGS, *axes), columns=["dataset", "training", *columns.split()])
    estimate = np.where(np.arange(len(frame)) % 7 == 6, np.nan, rng.normal(0.4, 0.3, len(frame)))
    return frame.assign(estimate=estimate, low=estimate - 0.3, high=estimate + 0.1, p=0.1, p_holm=0.0004, **words)


def recovered(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """As saqlib.findings gives it, and so are the others."""
    asked = list(QUESTIONS)[1:]
    return estimates("precision question off", precisions[1:], asked, list(FACTORS), word="explains")


def surrogate(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """Two steps."""
    steps = ("16 codes", "32 codes")
    return estimates("precision difference", precisions[1:], steps, verdict="supported", artefact="undecided")


def randomized(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """Every likeness, every layer."""
    frame = estimates("likeness redrawn precision", PRESERVATION, LAYERS, precisions, verdict="supported", beside=0.3)
    return frame.assign(alike=0.3 - frame.estimate)


def ablated() -> pd.DataFrame:
    """Two variants; the second turns what few bits do to coherence with guided training."""
    compared = [("standard", "w2a2 - fp32"), ("guided", "w2a2 - fp32"), ("guided", "guided - standard, w2a2")]
    rows = [(v, d, *c, q) for c in compared for v in ("same_again", "turned") for d in DATASETS for q in QUESTIONS]
    frame = pd.DataFrame(rows, columns=["variant", "dataset", "training", "comparison", "question"])
    rng = np.random.default_rng(2)
    frame["main"] = frame.groupby(["dataset", "training", "comparison", "question"], sort=False).ngroup() / 10 - 1
    frame["estimate"] = frame.main + rng.random(len(frame))
    frame = frame.assign(main_low=frame.main - 0.2, main_high=frame.main + 0.1, low=frame.estimate - 0.3,
                         high=frame.estimate + 0.2, seeds=6, sign="-", robust=True)  # fmt: skip
    lost = (frame.variant == "turned") & (frame.question == "coherence") & (frame.comparison == "w2a2 - fp32")
    frame["holds"] = ~(lost & (frame.training == "guided"))
    return frame


def maps(count: int = 9, scale: float = 1.0, wrong: Sequence[int] = (), seed: int = 3) -> Maps:
    """Random maps of `count` images; `wrong` ones are misclassified."""
    same = np.ones(count)
    random = scale * np.random.default_rng(seed).normal(size=(count, 28, 28))
    return Maps(random, 0.5 * same, -0.25 * same, same, ~np.isin(np.arange(count), wrong))


def images(*shape: int) -> np.ndarray:
    """Random pictures, uint8 (*shape, 28, 28)."""
    return np.random.default_rng(4).integers(0, 256, (*shape, 28, 28), dtype=np.uint8)


def blocks(precisions: Sequence[str] = PRECISIONS, count: int = 9) -> dict[str, dict[str, Maps]]:
    """The maps of every training and precision, each weaker than the one before it."""
    return {t: {p: maps(count, 100.0**-i, seed=i) for i, p in enumerate(precisions)} for t in TRAININGS}


def records(precisions: Sequence[str] = PRECISIONS, count: int = 11) -> dict:
    """Both ends of the precisions, of two images; the lower one switches."""
    steps, rng = STEPS[:count], np.random.default_rng(3)
    courses = {
        name: training.Course(steps, rng.normal(size=(len(steps), 28, 28)), switch)
        for name, switch in ((precisions[0], None), (precisions[-1], SWITCH))
    }
    return {"one": (images(1)[0], courses), "two": (images(1)[0], courses)}


def gradients(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """Fifty values for each network."""
    return grid(precisions, 20, gradient=lambda rng: rng.normal())


# Every figure of results/figures by its name there, from the precisions; maps_ and saliency_ are one for each dataset.
DRAWN: dict[str, Callable] = {
    "data": lambda _: pictures.classes({"MNIST": images(1, 10)}, {"MNIST": "0123456789"}),
    "maps_": lambda p: pictures.few_maps(images(5), list("abcde"), blocks(p, 5), maps(5).maps),
    "saliency_": lambda p: pictures.saliency_grid(images(3), list("abc"), blocks(p, 3)),
    "glance": lambda p: pictures.glance({d: (images(9), blocks(p)["standard"]) for d in DATASETS}, runs(p)),
    "clarity": lambda p: figures.clarity(runs(p), controls(runs(p))),
    "preservation": lambda p: figures.preservation(runs(p), of_the_reference(runs(p)), "fp32"),
    "amplitude": lambda p: figures.amplitude(runs(p), of_the_reference(runs(p))),
    "gradients": lambda p: figures.gradients(gradients(p)),
    "trade_off": lambda p: figures.trade_off(runs(p)),
    "pareto": lambda p: figures.pareto(deployment(p)),
    "curves": lambda p: figures.removal(removal(p)),
    "deletion_accuracy": lambda p: figures.deletion_accuracy(accuracies(p)),
    "outline": lambda p: figures.outline(outline(p)),
    "during": lambda p: training.courses(during(p)),
    "training_maps": lambda p: training.training_maps(records(p)),
    "origins": lambda p: effects.origins(recovered(p), surrogate(p), randomized(p)),
    "ablations": lambda _: effects.ablations(ablated()),
}
