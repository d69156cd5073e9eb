"""Errors that a person reads: one line, and the nearest name that would have been valid."""

import difflib
import math
import os
import re
import reprlib
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

LONGEST = 80  # characters of a value in a message
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")  # what a terminal takes for a colour or a movement


def did_you_mean(value: object, valid: Iterable[str]) -> str:
    """`; did you mean 'mnist'?`, or nothing where no valid name is near."""
    meant = value[:LONGEST] if isinstance(value, str) else shown(value)
    near = difflib.get_close_matches(meant, list(valid), n=1, cutoff=0.3)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_of(value: Any, valid: Iterable[str], what: str) -> str:
    """Return `value` if it is among `valid`; raise ValueError with the nearest valid name otherwise."""
    valid = list(valid)
    if value not in valid:
        raise ValueError(f"unknown {what} {shown(value)}{did_you_mean(value, valid)} (valid: {', '.join(valid)})")
    return value


def last_line(error: BaseException) -> str:
    """The last line of somebody else's error that is not empty, or the error's kind where it has no text."""
    lines = [printable(line.strip()) for line in ESCAPES.sub("", str(error)).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)


def printable(text: object) -> str:
    """Text as a terminal may get it: whatever is not printable, such as a line feed or a colour, as its escape."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text))


def shown(value: object) -> str:
    """A value as a message shows it: on one line, cut to LONGEST, whatever its size."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = 10
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = LONGEST


def of_the_system(error: OSError) -> str:
    """What the system refused, with the file: `results/runs.csv: Permission denied`."""
    named = " and ".join(printable(os.fsdecode(name)) for name in (error.filename, error.filename2) if name is not None)
    reason = error.strerror or last_line(error)
    return f"{named}: {reason}" if named else reason


class NotFiniteError(ValueError):
    """NaN or infinity where only numbers can be meant; the message says where."""


def check_finite(values: Any, what: str) -> None:
    """Raise NotFiniteError if a tensor has a value that is NaN or infinite."""
    # The sum decides in a tenth of the time, except for finite values whose sum overflows.
    if not math.isfinite(values.sum().item()) and not values.isfinite().all():
        raise NotFiniteError(f"{what} not finite (NaN or infinity)")


@contextmanager
def exit_with_message(*expected: type[Exception], stopped: str = "Stopped.") -> Iterator[None]:
    """Around the body of a command: what goes wrong ends it with one line on stderr, and no traceback.

    expected: errors whose message is for the person. What the system refuses (a full disk, a folder that may not be
    written) is such an error, too. Anything else is a mistake of ours and keeps its traceback. stopped: the line after
    Ctrl-C, SIGTERM or SIGHUP. Raises SystemExit with exit code 1; after a signal 128 and its number.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that has no arrow gets its escape
            stream.reconfigure(errors="backslashreplace")
    try:
        with _signals_raise():
            yield
            sys.stdout.flush()  # here, where a full disk can still be reported
    except expected as error:
        sys.exit(str(error))
    except BrokenPipeError:  # the reader, such as head, has gone; nothing more can be written to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(of_the_system(error))
    except KeyboardInterrupt as stop:
        print(stopped, file=sys.stderr)
        sys.exit(128 + (stop.args[0] if stop.args else signal.SIGINT))


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is inside as Ctrl-C does: what it has opened is closed. Not if nohup ignores them."""
    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                former[number] = signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _raise(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)
