"""The committed networks and the sample's images without PyTorch: onnxruntime and numpy are enough.

Both scores are those of saqlib.clarity, written once more for numpy; a test compares them.
"""

import functools
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from saqlib import paths
from saqlib.datasets import DATASETS, IMAGES, LABELS
from saqlib.deployment.explain import open_model
from saqlib.params import one_of, require
from saqlib.words import CLASSES

UNTRAINED, SUFFIX = "untrained", ".explain.onnx"
SIDE = 28
ORDERS, FILLS = ("most", "least"), ("zero", "mean")


@dataclass(frozen=True)
class Answer:
    """What a network says of one image: its class, in words, with the probability; the map, float32 (28, 28), signed.

    focus, coherence: Gini's index and Moran's I of the map's magnitude, NaN for a dead map.
    """

    network: str
    label: int
    name: str
    confidence: float
    map: NDArray[np.float32]
    focus: float
    coherence: float


@functools.cache
def sample(dataset: str, part: str = "t10k") -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 28, 28) and labels (N,) of the committed sample. part: t10k, the test images, or train."""
    one_of(dataset, DATASETS, "dataset")
    raw = [gzip.decompress((paths.SAMPLE / dataset / f"{part}-{name}.gz").read_bytes()) for name in (IMAGES, LABELS)]
    images, labels = np.frombuffer(raw[0], np.uint8, offset=16), np.frombuffer(raw[1], np.uint8, offset=8)
    return images.reshape(-1, SIDE, SIDE), labels


def picture(dataset: str, number: int) -> tuple[NDArray[np.uint8], str]:
    """A test image of the sample, uint8 (28, 28), and its class in words; ParamsError if there is no such number."""
    images, labels = sample(dataset)
    require(0 <= number < len(images), f"there is no picture {number}: the sample holds 0 to {len(images) - 1}")
    return images[number], CLASSES[dataset][labels[number]]


def files(dataset: str, training: str, results: Path = paths.RESULTS) -> dict[str, Path]:
    """The explaining file of each precision, from the largest to the smallest, and of the network before training."""
    found = {path.name.removesuffix(SUFFIX): path for path in (results / "models").glob(f"*{SUFFIX}")}
    cells = {name.split("-")[1]: path for name, path in found.items() if _is_cell(name, dataset, training)}
    require(bool(cells), f"results/models/ holds no network of {dataset}, {training} training")
    ordered = dict(sorted(cells.items(), key=lambda cell: -cell[1].stat().st_size))
    return ordered | ({UNTRAINED: found[UNTRAINED]} if UNTRAINED in found else {})


def _is_cell(name: str, dataset: str, training: str) -> bool:
    return name.startswith(f"{dataset}-") and name.endswith(f"-{training}")


@functools.cache
def _session(path: Path) -> onnxruntime.InferenceSession:
    return open_model(path)


def ask(found: Mapping[str, Path], dataset: str, image: NDArray[np.uint8]) -> list[Answer]:
    """What each of these networks (of `files`) says of an image, uint8 (28, 28)."""
    answers = []
    for network, path in found.items():
        logits, maps = _session(path).run(["logits", "map"], {"images": _as_input(image[None])})
        chances, label = softmax(logits)[0], int(logits[0].argmax())
        scores = gini(maps[0]), morans_i(maps[0])
        answers.append(Answer(network, label, CLASSES[dataset][label], float(chances[label]), maps[0], *scores))
    return answers


def remove(
    dataset: str, image: NDArray[np.uint8], saliency: NDArray, share: float, first: str = "most", fill: str = "zero"
) -> NDArray[np.uint8]:
    """The image without a share of its pixels.

    Args:
        dataset: whose mean image the fill `mean` takes.
        image: uint8 (28, 28).
        saliency: (28, 28); its magnitude ranks the pixels.
        share: from 0 to 1.
        first: most | least, the salient pixels that go first.
        fill: zero | mean (of the pixel, over the sample's training images), what takes their place.
    """
    sign = -1 if one_of(first, ORDERS, "order") == "most" else 1
    gone = np.argsort(sign * np.abs(saliency).ravel(), kind="stable")[: round(share * image.size)]
    others = _mean(dataset) if one_of(fill, FILLS, "fill") == "mean" else np.zeros_like(image)
    left = image.copy()
    left.ravel()[gone] = others.ravel()[gone]
    return left


def confidence(path: Path, image: NDArray[np.uint8], label: int) -> float:
    """The probability that a network gives a class of an image."""
    (logits,) = _session(path).run(["logits"], {"images": _as_input(image[None])})
    return float(softmax(logits)[0, label])


@functools.cache
def _mean(dataset: str) -> NDArray[np.uint8]:
    return np.rint(sample(dataset, "train")[0].mean(0)).astype(np.uint8)


def _as_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images[:, None].astype(np.float32) / np.float32(255)


def softmax(logits: NDArray) -> NDArray:
    """The probabilities of logits (B, classes)."""
    likelihoods = np.exp(logits - logits.max(1, keepdims=True))
    return likelihoods / likelihoods.sum(1, keepdims=True)


def gini(saliency: NDArray) -> float:
    """As saqlib.clarity.gini, for one map (H, W)."""
    ordered = np.sort(np.abs(saliency, dtype=np.float64), axis=None)
    if not ordered.any():
        return float("nan")
    n = ordered.size
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


def morans_i(saliency: NDArray) -> float:
    """As saqlib.clarity.morans_i, for one map (H, W)."""
    magnitude = np.abs(saliency, dtype=np.float64)
    if magnitude.min() == magnitude.max():
        return float("nan")
    centred = magnitude - magnitude.mean()
    pairs = (centred[1:] * centred[:-1]).sum() + (centred[:, 1:] * centred[:, :-1]).sum()
    height, width = magnitude.shape
    edges = (height - 1) * width + height * (width - 1)
    return float(magnitude.size / edges * pairs / (centred**2).sum())
