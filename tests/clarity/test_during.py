"""Scores during training: what public functions say of each recorded network, on validation images, computed once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from saqlib import paths, stored
from saqlib.clarity import during
from saqlib.clarity.fills import fill_images
from saqlib.clarity.removal import symmetric_relevance_gain
from saqlib.clarity.scores import foreground_mass, gini, morans_i
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.names import GAINS, PRIMARY
from saqlib.saliency.gradient import input_gradient
from tests.clarity.conftest import CELLS, FP32, SCORING, SMOKE, W2A2

SCORES = (*PRIMARY, *GAINS, "amplitude")


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch) -> Path:
    """A build folder of the test's own."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    return paths.BUILD


@pytest.fixture
def networks(monkeypatch) -> list[int]:
    """The step of every recorded network that is scored from here on."""
    found: list[int] = []
    real = stored.recorded_networks

    def noting(*arguments):
        for step, network in real(*arguments):
            found.append(step)
            yield step, network

    monkeypatch.setattr(stored, "recorded_networks", noting)
    return found


def score(root: Path, cell: Cell = W2A2) -> pd.DataFrame:
    return during.score_during(cell, SCORING, SMOKE.engine, root)


def changed(root: Path, folder: Path, change, cell: Cell = W2A2) -> Path:
    """A folder with the cell's model file, in whose contents something else stands."""
    content = torch.load(root / "models" / f"{cell}.pt")
    change(content)
    (folder / "models").mkdir(parents=True)
    torch.save(content, folder / "models" / f"{cell}.pt")
    return folder


def images_of(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a split of the sample in the fixed random order, and their labels."""
    images, labels = data.load("mnist", split, sample=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: during.CLASSIFIED]
    return data.as_input(images[order]), labels[order]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_recorded_network_is_scored_on_validation_images(cell, root):
    """Each score by the public functions, the mean fill from the training images; the errors over the images."""
    found = score(root, cell)
    images, labels = images_of("validation")
    few = images[: during.EXPLAINED]
    mean = (data.load("mnist", "train", sample=True)[0].double().mean(0) / 255).float()[None, None]
    fills = {name: fill_images(mean if name == "mean" else name, few) for name in ("zero", "mean", "noise", "blur")}
    recorded = list(stored.recorded_networks(cell, root))
    assert len(recorded) == len(found) == 5
    for (step, network), row in zip(recorded, found.to_dict("records"), strict=True):
        with torch.no_grad():
            predicted = network(images).argmax(1)
        maps, targets = input_gradient(network, few), predicted[: during.EXPLAINED]
        expected = {
            "gini": gini(maps),
            "morans_i": morans_i(maps),
            "foreground_mass": foreground_mass(maps, few.squeeze(1)),
            "amplitude": torch.from_numpy(np.median(maps.abs().flatten(1).numpy(), axis=1)).double(),
        }
        for name, fill in fills.items():
            gain = symmetric_relevance_gain(network, few, targets, maps, during.STEPS, fill)
            expected[f"relevance_gain_{name}"] = gain
        assert row["step"] == step
        right = [guess == truth for guess, truth in zip(predicted.tolist(), labels.tolist(), strict=True)]
        assert row["accuracy"] == pytest.approx(100 * sum(right) / len(right), abs=0.4)  # one image of 300 at a tie
        for name in SCORES:
            there = expected[name].numpy()[~np.isnan(expected[name].numpy())]
            assert row[name] == pytest.approx(there.mean(), abs=2e-3), name
            assert row[f"{name}_se"] == pytest.approx(there.std(ddof=1) / len(there) ** 0.5, abs=1e-3), name


def test_no_test_image_is_opened(root, monkeypatch):
    """Neither here nor below: a split that is asked for is training or validation."""
    asked, real = set(), data.load

    def load(dataset, split, **rest):
        asked.add(split)
        return real(dataset, split, **rest)

    monkeypatch.setattr(data, "load", load)
    score(root)
    assert asked == {"validation", "train"}


def test_the_table_says_where_quantization_begins(root):
    """The step at which the cell switched, beside each record; empty in full precision, which never does."""
    quantized, full = score(root), score(root, FP32)
    record = stored.read_cell(root / "models" / f"{W2A2}.pt")["record"]
    assert (quantized.switch == record["switch"]).all() and 0 < record["switch"] < quantized.step.iloc[-1]
    assert full.switch.isna().all()
    assert quantized.step.tolist() == full.step.tolist() == record["steps"].tolist()
    before = quantized.step < record["switch"]
    columns = ["accuracy", *SCORES]
    assert before.any() and np.allclose(quantized[before][columns], full[before][columns], atol=1e-6)
    assert not np.isclose(quantized[~before].amplitude, full[~before].amplitude, rtol=0.01).any()


CHANGES = {
    "weights of one record": lambda content: content["record"]["states"][2]["conv2.weight"].mul_(-1),
    "switch": lambda content: content["record"].update(switch=content["record"]["switch"] + 1),
    "step": lambda content: content["record"]["steps"].add_(1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_scored_is_not_scored_again_unless_the_record_changed(change, root, tmp_path, networks):
    """The store is asked first; its key holds every recorded weight, the steps and the switch."""
    first = score(root)
    assert len(networks) == 5
    pd.testing.assert_frame_equal(score(root), first)
    assert len(networks) == 5
    score(changed(root, tmp_path / "other", CHANGES[change]))
    assert len(networks) == 10


def test_other_seeds_and_the_count_of_test_images_decide_nothing(root, tmp_path, networks):
    """A study of more seeds or more scored images finds its course of training in the store."""
    first = score(root)
    more = replace(SCORING, images=7, images_expensive=3)
    other = changed(root, tmp_path / "other", lambda content: content["seeds"].pop(1))
    pd.testing.assert_frame_equal(during.score_during(W2A2, more, SMOKE.engine, other), first)
    assert len(networks) == 5


def test_a_dead_network_has_no_scores_and_an_accuracy(root, tmp_path):
    """Collapse in the middle of training is a gap in a curve, not an error."""

    def kill(content):
        content["record"]["states"][3]["dense3.weight"].zero_()

    found = score(changed(root, tmp_path / "dead", kill))
    assert found.loc[3, list(SCORES)].isna().all() and 0 <= found.accuracy[3] <= 30
    assert found.drop(3)[list(SCORES)].notna().all(axis=None)


def test_one_image_with_a_map_has_a_mean_and_no_error():
    """The standard error of one value is unknown, not 0."""
    mean, error = during._mean_and_error(torch.tensor([float("nan"), 0.25]))
    assert mean == 0.25 and np.isnan(error)


def test_files_have_the_same_bytes_each_time_and_lack_nothing(root, tmp_path, build):
    """results/during/<cell>.csv, from the store and computed anew."""
    for name in ("one", "two"):
        during.save_during(W2A2, score(root), tmp_path / name)
        (path,) = (build / "store" / "during").glob("*/0.csv")
        path.unlink()
    one, two = ((tmp_path / name / "results" / "during" / f"{W2A2}.csv").read_bytes() for name in ("one", "two"))
    assert one == two
    header = one.decode().splitlines()[0].split(",")
    assert header == ["step", "switch", "accuracy", *(c for name in SCORES for c in (name, f"{name}_se"))]


def test_a_cell_that_was_not_trained_here_is_named(root, tmp_path):
    """results/models/ holds the last network alone: the stage that records is named."""
    with pytest.raises(stored.ModelFileError, match=f"train@{W2A2}"):
        score(tmp_path)
