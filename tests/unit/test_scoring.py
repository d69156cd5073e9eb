"""One network, scored: each number against a computation of its own, by public functions; dead networks; the fills."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import stats

from saqlib import controls, data, saliency, scoring
from saqlib.lenet import build
from saqlib.quantization import calibrate
from saqlib.removal import fill_images, random_ranks, relevance_gain, remains
from saqlib.saliency import METHODS, input_gradient
from saqlib.scores import GAINS, PRIMARY, SCORES, Score, amplitude, map_scores, preservation_scores
from saqlib.scoring import Clarity, Explained, Scoring, draws, score_network, scored_images, summary_scores
from tests.helpers import networks
from tests.helpers.called import VECTOR_MATH, Called

SAMPLE = str(networks.SAMPLE)
SCORING = Scoring(Clarity(steps=7, sensitivity_radius=0.02, sensitivity_draws=3), 30, 0, 4, 30, SAMPLE)
SEED = 3
MADE = ["clip_only", "round_only", "relu", "weights_off"]
BLIND = ["image", "white_noise", "one_hot", "sobel"]


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
    """A network of full and one of low precision, scored beside the former and another seed of each."""
    others = {"fp32": None, "w2a2": network("fp32")}
    return {
        precision: score_network(
            "mnist", SCORING, SEED, network(precision), {"fp32_twin": twin, "other_seed": network(precision, seed=1)}
        )
        for precision, twin in others.items()
    }


def images_of(scores):
    """The scored images, found by their places in the test split."""
    return data.as_input(data.load("mnist", "test", SAMPLE)[0][scores.image.values.copy()])


def mean_fill():
    """That of the training images, to the bit."""
    return scored_images("mnist", SCORING).fills["mean"]


def expected_scores(network, images, targets, maps):
    """What every map is scored by, by public functions."""
    asked, gains = (network, images, targets, maps, SCORING.clarity.steps), {}
    for name, fill in zip(GAINS, (mean_fill(), "noise", "blur"), strict=True):
        gains[name] = relevance_gain(*asked, fill)
    of_maps = {name: values for name, values in map_scores(images, maps).items() if name in PRIMARY}
    return of_maps | gains | {"amplitude": amplitude(maps)}


def check(found, *asked):
    """An array (score, image) holds the scores of these maps; NaN for images that they do not explain."""
    count = len(asked[1])
    for name, values in expected_scores(*asked).items():
        np.testing.assert_allclose(found.sel(score=name)[:count], values, rtol=1e-3, atol=1e-5)
        assert found.sel(score=name)[count:].isnull().all()


@pytest.mark.parametrize("split", ["test", "validation"])
def test_images_stand_at_their_places_in_random_order(split):
    """Image and label of each place, every place once; fewer are the first; the mean is that of training images.

    Of the test images those that were seen while exploring stand before the first one.
    """
    scored, fewer = (scored_images("fashion_mnist", replace(SCORING, images=n), split) for n in (30, 7))
    images, labels = data.load("fashion_mnist", split, SAMPLE)
    assert torch.equal(scored.raw, images[scored.places]) and torch.equal(scored.labels, labels[scored.places])
    assert torch.equal(scored.images, data.as_input(scored.raw)) and torch.equal(fewer.places, scored.places[:7])
    assert len(scored.places.unique()) == 30 and not torch.equal(scored.places.sort().values, scored.places)
    mean = np.stack([image / 255 for image in data.load("fashion_mnist", "train", SAMPLE)[0].numpy()]).mean(0)
    np.testing.assert_allclose(scored.fills["mean"][0, 0], mean, rtol=1e-6)
    for fill in ("zero", "noise", "blur"):
        assert torch.equal(scored.fills[fill], fill_images(fill, scored.images))
    later = scored_images("fashion_mnist", replace(SCORING, images=7, skipped=12), split)
    assert torch.equal(later.places, scored.places[12:19] if split == "test" else fewer.places)


def test_no_draw_changes_another():
    """Each purpose of each seed has a generator of its own, the same each time."""
    drawn = [torch.rand(9, generator=draws(seed, purpose)) for seed in (0, 1) for purpose in ("a", "b")]
    assert len({tuple(each.tolist()) for each in drawn}) == 4
    assert torch.equal(drawn[0], torch.rand(9, generator=draws(0, "a")))


def test_equal_maps_are_scored_once(monkeypatch):
    """To the bit, and each has scores that nobody else can change."""
    own = Explained.predicting(network("fp32"), scored_images("mnist", SCORING), 7).first(4)
    maps, asked = own.gradient_of(own.network), []
    monkeypatch.setattr(Explained, "scores", lambda _, each: asked.append(each) or {"place": len(asked)})
    found = own.table({"a": maps, "b": maps.clone(), "c": maps + 1e-6, "d": maps})
    assert [each["place"] for each in found.values()] == [1, 1, 2, 1]
    found["a"]["more"] = maps
    assert list(found["b"]) == ["place"]


# -------------------------------------------------------------------------------------------------- one whole network


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_the_table_holds_what_is_scored_and_nothing_else(scored, precision):
    """Maps in order, of full precision none with another quantizer; all images, the first ones, or none."""
    scores, every = scored[precision], [*PRIMARY, *GAINS, "amplitude"]
    of_images = [*METHODS, *MADE, "fp32_twin", "other_seed"]
    if precision == "fp32":
        of_images = [*METHODS, "other_seed"]
    of_images += ["image", "sobel"]
    assert scores["map"].values.tolist() == [*of_images, "finite_differences", "white_noise", "one_hot"]
    assert scores.explainer.values.tolist() == list(METHODS)
    describing = ("entropy", "auroc", "gini_near", "dead")
    assert set(scores.score.values) == {*every, *describing, "relevance_gain_zero", "sensitivity_max"}
    expected = {(name, score): 30 if name in of_images else 4 for name in scores["map"].values for score in every}
    expected |= {("straight_through", name): 30 for name in describing}
    expected |= {("straight_through", "relevance_gain_zero"): 4, ("image", "relevance_gain_zero"): 4}
    expected |= {(name, "sensitivity_max"): 30 for name in ("straight_through", "pass_through")}
    for (name, score), count in expected.items():
        there = scores.scores.sel(map=name, score=score).notnull()
        assert there[:count].all() and not there[count:].any(), (name, score)
    assert scores.scores.notnull().any("image").sum() == len(expected)
    floors = scores.floors.notnull().all("few").sum("score").to_series()
    assert floors.tolist() == [len(every) + (name in ("straight_through", "pass_through")) for name in METHODS]


def test_arrays_and_labels(scored):
    """Every array with its dimensions."""
    expected = dict.fromkeys(("label", "predicted", "probability"), ("image",)) | {
        "scores": ("map", "score", "image"), "floors": ("explainer", "score", "few"),
        "preservation": ("likeness", "image"), "seed_to_seed": ("likeness", "image"),
        "cascade": ("redrawn", "likeness", "few"), "gradient": ("draw",),
        "curves": ("order", "level"), "accuracies": ("accuracy_order", "accuracy_level"),
        "kept_image": ("kept", "y", "x"), "kept_map": ("kept", "y", "x"), "kept_map_pass_through": ("kept", "y", "x"),
    }  # fmt: skip
    for found in scored.values():
        assert {name: array.dims for name, array in found.items()} == expected
    assert found.few.values.tolist() == found.image.values[:4].tolist()
    assert (len(found.image), len(found.level), list(found.likeness.values)) == (30, 8, list(SCORES)[-4:])


def method_maps(own, images, targets):
    """Maps by every method, as METHODS has them, with the seed's noise and the mean of the training images."""
    extras = {"integrated_gradients": {"baseline": mean_fill()}}
    extras |= {name: {"generator": draws(SEED, "methods")} for name in ("smoothgrad", "smoothgrad_pass_through")}
    return {name: method(own, images, targets, **extras.get(name, {})) for name, method in METHODS.items()}


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_every_map_is_scored_by_the_network_as_it_is_deployed(scored, precision):
    """Its own by every method and with other quantizers, other networks', those that know nothing, its twin's."""
    found, own, images = scored[precision], network(precision), images_of(scored[precision])
    targets = own(images).argmax(1)
    few = own, images[:4], targets[:4]
    maps = method_maps(own, images, targets) | controls.surrogate_maps(own, images, targets)
    maps["other_seed"] = input_gradient(network(precision, seed=1), images, targets, saturated="pass")
    if precision == "w2a2":
        maps["fp32_twin"] = input_gradient(network("fp32"), images, targets)
    blind = controls.control_maps(images, draws(SEED, "controls"))
    maps |= {name: blind.pop(name) for name in ("image", "sobel")}
    for name, each in maps.items():
        check(found.scores.sel(map=name), own, images, targets, each)
    cheap = {name: each[:4] for name, each in blind.items()}
    for name, each in (cheap | {"finite_differences": saliency.finite_differences(*few, 32 / 255)}).items():
        check(found.scores.sel(map=name), *few, each)
    for name, each in (("straight_through", maps["straight_through"][:4]), ("image", images[:4, 0])):
        gain = relevance_gain(*few, each, SCORING.clarity.steps, "zero")
        np.testing.assert_allclose(found.scores.sel(map=name, score="relevance_gain_zero")[:4], gain, atol=1e-5)
    for name in ("entropy", "auroc", "gini_near", "dead"):
        expected = map_scores(images, maps["straight_through"])[name]
        np.testing.assert_array_equal(found.scores.sel(map="straight_through", score=name), expected)
    for name, saturated in (("straight_through", "stop"), ("pass_through", "pass")):
        noise = {"generator": draws(SEED, "sensitivity"), "radius": 0.02, "draws": 3, "saturated": saturated}
        expected = controls.sensitivity_max(own, images, targets, **noise)
        np.testing.assert_allclose(found.scores.sel(map=name, score="sensitivity_max"), expected, rtol=1e-4)
    twin = controls.untrained(own, images, SEED)
    theirs = twin, images[:4], twin(images[:4]).argmax(1)
    for name, each in method_maps(*theirs).items():
        check(found.floors.sel(explainer=name), *theirs, each)


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_likeness_to_other_networks_and_to_itself(scored, precision):
    """To the straight-through maps of the reference and of another seed, and while layers are drawn anew."""
    found, own, images = scored[precision], network(precision), images_of(scored[precision])
    targets = own(images).argmax(1)
    maps, few = input_gradient(own, images, targets), (own, images[:4], targets[:4])
    np.testing.assert_array_equal(found.predicted, targets)
    np.testing.assert_allclose(found.probability, own(images).softmax(1).amax(1).detach(), rtol=1e-5)
    for name, other in (("preservation", network("fp32")), ("seed_to_seed", network(precision, seed=1))):
        alike = preservation_scores(maps, input_gradient(other, images, targets))
        np.testing.assert_array_equal(found[name], torch.stack(list(alike.values())))
    twin = controls.untrained(own, images, SEED)
    for name, each in controls.redrawn_maps(own, twin, *few[1:], images).items():
        alike = torch.stack(list(preservation_scores(input_gradient(*few), each).values()))
        np.testing.assert_array_equal(found.cascade.sel(redrawn=name), alike)


