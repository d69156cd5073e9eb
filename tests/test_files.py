"""Tests of saqlib.files: whole or not at all, whatever goes wrong, and the same bytes each time."""

import errno
import io
import itertools
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saqlib import files, paths

DATASET = xr.Dataset(
    {
        "count": ("image", np.array([1, -2, 2**31 - 1])),
        "score": (("image", "seed"), np.array([[0.1, np.nan], [-np.inf, 1e-300], [0.0, -0.0]])),
        "single": ("image", np.array([0.1, np.nan, 3], np.float32)),
        "dead": ("image", np.array([True, False, True])),
        "pixel": ("image", np.array([0, 128, 255], np.uint8)),
        "word": ("image", np.array(["", "é ≥", "two words"])),
    },
    {"image": [7, 5, 9], "seed": ["first", "second"]},
    {"cell": "mnist-w2a2-guided"},
)


# ------------------------------------------------------------------------------------------------------- one writer


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """When the move fails, the old content stays and no temporary file passes for the new one."""
    path = files.write(tmp_path / "deep" / "table.csv", "old\n")
    assert path.read_text() == "old\n"
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write(path, "new\n")
    assert path.read_text() == "old\n"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


class FailingFile(io.FileIO):
    """A file on a disk that has room for 10 bytes more, or in whose writing somebody presses Ctrl-C."""

    error: BaseException

    def write(self, content) -> int:
        super().write(bytes(content)[:10])
        raise self.error


def failing(error: BaseException):
    """In place of `open`: a file that it makes fails in the middle of a write."""

    def opened(path, mode):
        file = FailingFile(path, mode)
        file.error = error
        return io.BufferedWriter(file)

    return opened


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
WRITERS = {
    "text": lambda path: files.write(path, "new\n" * 9),
    "bytes": lambda path: files.write(path, bytes(100_000)),  # more than a buffer holds: the disk is met at once
    "torch": lambda path: files.write_torch(path, {"weights": torch.zeros(9)}),
    "dataset": lambda path: files.write_dataset(path, DATASET),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("before", [None, "old\n"])
def test_whatever_goes_wrong_nothing_half_written_is_left(tmp_path, monkeypatch, writer, error, step, before):
    """At every step, by every writer: the error is told, what was there stays, and the next call succeeds."""
    path = tmp_path / "there"
    if before is not None:
        path.write_text(before)

    def fail(*_):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
        if step == "write":
            patch.setattr(files, "open", failing(error), raising=False)
        else:
            patch.setattr(files.os, step, fail)
        WRITERS[writer](path)
    assert caught.value is error or caught.value.args == (error.errno, error.strerror)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == ([] if before is None else [("there", before)])
    assert WRITERS[writer](path) == path
    assert [p.name for p in tmp_path.iterdir()] == ["there"] and path.stat().st_size > 10


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    """The system's own error reaches the caller, and nothing stays behind."""

    class Full(io.FileIO):
        """Made where it is asked for, and written to the device."""

        def write(self, content):
            with open("/dev/full", "wb", buffering=0) as device:
                return device.write(content)

    monkeypatch.setattr(files, "open", lambda path, mode: io.BufferedWriter(Full(path, mode)), raising=False)
    with pytest.raises(OSError) as caught:
        files.write(tmp_path / "table.csv", "new\n")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "table.csv"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refused", ["folder", "file above", "name"])
def test_what_the_system_refuses_names_the_file(tmp_path, refused):
    """Not the temporary one, whose name helps nobody."""
    path = {
        "folder": tmp_path / "there",
        "file above": tmp_path / "file" / "deep" / "a.csv",
        "name": tmp_path / ("a" * 300),
    }[refused]
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        files.write(path, "x")
    assert str(path).startswith(str(caught.value.filename2 or caught.value.filename))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "there"]


