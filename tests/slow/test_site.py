"""The reading copy, built whole and opened from a folder in a real browser; its networks and pixels in Node."""

import base64
import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from saqlib.data import as_input as as_tensor
from saqlib.deploy.explain import as_image, as_input, open_session, read_image
from saqlib.removal import fill_images
from study import explore, paths
from study.site import build

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
pytestmark = [
    pytest.mark.skipif(not (build.MODULES / "onnxruntime-web").exists(), reason="no site/node_modules: `make site`"),
    pytest.mark.skipif(importlib.util.find_spec("myst_nb") is None, reason="myst-nb is not installed: `make env`"),
]
LIMIT = 180_000  # milliseconds that a loaded machine may take for anything
NARROW, WIDE = {"width": 390, "height": 844}, {"width": 1200, "height": 900}
TALLEST = 20_000  # pixels of a page
HERE = "http://127.0.0.1:"


class Elements(HTMLParser):
    """What a page links to, its anchors, and its pictures."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.anchors, self.images = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.anchors |= {known[name] for name in ("id", "name") if known.get(name)}
        self.links += [known[name] for name in ("href", "src") if known.get(name) and tag != "base"]
        self.images += [known] if tag == "img" else []


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What the reading copy is made from."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("results", "paper", "docs"):
        shutil.copytree(paths.ROOT / name, root / name)
    shutil.copy(paths.PARAMS, root)
    return root


@pytest.fixture(scope="module")
def site(root, tmp_path_factory):
    """The reading copy."""
    return build.build(root, tmp_path_factory.mktemp("reading") / "site")


@pytest.fixture(scope="module")
def pages(site):
    """Every page of the site, read."""
    return {path.name: Elements(path.read_text(encoding="utf-8")) for path in sorted(site.glob("*.html"))}


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: run `make env`")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=LIMIT)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page; what goes wrong in it, errors, failed and foreign requests, fails the test."""
    page, faults = browser.new_page(viewport=WIDE), []
    page.set_default_timeout(LIMIT)
    page.on("console", lambda line: line.type in ("error", "warning") and faults.append(line.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    left = "net::ERR_ABORTED"  # a page was left while it still loaded a network: not its fault
    page.on("requestfailed", lambda each: each.failure == left or faults.append(f"{each.failure}: {each.url}"))
    own = ("file:", "data:", "blob:", HERE)
    page.on("request", lambda request: request.url.startswith(own) or faults.append(request.url))
    yield page
    page.close()
    assert faults == []


def test_the_site_is_complete(site, pages):
    """Every part is there, every internal link is good, pictures have words and sizes, nothing is foreign."""
    expected = {f"{name}.html" for name in ("index", "draw", "paper", "tables", "scale", "search", "change")}
    expected |= {f"{path.stem}.html" for path in (paths.RESULTS / "notebooks").glob("*.ipynb")}
    expected |= {f"table_{path.stem}.html" for path in (paths.RESULTS / "tables").glob("*.csv")}
    assert expected | {f"{path.stem}.html" for path in (paths.ROOT / "docs").glob("*.md")} <= pages.keys()
    broken = []
    for name, elements in pages.items():
        for link in elements.links:
            target, anchor = urldefrag(unquote(link))
            if not re.match(r"https?:|data:|mailto:", target):
                target = target.split("?")[0] or name
                lost = anchor and target in pages and anchor not in pages[target].anchors
                broken += [f"{name}: {link}"] if lost or not (site / target).is_file() else []
    assert broken == []
    images = [image for elements in pages.values() for image in elements.images]
    assert len(images) > 25
    assert all(len(each.get("alt") or "") > 15 and each.get("width") and each.get("height") for each in images)
    loads = re.compile(r"""(?:<(?:script|link|img|iframe)[^>]+(?:src|href)=|url\(|@import\s)["']?(?:https?:)?//""")
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert [path.name for path in files if loads.search(path.read_text(encoding="utf-8"))] == []
    assert "genindex.html" not in pages


def test_a_failed_build_leaves_the_site_as_it_was(tmp_path, monkeypatch):
    """And nothing beside it."""
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("before")
    monkeypatch.setattr(build, "write_pages", lambda root, pages: (_ for _ in ()).throw(build.SiteError("no table")))
    with pytest.raises(build.SiteError):
        build.build(out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["site"] and (out / "index.html").read_text() == "before"


@in_a_browser
def test_every_page_opens_without_a_fault_and_fits_a_phone(site, pages, page):
    """From a folder: none is too wide or endless, every picture loads; on a desk the answer is in the first screen."""
    size = "({scrollWidth, scrollHeight}) => [scrollWidth, scrollHeight]"
    page.set_viewport_size(NARROW)
    for name in pages:
        page.goto((site / name).as_uri(), wait_until="load")
        for wanted in (WIDE, NARROW):
            page.set_viewport_size(wanted)
            width, height = page.evaluate(f"({size})(document.documentElement)")
            assert width <= wanted["width"] and height < TALLEST, name
        page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; })")
        page.evaluate("Promise.allSettled([...document.images].map(image => image.decode()))")
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)"), name
    page.set_viewport_size(WIDE)
    page.goto((site / "index.html").as_uri(), wait_until="load")
    answer, picture = (page.locator(f".first-screen {what}").first.bounding_box() for what in ("p", ".picture img"))
    assert answer["y"] + answer["height"] < WIDE["height"] / 2 and picture["y"] + picture["height"] < WIDE["height"]
    page.goto(f"{(site / 'search.html').as_uri()}?q=paper")
    page.wait_for_selector("#search-results a[href*='paper.html']")  # one result after the other is listed
    assert "Opened as a file" in page.inner_text("article") and not page.query_selector(".context")


