"""Reading params.yaml into frozen, typed values, for everybody who has a section of it.

An unknown key, a wrong type or a value out of range is a ParamsError that names the thing and the nearest valid one.
"""

import dataclasses
import io
import re
from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from saqlib import paths
from saqlib.errors import did_you_mean, of_the_system, printable, shown

Section = TypeVar("Section")
LARGEST = 1_000_000  # characters of a params.yaml
DEEPEST = 20  # levels of sections and lists
MOST = 10**15  # no number of a study is as large
LONGEST = 600  # characters of a message


class ParamsError(ValueError):
    """params.yaml, or a name given in its stead, is not usable; the message says what and where, in one line."""

    def __init__(self, message: str):
        line = printable(message)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ...")


# ------------------------------------------------------------------------------------------------- one value


def one_of(value: Any, valid: Iterable[str], what: str) -> str:
    """Return `value` if it is among `valid`; raise ParamsError with the nearest valid name otherwise."""
    valid = list(valid)
    if value not in valid:
        raise ParamsError(f"unknown {what} {shown(value)}{did_you_mean(value, valid)} (valid: {', '.join(valid)})")
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
    """params.yaml (or `path`) as plain values, by YAML 1.2, as DVC reads it: 0127 is 127, and `no` a word.

    Raises ParamsError if it is missing, broken, has a key twice, or holds what no setting can be: references (they may
    unfold without end), keys that are no names, dates, numbers without end.
    """
    path = path or paths.PARAMS
    try:
        text = path.read_bytes()[: LARGEST + 1].decode("utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist") from None
    except OSError as error:
        raise ParamsError(of_the_system(error)) from None
    except UnicodeDecodeError as error:
        raise ParamsError(
            f"{path.name} is not UTF-8 text: byte {error.start + 1} is {error.object[error.start]:#x}"
        ) from None
    require(len(text) <= LARGEST, f"{path.name} is larger than {LARGEST:,} characters; is it the right file?")
    try:
        _check_structure(text)
        values = YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:  # ValueError: a number or a date that is none
        raise ParamsError(f"{path.name} is not valid YAML: {_problem(error)}") from None
    _check_values(values, path.name)
    return values


def text_of(values: Any) -> str:
    """Plain values as the text of a params.yaml, which `read` reads as the same values."""
    stream, yaml = io.StringIO(), YAML(typ="safe")
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    yaml.dump(values, stream)
    return stream.getvalue()


def _check_structure(text: str) -> None:
    """Refuse, before any value is made, what could unfold without end."""
    depth = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST or isinstance(event, AliasEvent):
            said = "a reference; write the value out" if depth <= DEEPEST else f"more than {DEEPEST} levels"
            raise MarkedYAMLError(problem=f"found {said}", problem_mark=event.start_mark)


def _check_values(value: Any, where: str) -> None:
    """Refuse keys and values of kinds that no setting has."""
    if isinstance(value, dict):
        for key, each in value.items():
            require(type(key) is str, f"{where}: the key {shown(key)} is no name")
            _check_values(each, f"{where}: {key}")
    elif isinstance(value, list):
        for each in value:
            _check_values(each, where)
    else:
        kind = type(value)
        require(kind in (str, int, float, bool, NoneType), f"{where} is no text, number or list, but {shown(value)}")
        require(kind is not int or abs(value) < MOST, f"{where} is too large: {shown(value)}")


def _problem(error: Exception) -> str:
    """Where and what, on one line; the library draws a picture over several."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, DuplicateKeyError):
        named = re.search('found duplicate key "(.*?)" with value', error.problem, re.DOTALL)
        what = f"{named[1]!r} stands twice"
    elif isinstance(error, MarkedYAMLError):
        what = error.problem
    else:
        what = str(error)
    first = (what or type(error).__name__).strip().splitlines()[0]
    return first if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {first}"


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
    if type(value) is not kind:  # a value is written out only where it is wrong
        raise ParamsError(f"{where} must be of type {kind.__name__}, not {shown(value)}")
    return value
