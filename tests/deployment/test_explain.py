"""Tests of saqlib.deployment.explain: the command on good and bad files, in a process without torch."""

import copy
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from saqlib import paths, words
from saqlib.data.images import as_input
from saqlib.deployment import explain
from saqlib.deployment.onnx import export_explanation, export_onnx
from saqlib.grid import Cell
from saqlib.saliency.gradient import input_gradient
from tests.trained import network, sample

CELL = Cell("fashion_mnist", "w2a2", "standard")
DIGIT = 3


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """An explanation file of the 2-bit network, with the class names of FashionMNIST."""
    path = tmp_path_factory.mktemp("model") / f"{CELL}.explain.onnx"
    export_explanation(network("w2a2"), path, packed=True, cell=CELL)
    return path


@pytest.fixture
def image_file(tmp_path):
    """One image of the sample as a PNG."""
    path = tmp_path / "digit.png"
    Image.fromarray(sample("test")[0][DIGIT].numpy()).save(path)
    return path


def run(*arguments):
    """Exit code of the command."""
    return explain.main([str(argument) for argument in arguments])


def test_the_command_needs_no_torch(model_file, image_file):
    """In a process that cannot import torch, onnx, pandas or matplotlib it prints the class and writes the picture."""
    program = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'pandas', 'matplotlib'])); "
        "runpy.run_module('saqlib.deployment.explain', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, model_file, image_file], cwd=paths.ROOT, capture_output=True, text=True
    )
    picture = image_file.with_name("digit.map.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("class: ") and done.stdout.endswith(f"picture: {picture}\n")
    with Image.open(picture) as image:
        assert image.size == (2 * 280 + 48, 280 + 56)


def test_explanation_is_the_networks(model_file, image_file):
    """Class, confidence and map are those of the network in PyTorch, the name that of the dataset."""
    trained = network("w2a2")
    images = as_input(sample("test")[0][DIGIT : DIGIT + 1])
    found = explain.explain(explain.open_model(model_file), explain.read_image(image_file))
    with torch.no_grad():
        probability, label = trained(images).softmax(1).max(1)
    assert found.label == label.item() and found.name == words.CLASSES["fashion_mnist"][found.label]
    assert found.confidence == pytest.approx(probability.item(), abs=1e-6)
    np.testing.assert_allclose(found.map, input_gradient(trained, images)[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_every_way_to_save_grey_is_read_alike(mode, tmp_path):
    """Grey saved with several channels gives the same 8-bit values."""
    grey = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "x.png")
    np.testing.assert_array_equal(explain.read_image(tmp_path / "x.png"), grey)


def test_colours_of_the_map():
    """Zero is neutral, the largest magnitude has full colour, the sign decides which."""
    saliency_map = np.zeros((28, 28), np.float32)
    saliency_map[0, :2] = [0.5, -0.25]
    colours = explain._coloured(saliency_map)
    assert tuple(colours[0, 0]) == explain.FOR and tuple(colours[1, 1]) == explain.NEUTRAL
    assert tuple(colours[0, 1]) == tuple(np.rint((np.array(explain.AGAINST) + explain.NEUTRAL) / 2).astype(int))


def test_a_dead_map_is_drawn_and_named(model_file, image_file, capsys, monkeypatch):
    """A map of zeros is drawn in the neutral colour, and the command says what it is."""
    dead = explain.Explanation(1, "trousers", 0.5, np.zeros((28, 28), np.float32))
    monkeypatch.setattr(explain, "explain", lambda *_: dead)
    assert run(model_file, image_file) == 0
    assert "dead map" in capsys.readouterr().out


def picture(tmp_path, size=(28, 28), mode="L", color=0):
    path = tmp_path / "bad.png"
    Image.new(mode, size, color).save(path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: picture(folder, (32, 28)), "is 32 x 28 pixels; the network takes 28 x 28"),
        (lambda folder: picture(folder, mode="RGB", color=(255, 0, 0)), "has colours or transparent pixels"),
        (lambda folder: picture(folder, mode="LA", color=(9, 0)), "has colours or transparent pixels"),
        (lambda folder: picture(folder, mode="I;16"), "save it as 8-bit grey"),
        (lambda folder: folder / "none.png", "none.png does not exist"),
        (lambda folder: paths.PARAMS, "is not a picture that can be read"),
    ],
)
def test_an_unfit_picture_is_an_error(make, message, model_file, tmp_path, capsys):
    """Other sizes, colours, 16 bits, no file, no picture: the message says which, and nothing is written."""
    assert run(model_file, make(tmp_path), "-o", tmp_path / "out.png") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def foreign_model(path):
    """An ONNX file that saqlib did not write."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)


def test_an_unfit_model_is_an_error(image_file, tmp_path, capsys):
    """No file, no ONNX, a foreign ONNX and a prediction without a map are told apart."""
    foreign_model(tmp_path / "foreign.onnx")
    export_onnx(network("w2a2"), tmp_path / "cell.packed.onnx", packed=True)
    for path, message in {
        tmp_path / "none.onnx": "does not exist",
        image_file: "cannot be loaded by ONNX Runtime",
        tmp_path / "foreign.onnx": "was not written by saqlib",
        tmp_path / "cell.packed.onnx": "take the cell's file that ends in .explain.onnx",
    }.items():
        assert run(path, image_file) == 1
        error = capsys.readouterr().err
        assert message in error and str(path) in error


def test_a_dead_network_is_refused(image_file, tmp_path, capsys):
    """A network whose logits do not depend on the picture gets no map."""
    dead = copy.deepcopy(network("w2a2"))
    with torch.no_grad():
        dead.act1.alpha.fill_(1e5)
        dead.act4.alpha.fill_(1e5)
    export_explanation(dead, tmp_path / "dead.onnx", packed=True)
    assert run(tmp_path / "dead.onnx", image_file) == 1
    assert "the network is dead" in capsys.readouterr().err


def test_an_old_runtime_is_told_which_one_reads_2_bits(image_file, monkeypatch):
    """Where a file cannot be loaded by a release before 1.28, the message says what to install; later ones do not."""
    for version, told in (("1.27.0", True), ("1.9.1", True), ("1.28.0", False), ("2.0.0", False)):
        monkeypatch.setattr(explain.onnxruntime, "__version__", version)
        with pytest.raises(explain.ExplainError) as error:
            explain.open_model(image_file)
        assert ("pip install 'onnxruntime>=1.28'" in str(error.value)) == told, version
