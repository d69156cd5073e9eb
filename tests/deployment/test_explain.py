"""Tests of saqlib.deployment.explain: the command on good and bad files, in a process without torch."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
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


def run(*arguments) -> None:
    """The command."""
    explain.main([str(argument) for argument in arguments])


def refusal(*arguments) -> str:
    """What a person is told when the command fails: one line that a terminal may show."""
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert isinstance(stop.value.code, str) and stop.value.code.isprintable()
    return stop.value.code


def test_the_command_needs_no_torch(model_file, image_file):
    """In a process that cannot import torch, onnx, pandas or matplotlib it prints the class and writes the picture."""
    program = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'pandas', 'matplotlib'])); "
        "runpy.run_module('saqlib.deployment.explain', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, model_file, image_file], cwd=paths.ROOT, capture_output=True, text=True
    )
    picture = image_file.with_name("digit.png.map.png")
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
    run(model_file, image_file)
    assert "dead map" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- pictures, outputs


def test_an_unfit_picture_is_an_error(model_file, tmp_path):
    """One line, and nothing is written; which pictures are unfit, the tests of `picture` say."""
    Image.new("L", (32, 28)).save(tmp_path / "bad.png")
    assert "is 32 x 28 pixels" in refusal(model_file, tmp_path / "bad.png", "-o", tmp_path / "out.png")
    assert "does not exist" in refusal(model_file, tmp_path / "none.png", "-o", tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


@pytest.mark.parametrize("change", [lambda x: x / 255, lambda x: x[None], lambda x: x.astype(int), lambda x: x[:27]])
def test_an_array_that_is_no_picture_is_refused(model_file, change):
    """Of a notebook, where no file is read."""
    with pytest.raises(explain.ExplainError, match=r"a picture is uint8 \(28, 28\), not "):
        explain.explain(explain.open_model(model_file), change(sample("test")[0][DIGIT].numpy()))


def test_pictures_of_one_name_are_not_written_over_one_another(model_file, image_file):
    """a.png and a.bmp have maps of their own; a second run replaces its own."""
    with Image.open(image_file) as image:
        image.save(image_file.with_suffix(".bmp"))
    for path in (image_file, image_file.with_suffix(".bmp"), image_file):
        run(model_file, path)
    names = {path.name for path in image_file.parent.iterdir()}
    assert names == {"digit.png", "digit.bmp", "digit.png.map.png", "digit.bmp.map.png"}


def test_an_output_that_would_destroy_something_is_refused(model_file, image_file, tmp_path):
    """The picture or the model itself, also by another name; a folder; a pipe; a device: asked before anything runs."""
    model = tmp_path / "model.onnx"
    model.write_bytes(model_file.read_bytes())
    (tmp_path / "link").symlink_to(image_file)
    os.link(image_file, tmp_path / "twin")
    os.mkfifo(tmp_path / "pipe")
    before = {path: path.read_bytes() for path in (image_file, model)}
    for output, said in {
        image_file: "is the picture itself", tmp_path / "link": "is the picture itself",
        tmp_path / "twin": "is the picture itself", model: "is the model itself", tmp_path: "is a folder or a device",
        tmp_path / "pipe": "is a folder or a device", Path("/dev/null"): "is a folder or a device",
    }.items():  # fmt: skip
        assert said in refusal(model, image_file, "-o", output)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(tmp_path.iterdir())) == 5 and (tmp_path / "link").is_symlink()


def test_an_output_that_may_not_be_written_is_one_line(model_file, image_file, tmp_path):
    """A file where a folder should be, and a name that is too long."""
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "x.png", tmp_path / ("x" * 300)):
        assert refusal(model_file, image_file, "-o", output).startswith(str(tmp_path))


# -------------------------------------------------------------------------------------------------------- models


def foreign_model(path):
    """An ONNX file that saqlib did not write."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)


def test_an_unfit_model_is_an_error(image_file, tmp_path):
    """No file, a folder, no ONNX, a foreign ONNX and a prediction without a map are told apart."""
    foreign_model(tmp_path / "foreign.onnx")
    export_onnx(network("w2a2"), tmp_path / "cell.packed.onnx", packed=True)
    for path, message in {
        tmp_path / "none.onnx": "does not exist",
        tmp_path: "is no file",
        image_file: "cannot be loaded by ONNX Runtime",
        tmp_path / "foreign.onnx": "was not written by saqlib",
        tmp_path / "cell.packed.onnx": "take the cell's file that ends in .explain.onnx",
    }.items():
        error = refusal(path, image_file)
        assert message in error and str(path) in error


