"""Do controls, untrained networks and the sensitivity need all scored images? Their intervals by few and by all.

The exploring networks of the main grid, in full precision and with the fewest bits, as the store holds them.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from torch import Tensor

from saqlib import controls
from saqlib.scores import GRADIENT, PASS_THROUGH, UNTRAINED
from saqlib.scoring import Explained, draws, scored_images
from saqlib.statistics import t_interval
from study import cells, files
from study.settings import Study

FILE = Path(__file__).with_suffix(".csv")
KEYS = ["dataset", "training", "precision", "what", "score"]
GIVEN = "trained - untrained"  # of which a margin is a tenth


def possible(settings: Study) -> bool:
    """Whether the store holds every network that is looked at."""
    return all(cells.train_network.exists(each.recipe, each.seed, each.device) for each in _networks(settings))


def _networks(settings: Study) -> Iterator[cells.Trained]:
    ends = (settings.grid.precisions[0], settings.grid.precisions[-1])
    for cell in (each for each in settings.grid.cells if each.precision in ends):
        yield from cells.trained(cell, settings, settings.size.exploring)


def rows(settings: Study) -> list[dict[str, str]]:
    """Each interval over the seeds as a row of FILE, which it writes.

    The columns are KEYS; the mean and half the width of its 95 % interval, by few images and by all; and change, of the
    half width, 0.1 if all images make it a tenth wider. what: a control, the untrained network's map, GIVEN, or the map
    whose sensitivity it is.
    """
    found = []
    for network in _networks(settings):
        cell = network.recipe.cell
        key = [cell.dataset, cell.training, cell.precision]
        found += [[*key, *row] for row in _of_network(network, settings)]
    found = pd.DataFrame(found, columns=[*KEYS, "few", "all"])
    table = pd.DataFrame([dict(zip(KEYS, key, strict=True)) | _intervals(own)
                          for key, own in found.groupby(KEYS, sort=False)])  # fmt: skip
    files.write(FILE, files.csv(table.round(5)))
    return table.astype(str).to_dict("records")


def _of_network(trained: cells.Trained, settings: Study) -> Iterator[list]:
    """What, score, and its mean over few and over all images."""
    scoring, network, seed = settings.scoring, trained.network(), trained.seed
    scored, few = scored_images(trained.recipe.dataset, scoring), scoring.images_expensive
    own = Explained.predicting(network, scored, scoring.clarity.steps)
    twin = controls.untrained(network, own.images[: scoring.calibration_images], seed)
    below = Explained.predicting(twin, scored, scoring.clarity.steps)
    table = own.table(controls.control_maps(own.images, draws(seed, "controls")))
    table[UNTRAINED] = below.scores(below.gradient_of(twin))
    for what, saturated in ((GRADIENT, "stop"), (PASS_THROUGH, "pass")):
        shaken = {"radius": scoring.clarity.sensitivity_radius, "draws": scoring.clarity.sensitivity_draws}
        noise = draws(seed, "sensitivity")
        values = controls.sensitivity_max(
            network, own.images, own.targets, generator=noise, saturated=saturated, **shaken
        )
        table[what] = {"sensitivity_max": values}
    for what, scores in table.items():
        for score, values in scores.items():
            yield [what, score, *_means(values, few)]
    for score, values in own.scores(own.gradient_of(network)).items():  # which is scored on all images either way
        yield [GIVEN, score, *(_means(values, None)[1] - mean for mean in _means(table[UNTRAINED][score], few))]


def _means(values: Tensor, few: int | None) -> tuple[float, float]:
    return values[:few].nanmean().item(), values.nanmean().item()


def _intervals(own: pd.DataFrame) -> dict[str, float]:
    found = {}
    for images in ("few", "all"):
        mean, low, high = t_interval(own[images].to_numpy())
        found |= {images: mean, f"half_{images}": (high - low) / 2}
    return found | {"change": found["half_all"] / found["half_few"] - 1 if found["half_few"] else 0.0}
