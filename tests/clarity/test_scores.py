"""Scores of a map alone, and all together: closed forms, brute-force twins, properties, maps that must rank."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch import nn

from saqlib import clarity
from saqlib.clarity.controls import control_maps
from saqlib.clarity.maps import dead
from saqlib.clarity.preservation import preservation_scores
from saqlib.clarity.removal import symmetric_relevance_gain
from saqlib.clarity.scores import amplitude, auroc, clarity_scores, entropy, foreground_mass, gini, map_scores, morans_i
from saqlib.names import PRESERVATION, PRIMARY
from saqlib.saliency.gradient import input_gradient
from saqlib.words import CONTROLS, SCORES

SIDE = 28
PIXELS = SIDE * SIDE
MAP_SCORES = [gini, morans_i, entropy]
FOREGROUND_SCORES = [foreground_mass, auroc]


def random_maps(seed, count=6, side=SIDE):
    """Signed Gaussian maps in float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, side, side)))


def one_hot_map(row=3, column=7):
    """A map of one pixel."""
    maps = torch.zeros(1, SIDE, SIDE)
    maps[0, row, column] = 2.5
    return maps


def checkerboard():
    """Ones and zeros in turn."""
    return torch.from_numpy((np.indices((SIDE, SIDE)).sum(0) % 2).astype(float))[None]


def ring():
    """A soft ring of radius 8 around the centre."""
    y, x = np.mgrid[:SIDE, :SIDE] - 13.5
    return torch.from_numpy(np.exp(-(((np.hypot(y, x) - 8) / 1.25) ** 2)))[None]


def half_foreground(count, side=SIDE, share=0.3, seed=0):
    """Random masks that hold neither no pixel nor all."""
    mask = np.random.default_rng(seed).random((count, side, side)) < share
    mask[:, 0, 0], mask[:, 0, 1] = True, False
    return torch.from_numpy(mask)


small_maps = hnp.arrays(
    np.float64, (1, 5, 4), elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3, width=32))
).filter(lambda maps: np.abs(maps).sum() > 1e-3)


# --- Gini ---


@given(maps=small_maps)
def test_gini_by_brute_force(maps):
    """Gini is half the mean absolute difference of all pairs over the mean."""
    m = np.abs(maps).ravel()
    expected = np.abs(m[:, None] - m).mean() / (2 * m.mean())
    assert gini(torch.from_numpy(maps)).item() == pytest.approx(expected, abs=1e-12)


def test_gini_closed_forms():
    """A uniform map gives exactly 0, one pixel 1 - 1/n, a checkerboard one half."""
    assert gini(torch.full((1, SIDE, SIDE), 0.1)).item() == 0
    assert gini(one_hot_map()).item() == pytest.approx(1 - 1 / PIXELS, abs=1e-15)
    assert gini(checkerboard()).item() == pytest.approx(0.5, abs=1e-15)


@given(seed=st.integers(0, 1000), poor=st.integers(0, 8), rich=st.integers(9, 18), share=st.floats(0.05, 1))
def test_gini_rises_when_the_poor_give_to_the_rich(seed, poor, rich, share):
    """A transfer from a smaller to a larger pixel raises Gini (Pigou and Dalton)."""
    m = np.sort(np.random.default_rng(seed).random(20) + 0.1)
    moved = m.copy()
    moved[poor] -= share * m[poor]
    moved[rich] += share * m[poor]
    before, after = gini(torch.from_numpy(np.stack([m, moved]).reshape(2, 5, 4)))
    assert after > before


def test_gini_of_a_padded_map():
    """Zeros around a map of n pixels give G' = 1 - (n/n')(1 - G)."""
    maps = random_maps(1, side=10)
    padded = torch.nn.functional.pad(maps, (3, 3, 3, 3))
    torch.testing.assert_close(gini(padded), 1 - (100 / 256) * (1 - gini(maps)), rtol=0, atol=1e-14)


# --- Entropy ---


def test_entropy_equals_scipy():
    """Entropy is scipy's over ln n, zeros included."""
    maps = random_maps(2)
    maps[:, :10] = 0
    expected = stats.entropy(maps.abs().flatten(1).numpy(), axis=1) / np.log(PIXELS)
    np.testing.assert_allclose(entropy(maps), expected, rtol=1e-13)


