"""Model files: the network that was saved, of the cell that the name says, or one sentence that says why not."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from saqlib import paths, stored
from saqlib.data.images import as_input, load
from saqlib.grid import Cell
from saqlib.network.initial import build
from saqlib.network.settings import Bits, Precision, Shape
from saqlib.params import ParamsError
from saqlib.pipeline import study
from saqlib.saliency.gradient import input_gradient
from saqlib.training.looking import accuracy

STUDY = study.load(scale="smoke")
CELL = Cell("mnist", "w2a2", "guided")
COMMITTED = sorted((paths.RESULTS / "models").glob("*.pt"))
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


@pytest.fixture
def saved(tmp_path) -> Path:
    """A root folder in which a cell of two seeds is saved."""
    root = tmp_path / "root"
    write(root)
    return root


def write(root: Path) -> dict[int, str]:
    """Both files of the cell below a folder; the hashes of its networks."""
    digests = stored.write_cell(CELL, STUDY.precisions["w2a2"], STUDY.shape, states(), RECORD, root)
    stored.publish(CELL, root)
    return digests


@pytest.fixture
def images() -> Tensor:
    """20 of the sample's test images as a network takes them."""
    return as_input(load("mnist", "test", sample=True)[0][:20])


def refusal(root: Path, cell: Cell | str = CELL, seed: int = 0) -> str:
    """What a person is told about a model that cannot be had: one line."""
    with pytest.raises(stored.ModelFileError) as error:
        stored.load_model(cell, seed, root=root)
    text = str(error.value)
    assert text and "\n" not in text
    return text


# ---------------------------------------------------------------------------------------------- what was saved


def test_loaded_network_is_the_saved_one(saved, images):
    """In evaluation mode, with every bit of its state, ready to be explained; names and Cells are the same."""
    for seed, state in states().items():
        network = stored.load_model(CELL, seed, root=saved)
        assert not any(module.training for module in network.modules())
        assert network.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert input_gradient(network, images).shape == (20, 28, 28)
        by_name = stored.load_model(str(CELL), seed, root=saved)
        assert torch.equal(by_name(images), network(images))
    assert network.precision == STUDY.precisions["w2a2"] and network.shape == STUDY.shape


def test_bits_and_widths_come_from_the_file(tmp_path, images):
    """Not from params.yaml, which may have changed since, nor from the name of the precision."""
    precision = Precision("w2a2", (Bits(3, 5), Bits(None, 4), Bits(2, None), Bits(8, 8), Bits()))
    shape = Shape(channels=(3, 5), hidden=(12, 7))
    written = states(precision, shape)
    stored.write_cell(CELL, precision, shape, written, RECORD, tmp_path)
    network = stored.load_model(CELL, 1, root=tmp_path)
    assert (network.precision, network.shape) == (precision, shape)
    other = build(precision, shape=shape, seed=5).eval()
    other.load_state_dict(written[1])
    assert torch.equal(network(images), other(images))


