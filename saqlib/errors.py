"""Words for errors that a person reads: one line, and the nearest name that would have been valid."""

import difflib
from collections.abc import Iterable


def did_you_mean(value: object, valid: Iterable[str]) -> str:
    """`; did you mean 'mnist'?`, or nothing where no valid name is near."""
    near = difflib.get_close_matches(str(value), list(valid), n=1, cutoff=0.3)
    return f"; did you mean {near[0]!r}?" if near else ""


def last_line(error: Exception) -> str:
    """What somebody else's error says, on one line: its last one, or the error's kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