def test_entropy_closed_forms():
    """One pixel gives exactly 0, a uniform map 1."""
    assert entropy(one_hot_map()).item() == 0
    assert entropy(torch.full((1, SIDE, SIDE), 3.0)).item() == pytest.approx(1, abs=1e-14)


# --- amplitude ---


@given(maps=small_maps)
def test_amplitude_is_the_median(maps):
    """Half of the pixels have no larger magnitude; of an even number the two in the middle count as their mean."""
    ordered = sorted(abs(value) for value in maps.ravel())
    assert amplitude(torch.from_numpy(maps)).item() == (ordered[9] + ordered[10]) / 2


@given(maps=small_maps, scale=st.floats(-1e3, 1e3).filter(lambda scale: abs(scale) > 1e-3))
def test_amplitude_is_the_scale_of_a_map(maps, scale):
    """The one number that grows with the map, whatever its sign."""
    found = amplitude(torch.from_numpy(scale * maps)).item()
    assert found == pytest.approx(abs(scale) * amplitude(torch.from_numpy(maps)).item(), rel=1e-12)


def test_amplitude_of_sparse_and_dead_maps():
    """A map of few pixels has a median of 0, and a dead one has none."""
    maps = torch.cat([one_hot_map(), torch.zeros(1, SIDE, SIDE), torch.full((1, SIDE, SIDE), -0.25)])
    np.testing.assert_array_equal(amplitude(maps), [0.0, np.nan, 0.25])
    with pytest.raises(ValueError, match="maps must have shape"):
        amplitude(maps[0])


# --- Moran's I ---


def dense_moran(m):
    """Moran's I with the full matrix of weights, in NumPy."""
    places = np.indices(m.shape).reshape(2, -1).T
    weights = (np.abs(places[:, None] - places).sum(2) == 1).astype(float)
    d = m.ravel() - m.mean()
    return m.size / weights.sum() * (d @ weights @ d) / (d @ d)


@given(maps=small_maps.filter(lambda maps: np.ptp(np.abs(maps)) > 1e-3))
def test_moran_by_brute_force(maps):
    """Moran's I is the quadratic form with the dense rook matrix, on a map that is not square."""
    expected = dense_moran(np.abs(maps[0]))
    assert morans_i(torch.from_numpy(maps)).item() == pytest.approx(expected, abs=1e-9)


def test_moran_closed_forms():
    """A checkerboard gives -1, one pixel nearly 0, a constant NaN whatever its value's rounding."""
    assert morans_i(checkerboard()).item() == pytest.approx(-1, abs=1e-14)
    assert abs(morans_i(one_hot_map()).item()) < 0.002
    constants = torch.tensor([0.1, 1 / 3, 7.7], dtype=torch.float64)
    assert morans_i(constants[:, None, None].expand(3, SIDE, SIDE)).isnan().all()


def test_moran_symmetries():
    """Flips, rotations, transposition, and affine maps of the magnitude leave Moran's I as it is."""
    maps = random_maps(3).abs()
    expected = morans_i(maps)
    for other in [maps.flip(1), maps.flip(2), maps.rot90(1, (1, 2)), maps.mT, 3 * maps + 0.7, -maps]:
        torch.testing.assert_close(morans_i(other), expected, rtol=0, atol=1e-12)


def test_moran_of_random_order():
    """Over 4,000 permutations of a map the mean is -1/(n-1) within its error, the deviation about .026."""
    rng = np.random.default_rng(0)
    m = np.tile(random_maps(4, 1).numpy().reshape(1, -1), (4000, 1))
    values = morans_i(torch.from_numpy(rng.permuted(m, axis=1).reshape(-1, SIDE, SIDE)))
    assert values.mean().item() == pytest.approx(-1 / (PIXELS - 1), abs=4 * 0.0257 / 4000**0.5)
    assert values.std().item() == pytest.approx(0.0257, rel=0.1)


# --- Foreground mass and AUROC ---


def test_foreground_mass_by_brute_force():
    """R is the corrected share, pixel by pixel, from a mask or from raw pixels."""
    maps, inside = random_maps(5), half_foreground(6)
    expected = []
    for m, mask in zip(maps.abs().numpy(), inside.numpy(), strict=True):
        area = mask.sum() / PIXELS
        expected.append((m[mask].sum() / m.sum() - area) / (1 - area))
    np.testing.assert_allclose(foreground_mass(maps, inside), expected, rtol=1e-12)
    raw = inside * torch.randint(1, 256, inside.shape)
    assert torch.equal(foreground_mass(maps, raw.to(torch.uint8)), foreground_mass(maps, inside))


