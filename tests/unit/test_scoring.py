"""One network, scored: each array against a computation of its own, by public functions; dead networks; the fills."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from saqlib import data, scoring
from saqlib.controls import control_maps, difference_maps, redrawn_maps, sensitivity_max, switched_maps
from saqlib.lenet import build
from saqlib.quantization import calibrate
from saqlib.removal import fill_images, random_ranks, relevance_gain, remains
from saqlib.saliency import METHODS, input_gradient
from saqlib.scores import FILLS, GAINS, GRADIENT, PRIMARY, SCORES, Score, amplitude, map_scores, preservation_scores
from saqlib.scoring import Clarity, Explained, Scoring, score_network, scored_images, summary_scores
from tests.helpers import networks
from tests.helpers.called import VECTOR_MATH, Called

SAMPLE = str(networks.SAMPLE)
SCORING = Scoring(Clarity(steps=7, sensitivity_radius=0.02, sensitivity_draws=3), "fp32", 30, 4, 30, SAMPLE)
SEED = 3


def network(precision, seed=0):
    """A network whose clips are set on the scored images."""
    network = build(precision, seed=seed).eval()
    calibrate(network, scored_images("mnist", SCORING).images)
    return network


def dead_network():
    """A network whose activations all round to 0."""
    dead = network("w2a2")
    dead.act4.alpha.data.fill_(1e9)
    return dead


@pytest.fixture(scope="module")
def scored():
    """A network of full and one of low precision, scored; likened to the former and, of the former, to another."""
    reference, other = network("fp32"), network("fp32", seed=1)
    return {
        "fp32": score_network("mnist", SCORING, SEED, reference, {"preservation": reference, "seed_to_seed": other}),
        "w2a2": score_network("mnist", SCORING, SEED, network("w2a2"), {"preservation": reference}),
    }


def images_of(scores):
    """The scored images, found by their places in the test split."""
    return data.as_input(data.load("mnist", "test", SAMPLE)[0][scores.image.values.copy()])


def expected_scores(network, images, targets, maps, steps=SCORING.clarity.steps):
    """The primary scores and the gains of maps by public functions; the mean fill is that of the training images."""
    mean = data.as_input(data.load("mnist", "train", SAMPLE)[0]).mean(0, keepdim=True)
    fills = {fill: fill_images(mean if fill == "mean" else fill, images) for fill in FILLS}
    gains = {f"relevance_gain_{fill}": relevance_gain(network, images, targets, maps, steps, fills[fill])
             for fill in FILLS}  # fmt: skip
    return {name: values for name, values in map_scores(images, maps).items() if name in PRIMARY} | gains


def check(scores, gains, *asked):
    """Arrays (score, image) and (fill, image) are those of these maps."""
    expected = expected_scores(*asked)
    for names, dim, found in ((PRIMARY, "score", scores), (GAINS, "fill", gains)):
        labels = [name if dim == "score" else name.removeprefix("relevance_gain_") for name in names]
        assert found[dim].values.tolist() == labels
        for name, label in zip(names, labels, strict=True):
            np.testing.assert_allclose(found.sel({dim: label}), expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_images_stand_at_their_places_in_random_order(split):
    """Image and label of each place, every place once; fewer are the first; the mean is that of training images."""
    scored, fewer = (scored_images("fashion_mnist", replace(SCORING, images=n), split) for n in (30, 7))
    images, labels = data.load("fashion_mnist", split, SAMPLE)
    assert torch.equal(scored.raw, images[scored.places]) and torch.equal(scored.labels, labels[scored.places])
    assert torch.equal(scored.images, data.as_input(scored.raw)) and torch.equal(fewer.places, scored.places[:7])
    assert len(scored.places.unique()) == 30 and not torch.equal(scored.places.sort().values, scored.places)
    mean = np.stack([image / 255 for image in data.load("fashion_mnist", "train", SAMPLE)[0].numpy()]).mean(0)
    np.testing.assert_allclose(scored.fills["mean"][0, 0], mean, rtol=1e-6)
    for fill in ("zero", "noise", "blur"):
        assert torch.equal(scored.fills[fill], fill_images(fill, scored.images))


def test_explained_scores_whoever_s_maps_for_its_own_classes():
    """All, the first, and those whose curves are known, without asking the network again; a dead map is NaN."""
    own = Explained.predicting(network("w2a2"), scored_images("mnist", SCORING), 9)
    assert torch.equal(own.targets, own.network(own.images).argmax(1))
    maps = own.gradient_of(network("fp32"))
    assert torch.equal(maps, input_gradient(network("fp32"), own.images, own.targets))
    maps[3] = 0
    found, first, curves = own.scores(maps), own.first(5).scores(maps[:5]), own.curves(maps)
    expected = expected_scores(own.network, own.images, own.targets, maps, 9)
    for names, values, some in zip((PRIMARY, GAINS), found, first, strict=True):
        expected_values = torch.stack([expected[name] for name in names])
        torch.testing.assert_close(values, expected_values, rtol=1e-5, atol=1e-7, equal_nan=True)
        torch.testing.assert_close(some, values[:, :5], rtol=1e-5, atol=1e-7, equal_nan=True)
        assert values.isnan().nonzero()[:, 1].unique().tolist() == [3]
    handle = own.network.register_forward_pre_hook(lambda *_: pytest.fail("the network was asked"))
    torch.testing.assert_close(own.scores(maps, curves), found, rtol=0, atol=0, equal_nan=True)
    handle.remove()


# -------------------------------------------------------------------------------------------------- one whole network


def test_arrays_and_labels(scored):
    """Every array with its dimensions, every registered score of a map; a network without quantizers has no square."""
    per_image = {name for name, score in SCORES.items() if score.of == "map"} - set(PRIMARY)
    assert per_image == {"entropy", "auroc", "dead"}
    expected = dict.fromkeys({"label", "predicted", "probability"} | per_image, ("image",)) | {
        "scores": ("map", "score", "image"), "relevance_gain": ("map", "fill", "image"), "amplitude": ("map", "image"),
        "preservation": ("likeness", "image"), "sensitivity_max": ("few",), "cascade": ("redrawn", "likeness", "few"),
        "curves": ("order", "level"), "accuracies": ("accuracy_order", "accuracy_level"), "gradient": ("draw",),
        "kept_image": ("kept", "y", "x"), "kept_map": ("kept", "y", "x"),
    }  # fmt: skip
    for name, *dims in (("method", "explainer", "few"), ("control", "control", "image"),
                        ("difference", "difference", "few")):  # fmt: skip
        expected |= {f"{name}_scores": (dims[0], "score", dims[1]), f"{name}_gain": (dims[0], "fill", dims[1])}
    square = ("weights", "activations")
    switched = {"switched_scores": (*square, "score", "few"), "switched_gain": (*square, "fill", "few"),
                "switched_predicted": (*square, "few")}  # fmt: skip
    neighbour = {"seed_to_seed": ("likeness", "image")}
    for precision, more in (("fp32", neighbour), ("w2a2", switched)):
        assert {name: array.dims for name, array in scored[precision].items()} == expected | more
    labels = {name: scored["w2a2"][name].values.tolist() for name in scored["w2a2"].coords}
    assert (labels["score"], labels["fill"], labels["likeness"]) == (list(PRIMARY), list(FILLS), list(SCORES)[-4:])
    assert labels["map"] == [GRADIENT, "untrained"] and labels["explainer"] == [m for m in METHODS if m != GRADIENT]
    assert labels["few"] == labels["image"][:4] and len(labels["image"]) == 30 and len(labels["level"]) == 8


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_own_maps_and_those_made_in_other_ways(scored, precision):
    """The network's prediction, its map and its twin's, likeness, quantizers off, slopes, layers redrawn."""
    scores, own, images = scored[precision], network(precision), images_of(scored[precision])
    targets = own(images).argmax(1)
    maps, few = input_gradient(own, images, targets), (own, images[:4], targets[:4])
    np.testing.assert_array_equal(scores.predicted, targets)
    np.testing.assert_allclose(scores.probability, own(images).softmax(1).amax(1).detach(), rtol=1e-5)
    for name in ("entropy", "auroc", "dead"):
        np.testing.assert_array_equal(scores[name], map_scores(images, maps)[name])
    twin = build(precision, seed=1000 + SEED).eval()
    calibrate(twin, images)
    guesses = twin(images).argmax(1)
    theirs = input_gradient(twin, images, guesses)
    for which, *asked in ((GRADIENT, own, images, targets, maps), ("untrained", twin, images, guesses, theirs)):
        check(scores.scores.sel(map=which), scores.relevance_gain.sel(map=which), *asked)
        np.testing.assert_array_equal(scores.amplitude.sel(map=which), amplitude(asked[-1]))
    for array, other in (("preservation", network("fp32")), ("seed_to_seed", network("fp32", seed=1))):
        alike = preservation_scores(maps, input_gradient(other, images, targets))
        if array in scores:
            np.testing.assert_array_equal(scores[array], torch.stack(list(alike.values())))
    for name, each in difference_maps(*few).items():
        check(*(scores[f"difference_{array}"].sel(difference=name) for array in ("scores", "gain")), *few, each)
    for name, each in redrawn_maps(own, twin, *few[1:], images).items():
        alike = torch.stack(list(preservation_scores(input_gradient(*few), each).values()))
        np.testing.assert_array_equal(scores.cascade.sel(redrawn=name), alike)
    for (weights, activations), (each, predicted) in switched_maps(*few).items() if precision == "w2a2" else ():
        corner = scores.sel(weights=weights, activations=activations)
        check(corner.switched_scores, corner.switched_gain, *few, each)  # judged by the network as it is deployed
        np.testing.assert_array_equal(corner.switched_predicted, predicted)


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_what_is_drawn_comes_from_the_seeds_own_generator_in_a_fixed_order(scored, precision):
    """Sensitivity, SmoothGrad, both random lines with the sampled gradients between, the controls: anew, in turn."""
    scores, own, images = scored[precision], network(precision), images_of(scored[precision])
    predicted, labels = (torch.from_numpy(scores[name].values).long() for name in ("predicted", "label"))
    few, generator = (own, images[:4], predicted[:4]), torch.Generator().manual_seed(SEED)
    found = sensitivity_max(*few, generator=generator, radius=0.02, draws=3)
    np.testing.assert_allclose(scores.sensitivity_max, found, rtol=1e-4)
    mean = data.as_input(data.load("mnist", "train", SAMPLE)[0]).mean(0, keepdim=True)
    extras = {"smoothgrad": {"generator": generator}, "integrated_gradients": {"baseline": mean}}
    for name in scores.explainer.values:
        maps = METHODS[name](*few, **extras.get(name, {}))
        check(scores.method_scores.sel(explainer=name), scores.method_gain.sel(explainer=name), *few, maps)
    counts, blank = (784 * scores.level.values).round().astype(int), torch.zeros_like(images[:1])
    line = remains(own, images, predicted, random_ranks(images, generator)[None], counts, blank).probability[0]
    np.testing.assert_allclose(scores.curves.sel(order="random"), line.mean(0), rtol=1e-5)
    values = input_gradient(own, images, predicted).flatten()
    np.testing.assert_array_equal(scores.gradient, values[torch.randperm(len(values), generator=generator)[:2000]])
    counts = (784 * scores.accuracy_level.values).round().astype(int)
    line = remains(own, images, labels, random_ranks(images, generator)[None], counts, blank).correct[0]
    np.testing.assert_array_equal(scores.accuracies.sel(accuracy_order="random"), line.double().mean(0))
    for name, maps in control_maps(images, generator).items():
        found = (scores[f"control_{array}"].sel(control=name) for array in ("scores", "gain"))
        check(*found, own, images, predicted, maps)


def test_curves_enclose_the_relevance_gain(scored):
    """The area between the mean curves is the mean gain with zeros; all three start and end together."""
    for scores in scored.values():
        most, least, chance = (scores.curves.sel(order=order).values for order in ("most", "least", "random"))
        gain = scores.scores.sel(map=GRADIENT, score="relevance_gain_zero").mean().item()
        assert np.trapezoid(least - most, scores.level) == pytest.approx(gain, abs=1e-6)
        for curve in (most, least):
            np.testing.assert_allclose(curve[[0, -1]], chance[[0, -1]], atol=1e-6)


def test_accuracy_falls_from_that_of_the_whole_image(scored):
    """Without removal both lines are the accuracy on the labels; half of the pixels removed is computed anew."""
    scores, images, own = scored["fp32"], images_of(scored["fp32"]), network("fp32")
    labels, salient = torch.from_numpy(scores.label.values), scores.accuracies.sel(accuracy_order="most").values
    assert (scores.accuracies[:, 0] == (scores.predicted == scores.label).mean()).all()
    salience = input_gradient(own, images).abs().flatten(1)
    left = images.flatten(1).clone()
    left.scatter_(1, salience.argsort(dim=1, descending=True, stable=True)[:, :392], 0.0)
    assert salient[5] == pytest.approx((own(left.view_as(images)).argmax(1) == labels).double().mean().item())


def test_stored_maps_come_one_a_class_first(scored):
    """The first stored images show every class once; image and map are those at their places."""
    scores, images = scored["w2a2"], images_of(scored["w2a2"])
    labels = scores.label.sel(image=scores.kept).values
    classes = sorted(set(scores.label.values))
    assert labels[: len(classes)].tolist() == classes and max(np.unique(labels, return_counts=True)[1]) <= 5
    at = [scores.image.values.tolist().index(place) for place in scores.kept.values]
    np.testing.assert_array_equal(scores.kept_image, (images[at].squeeze(1) * 255).round())
    np.testing.assert_array_equal(scores.kept_map, input_gradient(network("w2a2"), images)[at])


def test_a_new_score_and_a_new_method_are_one_entry_and_change_no_other_number(scored, monkeypatch):
    """The score is an array of its own name, the method a row behind the others; what they draw moves nobody's draw."""

    def random_map(model, images, targets, *, generator):
        return torch.rand(images[:, 0].shape, generator=generator)

    words = ("Peak", "P", "higher", 0, 1, None, "Is one pixel the map?")
    monkeypatch.setitem(SCORES, "peak", Score(lambda maps, images: maps.abs().amax((1, 2)).double(), *words))
    monkeypatch.setitem(METHODS, "random", random_map)
    found = score_network("mnist", SCORING, SEED, network("w2a2"), {"preservation": network("fp32")})
    assert found.peak.dims == ("image",) and found.explainer.values.tolist() == [*list(METHODS)[1:-1], "random"]
    np.testing.assert_array_equal(found.peak, input_gradient(network("w2a2"), images_of(found)).abs().amax((1, 2)))
    xr.testing.assert_identical(found.drop_vars("peak").drop_sel(explainer="random"), scored["w2a2"])


