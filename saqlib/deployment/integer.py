"""Integer inference: the network's own codes and classes from whole numbers alone, bit for bit.

The network computes code(a) = round(min(relu(a * scale), alpha) / step) of each accumulator a, in float32.
That is a monotone function of a whole number, so it is known entirely by the accumulators at which the code
rises: the thresholds of FINN's MultiThreshold (Umuroglu et al., arXiv 1612.07119). They are found by
bisection on the very same float32 expression, half-to-even ties included; afterwards no float is needed. The
bias is part of the accumulator.
"""

from dataclasses import dataclass

import numpy as np

from saqlib.deployment.layers import INPUT_BITS, DeploymentError, Layer, read
from saqlib.network.lenet import KERNEL, POOL, SIDE

# Below 2^24 every whole number is a float32, so the network's own float32 sums are exact in any order.
ACCUMULATOR_LIMIT = 2**24
BATCH = 500
MANTISSA_BITS = 24  # of a float32


@dataclass(frozen=True)
class IntegerLayer:
    """weight, bias: int32. thresholds: int32 (out, levels), ascending in a row; None for the last layer.

    padding: rows and columns of zeros around the input.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray
    thresholds: np.ndarray | None
    padding: int

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Codes of the input to codes behind the activation (last layer: to accumulators), all int32."""
        accumulator = _convolve(codes, self.weight, self.padding) if self.weight.ndim == 4 else codes @ self.weight.T
        accumulator = accumulator + self.bias
        if self.weight.ndim == 4:
            accumulator = _max_pool(accumulator)
        if self.thresholds is None:
            return accumulator
        # One comparison a level: the code is the number of thresholds that the accumulator has reached.
        return sum((accumulator >= level).astype(np.int32) for level in self.thresholds.T)


@dataclass(frozen=True)
class IntegerNetwork:
    """Layers, and the whole-number multipliers that make the last accumulators comparable between classes."""

    layers: tuple[IntegerLayer, ...]
    multipliers: np.ndarray

    def codes(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What leaves each layer, by its name: codes in (B, H, W, C) or (B, C), for the last layer
        accumulators (B, 10).

        images: uint8 (B, 28, 28); int32 throughout. Raises DeploymentError for anything else, such as floats in [0, 1].
        """
        x = _bytes(images).astype(np.int32)[..., None]
        leaving = {}
        for layer in self.layers:
            if layer.weight.ndim == 2 and x.ndim == 4:
                x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # the dense weights count channels first
            leaving[layer.name] = x = layer(x)
        return leaving

    def classes(self, images: np.ndarray) -> np.ndarray:
        """Predicted classes, int64 (B,), of uint8 images (B, 28, 28); errors as for `codes`."""
        last, images = self.layers[-1].name, _bytes(images)
        classes = np.empty(len(images), np.int64)
        for i in range(0, len(images), BATCH):
            classes[i : i + BATCH] = (self.codes(images[i : i + BATCH])[last] * self.multipliers).argmax(1)
        return classes


def integer_network(model) -> IntegerNetwork:
    """The integer form of a quantized network from `saqlib.network.build`.

    Raises DeploymentError if a layer is not quantized, or if an accumulator could reach 2^24.
    """
    layers = read(model)
    for layer in layers:
        if not layer.quantized:
            raise DeploymentError(
                f"{layer.name} computes in full precision, so the network has no integer form; "
                "integer inference needs low-bit weights in every layer (edges: w8 or same in params.yaml)"
            )
    check_accumulators(layers)
    integer = tuple(
        IntegerLayer(
            layer.name,
            layer.weight.astype(np.int32),
            layer.bias,
            None if layer.last else thresholds(layer),
            layer.padding,
        )
        for layer in layers
    )
    return IntegerNetwork(integer, class_multipliers(layers[-1].output_scale))


def accumulator_bound(layer: Layer) -> int:
    """The largest magnitude of any partial sum of the layer, whatever the image and the order of the sum."""
    top = 2 ** (layer.input_bits or INPUT_BITS) - 1
    magnitudes = np.abs(layer.weight.astype(np.int64)).reshape(len(layer.weight), -1).sum(1)
    return int((top * magnitudes + np.abs(layer.bias.astype(np.int64))).max())


def check_accumulators(layers: tuple[Layer, ...]) -> None:
    """Raise DeploymentError unless every accumulator stays below 2^24, and with it inside int32."""
    for layer in layers:
        if layer.quantized and accumulator_bound(layer) >= ACCUMULATOR_LIMIT:
            raise DeploymentError(
                f"the accumulators of {layer.name} can reach {accumulator_bound(layer):,}, and float32 is"
                f" exact only below 2^24 = {ACCUMULATOR_LIMIT:,}; give the layer fewer bits or fewer inputs"
            )


def activation_codes(accumulator: np.ndarray, layer: Layer) -> np.ndarray:
    """Codes behind the activation by the network's float32 expression; accumulator: integers (..., out)."""
    value = accumulator.astype(np.float32) * layer.output_scale
    return np.rint(np.minimum(np.maximum(value, 0), layer.alpha) / layer.step).astype(np.int32)


def thresholds(layer: Layer) -> np.ndarray:
    """The smallest accumulator of each output channel that reaches each code from 1 on: int32 (out, levels).

    A level that no accumulator below 2^24 reaches has the threshold 2^24.
    """
    levels = np.arange(1, layer.top_code + 1)
    below = np.zeros((layer.top_code, len(layer.weight)), np.int64)  # code(0) = 0: below every level
    reached = np.full_like(below, ACCUMULATOR_LIMIT)
    while (reached - below > 1).any():
        middle = (below + reached) // 2
        high_enough = activation_codes(middle, layer) >= levels[:, None]
        reached = np.where(high_enough, middle, reached)
        below = np.where(high_enough, below, middle)
    return reached.T.astype(np.int32)


def class_multipliers(scale: np.ndarray) -> np.ndarray:
    """Whole numbers in the exact ratio of float32 scales, int64: accumulator * multiplier orders as the
    logits do.

    Raises DeploymentError if the scales differ by so much that the products would not fit 64 bits.
    """
    mantissa, exponent = np.frexp(scale)
    shift = (exponent - exponent.min()).astype(np.int64)
    if shift.max() > 63 - MANTISSA_BITS - int(ACCUMULATOR_LIMIT).bit_length():
        raise DeploymentError(
            "the scales of the last layer's channels differ too much for 64-bit class scores"
        )
    return (mantissa.astype(np.float64) * 2**MANTISSA_BITS).astype(np.int64) << shift


def _bytes(images: np.ndarray) -> np.ndarray:
    """The images, if they are bytes: any cast of other numbers to bytes would make another picture of them."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
        raise DeploymentError(
            f"integer inference takes uint8 images (B, {SIDE}, {SIDE}), the bytes 0 to 255 as they were read,"
            f" not {images.dtype} {images.shape}"
        )
    return images


def _convolve(codes: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """Convolution of zero-padded codes (B, H, W, in) with weight (out, in, 5, 5): (B, H', W', out)."""
    codes = np.pad(codes, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(codes, (KERNEL, KERNEL), axis=(1, 2))
    batch, height, width = patches.shape[:3]
    return (patches.reshape(batch * height * width, -1) @ weight.reshape(len(weight), -1).T).reshape(
        batch, height, width, -1
    )


def _max_pool(x: np.ndarray) -> np.ndarray:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // POOL, POOL, width // POOL, POOL, channels).max((2, 4))
