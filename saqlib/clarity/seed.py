"""All that is scored on one network, and what its scores are read against.

A generator of the seed's own is drawn from in a fixed order: sensitivity, SmoothGrad, the random line, the sample of
gradients, the random line of accuracies.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from saqlib import stored
from saqlib.clarity.controls import control_maps
from saqlib.clarity.fills import fill_images
from saqlib.clarity.maps import dead
from saqlib.clarity.preservation import preservation_scores
from saqlib.clarity.removal import (
    gain,
    inner_curves,
    probabilities,
    random_ranks,
    remains,
    removal_ranks,
    symmetric_relevance_gain,
    target_probability,
    whole_curves,
)
from saqlib.clarity.scores import foreground_mass, gini, map_scores, morans_i
from saqlib.clarity.sensitivity import sensitivity_max
from saqlib.clarity.settings import Scoring
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.names import GRADIENT, OTHER_METHODS, PRESERVATION, PRIMARY, UNTRAINED
from saqlib.network.initial import build
from saqlib.network.quantization import calibrate
from saqlib.saliency.gradient import DeadNetworkError, check_alive, input_gradient
from saqlib.saliency.methods import log_probability_gradient, occlusion, smoothgrad

ORDER_SEED = 0  # of the order in which test images are scored: one for all cells
UNTRAINED_SEED = 1000  # the untrained twin's first seed, none that a network is trained with
CANDIDATES = 5  # images of each class among which figures choose one that every network classifies correctly
ACCURACY_LEVELS = tuple(tenth / 10 for tenth in range(10))  # those of saliency-guided training, arXiv 2111.14338
GRADIENTS = 2000  # gradient values kept for each seed


def score_seed(cell: Cell, scoring: Scoring, seed: int, neighbour: int | None, root: Path) -> xr.Dataset:
    """All that is scored on the network of one seed. neighbour: the other seed that a reference map is likened to."""
    indices, raw, labels = _scored_images(cell, scoring)
    images, network = data.as_input(raw), stored.load_model(cell, seed, root)
    generator = torch.Generator().manual_seed(seed)
    probability, predicted = probabilities(network, images).max(1)
    maps = _map(network, images, predicted)
    blank = fill_images("zero", images)
    (inner,) = inner_curves(network, images, predicted, maps, scoring.clarity.steps, [blank])
    ends = probability, target_probability(network, blank, predicted)
    curves = whole_curves(inner, *ends)
    single = map_scores(images, maps) | {"symmetric_relevance_gain": gain(*inner)}
    by_map = {GRADIENT: single, UNTRAINED: _untrained(network, scoring, seed, images)}
    few = slice(scoring.images_expensive)
    sensitivity, methods = _expensive(network, images[few], predicted[few], scoring, generator)
    random = _random_curve(network, images, predicted, ends, scoring, generator)
    values = maps.flatten()
    sample = values[torch.randperm(len(values), generator=generator)[:GRADIENTS]]
    accuracies = _accuracies(network, images, labels, predicted, maps, generator)
    kept = _candidates(labels)
    found = {name: ("image", single[name]) for name in ("entropy", "auroc", "dead")}
    found |= {
        "predicted": ("image", predicted),
        "probability": ("image", probability),
        "scores": (("map", "score", "image"), _stack(by_map, PRIMARY)),
        "sensitivity_max": ("few", sensitivity),
        "method_scores": (("explainer", "score", "few"), _stack(methods, PRIMARY)),
        "curves": (("order", "level"), torch.stack([curves.most.nanmean(0), curves.least.nanmean(0), random])),
        "accuracies": (("accuracy_order", "accuracy_level"), accuracies),
        "gradient": ("draw", sample),
        "label": ("image", labels),
        "kept_image": (("kept", "y", "x"), raw[kept]),
        "kept_map": (("kept", "y", "x"), maps[kept]),
    }
    found |= _likeness(cell, scoring, {"preservation": seed, "seed_to_seed": neighbour}, root, images, predicted, maps)
    names = {
        "image": indices, "few": indices[few], "score": list(PRIMARY), "likeness": list(PRESERVATION),
        "map": list(by_map), "explainer": list(methods), "order": ["most", "least", "random"],
        "level": _levels(scoring), "accuracy_order": ["most", "random"], "accuracy_level": list(ACCURACY_LEVELS),
        "kept": indices[kept],
    }  # fmt: skip
    return _dataset(found, names)


def score_controls(cell: Cell, scoring: Scoring, root: Path) -> xr.Dataset:
    """The primary scores of maps that know nothing, on the network of seed 0."""
    indices, raw, _ = _scored_images(cell, scoring)
    images, network = data.as_input(raw), stored.load_model(cell, 0, root)
    predicted = probabilities(network, images).argmax(1)
    controls = control_maps(images, torch.Generator().manual_seed(0))
    scored = {name: _primary(network, images, predicted, maps, scoring) for name, maps in controls.items()}
    found = {"control_scores": (("control", "score", "image"), _stack(scored, PRIMARY))}
    return _dataset(found, {"image": indices, "score": list(PRIMARY), "control": list(scored)})


def _stack(scores: Mapping[str, Mapping[str, Tensor]], names: Iterable[str]) -> Tensor:
    """Scores by map or method, of these names, as one array."""
    return torch.stack([torch.stack([each[name] for name in names]) for each in scores.values()])


def _dataset(found: Mapping[str, tuple], names: Mapping[str, Any]) -> xr.Dataset:
    def plain(values):
        return values.numpy() if isinstance(values, Tensor) else values

    arrays = {name: (dims, plain(values)) for name, (dims, values) in found.items()}
    return xr.Dataset(arrays, {name: plain(values) for name, values in names.items()})


def _map(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Input gradients; a dead network has dead maps, all zero."""
    try:
        return input_gradient(network, images, targets)
    except DeadNetworkError:
        return torch.zeros_like(images.squeeze(1))


