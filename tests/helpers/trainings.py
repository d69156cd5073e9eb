"""Trainings of a tenth of a second on the committed sample, for the tests of training."""

from dataclasses import replace

import torch
from torch import nn

from saqlib.lenet import Shape, build
from saqlib.training import Guided, History, Images, Optimizer, Quantization, Watch, train
from tests.helpers.networks import precision, sample

OPTIMIZER = Optimizer(batch_size=50, learning_rate=0.006)
QUANTIZATION = Quantization(alpha_learning_rate=0.004, alpha_penalty=0.0002, calibration_images=100)
GUIDED = Guided(fraction=0.5, weight=1.0, ranking="magnitude")


def digits(count: int) -> Images:
    """So many of the sample's digits to train on, 100 to validate."""
    pictures, labels = sample("train")
    return Images(pictures[:count], labels[:count], *sample("validation"))


def watch(images: Images, records: int) -> Watch:
    return Watch(images.validation[:3], images.validation_labels[:3], records)


def trained(
    name: str, images: Images, *, seed: int = 0, epochs: int = 2, shape: Shape | None = None, rounding: bool = True,
    **options,
) -> tuple[nn.Module, History]:  # fmt: skip
    """A network of the seed, trained, and its history; one epoch is the warm-up."""
    net = build(replace(precision(name), rounding=rounding), shape=shape, seed=seed)
    clips = {"quantization": QUANTIZATION} if net.precision.quantized else {}
    options = {"optimizer": OPTIMIZER, "warmup_epochs": 1.0} | clips | options
    return net, train(net, images, seed=seed, epochs=epochs, **options)


def assert_same_trainings(one: tuple[nn.Module, History], other: tuple[nn.Module, History]) -> None:
    """Bit for bit: weights and their strides, and the history, but for the weights in it."""
    for (name, value), (_, same) in zip(one[0].state_dict().items(), other[0].state_dict().items(), strict=True):
        assert torch.equal(value, same) and value.stride() == same.stride(), name
    histories = [replace(history, maps=[maps.tolist() for maps in history.maps], states=[])
                 for _, history in (one, other)]  # fmt: skip
    assert histories[0] == histories[1]
