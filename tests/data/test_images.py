"""Tests of saqlib.data.images: nothing but whole, verified files is ever used."""

import errno
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import saqlib.data
from saqlib import paths
from saqlib.data import images
from saqlib.datasets import DATASETS, FILES
from saqlib.params import ParamsError
from tests.raw_files import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    idx,
    put,
    random_arrays,
    take_for_mnist,
)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """A dataset of a few random images, by file name."""
    return random_arrays()


@pytest.fixture
def world(tmp_path, monkeypatch, arrays) -> dict[str, bytes]:
    """The files of the small dataset, taken for `mnist`; data/ is empty."""
    files = {name: idx(array) for name, array in arrays.items()}
    take_for_mnist(files, tmp_path / "data", monkeypatch)
    return files


# -------------------------------------------------------------------------------------------------------- load


def test_load_returns_the_arrays_of_the_files(world, arrays):
    """Images and labels are those of the files, in their order, as uint8 and int64 tensors."""
    put(world)
    pixels, labels = images.load("mnist", "test")
    assert pixels.dtype == torch.uint8 and labels.dtype == torch.int64
    assert np.array_equal(pixels.numpy(), arrays[TEST_IMAGES])
    assert np.array_equal(labels.numpy(), arrays[TEST_LABELS])


def test_gzipped_files_are_read_as_they_are(world, arrays):
    """A file that lies there as .gz needs no unpacking, and its content is what is verified."""
    put({f"{name}.gz": gzip.compress(content) for name, content in world.items()})
    images.verify("mnist")
    pixels, labels = images.load("mnist", "test")
    assert np.array_equal(pixels.numpy(), arrays[TEST_IMAGES])
    assert np.array_equal(labels.numpy(), arrays[TEST_LABELS])


def test_validation_is_the_last_twelfth_of_the_train_file(world, arrays):
    """Train and validation are the head and the last twelfth of the train file."""
    put(world)
    train, validation = images.load("mnist", "train"), images.load("mnist", "validation")
    assert np.array_equal(train[0].numpy(), arrays[TRAIN_IMAGES][:22])
    assert np.array_equal(train[1].numpy(), arrays[TRAIN_LABELS][:22])
    assert np.array_equal(validation[0].numpy(), arrays[TRAIN_IMAGES][22:])
    assert np.array_equal(validation[1].numpy(), arrays[TRAIN_LABELS][22:])


