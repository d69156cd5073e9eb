"""The library's own code: imports found whatever their form, and text that changes with what is computed alone."""

import ast
import random
import shutil
from pathlib import Path
from types import CodeType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saqlib import codebase, paths

MODULES = codebase.modules()
ROOM = {each for each in MODULES if each.startswith("network.")}


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """The folder of a small library in place of saqlib."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path / "saqlib"


def write(library: Path, **texts: str) -> None:
    """Files of the library by module, with __ for the dot between room and module."""
    for name, text in texts.items():
        path = library.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)


# -------------------------------------------------------------------------------------------------- imports


IMPORTS = {
    "from saqlib import words": {"words"},
    "from saqlib import words as w, files": {"words", "files"},
    "import saqlib.words": {"words"},
    "import os, saqlib.network.lenet as lenet": {"network.lenet"},
    "from saqlib.network.lenet import LeNet": {"network.lenet"},
    "from saqlib.network.lenet import LeNet, Block": {"network.lenet"},
    "from saqlib.network import lenet": {"network.lenet"},
    "from saqlib.network import PACT": ROOM,
    "from saqlib.network import lenet, PACT": ROOM,
    "from saqlib.network import *": ROOM,
    "from saqlib import network": ROOM,
    "import saqlib.network": ROOM,
    "def later():\n    from saqlib.words import name": {"words"},
    "if TYPE_CHECKING:\n    from saqlib.grid import Cell": {"grid"},
    "import saqlib": set(),
    "from . import words": set(),
    "from .network import lenet": set(),
    "import torch\nfrom torch import nn\nimport saqlib_tools.words\nfrom saqlibrary import words": set(),
    "'from saqlib import words'  # from saqlib import files": set(),
}


@pytest.mark.parametrize("code", IMPORTS)
def test_imports_are_found_in_every_form(code):
    """A module, a name of a module, a room by its face; nothing where the library is not imported."""
    assert codebase.imported(code) == IMPORTS[code]


@pytest.mark.parametrize("module", MODULES)
def test_every_import_of_the_library_is_of_a_form_that_is_found(module):
    """No module imports relatively, or all of saqlib, or by a name that leads to no file: such an import is unseen."""
    for node in ast.walk(ast.parse(codebase.file_of(module).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, ast.unparse(node)
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        assert "saqlib" not in names
        for name in names:
            line = f"import {name}" if isinstance(node, ast.Import) else f"from {node.module} import {name}"
            if "saqlib" in line.split()[1].split("."):
                assert codebase.imported(line), line


def test_modules_are_the_files_without_the_faces():
    """Every file but __init__ is listed once, and found again from its name."""
    files = {path for path in codebase.root().rglob("*.py") if path.name != "__init__.py"}
    assert {codebase.file_of(module) for module in MODULES} == files
    assert len(set(MODULES)) == len(MODULES) == len(files)
    assert {"words", "network.lenet"} <= set(MODULES)


def test_needed_follows_imports_to_their_end(library):
    """Through rooms, in circles, inside functions; what nobody imports is not needed."""
    write(
        library,
        one="from saqlib.room import Name",
        room__a="from saqlib import one",
        room__b="def f():\n    import saqlib.far",
        far="from saqlib.room.a import x",
        alone="from saqlib import one",
    )
    assert codebase.needed(["one"]) == ["far", "one", "room.a", "room.b"]
    assert codebase.needed(["alone"]) == ["alone", *codebase.needed(["one"])]
    assert codebase.needed([]) == []


def test_needed_stops_at_infrastructure(library):
    """Infrastructure is not needed, a room of it neither, and nothing is reached through it alone."""
    write(
        library,
        one="from saqlib import files, pipeline\nfrom saqlib.pipeline.run import main\nfrom saqlib import two",
        files="from saqlib import hidden",
        pipeline__run="from saqlib import hidden",
        two="",
        hidden="",
    )
    assert codebase.needed(["one"]) == ["one", "two"]
    assert codebase.needed(["files", "pipeline.run"]) == []


def test_infrastructure_hides_nothing_that_decides():
    """What a deciding module gets from infrastructure rests on infrastructure and on makers of values alone."""
    # not commands of their own
    used = {"codebase", "datasets", "errors", "files", "paths", "processes", "store", "workers"}
    assert used < set(codebase.INFRASTRUCTURE)
    for module in used:
        for each in codebase.imported(codebase.file_of(module).read_text()):
            assert each in used or each.split(".")[-1] in codebase.VALUES, (module, each)
    deciding = [each for each in MODULES if codebase.room(each) not in codebase.INFRASTRUCTURE]
    found = {each for module in deciding for each in codebase.imported(codebase.file_of(module).read_text())}
    assert {each for each in found if codebase.room(each) in codebase.INFRASTRUCTURE} <= used


def test_texts_are_those_of_what_decides(library):
    """A module with all that it imports, but for makers of values; without comments."""
    write(
        library,
        one="from saqlib import two, params\nfrom saqlib.room import settings, a  # why",
        two='"""What it is."""',
        params="limit = 1",
        room__settings="limit = 1",
        room__a="value = (1)",
    )
    assert codebase.texts("one") == {
        "one": "from saqlib import two, params\nfrom saqlib.room import settings, a\n",
        "room.a": "value = 1\n",
        "two": "\n",
    }


# ------------------------------------------------------------------------------------------ what of it decides


def without_docstrings(text: str) -> CodeType:
    """What `python -OO` makes of a text, whose lines are all one, so that the layout leaves no trace."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if hasattr(node, "lineno"):
            node.lineno = node.end_lineno = 1
            node.col_offset = node.end_col_offset = 0
    return compile(tree, "", "exec", optimize=2)