def test_foreground_mass_closed_forms():
    """A uniform map gives 0, one on the foreground 1, and both sides share the whole mass."""
    inside = half_foreground(4)
    torch.testing.assert_close(
        foreground_mass(torch.ones(4, SIDE, SIDE), inside), torch.zeros(4).double(), rtol=0, atol=1e-14
    )
    maps = random_maps(6, 4)
    ones = torch.ones(4).double()
    torch.testing.assert_close(foreground_mass(maps * inside, inside), ones, rtol=0, atol=1e-14)
    area = inside.double().mean((1, 2))
    on, off = foreground_mass(maps, inside), foreground_mass(maps, ~inside)
    torch.testing.assert_close(on * (1 - area) + area + off * area + 1 - area, ones, rtol=0, atol=1e-13)


@pytest.mark.parametrize("share", [0.06, 0.3, 0.9])
def test_foreground_scores_of_noise_are_chance(share):
    """White noise scores 0 and one half on average, whatever the area of the foreground."""
    maps, inside = random_maps(7, 1500), half_foreground(1500, share=share)
    mass, rank = foreground_mass(maps, inside), auroc(maps, inside)
    assert abs(mass.mean()) < 4 * mass.std() / 1500**0.5
    assert abs(rank.mean() - 0.5) < 4 * rank.std() / 1500**0.5


@pytest.mark.parametrize("score", FOREGROUND_SCORES)
@pytest.mark.parametrize("full", [False, True])
def test_empty_and_full_foreground_are_nan(score, full):
    """Without foreground or background there is no score, and no hit; the other images keep theirs."""
    maps, inside = random_maps(8, 3), half_foreground(3)
    inside[1] = full
    np.testing.assert_array_equal(score(maps, inside).isnan(), [False, True, False])


def test_foreground_mass_ignores_order_inside():
    """Moving pixels about within the foreground changes nothing."""
    maps, inside = random_maps(9, 1), half_foreground(1)
    moved = maps.clone()
    moved[inside] = maps[inside].flip(0)
    torch.testing.assert_close(foreground_mass(moved, inside), foreground_mass(maps, inside))


def test_auroc_equals_mann_whitney():
    """AUROC is U over all pairs, ties counting one half."""
    maps, inside = random_maps(10).mul(2).round(), half_foreground(6)
    for value, m, mask in zip(auroc(maps, inside), maps.abs().numpy(), inside.numpy(), strict=True):
        u = stats.mannwhitneyu(m[mask], m[~mask]).statistic
        assert value.item() == pytest.approx(u / (mask.sum() * (~mask).sum()), abs=1e-12)


def test_auroc_closed_forms():
    """A constant gives exactly one half, and a reversed order 1 - AUROC."""
    maps, inside = random_maps(11).abs(), half_foreground(6)
    assert (auroc(torch.full((6, SIDE, SIDE), 0.3), inside) == 0.5).all()
    reversed_maps = maps.amax((1, 2), keepdim=True) + 1 - maps
    torch.testing.assert_close(auroc(reversed_maps, inside), 1 - auroc(maps, inside), rtol=0, atol=1e-12)


# --- What holds for all ---


def all_scores(maps, inside):
    """Every score that needs no network."""
    without = {score.__name__: score(maps) for score in MAP_SCORES}
    return without | {score.__name__: score(maps, inside) for score in FOREGROUND_SCORES}


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e30])
def test_scale_and_sign_do_not_matter(scale):
    """A map times 1e-30 to 1e30, or with other signs, scores the same."""
    maps, inside = random_maps(12), half_foreground(6)
    signs = torch.where(half_foreground(6, seed=5), 1.0, -1.0)
    expected = all_scores(maps, inside)
    for other in (maps * scale, (maps * scale).float(), maps * signs):
        for name, value in all_scores(other, inside).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_only_moran_sees_a_permutation():
    """Gini and entropy stay under a permutation of the pixels; Moran's I of a ring falls to nothing."""
    clean = ring()
    order = torch.from_numpy(np.random.default_rng(0).permutation(PIXELS))
    permuted = clean.flatten(1)[:, order].view_as(clean)
    torch.testing.assert_close(gini(permuted), gini(clean), rtol=0, atol=1e-14)
    torch.testing.assert_close(entropy(permuted), entropy(clean), rtol=0, atol=1e-14)
    assert morans_i(clean) > 0.8
    assert abs(morans_i(permuted)) < 0.1


