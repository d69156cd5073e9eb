"""Tests of saqlib.site.networks, and of all committed ONNX files in the runtime that browsers have."""

import base64
import gzip
import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from saqlib import paths, words
from saqlib.data.images import load
from saqlib.site import networks
from tests.site.conftest import MODULES, needs_node, needs_npm

IMAGES = 12  # of each dataset, through every file
FILES = sorted((paths.RESULTS / "models").glob("*.onnx"))


def images_for(name: str) -> np.ndarray:
    """The sample's first test images of the dataset of a file, uint8."""
    dataset = name.split("-")[0] if "-" in name else "mnist"
    return load(dataset, "test", sample=True)[0][:IMAGES].numpy()


def in_node(files: list[Path]) -> list[dict[str, np.ndarray]]:
    """What ONNX Runtime for browsers makes of the images, file by file: each output as float32, one row per image."""
    inputs = [networks.as_input(images_for(file.name)) for file in files]
    jobs = [
        {"file": str(file), "images": base64.b64encode(images.tobytes()).decode(), "count": len(images)}
        for file, images in zip(files, inputs, strict=True)
    ]
    script = Path(__file__).with_name("run_networks.mjs")
    done = subprocess.run(["node", script, MODULES], input=json.dumps(jobs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [
        {
            name: np.stack([np.frombuffer(base64.b64decode(row), np.float32) for row in rows])
            for name, rows in found.items()
        }
        for found in json.loads(done.stdout)
    ]


def in_python(file: Path) -> dict[str, np.ndarray]:
    """What ONNX Runtime in Python makes of the same images, one by one."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    found = [session.run(outputs, {"images": networks.as_input(image[None])}) for image in images_for(file.name)]
    return {name: np.stack([row[i].ravel() for row in found]) for i, name in enumerate(outputs)}


@needs_node
@needs_npm
def test_every_committed_file_answers_in_node_as_in_python():
    """A quantized network's logits bit for bit, those of full precision and all maps to rounding."""
    assert len(FILES) > 48
    for file, found in zip(FILES, in_node(FILES), strict=True):
        expected = in_python(file)
        assert found.keys() == expected.keys() and ("map" in found) == (".explain" in file.name)
        exact = "fp32" not in file.name and "untrained" not in file.name
        tolerance = {"logits": 0 if exact else 1e-4, "map": 1e-6}
        for name, values in expected.items():
            largest = max(1, np.abs(values).max()) if name == "map" else 1  # a gradient may be larger than 1
            np.testing.assert_allclose(
                found[name], values, rtol=0, atol=tolerance[name] * largest, err_msg=f"{file.name}: {name}"
            )
        np.testing.assert_array_equal(found["logits"].argmax(1), expected["logits"].argmax(1))


def test_there_is_an_explaining_file_of_each_cell_and_of_the_untrained_network():
    """Of the whole grid, and one control."""
    found = networks.models(paths.RESULTS)
    assert networks.UNTRAINED in found and len(found) == 17


@pytest.mark.parametrize("dataset", list(words.CLASSES))
def test_examples_are_one_of_each_class_in_order(dataset):
    """Test images, not training images; the mean is that of training images."""
    shown = networks.examples(dataset)
    images, labels = load(dataset, "test", sample=True)
    for label, image in enumerate(shown.images):
        (places,) = np.nonzero((images.numpy() == image).all((1, 2)))
        assert labels[places[0]] == label
    assert shown.mean.shape == (28, 28) and 10 < shown.mean.mean() < 120


def value(path: Path):
    """What a script of data sets."""
    text = path.read_text()
    return json.loads(text[text.index("] = ") + 4 :].rstrip(";\n"))


@needs_npm
def test_the_scripts_of_data_hold_files_pictures_and_answers(tmp_path):
    """Byte for byte the committed files, and for every network the answers to every picture of its dataset."""
    networks.write(paths.RESULTS, MODULES, tmp_path)
    models = value(tmp_path / "data-models.js")
    for name, path in networks.models(paths.RESULTS).items():
        assert gzip.decompress(base64.b64decode(models[name])) == path.read_bytes()
        assert value(tmp_path / "data-sizes.js")[name] == path.stat().st_size
    answers = value(tmp_path / "data-answers.js")
    for dataset, known in value(tmp_path / "data-pictures.js").items():
        assert tuple(known["classes"]) == words.CLASSES[dataset] and len(known["images"]) == 10
        assert len(answers[dataset]) == 9
        logits = np.frombuffer(gzip.decompress(base64.b64decode(answers[dataset]["untrained"]["logits"])), np.float32)
        assert logits.size == 100
    assert gzip.decompress(base64.b64decode(value(tmp_path / "data-runtime.js")["wasm"]))[:4] == b"\0asm"
