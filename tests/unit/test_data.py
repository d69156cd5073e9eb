"""saqlib.data: nothing but whole, verified files is ever used."""

import errno
import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saqlib import data
from saqlib.data import DATASETS, FILES
from tests.helpers.networks import SAMPLE
from tests.helpers.raw_files import (
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
def world(tmp_path, monkeypatch) -> dict[str, bytes]:
    """The files of a dataset of a few random images, taken for `mnist`; data/ is empty."""
    files = {name: idx(array) for name, array in random_arrays().items()}
    take_for_mnist(files, tmp_path / "data", monkeypatch)
    return files


# -------------------------------------------------------------------------------------------------------- load


@pytest.mark.parametrize("packed", [False, True])
def test_load_returns_the_arrays_of_the_files(world, packed):
    """As uint8 and int64, plain or gzipped; train and validation are the head and last twelfth of the train file."""
    arrays = random_arrays()
    put({f"{name}.gz": gzip.compress(content) for name, content in world.items()} if packed else world)
    data.verify("mnist")
    parts = {
        "test": (arrays[TEST_IMAGES], arrays[TEST_LABELS]),
        "train": (arrays[TRAIN_IMAGES][:22], arrays[TRAIN_LABELS][:22]),
        "validation": (arrays[TRAIN_IMAGES][22:], arrays[TRAIN_LABELS][22:]),
    }
    for split, (pixels, labels) in parts.items():
        found = data.load("mnist", split)
        assert found[0].dtype == torch.uint8 and found[1].dtype == torch.int64
        assert np.array_equal(found[0].numpy(), pixels) and np.array_equal(found[1].numpy(), labels)


@pytest.mark.parametrize("dataset", DATASETS)
def test_sample_is_balanced_and_needs_no_data(dataset, tmp_path, monkeypatch):
    """The committed sample has its three splits, each class equally often, to the bit, without any data/."""
    monkeypatch.setattr(data, "DATA", tmp_path / "nothing")
    for split, count in {"train": 1100, "validation": 100, "test": 300}.items():
        pixels, labels = data.load(dataset, split, SAMPLE)
        assert pixels.shape == (count, 28, 28) and pixels.dtype == torch.uint8
        assert labels.bincount().tolist() == [count // 10] * 10
        assert pixels.flatten(1).float().std(dim=1).min() > 0, "an image without content"
    digest = hashlib.sha256("".join(data.fingerprint(dataset, SAMPLE).values()).encode()).hexdigest()
    assert digest[:16] == {"mnist": "69dc0058e6ce4166", "fashion_mnist": "37502bdd7bc23af2"}[dataset]


# ------------------------------------------------------------------------------------------------ what is refused


def test_unknown_names_are_refused_by_every_entry():
    """A ValueError that names the nearest valid one, before any file is read."""
    entries = (data.load, "test"), (data.load, "test", SAMPLE), (data.verify,), (data.fingerprint, SAMPLE)
    for entry, *rest in entries:
        with pytest.raises(ValueError, match="^unknown dataset 'minst'; did you mean 'mnist'?") as caught:
            entry("minst", *rest)
        assert str(caught.value).endswith("(valid: mnist, fashion_mnist)")
    with pytest.raises(ValueError, match="unknown split 'valid'; did you mean 'validation'?"):
        data.load("mnist", "valid", SAMPLE)


def refusal(split: str = "test") -> str:
    """Why data/mnist/ is not used; loading and verifying say the same."""
    reasons = []
    for use in (lambda: data.load("mnist", split), lambda: data.verify("mnist")):
        with pytest.raises(data.DataError) as caught:
            use()
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]
    return reasons[0]


def test_missing_file_says_what_to_run(world):
    """Without data/, the missing file and the command that fetches it are named."""
    assert refusal("train").endswith(f"{TRAIN_IMAGES} is missing. Run `make data` to fetch it.")


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\xff"])
def test_damaged_file_is_never_used(world, damage):
    """A truncated or altered file stops load and verify: name, both hashes, what to delete; it is left alone."""
    put(world)
    path = data.DATA / "mnist" / TEST_IMAGES
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    hashes = DATASETS["mnist"].hashes[TEST_IMAGES], hashlib.sha256(damaged).hexdigest()
    assert refusal() == (
        f"{TEST_IMAGES} ({len(damaged):,} bytes) is truncated or altered: "
        f"expected SHA-256 {hashes[0]}, found {hashes[1]}. Delete {path} and run `make data`."
    )
    assert path.read_bytes() == damaged
    assert len(data.load("mnist", "train")[0]) == 22, "files of the other part are whole"
    path.unlink()
    path.with_name(f"{TEST_IMAGES}.gz").write_bytes(damage(gzip.compress(world[TEST_IMAGES], mtime=0)))
    assert f"{TEST_IMAGES}.gz is truncated or altered" in refusal()


def test_a_bomb_is_refused_before_it_fills_the_memory(world, monkeypatch):
    """Plain or packed: no more is unpacked than a file of a dataset may hold."""
    put({name: content for name, content in world.items() if name != TEST_IMAGES})
    monkeypatch.setattr(data, "MOST_BYTES", 1000)
    for ending, pack in (("", bytes), (".gz", lambda content: gzip.compress(content)[:-20])):  # its end is never seen
        path = data.DATA / "mnist" / f"{TEST_IMAGES}{ending}"
        path.write_bytes(pack(bytes(10**6)))
        reason = f"{path.name} holds more than 1,000 bytes, so it is no file of a dataset"
        with pytest.raises(data.DataError, match=f"^{reason}$"):
            data.content(path.parent, TEST_IMAGES)
        path.unlink()


NO_FILE = {
    "folder": (lambda path: path.mkdir(), "is no file"),
    "pipe": (lambda path: os.mkfifo(path), "is no file"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "is a link that leads nowhere"),
    "loop": (lambda path: path.symlink_to(path), "is a link that leads nowhere"),
}


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("kind", NO_FILE)
def test_what_is_no_file_is_refused(world, kind, ending):
    """Neither a traceback nor a wait for ever: what it is, and what to do."""
    make, what = NO_FILE[kind]
    put({name: content for name, content in world.items() if name != TEST_IMAGES})
    path = data.DATA / "mnist" / f"{TEST_IMAGES}{ending}"
    make(path)
    assert refusal() == f"{path.name} {what}. Delete {path} and run `make data`."


def test_what_may_not_be_read_is_refused(world, monkeypatch):
    """Another user's file, say."""
    put(world)

    def refused(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", lambda path, mode: refused(path))
    with pytest.raises(data.DataError, match=f"{TEST_IMAGES}: Permission denied. Delete .* and run `make data`"):
        data.load("mnist", "test")


GOOD = idx(np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28))
CHANGED = st.builds(lambda at, cut, new: GOOD[:at] + new + GOOD[at + cut :], *[st.integers(0, 20)] * 2, st.binary())


@given(st.binary(max_size=40) | CHANGED)
def test_an_idx_file_is_read_or_refused(content):
    """Any bytes, and a good file with some changed: items as many as the header says, or DataError."""
    try:
        items = data._parse_idx(content, (28, 28))
    except data.DataError as error:
        assert "\n" not in str(error)
    else:
        assert idx(items.numpy()) == content


# ------------------------------------------------------------------------------------------------- fingerprint


@pytest.mark.parametrize("dataset", DATASETS)
def test_fingerprint_is_the_hash_of_each_content(dataset, tmp_path, monkeypatch):
    """Of the real files those that load insists on, before any is there; of others those of the unpacked files."""
    monkeypatch.setattr(data, "DATA", tmp_path / "nothing")
    data.fingerprint(dataset).clear()  # and its owner may change it
    assert data.fingerprint(dataset) == DATASETS[dataset].hashes
    assert data.fingerprint(dataset, SAMPLE) == {
        name: hashlib.sha256(gzip.decompress((SAMPLE / dataset / f"{name}.gz").read_bytes())).hexdigest()
        for name in FILES
    }


# --------------------------------------------------------------------------------------------------- as_input


@given(st.integers(3, 4).flatmap(lambda axes: hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * axes))))
def test_as_input_maps_bytes_to_the_unit_interval(codes):
    """Each pixel the byte over 255 in single precision; one channel is added where there is none."""
    x = data.as_input(torch.from_numpy(codes))
    expected = codes if codes.ndim == 4 else codes[:, None]
    assert np.array_equal(x.numpy(), expected.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    "images",
    [*(torch.ones(2, 28, 28, dtype=each) for each in (torch.float32, torch.float64, torch.int64, torch.bool)),
     *(torch.zeros([2] * axes, dtype=torch.uint8) for axes in (0, 1, 2, 5))],
    ids=str,
)  # fmt: skip
def test_as_input_refuses_what_are_no_bytes_and_other_axes(images):
    """Values in [0, 1], divided once more by 255, would be a nearly black picture, and nobody would notice."""
    with pytest.raises(ValueError, match=f"uint8 images of three or four axes, not {images.dtype}"):
        data.as_input(images)
