"""What is scored on one network: each array against a computation of its own, pairing of seeds, dead networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from saqlib import stored
from saqlib.clarity.controls import control_maps
from saqlib.clarity.fills import fill_images
from saqlib.clarity.preservation import preservation_scores
from saqlib.clarity.removal import random_ranks, remains, symmetric_relevance_gain
from saqlib.clarity.scores import clarity_scores, foreground_mass, gini, map_scores
from saqlib.clarity.seed import score_seed
from saqlib.clarity.sensitivity import sensitivity_max
from saqlib.data import images as data
from saqlib.names import FILLS, GRADIENT, OTHER_METHODS, PRESERVATION, PRIMARY, UNTRAINED
from saqlib.network.initial import build
from saqlib.network.quantization import calibrate
from saqlib.saliency.gradient import input_gradient
from saqlib.saliency.methods import integrated_gradients, log_probability_gradient, occlusion, smoothgrad
from tests.called import VECTOR_MATH, Called
from tests.clarity.conftest import FP32, SCORING, W2A2


def images_of(scores: xr.Dataset) -> torch.Tensor:
    """The scored images, found by their places in the test split."""
    return data.as_input(data.load("mnist", "test", sample=True)[0][scores.image.values.copy()])


def fill_of(fill: str, images: torch.Tensor) -> torch.Tensor:
    """What takes the place of the images' pixels; the mean is that of the training images."""
    training = data.as_input(data.load("mnist", "train", sample=True)[0])
    return fill_images(training.mean(0, keepdim=True) if fill == "mean" else fill, images)


def check_gains(found: xr.DataArray, network, images, targets, maps, **tolerance) -> None:
    """Relevance gains (fill, image) are those of these maps, each fill computed by itself."""
    assert found.fill.values.tolist() == list(FILLS)
    for fill in FILLS:
        expected = symmetric_relevance_gain(
            network, images, targets, maps, SCORING.clarity.steps, fill_of(fill, images)
        )
        np.testing.assert_allclose(found.sel(fill=fill), expected, **tolerance)


def map_of(root, cell, seed, images, targets) -> torch.Tensor:
    """The input gradient of a model file's network."""
    return input_gradient(stored.load_model(cell, seed, root), images, torch.from_numpy(targets).long())


# --- scores of the network's own maps ---


def test_scores_are_those_of_each_seeds_own_network_and_its_prediction(scored, root):
    """Labels, predictions and map scores of both seeds, from the model files anew."""
    scores = scored[W2A2]
    images = images_of(scores)
    labels = data.load("mnist", "test", sample=True)[1][scores.image.values.copy()]
    np.testing.assert_array_equal(scores.label, labels)
    own = scores.scores.sel(map=GRADIENT)
    for seed in (0, 1):
        with torch.no_grad():
            probabilities = stored.load_model(W2A2, seed, root)(images).softmax(1).numpy()
        predicted = scores.predicted.sel(seed=seed).values
        np.testing.assert_array_equal(predicted, probabilities.argmax(1))
        np.testing.assert_allclose(scores.probability.sel(seed=seed), probabilities.max(1), rtol=1e-5)
        maps = map_of(root, W2A2, seed, images, predicted)
        np.testing.assert_array_equal(own.sel(seed=seed, score="gini"), gini(maps))
        mass = foreground_mass(maps, images.squeeze(1) > 0)
        np.testing.assert_array_equal(own.sel(seed=seed, score="foreground_mass"), mass)
        for name in ("entropy", "auroc", "dead"):
            np.testing.assert_array_equal(scores[name].sel(seed=seed), map_scores(images, maps)[name])
    assert not np.array_equal(own.sel(seed=0, score="gini"), own.sel(seed=1, score="gini"))