def does(code: CodeType) -> tuple:
    """What a code object does: its instructions, constants and names."""
    constants = [does(each) if isinstance(each, CodeType) else (type(each), each) for each in code.co_consts]
    names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return code.co_code, constants, names, code.co_argcount, code.co_kwonlyargcount, code.co_flags


@pytest.mark.parametrize("module", MODULES)
def test_decisive_code_compiles_to_what_python_makes_without_docstrings(module):
    """The same instructions as `python -OO` gets from the file itself, its f-strings written as calls."""
    text = ast.unparse(codebase._FormatsAsCalls().visit(ast.parse(codebase.file_of(module).read_text())))
    assert does(without_docstrings(codebase.decisive(text))) == does(without_docstrings(text))


@pytest.mark.parametrize(
    "text", ["{x}", "{x!r:>{w}} and {{y}} {y:.2f}", "{'a' if x else 'b'}", "{x=}", "{z!a}{z!s:*^9}", "{[f'{y}', x]}"]
)
def test_f_strings_become_calls_that_do_the_same(text):
    """How Python writes an f-string out changed from 3.11 to 3.12; how it writes calls did not."""
    code = codebase.decisive(f'found = f"{text}"')
    names = {"x": "o'k", "w": 9, "y": 2.5, "z": "é"}
    exec(code, names)
    assert names["found"] == eval(f'f"{text}"', dict(names)) and " f'" not in code and ' f"' not in code


@pytest.mark.parametrize("module", MODULES)
def test_decisive_code_has_no_comment_and_no_docstring(module):
    """By Python's own word for each of them; and it is decisive already."""
    text = codebase.decisive(codebase.file_of(module).read_text())
    assert not any(line.lstrip().startswith("#") for line in text.splitlines())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            assert ast.get_docstring(node) is None
    assert codebase.decisive(text) == text


DOC = object()  # a place where a docstring may stand
EMPTY = object()  # a body of nothing but a docstring, or of `pass`
SHAPES = {
    "function": [(0, "def f{i}(x):"), (1, DOC), (1, "y = x * {n}"), (1, "return y, {s!r}")],
    "class": [
        (0, "class C{i}:"), (1, DOC), (1, "value = {s!r}"), (1, "def __call__(self, x):"), (2, DOC),
        (2, "return self.value * (x % 3), {n}"), (0, "f{i} = C{i}()"),
    ],
    "nested": [
        (0, "def f{i}(x):"), (1, DOC), (1, "def inner(z):"), (2, DOC), (2, "return z + {n}"), (1, "if x > {n}:"),
        (2, "return inner(x)"), (1, "return [{s!r} for _ in range(x % 3)]"),
    ],
    "empty function": [(0, "def f{i}(x):"), (1, EMPTY)],
    "empty class": [(0, "class C{i}:"), (1, EMPTY), (0, "def f{i}(x):"), (1, "return C{i}.__name__")],
    "string behind": [(0, "def f{i}(x):"), (1, DOC), (1, "y = {n}"), (1, "{s!r}"), (1, "return y")],
    "bytes first": [(0, "def f{i}(x):"), (1, "b'no docstring'"), (1, "return {n}")],
    "f-string first": [(0, "def f{i}(x):"), (1, "f'{{x.real}}'"), (1, "return f'{{x!r:>{n}}}' + {s!r}")],
    "assertion": [(0, "def f{i}(x):"), (1, DOC), (1, "assert x != {n}, {s!r}"), (1, "return {n}")],
    "coroutine": [
        (0, "async def g{i}(x):"), (1, DOC), (1, "return x + {n}"),
        (0, "def f{i}(x):"), (1, "try: g{i}(x).send(None)"), (1, "except StopIteration as end: return end.value"),
    ],
}  # fmt: skip
programs = st.lists(
    st.tuples(st.sampled_from(sorted(SHAPES)), st.integers(0, 9), st.text("ab'\"#\\\n{}", max_size=5)), min_size=1,
    max_size=4,
)  # fmt: skip
layouts = st.randoms(use_true_random=False)


