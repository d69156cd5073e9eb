"""Pictures of a page: each with its size, so that nothing moves while it loads, and with words in its place."""

import hashlib
import html
import io
import math
from pathlib import Path

from PIL import Image

from study import files

FIGURES = "figures"  # folder of the pages' static files
DENSITY = 220 / 96  # pixels of a figure for one of the screen: it is as large as in print


def stored(
    content: bytes, name: str, static: Path, alt: str, density: float = 1, anchor: str = "", tallest: float = math.inf
) -> str:
    """A link to a picture around the picture itself, whose file is written to the static folder.

    Args:
        content: a PNG.
        name: of the file; one made of the content if empty.
        static: the folder of the pages' static files.
        alt: what it shows, in words.
        density: pixels of the file for one of the page.
        anchor: of the element.
        tallest: it is shown smaller than that if need be; the link leads to all of it.
    """
    name = name or hashlib.sha256(content).hexdigest()[:16]
    source = f"_static/{FIGURES}/{files.write(static / FIGURES / f'{name}.png', content).name}"
    sides = Image.open(io.BytesIO(content)).size
    width, height = (round(side * min(1 / density, tallest / sides[1])) for side in sides)
    size = f'width="{width}" height="{height}" loading="lazy"'
    place = f' id="{anchor}"' if anchor else ""
    return f'<a class="picture"{place} href="{source}"><img src="{source}" alt="{html.escape(alt)}" {size}></a>'
