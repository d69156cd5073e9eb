"""Which fills qualify: the rule, the numbers behind it made anew, validation images alone, the files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from saqlib import paths, stored
from saqlib.clarity import images as clarity_images
from saqlib.clarity import qualifying
from saqlib.clarity.fills import fill_images
from saqlib.clarity.removal import symmetric_relevance_gain
from saqlib.data import images as data
from saqlib.names import FILLS
from saqlib.saliency.gradient import input_gradient
from tests.clarity.conftest import FP32, SCORING, SEEDS, SMOKE

FEW = replace(SCORING, images=20)


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch) -> Path:
    """A build folder of the test's own, so that no gain of another run is taken up."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    return paths.BUILD


def score(root, scoring=FEW, seeds=SEEDS, n_jobs=1) -> pd.DataFrame:
    """The fills of mnist, scored in this process unless n_jobs says otherwise."""
    return qualifying.score_fills("mnist", scoring, seeds, SMOKE.engine, root, n_jobs=n_jobs)


# --- the rule ---


def made_up(gradient, intensity, fill="mean") -> pd.DataFrame:
    """Scores of one fill, a seed each."""
    return pd.DataFrame({"seed": range(len(gradient)), "fill": fill, "gradient": gradient, "intensity": intensity})


@pytest.mark.parametrize(
    ("gradient", "intensity", "least_lead", "qualifies"),
    [
        ([0.5, 0.4, 0.6], [0.3, 0.3, 0.3], 0.1, True),
        ([0.5, 0.4, 0.6], [0.3, 0.45, 0.3], -0.05, False),
        ([0.5, 0.3], [0.3, 0.3], 0.0, False),
        ([0.5, np.nan], [0.3, 0.3], -np.inf, False),
        ([-0.1], [-0.2], 0.1, True),
    ],
    ids=["all seeds", "one seed says no", "no better than the image", "a network without maps", "below chance"],
)
def test_the_image_itself_must_lose_in_every_seed(gradient, intensity, least_lead, qualifies):
    """The smallest lead decides, and a mean that leads does not outweigh it."""
    (row,) = qualifying.qualify(made_up(gradient, intensity)).to_dict("records")
    assert row["least_lead"] == pytest.approx(least_lead) and row["qualifies"] == qualifies
    assert row["gradient"] == pytest.approx(np.nanmean(gradient)) and row["seeds"] == len(gradient)


def test_each_fill_is_decided_by_itself():
    """In the order of the fills, whatever the others score."""
    parts = [made_up([0.5, 0.6], [0.1, 0.2 * rank], fill) for rank, fill in enumerate(FILLS)]
    decision = qualifying.qualify(pd.concat(parts[::1]))
    assert decision.fill.tolist() == list(FILLS)
    assert decision.qualifies.tolist() == [True, True, True, False]  # the last one: .6 against .6


# --- the numbers ---


def test_scores_are_those_of_validation_images(root):
    """Each network's map and the image, anew, with every fill; the classes are the network's own."""
    table = score(root)
    assert list(table.columns) == ["seed", "fill", "gradient", "intensity"]
    assert table[["seed", "fill"]].to_numpy().tolist() == [[seed, fill] for seed in range(SEEDS) for fill in FILLS]
    pictures = data.load("mnist", "validation", sample=True)[0]
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(clarity_images.ORDER_SEED))
    images = data.as_input(pictures[order[:20]])
    mean = data.as_input(data.load("mnist", "train", sample=True)[0]).mean(0, keepdim=True)
    for row in table.itertuples():
        network = stored.load_model(FP32, row.seed, root)
        targets = network(images).argmax(1)
        fill = fill_images(mean if row.fill == "mean" else row.fill, images)
        own, itself = (
            symmetric_relevance_gain(network, images, targets, maps, FEW.clarity.steps, fill).mean().item()
            for maps in (input_gradient(network, images, targets), images.squeeze(1))
        )
        assert (row.gradient, row.intensity) == (pytest.approx(own, abs=1e-6), pytest.approx(itself, abs=1e-6))


