"""Tests of saqlib.collect: files of two datasets written by hand, and the means taken from them."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from saqlib.config import Cell
from saqlib.tables import clarity, preservation

from saqlib import claims, collect, config
from saqlib.clarity import PRIMARY

SEEDS, IMAGES, DEAR, LEVELS, SHOWN = 3, 40, 12, 5, 30
SETTINGS = config.load(scale="smoke")


def squares(count):
    """Images with an object of 12 x 12 pixels in the middle: 8 pixels from its outline to the edge of the image."""
    return np.pad(np.full((count, 12, 12), 200, np.uint8), ((0, 0), (8, 8), (8, 8)))


def write_cell(root, cell, rng):
    """The files of one trained and scored cell, filled with random numbers; the arrays of the scores."""
    labels = np.arange(IMAGES) % 10
    predicted = np.where(rng.random((SEEDS, IMAGES)) < 0.8, labels, (labels + 1) % 10)
    arrays = {
        "seeds": np.arange(SEEDS), "indices": np.arange(100, 100 + IMAGES), "labels": labels,
        "predicted": predicted, "probability": rng.random((SEEDS, IMAGES)),
        "dead": (rng.random((SEEDS, IMAGES)) < 0.1).astype(float),
        "sensitivity_max": rng.random((SEEDS, DEAR)),
        "curve_levels": np.linspace(0, 1, LEVELS), "gradient_sample": rng.normal(size=(SEEDS, 7)),
        "maps": rng.normal(size=(SHOWN, 28, 28)), "images": squares(SHOWN),
        "map_indices": np.arange(SHOWN)[::-1] + 100,
    }  # fmt: skip
    for name in (*PRIMARY, "entropy", "auroc"):
        arrays[name] = np.where(arrays["dead"] == 1, np.nan, rng.random((SEEDS, IMAGES)))
    for name in ("deletion", "insertion", "random", "deletion_accuracy", "random_accuracy"):
        arrays[name] = rng.random((SEEDS, LEVELS))
    arrays["accuracy_levels"] = np.linspace(0, 0.8, LEVELS)
    for name in ("spearman", "ssim"):
        arrays[f"preservation_{name}"] = rng.random((SEEDS, IMAGES))
        if cell.precision == "fp32":
            arrays[f"ceiling_{name}"] = rng.random((SEEDS, IMAGES))
    for name in PRIMARY:
        arrays[f"reinit_{name}"] = rng.random((SEEDS, IMAGES))
        arrays[f"control_white_noise_{name}"] = rng.random(IMAGES)
        arrays[f"smoothgrad_{name}"] = rng.random((SEEDS, DEAR))
    (root / "scores").mkdir(exist_ok=True)
    np.savez(root / "scores" / f"{cell}.npz", **arrays)
    layers = {"conv1": {"alpha": 2.0, "clipped": 0.1, "zero": 0.5}} if cell.precision != "fp32" else {}
    epochs = [{"epoch": e, "loss": 1 / e, "validation_accuracy": 90.0 + e, "layers": layers} for e in (1, 2)]
    runs = {str(s): {"test_accuracy": 90 + 10 * rng.random(), "history": epochs} for s in range(SEEDS)}
    (root / "results" / "runs").mkdir(parents=True, exist_ok=True)
    (root / "results" / "runs" / f"{cell}.json").write_text(json.dumps({"cell": str(cell), "seeds": runs}))
    return arrays


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A folder with all 16 cells, and their arrays by cell."""
    root = tmp_path_factory.mktemp("grid")
    rng = np.random.default_rng(0)
    return root, {cell: write_cell(root, cell, rng) for cell in SETTINGS.grid.cells}


@pytest.fixture(scope="module")
def collection(grid):
    """Everything collected from the grid."""
    return collect.collect(SETTINGS, grid[0])


def primary_mask(arrays, dataset, training, seed):
    """The primary images, said again in a loop."""
    return np.array([
        all(
            arrays[Cell(dataset, p, training)]["predicted"][seed, i] == i % 10
            for p in SETTINGS.grid.precisions
        )
        for i in range(IMAGES)
    ])  # fmt: skip


def row(frame, **keys):
    """The one row with these keys."""
    for key, value in keys.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1
    return frame.iloc[0]


KEYS = {"dataset": "fashion_mnist", "training": "guided", "seed": 2}


def test_columns_of_the_runs(collection):
    """The columns are those that the design fixes, in its order; a row a network."""
    for frame in collection.runs.values():
        assert list(frame.columns) == [
            "dataset", "precision", "training", "seed", "test_accuracy", *PRIMARY, "dead_rate",
            "preservation_spearman", "preservation_ssim",
        ]  # fmt: skip
        assert len(frame) == 16 * SEEDS
        assert not frame.duplicated(["dataset", "precision", "training", "seed"]).any()


