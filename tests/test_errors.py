"""Tests of saqlib.errors: what a person reads is one line, and helps."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saqlib.errors import did_you_mean, last_line

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
    """One line with something in it, and a part of what was said wherever something was said."""
    line = last_line(RuntimeError(text))
    assert line and len(line.splitlines()) == 1 and line == line.strip()
    assert line in text or not text.strip()
