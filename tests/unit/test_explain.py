"""Tests of saqlib.deploy.explain: the command on good and bad files. That it needs no torch, the slow tests say."""

import io
import json
import os
import signal
import threading
import warnings

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from PIL import Image

from saqlib.data import DATASETS, as_input, load
from saqlib.deploy import explain, export_explanation
from saqlib.saliency import input_gradient
from study import models, paths
from tests.helpers.deployed import earlier, network
from tests.helpers.networks import sample

MODELS = paths.RESULTS / "models"
MODEL = MODELS / "fashion_mnist-w2a2-standard.explain.onnx"
PREDICTION = MODELS / "mnist-w2a2-guided.packed.onnx"
GREY = sample()[0][3].numpy()


def picture() -> Image.Image:
    return Image.fromarray(GREY)


@pytest.fixture
def image_file(tmp_path):
    """One image of the sample as a PNG."""
    picture().save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def refusal(*arguments) -> str:
    """What a person reads when the command fails: one line that a terminal may show."""
    with pytest.raises(SystemExit) as stop:
        explain.main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, str) and stop.value.code.isprintable()
    return stop.value.code


def test_the_command_prints_the_networks_answer_and_draws_it(tmp_path, capsys):
    """Class, confidence and both maps are those of the network in PyTorch, the name that of the dataset."""
    trained, image = models.load("fashion_mnist-w2a2-standard"), load("fashion_mnist", "test", paths.SAMPLE)[0][3:4]
    model, classes = tmp_path / "x.onnx", DATASETS["fashion_mnist"].classes
    export_explanation(trained, model, packed=True, classes=classes)
    Image.fromarray(image[0].numpy()).save(tmp_path / "x.png")
    found = explain.explain(explain.open_model(model), explain.read_image(tmp_path / "x.png"))
    with torch.no_grad():
        probability, label = trained(as_input(image)).softmax(1).max(1)
    assert found.label == label.item() and found.name == classes[found.label]
    assert found.confidence == pytest.approx(probability.item(), abs=1e-6)
    for saturated, output in explain.MAPS.items():
        expected = input_gradient(trained, as_input(image), saturated=saturated)[0].numpy()
        np.testing.assert_allclose(getattr(found, output), expected, atol=1e-4)
    explain.main([str(model), str(tmp_path / "x.png"), "-o", str(tmp_path / "new" / "y.png")])
    out = f"class: {found.name}\nconfidence: {probability.item():.1%}\npicture: {tmp_path / 'new' / 'y.png'}\n"
    assert capsys.readouterr().out == out
    with Image.open(tmp_path / "new" / "y.png") as drawn:
        assert drawn.size == (3 * 280 + 64, 280 + 72)
        panels = [np.asarray(drawn.convert("RGB"))[56:336, 16 + 296 * i :][:, :280] for i in (1, 2)]
    for panel, saliency in zip(panels, (found.map, found.pass_through), strict=True):
        np.testing.assert_array_equal(panel[5::10, 5::10], explain._coloured(saliency))


@pytest.mark.parametrize(("kind", "note"), [("earlier", "x.onnx is of an earlier version"), ("fp32", "is the same")])
def test_one_map_is_drawn_where_there_is_no_other(kind, note, image_file, tmp_path, capsys):
    """Of a file without a second map, and of a network without clips; a line says so."""
    export_explanation(network("fp32" if kind == "fp32" else "w2a2"), tmp_path / "x.onnx", packed=True)
    if kind == "earlier":
        (tmp_path / "x.onnx").write_bytes(earlier(tmp_path / "x.onnx"))
    explain.main([str(tmp_path / "x.onnx"), str(image_file)])
    *_, last = capsys.readouterr().out.splitlines()
    assert note in last
    with Image.open(f"{image_file}.map.png") as drawn:
        assert drawn.size == (2 * 280 + 48, 280 + 72)
    found = explain.explain(explain.open_model(tmp_path / "x.onnx"), GREY)
    assert list(found.maps) == ["straight-through"] and (found.pass_through is None) == (kind == "earlier")