@in_a_browser
def test_a_number_leads_to_its_line_and_headings_stay(site, page):
    """The line is in sight, below the head of its table, far down in the frame as on top."""
    boxes = """line => {
        const row = document.getElementById(line), box = row.closest('.frame'), head = box.querySelector('thead th');
        return [box, head, row].map(each => each.getBoundingClientRect()).flatMap(({ top, bottom }) => [top, bottom]);
    }"""
    for name, line in (("table_accuracy", 3), ("file_exploring", 900)):
        page.goto(f"{(site / name).as_uri()}.html#L{line}")
        before = None
        while before != (now := page.evaluate(boxes, f"L{line}")):  # the theme scrolls smoothly
            before = now
            page.wait_for_timeout(300)
        top, bottom, _, below, begin, end = now
        assert top <= below <= begin + 1 and end <= min(bottom, WIDE["height"]) + 1, (name, now)
    columns = page.locator(".columns")
    assert not columns.locator("dl").is_visible()
    columns.locator("summary").click()
    assert "Gini index. Do few pixels carry the map?" in columns.inner_text()


@in_a_browser
def test_search_shows_excerpts_from_a_server(site, page):
    """And no word about files."""
    handler = functools.partial(Silent, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"{HERE}{server.server_port}/search.html?q=clipped")
        page.wait_for_selector("#search-results li .context")
        assert "clip" in page.inner_text("#search-results li .context >> nth=0")
        assert "Opened as a file" not in page.inner_text("article")
        page.goto(f"{HERE}{server.server_port}/draw.html")
        page.wait_for_selector("#saq[data-curves]")
        server.shutdown()


class Silent(http.server.SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_):
        pass


@in_a_browser
def test_the_policy_stops_foreign_requests_and_scripts_in_text(site, browser):
    """Both were possible without it; the theme's own script still runs."""
    page = browser.new_page()
    page.goto((site / "table_accuracy.html").as_uri())
    assert page.evaluate("document.body.dataset.theme") == "auto"
    stopped = page.evaluate("""async () => {
        const stopped = [];
        document.addEventListener('securitypolicyviolation', event => stopped.push(event.effectiveDirective));
        const script = Object.assign(document.createElement('script'), { textContent: 'globalThis.ran = true' });
        document.body.append(script);
        await fetch('https://127.0.0.1:9/').catch(() => 0);
        await new Promise(done => setTimeout(done, 100));
        return [...stopped, globalThis.ran ?? false];
    }""")
    page.close()
    assert sorted(map(str, stopped)) == ["False", "connect-src", "script-src-elem"]


@pytest.fixture
def desk(site, page):
    """The drawing page after its first answer."""
    page.goto((site / "draw.html").as_uri())
    page.wait_for_selector("#saq[data-curves]")
    return page


def texts(desk, selector: str) -> list[str]:
    return desk.locator(selector).all_inner_texts()


def settled(desk, action) -> None:
    """Do something, and wait until the networks have answered it and drawn their curves."""
    desk.evaluate("delete document.getElementById('saq').dataset.curves")
    action()
    desk.wait_for_selector("#saq[data-curves]")


