"""Made-up frames in the form that figures and tables read, of any precisions; and every figure drawn from them."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd

from saqlib.controls import CASCADE
from saqlib.findings import maps_table
from saqlib.saliency import METHODS
from saqlib.scores import CANDIDATE_FILLS, FAITHFULNESS, FILLS, GAINS, PRESERVATION, PRIMARY, TRAINED, UNTRAINED
from study.device import CALLS
from study.frames import Maps
from study.report import compare, effects, figures, labels, main_figures, pictures, tables, training

DATASETS = ("mnist", "fashion_mnist")
PRECISIONS = ("fp32", "w4a4", "mixed", "w2a2")
FIVE = ("fp32", "w4a4", "w3a3", "mixed", "w2a2")  # one that params.yaml does not have
TRAININGS = ("standard", "guided")
SCORES = (*dict.fromkeys((*PRIMARY, *GAINS)), FAITHFULNESS, "amplitude")
QUESTIONS = {
    "accuracy": "test_accuracy",
    "focus": "gini",
    "coherence": "morans_i",
    "faithfulness": "relevance_gain",
}
SWITCH = 40
STEPS = np.arange(0, 110, 10)
SURROGATES = ("clip_only", "round_only", "relu", "weights_off", "fp32_twin")  # only of quantized networks


def grid(precisions: Sequence[str] = PRECISIONS, seeds: int = 3, **columns: Callable) -> pd.DataFrame:
    """One row per network: dataset, precision, training, seed; each further column is a function of a generator."""
    rng, places = np.random.default_rng(5), product(DATASETS, precisions, TRAININGS, range(seeds))
    frame = pd.DataFrame(places, columns=["dataset", "precision", "training", "seed"])
    return frame.assign(**{name: [value(rng) for _ in range(len(frame))] for name, value in columns.items()})


def runs(
    precisions: Sequence[str] = PRECISIONS,
    seeds: int = 3,
    *,
    effect: Callable[[str, str, str], float] = lambda precision, training, metric: 0.0,
    noise: float = 0.01,
    generator: int = 0,
) -> pd.DataFrame:
    """Networks with accuracy, every score and likeness: a level in [0, 1) of each dataset and seed, plus noise.

    effect: what a test plants, in units of the noise; by default the null holds. The levels, which all networks of a
    seed share, cancel in paired differences. Accuracy lies 90 higher.
    """
    frame, rng = grid(precisions, seeds), np.random.default_rng(generator)
    groups = pd.factorize(frame.dataset)[0] * seeds + frame.seed
    for metric in ("test_accuracy", *SCORES, *(f"preservation_{name}" for name in PRESERVATION)):
        level = rng.random(len(DATASETS) * seeds)[groups] + 90 * (metric == "test_accuracy")
        planted = [effect(p, t, metric) for p, t in zip(frame.precision, frame.training, strict=True)]
        frame[metric] = level + noise * (np.array(planted) + rng.normal(size=len(frame)))
    return frame.assign(dead_rate=0.0, sensitivity_max=1 - frame.gini)


def of_the_reference(frame: pd.DataFrame) -> pd.DataFrame:
    """Its networks, without their precision: untrained networks, or pairs of seeds."""
    return frame[frame.precision == "fp32"].drop(columns="precision")


def scored_maps(precisions: Sequence[str] = PRECISIONS, seeds: int = 3) -> pd.DataFrame:
    """Every map of every network as study.frames has them, at a level of its own: .01, .02, ...; untrained ones at 0.

    Levels differ from seed to seed by .001.
    """
    keys, names = grid(precisions, seeds), (*METHODS, *SURROGATES, "other_seed", *list(labels.CONTROLS)[1:])
    scores, parts = [*SCORES, "relevance_gain_zero", "sensitivity_max"], []
    for network, shown in ((TRAINED, names), (UNTRAINED, tuple(METHODS))):
        for place, name in enumerate(shown, 1):
            own = keys[keys.precision != "fp32"] if name in SURROGATES else keys
            level = 0.01 * place * (network == TRAINED) + 0.001 * own.seed
            known = scores if name in (*METHODS,)[:2] else scores[:-1]  # only these are shaken
            parts.append(own.assign(map=name, network=network, **dict.fromkeys(known, level)))
    return pd.concat(parts, ignore_index=True)


def controls(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """Those of the maps."""
    return tables.controls(scored_maps(precisions), "fp32")


def map_means(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """The numbers of the table of maps."""
    return maps_table(scored_maps(precisions), FILLS, exploring=1)


def collection(precisions: Sequence[str] = PRECISIONS) -> SimpleNamespace:
    """What study.report.compare reads of study.frames.Collection for figures: gains rise with the fill, and from the
    straight-through map to the other by .3; every layer clips .05.
    """
    gains = [f"{prefix}relevance_gain_{fill}" for prefix in ("", "pass_through_") for fill in CANDIDATE_FILLS]
    networks = runs(precisions)
    networks = networks.assign(**{name: 0.1 * (place + 1) + 0.001 * networks.seed for place, name in enumerate(gains)})
    saturation = networks[networks.precision != "fp32"].merge(pd.DataFrame({"layer": ["conv1", "conv2"]}), how="cross")
    return SimpleNamespace(
        reference="fp32", fills=dict.fromkeys(DATASETS, CANDIDATE_FILLS), maps=scored_maps(precisions),
        runs={"primary": runs(precisions)}, as_ablation=networks, saturation=saturation.assign(clipped=0.05),
        untrained={"primary": of_the_reference(runs(precisions)).assign(faithfulness=0.1)},
    )  # fmt: skip


def variants(precisions: Sequence[str] = PRECISIONS) -> dict[str, pd.DataFrame]:
    """Ablations by name: of the fewest bits without rounding, and of one cell without a clip; 8 bits; another network;
    and signed ranking, whose guided networks have scores lower by .5.
    """
    networks = collection(precisions).as_ablation.assign(changed=True, clipped_conv1=0.01, clipped_conv2=0.03)
    lowest, gains = networks[networks.precision == precisions[-1]], networks.filter(like="relevance_gain").columns
    signed = networks.copy()
    signed.loc[signed.training == "guided", gains] -= 0.5
    other = networks[(networks.dataset == "mnist") & (networks.training == "standard")]
    return {
        "eight_bits": networks[networks.precision == "fp32"].assign(precision="w8a8"), "unrounded": lowest,
        "max_range": lowest[(lowest.dataset == "mnist") & (lowest.training == "guided")],
        "batch_norm": other[other.precision.isin([precisions[0], precisions[-1]])],
        "signed_ranking": signed, "edges_same": lowest,
    }  # fmt: skip


@cache
def main_numbers(precisions: Sequence[str] = PRECISIONS) -> dict[str, pd.DataFrame]:
    """The numbers of each figure of the main text that has any, as their CSV files hold them."""
    collected, found = collection(precisions), variants(precisions)
    return {
        "map_first": compare.map_first(collected),
        "which_map": compare.which_map(map_means(precisions), "fp32"),
        "saturation": compare.saturation(collected, found),
        "guidance": compare.guidance(collected, found),
        "fills": compare.fills(map_means(precisions), collected),
    }


def on_device(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """The table `device`: each precision smaller and faster than the one before it, on a second board by half."""
    frame = runs(precisions, seeds=1)
    size = 200_000 / (1 + 3 * frame.precision.map(list(precisions).index))
    costs = {f"{call}_instructions": times * size for call, times in zip(CALLS, (9, 3, 4), strict=True)}
    faithful = {f"faithfulness_{name}": frame.faithfulness + level / 10 for level, name in enumerate(CALLS[1:])}
    found = frame.assign(core="Cortex-M0", flash_bytes=size, **faithful, **costs)
    return pd.concat([found, found.assign(core="Cortex-M4", flash_bytes=size / 2)], ignore_index=True)


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


def randomized(precisions: Sequence[str] = PRECISIONS) -> pd.DataFrame:
    """A row for every likeness and layer, with random estimates, some of which are missing."""
    axes = DATASETS, TRAININGS, PRESERVATION, CASCADE, precisions
    frame = pd.DataFrame(product(*axes), columns=["dataset", "training", "likeness", "redrawn", "precision"])
    drawn = np.random.default_rng(0).normal(0.4, 0.3, len(frame))
    estimate = np.where(np.arange(len(frame)) % 7 == 6, np.nan, drawn)
    return frame.assign(estimate=estimate, low=estimate - 0.3, high=estimate + 0.1, p=0.1, p_holm=0.0004,
                        verdict="supported", beside=0.3, alike=0.3 - estimate)  # fmt: skip


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


def looks(count: int = 2) -> main_figures.Looks:
    """Two images and three maps; the last score is missing."""
    names = ("full precision", "2 bits, passed through", "untrained")
    scores = {name: np.array([0.5, 0.25]) - i for i, name in enumerate(names)}
    scores["untrained"] = scores["untrained"] * np.nan
    found = {name: maps(count, seed=i).maps for i, name in enumerate(names)}
    return main_figures.Looks(images(count), ["a", "b"], found, scores, dict.fromkeys(names, 0.125))


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


# Every figure of results/figures by its name there, from the precisions; saliency_ is one for each dataset.
DRAWN: dict[str, Callable] = {
    "map_first": lambda p: main_figures.map_first(main_numbers(p)["map_first"], 0.5),
    "which_map": lambda p: main_figures.which_map(main_numbers(p)["which_map"], "fp32"),
    "saturation": lambda p: main_figures.saturation(main_numbers(p)["saturation"]),
    "guidance": lambda p: main_figures.guidance(main_numbers(p)["guidance"], 0.5),
    "fills": lambda p: main_figures.fills(main_numbers(p)["fills"]),
    "looks": lambda _: main_figures.looks({d: looks() for d in DATASETS}),
    "data": lambda _: pictures.classes({"MNIST": images(1, 10)}, {"MNIST": "0123456789"}),
    "saliency_": lambda p: pictures.saliency_grid(images(3), list("abc"), blocks(p, 3)),
    "clarity": lambda p: figures.clarity(runs(p), controls(p)),
    "preservation": lambda p: figures.preservation(runs(p), of_the_reference(runs(p)), "fp32"),
    "amplitude": lambda p: figures.amplitude(runs(p), of_the_reference(runs(p))),
    "gradients": lambda p: figures.gradients(gradients(p)),
    "device": lambda p: figures.device(on_device(p)),
    "curves": lambda p: figures.removal(removal(p)),
    "deletion_accuracy": lambda p: figures.deletion_accuracy(accuracies(p)),
    "outline": lambda p: figures.outline(outline(p)),
    "during": lambda p: training.courses(during(p)),
    "training_maps": lambda p: training.training_maps(records(p)),
    "ablations": lambda _: effects.ablations(ablated()),
}