def test_restoring_draws_nothing_from_the_global_generator(saved):
    """Whoever loads a network goes on with the random numbers that were due, and gets the same network each time."""
    content = stored.read_cell(stored.model_file(CELL, saved))
    found = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(stored.restore(content, 0).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_restored_networks_share_no_memory(saved):
    """What is done to one leaves the file's content, and so the next one, as it was."""
    content = stored.read_cell(stored.model_file(CELL, saved))
    first = stored.restore(content, 0)
    with torch.no_grad():
        first.dense3.weight.zero_()
    assert stored.restore(content, 0).dense3.weight.abs().sum() > 0


def test_seed_0_is_loaded_from_results_where_nothing_was_trained(saved):
    """A reader's checkout has results/models only: seed 0 works, others are an error that says what is there."""
    assert stored.model_file(CELL, saved) == saved / "models" / f"{CELL}.pt"
    shutil.rmtree(saved / "models")
    assert stored.model_file(CELL, saved) == saved / "results" / "models" / f"{CELL}.pt"
    assert torch.equal(stored.load_model(CELL, 0, root=saved).dense3.weight, states()[0]["dense3.weight"])
    assert refusal(saved, seed=1) == f"{CELL} holds seeds [0], not 1"


def test_record_is_the_maps_of_training(saved):
    """Steps, images and maps of seed 0 as they were written; a checkout without models/ has none and says so."""
    steps, images, maps = stored.record(CELL, saved)
    for found, name in ((steps, "steps"), (images, "images"), (maps, "maps")):
        assert torch.equal(torch.from_numpy(found), RECORD[name]) and found.dtype == RECORD[name].numpy().dtype
    shutil.rmtree(saved / "models")
    with pytest.raises(stored.ModelFileError, match="does not exist; train the cell first"):
        stored.record(CELL, saved)


def test_files_have_the_same_bytes_each_time(saved, tmp_path):
    """Both files, whatever was written before; the small one has the first seed and no record."""
    write(tmp_path / "again")
    for name in ("models", "results/models"):
        one, other = (root / name / f"{CELL}.pt" for root in (saved, tmp_path / "again"))
        assert one.read_bytes() == other.read_bytes()
    small = stored.read_cell(saved / "results" / "models" / f"{CELL}.pt")
    assert list(small["seeds"]) == [0] and "record" not in small


def test_a_model_is_loaded_without_code_that_trains():
    """Whoever deploys or explains a network loads neither training, scores, the store nor the whole of params.yaml."""
    code = f"""
import sys
from saqlib import stored
stored.load_model({COMMITTED[0].stem!r}, 0)
rooms = {{name.split(".")[1] for name in sys.modules if name.startswith("saqlib.")}}
print(sorted(rooms & {{"training", "clarity", "store", "codebase", "pipeline"}}))
"""
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------------------------------- what is committed


def test_every_cell_has_a_committed_model():
    """Seed 0 of the whole grid is in a fresh clone."""
    assert {path.stem for path in COMMITTED} == {str(cell) for cell in STUDY.grid.cells}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_model_is_loaded_and_classifies(path, tmp_path):
    """It has the bits of its precision's name, and is right about nearly all of the sample's test images."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "models").symlink_to(path.parent)
    cell = Cell.parse(path.stem)
    network = stored.load_model(cell, 0, root=tmp_path)
    assert network.precision == STUDY.precisions[cell.precision] and network.shape == STUDY.shape
    right = accuracy(network, *load(cell.dataset, "test", sample=True))
    assert right > {"mnist": 95, "fashion_mnist": 80}[cell.dataset]


# ------------------------------------------------------------------------------------------ what is refused


def test_seed_that_is_not_there_is_refused(saved):
    """The error names the seeds that the file has."""
    assert refusal(saved, seed=7) == f"{CELL} holds seeds [0, 1], not 7"


def test_missing_model_says_what_to_do(tmp_path):
    """Which file is missing, and the command that makes it."""
    text = refusal(tmp_path, "fashion_mnist-fp32-standard")
    assert str(tmp_path / "results" / "models" / "fashion_mnist-fp32-standard.pt") in text
    assert "dvc repro train@fashion_mnist-fp32-standard" in text


@pytest.mark.parametrize("folder", ["models", "results/models"])
def test_file_under_the_name_of_another_cell_is_refused(saved, folder):
    """Both cells are named, since one of them would be taken for the other in every table."""
    other = Cell("fashion_mnist", "w2a2", "guided")
    shutil.copy(saved / folder / f"{CELL}.pt", saved / folder / f"{other}.pt")
    path = saved / folder / f"{other}.pt"
    assert refusal(saved, other) == f"{path} holds {CELL}, not the cell of its name; {MENDED[folder].format(path)}"
    assert stored.load_model(CELL, 0, root=saved)


class Hostile:
    """Unpickling it runs a command of its author's choice."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _replaced(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


FOREIGN = {
    "text": lambda path: path.write_text("hello"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "only a beginning": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pickled module": _replaced(torch.nn.Linear(2, 2)),
    "dictionary": _replaced({"state_dict": {}}),
    "less than a cell": _replaced({"cell": str(CELL), "precision": {}, "network": {}}),
    "list": _replaced([str(CELL)]),
    "tensor": _replaced(torch.zeros(3)),
    "no seeds": _replaced({"cell": str(CELL), "precision": {}, "network": {}, "seeds": [0]}),
    "seeds of text": _replaced({"cell": str(CELL), "precision": {}, "network": {}, "seeds": {"0": {}}}),
    "loop": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_model_file_is_refused_in_one_sentence(saved, kind):
    """Whatever the bytes are: the file is named, on one line."""
    path = saved / "models" / f"{CELL}.pt"
    FOREIGN[kind](path)
    assert re.match(f"{re.escape(str(path))} is not a model file of this project", refusal(saved))


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_nothing_in_a_model_file_is_run(saved, tmp_path, form):
    """A file that somebody was sent cannot do more than fail to load."""
    path = saved / "models" / f"{CELL}.pt"
    content = torch.load(path, weights_only=True) | {"record": Hostile(tmp_path / "was here")}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, 2))
    assert "is not a model file of this project" in refusal(saved)
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("name", ["mnist-w2a2", "mnits-w2a2-guided", "mnist-w2a2-guide", ""])
def test_name_that_is_no_cell_is_refused(saved, name):
    """A misspelt cell is told as such, not as a missing file."""
    with pytest.raises(ParamsError):
        stored.load_model(name, 0, root=saved)


# Contents of a file that is whole and of the right cell, and holds no network of it.
NO_NETWORK = {
    "precision of text": lambda content: content | {"precision": "w2a2"},
    "precision without layers": lambda content: content | {"precision": {"name": "w2a2"}},
    "one layer": lambda content: content | {"precision": {"name": "w2a2", "layers": [{"weight": 2}]}},
    "bits that are none": lambda content: content | {"precision": {"name": "x", "layers": [{"weight": 99}] * 5}},
    "unknown word of a layer": lambda content: content | {"precision": {"name": "x", "layers": [{"bits": 2}] * 5}},
    "no widths": lambda content: content | {"network": {}},
    "widths of text": lambda content: content | {"network": {"channels": "ab", "hidden": "cd"}},
    "other widths": lambda content: content | {"network": {"channels": [3, 5], "hidden": [12, 7]}},
    "no weights": lambda content: content | {"seeds": {0: {}}},
    "weights of text": lambda content: content | {"seeds": {0: "weights"}},
    "one weight less": lambda content: content | {"seeds": {0: dict(list(content["seeds"][0].items())[1:])}},
    "weights of another precision": lambda content: content | {"seeds": states("fp32")},
}


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("kind", NO_NETWORK)
def test_file_without_a_network_is_refused_in_one_sentence(saved, kind, told):
    """PyTorch's own errors run over many lines; the cell is named, whether a report tells of it or not."""
    path = saved / "models" / f"{CELL}.pt"
    if told:
        report(saved, {0: "0" * 64})
    torch.save(NO_NETWORK[kind](torch.load(path, weights_only=True)), path)
    assert str(CELL) in refusal(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["conv1.weight", "dense3.bias", "act2.alpha", "conv2.weight_scale"])
def test_network_that_is_not_finite_is_refused(saved, name, value):
    """Somewhere one NaN or infinity: its codes would be 0, its answer a class with some confidence."""
    path = saved / "models" / f"{CELL}.pt"
    content = torch.load(path, weights_only=True)
    content["seeds"][0][name].view(-1)[-1] = value
    torch.save(content, path)
    assert refusal(saved) == f"{name} of seed 0 of {CELL} is not finite (NaN or infinity); train it again"
    assert stored.load_model(CELL, 1, root=saved)


# ------------------------------------------------------------------------------------ the network that was reported


def report(root: Path, digests: dict[int, str]) -> Path:
    """The report of the cell as training writes it, with a hash for each seed."""
    path = root / "results" / "runs" / f"{CELL}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cell": str(CELL), "seeds": {str(s): {"sha256": d} for s, d in digests.items()}}))
    return path


