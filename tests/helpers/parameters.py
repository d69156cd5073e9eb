"""params.yaml as plain values, and changed in one place, for the tests of everybody who has a section of it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from study import settings
from study.settings import ParamsError

RAW = settings.read()


def changed(raw: dict = RAW, /, **values: Any) -> dict:
    """params.yaml with some values changed, each named by its path with __ between the parts."""
    raw = copy.deepcopy(raw)
    for name, value in values.items():
        *parents, last = name.split("__")
        section = raw
        for parent in parents:
            section = section[parent]
        section[last] = value
    return raw


def refusal(function: Callable[..., Any], *arguments: Any, error: type[Exception] = ParamsError) -> str:
    """The message with which these arguments are refused: one line."""
    with pytest.raises(error) as caught:
        function(*arguments)
    text = str(caught.value)
    assert text and text.isprintable() and len(text) <= 600
    return text
