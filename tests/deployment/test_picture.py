"""Tests of saqlib.deployment.picture: what is taken is what a viewer shows; each advice leads to the right picture."""

import contextlib
import io
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from saqlib import paths
from saqlib.data.images import load
from saqlib.datasets import DATASETS
from saqlib.deployment import picture
from saqlib.deployment.picture import PictureError, border, read_image

GREY = load("mnist", "test", sample=True)[0][3].numpy()
SIDE = picture.SIDE


def refusal(path: Path) -> str:
    """What a person is told: one line that a terminal may show."""
    with pytest.raises(PictureError) as error:
        read_image(path)
    assert str(error.value).isprintable()
    return str(error.value)


def image() -> Image.Image:
    return Image.fromarray(GREY)


# ------------------------------------------------------------------------------------------------ what is taken


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_way_to_save_grey_is_read_alike(mode, kind, tmp_path):
    """Grey saved with several channels gives the same 8-bit values."""
    image().convert(mode).save(tmp_path / "x", kind)
    np.testing.assert_array_equal(read_image(tmp_path / "x"), GREY)


@pytest.mark.parametrize("kind", picture.FORMATS)
def test_every_format_is_read(kind, tmp_path):
    """Exactly, where the format itself loses nothing."""
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    image().save(tmp_path / "x", kind, **options)
    found = read_image(tmp_path / "x").astype(int)
    assert np.abs(found - GREY).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["1", "P"])
def test_two_tones_and_palettes_are_read(mode, tmp_path):
    """Black and white as 0 and 255, a palette of greys as its greys."""
    two_tones = image().point(lambda x: 255 * (x > 127))
    (two_tones if mode == "1" else image()).convert(mode).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), np.asarray(two_tones) if mode == "1" else GREY)


