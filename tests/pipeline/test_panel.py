"""The panel that a person sees while a cell trains."""

import io
import sys

import matplotlib.pyplot as plt
import torch

from saqlib.pipeline import panel
from saqlib.training.cell import Progress
from saqlib.training.loop import History


def _progress() -> Progress:
    epochs = [{"epoch": 1, "validation_accuracy": 81.0}, {"epoch": 2, "validation_accuracy": 84.5}]
    first = History(epochs=epochs, steps=[0, 7], maps=[torch.zeros(10, 28, 28), torch.rand(10, 28, 28)])
    return Progress({0: first, 1: History(epochs=epochs[:1])}, seeds=3, epochs=2)


def test_nobody_looking_shows_nothing(monkeypatch, capsys):
    """In a pipeline there is no callback, so train_cell does not even poll, and nothing is printed."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with panel.panel("mnist-fp32-standard") as show:
        assert show is None
    assert sys.stderr.getvalue() == capsys.readouterr().out == ""


def test_the_bar_counts_epochs_of_all_seeds(monkeypatch):
    """Three epochs of six are done and one seed of three is finished."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    with panel.panel("mnist-fp32-standard") as show:
        show(_progress())
    assert "3/6" in terminal.getvalue()
    assert "seeds=1/3" in terminal.getvalue()


def test_the_drawing_has_a_curve_for_each_seed_and_the_latest_maps():
    """Curves are the accuracies given; the maps are those of the last record, not the first."""
    progress = _progress()
    figure = panel.draw(progress, "title")
    curves, maps = figure.subfigs
    assert [list(line.get_ydata()) for line in curves.axes[0].lines] == [[81.0, 84.5], [81.0]]
    shown = torch.tensor(maps.axes[0].images[0].get_array().data)
    torch.testing.assert_close(shown, progress.histories[0].maps[-1][0])
    assert len(maps.axes) == panel.SHOWN
    plt.close(figure)


def test_the_drawing_begins_before_the_first_epoch_is_over():
    """A seed that has just started is a curve without points, and no maps, not an error."""
    figure = panel.draw(Progress({0: History()}, seeds=3, epochs=2), "title")
    curves, maps = figure.subfigs
    assert [len(line.get_ydata()) for line in curves.axes[0].lines] == [0]
    assert not maps.axes
    plt.close(figure)


def test_in_jupyter_the_drawing_is_renewed_in_place(monkeypatch):
    """One display, a new figure for each report that has something to draw, and no figure is left open."""

    class Display:
        def __init__(self):
            self.figures = []

        def update(self, figure):
            self.figures.append(figure)

    display = Display()
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(panel, "_display_handle", lambda: display)
    before = plt.get_fignums()
    with panel.panel("mnist-fp32-standard") as show:
        show(Progress({}, seeds=3, epochs=2))
        assert not display.figures
        show(_progress())
        show(_progress())
    assert len(display.figures) == 2
    assert plt.get_fignums() == before
