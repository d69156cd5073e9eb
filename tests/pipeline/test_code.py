"""The copies of the library's code that stages depend on."""

import pytest

from saqlib import codebase, paths
from saqlib.pipeline import code


def test_a_copy_holds_the_rooms_code_without_words(tmp_path, monkeypatch):
    """Every module of the room under its name, and no comment or docstring."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    code.main(["training"])
    text = (tmp_path / "code" / "training.py").read_text()
    assert text == codebase.room_text("training")
    assert "# training/steps.py\n" in text and "def guided_step(" in text and '"""' not in text


def test_an_unknown_room_is_named(tmp_path, monkeypatch):
    """One sentence with the nearest room, and nothing is written."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)
    with pytest.raises(SystemExit, match="there is no room 'trainings' in saqlib; did you mean 'training'?"):
        code.main(["trainings"])
    assert not list(tmp_path.iterdir())
