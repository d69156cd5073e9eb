"""study.store: a key that changes with all that decides a result and nothing else; results that are whole or anew."""

import ast
import importlib.metadata
import importlib.util
import inspect
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest

import saqlib.files
from study import cells, files, paths, store

# A small library in place of saqlib, and a study that computes with it.
LIBRARY = {
    "saqlib/__init__.py": "version = 1\n",
    "saqlib/errors.py": "words = 1\n",
    "saqlib/one.py": '"""One."""\nfrom saqlib import errors\n\n\ndef double(x):\n    """Twice."""\n    from saqlib.two import value\n\n    return value * x  # why\n',  # noqa: E501
    "saqlib/two.py": "from saqlib.deep import inner\nvalue = 2\n",
    "saqlib/deep/__init__.py": "",
    "saqlib/deep/inner.py": "import math\n",
    "saqlib/deep/fast.c": "int x = 1; /* one */\n",
    "saqlib/other.py": "value = 3\n",
    "study/made.py": """
import json
from study.store import cached

BASE = 10


@cached("made", code=("saqlib.one",), read=json.loads, write=lambda value: json.dumps(value).encode())
def make(x, y):
    '''Words.'''
    CALLS.append((x, y))
    return [BASE + x, y]


CALLS = []
""",
}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The folder of the small library, and an empty store."""
    for name, text in LIBRARY.items():
        files.write(tmp_path / name, text)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    forget()
    return tmp_path


def forget() -> None:
    """Code and releases are read anew."""
    for function in (store.code_digest, store._own_code, store._releases):
        function.cache_clear()


def made(root: Path) -> ModuleType:
    """The module of the study that computes."""
    spec = importlib.util.spec_from_file_location(f"made_{root.name}", root / "study" / "made.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------------------ keys


VALUES = [None, 1, "1", 1.5, ["a", "b"], ["ab"], ["b", "a"], {"a": 1}, {"b": 1}, {"a": {"b": 1}}, {"a": None}, {}, [[]]]


def test_arguments_change_the_key(root):
    """Another value, type, order, name or place."""
    make = made(root).make
    assert len({make.key(*each) for value in VALUES for each in ((value, 0), (0, value))}) == 2 * len(VALUES)


@dataclass(frozen=True)
class Setting:
    """Plain values under names."""

    a: int
    b: object = None


@dataclass(frozen=True)
class Keyed:
    """A result that stands as its own key."""

    key: str
    note: int


def test_an_input_stands_as_its_key(root):
    """What a result is computed from decides by its key alone; a dataclass by its values; order of names by nothing."""
    make = made(root).make
    assert make.key(Keyed("abc", 1), 0) == make.key(Keyed("abc", 2), 0) != make.key(Keyed("abd", 1), 0)
    assert make.key(Setting(1, Keyed("abc", 1)), 0) == make.key({"b": "abc", "a": 1}, 0) != make.key(Setting(1), 0)


CHANGES = {
    "comment": ("saqlib/one.py", "# why", "# because", False),
    "docstring": ("saqlib/one.py", "One.", "Uno.", False),
    "layout": ("saqlib/two.py", "value = 2", "value = (\n    2\n)", False),
    "statement": ("saqlib/one.py", "value * x", "x * value", True),
    "statement of an import": ("saqlib/two.py", "value = 2", "value = 3", True),
    "statement behind two imports": ("saqlib/deep/inner.py", "import math", "import cmath", True),
    "C": ("saqlib/deep/fast.c", "x = 1", "x = 2", True),
    "comment in C": ("saqlib/deep/fast.c", "/* one */", "// two", False),
    "a stranger": ("saqlib/other.py", "value = 3", "value = 4", False),
    "words": ("saqlib/errors.py", "words = 1", "words = 2", False),
    "the function": ("study/made.py", "BASE + x", "x + BASE", True),
    "its module": ("study/made.py", "BASE = 10", "BASE = 11", True),
    "its docstring": ("study/made.py", "Words.", "Other words.", False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_code_that_decides_changes_the_key_and_nothing_else_does(root, change):
    """Statements of the function, of its modules and of all that they import; not comments, docstrings and layout."""
    name, old, new, decides = CHANGES[change]
    before = made(root).make.key(1, 2)
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))
    forget()
    assert (made(root).make.key(1, 2) != before) == decides


def test_releases_and_what_computes_change_the_key(root, monkeypatch):
    """Every numeric package; a new pytest computes nothing anew. Kernels or PyTorch, and the processor's level."""
    make, real, keys = made(root).make, importlib.metadata.version, set()
    for package in ("pytest", *store.NUMERICS):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "version", lambda name, p=package: "999" if name == p else real(name))
            store._releases.cache_clear()
            keys.add(make.key(1, 2))
    store._releases.cache_clear()
    assert make.key(1, 2) in keys and len(keys) == 1 + len(store.NUMERICS)
    monkeypatch.setattr(store, "_computed_by", lambda: "an abacus")
    assert make.key(1, 2) not in keys


