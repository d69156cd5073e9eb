"""Tests of saqlib.evidence.during: the frame of all courses, its faithfulness, and what stands around the switch."""

import numpy as np
import pandas as pd
import pytest

from saqlib import files
from saqlib.evidence.during import around_the_switch, collect_during
from saqlib.evidence.reading import MissingError
from saqlib.grid import Cell, Grid
from saqlib.names import FILLS
from tests.evidence.written import write_fills

GRID = Grid(("mnist",), ("fp32", "w2a2"), ("standard", "guided"))


def write(root, cell: Cell, switch: float) -> pd.DataFrame:
    """Four records of a cell; the fills' gains are 1 to 4 hundredths, and their errors a tenth of that."""
    frame = pd.DataFrame({"step": [0, 5, 10, 15], "switch": switch, "accuracy": [10.0, 50.0, 80.0, 90.0]})
    for place, fill in enumerate(FILLS, 1):
        frame[f"relevance_gain_{fill}"], frame[f"relevance_gain_{fill}_se"] = 0.01 * place, 0.001 * place
    files.write(root / "results" / "during" / f"{cell}.csv", files.csv(frame))
    return frame


@pytest.fixture
def root(tmp_path):
    """All cells of a small grid; every fill but zero qualifies."""
    for cell in GRID.cells:
        write(tmp_path, cell, np.nan if cell.precision == "fp32" else 7)
    write_fills(tmp_path, "mnist")
    return tmp_path


def test_every_cell_is_there_with_its_keys_first(root):
    """One row per cell and step; what the files say is left as it is."""
    found = collect_during(GRID, root)
    assert list(found)[:6] == ["dataset", "training", "precision", "step", "switch", "accuracy"]
    assert len(found) == 16 and not found.duplicated(["dataset", "training", "precision", "step"]).any()
    assert found[found.precision == "w2a2"].switch.eq(7).all() and found[found.precision == "fp32"].switch.isna().all()


def test_faithfulness_is_the_mean_of_the_fills_that_qualify(root):
    """And its error is not made smaller by the number of fills, which see the same images."""
    found = collect_during(GRID, root)
    assert found.faithfulness.tolist() == pytest.approx([0.03] * 16)
    assert found.faithfulness_se.tolist() == pytest.approx([0.003] * 16)
    write_fills(root, "mnist", qualifying=("zero", "mean"))
    assert collect_during(GRID, root).faithfulness.tolist() == pytest.approx([0.015] * 16)
    write_fills(root, "mnist", qualifying=())
    assert collect_during(GRID, root).faithfulness.isna().all()


def test_around_the_switch_are_the_last_row_before_it_and_the_last_of_all(root):
    """For full precision at the steps of the cells beside it."""
    found = around_the_switch(collect_during(GRID, root)).set_index(["training", "precision", "when"])
    assert len(found) == 8
    for training in GRID.trainings:
        for precision in GRID.precisions:
            assert found.loc[(training, precision, "before"), "step"] == 5
            assert found.loc[(training, precision, "end"), "step"] == 15


def test_a_record_at_the_switch_is_quantized(tmp_path):
    """`before` means before it: the record of that very step is not."""
    write_fills(tmp_path, "mnist")
    for cell in GRID.cells:
        write(tmp_path, cell, np.nan if cell.precision == "fp32" else 5)
    found = around_the_switch(collect_during(GRID, tmp_path))
    assert found[found.when == "before"].step.eq(0).all()


def test_full_precision_alone_never_switches(tmp_path):
    """A grid without quantized cells has an end and nothing before it."""
    grid = Grid(("mnist",), ("fp32",), ("standard",))
    write_fills(tmp_path, "mnist")
    write(tmp_path, grid.cells[0], np.nan)
    assert around_the_switch(collect_during(grid, tmp_path)).when.tolist() == ["end"]


def test_a_missing_file_is_named_with_its_stage(root):
    """The stage that writes it is clarity's."""
    (root / "results" / "during" / "mnist-w2a2-guided.csv").unlink()
    with pytest.raises(MissingError, match="clarity@mnist-w2a2-guided"):
        collect_during(GRID, root)
