"""Scores of a map and of two: closed forms, brute-force twins, properties, maps that must rank, ranks to the bit."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, stats
from skimage.metrics import structural_similarity

from saqlib import scores
from saqlib.data import as_input, load
from saqlib.saliency import input_gradient
from saqlib.scores import (
    SCORES,
    amplitude,
    auroc,
    cosine,
    dead,
    entropy,
    foreground_mass,
    gini,
    gini_near,
    magnitude,
    morans_i,
)
from study import models, paths

SIDE = 28
PIXELS = SIDE * SIDE
MAP_SCORES = [gini, morans_i, entropy]
FOREGROUND_SCORES = [foreground_mass, auroc]
LIKENESSES = [scores.spearman, scores.top_overlap, cosine, scores.ssim]


def random_maps(seed, count=6, side=SIDE):
    """Signed Gaussian maps in float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, side, side)))


def half_foreground(count, side=SIDE, share=0.3, seed=0):
    """Random masks that hold neither no pixel nor all."""
    mask = np.random.default_rng(seed).random((count, side, side)) < share
    mask[:, 0, 0], mask[:, 0, 1] = True, False
    return torch.from_numpy(mask)


small_maps = hnp.arrays(
    np.float64, (1, 5, 4), elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3, width=32))
).filter(lambda maps: np.abs(maps).sum() > 1e-3)


def test_registry_is_in_order_and_whole():
    """Scores of maps, of the network and of likeness; ranges in order with chance within; no two look alike."""
    assert list(SCORES)[:4] == [*scores.PRIMARY, "relevance_gain"]
    assert scores.GAINS == tuple(f"relevance_gain_{fill}" for fill in scores.FILLS if fill != "zero")
    assert tuple(SCORES)[-4:] == scores.PRESERVATION == tuple(score.__name__ for score in LIKENESSES)
    assert set(scores.ANSWERS) <= {*SCORES, scores.FAITHFULNESS}
    for name, score in SCORES.items():
        assert re.fullmatch("[a-z][a-z0-9_]*", name) and score.low < score.high
        assert score.question.endswith("?") and score.question[0].isupper()
        assert score.chance is None or score.low <= score.chance <= score.high
        assert score.arrow == {"higher": "↑", "lower": "↓"}[score.direction]
        assert (score.function is None) == (score.of == "network")
    for kind in ("name", "symbol", "question"):
        assert len({getattr(score, kind) for score in SCORES.values()}) == len(SCORES)


def test_all_scores_of_a_map_at_once():
    """Each under its id as by its own function, in float64; the foreground is any pixel with a channel above 0."""
    images, maps = torch.zeros(5, 3, SIDE, SIDE), random_maps(14, 5).float()
    inside, rows = half_foreground(5), torch.arange(SIDE) % 3
    for channel in range(3):
        images[:, channel, rows == channel] = inside[:, rows == channel].float()
    maps[3] = 0
    expected = all_scores(maps, inside) | {"dead": torch.tensor([0.0, 0, 0, 1, 0]).double()}
    found = scores.map_scores(images, maps)
    assert set(found) == set(expected) == {name for name, score in SCORES.items() if score.of == "map"}
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=0, equal_nan=True)


def moran_twin(m, _):
    """Moran's I as the quadratic form with the full matrix of rook weights."""
    places = np.indices(m.shape).reshape(2, -1).T
    weights = (np.abs(places[:, None] - places).sum(2) == 1).astype(float)
    d = m.ravel() - m.mean()
    return m.size / weights.sum() * (d @ weights @ d) / (d @ d) if np.ptp(m) > 1e-3 else None


def mass_twin(m, inside):
    """The share of the magnitude on the foreground, corrected for its area."""
    area = inside.mean()
    return (m[inside].sum() / m.sum() - area) / (1 - area)


def auroc_twin(m, inside):
    """U over all pairs of a pixel inside and one outside, ties counting one half."""
    return stats.mannwhitneyu(m[inside], m[~inside]).statistic / (inside.sum() * (~inside).sum())


TWINS = {  # of one map's magnitudes and its foreground; None: not asked here. With the tolerance.
    gini: (lambda m, _: np.abs(np.subtract.outer(m, m)).mean() / (2 * m.mean()), 1e-12),
    morans_i: (moran_twin, 1e-9),
    entropy: (lambda m, _: stats.entropy(m.ravel()) / np.log(m.size), 1e-13),
    amplitude: (lambda m, _: np.mean(sorted(m.ravel())[9:11]), 0),
    foreground_mass: (mass_twin, 1e-12),
    auroc: (auroc_twin, 1e-12),
}


