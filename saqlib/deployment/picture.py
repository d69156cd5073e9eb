"""A picture file as a network takes it: 28 x 28 bytes of grey, bright on black, or one line that says how to get there.

Taken are BMP, GIF, JPEG, PNG, PPM, TIFF and WebP, turned as their EXIF orientation says, as every viewer shows them.
Refused are other sizes, colours, transparent pixels and more than 8 bits, since to make them grey is a choice that is
the person's; a blank picture; and one with a bright ground: none of the 140,000 images of both datasets has a border
that is brighter than half on average, and each of their negatives has.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from saqlib.errors import last_line, printable

SIDE = 28
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none of their decoders starts another program
GREY_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of these, pillow's conversion to 8 bits loses nothing
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
HALF = 127.5

# What to do, as Python with the picture as `image`; the tests follow each advice.
GREY = "image.convert('RGB').convert('L')"
SCALED = "Image.fromarray((np.asarray(image) / 257).round().astype('uint8'))"
DRAWN_IN_ALPHA = "image.convert('RGBA').getchannel('A')"
ON_BLACK = "Image.alpha_composite(Image.new('RGBA', image.size, 'black'), image.convert('RGBA')).convert('L')"
NEGATIVE = "ImageOps.invert(image.convert('L'))"


class PictureError(ValueError):
    """A picture that cannot be used; the message says which file, why, and what to do."""


def read_image(path: Path) -> np.ndarray:
    """The grey values of a picture, uint8 (28, 28).

    Raises PictureError if it is missing, no picture, of another size, not grey, transparent, blank, or dark on bright.
    """
    image = _opened(path)
    name = printable(path)
    if image.mode in DEEP_MODES:
        raise PictureError(f"{name} has more than 8 bits a pixel; scale its values to 0 to 255, of 16 bits by {SCALED}")
    if image.mode not in GREY_MODES:
        raise PictureError(f"{name} has pixels of type {image.mode}; make them grey: {GREY}")
    pixels = np.asarray(image.convert("RGBA"))
    colours, alpha = pixels[..., :3], pixels[..., 3]
    if (alpha < 255).any():
        drawn = (colours[alpha > 0] == colours[alpha > 0][:1]).all()  # in one tone: the picture is what is opaque
        advice = DRAWN_IN_ALPHA if drawn else ON_BLACK
        raise PictureError(f"{name} has transparent pixels; put it on black, so that what it shows is bright: {advice}")
    if (colours != colours[..., :1]).any():
        raise PictureError(f"{name} has colours; make it grey: {GREY}")
    grey = colours[..., 0].copy()
    if (grey == grey[0, 0]).all():
        raise PictureError(f"{name} is blank: every pixel has the value {grey[0, 0]}; there is nothing to explain")
    if border(grey).mean() > HALF:
        raise PictureError(f"{name} has a bright ground, and the networks know bright on black; turn it: {NEGATIVE}")
    return grey


def border(grey: np.ndarray) -> np.ndarray:
    """The outermost pixels of a picture (H, W), each once."""
    return np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])


def _opened(path: Path) -> Image.Image:
    """The picture as it is shown, decoded only once its header has told the right size."""
    name = printable(path)
    if path.exists() and not path.is_file():
        raise PictureError(f"{name} is no file but a folder or a device")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pillow, about size and metadata; what matters is checked here
            with Image.open(path, formats=FORMATS) as file:
                if file.size != (SIDE, SIDE):
                    width, height = file.size
                    scale = f"the network takes {SIDE} x {SIDE}. Scale it first"
                    raise PictureError(f"{name} is {width} x {height} pixels; {scale}")
                return ImageOps.exif_transpose(file)
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(f"{name} does not exist") from None
    except Exception as error:  # decoders raise whatever broken bytes lead them to
        kinds = ", ".join(FORMATS)
        raise PictureError(f"{name} is not a picture that can be read ({kinds}): {last_line(error)}") from None
