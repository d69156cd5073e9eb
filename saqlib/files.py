"""Files that are written whole or not at all, and where they were meant to be."""

import os
import secrets
import socket
import stat
from pathlib import Path

from saqlib.errors import shown

PARTIAL = ".partial"  # how the name of a file ends that is still being written


def write(path: Path, content: bytes | str) -> Path:
    """Write to a temporary name in the same folder, which is made if need be, then move; the path.

    Whatever goes wrong, a full disk or Ctrl-C included, the temporary file is removed and what was there stays. The
    file's rights are those of the one that it replaces, or that the umask leaves; its content is on the disk before its
    name is.
    """
    data = content.encode() if isinstance(content, str) else memoryview(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(temporary, "xb") as file:
            if path.exists():
                os.chmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk names no file
        raise
    return path


def inside(folder: Path, name: str) -> Path:
    """A file of this name in the folder; ValueError for a name that leads anywhere else."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{shown(name)} is no name of a file in {folder}")
    return folder / name
