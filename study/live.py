"""Explanations in real time: what networks look at while they train, read from the store that others may fill.

    python -m study.live CELL [CELL] [--scale SCALE]

writes a page that renews itself until the training ends, build/live/<cells>.html; then it also shows how the maps came
about. In JupyterLab `panels` shows the same below a cell, and what it showed last stays. Where nobody is looking (a
pipeline, a test, CI) nothing is shown, and nothing is left in a notebook's outputs.
"""

import argparse
import base64
import functools
import html
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from saqlib import data, scores
from saqlib.errors import exit_with_message
from study import cells, files, models, paths, processes, settings
from study.report import labels
from study.report.pictures import show_image, show_map
from study.report.style import RED, styled
from study.settings import Cell, ParamsError, Study

if TYPE_CHECKING:
    from torch import Tensor

    from saqlib.training import History
    from study.results import Progress

POLL_SECONDS = 1.0
WIDTH, HEIGHT = 4.0, 4.6  # of one cell, in inches
MARGINS = {"left": 0.09, "right": 0.98}  # of its panels, as shares of the width
LOSS, ACCURACY, FAITHFUL = "Loss", "Validation accuracy (%)", labels.question(scores.FAITHFULNESS)
DPI, FRAME_DPI, FRAMES, COLOURS = 144, 100, 13, 32
FRAME_MS, LAST_MS = 350, 2500  # how long an animation shows a frame
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>{refresh}
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 1rem auto; padding: 0 1rem">
<h1 style="font-size: 1.3rem">{title}</h1>{body}</body></html>
"""
PANEL = '<div id="live" style="min-height: 34rem">{}</div>'
# *Run All* jumps to the last cell of a notebook, so the page is scrolled to the panel once, when training begins.
STARTS = (
    PANEL.format("<p>Training begins: the first maps come in a few seconds.</p>")
    + """<script>
