"""Deployment of a trained network: its ONNX files, the proof that they are the network, and what it costs.

What is claimed is size: ONNX Runtime has no sub-byte convolutions, so fewer bits make the file smaller and not the
prediction faster. Bit-operations say what hardware with such arithmetic would save.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import torch

from saqlib import data, experiment, words
from saqlib.clarity import PRIMARY, SCORES
from saqlib.config import Cell, Config
from saqlib.integer import accumulator_bound, integer_network
from saqlib.model import LeNet
from saqlib.onnx_export import export_explanation, export_onnx
from saqlib.packing import pack, unpack
from saqlib.saliency import input_gradient
from saqlib.stages import DeploymentError, Stage, read
from saqlib.tables import Table, number
from saqlib.training import as_input

__all__ = ["Cost", "DeploymentError", "cost", "deploy", "export_explanation", "export_onnx", "integer_network",
           "layers", "pack", "report", "report_cell", "table", "unpack", "verify"]  # fmt: skip

FLOAT_BITS = 32
WORD = 4  # bytes of a float32 scale, an int32 bias, a clip
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
TOLERANCE = 1e-4  # of logits and maps
FLOAT_MAPS = 0.01  # share of a float network's maps that may deviate: a sum near 0 or a tie in pooling falls either way
CHUNK = 500  # images at once
EXPLAINED = 500  # images whose maps are compared


# ------------------------------------------------------------------------------------------------------ cost


@dataclass(frozen=True)
class Cost:
    """What one network costs, for one image where that matters.

    packed_bytes: weights at their bits, with float32 scales, int32 biases and clips (float32 weights and biases for
    a float layer). macs: multiply-accumulates. bit_operations: sum of weight bits * input bits * macs over the layers,
    as QONNX counts them; the image has 8 bits, both operands of a float layer 32. peak_activation_bytes: the largest
    input and output of one layer together, the output behind pooling and activation. zero_weights: share in [0, 1].
    explanation_macs, explanation_bit_operations: prediction and map together; the gradient has 32 bits, and its way
    through the last layer is one row of weights, without multiplication.
    """

    packed_bytes: int
    macs: int
    bit_operations: int
    peak_activation_bytes: int
    zero_weights: float
    explanation_macs: int
    explanation_bit_operations: int


def cost(model: LeNet) -> Cost:
    """Size and operations of a network of `saqlib.model.build`; DeploymentError as `saqlib.stages.read`."""
    stages = read(model)
    hidden = stages[:-1]
    macs = sum(stage.macs for stage in stages)
    bit_operations = sum(_weight_bits(stage) * _input_bits(stage) * stage.macs for stage in stages)
    zeros = sum(int((stage.weight == 0).sum()) for stage in stages)
    return Cost(
        packed_bytes=sum(map(_packed_bytes, stages)),
        macs=macs,
        bit_operations=bit_operations,
        peak_activation_bytes=max(map(_activation_bytes, stages)),
        zero_weights=zeros / sum(stage.weight.size for stage in stages),
        explanation_macs=macs + sum(stage.macs for stage in hidden),
        explanation_bit_operations=bit_operations
        + sum(_weight_bits(stage) * FLOAT_BITS * stage.macs for stage in hidden),
    )


def layers(model: LeNet) -> pd.DataFrame:
    """One row a layer: bits, packed bytes, zero weights, operations, and the bound of its accumulators."""
    rows = [
        {
            "layer": stage.name,
            "weights": stage.weight.size,
            "weight bits": _weight_bits(stage),
            "input bits": _input_bits(stage),
            "packed bytes": _packed_bytes(stage),
            "zero weights": (stage.weight == 0).mean(),
            "MACs": stage.macs,
            "largest accumulator": accumulator_bound(stage) if stage.quantized else None,
        }
        for stage in read(model)
    ]
    return pd.DataFrame(rows).set_index("layer")


def _weight_bits(stage: Stage) -> int:
    return stage.weight_bits if stage.quantized else FLOAT_BITS


def _input_bits(stage: Stage) -> int:
    return stage.input_bits if stage.quantized else FLOAT_BITS


def _packed_bytes(stage: Stage) -> int:
    channels = len(stage.weight)
    scales = channels if stage.quantized else 0
    clips = 0 if stage.alpha is None else 1
    return -(-stage.weight.size * _weight_bits(stage) // 8) + WORD * (channels + scales + clips)


def _activation_bytes(stage: Stage) -> int:
    output_bits = stage.activation_bits or FLOAT_BITS
    return -(-stage.inputs * _input_bits(stage) // 8) + -(-stage.outputs * output_bits // 8)


# ----------------------------------------------------------------------------------------------------- files


def deploy(model: LeNet, cell: Cell, folder: Path) -> dict[str, Path]:
    """Write the ONNX files of a cell, <cell>.qcdq.onnx, .packed.onnx and .explain.onnx; their paths by that word."""
    paths = {kind: folder / f"{cell}.{kind}.onnx" for kind in ("qcdq", "packed", "explain")}
    export_onnx(model, paths["qcdq"], packed=False, cell=cell)
    export_onnx(model, paths["packed"], packed=True, cell=cell)
    export_explanation(model, paths["explain"], packed=True, cell=cell)
    return paths


def verify(model: LeNet, paths: dict[str, Path], images: torch.Tensor) -> None:
    """Raise DeploymentError unless the files are the network on all `images`, uint8 (N, 28, 28).

    At each of ONNX Runtime's four optimisation levels the logits must be equal to 1e-4, in a quantized network bit for
    bit, and so must the classes, except where the network itself separates two by less. Maps must be equal to 1e-4
    on the first 500 images. Where every layer is quantized, integer inference must give the same classes.
    """
    exact = all(stage.quantized for stage in read(model))
    with torch.no_grad():
        expected = np.concatenate([model(as_input(part)).numpy() for part in images.split(CHUNK)])
    if exact and (integer_network(model).classes(images.numpy()) != expected.argmax(1)).any():
        raise DeploymentError("integer inference differs from the network in its classes")
    tolerance = 0 if exact else TOLERANCE
    for kind, path in paths.items():
        for level in LEVELS:
            found = _run(path, level, "logits", images)
            where = f"{path.name} at {level}"
            if not (deviation := np.abs(found - expected).max()) <= tolerance:
                raise DeploymentError(f"{where} differs from the network: a logit by {deviation:.2g}")
            if (wrong := _wrong_classes(found, expected)).any():
                raise DeploymentError(f"{where} differs from the network: the class of {wrong.sum()} images")
            if kind == "explain":
                _verify_maps(model, _run(path, level, "map", images[:EXPLAINED]), images[:EXPLAINED], exact, where)


def _wrong_classes(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    second, first = np.sort(expected, axis=1)[:, -2:].T
    return (found.argmax(1) != expected.argmax(1)) & (first - second > 2 * TOLERANCE)


def _verify_maps(model: LeNet, found: np.ndarray, images: torch.Tensor, exact: bool, where: str) -> None:
    expected = input_gradient(model, as_input(images)).numpy()
    wrong = np.abs(found - expected).max((1, 2)) > TOLERANCE
    if wrong.mean() > (0 if exact else FLOAT_MAPS):
        raise DeploymentError(f"{where} differs from the network: the map of {wrong.sum()} images")


def _run(path: Path, level: str, output: str, images: torch.Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = [session.run([output], {"images": as_input(part).numpy()})[0] for part in images.split(CHUNK)]
    return np.concatenate(parts)


def report(model: LeNet, cell: Cell, folder: Path, images: torch.Tensor) -> dict[str, object]:
    """Deploy and verify one cell: its row of the table, the cell's three names, then its costs and file sizes."""
    paths = deploy(model, cell, folder)
    verify(model, paths, images)
    sizes = {f"{kind}_file_bytes": path.stat().st_size for kind, path in paths.items()}
    return asdict(cell) | asdict(cost(model)) | sizes


