"""One cell's maps, scored: every score of every test image, seed by seed, beside controls, ceiling and other methods.

scores/<cell>.npz holds one array a score; (S, N) is seeds by images, and a dead map is NaN:

seeds, indices, labels      (S,), (N,) places in the test split in random order, (N,)
predicted, probability      the class that a map explains, and its softmax probability
<score>                     of saqlib.clarity, but for areas under curves
preservation_<score>        likeness to the map of the same seed's reference network, for the same class
ceiling_<score>             reference cells only: likeness to the map of the next seed
reinit_<score>              primary scores of the same architecture, calibrated but not trained
control_<control>_<score>   primary scores of a map that knows nothing, on the network of seed 0: (N,)
<method>_<score>            primary scores of another method's map: (S, N'), the first N' images
sensitivity_max             (S, N')
curve_levels                (L,) shares of removed pixels; deletion, insertion, random: mean probability (S, L)
accuracy_levels             (A,) shares of removed pixels; deletion_accuracy and random_accuracy (S, A)
gradient_sample             (S, G) gradient values, drawn at random
map_indices, images, maps   seed 0, some images a class: (K,), uint8 (K, 28, 28), (K, 28, 28); one a class first
"""

import io
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saqlib import data, experiment, files, model, paths
from saqlib.clarity import PRIMARY, clarity_scores, dead, map_scores, preservation_scores, sensitivity_max
from saqlib.config import Cell, Config
from saqlib.perturbation import areas, random_ranks, removal_curve, removal_curves, removal_ranks
from saqlib.quantization import calibrate
from saqlib.reference_maps import control_maps, log_probability_gradient, occlusion, smoothgrad
from saqlib.saliency import DeadNetworkError, check_alive, evaluating, input_gradient
from saqlib.training import as_input

ORDER_SEED = 0  # of the order in which test images are scored: one for all cells
UNTRAINED_SEED = 1000  # the untrained twin's first seed, none that a network is trained with
CANDIDATES = 5  # images a class among which figures choose one that every network classifies correctly
ACCURACY_LEVELS = tuple(tenth / 10 for tenth in range(10))  # those of saliency-guided training, arXiv 2111.14338
GRADIENTS = 2000  # gradient values kept a seed

Arrays = dict[str, NDArray]


def score_cell(cell: Cell, settings: Config, root: Path = paths.ROOT, *, n_jobs: int | None = None) -> Arrays:
    """Every score of a trained cell, the arrays named above.

    Reads models/ under `root`. The seeds are scored side by side, one thread each; the result is the same for any
    number of workers. Raises ModelFileError if the cell or its reference cell was not trained. The maps of a dead
    network count as dead maps.
    """
    for each in (cell, _reference(cell, settings)):
        experiment.load_model(each, settings.size.seeds - 1, root)
    jobs = [(_score_seed, cell, settings, seed, root) for seed in range(settings.size.seeds)]
    jobs.append((_score_controls, cell, settings, 0, root))
    *seeds, controls = experiment.parallel(_call, jobs, settings, n_jobs)
    indices, images, labels = _scored_images(cell, settings)
    shown = _candidates(labels)
    common = {
        "seeds": np.arange(settings.size.seeds),
        "indices": indices.numpy(),
        "labels": labels.numpy(),
        "curve_levels": np.array(_levels(settings)),
        "accuracy_levels": np.array(ACCURACY_LEVELS),
        "map_indices": indices[shown].numpy(),
        "images": images[shown].numpy(),
        "maps": seeds[0]["maps"],
    }
    stacked = {name: np.stack([seed[name] for seed in seeds]) for name in seeds[0] if name != "maps"}
    return common | stacked | controls


def save_cell(cell: Cell, scores: Arrays, root: Path = paths.ROOT) -> None:
    """Write scores/<cell>.npz and, with each seed's means over all images, results/clarity/<cell>.json."""
    buffer = io.BytesIO()
    np.savez(buffer, **scores)
    files.write(root / "scores" / f"{cell}.npz", buffer.getvalue())
    files.write(root / "results" / "clarity" / f"{cell}.json", json.dumps(summary(cell, scores), indent=1) + "\n")


