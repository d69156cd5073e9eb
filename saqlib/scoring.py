"""One network, scored: every map on the images of a dataset, and what the maps are read against.

`score_network` makes a labelled dataset (xarray). Its table is `scores (map, score, image)`: a row for each map, the
network's own by every method of saliency, those with another surrogate for its quantizers, those of other networks, and
those that know nothing. A column is a score, named as in results/runs.csv. NaN stands for a dead map, and where nothing
was scored: what costs much only on the first images (`few`), what describes only of the straight-through map.
`floors (explainer, score, few)` is the same of the untrained network's maps. Every map is judged by the network itself.

Other dimensions: image (place in the test split, in random order), likeness, redrawn, order and level of removal, draw,
and kept (images whose maps are stored, one of each class first).
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Generator, Tensor, nn

from saqlib import controls, data, removal
from saqlib.lenet import LeNet
from saqlib.saliency import METHODS, DeadNetworkError, check_alive, finite_differences
from saqlib.scores import (
    CANDIDATE_FILLS,
    FILLS,
    GRADIENT,
    IMAGE,
    PASS_THROUGH,
    PRESERVATION,
    PRIMARY,
    RELEVANCE_GAIN,
    SCORES,
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
DIFFERENCE_STEP = 32 / 255  # of finite differences: 32 codes of 8-bit pixels
FP32_TWIN, OTHER_SEED = "fp32_twin", "other_seed"  # the maps of other networks
# Of the curves during training: enough to draw a line, since every step and every cell sees the same images.
CURVE_CLASSIFIED, CURVE_EXPLAINED, CURVE_STEPS = 1000, 100, 7

Scores = dict[str, Tensor]  # by name: float64, one value for each image
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

    images: how many test images. skipped: test images, in random order, before the first of them, which were scored
    when the study explored. images_expensive: of those scored, for what costs many gradients. calibration_images: of
    the untrained twin. root: the folder of the datasets, None: data/ of the checkout.
    """

    clarity: Clarity
    images: int
    skipped: int
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
    """So many images of a split, in random order, as are scored, with every fill; of test images behind those skipped.

    The mean is that of the training images, whichever split is scored.
    """
    images, labels = data.load(dataset, split, scoring.root)
    order = torch.randperm(len(images), generator=Generator().manual_seed(ORDER_SEED))
    first = scoring.skipped if split == "test" else 0
    places = order[first : first + scoring.images]
    training, _ = data.load(dataset, "train", scoring.root)
    mean = torch.from_numpy(training.numpy().mean(0) / 255).float()[None, None]
    shown = data.as_input(images[places])
    fills = {fill: removal.fill_images(mean if fill == "mean" else fill, shown) for fill in FILLS}
    return Scored(places, images[places], labels[places], fills)


def draws(seed: int, purpose: str) -> Generator:
    """The generator of one purpose of a seed: no other draw changes what it gives."""
    return Generator().manual_seed(crc32(f"{purpose} {seed}".encode()))


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

    def gradient_of(self, network: nn.Module, saturated: str = "stop") -> Tensor:
        """Input gradients (B, H, W) of this or another network for these classes; a dead network's are all zero."""
        return controls.gradient_or_zeros(network, self.images, self.targets, saturated)

    def maps(self, names: Iterable[str], seed: int) -> dict[str, Tensor]:
        """The network's maps (B, H, W) by these methods, all zero for a dead network.

        Each method draws from a generator of its own, all from the same one.
        """
        try:
            check_alive(self.network, self.images)
        except DeadNetworkError:
            return dict.fromkeys(names, torch.zeros_like(self.images.squeeze(1)))
        found = {}
        for name in names:
            extras = {"generator": draws(seed, "methods"), "baseline": self.fills["mean"]}
            wanted = {key: extras[key] for key in inspect.signature(METHODS[name]).parameters if key in extras}
            found[name] = METHODS[name](self.network, self.images, self.targets, **wanted)
        return found

    def gains(self, maps: Tensor, fills: Sequence[str]) -> Scores:
        """The relevance gain of maps (B, H, W) under each of these fills, by its column."""
        images = [self.fills[fill] for fill in fills]
        curves = removal.inner_curves(self.network, self.images, self.targets, maps, self.steps, images)
        return {f"{RELEVANCE_GAIN}_{fill}": removal.gain(*each) for fill, each in zip(fills, curves, strict=True)}

    def scores(self, maps: Tensor) -> Scores:
        """What any maps (B, H, W) score, NaN for a dead one: PRIMARY, the relevance gains and the amplitude."""
        of_maps = {name: SCORES[name].function(maps, self.images) for name in PRIMARY}
        return of_maps | self.gains(maps, CANDIDATE_FILLS) | {"amplitude": amplitude(maps)}

    def table(self, maps: Mapping[str, Tensor]) -> dict[str, Scores]:
        """The scores of each of several maps; one that equals another, as without any clip, is scored once."""
        found: dict[str, Scores] = {}
        for name, each in maps.items():
            same = next((other for other in found if torch.equal(maps[other], each)), None)
            found[name] = dict(found[same]) if same else self.scores(each)
        return found


