"""Tests of saqlib.files."""

import pytest

from saqlib import files


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """When the move fails, the old content stays and no temporary file passes for the new one."""
    path = files.write(tmp_path / "deep" / "table.csv", "old\n")
    assert path.read_text() == "old\n"
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write(path, "new\n")
    assert path.read_text() == "old\n"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


def test_written_files_are_readable_to_all(tmp_path):
    """A written file has the usual rights, not those of a temporary one."""
    assert files.write(tmp_path / "a", b"x").stat().st_mode & 0o777 == 0o644


def test_io_is_utf8(tmp_path):
    """Arrows and names with accents survive."""
    path = files.write(tmp_path / "a.md", "↑ é\n")
    assert path.read_bytes().decode() == "↑ é\n"