def test_dead_maps_are_nan_and_alone():
    """All-zero maps, NaN and infinity score NaN everywhere and leave the other images of the batch alone."""
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
    for name, value in all_scores(maps, half_foreground(4, seed=seed)).items():
        value = value[~value.isnan()]
        assert (value >= SCORES[name].low).all() and (value <= SCORES[name].high + 1e-12).all(), name


def test_the_known_maps_rank_as_they_should():
    """Gini and entropy call a speckled ring clearer than a clean one, Moran's I does not."""
    rng = np.random.default_rng(1)
    draws = (100, SIDE, SIDE)
    noise = torch.from_numpy(rng.normal(size=draws))
    maps = {
        "one": one_hot_map(),
        "half": ring() * torch.from_numpy(rng.random(draws) < 0.5),
        "ring": ring(),
        "noisy": ring() + 0.3 * noise.abs(),
        "noise": noise,
        "checker": checkerboard(),
    }
    g, h, i = ({name: score(m).mean().item() for name, m in maps.items()} for score in (gini, entropy, morans_i))
    # Gini, Moran's I and entropy as measured beforehand on one draw with a like ring, hence the tolerance.
    table = {
        "one": (0.999, -0.001, 0.000),
        "half": (0.917, 0.332, 0.664),
        "ring": (0.826, 0.832, 0.776),
        "noisy": (0.454, 0.577, 0.949),
        "noise": (0.405, -0.02, 0.959),
        "checker": (0.500, -1.0, 0.896),
    }
    for name, (gini_value, moran, entropy_value) in table.items():
        assert (g[name], h[name]) == pytest.approx((gini_value, entropy_value), abs=0.02), name
        assert i[name] == pytest.approx(moran, abs=0.05), name
    assert g["one"] > g["half"] > g["ring"] > g["noisy"] > g["noise"]
    assert h["one"] < h["half"] < h["ring"] < h["noisy"] < h["noise"]
    assert i["ring"] > i["noisy"] > i["half"] > i["noise"] > i["checker"]


@pytest.mark.parametrize("score", MAP_SCORES)
@pytest.mark.parametrize("shape", [(SIDE, SIDE), (2, 1, SIDE, SIDE)])
def test_wrong_shape_of_maps_is_named(score, shape):
    """Maps that are not (B, H, W) are refused with their shape."""
    with pytest.raises(ValueError, match="maps must have shape .*28"):
        score(torch.ones(shape))


@pytest.mark.parametrize("score", FOREGROUND_SCORES)
def test_wrong_foreground_is_named(score):
    """A foreground of another shape is refused."""
    with pytest.raises(ValueError, match="foreground must have the shape"):
        score(torch.ones(2, SIDE, SIDE), torch.ones(2, 1, SIDE, SIDE))


# --- The registry, and all scores at once ---


