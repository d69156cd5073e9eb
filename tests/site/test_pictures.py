"""Tests of saqlib.site.pictures: sizes, words, and names made of content."""

import base64
import io

import pytest
from PIL import Image

from saqlib import paths
from saqlib.pipeline.alternatives import alternatives
from saqlib.site import pictures


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (width, height)).save(content, "PNG")
    return content.getvalue()


def test_a_picture_has_its_size_and_its_words(tmp_path):
    """Quotes in the words do not end them; bytes and base64 are the same picture."""
    tag = pictures.stored(png(44, 22), tmp_path, 'a "map" & more', density=2.2)
    assert 'width="20" height="10"' in tag and 'alt="a &quot;map&quot; &amp; more"' in tag
    assert pictures.stored(base64.b64encode(png(44, 22)).decode(), tmp_path, 'a "map" & more', density=2.2) == tag
    assert len(list((tmp_path / pictures.FIGURES).iterdir())) == 1


def test_a_figure_without_words_is_named():
    """And so is the file where they belong."""
    with pytest.raises(pictures.PictureError, match=r"alt\.yaml has no words for the figure none"):
        pictures.alternative("none")


def test_every_figure_has_words():
    """Of results/figures, in sentences that a screen reader can take in one breath."""
    names = {path.stem for path in (paths.RESULTS / "figures").glob("*.png")}
    assert names and names <= alternatives().keys()
    assert all(40 < len(text) < 500 and text.endswith(".") for text in alternatives().values())
