"""saqlib.deploy.export_c: a network's C program against its integer form and PyTorch's maps, and what is refused."""

import dataclasses
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from saqlib.deploy import DeploymentError, c, export_c
from saqlib.deploy.layers import read
from saqlib.lenet import LeNet, build
from saqlib.precision import Bits, Shape
from tests.helpers.deployed import calibrated, changed, network, network_with_ties
from tests.helpers.networks import QUANTIZED, sample
from tests.helpers.on_host import NO_MAP, ask, compiled, deviations, different, needs_compiler, odd_pictures, program

IMAGES = sample()[0][:150].numpy()
TOLERANCE = 1e-3  # of a map's largest value
MAPS = 40  # images whose maps are compared


def of_bits(*layers: tuple[int, int]) -> LeNet:
    return calibrated(network("w4a4"), *(Bits(*each) for each in layers), Bits(8))


def of_shape(precision: str, *widths: int) -> LeNet:
    return build(precision, shape=Shape(widths[:2], widths[2:]), seed=0).eval()


def of_clips(factor: float) -> LeNet:
    return changed("w4a4", lambda model: [act.alpha.mul_(factor) for act in (model.act2, model.act3)])


# Every combination of packed and ternary weights, one plane of codes and two, and rows that end within a piece.
NETWORKS = {
    **{name: lambda name=name: network(name) for name in QUANTIZED},
    **{f"{name} with ties": lambda name=name: network_with_ties(name) for name in QUANTIZED},
    "w4a2": lambda: of_bits((8, 2), (4, 2), (4, 2), (4, 2)),
    "w2a4": lambda: of_bits((8, 4), (2, 4), (2, 4), (2, 4)),
    "w3a3": lambda: of_bits((8, 3), (3, 3), (3, 3), (3, 3)),
    "edges of 2 bits": lambda: network("w2a2", 2),
    "wide clips": lambda: of_clips(8),  # a rise of more than a byte
    "narrow clips": lambda: of_clips(0.05),  # several levels at one sum
    "6 and 16 channels": lambda: of_shape("w2a2", 6, 16, 120, 84),
    "odd widths": lambda: of_shape("w2a4", 8, 3, 77, 11),
    "widest": lambda: of_shape("w4a2", 28, 19, 497, 497),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Model and program of each of NETWORKS, built when first asked for."""

    @cache
    def built(name: str) -> tuple[LeNet, Path]:
        model = NETWORKS[name]()
        return model, program(model, tmp_path_factory.mktemp("program"))

    return built


# ------------------------------------------------------------------------------------------------ what it computes


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_classes_and_logits_are_the_integer_networks(name, programs):
    """Bit for bit, on the committed sample and on odd pictures, half-way cases and equal pixels included."""
    model, built = programs(name)
    pictures = np.concatenate([IMAGES, odd_pictures()])
    assert different(ask(built, pictures, NO_MAP), model, pictures) == 0


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_pytorchs(name, programs):
    """Of the class and of another, on images and odd pictures; dead where PyTorch's is all zeros, and only there."""
    model, built = programs(name)
    pictures = np.concatenate([IMAGES[:MAPS], odd_pictures()])
    targets = np.arange(len(pictures)) % 10
    for given in (None, targets):
        answers = ask(built, pictures, *([] if given is None else [given]))
        errors, ranks = deviations(answers, model, pictures, given)
        assert np.nanmax(errors) < TOLERANCE and np.nanmedian(ranks) > 0.999 and np.nanmin(ranks) > 0.99


@needs_compiler
def test_a_dead_map_says_so(tmp_path):
    """Where all is clipped the straight-through map is dead, the other is not; where nothing is positive both are."""
    clipped = changed("w2a2", lambda model: model.act4.alpha.fill_(1e-4))
    silent = changed("w2a2", lambda model: model.dense1.bias.fill_(-1e3))
    for model, dead in ((clipped, [True, False]), (silent, [True, True])):
        answers = ask(program(model, tmp_path / str(dead)), IMAGES[:5])
        assert ((answers["exponent"] == -32767) == dead).all() and ((answers["map"] == 0).all(2) == dead).all()
        assert different(answers, model, IMAGES[:5]) == 0


# ----------------------------------------------------------------------------------------------- the numbers by hand


def layer(**changes):
    """dense1 of the 2-bit network with one output of four 2-bit weights, of 4-bit codes, and changes."""
    plain = {"weight": np.array([[1, -1, 0, -1]], np.int8), "bias": np.array([-2], np.int32), "input_bits": 4,
             "output_scale": np.array([0.5], np.float32), "alpha": np.float32(6), "step": np.float32(2)}  # fmt: skip
    return dataclasses.replace(read(network("w2a2"))[2], **plain | changes)


def test_levels_by_hand():
    """Above 0 from 1 on, the codes from their thresholds, the clip of 6 from 12 * 0.5 on; all less the bias of -2."""
    thresholds = np.array([[3, 6, 11]])
    ternary = np.array([[3, 5, 8, 13, 14]]) + 2 * 15  # two weights of -1, each with the largest code of two planes
    np.testing.assert_array_equal(c._levels(layer(), thresholds), ternary)
    four_bits = layer(weight_bits=4)
    np.testing.assert_array_equal(c._levels(four_bits, thresholds), ternary - 2 * 15)
    narrow = dataclasses.replace(four_bits, input_bits=2)  # no sum is above 3 * 3
    np.testing.assert_array_equal(c._levels(narrow, thresholds), [[3, 5, 8, 10, 10]])


def test_rows_are_packed_from_the_highest_bits():
    """Two pieces of 16 bits hold four 4-bit weights each, the last one filled up by zeros."""
    weight = np.array([[1, -1, 0, -7, 5]], np.int8)
    assert [hex(piece) for piece in c._pieces(layer(weight=weight, weight_bits=4))] == ["0x1f09", "0x5000"]
    assert [hex(piece) for piece in c._pieces(layer())] == ["0x7300"]


def test_scales_by_hand():
    """15 bits for the largest, at least 1 for any that has weights, 0 for one that has none, whatever its scale."""
    weight = np.array([[1, 0], [0, -1], [1, 1], [0, 0]], np.int8)
    scales = layer(weight=weight, weight_scale=np.array([3, 1, 1e-9, 7], np.float32))
    numbers, exponent = c._scales(scales)
    assert exponent == 2 - 15 and numbers.tolist() == [3 * 2**13, 2**13, 1, 0]


NARROW = """
#include <stdio.h>
#include "saq.c"
int main(void) {
  int32_t a[] = {%s};
  enum { N = sizeof a / sizeof *a };
  printf("%%d", narrow(a, N));
  for (int i = 0; i < N; i++) printf(" %%d", a[i]);
  return 0;
}
"""


@needs_compiler
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([32766, -32766, 1, 0], [0, 32766, -32766, 1, 0]),
        ([32767, 3, -3], [1, 16384, 2, -1]),  # half-way cases go up
        ([-(2**20), 2**20 - 1, 100, 31, -32], [6, -16384, 16384, 2, 0, 0]),  # 2^15 itself would not fit 16 bits
        ([0, 0], [0, 0, 0]),
    ],
)
def test_gradients_are_narrowed_by_hand(given, expected, tmp_path):
    """The shift, then the numbers: the largest magnitude below 2^15, rounded."""
    export_c(network("w4a4"), tmp_path)
    (tmp_path / "main.c").write_text(NARROW % ", ".join(map(str, given)))
    answer = subprocess.run([compiled([tmp_path / "main.c"])], check=True, capture_output=True, text=True).stdout
    assert [int(number) for number in answer.split()] == expected


