"""A cell deployed from its model file, through the store: verified once, and the same files ever after."""

from pathlib import Path

import numpy as np
import pytest
import torch

from saqlib import files, paths, stored
from saqlib.deployment import cell as cells
from saqlib.deployment import seed
from saqlib.grid import Cell
from saqlib.network.initial import build
from tests.trained import network, sample

CELL = Cell("mnist", "w2a2", "standard")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder with a model file of two seeds, and a store of its own."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    trained = network("w2a2")
    states = {0: trained.state_dict(), 1: build(trained.precision, shape=trained.shape, seed=1).state_dict()}
    stored.write_cell(CELL, trained.precision, trained.shape, states, {}, tmp_path)
    return tmp_path


@pytest.fixture
def checked(monkeypatch) -> list[torch.Tensor]:
    """The images on which networks are verified, as they come."""
    images, verify = [], seed.verify
    monkeypatch.setattr(seed, "verify", lambda *given: images.append(given[2]) or verify(*given))
    return images


def written(root: Path) -> dict[str, bytes]:
    """What lies in results/models."""
    return {path.name: path.read_bytes() for path in (root / "results" / "models").iterdir()}


def test_a_cell_is_reported_from_its_model_file(root, checked):
    """Seed 0 of the model file below the root becomes the files in results/models, checked on so many test images."""
    row = cells.report_cell(CELL, True, 40, root)
    (images,) = checked
    np.testing.assert_array_equal(images, sample("test")[0][:40])
    expected = seed.deploy(network("w2a2"), CELL, root / "expected")
    assert written(root).keys() == {path.name for path in expected.values()} | {f"{CELL}.pt"}
    for path in expected.values():
        assert written(root)[path.name] == path.read_bytes()
    assert row["packed_file_bytes"] == expected["packed"].stat().st_size < row["qcdq_file_bytes"]


def test_a_network_is_verified_once(root, checked):
    """What the store holds gives the same row, in the same order, and the same bytes."""
    row, first = cells.report_cell(CELL, True, 40, root), written(root)
    for path in (root / "results" / "models").iterdir():
        path.unlink()
    again = cells.report_cell(CELL, True, 40, root)
    assert list(again.items()) == list(row.items()) and written(root) == first and len(checked) == 1


@pytest.mark.parametrize("what", ["weights", "images", "name"])
def test_another_network_is_verified_anew(what, root, checked):
    """Another weight, more images to check, or a cell's name, which stands in the files."""
    cells.report_cell(CELL, True, 40, root)
    cell, images, path = CELL, 40, root / "models" / f"{CELL}.pt"
    if what == "weights":
        content = files.read_torch(path)
        content["seeds"][0]["conv2.weight"][0] *= -1
        files.write_torch(path, content)
    elif what == "images":
        images = 41
    else:
        cell = Cell("mnist", "w2a2", "guided")
        files.write_torch(root / "models" / f"{cell}.pt", files.read_torch(path) | {"cell": str(cell)})
    cells.report_cell(cell, True, images, root)
    assert len(checked) == 2


def test_a_network_that_its_files_are_not_leaves_no_file(root, monkeypatch):
    """Neither in results nor in the store: what lies there is verified."""

    def verify(*_):
        raise seed.DeploymentError("the class of 3 images")

    monkeypatch.setattr(seed, "verify", verify)
    with pytest.raises(seed.DeploymentError):
        cells.report_cell(CELL, True, 40, root)
    assert written(root).keys() == {f"{CELL}.pt"} and not (root / "build").exists()
    assert not list(root.rglob("*.onnx"))


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: b"", lambda content: b"text"])
def test_a_damaged_file_of_the_store_is_put_aside(damage, root, checked):
    """And the network deployed anew."""
    row, first = cells.report_cell(CELL, True, 40, root), written(root)
    (path,) = (root / "build").rglob(f"{CELL}.pt")
    path.write_bytes(damage(path.read_bytes()))
    assert cells.report_cell(CELL, True, 40, root) == row and written(root) == first and len(checked) == 2
    assert path.with_name(f"{path.name}.damaged").exists()
