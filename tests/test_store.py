"""The store: a key that changes with all that decides a result and nothing else; files that are read or put aside."""

import ast
import functools
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saqlib import codebase, files, paths, store

USERS = ("training.seed", "clarity.seed", "clarity.brief", "deployment.seed")  # whose results are kept
NO_NUMERICS = {"pandas", "xarray"}  # imported by a deciding module, and only name what others compute


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """The folder of a small library in place of saqlib: one module that imports another one."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    folder = tmp_path / "saqlib"
    folder.mkdir()
    (folder / "one.py").write_text('"""One."""\nfrom saqlib import two\n')
    (folder / "two.py").write_text("value = 2  # of two\n")
    return folder


def key(*decides) -> str:
    """The key of the small library's module."""
    return store.key("saqlib.one", *decides)


# ----------------------------------------------------------------------------------------------------- names


def test_key_is_16_hexadecimal_digits_and_a_file_name(library):
    """Short enough for a folder; of the same things it is the same key, by a module's name with or without saqlib."""
    assert len(key()) == 16 and set(key()) <= set("0123456789abcdef")
    assert key(1, {"a": (2, 3)}) == key(1, {"a": [2, 3]}) == store.key("one", 1, {"a": (2, 3)})
    assert store.folder("trained", key()) == paths.BUILD / "store" / "trained" / key()


@pytest.mark.parametrize(
    "one, other",
    [
        ([], [None]),
        ([1], [2]),
        ([1], ["1"]),
        ([0.1], [0.1 + 1e-18]),
        (["a", "b"], ["ab"]),
        (["a", "b"], ["b", "a"]),
        ([{"a": 1}], [{"b": 1}]),
        ([{"a": {"b": 1}}], [{"a": {"b": 2}}]),
        ([{"a": None}], [{}]),
    ],
)
def test_what_decides_changes_the_key(library, one, other):
    """Another value, type, order or name anywhere; two numbers that are one float are one value."""
    assert (key(*one) != key(*other)) == (one != other)


def test_order_of_settings_is_no_setting(library):
    """A mapping is its keys and values."""
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})


def test_key_does_not_depend_on_the_process():
    """Another process, with another seed of its hashes, finds what this one has kept."""
    code = "from saqlib import store; print(store.key('saqlib.training.seed', {'b': 1, 'a': 2}))"
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(paths.ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == store.key("saqlib.training.seed", {"b": 1, "a": 2})


def test_code_of_the_module_and_of_its_imports_changes_the_key(library, tmp_path, monkeypatch):
    """A statement in either file; a comment, a docstring, layout, and a module that is not imported do not."""
    before = key()
    found = {}
    edits = {
        "comments": {"one": "# x\n'''Uno.'''\n\nfrom saqlib import two  # why", "two": "value = (\n    2\n)"},
        "stranger": {"three": "value = 3"},
        "module": {"one": '"""One."""\nfrom saqlib import two\nvalue = 1\n'},
        "import": {"two": "value = 3"},
        "another import": {"one": "from saqlib import two, three", "three": ""},
    }
    for name, texts in edits.items():
        folder = tmp_path / name / "saqlib"
        folder.mkdir(parents=True)
        for path in library.glob("*.py"):
            (folder / path.name).write_text(path.read_text())
        for module, text in texts.items():
            (folder / f"{module}.py").write_text(text)
        monkeypatch.setattr(paths, "ROOT", tmp_path / name)
        found[name] = key()
    assert found["comments"] == found["stranger"] == before
    assert len(set(found.values())) == 4


@pytest.mark.parametrize("package", store.NUMERICS)
def test_another_release_of_a_numeric_package_changes_the_key(library, monkeypatch, package):
    """Its numbers may differ, so what the former one computed is not taken."""
    before = key()
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "999" if name == package else real(name))
    assert key() != before


def test_another_release_of_a_tool_does_not_change_the_key(library, monkeypatch):
    """A new pytest computes nothing anew."""
    before = key()
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: real(name) if name in store.NUMERICS else "999")
    assert key() == before


@pytest.mark.parametrize("user", USERS)
def test_every_package_that_computes_counts(user):
    """What the deciding modules import is Python's own, the library's, or among the packages whose release counts."""
    found = set()
    for text in codebase.texts(user).values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) - {"saqlib"} <= set(store.NUMERICS) | NO_NUMERICS


SCHEDULING = {"training.cell", "clarity.cell", "deployment.cell", "stored"}


@pytest.mark.parametrize("user", USERS)
def test_no_code_that_schedules_is_in_a_key(user):
    """Which seeds, on which engine, read from and written to which file: another way of doing that computes nothing."""
    deciding = set(codebase.texts(user))
    assert user in deciding and not deciding & SCHEDULING
    assert not any(codebase.room(module) in codebase.INFRASTRUCTURE for module in deciding)


# ----------------------------------------------------------------------------------------------------- files


def read(path: Path) -> int:
    """A reader that refuses what is no number."""
    return int(path.read_text())


def test_what_was_kept_is_read(tmp_path):
    """The file stays as it is."""
    path = tmp_path / "0.pt"
    path.write_text("7")
    assert store.kept(path, read) == 7
    assert [each.name for each in tmp_path.iterdir()] == ["0.pt"]


def test_what_is_not_there_is_nothing(tmp_path):
    """Also where the folder is missing."""
    assert store.kept(tmp_path / "0.pt", read) is None
    assert store.kept(tmp_path / "nowhere" / "0.pt", read) is None
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_is_put_aside(tmp_path):
    """Whoever wants to look finds the bytes under another name, those of the last time; the place is free again."""
    path = tmp_path / "0.pt"
    for text in ("damaged", "damaged again"):
        path.write_text(text)
        assert store.kept(path, read) is None
        assert [each.name for each in tmp_path.iterdir()] == ["0.pt.damaged"]
        assert (tmp_path / "0.pt.damaged").read_text() == text
    path.write_text("7")
    assert store.kept(path, read) == 7


def test_a_flipped_bit_of_a_weight_is_damage(tmp_path):
    """torch itself reads such a file without a word; here the seed is trained again."""
    path = files.write_torch(tmp_path / "0.pt", {"weights": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(9).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)
    load = functools.partial(torch.load, weights_only=True)
    assert not torch.equal(load(path)["weights"], torch.ones(1000))
    assert store.kept(path, load) is None and (tmp_path / "0.pt.damaged").exists()


def test_an_interruption_is_no_damage(tmp_path):
    """Ctrl-C while a file is read leaves it where it is."""

    def interrupted(path):
        raise KeyboardInterrupt

    (tmp_path / "0.pt").write_text("7")
    with pytest.raises(KeyboardInterrupt):
        store.kept(tmp_path / "0.pt", interrupted)
    assert [each.name for each in tmp_path.iterdir()] == ["0.pt"]
