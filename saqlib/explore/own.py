"""Networks with bits of your own, trained on the small sample in seconds, beside one of full precision."""

import functools

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from saqlib.clarity.scores import gini, morans_i
from saqlib.data.images import as_input, load
from saqlib.network.initial import build
from saqlib.network.lenet import LeNet
from saqlib.network.settings import LAYERS, Precision
from saqlib.pipeline import study
from saqlib.report.pictures import show_image, show_map
from saqlib.saliency.gradient import input_gradient
from saqlib.training.looking import accuracy
from saqlib.training.loop import train
from saqlib.training.records import Images
from saqlib.words import CLASSES

EPOCHS, WARM_UP = 12, 4


def table(convolution_bits: int, dense_bits: int) -> dict[str, list[int]]:
    """A row as `precisions` in params.yaml has them: weight bits and activation bits of each layer."""
    convolution, dense = [convolution_bits] * 2, [dense_bits] * 2
    return dict(zip(LAYERS, [convolution, convolution, dense, dense, dense[:1]], strict=True))


def trained(bits: dict[str, list[int]], dataset: str, training: str) -> LeNet:
    """A network with these bits, trained on the sample; the same again comes at once. bits: {} for full precision.

    Raises ParamsError for bits that cannot be.
    """
    return _trained(tuple((layer, tuple(each)) for layer, each in bits.items()), dataset, training)


@functools.cache
def _trained(bits: tuple, dataset: str, training: str) -> LeNet:
    settings, threads = study.load(), torch.get_num_threads()
    table = {layer: list(each) for layer, each in bits}
    precision = Precision.from_table("yours", table, settings.quantization.edges)
    network = build(precision, shape=settings.shape, seed=0)
    images = Images(*load(dataset, "train", sample=True), *load(dataset, "validation", sample=True))
    options = {"optimizer": settings.optimizer, "guided": settings.guided if training == "guided" else None}
    options |= {"quantization": settings.quantization if precision.quantized else None}
    torch.set_num_threads(1)  # faster for networks of this size
    try:
        train(network, images, seed=0, epochs=EPOCHS, warmup_epochs=WARM_UP, **options)
    finally:
        torch.set_num_threads(threads)
    return network


def compare(networks: dict[str, LeNet], dataset: str, picture: int) -> Figure:
    """The maps of these networks for a test image of the sample, with class, confidence, focus and coherence."""
    images, labels = load(dataset, "test", sample=True)
    image, shown = images[picture], as_input(images[picture : picture + 1])
    figure, axes = plt.subplots(1, 1 + len(networks), figsize=(2 + 2 * len(networks), 2.7), layout="constrained")
    show_image(axes[0], image.numpy())
    axes[0].set_title(f"image: {CLASSES[dataset][labels[picture]]}")
    for axis, (name, network) in zip(axes[1:], networks.items(), strict=True):
        with torch.no_grad():
            sure, seen = network(shown).softmax(1).max(1)
        saliency = input_gradient(network, shown)
        show_map(axis, saliency[0].numpy())
        axis.set_title(f"{name}: {CLASSES[dataset][seen]}, {sure.item():.0%}")
        axis.set_xlabel(f"focus {gini(saliency).item():.2f}, coherence {morans_i(saliency).item():.2f}")
    return figure


def accuracies(networks: dict[str, LeNet], dataset: str) -> dict[str, float]:
    """Percent of the sample's 300 test images that each network classifies correctly."""
    return {name: accuracy(network, *load(dataset, "test", sample=True)) for name, network in networks.items()}