def draw_seven(desk) -> None:
    box = desk.locator(".pad").bounding_box()
    first, *others = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
                      for x, y in ((0.25, 0.2), (0.75, 0.2), (0.45, 0.85))]  # fmt: skip
    desk.mouse.move(*first)
    desk.mouse.down()
    for place in others:
        desk.mouse.move(*place, steps=12)
    desk.mouse.up()


@in_a_browser
def test_drawings_and_pictures_are_read_by_every_network(desk):
    """A seven is a seven at each precision, each with a map; choices change what is shown; cleared, nothing is left."""
    settled(desk, lambda: draw_seven(desk))
    assert texts(desk, ".card .class")[:4] == ["7"] * 4
    assert all(re.fullmatch(r"\d+\.\d %", text) for text in texts(desk, ".card .confidence"))
    maps = "[...document.querySelectorAll('.card .map')].map(map => map.toDataURL())"
    shown = set(desk.evaluate(maps))
    assert len(shown) == 5
    for action in (lambda: desk.check("[name=training][value=guided]"),
                   lambda: desk.check("[name=dataset][value=fashion_mnist]"),
                   lambda: desk.click(".pictures button:nth-child(2)")):  # fmt: skip
        settled(desk, action)
        assert not shown & set(desk.evaluate(maps)[:4])
        shown |= set(desk.evaluate(maps))
    assert texts(desk, ".card.fp32 .class") == ["trousers"]
    tops = (
        "[...document.querySelectorAll('.card .bar, .card')].map(each => Math.round(each.getBoundingClientRect().top))"
    )
    for width in (WIDE, NARROW):
        desk.set_viewport_size(width)
        found = set(desk.evaluate(tops))
        for dataset, label in (("mnist", "1"), ("fashion_mnist", "sneaker")):
            settled(desk, lambda name=dataset: desk.check(f"[name=dataset][value={name}]"))
            settled(desk, lambda label=label: desk.click(f".pictures button[title='{label}']"))
            found |= set(desk.evaluate(tops))
        assert len(found) == 2, "the bars of all cards stand in one line, however long a name is"
    desk.check("[name=view][value=magnitude]")
    assert not shown & set(desk.evaluate(maps))
    desk.click("[data-do=clear]")
    assert texts(desk, ".card .class") == ["–"] * 5


def files_of_a_digit(folder) -> dict[str, str]:
    """Files as people have them, by name, and what the page says of those that hold no picture."""
    image = Image.new("RGB", (640, 480), (236, 230, 215))
    ImageDraw.Draw(image).line([(200, 100), (420, 110), (300, 400)], (20, 30, 120), 30, joint="curve")
    exif, large = Image.Exif(), image.resize((3000, 2250))
    exif[0x0112] = 6
    image.save(folder / "photo.jpg", quality=85)
    image.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif)
    large.save(folder / "large.png")
    image.convert("L").point(lambda x: 255 * (x > 128)).resize((40, 30)).save(folder / "small.bmp")
    clear = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    ImageDraw.Draw(clear).line([(90, 20), (200, 30), (130, 180)], (200, 60, 0, 220), 18)
    clear.save(folder / "clear.png")
    clear.convert("RGBA").save(folder / "clear.webp", lossless=True)
    clear.convert("L").convert("P").save(folder / "grey.gif")
    Image.fromarray(explore.sample("mnist")[0][7]).save(folder / "as it is.png")
    Image.new("L", (90, 90), 200).save(folder / "blank.png")
    Image.new("1", (5000, 4000)).save(folder / "huge.png")
    (folder / "text.png").write_text("no picture")
    bad = {"blank.png": "is blank", "huge.png": "has 5000 × 4000 pixels", "text.png": "is not a picture"}
    return {path.name: bad.get(path.name, "") for path in sorted(folder.iterdir())}


@in_a_browser
def test_any_picture_becomes_what_it_does_in_python(desk, tmp_path):
    """To two grey levels, as decoders of JPEG differ; what is no picture leaves the one that was there."""
    shown = """() => {
        const { data } = document.querySelector('.pad').getContext('2d').getImageData(0, 0, 280, 280);
        return Array.from({length: 784}, (_, i) => data[4 * (280 * (10 * Math.floor(i / 28) + 5) + 10 * (i % 28) + 5)]);
    }"""
    for name, words in files_of_a_digit(tmp_path).items():
        before = desk.evaluate(shown)
        if words:
            desk.set_input_files("[name=file]", tmp_path / name)
            desk.wait_for_selector(f".status:has-text('{name} {words}')")
            assert desk.evaluate(shown) == before
        else:
            desk.click("[data-do=clear]")
            settled(desk, lambda name=name: desk.set_input_files("[name=file]", tmp_path / name))
            found, expected = np.array(desk.evaluate(shown)), read_image(tmp_path / name).ravel().astype(int)
            assert np.abs(found - expected).max() <= 2 and found.max() > 128, name


