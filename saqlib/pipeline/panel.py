"""Explanations in real time: what networks look at while they train.

    python -m saqlib.pipeline.panel CELL [CELL] [--scale SCALE]

writes a page that renews itself, build/panel/<cells>.html, from the store that `dvc repro` or a cluster fills, and ends
with the training: the page then stands still, and beside it lies an animation, <cells>.gif. Ctrl-C ends it earlier.

In JupyterLab `panel` shows the same below a cell, and removes it at the end. Nobody looking (a pipeline, a test, CI)
means nothing shown and nothing in the notebook's outputs.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from saqlib import paths
from saqlib.errors import told
from saqlib.grid import Cell
from saqlib.params import ParamsError
from saqlib.pipeline import instructions, study
from saqlib.pipeline.study import Study

if TYPE_CHECKING:  # it loads PyTorch, which the command does once its instructions are pinned
    from saqlib.training.cell import Progress


def in_jupyter() -> bool:
    """Whether a person's JupyterLab or Notebook session runs this kernel; papermill and nbval do not set this."""
    return "JPY_SESSION_NAME" in os.environ


def watched() -> bool:
    """Whether anybody is looking: JupyterLab, or a terminal."""
    return in_jupyter() or sys.stderr.isatty()


@contextmanager
def panel(settings: Study, *cells: Cell) -> Iterator[Callable[["Progress"], None] | None]:
    """Yields what train_cell takes as `on_progress`: None if nobody is looking.

    Shows a bar of epochs over all seeds; in JupyterLab also each of the cells as `look` draws it, side by side, renewed
    in place. All of it is removed at the end.
    """
    if not watched():
        yield None
        return
    from saqlib.pipeline.pages import fragment
    from saqlib.pipeline.watching import Watched

    display = _display_handle() if in_jupyter() else None
    looked_at, shown = [Watched(cell, settings) for cell in cells] if display else [], None
    with tqdm(desc=" and ".join(map(str, cells)), unit="epoch", leave=False) as bar:

        def show(progress: "Progress") -> None:
            nonlocal shown
            bar.total = progress.seeds * progress.epochs
            bar.n = sum(len(history.epochs) for history in progress.histories.values())
            bar.set_postfix(seeds=f"{_finished(progress)}/{progress.seeds}")
            state = [each.state for each in looked_at]
            if display and state != shown:
                shown = state
                display.update(_html(fragment(looked_at)))

        try:
            yield show
        finally:
            if display:
                display.update(_html(""))


def _display_handle():
    from IPython.display import display

    return display(_html("training starts ..."), display_id=True)


def _html(text: str):
    from IPython.display import HTML

    return HTML(text)


def _finished(progress: "Progress") -> int:
    return sum(len(history.epochs) == progress.epochs for history in progress.histories.values())


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.pipeline.panel", description=__doc__.splitlines()[0])
    parser.add_argument("cells", nargs="+", metavar="CELL", help="such as mnist-w2a2-guided; two stand side by side")
    parser.add_argument("--scale", help="smoke, quick or full; that of params.yaml if left out")
    options = parser.parse_args(arguments)
    instructions.pin()  # as a stage does: what computes is part of the name under which the store keeps networks
    from saqlib.data.images import DataError
    from saqlib.pipeline.pages import follow

    with told(ParamsError, DataError, stopped="Stopped watching; the training goes on without."):
        settings = study.load(scale=options.scale)
        named = [Cell.parse(name) for name in options.cells]
        cells = [settings.cell(cell.dataset, cell.precision, cell.training) for cell in named]
        follow(settings, list(dict.fromkeys(cells)), paths.BUILD / "panel")


if __name__ == "__main__":
    main()
