"""Tests of saqlib.report.style: how figures are saved, in which colours and order."""

import os

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from saqlib import params
from saqlib.report import style


@style.styled
def line(values=(0, 1)):
    """The least that is a figure."""
    figure, axes = plt.subplots()
    axes.plot(values)
    return figure


def test_a_backend_that_turns_interactive_stays_so():
    """What a notebook's backend does at the first figure outlasts it: later figures are shown too."""

    @style.styled
    def first():
        matplotlib.interactive(True)
        return plt.figure()

    assert not plt.isinteractive()
    try:
        first()
        assert plt.isinteractive()
        line()
        assert plt.isinteractive()
    finally:
        matplotlib.interactive(False)


def test_the_plotted_numbers_are_saved(tmp_path):
    """With numbers, a CSV stands beside the pictures."""
    frame = pd.DataFrame({"a": [1 / 3], "b": ["x"]})
    style.save(line(), "line", tmp_path, frame)
    assert (tmp_path / "line.csv").read_bytes() == b"a,b\n0.33333333,x\n"


@pytest.mark.parametrize("end", ["png", "pdf", "csv"])
def test_a_figure_that_cannot_be_saved_leaves_the_old_one(end, tmp_path, monkeypatch):
    """A failure before the file is whole leaves what was there, and no other file beside it."""
    numbers = pd.DataFrame({"a": [1]})
    style.save(line(), "line", tmp_path, numbers)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace = os.replace

    def full(source, target):
        if str(target).endswith(end):
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        style.save(line((1, 0)), "line", tmp_path, numbers + 1)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys() and after[f"line.{end}"] == before[f"line.{end}"]


def test_a_precision_stands_where_params_yaml_has_it(monkeypatch):
    """A new one between two others is drawn between them and has a colour and a marker of its own."""
    raw = params.read()
    raw["grid"]["precisions"] = ["fp32", "w4a4", "w3a3", "mixed", "w2a2"]
    monkeypatch.setattr(params, "read", lambda: raw)
    assert style.in_order(["w2a2", "w3a3", "w9a9", "fp32", "w2a2"]) == ["fp32", "w3a3", "w2a2", "w9a9"]
    known = raw["grid"]["precisions"]
    assert len({style.colour(p) for p in known}) == len({style.marker(p) for p in known}) == 5


def test_the_four_of_the_paper_look_as_they_did():
    """Black, blue, purple, orange."""
    colours = ["#222222", "#0072B2", "#CC79A7", "#E69F00"]
    assert [style.colour(p) for p in ("fp32", "w4a4", "mixed", "w2a2")] == colours
