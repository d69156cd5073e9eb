"""One seed: what its place in the store depends on, which is all that computes it and nothing that schedules it."""

import copy
import gzip
import importlib.metadata
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from saqlib import codebase, params, paths, store
from saqlib.data import images as data
from saqlib.datasets import FILES, LABELS
from saqlib.grid import Cell
from saqlib.pipeline import study
from saqlib.training import seed as seeds
from saqlib.training.settings import Recipe
from tests.training.tiny import CELL, SMOKE, tiny

MODULE = "training.seed"


def key(recipe: Recipe, device: str = "cpu") -> str:
    """The key under which the store keeps what this recipe trains."""
    found = seeds.key(recipe, device)
    assert seeds.place(recipe, device).trained == store.folder("trained", found)
    return found


def leaves(raw: Any, where: tuple = ()) -> Iterator[tuple]:
    """The path of every value in params.yaml; a list is one value, and so is a study that changes others."""
    if isinstance(raw, dict) and (where[:1] != ("ablations",) or len(where) == 1):
        for name, value in raw.items():
            yield from leaves(value, (*where, name))
    else:
        yield where


OTHER_VALUES = {
    "scale": "quick",
    "quantization.edges": "same",
    "trainings.guided.ranking": "signed",
    "device": "cpu",
    "claims.reference": "w4a4",
}


def changed(where: tuple) -> dict:
    """params.yaml with another valid value in one place."""
    raw = copy.deepcopy(params.read())
    section = raw
    for name in where[:-1]:
        section = section[name]
    value, name = section[where[-1]], ".".join(where)
    if name in OTHER_VALUES:
        value = OTHER_VALUES[name]
    elif where[:2] == ("claims", "questions"):
        value = "foreground_mass"
    elif where[0] == "ablations":
        value = value | {"question": "Another?", "seeds": value["seeds"] + 1}
    elif isinstance(value, bool):
        value = not value
    elif isinstance(value, (int, float)):
        value = value / 2 if isinstance(value, float) else value - 1 if value > 1 else value + 1
    elif where[0] == "grid" or name == "claims.hypotheses":
        value = value[:-1]
    else:  # widths of the network, bits of a layer
        value = [*value[:-1], value[-1] + 1]
    section[where[-1]] = value
    if where[-1] == "sample" and value:  # which has fewer images; how many are scored trains nothing
        section.update(images=300, images_deployed=300)
    if name == "claims.reference":  # which no hypothesis compares with itself
        raw["claims"]["hypotheses"] = [each for each in section["hypotheses"] if value not in each["precisions"]]
    return raw


ALWAYS = {
    "network.channels", "network.hidden", "optimizer.batch_size", "optimizer.learning_rate", "scales.smoke.sample",
    "scales.smoke.records",
}  # fmt: skip
QUANTIZED = {
    "quantization.edges", "quantization.alpha_learning_rate", "quantization.alpha_penalty",
    "quantization.calibration_images", "scales.smoke.warmup_epochs",
}  # fmt: skip
GUIDED = {"trainings.guided.fraction", "trainings.guided.weight", "trainings.guided.ranking"}
# The weights of the last layer have 8 bits, whatever its row says, and its logits have none.
W2A2, MIXED = ({f"precisions.{p}.{each}" for each in ("conv1", "conv2", "dense1", "dense2")} for p in ("w2a2", "mixed"))
READ = {
    Cell("mnist", "fp32", "standard"): ALWAYS | {"scales.smoke.epochs.mnist"},
    Cell("fashion_mnist", "fp32", "guided"): ALWAYS | GUIDED | {"scales.smoke.epochs.fashion_mnist"},
    Cell("mnist", "mixed", "standard"): ALWAYS | QUANTIZED | MIXED | {"scales.smoke.epochs.mnist"},
    Cell("mnist", "w2a2", "guided"): ALWAYS | QUANTIZED | GUIDED | W2A2 | {"scales.smoke.epochs.mnist"},
}


def device_of(settings: study.Study) -> str:
    """The kind of device on which a study trains here."""
    return settings.engine.pick_device().type


@pytest.mark.parametrize("cell", READ, ids=str)
def test_a_seed_is_trained_again_for_the_settings_that_its_cell_reads_and_no_others(monkeypatch, cell):
    """Every value of params.yaml, changed one by one: those that change a network start it anew, all others do not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # so that the device `auto` is `cpu`
    monkeypatch.setattr(codebase, "texts", cache(codebase.texts))
    before = key(SMOKE.recipe(cell), device_of(SMOKE))
    starts_anew = set()
    for where in leaves(params.read()):
        other = study.from_dict(changed(where), "smoke")
        if key(other.recipe(cell), device_of(other)) != before:
            starts_anew.add(".".join(where))
    assert starts_anew == READ[cell]


def test_cells_have_places_of_their_own():
    """No two cells share a network, though a cell's name is no part of the key: what it stands for is."""
    found = {key(SMOKE.recipe(cell)) for cell in SMOKE.grid.cells}
    assert len(found) == len(SMOKE.grid.cells) == 16