def summary_scores(
    network: nn.Module, dataset: str, scoring: Scoring, methods: Sequence[str] = (GRADIENT, PASS_THROUGH)
) -> dict[str, float]:
    """What maps of the predicted class score on test images, in few numbers.

    Args:
        network: images (B, 1, 28, 28) to logits, in evaluation mode.
        dataset: whose images are shown.
        scoring: how many images, and in how many steps pixels leave.
        methods: of METHODS.

    Returns:
        Means over the images that have a score, NaN where none has: the primary scores, `relevance_gain_<fill>` of each
        fill that may qualify, and `amplitude`; of all but the straight-through map with the method in front,
        `pass_through_gini`.
    """
    explained = Explained.predicting(network, scored_images(dataset, scoring), scoring.clarity.steps)
    table = explained.table(explained.maps(methods, seed=0))
    return {
        name if method == GRADIENT else f"{method}_{name}": values.nanmean().item()
        for method, scores in table.items()
        for name, values in scores.items()
    }


def training_curves(
    networks: Iterable[tuple[int, nn.Module]], dataset: str, scoring: Scoring, switch: int | None
) -> "pd.DataFrame":
    """Accuracy and the scores of straight-through maps while a network trains, on validation images.

    Args:
        networks: each recorded step with the network at that step, in evaluation mode.
        dataset: whose images are shown.
        scoring: where the images lie; how many images and steps are constants of this module.
        switch: the step from which the network quantizes, None in full precision.

    Returns:
        One row per step: step; switch; accuracy in percent; and what `Explained.scores` has: means over the images that
        have a score, each with its standard error over them, `<score>_se`. NaN where none has.
    """
    import pandas as pd

    scored, rows = scored_images(dataset, replace(scoring, images=CURVE_CLASSIFIED), "validation"), []
    for step, network in networks:
        explained = Explained.predicting(network, scored, CURVE_STEPS)
        right = (explained.targets == scored.labels).double().mean().item()
        row = {"step": step, "switch": switch, "accuracy": 100 * right}
        shown = explained.first(CURVE_EXPLAINED)
        for name, values in shown.scores(shown.gradient_of(network)).items():
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
    """The relevance gain of the network's straight-through map and of the image itself, on validation images.

    Returns means over the images, one for each of FILLS, under `straight_through` and `image`.
    """
    scored = scored_images(dataset, scoring, "validation")
    explained = Explained.predicting(network, scored, scoring.clarity.steps)
    maps = {GRADIENT: explained.gradient_of(network), IMAGE: explained.images.squeeze(1)}
    gains = {name: explained.gains(each, FILLS).values() for name, each in maps.items()}
    return {name: [values.nanmean().item() for values in each] for name, each in gains.items()}


def qualify(table: "pd.DataFrame") -> "pd.DataFrame":
    """Which fills qualify on a dataset: decided on validation images, before a test image is scored.

    A map that explains nothing must lose. The image itself knows no network, and with zeros in the place of removed
    pixels it beats every network's map: what is removed last is then what is bright, and background has nothing to
    lose. With such a fill the relevance gain measures where a map lies. So a fill qualifies only if the network's own
    map surely leads: if the one-sided 95 % lower bound of its mean lead over the image is above 0. `zero` is shown and
    never qualifies: where the background is 0, it removes nothing.

    Args:
        table: one row per seed and fill, with the columns seed, fill, straight_through and image, as `fill_gains` has
            them.

    Returns:
        One row per fill, in order: fill; straight_through and image, means over the seeds; lead, its mean; low, the
        lower bound by Student's t, of a single seed the lead itself, NaN if a network has no map; seeds; and qualifies.
    """
    import numpy as np
    import pandas as pd
    from scipy import stats

    rows = []
    for fill, own in table.groupby("fill", sort=False):
        leads = (own[GRADIENT] - own[IMAGE]).to_numpy()
        count, lead = len(leads), leads.mean()
        low = lead - stats.t.ppf(0.95, count - 1) * leads.std(ddof=1) / np.sqrt(count) if count > 1 else lead
        qualifies = fill in CANDIDATE_FILLS and low > 0
        rows.append([fill, own[GRADIENT].mean(), own[IMAGE].mean(), lead, low, count, qualifies])
    return pd.DataFrame(rows, columns=["fill", GRADIENT, IMAGE, "lead", "low", "seeds", "qualifies"])


