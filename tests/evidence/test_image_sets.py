"""The images over which scores are averaged: strata by hand, means of strata, what matching is for."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from saqlib.evidence.image_sets import mean, strata
from saqlib.params import ParamsError


def make_scores(confidence, predicted=0):
    """The scores of some seeds (by default one) with these confidences, all of class 0."""
    confidence = np.atleast_2d(confidence)
    found = {"probability": confidence, "predicted": np.full(confidence.shape, predicted)}
    arrays = {name: (("seed", "image"), values) for name, values in found.items()}
    return xr.Dataset(arrays | {"label": ("image", np.zeros(confidence.shape[1], int))})


# --- strata ---


def test_matched_strata_by_hand():
    """Terciles are cut from both precisions together; an image counts where both fall into the same one."""
    first = make_scores([0.1, 0.2, 0.5, 0.9, 0.8])
    second = make_scores([0.1, 0.6, 0.5, 0.9, 0.3])
    # Together: .1 .1 .2 .3 | .5 .5 .6 | .8 .9 .9, cut at .3 and .6
    np.testing.assert_array_equal(strata([first, second], "matched"), [[0, -1, 1, 2, -1]])


def test_matched_images_are_primary_ones():
    """A misclassified image is in no stratum, whatever its confidence."""
    first, second = make_scores([0.1, 0.5, 0.9]), make_scores([0.1, 0.5, 0.9])
    second.predicted[0, 1] = 3
    assert strata([first, second], "matched")[0, 1] == -1
    assert strata([first, second], "primary").tolist() == [[0, -1, 0]]
    assert strata([first, second], "all").tolist() == [[0, 0, 0]]


def test_terciles_are_those_of_primary_images():
    """Confident mistakes do not move the edges of the terciles."""
    cell = make_scores([0.1, 0.2, 0.3, 0.9, 0.9, 0.9])
    cell.predicted[0, 3:] = 3
    assert strata([cell, cell], "matched").tolist() == [[0, 1, 2, -1, -1, -1]]


def test_terciles_are_cut_for_each_seed_by_itself():
    """A seed that is surer throughout has edges of its own; one without a correct image has no strata."""
    cell = make_scores([[0.1, 0.2, 0.3], [0.7, 0.8, 0.9], [0.1, 0.2, 0.3]])
    cell.predicted[2] = 3
    assert strata([cell, cell], "matched").tolist() == [[0, 1, 2], [0, 1, 2], [-1, -1, -1]]


@given(seed=st.integers(0, 99), count=st.integers(1, 4))
def test_sets_lie_within_each_other(seed, count):
    """Matched images are primary ones, primary ones are among all; strata are 0, 1 or 2; one cell matches itself."""
    rng = np.random.default_rng(seed)
    cells = [make_scores(rng.random((2, 20)), rng.integers(0, 2, (2, 20))) for _ in range(count)]
    every, primary, matched = (strata(cells, images) for images in ("all", "primary", "matched"))
    assert (every == 0).all() and set(primary.ravel()) <= {0, -1} and set(matched.ravel()) <= {0, 1, 2, -1}
    assert (primary[matched >= 0] == 0).all()
    np.testing.assert_array_equal(primary == 0, np.all([cell.predicted == 0 for cell in cells], axis=0))
    if count == 1:
        np.testing.assert_array_equal(matched >= 0, primary >= 0)


def test_unknown_set_of_images():
    """An unknown set is an error that names the valid ones."""
    with pytest.raises(ParamsError, match="'both'.*primary, all, matched"):
        strata([make_scores([0.5])], "both")


# --- means ---


def test_strata_count_equally():
    """Three images of one tercile weigh as much as one of another; NaN is left out; no image gives NaN."""
    values = np.array([[1.0, 2.0, 3.0, 8.0, np.nan], [1.0, 1.0, 1.0, 1.0, 1.0]])
    groups = np.array([[0, 0, 0, 2, 1], [-1, -1, -1, -1, -1]])
    np.testing.assert_array_equal(mean(values, groups), [5.0, np.nan])
    np.testing.assert_array_equal(mean(values[0], groups[:1]), [5.0])


def test_values_of_images_alone_are_taken_for_every_seed():
    """One row of values, as controls have it, is averaged over the images of each seed."""
    groups = np.array([[0, 0, -1], [-1, 0, 0], [0, -1, -1]])
    np.testing.assert_array_equal(mean(np.array([1.0, 3.0, 5.0]), groups), [2.0, 4.0, 1.0])


def test_fewer_values_are_those_of_the_first_images():
    """Scores that cost many gradients have fewer images, the first ones."""
    groups = np.array([[0, -1, 0, 0], [-1, -1, 0, 0]])
    np.testing.assert_array_equal(mean(np.array([[7.0, 8.0], [7.0, 8.0]]), groups), [7.0, np.nan])


def test_matching_removes_an_effect_of_confidence():
    """Scores that depend on confidence alone differ between precisions on all images, and not on matched ones."""
    rng = np.random.default_rng(1)
    sure, unsure = rng.beta(8, 2, (4, 3000)), rng.beta(5, 3, (4, 3000))
    cells = [make_scores(sure), make_scores(unsure)]
    scores = [np.where(c < 0.6, 0.0, np.where(c < 0.8, 1.0, 2.0)) for c in (sure, unsure)]
    gap = {s: np.subtract(*[mean(x, strata(cells, s)) for x in scores]) for s in ("all", "matched")}
    assert gap["all"].min() > 0.3
    assert np.abs(gap["matched"]).max() < 0.15
