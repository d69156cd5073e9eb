"""study.models: the network that was saved, of the cell that the name says, or one sentence that says why not."""

import errno
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from saqlib.lenet import build
from saqlib.precision import Bits, Precision, Shape
from study import models, settings
from study.settings import Cell, ParamsError
from tests.helpers import parameters
from tests.helpers.networks import inputs

STUDY = settings.load(scale="smoke")
CELL = Cell("mnist", "w2a2", "guided")
RECIPE = STUDY.recipe(CELL)
MENDED = {"models": "`make reproduce` writes it anew", "results/models": "`git restore {}`"}
RECORD = {
    "steps": torch.tensor([0, 7]),
    "images": torch.arange(10 * 784).view(10, 28, 28).to(torch.uint8),
    "maps": torch.arange(2 * 10 * 784.0).view(2, 10, 28, 28),
}


def states(precision: str | Precision = "w2a2", shape: Shape | None = None) -> dict[int, dict[str, Tensor]]:
    """Weights of two networks, with clips that no new network has."""
    found = {}
    for seed in (0, 1):
        network = build(precision, shape=shape, seed=seed).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.mul_(1.5 if "alpha" in name else 1)
        found[seed] = {name: value.clone() for name, value in network.state_dict().items()}
    return found


def write(root: Path) -> None:
    """Both files of the cell below a folder."""
    models.write_cell(RECIPE, states(), RECORD, root)
    models.publish(RECIPE, 1, states()[1], root)


def refusal(root: Path, cell: Cell | str = CELL, seed: int | None = 0) -> str:
    """The line with which a model is refused."""
    return parameters.refusal(models.load, cell, seed, root, error=models.ModelFileError)


@pytest.fixture
def saved(tmp_path) -> Path:
    """A root folder in which a cell of two seeds is saved."""
    root = tmp_path / "root"
    write(root)
    return root


# ---------------------------------------------------------------------------------------------- what was saved


def test_loaded_network_is_the_saved_one(saved):
    """In evaluation mode, with every bit of its state; without a seed it is the published one."""
    for seed, state in [*states().items(), (None, states()[1])]:
        network = models.load(CELL, seed, saved)
        assert not any(module.training for module in network.modules())
        assert network.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert torch.equal(models.load(str(CELL), seed, saved)(inputs()), network(inputs()))
    assert network.precision == STUDY.precisions["w2a2"] and network.shape == STUDY.shape


def test_files_have_the_same_bytes_each_time(saved, tmp_path):
    """Both files; the large one has the record, the small one a single seed, which is all that a fresh clone has."""
    write(tmp_path / "again")
    for name in ("models", "results/models"):
        one, other = (root / name / f"{CELL}.pt" for root in (saved, tmp_path / "again"))
        assert one.read_bytes() == other.read_bytes()
    small = models.read_cell(saved / "results" / "models" / f"{CELL}.pt")
    assert list(small["seeds"]) == [1] and "record" not in small
    for found, expected in zip(models.record(CELL, saved), RECORD.values(), strict=True):
        assert torch.equal(torch.from_numpy(found), expected)
    shutil.rmtree(saved / "models")
    assert models.load(CELL, root=saved) and "does not exist; train the cell first" in refusal(saved, seed=1)


def test_networks_at_recorded_steps_quantize_from_the_switch_on():
    """Before it, a network computes what the weights of full precision compute."""
    state, images = states()[0], inputs()
    recorded = {"steps": [0, 3, 5], "states": [state] * 3, "switch": 3}
    before, at, behind = (network for _, network in models.at_steps(STUDY.precisions["w2a2"], STUDY.shape, recorded))
    full = build("fp32", shape=STUDY.shape, seed=5).eval()
    full.load_state_dict({name: state[name] for name in full.state_dict()})
    assert torch.equal(before(images), full(images)) and torch.equal(at(images), behind(images))
    assert not torch.equal(before(images), at(images)) and not before.training


@pytest.mark.parametrize("rounding", [True, False])
@pytest.mark.parametrize("shape", [Shape((3, 5), (12, 7)), Shape((3, 4, 5), ())], ids=["LeNet", "second"])
def test_bits_and_widths_come_from_the_file(shape, rounding, tmp_path):
    """Not from params.yaml, which may have changed since, nor from the name of the precision."""
    precision = Precision("w2a2", (Bits(3, 5), Bits(None, 4), Bits(2, None), Bits(8, 8), Bits()), rounding)
    models.write_cell(replace(RECIPE, precision=precision, shape=shape), states(precision, shape), RECORD, tmp_path)
    network = models.load(CELL, 1, tmp_path)
    assert (network.precision, network.shape) == (precision, shape)