def test_without_another_network_there_is_no_map_of_it():
    """Nor a likeness: a single seed has no partner."""
    found = score_network("mnist", replace(SCORING, images=4), SEED, network("w2a2"), {})
    assert not {"fp32_twin", "other_seed"} & set(found["map"].values) and found.seed_to_seed.isnull().all()
    assert (found.preservation.sel(likeness=["spearman", "ssim"]) > 0.999).all()


@pytest.mark.parametrize("precision", ["fp32", "w2a2"])
def test_lines_of_removal(scored, precision):
    """Probability with the mean, accuracy on the labels with zeros: of the map, and in an order drawn by itself."""
    found, own, images = scored[precision], network(precision), images_of(scored[precision])[:4]
    predicted, labels = (torch.from_numpy(found[name].values[:4]).long() for name in ("predicted", "label"))
    counts = (784 * found.level.values).round().astype(int)
    order = random_ranks(images, draws(SEED, "curves"))[None]
    line = remains(own, images, predicted, order, counts, mean_fill()).probability[0]
    np.testing.assert_allclose(found.curves.sel(order="random"), line.mean(0), rtol=1e-5)
    most, least, chance = (found.curves.sel(order=order).values for order in ("most", "least", "random"))
    gain = found.scores.sel(map="straight_through", score="relevance_gain_mean")[:4].mean().item()
    assert np.trapezoid(least - most, found.level) == pytest.approx(gain, abs=1e-6)
    for curve in (most, least):
        np.testing.assert_allclose(curve[[0, -1]], chance[[0, -1]], atol=1e-6)
    counts, blank = (784 * found.accuracy_level.values).round().astype(int), torch.zeros_like(images[:1])
    order = random_ranks(images, draws(SEED, "accuracies"))[None]
    line = remains(own, images, labels, order, counts, blank).correct[0]
    np.testing.assert_array_equal(found.accuracies.sel(accuracy_order="random"), line.double().mean(0))
    salience = input_gradient(own, images, predicted).abs().flatten(1)
    left = images.flatten(1).clone()
    left.scatter_(1, salience.argsort(dim=1, descending=True, stable=True)[:, :392], 0.0)
    right = (own(left.view_as(images)).argmax(1) == labels).double().mean().item()
    assert found.accuracies.sel(accuracy_order="most").values[5] == pytest.approx(right)


