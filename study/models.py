"""Model files: what a trained cell left behind, read back as networks.

A file holds the cell's name, the bits and widths of its network, and the weights of its seeds, each with its digest:
models/<cell>.pt those of every seed with the maps recorded during training, results/models/<cell>.pt those of one seed,
for git.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqlib.errors import last_line, of_the_system, shown
from saqlib.precision import Bits, Precision, Shape
from study import files, paths
from study.settings import Cell, Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from saqlib.lenet import LeNet


class ModelFileError(ValueError):
    """A model file is missing, was not written by this project, or holds another cell than its name says."""


def load(cell: Cell | str, seed: int | None = None, root: Path = paths.ROOT) -> "LeNet":
    """The trained network of a cell, in evaluation mode.

    Args:
        cell: a Cell or its name, such as `mnist-w2a2-guided`.
        seed: one of models/<cell>.pt, which is there once the cell was trained here; None: the one in results/models/.
        root: the folder that holds models/ and results/.

    Raises:
        ModelFileError: there is no such file, it is not one of ours, damaged or of another cell, it lacks the seed,
            or its network is not finite.
    """
    name = f"{Cell.parse(str(cell))}.pt"
    if seed is not None:
        return restore(read_cell(root / "models" / name), seed)
    content = read_cell(root / "results" / "models" / name)
    return restore(content, min(content["seeds"], default=None))


def record(cell: Cell | str, root: Path = paths.ROOT) -> "tuple[NDArray, NDArray, NDArray]":
    """The maps of seed 0 during training: steps (R,), images uint8 (K, 28, 28), maps (R, K, 28, 28).

    Raises ModelFileError if the cell was not trained here: results/models/ has no records.
    """
    content = read_cell(root / "models" / f"{cell}.pt")["record"]
    return content["steps"].numpy(), content["images"].numpy(), content["maps"].numpy()


def at_steps(precision: Precision, shape: Shape, recorded: Mapping[str, Any]) -> "Iterator[tuple[int, LeNet]]":
    """Each recorded step with the network at that step, in evaluation mode; it quantizes from the switch on.

    recorded: steps, states and switch, as `saqlib.training.History` has them.
    """
    from saqlib import lenet

    full, switch = Precision(precision.name, (Bits(),) * len(precision.layers)), recorded["switch"]
    plain = lenet.build(full, shape=shape, seed=0).state_dict().keys()
    for step, state in zip(recorded["steps"], recorded["states"], strict=True):
        if switch is None or step >= switch:
            yield step, lenet.restore(precision, shape, state)
        else:
            yield step, lenet.restore(full, shape, {name: state[name] for name in plain})


# ------------------------------------------------------------------------------------------------------ the files


def read_cell(path: Path) -> dict[str, Any]:
    """The contents of a model file, whose name says the cell.

    Raises ModelFileError if it is missing, damaged, not one of ours or of another cell; the message names the
    command that mends it: git's for what it holds, else a run, which goes to the store.
    """
    if not path.exists():
        raise ModelFileError(f"{path} does not exist; train the cell first (dvc repro train@{path.stem})")
    mended = f"`git restore {path}`" if path.parent.parent.name == "results" else "`make reproduce` writes it anew"
    try:
        if not path.is_file():  # a pipe never ends
            raise LookupError
        content = files.read(path, files.from_torch_bytes)
        cell, of_seeds = content["cell"], all(type(seed) is int for seed in content["seeds"].keys())
    except (files.DamagedError, AttributeError, LookupError, TypeError):
        of_seeds = False
    except OSError as error:  # it may be whole
        raise ModelFileError(f"the file of {path.stem} cannot be read: {of_the_system(error)}") from None
    if not of_seeds:
        raise ModelFileError(f"{path} is not a model file of this project, or not a whole one; {mended}")
    if cell != path.stem:
        raise ModelFileError(f"{path} holds {shown(cell)}, not the cell of its name; {mended}")
    return content


def restore(content: dict[str, Any], seed: int) -> "LeNet":
    """The network of one seed of a model file, in evaluation mode.

    Raises ModelFileError if it has no such seed, no network of its cell, weights that are another seed's or were
    changed, or one that is not finite.
    """
    from saqlib import lenet

    cell = content["cell"]
    if seed not in content["seeds"]:
        raise ModelFileError(f"{cell} holds seeds {shown(sorted(content['seeds']))}, not {seed}")
    state = content["seeds"][seed]
    try:
        bits = content["precision"]
        layers = tuple(Bits(**layer) for layer in bits["layers"])
        precision = Precision(bits["name"], layers, bits.get("rounding", True))
        shape = Shape(**{name: tuple(widths) for name, widths in content["network"].items()})
        network = lenet.restore(precision, shape, state)
        written = content["digests"][seed] == _digest(content, seed)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFileError(f"the file of {cell} holds no network of it: {last_line(error)}") from None
    if not written:
        raise ModelFileError(f"the weights of seed {seed} of {cell} are not those that were written as this seed's")
    for name, values in network.state_dict().items():
        if not values.isfinite().all():
            raise ModelFileError(f"{name} of seed {seed} of {cell} is not finite (NaN or infinity); train it again")
    return network


def write_cell(recipe: Recipe, states: "dict[int, dict[str, Tensor]]", record: dict[str, Any], root: Path) -> Path:
    """Write models/<cell>.pt under `root`. states: weights by seed. record: what was recorded of seed 0."""
    return _write(root / "models", recipe, states, {"record": record})


def publish(recipe: Recipe, seed: int, state: "dict[str, Tensor]", root: Path) -> Path:
    """Write results/models/<cell>.pt, one network, which is small enough for git."""
    return _write(root / "results" / "models", recipe, {seed: state}, {})


def _write(folder: Path, recipe: Recipe, states: "dict[int, dict[str, Tensor]]", more: dict[str, Any]) -> Path:
    precision = asdict(recipe.precision)
    if precision["rounding"]:
        del precision["rounding"]  # so that files are the same as before it could be off
    content = {
        "cell": str(recipe.cell),
        "precision": precision,
        "network": asdict(recipe.shape),
        "seeds": states,
    }
    digests = {seed: _digest(content, seed) for seed in states}
    return files.write(folder / f"{recipe.cell}.pt", files.torch_bytes(content | {"digests": digests} | more))


def _digest(content: dict[str, Any], seed: int) -> str:
    """What changes with the cell, its bits and widths, the seed, and every bit of its weights."""
    known = json.dumps([content["cell"], content["precision"], content["network"], seed])
    values = [value.numpy().tobytes() for _, value in sorted(content["seeds"][seed].items())]
    return hashlib.sha256(b"".join([known.encode(), *values])).hexdigest()
