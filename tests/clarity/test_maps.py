"""Magnitude, dead maps and ranks: plain twins, ties, rows of NaN."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saqlib.clarity.maps import absolute, dead, magnitude, mid_ranks, stable_ranks

finite = st.floats(allow_nan=False, allow_infinity=False)
few = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2**-52, 2.5, -3.0, 5e-324, 1e308])  # ties, and values that are nearly ties
shapes = st.tuples(st.integers(1, 4), st.integers(1, 12))
rows = hnp.arrays(np.float64, shapes, elements=st.one_of(finite, few))
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


# --- ranks ---


@given(values=rows, descending=st.booleans())
def test_stable_ranks_by_plain_sort(values, descending):
    """Exactly the places of Python's stable sort, both ways: among equals the earlier column comes first."""
    found = stable_ranks(torch.from_numpy(values), descending=descending)
    assert found.dtype == torch.int64
    assert found.tolist() == [stable_twin(row, descending) for row in values.tolist()]


@given(values=rows, descending=st.booleans())
def test_stable_ranks_equal_torchs_stable_sort(values, descending):
    """Exactly the inverse of torch's stable argsort, in float64 and float32."""
    for row in (torch.from_numpy(values), torch.from_numpy(values).float()):
        if row.isfinite().all():
            order = row.argsort(dim=1, descending=descending, stable=True)
            assert torch.equal(stable_ranks(row, descending=descending), order.argsort(dim=1))


@given(values=rows)
def test_mid_ranks_by_counting(values):
    """Exactly the mean of the ranks, from 1, that equal values share; their sum is n (n + 1) / 2."""
    found = mid_ranks(torch.from_numpy(values))
    assert found.dtype == torch.float64
    assert found.tolist() == [mid_twin(row) for row in values.tolist()]
    n = values.shape[1]
    assert found.sum(1).tolist() == [n * (n + 1) / 2] * len(values)


@given(values=magnitudes, descending=st.booleans())
def test_ranks_by_bits_equal_those_by_value(values, descending):
    """Of float32 magnitudes both rankings are exactly those of plain Python, and of the same values in float64."""
    single, double = torch.from_numpy(values), torch.from_numpy(values).double().clamp(max=3.4028234663852886e38)
    expected = [stable_twin(row, descending) for row in double.tolist()]
    assert stable_ranks(single, descending=descending).tolist() == expected
    assert stable_ranks(double, descending=descending).tolist() == expected
    assert mid_ranks(single).tolist() == mid_ranks(torch.from_numpy(values).double()).tolist()
    assert mid_ranks(single).tolist() == [mid_twin(row) for row in values.tolist()]


def test_ranks_of_whole_maps():
    """At the size of the study, with many ties, both rankings are still those of the twins."""
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 40, (3, 784)) / 7)
    for some in (values, values.float()):
        for descending in (False, True):
            twins = [stable_twin(row, descending) for row in some.tolist()]
            assert stable_ranks(some, descending=descending).tolist() == twins
        assert mid_ranks(some).tolist() == [mid_twin(row) for row in some.tolist()]


def test_ranks_of_ties_by_hand():
    """Two pairs of equals, written out."""
    values = torch.tensor([[2.0, 1.0, 2.0, 1.0]])
    assert stable_ranks(values).tolist() == [[2, 0, 3, 1]]
    assert stable_ranks(values, descending=True).tolist() == [[0, 2, 1, 3]]
    assert mid_ranks(values).tolist() == [[3.5, 1.5, 3.5, 1.5]]


@pytest.mark.parametrize("value", [0.0, 0.1, -7.5, torch.nan])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("descending", [False, True])
def test_a_constant_row_has_one_order(value, kind, descending):
    """In a constant row, NaN throughout included, pixels keep their order in both directions."""
    values = torch.full((2, 9), value, dtype=kind)
    assert stable_ranks(values, descending=descending).tolist() == [list(range(9))] * 2


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_row_with_nan_has_no_mid_ranks_and_leaves_the_others_alone(kind):
    """NaN anywhere in a row makes the whole row NaN; the rows beside it keep their ranks, also the stable ones."""
    values = torch.tensor([[3.0, 1.0, 1.0], [torch.nan, 1.0, 2.0], [torch.nan] * 3, [1.0, 2.0, 3.0]], dtype=kind)
    ranks = mid_ranks(values)
    assert ranks.isnan().all(1).tolist() == ranks.isnan().any(1).tolist() == [False, True, True, False]
    assert ranks[[0, 3]].tolist() == [[3.0, 1.5, 1.5], [1.0, 2.0, 3.0]]
    assert stable_ranks(values)[[0, 3]].tolist() == [[2, 0, 1], [0, 1, 2]]
    assert stable_ranks(values, descending=True)[[0, 3]].tolist() == [[0, 1, 2], [2, 1, 0]]


@given(values=rows, seed=st.integers(0, 99))
def test_mid_ranks_follow_a_permutation(values, seed):
    """Moving the columns moves the mid-ranks and changes nothing else."""
    order = np.random.default_rng(seed).permutation(values.shape[1])
    moved = mid_ranks(torch.from_numpy(values[:, order]))
    assert torch.equal(moved, mid_ranks(torch.from_numpy(values))[:, order])


def test_ranks_of_no_rows():
    """No images, no ranks, and no error."""
    for none in (torch.zeros(0, 5), torch.zeros(0, 5).double()):
        assert stable_ranks(none).shape == mid_ranks(none).shape == (0, 5)


def test_ranks_need_no_gradient():
    """Values in the middle of a graph can be ranked."""
    values = torch.tensor([[2.0, 1.0]], requires_grad=True) * 3
    assert stable_ranks(values).tolist() == [[1, 0]] and mid_ranks(values).tolist() == [[2.0, 1.0]]


# --- magnitude, dead maps ---


def test_magnitude_is_the_absolute_value_as_float64():
    """(B, H, W) becomes (B, H * W), signs gone, free of the graph, in float64."""
    maps = torch.tensor([[[1.5, -2.0], [0.0, -0.25]]], requires_grad=True)
    found = magnitude(maps)
    assert found.dtype == torch.float64 and not found.requires_grad
    assert found.tolist() == [[1.5, 2.0, 0.0, 0.25]]
    for kind in (torch.float32, torch.float64, torch.float16, torch.int32):
        same = absolute((4 * maps).to(kind))
        assert same.dtype == (torch.float32 if kind == torch.float32 else torch.float64)
        assert same.tolist() == [[6.0, 8.0, 0.0, 1.0]] and not same.requires_grad


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, -torch.inf])
def test_dead_maps(spoilt):
    """All zero, or not finite anywhere: dead, and a row of NaN; a single pixel is enough to live."""
    maps = torch.zeros(4, 3, 3)
    maps[1, 2, 2], maps[2] = -1e-30, 1.0
    maps[3], maps[3, 0, 1] = 1.0, spoilt
    assert dead(maps).tolist() == [True, False, False, True]
    assert magnitude(maps).isnan().all(1).tolist() == magnitude(maps).isnan().any(1).tolist() == dead(maps).tolist()


@pytest.mark.parametrize("shape", [(3, 3), (2, 1, 3, 3)])
def test_maps_of_another_shape_are_named(shape):
    """Maps that are not (B, H, W) are refused with their shape."""
    with pytest.raises(ValueError, match=r"maps must have shape .*\(.*3, 3\)"):
        magnitude(torch.ones(shape))
