"""The list of tasks: every network once, what each needs among what others leave, longest first, the same each time."""

from collections import Counter

import pytest
import torch

from saqlib import params
from saqlib.pipeline import study, tasks
from saqlib.pipeline.kinds import Brief, Deploy, Fills, Score, Train
from saqlib.workers import Engine

SMOKE = study.load(scale="smoke")


@pytest.fixture(scope="module")
def listed() -> list:
    """The tasks of the committed study at scale smoke."""
    return tasks.listed(SMOKE)


def of(listed, kind) -> list:
    return [task for task in listed if type(task) is kind]


def test_every_network_is_trained_once(listed):
    """Those of the grid and, of the ablations, those that a patch changes: each place in the store has one task."""
    grid = [task for task in of(listed, Train) if not task.variant]
    assert Counter((task.cell, task.seeds) for task in grid) == Counter(
        (cell, (seed,)) for cell in SMOKE.grid.cells for seed in range(2)
    )
    marks = [mark for task in listed for mark in task.marks]
    assert len(marks) == len(set(marks)) == len(listed)
    variants = {(task.variant, task.cell.precision, task.cell.training) for task in of(listed, Train) if task.variant}
    assert ("edges_same", "fp32", "standard") not in variants, "no edge of full precision is quantized"
    assert ("edges_same", "w2a2", "standard") in variants and ("signed_ranking", "w2a2", "standard") not in variants
    assert ("signed_ranking", "fp32", "guided") in variants


def test_every_network_of_the_grid_is_scored_and_each_first_one_deployed(listed):
    """And every network of an ablation scored in brief, also those of the main grid with which it is compared."""
    scored = Counter((task.cell, task.seeds) for task in of(listed, Score))
    assert scored == Counter((cell, (seed,)) for cell in SMOKE.grid.cells for seed in range(2))
    assert Counter(task.cell for task in of(listed, Deploy)) == Counter(SMOKE.grid.cells)
    assert {task.cell.precision for task in of(listed, Fills)} == {"fp32"} and len(of(listed, Fills)) == 4
    briefs = sum(2 * len(ablation.cells) for ablation in SMOKE.ablations.values())
    assert 0 < len(of(listed, Brief)) <= briefs


def test_what_a_task_needs_is_left_by_another_one(listed):
    """A score's networks, those to whose maps its own are likened, and all that the decision on fills rests on."""
    left = {file: task for task in listed for file in task.leaves}
    for task in listed:
        assert all(type(left[file]) in (Train, Fills) for file in task.needs), task
    (score,) = [task for task in of(listed, Score) if str(task) == "score mnist-fp32-guided seed 1"]
    needed = {str(left[file]) for file in score.needs}
    trained = {f"train mnist-fp32-guided seed {seed}" for seed in (0, 1)}
    assert needed == trained | {f"fills mnist-fp32-standard seed {seed}" for seed in (0, 1)}


def test_each_warm_up_is_run_by_one_task_for_which_the_others_wait(listed):
    """A network of full precision, before all other tasks; of each dataset, training and seed one, variants aside."""
    warm = Counter(file for task in of(listed, Train) for file in set(task.leaves) - set(task.marks))
    assert set(warm.values()) == {1}
    for task in of(listed, Train):
        assert {*task.after, *task.leaves} >= {task.place.warm_up(seed) for seed in task.seeds}
        assert set(task.after) <= warm.keys()
    leading = [set(task.leaves) != set(task.marks) for task in listed]
    assert leading == sorted(leading, reverse=True)
    assert [task.cell.training for task in listed[:4]] == ["standard"] * 4, "first those that decide on fills"


def test_all_others_are_listed_longest_first():
    """At the full scale, ablations included, twenty epochs of guided training take longest."""
    values = params.read() | {"scale": "full"}
    values["scales"]["full"]["seeds_ablated"] = 2  # whatever the committed run has
    listed = tasks.listed(study.from_dict(values))
    others = [task for task in listed if set(task.leaves) == set(task.marks)]
    seconds = [task.seconds for task in others]
    assert seconds == sorted(seconds, reverse=True)
    assert others[0].variant == "twenty_epochs" and type(others[0]) is Train
    assert {type(task) for task in others[-100:]} <= {Brief, Fills}


def test_the_list_is_the_same_each_time(listed):
    """Which share has which task depends on it."""
    assert tasks.listed(SMOKE) == listed


@pytest.mark.parametrize("parts", [1, 2, 7, 1000])
def test_shares_are_the_whole_list_and_have_nothing_in_common(listed, parts):
    """Whatever is done; of about the same number each."""
    shares = [tasks.share(listed, part, parts) for part in range(parts)]
    assert sorted(map(id, sum(shares, []))) == sorted(map(id, listed))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_on_a_gpu_a_task_is_a_cell_with_all_its_seeds(monkeypatch):
    """Trained as one batched network; what scores and deploys wants no GPU."""
    monkeypatch.setattr(Engine, "pick_device", lambda self: torch.device("cuda"))
    listed = tasks.listed(SMOKE)
    grid = [task for task in of(listed, Train) if not task.variant]
    assert Counter(task.cell for task in grid) == Counter(SMOKE.grid.cells)
    assert all(task.gpu and task.seeds == (0, 1) and task.device == "cuda" for task in grid)
    assert "train mnist-fp32-standard seeds 0 to 1" in map(str, grid)
    assert not any(task.gpu for task in listed if type(task) is not Train)
    left = {file for task in listed for file in task.leaves}
    assert all(set(task.needs) <= left for task in listed)
