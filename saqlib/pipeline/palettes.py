"""The pictures of an executed copy in 256 colours: a third of the bytes, and for the eye the same.

The figures themselves lie in results/figures/ as they were drawn.
"""

import base64
import io

from PIL import Image

from saqlib.pipeline.alternatives import is_picture
from saqlib.pipeline.forms import PICTURE, Notebook, text

COLOURS = 256
WITH_PALETTE = "P"  # Pillow's word for a picture that has one: such a one stays as it is


def with_palettes(notebook: Notebook) -> Notebook:
    """The notebook with every opaque picture of its outputs in 256 colours; a second time changes nothing."""
    return notebook | {"cells": [_recoloured(cell) for cell in notebook["cells"]]}


def _recoloured(cell: Notebook) -> Notebook:
    if "outputs" not in cell:
        return cell
    return cell | {"outputs": [_with_palette(output) if is_picture(output) else output for output in cell["outputs"]]}


def _with_palette(output: Notebook) -> Notebook:
    image = Image.open(io.BytesIO(base64.b64decode(text(output["data"][PICTURE]))))
    if image.mode == WITH_PALETTE or image.convert("RGBA").getextrema()[3][0] < 255:  # a palette would lose its alpha
        return output
    buffer = io.BytesIO()
    few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(buffer, format="png", optimize=True, dpi=image.info.get("dpi", (72, 72)))
    return output | {"data": output["data"] | {PICTURE: base64.b64encode(buffer.getvalue()).decode() + "\n"}}
