"""Model files: what a trained cell left behind, read back as networks. Needs the network and no training code.

A file holds the cell's name, the bits and widths of its network, and the weights of its seeds: models/<cell>.pt those
of every seed with the maps recorded during training, results/models/<cell>.pt those of seed 0, for git.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saqlib import files, paths
from saqlib.errors import last_line, printable, shown
from saqlib.grid import Cell
from saqlib.network.lenet import LeNet
from saqlib.network.settings import Bits, Precision, Shape


class ModelFileError(ValueError):
    """A model file is missing, was not written by this project, or holds another cell than its name says."""


def model_file(cell: Cell | str, root: Path = paths.ROOT) -> Path:
    """models/<cell>.pt, which holds every seed once the cell was trained here, else results/models/<cell>.pt."""
    name = f"{Cell.parse(str(cell))}.pt"
    local = root / "models" / name
    return local if os.path.lexists(local) else root / "results" / "models" / name


def read_cell(path: Path) -> dict[str, Any]:
    """The contents of a model file, whose name says the cell.

    Raises ModelFileError if it is missing, damaged, not one of ours, of another cell, or not the one that the cell's
    report tells of; the message names the command that mends it.
    """
    if not os.path.lexists(path):  # a link that leads nowhere is something damaged, not nothing
        raise ModelFileError(f"{path} does not exist; train the cell first (dvc repro train@{path.stem})")
    try:
        content = files.read_torch(path)
    except (files.DamagedError, OSError):
        raise ModelFileError(
            f"{path} is not a model file of this project, or not a whole one; {_mended_by(path)}"
        ) from None
    if not isinstance(content, dict) or not {"cell", "precision", "network", "seeds"} <= content.keys():
        raise ModelFileError(f"{path} is not a model file of this project: it holds no cell")
    if not isinstance(content["seeds"], dict) or not all(type(seed) is int for seed in content["seeds"]):
        raise ModelFileError(f"{path} is not a model file of this project: it holds no seeds")
    if content["cell"] != path.stem:
        other = printable(content["cell"])[: len(path.stem) * 2]
        raise ModelFileError(f"{path} holds {other}, not the cell of its name; {_mended_by(path)}")
    _check_told(path, content)
    return content


def _mended_by(path: Path) -> str:
    """The command that brings a whole file back: git's for what it holds, else a run, which goes to the store."""
    return f"`git restore {path}`" if path.parent.parent.name == "results" else "`make reproduce` writes it anew"


def _check_told(path: Path, content: dict[str, Any]) -> None:
    """Compare the networks of a file with the hashes in results/runs/<cell>.json, where that report has some."""
    beside = path.parent.parent
    report = (beside if beside.name == "results" else beside / "results") / "runs" / f"{path.stem}.json"
    try:
        told = json.loads(report.read_text(encoding="utf-8"))["seeds"]
        expected = {seed: told[str(seed)]["sha256"] for seed in content["seeds"] if "sha256" in told.get(str(seed), {})}
    except FileNotFoundError:  # as it is in a folder of models alone
        return
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise ModelFileError(f"{report} is not a report of {path.stem}; {_mended_by(path)}") from None
    for seed, digest in expected.items():
        try:
            found = digest_of(content, seed)
        except (AttributeError, TypeError, RuntimeError):  # no tensors; `restore` says what is wrong with it
            continue
        if digest != found:
            raise ModelFileError(f"seed {seed} of {path} is not the network that {report} tells of; {_mended_by(path)}")


def digest_of(content: dict[str, Any], seed: int) -> str:
    """SHA-256 of one network of a model file: its bits, its widths, and the bytes of its weights by name."""
    found = hashlib.sha256(json.dumps([content["precision"], content["network"]], sort_keys=True).encode())
    for name, values in sorted(content["seeds"][seed].items()):
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.contiguous().numpy().tobytes())
    return found.hexdigest()


def digest(network: LeNet) -> str:
    """SHA-256 of a network, the same that `digest_of` takes of it in a model file."""
    content = {"precision": asdict(network.precision), "network": asdict(network.shape)}
    return digest_of(content | {"seeds": {0: network.state_dict()}}, 0)