TURNS = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_photograph_is_turned_as_its_exif_says(orientation, kind, tmp_path):
    """As every viewer shows it: what is stored on its side is a 4, not a 3."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    image().save(tmp_path / "x", kind, exif=exif, **options)
    found = read_image(tmp_path / "x").astype(int)
    assert np.abs(found - TURNS[orientation](GREY)).max() <= 4


# ----------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("dataset", DATASETS)
def test_each_image_is_taken_and_each_negative_refused(dataset, tmp_path):
    """Of the sample all; where the real images are there, all 140,000 by the same measure."""
    for part in ("train", "validation", "test"):
        for pixels in load(dataset, part, sample=True)[0].numpy()[:50]:
            Image.fromarray(pixels).save(tmp_path / "x.png")
            np.testing.assert_array_equal(read_image(tmp_path / "x.png"), pixels)
            Image.fromarray(255 - pixels).save(tmp_path / "x.png")
            assert "has a bright ground" in refusal(tmp_path / "x.png")
    if (paths.DATA / dataset).exists():
        for part in ("train", "validation", "test"):
            pixels = load(dataset, part)[0].numpy().astype(np.float32)
            means = np.stack([border(each).mean() for each in pixels])
            assert (means <= picture.HALF).all() and (255 - means > picture.HALF).all()


def test_border_has_each_pixel_once():
    """4 times 28 less the corners that two sides share."""
    numbered = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    inside = numbered[1:-1, 1:-1]
    assert len(border(numbered)) == 4 * SIDE - 4
    assert set(border(numbered)) == set(numbered.ravel()) - set(inside.ravel())


def followed(path: Path, advice: str) -> np.ndarray:
    """What is read after somebody has done what a message says."""
    with Image.open(path) as opened:
        found = eval(advice, {"image": opened, "Image": Image, "ImageOps": ImageOps, "np": np})
    found.save(path.with_name("followed.png"))
    return read_image(path.with_name("followed.png"))


def ink(tone: int) -> Image.Image:
    """A drawing in one tone on a transparent canvas, as drawing programs save it."""
    return Image.merge("LA", [Image.new("L", (SIDE, SIDE), tone), image()])


DEEP = GREY.astype(np.uint16) * 257
UNFIT = {
    "negative": (ImageOps.invert(image()), "bright ground"),
    "16 bits": (Image.fromarray(DEEP), "more than 8 bits"),
    "black ink on nothing": (ink(0), "transparent"),
    "white ink on nothing": (ink(255), "transparent"),
    "black ink in colours": (ink(0).convert("RGBA"), "transparent"),
    "tones on nothing": (Image.merge("LA", [image(), image().point(lambda x: 255 * (x > 0))]), "transparent"),
    "colours": (Image.merge("RGB", [image(), image(), image().point(lambda x: min(x + 1, 255))]), "colours"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_an_advice_leads_to_the_picture(kind, tmp_path):
    """Whoever does what the message says gets the picture, not one tone or two levels of it."""
    unfit, said = UNFIT[kind]
    unfit.save(tmp_path / "x.png")
    text = refusal(tmp_path / "x.png")
    assert said in text
    advice = re.search(r"(image\.|Image\.|ImageOps\.).*$", text)[0]
    assert np.abs(followed(tmp_path / "x.png", advice).astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colours_are_refused(mode, tmp_path):
    """By the name that pillow gives them."""
    source = image().convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (SIDE, SIDE), (9, 9, 9))
    source.save(tmp_path / "x.tif")
    assert re.search("pixels of type|has colours", refusal(tmp_path / "x.tif"))


@pytest.mark.parametrize("kind", ["F", "I", "I;16", "I;16B"])
def test_deep_pictures_are_refused(kind, tmp_path):
    """Pillow's own conversion to 8 bits would clip them."""
    deep = {"F": np.float32, "I": np.int32, "I;16": np.uint16, "I;16B": ">u2"}[kind]
    Image.fromarray(DEEP.astype(deep)).save(tmp_path / "x.tif")
    assert "more than 8 bits" in refusal(tmp_path / "x.tif")


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_a_blank_picture_is_refused(value, tmp_path):
    """Every network gives it a class, too."""
    Image.new("L", (SIDE, SIDE), value).save(tmp_path / "x.png")
    assert f"is blank: every pixel has the value {value}" in refusal(tmp_path / "x.png")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG that says its size and holds no pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def whole(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image().save(buffer, kind)
    return buffer.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n(x) show\n%%EOF\n"
BROKEN = {
    "nothing": b"",
    "text": b"hello",
    "200 megapixels": png(20_000, 10_000),
    "60000 x 60000": png(60_000, 60_000),
    "13000 x 13000": png(13_000, 13_000),
    "no pixels": png(28, 28),
    "0 x 0": png(0, 0),
    "text chunk bomb": png(28, 28, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9))),
    "cut in the middle": whole()[:-200],
    "cut in the header": whole()[:20],
    "damaged in the middle": whole()[:150] + bytes(20) + whole()[170:],
    "JPEG cut": whole("JPEG")[: len(whole("JPEG")) // 2],
    "EPS": EPS,
    "XBM": b"#define x_width 28\n#define x_height 28\nstatic char x_bits[] = {\n0x",
    "DDS": b"DDS " + struct.pack("<I", 124) + bytes(120),
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + bytes(100),
    "GIF without a frame": b"GIF89a" + struct.pack("<HHBBB", 28, 28, 0, 0, 0) + b";",
    "TIFF of a loop": b"II*\0\x08\0\0\0\x01\0\0\x01\x04\0\x01\0\0\0\x1c\0\0\0\x08\0\0\0",
    "broken EXIF": whole("JPEG")[:2] + b"\xff\xe1\0\x14Exif\0\0II*\0\xff\xff\xff\xff\0\0\0\0" + b"\xff\xd9",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("strict", [False, True])
def test_what_no_decoder_can_read_is_one_line(kind, strict, tmp_path):
    """Named .png, whatever it is; the size is asked before anything is decoded, also where warnings are errors."""
    (tmp_path / "x.png").write_bytes(BROKEN[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "default")
        text = refusal(tmp_path / "x.png")
    if "x 1" in kind:
        assert "is 13000 x 13000 pixels; the network takes 28 x 28" in text


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """Pillow would give an EPS file of any name to Ghostscript."""
    for name in ("Popen", "run", "check_call", "check_output", "call"):
        monkeypatch.setattr(f"subprocess.{name}", lambda *_, **__: pytest.fail("a program was started"))
    (tmp_path / "x.png").write_bytes(EPS)
    assert "is not a picture that can be read" in refusal(tmp_path / "x.png")


@pytest.mark.parametrize("size", [(32, 28), (28, 29), (1, 1), (280, 280)])
def test_another_size_is_refused(size, tmp_path):
    """By its width and height."""
    Image.new("L", size).save(tmp_path / "x.png")
    assert f"is {size[0]} x {size[1]} pixels; the network takes 28 x 28" in refusal(tmp_path / "x.png")


def test_what_is_no_file_is_refused(tmp_path):
    """Nothing, a folder, a link to nowhere, a pipe that nobody writes to, a device without an end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert refusal(tmp_path / "none.png").endswith("does not exist")
    assert refusal(tmp_path / "link").endswith("does not exist")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        assert refusal(path).endswith("is no file but a folder or a device")


def test_a_name_cannot_write_to_the_terminal(tmp_path):
    """Colours and line feeds in a file's name are told as their escapes."""
    text = refusal(tmp_path / "a\x1b[31m\nb.png")
    assert text.endswith("a\\x1b[31m\\nb.png does not exist")


# ------------------------------------------------------------------------------------------------- any bytes at all

SOURCES = [whole(kind) for kind in picture.FORMATS]


@st.composite
def mutated(draw) -> bytes:
    """A file of one of the formats with a few bytes changed, cut or doubled."""
    content = bytearray(draw(st.sampled_from(SOURCES)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(["byte", "cut", "insert", "remove"])):
            case "byte":
                content[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
            case "cut":
                del content[max(place, 8) :]
            case "insert":
                content[place:place] = draw(st.binary(max_size=8))
            case "remove":
                del content[place : place + 4]
    return bytes(content)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(mutated() | st.binary(max_size=200))
@example(BROKEN["text chunk bomb"])
def test_any_file_is_a_picture_or_one_line(tmp_path_factory, content):
    """Taken as bytes of grey, or refused with words for a person: no decoder's own error comes through."""
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(content)
    with contextlib.suppress(PictureError):
        found = read_image(path)
        assert found.dtype == np.uint8 and found.shape == (SIDE, SIDE)
        return
    refusal(path)
