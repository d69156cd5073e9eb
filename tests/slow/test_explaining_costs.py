"""What the measurement of explaining in real time counts: nothing here is about how long it takes."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import explaining, timing
from study import settings as study
from study.settings import Cell, Study


@pytest.fixture(scope="module")
def smoke() -> Study:
    """The smallest training, on the committed sample."""
    return study.load(scale="smoke")


def test_share_is_that_of_all_looks_in_all_steps():
    """25 looks of .2 s beside 1,720 steps of 5 ms, which are timed four at once: 5 s to 8.6 s."""
    clocks = {"panel": np.array([0.2, 0.2]), "step": np.array([0.02, 0.02])}
    row = explaining._row("", "fp32", "guided", timing.Times(clocks, clocks), "panel", "step", 4 * 25 / 1720)
    assert row["value"] == row["by_processor_time"] == pytest.approx(5 / 8.6, abs=1e-3)
    assert (row["unit"], row["repeats"]) == ("share", 2)


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_accuracy_is_that_of_the_network_that_is_asked_for(smoke, precision, monkeypatch):
    """Few bits are looked up from the switch on, so that no network of the warm-up answers; then the training ends."""
    looked_up = []

    def accuracy(network, images, labels):
        looked_up.append(network.act1.quantizing if precision == "w2a2" else None)
        return 98.7 if len(looked_up) == 1 else 99.0

    monkeypatch.setattr(explaining, "accuracy", accuracy)
    seconds = explaining.seconds_until(smoke.recipe(Cell("mnist", precision, "standard")), 0)
    assert looked_up == [True, True] if precision == "w2a2" else [None, None]
    assert set(seconds) == {98.5, 99.0} and 0 < seconds[98.5][0] < seconds[99.0][0]


def test_every_row_is_written_with_the_machine(smoke, monkeypatch, tmp_path):
    """One round at the smallest scale; no network reaches 99 % there, and its row says so by what it leaves open."""
    monkeypatch.setattr(explaining, "FILE", tmp_path / "explaining.csv")
    monkeypatch.setattr(timing, "WARM_UP", 0)
    rows = explaining.rows(smoke, 1)
    table = pd.read_csv(explaining.FILE)
    assert list(table) == [*rows[0], "machine"] and len(table) == len(rows) == 26
    timed = table[table.unit != "seconds"]
    assert (timed[["value", "low", "high"]].to_numpy() > 0).all()
    assert table.value[table.what.str.contains("0 of 1")].isna().all()
    assert table.machine.str.contains("torch").all()
