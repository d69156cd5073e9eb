"""For hands: the committed networks and their maps without PyTorch, and, with it, networks with bits of your own.

The first half needs numpy, onnxruntime, pillow, matplotlib and ipywidgets. Gini's index and Moran's I are those of
`saqlib.scores`, written once more for numpy; a test compares them.
"""

import base64
import functools
import html
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as widgets
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saqlib.data import DATASETS, IMAGES, LABELS, content
from saqlib.deploy.explain import MAP_NAMES, MAPS, SIDE, as_input, open_model, softmax
from saqlib.errors import one_of
from saqlib.precision import LAYERS
from saqlib.scores import FILLS
from study import paths
from study.report import labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from saqlib.lenet import LeNet

UNTRAINED, SUFFIX = "untrained", ".explain.onnx"
TRAININGS = ("standard", "guided")  # of study.settings, which needs pydantic
ORDERS = ("most", "least")
BLUR = 0.1 * SIDE  # as saqlib.removal, which needs PyTorch
COLOURS, PERCENTILE = "inferno", 99  # as study.report.pictures shows maps
TILE = 92  # pixels of a side on the screen
EPOCHS, WARM_UP = 12, 4  # of a network with bits of your own


@dataclass(frozen=True)
class Answer:
    """A network's answer to one image: its class, in words, with the probability; the map, float32 (28, 28), signed.

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
    images, labels = (content(paths.SAMPLE / dataset, f"{part}-{name}") for name in (IMAGES, LABELS))
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, SIDE, SIDE), np.frombuffer(labels, np.uint8, offset=8)


def picture(dataset: str, number: int) -> tuple[NDArray[np.uint8], str]:
    """A test image of the sample, uint8 (28, 28), and its class in words; ValueError if there is no such number."""
    images, labels = sample(dataset)
    if not 0 <= number < len(images):
        raise ValueError(f"there is no picture {number}: the sample holds 0 to {len(images) - 1}")
    return images[number], DATASETS[dataset].classes[labels[number]]


def files(dataset: str, training: str, results: Path = paths.RESULTS) -> dict[str, Path]:
    """The explaining file of each precision, from the largest to the smallest, and of the network before training."""
    cells = list((results / "models").glob(f"{dataset}-*-{training}{SUFFIX}"))
    if not cells:
        raise ValueError(f"results/models/ holds no network of {dataset}, {training} training")
    cells.sort(key=lambda path: -path.stat().st_size)
    untrained = results / "models" / f"{UNTRAINED}{SUFFIX}"
    return {path.name.split("-")[1]: path for path in cells} | {UNTRAINED: untrained}


_session = functools.cache(open_model)


def run(path: Path, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Every output of an explaining file for an image, uint8 (28, 28): logits (10,) and signed maps (28, 28)."""
    names = [output.name for output in _session(path).get_outputs()]
    found = _session(path).run(names, {"images": as_input(image[None])})
    return {name: values[0] for name, values in zip(names, found, strict=True)}


def ask(networks: Mapping[str, Path], dataset: str, image: NDArray[np.uint8], saturated: str = "stop") -> list[Answer]:
    """What each of these networks (of `files`) answers to an image, uint8 (28, 28).

    saturated: what a clipped activation does with the gradient of the map, stop | pass.
    """
    output, answers = MAPS[one_of(saturated, MAPS, "saturated")], []
    for network, path in networks.items():
        found = run(path, image)
        logits, saliency = found["logits"], found[output]
        label, name = int(logits.argmax()), DATASETS[dataset].classes[logits.argmax()]
        sure = float(softmax(logits[None])[0, label])
        answers.append(Answer(network, label, name, sure, saliency, gini(saliency), morans_i(saliency)))
    return answers


def remove(
    dataset: str, image: NDArray[np.uint8], saliency: NDArray, share: float, first: str = "most", fill: str = "mean"
) -> NDArray[np.uint8]:
    """The image, uint8 (28, 28), without a share of its pixels, from 0 to 1; the saliency's magnitude ranks them.

    first: most | least, the salient pixels that go first. fill: what takes their place, as in `saqlib.removal`; the
    mean is that of the pixel over the dataset's sample.
    """
    sign = -1 if one_of(first, ORDERS, "order") == "most" else 1
    gone = np.argsort(sign * np.abs(saliency).ravel(), kind="stable")[: round(share * image.size)]
    others = _FILLINGS[one_of(fill, FILLS, "fill")](dataset, image)
    left = image.copy()
    left.ravel()[gone] = others.ravel()[gone]
    return left


@functools.cache
def mean_image(dataset: str) -> NDArray[np.uint8]:
    """The mean of the sample's training images, uint8 (28, 28)."""
    return np.rint(sample(dataset, "train")[0].mean(0)).astype(np.uint8)


