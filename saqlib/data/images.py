"""MNIST and FashionMNIST in memory, every file verified by its content."""

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saqlib import paths
from saqlib.datasets import DATASETS, FILES, IMAGES, LABELS
from saqlib.errors import of_the_system
from saqlib.params import one_of

SPLITS = ("train", "validation", "test")


class DataError(RuntimeError):
    """A dataset that is missing, truncated, altered or not to be had; the message says what to do."""


def load(dataset: str, split: str, *, sample: bool = False) -> tuple[Tensor, Tensor]:
    """Images and labels of one split, in the order of the files.

    The last twelfth of the train file is the validation split: 55,000 train, 5,000 validation and 10,000 test images;
    with `sample`, 1,100, 100 and 300 from the small sample that comes with the tests.

    Args:
        dataset: mnist or fashion_mnist.
        split: train, validation or test.
        sample: take the small sample, which needs no download.

    Returns:
        Images uint8 (N, 28, 28) and labels int64 (N,).

    Raises:
        ValueError: an unknown name; the message names the nearest valid one.
        DataError: a file is missing or altered.
    """
    one_of(dataset, DATASETS, "dataset")
    one_of(split, SPLITS, "split")
    part = "t10k" if split == "test" else "train"
    read = _read_sample if sample else read_verified
    images = _parse_idx(read(dataset, f"{part}-{IMAGES}"), (28, 28))
    labels = _parse_idx(read(dataset, f"{part}-{LABELS}"), ()).long()
    cut = len(images) - len(images) // 12
    kept = {"train": slice(cut), "validation": slice(cut, None), "test": slice(None)}[split]
    return images[kept], labels[kept]


def as_input(images: Tensor) -> Tensor:
    """uint8 images (B, H, W), or of several channels (B, C, H, W), as a network takes them: float in [0, 1].

    Returns (B, 1, 28, 28) for the images of this study, (B, C, H, W) in general. Raises ValueError for other types:
    what is in [0, 1] already would become another picture.
    """
    if images.dtype != torch.uint8 or images.ndim not in (3, 4):
        raise ValueError(f"as_input takes uint8 images of three or four axes, not {images.dtype} {tuple(images.shape)}")
    return (images.unsqueeze(1) if images.ndim == 3 else images).float() / 255


def verify(dataset: str) -> None:
    """Raise DataError if a file of the dataset is missing, truncated or altered."""
    one_of(dataset, DATASETS, "dataset")
    for name in FILES:
        read_verified(dataset, name)


def fingerprint(dataset: str, *, sample: bool = False) -> dict[str, str]:
    """The SHA-256 of the content of each file, which is what decides a result: those that `load` insists on."""
    one_of(dataset, DATASETS, "dataset")
    if not sample:
        return dict(DATASETS[dataset])
    return {name: hashlib.sha256(_read_sample(dataset, name)).hexdigest() for name in FILES}


def read_verified(dataset: str, name: str) -> bytes:
    """Content of a file in data/<dataset>/; DataError that says what to do if it is missing or altered."""
    folder = paths.DATA / dataset
    path = next((path for path in (folder / name, folder / f"{name}.gz") if os.path.lexists(path)), None)
    if path is None:
        raise DataError(f"{folder / name} is missing. Run `make data` to fetch it.")
    try:
        return verified(dataset, name, content(folder, name))
    except DataError as error:
        raise DataError(f"{error}. Delete {path} and run `make data`.") from error


def content(folder: Path, name: str) -> bytes:
    """Uncompressed content of a file that is there plain or gzipped; DataError if neither, or if it cannot be read."""
    path, packed = folder / name, folder / f"{name}.gz"
    if os.path.lexists(path):
        return _read(path)
    if not os.path.lexists(packed):
        raise DataError(f"{name} is missing in {folder}")
    try:
        return gzip.decompress(_read(packed))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed.name} is truncated or altered ({error})") from error


def _read(path: Path) -> bytes:
    """The bytes of a file; DataError for a link that leads nowhere, a folder, a pipe, and what may not be read."""
    if not path.is_file():
        raise DataError(f"{path.name} is {'no file' if path.exists() else 'a link that leads nowhere'}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(of_the_system(error)) from error


def verified(dataset: str, name: str, content: bytes) -> bytes:
    """The content as it is; DataError unless it is that of this file of the dataset."""
    expected, found = DATASETS[dataset][name], hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(
            f"{name} ({len(content):,} bytes) is truncated or altered:"
            f" expected SHA-256 {expected}, found {found}"
        )
    return content


def _read_sample(dataset: str, name: str) -> bytes:
    return content(paths.SAMPLE / dataset, name)


def _parse_idx(content: bytes, shape: tuple[int, ...]) -> Tensor:
    """Items of the given shape from an IDX file of bytes, as uint8 (N, *shape); DataError for any other content.

    The file begins with 0x800 + the number of axes and their lengths, 4 bytes each, the highest first.
    """
    header = 8 + 4 * len(shape)
    magic, *lengths = np.frombuffer(content[:header].ljust(header, b"\0"), ">u4").tolist()
    expected = header + math.prod(lengths)
    if magic != 0x801 + len(shape) or tuple(lengths[1:]) != shape or not header < len(content) == expected:
        raise DataError(f"the content ({len(content):,} bytes) is no IDX file of items {shape}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(-1, *shape)
