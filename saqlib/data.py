"""MNIST and FashionMNIST: fetched from whichever source answers, verified by content, in memory."""

import difflib
import gzip
import hashlib
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from saqlib import paths
from saqlib.sources import SOURCES

SPLITS = ("train", "validation", "test")

# SHA-256 of the uncompressed content, the same whatever the source.
SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
DATASETS = tuple(SHA256)


class DataError(RuntimeError):
    """A dataset that is missing, truncated, altered or not to be had; the message says what to do."""


def load(dataset: str, split: str, *, sample: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of one split, in the order of the files.

    Images are uint8 (N, 28, 28), labels int64 (N,). The last twelfth of the train file is the validation
    split: 55,000 train, 5,000 validation and 10,000 test images; with `sample`, 1,100, 100 and 300 from the
    small sample that comes with the tests. Raises ValueError for an unknown name and DataError for a missing
    or altered file.
    """
    _check("dataset", dataset, DATASETS)
    _check("split", split, SPLITS)
    part = "t10k" if split == "test" else "train"
    read = _read_sample if sample else _read_verified
    images = _parse_idx(read(dataset, f"{part}-images-idx3-ubyte"), (28, 28))
    labels = _parse_idx(read(dataset, f"{part}-labels-idx1-ubyte"), ()).long()
    cut = len(images) - len(images) // 12
    kept = {"train": slice(cut), "validation": slice(cut, None), "test": slice(None)}[split]
    return images[kept], labels[kept]


def verify(dataset: str) -> None:
    """Raise DataError if a file of the dataset is missing, truncated or altered."""
    _check("dataset", dataset, DATASETS)
    for name in SHA256[dataset]:
        _read_verified(dataset, name)


def fetch(dataset: str, report: Callable[[str], None] = lambda line: None) -> str:
    """Make data/<dataset>/ complete and verified, from the first source that can; the name of that source.

    `report` gets one line for each source that is tried and for its outcome. A file comes to its final name
    only when its content is verified. Raises ValueError for an unknown dataset, and DataError if a file that
    is there already is altered or if no source has the rest.
    """
    _check("dataset", dataset, DATASETS)
    folder = paths.DATA / dataset
    missing = [name for name in SHA256[dataset] if not _is_there(dataset, name)]
    if not missing:
        report(f"{dataset}: files already there, verified: {folder}")
        return "files already there"
    failures = []
    for source in (source for source in SOURCES if dataset in source.datasets):
        report(f"{dataset}: trying {source.name}")
        try:
            with tempfile.TemporaryDirectory(prefix="saqlib-") as scratch:
                found = source.fetch(dataset, Path(scratch))
                contents = {name: _verified(dataset, name, _content(found, name)) for name in missing}
        except Exception as error:  # a source may fail in any way of its own; the next one is tried
            failures.append(f"{source.name}: {_last_line(error)}")
            report(f"{dataset}: {failures[-1]}")
            continue
        for name, content in contents.items():
            _write(folder / name, content)
        report(f"{dataset}: {len(missing)} files from {source.name}, verified: {folder}")
        return source.name
    raise DataError(
        f"No source has the files of {dataset}. Tried:\n"
        + "".join(f"  {failure}\n" for failure in failures)
        + f"To put them there by hand: copy {', '.join(missing)} (plain, or gzipped as <name>.gz)"
        + f" from any copy of the dataset to {folder} and run `make data` again; their content is verified."
    )


def _check(kind: str, name: str, valid: Sequence[str]) -> None:
    if name not in valid:
        nearest = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.0)[0]
        raise ValueError(f"Unknown {kind} {name!r}: did you mean {nearest!r}? Valid are {', '.join(valid)}.")


def _is_there(dataset: str, name: str) -> bool:
    """Whether a file is there and verified; one that was put there as .gz is unpacked."""
    path = paths.DATA / dataset / name
    if path.exists():
        _read_verified(dataset, name)
    elif path.with_name(f"{name}.gz").exists():
        _write(path, _read_verified(dataset, name))
    return path.exists()


def _read_verified(dataset: str, name: str) -> bytes:
    """Content of a file in data/<dataset>/; DataError that says what to do if it is missing or altered."""
    folder = paths.DATA / dataset
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)
    if path is None:
        raise DataError(f"{folder / name} is missing. Run `make data` to fetch it.")
    try:
        return _verified(dataset, name, _content(folder, name))
    except DataError as error:
        raise DataError(f"{error}. Delete {path} and run `make data`.") from error


def _read_sample(dataset: str, name: str) -> bytes:
    return _content(paths.SAMPLE / dataset, name)


def _content(folder: Path, name: str) -> bytes:
    """Uncompressed content of a file that is there plain or gzipped; DataError if neither, or broken."""
    path, packed = folder / name, folder / f"{name}.gz"
    if path.exists():
        return path.read_bytes()
    if not packed.exists():
        raise DataError(f"{name} is missing in {folder}")
    try:
        return gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed.name} is truncated or altered ({error})") from error


def _verified(dataset: str, name: str, content: bytes) -> bytes:
    expected, found = SHA256[dataset][name], hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(
            f"{name} ({len(content):,} bytes) is truncated or altered:"
            f" expected SHA-256 {expected}, found {found}"
        )
    return content


def _parse_idx(content: bytes, shape: tuple[int, ...]) -> torch.Tensor:
    """Items of the given shape from an IDX file of bytes, as uint8 (N, *shape)."""
    header = 8 + 4 * len(shape)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(-1, *shape)


def _write(path: Path, content: bytes) -> None:
    """Write under a temporary name and move, so that a file with the final name is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def main(datasets: Sequence[str]) -> int:
    """Fetch the named datasets (both if none is named); 0, or 1 after an error that is told on stderr."""
    try:
        for dataset in datasets or DATASETS:
            fetch(dataset, report=lambda line: print(line, file=sys.stderr))
    except (DataError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
