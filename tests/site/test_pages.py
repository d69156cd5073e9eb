"""The reading copy in a real browser, opened from a folder: every page, the drawing, and the comparison with Python."""

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from saqlib import paths
from tests.site.conftest import needs_npm, needs_sphinx

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: run `make env`")
Browser, Page = playwright.Browser, playwright.Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
pytestmark = [needs_npm, needs_sphinx]
LIMIT = 180_000  # milliseconds that a loaded machine may take for anything
NARROW, WIDE = {"width": 390, "height": 844}, {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium of the system."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=LIMIT)
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator[Page]:
    """A page that keeps what goes wrong in `page.faults`: errors, failed and foreign requests."""
    page = browser.new_page(viewport=NARROW)
    page.set_default_timeout(LIMIT)
    page.faults = []
    page.on("console", lambda said: said.type in ("error", "warning") and page.faults.append(said.text))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("requestfailed", lambda request: page.faults.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:", "blob:")) or page.faults.append(request.url),
    )
    yield page
    page.close()


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
        if tag == "img":
            self.images.append(known)


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Elements]:
    """Every page of the site, read."""
    return {path.name: Elements(path.read_text(encoding="utf-8")) for path in sorted(site.glob("*.html"))}


def test_every_part_is_there(pages):
    """The front, the networks, the paper, the executed notebooks, every table."""
    expected = {"index.html", "draw.html", "paper.html", "tables.html", "scale.html", "search.html", "change.html"}
    expected |= {f"{path.stem}.html" for path in (paths.RESULTS / "notebooks").glob("*.ipynb")}
    expected |= {f"table_{path.stem}.html" for path in (paths.RESULTS / "tables").glob("*.csv")}
    assert expected <= pages.keys()


def test_every_internal_link_is_good(site, pages):
    """The file exists, and has the anchor; only a person's click leads elsewhere."""
    broken = []
    for name, elements in pages.items():
        for link in elements.links:
            target, anchor = urldefrag(unquote(link))
            if re.match(r"https?:|data:|mailto:", target):
                continue
            target = target.split("?")[0] or name
            if not (site / target).is_file():
                broken.append(f"{name}: {link}")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                broken.append(f"{name}: {link}")
    assert broken == []


def test_every_picture_has_words_and_a_size(pages):
    """For whoever does not see it, and so that nothing moves while it loads."""
    images = [image for elements in pages.values() for image in elements.images]
    assert len(images) > 25  # and more where the paper can be made as a page
    assert [
        image
        for image in images
        if not (len(image.get("alt") or "") > 15 and image.get("width") and image.get("height"))
    ] == []


def test_no_page_asks_another_place(site):
    """Nothing that is loaded (as opposed to clicked) has an address in the network."""
    loads = re.compile(r"""(?:<(?:script|link|img|iframe)[^>]+(?:src|href)=|url\(|@import\s)["']?(?:https?:)?//""")
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 20
    assert [path.name for path in files if loads.search(path.read_text(encoding="utf-8"))] == []


@in_a_browser
def test_every_page_opens_without_a_fault_and_fits_a_phone(site, pages, page):
    """From a folder, at 390 pixels: no error, no foreign request, no scrolling sideways, every picture loaded."""
    for name in pages:
        page.goto((site / name).as_uri(), wait_until="load")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= NARROW["width"], f"{name} is {wide} pixels wide"
        page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; })")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        empty = page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
        assert empty == [], name
        if name == "draw.html":
            page.wait_for_selector("#saq[data-curves]")
    assert page.faults == []


@in_a_browser
def test_the_picture_of_the_front_page_is_small(site, page):
    """At most 350 pixels high on a desk, and the answer stands in the first screen."""
    page.set_viewport_size(WIDE)
    page.goto((site / "index.html").as_uri())
    assert page.locator("figure.glance > div").bounding_box()["height"] <= 350
    assert page.locator("table.chains").bounding_box()["y"] < WIDE["height"] / 2
    assert 1 <= page.locator("table.chains tbody tr").count() <= 5


@in_a_browser
def test_a_search_finds_the_paper_and_the_notebooks(site, page):
    """From a folder, too."""
    page.goto(f"{(site / 'search.html').as_uri()}?q=occlusion")
    page.wait_for_selector("#search-results li a")
    links = page.eval_on_selector_all("#search-results a", "all => all.map(a => a.href)")
    for name in ("paper.html", "03_clarity-fashion_mnist-w2a2-guided.html"):  # the one where it can be made as a page
        said = "occlusion" in (site / name).read_text().lower()
        assert any(name in link for link in links) == said
    assert page.faults == []


@pytest.fixture
def desk(site, page) -> Page:
    """The drawing page after its first answer."""
    page.set_viewport_size(WIDE)
    page.goto((site / "draw.html").as_uri())
    page.wait_for_selector("#saq[data-curves]")
    return page


