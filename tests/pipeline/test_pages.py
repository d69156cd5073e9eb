"""Pages and animations of cells that train: written by the command while DVC trains them in another process."""

import io
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from saqlib import paths, stored
from saqlib.clarity.scores import gini
from saqlib.grid import Cell
from saqlib.pipeline import pages, run, study
from saqlib.training import cell as training
from saqlib.workers import Engine
from tests.workspaces import kill, start

CELLS = [Cell("mnist", "fp32", "standard"), Cell("mnist", "w2a2", "standard")]
SMOKE = study.load(scale="smoke")
STUDY = replace(SMOKE, engine=Engine(device="cpu"), size=replace(SMOKE.size, seeds=2, epochs={"mnist": 2}, records=4))
LIMIT = 180  # seconds that a loaded machine may take for anything
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


# Appended to the workspace's files.py: a training goes on when the page shows its last record, or nobody renews it.
SEEN = """

_write = write


def write(path, content):
    written = _write(path, content)
    if path.match("store/trained/*/0.progress"):
        import time

        import torch

        step = torch.load(io.BytesIO(content), weights_only=True)["steps"][-1]
        (page,), began = (path.parents[3] / "panel").glob("*.html"), time.monotonic()
        while f"step {step} of" not in page.read_text() and time.monotonic() - began < 60:
            time.sleep(0.05)
    return written
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A store of the test's own."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    return paths.BUILD


def train(cell: Cell, **options) -> None:
    training.train_cell(cell, STUDY.recipe(cell), 2, STUDY.engine, n_jobs=1, **options)


def test_an_animation_has_a_frame_for_each_record(build):
    """Small, and the same bytes each time; of a cell that was not trained it is refused in a sentence."""
    with pytest.raises(ValueError, match="nothing was recorded of mnist-fp32-standard; train first"):
        pages.animation(STUDY, CELLS[0])
    train(CELLS[0])
    content = pages.animation(STUDY, CELLS[0])
    assert pages.animation(STUDY, CELLS[0]) == content and len(content) < 300_000
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.n_frames == 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace in which DVC trains two cells while the command watches; `seen` holds its pages meanwhile."""
    grid = {"datasets": ["mnist"], "precisions": ["fp32", "w2a2"], "trainings": ["standard"]}
    size = {"epochs": {"mnist": 4}, "records": 4}
    folder = run.workspace(tmp_path_factory.mktemp("watched") / "a folder", "smoke", grid=grid, scales={"smoke": size})
    with (folder / "saqlib" / "files.py").open("a") as file:
        file.write(SEEN)
    page = folder / "build" / "panel" / f"{CELLS[0]}+{CELLS[1]}.html"
    command = [sys.executable, "-m", "saqlib.pipeline.panel", *map(str, CELLS)]
    watcher = subprocess.Popen(command, cwd=folder, env=run.environment(folder))
    trainer, seen, trained = None, [], None
    try:
        while watcher.poll() is None:
            if trainer and trainer.poll() == 0:
                trained = trained or time.monotonic()
                assert time.monotonic() - trained < LIMIT, "the command does not see that all is trained"
            text = page.read_text() if page.exists() else ""
            if text and trainer is None:  # somebody is watching: now it may begin
                trainer = start(folder, "dvc", "repro", *(f"train@{cell}" for cell in CELLS))
            if text and text not in seen[-1:]:
                seen.append(text)
            assert trainer is None or trainer.poll() in (None, 0), (folder / "log").read_text()
            time.sleep(0.05)  # between two looks; how long decides nothing
        assert watcher.returncode == 0 and trainer.wait() == 0, (folder / "log").read_text()
    finally:
        for process in filter(None, (watcher, trainer)):
            if process.poll() is None:
                kill(process)
    (folder / "seen").mkdir()
    for number, text in enumerate([*seen, page.read_text()]):
        (folder / "seen" / f"{number}.html").write_text(text)
    return folder


def test_the_page_renews_itself_while_they_train_and_stands_still_afterwards(folder):
    """It waits, then shows more and more steps, with what explaining costs; at the end an animation lies beside it."""
    seen = [(folder / "seen" / f"{i}.html").read_text() for i in range(len(list((folder / "seen").iterdir())))]
    assert "waiting for the training" in seen[0] and 'http-equiv="refresh"' in seen[0]
    steps = {
        cell: [int(step) for text in seen for step in re.findall(rf"{cell}, seed 0: step (\d+)", text)]
        for cell in CELLS
    }
    assert all(each == sorted(each) and each[-1] == 36 for each in steps.values())
    assert set().union(*steps.values()) <= {0, 9, 18, 27, 36}  # a look may miss some
    assert re.search(r"5 records cost [\d.e-]+ % of the time", seen[-1])
    (page,) = (folder / "build" / "panel").glob("*.html")
    final = page.read_text()
    assert 'http-equiv="refresh"' not in final and "Trained." in final
    moving = page.with_suffix(".gif")
    assert sorted(path.name for path in page.parent.iterdir()) == sorted([page.name, moving.name])
    with Image.open(moving) as picture:
        assert picture.n_frames == 5
    assert moving.stat().st_size < 700_000


def test_what_the_page_says_is_what_was_trained(folder):
    """Focus of the last record, by the maps of the model file."""
    (page,) = (folder / "build" / "panel").glob("*.html")
    said = dict(re.findall(r'alt="([\w-]+), seed 0.*?Focus \(G\) ([\d.]+)', page.read_text()))
    for cell in CELLS:
        _, _, maps = stored.record(cell, folder)
        assert float(said[str(cell)]) == pytest.approx(gini(torch.from_numpy(maps[-1])).mean().item(), abs=6e-4)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_shows_the_page_without_a_fault(folder):
    """On a phone and on a desk: no error, no sideways scroll, every picture there; side by side where there is room."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: run `make env`")
    (path,) = (folder / "build" / "panel").glob("*.html")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=180_000)
        faults, tops = [], {}
        for width in (390, 1200):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda said: faults.append(said.text))
            page.on("requestfailed", lambda request: faults.append(request.url))
            page.goto(path.as_uri(), timeout=180_000)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0 && image.alt)")
            tops[width] = page.evaluate("[...document.querySelectorAll('figure')].map(f => f.offsetTop)")
        browser.close()
    assert faults == [] and tops[1200][0] == tops[1200][1] and tops[390][0] < tops[390][1]
