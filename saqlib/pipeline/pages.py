"""Cells side by side: a page that renews itself while they train, and an animation of how their maps came about."""

import base64
import html
import io
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from saqlib import files
from saqlib.grid import Cell
from saqlib.pipeline.study import Study
from saqlib.pipeline.watching import Watched
from saqlib.report import live
from saqlib.report.live import Look

POLL_SECONDS = 1.0
FRAME_MS, LAST_MS = 350, 2500  # how long an animation shows a frame
DPI, FRAME_DPI, FRAMES, COLOURS = 144, 100, 13, 32
WAITING = "No record yet: waiting for the training of {} to begin."
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>{refresh}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 1rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; }}</style></head>
<body><h1>{title}</h1>
{body}
<p>{status}</p></body></html>
"""
NOTE = """<p style="color: #555">Maps: magnitude of the gradient of the true class's logit, black 0, brightest the map's
own 99th percentile; of a quantized network, its straight-through surrogate's. Scores are means over these ten
validation images: focus is Gini's index, coherence Moran's I, faithfulness the relevance gain, mean over three fills,
known up to the last whole epoch; amplitude is the median of a map.</p>"""


def fragment(cells: Sequence[Watched]) -> str:
    """The cells side by side, below one another where there is no room, as HTML."""
    looks = [each.look() for each in cells]
    ranges = live.limits([look for look in looks if look])
    parts = []
    for each, look in zip(cells, looks, strict=True):
        if look is None:
            inner = f"<p>{WAITING.format(each.cell)}</p>"
        else:
            inner = f'<img style="width: 100%" alt="{html.escape(described(look))}" src="data:image/png;base64,'
            inner += f'{base64.b64encode(_png(look, ranges, DPI)).decode()}">'
            inner += f"<figcaption>{each.cost()}</figcaption>"
        parts.append(f'<figure style="flex: 1 1 22rem; min-width: 0; margin: 0">{inner}</figure>')
    return f'<div style="display: flex; flex-wrap: wrap; gap: 1.5rem">{"".join(parts)}</div>{NOTE}'


def described(look: Look) -> str:
    """What a look shows, in words."""
    said = [f"{name} {values[-1]:.3g}" for name, values in look.scores.items() if values[-1] == values[-1]]
    accuracies = [accuracy[-1] for _, _, accuracy in look.curves.values() if accuracy]
    if accuracies:
        said.append(f"validation accuracy {accuracies[0]:.1f} %")
    return f"{look.title}: ten watched images, their saliency maps and curves; now {', '.join(said)}."


def _png(look: Look, ranges: dict, dpi: int) -> bytes:
    figure, buffer = live.draw(look, ranges), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def animation(settings: Study, *cells: Cell) -> bytes:
    """How the maps of seed 0 of trained cells came about, side by side: a GIF of at most 13 frames.

    Raises ValueError if the store does not hold seed 0 of a cell.
    """
    return _animated([Watched(cell, settings) for cell in cells])


def moving(settings: Study, *cells: Cell) -> str:
    """The animation as an element of HTML that holds it; arguments and errors as `animation`."""
    content = animation(settings, *cells)
    with Image.open(io.BytesIO(content)) as picture:
        width, height = picture.size
    alt = f"Ten watched images, their saliency maps and curves while {' and '.join(map(str, cells))} trained, seed 0"
    source = base64.b64encode(content).decode()
    return f'<img width="{width}" height="{height}" alt="{alt}" src="data:image/gif;base64,{source}">'


def _animated(cells: Sequence[Watched]) -> bytes:
    looks = [each.look() for each in cells]
    missing = [str(each.cell) for each, look in zip(cells, looks, strict=True) if look is None]
    if missing:
        raise ValueError(f"nothing was recorded of {' and '.join(missing)}; train first (dvc repro train@{missing[0]})")
    ranges = live.limits([look.until(len(look.steps) - 1) for look in looks])
    frames = []
    records = max(len(look.steps) for look in looks)
    for record in sorted({round(i) for i in np.linspace(0, records - 1, min(records, FRAMES))}):
        now = [look.until(min(record, len(look.steps) - 1)) for look in looks]
        pictures = [Image.open(io.BytesIO(_png(each, ranges, FRAME_DPI))).convert("RGB") for each in now]
        sheet = Image.new("RGB", (sum(each.width for each in pictures), pictures[0].height), "white")
        for i, picture in enumerate(pictures):
            sheet.paste(picture, (i * pictures[0].width, 0))
        frames.append(sheet)
    # One palette for all frames, that of the last one, so that only what changes is written.
    palette = frames[-1].quantize(COLOURS)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    content = io.BytesIO()
    times = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=False)
    return content.getvalue()


def follow(settings: Study, cells: Sequence[Cell], folder: Path) -> Path:
    """Write the page and renew it until every seed of the cells is trained, then the animation; the page."""
    looked_at, shown = [Watched(cell, settings) for cell in cells], None
    title = " and ".join(map(str, cells))
    page = folder / f"{'+'.join(map(str, cells))}.html"
    print(page.resolve().as_uri(), flush=True)
    try:
        while True:
            finished = all(each.finished for each in looked_at)
            state = [each.state for each in looked_at]
            if state != shown:
                shown, body = state, fragment(looked_at)
                _write(page, title, body, "Training; this page renews itself.", refresh=True)
            if finished:
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        _write(page, title, fragment(looked_at), "Nobody watches any more; the training may go on.", refresh=False)
        raise
    moving = files.write(page.with_suffix(".gif"), _animated(looked_at))
    body += f'<p><img style="max-width: 100%" src="{moving.name}" alt="The same from the first to the last record"></p>'
    _write(page, title, body, "Trained.", refresh=False)
    return page


def _write(page: Path, title: str, body: str, status: str, *, refresh: bool) -> None:
    renew = f'<meta http-equiv="refresh" content="{2 * POLL_SECONDS:.0f}">' if refresh else ""
    files.write(page, PAGE.format(title=title, refresh=renew, body=body, status=status))