@pytest.mark.parametrize("field", ["dataset", "precision"])
def test_dataset_and_the_bits_themselves_decide(field):
    """Another dataset; the same name with other bits, or the same bits in another layer."""
    recipe = tiny()
    others = {
        "dataset": [replace(recipe, dataset="fashion_mnist")],
        "precision": [
            replace(recipe, precision=replace(recipe.precision, layers=layers))
            for layers in (SMOKE.precisions["w4a4"].layers, recipe.precision.layers[::-1])
        ],
    }[field]
    assert len({key(each) for each in (recipe, *others)}) == 1 + len(others)


def test_another_kind_of_device_trains_anew():
    """It rounds in another way."""
    assert key(tiny(), "cpu") != key(tiny(), "cuda")


@pytest.mark.parametrize("package", ["torch", "numpy"])
def test_another_release_of_a_package_trains_anew(monkeypatch, package):
    """Its kernels may sum in another order."""
    before = key(tiny())
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "999" if name == package else real(name))
    assert key(tiny()) != before


def test_other_bytes_in_the_data_train_anew(tmp_path, monkeypatch):
    """One label of the sample; packed in another way the same bytes are the same data."""
    before = key(tiny())
    shutil.copytree(paths.SAMPLE, tmp_path / "sample")
    monkeypatch.setattr(paths, "SAMPLE", tmp_path / "sample")
    assert key(tiny()) == before
    for name in FILES:
        packed = tmp_path / "sample" / "mnist" / f"{name}.gz"
        plain = bytearray(gzip.decompress(packed.read_bytes()))
        packed.unlink()
        (tmp_path / "sample" / "mnist" / name).write_bytes(plain)
        assert key(tiny()) == before
        plain[-1] ^= 1
        (tmp_path / "sample" / "mnist" / name).write_bytes(plain)
        assert key(tiny()) != before, name
        plain[-1] ^= 1
        (tmp_path / "sample" / "mnist" / name).write_bytes(plain)


def test_the_full_data_have_another_place_than_the_sample(monkeypatch, tmp_path):
    """Found without reading a byte of them: training insists on their hashes."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "nothing")
    assert len({key(replace(tiny(), sample=sample)) for sample in (True, False)}) == 2
    before = key(replace(tiny(), sample=False))
    name = f"train-{LABELS}"
    monkeypatch.setitem(data.DATASETS["mnist"], name, "0" * 64)
    assert key(replace(tiny(), sample=False)) != before


# What a training loads and what decides none of its numbers: where and how fast, or values that the key itself holds.
INFRASTRUCTURE = {"codebase", "datasets", "errors", "files", "paths", "store"}
VALUES = {"grid", "network.settings", "params", "saliency.settings", "training.settings"}


def copied(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of saqlib in another root folder, whose code counts from now on."""
    shutil.copytree(paths.ROOT / "saqlib", root / "saqlib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "ROOT", root)
    return root / "saqlib"


def test_code_that_decides_is_all_that_a_training_loads(tmp_path):
    """A fresh process that trains a seed has loaded the modules of the key, and of others these alone."""
    script = f"""
import json, pathlib, pickle, sys, torch
from saqlib import paths
from saqlib.training import seed
paths.BUILD = pathlib.Path({str(tmp_path)!r})
cell, recipe = pickle.loads({pickle.dumps((CELL, tiny()))!r})
seed.train_seeds(cell, recipe, [0], seed.place(recipe, "cpu"), torch.device("cpu"))
print(json.dumps([name for name in sys.modules if name.startswith("saqlib.")]))
"""
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("saqlib.") for name in json.loads(done.stdout)} & set(codebase.modules())
    assert loaded - set(codebase.texts(MODULE)) == INFRASTRUCTURE | VALUES
    assert set(codebase.texts(MODULE)) - {"kernels/lenet.c"} <= loaded


@pytest.mark.parametrize("module", codebase.texts(MODULE))
def test_another_statement_in_code_that_decides_trains_anew(tmp_path, monkeypatch, module):
    """Each module that a training runs through."""
    before = key(tiny())
    library = copied(tmp_path, monkeypatch)
    c_file = module.endswith(".c")
    path = library / module if c_file else library.joinpath(*module.split(".")).with_suffix(".py")
    path.write_text(path.read_text() + ("\n// a comment\n" if c_file else "\n# a comment\n"))
    codebase.forget()
    assert key(tiny()) == before
    path.write_text(path.read_text() + ("\nint changed;\n" if c_file else "\nchanged = 1\n"))
    codebase.forget()
    assert key(tiny()) != before


def test_where_the_library_lies_does_not_count(tmp_path, monkeypatch):
    """Another clone with the same store finds its seeds."""
    before = key(tiny())
    copied(tmp_path, monkeypatch)
    assert key(tiny()) == before


def test_words_layout_and_code_that_decides_nothing_train_nothing(tmp_path, monkeypatch):
    """Comments, docstrings and blank lines everywhere; statements in all other modules and in the faces of rooms."""
    before = key(tiny())
    deciding = codebase.texts(MODULE)
    library = copied(tmp_path, monkeypatch)
    for path in library.rglob("*.py"):
        text = path.read_text()
        assert text.startswith('"""'), path
        text = text.replace('"""', '# a comment\n\n\n"""Another word. ', 1).replace("\n\n\n", "\n\n\n\n# why\n")
        module = ".".join(path.relative_to(library).with_suffix("").parts)
        path.write_text(text if module in deciding else text + "\nchanged = 1\n")
    assert key(tiny()) == before