def summary(cell: Cell, scores: Arrays) -> dict:
    """Mean of each score over the images of a seed that have one; None where no image has."""
    names = [name for name, values in scores.items() if values.shape == scores["probability"].shape]
    means = {name: [_mean(row) for row in scores[name]] for name in names if name != "predicted"}
    return {
        "cell": str(cell),
        "images": len(scores["indices"]),
        "seeds": {str(seed): {n: means[n][i] for n in means} for i, seed in enumerate(scores["seeds"])},
    }


def _mean(values: NDArray) -> float | None:
    finite = values[np.isfinite(values)]
    return round(float(finite.mean()), 6) if len(finite) else None


# ------------------------------------------------------------------------------------------------- the images


def _scored_images(cell: Cell, settings: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Places in the test split, uint8 images and labels of the test images that are scored."""
    images, labels = data.load(cell.dataset, "test", sample=settings.size.sample)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(ORDER_SEED))
    indices = order[: settings.size.images]
    return indices, images[indices], labels[indices]


def _candidates(labels: Tensor) -> Tensor:
    """Positions of the first images of each class: the first of every class, then the second of every class, ..."""
    places = [(labels == label).nonzero().flatten()[:CANDIDATES] for label in labels.unique()]
    return torch.tensor([int(p[rank]) for rank in range(CANDIDATES) for p in places if rank < len(p)])


def _levels(settings: Config) -> list[float]:
    return torch.linspace(0, 1, settings.clarity.steps + 1, dtype=torch.float64).tolist()


# ---------------------------------------------------------------------------------------------- one network


def _call(task, *arguments) -> Arrays:
    return task(*arguments)


def _reference(cell: Cell, settings: Config) -> Cell:
    return Cell(cell.dataset, settings.claims.reference, cell.training)


def _score_seed(cell: Cell, settings: Config, seed: int, root: Path) -> Arrays:
    """All that is scored on the network of one seed."""
    _, raw, labels = _scored_images(cell, settings)
    images, network = as_input(raw), experiment.load_model(cell, seed, root)
    generator = torch.Generator().manual_seed(seed)
    probability, predicted = _predict(network, images)
    maps = _map(network, images, predicted)
    found = {"predicted": predicted, "probability": probability}
    curves = removal_curves(network, images, predicted, maps, settings.clarity.steps)
    found |= map_scores(images, maps) | {"symmetric_relevance_gain": areas(curves).gain}
    found |= _likeness(cell, settings, seed, root, images, predicted, maps)
    found |= _untrained(cell, settings, seed, images)
    few = slice(settings.size.images_dear)
    found |= _dear(network, images[few], predicted[few], settings, generator)
    found |= {"insertion": curves.least.nanmean(0), "deletion": curves.most.nanmean(0)}
    found["random"] = _random_curve(network, images, predicted, settings, generator)
    values = maps.flatten()
    found["gradient_sample"] = values[torch.randperm(len(values), generator=generator)[:GRADIENTS]]
    found |= _accuracies(network, images, labels, maps, generator)
    found["maps"] = maps[_candidates(labels)]
    return {name: values.numpy() for name, values in found.items()}


def _score_controls(cell: Cell, settings: Config, seed: int, root: Path) -> Arrays:
    """The primary scores of maps that know nothing."""
    _, raw, _ = _scored_images(cell, settings)
    images, network = as_input(raw), experiment.load_model(cell, seed, root)
    _, predicted = _predict(network, images)
    controls = control_maps(images, torch.Generator().manual_seed(seed))
    scored = {name: _primary(network, images, predicted, maps, settings) for name, maps in controls.items()}
    return {f"control_{name}_{id}": values.numpy() for name, found in scored.items() for id, values in found.items()}


@torch.no_grad()
def _predict(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probability and index of the predicted class."""
    with evaluating(network):
        return network(images).softmax(1).max(1)


def _map(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Input gradients; a dead network has dead maps, all zero."""
    try:
        return input_gradient(network, images, targets)
    except DeadNetworkError:
        return torch.zeros_like(images.squeeze(1))


def _primary(network: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, settings: Config) -> dict[str, Tensor]:
    found = clarity_scores(network, images, targets, maps, settings.clarity.steps)
    return {name: found[name] for name in PRIMARY}


def _likeness(
    cell: Cell, settings: Config, seed: int, root: Path, images: Tensor, targets: Tensor, maps: Tensor
) -> dict[str, Tensor]:
    """Preservation, and its ceiling in the reference cell."""

    def likeness(prefix: str, other: int) -> dict[str, Tensor]:
        reference = experiment.load_model(_reference(cell, settings), other, root)
        found = preservation_scores(maps, _map(reference, images, targets))
        return {f"{prefix}_{name}": values for name, values in found.items()}

    ceiling = {}
    if cell == _reference(cell, settings):
        ceiling = likeness("ceiling", (seed + 1) % settings.size.seeds)
    return likeness("preservation", seed) | ceiling


def _untrained(cell: Cell, settings: Config, seed: int, images: Tensor) -> dict[str, Tensor]:
    precision = settings.precisions[cell.precision]
    twin = model.build(precision, network=settings.network, seed=UNTRAINED_SEED + seed).eval()
    calibrate(twin, images[: settings.training.calibration_images])
    _, predicted = _predict(twin, images)
    found = _primary(twin, images, predicted, _map(twin, images, predicted), settings)
    return {f"reinit_{name}": values for name, values in found.items()}


def _dear(
    network: nn.Module, images: Tensor, targets: Tensor, settings: Config, generator: torch.Generator
) -> dict[str, Tensor]:
    """Scores that cost many gradients or forward passes an image."""
    found = {"sensitivity_max": _sensitivity(network, images, targets, settings, generator)}
    for method, maps in _other_maps(network, images, targets, generator).items():
        scored = _primary(network, images, targets, maps, settings)
        found |= {f"{method}_{name}": values for name, values in scored.items()}
    return found


def _sensitivity(
    network: nn.Module, images: Tensor, targets: Tensor, settings: Config, generator: torch.Generator
) -> Tensor:
    radius, draws = settings.clarity.sensitivity_radius, settings.clarity.sensitivity_draws
    try:
        return sensitivity_max(network, images, targets, generator=generator, radius=radius, draws=draws)
    except DeadNetworkError:
        return torch.full((len(images),), torch.nan, dtype=torch.float64)


def _other_maps(
    network: nn.Module, images: Tensor, targets: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Maps of the methods that should agree with the input gradient; all zero for a dead network."""
    try:
        check_alive(network, images)
    except DeadNetworkError:
        return dict.fromkeys(("smoothgrad", "occlusion", "log_probability"), torch.zeros_like(images.squeeze(1)))
    return {
        "smoothgrad": smoothgrad(network, images, targets, generator=generator),
        "occlusion": occlusion(network, images, targets),
        "log_probability": log_probability_gradient(network, images, targets).detach(),
    }


def _random_curve(
    network: nn.Module, images: Tensor, targets: Tensor, settings: Config, generator: torch.Generator
) -> Tensor:
    """Mean probability of the predicted class while pixels leave in random order."""
    ranks = random_ranks(images, generator)
    return removal_curve(network, images, targets, ranks, _levels(settings)).probability.mean(0)


def _accuracies(
    network: nn.Module, images: Tensor, labels: Tensor, maps: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Accuracy while pixels leave, most salient first (over the images whose map is not dead) and at random."""
    alive, ranks = ~dead(maps), removal_ranks(maps, most_first=True)
    salient = removal_curve(network, images, labels, ranks, ACCURACY_LEVELS).correct[alive]
    chance = removal_curve(network, images, labels, random_ranks(images, generator), ACCURACY_LEVELS).correct
    return {"deletion_accuracy": salient.double().mean(0), "random_accuracy": chance.double().mean(0)}
