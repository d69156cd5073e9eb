"""Results of seeds, kept under a name made of all that decides their bytes: build/store/<kind>/<key>/<seed>.

A seed that is there is never computed again, whoever asks: a run that was killed, `dvc repro` after a change that
changed no number, another clone with the same folder. `make clean-store` removes it.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from saqlib import codebase, files, paths

Kept = TypeVar("Kept")

# The packages whose release may change a number; locks/numerics.lock holds them with all that they need.
NUMERICS = ("captum", "numpy", "onnx", "onnxruntime", "scipy", "torch")


def key(module: str, *decides: Any) -> str:
    """16 hexadecimal digits made of a module's code, with all that it imports, and of what else decides.

    module: such as `saqlib.training.seed`. Code counts without comments and docstrings; versions of NUMERICS count.
    decides: settings, hashes of data, the kind of device: values that JSON can hold.
    """
    code = codebase.texts(module.removeprefix("saqlib."))
    text = json.dumps([code, _releases(metadata.version), *decides], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache  # a package is read for its release once, not for each of a thousand keys
def _releases(version: Callable[[str], str]) -> dict[str, str]:
    return {package: version(package) for package in NUMERICS}


def folder(kind: str, key: str) -> Path:
    """Where the results of a kind (trained, scored) with this key are kept, a file a seed."""
    return paths.BUILD / "store" / kind / key


def kept(path: Path, read: Callable[[Path], Kept]) -> Kept | None:
    """What `read` makes of the file; None if there is none, or none that can be read, which is then put aside."""
    if not path.exists():
        return None
    try:
        if zipfile.is_zipfile(path):  # torch reads one in which a bit has changed
            files.check_whole(path)
        return read(path)
    except Exception:  # whatever damaged bytes lead a reader to
        path.replace(path.with_name(f"{path.name}.damaged"))
        return None


def note(place: Path, result: Path) -> None:
    """Leave word at `place`, whose name is known before anything is computed, of the file in which a result is kept."""
    files.write(place, os.path.relpath(result, paths.BUILD / "store"))


def noted(place: Path) -> bool:
    """Whether word was left at `place` of a file that is still there."""
    try:
        return (paths.BUILD / "store" / place.read_text(encoding="utf-8")).exists()
    except OSError:
        return False