@pytest.mark.parametrize("score", TWINS)
@given(maps=small_maps, inside=hnp.arrays(bool, (5, 4)).filter(lambda inside: 0 < inside.sum() < 20))
def test_scores_by_brute_force(score, maps, inside):
    """By all pairs, a dense matrix, pixel by pixel or by scipy, on a map that is not square; any scale, ties, zeros."""
    twin, tolerance = TWINS[score]
    foreground = [torch.from_numpy(inside[None] * np.uint8(9))] if score in FOREGROUND_SCORES else []
    expected = twin(np.abs(maps[0]), inside)
    if expected is not None:
        assert score(torch.from_numpy(maps), *foreground).item() == pytest.approx(expected, rel=0, abs=tolerance)


def test_closed_forms():
    """Of a uniform map to the bit, whatever its value's rounding; of one pixel; of a checkerboard."""
    uniform = torch.tensor([0.1, 1 / 3, 7.7]).double()[:, None, None].expand(3, SIDE, SIDE)
    assert (gini(uniform) == 0).all() and morans_i(uniform).isnan().all()
    assert (auroc(uniform, half_foreground(3)) == 0.5).all()
    assert entropy(uniform).tolist() == pytest.approx([1, 1, 1], abs=1e-14)
    pixel = torch.zeros(1, SIDE, SIDE)
    pixel[0, 3, 7] = 2.5
    assert gini(pixel).item() == pytest.approx(1 - 1 / PIXELS, abs=1e-15)
    assert entropy(pixel).item() == 0 and abs(morans_i(pixel).item()) < 0.002
    checkers = torch.from_numpy((np.indices((SIDE, SIDE)).sum(0) % 2).astype(float))[None]
    assert gini(checkers).item() == pytest.approx(0.5, abs=1e-15)
    assert morans_i(checkers).item() == pytest.approx(-1, abs=1e-14)


def test_gini_near_the_object_is_that_of_its_pixels_alone():
    """The pixels within 4 of the foreground as a row by themselves; what lies further off decides nothing."""
    maps, foreground = random_maps(3, 4), torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    foreground[0, 10, 12] = foreground[1, 0, 0] = foreground[2, 4:20, 9] = True
    near = [(slice(6, 15), slice(8, 17)), (slice(5), slice(5)), (slice(24), slice(5, 14))]
    for index, (rows, columns) in enumerate(near):
        own = maps[index, rows, columns].reshape(1, 1, -1)
        assert gini_near(maps, foreground)[index].item() == pytest.approx(gini(own).item(), abs=1e-12)
        further = maps.clone().fill_(9.0)
        further[index, rows, columns] = maps[index, rows, columns]
        assert gini_near(further, foreground)[index] == gini_near(maps, foreground)[index]
    assert gini_near(maps, foreground)[3].isnan()  # without any object
    assert gini_near(torch.zeros_like(maps).index_fill(2, torch.tensor([27]), 1.0), foreground)[:2].isnan().all()


@pytest.mark.parametrize("share", [0.06, 0.9])
def test_foreground_scores_of_noise_are_chance(share):
    """White noise scores 0 and one half on average, whatever the area of the foreground."""
    maps, inside = random_maps(7, 1500), half_foreground(1500, share=share)
    for score in FOREGROUND_SCORES:
        values = score(maps, inside)
        assert abs(values.mean() - SCORES[score.__name__].chance) < 4 * values.std() / 1500**0.5


@pytest.mark.parametrize("score", FOREGROUND_SCORES)
def test_empty_and_full_foreground_are_nan(score):
    """Without foreground or background there is no score; the other images keep theirs."""
    maps, inside = random_maps(8, 3), half_foreground(3)
    inside[0], inside[2] = False, True
    np.testing.assert_array_equal(score(maps, inside).isnan(), [True, False, True])


# ------------------------------------------------------------------------------------------ what holds for all of them


def all_scores(maps, inside):
    """Every score that needs no network."""
    without = {score.__name__: score(maps) for score in MAP_SCORES}
    return without | {score.__name__: score(maps, inside) for score in (*FOREGROUND_SCORES, gini_near)}


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_and_sign_do_not_matter(scale):
    """A map times 1e-30 to 1e30, or with other signs, scores the same."""
    maps, inside = random_maps(12), half_foreground(6)
    signs = torch.where(half_foreground(6, seed=5), 1.0, -1.0)
    expected = all_scores(maps, inside)
    for other in (maps * scale, (maps * scale).float(), maps * signs):
        for name, value in all_scores(other, inside).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_dead_maps_are_nan_and_leave_the_others_as_they_are():
    """All-zero maps, NaN and infinity score NaN everywhere; the other images of the batch keep their scores."""
    maps, inside = random_maps(13, 5), half_foreground(5)
    expected = all_scores(maps, inside)
    maps[1], maps[2, 4, 4], maps[3, 0, 0] = 0, torch.nan, torch.inf
    np.testing.assert_array_equal(dead(maps), [False, True, True, True, False])
    for name, value in all_scores(maps, inside).items():
        np.testing.assert_array_equal(value.isnan(), dead(maps), err_msg=name)
        assert torch.equal(value[[0, 4]], expected[name][[0, 4]]), name
        assert value.dtype == torch.float64


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_scores_keep_their_stated_range(seed):
    """Every score lies in the range that its entry states, sparse and smooth maps included."""
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.normal(size=(4, SIDE, SIDE)) * (rng.random((4, SIDE, SIDE)) < rng.random()))
    maps[0] = torch.from_numpy(np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(float))
    likeness = scores.preservation_scores(maps, maps.flip(0))
    for name, value in (all_scores(maps, half_foreground(4, seed=seed)) | likeness).items():
        value = value[~value.isnan()]
        assert (value >= SCORES[name].low - 1e-12).all() and (value <= SCORES[name].high + 1e-12).all(), name


