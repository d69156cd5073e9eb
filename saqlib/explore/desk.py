"""A desk to play at: pick an image, see what each network makes of it, remove pixels. Needs no PyTorch."""

import base64
import html
import io

import ipywidgets as widgets
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saqlib.datasets import DATASETS
from saqlib.explore import networks
from saqlib.explore.networks import Answer
from saqlib.grid import TRAININGS

COLOURS, PERCENTILE = "inferno", 99  # as saqlib.report.pictures shows maps
TILE = 92  # pixels of a side on the screen


def table(
    dataset: str, training: str, image: NDArray[np.uint8], truth: str = "", share: float = 0.0, first: str = "most",
    fill: str = "zero",
) -> str:  # fmt: skip
    """What every network says of an image, side by side, as HTML: class, map, scores, and what is left without pixels.

    Args:
        dataset, training: whose networks.
        image: uint8 (28, 28).
        truth: its class in words, where it is known.
        share, first, fill: of the pixels to remove, as `networks.remove` takes them.
    """
    found = networks.files(dataset, training)
    cells = [_cell("<b>image</b>", _tile(255 - image, "The image"), html.escape(truth))]
    for answer in networks.ask(found, dataset, image):
        lines = [_said(answer, truth), f"focus {answer.focus:.2f}, coherence {answer.coherence:.2f}"]
        if share:
            left = networks.remove(dataset, image, answer.map, share, first, fill)
            sure = networks.confidence(found[answer.network], left, answer.label)
            lines += [_tile(255 - left, "The image without the removed pixels"), f"{answer.name}: {sure:.0%}"]
        cells.append(_cell(f"<b>{answer.network}</b>", _tile(coloured(answer.map), "Saliency map"), *lines))
    return f'<div style="display: flex; flex-wrap: wrap; gap: 12px; line-height: 1.35">{"".join(cells)}</div>'


def _said(answer: Answer, truth: str) -> str:
    wrong = ' style="color: #D62728"' if truth and answer.name != truth else ""
    return f"<span{wrong}>{html.escape(answer.name)}, {answer.confidence:.0%}</span>"


def _cell(*lines: str) -> str:
    return f'<div style="width: {TILE + 20}px; font-size: 13px">{"<br>".join(lines)}</div>'


def coloured(saliency: NDArray) -> NDArray[np.uint8]:
    """A map in the colours of the figures: black 0, the brightest from the map's own 99th percentile on; (H, W, 3)."""
    magnitude = np.abs(saliency)
    top = np.percentile(magnitude, PERCENTILE) or magnitude.max() or 1
    return matplotlib.colormaps[COLOURS](np.clip(magnitude / top, 0, 1), bytes=True)[..., :3]


def _tile(pixels: NDArray[np.uint8], alt: str) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    style = "image-rendering: pixelated; display: inline-block"
    return f'<img alt="{alt}" width="{TILE}" height="{TILE}" style="{style}" src="{source}">'


class Desk(widgets.VBox):
    """The table with handles: data, training, picture, and pixels to remove. It answers in well under 200 ms."""

    def __init__(self, dataset: str = "mnist", training: str = "guided", picture: int = 0):
        last = len(networks.sample(dataset)[0]) - 1
        self.dataset = widgets.ToggleButtons(options=list(DATASETS), value=dataset, description="images")
        self.training = widgets.ToggleButtons(options=list(TRAININGS), value=training, description="training")
        self.picture = widgets.IntSlider(value=picture, max=last, description="picture")
        self.share = widgets.IntSlider(value=0, max=100, step=2, description="remove, %")
        self.first = widgets.ToggleButtons(options=list(networks.ORDERS), description="salient first")
        self.fill = widgets.ToggleButtons(options=list(networks.FILLS), description="becomes")
        self.shown = widgets.HTML()
        handles = [self.dataset, self.training, self.picture, self.share, self.first, self.fill]
        for handle in handles:
            handle.observe(self._renew, "value")
        rows = [
            widgets.HBox(pair, layout={"flex_flow": "row wrap"})
            for pair in zip(handles[::2], handles[1::2], strict=True)
        ]
        super().__init__([*rows, self.shown])
        self._renew()

    def _renew(self, _change: object = None) -> None:
        image, truth = networks.picture(self.dataset.value, self.picture.value)
        removal = {"share": self.share.value / 100, "first": self.first.value, "fill": self.fill.value}
        self.shown.value = table(self.dataset.value, self.training.value, image, truth, **removal)


def sentence(dataset: str, training: str, image: NDArray[np.uint8]) -> str:
    """Which class each network sees, in words."""
    answers = networks.ask(networks.files(dataset, training), dataset, image)
    return ", ".join(f"{answer.network}: {answer.name}" for answer in answers if answer.network != networks.UNTRAINED)