def network(seed=0):
    """A small CNN."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 8, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    ).eval()  # fmt: skip


def pictures(count, seed=0):
    """Images of a bright blob in one of four quarters, which is the label, among faint dirt."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    images = 0.4 * rng.random((count, 1, SIDE, SIDE)) * (rng.random((count, 1, SIDE, SIDE)) < 0.15)
    for image, label in zip(images, labels, strict=True):
        row, column = 14 * (label // 2) + rng.integers(1, 7), 14 * (label % 2) + rng.integers(1, 7)
        image[0, row : row + 6, column : column + 6] = 0.5 + 0.5 * rng.random((6, 6))
    return torch.from_numpy(images).float(), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def trained():
    """The small CNN after 80 steps on the pictures."""
    model = network().train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(80):
        images, labels = pictures(64, seed=step + 1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def test_registry_is_in_order_and_whole():
    """The entries carry their own key, the primary four lead, likeness ends, and every question is one."""
    assert [score.id for score in SCORES.values()] == list(SCORES)
    assert tuple(SCORES)[:4] == PRIMARY and tuple(SCORES)[-4:] == PRESERVATION
    assert len({score.symbol for score in SCORES.values()}) == len(SCORES)
    for score in SCORES.values():
        assert score.low < score.high and score.question.endswith("?")
        assert score.chance is None or score.low <= score.chance <= score.high
        assert score.arrow == {"higher": "↑", "lower": "↓"}[score.direction]


def test_all_scores_at_once(trained):
    """Together the functions return exactly the registry, equal to the single scores."""
    images, labels = pictures(20)
    maps = input_gradient(trained, images, labels)
    maps[3] = 0
    scores = clarity_scores(trained, images, labels, maps, 8)
    preserved = preservation_scores(maps, maps.flip(0))
    expected = [*scores, "sensitivity_max", *preserved]
    assert sorted(expected) == sorted(SCORES)
    assert all(v.dtype == torch.float64 and v.shape == (20,) for v in (*scores.values(), *preserved.values()))
    single = all_scores(maps, images[:, 0] > 0)
    single["relevance_gain_zero"] = symmetric_relevance_gain(trained, images, labels, maps, 8)
    for name, value in single.items():
        torch.testing.assert_close(scores[name], value, rtol=0, atol=0, equal_nan=True)
    assert scores["dead"].tolist() == [float(i == 3) for i in range(20)]
    assert all(value.isnan()[3] for name, value in scores.items() if name != "dead")


def test_scores_without_a_network_are_a_part_of_all(trained):
    """`map_scores` gives six of the scores of `clarity_scores`, and those of the removal are the rest."""
    images, labels = pictures(9)
    maps = input_gradient(trained, images, labels)
    whole, part = clarity_scores(trained, images, labels, maps, 8), map_scores(images, maps)
    assert set(whole) - set(part) == {"relevance_gain_zero", "deletion", "insertion"}
    torch.testing.assert_close(part, {name: whole[name] for name in part}, rtol=1e-12, atol=1e-14)


def test_foreground_of_coloured_images_is_a_pixel_with_any_channel():
    """A pixel that is bright in one of three channels belongs to the object."""
    images, _ = pictures(5)
    coloured = torch.zeros(5, 3, SIDE, SIDE)
    rows = torch.arange(SIDE) % 3
    for channel in range(3):
        coloured[:, channel, rows == channel] = images[:, 0, rows == channel]
    maps = random_maps(14, 5)
    expected, found = map_scores(images, maps), map_scores(coloured, maps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_contract_names_live_in_clarity():
    """What stands in modules of the folder is reached through saqlib.clarity."""
    for name in clarity.__all__:
        assert hasattr(clarity, name)
    assert {*PRIMARY, "sensitivity_max", "preservation_scores", "control_maps"} <= set(clarity.__all__)


def test_a_trained_network_is_told_from_a_random_one(trained):
    """The maps of a trained network mark what it uses, those of its untrained twin do not."""
    images, labels = pictures(60, seed=99)
    scores = {}
    for name, model in {"trained": trained, "random": network(seed=1)}.items():
        scores[name] = clarity_scores(model, images, labels, input_gradient(model, images, labels), 14)
    assert scores["trained"]["relevance_gain_zero"].mean() > 0.2
    assert abs(scores["random"]["relevance_gain_zero"].mean()) < 0.05


def test_controls_go_through_the_same_code(trained):
    """Noise scores chance, one pixel Gini 1 - 1/n, the image lies on itself, edges stand together."""
    images, labels = pictures(60, seed=7)
    controls = control_maps(images, torch.Generator().manual_seed(0))
    assert {"untrained", *controls} == set(CONTROLS)
    scores = {name: clarity_scores(trained, images, labels, maps, 7) for name, maps in controls.items()}
    assert abs(scores["white_noise"]["foreground_mass"].mean()) < 0.03
    assert abs(scores["white_noise"]["morans_i"].mean()) < 0.02
    torch.testing.assert_close(scores["one_hot"]["gini"], torch.full((60,), 1 - 1 / PIXELS).double())
    torch.testing.assert_close(scores["intensity"]["foreground_mass"], torch.ones(60).double())
    assert scores["sobel"]["morans_i"].mean() > scores["white_noise"]["morans_i"].mean() + 0.2