def test_stored_maps_come_one_a_class_first(scored):
    """The first stored images show every class once; image and maps are those at their places; gradients are drawn."""
    scores, images, own = scored["w2a2"], images_of(scored["w2a2"]), network("w2a2")
    labels = scores.label.sel(image=scores.kept).values
    classes = sorted(set(scores.label.values))
    assert labels[: len(classes)].tolist() == classes and max(np.unique(labels, return_counts=True)[1]) <= 5
    at = [scores.image.values.tolist().index(place) for place in scores.kept.values]
    np.testing.assert_array_equal(scores.kept_image, (images[at].squeeze(1) * 255).round())
    maps = input_gradient(own, images)
    np.testing.assert_array_equal(scores.kept_map, maps[at])
    np.testing.assert_array_equal(scores.kept_map_pass_through, input_gradient(own, images, saturated="pass")[at])
    order = torch.randperm(maps.numel(), generator=draws(SEED, "gradients"))
    np.testing.assert_array_equal(scores.gradient, maps.flatten()[order[:2000]])


def test_a_new_score_and_a_new_method_are_one_entry_and_change_no_other_number(scored, monkeypatch):
    """The score is a column, the method a row; what they draw moves nobody's draw."""

    def random_map(model, images, targets, *, generator):
        return torch.rand(images[:, 0].shape, generator=generator)

    words = ("Peak", "P", "higher", 0, 1, None, "Is one pixel the map?")
    monkeypatch.setitem(SCORES, "peak", Score(lambda maps, images: maps.abs().amax((1, 2)).double(), *words))
    monkeypatch.setitem(METHODS, "random", random_map)
    others = {"fp32_twin": network("fp32"), "other_seed": network("w2a2", seed=1)}
    found = score_network("mnist", SCORING, SEED, network("w2a2"), others)
    peak = input_gradient(network("w2a2"), images_of(found)).abs().amax((1, 2))
    np.testing.assert_array_equal(found.scores.sel(map="straight_through", score="peak"), peak)
    assert found.scores.sel(map="random", score="gini").notnull().all()
    without = found.drop_sel(score="peak", map="random", explainer="random")
    xr.testing.assert_identical(without, scored["w2a2"])