def test_a_dead_network_has_dead_maps():
    """NaN everywhere, a dead rate of 1, and no made-up explanation; controls and the untrained twin have scores."""
    likened = {"preservation": network("fp32"), "seed_to_seed": None}
    scores = score_network("mnist", SCORING, SEED, dead_network(), likened)
    own = scores.sel(map=GRADIENT)
    missing = [own.scores, own.relevance_gain, own.amplitude, own.curves.sel(order=["most", "least"]), own.entropy,
               own.accuracies.sel(accuracy_order="most"), own.method_scores, own.method_gain, own.sensitivity_max,
               own.preservation, own.difference_scores, own.switched_gain.sel(activations="on")]  # fmt: skip
    assert all(values.isnull().all() for values in missing) and (scores.dead == 1).all()
    assert scores.scores.sel(map="untrained").notnull().all() and scores.curves.sel(order="random").notnull().all()
    assert (scores.control_gain == 0).all() and (scores.kept_map == 0).all() and "seed_to_seed" not in scores


def test_no_score_asks_mkl_for_an_exponential():
    """Of a tensor's exp, log or square root MKL has three versions, and the processor decides which."""
    own, reference = (build(precision, seed=3).eval() for precision in ("w2a2", "fp32"))
    with Called() as called:
        score_network("mnist", SCORING, 3, own, {"preservation": reference, "seed_to_seed": None})
    assert "_softmax" in called.names, "the scoring was not seen"
    assert not called.names & VECTOR_MATH


