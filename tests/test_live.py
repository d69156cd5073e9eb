"""The panel that a person sees while a cell trains."""

import io
import sys

import torch

from saqlib import live
from saqlib.experiment import Progress
from saqlib.training import History


def _progress() -> Progress:
    epochs = [{"epoch": 1, "validation_accuracy": 81.0}, {"epoch": 2, "validation_accuracy": 84.5}]
    first = History(epochs=epochs, steps=[0, 7], maps=[torch.zeros(10, 28, 28), torch.rand(10, 28, 28)])
    return Progress({0: first, 1: History(epochs=epochs[:1])}, seeds=3, epochs=2)


def test_nobody_looking_shows_nothing(monkeypatch, capsys):
    """In a pipeline there is no callback, so train_cell does not even poll, and nothing is printed."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with live.panel("mnist-fp32-standard") as show:
        assert show is None


def test_the_bar_counts_epochs_of_all_seeds(monkeypatch):
    """Three epochs of six are done and one seed of three is finished."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    with live.panel("mnist-fp32-standard") as show:
        show(_progress())
    assert "3/6" in terminal.getvalue()
    assert "seeds=1/3" in terminal.getvalue()


def test_the_drawing_has_a_curve_a_seed_and_the_latest_maps():
    """Curves are the accuracies given; the maps are those of the last record, not the first."""
    progress = _progress()
    figure = live.draw(progress, "title")
    curves, maps = figure.subfigs
    assert [list(line.get_ydata()) for line in curves.axes[0].lines] == [[81.0, 84.5], [81.0]]
    shown = torch.tensor(maps.axes[0].images[0].get_array().data)
    torch.testing.assert_close(shown, progress.histories[0].maps[-1][0])
    assert len(maps.axes) == live.SHOWN
