"""Pictures of a page: each with its size, so that nothing moves while it loads, and with words in its place."""

import base64
import hashlib
import html
from pathlib import Path

from PIL import Image

from study import files

FIGURES = "figures"  # folder of the pages' static files
DENSITY = 220 / 96  # pixels of a figure for one of the screen: it is as large as in print


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


def stored(content: bytes | str, name: str, static: Path, alt: str, density: float = 1, anchor: str = "") -> str:
    """A link to a picture around the picture itself, whose file is written to the static folder.

    content: a PNG, or its base64 as a notebook has it. name: of the file; one made of the content if empty. anchor: of
    the element. Others as in `tag`.
    """
    data = base64.b64decode(content) if isinstance(content, str) else content
    name = name or hashlib.sha256(data).hexdigest()[:16]
    path = files.write(static / FIGURES / f"{name}.png", data)
    source = f"_static/{FIGURES}/{path.name}"
    place = f' id="{anchor}"' if anchor else ""
    return f'<a class="picture"{place} href="{source}">{tag(source, path, alt, density)}</a>'
