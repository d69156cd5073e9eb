"""Scoring: each array against a computation of its own, pairing of seeds and images, dead networks, the files."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from joblib.externals import loky

from saqlib import clarity, collect, config, data, experiment, model, paths, saliency, scoring, words
from saqlib.clarity import PRIMARY, SCORES
from saqlib.quantization import calibrate
from saqlib.training import as_input

SMOKE = config.load(scale="smoke")
GRID = config.Grid(("mnist",), ("fp32", "w2a2"), ("standard",))
SIZE = dataclasses.replace(SMOKE.size, images=50, images_dear=4)
SETTINGS = dataclasses.replace(SMOKE, grid=GRID, size=SIZE)
FP32, W2A2 = GRID.cells
PRESERVATION = [score.id for score in SCORES.values() if score.group == "preservation"]


@pytest.fixture(scope="module", autouse=True)
def no_workers_left():
    """The pool of joblib stays alive for minutes if nobody ends it."""
    yield
    loky.get_reusable_executor().shutdown(wait=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with two trained cells of two seeds."""
    folder = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", folder / "build")
        for cell in GRID.cells:
            experiment.save_cell(cell, experiment.train_cell(cell, SETTINGS, n_jobs=1), SETTINGS, folder)
    return folder


@pytest.fixture(scope="module")
def scored(root):
    """Both cells, scored."""
    return {cell: scoring.score_cell(cell, SETTINGS, root, n_jobs=1) for cell in GRID.cells}


def images_of(scores) -> torch.Tensor:
    """The scored images, found by their places in the test split."""
    return as_input(data.load("mnist", "test", sample=True)[0][scores["indices"]])


def map_of(root, cell, seed, images, targets) -> torch.Tensor:
    return saliency.input_gradient(experiment.load_model(cell, seed, root), images, torch.from_numpy(targets))


def test_arrays_have_the_documented_shapes(scored):
    """Every score, for every seed and image; the dear ones for the first images; nothing missing, nothing more."""
    shapes = {name: values.shape for name, values in scored[W2A2].items()}
    per_image = {"predicted", "probability", "dead", "entropy", "auroc", *PRIMARY}
    per_image |= {f"preservation_{name}" for name in PRESERVATION} | {f"reinit_{name}" for name in PRIMARY}
    dear = {f"{method}_{name}" for method in collect.METHODS for name in PRIMARY} | {"sensitivity_max"}
    controls = {f"control_{c}_{name}" for c in words.CONTROLS if c != "reinit" for name in PRIMARY}
    expected = dict.fromkeys(per_image, (2, 50)) | dict.fromkeys(dear, (2, 4)) | dict.fromkeys(controls, (50,))
    expected |= {"seeds": (2,), "indices": (50,), "labels": (50,), "curve_levels": (15,)}
    expected |= dict.fromkeys(("deletion", "insertion", "random"), (2, 15)) | {"gradient_sample": (2, 2000)}
    expected |= dict.fromkeys(("deletion_accuracy", "random_accuracy"), (2, 10)) | {"accuracy_levels": (10,)}
    kept = len(scored[W2A2]["map_indices"])
    expected |= {"map_indices": (kept,), "images": (kept, 28, 28), "maps": (kept, 28, 28)}
    assert shapes == expected
    ceiling = {f"ceiling_{name}" for name in PRESERVATION}
    assert set(scored[FP32]) - set(scored[W2A2]) == ceiling and set(scored[W2A2]) <= set(scored[FP32])


def test_scores_are_those_of_each_seeds_own_network_and_its_prediction(scored, root):
    """Labels, predictions and map scores of both seeds, from the model files anew."""
    scores = scored[W2A2]
    images = images_of(scores)
    labels = data.load("mnist", "test", sample=True)[1][scores["indices"]]
    np.testing.assert_array_equal(scores["labels"], labels)
    for seed in (0, 1):
        with torch.no_grad():
            probabilities = experiment.load_model(W2A2, seed, root)(images).softmax(1).numpy()
        np.testing.assert_array_equal(scores["predicted"][seed], probabilities.argmax(1))
        np.testing.assert_allclose(scores["probability"][seed], probabilities.max(1), rtol=1e-5)
        maps = map_of(root, W2A2, seed, images, scores["predicted"][seed])
        np.testing.assert_array_equal(scores["gini"][seed], clarity.gini(maps))
        foreground = images.squeeze(1) > 0
        np.testing.assert_array_equal(scores["foreground_mass"][seed], clarity.foreground_mass(maps, foreground))
    assert not np.array_equal(scores["gini"][0], scores["gini"][1])


