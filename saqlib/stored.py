"""Model files: what a trained cell left behind, read back as networks. Needs the network and no training code.

A file holds the cell's name, the bits and widths of its network, and the weights of its seeds: models/<cell>.pt those
of every seed with the maps recorded during training, results/models/<cell>.pt those of seed 0.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saqlib import files, paths
from saqlib.errors import last_line
from saqlib.grid import Cell
from saqlib.network.lenet import LeNet
from saqlib.network.settings import Bits, Precision, Shape


class ModelFileError(ValueError):
    """A model file is missing, was not written by this project, or holds another cell than its name says."""


def model_file(cell: Cell | str, root: Path = paths.ROOT) -> Path:
    """models/<cell>.pt, which holds every seed once the cell was trained here, else results/models/<cell>.pt."""
    name = f"{Cell.parse(str(cell))}.pt"
    local = root / "models" / name
    return local if local.exists() else root / "results" / "models" / name


def read_cell(path: Path) -> dict[str, Any]:
    """The contents of a model file, whose name says the cell.

    Raises ModelFileError if it is missing, not one of ours, or of another cell.
    """
    if not path.exists():
        raise ModelFileError(f"{path} does not exist; train the cell first (dvc repro train@{path.stem})")
    try:
        content = torch.load(path, weights_only=True)
    except Exception:  # torch.load raises whatever the foreign bytes lead it to, in paragraphs
        raise ModelFileError(f"{path} is not a model file of this project, or not a whole one") from None
    if not isinstance(content, dict) or not {"cell", "precision", "network", "seeds"} <= content.keys():
        raise ModelFileError(f"{path} is not a model file of this project: it holds no cell")
    if content["cell"] != path.stem:
        raise ModelFileError(f"{path} holds {content['cell']}, not the cell of its name; train the cell again")
    return content


def restore(content: dict[str, Any], seed: int) -> LeNet:
    """The network of one seed of a model file, in evaluation mode; ModelFileError if it has no such seed."""
    if seed not in content["seeds"]:
        raise ModelFileError(f"{content['cell']} holds seeds {sorted(content['seeds'])}, not {seed}")
    return _network(content, content["seeds"][seed])


def _network(content: dict[str, Any], weights: dict[str, Tensor], *, quantized: bool = True) -> LeNet:
    """A network of a model file's cell with these weights; not quantized, as the cell's warm-up trains it."""
    try:
        name, bits = content["precision"]["name"], tuple(Bits(**layer) for layer in content["precision"]["layers"])
        shape = Shape(**{name: tuple(widths) for name, widths in content["network"].items()})
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
            network = LeNet(Precision(name, bits if quantized else (Bits(),) * len(bits)), shape)
        network.eval()
        own = network.state_dict().keys()
        network.load_state_dict(weights if quantized else {name: weights[name] for name in own})
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(f"the file of {content['cell']} holds no network of it: {last_line(error)}") from None
    return network


def load_model(cell: Cell | str, seed: int, root: Path = paths.ROOT) -> nn.Module:
    """The trained network of a cell and seed, in evaluation mode.

    Args:
        cell: a Cell or its name, such as `mnist-w2a2-guided`.
        seed: 0 in a fresh clone; any seed of the grid once the cell was trained here.
        root: the folder that holds models/ and results/.

    Raises:
        ModelFileError: there is no such file, it is not one of ours or of another cell, or it lacks the seed.
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
        yield step, _network(content, weights, quantized=switch is None or step >= switch)


def write_cell(
    cell: Cell, precision: Precision, shape: Shape, states: dict[int, dict[str, Tensor]], record: dict[str, Any],
    root: Path,
) -> None:  # fmt: skip
    """Write both model files of a cell, under `root`; states: weights by seed."""
    common = {"cell": str(cell), "precision": asdict(precision), "network": asdict(shape)}
    first = min(states)
    files.write_torch(root / "models" / f"{cell}.pt", common | {"seeds": states, "record": record})
    files.write_torch(root / "results" / "models" / f"{cell}.pt", common | {"seeds": {first: states[first]}})
