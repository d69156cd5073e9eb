"""params.yaml as plain values, and changed in one place, for the tests of everybody who has a section of it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from saqlib import params
from saqlib.params import ParamsError

RAW = params.read()
BAD_NUMBERS = {"nan": float("nan"), "text": "0.003", "flag": True, "nothing": None, "list": [1]}


def changed(**values: Any) -> dict:
    """params.yaml with some values changed, each named by its path with __ between the parts."""
    raw = copy.deepcopy(RAW)
    for name, value in values.items():
        *parents, last = name.split("__")
        section = raw
        for parent in parents:
            section = section[parent]
        section[last] = value
    return raw


def without(section: str, key: str) -> dict:
    """params.yaml without a key of a section, or without a section where `section` is empty."""
    raw = copy.deepcopy(RAW)
    place = raw
    for part in section.split(".") if section else ():
        place = place[part]
    del place[key]
    return raw


def refusal(read: Callable[..., Any], *arguments: Any) -> str:
    """What a person is told when these arguments are refused: one line."""
    with pytest.raises(ParamsError) as error:
        read(*arguments)
    text = str(error.value)
    assert text and "\n" not in text
    return text