def test_no_test_image_is_looked_at(root, monkeypatch, tmp_path):
    """Not even loaded."""
    monkeypatch.setattr(paths, "BUILD", tmp_path)  # a store that holds nothing
    asked, load = [], data.load
    monkeypatch.setattr(
        data, "load", lambda dataset, split, **options: (asked.append(split), load(dataset, split, **options))[1]
    )
    score(root, seeds=1)
    assert set(asked) == {"train", "validation"}


def test_any_number_of_workers_makes_the_same_numbers(root, build, monkeypatch):
    """Two processes, seed by seed, find what one finds."""
    two = score(root, n_jobs=2)
    monkeypatch.setattr(paths, "BUILD", build / "again")
    pd.testing.assert_frame_equal(two, score(root), check_exact=True)


# --- the store ---


@pytest.fixture
def networks(monkeypatch) -> list:
    """Those whose gains are really found, as they come."""
    seen, find = [], qualifying.fill_gains
    monkeypatch.setattr(qualifying, "fill_gains", lambda *given: seen.append(given[2]) or find(*given))
    return seen


def test_a_network_s_gains_are_found_once(root, networks):
    """To the last digit; other settings of scoring that decide nothing here find nothing anew, more images do."""
    first = score(root)
    pd.testing.assert_frame_equal(score(root, replace(FEW, images_expensive=1)), first, check_exact=True)
    assert len(networks) == SEEDS
    score(root, replace(FEW, images=21))
    assert len(networks) == 2 * SEEDS


@pytest.mark.parametrize("damage", [b"", b"{", b'{"gradient": [1]}', b"[]"])
def test_damaged_gains_are_put_aside_and_found_anew(root, build, networks, damage):
    """The others stay."""
    first = score(root)
    path = sorted(build.rglob("gains.json"))[0]
    path.write_bytes(damage)
    pd.testing.assert_frame_equal(score(root), first, check_exact=True)
    assert len(networks) == SEEDS + 1 and path.with_name("gains.json.damaged").read_bytes() == damage


def test_a_black_background_lets_the_image_win(root):
    """What the rule is for: with zeros the image itself beats a trained network's map, with the mean it does not."""
    decision = qualifying.qualify(score(root, SCORING)).set_index("fill")
    assert not decision.qualifies.zero and decision.qualifies["mean"]


# --- the files ---


def test_files_hold_the_decision_and_what_it_rests_on(tmp_path):
    """One row per fill, and one per seed and fill; both are read back as they were."""
    table = pd.concat([made_up([0.5, 0.25], [0.125, 0.375 * rank], fill) for rank, fill in enumerate(FILLS)])
    decision = qualifying.save_fills("mnist", table, tmp_path)
    folder = tmp_path / "results" / "fills"
    assert sorted(path.name for path in folder.iterdir()) == ["mnist.csv", "mnist_seeds.csv"]
    read = pd.read_csv(folder / "mnist.csv")
    pd.testing.assert_frame_equal(read, decision)
    assert list(read) == ["fill", "gradient", "intensity", "least_lead", "seeds", "qualifies"]
    assert read.qualifies.dtype == bool
    again = pd.read_csv(folder / "mnist_seeds.csv")
    pd.testing.assert_frame_equal(qualifying.qualify(again), decision)


# --- what is missing ---


def test_a_reference_that_was_not_trained_is_named(tmp_path):
    """With the stage to run, before anything is scored."""
    with pytest.raises(stored.ModelFileError, match="train@mnist-fp32-standard"):
        score(tmp_path)


def test_seeds_that_were_not_trained_are_named(root, monkeypatch):
    """The file says which ones it has, before anything is scored."""
    monkeypatch.setattr(qualifying, "fill_gains", lambda *_: pytest.fail("scored"))
    with pytest.raises(stored.ModelFileError, match=r"holds seeds \[0, 1\], not 2"):
        score(root, seeds=3)