@pytest.mark.parametrize("score", [*MAP_SCORES, amplitude, *FOREGROUND_SCORES, gini_near])
def test_wrong_shapes_are_named(score):
    """Maps that are not (B, H, W), and a foreground of another shape."""
    foreground = [torch.ones(2, 1, SIDE, SIDE)] if score in (*FOREGROUND_SCORES, gini_near) else []
    for shape in ((SIDE, SIDE), (2, 1, SIDE, SIDE)):
        with pytest.raises(ValueError, match="maps must have shape .*28"):
            score(torch.ones(shape), *foreground)
    for wrong in foreground:
        with pytest.raises(ValueError, match="foreground must have the shape"):
            score(torch.ones(2, SIDE, SIDE), wrong)


# ----------------------------------------------------------------------------------------------------------- likeness


@pytest.fixture
def maps():
    """Signed maps."""
    return random_maps(0, 8)


@pytest.fixture
def reference(maps):
    """Maps that resemble those more and more."""
    return maps + random_maps(1, 8) * torch.linspace(3, 0.1, 8)[:, None, None]


def overlap_twin(a, b):
    """Intersection over union of the sets of the 78 largest magnitudes."""
    top_a, top_b = (set(np.argsort(-np.abs(m), axis=None)[:78].tolist()) for m in (a, b))
    return len(top_a & top_b) / len(top_a | top_b)


def ssim_twin(a, b):
    """scikit-image's, window 7, data range 1, of magnitudes over their maxima."""
    a, b = (np.abs(m) / np.abs(m).max() for m in (a, b))
    return structural_similarity(a, b, win_size=7, data_range=1.0)


LIKENESS_TWINS = {  # with the tolerance
    scores.spearman: (lambda a, b: stats.spearmanr(np.abs(a).ravel(), np.abs(b).ravel())[0], 1e-12),
    scores.top_overlap: (overlap_twin, 1e-15),
    cosine: (lambda a, b: (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), 1e-12),
    scores.ssim: (ssim_twin, 1e-10),
}


@pytest.mark.parametrize("score", LIKENESSES)
def test_likeness_equals_its_twin(score, maps, reference):
    """By scipy, sets, NumPy and scikit-image; mid-ranks for ties, and the signs in the cosine alone."""
    twin, tolerance = LIKENESS_TWINS[score]
    if score == scores.spearman:
        maps, reference = (2 * maps).round(), (2 * reference).round()
    expected = [twin(*pair) for pair in zip(maps.numpy(), reference.numpy(), strict=True)]
    np.testing.assert_allclose(score(maps, reference), expected, rtol=tolerance, atol=tolerance / 10)


def test_what_ranks_nothing_has_no_rank_correlation_and_zeros_are_never_on_top():
    """A constant map; and two sparse ones, which would agree on pixels that neither of them marks."""
    x, y = torch.zeros(2, 1, SIDE, SIDE)
    x[0, 20, 3:9], y[0, 24, 3:9] = 1, 1
    assert scores.spearman(x, torch.full_like(x, 0.1)).isnan().all()
    assert scores.top_overlap(x, y).item() == 0 and scores.top_overlap(x, x).item() == 1


@pytest.mark.parametrize("score", LIKENESSES)
def test_likeness_is_mutual_rises_as_noise_falls_and_is_nan_of_the_dead(score, maps, reference):
    """A map is wholly like itself; dead on either side is NaN and leaves the others as they are."""
    torch.testing.assert_close(score(maps, maps), torch.ones(8).double())
    expected = score(maps, reference)
    torch.testing.assert_close(expected, score(reference, maps))
    assert expected[-1] > expected[0] + 0.3
    maps, reference = maps.clone(), reference.clone()
    maps[1], reference[2], maps[3, 0, 0] = 0, 0, torch.inf
    value = score(maps, reference)
    np.testing.assert_array_equal(value.isnan(), [False, True, True, True] + 4 * [False])
    assert torch.equal(value[4:], expected[4:])
    with pytest.raises(ValueError, match="one shape"):
        score(maps, maps[:4])