def test_primary_images(grid, collection):
    """A score is the mean over living maps of images that every precision of that seed and training has right."""
    _, arrays = grid
    found = row(collection.runs["primary"], precision="w2a2", **KEYS)
    cell = arrays[Cell("fashion_mnist", "w2a2", "guided")]
    mask = primary_mask(arrays, "fashion_mnist", "guided", 2)
    assert 5 < mask.sum() < 35
    assert found.gini == pytest.approx(np.nanmean(cell["gini"][2, mask]))
    assert found.dead_rate == pytest.approx(cell["dead"][2, mask].mean())
    assert found.preservation_ssim == pytest.approx(cell["preservation_ssim"][2, mask].mean())


def test_all_images(grid, collection):
    """The secondary set leaves nothing out but dead maps."""
    cell = grid[1][Cell("fashion_mnist", "w2a2", "guided")]
    found = row(collection.runs["all"], precision="w2a2", **KEYS)
    assert found.morans_i == pytest.approx(np.nanmean(cell["morans_i"][2]))
    assert found.dead_rate == pytest.approx(cell["dead"][2].mean())


def test_accuracy_is_that_of_the_run(grid, collection):
    """Accuracy is read from the report, whatever the set of images."""
    written = collect.report(Cell("fashion_mnist", "w2a2", "guided"), grid[0])["seeds"]["2"]["test_accuracy"]
    for frame in collection.runs.values():
        assert row(frame, precision="w2a2", **KEYS).test_accuracy == written


def test_controls_share_the_primary_images(grid, collection):
    """A control of images alone is averaged over the same images as the networks, hence once a seed."""
    _, arrays = grid
    mask = primary_mask(arrays, "fashion_mnist", "guided", 2)
    cell = arrays[Cell("fashion_mnist", "fp32", "guided")]
    noise = row(collection.controls, control="white_noise", **KEYS)
    assert noise.gini == pytest.approx(cell["control_white_noise_gini"][mask].mean())
    fresh = row(collection.controls, control="reinit", **KEYS)
    assert fresh.foreground_mass == pytest.approx(cell["reinit_foreground_mass"][2, mask].mean())
    assert set(collection.controls.control) == {"reinit", "white_noise"}


def test_ceiling(grid, collection):
    """The ceiling is that of the fp32 cell, under the names of the runs."""
    _, arrays = grid
    mask = primary_mask(arrays, "fashion_mnist", "guided", 2)
    cell = arrays[Cell("fashion_mnist", "fp32", "guided")]
    found = row(collection.ceiling, **KEYS)
    assert found.preservation_spearman == pytest.approx(cell["ceiling_spearman"][2, mask].mean())


def test_dear_scores_use_the_first_images(grid, collection):
    """What was scored on few images is compared with the gradient on the same few."""
    _, arrays = grid
    mask = primary_mask(arrays, "fashion_mnist", "guided", 2)[:DEAR]
    cell = arrays[Cell("fashion_mnist", "mixed", "guided")]
    smooth = row(collection.methods, method="smoothgrad", precision="mixed", **KEYS)
    assert smooth.gini == pytest.approx(cell["smoothgrad_gini"][2, mask].mean())
    gradient = row(collection.methods, method="gradient", precision="mixed", **KEYS)
    assert gradient.gini == pytest.approx(np.nanmean(cell["gini"][2, :DEAR][mask]))
    found = row(collection.secondary, precision="mixed", **KEYS)
    assert found.sensitivity_max == pytest.approx(cell["sensitivity_max"][2, mask].mean())


def test_curves_and_gradients(grid, collection):
    """Every seed and level of a curve, and every value of the sample, stands in its row."""
    cell = grid[1][Cell("fashion_mnist", "mixed", "guided")]
    found = row(collection.curves, precision="mixed", level=0.75, **KEYS)
    assert (found.most, found.least, found.random) == tuple(
        cell[name][2, 3] for name in ("deletion", "insertion", "random")
    )
    shares = row(collection.accuracies, precision="mixed", level=0.8, **KEYS)
    assert shares.most == 100 * cell["deletion_accuracy"][2, 4]
    assert shares.random == 100 * cell["random_accuracy"][2, 4]
    chosen = collection.gradients.query("dataset == 'fashion_mnist' and training == 'guided' and precision == 'mixed'")
    np.testing.assert_array_equal(chosen.gradient, cell["gradient_sample"].ravel())


