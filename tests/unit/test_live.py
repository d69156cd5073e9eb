"""What a person sees while cells train: read from the store, drawn, shown in Jupyter, as page and as animation."""

import base64
import io
import re
import sys
from dataclasses import replace
from unittest.mock import Mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from saqlib.data import as_input
from saqlib.removal import relevance_gain
from saqlib.saliency import input_gradient
from saqlib.scores import gini
from study import cells, files, live, models, paths, results, settings
from study.report.pictures import top
from study.settings import Cell

CELLS = [Cell("mnist", "fp32", "standard"), Cell("mnist", "w2a2", "standard")]
CELL = CELLS[1]
SMOKE = settings.load(scale="smoke")
STUDY = replace(SMOKE, device="cpu", size=replace(SMOKE.size, seeds=2, epochs={"mnist": 2}, records=4))
RNG = np.random.default_rng(0)
LOOK = live.Look(
    cell="mnist-w2a2-guided",
    images=RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8),
    names=("0", "1", "2"),
    times=[0.0, 1.0, 2.0],
    maps=RNG.normal(size=(3, 3, 28, 28)),
    passed=RNG.normal(size=(3, 3, 28, 28)),
    lines={
        live.LOSS: [[(1, 2.0), (2, 1.0)], [(1, 2.5)]],
        "Focus": [[(0, 0.4), (1, 0.5), (2, 0.6)]],
        "Faithfulness": [[(0, 0.1), (1, 0.2), (2, np.nan)]],
    },
    switch=1.0,
    epochs=4,
)


# ------------------------------------------------------------------------------------------------------ the drawing


def drawn(*looks, scale=()):
    """The panels of each look by their left titles; pictures are those without one."""
    figure = live.draw(looks, scale)
    panels = {}
    for axes in figure.axes:
        panels.setdefault(axes.get_title(loc="left"), []).append(axes)
    plt.close(figure)
    return panels


def test_lines_are_those_given_one_for_each_seed():
    """Over epochs; a seed that is behind has a shorter line, and the switch is marked where there is one."""
    (loss,) = drawn(LOOK)["Loss, 2 seeds"]
    assert [line.get_xydata().tolist() for line in loss.lines[:2]] == [[[1, 2], [2, 1]], [[1, 2.5]]]
    for switch in (1.0, None):
        (focus,) = drawn(replace(LOOK, switch=switch))["Focus"]
        assert [line.get_xdata() for line in focus.lines if line.get_linestyle() == "--"] == [[1, 1]] * bool(switch)


def test_the_latest_maps_have_the_colours_and_the_scale_of_the_figures():
    """Magnitudes of the last record, black at 0, brightest at the map's own 99th percentile; images are named."""
    pictures = [axes for axes in drawn(LOOK)[""] if axes.images]
    assert [axes.get_title() for axes in pictures[:3]] == ["0", "1", "2"]
    assert [axes.get_ylabel() for axes in pictures[3::3]] == ["gradient", "passed"]
    for axes, saliency in zip(pictures[3:], [*LOOK.maps[-1], *LOOK.passed[-1]], strict=True):
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), np.abs(saliency))
        assert image.get_cmap().name == "inferno" and image.get_clim() == (0, top(np.abs(saliency)))


def test_an_earlier_look_does_not_show_what_came_later():
    """At the first record no epoch is over; at the second one. The range can be that of the whole training."""
    first, second = LOOK.until(0), LOOK.until(1)
    assert first.lines[live.LOSS] == [[]] and second.lines[live.LOSS] == [[(1, 2.0)]]
    assert len(first.maps) == 1 and second.lines["Focus"] == [[(0, 0.4), (1, 0.5)]]
    assert str(second) == "mnist-w2a2-guided, seed 0: epoch 1 of 4"
    panels = drawn(first, scale=[LOOK])
    assert panels[live.LOSS][0].lines[0].get_xydata().size == 0
    assert panels["Focus"][0].get_ylim() == drawn(LOOK)["Focus"][0].get_ylim()


def test_equal_panels_have_one_range():
    """That of all looks side by side; a value that is not known counts for nothing."""
    other = replace(LOOK, lines=LOOK.lines | {"Focus": [[(0, 0.9)]], "Faithfulness": [[(0, np.nan)]]})
    one, two = drawn(LOOK, other)["Focus"]
    assert one.get_ylim() == two.get_ylim() and one.get_ylim()[0] < 0.4 and one.get_ylim()[1] > 0.9


# --------------------------------------------------------------------------------------------- read from the store


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Two cells of two seeds, trained; their store and files are those of the tests of this module."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", folder / "build")
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")  # one worker: this process
        for cell in CELLS:
            results.train_cell(cell, STUDY, folder)
        yield folder


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A store with nothing in it."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")