def test_colours_of_the_map(image_file, capsys, monkeypatch):
    """Zero is neutral, the largest magnitude has full colour, the sign decides which; a dead map is named."""
    saliency_map = np.zeros((28, 28), np.float32)
    assert (explain._coloured(saliency_map) == explain.NEUTRAL).all()
    monkeypatch.setattr(explain, "explain", lambda *_: explain.Explanation(1, "trousers", 0.5, saliency_map))
    explain.main([str(MODEL), str(image_file)])
    assert "The straight-through map is zero everywhere (a dead map)" in capsys.readouterr().out
    saliency_map[0, :2] = [0.5, -0.25]
    colours = explain._coloured(saliency_map)
    assert tuple(colours[0, 0]) == explain.FOR and tuple(colours[1, 1]) == explain.NEUTRAL
    assert tuple(colours[0, 1]) == tuple(np.rint((np.array(explain.AGAINST) + explain.NEUTRAL) / 2).astype(int))


def test_outputs(image_file, tmp_path):
    """a.png and a.bmp have maps of their own; whatever a picture would destroy or cannot become is refused."""
    picture().save(tmp_path / "digit.bmp")
    for path in (image_file, tmp_path / "digit.bmp", image_file):
        explain.main([str(MODEL), str(path)])
    names = {"digit.png", "digit.bmp", "digit.png.map.png", "digit.bmp.map.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    (model := tmp_path / "model.onnx").write_bytes(MODEL.read_bytes())
    (tmp_path / "link").symlink_to(image_file)
    before = image_file.read_bytes(), model.read_bytes()
    for output, message in {
        image_file: "is the picture itself", tmp_path / "link": "is the picture itself", model: "is the model itself",
        tmp_path: "is no file but a folder", model / "x.png": str(model), tmp_path / ("x" * 300): str(tmp_path),
    }.items():  # fmt: skip
        assert message in refusal(model, image_file, "-o", output)
    assert (image_file.read_bytes(), model.read_bytes()) == before and len(list(tmp_path.iterdir())) == 6


# -------------------------------------------------------------------------------------------------------- models


def changed_model(path, source=MODEL, scale=1.0, **metadata) -> None:
    """A committed model with other metadata, and its logits multiplied."""
    proto = onnx.load(source)
    helper.set_model_props(proto, {entry.key: entry.value for entry in proto.metadata_props} | metadata)
    (last,) = (constant for constant in proto.graph.initializer if constant.name == "dense3.scale")
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) * np.float32(scale), last.name))
    onnx.save(proto, path)


def endless(path) -> None:
    """A committed model whose logits wait for a loop that has no end."""
    changed_model(path)
    proto, boolean, number = onnx.load(path), onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
    (last,) = (node for node in proto.graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "before"
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["in"], ["out"])], "body",
        [value("i", onnx.TensorProto.INT64, []), value("go", boolean, []), value("in", number, None)],
        [value("on", boolean, []), value("out", number, None)],
    )  # fmt: skip
    proto.graph.initializer.append(helper.make_tensor("true", boolean, [], [True]))
    proto.graph.node.append(helper.make_node("Loop", ["", "true", "before"], ["logits"], body=body))
    onnx.save(proto, path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_model_that_loops_for_ever(number, image_file, tmp_path, capsys):
    """With one line, and the code of the signal."""
    endless(tmp_path / "endless.onnx")
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    with pytest.raises(SystemExit) as stop:
        explain.main([str(tmp_path / "endless.onnx"), str(image_file)])
    assert stop.value.code == 128 + number and capsys.readouterr().err == "Stopped.\n"


LYING = {
    "foreign": ({"kind": ""}, "was not written by saqlib"),
    "no map": ({"source": PREDICTION, "kind": "explanation"}, "says that it explains, but lacks"),
    "nine names": ({"classes": json.dumps(["a"] * 9)}, "names of 10 classes"),
    "no JSON": ({"classes": "{"}, "is damaged"),
    "brackets": ({"classes": "[" * 100_000}, "is damaged"),
    "NaN": ({"scale": np.nan}, "no finite logits"),
    "dead": ({"scale": 0}, "the network is dead"),
}


@pytest.mark.parametrize("kind", LYING)
def test_a_model_that_only_says_so_is_refused(kind, image_file, tmp_path, capfd):
    """Other outputs, names of no classes, no numbers, the same for every picture: one line, and no picture."""
    options, message = LYING[kind]
    changed_model(tmp_path / "x.onnx", **options)
    assert message in refusal(tmp_path / "x.onnx", image_file, "-o", tmp_path / "out.png")
    assert capfd.readouterr() == ("", "") and not (tmp_path / "out.png").exists()


def test_an_unfit_model_is_an_error(image_file, tmp_path):
    """No file, a folder, no ONNX and a prediction without a map are told apart; so is an array that is no picture."""
    for path, message in {
        tmp_path / "none.onnx": "none.onnx does not exist",
        tmp_path: "is no file but a folder",
        image_file: f"digit.png cannot be loaded by ONNX Runtime {explain.onnxruntime.__version__}",
        PREDICTION: "has no map; take the file of the same network that ends in .explain.onnx",
    }.items():
        assert message in refusal(path, image_file)
    with pytest.raises(explain.ExplainError, match=r"a picture is uint8 \(28, 28\), not float64"):
        explain.explain(explain.open_model(MODEL), GREY / 255)


def test_names_of_classes_cannot_write_to_the_terminal(image_file, tmp_path, capsys):
    """A foreign file may hold any text: colours come as their escapes, and a book is cut."""
    changed_model(tmp_path / "x.onnx", classes=json.dumps(["\x1b[31m\n" + "x" * 1000] * 10))
    explain.main([str(tmp_path / "x.onnx"), str(image_file)])
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("class: \\x1b[31m\\nxx") and first.isprintable() and len(first) < 60


def mutated(draw, sources) -> bytes:
    """One of the contents with a few bytes changed, cut or put in."""
    content = bytearray(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(content)))
        end = draw(st.sampled_from([place, place + 2, len(content)]))
        content[place:end] = draw(st.binary(max_size=4))
    return bytes(content)


