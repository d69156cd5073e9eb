"""The test bench on the boards themselves, as QEMU emulates them: networks, and programs of which all is known."""

import shutil

import pytest

from saqlib import data
from study import device, models, paths
from study.device import BOARDS, DeviceError

missing = [tool for tool in device.TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not found")

IMAGES = data.load("fashion_mnist", "test", paths.SAMPLE)[0][:3].numpy()
CELLS = ("fp32", "w4a4", "w2a2")
# What a program does is known: 5,000 bytes of constants, 1,000 of memory, 400 of stack; 200,000 instructions for the
# class, 20,000 for a map, twice as many for the other.
PROGRAM = """
#include "saq.h"
static const uint8_t table[5000] = {1, 2, 3};
static uint8_t memory[1000];
static void loop(uint32_t n) { __asm volatile("1: subs %0, #1\\n bne 1b" : "+l"(n) : : "cc"); }
int saq_classify(const uint8_t image[784], int32_t logits[10]) {
  volatile uint8_t frame[400];
  for (int i = 0; i < 400; i++) frame[i] = image[i];
  for (int i = 0; i < 10; i++) logits[i] = table[image[i]] + memory[image[i]] + frame[i];
  loop(100000);
  return logits[0] & 7;
}
int saq_map(int target, int passing, int32_t map[1024]) {
  memory[target] = 0;
  for (int i = 0; i < 784; i++) map[i] = target + i;
  loop(10000u << passing);
  return passing;
}
"""
HOST_LOOP = ('__asm volatile("1: subs %0, #1\\n bne 1b" : "+l"(n) : : "cc");', "(void)n;")
CLASSIFY = "int saq_classify(const uint8_t image[784], int32_t logits[10])"
MAP = "int saq_map(int target, int passing, int32_t map[1024])"


@pytest.fixture
def folder(tmp_path):
    """A folder with three pictures."""
    (tmp_path / "pictures").write_bytes(IMAGES.tobytes())
    return tmp_path


def changed(folder, function: str, code: str) -> list[list[int]]:
    """The C files of a network with other code for one function, in which `original` is its own; its own answers."""
    device.write_c(models.load("fashion_mnist-w2a2-standard"), folder)
    expected = device.on_host(folder, len(IMAGES), "here")
    (folder / "saq.c").rename(folder / "original.c")
    include = f'#define {function} original\n#include "original.c"\n#undef {function}\n'
    (folder / "saq.c").write_text(f"{include}{code}\n")
    return expected


@pytest.fixture(scope="module")
def rows():
    """What is measured, by precision and board."""
    every = {name: device.measure(models.load(f"fashion_mnist-{name}-standard"), IMAGES, name) for name in CELLS}
    return {(name, row["board"]): row for name, measured in every.items() for row in measured}


def test_a_network_answers_on_every_board_as_here(rows):
    """Else it were an error; numbers lie within the boards, and fewer bits take less of everything."""
    assert rows.keys() == {(precision, board) for precision in CELLS for board in BOARDS}
    for (_, name), row in rows.items():
        assert list(row) == device.COLUMNS[3:] and row["core"] == BOARDS[name].core
        assert row["compiler"].startswith("gcc ") and row["compiler"].endswith(" -O2")
        assert row["flash_bytes"] < BOARDS[name].flash and 0 < row["stack_bytes"] <= device.STACK
        assert row["ram_bytes"] + row["map_bytes"] + device.STACK < BOARDS[name].ram
    for board in BOARDS:
        full, four, two = (rows[precision, board] for precision in CELLS)
        assert full["flash_bytes"] > 4 * four["flash_bytes"] and full["flash_bytes"] > 8 * two["flash_bytes"]
        assert full["flash_bytes"] > 4 * 62_558  # its weights and biases, all of them
        assert full["class_instructions"] > four["class_instructions"] > two["class_instructions"]
        for row in (full, four, two):
            assert row["straight_through_instructions"] < row["class_instructions"]
    assert rows["fp32", "microbit"]["class_instructions"] > 20 * rows["w4a4", "microbit"]["class_instructions"]


def test_a_second_measurement_is_the_same(rows):
    """To the last instruction."""
    again = device.measure(models.load("fashion_mnist-w2a2-standard"), IMAGES, "w2a2")
    assert again == [rows["w2a2", board] for board in BOARDS]


@pytest.mark.parametrize("board", BOARDS)
def test_a_program_of_which_all_is_known(board, folder):
    """Flash, memory, stack and instructions are its own, and not the test bench's."""
    (folder / "saq.h").write_bytes((device.RUNTIME / "saq.h").read_bytes())
    (folder / "saq.c").write_text(PROGRAM.replace(*HOST_LOOP))
    expected = device.on_host(folder, len(IMAGES), "program")
    (folder / "saq.c").write_text(PROGRAM)
    row = device.on_board(board, folder, expected, "program")
    assert 5000 < row["flash_bytes"] < 5300 and 1000 <= row["ram_bytes"] <= 1004
    assert 400 <= row["stack_bytes"] < 480
    assert 200_000 < row["class_instructions"] < 206_000
    assert 20_000 < row["straight_through_instructions"] < 26_000
    other = row["pass_through_instructions"] - row["straight_through_instructions"]
    assert abs(other - 20_000) <= 63  # to a tick of the timer


FRAME = "volatile uint8_t frame[1100]; for (int i = 0; i < 1100; i++) frame[i] = image[i & 511];"


@pytest.mark.parametrize(
    ("outside", "inside", "words", "refusing"),
    [
        ("static uint8_t more[9000] __attribute__((used));", "", "region `ram' overflowed by", ["microbit"]),
        ("static const uint8_t more[240000] __attribute__((used)) = {1};", "", "region `flash' overflowed by",
         ["microbit"]),
        ("", FRAME, "a fault: more stack than is left", list(BOARDS)),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_board_is_one_line(outside, inside, words, refusing, folder):
    """Memory and flash by the linker, the stack by the board itself; this machine has enough of all."""
    changed(folder, "saq_classify", f"{outside} {CLASSIFY} {{ {inside} return original(image, logits); }}")
    expected = device.on_host(folder, len(IMAGES), "here")
    for board in BOARDS:
        if board in refusing:
            with pytest.raises(DeviceError, match=f"^w2a2 on {board}: {words}[^\n]*$"):
                device.on_board(board, folder, expected, f"w2a2 on {board}")
        else:
            device.on_board(board, folder, expected, board)


@pytest.mark.parametrize(
    ("function", "code", "call"),
    [
        ("saq_map", f"{MAP} {{ int e = original(target, passing, map); map[391] ^= !passing; return e; }}",
         "straight_through"),
        ("saq_map", f"{MAP} {{ int e = original(target, passing, map); map[783] ^= passing; return e; }}",
         "pass_through"),
        ("saq_map", f"{MAP} {{ return original(target, passing, map) + passing; }}", "pass_through"),
        ("saq_classify", f"{CLASSIFY} {{ int class = original(image, logits); logits[9]++; return class; }}", "class"),
        ("saq_classify", f"{CLASSIFY} {{ return (original(image, logits) + 1) % 10; }}", "class"),
    ],
)  # fmt: skip
def test_another_answer_is_an_error(function, code, call, folder):
    """One bit of one pixel of one map, of a logit, an exponent or a class: it names network, board, image and call."""
    expected = changed(folder, function, code)
    with pytest.raises(DeviceError, match=f"^w2a2 on microbit: of image 0 another {call} than on this machine$"):
        device.on_board("microbit", folder, expected, "w2a2 on microbit")