def test_primary_scores_stand_under_their_names(scored, root):
    """Each of the four, the relevance gain included, is the one that `clarity_scores` calls so."""
    scores = scored[FP32].sel(seed=0)
    images, predicted = images_of(scores), torch.from_numpy(scores.predicted.values).long()
    network = stored.load_model(FP32, 0, root)
    maps = map_of(root, FP32, 0, images, scores.predicted.values)
    expected = clarity_scores(network, images, predicted, maps, SCORING.clarity.steps)
    for name in PRIMARY:
        np.testing.assert_allclose(scores.scores.sel(map=GRADIENT, score=name), expected[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("cell", "seed"), [(FP32, 0), (W2A2, 1)], ids=str)
def test_each_fill_has_its_relevance_gain(scored, root, cell, seed):
    """The network's own map, with each fill; that with zeros stands among the primary scores, too, for every map."""
    scores = scored[cell].sel(seed=seed)
    images, predicted = images_of(scores), torch.from_numpy(scores.predicted.values).long()
    network = stored.load_model(cell, seed, root)
    maps = map_of(root, cell, seed, images, scores.predicted.values)
    check_gains(scores.relevance_gain.sel(map=GRADIENT), network, images, predicted, maps, rtol=1e-5, atol=1e-6)
    for scored_so, gains in (("scores", "relevance_gain"), ("method_scores", "method_gain"),
                             ("control_scores", "control_gain")):  # fmt: skip
        zero = scored[cell][scored_so].sel(score="relevance_gain_zero").drop_vars("score")
        xr.testing.assert_equal(zero, scored[cell][gains].sel(fill="zero").drop_vars("fill"))
        assert not np.allclose(scored[cell][gains].sel(fill="mean"), zero, equal_nan=True)


def test_amplitude_is_the_median_magnitude(scored, root):
    """Of the network's map and of its untrained twin's, in units of the logit."""
    for cell in (FP32, W2A2):
        scores = scored[cell].sel(seed=1)
        images = images_of(scores)
        maps = map_of(root, cell, 1, images, scores.predicted.values)
        expected = np.median(maps.abs().double().flatten(1), axis=1)
        np.testing.assert_array_equal(scores.amplitude.sel(map=GRADIENT), expected)
        assert not np.array_equal(scores.amplitude.sel(map=UNTRAINED), expected)


def test_preservation_is_against_the_same_seed_and_seed_to_seed_against_the_next(scored, root):
    """A reference network is like itself; a quantized one is compared with the reference's map of the same class."""
    images = images_of(scored[FP32])
    np.testing.assert_allclose(scored[FP32].preservation.sel(likeness="spearman"), 1)
    for cell, array, others in ((FP32, "seed_to_seed", (1, 0)), (W2A2, "preservation", (0, 1))):
        for seed, other in enumerate(others):
            scores = scored[cell].sel(seed=seed)
            targets = scores.predicted.values
            alike = preservation_scores(
                map_of(root, cell, seed, images, targets), map_of(root, FP32, other, images, targets)
            )
            for name in PRESERVATION:
                np.testing.assert_array_equal(scores[array].sel(likeness=name), alike[name])


def test_without_a_neighbour_there_is_no_seed_to_seed(root):
    """The likeness of two reference networks is scored where a neighbour is named, and nowhere else."""
    scoring = replace(SCORING, images=5, images_expensive=1)
    network = stored.load_model(FP32, 0, root)
    both = {"preservation": network, "seed_to_seed": network}
    assert "seed_to_seed" not in score_seed("mnist", scoring, 0, network, both | {"seed_to_seed": None})
    alone = score_seed("mnist", scoring, 0, network, both)
    xr.testing.assert_equal(alone.seed_to_seed, alone.preservation.rename("seed_to_seed"))


# --- what costs many gradients ---


@pytest.mark.parametrize(("cell", "seed"), [(FP32, 0), (FP32, 1), (W2A2, 1)], ids=str)
def test_what_is_drawn_comes_from_the_seeds_own_generator_in_a_fixed_order(scored, root, cell, seed):
    """Sensitivity, SmoothGrad, both random lines with the sampled gradients between, the controls: anew, in turn."""
    scores = scored[cell].sel(seed=seed)
    images, network = images_of(scores), stored.load_model(cell, seed, root)
    predicted, labels = (torch.from_numpy(scores[name].values).long() for name in ("predicted", "label"))
    few, targets = images[: scores.sizes["few"]], predicted[: scores.sizes["few"]]
    generator, clarity = torch.Generator().manual_seed(seed), SCORING.clarity
    noise = {"radius": clarity.sensitivity_radius, "draws": clarity.sensitivity_draws}
    sensitivity = sensitivity_max(network, few, targets, generator=generator, **noise)
    np.testing.assert_allclose(scores.sensitivity_max, sensitivity, rtol=1e-4)
    maps = {
        "smoothgrad": smoothgrad(network, few, targets, generator=generator),
        "occlusion": occlusion(network, few, targets),
        "log_probability": log_probability_gradient(network, few, targets),
        "integrated_gradients": integrated_gradients(network, few, targets, fill_of("mean", few)),
    }
    assert set(scores.explainer.values) == set(maps) == set(OTHER_METHODS)
    for name, each in maps.items():
        expected = clarity_scores(network, few, targets, each, clarity.steps)
        for score in PRIMARY:
            found = scores.method_scores.sel(explainer=name, score=score)
            np.testing.assert_allclose(found, expected[score], rtol=1e-3, atol=1e-5)
        check_gains(scores.method_gain.sel(explainer=name), network, few, targets, each, rtol=1e-3, atol=1e-5)
    counts = (784 * scores.level.values).round().astype(int)
    blank = torch.zeros_like(images[:1])
    line = remains(network, images, predicted, random_ranks(images, generator)[None], counts, blank).probability[0]
    np.testing.assert_allclose(scores.curves.sel(order="random"), line.mean(0), rtol=1e-5)
    values = input_gradient(network, images, predicted).flatten()
    np.testing.assert_array_equal(scores.gradient, values[torch.randperm(len(values), generator=generator)[:2000]])
    counts = (784 * scores.accuracy_level.values).round().astype(int)
    line = remains(network, images, labels, random_ranks(images, generator)[None], counts, blank).correct[0]
    np.testing.assert_array_equal(scores.accuracies.sel(accuracy_order="random"), line.double().mean(0))
    for name, each in control_maps(images, generator).items():
        expected = clarity_scores(network, images, predicted, each, clarity.steps)
        for score in PRIMARY:
            found = scores.control_scores.sel(control=name, score=score)
            np.testing.assert_allclose(found, expected[score], rtol=1e-5, atol=1e-7)
        check_gains(scores.control_gain.sel(control=name), network, images, predicted, each, rtol=1e-5, atol=1e-6)


def test_expensive_scores_are_of_the_first_images(scored):
    """The few are the first of all, by their places in the test split."""
    for scores in scored.values():
        np.testing.assert_array_equal(scores.few, scores.image[: scores.sizes["few"]])


# --- controls ---


def test_controls_know_nothing(scored):
    """What the definition of each control says of its scores."""
    controls = scored[FP32].control_scores
    np.testing.assert_allclose(controls.sel(control="one_hot", score="gini"), 1 - 1 / 784)
    np.testing.assert_allclose(controls.sel(control="intensity", score="foreground_mass"), 1)
    assert abs(controls.sel(control="white_noise", score="morans_i").mean()) < 0.03
    assert abs(controls.sel(control="white_noise", score="foreground_mass").mean()) < 0.05


def test_controls_are_scored_with_the_network_of_each_seed(scored):
    """Whatever depends on the network or on a draw differs between seeds: no control is one score shown ten times."""
    for scores in scored.values():
        first, second = (scores.sel(seed=seed) for seed in (0, 1))
        for control in scores.control.values:
            for fill in FILLS:
                one, two = (each.control_gain.sel(control=control, fill=fill) for each in (first, second))
                assert not np.allclose(one, two)
        for score in ("gini", "morans_i", "foreground_mass"):
            one, two = (each.control_scores.sel(control="white_noise", score=score) for each in (first, second))
            assert not np.allclose(one, two)
            one, two = (each.control_scores.sel(control="intensity", score=score) for each in (first, second))
            np.testing.assert_array_equal(one, two)


def test_untrained_twin_is_a_network_of_another_seed_before_training(scored):
    """Calibrated on the scored images; its map is for its own predictions, and it is the one that is asked."""
    for cell, scores in scored.items():
        images = images_of(scores)
        for seed in (0, 1):
            twin = build(cell.precision, seed=1000 + seed).eval()
            calibrate(twin, images)
            predicted = twin(images).argmax(1)
            maps = input_gradient(twin, images, predicted)
            found = scores.sel(map=UNTRAINED, seed=seed)
            np.testing.assert_allclose(found.scores.sel(score="gini"), gini(maps), rtol=1e-3)
            check_gains(found.relevance_gain, twin, images, predicted, maps, rtol=1e-3, atol=1e-6)


# --- curves ---


def test_curves_enclose_the_relevance_gain(scored):
    """The area between the mean curves is the mean gain; all three start and end together."""
    for scores in scored.values():
        for seed in (0, 1):
            most, least, chance = (scores.curves.sel(seed=seed, order=o).values for o in ("most", "least", "random"))
            gain = np.trapezoid(least - most, scores.level)
            mean = scores.scores.sel(seed=seed, map=GRADIENT, score="relevance_gain_zero").mean()
            assert gain == pytest.approx(mean.item(), abs=1e-6)
            np.testing.assert_allclose([most[0], most[-1]], [chance[0], chance[-1]], atol=1e-6)
            np.testing.assert_allclose([least[0], least[-1]], [chance[0], chance[-1]], atol=1e-6)
        np.testing.assert_allclose(scores.level, np.linspace(0, 1, SCORING.clarity.steps + 1))


def test_pixels_in_random_order_are_not_the_salient_ones(scored):
    """In the first half, where both orders have pixels left, random ones are missed less, and another class results."""
    for scores in scored.values():
        most, chance = (scores.curves.sel(order=order).values for order in ("most", "random"))
        first_half = slice(1, chance.shape[1] // 2)
        assert (chance > most)[:, first_half].mean() > 0.5
        salient, random = (scores.accuracies.sel(accuracy_order=order).values for order in ("most", "random"))
        assert (random != salient)[:, 1:].any()


def test_accuracy_falls_from_that_of_the_whole_image(scored, root):
    """Without removal both lines are the accuracy on the labels; half of the pixels removed is computed anew."""
    scores = scored[FP32]
    images, labels = images_of(scores), torch.from_numpy(scores.label.values)
    assert scores.accuracy_level.values.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    for seed in (0, 1):
        network, predicted = stored.load_model(FP32, seed, root), scores.predicted.sel(seed=seed).values
        salient, random = (scores.accuracies.sel(seed=seed, accuracy_order=o).values for o in ("most", "random"))
        assert salient[0] == random[0] == (predicted == scores.label.values).mean()
        salience = map_of(root, FP32, seed, images, predicted).abs().flatten(1)
        kept = images.flatten(1).clone()
        kept.scatter_(1, salience.argsort(dim=1, descending=True, stable=True)[:, :392], 0.0)
        with torch.no_grad():
            right = network(kept.view_as(images)).argmax(1) == labels
        assert salient[5] == pytest.approx(right.double().mean().item())


# --- what is kept for a look ---


def test_kept_maps_come_one_a_class_first(scored, root):
    """The first kept images show every class once; image and map are those of seed 0 at that place."""
    scores = scored[W2A2]
    labels = scores.label.sel(image=scores.kept).values
    classes = len(set(scores.label.values))
    assert labels[:classes].tolist() == sorted(set(scores.label.values))
    assert len(set(scores.kept.values)) == len(labels) > classes
    assert max(np.unique(labels, return_counts=True)[1]) <= 5
    at = [scores.image.values.tolist().index(place) for place in scores.kept.values]
    images = images_of(scores)
    np.testing.assert_array_equal(scores.kept_image, (images[at].squeeze(1) * 255).round())
    maps = map_of(root, W2A2, 0, images, scores.predicted.sel(seed=0).values)
    np.testing.assert_array_equal(scores.kept_map, maps[at])


# --- dead networks ---


def test_a_dead_network_has_dead_maps(root, tmp_path):
    """Logits that do not depend on the input: NaN everywhere, a dead rate of 1, and no made-up explanation."""
    content = stored.read_cell(root / "models" / f"{W2A2}.pt")
    content["seeds"][1]["act4.alpha"].fill_(1e9)  # every activation rounds to 0
    (tmp_path / "models").mkdir()
    torch.save(content, tmp_path / "models" / f"{W2A2}.pt")
    torch.save(torch.load(root / "models" / f"{FP32}.pt"), tmp_path / "models" / f"{FP32}.pt")
    alive, dead = (
        score_seed("mnist", SCORING, seed, network, {"preservation": stored.load_model(FP32, seed, tmp_path)})
        for seed, network in enumerate(stored.load_model(W2A2, seed, tmp_path) for seed in (0, 1))
    )
    assert (alive.dead == 0).all() and (dead.dead == 1).all()
    for scores, missing in ((alive, False), (dead, True)):
        found = {
            "scores": scores.scores.sel(map=GRADIENT),
            "relevance_gain": scores.relevance_gain.sel(map=GRADIENT),
            "amplitude": scores.amplitude.sel(map=GRADIENT),
            "curves": scores.curves.sel(order=["most", "least"]),
            "accuracies": scores.accuracies.sel(accuracy_order="most"),
        }
        found |= {
            name: scores[name]
            for name in ("method_scores", "method_gain", "sensitivity_max", "preservation", "entropy")
        }
        for name, values in found.items():
            assert (values.isnull() == missing).all(), name
    assert dead.scores.sel(map=UNTRAINED).notnull().all() and dead.curves.sel(order="random").notnull().all()
    assert (dead.control_gain == 0).all() and dead.relevance_gain.sel(map=UNTRAINED).notnull().all()
    assert (dead.kept_map == 0).all() and (dead.gradient == 0).all()


def test_no_score_asks_mkl_for_an_exponential():
    """Of a tensor's exp, log or square root MKL has three versions, and the processor decides which."""
    network, reference = (build(precision, seed=3).eval() for precision in ("w2a2", "fp32"))
    with Called() as called:
        score_seed("mnist", SCORING, 3, network, {"preservation": reference, "seed_to_seed": None})
    assert "_softmax" in called.names, "the scoring was not seen"
    assert not called.names & VECTOR_MATH