def test_preservation_is_against_the_same_seed_and_its_ceiling_against_the_next(scored, root):
    """A reference network is like itself; a quantized one is compared with the reference's map of the same class."""
    images = images_of(scored[FP32])
    np.testing.assert_allclose(scored[FP32]["preservation_spearman"], 1)
    for cell, prefix, others in ((FP32, "ceiling", (1, 0)), (W2A2, "preservation", (0, 1))):
        for seed, other in enumerate(others):
            targets = scored[cell]["predicted"][seed]
            alike = clarity.preservation_scores(
                map_of(root, cell, seed, images, targets), map_of(root, FP32, other, images, targets)
            )
            for name in PRESERVATION:
                np.testing.assert_array_equal(scored[cell][f"{prefix}_{name}"][seed], alike[name])


def test_controls_know_nothing(scored):
    """What the definition of each control says of its scores."""
    scores = scored[FP32]
    np.testing.assert_allclose(scores["control_one_hot_gini"], 1 - 1 / 784)
    np.testing.assert_allclose(scores["control_intensity_foreground_mass"], 1)
    assert abs(scores["control_white_noise_morans_i"].mean()) < 0.03
    assert abs(scores["control_white_noise_foreground_mass"].mean()) < 0.05


def test_curves_enclose_the_relevance_gain(scored):
    """The area between the mean curves is the mean gain; all three start and end together."""
    for scores in scored.values():
        for seed in (0, 1):
            most, least, chance = (scores[name][seed] for name in ("deletion", "insertion", "random"))
            gain = np.trapezoid(least - most, scores["curve_levels"])
            assert gain == pytest.approx(scores["symmetric_relevance_gain"][seed].mean(), abs=1e-6)
            np.testing.assert_allclose([most[0], most[-1]], [chance[0], chance[-1]], atol=1e-6)


def test_pixels_in_random_order_are_not_the_salient_ones(scored):
    """In the first half, where both orders have pixels left, random ones are missed less, and another class results."""
    for scores in scored.values():
        first_half = slice(1, scores["random"].shape[1] // 2)
        assert (scores["random"] > scores["deletion"])[:, first_half].mean() > 0.5
        assert (scores["random_accuracy"] != scores["deletion_accuracy"])[:, 1:].any()


def test_untrained_twin_is_a_network_of_another_seed_before_training(scored):
    """Calibrated on the scored images, explained for its own predictions."""
    for cell, scores in scored.items():
        images = images_of(scores)
        for seed in (0, 1):
            twin = model.build(cell.precision, seed=1000 + seed).eval()
            calibrate(twin, images)
            maps = saliency.input_gradient(twin, images)
            np.testing.assert_allclose(scores["reinit_gini"][seed], clarity.map_scores(images, maps)["gini"], rtol=1e-3)


def test_accuracy_falls_from_that_of_the_whole_image(scored, root):
    """Without removal both lines are the accuracy on the labels; half of the pixels removed is computed anew."""
    scores = scored[FP32]
    images, labels = images_of(scores), torch.from_numpy(scores["labels"])
    for seed in (0, 1):
        network = experiment.load_model(FP32, seed, root)
        accuracy = (scores["predicted"][seed] == scores["labels"]).mean()
        assert scores["deletion_accuracy"][seed, 0] == scores["random_accuracy"][seed, 0] == accuracy
        salience = map_of(root, FP32, seed, images, scores["predicted"][seed]).abs().flatten(1)
        kept = images.flatten(1).clone()
        kept.scatter_(1, salience.argsort(dim=1, descending=True, stable=True)[:, :392], 0.0)
        with torch.no_grad():
            right = network(kept.view_as(images)).argmax(1) == labels
        assert scores["deletion_accuracy"][seed, 5] == pytest.approx(right.double().mean().item())


def test_cells_are_scored_on_the_same_images_and_any_number_of_workers(scored, root):
    """Images in one random order for all cells; bit for bit the same from two workers as from one."""
    np.testing.assert_array_equal(scored[FP32]["indices"], scored[W2A2]["indices"])
    assert not np.array_equal(np.sort(scored[FP32]["indices"]), scored[FP32]["indices"])
    again = scoring.score_cell(W2A2, SETTINGS, root, n_jobs=2)
    for name, values in scored[W2A2].items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)


