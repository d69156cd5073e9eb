"""The committed networks for the reader's browser, and what Python says that they answer.

A page that is opened from a folder may neither fetch nor import files, but it may load scripts. So everything that it
needs is a script that sets one value: bytes as base64 of gzip, the rest as JSON.
"""

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from saqlib import files, words
from saqlib.data.images import load

UNTRAINED = "untrained"
SUFFIX = ".explain.onnx"


@dataclass(frozen=True)
class Examples:
    """Test images of one dataset, uint8 (10, 28, 28), one of each class in order, and the mean training image."""

    images: NDArray[np.uint8]
    mean: NDArray[np.uint8]


def examples(dataset: str) -> Examples:
    """From the committed sample: the first test image of each class, and the mean of the sample's training images."""
    images, labels = (values.numpy() for values in load(dataset, "test", sample=True))
    training = load(dataset, "train", sample=True)[0].numpy()
    first = [int(np.flatnonzero(labels == label)[0]) for label in range(len(words.CLASSES[dataset]))]
    return Examples(images[first], np.rint(training.mean(0)).astype(np.uint8))


def answers(model: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What ONNX Runtime in Python makes of images, uint8 (N, 28, 28): logits (N, 10) and maps (N, 28, 28)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # One by one, as the browser does: in a batch a float network may sum in another order.
    found = [session.run(["logits", "map"], {"images": as_input(image[None])}) for image in images]
    return np.concatenate([logits for logits, _ in found]), np.concatenate([maps for _, maps in found])


def as_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 images (N, 28, 28) as the networks take them: float (N, 1, 28, 28) in [0, 1]."""
    return images[:, None].astype(np.float32) / np.float32(255)


def models(results: Path) -> dict[str, Path]:
    """The explaining file of each cell, and of the network before training, by name."""
    return {path.name.removesuffix(SUFFIX): path for path in sorted((results / "models").glob(f"*{SUFFIX}"))}


def write(results: Path, modules: Path, static: Path) -> None:
    """Write the scripts of data that the drawing page loads.

    Args:
        results: the folder results/.
        modules: node_modules, with onnxruntime-web in it.
        static: the folder of the pages' static files.
    """
    found = models(results)
    runtime = modules / "onnxruntime-web" / "dist"
    parts = {"code": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}
    _script(static, "data-runtime", {kind: _packed((runtime / name).read_bytes()) for kind, name in parts.items()})
    _script(static, "data-models", {name: _packed(path.read_bytes()) for name, path in found.items()})
    pictures = {dataset: examples(dataset) for dataset in words.CLASSES}
    _script(static, "data-pictures", {
        dataset: {
            "name": words.dataset(dataset),
            "classes": words.CLASSES[dataset],
            "images": [_bytes(image) for image in shown.images],
            "mean": _bytes(shown.mean),
        }
        for dataset, shown in pictures.items()
    })  # fmt: skip
    _script(static, "data-sizes", {name: path.stat().st_size for name, path in found.items()})
    _script(static, "data-answers", {
        dataset: {
            name: _answer(path, shown.images)
            for name, path in found.items() if name.startswith((f"{dataset}-", UNTRAINED))
        }
        for dataset, shown in pictures.items()
    })  # fmt: skip


def _answer(model: Path, images: NDArray[np.uint8]) -> dict[str, str]:
    logits, maps = answers(model, images)
    return {"logits": _packed(logits.tobytes()), "maps": _packed(maps.tobytes())}


def _script(static: Path, name: str, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, separators=(",", ":"))
    files.write(static / f"{name}.js", f'(globalThis.saqData ??= {{}})["{name}"] = {text};\n')


def _packed(content: bytes) -> str:
    return _base64(gzip.compress(content, 9, mtime=0))


def _bytes(image: NDArray[np.uint8]) -> str:
    return _base64(image.tobytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
