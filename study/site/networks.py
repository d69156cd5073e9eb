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
from numpy.typing import NDArray

from saqlib.data import DATASETS
from saqlib.deploy.explain import as_input, open_model
from study import explore, files
from study.explore import SUFFIX, UNTRAINED


@dataclass(frozen=True)
class Examples:
    """Test images of one dataset, uint8 (10, 28, 28), one of each class in order, and the mean training image."""

    images: NDArray[np.uint8]
    mean: NDArray[np.uint8]


def examples(dataset: str) -> Examples:
    """From the committed sample: the first test image of each class, and the mean of the sample's training images."""
    images, labels = explore.sample(dataset)
    first = [int(np.flatnonzero(labels == label)[0]) for label in range(len(DATASETS[dataset].classes))]
    return Examples(images[first], explore.mean_image(dataset))


def answers(model: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What ONNX Runtime in Python makes of images, uint8 (N, 28, 28): logits (N, 10) and maps (N, 28, 28)."""
    session = open_model(model)
    # One by one, as the browser does: in a batch a float network may sum in another order.
    found = [session.run(["logits", "map"], {"images": as_input(image[None])}) for image in images]
    return np.concatenate([logits for logits, _ in found]), np.concatenate([maps for _, maps in found])


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
    _script(static, "data-sizes", {name: path.stat().st_size for name, path in found.items()})
    pictures, expected = {}, {}
    for dataset in dict.fromkeys(name.split("-")[0] for name in found if name != UNTRAINED):
        shown = examples(dataset)
        pictures[dataset] = {
            "name": DATASETS[dataset].title,
            "classes": DATASETS[dataset].classes,
            "images": [_base64(image.tobytes()) for image in shown.images],
            "mean": _base64(shown.mean.tobytes()),
        }
        own = {name: path for name, path in found.items() if name == UNTRAINED or name.startswith(f"{dataset}-")}
        expected[dataset] = {name: _answer(path, shown.images) for name, path in own.items()}
    _script(static, "data-pictures", pictures)
    _script(static, "data-answers", expected)


def _answer(model: Path, images: NDArray[np.uint8]) -> dict[str, str]:
    logits, maps = answers(model, images)
    return {"logits": _packed(logits.tobytes()), "maps": _packed(maps.tobytes())}


def _script(static: Path, name: str, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, separators=(",", ":"))
    files.write(static / f"{name}.js", f'(globalThis.saqData ??= {{}})["{name}"] = {text};\n')


def _packed(content: bytes) -> str:
    return _base64(gzip.compress(content, 9, mtime=0))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
