"""The committed networks for the reader's browser, and what Python says that they answer.

A page that is opened from a folder may neither fetch nor import files, but it may load scripts. So everything that it
needs is a script that sets one value: bytes as base64 of gzip, the rest as JSON.
"""

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saqlib.data import DATASETS
from saqlib.deploy.explain import MAPS
from study import explore, files
from study.explore import SUFFIX, TRAININGS, UNTRAINED

REMOVED = 0.15  # share of the pixels that the page removes at first; they become the mean image's


def models(results: Path) -> dict[str, Path]:
    """The explaining file of each cell, and of the network before training, by name."""
    return {path.name.removesuffix(SUFFIX): path for path in sorted((results / "models").glob(f"*{SUFFIX}"))}


def write(results: Path, modules: Path, static: Path) -> None:
    """Write the scripts of data that the drawing page loads.

    Its pictures are of each dataset's sample the first test image of each class, and the mean training image. The page
    opens with the one of `first`.

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
        images, labels = explore.sample(dataset)
        classes = DATASETS[dataset].classes
        shown = [images[labels == label][0] for label in range(len(classes))]
        pictures[dataset] = {
            "name": DATASETS[dataset].title,
            "classes": classes,
            "images": [_base64(image.tobytes()) for image in shown],
            "first": first(dataset, shown, explore.files(dataset, TRAININGS[0], results)),
            "mean": _base64(explore.mean_image(dataset).tobytes()),
        }
        own = {name: path for name, path in found.items() if name.split("-")[0] in (dataset, UNTRAINED)}
        expected[dataset] = {name: _answers(path, shown) for name, path in own.items()}
    _script(static, "data-pictures", pictures)
    _script(static, "data-answers", expected)


def first(dataset: str, shown: Sequence[NDArray[np.uint8]], networks: Mapping[str, Path]) -> int:
    """Which picture the page opens with, the one that shows best what the paper found: its place among `shown`.

    Every network is right about it. Each loses confidence with the pixels that its map marks, whichever gradient makes
    the map; and the network of the fewest bits loses more by the pass-through map. Of the pictures that one is taken
    whose least such figure is the largest.

    Args:
        shown: an image of each class, uint8 (28, 28), in their order.
        networks: as of `explore.files`.
    """
    trained = {name: path for name, path in networks.items() if name != UNTRAINED}

    def least(label: int) -> float:
        lost = []
        for gradient in MAPS:
            answers = explore.ask(trained, dataset, shown[label], gradient)
            if any(answer.label != label for answer in answers):
                return -1.0
            left = [explore.remove(dataset, shown[label], answer.map, REMOVED) for answer in answers]
            then = [explore.confidence(path, image, label) for path, image in zip(trained.values(), left, strict=True)]
            lost.append(np.subtract([answer.confidence for answer in answers], then))
        return min(*np.ravel(lost), *(lost[-1][-1] - each[-1] for each in lost[:-1]))

    return max(range(len(shown)), key=least)


def _answers(model: Path, images: Iterable[NDArray[np.uint8]]) -> dict[str, str]:
    """What ONNX Runtime in Python makes of images: each output of the file, packed."""
    # One by one, as the browser does: in a batch a float network may sum in another order.
    found = [explore.run(model, image) for image in images]
    return {name: _packed(np.stack([each[name] for each in found]).tobytes()) for name in found[0]}


def _script(static: Path, name: str, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, separators=(",", ":"))
    files.write(static / f"{name}.js", f'(globalThis.saqData ??= {{}})["{name}"] = {text};\n')


def _packed(content: bytes) -> str:
    return _base64(gzip.compress(content, 9, mtime=0))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
