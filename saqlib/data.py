"""The datasets: 28 x 28 grey images in ten classes, every file verified by its content."""

import gzip
import hashlib
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saqlib.errors import of_the_system, one_of

if TYPE_CHECKING:
    from torch import Tensor

DATA = Path(__file__).resolve().parents[1] / "data"  # of the checkout
SPLITS = ("train", "validation", "test")
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
MOST_BYTES = 2**26  # of a file, unpacked; the largest has 47 million
FILES = tuple(f"{part}-{kind}" for part in ("train", "t10k") for kind in (IMAGES, LABELS))


@dataclass(frozen=True)
class Dataset:
    """A dataset: its name for a reader, its ten classes, and the SHA-256 of the content of each of FILES, unpacked."""

    title: str
    classes: tuple[str, ...]
    hashes: dict[str, str]


# A new dataset is one entry here; a study adds how long it is trained and where its files come from.
DATASETS = {
    "mnist": Dataset(
        title="MNIST",
        classes=tuple("0123456789"),
        hashes={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion_mnist": Dataset(
        title="FashionMNIST",
        classes=(
            "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
        ),
        hashes={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
}  # fmt: skip


class DataError(RuntimeError):
    """A dataset that is missing, truncated, altered or not to be had; the message says what to do."""


def load(dataset: str, split: str, root: Path | None = None) -> "tuple[Tensor, Tensor]":
    """Images and labels of one split, in the order of the files.

    The last twelfth of the train file is the validation split: 55,000 train, 5,000 validation and 10,000 test images.

    Args:
        dataset: a name of DATASETS.
        split: train, validation or test.
        root: the folder that holds <dataset>/ with its files. None: data/ of the checkout, whose files are verified;
            another one is read as it is.

    Returns:
        Images uint8 (N, 28, 28) and labels int64 (N,).

    Raises:
        ValueError: an unknown name; the message names the nearest valid one.
        DataError: a file is missing or altered.
    """
    one_of(dataset, DATASETS, "dataset")
    one_of(split, SPLITS, "split")
    part = "t10k" if split == "test" else "train"
    images, labels = (
        read_verified(dataset, name) if root is None else content(Path(root) / dataset, name)
        for name in (f"{part}-{IMAGES}", f"{part}-{LABELS}")
    )
    images, labels = _parse_idx(images, (28, 28)), _parse_idx(labels, ()).long()
    cut = len(images) - len(images) // 12
    rows = {"train": slice(cut), "validation": slice(cut, None), "test": slice(None)}[split]
    return images[rows], labels[rows]


def as_input(images: "Tensor") -> "Tensor":
    """uint8 images (B, H, W), or of several channels (B, C, H, W), as a network takes them: float in [0, 1].

    Returns (B, 1, 28, 28) for the images of this study, (B, C, H, W) in general. Raises ValueError for other types:
    what is in [0, 1] already would become another picture.
    """
    import torch

    if images.dtype != torch.uint8 or images.ndim not in (3, 4):
        raise ValueError(f"as_input takes uint8 images of three or four axes, not {images.dtype} {tuple(images.shape)}")
    return (images.unsqueeze(1) if images.ndim == 3 else images).float() / 255


def verify(dataset: str) -> None:
    """Raise DataError if a file of the dataset is missing in data/, truncated or altered."""
    one_of(dataset, DATASETS, "dataset")
    for name in FILES:
        read_verified(dataset, name)


def fingerprint(dataset: str, root: Path | None = None) -> dict[str, str]:
    """The SHA-256 of the content of each file, which is what decides a result: those that `load` insists on.

    root: as for `load`; the files of another folder than data/ are hashed as they are.
    """
    one_of(dataset, DATASETS, "dataset")
    if root is None:
        return dict(DATASETS[dataset].hashes)
    return {name: hashlib.sha256(content(Path(root) / dataset, name)).hexdigest() for name in FILES}


def read_verified(dataset: str, name: str) -> bytes:
    """Content of a file in data/<dataset>/; DataError that says what to do if it is missing or altered."""
    folder = DATA / dataset
    path = _place(folder, name)
    if path is None:
        raise DataError(f"{folder / name} is missing. Run `make data` to fetch it.")
    try:
        return verified(dataset, name, content(folder, name))
    except DataError as error:
        raise DataError(f"{error}. Delete {path} and run `make data`.") from error


def content(folder: Path, name: str) -> bytes:
    """Uncompressed content of a file, plain or gzipped; DataError if there is neither, or if it cannot be read."""
    path = _place(folder, name)
    if path is None:
        raise DataError(f"{name} is missing in {folder}")
    if not path.is_file():  # a pipe would never end
        raise DataError(f"{path.name} is {'no file' if path.exists() else 'a link that leads nowhere'}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            unpacked = file.read(MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is truncated or altered ({error})") from error
    except OSError as error:
        raise DataError(of_the_system(error)) from error
    if len(unpacked) > MOST_BYTES:
        raise DataError(f"{path.name} holds more than {MOST_BYTES:,} bytes, so it is no file of a dataset")
    return unpacked


def _place(folder: Path, name: str) -> Path | None:
    """Where a file lies, plain or else gzipped; None if it is missing."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if os.path.lexists(path)), None)


def verified(dataset: str, name: str, content: bytes) -> bytes:
    """The content as it is; DataError unless it is that of this file of the dataset."""
    expected, actual = DATASETS[dataset].hashes[name], hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise DataError(
            f"{name} ({len(content):,} bytes) is truncated or altered: expected SHA-256 {expected}, found {actual}"
        )
    return content


def _parse_idx(content: bytes, shape: tuple[int, ...]) -> "Tensor":
    """Items of the given shape from an IDX file of bytes, as uint8 (N, *shape); DataError for any other content.

    The file begins with 0x800 + the number of axes and their lengths, 4 bytes each, the highest first.
    """
    import numpy as np
    import torch

    header = 8 + 4 * len(shape)
    magic, *lengths = np.frombuffer(content[:header].ljust(header, b"\0"), ">u4").tolist()
    expected = header + math.prod(lengths)
    if magic != 0x801 + len(shape) or tuple(lengths[1:]) != shape or not header < len(content) == expected:
        raise DataError(f"the content ({len(content):,} bytes) is no IDX file of items {shape}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(-1, *shape)
