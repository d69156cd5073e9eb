"""Tests of saqlib.errors: what a person reads is one line, and helps."""

import os
import signal
import string
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saqlib import errors, paths
from saqlib.errors import did_you_mean, last_line, printable, shown

NAMES = ("mnist", "fashion_mnist", "standard", "guided")


@pytest.mark.parametrize(
    ("value", "nearest"),
    [("minst", "mnist"), ("fashion", "fashion_mnist"), ("gided", "guided"), ("Standard", "standard")],
)
def test_the_nearest_valid_name_is_named(value, nearest):
    """One name, quoted, in the form that a message goes on with."""
    assert did_you_mean(value, NAMES) == f"; did you mean '{nearest}'?"


@pytest.mark.parametrize("value", ["zzz", "", 7, None, ["mnist" * 30]])
def test_nothing_is_guessed_where_nothing_is_near(value):
    """No name is made up, and values of any type are allowed."""
    assert did_you_mean(value, ["local", "ray"]) == ""


def test_no_valid_names_no_guess():
    """A section without keys has none to offer."""
    assert did_you_mean("a", ()) == ""


def test_valid_names_may_come_from_anywhere():
    """A dictionary's keys, or a generator, which can be read once only."""
    assert did_you_mean("minst", dict.fromkeys(NAMES)) == "; did you mean 'mnist'?"
    assert did_you_mean("minst", (name for name in NAMES)) == "; did you mean 'mnist'?"


@given(
    st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=9), min_size=1, max_size=6, unique=True), st.data()
)
def test_a_name_with_one_letter_too_many_leads_to_a_valid_one(names, data):
    """Whatever is guessed is one of the valid names, and a name itself leads to itself."""
    name = data.draw(st.sampled_from(names))
    assert did_you_mean(name, names) == f"; did you mean {name!r}?"
    assert did_you_mean(name + "x", names) in {f"; did you mean {each!r}?" for each in names}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no route to host", "no route to host"),
        ("Traceback:\n  File x\nValueError: the end\n", "ValueError: the end"),
        ("  the only one  \n\n   \n", "the only one"),
        ("first\r\nsecond\r\n", "second"),
    ],
)
def test_last_line_that_says_something(text, line):
    """Empty lines behind it do not count, nor do spaces around it."""
    assert last_line(RuntimeError(text)) == line


@pytest.mark.parametrize("error", [TimeoutError(), ValueError(""), OSError("\n \n")])
def test_an_error_without_words_is_named_by_its_kind(error):
    """Never an empty reason."""
    assert last_line(error) == type(error).__name__


@given(st.text())
def test_it_is_one_line_whatever_the_error_says(text):
    """One line with something in it that a terminal may show; a part of what was said if that is printable."""
    line = last_line(RuntimeError(text))
    assert line and line.isprintable() and line == line.strip()
    assert line in text or not text.strip() or not text.isprintable()


@pytest.mark.parametrize(
    "text", ["no answer\n\x1b[0m", "\x1b[31mno answer\x1b[0m", "\x1b[1;31mno \x1b[4manswer\x1b[K\n\x1b[?25h\n"]
)
def test_colours_are_no_words(text):
    """pip under FORCE_COLOR ends its errors with one."""
    assert last_line(RuntimeError(text)) == "no answer"


@given(st.text())
def test_what_is_printable_stays_and_nothing_else_is_left(text):
    """No escape code, line feed or half of a character reaches a terminal; what was printable is as it was."""
    assert printable(text).isprintable()
    assert not text.isprintable() or printable(text) == text


def bomb(levels: int) -> list:
    """A list that holds itself nine times, again and again: written out, it is 9 ** levels words."""
    value: list = ["lol"]
    for _ in range(levels):
        value = [value] * 9
    return value


ENDLESS = {
    "bomb": bomb(40), "long text": "a" * 10**6, "400 digits": 10**400, "10,000 digits": 10**10_000,
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


# ------------------------------------------------------------------------------------------------- a command


def ends(body: str, **options) -> subprocess.CompletedProcess:
    """A command whose body is this; what it does where ValueError is expected."""
    program = f"import os, signal, sys\nfrom saqlib.errors import told\nwith told(ValueError):\n    {body}\n"
    return subprocess.run([sys.executable, "-c", program], cwd=paths.ROOT, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("print('fine')", 0, ""),
        ("raise ValueError('the reason')", 1, "the reason\n"),
        ("open('no/such\\nfile')", 1, "no/such\\nfile: No such file or directory\n"),
        ("os.rename('no such file', 'x')", 1, "no such file and x: No such file or directory\n"),
        ("os.write(os.open('/dev/full', os.O_WRONLY), b'x')", 1, "No space left on device\n"),
        ("signal.raise_signal(signal.SIGINT)", 130, "Stopped.\n"),
        ("signal.raise_signal(signal.SIGTERM)", 143, "Stopped.\n"),
        ("signal.raise_signal(signal.SIGHUP)", 129, "Stopped.\n"),
        ("sys.exit('as it is')", 1, "as it is\n"),
    ],
)
def test_a_command_ends_with_one_line(body, code, said):
    """Whatever goes wrong: the reason on stderr, an exit code, no traceback."""
    if "/dev/full" in body and not os.path.exists("/dev/full"):
        pytest.skip("the system has no device that is always full")
    done = ends(body)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_signal_that_is_ignored_stays_ignored():
    """Under nohup a closed terminal stops nothing."""
    program = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom saqlib.errors import told\n"
    program += "with told():\n    signal.raise_signal(signal.SIGHUP)\n    print('went on')\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=paths.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "went on\n")


@pytest.fixture
def _handler():
    """What SIGTERM does before a command, afterwards as it was: a test in this process may have started Ray."""
    former = signal.getsignal(signal.SIGTERM)
    yield lambda handler: signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGTERM, former)


def _seen_inside(seen: list) -> None:
    with errors.told():
        seen.append(signal.getsignal(signal.SIGTERM))


def test_handlers_are_as_before_behind_a_command(_handler):
    """In a thread there are none to set."""
    _handler(signal.SIG_DFL)
    seen = []
    _seen_inside(seen)
    thread = threading.Thread(target=_seen_inside, args=(seen,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL == seen[1] != seen[0]


def test_a_handler_of_the_callers_own_stays(_handler):
    """Who calls a command from Python keeps its own."""

    def own(number, frame):
        """The caller's."""

    _handler(own)
    seen = []
    _seen_inside(seen)
    assert signal.getsignal(signal.SIGTERM) is own is seen[0]


def test_a_mistake_of_ours_keeps_its_traceback():
    """Who mends it needs it."""
    assert "Traceback" in ends("{}['a']").stderr


def test_a_reader_that_has_gone_is_no_error():
    """`... | head` closes the pipe."""
    read, write = os.pipe()
    os.close(read)
    program = "from saqlib.errors import told\nwith told():\n    print('x' * 10**6, flush=True)\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=paths.ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_terminal_without_the_letter_gets_its_escape():
    """In an ASCII or Latin-1 locale: no traceback, and nothing left out."""
    options = os.environ | {"PYTHONIOENCODING": "ascii"}
    assert ends("print('é ↑')", env=options).stdout == "\\xe9 \\u2191\n"
