"""A dataset of a few random images, taken for `mnist`, for the tests of loading and of downloading."""

import dataclasses
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from saqlib import data

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = data.FILES
SIZES = {"train": 24, "t10k": 7}


def idx(array: np.ndarray) -> bytes:
    """An IDX file as its format says, written here independently of the library."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def random_arrays() -> dict[str, np.ndarray]:
    """Images and labels by file name, the same ones each time."""
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(0, 256 if "images" in name else 10, shape, dtype=np.uint8)
        for part, count in SIZES.items()
        for name, shape in ((f"{part}-images-idx3-ubyte", (count, 28, 28)), (f"{part}-labels-idx1-ubyte", (count,)))
    }


def take_for_mnist(files: dict[str, bytes], folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let these files be those of `mnist`, and data/ be this folder."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    patch.setattr(data, "DATA", folder)
    patch.setitem(data.DATASETS, "mnist", dataclasses.replace(data.DATASETS["mnist"], hashes=hashes))


def put(files: dict[str, bytes]) -> None:
    """Write the files into data/mnist/."""
    folder = data.DATA / "mnist"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