@pytest.mark.parametrize("content", [None, 3, ["a"]])
def test_what_cannot_be_written_leaves_nothing(tmp_path, content):
    """Neither text nor bytes: an error of the programmer, and no file."""
    with pytest.raises(TypeError):
        files.write(tmp_path / "a", content)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_making_is_known_by_its_name(tmp_path, monkeypatch):
    """It stands in the same folder, hidden, and ends in PARTIAL: nobody takes it for a result."""
    seen = []
    move = os.replace
    monkeypatch.setattr(files.os, "replace", lambda old, new: (seen.append(old), move(old, new)))
    files.write(tmp_path / "table.csv", "x")
    (temporary,) = seen
    assert temporary.parent == tmp_path
    assert temporary.name.startswith(".") and temporary.suffix == files.PARTIAL


def test_content_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    """After a power failure a file is the old one or the new one, never one of 0 bytes."""
    steps = []
    move = os.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: steps.append(os.fstat(handle).st_size))
    monkeypatch.setattr(files.os, "replace", lambda old, new: (steps.append("named"), move(old, new)))
    files.write(tmp_path / "a", b"12345")
    assert steps == [5, "named"]


def test_what_a_killed_writer_has_left_is_swept(tmp_path, monkeypatch):
    """Below the folder, and nothing else: not a file whose name only looks like it."""
    kept = [files.write(tmp_path / name, "x") for name in ("a.csv", "deep/b.partial", "deep/.c")]
    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process removes nothing
        patch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(SystemError()))
        files.write(tmp_path / "deep" / "a.csv", "y")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4
    files.sweep(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_a_reader_of_the_old_file_reads_it_to_its_end(tmp_path):
    """Who has opened the file keeps what was there; who opens it afterwards gets the new one whole."""
    path = files.write(tmp_path / "a", "old\n")
    with path.open() as reader:
        files.write(path, "new\n")
        assert (reader.read(), path.read_text()) == ("old\n", "new\n")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_rights_are_those_that_the_umask_leaves(tmp_path, umask):
    """Not those of a temporary file, and no more than the person gives."""
    before = os.umask(umask)
    try:
        path = files.write(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_system_without_rights_is_written_to(tmp_path, monkeypatch):
    """Some (CIFS, FUSE) refuse chmod; nothing here needs it."""
    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(os, name, lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert files.write(tmp_path / "a", b"x").read_bytes() == b"x"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    """A result that DVC has linked into its cache is written anew; what it pointed to stays."""
    (tmp_path / "cache").write_text("old")
    (tmp_path / "a").symlink_to(tmp_path / "cache")
    files.write(tmp_path / "a", "new")
    assert not (tmp_path / "a").is_symlink() and (tmp_path / "a").read_text() == "new"
    assert (tmp_path / "cache").read_text() == "old"


def test_io_is_utf8(tmp_path):
    """Arrows and names with accents survive."""
    path = files.write(tmp_path / "a.md", "↑ é\n")
    assert path.read_bytes().decode() == "↑ é\n"


@given(st.binary())
def test_bytes_are_written_as_they_are(tmp_path_factory, content):
    """No line ending is changed, nothing is added."""
    path = tmp_path_factory.getbasetemp() / "bytes"
    assert files.write(path, content).read_bytes() == content


# --------------------------------------------------------------------------------------------------------------- csv


def test_csv_is_what_it_is_said_to_be():
    """A header, a comma between, a line feed behind each row, no index; 8 significant digits; nothing for NaN."""
    frame = pd.DataFrame(
        {"cell": ["a", "é, b"], "count": [1, 2], "value": [1 / 3, np.nan], "flag": [True, False], "big": [1e10, 1e-10]},
        index=[5, 6],
    )
    assert files.csv(frame) == 'cell,count,value,flag,big\na,1,0.33333333,True,1e+10\n"é, b",2,,False,1e-10\n'


@given(hnp.arrays(np.float64, st.integers(1, 5), elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_csv_keeps_eight_digits(values):
    """Read back, every number is within half a unit of its eighth digit, and what was rounded stays as it is."""
    text = files.csv(pd.DataFrame({"value": values}))
    read = np.array([float(line) for line in text.splitlines()[1:]])
    assert np.allclose(read, values, rtol=0.5000001e-7, atol=5e-324)
    assert files.csv(pd.DataFrame({"value": read})) == text


def test_csv_does_not_see_the_last_digits():
    """A sum taken in another order is the same text."""
    orders = itertools.permutations((0.1, 0.2, 0.3, 1e-9))
    assert len({files.csv(pd.DataFrame({"sum": [sum(order)]})) for order in orders}) == 1


# ------------------------------------------------------------------------------------------------------------- torch


def test_what_torch_saves_is_what_torch_reads(tmp_path):
    """Tensors and plain values, without a pickle of anything else; the same bytes each time."""
    content = {"weights": torch.arange(6.0).view(2, 3), "name": "é", "seeds": {0: torch.tensor([1, 2])}}
    path = files.write_torch(tmp_path / "deep" / "a.pt", content)
    read = torch.load(path, weights_only=True)
    assert read.keys() == content.keys() and read["name"] == "é"
    assert torch.equal(read["weights"], content["weights"]) and torch.equal(read["seeds"][0], content["seeds"][0])
    assert files.write_torch(tmp_path / "b.pt", content).read_bytes() == path.read_bytes()


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


TENSORS = {"weights": torch.arange(60.0).view(6, 10), "name": "é", "seeds": {0: torch.tensor([1, 2])}}


def same(one, other) -> bool:
    """Whether two contents of a file of tensors are equal."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@given(st.data())
def test_no_flipped_bit_is_read_as_a_number(tmp_path_factory, data):
    """Wherever it is: the file is refused, or what it holds is what was written (a bit that nobody reads)."""
    path = files.write_torch(tmp_path_factory.getbasetemp() / "bit.pt", TENSORS)
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    path.write_bytes(flipped(content, bit))
    try:
        found = files.read_torch(path)
    except files.DamagedError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert same(found, TENSORS)


@given(st.binary(max_size=300) | st.integers(0, 2**20))
def test_what_is_no_file_of_tensors_is_refused(tmp_path_factory, content):
    """Any bytes, and a file cut anywhere."""
    path = files.write_torch(tmp_path_factory.getbasetemp() / "foreign.pt", TENSORS)
    whole = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: content % len(whole)])
    with pytest.raises(files.DamagedError):
        files.read_torch(path)


def test_a_packed_archive_is_no_file_of_tensors(tmp_path):
    """A few bytes could be unpacked to gigabytes."""
    path = files.write_torch(tmp_path / "a.pt", TENSORS)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(files.DamagedError, match="a packed entry"):
        files.read_torch(tmp_path / "b.pt")


def test_a_missing_file_is_missing_and_not_damaged(tmp_path):
    """The system's own error, with the name."""
    for read in (files.read_torch, files.read_dataset):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "a")


# ---------------------------------------------------------------------------------------------------------- datasets


def test_a_dataset_comes_back_with_its_labels(tmp_path):
    """Every value and label, NaN, infinities, the sign of zero and empty words included; types as far as they exist."""
    read = files.read_dataset(files.write_dataset(tmp_path / "deep" / "a.nc", DATASET))
    xr.testing.assert_identical(read, DATASET)
    assert np.array_equal(np.signbit(read.score), np.signbit(DATASET.score))
    expected = {"count": "int32", "score": "float64", "single": "float32", "dead": "bool", "pixel": "int16"}
    assert {name: str(read[name].dtype) for name in expected} == expected
    assert read.word.values.tolist() == ["", "é ≥", "two words"]


def test_a_dataset_has_the_same_bytes_each_time(tmp_path):
    """Results can be compared by their bytes, those of a dataset that was read from a file, too."""
    first = files.write_dataset(tmp_path / "a.nc", DATASET)
    assert files.write_dataset(tmp_path / "b.nc", DATASET.copy(deep=True)).read_bytes() == first.read_bytes()
    again = [files.write_dataset(tmp_path / name, files.read_dataset(first)).read_bytes() for name in ("c.nc", "d.nc")]
    assert again[0] == again[1]


def test_a_dataset_has_the_same_bytes_in_another_process(tmp_path):
    """Whatever the order in which Python keeps its sets there."""
    code = "import sys, pathlib, tests.test_files as t; t.files.write_dataset(pathlib.Path(sys.argv[1]), t.DATASET)"
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, tmp_path / seed], cwd=paths.ROOT, env=environment, check=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_writing_changes_nothing_of_the_dataset(tmp_path):
    """The bytes of an image are still bytes for who goes on with them."""
    before = DATASET.copy(deep=True)
    files.write_dataset(tmp_path / "a.nc", DATASET)
    xr.testing.assert_identical(DATASET, before)
    assert DATASET.pixel.dtype == np.uint8


def test_a_dataset_is_in_memory_once_it_is_read(tmp_path):
    """The file may go."""
    path = files.write_dataset(tmp_path / "a.nc", DATASET)
    read = files.read_dataset(path)
    path.unlink()
    xr.testing.assert_identical(read, DATASET)


def test_what_was_read_can_be_changed_and_written(tmp_path):
    """Halves in place of whole numbers, more images, longer words: nothing is forced into the first file's types."""
    read = files.read_dataset(files.write_dataset(tmp_path / "a.nc", DATASET))
    changed = read.copy()
    changed["count"] = read["count"].copy(data=np.array([0.5, 1.5, 1e12]))
    changed["pixel"] = read["pixel"].copy(data=np.array([70_000, -1, 0]))
    longer = xr.concat([changed, changed.assign(word=("image", ["a much longer word"] * 3))], "image")
    again = files.read_dataset(files.write_dataset(tmp_path / "b.nc", longer))
    xr.testing.assert_identical(again, longer)


def test_seeds_that_were_kept_one_by_one_are_one_file(tmp_path):
    """Read one by one and joined, they are what was joined before it was written."""
    parts = [DATASET.isel(seed=[seed]) for seed in range(2)]
    read = [files.read_dataset(files.write_dataset(tmp_path / f"{i}.nc", part)) for i, part in enumerate(parts)]
    joined = xr.concat(read, "seed", data_vars="minimal")
    again = files.read_dataset(files.write_dataset(tmp_path / "both.nc", joined))
    xr.testing.assert_identical(again, DATASET)


@given(st.data())
def test_no_flipped_bit_of_a_dataset_is_read(tmp_path_factory, data):
    """Every bit of the file counts: its hash is in it."""
    path = files.write_dataset(tmp_path_factory.getbasetemp() / "bit.nc", DATASET)
    content = path.read_bytes()
    path.write_bytes(flipped(content, data.draw(st.integers(0, 8 * len(content) - 1))))
    with pytest.raises(files.DamagedError, match=re.escape(str(path))):
        files.read_dataset(path)


@given(st.binary(max_size=300) | st.integers(0, 2**20))
def test_what_is_no_dataset_is_refused(tmp_path_factory, content):
    """Any bytes, and a file cut anywhere."""
    path = files.write_dataset(tmp_path_factory.getbasetemp() / "foreign.nc", DATASET)
    whole = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: content % len(whole)])
    with pytest.raises(files.DamagedError):
        files.read_dataset(path)


def test_a_dataset_that_somebody_else_wrote_is_refused(tmp_path):
    """Without its hash nobody knows whether it is whole."""
    DATASET.drop_vars("pixel").to_netcdf(tmp_path / "a.nc", engine="scipy")
    with pytest.raises(files.DamagedError):
        files.read_dataset(tmp_path / "a.nc")


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_a_number_that_does_not_fit_is_refused(tmp_path, value):
    """netCDF 3 has no larger whole numbers: an error, never another number, and no file."""
    with pytest.raises(ValueError, match="could not safely cast"):
        files.write_dataset(tmp_path / "a.nc", xr.Dataset({"count": ("image", np.array([value]))}))
    assert list(tmp_path.iterdir()) == []


ARRAYS = st.sampled_from([np.uint8, np.int32, np.float32, np.float64, np.bool_]).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
)


@given(ARRAYS)
def test_any_array_comes_back(tmp_path_factory, array):
    """Every byte, whole number and float. (An axis of length 0 the format does not have.)"""
    path = tmp_path_factory.getbasetemp() / "array.nc"
    dims = [f"axis{axis}" for axis in range(array.ndim)]
    read = files.read_dataset(files.write_dataset(path, xr.Dataset({"array": (dims, array)}))).array
    assert np.array_equal(read.values, array, equal_nan=array.dtype.kind == "f")