def test_kept_maps_come_one_a_class_first(scored, root):
    """The first kept images show every class once; image and map are those of seed 0 at that place."""
    scores = scored[W2A2]
    place = {index: i for i, index in enumerate(scores["indices"].tolist())}
    at = [place[index] for index in scores["map_indices"].tolist()]
    classes = len(set(scores["labels"]))
    assert scores["labels"][at][:classes].tolist() == sorted(set(scores["labels"]))
    assert len(set(at)) == len(at) > classes
    images = images_of(scores)
    np.testing.assert_array_equal(scores["images"], (images[at].squeeze(1) * 255).round())
    maps = map_of(root, W2A2, 0, images, scores["predicted"][0])
    np.testing.assert_array_equal(scores["maps"], maps[at])


def test_a_dead_network_has_dead_maps(root, tmp_path):
    """Logits that do not depend on the input: NaN everywhere, a dead rate of 1, and no made-up explanation."""
    content = experiment.read_cell(root / "models" / f"{W2A2}.pt")
    content["seeds"][1]["act4.alpha"].fill_(1e9)  # every activation rounds to 0
    (tmp_path / "models").mkdir()
    torch.save(content, tmp_path / "models" / f"{W2A2}.pt")
    torch.save(torch.load(root / "models" / f"{FP32}.pt"), tmp_path / "models" / f"{FP32}.pt")
    scores = scoring.score_cell(W2A2, SETTINGS, tmp_path, n_jobs=1)
    assert scores["dead"].mean(axis=1).tolist() == [0, 1]
    dear = [f"{method}_{name}" for method in collect.METHODS for name in PRIMARY]
    for name in (*PRIMARY, *dear, "sensitivity_max", "deletion", "preservation_ssim"):
        assert np.isnan(scores[name][1]).all() and np.isfinite(scores[name][0]).all(), name
    assert scoring.summary(W2A2, scores)["seeds"]["1"]["gini"] is None


def test_files_hold_the_scores_and_have_the_same_bytes_each_time(scored, tmp_path):
    """What is read back is what was scored; means in the summary are those of each seed."""
    for name in ("one", "two"):
        scoring.save_cell(W2A2, scored[W2A2], tmp_path / name)
    one, two = (tmp_path / name / "scores" / f"{W2A2}.npz" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    read = collect.scores(W2A2, tmp_path / "one")
    assert all(np.array_equal(values, read[name], equal_nan=True) for name, values in scored[W2A2].items())
    summary = json.loads((tmp_path / "one" / "results" / "clarity" / f"{W2A2}.json").read_text())
    assert summary["images"] == 50
    assert summary["seeds"]["1"]["gini"] == pytest.approx(scored[W2A2]["gini"][1].mean(), abs=1e-6)


def test_the_comparison_reads_what_was_scored(scored, root):
    """All frames that the tables and figures are made of."""
    for cell, scores in scored.items():
        scoring.save_cell(cell, scores, root)
    found = collect.collect(SETTINGS, root)
    assert len(found.runs["primary"]) == 4 and found.runs["all"][list(PRIMARY)].notna().all(axis=None)
    assert set(found.controls.control) == set(words.CONTROLS)
    assert set(found.methods.method) == set(words.METHODS)
    assert len(found.ceiling) == 2 and len(found.curves) == 2 * 2 * 15


def test_a_cell_or_reference_that_is_missing_is_named(root, tmp_path):
    """An error before anything is scored, with the stage to run."""
    (tmp_path / "models").mkdir()
    with pytest.raises(experiment.ModelFileError, match="train@mnist-w2a2-standard"):
        scoring.score_cell(W2A2, SETTINGS, tmp_path)
    torch.save(torch.load(root / "models" / f"{W2A2}.pt"), tmp_path / "models" / f"{W2A2}.pt")
    with pytest.raises(experiment.ModelFileError, match="train@mnist-fp32-standard"):
        scoring.score_cell(W2A2, SETTINGS, tmp_path)