# ---------------------------------------------------------------------------------------------------- what is refused


def equal_weights(model: LeNet) -> None:
    model.dense1.weight.fill_(0.1)
    model.dense1.weight_scale.fill_(0.1 / 7)


UNFIT = {
    "full precision": (lambda: network("fp32"), "conv1 computes in full precision"),
    "8 bits": (lambda: build("w8a8"), "the activation behind conv1 has 8 bits, and saq.c takes 2 to 4"),
    "5-bit codes": (lambda: of_bits((8, 4), (4, 5), (4, 4), (4, 4)), "the activation behind conv2 has 5 bits"),
    "8-bit weights": (
        lambda: of_bits((8, 4), (4, 4), (8, 4), (4, 4)),
        "dense1 has 8-bit weights, and saq.c takes 2 to 4",
    ),
    "29 channels": (lambda: build("w4a4", shape=Shape((29, 16), (120, 84))), "conv1 has 29 outputs, .* room for 28"),
    "20 channels": (lambda: build("w4a4", shape=Shape((8, 20), (120, 84))), "conv2 has 20 outputs, .* room for 19"),
    "498 units": (lambda: build("w4a4", shape=Shape((8, 16), (498, 84))), "dense1 has 498 outputs, .* room for 497"),
    "large sums": (lambda: changed("w4a4", equal_weights), "the sums of dense1 can reach 42,000, .* below 32,767"),
    "large bias": (
        lambda: changed("w4a4", lambda model: model.conv1.bias.fill_(2**24 * model.conv1.weight_scale.max() / 255)),
        "the accumulators of conv1 can reach",
    ),
    "unlike classes": (
        lambda: changed("w4a4", lambda model: (model.dense3.weight_scale[0].mul_(2**-20), model.dense3.bias.zero_())),
        "scales of the last layer's channels differ too much",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_an_unfit_network_is_refused(kind, tmp_path):
    """In one line that names the layer and what is wrong with it; nothing is written."""
    make, message = UNFIT[kind]
    with pytest.raises(DeploymentError, match=message) as refused:
        export_c(make(), tmp_path / "folder")
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- the files


def test_the_same_network_gives_the_same_three_files(tmp_path):
    """model.h, and saq.c and saq.h as they are in the package; a folder is made, older files are replaced."""
    export_c(network("w2a2"), tmp_path / "a" / "deep folder")
    export_c(network("w4a4"), tmp_path / "b")
    export_c(network("w2a2"), str(tmp_path / "b"))
    written = {path.name: path.read_bytes() for path in (tmp_path / "a" / "deep folder").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert written.keys() == {"model.h", "saq.c", "saq.h"}
    assert all(written[name] == (c.SOURCES / name).read_bytes() for name in ("saq.c", "saq.h"))


def test_no_float_no_heap_no_library():
    """What saq.c is made of: no type, no call and no header that a small processor may not have."""
    source = "".join((c.SOURCES / name).read_text(encoding="utf-8") for name in ("saq.c", "saq.h"))
    code = "\n".join(line.partition("//")[0] for line in source.splitlines())
    assert not [word for word in ("float", "double", "alloc", "mem", "printf") if word in code]
    assert {line.split()[1] for line in code.splitlines() if line.startswith("#include")} == {
        '"saq.h"', '"model.h"', "<stdint.h>",
    }  # fmt: skip


def test_a_folder_that_is_none_is_named(tmp_path):
    """A file stands in its place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        export_c(network("w2a2"), tmp_path / "file")
    with pytest.raises(OSError, match=str(tmp_path / "file" / "folder")):
        export_c(network("w2a2"), tmp_path / "file" / "folder")
