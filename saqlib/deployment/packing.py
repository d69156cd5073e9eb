"""Codes of 2 to 8 bits as bytes, in the layout of ONNX's INT2, INT4 and INT8."""

import numpy as np

from saqlib.network.settings import check_bits


def pack(codes, bits: int) -> bytes:
    """Integer codes as a stream of `bits`-bit two's complement numbers, the lowest bit first.

    Args:
        codes: whole numbers in -2^(bits-1) to 2^(bits-1) - 1, any shape, an array or tensor.
        bits: 2 to 8.

    Returns:
        ceil(N * bits / 8) bytes, padded with zero bits; for 2, 4 and 8 bits the layout of ONNX's INT2, INT4 and INT8.

    Raises:
        ValueError: a code is no whole number or does not fit.
    """
    check_bits(bits)
    codes = np.asarray(codes).ravel()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    unfit = codes[~((codes == np.rint(codes)) & (codes >= low) & (codes <= high))]
    if unfit.size:
        raise ValueError(f"{unfit[0]} is not a {bits}-bit code: expected a whole number from {low} to {high}")
    stream = codes.astype(np.int64)[:, None] >> np.arange(bits) & 1
    return np.packbits(stream.astype(np.uint8), bitorder="little").tobytes()


def unpack(data: bytes, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The codes that `pack` put into bytes.

    Args:
        data: the bytes.
        bits: 2 to 8.
        shape: of the codes.

    Returns:
        int8 of `shape`.

    Raises:
        ValueError: a wrong number of bytes.
    """
    check_bits(bits)
    count = int(np.prod(shape))
    expected = -(-count * bits // 8)
    if len(data) != expected:
        raise ValueError(f"{count} codes of {bits} bits take {expected} bytes, but there are {len(data)}")
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    digits = stream[: count * bits].reshape(count, bits)
    place_values = 2 ** np.arange(bits)
    place_values[-1] *= -1  # two's complement
    return (digits @ place_values).astype(np.int8).reshape(shape)
