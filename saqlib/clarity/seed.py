"""All that is scored on one network, and what its scores are read against.

A generator of the seed's own is drawn from in a fixed order: sensitivity, SmoothGrad, the random line, the sample of
gradients, the random line of accuracies, the controls.
"""

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from torch import Generator, Tensor, nn

from saqlib.clarity import origins
from saqlib.clarity.controls import control_maps
from saqlib.clarity.images import scored_images
from saqlib.clarity.maps import dead
from saqlib.clarity.preservation import preservation_scores
from saqlib.clarity.removal import RemovalCurves, random_ranks, remains, removal_ranks, target_probability, whole_curves
from saqlib.clarity.scores import amplitude, map_scores
from saqlib.clarity.sensitivity import sensitivity_max
from saqlib.clarity.settings import Scoring
from saqlib.clarity.subject import Subject, stacked
from saqlib.names import FILLS, GRADIENT, OTHER_METHODS, PRESERVATION, PRIMARY, UNTRAINED
from saqlib.network.initial import build
from saqlib.network.lenet import LeNet
from saqlib.network.quantization import calibrate
from saqlib.saliency.gradient import DeadNetworkError, check_alive
from saqlib.saliency.methods import integrated_gradients, log_probability_gradient, occlusion, smoothgrad

UNTRAINED_SEED = 1000  # the untrained twin's first seed, none that a network is trained with
CANDIDATES = 5  # images of each class among which figures choose one that every network classifies correctly
ACCURACY_LEVELS = tuple(tenth / 10 for tenth in range(10))  # those of saliency-guided training, arXiv 2111.14338
GRADIENTS = 2000  # gradient values kept for each seed

Arrays = dict[str, tuple]  # by name: dimensions and values


def score_seed(
    dataset: str, scoring: Scoring, seed: int, network: LeNet, likened: Mapping[str, LeNet | None]
) -> xr.Dataset:
    """All that is scored on one network.

    Args:
        dataset: whose test images it is shown.
        scoring: how.
        seed: the network's, from which every draw follows.
        network: in evaluation mode.
        likened: whose maps its own are likened to, by the name of the array that says how alike they are: of the
            reference precision the same seed, `preservation`, and another one, `seed_to_seed`; None leaves one out.
    """
    scored = scored_images(dataset, scoring)
    subject = Subject.predicting(network, scored, scoring.clarity.steps)
    few = subject.first(scoring.images_expensive)
    calibration = subject.images[: scoring.calibration_images]
    twin = untrained(network, calibration, seed)
    beside = Subject.predicting(twin, scored, scoring.clarity.steps)
    maps, generator = subject.gradient_of(network), Generator().manual_seed(seed)
    curves = subject.curves(maps)
    sensitivity = _sensitivity(few, scoring, generator)
    others = _other_maps(few, generator)
    explained = stacked([few.scores(each) for each in others.values()])
    found = {
        "label": ("image", scored.labels),
        "predicted": ("image", subject.targets),
        "sensitivity_max": ("few", sensitivity),
        "method_scores": (("explainer", "score", "few"), explained.scores),
        "method_gain": (("explainer", "fill", "few"), explained.gains),
    }
    found |= _own(subject, maps, curves, beside)
    found |= _lines(subject, maps, curves["zero"], scored.labels, generator)
    controls = control_maps(subject.images, generator)
    known = stacked([subject.scores(each) for each in controls.values()])
    kept = _candidates(scored.labels)
    found |= {
        "control_scores": (("control", "score", "image"), known.scores),
        "control_gain": (("control", "fill", "image"), known.gains),
        "kept_image": (("kept", "y", "x"), scored.raw[kept]),
        "kept_map": (("kept", "y", "x"), maps[kept]),
    }
    found |= origins.origins(few, twin, calibration)
    found |= _likeness(likened, subject, maps)
    names = {
        "image": scored.places, "few": scored.places[: scoring.images_expensive], "score": list(PRIMARY),
        "fill": list(FILLS), "likeness": list(PRESERVATION), "map": [GRADIENT, UNTRAINED], "explainer": list(others),
        "control": list(controls), "order": ["most", "least", "random"], "level": _levels(subject.steps),
        "accuracy_order": ["most", "random"], "accuracy_level": list(ACCURACY_LEVELS), "kept": scored.places[kept],
    }  # fmt: skip
    return _dataset(found, names | origins.NAMES)


def _dataset(found: Mapping[str, tuple], names: Mapping[str, Any]) -> xr.Dataset:
    def plain(values):
        return values.numpy() if isinstance(values, Tensor) else values

    arrays = {name: (dims, plain(values)) for name, (dims, values) in found.items()}
    return xr.Dataset(arrays, {name: plain(values) for name, values in names.items()})


def untrained(network: nn.Module, images: Tensor, seed: int) -> nn.Module:
    """A network like this one, calibrated on these images but not trained, in evaluation mode."""
    twin = build(network.precision, shape=network.shape, seed=UNTRAINED_SEED + seed).eval()
    calibrate(twin, images)
    return twin


