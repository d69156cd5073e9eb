"""One network, scored: every score of its maps on the images of a dataset, and what they are read against.

`score_network` makes a labelled dataset (xarray), in which a dead map is NaN. Its dimensions are image (place in the
test split, in random order), few (the first images, for what costs many gradients), map (of the network, and of its
untrained twin), score (the primary ones), fill (what stands in the place of a removed pixel), explainer, control,
likeness, weights and activations (quantizers on or off), difference, redrawn, order and level of removal, draw, and
kept (images whose maps are stored, one of each class first). `scores` and `relevance_gain` are of the maps, and every
other score of saqlib.scores that needs no network is an array of its own name, of the network's map.
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from saqlib import controls, data, removal
from saqlib.lenet import LeNet
from saqlib.saliency import METHODS, DeadNetworkError, check_alive
from saqlib.scores import (
    FILLS,
    GAINS,
    GRADIENT,
    PRESERVATION,
    PRIMARY,
    SCORES,
    UNTRAINED,
    amplitude,
    dead,
    map_scores,
    preservation_scores,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ORDER_SEED = 0  # of the order in which a split is scored
CANDIDATES = 5  # images of each class among which figures choose one that every network classifies correctly
ACCURACY_LEVELS = tuple(tenth / 10 for tenth in range(10))  # those of saliency-guided training, arXiv 2111.14338
GRADIENTS = 2000  # gradient values stored for each seed
ITSELF = "intensity"  # the control that is the image
# Of the curves during training: enough to draw a line, since every step and every cell sees the same images.
CURVE_CLASSIFIED, CURVE_EXPLAINED, CURVE_STEPS = 1000, 100, 7

Arrays = dict[str, tuple]  # by name: dimensions and values


@dataclass(frozen=True)
class Clarity:
    """steps: of removal. sensitivity_radius (in units of a pixel's range), sensitivity_draws: of the sensitivity."""

    steps: int
    sensitivity_radius: float
    sensitivity_draws: int


@dataclass(frozen=True)
class Scoring:
    """How the maps of one cell are scored: all that decides its scores but its networks.

    reference: the precision to whose maps they are likened. images: how many test images, images_expensive: of those,
    for scores that cost many gradients. calibration_images: of the untrained twin. root: the folder of the datasets,
    None: data/ of the checkout.
    """

    clarity: Clarity
    reference: str
    images: int
    images_expensive: int
    calibration_images: int
    root: str | None = None


@dataclass(frozen=True)
class Scored:
    """Images of one split in the order in which they are scored.

    places: in the split. raw: uint8 (B, 28, 28). fills: by name, one image for each, (B, 1, 28, 28), or one for all.
    """

    places: Tensor
    raw: Tensor
    labels: Tensor
    fills: dict[str, Tensor]

    @property
    def images(self) -> Tensor:
        """As a network takes them, float (B, 1, 28, 28)."""
        return data.as_input(self.raw)


def scored_images(dataset: str, scoring: Scoring, split: str = "test") -> Scored:
    """The first images of a split in random order, so many as are scored, with every fill.

    The mean is that of the training images, whichever split is scored.
    """
    images, labels = data.load(dataset, split, scoring.root)
    order = torch.randperm(len(images), generator=Generator().manual_seed(ORDER_SEED))
    places = order[: scoring.images]
    training, _ = data.load(dataset, "train", scoring.root)
    mean = torch.from_numpy(training.numpy().mean(0) / 255).float()[None, None]
    shown = data.as_input(images[places])
    fills = {fill: removal.fill_images(mean if fill == "mean" else fill, shown) for fill in FILLS}
    return Scored(places, images[places], labels[places], fills)


class MapScores(NamedTuple):
    """What maps score, float64: the primary scores (score, image), the relevance gain with each fill (fill, image)."""

    scores: Tensor
    gains: Tensor


@dataclass(frozen=True)
class Explained:
    """A network, the images that it is shown, the classes that maps explain, and how pixels are removed.

    images: float (B, 1, 28, 28). targets: int64 (B,). fills: images by name, as `Scored` has them. steps: of removal.
    """

    network: nn.Module
    images: Tensor
    targets: Tensor
    fills: dict[str, Tensor]
    steps: int

    @classmethod
    def predicting(cls, network: nn.Module, scored: Scored, steps: int) -> "Explained":
        """A network in front of all scored images, whose own predictions are to be explained."""
        images = scored.images
        return cls(network, images, removal.probabilities(network, images).argmax(1), scored.fills, steps)

    def first(self, count: int) -> "Explained":
        """The same network in front of the first images only."""
        fills = {fill: others[:count] for fill, others in self.fills.items()}
        return replace(self, images=self.images[:count], targets=self.targets[:count], fills=fills)

    def gradient_of(self, network: nn.Module) -> Tensor:
        """Input gradients (B, H, W) of this or another network for these classes; a dead network's are all zero."""
        return controls.gradient_or_zeros(network, self.images, self.targets)

    def curves(self, maps: Tensor) -> dict[str, removal.RemovalCurves]:
        """The removal curves of maps (B, H, W) with each fill, without their common ends."""
        fills = list(self.fills.values())
        found = removal.inner_curves(self.network, self.images, self.targets, maps, self.steps, fills)
        return dict(zip(self.fills, found, strict=True))

    def scores(self, maps: Tensor, curves: dict[str, removal.RemovalCurves] | None = None) -> MapScores:
        """The scores of maps (B, H, W), whoever made them; curves: theirs, where they are known."""
        gains = {fill: removal.gain(*each) for fill, each in (curves or self.curves(maps)).items()}
        of_maps = [SCORES[name].function(maps, self.images) for name in PRIMARY if name not in GAINS]
        return MapScores(torch.stack([*of_maps, gains["zero"]]), torch.stack(list(gains.values())))

    def summary(self) -> dict[str, Tensor]:
        """The scores of the network's own maps, float64 (B,) by name, NaN for a dead map: PRIMARY, GAINS, amplitude."""
        maps = self.gradient_of(self.network)
        found = self.scores(maps)
        by_name = dict(zip((*PRIMARY, *GAINS), [*found.scores, *found.gains], strict=False))
        return by_name | {"amplitude": amplitude(maps)}


def summary_scores(network: nn.Module, dataset: str, scoring: Scoring, split: str = "test") -> dict[str, float]:
    """What the gradient of the predicted class scores.

    Args:
        network: images (B, 1, 28, 28) to logits, in evaluation mode.
        dataset: whose images are shown.
        scoring: how many images, and in how many steps pixels leave.
        split: test | validation.

    Returns:
        Means over the images that have a score, NaN where none has: the primary scores, `relevance_gain_<fill>` of each
        fill, and `amplitude`.
    """
    explained = Explained.predicting(network, scored_images(dataset, scoring, split), scoring.clarity.steps)
    return {name: values.nanmean().item() for name, values in explained.summary().items()}


def training_curves(
    networks: Iterable[tuple[int, nn.Module]], dataset: str, scoring: Scoring, switch: int | None
) -> "pd.DataFrame":
    """Accuracy and the scores of maps while a network trains, on validation images.

    Args:
        networks: each recorded step with the network at that step, in evaluation mode.
        dataset: whose images are shown.
        scoring: where the images lie; how many images and steps are constants of this module.
        switch: the step from which the network quantizes, None in full precision.

    Returns:
        One row per step: step; switch; accuracy in percent; and the scores of `summary_scores`: means over the images
        that have a score, each with its standard error over them, `<score>_se`. NaN where none has.
    """
    import pandas as pd

    scored, rows = scored_images(dataset, replace(scoring, images=CURVE_CLASSIFIED), "validation"), []
    for step, network in networks:
        explained = Explained.predicting(network, scored, CURVE_STEPS)
        right = (explained.targets == scored.labels).double().mean().item()
        row = {"step": step, "switch": switch, "accuracy": 100 * right}
        for name, values in explained.first(CURVE_EXPLAINED).summary().items():
            row[name], row[f"{name}_se"] = _mean_and_error(values)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of the images that have a value, and its standard error; NaN where none, or a single one, has."""
    there = values[~values.isnan()]
    error = there.std().item() / len(there) ** 0.5 if len(there) > 1 else torch.nan
    return (there.mean().item() if len(there) else torch.nan), error


# ---------------------------------------------------------------------------------------------- which fills qualify


def fill_gains(dataset: str, scoring: Scoring, network: nn.Module) -> dict[str, list[float]]:
    """The relevance gain of the network's map and of the image itself, on validation images.

    Returns means over the images, one for each of FILLS, under `gradient` and `intensity`.
    """
    scored = scored_images(dataset, scoring, "validation")
    explained = Explained.predicting(network, scored, scoring.clarity.steps)
    maps = {GRADIENT: explained.gradient_of(network), ITSELF: explained.images.squeeze(1)}
    return {name: explained.scores(each).gains.nanmean(1).tolist() for name, each in maps.items()}


def qualify(table: "pd.DataFrame") -> "pd.DataFrame":
    """Which fills qualify on a dataset: decided on validation images, before a test image is scored.

    A map that explains nothing must lose. The image itself knows no network, and with zeros in the place of removed
    pixels it beats every network's map: what is removed last is then what is bright, and background has nothing to
    lose. With such a fill the relevance gain measures where a map lies. So a fill qualifies only if the image itself
    scores below the reference network's own map, in every seed: one network that a bare image explains better is doubt
    enough.

    Args:
        table: one row per seed and fill, with the columns seed, fill, gradient and intensity, as `fill_gains` has them.

    Returns:
        One row per fill, in order: fill; gradient and intensity, means over the seeds; least_lead, the smallest lead of
        the gradient over the image in any seed; seeds; and qualifies, whether that lead is above 0.
    """
    leads = table[GRADIENT] - table[ITSELF]
    by_fill = table.assign(least_lead=leads.where(leads.notna(), float("-inf"))).groupby("fill", sort=False)
    found = by_fill.agg({GRADIENT: "mean", ITSELF: "mean", "least_lead": "min", "seed": "count"})
    found = found.rename(columns={"seed": "seeds"})
    return found.assign(qualifies=found.least_lead > 0).reset_index()


# -------------------------------------------------------------------------------------------------- one whole network


def score_network(
    dataset: str, scoring: Scoring, seed: int, network: LeNet, likened: Mapping[str, LeNet | None]
) -> "xr.Dataset":
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
    own = Explained.predicting(network, scored, scoring.clarity.steps)
    subset, calibration = own.first(scoring.images_expensive), own.images[: scoring.calibration_images]
    twin = controls.untrained(network, calibration, seed)
    theirs = Explained.predicting(twin, scored, scoring.clarity.steps)
    maps, their_maps = own.gradient_of(network), theirs.gradient_of(twin)
    curves, generator = own.curves(maps), Generator().manual_seed(seed)
    # The seed's generator is drawn from in this order: a new draw comes last, or the numbers behind it change.
    sensitivity = _sensitivity(subset, scoring, generator)
    methods = _method_maps(subset, generator)
    lines = _lines(own, maps, curves["zero"], scored.labels, generator)
    blind = controls.control_maps(own.images, generator)

    chosen = _candidates(scored.labels)
    arrays = {
        "label": ("image", scored.labels),
        "predicted": ("image", own.targets),
        "sensitivity_max": ("few", sensitivity),
        "amplitude": (("map", "image"), torch.stack([amplitude(maps), amplitude(their_maps)])),
        "kept_image": (("kept", "y", "x"), scored.raw[chosen]),
        "kept_map": (("kept", "y", "x"), maps[chosen]),
    }
    arrays |= {name: ("image", each) for name, each in map_scores(own.images, maps).items() if name not in PRIMARY}
    arrays |= lines | _likenesses(own, maps, likened)
    both = [own.scores(maps, curves), theirs.scores(their_maps)]
    arrays |= _table("scores", "relevance_gain", ("map", "image"), both)
    labels = {
        "image": scored.places, "few": scored.places[: len(subset.images)], "kept": scored.places[chosen],
        "score": list(PRIMARY), "fill": list(FILLS), "likeness": list(PRESERVATION), "map": [GRADIENT, UNTRAINED],
        "order": ["most", "least", "random"], "level": _levels(own.steps), "accuracy_order": ["most", "random"],
        "accuracy_level": list(ACCURACY_LEVELS), "weights": list(controls.SWITCH), "activations": list(controls.SWITCH),
    }  # fmt: skip
    slopes = controls.difference_maps(network, subset.images, subset.targets)
    for dim, name, explained, each in (("explainer", "method", subset, methods), ("control", "control", own, blind),
                                       ("difference", "difference", subset, slopes)):  # fmt: skip
        dims = dim, "image" if explained is own else "few"
        arrays |= _table(f"{name}_scores", f"{name}_gain", dims, [explained.scores(one) for one in each.values()])
        labels[dim] = list(each)
    if network.precision.quantized:
        arrays |= _switched(subset)
    arrays["cascade"], labels["redrawn"] = _cascade(subset, twin, calibration), list(controls.CASCADE)
    return _dataset(arrays, labels)


def _dataset(found: Mapping[str, tuple], labels: Mapping[str, Any]) -> "xr.Dataset":
    import xarray as xr

    def plain(values):
        return values.numpy() if isinstance(values, Tensor) else values

    arrays = {name: (dims, plain(values)) for name, (dims, values) in found.items()}
    return xr.Dataset(arrays, {name: plain(values) for name, values in labels.items()})


def _table(scores: str, gains: str, dims: tuple[str, str], rows: list[MapScores]) -> Arrays:
    """Both arrays of the scores of several maps, a row for each; dims: of the maps and of the images."""
    by_score, by_fill = (torch.stack(each) for each in zip(*rows, strict=True))
    return {scores: ((dims[0], "score", dims[1]), by_score), gains: ((dims[0], "fill", dims[1]), by_fill)}


def _likenesses(own: Explained, maps: Tensor, likened: Mapping[str, LeNet | None]) -> Arrays:
    """Likeness to the maps of other networks, for the same classes."""
    others = {name: own.gradient_of(network) for name, network in likened.items() if network is not None}
    return {name: (("likeness", "image"), _likeness(maps, other)) for name, other in others.items()}


def _likeness(maps: Tensor, others: Tensor) -> Tensor:
    return torch.stack(list(preservation_scores(maps, others).values()))


def _cascade(subset: Explained, twin: LeNet, calibration: Tensor) -> tuple:
    """How much the map is like itself while layers are drawn anew, the last one first."""
    maps = subset.gradient_of(subset.network)
    redrawn = controls.redrawn_maps(subset.network, twin, subset.images, subset.targets, calibration)
    return ("redrawn", "likeness", "few"), torch.stack([_likeness(maps, each) for each in redrawn.values()])


def _switched(subset: Explained) -> Arrays:
    """The scores of the maps with quantizers on and off, and what the network predicts then."""
    found = controls.switched_maps(subset.network, subset.images, subset.targets)
    scores = [subset.scores(maps) for maps, _ in found.values()]
    arrays = _table("switched_scores", "switched_gain", ("on", "few"), scores)
    arrays["switched_predicted"] = ("on", "few"), torch.stack([predicted for _, predicted in found.values()])
    square = len(controls.SWITCH), len(controls.SWITCH)
    return {
        name: (("weights", "activations", *dims[1:]), values.unflatten(0, square))
        for name, (dims, values) in arrays.items()
    }


def _sensitivity(subset: Explained, scoring: Scoring, generator: Generator) -> Tensor:
    noise = {"radius": scoring.clarity.sensitivity_radius, "draws": scoring.clarity.sensitivity_draws}
    try:
        return controls.sensitivity_max(subset.network, subset.images, subset.targets, generator=generator, **noise)
    except DeadNetworkError:
        return torch.full((len(subset.images),), torch.nan, dtype=torch.float64)


def _method_maps(subset: Explained, generator: Generator) -> dict[str, Tensor]:
    """Maps of the methods that should agree with the input gradient; all zero for a dead network.

    Each draws from a copy of the generator, so that a method more changes no other number.
    """
    methods = {name: method for name, method in METHODS.items() if name != GRADIENT}
    try:
        check_alive(subset.network, subset.images)
    except DeadNetworkError:
        return dict.fromkeys(methods, torch.zeros_like(subset.images.squeeze(1)))
    maps = {}
    for name, method in methods.items():
        extras = {"generator": generator.clone_state(), "baseline": subset.fills["mean"]}
        wanted = {key: value for key, value in extras.items() if key in inspect.signature(method).parameters}
        maps[name] = method(subset.network, subset.images, subset.targets, **wanted)
    torch.randint(2**31, (), generator=generator)  # SmoothGrad's one draw, which the later ones stand behind
    return maps


# ------------------------------------------------------------------------------------- what is left as pixels leave


def _lines(own: Explained, maps: Tensor, inner: removal.RemovalCurves, labels: Tensor, generator: Generator) -> Arrays:
    """Means over the images as pixels turn black, beside the line of chance; a sample of gradients, drawn between."""
    network, images, targets, blank = own.network, own.images, own.targets, own.fills["zero"]
    probability = removal.target_probability(network, images, targets)
    ends = probability, removal.target_probability(network, blank, targets)
    curves = removal.whole_curves(inner, *ends)
    random = _random_curve(own, ends, generator)
    values = maps.flatten()
    sample = values[torch.randperm(len(values), generator=generator)[:GRADIENTS]]
    return {
        "probability": ("image", probability),
        "curves": (("order", "level"), torch.stack([curves.most.nanmean(0), curves.least.nanmean(0), random])),
        "gradient": ("draw", sample),
        "accuracies": (("accuracy_order", "accuracy_level"), _accuracies(own, maps, labels, generator)),
    }


def _random_curve(own: Explained, ends: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
    """Mean probability of the predicted class while pixels leave in random order; its ends are those of any order."""
    orders = removal.random_ranks(own.images, generator)[None]
    counts = [round(level * orders.shape[2]) for level in _levels(own.steps)[1:-1]]
    left = removal.remains(own.network, own.images, own.targets, orders, counts, own.fills["zero"])
    return torch.cat([ends[0][:, None], left.probability[0], ends[1][:, None]], 1).mean(0)


def _accuracies(own: Explained, maps: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """Accuracy while pixels leave, most salient first (over the images whose map is not dead) and at random: (2, K)."""
    orders = torch.stack([removal.removal_ranks(maps, most_first=True), removal.random_ranks(own.images, generator)])
    counts = [round(level * orders.shape[2]) for level in ACCURACY_LEVELS[1:]]
    correct = removal.remains(own.network, own.images, labels, orders, counts, own.fills["zero"]).correct
    whole = (own.targets == labels).expand(2, -1)[..., None]
    most, random = torch.cat([whole, correct], 2).double()
    return torch.stack([most[~dead(maps)].mean(0), random.mean(0)])


def _levels(steps: int) -> list[float]:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()


def _candidates(labels: Tensor) -> Tensor:
    """Positions of the first images of each class: the first of every class, then the second of every class, ..."""
    places = [(labels == label).nonzero().flatten()[:CANDIDATES] for label in labels.unique()]
    return torch.tensor([int(p[rank]) for rank in range(CANDIDATES) for p in places if rank < len(p)])
