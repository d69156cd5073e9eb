"""The files of the stages, read back, or named where they are missing or damaged."""

import pytest
import xarray as xr

from saqlib.evidence import reading
from saqlib.grid import Cell
from tests.evidence.written import QUALIFYING, write_fills

CELL = Cell("mnist", "w4a4", "standard")


@pytest.mark.parametrize(
    ("read", "file", "stage"),
    [(reading.report, "results/runs/{}.json", "train"), (reading.scores, "scores/{}.nc", "clarity")],
    ids=["report", "scores"],
)
@pytest.mark.parametrize("cell", [Cell("mnist", "w2a2", "guided"), "mnist-w2a2-guided"], ids=["cell", "name"])
def test_a_missing_file_names_its_stage(read, file, stage, cell, tmp_path):
    """What is missing and which stage writes it stand in the message."""
    with pytest.raises(reading.MissingError, match=f"{file.format(cell)} does not exist.*{stage}@mnist-w2a2-guided"):
        read(cell, tmp_path)


def test_scores_are_read_as_they_were_written(grid):
    """Every array, with its dimensions and labels; the file may be moved away afterwards."""
    root, scores = grid
    found = reading.scores(CELL, root)
    xr.testing.assert_equal(found, scores[CELL])
    assert {name: array.dims for name, array in found.items()} == {n: a.dims for n, a in scores[CELL].items()}


def test_report_is_read_as_it_is(grid):
    """Accuracies and histories of every seed, under the cell's name."""
    found = reading.report(CELL, grid[0])
    assert found["cell"] == str(CELL) and list(found["seeds"]) == ["0", "1", "2"]
    assert [epoch["epoch"] for epoch in found["seeds"]["1"]["history"]] == [1, 2]
    assert found["seeds"]["1"]["history"][1]["validation_accuracy"] == 92.0


def test_the_fills_that_qualify_are_read_in_order(grid, tmp_path):
    """Those of a dataset, of all or of none; a dataset that was not looked at is named with its stage."""
    assert reading.fills("mnist", grid[0]) == QUALIFYING
    for qualifying in (("zero", "blur"), ()):
        write_fills(tmp_path, "mnist", qualifying)
        assert reading.fills("mnist", tmp_path) == qualifying
    with pytest.raises(reading.MissingError, match="fills/fashion_mnist.csv does not exist.*fills@fashion_mnist"):
        reading.fills("fashion_mnist", tmp_path)


KINDS = {
    "results/runs/mnist-w4a4-standard.json": (lambda root: reading.report(CELL, root), "train@mnist-w4a4-standard"),
    "scores/mnist-w4a4-standard.nc": (lambda root: reading.scores(CELL, root), "clarity@mnist-w4a4-standard"),
    "results/during/mnist-w4a4-standard.csv": (lambda root: reading.during(CELL, root), "clarity@mnist-w4a4-standard"),
    "results/fills/mnist.csv": (lambda root: reading.fills("mnist", root), "fills@mnist"),
    "results/ablations/long.csv": (lambda root: reading.ablation("long", root), "ablate@long"),
}


@pytest.mark.parametrize("file", KINDS)
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"[]", b'{"cell": "mn', b"a,b\n1\n2,3,4\n", b"a,b\n1,2\n"])
def test_a_damaged_file_names_its_stage(file, content, tmp_path):
    """Empty, cut, foreign or of another form: which file, and what writes it again."""
    read, stage = KINDS[file]
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(reading.MissingError, match=f"{file} is not what its stage wrote .*dvc repro {stage}"):
        read(tmp_path)