@pytest.mark.parametrize("dataset", DATASETS)
def test_sample_is_balanced_and_needs_no_data(dataset, tmp_path, monkeypatch):
    """The committed sample has its three splits, each class equally often, without any data/."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "nothing")
    for split, count in {"train": 1100, "validation": 100, "test": 300}.items():
        pixels, labels = images.load(dataset, split, sample=True)
        assert pixels.shape == (count, 28, 28) and pixels.dtype == torch.uint8
        assert labels.bincount().tolist() == [count // 10] * 10
        assert pixels.flatten(1).float().std(dim=1).min() > 0, "an image without content"


@pytest.mark.skipif(not (paths.DATA / "mnist").exists(), reason="data/ is not fetched")
@pytest.mark.parametrize("dataset", DATASETS)
def test_sample_is_taken_from_the_real_files(dataset):
    """Each test image of the sample is, with its label, among the real ones."""
    real, sample = (
        {(image.numpy().tobytes(), int(label)) for image, label in zip(*pair, strict=True)}
        for pair in (images.load(dataset, "test"), images.load(dataset, "test", sample=True))
    )
    assert len(sample) == 300 and sample <= real


@pytest.mark.skipif(not (paths.DATA / "mnist").exists(), reason="data/ is not fetched")
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_real_splits_have_their_sizes(dataset):
    """55,000 train, 5,000 validation and 10,000 test images."""
    for split, count in {"train": 55_000, "validation": 5_000, "test": 10_000}.items():
        pixels, labels = images.load(dataset, split)
        assert pixels.shape == (count, 28, 28) and labels.shape == (count,)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("dataset", "split", "nearest"),
    [("minst", "train", "mnist"), ("fashion", "train", "fashion_mnist"), ("mnist", "valid", "validation")],
)
@pytest.mark.parametrize("sample", [False, True])
def test_unknown_name_is_refused_with_the_nearest(dataset, split, nearest, sample):
    """A misspelt dataset or split is a ValueError that names the nearest valid one, before any file is read."""
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'") as caught:
        images.load(dataset, split, sample=sample)
    assert isinstance(caught.value, ParamsError)


def test_unknown_dataset_is_refused_by_every_entry():
    """verify and fingerprint, also of the sample, say the same sentence as load."""
    for entry in (
        lambda: images.load("minst", "test"),
        lambda: images.verify("minst"),
        lambda: images.fingerprint("minst"),
        lambda: images.fingerprint("minst", sample=True),
    ):
        with pytest.raises(ParamsError, match="^unknown dataset 'minst'; did you mean 'mnist'?") as caught:
            entry()
        assert str(caught.value).endswith("(valid: mnist, fashion_mnist)")


@pytest.mark.parametrize("use", [lambda: images.load("mnist", "train"), lambda: images.verify("mnist")])
def test_missing_file_says_what_to_run(world, use):
    """Without data/, the missing file and the command that fetches it are named."""
    with pytest.raises(images.DataError, match=f"{TRAIN_IMAGES} is missing. Run `make data`"):
        use()


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\xff"])
def test_damaged_file_is_never_used(world, damage):
    """A truncated or altered file stops load and verify: name, both hashes, what to delete; it is left alone."""
    put(world)
    path = paths.DATA / "mnist" / TEST_IMAGES
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    for use in (lambda: images.load("mnist", "test"), lambda: images.verify("mnist")):
        with pytest.raises(images.DataError) as caught:
            use()
        for part in (
            TEST_IMAGES,
            f"expected SHA-256 {DATASETS['mnist'][TEST_IMAGES]}",
            f"found {hashlib.sha256(damaged).hexdigest()}",
            f"Delete {path} and run `make data`",
        ):
            assert part in str(caught.value)
    assert path.read_bytes() == damaged
    assert len(images.load("mnist", "train")[0]) == 22, "files of the other part are whole"


NO_FILE = {
    "folder": (lambda path: path.mkdir(), "is no file"),
    "pipe": (lambda path: os.mkfifo(path), "is no file"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "is a link that leads nowhere"),
    "loop": (lambda path: path.symlink_to(path), "is a link that leads nowhere"),
    "link to itself's folder": (lambda path: path.symlink_to("."), "is no file"),
}


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("kind", NO_FILE)
def test_what_is_no_file_is_refused(world, kind, ending):
    """Neither a traceback nor a wait for ever: what it is, and what to do."""
    make, said = NO_FILE[kind]
    put({name: content for name, content in world.items() if name != TEST_IMAGES})
    path = paths.DATA / "mnist" / f"{TEST_IMAGES}{ending}"
    make(path)
    for use in (lambda: images.load("mnist", "test"), lambda: images.verify("mnist")):
        with pytest.raises(images.DataError) as caught:
            use()
        assert str(caught.value) == f"{path.name} {said}. Delete {path} and run `make data`."


def test_what_may_not_be_read_is_refused(world, monkeypatch):
    """Another user's file, say."""
    put(world)

    def refused(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(images.DataError, match=f"{TEST_IMAGES}: Permission denied. Delete .* and run `make data`"):
        images.load("mnist", "test")


def test_a_link_to_a_file_is_that_file(world, arrays, tmp_path):
    """data/ may lie on another disk."""
    put(world)
    path = paths.DATA / "mnist" / TEST_IMAGES
    path.rename(tmp_path / "elsewhere")
    path.symlink_to("../../elsewhere")
    assert np.array_equal(images.load("mnist", "test")[0].numpy(), arrays[TEST_IMAGES])


def mutated(content: bytes, data) -> bytes:
    """The content with a few bytes changed, cut, put in or taken away."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(len(changed) - 1, 0)))
        changed[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=4))
    return bytes(changed)


@given(st.data())
def test_no_other_bytes_are_images(data):
    """Whatever is changed in a verified file, plain or packed: it is refused, or what is read is the very same."""
    arrays = random_arrays()
    files = {name: idx(array) for name, array in arrays.items()}
    packed = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        take_for_mnist(files, Path(folder), patch)
        if packed:
            files = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
        name = data.draw(st.sampled_from(sorted(files)))
        put(files | {name: mutated(files[name], data)})
        for split in ("train", "test"):
            try:
                pixels, labels = images.load("mnist", split)
            except images.DataError as error:
                assert "\n" not in str(error) and "run `make data`" in str(error)
            else:
                part = slice(22) if split == "train" else slice(None)
                images_file, labels_file = (
                    (TRAIN_IMAGES, TRAIN_LABELS) if split == "train" else (TEST_IMAGES, TEST_LABELS)
                )
                assert np.array_equal(pixels.numpy(), arrays[images_file][part])
                assert np.array_equal(labels.numpy(), arrays[labels_file][part])


@given(st.data())
def test_an_idx_file_is_read_or_refused(data):
    """Any bytes, and a good file with some changed: items as many as the header says, or DataError."""
    good = idx(np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28))
    content = data.draw(st.binary(max_size=40)) if data.draw(st.booleans()) else mutated(good, data)
    try:
        items = images._parse_idx(content, (28, 28))
    except images.DataError as error:
        assert "\n" not in str(error)
    else:
        assert idx(items.numpy()) == content


# ------------------------------------------------------------------------------------------------- fingerprint


def test_fingerprint_is_the_hash_of_each_content():
    """Of the real files those that load insists on; of the sample those of the unpacked files, whole."""
    for dataset, expected in DATASETS.items():
        assert images.fingerprint(dataset) == expected
        assert images.fingerprint(dataset, sample=True) == {
            name: hashlib.sha256(gzip.decompress((paths.SAMPLE / dataset / f"{name}.gz").read_bytes())).hexdigest()
            for name in FILES
        }


def test_fingerprint_may_be_changed_by_its_owner():
    """The hashes that load insists on stay what they are, whatever is done with a fingerprint."""
    images.fingerprint("mnist").clear()
    assert set(images.fingerprint("mnist")) == set(FILES)


def test_fingerprint_needs_no_data(tmp_path, monkeypatch):
    """A key can be made before anything is downloaded."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "nothing")
    assert images.fingerprint("mnist") == DATASETS["mnist"]


# --------------------------------------------------------------------------------------------------- as_input


def test_as_input_maps_bytes_to_the_unit_interval():
    """0 to 255 becomes 0 to 1 in one channel, and back without loss."""
    codes = torch.arange(256, dtype=torch.uint8).repeat(4)[: 28 * 28].view(1, 28, 28)
    x = images.as_input(codes)
    assert x.shape == (1, 1, 28, 28) and x.dtype == torch.float32
    assert (x.min(), x.max()) == (0, 1)
    assert torch.equal((x * 255).round().squeeze(1), codes.float())


@given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 4)))
def test_as_input_keeps_several_channels(codes):
    """(B, C, H, W) stays (B, C, H, W), each pixel the byte over 255 in single precision."""
    x = images.as_input(torch.from_numpy(codes))
    assert x.shape == codes.shape
    assert np.array_equal(x.numpy(), codes.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.int64, torch.int8, torch.bool])
def test_as_input_refuses_what_are_no_bytes(kind):
    """Values in [0, 1], divided once more by 255, would be a nearly black picture, and nobody would notice."""
    with pytest.raises(ValueError, match=f"uint8 images of three or four axes, not {kind}"):
        images.as_input(torch.ones(2, 28, 28, dtype=kind))


@pytest.mark.parametrize("axes", [0, 1, 2, 5])
def test_as_input_refuses_other_axes(axes):
    """One picture is a batch of one."""
    with pytest.raises(ValueError, match="three or four axes"):
        images.as_input(torch.zeros([28] * axes if axes < 5 else [1] * 5, dtype=torch.uint8))


# ---------------------------------------------------------------------------------------------------- the room


def test_the_face_shows_the_names_of_images():
    """`from saqlib.data import load` is that of saqlib.data.images, for every name of the face."""
    for name in saqlib.data.__all__:
        assert name == "images" or getattr(saqlib.data, name) is getattr(images, name)
    assert {"load", "as_input", "verify", "fingerprint", "DataError"} <= set(saqlib.data.__all__)


def test_reading_images_never_imports_downloading():
    """Who loads images imports neither the sources nor torchvision."""
    code = "import sys, saqlib.data.images; print(sorted({'saqlib.download', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
