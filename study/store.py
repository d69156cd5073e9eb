"""Results that are computed once: build/store/<kind>/<key>/<name>, the key made of all that decides their bytes.

A function that is `cached` takes its result from there or computes it and leaves it there, whoever asks: a run that was
killed, `dvc repro` after a change that changes no number, another clone with the same folder. `make clean-store`
removes the folder.

The key is known before anything is computed: the decisive code of the function's own module, and of modules of saqlib
with all of saqlib that they import; the arguments, in which a result that is read stands as its own key; releases of
packages; what computes.
"""

import ast
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from study import files, paths

Arguments, Result = ParamSpec("Arguments"), TypeVar("Result")

# The packages whose release may change a number; locks/numerics.lock holds them with all that they need.
NUMERICS = ("captum", "numpy", "onnx", "onnxruntime", "scipy", "torch")
NOT_DECISIVE = ("saqlib", "saqlib.errors")  # the version of the package, and words for a person
HEADER = 65  # bytes before a result: its seal in hexadecimal digits, and a line feed


class Cached(Generic[Arguments, Result]):
    """A function whose results are kept in the store; called, it answers from there or computes and keeps."""

    def __init__(self, function, kind, *, code, read, write, also=lambda *_: None):
        functools.update_wrapper(self, function)
        self.function, self.kind, self.code = function, kind, code
        self._read, self._write, self._also = read, write, also

    def __reduce__(self) -> str:
        return self.__qualname__  # to a worker it travels by its name

    def key(self, *arguments: Any) -> str:
        """16 hexadecimal digits made of all that decides the result."""
        code = [code_digest(module) for module in self.code], _own_code(inspect.getfile(self.function))
        parts = [self.kind, code, _releases(), _computed_by(), plain(arguments), self._also(*arguments)]
        return _sha256(json.dumps(parts, sort_keys=True).encode())[:16]

    def path(self, *arguments: Any) -> Path:
        """The file that holds the result, once it is computed."""
        seeds = (getattr(each, "seed", each) for each in arguments)
        name = next((f"{seed}" for seed in seeds if isinstance(seed, int)), "result")
        return paths.BUILD / "store" / self.kind / self.key(*arguments) / name

    def exists(self, *arguments: Any) -> bool:
        """Whether there is a file with the result; it is not read."""
        return self.path(*arguments).exists()

    def read(self, *arguments: Any) -> Result | None:
        """The result, None if it is not in the store or damaged; the file of a damaged one is put aside.

        Raises OSError or MemoryError where a file cannot be read now: it may be whole.
        """
        path = self.path(*arguments)
        try:
            whole = path.read_bytes()
            if whole[: HEADER - 1] != _seal(path, whole[HEADER:]):
                raise files.DamagedError(f"{path} is not what was written there")
            return self._read(whole[HEADER:])
        except FileNotFoundError:
            return None
        except (OSError, MemoryError):
            raise
        except Exception:  # whatever damaged bytes lead a reader to
            path.replace(path.with_name(f"{path.name}.damaged"))
            return None

    def write(self, result: Result, *arguments: Any) -> Path:
        """Put a result into the store that was computed elsewhere, such as with others at once; its file."""
        path, content = self.path(*arguments), self._write(result)
        return files.write(path, _seal(path, content) + b"\n" + content)

    def __call__(self, *arguments: Arguments.args) -> Result:
        found = self.read(*arguments)
        if found is None:
            self.write(self.function(*arguments), *arguments)
            found = self.read(*arguments)  # what is read is the same for whoever computes and whoever comes later
        return found


def cached(kind: str, **options: Any) -> Callable[[Callable[Arguments, Result]], Cached[Arguments, Result]]:
    """Decorate a function whose result depends on its arguments and on code alone.

    The arguments, all positional, are values that JSON can hold, dataclasses of such, and objects with an attribute
    `key`, which stands for them. The file has the name of the seed, which is one of them or an attribute of one.

    Args:
        kind: the folder of its results in the store.
        options: `code`, modules of saqlib that compute it, such as `saqlib.training`; what they import counts with
            them. `read` and `write`, its result from and as the bytes of a file. `also`, from the arguments what else
            decides, such as hashes of data: values that JSON can hold.
    """
    return lambda function: Cached(function, kind, **options)


def plain(value: Any) -> Any:
    """An argument as JSON can hold it; what has a `key` is that key, which stands for all that decides it."""
    if isinstance(getattr(value, "key", None), str):
        return value.key
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value


@cache  # a package is asked for its release once, not for each of a thousand keys
def _releases() -> dict[str, str]:
    return {package: metadata.version(package) for package in NUMERICS}


@cache
def _computed_by() -> str:
    """Whether the kernels compute, and the level of the processor, which decide rounding."""
    from saqlib.kernels import fused
    from saqlib.precision import Shape

    return fused.kind(Shape(), "cpu")


def _seal(path: Path, content: bytes) -> bytes:
    """What stands before a result: a hash of its bytes and of its place, which names all that decides it."""
    return _sha256("/".join(path.parts[-3:]).encode() + b"\n" + content).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --------------------------------------------------------------------------------------------------------- code


@cache
def _own_code(file: str) -> str:
    return _sha256(decisive(Path(file).read_text(encoding="utf-8")).encode())


@cache
def code_digest(module: str) -> str:
    """SHA-256 of the decisive code of a module of saqlib and of all of saqlib that it imports, C files included."""
    return _sha256(json.dumps(decisive_code(module), sort_keys=True).encode())


def decisive_code(module: str) -> dict[str, str]:
    """What of the code of a module, such as `saqlib.training`, and of all that it imports can change a number.

    By file: Python without comments, docstrings and layout; C without comments and layout.
    """
    found: dict[str, str] = {}
    queue = set(_files(module))
    while queue:
        path = queue.pop()
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(paths.ROOT).as_posix()
        if path.suffix == ".py":
            found[name] = decisive(text)
            queue |= {each for name in _imported(text) for each in _files(name)} | set(path.parent.glob("*.c"))
        else:
            found[name] = decisive_c(text)
        queue -= {paths.ROOT / name for name in found}
    return found


def decisive(code: str) -> str:
    """What of some Python code can change a number: parsed, without comments, docstrings and layout."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return ast.unparse(tree) + "\n"


def decisive_c(code: str) -> str:
    """The same of C."""
    return " ".join(re.sub(r"//[^\n]*|/\*.*?\*/", " ", code, flags=re.DOTALL).split()) + "\n"


def _imported(code: str) -> set[str]:
    """What a piece of code imports of saqlib, also inside functions: names of modules, and of what is in them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "saqlib"}


def _files(name: str) -> list[Path]:
    """The file behind `saqlib.training`, or the face of a package, `saqlib.deploy`; none behind a name in a module."""
    path = paths.ROOT.joinpath(*name.split("."))
    if name in NOT_DECISIVE:
        return []
    return [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
