"""What somebody who waits sees while a cell trains: bars over seeds and epochs, and in JupyterLab curves and maps.

Nobody looking (a pipeline, a test, CI) means nothing shown and nothing in the notebook's outputs.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from saqlib.training.cell import Progress

SHOWN = 5  # watched images in the panel


def in_jupyter() -> bool:
    """Whether a person's JupyterLab or Notebook session runs this kernel; papermill and nbval do not set this."""
    return "JPY_SESSION_NAME" in os.environ


def watched() -> bool:
    """Whether anybody is looking: JupyterLab, or a terminal."""
    return in_jupyter() or sys.stderr.isatty()


@contextmanager
def panel(title: str) -> Iterator[Callable[[Progress], None] | None]:
    """Yields what train_cell takes as `on_progress`: None if nobody is looking.

    Shows a bar of epochs over all seeds; in JupyterLab also validation accuracy of every seed, and the maps of a few
    fixed validation images as they stand, redrawn in place and removed at the end.
    """
    if not watched():
        yield None
        return
    display = _display_handle() if in_jupyter() else None
    with tqdm(desc=title, unit="epoch", leave=False) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.seeds * progress.epochs
            bar.n = sum(len(history.epochs) for history in progress.histories.values())
            bar.set_postfix(seeds=f"{_finished(progress)}/{progress.seeds}")
            if display and progress.histories:
                figure = draw(progress, title)
                display.update(figure)
                plt.close(figure)

        yield show


def _display_handle():
    from IPython.display import display

    return display("training starts ...", display_id=True)


def _finished(progress: Progress) -> int:
    return sum(len(history.epochs) == progress.epochs for history in progress.histories.values())


def draw(progress: Progress, title: str) -> Figure:
    """The panel: accuracy curves above, the latest maps of the first watched images below."""
    figure = plt.figure(figsize=(7, 4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
    axes = above.subplots()
    for seed, history in sorted(progress.histories.items()):
        points = [(entry["epoch"], entry["validation_accuracy"]) for entry in history.epochs]
        axes.plot(*zip(*points, strict=True) if points else ([], []), marker="o", label=f"{seed}")
    axes.set(xlim=(0.5, progress.epochs + 0.5), xlabel="epoch", ylabel="validation accuracy (%)", title=title)
    axes.legend(title="seed", loc="lower right", ncols=2)
    maps = next((history for history in progress.histories.values() if history.maps), None)
    if maps is not None:
        title = f"saliency at step {maps.steps[-1]}: |gradient|, each panel to its own maximum"
        below.suptitle(title, fontsize="small")
        for panel_axes, saliency in zip(below.subplots(1, SHOWN), maps.maps[-1], strict=False):
            panel_axes.imshow(saliency.abs(), cmap="gray", interpolation="nearest")
            panel_axes.set_axis_off()
    return figure