# -------------------------------------------------------------------------------------------------- one whole network


def score_network(
    dataset: str, scoring: Scoring, seed: int, network: LeNet, others: Mapping[str, LeNet | None]
) -> "xr.Dataset":
    """All that is scored on one network.

    Args:
        dataset: whose test images it is shown.
        scoring: how.
        seed: the network's, from which every draw follows.
        network: in evaluation mode.
        others: networks of this dataset and training: `fp32_twin`, the reference precision of this seed, and
            `other_seed`, this precision of another one. Of the former the straight-through map is scored, of the latter
            the pass-through map, and the network's own is likened to the straight-through maps of both
            (`preservation`, `seed_to_seed`). None leaves one out; a network without an `fp32_twin` is its own.
    """
    scored, few, steps = scored_images(dataset, scoring), scoring.images_expensive, scoring.clarity.steps
    own = Explained.predicting(network, scored, steps)
    calibration = own.images[: scoring.calibration_images]
    twin = controls.untrained(network, calibration, seed)
    subset, below = own.first(few), Explained.predicting(twin, scored, steps).first(few)
    maps = own.maps(METHODS, seed) | controls.surrogate_maps(network, own.images, own.targets)
    gradient, passed = maps[GRADIENT], maps[PASS_THROUGH]
    of_others, likened = _maps_of_others(own, gradient, others)
    maps |= of_others
    blind = controls.control_maps(own.images, draws(seed, "controls"))
    slopes = finite_differences(network, subset.images, subset.targets, DIFFERENCE_STEP)

    # The image and its edges are read against a network's maps, so on the same images; what knows nothing is not.
    maps |= {name: blind.pop(name) for name in (IMAGE, controls.EDGES)}
    table = own.table(maps) | subset.table({"finite_differences": slopes} | {name: blind[name][:few] for name in blind})
    table[GRADIENT] |= map_scores(own.images, gradient)
    for name in (GRADIENT, IMAGE):
        table[name] |= subset.gains(maps[name][:few], ["zero"])
    floors = below.table(below.maps(METHODS, seed))
    for explained, scores in ((own, table), (below, floors)):
        for name, saturated in ((GRADIENT, "stop"), (PASS_THROUGH, "pass")):
            scores[name]["sensitivity_max"] = _sensitivity(explained, scoring.clarity, seed, saturated)
    names, chosen = list(table[GRADIENT]), _candidates(scored.labels)
    drawn = torch.randperm(gradient.numel(), generator=draws(seed, "gradients"))[:GRADIENTS]
    arrays = {
        "label": ("image", scored.labels),
        "predicted": ("image", own.targets),
        "probability": ("image", removal.target_probability(network, own.images, own.targets)),
        "scores": (("map", "score", "image"), _filled(table, names, len(own.images))),
        "floors": (("explainer", "score", "few"), _filled(floors, names, few)),
        "cascade": (("redrawn", "likeness", "few"), _cascade(subset, twin, calibration)),
        "gradient": ("draw", gradient.flatten()[drawn]),
        "kept_image": (("kept", "y", "x"), scored.raw[chosen]),
        "kept_map": (("kept", "y", "x"), gradient[chosen]),
        "kept_map_pass_through": (("kept", "y", "x"), passed[chosen]),
    }
    arrays |= {name: (("likeness", "image"), _likeness(gradient, each)) for name, each in likened.items()}
    arrays |= _lines(subset, gradient[:few], scored.labels[:few], seed)
    labels = {
        "image": scored.places, "few": scored.places[:few], "kept": scored.places[chosen],
        "map": list(table), "explainer": list(floors), "score": names, "likeness": list(PRESERVATION),
        "order": ["most", "least", "random"], "level": _levels(steps), "accuracy_order": ["most", "random"],
        "accuracy_level": list(ACCURACY_LEVELS), "redrawn": list(controls.CASCADE),
    }  # fmt: skip
    return _dataset(arrays, labels)


