"""Networks on microcontrollers, without one: missing tools, what a board prints, the table, full precision in C."""

import ctypes
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from saqlib import lenet
from saqlib.deploy import DeploymentError
from saqlib.precision import Shape
from saqlib.saliency import input_gradient
from study import device, dvc, files, models, paths, run, settings
from study.device import ANSWERS, COLUMNS, DeviceError
from study.report import tables
from tests.helpers import made
from tests.helpers.deployed import network
from tests.helpers.networks import inputs, sample

STUDY = settings.load()


@pytest.fixture
def root(tmp_path):
    """A folder with the committed networks, and nothing measured."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "models").symlink_to(paths.RESULTS / "models")
    return tmp_path


def row(cell, **values) -> dict:
    """A row of measured.csv of a cell on the microbit; numbers that are not given are 1,000."""
    names = {"board": "microbit", "core": "Cortex-M0", "compiler": "gcc 1 -O2"}
    return dict.fromkeys(COLUMNS, 1000) | vars(cell) | names | values


# --------------------------------------------------------------------------------------------------- without a tool


def test_without_a_tool_what_was_measured_stays(root, monkeypatch):
    """It is named with its package; where nothing was measured there is a table without rows. The C is written."""
    place = root / "results" / "device" / "measured.csv"
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == device.GCC else tool)
    monkeypatch.setattr(device.processes, "run_all", lambda *_: pytest.fail("something was measured"))
    install = "Install with: apt-get install --no-install-recommends gcc-arm-none-eabi"
    words = f"arm-none-eabi-gcc not found, so results/device/measured.csv has no rows. {install}"
    assert device.run(STUDY, root) == words and place.read_text() == ",".join(COLUMNS) + "\n"
    files.write(place, "as committed")
    assert device.run(STUDY, root) == words.replace("has no rows", "stays as it was measured")
    assert place.read_text() == "as committed"
    device.write_c(models.load("fashion_mnist-w2a2-standard"), root)
    for name in device.C_FILES:
        assert (place.parent / name).read_bytes() == (root / name).read_bytes()


def test_dvc_leaves_what_was_measured():
    """Before a stage runs DVC removes what it writes, unless it is told to let it stay."""
    stage = yaml.safe_load((paths.ROOT / "dvc.yaml").read_text())["stages"]["device"]
    assert stage["outs"] == [{"results/device": {"cache": False, "persist": True}}]


def test_a_network_that_no_c_is_written_for_is_left_out(root, monkeypatch):
    """The others are measured, on the first images of the sample; an old example does not outlive its network."""

    def refuse(*_):
        raise DeploymentError("too few bits")

    def measure(model, images, what):
        np.testing.assert_array_equal(images, sample(dataset=what.split("-")[0])[0][:10])
        if model.precision.name == "w2a2":
            refuse()
        return [{name: value for name, value in row(STUDY.grid.cells[0]).items() if name in COLUMNS[3:]}]

    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    monkeypatch.setattr(device, "measure", measure)
    monkeypatch.setattr(device.processes, "run_all", lambda function, jobs: [function(*job) for job in jobs])
    monkeypatch.setattr(device, "write_c", refuse)
    old = files.write(root / "results" / "device" / "model.h", "of another network")
    words = device.run(STUDY, root).splitlines()
    left_out = [f"{cell} is left out: too few bits" for cell in STUDY.grid.cells if cell.precision == "w2a2"]
    assert words == [*left_out, "12 rows in results/device/measured.csv"]
    found = pd.read_csv(old.parent / "measured.csv")
    assert list(found) == COLUMNS and len(found) == 12 and not old.exists()
    assert ["-".join(names) for names in found[COLUMNS[:3]].to_numpy()] == [
        str(cell) for cell in STUDY.grid.cells if cell.precision != "w2a2"
    ]


# ------------------------------------------------------------------------------------------------ what a board prints

EXPECTED = [[1, 11, 0, 12, 0, 13], [2, 21, 0, 22, 0, 23], [3, 31, 0, 32, 0, 33]]
TICKS = [[100, 10, 20, 0x50], [900, 30, 100, 0x60], [200, 20, 40, 0x40]]  # of three calls, and bytes of stack
SIZES = (
    "board.elf  :\nsection size addr\n.bench 900 0\n.text 5000 900\n.stack 1024 0\n.data 8 0\n.bss 300 0\nTotal 7232"
)


def printing(lines, monkeypatch) -> None:
    """Let the tools print what they would for a board that prints these lines, of numbers."""
    text = "".join(" ".join(f"{number:08x}" for number in line) + " \n" for line in lines)
    printed = {"qemu-system-arm": text, "arm-none-eabi-size": SIZES}
    monkeypatch.setattr(device, "_run", lambda command, *_: printed.get(command[0], "12.3.4\n"))


def test_a_row_by_hand(monkeypatch, tmp_path):
    """Sections without the test bench; medians in instructions, 62.5 a tick; the deepest stack."""
    printing([[32_000], *(a + t for a, t in zip(EXPECTED, TICKS, strict=True))], monkeypatch)
    found = device.on_board("microbit", tmp_path, EXPECTED, "x on microbit")
    assert list(found) == COLUMNS[3:]
    assert list(found.values()) == ["microbit", "Cortex-M0", "gcc 12.3.4 -O2", 5008, 308, 4096, 96, 12_500, 1250, 2500]


@pytest.mark.parametrize("place", range(ANSWERS))
def test_another_answer_names_network_board_image_and_call(place, monkeypatch, tmp_path):
    """Whichever of an image's numbers it is."""
    answers = [list(row) for row in EXPECTED]
    answers[1][place] += 1
    printing([[32_000], *(a + t for a, t in zip(answers, TICKS, strict=True))], monkeypatch)
    call = device.CALLS[place // 2]
    with pytest.raises(DeviceError, match=f"^x on microbit: of image 1 another {call} than on this machine$"):
        device.on_board("microbit", tmp_path, EXPECTED, "x on microbit")


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3), min_size=1))
def test_numbers_are_read_as_they_are_printed(rows):
    """As many lines of as many numbers; one that is missing, or cut, is an error."""
    text = "".join(" ".join(f"{number:08x}" for number in row) + " \n" for row in rows)
    assert device.numbers(text, len(rows), 3, "x") == rows
    for wrong in (text[: text.rindex("\n") - 9], text + text, text.rpartition(" \n")[0].rpartition("\n")[0]):
        with pytest.raises(DeviceError, match=f"^x: it printed [0-9]+ lines, not {len(rows)} of 3 numbers each$"):
            device.numbers(wrong, len(rows), 3, "x")


