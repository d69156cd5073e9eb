"""What is read from the store while a cell trains: real trainings at scale smoke, stopped and finished."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saqlib import files, paths, stored
from saqlib.clarity.removal import symmetric_relevance_gain
from saqlib.clarity.scores import gini
from saqlib.data.images import as_input
from saqlib.grid import Cell
from saqlib.pipeline import study, watching
from saqlib.training import cell as training
from saqlib.workers import Engine

CELL = Cell("mnist", "w2a2", "guided")
SMOKE = study.load(scale="smoke")
STUDY = replace(SMOKE, engine=Engine(device="cpu"), size=replace(SMOKE.size, seeds=2, epochs={"mnist": 3}, records=6))


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A cell of two seeds, trained and saved; its store is that of the tests of this module."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", folder / "build")
        recipe = STUDY.recipe(CELL)
        training.save_cell(CELL, training.train_cell(CELL, recipe, 2, STUDY.engine, n_jobs=1), recipe, folder)
        yield folder


def test_a_finished_cell_is_seen_whole(root):
    """Maps, images and the switch are those of the model file; every score is known at every record."""
    watched = watching.Watched(CELL, STUDY)
    look = watched.look()
    steps, images, maps = stored.record(CELL, root)
    assert watched.finished and list(look.steps) == steps.tolist() and look.epochs == 3
    np.testing.assert_array_equal(look.images, images)
    np.testing.assert_array_equal(look.maps, maps)
    assert look.switch == stored.read_cell(root / "models" / f"{CELL}.pt")["record"]["switch"]
    assert look.curves.keys() == {0, 1} and look.curves[0][0] == [1, 2, 3]
    assert all(np.isfinite(values).all() and len(values) == len(steps) for values in look.scores.values())
    assert "seen to come" in watched.cost(), "nobody saw it train"


def test_scores_are_those_of_the_recorded_networks(root):
    """By the networks that saqlib.stored restores: one with another precision or other weights would differ."""
    look = watching.Watched(CELL, STUDY).look()
    images, labels = as_input(torch.from_numpy(look.images)), torch.arange(10)
    for record, (_, network) in enumerate(stored.recorded_networks(CELL, root)):
        maps = torch.from_numpy(look.maps[record])
        gains = [
            symmetric_relevance_gain(network, images, labels, maps, 14, fill) for fill in ("mean", "noise", "blur")
        ]
        assert look.scores[watching.FAITHFULNESS][record] == pytest.approx(torch.stack(gains).mean().item(), abs=1e-9)
        assert look.scores[watching.FOCUS][record] == pytest.approx(gini(maps).mean().item(), abs=1e-12)


@pytest.fixture
def stopped(root, monkeypatch, tmp_path):
    """A store in which seed 0 was stopped in its third epoch."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    real = files.write_torch

    def write(path, content):
        real(path, content)
        if path.suffix == ".progress" and len(content["epochs"]) == 2 and content["steps"][-1] > 2 * 9:
            raise StoppedError

    monkeypatch.setattr(files, "write_torch", write)
    with pytest.raises(StoppedError):
        training.train_cell(CELL, STUDY.recipe(CELL), 1, STUDY.engine, n_jobs=1)


def test_a_running_cell_is_seen_up_to_its_last_record(stopped):
    """Faithfulness needs weights, which the last whole epoch holds; what the maps alone score is known at once."""
    watched = watching.Watched(CELL, STUDY)
    look = watched.look()
    assert not watched.finished and look.curves[0][0] == [1, 2] and look.steps[-1] > 18
    unknown = [
        step for step, value in zip(look.steps, look.scores[watching.FAITHFULNESS], strict=True) if value != value
    ]
    assert unknown == [step for step in look.steps if step >= 18] and len(unknown) < len(look.steps)
    assert np.isfinite(look.scores[watching.FOCUS]).all() and np.isfinite(look.scores[watching.AMPLITUDE]).all()


def test_what_explaining_costs_follows_from_two_records(stopped):
    """The share is records times the time of one over the time of all steps."""
    watched = watching.Watched(CELL, STUDY)
    watched.look()
    watched.clock.seen = {0: 100.0, 10: 100.5}
    watched.explaining = 0.009
    steps = 3 * watched.steps_per_epoch
    assert f"7 records cost {100 * 7 * 0.009 / (0.05 * steps):.2g} % of the time" in watched.cost()


def test_before_a_training_there_is_nothing_to_see(monkeypatch, tmp_path):
    """And no error; a damaged file is no error either."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    watched = watching.Watched(CELL, STUDY)
    before = watched.state
    assert watched.look() is None and not watched.finished
    watched.folder.mkdir(parents=True)
    (watched.folder / "0.progress").write_bytes(b"half a fi")
    assert watched.look() is None and watched.state != before
