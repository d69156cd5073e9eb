"""Pictures of a page: each with its size, so that nothing moves while it loads, and with words in its place."""

import base64
import hashlib
import html
import re
from pathlib import Path

from PIL import Image

from saqlib import files
from saqlib.pipeline.alternatives import alternatives

FIGURES = "figures"  # folder of the pages' static files
DENSITY = 220 / 96  # pixels of a figure for one of the screen: it is as large as in print


class PictureError(ValueError):
    """A figure that no words describe; the message names it and the file where they belong."""


def alternative(name: str) -> str:
    """The words for one figure.

    Raises:
        PictureError: there are none.
    """
    try:
        return alternatives()[name]
    except KeyError:
        raise PictureError(f"paper/alt.yaml has no words for the figure {name}; add them") from None


def tag(source: str, path: Path, alt: str, density: float = 1) -> str:
    """The element of a picture that lies at `path` and is found by the page at `source`.

    Args:
        source: address, relative to the page.
        path: the file, read for its size.
        alt: what it shows, in words.
        density: pixels of the file for one of the page.
    """
    with Image.open(path) as image:
        width, height = (round(side / density) for side in image.size)
    return f'<img src="{source}" alt="{html.escape(alt)}" width="{width}" height="{height}" loading="lazy">'


def linked(image: str, anchor: str) -> str:
    """The element of a picture as a link to the picture alone, to be looked at closely, with an anchor."""
    source = re.search(r'src="([^"]+)"', image)[1]
    return f'<a class="picture" id="{anchor}" href="{source}">{image}</a>'


def stored(content: bytes | str, static: Path, alt: str, density: float = 1) -> str:
    """The element of a picture that is kept in the static folder under a name made of its content.

    content: a PNG, or its base64 as a notebook has it.
    """
    data = base64.b64decode(content) if isinstance(content, str) else content
    name = f"{hashlib.sha256(data).hexdigest()[:16]}.png"
    path = files.write(static / FIGURES / name, data)
    return tag(f"_static/{FIGURES}/{name}", path, alt, density)