CACHED = [each for each in vars(cells).values() if isinstance(each, store.Cached)]
NO_NUMERICS = {"pandas", "xarray", "PIL"}  # these only name or draw what others compute


@pytest.mark.parametrize("function", CACHED, ids=lambda function: function.kind)
def test_every_package_and_module_that_computes_counts(function):
    """All that the modules of a cached function import is Python's own, saqlib's or of a counted release.

    And all that it imports itself is among them.
    """
    texts = {name: text for code in function.code for name, text in store.decisive_code(code).items()}
    nodes = [each for each in ast.walk(ast.parse(inspect.getsource(function.function)))
             if isinstance(each, ast.ImportFrom) and each.module != "saqlib"]  # fmt: skip
    assert {f"{each.module.replace('.', '/')}.py" for each in nodes} <= texts.keys()
    packages = set()
    for name, text in texts.items():
        for node in ast.walk(ast.parse(text if name.endswith(".py") else "")):
            if isinstance(node, ast.Import):
                packages |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                packages.add(node.module.split(".")[0])
    assert packages - set(sys.stdlib_module_names) - {"saqlib"} <= set(store.NUMERICS) | NO_NUMERICS


# ---------------------------------------------------------------------------------------------------------- results


def test_a_result_is_computed_once(root):
    """Whoever asks, also through another copy of the module; a tuple comes back as the list that others read later."""
    first, second = made(root), made(root)
    assert first.make(1, (2, 3)) == second.make(1, (2, 3)) == first.make.read(1, [2, 3]) == [11, [2, 3]]
    assert (first.CALLS, second.CALLS) == ([(1, (2, 3))], []) and first.make.exists(1, (2, 3))
    assert first.make(1, 3) == [11, 3] and len(first.CALLS) == 2


def test_a_cached_function_travels_by_its_name():
    """To a worker, which has the same code."""
    assert all(pickle.loads(pickle.dumps(function)) is function for function in CACHED)


DAMAGES = {  # of a file, and what another key's holds
    "a flipped bit in the seal": lambda whole, other: bytes([whole[0] ^ 1]) + whole[1:],
    "another number": lambda whole, other: whole.replace(b"[11", b"[10"),
    "cut": lambda whole, other: whole[: len(whole) // 2],
    "no result": lambda whole, other: b"<html>sign in</html>",
    "the file of another key": lambda whole, other: other,  # copied there by hand or by a broken tool
}


@pytest.fixture
def module(root) -> ModuleType:
    """The module of the study, which has computed two results."""
    module = made(root)
    module.make(1, 0), module.make(2, 0)
    return module


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_put_aside_and_computed_anew(module, damage):
    """The same bytes; whoever wants to look finds the damaged ones under another name."""
    path, other = module.make.path(1, 0), module.make.path(2, 0).read_bytes()
    damaged = damage(whole := path.read_bytes(), other)
    assert damaged != whole
    path.write_bytes(damaged)
    assert module.make(1, 0) == [11, 0] and module.CALLS == [(1, 0), (2, 0), (1, 0)]
    assert path.read_bytes() == whole and path.with_name("1.damaged").read_bytes() == damaged


@pytest.mark.parametrize("error", [PermissionError(13, "no"), MemoryError()])
def test_a_file_that_cannot_be_read_now_is_an_error_and_stays(module, error, monkeypatch):
    """It may be whole: nothing is put aside or computed anew."""
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(Path, "read_bytes", Mock(side_effect=error))
        module.make(1, 0)
    module.make(1, 0)
    assert len(module.CALLS) == 2 and [each.name for each in module.make.path(1, 0).parent.iterdir()] == ["1"]


@pytest.mark.parametrize("step", ["compute", "fsync", "replace"])
def test_an_interruption_leaves_nothing_half_written(root, step, monkeypatch):
    """Ctrl-C while it is computed or written: the next call computes it."""
    make = made(root).make

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*{"compute": (make, "function")}.get(step, (saqlib.files.os, step)), interrupted)
        make(1, 0)
    assert not [path for path in (paths.BUILD / "store").rglob("*") if path.is_file()]
    assert make(1, 0) == [11, 0] and make.exists(1, 0)
