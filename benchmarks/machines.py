"""What differs between processors: the same small work under each level of instructions that this machine can imitate.

Each level is a process of its own, since libraries choose their code when they are loaded. It hashes what every
operator gives that training and scoring use, then whole trainings and their scores.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saqlib import data
from saqlib.controls import sobel
from saqlib.kernels import operators
from saqlib.lenet import build
from saqlib.quantization import best_clip
from saqlib.removal import relevance_gain
from saqlib.saliency import input_gradient
from saqlib.scores import map_scores, preservation_scores
from saqlib.training import Guided, Images, Optimizer, Quantization, train
from study import paths, settings
from study.processes import AVX2

STEPS = 3.0  # epochs of 500 images
# What the libraries find on other machines. glibc's setting imitates a processor without AVX512 for the C library.
LEVELS = {
    "as it is": {},
    "pinned": AVX2,
    "pinned, C library without AVX512": AVX2 | {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL"},
    "pinned, MKL compatible": AVX2 | {"MKL_CBWR": "COMPATIBLE"},
    "pinned, oneDNN SSE4.1": AVX2 | {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "ATen AVX512 alone": AVX2 | {"ATEN_CPU_CAPABILITY": "avx512"},
    "pinned, NumPy without AVX512": AVX2 | {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX"},
    "pinned, no kernels": AVX2 | {"CC": "no compiler"},
}


def rows() -> list[dict[str, str]]:
    """One row for each level: which hashes differ from the pinned ones."""
    found = {level: in_a_process(variables) for level, variables in LEVELS.items()}
    pinned = found["pinned"]
    table = []
    for level, hashes in found.items():
        other = [name for name in pinned if hashes[name] != pinned[name]]
        table.append({"level": level, "differs from pinned": ", ".join(other) or "nothing"})
    return table


def in_a_process(variables: dict[str, str]) -> dict[str, str]:
    """What `hashes` gives in a new process with these variables set."""
    clean = {name: value for name, value in os.environ.items() if name not in AVX2}
    command = [sys.executable, "-m", "benchmarks.machines"]
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def hashes() -> dict[str, str]:
    """The first digits of a hash of what each operator, each training and each scoring gives, by name."""
    torch.set_num_threads(1)
    found = {name: _digest(run()) for name, run in _operators().items()}
    for kind in ("standard", "guided"):
        for precision in ("fp32", "w4a4", "mixed", "w2a2"):
            network = _trained(precision, Guided(0.5, 1.0, "magnitude") if kind == "guided" else None)
            found[f"training {precision} {kind}"] = _digest(*network.state_dict().values())
            found[f"scores {precision} {kind}"] = _digest(*_scores(network))
    return found


def _operators() -> dict[str, Callable[[], Tensor]]:
    """The operators of libraries that training and scoring use, on random numbers of their usual size."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rows, matrix, logits, wide = numbers(128, 400), numbers(120, 400), numbers(128, 10), numbers(64, 784)
    images, parameter = numbers(16, 1, 28, 28), torch.nn.Parameter(numbers(400, 120))
    parameter.grad = numbers(400, 120)
    dense = operators.linear if operators.runs(rows) else F.linear
    adam = torch.optim.Adam([parameter], lr=0.01, fused=True)
    return {
        "library's dense layer": lambda: F.linear(rows, matrix),
        "library's convolution": lambda: F.conv2d(numbers(16, 8, 14, 14), numbers(16, 8, 5, 5)),
        "our dense layer": lambda: dense(rows, matrix, numbers(120)),
        "log_softmax": lambda: F.log_softmax(logits, 1),
        "softmax, float64": lambda: logits.double().softmax(1),
        "cross_entropy": lambda: F.cross_entropy(logits, torch.arange(128) % 10, reduction="none"),
        "mean": lambda: logits.mean(),
        "sum of rows, float64": lambda: wide.double().sum(1),
        "entropy": lambda: torch.special.entr(wide.double().abs() / 100).sum(1),
        "calibration": lambda: best_clip(wide, 4),
        "Adam": lambda: adam.step() or parameter.detach(),
        "sobel": lambda: sobel(images),
        "avg_pool, float64": lambda: F.avg_pool2d(images.double(), 7, stride=1),
        "NumPy's sum": lambda: torch.from_numpy(wide.numpy().sum(1)),
        "NumPy's exp and log": lambda: torch.from_numpy(np.log(np.exp(wide.numpy().astype(float)) + 1)),
    }


def _trained(precision: str, guided: Guided | None) -> torch.nn.Module:
    splits = {split: data.load("mnist", split, paths.SAMPLE) for split in ("train", "validation")}
    images = Images(*(each[:500] for each in splits["train"]), *(each[:200] for each in splits["validation"]))
    network = build(settings.load().precisions[precision], seed=0)
    train(
        network, images, seed=0, epochs=int(STEPS), optimizer=Optimizer(128, 0.004), warmup_epochs=1, guided=guided,
        quantization=None if precision == "fp32" else Quantization(0.004, 0.0002, 256),
    )  # fmt: skip
    return network


def _scores(network: torch.nn.Module) -> list[Tensor]:
    raw, _ = data.load("mnist", "test", paths.SAMPLE)
    images = data.as_input(raw[:100])
    with torch.no_grad():
        targets = network(images).argmax(1)
    maps = input_gradient(network, images, targets)
    scores = map_scores(images, maps) | preservation_scores(maps, maps.flip(0))
    return [maps, relevance_gain(network, images, targets, maps, 7), *scores.values()]


def _digest(*tensors: Tensor) -> str:
    content = b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(content).hexdigest()[:12]


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.machines", description="Hashes, as JSON.").parse_args()
    print(json.dumps(hashes()))