def test_network_of_the_report_is_loaded(saved):
    """From both files; a report without hashes, as of the first run, tells nothing."""
    path = report(saved, write(saved))
    for folder in ("models", "results/models"):
        assert stored.read_cell(saved / folder / f"{CELL}.pt")
    path.write_text(json.dumps({"cell": str(CELL), "seeds": {"0": {"test_accuracy": 99.0}}}))
    assert stored.load_model(CELL, 0, root=saved)


def swapped(seeds: dict) -> None:
    seeds[0], seeds[1] = seeds[1], seeds[0]


def nudged(seeds: dict) -> None:
    weight = seeds[0]["dense3.weight"].view(torch.int32).view(-1)
    weight[0] ^= 1  # the last bit of one weight


def renamed(seeds: dict) -> None:
    state = seeds[0]
    state["dense1.bias"], state["dense2.bias"] = state["dense2.bias"], state["dense1.bias"]


@pytest.mark.parametrize("change", [swapped, nudged, renamed])
@pytest.mark.parametrize("folder", ["models", "results/models"])
def test_another_network_than_the_reported_one_is_refused(saved, folder, change):
    """Seeds exchanged, one bit of one weight: a file that is whole and of this cell, and not what was evaluated."""
    told = report(saved, write(saved))
    path = saved / folder / f"{CELL}.pt"
    if folder != "models":
        shutil.rmtree(saved / "models")
    content = torch.load(path, weights_only=True)
    content["seeds"] = states()
    change(content["seeds"])
    torch.save(content, path)
    mended = MENDED[folder].format(path)
    assert refusal(saved) == f"seed 0 of {path} is not the network that {told} tells of; {mended}"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seeds": []}', '{"seeds": {"0": 3}}', '{"seeds": 3}', "\xff"])
def test_report_that_is_none_is_refused(saved, text):
    """Cut or foreign: whether the network is the one that was evaluated, nobody could say."""
    path = report(saved, {})
    path.write_bytes(text.encode("latin-1"))
    assert refusal(saved).startswith(f"{path} is not a report of {CELL}; ")


@given(st.data())
def test_no_flipped_bit_gives_another_network(tmp_path_factory, data):
    """Any bit of the file: refused in one line, or the very same network."""
    root = tmp_path_factory.getbasetemp() / "flipped"
    path = root / "models" / f"{CELL}.pt"
    if not path.exists():
        write(root)
        path.with_suffix(".whole").write_bytes(path.read_bytes())
        torch.save(states()[0], path.with_suffix(".expected"))
    content = bytearray(path.with_suffix(".whole").read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        state = stored.load_model(CELL, 0, root=root).state_dict()
    except stored.ModelFileError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        expected = torch.load(path.with_suffix(".expected"), weights_only=True)
        assert all(torch.equal(values, expected[name]) for name, values in state.items())
