"""Deployment of one trained network: its ONNX files, and the proof that they are the network."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from saqlib.data.images import as_input
from saqlib.deployment.costs import cost
from saqlib.deployment.integer import integer_network
from saqlib.deployment.layers import DeploymentError, read
from saqlib.deployment.onnx import export_explanation, export_onnx
from saqlib.grid import Cell
from saqlib.names import UNTRAINED
from saqlib.network.initial import build
from saqlib.network.lenet import LeNet
from saqlib.network.settings import Precision, Shape
from saqlib.saliency.gradient import input_gradient

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
TOLERANCE = 1e-4  # of logits and maps
FLOAT_MAPS = 0.01  # share of a float network's maps that may deviate: a sum near 0 or a tie in pooling falls either way
CHUNK = 500  # images at once
EXPLAINED = 500  # images whose maps are compared


def deploy(model: LeNet, cell: Cell, folder: Path) -> dict[str, Path]:
    """Write the ONNX files of a cell, <cell>.qcdq.onnx, .packed.onnx and .explain.onnx; their paths by that word."""
    paths = {kind: folder / f"{cell}.{kind}.onnx" for kind in ("qcdq", "packed", "explain")}
    export_onnx(model, paths["qcdq"], packed=False, cell=cell)
    export_onnx(model, paths["packed"], packed=True, cell=cell)
    export_explanation(model, paths["explain"], packed=True, cell=cell)
    return paths


def deploy_untrained(precision: Precision, shape: Shape, folder: Path) -> Path:
    """Write untrained.explain.onnx, the network of seed 0 before its first step: a control to show beside every map."""
    path = folder / f"{UNTRAINED}.explain.onnx"
    export_explanation(build(precision, shape=shape, seed=0).eval(), path, packed=True)
    return path


def verify(model: LeNet, paths: dict[str, Path], images: torch.Tensor) -> None:
    """Raise DeploymentError unless the files are the network on all `images`, uint8 (N, 28, 28).

    At each of ONNX Runtime's four optimisation levels the logits must be equal to 1e-4, in a quantized network bit for
    bit, and so must the classes, except where the network itself separates two by less. Maps must be equal to 1e-4
    on the first 500 images. Where every layer is quantized, integer inference must give the same classes.
    """
    exact = all(layer.quantized for layer in read(model))
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
    """Deploy and verify a cell's network: its row of the table, the cell's names, then its costs and file sizes."""
    paths = deploy(model, cell, folder)
    verify(model, paths, images)
    sizes = {f"{kind}_file_bytes": path.stat().st_size for kind, path in paths.items()}
    return asdict(cell) | asdict(cost(model)) | sizes
