"""Reading params.yaml into frozen, typed values, for everybody who has a section of it.

An unknown key, a wrong type or a value out of range is a ParamsError that names the thing and the nearest valid one.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml

from saqlib import paths
from saqlib.errors import did_you_mean

Section = TypeVar("Section")


class ParamsError(ValueError):
    """params.yaml, or a name given in its stead, is not usable; the message says what and where."""


# ------------------------------------------------------------------------------------------------- one value


def one_of(value: Any, valid: Iterable[str], what: str) -> str:
    """Return `value` if it is among `valid`; raise ParamsError with the nearest valid name otherwise."""
    valid = list(valid)
    if value not in valid:
        raise ParamsError(f"unknown {what} {value!r}{did_you_mean(value, valid)} (valid: {', '.join(valid)})")
    return value


def require(condition: bool, message: str) -> None:
    """Raise ParamsError with the message unless the condition holds."""
    if not condition:
        raise ParamsError(message)


def at_least(section: str, values: Any, least: float, *names: str) -> None:
    """Raise ParamsError if one of these attributes of `values` is below `least`."""
    for name in names:
        value = getattr(values, name)
        require(value >= least, f"{section}.{name} must be at least {least}, not {value}")


# ------------------------------------------------------------------------------------------------ the whole file


def read(path: Path | None = None) -> Any:
    """params.yaml (or `path`) as plain values; ParamsError if it is missing, broken, or has a key twice."""
    path = path or paths.PARAMS
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path.name} is not valid YAML: {_problem(error)}") from None


class _UniqueKeys(yaml.SafeLoader):
    """Of a key that stands twice, YAML would take the last one in silence."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _problem(error: yaml.YAMLError) -> str:
    """Where and what, on one line; PyYAML draws a picture over several."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


# ---------------------------------------------------------------------------------------------------- sections


def check_keys(raw: Any, expected: Iterable[str], where: str) -> None:
    """Raise ParamsError unless `raw` is a mapping with exactly these keys."""
    expected = list(expected)
    check(raw, dict, where)
    for key in raw:
        one_of(key, expected, f"key in {where}")
    missing = [key for key in expected if key not in raw]
    require(not missing, f"{where} lacks {', '.join(missing)}")


def build(cls: type[Section], raw: Any, where: str) -> Section:
    """A frozen dataclass from a section, every field present and of its declared type."""
    fields = {field.name: field.type for field in dataclasses.fields(cls)}
    check_keys(raw, fields, where)
    return cls(**{name: check(raw[name], kind, f"{where}.{name}") for name, kind in fields.items()})


def check(value: Any, kind: Any, where: str) -> Any:
    """Return `value` as `kind`; whole numbers pass for floats, lists become tuples, nothing else is converted."""
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where)
    if get_origin(kind) is tuple:
        check(value, list, where)
        return tuple(check(item, get_args(kind)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if get_origin(kind) is dict:
        check(value, dict, where)
        return {key: check(item, get_args(kind)[1], f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    require(type(value) is kind, f"{where} must be of type {kind.__name__}, not {value!r}")
    return value
