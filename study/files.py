"""Files that are written whole or not at all and read only when they are whole, and the one form of a CSV."""

import hashlib
import io
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqlib.files import PARTIAL, write
from saqlib.files import inside as inside

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SIGNIFICANT = "%.8g"  # of a CSV: more than a test or a reader needs, less than what rounding changes
ABANDONED = 3600  # seconds after which an unfinished file of another machine has no writer any more
DIGEST = "sha256"  # the attribute of a dataset that holds the hash of its file
BLANK = "0" * 64  # what stands in its place while the hash is taken


class DamagedError(ValueError):
    """A file is not what was written: cut, or a bit of it has changed."""


def sweep(folder: Path) -> None:
    """Remove what killed writers have left in a folder and below it: unfinished files whose process is no more.

    Of a writer on another machine nobody here can say that; its files go once they are an hour old.
    """
    import psutil

    for path in folder.rglob(f".*{PARTIAL}"):
        host, _, writer = path.name[1:].removesuffix(PARTIAL).rpartition(".")[0].rpartition(".")
        here = host == socket.gethostname() and writer.isdecimal() and len(writer) < 10  # else no number of a process
        if not path.is_file():
            continue
        try:
            if not psutil.pid_exists(int(writer)) if here else time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
        except FileNotFoundError:  # its writer was alive and has finished it
            continue


def csv(frame: "pd.DataFrame") -> str:
    """The frame as CSV text, without its index; the bytes depend on the numbers alone."""
    return frame.to_csv(index=False, float_format=SIGNIFICANT, lineterminator="\n")


# ------------------------------------------------------------------------------------------- tensors, datasets


def torch_bytes(content: object) -> bytes:
    """What torch.save makes of plain values and tensors."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def from_torch_bytes(content: bytes) -> Any:
    """Plain values and tensors; nothing in a file is ever run. DamagedError for anything but `torch_bytes`.

    The checksums of the archive are compared here: torch reads one in which a bit has changed.
    """
    import torch

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.testzip() is not None:
                raise DamagedError("an entry is not what was written")
        return torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # whatever foreign bytes lead the readers to, in paragraphs
        raise DamagedError("it is not a whole file of torch.save") from error


def dataset_bytes(dataset: "xr.Dataset") -> bytes:
    """A labelled dataset as netCDF 3, which has the same bytes each time; its hash is in it.

    That format has no unsigned and no 64-bit integers: they come back as int16 and int32. A dataset that was read and
    changed is written as it is now: xarray would force it into the types that it had in its file.
    """
    plain = {name: values.astype("int16") for name, values in dataset.items() if values.dtype == "uint8"}
    prepared = dataset.assign(plain).assign_attrs({DIGEST: BLANK}).drop_encoding()
    content = bytes(prepared.to_netcdf(engine="scipy"))
    return content.replace(BLANK.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def from_dataset_bytes(content: bytes) -> "xr.Dataset":
    """A labelled dataset, in memory; DamagedError if a bit of it is not what `dataset_bytes` made."""
    import xarray as xr

    try:
        with xr.open_dataset(io.BytesIO(content), engine="scipy") as opened:
            dataset = opened.load()
        expected = dataset.attrs.pop(DIGEST)
        blank = content.replace(expected.encode(), BLANK.encode(), 1)
        if hashlib.sha256(blank).hexdigest() != expected:
            raise DamagedError("its content is not what was written")
        return dataset
    except Exception as error:  # whatever foreign bytes lead the readers to
        raise DamagedError("it is not a dataset that was written whole") from error


def write_dataset(path: Path, dataset: "xr.Dataset") -> Path:
    """Write a labelled dataset whole or not at all."""
    return write(path, dataset_bytes(dataset))


def read_dataset(path: Path) -> "xr.Dataset":
    """What `write_dataset` wrote; errors as of `read`."""
    return read(path, from_dataset_bytes)


def read(path: Path, form: Callable[[bytes], Any]) -> Any:
    """A file in one of these forms; DamagedError, with the path, if a bit of it is not what was written."""
    try:
        return form(path.read_bytes())
    except DamagedError as error:
        raise DamagedError(f"{path}: {error}") from error.__cause__