def test_what_goes_wrong_is_one_line(tmp_path, monkeypatch):
    """Of a linker the line before the compiler's own, without its path; words for numbers; a program without an end."""
    wrong = "echo; echo \"/usr/lib/../bin/ld: region 'ram' overflowed by 4 bytes\"; echo collect2: error; exit 1"
    monkeypatch.setattr(device, "SECONDS", 0.1)
    for command, words in {wrong: "region 'ram' overflowed by 4 bytes", "exit 3": "sh failed",
                           "sleep 9": "sh did not end within 0.1 seconds"}.items():  # fmt: skip
        with pytest.raises(DeviceError) as error:
            device._run(["sh", "-c", command], tmp_path, "x on microbit")
        assert str(error.value) == f"x on microbit: {words}"
    with pytest.raises(DeviceError, match="^x: it printed 'a fault' in place of numbers$"):
        device.numbers("0a 0b\na fault\n", 2, 2, "x")


# ----------------------------------------------------------------------------------------------------------- the table


def test_the_table_joins_accuracy_and_the_faithfulness_of_both_maps():
    """Means over the seeds beside the right cell, of trained networks; a cell of another grid is left out."""
    runs, maps = made.runs(), made.scored_maps()
    cells = [settings.Cell("mnist", "w2a2", "guided"), settings.Cell("fashion_mnist", "w9a9", "guided")]
    table = tables.device(pd.DataFrame([row(cell, flash_bytes=22_576) for cell in cells]), runs, maps)
    (found,) = table.numbers.to_dict("records")
    own = runs.query("dataset == 'mnist' and precision == 'w2a2' and training == 'guided'")
    assert found["test_accuracy"] == pytest.approx(own.test_accuracy.mean())
    levels = maps.query("dataset == 'mnist' and precision == 'w2a2' and training == 'guided' and network == 'trained'")
    for name in ("straight_through", "pass_through"):
        expected = levels[levels["map"] == name].faithfulness.mean()
        assert found[f"faithfulness_{name}"] == pytest.approx(expected) and expected > 0
    assert found["faithfulness_straight_through"] != found["faithfulness_pass_through"]
    assert table.shown.iloc[0].tolist()[:5] == ["MNIST", "guided", "w2a2", "Cortex-M0", "22.6"]


