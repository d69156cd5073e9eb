"""Two trained cells on the sample, scored once for all tests that look at scores."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import xarray as xr
from joblib.externals import loky

from saqlib import paths
from saqlib.clarity.cell import score_cell
from saqlib.grid import Cell
from saqlib.pipeline import study
from saqlib.training.cell import save_cell, train_cell

CELLS = FP32, W2A2 = Cell("mnist", "fp32", "standard"), Cell("mnist", "w2a2", "standard")
SMOKE = study.load(scale="smoke")
SEEDS, IMAGES, EXPENSIVE = 2, 50, 4
SCORING = replace(SMOKE.scoring, images=IMAGES, images_expensive=EXPENSIVE)


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Iterator[Path]:
    """A folder with the models of both cells; to be looked at only."""
    folder = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", folder / "build")
        for cell in CELLS:
            recipe = SMOKE.recipe(cell)
            save_cell(cell, train_cell(cell, recipe, SEEDS, SMOKE.engine, n_jobs=1), recipe, folder)
    yield folder
    loky.get_reusable_executor().shutdown(wait=True)  # the pool of joblib stays alive for minutes if nobody ends it


@pytest.fixture(scope="session")
def scored(root) -> dict[Cell, xr.Dataset]:
    """Both cells, scored; to be looked at only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", root / "build")
        return {cell: score_cell(cell, SCORING, SEEDS, SMOKE.engine, root, n_jobs=1) for cell in CELLS}
