"""Numbers of params.yaml that no run could use: refused before anything runs, not after an hour.

A section knows what its own numbers may be at least; here stands what the data, the tests and the files allow at most.
"""

from collections.abc import Iterator
from typing import Any

from saqlib.evidence.statistics import MOST_PAIRS
from saqlib.params import require

IMAGES = {False: {"training": 55_000, "test": 10_000}, True: {"training": 1_100, "test": 300}}  # by Scale.sample
LONGEST_NAME = 40  # characters: names become names of files


def check(study: Any) -> None:
    """Raise ParamsError for the first number of a pipeline.study.Study that is too large; it says what is the most."""
    for where, value, most, why in _bounds(study):
        require(value <= most, f"{where} must be at most {most:,}, not {value:,}: {why}")
    for name in study.precisions:
        require(len(name) <= LONGEST_NAME, f"precisions: a name of {len(name)} characters, more than {LONGEST_NAME}")


def _bounds(study: Any) -> Iterator[tuple[str, Any, float, str]]:
    """Where, the value, the most, and why."""
    there, scale = IMAGES[study.size.sample], f"scales.{study.scale}"
    of_training, of_test = (f"there are {there[split]:,} {split} images" for split in ("training", "test"))
    yield f"{scale}.seeds", study.size.seeds, MOST_PAIRS, "the exact tests enumerate the signs of every seed"
    for name in ("images", "images_deployed"):
        yield f"{scale}.{name}", getattr(study.size, name), there["test"], of_test
    expensive = study.size.images_expensive
    yield f"{scale}.images_expensive", expensive, study.size.images, f"they are the first of {scale}.images"
    for dataset, epochs in study.size.epochs.items():
        yield f"{scale}.epochs.{dataset}", epochs, 1000, "no learning rate here needs as many"
    yield f"{scale}.records", study.size.records, 1000, "each keeps the maps of ten images"
    batches = {
        "optimizer.batch_size": study.optimizer.batch_size,
        "quantization.calibration_images": study.quantization.calibration_images,
    }
    for name, value in batches.items():
        yield name, value, there["training"], of_training
    rates = {
        "optimizer.learning_rate": study.optimizer.learning_rate,
        "quantization.alpha_learning_rate": study.quantization.alpha_learning_rate,
    }
    for name, value in rates.items():
        yield name, value, 1.0, "Adam moves every weight by about as much in each step"
    yield "quantization.alpha_penalty", study.quantization.alpha_penalty, 1.0, "the loss would be nothing else"
    yield "trainings.guided.weight", study.guided.weight, 1e6, "the loss would be nothing else"
    yield "clarity.steps", study.clarity.steps, 784, "an image has 784 pixels"
    yield "clarity.sensitivity_radius", study.clarity.sensitivity_radius, 1.0, "a pixel lies in [0, 1]"
    yield "clarity.sensitivity_draws", study.clarity.sensitivity_draws, 1000, "each is a gradient of every image"
    for name in ("channels", "hidden"):
        yield f"network.{name}", max(getattr(study.shape, name)), 4096, "such layers fill the memory"