@given(st.data())
def test_a_model_file_with_other_bytes_is_a_model_or_one_line(tmp_path_factory, data):
    """An answer with a class of 10, or ExplainError."""
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(mutated(data.draw, [MODEL.read_bytes()]))
    try:
        found = explain.explain(explain.open_model(path), GREY)
    except explain.ExplainError as error:
        assert "\n" not in str(error)
    else:
        assert 0 <= found.label < 10 and 0 <= found.confidence <= 1 and np.isfinite(found.map).all()


# ------------------------------------------------------------------------------------------------------ pictures


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def read(path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return explain.read_image(path)


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    """As every viewer shows it: what is stored on its side is a 4, not a 3."""
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(read(tmp_path / "x", saved(picture(), exif=exif)), np.rot90(GREY, -1))


@pytest.mark.parametrize("dataset", DATASETS)
def test_each_image_is_taken_and_each_negative_turned(dataset, tmp_path):
    """Of the sample: an image of a dataset stays as it is, byte for byte."""
    for pixels in load(dataset, "test", paths.SAMPLE)[0].numpy()[:50]:
        for shown in (pixels, 255 - pixels):
            np.testing.assert_array_equal(read(tmp_path / "x", saved(Image.fromarray(shown))), pixels)


def ink(tone: int) -> Image.Image:
    """A drawing in one tone on a transparent canvas, as drawing programs save it."""
    return Image.merge("LA", [Image.new("L", (28, 28), tone), picture()])


BEST = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}
SAME = {  # files of the same drawing, and by how many grey levels what is read may differ from it
    **{kind: (saved(picture(), kind, **BEST.get(kind, {})), 4 * (kind == "JPEG")) for kind in explain.FORMATS},
    **{mode: (saved(picture().convert(mode)), 0) for mode in ("P", "LA", "RGB", "RGBA")},
    "CMYK": (saved(picture().convert("RGB").convert("CMYK"), "TIFF"), 1),
    "16 bits": (saved(Image.fromarray(GREY.astype(np.uint16) * 257)), 1),
    "black ink on nothing": (saved(ink(0)), 1),
    "white ink on nothing": (saved(ink(255)), 1),
    "on nothing that is black": (saved(Image.merge("LA", [picture(), picture().point(lambda x: 255 * (x > 0))])), 1),
    "colours": (saved(Image.merge("RGB", [picture()] * 2 + [picture().point(lambda x: min(x + 1, 255))])), 1),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_picture_becomes_grey_and_bright_on_black(kind, tmp_path):
    """Whatever the file makes of the same drawing; exactly, where it loses nothing."""
    content, tolerance = SAME[kind]
    assert np.abs(read(tmp_path / "x", content).astype(int) - GREY).max() <= tolerance


@pytest.mark.parametrize("size", [(200, 120), (90, 300), (11, 13)])
def test_what_is_drawn_is_scaled_and_centred(size, tmp_path):
    """Blue ink on paper that is not quite white, in a corner of it: a box of 20 pixels, its mass in the middle."""
    page, (width, height) = Image.new("RGB", size, (225, 220, 210)), (side // 3 for side in size)
    page.paste((30, 30, 140), (1, 2, 1 + width, 2 + height))
    found = read(tmp_path / "x", saved(page))
    rows, columns = (np.flatnonzero(found.any(axis)) for axis in (1, 0))
    assert max(len(rows), len(columns)) == 20 and found.max() == 255
    assert len(columns) / len(rows) == pytest.approx(width / height, rel=0.2)
    assert abs(rows.mean() - 13.5) <= 0.5 and abs(columns.mean() - 13.5) <= 0.5


def test_every_committed_network_reads_a_photograph_of_a_digit(tmp_path):
    """The seven of the sample, enlarged, dark on paper with a shadow, as JPEG: a seven for all."""
    large = np.asarray(Image.open(paths.SAMPLE / "seven.png").convert("L").resize((420, 420), Image.Resampling.BICUBIC))
    paper = np.linspace(235, 215, 600)[:, None] * np.ones(800)
    paper[90:510, 300:720] -= 0.7 * large
    found = read(tmp_path / "x", saved(Image.fromarray(paper.astype(np.uint8)).convert("RGB"), "JPEG", quality=80))
    trained = sorted(MODELS.glob("mnist-*.explain.onnx"))
    assert len(trained) == 8
    assert {explain.explain(explain.open_model(path), found).label for path in trained} == {7}


SPECKS = np.zeros((4096, 4096), np.uint8)
SPECKS[0, 0] = SPECKS[-1, -1] = 255
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n(x) show\n%%EOF\n"
BROKEN = {
    "cut": (saved(picture())[:-200], "is not a picture"),
    "EPS, which pillow would give to Ghostscript": (EPS, "is not a picture"),
    "too large for pillow": (saved(Image.new("1", (13_000, 13_000))), "has 13000 x 13000 pixels; save it with fewer"),
    "larger than is taken": (saved(Image.new("1", (4097, 4096))), "has 4097 x 4096 pixels; save it with fewer"),
    "blank": (saved(Image.new("L", (28, 28), 128)), "is blank"),
    "blank and large": (saved(Image.new("RGB", (64, 80), "white")), "is blank"),
    "specks that no mean shows": (saved(Image.fromarray(SPECKS)), "is blank"),
    "float": (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "has 32 bits a pixel"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_picture_is_one_line(kind, tmp_path):
    """Whatever its name; also where warnings are errors."""
    content, message = BROKEN[kind]
    (tmp_path / "x.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert message in refusal(MODEL, tmp_path / "x.png")


def test_what_is_no_file_is_refused(tmp_path):
    """Nothing, a folder, a pipe that nobody writes to; a name's colours come as their escapes."""
    os.mkfifo(tmp_path / "pipe")
    assert refusal(MODEL, tmp_path / "a\x1b[31m\nb.png").endswith("a\\x1b[31m\\nb.png does not exist")
    for path in (tmp_path, tmp_path / "pipe"):
        assert refusal(MODEL, path, "-o", tmp_path / "x.png").endswith("is no file but a folder or a device")


SOURCES = [saved(picture(), kind) for kind in explain.FORMATS]


@given(st.data())
def test_any_file_is_a_picture_or_one_line(tmp_path_factory, data):
    """Taken as bytes of grey, or refused with words for a person: no decoder's own error comes through."""
    try:
        found = read(tmp_path_factory.getbasetemp() / "any.png", mutated(data.draw, SOURCES))
    except explain.ExplainError as error:
        assert str(error).isprintable()
    else:
        assert found.dtype == np.uint8 and found.shape == (28, 28)
