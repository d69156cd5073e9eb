"""study.files: whole or not at all, whatever goes wrong, and the same bytes each time."""

import errno
import io
import os
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import saqlib.files
from study import files

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


def failing(error: BaseException):
    """In place of `open`: a file that fails in the middle of a write: the disk is full, or somebody presses Ctrl-C."""

    class FailingFile(io.FileIO):
        def write(self, content) -> int:
            super().write(bytes(content)[:10])
            raise error

    return lambda path, mode: io.BufferedWriter(FailingFile(path, mode))


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
CONTENTS = {"text": "new\n" * 9, "bytes": bytes(100_000)}  # more than a buffer holds: the disk is met at once


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("before", [None, "old\n"])
def test_whatever_goes_wrong_nothing_half_written_is_left(tmp_path, monkeypatch, content, error, step, before):
    """At every step: the error says what, what was there stays, and the next call succeeds."""
    path = tmp_path / "there"
    if before is not None:
        path.write_text(before)

    def fail(*_):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
        if step == "write":
            patch.setattr(saqlib.files, "open", failing(error), raising=False)
        else:
            patch.setattr(saqlib.files.os, step, fail)
        files.write(path, CONTENTS[content])
    assert caught.value is error or caught.value.args == (error.errno, error.strerror)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == ([] if before is None else [("there", before)])
    assert files.write(path, CONTENTS[content]) == path
    assert [p.name for p in tmp_path.iterdir()] == ["there"] and path.stat().st_size > 10


def test_what_a_killed_writer_has_left_is_swept(tmp_path, monkeypatch):
    """Below the folder: of this machine once its process is no more, of another one once it is an hour old."""
    stay = [files.write(tmp_path / name, "x") for name in ("a.csv", "deep/b.partial", "deep/.c")]
    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process removes nothing
        patch.setattr(saqlib.files.os, "replace", lambda *_: (_ for _ in ()).throw(SystemError()))
        files.write(tmp_path / "deep" / "a.csv", "y")
    (own,) = (tmp_path / "deep").glob(f".*{files.PARTIAL}")
    odd = tmp_path / f".{socket.gethostname()}.{'9' * 31}.ab{files.PARTIAL}", tmp_path / f".folder{files.PARTIAL}"
    odd[0].write_text("no process has such a number")
    odd[1].mkdir()
    os.utime(odd[1], (1, 1))
    dead = own.with_name(own.name.replace(f".{os.getpid()}.", ".999999999."))
    other = own.with_name(own.name.replace(socket.gethostname(), "another.machine"))
    for path in (dead, other):
        path.write_text("y")
    files.sweep(tmp_path)
    assert own.exists() and other.exists() and not dead.exists()
    os.utime(other, (1, 1))
    files.sweep(tmp_path)
    assert not other.exists()
    own.unlink()
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([*stay, odd[0]])


@pytest.mark.parametrize("name", ["../a", "a/b", "/etc/passwd", "..", ".", ""])
def test_a_name_that_leads_elsewhere_is_refused(name, tmp_path):
    """It may come from a file that somebody else wrote."""
    assert files.inside(tmp_path, "a-b.json") == tmp_path / "a-b.json"
    with pytest.raises(ValueError, match="is no name of a file in"):
        files.inside(tmp_path, name)


def test_rights_are_those_that_the_umask_leaves(tmp_path):
    """Not those of a temporary file, and no more than the person gives."""
    before = os.umask(0o027)
    try:
        path = files.write(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o600)
    files.write(path, b"y")
    assert path.stat().st_mode & 0o777 == 0o600, "a person's own rights stay"


# --------------------------------------------------------------------------------------------------------------- csv


def test_csv_is_what_it_is_said_to_be():
    """A header, a comma between, a line feed behind each row, no index; 8 significant digits; nothing for NaN."""
    frame = pd.DataFrame(
        {"cell": ["a", "é, b"], "count": [1, 2], "value": [1 / 3, np.nan], "flag": [True, False], "big": [1e10, 1e-10]},
        index=[5, 6],
    )
    assert files.csv(frame) == 'cell,count,value,flag,big\na,1,0.33333333,True,1e+10\n"é, b",2,,False,1e-10\n'


# ------------------------------------------------------------------------------------------------- tensors, datasets

TENSORS = {"weights": torch.arange(60.0).view(6, 10), "name": "é", "seeds": {0: torch.tensor([1, 2])}}
FORMS = {
    "torch": (files.torch_bytes, files.from_torch_bytes, TENSORS),
    "dataset": (files.dataset_bytes, files.from_dataset_bytes, DATASET),
}


def same(one, other) -> bool:
    """Whether two contents are equal."""
    if isinstance(one, xr.Dataset):
        return one.identical(other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("form", FORMS)
def test_what_was_written_is_read_and_has_the_same_bytes_each_time(form):
    """Also what was read."""
    write, read, content = FORMS[form]
    whole = write(content)
    assert same(read(whole), content) and write(content) == whole
    assert write(read(whole)) == write(read(write(read(whole))))


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_no_damaged_file_is_read_as_a_number(tmp_path_factory, form, data):
    """A flipped bit, a cut, foreign bytes: the file is refused in one line, or holds what was written."""
    write, read, content = FORMS[form]
    whole = write(content)
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    foreign = data.draw(st.sampled_from([bytes(flipped), whole[: bit // 8]]) | st.binary(max_size=300))
    path = files.write(tmp_path_factory.getbasetemp() / f"{form}.damaged", foreign)
    try:
        found = files.read(path, read)
    except files.DamagedError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert same(found, content)


def test_a_dataset_comes_back_with_its_labels(tmp_path):
    """Every value and label, NaN, infinities, the sign of zero and empty words included; types as far as they exist."""
    read = files.read_dataset(files.write_dataset(tmp_path / "deep" / "a.nc", DATASET))
    assert same(read, DATASET)
    assert DATASET.pixel.dtype == np.uint8  # writing changes nothing of what is written
    assert np.array_equal(np.signbit(read.score), np.signbit(DATASET.score))
    expected = {"count": "int32", "score": "float64", "single": "float32", "dead": "bool", "pixel": "int16"}
    assert {name: str(read[name].dtype) for name in expected} == expected


def test_a_number_that_does_not_fit_is_refused(tmp_path):
    """netCDF 3 has no larger whole numbers: an error, never another number, and no file."""
    with pytest.raises(ValueError, match="could not safely cast"):
        files.write_dataset(tmp_path / "a.nc", xr.Dataset({"count": ("image", np.array([2**31]))}))
    assert list(tmp_path.iterdir()) == []
