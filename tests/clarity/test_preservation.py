"""Likeness of maps: against scipy, scikit-image and plain sets."""

import numpy as np
import pytest
import torch
from scipy import stats
from skimage.metrics import structural_similarity

from saqlib.clarity.preservation import cosine, preservation_scores, spearman, ssim, top_overlap
from saqlib.names import PRESERVATION

SCORES = [spearman, top_overlap, cosine, ssim]


@pytest.fixture
def maps():
    """Signed maps."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(8, 28, 28)))


@pytest.fixture
def reference(maps):
    """Maps that resemble the first ones more and more."""
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=maps.shape))
    return maps + noise * torch.linspace(3, 0.1, 8)[:, None, None]


def test_spearman_equals_scipy_with_ties(maps, reference):
    """Rank correlation of the magnitudes is scipy's, with mid-ranks."""
    x, y = (2 * maps).round(), (2 * reference).round()
    expected = [stats.spearmanr(a.abs().ravel(), b.abs().ravel())[0] for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected, atol=1e-12)


def test_spearman_of_a_constant_is_nan(maps):
    """A map without order has no rank correlation."""
    assert spearman(maps, torch.full_like(maps, 0.1)).isnan().all()


def test_top_overlap_by_sets(maps, reference):
    """Overlap is the intersection over union of the 78 largest magnitudes."""
    expected = []
    for a, b in zip(maps, reference, strict=True):
        top_a, top_b = (set(np.argsort(-m.abs().numpy().ravel())[:78].tolist()) for m in (a, b))
        expected.append(len(top_a & top_b) / len(top_a | top_b))
    np.testing.assert_allclose(top_overlap(maps, reference), expected, rtol=1e-15)


def test_top_overlap_takes_no_zeros():
    """Two sparse maps without a common pixel share nothing, though both fill up with the same zeros."""
    x, y = torch.zeros(2, 1, 28, 28)
    x[0, 20, 3:9], y[0, 24, 3:9] = 1, 1
    assert top_overlap(x, y).item() == 0
    assert top_overlap(x, x).item() == 1


def test_cosine_is_signed(maps, reference):
    """Cosine takes the signs along: the opposite map gives -1."""
    flat = maps.flatten(1).numpy(), reference.flatten(1).numpy()
    expected = (flat[0] * flat[1]).sum(1) / np.linalg.norm(flat[0], axis=1) / np.linalg.norm(flat[1], axis=1)
    np.testing.assert_allclose(cosine(maps, reference), expected, rtol=1e-12)
    torch.testing.assert_close(cosine(maps, -maps), -torch.ones(8).double())


def test_ssim_equals_scikit_image(maps, reference):
    """Structural similarity is scikit-image's, window 7, data range 1, of magnitudes over their maxima."""
    expected = []
    for a, b in zip(maps.abs().numpy(), reference.abs().numpy(), strict=True):
        expected.append(structural_similarity(a / a.max(), b / b.max(), win_size=7, data_range=1.0))
    np.testing.assert_allclose(ssim(maps, reference), expected, rtol=1e-10)


def test_ssim_of_another_scale_is_one(maps):
    """Each map is divided by its own maximum: a map and three times the map with all signs turned are the same."""
    torch.testing.assert_close(ssim(maps, -3 * maps), torch.ones(8).double())


@pytest.mark.parametrize("score", SCORES)
def test_self_is_one_and_order_of_arguments_is_nothing(score, maps, reference):
    """A map is wholly like itself, and likeness is mutual."""
    torch.testing.assert_close(score(maps, maps), torch.ones(8).double())
    torch.testing.assert_close(score(maps, reference), score(reference, maps))


@pytest.mark.parametrize("score", SCORES)
def test_likeness_rises_as_noise_falls(score, maps, reference):
    """The first pair differs most, the last least."""
    values = score(maps, reference)
    assert values[-1] > values[0] + 0.3


@pytest.mark.parametrize("score", SCORES)
def test_dead_on_either_side_is_nan(score, maps, reference):
    """A dead map or a dead reference gives NaN, and leaves the others alone."""
    expected = score(maps, reference)
    maps, reference = maps.clone(), reference.clone()
    maps[1], reference[2], maps[3, 0, 0] = 0, 0, torch.inf
    value = score(maps, reference)
    np.testing.assert_array_equal(value.isnan(), [False, True, True, True] + 4 * [False])
    assert torch.equal(value[4:], expected[4:])


@pytest.mark.parametrize("score", SCORES)
def test_shapes_must_agree(score, maps):
    """Maps and reference of different shapes are refused."""
    with pytest.raises(ValueError, match="one shape"):
        score(maps, maps[:4])


def test_all_together(maps, reference):
    """The scores come by name, in order, in float64, also from float32 maps."""
    scores = preservation_scores(maps.float(), reference.float())
    assert list(scores) == [score.__name__ for score in SCORES] == list(PRESERVATION)
    for score in SCORES:
        assert scores[score.__name__].dtype == torch.float64
        torch.testing.assert_close(scores[score.__name__], score(maps, reference), rtol=0, atol=1e-5)
