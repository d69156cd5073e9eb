"""Pictures of executed copies: fewer colours, the same to the eye, and as they are the second time."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from saqlib.pipeline.palettes import with_palettes


def notebook(image: Image.Image) -> dict:
    """One cell of prose, one that shows a picture and prints."""
    buffer = io.BytesIO()
    image.save(buffer, format="png", dpi=(120, 120))
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "<Figure>"}
    outputs = [{"output_type": "display_data", "data": data, "metadata": {}}, {"output_type": "stream", "text": "a"}]
    return {"cells": [{"cell_type": "markdown", "source": "# A"}, {"cell_type": "code", "outputs": outputs}]}


def shown(made: dict) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(made["cells"][1]["outputs"][0]["data"]["image/png"])))


@pytest.fixture
def drawn() -> np.ndarray:
    """Some lines' worth of smooth colours, (100, 100, 3)."""
    ramp = np.linspace(0, 255, 100)
    return np.stack([*np.meshgrid(ramp, ramp), np.full((100, 100), 128.0)], axis=-1).astype(np.uint8)


def test_a_picture_has_few_colours_and_looks_the_same(drawn):
    """Size and density as before, no pixel far from what it was; everything else of the notebook stays."""
    before = notebook(Image.fromarray(drawn))
    after = with_palettes(before)
    image = shown(after)
    assert image.size == (100, 100) and round(image.info["dpi"][0]) == 120
    assert len(image.getcolors()) <= 256 < len(np.unique(drawn.reshape(-1, 3), axis=0))
    assert np.abs(np.asarray(image.convert("RGB"), int) - drawn).mean() < 6
    del before["cells"][1]["outputs"][0], after["cells"][1]["outputs"][0]
    assert after == before


def test_a_second_time_changes_nothing(drawn):
    """In a fresh clone the copies are made from the copies."""
    once = with_palettes(notebook(Image.fromarray(drawn)))
    assert with_palettes(once) == once


def test_what_is_transparent_stays(drawn):
    """A palette would make it opaque."""
    before = notebook(Image.fromarray(np.dstack([drawn, np.full((100, 100), 120, np.uint8)])))
    assert with_palettes(before) == before