def _maps_of_others(
    own: Explained, gradient: Tensor, others: Mapping[str, LeNet | None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Maps of other networks for these classes: those that are scored, and those that the own one is likened to."""
    scored, likened = {}, {"preservation": gradient, "seed_to_seed": torch.full_like(gradient, torch.nan)}
    if (reference := others.get(FP32_TWIN)) is not None:
        scored[FP32_TWIN] = likened["preservation"] = own.gradient_of(reference)
    if (partner := others.get(OTHER_SEED)) is not None:
        scored[OTHER_SEED], likened["seed_to_seed"] = own.gradient_of(partner, "pass"), own.gradient_of(partner)
    return scored, likened


def _dataset(found: Mapping[str, tuple], labels: Mapping[str, Any]) -> "xr.Dataset":
    import xarray as xr

    def plain(values):
        return values.numpy() if isinstance(values, Tensor) else values

    arrays = {name: (dims, plain(values)) for name, (dims, values) in found.items()}
    return xr.Dataset(arrays, {name: plain(values) for name, values in labels.items()})


def _filled(table: Mapping[str, Scores], names: Sequence[str], count: int) -> Tensor:
    """A table as (maps, names, count), NaN where there is no score."""
    filled = torch.full((len(table), len(names), count), torch.nan, dtype=torch.float64)
    for row, scores in zip(filled, table.values(), strict=True):
        for name, values in scores.items():
            row[names.index(name), : len(values)] = values
    return filled


def _likeness(maps: Tensor, others: Tensor) -> Tensor:
    return torch.stack(list(preservation_scores(maps, others).values()))


def _cascade(subset: Explained, twin: LeNet, calibration: Tensor) -> Tensor:
    """How much the map is like itself while layers are drawn anew, the last one first."""
    maps = subset.gradient_of(subset.network)
    redrawn = controls.redrawn_maps(subset.network, twin, subset.images, subset.targets, calibration)
    return torch.stack([_likeness(maps, each) for each in redrawn.values()])


def _sensitivity(explained: Explained, clarity: Clarity, seed: int, saturated: str) -> Tensor:
    given, generator = (explained.network, explained.images, explained.targets), draws(seed, "sensitivity")
    options = {"radius": clarity.sensitivity_radius, "draws": clarity.sensitivity_draws, "saturated": saturated}
    try:
        return controls.sensitivity_max(*given, generator=generator, **options)
    except DeadNetworkError:
        return torch.full((len(explained.images),), torch.nan, dtype=torch.float64)


# ------------------------------------------------------------------------------------- what is left as pixels leave


def _lines(subset: Explained, maps: Tensor, labels: Tensor, seed: int) -> Arrays:
    """Means over the images as pixels leave, by the map and in random order, the line of chance.

    The probability of the predicted class with the mean in their place, and the accuracy with zeros.
    """
    network, images, targets, mean = subset.network, subset.images, subset.targets, subset.fills["mean"]
    ends = [removal.target_probability(network, each, targets) for each in (images, mean)]
    (inner,) = removal.inner_curves(network, images, targets, maps, subset.steps, [mean])
    orders = removal.random_ranks(images, draws(seed, "curves"))[None]
    counts = [round(level * orders.shape[2]) for level in _levels(subset.steps)[1:-1]]
    (left,) = removal.remains(network, images, targets, orders, counts, mean).probability
    least, most = removal.whole_curves(inner, *ends)
    random, _ = removal.whole_curves(removal.RemovalCurves(left, left), *ends)
    return {
        "curves": (("order", "level"), torch.stack([each.nanmean(0) for each in (most, least, random)])),
        "accuracies": (("accuracy_order", "accuracy_level"), _accuracies(subset, maps, labels, seed)),
    }


def _accuracies(subset: Explained, maps: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Accuracy while pixels leave, most salient first (over the images whose map is not dead) and at random: (2, K)."""
    random = removal.random_ranks(subset.images, draws(seed, "accuracies"))
    orders = torch.stack([removal.removal_ranks(maps, most_first=True), random])
    counts = [round(level * orders.shape[2]) for level in ACCURACY_LEVELS[1:]]
    correct = removal.remains(subset.network, subset.images, labels, orders, counts, subset.fills["zero"]).correct
    whole = (subset.targets == labels).expand(2, -1)[..., None]
    most, random = torch.cat([whole, correct], 2).double()
    return torch.stack([most[~dead(maps)].mean(0), random.mean(0)])


def _levels(steps: int) -> list[float]:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()


def _candidates(labels: Tensor) -> Tensor:
    """Positions of the first images of each class: the first of every class, then the second of every class, ..."""
    places = [(labels == label).nonzero().flatten()[:CANDIDATES] for label in labels.unique()]
    return torch.tensor([int(p[rank]) for rank in range(CANDIDATES) for p in places if rank < len(p)])
