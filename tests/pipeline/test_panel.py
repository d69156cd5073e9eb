"""The panel that a person sees while a cell trains in a notebook, and the command line of its page."""

import io
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest

from saqlib import paths
from saqlib.grid import Cell
from saqlib.pipeline import panel, study
from saqlib.training import cell as training
from saqlib.workers import Engine

CELLS = [Cell("mnist", "fp32", "standard"), Cell("mnist", "w2a2", "standard")]
SMOKE = study.load(scale="smoke")
STUDY = replace(SMOKE, engine=Engine(device="cpu"), size=replace(SMOKE.size, seeds=2, epochs={"mnist": 2}, records=4))


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A store of the test's own."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    return paths.BUILD


def train(cell: Cell, **options) -> None:
    training.train_cell(cell, STUDY.recipe(cell), 2, STUDY.engine, n_jobs=1, **options)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nobody_looking_shows_nothing(monkeypatch, capsys):
    """In a pipeline there is no callback, so train_cell does not even poll, and nothing is printed."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with panel.panel(STUDY, *CELLS) as show:
        assert show is None
    assert sys.stderr.getvalue() == capsys.readouterr().out == ""


def test_in_a_terminal_a_bar_counts_epochs_of_all_seeds(monkeypatch, build):
    """Two seeds of two epochs each."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with panel.panel(STUDY, CELLS[0]) as show:
        train(CELLS[0], on_progress=show)
    assert "4/4" in sys.stderr.getvalue() and "seeds=2/2" in sys.stderr.getvalue()


class Display:
    """What a notebook has shown, one after the other."""

    def __init__(self):
        self.shown = []

    def update(self, html) -> None:
        self.shown.append(html.data)


def test_in_jupyter_two_cells_are_renewed_in_place_and_removed(monkeypatch, build):
    """One display for both, renewed only when there is more to see; nothing is left, also after an error."""
    display = Display()
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(panel, "_display_handle", lambda: display)
    figures = plt.get_fignums()
    with pytest.raises(KeyboardInterrupt):
        with panel.panel(STUDY, *CELLS) as show:
            for cell in CELLS:
                train(cell, on_progress=show)
            last = display.shown[-1]
            show(training.Progress({}, 2, 2))
            assert display.shown[-1] is last, "nothing has changed"
            raise KeyboardInterrupt
    assert last.count("<img") == 2 and all(f'alt="{cell}, seed 0: step' in last for cell in CELLS)
    assert display.shown[-1] == "" and plt.get_fignums() == figures


@pytest.mark.parametrize(
    ("cell", "message"),
    [("mnist-w2a2", "is not a cell"), ("mnist-w2a3-guided", "did you mean 'w2a2'"), ("mnits-w2a2-guided", "'mnist'")],
)
def test_a_cell_that_is_none_is_named(cell, message):
    """One line, and exit code 1."""
    with pytest.raises(SystemExit, match=message):
        panel.main([cell])