def rendered(program: list[tuple], layout: random.Random) -> str:
    """The source of a program, with docstrings, comments, blank lines and an indentation as the layout has it."""
    unit = " " * layout.randint(1, 5)
    words = ["'''It's a \"word\".'''", '"One line. # no comment"', '"""Two\n  lines."""', "r'raw'", "'a' 'b'"]
    lines = [layout.choice([*words, ""])]
    for i, (shape, n, s) in enumerate(program):
        for depth, line in SHAPES[shape]:
            if layout.random() < 0.3:
                lines.append(" " * layout.randint(0, 7) + layout.choice(["", "# a comment", "#'''", '#: """']))
            if line is DOC:
                line = layout.choice([*words, None])
            elif line is EMPTY:
                line = layout.choice([*words, "pass"])
            else:
                ends = ["", "   ", "  # why", *([] if line.endswith(":") else [";"])]
                line = line.format(i=i, n=n, s=s) + layout.choice(ends)
            if line is not None:
                lines.append(unit * depth + line)
    return "\n".join(lines) + layout.choice(["", "\n", "\n\n# the end\n"])


def behaviour(source: str, count: int) -> list:
    """What the functions of a program return, or raise, for some numbers."""
    space: dict = {}
    exec(source, space)
    found = []
    for name in [f"f{i}" for i in range(count)]:
        for x in range(-1, 10):
            try:
                found.append(space[name](x))
            except AssertionError as error:
                found.append(repr(error))
    return found


@given(programs, layouts)
def test_decisive_code_does_what_the_code_does(program, layout):
    """Whatever comments, docstrings and layout surround it: the same results for the same arguments."""
    source = rendered(program, layout)
    assert behaviour(codebase.decisive(source), len(program)) == behaviour(source, len(program))


@given(programs, layouts, layouts)
def test_comments_docstrings_and_layout_change_no_decisive_code(program, one, other):
    """One program written in two ways has one text."""
    assert codebase.decisive(rendered(program, one)) == codebase.decisive(rendered(program, other))


@given(programs, programs, layouts)
def test_different_programs_have_different_decisive_code(program, other, layout):
    """No number, string or statement gets lost on the way."""
    texts = [codebase.decisive(rendered(each, layout)) for each in (program, other)]
    plain = [[(i, shape, *_used(shape, n, s)) for i, (shape, n, s) in enumerate(each)] for each in (program, other)]
    assert (texts[0] == texts[1]) == (plain[0] == plain[1])


def _used(shape: str, n: int, s: str) -> tuple:
    """Of number and string what the shape has a place for."""
    text = "".join(line for _, line in SHAPES[shape] if isinstance(line, str))
    return n if "{n}" in text else None, s if "{s!r}" in text else None


# ---------------------------------------------------------------------------------------------- text of rooms


def test_text_of_a_room_has_every_file_that_decides(library):
    """Modules without their docstrings, other files as they are, each under its name; no face, cache or hidden file."""
    write(library, room__b='"""B."""\nvalue = (2)', room__a="value = 1  # one", room__deep__c="value = 3")
    (library / "room" / "style.mplstyle").write_text("# a colour\ncolor: red\n")
    (library / "room" / "__init__.py").write_text("face = 1")
    (library / "room" / ".hidden").write_text("hidden")
    (library / "room" / "__pycache__").mkdir()
    (library / "room" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"\xff")
    assert codebase.room_text("room") == (
        "# room/a.py\nvalue = 1\n# room/b.py\nvalue = 2\n# room/deep/c.py\nvalue = 3\n"
        "# room/style.mplstyle\n# a colour\ncolor: red\n"
    )


def test_text_of_a_file_of_the_ground(library):
    """A room of one file."""
    write(library, words='"""Words."""\nname = "Gini"  # of a score')
    assert codebase.room_text("words") == "# words.py\nname = 'Gini'\n"


def test_text_of_a_room_notices_another_name_of_a_file(library):
    """The same lines in another module are other code."""
    write(library, room__a="value = 1")
    before = codebase.room_text("room")
    shutil.move(library / "room" / "a.py", library / "room" / "b.py")
    assert codebase.room_text("room") != before


def test_room_of_a_module():
    """The folder, or the file of the ground itself."""
    assert [codebase.room(each) for each in ("network.lenet", "words")] == ["network", "words"]
    assert {codebase.room(each) for each in MODULES} >= {"network", "training", "words", "store"}
