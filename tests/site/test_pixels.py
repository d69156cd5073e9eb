"""Tests of site/static/pixels.js in node: drawings as MNIST's authors prepared theirs, order of removal, fills."""

import json
import subprocess

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from saqlib import paths
from tests.site.conftest import needs_node

pytestmark = needs_node
SCRIPT = paths.ROOT / "site" / "static" / "pixels.js"
SIDE = 280


def node(expression: str, **values) -> list:
    """The value of an expression of saqPixels, in which P is that object and `given` the values."""
    code = (
        f"{SCRIPT.read_text()}\nconst P = globalThis.saqPixels;"
        f"const given = JSON.parse(require('fs').readFileSync(0));"
        f"const plain = v => ArrayBuffer.isView(v) ? Array.from(v) : v;"
        f"console.log(JSON.stringify(plain({expression})));"
    )
    lists = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
    done = subprocess.run(["node", "-e", code], input=json.dumps(lists), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def prepared(ink: np.ndarray) -> np.ndarray | None:
    found = node(f"P.prepared(Uint8Array.from(given.ink), {SIDE})", ink=ink.ravel())
    return found if found is None else np.array(found).reshape(28, 28)


@st.composite
def drawings(draw) -> np.ndarray:
    """A few thick strokes anywhere on the pad."""
    ink = np.zeros((SIDE, SIDE), np.uint8)
    places = st.integers(10, SIDE - 11)
    for _ in range(draw(st.integers(1, 3))):
        ends = np.array([[draw(places), draw(places)] for _ in range(2)], float)
        for part in np.linspace(0, 1, 200):
            y, x = np.rint(ends[0] + part * (ends[1] - ends[0])).astype(int)
            ink[y - 8 : y + 9, x - 8 : x + 9] = 255
    return ink


@settings(max_examples=25)
@given(drawings())
def test_ink_fills_the_box_and_its_mass_is_centred(ink):
    """20 pixels in its longer side, and the centre of mass within half a pixel of the middle, where there is room."""
    image = prepared(ink)
    rows, columns = (np.flatnonzero(image.max(axis)) for axis in (1, 0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert 19 <= max(height, width) <= 20
    y, x = ndimage.center_of_mass(image)
    for centre, first, last in ((y, rows[0], rows[-1]), (x, columns[0], columns[-1])):
        assert abs(centre - 13.5) <= 0.51 or first == 0 or last == 27


@settings(max_examples=10)
@given(drawings(), st.integers(-5, 5), st.integers(-5, 5))
def test_where_a_drawing_stands_on_the_pad_does_not_matter(ink, down, right):
    """Moved, it becomes the same image."""
    np.testing.assert_array_equal(prepared(ink), prepared(np.roll(ink, (down, right), (0, 1))))


def test_a_box_is_averaged_exactly():
    """A square of 40 pixels, half of it at half the ink: 20 x 20 pixels with exactly these greys."""
    ink = np.zeros((SIDE, SIDE), np.uint8)
    ink[100:140, 50:90] = 200
    ink[100:140, 70:90] = 100
    image = prepared(ink)
    assert set(np.unique(image)) == {0, 100, 200}
    assert (image == 200).sum() == (image == 100).sum() == 200


def test_an_empty_pad_is_no_image():
    """Nothing is answered for it."""
    assert prepared(np.zeros((SIDE, SIDE), np.uint8)) is None


def test_pixels_leave_in_the_studys_order():
    """By magnitude, equal ones by their place, in both directions: as saqlib.clarity.removal has it."""
    rng = np.random.default_rng(0)
    saliency = rng.integers(-3, 4, 784).astype(float)
    for most, sign in (("true", -1), ("false", 1)):
        expected = np.argsort(sign * np.abs(saliency), kind="stable")
        assert node(f"P.order(Float32Array.from(given.map), {most})", map=saliency) == expected.tolist()


def test_what_removed_pixels_become():
    """Background, the mean image, the same noise each time, or the Gaussian mean of their neighbourhood."""
    rng = np.random.default_rng(1)
    image, mean = (rng.integers(0, 256, 784) for _ in range(2))

    def fill(name: str) -> np.ndarray:
        return np.array(node(f"P.fill('{name}', Uint8Array.from(given.image), given.mean)", image=image, mean=mean))

    assert not fill("zero").any() and (fill("mean") == mean).all() and (fill("noise") == fill("noise")).all()
    assert abs(fill("noise").mean() - 127.5) < 10 and np.ptp(fill("noise")) > 240
    expected = ndimage.gaussian_filter(image.reshape(28, 28).astype(float), 2, radius=3, mode="constant")
    np.testing.assert_allclose(fill("blur"), expected.ravel(), atol=0.51)


def test_as_many_pixels_are_replaced_as_are_asked_for():
    """The first of the order, and no others."""
    image, places = np.full(784, 7), np.random.default_rng(2).permutation(784)
    out = node("P.removed(Uint8Array.from(given.image), Uint16Array.from(given.places), 100, new Uint8Array(784))",
               image=image, places=places)  # fmt: skip
    assert set(np.flatnonzero(np.array(out) == 0)) == set(places[:100])
