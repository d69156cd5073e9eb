"""Tests of saqlib.deployment.packing: ONNX's own byte layout, and what does not fit."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from saqlib.deployment.packing import pack, unpack

ONNX_TYPES = {2: ml_dtypes.int2, 4: ml_dtypes.int4, 8: np.int8}


def codes_of(bits):
    return st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), max_size=40)


@given(st.integers(2, 8).flatmap(lambda bits: st.tuples(st.just(bits), codes_of(bits))))
def test_unpack_returns_what_was_packed(case):
    """Every length and bit-width comes back, in ceil(N bits / 8) bytes."""
    bits, codes = case
    data = pack(np.array(codes, np.int8), bits)
    assert len(data) == -(-len(codes) * bits // 8)
    assert unpack(data, bits, (len(codes),)).tolist() == codes


@pytest.mark.parametrize("bits", ONNX_TYPES)
@given(st.data())
def test_bytes_are_those_of_onnx(bits, data):
    """The bytes are the raw data that the onnx package writes for the same codes."""
    codes = data.draw(codes_of(bits))
    tensor = numpy_helper.from_array(np.array(codes, np.int8).astype(ONNX_TYPES[bits]))
    assert pack(codes, bits) == tensor.raw_data


@pytest.mark.parametrize(
    ("codes", "bits", "data"),
    [([1, -1, 0, 1, -1], 2, [0b01_00_11_01, 0b11]), ([7, -7, 1], 4, [0x97, 0x01]), ([-127, 3], 8, [0x81, 3])],
)
def test_pack_by_hand(codes, bits, data):
    """The first code lies in the lowest bits; the rest of the last byte is zero."""
    assert list(pack(codes, bits)) == data


def test_shape_is_kept():
    """Codes of a convolution come back in its shape."""
    codes = np.random.default_rng(0).integers(-1, 2, (4, 3, 5, 5))
    np.testing.assert_array_equal(unpack(pack(codes, 2), 2, codes.shape), codes)


@pytest.mark.parametrize("code", [2, -3, 0.5, float("nan")])
def test_what_is_no_code_is_refused(code):
    """A number that 2 bits cannot hold is an error that names it and the range."""
    with pytest.raises(ValueError, match=rf"{code} is not a 2-bit code: expected a whole number from -2 to 1"):
        pack(np.array([0, code, 1]), 2)


@pytest.mark.parametrize("data", [b"", b"12"])
def test_a_wrong_number_of_bytes_is_refused(data):
    """Bytes that do not match the shape are an error that gives both numbers."""
    with pytest.raises(ValueError, match=f"take 1 bytes, but there are {len(data)}"):
        unpack(data, 2, (4,))
