"""How the time of a step, an epoch and a cell grows with batch size, images and workers."""

import time

import torch

from benchmarks.steps import QUANTIZED, make_step
from benchmarks.timing import interleaved
from saqlib.data import load
from saqlib.lenet import build
from saqlib.training import Images, train
from study import paths
from study.processes import run_all, worker_count
from study.settings import Study

BATCH_SIZES = (32, 64, 128, 256, 512)
IMAGE_COUNTS = (512, 1024, 2048, 4096)
JOBS = 4  # networks trained at once


def batch_rows(settings: Study, rounds: int) -> list[dict[str, str]]:
    """Time an image of a step, at several batch sizes, in units of the experiment's own batch size."""
    own = settings.optimizer.batch_size
    sizes = sorted({*BATCH_SIZES, own})
    steps = {procedure: f"{procedure} {QUANTIZED}" for procedure in ("standard", "guided")}
    variants = {f"{p} {n}": make_step(p, QUANTIZED, settings, n, steps=1) for p in steps for n in sizes}
    times = interleaved(variants, rounds)

    def an_image(procedure: str, size: int) -> float:
        return times.milliseconds(f"{procedure} {size}") / size

    return [
        {"batch": str(n)} | {steps[p] + ", an image": f"{an_image(p, n) / an_image(p, own):.2f}" for p in steps}
        for n in sizes
    ]


def image_rows(settings: Study, rounds: int) -> list[dict[str, str]]:
    """Time an image of a guided epoch, quantized from the first step, in units of the largest one's."""

    def epoch(count: int):
        return lambda: train_once(settings, 0, count)

    times = interleaved({str(n): epoch(n) for n in IMAGE_COUNTS}, rounds)
    dearest = times.milliseconds(str(IMAGE_COUNTS[-1])) / IMAGE_COUNTS[-1]
    return [
        {"images": str(n), "time an image": f"{times.milliseconds(str(n)) / n / dearest:.2f}"} for n in IMAGE_COUNTS
    ]


def worker_rows(settings: Study, rounds: int) -> list[dict[str, str]]:
    """Networks a second with 1, 2, ... worker processes, in units of one; and whether all trained the same ones."""
    jobs = [(settings, seed, IMAGE_COUNTS[-1]) for seed in range(JOBS)]
    counts = range(1, worker_count(JOBS) + 1)
    seconds: dict[int, list[float]] = {n: [] for n in counts}
    states = {}
    for round_ in range(rounds + 1):
        for n in counts:
            began = time.perf_counter()
            states[n] = run_all(train_once, jobs, n)
            if round_:  # the first one also starts the workers
                seconds[n].append(time.perf_counter() - began)
    median = {n: sorted(values)[len(values) // 2] for n, values in seconds.items()}
    return [
        {
            "workers": str(n),
            "networks a second": f"{median[1] / median[n]:.2f}",
            "weights": "equal" if all(map(same, states[n], states[1])) else "DIFFERENT",
        }
        for n in counts
    ]


def train_once(settings: Study, seed: int, count: int) -> dict[str, torch.Tensor]:
    """Train one guided network for an epoch on `count` images and return its weights."""
    images, labels = load("mnist", "train", paths.SAMPLE)
    some = torch.arange(count) % len(images)
    network = build(settings.precisions[QUANTIZED], shape=settings.shape, seed=seed)
    train(
        network,
        Images(images[some], labels[some], images[:100], labels[:100]),
        seed=seed,
        epochs=1,
        warmup_epochs=0,
        optimizer=settings.optimizer,
        quantization=settings.quantization,
        guided=settings.guided,
    )
    return network.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two networks have the same weights, bit for bit."""
    return all(torch.equal(a[name], b[name]) for name in a)
