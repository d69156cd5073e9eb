"""What explaining in real time costs: guided steps, maps and the live panel, and the seconds in which a core learns.

Ratios and shares are of medians, all variants in turn (`timing.interleaved`). A whole training is MNIST's at the scale
of the settings. The live panel runs in a process of its own, in JupyterLab or `python -m study.live`: on one core all
of it adds to the training, on a second core none.
"""

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

from benchmarks.steps import STEPS, make_network, make_step, sample_batches
from benchmarks.timing import Times, interleaved, ratio
from saqlib import data
from saqlib.data import as_input
from saqlib.kernels import fused
from saqlib.lenet import build
from saqlib.quantization import calibrate
from saqlib.saliency import input_gradient, saliency_now
from saqlib.training import History, Images, Watch, accuracy, train
from study import cells, files, live, paths
from study.settings import Cell, Recipe, Study

FILE = paths.ROOT / "paper" / "explaining.csv"  # the paper has a table of it
DATASET, FULL, FEW = "mnist", "fp32", "w2a2"
TRAININGS = ("standard", "guided")
LEVELS = (98.5, 99.0)  # percent of the validation images
CHECKS = 6  # times an epoch that the accuracy is looked up
HALF = 2  # epochs of the sample, after which a record is taken: the history then has half of a training's records


