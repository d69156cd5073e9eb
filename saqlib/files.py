"""Files that are written whole or not at all and read only when they are whole, and the one form of a CSV."""

import hashlib
import io
import os
import secrets
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SIGNIFICANT = "%.8g"  # of a CSV: more than a test or a reader needs, less than what rounding changes
PARTIAL = ".partial"  # how the name of a file ends that is still being written
DIGEST = "sha256"  # the attribute of a dataset that holds the hash of its file
BLANK = "0" * 64  # what stands in its place while the hash is taken


class DamagedError(ValueError):
    """A file is not what was written: cut, or a bit of it has changed."""


def write(path: Path, content: bytes | str) -> Path:
    """Write to a temporary name in the same folder, which is made if need be, then move; the path.

    Whatever goes wrong, a full disk or Ctrl-C included, the temporary file is removed and what was there stays. The
    file's rights are those that the umask leaves; its content is on the disk before its name is.
    """
    data = content.encode() if isinstance(content, str) else memoryview(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk names no file
        raise
    return path


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder and below it: files that end in PARTIAL."""
    for path in folder.rglob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def csv(frame: "pd.DataFrame") -> str:
    """The frame as CSV text, without its index; the bytes depend on the numbers alone."""
    return frame.to_csv(index=False, float_format=SIGNIFICANT, lineterminator="\n")


# ------------------------------------------------------------------------------------------- tensors, datasets


def write_torch(path: Path, content: object) -> Path:
    """torch.save, whole or not at all: a reader never sees half a file."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return write(path, buffer.getvalue())


def read_torch(path: Path) -> Any:
    """What write_torch wrote, plain values and tensors; nothing in a file is ever run.

    Raises DamagedError for anything else: torch itself reads a file in which a bit has changed, or that runs code.
    """
    import torch

    check_whole(path)
    try:
        return torch.load(path, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever foreign bytes lead it to, in paragraphs
        raise DamagedError(f"{path} holds no tensors that were written by torch.save") from error


def check_whole(path: Path) -> None:
    """Raise DamagedError unless a file of write_torch, or another archive, has the checksums that it tells."""
    try:
        with zipfile.ZipFile(path) as archive:
            plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            damaged = archive.testzip() if plain else "a packed entry"
    except OSError:
        raise
    except Exception as error:  # whatever foreign bytes lead zipfile to
        raise DamagedError(f"{path} is not a whole file") from error
    if damaged is not None:
        raise DamagedError(f"{path} is damaged: {damaged}")


def write_dataset(path: Path, dataset: "xr.Dataset") -> Path:
    """A labelled dataset as netCDF 3, which has the same bytes each time, whole or not at all; its hash is in it.

    That format has no unsigned and no 64-bit integers: they come back as int16 and int32. A dataset that was read and
    changed is written as it is now: xarray would force it into the types that it had in its file.
    """
    plain = {name: values.astype("int16") for name, values in dataset.items() if values.dtype == "uint8"}
    prepared = dataset.assign(plain).assign_attrs({DIGEST: BLANK}).drop_encoding()
    content = bytes(prepared.to_netcdf(engine="scipy"))
    return write(path, content.replace(BLANK.encode(), hashlib.sha256(content).hexdigest().encode(), 1))


def read_dataset(path: Path) -> "xr.Dataset":
    """A labelled dataset, in memory; DamagedError if a bit of it is not what was written."""
    import xarray as xr

    content = path.read_bytes()
    try:
        with xr.open_dataset(io.BytesIO(content), engine="scipy") as opened:
            dataset = opened.load()
        told = dataset.attrs.pop(DIGEST)
        blank = content.replace(told.encode(), BLANK.encode(), 1)
    except Exception as error:  # whatever foreign bytes lead the readers to
        raise DamagedError(f"{path} is not a dataset that was written whole") from error
    if hashlib.sha256(blank).hexdigest() != told:
        raise DamagedError(f"{path} is damaged: its content is not what was written")
    return dataset
