"""The C program of a network, compiled for this machine, and what it answers."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from saqlib.data import as_input
from saqlib.deploy import export_c, integer_network
from saqlib.deploy.integer import BATCH
from saqlib.lenet import LeNet
from saqlib.saliency import SATURATED, input_gradient

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: cc was not found")

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
PREDICTED, NO_MAP = 10, 11  # in place of a class to explain
QUESTION = np.dtype([("target", "u1"), ("picture", "u1", 784)])
ANSWER = np.dtype([("class", "i4"), ("logits", "i4", 10), ("exponent", "i4", 2), ("map", "i4", (2, 784))])
MAIN = f"""
#include <stdio.h>
#include "saq.h"
int main(void) {{
  static struct {{ unsigned char target, picture[SAQ_PIXELS]; }} question;
  static struct {{ int32_t class, logits[SAQ_CLASSES], exponent[2], map[2][SAQ_PIXELS]; }} answer;
  static int32_t map[SAQ_MAP];
  while (fread(&question, sizeof question, 1, stdin)) {{
    answer.class = saq_classify(question.picture, answer.logits);
    int target = question.target == {PREDICTED} ? answer.class : question.target;
    for (int passing = 0; passing < 2 && target != {NO_MAP}; passing++) {{
      answer.exponent[passing] = saq_map(target, passing, map);
      for (int i = 0; i < SAQ_PIXELS; i++) answer.map[passing][i] = map[i];
    }}
    fwrite(&answer, sizeof answer, 1, stdout);
  }}
  return 0;
}}
"""


def program(model: LeNet, folder: Path, compiler: str = "cc", flags: Sequence[str] = ("-O1",)) -> Path:
    """The network's program, which answers on stdout what is asked on stdin."""
    export_c(model, folder)
    (folder / "main.c").write_text(MAIN, encoding="utf-8")
    return compiled([folder / "main.c", folder / "saq.c"], compiler, flags)


def compiled(sources: Sequence[Path], compiler: str = "cc", flags: Sequence[str] = ()) -> Path:
    """The program of these sources, beside the first one; a warning is an error."""
    built = sources[0].with_name(compiler + "".join(flags))
    done = subprocess.run([compiler, *STRICT, *flags, *sources, "-o", built], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built


def ask(built: Path, pictures: np.ndarray, targets: np.ndarray | int = PREDICTED) -> np.ndarray:
    """An ANSWER for each picture, uint8 (N, 28, 28). Whatever the program says on stderr is a failure."""
    questions = np.empty(len(pictures), QUESTION)
    questions["target"], questions["picture"] = targets, pictures.reshape(len(pictures), -1)
    done = subprocess.run([built], input=questions.tobytes(), capture_output=True)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    return np.frombuffer(done.stdout, ANSWER)


def different(answers: np.ndarray, model: LeNet, pictures: np.ndarray) -> int:
    """Of how many pictures the logits or the class are not those of the integer network."""
    integers = integer_network(model)
    parts = np.split(pictures, range(BATCH, len(pictures), BATCH))
    sums = np.concatenate([integers.codes(part)["dense3"] for part in parts])
    classes = (sums * integers.multipliers).argmax(1)
    return int(((answers["logits"] != sums).any(1) | (answers["class"] != classes)).sum())


def deviations(answers: np.ndarray, model: LeNet, pictures: np.ndarray, targets: np.ndarray | None = None):
    """How far both maps are from PyTorch's: largest errors, in units of the map's largest value, and rank correlations.

    Each (2, N); NaN where both maps are dead. Where only one is, its error is infinite.
    """
    classes = torch.from_numpy(answers["class"].astype(np.int64) if targets is None else targets)
    errors, ranks = np.full((2, 2, len(pictures)), np.nan)
    for way, saturated in enumerate(SATURATED):
        expected = input_gradient(model, as_input(torch.from_numpy(pictures)), classes, saturated=saturated)
        exponents = answers["exponent"][:, way, None]
        found = np.ldexp(answers["map"][:, way].astype(np.float64), exponents)
        for i, (a, b) in enumerate(zip(expected.flatten(1).double().numpy(), found, strict=True)):
            if a.any() != b.any() or b.any() != (exponents[i] > -1000):
                errors[way, i] = np.inf
            elif a.any():
                errors[way, i] = np.abs(a - b).max() / np.abs(a).max()
                ranks[way, i] = np.corrcoef(rankdata(a), rankdata(b))[0, 1]
    return errors, ranks


def odd_pictures() -> np.ndarray:
    """uint8 (N, 28, 28): blank, full, grey, stripes, noise, and single pixels at the borders and all over."""
    generator = np.random.default_rng(0)
    checks = np.indices((28, 28)).sum(0) % 2 * 255
    plain = [np.full((28, 28), value) for value in (0, 1, 128, 255)] + [checks, 255 - checks]
    noise = list(generator.integers(0, 256, (10, 28, 28)))
    pixels = np.zeros((60, 784), int)
    places = [0, 27, 756, 783, *generator.choice(784, 56, replace=False)]
    pixels[np.arange(60), places] = generator.integers(1, 256, 60)
    return np.array([*plain, *noise, *pixels.reshape(-1, 28, 28)], np.uint8)
