"""The library's own code: which modules a piece of it imports, and what of its text can change a number.

A room is a folder of saqlib, or a single file of the ground. Within saqlib a module names the modules that it imports;
the public face of a room (`from saqlib.network import PACT`) stands for the whole room.
"""

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from saqlib import paths

# Where and how fast, never what comes out: no key and no stage depends on these. (What data hold, is in every key and
# every stage by itself.) A test draws the imports, so nothing else can be left out.
INFRASTRUCTURE = (
    "codebase", "datasets", "download", "errors", "explore", "files", "paths", "pipeline", "processes", "site", "store",
    "workers",
)  # fmt: skip
# What only makes values: a key holds the values themselves, so a better message here computes nothing anew.
VALUES = ("params", "grid", "settings")


def root() -> Path:
    """The folder of the library."""
    return paths.ROOT / "saqlib"


def modules() -> list[str]:
    """Every module below saqlib, such as `words` and `network.lenet`, without the faces of rooms."""
    found = [path.relative_to(root()) for path in sorted(root().rglob("*.py"))]
    return [".".join(path.with_suffix("").parts) for path in found if _counts(path)]


def room(module: str) -> str:
    """`network` of `network.lenet`; a file of the ground is a room of its own."""
    return module.split(".")[0]


def file_of(module: str) -> Path:
    """The file of a module."""
    return root().joinpath(*module.split(".")).with_suffix(".py")


def imported(code: str) -> set[str]:
    """The modules of saqlib that a piece of code imports, also inside functions."""
    return {module for name in _named(code) for module in _resolved(name)}


@cache
def _named(code: str) -> frozenset[str]:
    """What a piece of code imports of saqlib, as it names it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "saqlib":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "saqlib"}
    return frozenset(found)


def _resolved(name: str) -> list[str]:
    """The modules behind `saqlib.words`, `saqlib.network.lenet.LeNet`, or a name of a face, `saqlib.network.PACT`."""
    parts = name.split(".")[1:]
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if file_of(module).is_file():
            return [module]
        if (root().joinpath(*parts[:end]) / "__init__.py").is_file():
            return [each for each in modules() if each.startswith(f"{module}.")]
    return []


def needed(start: Iterable[str]) -> list[str]:
    """These modules and all that they import in their turn, sorted, but for infrastructure."""
    found, queue = set(), set(start)
    while queue:
        module = queue.pop()
        if room(module) not in INFRASTRUCTURE:
            found.add(module)
            queue |= imported(file_of(module).read_text(encoding="utf-8")) - found
    return sorted(found)


def decisive(code: str) -> str:
    """What of some code can change a number: parsed, without comments, docstrings and layout."""
    tree = _FormatsAsCalls().visit(ast.parse(code))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                node.body[:1] = [] if len(node.body) > 1 or isinstance(node, ast.Module) else [ast.Pass()]
    return ast.unparse(tree) + "\n"


class _FormatsAsCalls(ast.NodeTransformer):
    """An f-string as the calls that it stands for: how one is written out depends on Python's version."""

    CONVERSIONS = {ord("s"): "str", ord("r"): "repr", ord("a"): "ascii"}

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        parts = ast.List([self.visit(part) for part in node.values], ast.Load())
        return _call(ast.Attribute(ast.Constant(""), "join", ast.Load()), parts)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        value = self.visit(node.value)
        if node.conversion in self.CONVERSIONS:
            value = _call(ast.Name(self.CONVERSIONS[node.conversion], ast.Load()), value)
        spec = [self.visit(node.format_spec)] if node.format_spec else []
        return _call(ast.Name("format", ast.Load()), value, *spec)


def _call(function: ast.expr, *arguments: ast.expr) -> ast.Call:
    return ast.Call(function, list(arguments), [])


def room_text(name: str) -> str:
    """All decisive code of a room in one text, with other files (a style sheet) as they are."""
    folder = root() / name
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [file_of(name)]
    inside = {path: path.relative_to(root()) for path in files}
    return "".join(f"# {name.as_posix()}\n{_text(path)}" for path, name in inside.items() if _counts(name))


def _counts(path: Path) -> bool:
    """Whether a path inside saqlib is code of ours: no face, no cache, nothing hidden (JupyterLab keeps copies)."""
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and "__pycache__" not in path.parts and path.name != "__init__.py"


def _text(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".c":
        return " ".join(re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL).split()) + "\n"
    return decisive(text) if path.suffix == ".py" else text


@cache
def _digestible(path: Path) -> str:
    return _text(path)


def forget() -> None:
    """Read code anew, for who has changed some; it is read once by a process, which runs what it has read."""
    _digestible.cache_clear()
    _texts.cache_clear()


def texts(module: str) -> dict[str, str]:
    """The decisive code of a module and of all that it imports, but for VALUES, by module: what a key is made of.

    The C files of a room count with each of its modules.
    """
    return _texts(paths.ROOT, module)


@cache
def _texts(_: Path, module: str) -> dict[str, str]:
    modules = [each for each in needed([module]) if each.split(".")[-1] not in VALUES]
    foreign = [path for each in {room(each) for each in modules} for path in sorted((root() / each).glob("*.c"))]
    found = {each: _digestible(file_of(each)) for each in modules}
    return found | {path.relative_to(root()).as_posix(): _digestible(path) for path in foreign}
