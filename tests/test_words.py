"""Tests of saqlib.words."""

from saqlib import words


def test_words():
    """Columns of the runs and scores have names; arrows come from the score; what is unknown is still readable."""
    assert words.name("gini") == "Gini index"
    assert words.name("retained_gini") == "Gini index, retained"
    assert words.heading("preservation_ssim") == "Structural similarity ↑"
    assert words.heading("entropy").endswith("↓")
    assert words.name("packed_bytes") == "Packed bytes"
    assert (words.dataset("mnist"), words.dataset("other")) == ("MNIST", "other")
    assert {len(names) for names in words.CLASSES.values()} == {10}