def lying_model(path, nodes=(), outputs=None, **metadata) -> None:
    """A model that says that it explains. By default its logits and maps are the pictures' own mean and pixels."""
    B, F = "B", TensorProto.FLOAT
    outputs = outputs or {"logits": [B, 10], "map": [B, 28, 28]}
    default = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("Expand", ["column", "ten"], ["logits"]),
        helper.make_node("Squeeze", ["images", "one"], ["map"]),
    ]
    constants = {"one": np.array([1]), "ten": np.array([1, 10]), "huge": np.array([2**40]), "zero": np.float32([0])}
    graph = helper.make_graph(
        [*(nodes or default)],
        "g",
        [helper.make_tensor_value_info("images", F, [B, 1, 28, 28])],
        [helper.make_tensor_value_info(name, F, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    helper.set_model_props(model, {"kind": "explanation"} | metadata)
    onnx.save(model, path)


def node(operator, *inputs, to, **attributes):
    return helper.make_node(operator, inputs, [to], **attributes)


MEANS = node("ReduceMean", "images", to="mean", axes=[1, 2, 3], keepdims=0)
TO_MAP = node("Squeeze", "images", "one", to="map")
NAN = [MEANS, node("Unsqueeze", "mean", "one", to="c"), node("Expand", "c", "ten", to="x")]
LYING = {
    "other outputs": ({"outputs": {"logits": ["B", 10]}}, "it has .* where .* is needed"),
    "other sizes": ({"outputs": {"logits": ["B", 11], "map": ["B", 28, 28]}}, "cannot be loaded|is needed"),
    "no JSON": ({"classes": "{"}, "do not name 10 classes"),
    "no list": ({"classes": '"abcdefghij"'}, "do not name 10 classes"),
    "nine names": ({"classes": json.dumps(["a"] * 9)}, "do not name 10 classes"),
    "numbers": ({"classes": json.dumps([1] * 10)}, "do not name 10 classes"),
    "brackets": ({"classes": "[" * 100_000}, "do not name 10 classes"),
    "4 TB": (
        {"nodes": [node("ConstantOfShape", "huge", to="x"), node("ReduceSum", "x", to="s", keepdims=0), MEANS,
                   node("Add", "mean", "s", to="m"), node("Unsqueeze", "m", "one", to="c"),
                   node("Expand", "c", "ten", to="logits"), TO_MAP]},
        "the model fails on the picture|cannot be loaded",
    ),
    "NaN": ({"nodes": [*NAN, node("Div", "zero", "zero", to="n"), node("Add", "x", "n", to="logits"), TO_MAP]},
            "numbers that are not finite"),
    "infinity": ({"nodes": [*NAN, node("Log", "zero", to="n"), node("Sub", "x", "n", to="logits"), TO_MAP]},
                 "numbers that are not finite"),
    "one answer for all": ({"nodes": [node("ConstantOfShape", "ten", to="logits"), TO_MAP]},
                           r"gives logits \(1, 10\) and maps \(3, 28, 28\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LYING)
def test_a_model_that_only_says_so_is_refused(kind, image_file, tmp_path, capfd):
    """Other outputs, names of no classes, no numbers, more memory than there is: one line, and no picture."""
    options, said = LYING[kind]
    lying_model(tmp_path / "x.onnx", **options)
    assert re.search(said, refusal(tmp_path / "x.onnx", image_file, "-o", tmp_path / "out.png"))
    assert capfd.readouterr() == ("", "") and not (tmp_path / "out.png").exists()


def test_names_of_classes_cannot_write_to_the_terminal(image_file, tmp_path, capsys):
    """A foreign file may hold any text: colours come as their escapes, and a book is cut."""
    lying_model(tmp_path / "x.onnx", classes=json.dumps(["\x1b[31m\n" + "x" * 1000] * 10))
    run(tmp_path / "x.onnx", image_file)
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("class: \\x1b[31m\\nxx") and first.isprintable() and len(first) < 60


@given(st.data())
def test_a_model_file_with_other_bytes_is_a_model_or_one_line(model_file, tmp_path_factory, data):
    """Any few bytes changed or the file cut: an answer with a class of 10, or ExplainError."""
    content = bytearray(model_file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 2] = data.draw(st.binary(min_size=0, max_size=3))
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(content)
    try:
        found = explain.explain(explain.open_model(path), sample("test")[0][DIGIT].numpy())
    except explain.ExplainError as error:
        assert "\n" not in str(error)
    else:
        assert 0 <= found.label < 10 and 0 <= found.confidence <= 1 and np.isfinite(found.map).all()


def test_a_dead_network_is_refused(image_file, tmp_path):
    """A network whose logits do not depend on the picture gets no map."""
    dead = copy.deepcopy(network("w2a2"))
    with torch.no_grad():
        dead.act1.alpha.fill_(1e5)
        dead.act4.alpha.fill_(1e5)
    export_explanation(dead, tmp_path / "dead.onnx", packed=True)
    assert "the network is dead" in refusal(tmp_path / "dead.onnx", image_file)


def test_an_old_runtime_is_told_which_one_reads_2_bits(image_file, monkeypatch):
    """Where a file cannot be loaded by a release before 1.28, the message says what to install; later ones do not."""
    for version, told in (("1.27.0", True), ("1.9.1", True), ("1.28.0", False), ("2.0.0", False)):
        monkeypatch.setattr(explain.onnxruntime, "__version__", version)
        with pytest.raises(explain.ExplainError) as error:
            explain.open_model(image_file)
        assert ("pip install 'onnxruntime>=1.28'" in str(error.value)) == told, version
