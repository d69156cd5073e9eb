"""The one picture of the front page: maps of two images at every precision, and faithfulness against bits.

The maps are those of the committed files, computed here, on one scale per image, so that brightness can be compared;
the chart is drawn as SVG in the page's own colours. Text keeps its size on a narrow screen.
"""

import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from saqlib import words
from saqlib.names import FAITHFULNESS
from saqlib.report.pictures import MAP_COLOURS, PERCENTILE
from saqlib.report.style import TRAINING_COLOURS
from saqlib.site import networks, pictures
from saqlib.site.findings import Runs

ZOOM = 4  # pixels of a picture's file for one of the map
WIDTH, HEIGHT = 172, 176  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 26, 2, 20, 18  # margins inside it


def picture(results: Path, static: Path, runs: Runs) -> str:
    """The maps beside the charts, as HTML; the maps' files go to the static folder."""
    rows = "".join(_maps(dataset, results, static, runs) for dataset in runs.datasets)
    heads = "".join(f"<th>{name}</th>" for name in runs.precisions)
    maps = f'<table class="maps"><thead><tr><th></th><th>image</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    charts = "".join(_chart(dataset, runs) for dataset in runs.datasets)
    keys = "".join(f"<span {_coloured(name)}>{name} training</span>" for name in runs.trainings)
    caption = (
        f"Left: where each network looks ({runs.trainings[0]} training, seed 0), brighter for a larger gradient, one "
        f"scale for each image. Right: faithfulness over the precisions; thin lines are seeds, thick ones means."
    )
    beside = f'<div class="charts"><div>{charts}</div><p class="key">{keys}</p></div>'
    return f'<figure class="glance"><div>{maps}{beside}</div><figcaption>{caption}</figcaption></figure>'


def _maps(dataset: str, results: Path, static: Path, runs: Runs) -> str:
    """One row: the first example that every network classifies correctly, and its maps on the scale of the largest."""
    cells = [f"{dataset}-{precision}-{runs.trainings[0]}" for precision in runs.precisions]
    images = networks.examples(dataset).images
    found = [networks.answers(networks.models(results)[cell], images) for cell in cells]
    right = np.all([logits.argmax(1) == np.arange(len(images)) for logits, _ in found], axis=0)
    chosen = int(right.argmax())
    magnitudes = np.abs(np.stack([maps[chosen] for _, maps in found]))
    top = np.percentile(magnitudes, PERCENTILE)
    name = words.CLASSES[dataset][chosen]
    shown = [_stored(255 - images[chosen], static, f"Test image of {words.dataset(dataset)}: {name}")]
    for precision, magnitude in zip(runs.precisions, magnitudes, strict=True):
        colours = matplotlib.colormaps[MAP_COLOURS](np.clip(magnitude / top, 0, 1), bytes=True)[..., :3]
        part = f"{magnitude.mean() / magnitudes[0].mean():.0%} as bright as that of {runs.precisions[0]}"
        alt = f"Saliency map of the {precision} network for that image, {part}"
        shown.append(_stored(colours, static, alt))
    return f"<tr><th>{words.dataset(dataset)}</th>{''.join(f'<td>{image}</td>' for image in shown)}</tr>"


def _stored(pixels: NDArray[np.uint8], static: Path, alt: str) -> str:
    side = ZOOM * len(pixels)
    content = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).save(content, "PNG")
    return pictures.stored(content.getvalue(), static, alt, density=side / 64)


# ------------------------------------------------------------------------------------------------------- the chart


def _chart(dataset: str, runs: Runs) -> str:
    """Faithfulness over the precisions of one dataset, as SVG: every seed thin, the mean of each training thick."""
    tables = {training: runs.seeds(FAITHFULNESS, dataset, training) for training in runs.trainings}
    values = np.concatenate([table.to_numpy().ravel() for table in tables.values()])
    low, high = min(0.0, values.min()), values.max()

    def x(index: float) -> float:
        return LEFT + (index + 0.5) * (WIDTH - LEFT - RIGHT) / len(runs.precisions)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) * (HEIGHT - TOP - BOTTOM) / (high - low)

    def line(heights: Iterable[float]) -> str:
        return " ".join(f"{x(index):.1f},{y(value):.1f}" for index, value in enumerate(heights))

    marks = [f'<text class="title" x="{LEFT}" y="12">{words.dataset(dataset)}</text>']
    for tick in _ticks(low, high):
        at, shown = f"{y(tick):.1f}", f"{tick:.1f}".replace("-", "−")
        kind = "grid zero" if tick == 0 else "grid"
        marks.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        marks.append(f'<text class="y" x="{LEFT - 4}" y="{at}" dy=".35em">{shown}</text>')
    for index, precision in enumerate(runs.precisions):
        marks.append(f'<text class="x" x="{x(index):.1f}" y="{HEIGHT - 5}">{precision}</text>')
    for training, table in tables.items():
        style = _coloured(training)
        marks += [f'<polyline class="seed" {style} points="{line(seed)}"/>' for seed in table.to_numpy()]
        means = table.mean().to_numpy()
        marks.append(f'<polyline class="mean" {style} points="{line(means)}"/>')
        marks += [f'<circle {style} cx="{x(i):.1f}" cy="{y(mean):.1f}" r="3"/>' for i, mean in enumerate(means)]
    label = html.escape(_described(dataset, runs, {name: table.mean() for name, table in tables.items()}))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(marks)}</svg>'


def _coloured(training: str) -> str:
    """The colour of a training: the figures' own, unless the page's theme has another for it."""
    return f'style="--line: var(--{training}, {TRAINING_COLOURS[training]})"'


def _ticks(low: float, high: float) -> list[float]:
    """Round values between both ends, three to six of them."""
    step = next(step for step in (0.1, 0.2, 0.5, 1.0) if (high - low) / step <= 5)
    return [round(n * step, 1) for n in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def _described(dataset: str, runs: Runs, means: Mapping[str, pd.Series]) -> str:
    lines = [
        f"{training} training {', '.join(f'{precision} {mean[precision]:.2f}' for precision in runs.precisions)}"
        for training, mean in means.items()
    ]
    return f"Faithfulness on {words.dataset(dataset)}: {'; '.join(lines)}"