def test_the_command_writes_the_table_once_there_is_something_to_join(root, monkeypatch, capsys):
    """Also where nothing can be measured: of what was; of a table without rows one without rows."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for name, place in {"ROOT": root, "RESULTS": root / "results"}.items():
        monkeypatch.setattr(paths, name, place)
    run.main(["device"])
    assert "has no rows" in capsys.readouterr().out and not (root / "results" / "tables").exists()
    files.write(root / "results" / "runs.csv", files.csv(made.runs()))
    files.write(root / "results" / "evidence" / "maps.csv", files.csv(made.scored_maps()))
    run.main(["device"])
    assert len(pd.read_csv(root / "results" / "tables" / "device.csv")) == 0
    frame = pd.DataFrame([row(cell) for cell in STUDY.grid.cells])
    files.write(root / "results" / "device" / "measured.csv", files.csv(frame))
    run.main(["device"])
    assert len(pd.read_csv(root / "results" / "tables" / "device.csv")) == len(STUDY.grid.cells)


def test_the_stage_depends_on_its_c_without_comments():
    """That of the test bench and that of the network; no other stage does."""
    code = dvc.code_of("device")
    for name in ("benchmarks/device/board.c", "benchmarks/device/board.ld", "benchmarks/device/fp32.c",
                 "saqlib/deploy/device/saq.c", "saqlib/deploy/device/saq.h", "saqlib/deploy/c.py"):  # fmt: skip
        assert f"# {name}\n" in code
    assert "void reset(void) {" in code and "The test bench" not in code
    assert "board.c" not in dvc.code_of("deploy")


# --------------------------------------------------------------------------------------------- full precision in C


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_full_precision_in_c_is_the_network(tmp_path):
    """Classes, and logits and both maps to 1e-4, of all images of the sample, as PyTorch computes them."""
    device.write_c(network("fp32"), tmp_path)
    command = ["cc", *device.FLAGS, "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "saq.c", "-o", "saq.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    built, images = ctypes.CDLL(str(tmp_path / "saq.so")), sample()[0].numpy()
    logits, maps = np.zeros((len(images), 10), np.float32), np.zeros((2, len(images), 1024), np.float32)

    def at(array):
        return ctypes.c_void_p(array.ctypes.data)

    classes = []
    for number, image in enumerate(images):
        classes.append(built.saq_classify(at(image), at(logits[number])))
        assert [built.saq_map(classes[-1], passing, at(maps[passing, number])) for passing in (0, 1)] == [0, 0]
    expected = network("fp32")(inputs()).detach().numpy()
    assert classes == expected.argmax(1).tolist()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    gradient = input_gradient(network("fp32"), inputs()).numpy().reshape(-1, 784)
    assert abs(gradient).max() > 1
    np.testing.assert_allclose(maps[0, :, :784], gradient, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(maps[1, :, :784], maps[0, :, :784])


def test_full_precision_of_other_widths_is_refused(tmp_path):
    """The C is written for those of the study; nothing is left behind."""
    other = lenet.build("fp32", shape=Shape((4, 16), (120, 84)), seed=0)
    with pytest.raises(DeploymentError, match=r"^fp32.c is written for weights of the shapes \[\(8, 1, 5, 5\)"):
        device.write_c(other, tmp_path)
    assert list(tmp_path.iterdir()) == []