# -------------------------------------------------------------------------------------------------- ranks, magnitudes

finite = st.floats(allow_nan=False, allow_infinity=False)
ties = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2**-52, 2.5, -3.0, 5e-324, 1e308])  # and values that are nearly ties
shapes = st.tuples(st.integers(1, 4), st.integers(1, 12))
rows = hnp.arrays(np.float64, shapes, elements=st.one_of(finite, ties))
# Magnitudes of float32 maps are ranked by their bits: subnormal ones, both zeros, infinity and neighbours among them.
narrow = st.one_of(
    st.floats(0, width=32, allow_nan=False),
    st.sampled_from([0.0, -0.0, 1.0, float(np.nextafter(np.float32(1), np.float32(2))), 2.0**-149, 3e38, np.inf]),
)
magnitudes = hnp.arrays(np.float32, shapes, elements=narrow)


def stable_twin(row, descending=False):
    """Places of one row in plain Python: sorted by value, then by column."""
    order = sorted(range(len(row)), key=lambda i: (-row[i] if descending else row[i], i))
    return [order.index(i) for i in range(len(row))]


def mid_twin(row):
    """Mid-ranks of one row by counting: those below, and half of the equal ones with the value itself."""
    return [sum(x < value for x in row) + (sum(x == value for x in row) + 1) / 2 for value in row]


@given(values=st.one_of(rows, magnitudes), descending=st.booleans())
def test_ranks_by_plain_sort_and_by_counting(values, descending):
    """Exactly the places of Python's stable sort, both ways, and the mean of the ranks that equal values share."""
    maps, finite_rows = torch.from_numpy(values), np.nan_to_num(values).tolist()
    stable, mid = scores.stable_ranks(maps, descending=descending), scores.mid_ranks(maps)
    assert (stable.dtype, mid.dtype) == (torch.int64, torch.float64)
    assert stable.tolist() == [stable_twin(row, descending) for row in finite_rows]
    assert mid.tolist() == [mid_twin(row) for row in finite_rows]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_ranks_of_whole_maps_with_ties_and_nan(kind):
    """At the size of the study, too; a row with NaN has no mid-ranks, and of nothing else the order of the columns."""
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 40, (3, 784)) / 7).to(kind)
    assert scores.stable_ranks(values).tolist() == [stable_twin(row) for row in values.tolist()]
    expected = [mid_twin(row) for row in values.tolist()]
    values[1, 5] = torch.nan
    first, spoilt, last = scores.mid_ranks(values)
    assert [first.tolist(), last.tolist()] == [expected[0], expected[2]] and spoilt.isnan().all()
    for descending in (False, True):
        nothing = scores.stable_ranks(torch.full((2, 9), torch.nan, dtype=kind), descending=descending)
        assert nothing.tolist() == [list(range(9))] * 2


def test_magnitude_is_the_absolute_value_as_float64():
    """(B, H, W) becomes (B, H * W), signs gone, free of the graph, in float64; dead maps are rows of NaN."""
    maps = torch.tensor([[[1.5, -2.0], [0.0, -0.25]], [[0.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    found = magnitude(maps)
    assert found.dtype == torch.float64 and not found.requires_grad
    assert found[0].tolist() == [1.5, 2.0, 0.0, 0.25] and found[1].isnan().all()
    for kind in (torch.float32, torch.float64, torch.float16, torch.int32):
        same = scores.absolute((4 * maps).to(kind))
        assert same.dtype == (torch.float32 if kind == torch.float32 else torch.float64)
        assert same[0].tolist() == [6.0, 8.0, 0.0, 1.0] and not same.requires_grad


@pytest.mark.parametrize("cell", ["mnist-fp32-guided", "mnist-w2a2-standard"])
def test_a_first_layer_bias_above_0_gives_the_blank_background_a_gradient(cell):
    """Exactly 0 without one, far from the digit; with one it is not, the index falls, and less so near the digit."""
    network, images = models.load(cell), as_input(load("mnist", "validation", paths.SAMPLE)[0][:40])
    digit = scores.foreground_of(images)
    far = np.stack([ndimage.distance_transform_cdt(~each, "chessboard") > scores.NEAR for each in digit.numpy()])
    found = []
    with torch.no_grad():
        network.conv1.bias.clamp_(max=-0.01)
    for bias in (-0.01, 0.2):
        with torch.no_grad():
            network.conv1.bias[0] = bias
        maps = input_gradient(network, images)
        assert (bias > 0) == bool((maps.numpy()[far] != 0).mean() > 0.9) == maps.numpy()[far].any()
        found.append([gini(maps).mean(), gini_near(maps, digit).mean()])
    whole, near = np.subtract(*found)
    assert whole > 0.05 and abs(near) < whole