# ------------------------------------------------------------------------------------------ summaries, curves, fills


@pytest.mark.parametrize("split", ["test", "validation"])
def test_summary_is_the_mean_over_the_images_of_a_split(split):
    """Score by score by the public functions; a dead network has none: NaN, not an error."""
    own, images = network("w2a2"), scored_images("mnist", SCORING, split).images
    maps = input_gradient(own, images)
    expected = expected_scores(own, images, own(images).argmax(1), maps) | {"amplitude": amplitude(maps)}
    found = summary_scores(own, "mnist", SCORING, split)
    assert list(found) == [*PRIMARY[:3], *GAINS, "amplitude"]
    assert found == {name: pytest.approx(values.nanmean().item(), abs=1e-4) for name, values in expected.items()}
    assert all(value != value for value in summary_scores(dead_network(), "mnist", SCORING, split).values())


def test_a_dead_map_has_no_part_in_a_mean(monkeypatch):
    """The others have."""
    monkeypatch.setattr(Explained, "summary", lambda explained: {"gini": torch.tensor([torch.nan, 1.0, 3.0])})
    assert summary_scores(network("w2a2"), "mnist", SCORING) == {"gini": 2}


def test_training_curves_show_each_recorded_network_on_validation_images(monkeypatch):
    """Mean and standard error over 100 of the classified images, 7 steps of removal; a dead network is a gap."""
    recorded, opened, load = [(0, network("w2a2")), (20, dead_network())], set(), data.load
    monkeypatch.setattr(data, "load", lambda dataset, split, root: (opened.add(split), load(dataset, split, root))[1])
    found = scoring.training_curves(recorded, "mnist", SCORING, switch=10)
    assert opened == {"validation", "train"}
    scored, own = scored_images("mnist", replace(SCORING, images=1000), "validation"), recorded[0][1]
    predicted, images = own(scored.images).argmax(1), scored.images[:100]
    expected = expected_scores(own, images, predicted[:100], input_gradient(own, images, predicted[:100]))
    assert found.step.tolist() == [0, 20] and found.switch.tolist() == [10, 10]
    assert found.accuracy[0] == pytest.approx(100 * (predicted == scored.labels).double().mean().item())
    for name, values in expected.items():
        assert found[name][0] == pytest.approx(values.mean().item(), abs=1e-4)
        assert found[f"{name}_se"][0] == pytest.approx(values.std().item() / 10, abs=1e-4)
    assert found.loc[1, [*expected, "amplitude", "gini_se"]].isna().all() and 0 <= found.accuracy[1] <= 40


def test_fill_gains_are_those_of_the_map_and_of_the_image_itself():
    """Means over validation images with every fill; the classes are the network's own."""
    own, images = network("fp32"), scored_images("mnist", SCORING, "validation").images
    found = scoring.fill_gains("mnist", SCORING, own)
    for name, maps in (("gradient", input_gradient(own, images)), ("intensity", images.squeeze(1))):
        expected = expected_scores(own, images, own(images).argmax(1), maps)
        assert found[name] == pytest.approx([expected[gain].mean().item() for gain in GAINS], abs=1e-5)


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
    """The smallest lead decides, and a mean that leads does not outweigh it; each fill by itself, in order."""
    table = pd.DataFrame({"seed": range(len(gradient)), "fill": "mean", "gradient": gradient, "intensity": intensity})
    row, other = scoring.qualify(pd.concat([table, table.assign(fill="blur", intensity=-1.0)])).to_dict("records")
    assert (row["fill"], other["fill"], row["seeds"]) == ("mean", "blur", len(gradient))
    assert row["least_lead"] == pytest.approx(least_lead) and row["qualifies"] == qualifies
    assert row["gradient"] == pytest.approx(np.nanmean(gradient))
    assert other["qualifies"] == np.isfinite(gradient).all()