def test_a_finished_cell_is_seen_whole(build):
    """Images, maps and the switch are those of the model file; scores are those of the recorded networks."""
    watched = live.Watched(CELL, STUDY)
    look, (steps, images, maps) = watched.look(), models.record(CELL, build)
    assert watched.finished and look.times == [step / watched.epoch_steps for step in steps] and look.epochs == 2
    np.testing.assert_array_equal(look.images, images)
    np.testing.assert_array_equal(look.maps, maps)
    content = models.read_cell(build / "models" / f"{CELL}.pt")
    assert look.switch == content["record"]["switch"] / watched.epoch_steps == 1
    assert [[epoch for epoch, _ in line] for line in look.lines[live.ACCURACY]] == [[1, 2], [1, 2]]
    assert all(np.isfinite(line).all() for seeds in look.lines.values() for line in seeds)
    recipe, shown = STUDY.recipe(CELL), as_input(torch.from_numpy(images))
    for i, (_, network) in enumerate(models.at_steps(recipe.precision, recipe.shape, content["record"])):
        saliency = torch.from_numpy(maps[i])
        passed = input_gradient(network, shown, torch.arange(10), saturated="pass")
        np.testing.assert_array_equal(look.passed[i], passed)
        for line, each in zip(look.lines["Faithfulness"], (saliency, passed), strict=True):
            gain = relevance_gain(network, shown, torch.arange(10), each, STUDY.clarity.steps, "mean").mean()
            assert line[i][1] == pytest.approx(gain.item(), abs=1e-9)
        assert look.lines["Focus"][0][i][1] == pytest.approx(gini(saliency).mean().item(), abs=1e-12)


def test_before_a_training_there_is_nothing_to_see(empty):
    """And no error; a damaged file is no error either, and its coming is noticed."""
    watched = live.Watched(CELL, STUDY)
    assert watched.renewed() and not watched.renewed()
    assert watched.look() is None and not watched.finished
    files.write(cells.progress_file(watched.recipe, 0, "cpu"), b"half a fi")
    assert watched.look() is None and watched.renewed()
    assert "Waiting for mnist-w2a2-standard" in live.fragment([watched])
    with pytest.raises(ValueError, match="recorded of mnist-w2a2-standard; train it first"):
        live.moving(STUDY, CELL)


def test_a_running_cell_is_seen_up_to_its_last_record(empty, monkeypatch):
    """What the file of progress holds of seed 0, scores included; what was seen stays while the result is written."""
    write = files.write

    def stop(path, content):
        written = write(path, content)
        if path.suffix == ".progress" and len(files.from_torch_bytes(content)["steps"]) == 4:
            raise KeyboardInterrupt
        return written

    monkeypatch.setattr(files, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        results.train_cell(CELL, STUDY)
    watched = live.Watched(CELL, STUDY)
    look = watched.look()
    assert not watched.finished and len(look.times) == 4 and look.times[-1] > 1
    assert len(look.lines["Faithfulness"][0]) == 4 and len(look.lines[live.LOSS][0]) == 1
    cells.progress_file(watched.recipe, 0, "cpu").unlink()
    assert watched.look() is look


# ---------------------------------------------------------------------------------------- in Jupyter, as page and GIF


def test_nobody_looking_shows_nothing(monkeypatch, capsys):
    """In a pipeline there is no callback, so train_cell does not even poll, and nothing is printed."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(live.panels(STUDY, CELLS)) == [(cell, None) for cell in CELLS]
    assert sys.stderr.getvalue() == capsys.readouterr().out == ""


def test_in_jupyter_a_cell_is_renewed_in_place_beside_the_one_before(build, monkeypatch):
    """One display, scrolled to once, renewed only when there is more to see; what it showed last stays."""
    display, stderr = Mock(), io.StringIO()
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("IPython.display.display", display)
    figures = plt.get_fignums()
    for cell, show in live.panels(STUDY, CELLS):
        for _ in range(2):
            results.train_cell(cell, STUDY, build / "again", on_progress=show)
    display.assert_called_once()
    (begins,), (first, last) = display.call_args.args, display.return_value.update.call_args_list
    assert "scrollIntoView" in begins.data
    first, last = first.args[0].data, last.args[0].data
    assert first.count("<img") == last.count("<img") == 1 and "<script" not in first + last
    assert [f"{cell}, seed 0: epoch 2 of 2" in first for cell in CELLS] == [True, False]
    assert all(f"{cell}, seed 0: epoch 2 of 2" in last for cell in CELLS) and plt.get_fignums() == figures
    assert "4/4" in stderr.getvalue() and "seeds=2/2" in stderr.getvalue()


def test_in_jupyter_the_last_cell_stays_until_the_next_one_has_maps(empty, monkeypatch):
    """Nothing is shown of a cell without a record, and no page says that it waits."""
    display = Mock()
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    monkeypatch.setattr("IPython.display.display", display)
    for _, show in live.panels(STUDY, CELLS):
        show(results.Progress({}, 2, 2))
    display.return_value.update.assert_not_called()


def test_the_page_renews_itself_while_a_cell_trains_and_then_stands_still(empty, tmp_path, monkeypatch, capsys):
    """It waits, then shows the cell and how its maps came about: a frame for each record, the same bytes each time."""
    seen = []

    def train(_):
        if not seen:
            seen.append(next(tmp_path.glob("*.html")).read_text(encoding="utf-8"))
            results.train_cell(CELL, STUDY, tmp_path)

    monkeypatch.setattr(live.time, "sleep", train)
    page = live.follow(STUDY, [CELL], tmp_path)
    assert capsys.readouterr().out.strip() == page.resolve().as_uri()
    assert "Waiting for" in seen[0] and live.REFRESH in seen[0]
    text = page.read_text(encoding="utf-8")
    assert "Waiting for" not in text and "http-equiv" not in text and "epoch 2 of 2" in text
    assert live.moving(STUDY, CELL) in text
    (kind, _), (moving, content) = re.findall(r"data:image/(\w+);base64,([^\"]+)", text)
    content = base64.b64decode(content)
    assert (kind, moving) == ("png", "gif")
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.n_frames == 5 and len(content) < 300_000


def test_a_cell_that_is_none_is_named():
    """One line, and exit code 1."""
    with pytest.raises(SystemExit, match="did you mean 'w2a2'"):
        live.main(["mnist-w2a3-guided"])
