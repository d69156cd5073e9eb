"""saqlib.errors: what a person reads is one line, and helps."""

import functools
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saqlib import errors
from saqlib.errors import did_you_mean, exit_with_message, last_line, one_of, printable, shown

NAMES = ("mnist", "fashion_mnist", "standard", "guided")


@pytest.mark.parametrize(("value", "nearest"), [
    ("minst", "mnist"), ("fashion", "fashion_mnist"), ("gided", "guided"), ("Standard", "standard"), ("", None),
    ("zzz", None), (None, None), (3, None), (["mnist" * 2], "mnist"),
])  # fmt: skip
def test_one_of_passes_what_is_valid_and_names_the_nearest_of_the_rest(value, nearest):
    """A ValueError with what was given, the nearest name, and all valid ones, which may come from anywhere."""
    assert one_of("mnist", NAMES, "dataset") == "mnist"
    with pytest.raises(ValueError) as raised:
        one_of(value, (name for name in NAMES), "dataset")
    guess = f"; did you mean '{nearest}'?" if nearest else ""
    assert str(raised.value) == f"unknown dataset {value!r}{guess} (valid: mnist, fashion_mnist, standard, guided)"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no route to host", "no route to host"),
        ("Traceback:\n  File x\nValueError: the end\n", "ValueError: the end"),
        ("  the only one  \n\n   \n", "the only one"),
        ("several:\n\ta tab before it\n", "a tab before it"),
        ("first\r\nsecond\r\n", "second"),
        ("\x1b[1;31mno \x1b[4manswer\x1b[K\n\x1b[?25h\n\x1b[0m", "no answer"),  # pip under FORCE_COLOR
        ("\n \n", "RuntimeError"),
        ("", "RuntimeError"),
    ],
)
def test_last_line_of_an_error(text, line):
    """Empty lines, spaces and colours do not count; without any text it is the error's kind."""
    assert last_line(RuntimeError(text)) == line


@given(st.text())
def test_it_is_one_line_whatever_the_error_says(text):
    """One line with something in it that a terminal may show; printable text stays as it is."""
    line = last_line(RuntimeError(text))
    assert line and line.isprintable() and line == line.strip()
    assert line in text or not text.strip() or not text.isprintable()
    assert printable(text).isprintable()
    assert not text.isprintable() or printable(text) == text


BOMB = functools.reduce(lambda value, _: [value] * 9, range(40), "lol")  # written out, it is 9 ** 40 words
ENDLESS = {
    "bomb": BOMB, "long text": "a" * 10**6, "400 digits": 10**400, "10,000 digits": 10**10_000,
    "nested": [[[[[[1]]]]]], "many": {i: i for i in range(10_000)}, "two lines": "two\nlines",
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_value_is_shown_on_one_short_line(kind):
    """Also one that would take for ever to be written out."""
    value = ENDLESS[kind]
    assert 0 < len(shown(value)) <= errors.LONGEST and shown(value).isprintable()
    assert len(did_you_mean(value, NAMES)) < errors.LONGEST


@given(st.none() | st.booleans() | st.integers(-(10**60), 10**60) | st.floats() | st.text(max_size=30))
def test_a_short_value_is_shown_as_python_writes_it(value):
    """What the person wrote can be found again."""
    assert shown(value) == repr(value)


def test_finite_values_pass_and_others_are_named():
    """Also values whose sum overflows, and two infinities that cancel."""
    errors.check_finite(torch.tensor([3e38, 3e38]), "weights are")
    for values in ([torch.nan, 1.0], [torch.inf, -torch.inf]):
        with pytest.raises(errors.NotFiniteError, match="^weights are not finite"):
            errors.check_finite(torch.tensor(values), "weights are")


# ------------------------------------------------------------------------------------------------- a command


def _raise(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        (lambda: print("fine"), None, ""),
        (lambda: _raise(ValueError("the reason")), "the reason", ""),
        (lambda: open("no/such\nfile"), "no/such\\nfile: No such file or directory", ""),
        (lambda: os.rename("no such file", "x"), "no such file and x: No such file or directory", ""),
        (lambda: _raise(OSError(28, "No space left on device")), "No space left on device", ""),
        (lambda: signal.raise_signal(signal.SIGINT), 130, "Stopped.\n"),
        (lambda: signal.raise_signal(signal.SIGTERM), 143, "Stopped.\n"),
        (lambda: signal.raise_signal(signal.SIGHUP), 129, "Stopped.\n"),
        (lambda: sys.exit("as it is"), "as it is", ""),
    ],
)
def test_a_command_ends_with_one_line(body, code, line, capsys):
    """Whatever goes wrong: the reason on stderr (of a text, sys.exit makes it), an exit code, no traceback."""
    found = None
    try:
        with exit_with_message(ValueError):
            body()
    except SystemExit as end:
        found = end.code
    assert (found, capsys.readouterr().err) == (code, line)


def test_a_mistake_of_ours_keeps_its_traceback():
    """Who mends it needs it."""
    with pytest.raises(KeyError), exit_with_message(ValueError):
        _raise(KeyError("a"))


def test_a_terminal_without_the_letter_gets_its_escape(monkeypatch, tmp_path):
    """In an ASCII or Latin-1 locale: no traceback, and nothing left out."""
    with open(tmp_path / "out", "w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with exit_with_message():
            print("é ↑")
    assert (tmp_path / "out").read_text(encoding="ascii") == "\\xe9 \\u2191\n"


def test_handlers_are_as_before_behind_a_command():
    """Inside, SIGTERM raises, but for handlers of the caller's own; in a thread there are none to set."""

    def handler() -> object:
        with exit_with_message():
            return signal.getsignal(signal.SIGTERM)

    assert handler() != signal.SIG_DFL == signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handler).result() == signal.SIG_DFL
    try:
        for own in (signal.SIG_IGN, lambda number, frame: None):  # under nohup, or called from Python
            signal.signal(signal.SIGTERM, own)
            assert signal.getsignal(signal.SIGTERM) is own is handler()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
