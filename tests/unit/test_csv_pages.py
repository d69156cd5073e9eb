"""A page for each CSV, whose anchors are the lines of the file."""

import re

import pytest

from study import paths
from study.site import csv_pages


def test_an_address_is_the_page_and_the_line():
    """Of tables, of plotted numbers, of the others."""
    assert csv_pages.address("results/tables/accuracy.csv#L5") == "table_accuracy.html#L5"
    assert csv_pages.address("results/figures/outline.csv#L2") == "figure_outline.html#L2"
    assert csv_pages.address("results/runs.csv#L9") == "file_runs.html#L9"


def test_every_csv_has_a_page_with_its_lines_and_a_copy(tmp_path):
    """The anchor L5 holds the values of line 5 of the file, and every page says what the file is."""
    for path in csv_pages.write(paths.RESULTS, tmp_path):
        raw = path.read_text().splitlines()
        page = (tmp_path / f"{csv_pages.page(path)}.md").read_text()
        found = re.findall(r'<tr id="L(\d+)">.*?</th>(.*?)</tr>', page)
        assert [int(number) for number, _ in found] == list(range(2, len(raw) + 1))
        if len(raw) > 1:  # a table of what was not run has no row
            first = re.findall(r"<td>(.*?)</td>", found[-1][1])[0]
            assert raw[-1].startswith(first.replace("&#x27;", "'"))
        assert (tmp_path / "_static" / "results" / path.relative_to(paths.RESULTS)).read_bytes() == path.read_bytes()
        assert re.fullmatch(r"[A-Z].{20,}\.", csv_pages.about(path)), path


def test_a_value_over_two_lines_is_refused(tmp_path):
    """Its rows could not be found by their line."""
    path = tmp_path / "tables" / "odd.csv"
    path.parent.mkdir()
    path.write_text('a,b\n1,"two\nlines"\n')
    with pytest.raises(ValueError, match="several lines"):
        csv_pages.write(tmp_path, tmp_path / "pages")
    assert csv_pages.about(path) == "" and csv_pages.title(path) == "Odd"