# ------------------------------------------------------------------------------------------ what is refused


def test_missing_model_says_what_to_do(tmp_path):
    """Which file is missing, and the command that makes it."""
    write(tmp_path)
    assert refusal(tmp_path, seed=7) == f"{CELL} holds seeds [0, 1], not 7"
    with pytest.raises(ParamsError, match="did you mean 'mnist'"):
        models.load("mnits-w2a2-guided")
    text = refusal(tmp_path, "fashion_mnist-fp32-standard")
    assert str(tmp_path / "models" / "fashion_mnist-fp32-standard.pt") in text
    assert "dvc repro train@fashion_mnist-fp32-standard" in text


@pytest.mark.parametrize("folder", MENDED)
def test_file_under_the_name_of_another_cell_is_refused(saved, folder):
    """Both cells are named, since one of them would be taken for the other in every table."""
    other = Cell("fashion_mnist", "w2a2", "guided")
    path = saved / folder / f"{other}.pt"
    shutil.copy(path.with_stem(str(CELL)), path)
    text = refusal(saved, other, 0 if folder == "models" else None)
    assert text == f"{path} holds '{CELL}', not the cell of its name; {MENDED[folder].format(path)}"


class Hostile:
    """Unpickling it runs a command of its author's choice."""

    def __reduce__(self):
        return Path.touch, (Path("was here"),)


FOREIGN = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "dictionary": lambda path: torch.save({"state_dict": {}}, path),
    "no seeds": lambda path: torch.save({"cell": str(CELL), "seeds": [0]}, path),
    "a program": lambda path: torch.save(torch.load(path, weights_only=True) | {"record": Hostile()}, path),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_model_file_is_refused_in_one_sentence(saved, kind, monkeypatch):
    """Whatever the bytes are: the file is named, on one line, and nothing in it is run."""
    monkeypatch.chdir(saved)
    path = saved / "models" / f"{CELL}.pt"
    FOREIGN[kind](path)
    assert re.match(f"{re.escape(str(path))} is not a model file of this project", refusal(saved))
    assert not (saved / "was here").exists()


def test_a_file_that_cannot_be_read_is_not_called_damaged(saved, monkeypatch):
    """It may be whole, and belong to somebody else."""
    error = PermissionError(errno.EACCES, "Permission denied", "x.pt")
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=error))
    assert refusal(saved) == f"the file of {CELL} cannot be read: x.pt: Permission denied"


# Contents of a file that is whole and of the right cell, and does not hold what was written as the network of seed 0.
OTHER = {
    "precision of text": lambda content: {"precision": "w2a2"},
    "bits that are none": lambda content: {"precision": {"name": "x", "layers": [{"weight": 99}] * 5}},
    "other widths": lambda content: {"network": {"channels": [3, 5], "hidden": [12, 7]}},
    "no weights": lambda content: {"seeds": {0: {}}},
    "weights of another precision": lambda content: {"seeds": states("fp32")},
    "exchanged seeds": lambda content: {"seeds": {0: content["seeds"][1], 1: content["seeds"][0]}},
    "other rounding": lambda content: {"precision": content["precision"] | {"rounding": False}},
    "a negated bias": lambda content: {
        "seeds": {0: content["seeds"][0] | {"conv1.bias": -content["seeds"][0]["conv1.bias"]}}
    },
}


@pytest.mark.parametrize("kind", OTHER)
def test_file_without_its_network_is_refused_in_one_sentence(saved, kind):
    """PyTorch's own errors run over many lines; the cell is named."""
    path = saved / "models" / f"{CELL}.pt"
    content = torch.load(path, weights_only=True)
    torch.save(content | OTHER[kind](content), path)
    why = (
        "are not those that were written"
        if kind in ("exchanged seeds", "other rounding", "a negated bias")
        else "holds no network"
    )
    assert str(CELL) in refusal(saved) and why in refusal(saved)


@pytest.mark.parametrize("name", ["conv1.weight", "dense3.bias", "act2.alpha", "conv2.weight_scale"])
def test_network_that_is_not_finite_is_refused(name, tmp_path):
    """Somewhere one NaN or infinity: its codes would be 0, its answer a class with some confidence."""
    for value in (float("nan"), -float("inf")):
        broken = states()
        broken[0][name].view(-1)[-1] = value
        models.write_cell(RECIPE, broken, RECORD, tmp_path)
        assert refusal(tmp_path) == f"{name} of seed 0 of {CELL} is not finite (NaN or infinity); train it again"
    assert models.load(CELL, 1, root=tmp_path)
