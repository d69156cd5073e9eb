"""Integer inference: the network's own codes and classes from whole numbers alone, bit for bit.

The network computes code(a) = round(min(relu(a * scale), alpha) / step) of each accumulator a, in float32. That is a
monotone function of a whole number, so it is known entirely by the accumulators at which the code rises: the
thresholds of FINN's MultiThreshold (Umuroglu et al., arXiv 1612.07119). They are found by bisection on the very same
float32 expression, half-to-even ties included; afterwards no float is needed. The bias is part of the accumulator.
"""

from dataclasses import dataclass

import numpy as np

from saqlib.deploy.layers import DeploymentError, Layer, read
from saqlib.lenet import KERNEL, POOL, SIDE, LeNet

# Below 2^24 every whole number is a float32, so the network's own float32 sums are exact in any order.
ACCUMULATOR_LIMIT = 2**24
BATCH = 500
MANTISSA_BITS = 24  # of a float32


@dataclass(frozen=True)
class IntegerNetwork:
    """A network whose layers have codes for weights and biases.

    thresholds: int32 (out, levels), ascending in a row, for each layer but the last. multipliers: int64 (10,), whole
    numbers that make the last accumulators comparable between classes.
    """

    layers: tuple[Layer, ...]
    thresholds: tuple[np.ndarray, ...]
    multipliers: np.ndarray

    def codes(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What leaves each layer, int32 (B, H, W, C) or (B, C), by its name: codes, of the last one accumulators.

        images: uint8 (B, 28, 28). Raises DeploymentError for anything else, such as floats in [0, 1]: as bytes they
        would be another picture.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
            takes = f"uint8 images (B, {SIDE}, {SIDE}), the bytes 0 to 255 as they were read"
            raise DeploymentError(f"integer inference takes {takes}, not {images.dtype} {images.shape}")
        x, leaving = images.astype(np.int32)[..., None], {}
        for layer, steps in zip(self.layers, (*self.thresholds, None), strict=True):
            weight = layer.weight.astype(np.int32)
            if layer.pooled:
                x = _max_pool(_convolve(x, weight, layer.padding) + layer.bias)
            else:
                if x.ndim == 4:  # the dense weights count channels first
                    x = x.transpose(0, 3, 1, 2).reshape(len(x), weight.shape[1])
                x = x @ weight.T + layer.bias
            if steps is not None:
                # One comparison a level: the code is the number of thresholds that the accumulator has reached.
                x = sum((x >= step).astype(np.int32) for step in steps.T)
            leaving[layer.name] = x
        return leaving

    def classes(self, images: np.ndarray) -> np.ndarray:
        """Predicted classes, int64 (B,), of uint8 images (B, 28, 28); errors as for `codes`."""
        parts = [images[i : i + BATCH] for i in range(0, max(len(images), 1), BATCH)]
        scores = [self.codes(part)[self.layers[-1].name] * self.multipliers for part in parts]
        return np.concatenate(scores).argmax(1)


def integer_network(model: LeNet) -> IntegerNetwork:
    """The integer form of a quantized network from `saqlib.lenet.build`.

    Raises DeploymentError if a layer is not quantized, or if an accumulator could reach 2^24.
    """
    layers = read(model)
    for layer in layers:
        if not layer.quantized:
            raise DeploymentError(
                f"{layer.name} computes in full precision, so the network has no integer form; "
                "integer inference needs low-bit weights in every layer, the first and the last included"
            )
    check_accumulators(layers)
    return IntegerNetwork(layers, tuple(map(thresholds, layers[:-1])), class_multipliers(layers[-1].output_scale))


def accumulator_bound(layer: Layer) -> int:
    """The largest magnitude of any partial sum of the layer, whatever the image and the order of the sum."""
    magnitudes = np.abs(layer.weight.astype(np.int64)).reshape(len(layer.weight), -1).sum(1)
    return int(((2**layer.input_bits - 1) * magnitudes + np.abs(layer.bias.astype(np.int64))).max())


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
    levels = np.arange(1, 2**layer.activation_bits)
    below = np.zeros((len(levels), len(layer.weight)), np.int64)  # code(0) = 0: below every level
    reached = np.full_like(below, ACCUMULATOR_LIMIT)
    while (reached - below > 1).any():
        middle = (below + reached) // 2
        high_enough = activation_codes(middle, layer) >= levels[:, None]
        reached = np.where(high_enough, middle, reached)
        below = np.where(high_enough, below, middle)
    return reached.T.astype(np.int32)


def class_multipliers(scale: np.ndarray) -> np.ndarray:
    """Whole numbers in the exact ratio of float32 scales, int64: accumulator * multiplier orders as the logits do.

    Raises DeploymentError if the scales differ by so much that the products would not fit 64 bits.
    """
    mantissa, exponent = np.frexp(scale)
    shift = (exponent - exponent.min()).astype(np.int64)
    if shift.max() > 63 - MANTISSA_BITS - int(ACCUMULATOR_LIMIT).bit_length():
        raise DeploymentError("the scales of the last layer's channels differ too much for 64-bit class scores")
    return (mantissa.astype(np.float64) * 2**MANTISSA_BITS).astype(np.int64) << shift


def _convolve(codes: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """Convolution of zero-padded codes (B, H, W, in) with weight (out, in, 5, 5): (B, H', W', out)."""
    codes = np.pad(codes, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(codes, (KERNEL, KERNEL), axis=(1, 2))
    return np.tensordot(patches, weight, axes=((3, 4, 5), (1, 2, 3)))


def _max_pool(x: np.ndarray) -> np.ndarray:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // POOL, POOL, width // POOL, POOL, channels).max((2, 4))