def _own(subject: Subject, maps: Tensor, curves: dict[str, RemovalCurves], beside: Subject) -> Arrays:
    """What the gradient scores for the network's predictions, and that of its untrained twin for the twin's."""
    theirs = beside.gradient_of(beside.network)
    by_map = stacked([subject.scores(maps, curves), beside.scores(theirs)])
    single = map_scores(subject.images, maps)
    return {name: ("image", single[name]) for name in single.keys() - set(PRIMARY)} | {
        "scores": (("map", "score", "image"), by_map.scores),
        "relevance_gain": (("map", "fill", "image"), by_map.gains),
        "amplitude": (("map", "image"), torch.stack([amplitude(maps), amplitude(theirs)])),
    }


def _likeness(likened: Mapping[str, LeNet | None], subject: Subject, maps: Tensor) -> Arrays:
    """Likeness to the maps of other networks, for the same classes."""
    found = {}
    for name, network in likened.items():
        if network is not None:
            likeness = preservation_scores(maps, subject.gradient_of(network))
            found[name] = (("likeness", "image"), torch.stack([likeness[score] for score in PRESERVATION]))
    return found


# ----------------------------------------------------------------------------------------- what costs many gradients


def _sensitivity(few: Subject, scoring: Scoring, generator: Generator) -> Tensor:
    radius, draws = scoring.clarity.sensitivity_radius, scoring.clarity.sensitivity_draws
    try:
        return sensitivity_max(few.network, few.images, few.targets, generator=generator, radius=radius, draws=draws)
    except DeadNetworkError:
        return torch.full((len(few.images),), torch.nan, dtype=torch.float64)


def _other_maps(few: Subject, generator: Generator) -> dict[str, Tensor]:
    """Maps of the methods that should agree with the input gradient; all zero for a dead network."""
    asked = few.network, few.images, few.targets
    try:
        check_alive(few.network, few.images)
    except DeadNetworkError:
        return dict.fromkeys(OTHER_METHODS, torch.zeros_like(few.images.squeeze(1)))
    return {
        "log_probability": log_probability_gradient(*asked),
        "smoothgrad": smoothgrad(*asked, generator=generator),
        "occlusion": occlusion(*asked),
        "integrated_gradients": integrated_gradients(*asked, few.fills["mean"]),
    }


# ------------------------------------------------------------------------------------- what is left as pixels leave


def _lines(subject: Subject, maps: Tensor, inner: RemovalCurves, labels: Tensor, generator: Generator) -> Arrays:
    """Means over the images as pixels turn black, beside the line of chance; a sample of gradients, drawn between."""
    network, images, targets, blank = subject.network, subject.images, subject.targets, subject.fills["zero"]
    probability = target_probability(network, images, targets)
    ends = probability, target_probability(network, blank, targets)
    curves = whole_curves(inner, *ends)
    random = _random_curve(subject, ends, generator)
    values = maps.flatten()
    sample = values[torch.randperm(len(values), generator=generator)[:GRADIENTS]]
    return {
        "probability": ("image", probability),
        "curves": (("order", "level"), torch.stack([curves.most.nanmean(0), curves.least.nanmean(0), random])),
        "gradient": ("draw", sample),
        "accuracies": (("accuracy_order", "accuracy_level"), _accuracies(subject, maps, labels, generator)),
    }


def _random_curve(subject: Subject, ends: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
    """Mean probability of the predicted class while pixels leave in random order; its ends are those of any order."""
    orders = random_ranks(subject.images, generator)[None]
    counts = [round(level * orders.shape[2]) for level in _levels(subject.steps)[1:-1]]
    left = remains(subject.network, subject.images, subject.targets, orders, counts, subject.fills["zero"])
    return torch.cat([ends[0][:, None], left.probability[0], ends[1][:, None]], 1).mean(0)


def _accuracies(subject: Subject, maps: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Accuracy while pixels leave, most salient first (over the images whose map is not dead) and at random: (2, K)."""
    orders = torch.stack([removal_ranks(maps, most_first=True), random_ranks(subject.images, generator)])
    counts = [round(level * orders.shape[2]) for level in ACCURACY_LEVELS[1:]]
    correct = remains(subject.network, subject.images, labels, orders, counts, subject.fills["zero"]).correct
    whole = (subject.targets == labels).expand(2, -1)[..., None]
    most, random = torch.cat([whole, correct], 2).double()
    return torch.stack([most[~dead(maps)].mean(0), random.mean(0)])


def _levels(steps: int) -> list[float]:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()


def _candidates(labels: Tensor) -> Tensor:
    """Positions of the first images of each class: the first of every class, then the second of every class, ..."""
    places = [(labels == label).nonzero().flatten()[:CANDIDATES] for label in labels.unique()]
    return torch.tensor([int(p[rank]) for rank in range(CANDIDATES) for p in places if rank < len(p)])
