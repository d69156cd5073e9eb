"""Files that are written whole or not at all, and the one form of a CSV."""

import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SIGNIFICANT = "%.8g"  # of a CSV: more than a test or a reader needs, less than what rounding changes
PARTIAL = ".partial"  # how the name of a file ends that is still being written


def write(path: Path, content: bytes | str) -> Path:
    """Write to a temporary name in the same folder, which is made if need be, then move; the path.

    Whatever goes wrong, a full disk or Ctrl-C included, the temporary file is removed and what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)  # a temporary file is for its owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def csv(frame: "pd.DataFrame") -> str:
    """The frame as CSV text, without its index; the bytes depend on the numbers alone."""
    return frame.to_csv(index=False, float_format=SIGNIFICANT, lineterminator="\n")


def write_torch(path: Path, content: object) -> Path:
    """torch.save, whole or not at all: a reader never sees half a file."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return write(path, buffer.getvalue())


def write_dataset(path: Path, dataset: "xr.Dataset") -> Path:
    """A labelled dataset as netCDF 3, which has the same bytes each time, whole or not at all.

    That format has no unsigned and no 64-bit integers: they come back as int16 and int32. A dataset that was read and
    changed is written as it is now: xarray would force it into the types that it had in its file.
    """
    plain = {name: values.astype("int16") for name, values in dataset.items() if values.dtype == "uint8"}
    return write(path, bytes(dataset.assign(plain).drop_encoding().to_netcdf(engine="scipy")))


def read_dataset(path: Path) -> "xr.Dataset":
    """A labelled dataset, in memory."""
    import xarray as xr

    return xr.load_dataset(path, engine="scipy")
