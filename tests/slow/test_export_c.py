"""The C program: all images of all committed networks, several compilers, sanitizers, and random networks."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from saqlib import data
from saqlib.deploy import c, export_c
from saqlib.lenet import build
from saqlib.precision import Bits, Precision, Shape
from saqlib.quantization import calibrate
from study import models, paths
from tests.helpers.deployed import network
from tests.helpers.networks import inputs, sample
from tests.helpers.on_host import NO_MAP, STRICT, ask, deviations, different, needs_compiler, odd_pictures, program

CELLS = sorted(path.stem for path in (paths.RESULTS / "models").glob("*.pt") if "-fp32-" not in path.stem)
COMPILERS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} was not found"))
    for name in ("gcc", "clang")
]
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SETS = [("w4a4", "standard"), ("mixed", "guided"), ("w2a2", "standard")]
MAPS = 200


@needs_compiler
@pytest.mark.parametrize("cell", CELLS)
def test_all_images_of_a_committed_network(cell, tmp_path):
    """10,000 test images: every logit and class is the integer network's; maps of 200 are PyTorch's to 0.1 %."""
    dataset, _, _ = cell.split("-")
    try:
        pictures = data.load(dataset, "test")[0].numpy()
    except data.DataError as error:
        pytest.skip(f"needs the real images: {error}")
    model = models.load(cell)
    built = program(model, tmp_path, flags=("-O2",))
    assert len(pictures) == 10_000 and different(ask(built, pictures, NO_MAP), model, pictures) == 0
    errors, ranks = deviations(ask(built, pictures[:MAPS]), model, pictures[:MAPS])
    assert np.nanmax(errors) < 1e-3 and np.nanmedian(ranks) > 0.9999 and np.nanmin(ranks) > 0.99


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    "flags", [("-O0",), ("-Os",), ("-O3", "-funsigned-char"), SANITIZED], ids=lambda flags: flags[-1]
)
@pytest.mark.parametrize(("precision", "training"), SETS)
def test_every_compiler_gives_the_same_answers(precision, training, compiler, flags, tmp_path):
    """No warning and, where sanitizers watch, no fault: the same bytes as plain -O1 has, on images and odd pictures."""
    model = models.load(f"fashion_mnist-{precision}-{training}")
    pictures = np.concatenate([sample(dataset="fashion_mnist")[0].numpy(), odd_pictures()])
    expected = ask(program(model, tmp_path), pictures)
    np.testing.assert_array_equal(ask(program(model, tmp_path, compiler, flags), pictures), expected)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_it_needs_no_library(compiler, tmp_path):
    """Built for a machine without a system, saq.c asks for no function of another file."""
    export_c(network("w2a2"), tmp_path)
    bare = [*STRICT, "-Os", "-ffreestanding"]
    subprocess.run([compiler, *bare, "-c", tmp_path / "saq.c", "-o", tmp_path / "saq.o"], check=True)
    listed = subprocess.run(["nm", "-u", tmp_path / "saq.o"], check=True, capture_output=True, text=True).stdout
    assert {line.split()[-1] for line in listed.splitlines()} <= {"_GLOBAL_OFFSET_TABLE_"}


@needs_compiler
@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed, tmp_path):
    """Random bits, widths and weights, clips of all sizes, and some channels without weights."""
    draw = np.random.default_rng(seed)
    weights, codes = draw.integers(2, 5, 5), draw.integers(2, 5, 5)
    weights[[0, 4]] = draw.choice([2, 4, 8], 2)
    layers = [Bits(*pair) for pair in zip(weights.tolist(), codes.tolist(), strict=True)]
    c1, c2, d1, d2 = (int(draw.integers(4, most + 1)) for most in (16, 16, 200, 120))
    shape = Shape((8 if seed % 2 else c1, c2), (d1, d2))
    model = build(Precision("random", (*layers[:4], Bits(layers[4].weight))), shape=shape, seed=seed)
    calibrate(model, inputs()[:50])
    with torch.no_grad():
        model.conv2.weight[0] = 0
        for activation in (model.act1, model.act2, model.act3, model.act4):
            activation.alpha.mul_(float(draw.uniform(0.2, 2)))
    model.eval()
    pictures = np.concatenate([sample()[0][:100].numpy(), odd_pictures()])
    answers = ask(program(model, tmp_path), pictures)
    assert different(answers, model, pictures) == 0
    assert not (np.nan_to_num(deviations(answers, model, pictures)[0]) > 2e-3).any()


def test_it_is_small():
    """What somebody reads who ports it: 300 lines of C, 180 of Python."""
    c_lines, lines = (
        sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
        for files in (c.SOURCES.iterdir(), [Path(c.__file__)])
    )
    assert c_lines <= 300 and lines <= 180