for (const ms of [300, 2000]) setTimeout(() => document.getElementById("live").scrollIntoView({block: "center"}), ms)
</script>"""
)
REFRESH = f'<meta http-equiv="refresh" content="{2 * POLL_SECONDS:.0f}">'
NOTE = """<p style="color: #555">Maps: magnitude of the straight-through gradient of the true class's logit, the
one that stops at clipped activations, and below it that which passes through them; black is 0, the brightest colour the
map's own 99th percentile. Scores are means over these ten validation images; for faithfulness, removed pixels become
those of the mean image.</p>"""


@dataclass(frozen=True)
class Look:
    """One look at a training; times are counted in epochs.

    images: uint8 (K, 28, 28), called `names`. times: of R records of seed 0. maps, passed: (R, K, 28, 28), signed,
    straight-through and passed through clipped activations. lines: by panel, for each seed that has begun, of
    faithfulness for both maps, points of time and value. switch: when the network begins to quantize.
    """

    cell: str
    images: NDArray[np.uint8]
    names: Sequence[str]
    times: Sequence[float]
    maps: NDArray
    passed: NDArray
    lines: dict[str, list[list[tuple[float, float]]]]
    switch: float | None
    epochs: int

    def __str__(self) -> str:
        return f"{self.cell}, seed 0: epoch {self.times[-1]:.3g} of {self.epochs}"

    def until(self, record: int) -> "Look":
        """What there was to see at one of its records, of the first seed."""
        times = self.times[: record + 1]
        lines = {name: [[point for point in seeds[0] if point[0] <= times[-1]]] for name, seeds in self.lines.items()}
        return replace(self, times=times, maps=self.maps[: record + 1], passed=self.passed[: record + 1], lines=lines)


@styled
def draw(looks: Sequence[Look], scale: Sequence[Look] = ()) -> Figure:
    """The looks, two in a row: images, their latest maps, curves so far. Equal panels have one range.

    scale: the looks whose values make the range, these when empty. Maps have the colours and scale of all figures.
    """
    rows, columns = math.ceil(len(looks) / 2), min(2, len(looks))
    figure = plt.figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="none")
    for part, look in zip(figure.subfigures(rows, columns, squeeze=False).flat, looks, strict=False):
        part.suptitle(str(look), weight="bold", size=7.5, y=0.99)
        above, below = part.subfigures(2, 1, height_ratios=(1.3, 3))
        grid = above.subplots(3, len(look.images), gridspec_kw=MARGINS | {"top": 0.84, "bottom": 0, "wspace": 0.1})
        shown = zip(grid.T, look.images, look.names, look.maps[-1], look.passed[-1], strict=True)
        for (first, *others), image, name, *maps in shown:
            show_image(first, image)
            first.set_title(name, size=5.5, pad=2)
            for axes, saliency in zip(others, maps, strict=True):
                show_map(axes, saliency)
        for axes, words in zip(grid[1:, 0], ("gradient", "passed"), strict=True):
            axes.set_ylabel(words, size=5.5, labelpad=2)
        spaces = MARGINS | {"top": 0.91, "bottom": 0.09, "hspace": 0.7, "wspace": 0.25}
        grid = below.subplots(math.ceil(len(look.lines) / 2), 2, gridspec_kw=spaces)
        for axes, name in zip(grid.flat, look.lines, strict=False):
            _lines(axes, look, name)
            values = [value for each in scale or looks for line in each.lines[name] for _, value in line]
            finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
            margin = 0.06 * (max(finite) - min(finite)) or 0.05
            axes.set_ylim(min(finite) - margin, max(finite) + margin)
    return figure


def _lines(axes: Axes, look: Look, name: str) -> None:
    """One panel over the epochs, with the switch to quantization."""
    seeds = look.lines[name]
    for colour, line in zip(plt.get_cmap("viridis")(np.linspace(0, 0.85, len(seeds))), seeds, strict=True):
        axes.plot(*(zip(*line, strict=True) if line else ([], [])), color=colour, marker="o", markersize=2)
    several = {LOSS: f", {len(seeds)} seeds", FAITHFUL: "; green: passed"}.get(name, "") if len(seeds) > 1 else ""
    axes.set_title(f"{name}{several}", loc="left")
    axes.set_xlim(-0.02 * look.epochs, 1.02 * look.epochs)
    axes.set_xlabel("epoch", loc="right", labelpad=0)
    axes.locator_params(axis="x", integer=True, nbins=6)
    if look.switch is not None:
        axes.axvline(look.switch, color=RED, linewidth=0.8, linestyle="--")
        axes.set_title("┆ quantized" if name == LOSS else "", loc="right", color=RED, size=6)


def _png(looks: Sequence[Look], dpi: int, scale: Sequence[Look] = ()) -> bytes:
    figure, buffer = draw(looks, scale), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


class Watched:
    """A cell of a study, looked at from outside, whoever trains it; a record is scored once."""

    def __init__(self, cell: Cell, study: Study):
        self.cell, self.removal_steps = cell, study.clarity.steps
        self.networks = cells.trained(cell, study)
        self.recipe = self.networks[0].recipe
        root = cells.images_root(self.recipe.sample)
        images, classes = data.load(cell.dataset, "validation", root)
        first = cells.watched(classes)
        self.raw, self.labels = images[first], classes[first]
        count = len(data.load(cell.dataset, "train", root)[0])
        self.epoch_steps = math.ceil(count / self.recipe.optimizer.batch_size)
        self.files = [cells.train_network.path(each.recipe, each.seed, each.device) for each in self.networks]
        self.scored: dict[int, dict[str, list[float]]] = {}  # of each record, for one map or both
        self.passed: dict[int, Tensor] = {}
        self.latest: Look | None = None  # shown while a trained network goes into the store
        self._state: list[float] | None = None

    @property
    def finished(self) -> bool:
        """Whether every seed is trained."""
        return all(path.exists() for path in self.files)

    def renewed(self) -> bool:
        """Whether there may be more to see than at the last call: a file was written into their folders."""
        before, self._state = self._state, [path.parent.stat().st_mtime for path in self.files if path.parent.exists()]
        return self._state != before

    def look(self) -> Look | None:
        """What there is to see; None before the first record."""
        histories = [cells.history(each.recipe, each.seed, each.device) for each in self.networks]
        first = histories[0]
        if first is None or not first.steps:
            return self.latest
        processes.in_one_thread(os.getpid(), self._score, first)  # who trains beside needs the other cores
        times = [step / self.epoch_steps for step in first.steps]
        lines = {}
        for title, name in ((LOSS, "loss"), (ACCURACY, "validation_accuracy")):
            lines[title] = [[(epoch["epoch"], epoch[name]) for epoch in seed.epochs] for seed in histories if seed]
        for name in self.scored[first.steps[0]]:
            values = zip(*(self.scored[step][name] for step in first.steps), strict=True)
            lines[labels.question(name)] = [list(zip(times, of_map, strict=True)) for of_map in values]
        self.latest = Look(
            cell=str(self.cell),
            images=self.raw.numpy(),
            names=data.DATASETS[self.cell.dataset].classes,
            times=times,
            maps=np.stack([maps.numpy() for maps in first.maps]),
            passed=np.stack([self.passed[step].numpy() for step in first.steps]),
            lines=lines,
            switch=None if first.switch is None else first.switch / self.epoch_steps,
            epochs=self.recipe.epochs,
        )
        return self.latest

    def _score(self, history: "History") -> None:
        """Score the maps of the records that are new, and pass the gradient through what is clipped."""
        from saqlib.removal import relevance_gain
        from saqlib.saliency import passing, saliency_now

        images = data.as_input(self.raw)
        networks = models.at_steps(self.recipe.precision, self.recipe.shape, vars(history))
        for (step, network), maps in zip(networks, history.maps, strict=True):
            if step in self.scored:
                continue
            with passing(network):
                self.passed[step] = saliency_now(network, images, self.labels)
            both = (maps, self.passed[step]) if self.recipe.quantization else (maps,)
            gains = [relevance_gain(network, images, self.labels, each, self.removal_steps, "mean") for each in both]
            own = [name for name in scores.ANSWERS if name != scores.FAITHFULNESS]
            found = {name: [scores.SCORES[name].function(maps, images)] for name in own}
            found |= {scores.FAITHFULNESS: gains, "amplitude": [scores.amplitude(maps)]}
            self.scored[step] = {name: [float(each.nanmean()) for each in values] for name, values in found.items()}


def panels(study: Study, cells: Sequence[Cell]) -> "Iterator[tuple[Cell, Callable[[Progress], None] | None]]":
    """Each cell, with what train_cell takes as `on_progress` while it trains: None if nobody is looking.

    Shows a bar of epochs over all seeds of the cell; in JupyterLab also the cell as `draw` does, beside the one before,
    renewed in place. What was shown last stays.
    """
    jupyter = "JPY_SESSION_NAME" in os.environ  # a person's session; papermill and nbval do not set this
    if not jupyter and not sys.stderr.isatty():
        yield from ((cell, None) for cell in cells)
        return
    watched, handle = [], None
    if jupyter:
        from IPython.display import HTML, display

        handle = display(HTML(STARTS), display_id=True)
    for cell in cells:
        watched = [*watched[-1:], Watched(cell, study)] if handle else []
        with tqdm(desc=str(cell), unit="epoch", leave=False) as bar:
            yield cell, functools.partial(_renew, bar, handle, watched)


def _renew(bar: tqdm, handle: Any, watched: "Sequence[Watched]", progress: "Progress") -> None:
    """The bar and, where there is more to see, the panel; it shows the last cell until the next one has maps."""
    epochs = [len(history.epochs) for history in progress.histories.values()]
    bar.total, bar.n = progress.seeds * progress.epochs, sum(epochs)
    bar.set_postfix(seeds=f"{epochs.count(progress.epochs)}/{progress.seeds}")
    if watched and watched[-1].renewed() and watched[-1].look():
        from IPython.display import HTML

        handle.update(HTML(PANEL.format(fragment(watched))))


def fragment(watched: Sequence[Watched]) -> str:
    """The cells as HTML: a picture of those with a record, its words, and which others are waited for."""
    looks = [each.look() for each in watched]
    waiting = [str(each.cell) for each, look in zip(watched, looks, strict=True) if look is None]
    parts = [f"<p>Waiting for {' and '.join(waiting)}: the first maps come seconds after training begins.</p>"]
    if shown := [look for look in looks if look]:
        words = "; ".join(f"{look}, focus {look.lines['Focus'][0][-1][1]:.3f}" for look in shown)
        parts.append(_element(_png(shown, DPI), "png", words))
    return "".join([*parts[not waiting :], NOTE])


def _element(content: bytes, kind: str, words: str) -> str:
    """A picture as an element of HTML that holds it."""
    width, height = Image.open(io.BytesIO(content)).size
    alt = html.escape(f"Ten watched images, their saliency maps and curves: {words}")
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<img style="max-width: 100%; height: auto" width="{width}" height="{height}" alt="{alt}" src="{source}">'


def moving(study: Study, *cells: Cell) -> str:
    """How the maps of seed 0 of trained cells came about, side by side: a GIF of at most 13 frames, as HTML.

    Raises ValueError if the store does not hold seed 0 of a cell.
    """
    looks, names = [Watched(cell, study).look() for cell in cells], " and ".join(map(str, cells))
    if None in looks:
        raise ValueError(f"not everything was recorded of {names}; train it first (make reproduce)")
    records = max(len(look.times) for look in looks)
    whole, frames = [look.until(records) for look in looks], []
    for record in sorted({round(i) for i in np.linspace(0, records - 1, min(records, FRAMES))}):
        now = [look.until(min(record, len(look.times) - 1)) for look in looks]
        frames.append(Image.open(io.BytesIO(_png(now, FRAME_DPI, whole))).convert("RGB"))
    # One palette for all frames, that of the last one, so that only what changes is written.
    palette, content = frames[-1].quantize(COLOURS), io.BytesIO()
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    times = [FRAME_MS] * len(others) + [LAST_MS]
    first.save(content, "GIF", save_all=True, append_images=others, duration=times, loop=0, optimize=False)
    return _element(content.getvalue(), "gif", f"{names} while they trained, seed 0")


def follow(study: Study, cells: Sequence[Cell], folder: Path) -> Path:
    """Write the page, renew it until every seed of the cells is trained, and add the animation; the page."""
    watched = [Watched(cell, study) for cell in cells]
    title = " and ".join(map(str, cells))
    page = folder / f"{'+'.join(map(str, cells))}.html"
    print(page.resolve().as_uri(), flush=True)
    while not all(each.finished for each in watched):
        if any([each.renewed() for each in watched]):  # all of them are asked
            files.write(page, PAGE.format(title=title, body=fragment(watched), refresh=REFRESH))
        time.sleep(POLL_SECONDS)
    return files.write(page, PAGE.format(title=title, body=fragment(watched) + moving(study, *cells), refresh=""))


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m study.live", description="Watch cells while they train.")
    parser.add_argument("cells", nargs="+", metavar="CELL", help="such as mnist-w2a2-guided; two stand side by side")
    parser.add_argument("--scale", help="smoke, quick or full; that of params.yaml if left out")
    options = parser.parse_args(arguments)
    with exit_with_message(ParamsError, data.DataError, stopped="Stopped watching; the training goes on."):
        processes.pin_cpu_level()  # as a stage does: what computes is part of the store's names of networks
        study = settings.load(scale=options.scale)
        cells = [study.cell(**vars(Cell.parse(name))) for name in dict.fromkeys(options.cells)]
        follow(study, cells, paths.BUILD / "live")


if __name__ == "__main__":
    main()