def test_a_dead_network_has_dead_maps():
    """NaN everywhere, a dead rate of 1, and no made-up explanation; controls and other networks have scores."""
    found = score_network("mnist", SCORING, SEED, dead_network(), {"fp32_twin": network("fp32")})
    own = found.scores.sel(map=list(METHODS))
    assert (own.sel(map="straight_through", score="dead") == 1).all() and own.drop_sel(score="dead").isnull().all()
    assert found.scores.sel(map=["finite_differences", "weights_off"]).isnull().all()
    assert found.preservation.isnull().all() and (found.kept_map == 0).all()
    assert (found.scores.sel(map=[*BLIND, "fp32_twin"], score=list(GAINS)).fillna(0) == 0).all()
    assert found.scores.sel(map="fp32_twin", score="gini").notnull().all()
    assert found.floors.sel(score="gini").notnull().all() and found.curves.sel(order="random").notnull().all()


def test_no_score_asks_mkl_for_an_exponential():
    """Of a tensor's exp, log or square root MKL has three versions, and the processor decides which."""
    own, reference = (build(precision, seed=3).eval() for precision in ("w2a2", "fp32"))
    with Called() as called:
        score_network("mnist", SCORING, 3, own, {"fp32_twin": reference})
    assert "_softmax" in called.names, "the scoring was not seen"
    assert not called.names & VECTOR_MATH