def texts(desk: Page, selector: str) -> list[str]:
    return desk.locator(selector).all_inner_texts()


def settled(desk: Page, action) -> None:
    """Do something, and wait until the networks have answered it and drawn their curves."""
    desk.evaluate("delete document.getElementById('saq').dataset.curves")
    action()
    desk.wait_for_selector("#saq[data-curves]")


def draw_seven(desk: Page) -> None:
    box = desk.locator(".pad").bounding_box()
    at = [
        (box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in ((0.25, 0.2), (0.75, 0.2), (0.45, 0.85))
    ]
    desk.mouse.move(*at[0])
    desk.mouse.down()
    for place in at[1:]:
        desk.mouse.move(*place, steps=12)
    desk.mouse.up()


@in_a_browser
def test_a_drawing_is_read_by_every_trained_network(desk):
    """A seven is a seven in four precisions, each with a map; cleared, nothing is left."""
    settled(desk, lambda: draw_seven(desk))
    assert texts(desk, ".card .class")[:4] == ["7"] * 4
    assert all(re.fullmatch(r"\d+(\.\d)? %", text) for text in texts(desk, ".card .confidence"))
    maps = desk.evaluate("[...document.querySelectorAll('.card .map')].map(map => map.toDataURL())")
    assert len(set(maps)) == 5
    desk.click("[data-do=clear]")
    assert texts(desk, ".card .class") == ["–"] * 5
    assert desk.faults == []


@in_a_browser
def test_pictures_trainings_and_views_change_what_is_shown(desk):
    """Each choice has its own maps; a picked garment is named in words."""

    def first_map() -> str:
        return desk.evaluate("document.querySelector('.card .map').toDataURL()")

    shown = [first_map()]
    settled(desk, lambda: desk.check("[name=training][value=guided]"))
    shown.append(first_map())
    desk.check("[name=view][value=magnitude]")
    shown.append(first_map())
    settled(desk, lambda: desk.check("[name=dataset][value=fashion_mnist]"))
    settled(desk, lambda: desk.click(".pictures button:nth-child(2)"))
    shown.append(first_map())
    assert len(set(shown)) == 4 and texts(desk, ".card.fp32 .class") == ["trousers"]
    assert desk.faults == []


@in_a_browser
def test_pixels_are_removed_by_the_slider_with_each_fill(desk):
    """With none removed the confidence is that of the picture, with all it no longer depends on the order."""

    def slide(share: int) -> list[str]:
        desk.evaluate(f"""() => {{ const slider = document.querySelector('[name=share]'); slider.value = {share};
            slider.dispatchEvent(new Event('input', {{ bubbles: true }})); }}""")
        desk.wait_for_function(f"document.querySelector('output').textContent.startsWith('{share}')")
        settled(
            desk,
            lambda: desk.evaluate(
                "document.querySelector('[name=fill]:checked').dispatchEvent(new Event('change', {bubbles: true}))"
            ),
        )
        return texts(desk, ".card .left")

    assert slide(0) == texts(desk, ".card .confidence")
    half = {}
    for fill in ("zero", "mean", "noise", "blur"):
        desk.check(f"[name=fill][value={fill}]")
        half[fill] = tuple(slide(40))
        assert desk.locator(".chart polyline").count() == 5
    assert len(set(half.values())) == 4
    most = slide(100)
    settled(desk, lambda: desk.check("[name=first][value=least]"))
    assert slide(100) == most and tuple(slide(40)) != half["blur"]
    assert desk.faults == []


@in_a_browser
def test_the_button_says_that_all_numbers_agree_with_python(desk):
    """Quantized logits bit for bit, maps within a millionth."""
    desk.click("[data-do=compare]")
    desk.wait_for_selector("#saq[data-agree]")
    sentence = desk.inner_text(".compared")
    assert desk.get_attribute("#saq", "data-agree") == "true", sentence
    assert sentence.startswith("All agree: 180 of 180 classes are those of Python, 120 of 120 rows")
    assert desk.faults == []


@in_a_browser
def test_the_button_notices_a_number_that_differs(site, page, tmp_path):
    """One changed answer of Python, and they do not agree: the comparison compares."""
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    script = copy / "_static" / "data-answers.js"
    text = script.read_text()
    first, second = (
        re.search(rf'"{name}":\{{"logits":"([^"]+)"', text)[1] for name in ("mnist-w2a2-guided", "mnist-w4a4-guided")
    )
    script.write_text(text.replace(first, second, 1))
    page.goto((Path(copy) / "draw.html").as_uri())
    page.wait_for_selector("#saq[data-curves]")
    page.click("[data-do=compare]")
    page.wait_for_selector("#saq[data-agree=false]")
    assert page.inner_text(".compared").startswith("They do not agree")