@in_a_browser
def test_the_gradient_can_pass_clipped_units(desk):
    """Maps, and what removing pixels by them leaves, change where a network clips: not in full precision."""
    maps = "[...document.querySelectorAll('.card .map')].map(map => map.toDataURL())"
    answers, curves = texts(desk, ".card .confidence"), "document.querySelector('.chart').innerHTML"
    before, chart, left = desk.evaluate(maps), desk.evaluate(curves), texts(desk, ".card .left")
    settled(desk, lambda: desk.check("[name=gradient][value=pass_through]"))
    changed = [one != other for one, other in zip(before, desk.evaluate(maps), strict=True)]
    assert changed == [False, True, True, True, False] and texts(desk, ".card .confidence") == answers
    assert desk.evaluate(curves) != chart and texts(desk, ".card .left") != left
    assert desk.get_attribute(".card.w2a2 .map", "aria-label").startswith("Pass-through map, 2 bits")
    settled(desk, lambda: desk.check("[name=gradient][value=map]"))
    assert desk.evaluate(maps) == before and texts(desk, ".card .left") == left


@in_a_browser
def test_pixels_are_removed_by_the_slider_with_each_fill(desk):
    """With none removed the confidence is that of the picture; with all it no longer depends on the order."""

    def left(share: int, fill: str, first: str = "most") -> list[str]:
        choose = f"""const find = choice => document.querySelector(choice);
            find('[name=share]').value = {share};
            find('[name=first][value={first}]').checked = find('[name=fill][value={fill}]').checked = true;
            find('[name=fill][value={fill}]').dispatchEvent(new Event('change', {{bubbles: true}}));"""
        settled(desk, lambda: desk.evaluate(f"() => {{ {choose} }}"))
        assert desk.locator(".chart polyline").count() == 5
        return texts(desk, ".card .left")

    assert left(0, "zero") == texts(desk, ".card .confidence")
    half = [tuple(left(40, fill)) for fill in ("zero", "mean", "noise", "blur")]
    assert len(set(half)) == 4
    assert left(100, "blur", "least") == left(100, "blur", "most") and tuple(left(40, "blur", "least")) != half[-1]


@in_a_browser
def test_the_button_compares_with_python(desk, site, tmp_path):
    """Quantized logits bit for bit, both maps within a millionth; one changed answer of Python is noticed."""
    desk.click("[data-do=compare]")
    desk.wait_for_selector("#saq[data-agree]")
    sentence = desk.inner_text(".compared")
    assert sentence.startswith("All agree: 180 of 180 classes are those of Python, 120 of 120 rows"), sentence
    copy = shutil.copytree(site, tmp_path / "site")
    script = copy / "_static" / "data-answers.js"
    text = script.read_text()
    cells = ("mnist-w2a2-guided", "mnist-w4a4-guided")
    for output in ("logits", "pass_through"):
        one, two = (re.search(rf'"{cell}":\{{[^}}]*"{output}":"([^"]+)"', text)[1] for cell in cells)
        script.write_text(text.replace(one, two, 1))
        desk.goto((copy / "draw.html").as_uri())
        desk.wait_for_selector("#saq[data-curves]")
        desk.click("[data-do=compare]")
        desk.wait_for_selector("#saq[data-agree=false]")


# ----------------------------------------------------------------------------------------------------------- in Node


def inputs(file) -> np.ndarray:
    """A dozen images of the file's dataset."""
    return as_input(explore.sample(file.name.split("-")[0] if "-" in file.name else "mnist")[0][:12])


def python(file) -> dict[str, np.ndarray]:
    """What ONNX Runtime answers to them, one row per image."""
    session = open_session(file)
    names = [output.name for output in session.get_outputs()]
    found = [session.run(names, {"images": image[None]}) for image in inputs(file)]
    return {name: np.stack([row[i].ravel() for row in found]) for i, name in enumerate(names)}