def test_outline_says_where_a_map_lies(grid, collection):
    """Magnitude 3 along the outside of the outline, 1 elsewhere; dead maps and empty images are left out."""
    images = np.concatenate([squares(3), np.zeros((1, 28, 28), np.uint8)])
    maps = np.ones((4, 28, 28))
    maps[:, 7:21, 7:21], maps[:, 8:20, 8:20] = -3, 1
    maps[2], maps[3, 0, 0] = 0, 1e9
    found = collect._outline({"maps": maps, "images": images}).set_index("distance")
    assert list(found.index) == [-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6]
    ring = 14**2 - 12**2
    mean = (784 + 2 * ring) / 784
    assert found.loc[-1, "relative"] == pytest.approx(3 / mean)
    assert found.loc[-2, "relative"] == pytest.approx((3 * 4 + 48) / 52 / mean)  # the ring's corners are sqrt(2) away
    np.testing.assert_allclose(found.loc[1:, "relative"], 1 / mean)
    assert found.pixels.sum() == pytest.approx(1) and found.loc[1, "pixels"] == pytest.approx(44 / 784)
    assert found.salient.sum() == pytest.approx(1)
    kept = collection.outline.query("dataset == 'mnist' and training == 'guided' and precision == 'w2a2'")
    assert (kept.seed == 0).all() and list(kept.distance) == list(found.index)


# --- matched confidence ---


def make_scores(confidence, predicted=0):
    """The scores of one seed with these confidences, all of class 0."""
    confidence = np.atleast_2d(confidence)
    return {"labels": np.zeros(confidence.shape[1], int), "predicted": np.full(confidence.shape, predicted),
            "probability": confidence}  # fmt: skip


def test_matched_strata_by_hand():
    """Terciles are cut from both precisions together; an image counts where both fall into the same one."""
    first = make_scores([0.1, 0.2, 0.5, 0.9, 0.8])
    second = make_scores([0.1, 0.6, 0.5, 0.9, 0.3])
    # Together: .1 .1 .2 .3 | .5 .5 .6 | .8 .9 .9, cut at .3 and .6
    np.testing.assert_array_equal(collect.strata([first, second], "matched"), [[0, -1, 1, 2, -1]])


def test_matched_images_are_primary_ones():
    """A misclassified image is in no stratum, whatever its confidence."""
    first, second = make_scores([0.1, 0.5, 0.9]), make_scores([0.1, 0.5, 0.9])
    second["predicted"][0, 1] = 3
    assert collect.strata([first, second], "matched")[0, 1] == -1
    assert collect.strata([first, second], "primary").tolist() == [[0, -1, 0]]
    assert collect.strata([first, second], "all").tolist() == [[0, 0, 0]]


def test_terciles_are_those_of_primary_images():
    """Confident mistakes do not move the edges of the terciles."""
    cell = make_scores([0.1, 0.2, 0.3, 0.9, 0.9, 0.9])
    cell["predicted"][0, 3:] = 3
    assert collect.strata([cell, cell], "matched").tolist() == [[0, 1, 2, -1, -1, -1]]


def test_strata_count_equally():
    """Three images of one tercile weigh as much as one of another; NaN is left out; no image gives NaN."""
    values = np.array([[1.0, 2.0, 3.0, 8.0, np.nan], [1.0, 1.0, 1.0, 1.0, 1.0]])
    groups = np.array([[0, 0, 0, 2, 1], [-1, -1, -1, -1, -1]])
    np.testing.assert_array_equal(collect.mean(values, groups), [5.0, np.nan])
    np.testing.assert_array_equal(collect.mean(values[0], groups[:1]), [5.0])


def test_matching_removes_an_effect_of_confidence():
    """Scores that depend on confidence alone differ between precisions on all images, and not on matched ones."""
    rng = np.random.default_rng(1)
    sure, unsure = rng.beta(8, 2, (4, 3000)), rng.beta(5, 3, (4, 3000))
    cells = [make_scores(sure), make_scores(unsure)]
    scores = [np.where(c < 0.6, 0.0, np.where(c < 0.8, 1.0, 2.0)) for c in (sure, unsure)]
    gap = {s: np.subtract(*[collect.mean(x, collect.strata(cells, s)) for x in scores]) for s in ("all", "matched")}
    assert gap["all"].min() > 0.3
    assert np.abs(gap["matched"]).max() < 0.15


# --- the rest ---


def test_history(grid):
    """A row an epoch, a row an epoch and layer; fp32 has no layers but the columns."""
    epochs, layers = collect.history(Cell("mnist", "w4a4", "standard"), grid[0])
    assert len(epochs) == len(layers) == 2 * SEEDS
    assert set(layers.columns) == {"seed", "epoch", "layer", "alpha", "clipped", "zero"}
    assert row(epochs, seed=1, epoch=2).validation_accuracy == 92.0
    _, none = collect.history(Cell("mnist", "fp32", "standard"), grid[0])
    assert none.empty and list(none.columns) == list(layers.columns)


