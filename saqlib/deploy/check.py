"""The ONNX files of a trained network, and the proof that they are the network."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from saqlib.data import DATASETS, as_input
from saqlib.deploy.costs import cost
from saqlib.deploy.explain import MAPS, open_session
from saqlib.deploy.integer import integer_network
from saqlib.deploy.layers import DeploymentError, read
from saqlib.deploy.onnx import export_explanation, export_onnx
from saqlib.lenet import LeNet, Precision, Shape, build
from saqlib.saliency import input_gradient

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
TOLERANCE = 1e-4  # of logits and maps
FLOAT_MAPS = 0.01  # share of a float network's maps that may deviate: a sum near 0 or a tie in pooling falls either way
CHUNK = 500  # images at once
EXPLAINED = 500  # images whose maps are compared


def deploy(model: LeNet, name: str, folder: Path, classes: Sequence[str] | None = None) -> dict[str, Path]:
    """Write the ONNX files <name>.qcdq.onnx, .packed.onnx and .explain.onnx; their paths by that word.

    name, classes: as for `saqlib.deploy.export_onnx`.
    """
    paths = {kind: folder / f"{name}.{kind}.onnx" for kind in ("qcdq", "packed", "explain")}
    export_onnx(model, paths["qcdq"], packed=False, name=name, classes=classes)
    export_onnx(model, paths["packed"], packed=True, name=name, classes=classes)
    export_explanation(model, paths["explain"], packed=True, name=name, classes=classes)
    return paths


def deploy_untrained(precision: Precision, shape: Shape, folder: Path) -> Path:
    """Write untrained.explain.onnx, the network of seed 0 before its first step: a control to show beside every map."""
    path = folder / "untrained.explain.onnx"
    export_explanation(build(precision, shape=shape, seed=0).eval(), path, packed=True)
    return path


def report(model: LeNet, dataset: str, precision: str, training: str, folder: Path, images: torch.Tensor) -> dict:
    """Deploy and verify the network of a cell: its row of the table, the three names, then its costs and file sizes.

    images: test images uint8 (N, 28, 28) for `verify`. The files are called <dataset>-<precision>-<training>.
    """
    cell = {"dataset": dataset, "precision": precision, "training": training}
    paths = deploy(model, "-".join(cell.values()), folder, DATASETS[dataset].classes)
    verify(model, paths, images)
    sizes = {f"{kind}_file_bytes": path.stat().st_size for kind, path in paths.items()}
    return cell | asdict(cost(model)) | sizes


def verify(model: LeNet, paths: dict[str, Path], images: torch.Tensor) -> None:
    """Raise DeploymentError unless the files are the network on all `images`, uint8 (N, 28, 28).

    At each of ONNX Runtime's four optimisation levels the logits must be equal to 1e-4, in a quantized network bit for
    bit, and so must the classes, except where the network itself separates two by less. Both maps must be equal to 1e-4
    on the first 500 images. Where every layer is quantized, integer inference must give the same classes.
    """
    exact = all(layer.quantized for layer in read(model))
    with torch.no_grad():
        expected = np.concatenate([model(as_input(part)).numpy() for part in images.split(CHUNK)])
    if exact and (integer_network(model).classes(images.numpy()) != expected.argmax(1)).any():
        raise DeploymentError("integer inference differs from the network in its classes")
    for kind, path in paths.items():
        for level in LEVELS:
            answers, fault = _run(path, level, images), None
            if not (deviation := np.abs(answers["logits"] - expected).max()) <= (0 if exact else TOLERANCE):
                fault = f"a logit by {deviation:.2g}"
            elif (wrong := _wrong_classes(answers["logits"], expected)).any():
                fault = f"the class of {wrong.sum()} images"
            elif kind == "explain":
                fault = _wrong_map(model, answers, images[:EXPLAINED], exact)
            if fault:
                raise DeploymentError(f"{path.name} at {level} differs from the network: {fault}")


def _wrong_classes(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    second, first = np.sort(expected, axis=1)[:, -2:].T
    return (actual.argmax(1) != expected.argmax(1)) & (first - second > 2 * TOLERANCE)


def _wrong_map(model: LeNet, answers: dict[str, np.ndarray], images: torch.Tensor, exact: bool) -> str | None:
    for saturated, output in MAPS.items():
        expected = input_gradient(model, as_input(images), saturated=saturated).numpy()
        wrong = np.abs(answers[output][: len(images)] - expected).max((1, 2)) > TOLERANCE
        if wrong.mean() > (0 if exact else FLOAT_MAPS):
            return f"the {output} of {wrong.sum()} images"
    return None


def _run(path: Path, level: str, images: torch.Tensor) -> dict[str, np.ndarray]:
    """All outputs of a file, by name."""
    session = open_session(path, level)
    names = [output.name for output in session.get_outputs()]
    parts = [session.run(names, {"images": as_input(part).numpy()}) for part in images.split(CHUNK)]
    return {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}