@needs_node
def test_every_committed_file_answers_in_node_as_in_python(root):
    """A quantized network's logits bit for bit, those of full precision and all maps to rounding."""
    files = sorted((root / "results" / "models").glob("*.onnx"))
    packed = [base64.b64encode(inputs(file).tobytes()).decode() for file in files]
    jobs = [{"file": str(file), "count": 12, "images": images} for file, images in zip(files, packed, strict=True)]
    script = paths.ROOT / "tests" / "helpers" / "run_networks.mjs"
    done = subprocess.run(["node", script, build.MODULES], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(files) > 48
    for file, answers in zip(files, json.loads(done.stdout), strict=True):
        expected = python(file)
        found = {name: np.stack([np.frombuffer(base64.b64decode(row), np.float32) for row in each])
                 for name, each in answers.items()}  # fmt: skip
        assert found.keys() == expected.keys() and ("pass_through" in found) == (".explain" in file.name)
        rounded = "fp32" in file.name or "untrained" in file.name
        for name, values in expected.items():
            tolerance = 1e-4 * rounded if name == "logits" else 1e-6 * max(1, np.abs(values).max())
            np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance, err_msg=f"{file.name}: {name}")


def pixels(expression: str, **values) -> np.ndarray:
    """The value of an expression of site/static/pixels.js, in which P is its object and `given` the values."""
    code = (
        f"{(build.SOURCES / 'static' / 'pixels.js').read_text()}\nconst P = globalThis.saqPixels;"
        "const given = JSON.parse(require('fs').readFileSync(0));"
        f"const value = {expression}; console.log(JSON.stringify(value === null ? [] : Array.from(value)));"
    )
    given = json.dumps({name: np.asarray(value).tolist() for name, value in values.items()})
    done = subprocess.run(["node", "-e", code], input=given.encode(), capture_output=True, check=True)
    return np.array(json.loads(done.stdout))


@needs_node
def test_pixels_are_prepared_ordered_and_filled_as_in_the_study():
    """A drawing has its mass in the middle; equal pixels leave by their place; blur is the Gaussian mean."""

    def prepared(ink: np.ndarray) -> np.ndarray:
        return pixels("P.prepared(Uint8Array.from(given.ink), 280)", ink=ink.ravel())

    ink = np.zeros((280, 280), np.uint8)
    ink[100:140, 50:90], ink[100:140, 70:90] = 200, 100
    image = prepared(ink)
    assert (image == 200).sum() == (image == 100).sum() == 200, "a box is averaged exactly"
    np.testing.assert_array_equal(image, prepared(np.roll(ink, (9, -7), (0, 1))))
    assert np.allclose(ndimage.center_of_mass(image.reshape(28, 28)), 13.5, atol=0.51)
    assert prepared(np.zeros_like(ink)).size == 0
    rng = np.random.default_rng(0)
    saliency = rng.integers(-3, 4, 784).astype(float)
    for most, sign in (("true", -1), ("false", 1)):
        expected = np.argsort(sign * np.abs(saliency), kind="stable")
        np.testing.assert_array_equal(pixels(f"P.order(Float32Array.from(given.map), {most})", map=saliency), expected)
    image, mean = (rng.integers(0, 256, 784) for _ in range(2))
    fill = "P.fill('{}', Uint8Array.from(given.image), given.mean)"
    zero, means, blur = (pixels(fill.format(name), image=image, mean=mean) for name in ("zero", "mean", "blur"))
    assert not zero.any() and (means == mean).all()
    gaussian = 255 * fill_images("blur", as_tensor(torch.from_numpy(image.astype(np.uint8).reshape(1, 28, 28))))
    np.testing.assert_allclose(blur, gaussian.flatten(), atol=0.51)


@needs_node
def test_pictures_become_the_same_in_node_and_in_python():
    """Of any size, with noise, lines, colours and opacity, those at which means end in a half included."""
    rng, pictures = np.random.default_rng(0), []
    for kind in range(40):
        width, height = (int(side) for side in rng.integers(1, 90, 2))
        image = Image.new("RGBA", (width, height), tuple(int(value) for value in rng.integers(0, 256, 4)))
        for _ in range(3 * (kind % 4 > 0)):
            ends = [(int(rng.integers(width)), int(rng.integers(height))) for _ in range(2)]
            ImageDraw.Draw(image).line(ends, tuple(int(value) for value in rng.integers(0, 256, 4)), kind % 9)
        pictures.append(np.asarray(image) if kind % 8 else rng.integers(0, 256, (height, width, 4)).astype(np.uint8))
    expected = [as_image(each) for each in pictures]
    assert 0 < sum(each is None for each in expected) < 20
    for each, image in zip(pictures, expected, strict=True):
        found = pixels(f"P.pictured(Uint8Array.from(given.rgba), {each.shape[1]})", rgba=each.ravel())
        np.testing.assert_array_equal(found, [] if image is None else image.ravel())
