"""What the tests of evidence share."""

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from saqlib.grid import Cell
from saqlib.pipeline import study
from tests.evidence.written import write_cell


@pytest.fixture(autouse=True, scope="module")
def quick_garbage_collection() -> Iterator[None]:
    """Set the libraries' objects aside: the Holm correction of statsmodels collects garbage at every call."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def grid(tmp_path_factory) -> tuple[Path, dict[Cell, xr.Dataset]]:
    """A folder with the files of all 16 cells, and their scores by cell; to be looked at only."""
    root, rng = tmp_path_factory.mktemp("grid"), np.random.default_rng(0)
    return root, {cell: write_cell(root, cell, rng) for cell in study.load().grid.cells}
