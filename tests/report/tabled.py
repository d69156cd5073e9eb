"""What must hold for every table: its files, and what they hold."""

from pathlib import Path

import numpy as np
import pandas as pd

from saqlib.report import tables
from saqlib.report.tables import Table


def check(table: Table, folder: Path) -> None:
    """All of it."""
    check_files(table, folder)
    check_csv(table, folder)
    check_markdown(table)
    check_latex(table)


def check_files(table: Table, folder: Path) -> None:
    """A table writes CSV, Markdown and LaTeX of its name, byte for byte the same twice, and nothing else."""
    first = [path.read_bytes() for path in tables.write(table, folder / "one")]
    second = [path.read_bytes() for path in tables.write(table, folder / "two")]
    assert first == second
    names = sorted(path.name for path in (folder / "one").iterdir())
    assert names == [f"{table.name}.{end}" for end in ("csv", "md", "tex")]
    assert all(content.endswith(b"\n") and b"\r" not in content for content in first)


def check_csv(table: Table, folder: Path) -> None:
    """Read back, the CSV has the columns and, to 8 digits, the values of the frame."""
    read = pd.read_csv(tables.write(table, folder)[0], keep_default_na=True)
    assert list(read.columns) == list(table.numbers.columns)
    numeric = table.numbers.select_dtypes("number").columns
    np.testing.assert_allclose(read[numeric], table.numbers[numeric].astype(float), rtol=1e-7)
    assert len(read) == len(table.numbers)


def check_markdown(table: Table) -> None:
    """Every line has the same number of cells, below a head and a rule."""
    lines = tables.markdown(table.shown).splitlines()
    assert len(lines) == len(table.shown) + 2
    assert {line.replace(r"\|", "").count("|") for line in lines} == {table.shown.shape[1] + 1}
    assert set(lines[1]) == set("| -")


def check_latex(table: Table) -> None:
    """The LaTeX has the three rules of booktabs, as many cells a row as columns, and no bare special sign."""
    text = tables.latex(table.shown)
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {row.replace(r"\&", "").count("&") for row in rows} == {table.shown.shape[1] - 1}
    assert not set(text) & set("±↑↓−≥")
    assert "_" not in text.replace(r"\_", "")
    assert "%" not in text.replace(r"\%", "")