def test_saliency_grid(grid):
    """Of each class the first kept image that all networks get right, else the first, with its own captions."""
    images, names, blocks = collect.saliency_grid("fashion_mnist", SETTINGS, grid[0])
    cells = {cell: arrays for cell, arrays in grid[1].items() if cell.dataset == "fashion_mnist"}
    kept, chosen = range(SHOWN)[::-1], []
    for label in range(10):
        places = [place for place in kept if place % 10 == label]
        right = [place for place in places if all(a["predicted"][0, place] == label for a in cells.values())]
        chosen.append((right or places)[0])
    assert set(chosen) != set(kept[:10]), "the seed must make the choice matter"
    cell = grid[1][Cell("fashion_mnist", "w4a4", "guided")]
    maps = blocks["guided"]["w4a4"]
    np.testing.assert_array_equal(maps.gini, cell["gini"][0, chosen])
    np.testing.assert_array_equal(maps.maps, cell["maps"][[SHOWN - 1 - place for place in chosen]])
    np.testing.assert_array_equal(maps.correct, cell["predicted"][0, chosen] == np.arange(10))
    assert (len(images), names[0], names[9]) == (10, "T-shirt", "boot")
    assert list(blocks["standard"]) == list(SETTINGS.grid.precisions)


def test_record(tmp_path):
    """The maps during training come from the model file, with the steps at which they were recorded."""
    content = {"steps": torch.tensor([0, 5]), "images": torch.zeros(3, 28, 28, dtype=torch.uint8)}
    content["maps"] = torch.ones(2, 3, 28, 28)
    (tmp_path / "models").mkdir()
    file = {"cell": "mnist-w2a2-guided", "precision": {}, "network": {}, "seeds": {}, "record": content}
    torch.save(file, tmp_path / "models" / "mnist-w2a2-guided.pt")
    steps, images, maps = collect.record("mnist-w2a2-guided", tmp_path)
    assert (steps.tolist(), images.shape, maps.shape) == ([0, 5], (3, 28, 28), (2, 3, 28, 28))


def test_what_is_collected_can_be_used(collection):
    """Claims and tables take the frames as they are."""
    tested = claims.evaluate(collection.runs, SETTINGS.claims)
    assert set(tested.claim) == {claim.id for claim in SETTINGS.claims.hypotheses}
    assert tested.p[tested.claim != "H9"].notna().all()  # random confidences leave no image matched
    untrained = collection.controls[collection.controls.control == "reinit"]
    assert len(claims.retained(collection.runs["primary"], untrained)) == 2 * 2 * 4 * 4
    assert "re-initialised network" in set(clarity(collection.runs["primary"], collection.controls).shown["Map"])
    assert len(preservation(collection.runs["primary"], collection.ceiling).shown) == 2 * 2 * 4


@pytest.mark.parametrize(
    ("file", "stage"), [("results/runs/{}.json", "train"), ("scores/{}.npz", "clarity"), ("models/{}.pt", "train")]
)
def test_a_missing_file_names_its_stage(file, stage, tmp_path):
    """What is missing and which stage writes it stand in the message."""
    read = {"results": collect.report, "scores": collect.scores, "models": collect.record}[file.split("/")[0]]
    with pytest.raises(collect.CollectError, match=f"{file.format('mnist-w2a2-guided')}.*{stage}@mnist-w2a2-guided"):
        read("mnist-w2a2-guided", tmp_path)


def test_cells_scored_on_other_images_are_refused(tmp_path):
    """Precisions of different images cannot be paired: the message names the cell."""
    rng = np.random.default_rng(0)
    narrow = dataclasses.replace(SETTINGS, grid=config.Grid(("mnist",), ("fp32", "w2a2"), ("standard",)))
    for cell in narrow.grid.cells:
        arrays = write_cell(tmp_path, cell, rng)
    np.savez(tmp_path / "scores" / "mnist-w2a2-standard.npz", **arrays | {"indices": np.arange(IMAGES)})
    with pytest.raises(collect.CollectError, match="mnist-w2a2-standard was scored on other images"):
        collect.collect(narrow, tmp_path)


def test_unknown_set_of_images():
    """An unknown set is an error that names the valid ones."""
    with pytest.raises(ValueError, match="'both'.*primary, all, matched"):
        collect.strata([make_scores([0.5])], "both")


def test_frames_start_with_their_keys(collection):
    """Every frame starts with what identifies a row."""
    for name in ("secondary", "controls", "ceiling", "methods", "curves", "accuracies", "gradients", "outline"):
        frame = getattr(collection, name)
        assert isinstance(frame, pd.DataFrame) and frame.columns[0] == "dataset"
        assert {"training", "seed"} <= set(frame.columns[:5])