def report_cell(cell: Cell, settings: Config, root: Path) -> dict[str, object]:
    """`report` of a cell's first seed, from and to the folders below `root`, checked on the first test images."""
    images, _ = data.load(cell.dataset, "test", sample=settings.size.sample)
    images = images[: settings.size.images_deployed]
    return report(experiment.load_model(cell, 0, root), cell, root / "results" / "models", images)


# ----------------------------------------------------------------------------------------------------- table


def table(costs: pd.DataFrame, runs: pd.DataFrame, retained: pd.DataFrame) -> Table:
    """The table `deployment`: what each cell costs, with the accuracy and clarity that are left.

    costs: the rows of `report`. runs: one row a network, as results/runs.csv. retained: as saqlib.claims.retained
    gives it. test_accuracy is the mean over seeds in percent, retained_<score> the estimate for each clarity score.
    """
    keys = ["dataset", "training", "precision"]
    accuracy = runs.groupby(keys, sort=False, as_index=False)["test_accuracy"].mean()
    kept = retained.pivot(index=keys, columns="metric", values="estimate")[list(PRIMARY)].add_prefix("retained_")
    numbers = costs.merge(accuracy, on=keys, how="left").merge(kept.reset_index(), on=keys, how="left")
    return Table("deployment", numbers, _shown(numbers))


# What people see of the table: column, heading, unit and digits. The rest stands in the CSV.
SHOWN = (
    ("packed_bytes", "Packed (kB)", 1e3, 1),
    ("packed_file_bytes", "File, packed (kB)", 1e3, 1),
    ("qcdq_file_bytes", "File, INT8 (kB)", 1e3, 1),
    ("peak_activation_bytes", "Activations (kB)", 1e3, 1),
    ("bit_operations", "Bit-operations (M)", 1e6, 1),
    ("explanation_bit_operations", "with map (M)", 1e6, 1),
    ("zero_weights", "Zero weights (%)", 1e-2, 1),
    ("test_accuracy", "Accuracy (%)", 1, 2),
    *((f"retained_{score}", f"{SCORES[score].name}, retained", 1, 2) for score in PRIMARY),
)


def _shown(numbers: pd.DataFrame) -> pd.DataFrame:
    shown = numbers[["dataset", "training", "precision"]].rename(columns=words.name)
    shown[words.name("dataset")] = numbers.dataset.map(words.dataset)
    for column, heading, unit, digits in SHOWN:
        shown[heading] = [number(value / unit, digits) for value in numbers[column]]
    return shown
