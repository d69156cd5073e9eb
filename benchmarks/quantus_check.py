"""Our scores of maps beside those of other libraries, on one committed network: Quantus, and captum's infidelity.

Where both mean the same, values are compared image by image, and the largest difference is given. Where they do not,
the rank correlation: over the images of one map, or over maps, of what each library gives them on average.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Generator, Tensor

from saqlib import data
from saqlib.controls import control_maps, sensitivity_max
from saqlib.lenet import LeNet
from saqlib.removal import fill_images, relevance_gain, remains, removal_ranks
from saqlib.saliency import input_gradient, integrated_gradients, occlusion, smoothgrad
from saqlib.scores import entropy, gini
from study import files, models, paths
from study.settings import Cell, Study

FILE = Path(__file__).with_name("quantus.csv")
CELL = Cell("fashion_mnist", "w2a2", "standard")
IMAGES = 100  # of the committed sample's test images
FILL = "mean"
GRADIENT, PASSED = "straight-through gradient", "pass-through gradient"
DRAWS = 100  # of the perturbations of an image; Quantus's own number
NOISE = (0.02, 0.15)  # deviations of noise; the second is SmoothGrad's
REMOVED = 0.25  # share of the pixels


def rows(settings: Study) -> list[dict[str, str]]:
    """Every comparison as a row of FILE, which it writes; ImportError if Quantus is not there (`make bench`).

    The columns: ours; theirs; definition, `same` or `other`; map; statistic, of which value is the value; count, of
    images or maps.
    """
    import quantus

    np.random.seed(0)  # Quantus draws from it
    checked = Checked(quantus, settings)
    table = pd.DataFrame([*checked.same(), *checked.other(), *checked.infidelities()])
    table["value"] = [float(f"{value:.3g}") for value in table.value]
    files.write(FILE, files.csv(table))
    return table.astype(str).to_dict("records")


class Checked:
    """The network, its images and maps, and what both libraries make of them."""

    def __init__(self, quantus: ModuleType, settings: Study):
        self.quantus, self.clarity = quantus, settings.clarity
        self.network: LeNet = models.load(CELL)
        pixels, _ = data.load(CELL.dataset, "test", paths.SAMPLE)
        self.images = data.as_input(pixels[:IMAGES])
        with torch.no_grad():
            self.targets = self.network(self.images).argmax(1)
        self.fill = fill_images(FILL, self.images)
        self.step = self.images[0].numel() // self.clarity.steps  # pixels that leave at once
        pixels = np.broadcast_to(self.fill.flatten(1).numpy(), self.images.flatten(1).shape)
        self.remove = partial(_replaced, fill=pixels)
        of_network = (self.network, self.images, self.targets)
        controls = control_maps(self.images, Generator().manual_seed(0))
        self.maps = {
            GRADIENT: input_gradient(*of_network),
            PASSED: input_gradient(*of_network, saturated="pass"),
            "SmoothGrad": smoothgrad(*of_network),
            "integrated gradients": integrated_gradients(*of_network, self.fill),
            "occlusion": occlusion(*of_network),
            "white noise": controls["white_noise"],
            "edges": controls["sobel"],
            "image": controls["image"],
        }
        steps = self.clarity.steps
        self.gains = {name: relevance_gain(*of_network, maps, steps, FILL) for name, maps in self.maps.items()}

    def score(self, metric: Any, maps: Tensor, **options: Any) -> NDArray:
        """What a metric of Quantus gives each image, which it takes, like the maps, as arrays that it may change."""
        arrays = (self.images.numpy().copy(), self.targets.numpy(), maps[:, None].numpy().copy())
        return np.array(metric(self.network, *arrays, batch_size=IMAGES, device="cpu", **options))

    # ------------------------------------------------------------------------------------------ the same definition

    def same(self) -> list[dict]:
        """Gini, entropy, removal in both directions, sensitivity to the same noise."""
        table = []
        quiet = {"disable_warnings": True, "normalise": False, "abs": True}
        for name in (GRADIENT, PASSED):
            maps = self.maps[name]
            ours, theirs = gini(maps), self.score(self.quantus.Sparseness(**quiet), maps)
            table.append(_difference("Gini index", "Sparseness", name, ours, theirs))
            theirs = self.score(self.quantus.Complexity(**quiet), maps) / math.log(maps[0].numel())
            table.append(_difference("normalised entropy", "Complexity / ln 784", name, entropy(maps), theirs))
            most, least = self.flipped(maps.abs()), self.flipped(-maps.abs())
            orders = torch.stack([removal_ranks(maps, most_first=True), removal_ranks(maps)])
            counts = [self.step * step for step in range(1, self.clarity.steps + 1)]
            ours = remains(self.network, self.images, self.targets, orders, counts, self.fill).probability
            for what, curve, theirs in zip(("most", "least"), ours, (most, least), strict=True):
                text = f"curve, {what} salient first"
                table.append(_difference(text, "PixelFlipping, our fill and steps", name, curve, theirs))
            gain = (least - most)[:, :-1].sum(1) / self.clarity.steps
            table.append(
                _difference("relevance gain", "both PixelFlippings, our fill and steps", name, self.gains[name], gain)
            )
        ours, theirs = self.shaken()
        return [*table, _difference("max-sensitivity", "MaxSensitivity, our noise", GRADIENT, ours, theirs)]

    def flipped(self, maps: Tensor) -> NDArray:
        """The probability of the class after each step of removal, the largest values of the maps first: (B, steps)."""
        options = {"perturb_func": self.remove, "normalise": False, "disable_warnings": True}
        return self.score(self.quantus.PixelFlipping(self.step, **options), maps, softmax=True)

    def shaken(self) -> tuple[Tensor, NDArray]:
        """Max-sensitivity of the gradient by both, with the same noise."""
        radius, draws = self.clarity.sensitivity_radius, self.clarity.sensitivity_draws
        noise = torch.rand(IMAGES * draws, *self.images.shape[1:], generator=Generator().manual_seed(0))
        steps = iter((radius * (2 * noise - 1)).view(IMAGES, draws, -1).unbind(1))
        metric = self.sensitivity(perturb_func=lambda arr, indices, **_: arr + next(steps).numpy())
        options = {"radius": radius, "draws": draws, "generator": Generator().manual_seed(0)}
        ours = sensitivity_max(self.network, self.images, self.targets, **options)
        return ours, self.score(metric, self.maps[GRADIENT], explain_func=self.explain)

    def sensitivity(self, **options: Any) -> Any:
        """Quantus's MaxSensitivity of as many draws as ours, of uniform noise within our radius."""
        radius, draws = self.clarity.sensitivity_radius, self.clarity.sensitivity_draws
        return self.quantus.MaxSensitivity(nr_samples=draws, lower_bound=radius, disable_warnings=True, **options)

    def explain(self, model: Any, inputs: NDArray, targets: NDArray, **_: Any) -> NDArray:
        """The gradient, as Quantus asks for it."""
        return input_gradient(self.network, torch.as_tensor(inputs).float(), torch.as_tensor(targets))[:, None].numpy()

    # ---------------------------------------------------------------------------------------------- other definitions

    def other(self) -> list[dict]:
        """Other noise; and what Quantus calls faithfulness, beside our relevance gain."""
        ours, _ = self.shaken()
        theirs = self.score(self.sensitivity(), self.maps[GRADIENT], explain_func=self.explain)
        table = [_correlation("max-sensitivity", "MaxSensitivity, its own noise", GRADIENT, ours, theirs)]
        given = {"perturb_func": self.remove, "normalise": False, "abs": True, "disable_warnings": True}
        subsets = {"nr_runs": DRAWS, "subset_size": self.step, "return_aggregate": False}
        faithful = {
            "FaithfulnessCorrelation": self.quantus.FaithfulnessCorrelation(**subsets, **given),
            "FaithfulnessEstimate": self.quantus.FaithfulnessEstimate(features_in_step=self.step, **given),
        }
        for theirs, metric in faithful.items():
            found = {name: self.score(metric, maps, softmax=True) for name, maps in self.maps.items()}
            for name in (GRADIENT, PASSED):
                table.append(_correlation("relevance gain", theirs, name, self.gains[name], found[name]))
            means = [[np.nanmean(each[name]) for name in self.maps] for each in (self.gains, found)]
            table.append(_correlation("relevance gain", theirs, "all, over maps", *means))
        return table

    # ---------------------------------------------------------------------------------------------------- infidelity

    def infidelities(self) -> list[dict]:
        """Captum's infidelity: the share of the logit's change that the map does not foresee, as a mean over images.

        Each map is stretched as fits best, so 0 is a map that foresees every change, 1 one that foresees nothing.
        """
        perturbations = {f"noise of {deviation}": partial(_noisy, deviation) for deviation in NOISE}
        perturbations["removal"] = self.removed
        table, local = [], (GRADIENT, PASSED, "SmoothGrad", "white noise")
        for perturbation, perturb in perturbations.items():
            whole = self.infidelity(perturb, torch.zeros_like(self.maps[GRADIENT]))
            found = {name: (self.infidelity(perturb, self.maps[name]) / whole).numpy() for name in local}
            for name in local:
                what = f"share of the change not foreseen, {perturbation}"
                table.append(_row("", "captum's infidelity", "other", name, what, np.nanmean(found[name]), IMAGES))
            share = np.mean(found[PASSED] < found[GRADIENT])
            what = f"share of images with less than the {GRADIENT}, {perturbation}"
            table.append(_row("", "captum's infidelity", "other", PASSED, what, share, IMAGES))
        return table

    def infidelity(self, perturb: Callable[..., tuple[Tensor, Tensor]], maps: Tensor) -> Tensor:
        """Captum's infidelity with perturbations from a fixed seed, the same ones for every map: (B,)."""
        from captum.metrics import infidelity

        shake, given = partial(perturb, generator=Generator().manual_seed(0)), (self.images, maps[:, None])
        draws = {"n_perturb_samples": DRAWS, "max_examples_per_batch": DRAWS * IMAGES // 10}
        return infidelity(self.network, shake, *given, target=self.targets, normalize=True, **draws)

    def removed(self, inputs: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Some pixels become those of the fill, at random."""
        change = (inputs - self.fill) * (torch.rand(inputs.shape, generator=generator) < REMOVED)
        return change, inputs - change


def _noisy(deviation: float, inputs: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    change = deviation * torch.randn(inputs.shape, generator=generator)
    return change, inputs - change


def _replaced(arr: NDArray, indices: NDArray, fill: NDArray, **_: Any) -> NDArray:
    """Pixels (B, n) with those of these columns (B, k) from the fill, as Quantus asks for it."""
    arr = arr.copy()
    np.put_along_axis(arr, indices, np.take_along_axis(fill, indices, 1), 1)
    return arr


def _difference(ours: str, theirs: str, map_: str, mine: Any, other: NDArray) -> dict:
    return _row(ours, theirs, "same", map_, "largest difference", np.abs(np.asarray(mine) - other).max(), len(other))


def _correlation(ours: str, theirs: str, map_: str, mine: Any, other: Any) -> dict:
    value = spearmanr(np.asarray(mine), other, nan_policy="omit").statistic
    return _row(ours, theirs, "other", map_, "rank correlation", value, len(other))


def _row(ours: str, theirs: str, definition: str, map_: str, statistic: str, value: float, count: int) -> dict:
    return {"ours": ours, "theirs": theirs, "definition": definition, "map": map_, "statistic": statistic,
            "value": float(value), "count": count}  # fmt: skip