def _primary(network: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, scoring: Scoring) -> dict[str, Tensor]:
    """The primary scores alone: what nobody reads of controls and other methods is not computed."""
    return {
        "gini": gini(maps),
        "morans_i": morans_i(maps),
        "foreground_mass": foreground_mass(maps, (images > 0).any(1)),
        "symmetric_relevance_gain": symmetric_relevance_gain(network, images, targets, maps, scoring.clarity.steps),
    }


def _likeness(
    cell: Cell, scoring: Scoring, others: dict[str, int | None], root: Path, images: Tensor, targets: Tensor,
    maps: Tensor,
) -> dict[str, tuple]:  # fmt: skip
    """Likeness to the maps of the reference's networks of these seeds, for the same classes."""
    reference = Cell(cell.dataset, scoring.reference, cell.training)
    found = {}
    for name, seed in others.items():
        if seed is not None:
            theirs = _map(stored.load_model(reference, seed, root), images, targets)
            likeness = preservation_scores(maps, theirs)
            found[name] = (("likeness", "image"), torch.stack([likeness[score] for score in PRESERVATION]))
    return found


def _untrained(network: nn.Module, scoring: Scoring, seed: int, images: Tensor) -> dict[str, Tensor]:
    """The primary scores of a network like this one, calibrated but not trained."""
    twin = build(network.precision, shape=network.shape, seed=UNTRAINED_SEED + seed).eval()
    calibrate(twin, images[: scoring.calibration_images])
    predicted = probabilities(twin, images).argmax(1)
    return _primary(twin, images, predicted, _map(twin, images, predicted), scoring)


def _expensive(
    network: nn.Module, images: Tensor, targets: Tensor, scoring: Scoring, generator: torch.Generator
) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    """What costs many gradients or forward passes an image: sensitivity, and the scores of other methods' maps."""
    sensitivity = _sensitivity(network, images, targets, scoring, generator)
    maps = _other_maps(network, images, targets, generator)
    return sensitivity, {method: _primary(network, images, targets, each, scoring) for method, each in maps.items()}


def _sensitivity(
    network: nn.Module, images: Tensor, targets: Tensor, scoring: Scoring, generator: torch.Generator
) -> Tensor:
    radius, draws = scoring.clarity.sensitivity_radius, scoring.clarity.sensitivity_draws
    try:
        return sensitivity_max(network, images, targets, generator=generator, radius=radius, draws=draws)
    except DeadNetworkError:
        return torch.full((len(images),), torch.nan, dtype=torch.float64)


def _other_maps(network: nn.Module, images: Tensor, targets: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Maps of the methods that should agree with the input gradient; all zero for a dead network."""
    try:
        check_alive(network, images)
    except DeadNetworkError:
        return dict.fromkeys(OTHER_METHODS, torch.zeros_like(images.squeeze(1)))
    return {
        "smoothgrad": smoothgrad(network, images, targets, generator=generator),
        "occlusion": occlusion(network, images, targets),
        "log_probability": log_probability_gradient(network, images, targets).detach(),
    }


def _random_curve(
    network: nn.Module, images: Tensor, targets: Tensor, ends: tuple[Tensor, Tensor], scoring: Scoring,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Mean probability of the predicted class while pixels leave in random order; its ends are those of any order."""
    orders = random_ranks(images, generator)[None]
    counts = [round(level * orders.shape[2]) for level in _levels(scoring)[1:-1]]
    inner = remains(network, images, targets, orders, counts, fill_images("zero", images)).probability[0]
    return torch.cat([ends[0][:, None], inner, ends[1][:, None]], 1).mean(0)


def _accuracies(
    network: nn.Module, images: Tensor, labels: Tensor, predicted: Tensor, maps: Tensor, generator: torch.Generator
) -> Tensor:
    """Accuracy while pixels leave, most salient first (over the images whose map is not dead) and at random: (2, K)."""
    orders = torch.stack([removal_ranks(maps, most_first=True), random_ranks(images, generator)])
    counts = [round(level * orders.shape[2]) for level in ACCURACY_LEVELS[1:]]
    correct = remains(network, images, labels, orders, counts, fill_images("zero", images)).correct
    whole = (predicted == labels).expand(2, -1)[..., None]
    most, random = torch.cat([whole, correct], 2).double()
    return torch.stack([most[~dead(maps)].mean(0), random.mean(0)])


# ------------------------------------------------------------------------------------------------- the images


def _scored_images(cell: Cell, scoring: Scoring) -> tuple[Tensor, Tensor, Tensor]:
    """Places in the test split, uint8 images and labels of the test images that are scored."""
    images, labels = data.load(cell.dataset, "test", sample=scoring.sample)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(ORDER_SEED))
    indices = order[: scoring.images]
    return indices, images[indices], labels[indices]


def _candidates(labels: Tensor) -> Tensor:
    """Positions of the first images of each class: the first of every class, then the second of every class, ..."""
    places = [(labels == label).nonzero().flatten()[:CANDIDATES] for label in labels.unique()]
    return torch.tensor([int(p[rank]) for rank in range(CANDIDATES) for p in places if rank < len(p)])


def _levels(scoring: Scoring) -> list[float]:
    return torch.linspace(0, 1, scoring.clarity.steps + 1, dtype=torch.float64).tolist()
