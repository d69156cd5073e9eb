"""One cell deployed: its first network beside its ONNX files, in results/models, verified once and then kept."""

import tempfile
from pathlib import Path

import torch

from saqlib import files, store, stored
from saqlib.data.images import fingerprint, load
from saqlib.deployment.seed import report
from saqlib.grid import Cell
from saqlib.network.lenet import LeNet

Deployed = dict[str, object]  # `row` of the table, and `files`, the bytes of each by its name


def report_cell(cell: Cell, sample: bool, images: int, root: Path) -> dict[str, object]:
    """`report` of a cell's first seed, from and to the folders below `root`, checked on that many test images.

    The network itself comes to stand beside its ONNX files, results/models/<cell>.pt.
    """
    stored.publish(cell, root)
    network, folder = stored.load_model(cell, 0, root), root / "results" / "models"
    path = kept_file(cell, network, sample, images)
    deployed = store.kept(path, read_deployed)
    if deployed is None:
        keep_deployed(path, cell, network, sample, images)
        deployed = read_deployed(path)
    for name, content in deployed["files"].items():
        files.write(folder / name, content.numpy().tobytes())
    return deployed["row"]


def kept_file(cell: Cell, network: LeNet, sample: bool, images: int) -> Path:
    """Where the store keeps what `report` makes of a cell's network on so many test images."""
    decides = [str(cell), stored.digest(network), fingerprint(cell.dataset, sample=sample), images]
    return store.folder("deployed", store.key("saqlib.deployment.seed", *decides)) / f"{cell}.pt"


def keep_deployed(path: Path, cell: Cell, network: LeNet, sample: bool, images: int) -> None:
    """Deploy and verify a network, and keep its row and its files in one file."""
    pixels, _ = load(cell.dataset, "test", sample=sample)
    with tempfile.TemporaryDirectory() as folder:
        row = report(network, cell, Path(folder), pixels[:images])
        contents = {each.name: each.read_bytes() for each in sorted(Path(folder).iterdir())}
    tensors = {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in contents.items()}
    files.write_torch(path, {"row": row, "files": tensors})


def read_deployed(path: Path) -> Deployed:
    deployed = files.read_torch(path)
    if deployed.keys() != {"row", "files"}:
        raise ValueError(f"{path} holds no deployed network")
    return deployed