def _noise(dataset: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(image.min(), image.max(), image.shape, np.uint8, endpoint=True)


def _blurred(dataset: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The weighted mean of all other pixels."""
    places = np.arange(SIDE)
    weights = np.exp(-(((places[:, None] - places) / BLUR) ** 2) / 2)
    total = np.outer(weights.sum(0), weights.sum(0))
    return np.rint((weights @ image @ weights - image) / (total - 1)).astype(np.uint8)


_FILLINGS = {"zero": lambda _, image: np.zeros_like(image), "mean": lambda dataset, _: mean_image(dataset),
             "noise": _noise, "blur": _blurred}  # fmt: skip


def confidence(path: Path, image: NDArray[np.uint8], label: int) -> float:
    """The probability that a network gives a class of an image."""
    return float(softmax(run(path, image)["logits"][None])[0, label])


def gini(saliency: NDArray) -> float:
    """As saqlib.scores.gini, for one map (H, W)."""
    ordered = np.sort(np.abs(saliency, dtype=np.float64), axis=None)
    if not ordered.any():
        return float("nan")
    n = ordered.size
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * ordered.sum()))


def morans_i(saliency: NDArray) -> float:
    """As saqlib.scores.morans_i, for one map (H, W)."""
    magnitude = np.abs(saliency, dtype=np.float64)
    if magnitude.min() == magnitude.max():
        return float("nan")
    centred = magnitude - magnitude.mean()
    pairs = (centred[1:] * centred[:-1]).sum() + (centred[:, 1:] * centred[:, :-1]).sum()
    height, width = magnitude.shape
    edges = (height - 1) * width + height * (width - 1)
    return float(magnitude.size / edges * pairs / (centred**2).sum())


# ------------------------------------------------------------------------------------------- a table, and its handles


def table(
    dataset: str, training: str, image: NDArray[np.uint8], truth: str = "", share: float = 0.0, first: str = "most",
    fill: str = "mean", saturated: str = "stop",
) -> str:  # fmt: skip
    """What every network says of an image, side by side, as HTML: class, map, scores, and what is left without pixels.

    image: uint8 (28, 28). truth: its class in words, where it is known. share, first, fill: as for `remove`; saturated,
    and what it raises: as for `ask`.
    """
    networks = files(dataset, training)
    cells = [_cell("<b>image</b>", _tile(255 - image, "The image"), html.escape(truth))]
    for answer in ask(networks, dataset, image, saturated):
        wrong = ' style="color: #D62728"' if truth and answer.name != truth else ""
        lines = [
            f"<span{wrong}>{html.escape(answer.name)}<br>{percent(answer.confidence)}</span>",
            f"focus {answer.focus:.2f}",
            f"coherence {answer.coherence:.2f}",
        ]
        if share:
            left = remove(dataset, image, answer.map, share, first, fill)
            sure = confidence(networks[answer.network], left, answer.label)
            lines += [_tile(255 - left, "The image without these pixels"), html.escape(answer.name), percent(sure)]
        head = f"<b>{labels.precision(answer.network)}</b>"
        cells.append(_cell(head, _tile(coloured(answer.map), "Saliency map"), *lines))
    return f'<div style="display: flex; flex-wrap: wrap; gap: 12px; line-height: 1.35">{"".join(cells)}</div>'


def percent(share: float) -> str:
    """A probability in words: what is not certain is not rounded to 100 %."""
    return "over 99.9 %" if share > 0.9995 else f"{100 * share:.1f} %"


def sentence(dataset: str, training: str, image: NDArray[np.uint8]) -> str:
    """Which class each trained network sees, in words."""
    answers = {each.network: each.name for each in ask(files(dataset, training), dataset, image)}
    return ", ".join(f"{labels.precision(name)}: {seen}" for name, seen in answers.items() if name != UNTRAINED)


def coloured(saliency: NDArray) -> NDArray[np.uint8]:
    """A map in the colours of the figures: black 0, the brightest from the map's own 99th percentile on; (H, W, 3)."""
    magnitude = np.abs(saliency)
    top = np.percentile(magnitude, PERCENTILE) or magnitude.max() or 1
    return matplotlib.colormaps[COLOURS](np.clip(magnitude / top, 0, 1), bytes=True)[..., :3]


def _cell(*lines: str) -> str:
    style = f"width: {TILE + 20}px; font-size: 13px; white-space: nowrap"  # nothing wraps, so that rows align
    return f'<div style="{style}">{"<br>".join(lines)}</div>'


def _tile(pixels: NDArray[np.uint8], alt: str) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    style = "image-rendering: pixelated; display: inline-block"
    return f'<img alt="{alt}" width="{TILE}" height="{TILE}" style="{style}" src="{source}">'


class Desk(widgets.VBox):
    """The table with handles: data, training, map, picture, and pixels to remove. It answers in well under 200 ms."""

    def __init__(self, dataset: str = "mnist", training: str = "guided", picture: int = 0):
        buttons, last = widgets.ToggleButtons, len(sample(dataset)[0]) - 1
        self.handles = {
            "dataset": buttons(options=list(DATASETS), value=dataset, description="images"),
            "training": buttons(options=TRAININGS, value=training, description="training"),
            "saturated": buttons(options=[(name, key) for key, name in MAP_NAMES.items()], description="map"),
            "picture": widgets.IntSlider(value=picture, max=last, description="picture"),
            "share": widgets.FloatSlider(max=1, step=0.02, readout_format=".0%", description="remove"),
            "first": buttons(options=ORDERS, description="salient first"),
            "fill": buttons(options=FILLS, value="mean", description="becomes"),
        }
        for handle in self.handles.values():
            handle.observe(self._renew, "value")
        self.shown = widgets.HTML()
        super().__init__([widgets.HBox(list(self.handles.values()), layout={"flex_flow": "row wrap"}), self.shown])
        self._renew()

    def _renew(self, _change: object = None) -> None:
        chosen = {name: handle.value for name, handle in self.handles.items()}
        image, truth = picture(chosen["dataset"], chosen.pop("picture"))
        self.shown.value = table(image=image, truth=truth, **chosen)


# ----------------------------------------------------------------------------------- networks of your own, in PyTorch


def own_bits(convolution: int, dense: int) -> dict[str, list[int]]:
    """A row as `precisions` in params.yaml has them: weight bits and activation bits of each layer, from 2 to 8."""
    bits = {layer: 2 * [dense if layer.startswith("dense") else convolution] for layer in LAYERS}
    return bits | {LAYERS[-1]: [dense]}


def trained(bits: dict[str, list[int]], dataset: str, training: str, seed: int = 0) -> "LeNet":
    """A network with these bits, trained on the sample; the same again comes at once. bits: {} for full precision.

    Raises ParamsError for bits that cannot be.
    """
    return _trained(tuple((layer, tuple(each)) for layer, each in bits.items()), dataset, training, seed)


@functools.cache
def _trained(bits: tuple, dataset: str, training: str, seed: int) -> "LeNet":
    from saqlib.data import load
    from saqlib.lenet import build
    from saqlib.training import Images, train
    from study import processes, settings

    raw = settings.read()
    raw["precisions"]["yours"] = {layer: list(each) for layer, each in bits}
    recipe = settings.from_dict(raw).recipe(settings.Cell(dataset, "yours", training))
    network = build(recipe.precision, shape=recipe.shape, seed=seed)
    images = Images(*load(dataset, "train", paths.SAMPLE), *load(dataset, "validation", paths.SAMPLE))
    options = {name: getattr(recipe, name) for name in ("optimizer", "quantization", "guided")}
    run = functools.partial(train, network, images, seed=seed, epochs=EPOCHS, warmup_epochs=WARM_UP, **options)
    processes.in_one_thread(os.getpid(), run)  # faster for networks of this size
    return network


def compare(networks: "dict[str, LeNet]", dataset: str, number: int) -> "Figure":
    """The maps of these networks for a test image of the sample, with class, confidence, focus and coherence.

    Where activations are clipped, the pass-through map stands beside the straight-through one.
    """
    import matplotlib.pyplot as plt
    import torch

    from saqlib.data import as_input as as_tensor
    from saqlib.saliency import input_gradient
    from study.report.pictures import show_image, show_map

    image, truth = picture(dataset, number)
    shown = as_tensor(torch.from_numpy(image.copy())[None])
    panels = []
    for name, network in networks.items():
        with torch.no_grad():
            sure, seen = network(shown).softmax(1).max(1)
        plain, passed = (input_gradient(network, shown, saturated=each)[0].numpy() for each in MAPS)
        panels.append((f"{name}: {DATASETS[dataset].classes[seen]}\n{percent(sure.item())}", plain))
        if not np.array_equal(plain, passed):
            panels.append((f"{name}\n{MAP_NAMES['pass']}", passed))
    figure, axes = plt.subplots(1, 1 + len(panels), figsize=(2 + 2 * len(panels), 2.7), layout="constrained")
    show_image(axes[0], image)
    axes[0].set_title(f"image: {truth}")
    for axis, (title, saliency) in zip(axes[1:], panels, strict=True):
        show_map(axis, saliency)
        axis.set_title(title)
        axis.set_xlabel(f"focus {gini(saliency):.2f}, coherence {morans_i(saliency):.2f}")
    return figure


def accuracies(networks: "dict[str, LeNet]", dataset: str) -> dict[str, float]:
    """Percent of the sample's 300 test images that each network classifies correctly."""
    from saqlib.data import load
    from saqlib.training import accuracy

    return {name: accuracy(network, *load(dataset, "test", paths.SAMPLE)) for name, network in networks.items()}