def rows(settings: Study, rounds: int) -> list[dict[str, str]]:
    """All of it as rows of FILE, which it writes; a tenth of the rounds, at least one, are the seeds that are trained.

    The columns: what; precision; training, where it is of one; value, with low and high; by_processor_time, the value
    without what other programs took; unit; repeats; machine. low and high are quartiles of the rounds, of seconds the
    smallest and the largest of those seeds that reached the level, whose median is the value.
    """
    found = [*step_rows(settings, rounds), *accuracy_rows(settings, max(1, rounds // 10))]
    table = pd.DataFrame(found).assign(machine=machine(settings))
    files.write(FILE, files.csv(table))
    return table.drop(columns="machine").astype(str).replace("nan", "").to_dict("records")


def machine(settings: Study) -> str:
    """The processor, how many cores it has, what computes, and the release of PyTorch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    by = fused.kind(settings.shape, "cpu")
    return f"{name}, {len(models) or 'unknown'} cores, one thread; {by}; torch {metadata.version('torch')}"


# ------------------------------------------------------------------------------------------------ steps and the panel


def step_rows(settings: Study, rounds: int) -> list[dict]:
    """What a map, guidance, recording and the panel cost, in units of the plain step or training beside it."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(paths, "BUILD", Path(folder)):
        times = interleaved(_variants(settings), rounds)
    table = []
    for precision in (FULL, FEW):
        standard, guided = (f"{training} {precision}" for training in TRAININGS)
        table.append(_row("guided step / standard step", precision, "", times, guided, standard))
        table.append(_row("map of every image / standard step", precision, "", times, f"stop {precision}", standard))
        if precision == FEW:
            passed = f"pass {FEW}", f"stop {FEW}"
            table.append(_row("pass-through map / straight-through map", FEW, "", times, *passed))
            table.append(_row("standard step / that of full precision", FEW, "", times, standard, f"standard {FULL}"))
        for training in TRAININGS:
            step, recipe = f"{training} {precision}", settings.recipe(Cell(DATASET, precision, training))
            share = STEPS * (recipe.records + 1) / (recipe.epochs * _epoch_steps(recipe))  # of calls of one step
            whole = f"of the {recipe.epochs * _epoch_steps(recipe)} steps of a training"
            parts = {"record": "recorded maps", "scores": "live panel's scores", "panel": "live panel with its picture"}
            for part, what in parts.items():
                text = f"{what}, {recipe.records + 1} times / time {whole}"
                table.append(_row(text, precision, training, times, f"{part} {precision}", step, share))
    return table


def _variants(settings: Study) -> dict[str, Callable[[], object]]:
    """By name what is timed: STEPS steps or maps of as many batches; one record, or one look of the panel."""
    size = settings.optimizer.batch_size
    variants = {}
    for precision in (FULL, FEW):
        for training in TRAININGS:
            variants[f"{training} {precision}"] = make_step(training, precision, settings, size)
        variants[f"stop {precision}"] = make_maps(precision, settings, size, "stop")
        variants |= {f"{part} {precision}": call for part, call in make_panel(precision, settings).items()}
    return variants | {f"pass {FEW}": make_maps(FEW, settings, size, "pass")}


def make_maps(precision: str, settings: Study, size: int, saturated: str) -> Callable[[], None]:
    """The maps of STEPS batches of a calibrated network, as anybody makes them, as a call without arguments."""
    network, batches = make_network(precision, settings).eval(), sample_batches(size, STEPS)
    calibrate(network, batches[0][0])

    def run() -> None:
        for images, labels in batches:
            input_gradient(network, images, labels, saturated=saturated)

    return run


def make_panel(precision: str, settings: Study) -> dict[str, Callable[[], None]]:
    """What a training does at a record, and what the panel does once there is a new one: to its scores, and in all.

    The record is the one in the middle of a training. What others see of it goes through a file below paths.BUILD.
    """
    cell = Cell(DATASET, precision, "standard")
    recipe, watched = settings.recipe(cell), live.Watched(cell, settings)
    network, history = _half_trained(recipe, watched)
    progress = cells.progress_file(recipe, 0, watched.networks[0].device)

    def record() -> None:
        history.maps[-1] = saliency_now(network, as_input(watched.raw), watched.labels)
        history.states[-1] = {name: value.clone() for name, value in network.state_dict().items()}
        files.write(progress, files.torch_bytes(asdict(history)))

    def look(show: Callable[[], object]) -> None:
        watched.scored.pop(history.steps[-1], None)  # as new
        show()

    record()
    scores, picture = (partial(look, show) for show in (watched.look, partial(live.fragment, [watched])))
    return {"record": record, "scores": scores, "panel": picture}


def _half_trained(recipe: Recipe, watched: live.Watched) -> tuple[torch.nn.Module, History]:
    """A network with the history of half a training, quantized from the first step on the sample's images."""
    images = Images(*data.load(DATASET, "train", paths.SAMPLE), watched.raw, watched.labels)
    network = build(recipe.precision, shape=recipe.shape, seed=0)
    watch = Watch(watched.raw, watched.labels, recipe.records // 2)
    history = train(
        network, images, seed=0, epochs=HALF, optimizer=recipe.optimizer, quantization=recipe.quantization, watch=watch
    )
    return network, history


def _epoch_steps(recipe: Recipe) -> int:
    images, _ = data.load(recipe.dataset, "train", cells.images_root(recipe.sample))
    return -(-len(images) // recipe.optimizer.batch_size)


def _row(what: str, precision: str, training: str, times: Times, slow: str, fast: str, share: float = 0) -> dict:
    """The ratio of two variants; with a share that of their times in a whole training: so many calls to one step's."""
    found, factor = ratio(times, slow, fast), share or 1
    values = {"value": found.wall, "low": found.low, "high": found.high, "by_processor_time": found.processor}
    return (
        {"what": what, "precision": precision, "training": training}
        | {name: round(factor * value, 3) for name, value in values.items()}
        | {"unit": "share" if share else "ratio", "repeats": len(times.wall[slow])}
    )


# ----------------------------------------------------------------------------------------------- seconds to an accuracy


def accuracy_rows(settings: Study, seeds: int) -> list[dict]:
    """The seconds of training after which a network first gets so many validation images right, as medians of seeds.

    With few bits, of the quantized network: its full-precision warm-up counts as time, not as a network of few bits.
    """
    kinds = [(precision, training) for training in TRAININGS for precision in (FULL, FEW)]
    found = {kind: [] for kind in kinds}
    for seed in range(seeds):
        for kind in kinds:
            found[kind].append(seconds_until(settings.recipe(Cell(DATASET, *kind)), seed))
    table = []
    for (precision, training), of_seeds in found.items():
        for level in LEVELS:
            reached = np.array([seconds[level] for seconds in of_seeds if level in seconds]).reshape(-1, 2)
            wall, processor = np.median(reached, axis=0) if len(reached) else (np.nan, np.nan)
            values = {"value": wall, "low": min(reached[:, 0], default=np.nan),
                      "high": max(reached[:, 0], default=np.nan), "by_processor_time": processor}  # fmt: skip
            what = f"until {level:g} % of the validation images are right"
            table.append(
                {"what": f"{what}, {len(reached)} of {seeds} networks", "precision": precision, "training": training}
                | {name: round(value, 1) for name, value in values.items()}
                | {"unit": "seconds", "repeats": seeds}
            )
    return table


class _Reached(Exception):
    """Every level is reached: the rest of the training is of no use."""


def seconds_until(recipe: Recipe, seed: int) -> dict[float, np.ndarray]:
    """Train a network until it reaches all LEVELS, or to the end; by level seconds of the clock and of the processor.

    The accuracy is looked up CHECKS times an epoch, and that is not counted; the study's own look after each epoch is.
    """
    splits = [data.load(recipe.dataset, split, cells.images_root(recipe.sample)) for split in ("train", "validation")]
    images = Images(*(each for split in splits for each in split))
    network, found = build(recipe.precision, shape=recipe.shape, seed=seed), {}

    def check(_: int, history: History) -> None:
        nonlocal began
        seconds = _now() - began
        if history.switch is None or history.steps[-1] >= history.switch:
            right = accuracy(network, images.validation, images.validation_labels)
            found.update({level: seconds for level in LEVELS if right >= level and level not in found})
        if len(found) == len(LEVELS):
            raise _Reached
        began = _now() - seconds

    began, options = _now(), {name: getattr(recipe, name) for name in ("epochs", "optimizer", "quantization", "guided")}
    watch = Watch(images.validation[:1], images.validation_labels[:1], CHECKS * recipe.epochs)
    try:
        train(network, images, seed=seed, warmup_epochs=recipe.warmup_epochs, watch=watch, on_progress=check, **options)
    except _Reached:
        pass
    return found


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.thread_time()])