def restore(content: dict[str, Any], seed: int) -> LeNet:
    """The network of one seed of a model file, in evaluation mode.

    Raises ModelFileError if it has no such seed, no network of its cell, or one with a weight that is not finite.
    """
    if seed not in content["seeds"]:
        raise ModelFileError(f"{content['cell']} holds seeds {shown(sorted(content['seeds']))}, not {seed}")
    return _network(content, content["seeds"][seed], f"seed {seed}")


def _network(content: dict[str, Any], weights: dict[str, Tensor], which: str, *, quantized: bool = True) -> LeNet:
    """A network of a model file's cell with these weights; not quantized, as the cell's warm-up trains it.

    which: whose weights they are, for errors.
    """
    cell = content["cell"]
    try:
        name, bits = content["precision"]["name"], tuple(Bits(**layer) for layer in content["precision"]["layers"])
        shape = Shape(**{name: tuple(widths) for name, widths in content["network"].items()})
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
            network = LeNet(Precision(name, bits if quantized else (Bits(),) * len(bits)), shape)
        network.eval()
        own = network.state_dict().keys()
        network.load_state_dict(weights if quantized else {name: weights[name] for name in own})
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(f"the file of {cell} holds no network of it: {last_line(error)}") from None
    for name, values in network.state_dict().items():
        if not values.isfinite().all():
            raise ModelFileError(f"{name} of {which} of {cell} is not finite (NaN or infinity); train it again")
    return network


def load_model(cell: Cell | str, seed: int, root: Path = paths.ROOT) -> nn.Module:
    """The trained network of a cell and seed, in evaluation mode.

    Args:
        cell: a Cell or its name, such as `mnist-w2a2-guided`.
        seed: 0 in a fresh clone; any seed of the grid once the cell was trained here.
        root: the folder that holds models/ and results/.

    Raises:
        ModelFileError: there is no such file, it is not one of ours, damaged or of another cell, it lacks the seed, or
            its network is not finite or not the one that the cell's report tells of.
    """
    return restore(read_cell(model_file(cell, root)), seed)


def record(cell: Cell | str, root: Path = paths.ROOT) -> tuple[NDArray, NDArray, NDArray]:
    """The maps of seed 0 during training: steps (R,), images uint8 (K, 28, 28), maps (R, K, 28, 28).

    Raises ModelFileError if the cell was not trained here: results/models/ has no records.
    """
    content = read_cell(root / "models" / f"{cell}.pt")["record"]
    return content["steps"].numpy(), content["images"].numpy(), content["maps"].numpy()


def recorded_networks(cell: Cell | str, root: Path = paths.ROOT) -> Iterator[tuple[int, LeNet]]:
    """The network of seed 0 at each recorded step of its training, in evaluation mode; it quantizes from the switch on.

    Raises ModelFileError if the cell was not trained here: results/models/ has no records.
    """
    content = read_cell(root / "models" / f"{cell}.pt")
    kept, switch = content["record"], content["record"]["switch"]
    for step, weights in zip(kept["steps"].tolist(), kept["states"], strict=True):
        yield step, _network(content, weights, f"step {step}", quantized=switch is None or step >= switch)


def write_cell(
    cell: Cell, precision: Precision, shape: Shape, states: dict[int, dict[str, Tensor]], record: dict[str, Any],
    root: Path,
) -> dict[int, str]:  # fmt: skip
    """Write models/<cell>.pt under `root`; states: weights by seed.

    Returns each network's SHA-256 by seed: what the cell's report says as `sha256` of a seed is checked by who reads.
    """
    content = {"cell": str(cell), "precision": asdict(precision), "network": asdict(shape), "seeds": states}
    files.write_torch(root / "models" / f"{cell}.pt", content | {"record": record})
    return {seed: digest_of(content, seed) for seed in states}


def publish(cell: Cell, root: Path) -> Path:
    """Write results/models/<cell>.pt, the first seed of models/<cell>.pt alone, which is small enough for git."""
    content = read_cell(root / "models" / f"{cell}.pt")
    first = min(content["seeds"])
    del content["record"]
    seeds = {"seeds": {first: content["seeds"][first]}}
    return files.write_torch(root / "results" / "models" / f"{cell}.pt", content | seeds)
