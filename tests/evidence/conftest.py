"""What the tests of evidence share."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from saqlib.grid import Cell
from saqlib.pipeline import study
from tests.evidence.written import write_cell


@pytest.fixture(scope="session")
def grid(tmp_path_factory) -> tuple[Path, dict[Cell, xr.Dataset]]:
    """A folder with the files of all 16 cells, and their scores by cell; to be looked at only."""
    root, rng = tmp_path_factory.mktemp("grid"), np.random.default_rng(0)
    return root, {cell: write_cell(root, cell, rng) for cell in study.load().grid.cells}