# ------------------------------------------------------------------------------------------ summaries, curves, fills


def test_summary_is_the_mean_over_the_images():
    """Of both gradients, score by score by the public functions; a dead network has none: NaN, not an error."""
    own, images = network("w2a2"), scored_images("mnist", SCORING).images
    found, expected = summary_scores(own, "mnist", SCORING), {}
    for prefix, saturated in (("", "stop"), ("pass_through_", "pass")):
        maps = input_gradient(own, images, saturated=saturated)
        of_maps = expected_scores(own, images, own(images).argmax(1), maps)
        expected |= {f"{prefix}{name}": values.nanmean().item() for name, values in of_maps.items()}
    assert found == {name: pytest.approx(value, abs=1e-4) for name, value in expected.items()}
    assert list(summary_scores(own, "mnist", SCORING, ["straight_through"])) == [*PRIMARY, *GAINS, "amplitude"]
    assert all(value != value for value in summary_scores(dead_network(), "mnist", SCORING).values())


def test_a_dead_map_has_no_part_in_a_mean(monkeypatch):
    """The others have."""
    monkeypatch.setattr(Explained, "scores", lambda explained, maps: {"gini": torch.tensor([torch.nan, 1.0, 3.0])})
    assert summary_scores(network("w2a2"), "mnist", SCORING) == {"gini": 2, "pass_through_gini": 2}


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
    assert found.loc[1, [*expected, "gini_se"]].isna().all() and 0 <= found.accuracy[1] <= 40


def test_fill_gains_are_those_of_the_map_and_of_the_image_itself():
    """Means over validation images with every fill; the classes are the network's own."""
    own, images = network("fp32"), scored_images("mnist", SCORING, "validation").images
    found = scoring.fill_gains("mnist", SCORING, own)
    for name, maps in (("straight_through", input_gradient(own, images)), ("image", images.squeeze(1))):
        expected = expected_scores(own, images, own(images).argmax(1), maps)
        zero = relevance_gain(own, images, own(images).argmax(1), maps, SCORING.clarity.steps, "zero")
        means = [zero.mean().item(), *(expected[gain].mean().item() for gain in GAINS)]
        assert found[name] == pytest.approx(means, abs=1e-5)


@pytest.mark.parametrize(
    ("own", "image", "qualifies"),
    [
        ([0.5, 0.4, 0.6], [0.3, 0.3, 0.3], True),
        ([0.5, 0.4, 0.6], [0.4, 0.41, 0.4], False),
        ([0.5] * 6, [0.4, 0.38, 0.39, 0.51, 0.38, 0.4], True),
        ([0.5, np.nan], [0.3, 0.3], False),
        ([-0.1], [-0.2], True),
        ([-0.2], [-0.2], False),
    ],
    ids=["surely", "on average", "in the mean, not in each", "a network without maps", "a single one", "no lead"],
)
def test_the_image_itself_must_surely_lose(own, image, qualifies):
    """By the lower bound of the mean lead, each fill by itself, in order; zero never qualifies."""
    table = pd.DataFrame({"seed": range(len(own)), "fill": "mean", "straight_through": own, "image": image})
    parts = [table.assign(fill="zero", image=-9.0), table, table.assign(fill="blur", image=-9.0)]
    zero, row, other = scoring.qualify(pd.concat(parts)).to_dict("records")
    assert [each["fill"] for each in (zero, row, other)] == ["zero", "mean", "blur"] and row["seeds"] == len(own)
    leads = np.subtract(own, image)
    bound = leads.mean()
    if len(own) > 1:
        bound = stats.ttest_1samp(leads, 0, alternative="greater").confidence_interval(0.95).low
    assert row["low"] == pytest.approx(bound, nan_ok=True) and row["lead"] == pytest.approx(leads.mean(), nan_ok=True)
    assert row["straight_through"] == pytest.approx(np.nanmean(own))
    assert row["qualifies"] == qualifies and other["qualifies"] == np.isfinite(own).all() and not zero["qualifies"]
