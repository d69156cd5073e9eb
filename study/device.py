"""The networks on two microcontrollers, which QEMU emulates: memory, and instructions of the class and of both maps.

Each network of results/models/ is written as C, built for every board, and shown the first images of the sample. What a
board answers, all logits and maps, has to be what this machine answers by the same C. One row of
results/device/measured.csv for each cell and board:

flash_bytes, ram_bytes: code and constants, static memory, with what of libgcc the network needs, which is all it needs.
    Not with the test bench (benchmarks/device/board.c), nor with map_bytes, the buffer that is the caller's.
stack_bytes: of the deepest call, by painting the stack.
<call>_instructions: of the class and of each map, the median over the images. QEMU counts them, to a tick of the
    board's timer, which is 40 or 62.5. They are no cycles: QEMU has no model of time.
compiler: with which all this holds.
"""

import contextlib
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saqlib import data
from saqlib.deploy.c import export_c
from saqlib.deploy.layers import DeploymentError, read
from saqlib.errors import printable, shown
from study import files, models, paths, processes
from study.settings import Cell, Study

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from saqlib.lenet import LeNet

BENCH, RUNTIME = paths.ROOT / "benchmarks" / "device", paths.ROOT / "saqlib" / "deploy" / "device"
IMAGES = 10  # test images of the sample that a network is shown
STACK = 1024  # bytes of a board's memory that are left to the stack
MAP_BYTES = 4 * 1024  # of the buffer that a caller gives saq_map
LOOP = 2_000_000  # instructions, whose ticks a board counts first
SECONDS = 600  # what takes longer does not end
GCC = "arm-none-eabi-gcc"
TOOLS = {GCC: "gcc-arm-none-eabi", "qemu-system-arm": "qemu-system-arm", "cc": "gcc"}  # and Debian's package of each
LEVEL = "-O2"
# No product is fused with a sum, so that floats are the same everywhere; no loop becomes a call of a library's memset.
FLAGS = (LEVEL, "-std=gnu11", "-ffreestanding", "-ffp-contract=off", "-fno-strict-aliasing",
         "-fno-tree-loop-distribute-patterns", "-I.")  # fmt: skip
C_FILES = ("model.h", "saq.c", "saq.h")  # of one network, whichever it is
CALLS = ("class", "straight_through", "pass_through")
ANSWERS = 2 * len(CALLS)  # numbers: of each call what it returns, and a hash of what it writes
COLUMNS = ["dataset", "precision", "training", "board", "core", "compiler", "flash_bytes", "ram_bytes", "map_bytes",
           "stack_bytes", *(f"{call}_instructions" for call in CALLS)]  # fmt: skip
SHAPES = [(8, 1, 5, 5), (16, 8, 5, 5), (120, 400), (84, 120), (10, 84)]  # of the weights that fp32.c is written for


@dataclass(frozen=True)
class Board:
    """A board of QEMU's: its processor, the compiler's flags for it, and bytes of flash and memory."""

    core: str
    flags: tuple[str, ...]
    flash: int
    ram: int


BOARDS = {
    "microbit": Board("Cortex-M0", ("-mthumb", "-mcpu=cortex-m0", "-masm-syntax-unified"), 256 << 10, 16 << 10),
    "mps2-an386": Board(
        "Cortex-M4", ("-mthumb", "-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"), 4 << 20, 4 << 20
    ),
}


class DeviceError(RuntimeError):
    """A network does not fit a board, or gives other answers there; the message names both."""


# ------------------------------------------------------------------------------------------------ the whole grid


def run(study: Study, root: Path = paths.ROOT) -> str:
    """Write results/device/: measured.csv, and the C files of one network of the last precision; what was done.

    A network that no C is written for is left out, and named. Where a tool is missing nothing is measured: measured.csv
    stays as it is, and is written without rows where there is none. Raises DeviceError as `measure` does, and
    ModelFileError if a network is missing.
    """
    import pandas as pd

    folder = root / "results" / "device"
    place, rows, words = folder / "measured.csv", [], []
    example = models.load(Cell(study.grid.datasets[-1], study.grid.precisions[-1], study.grid.trainings[0]), root=root)
    for name in C_FILES:  # those of another network, should there be none of this one
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(DeploymentError):
        write_c(example, folder)
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        left = "stays as it was measured" if place.exists() else "has no rows"
        install = f"apt-get install --no-install-recommends {' '.join(TOOLS[tool] for tool in missing)}"
        words.append(f"{', '.join(missing)} not found, so results/device/measured.csv {left}. Install with: {install}")
    else:
        for found, refused in processes.run_all(_of_cell, [(cell, root) for cell in study.grid.cells]):
            rows, words = rows + found, words + refused
        words.append(f"{len(rows)} rows in results/device/measured.csv")
    if not missing or not place.exists():
        files.write(place, files.csv(pd.DataFrame(rows, columns=COLUMNS)))
    return "\n".join(words)


def _of_cell(cell: Cell, root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Its rows, or why there are none."""
    images, _ = data.load(cell.dataset, "test", paths.SAMPLE)
    try:
        rows = measure(models.load(cell, root=root), images[:IMAGES].numpy(), str(cell))
    except DeploymentError as error:
        return [], [f"{cell} is left out: {error}"]
    return [vars(cell) | row for row in rows], []


# --------------------------------------------------------------------------------------------------- one network


def write_c(model: "LeNet", folder: Path) -> None:
    """Write C_FILES of a network; those of full precision are the test bench's, which has its numbers as floats.

    Raises DeploymentError for a network that neither `saqlib.deploy.c` nor fp32.c is written for.
    """
    layers = read(model)
    if any(layer.quantized for layer in layers):
        export_c(model, folder)
        return
    if [layer.weight.shape for layer in layers] != SHAPES:
        raise DeploymentError(f"fp32.c is written for weights of the shapes {SHAPES}")
    lines = []
    for layer in layers:
        weight = layer.weight.transpose(0, 2, 3, 1) if layer.pooled else layer.weight  # channels last
        *rows, bias = (", ".join(f"{value:.8e}f" for value in row.flatten()) for row in (*weight, layer.bias))
        lines += [f"static const float {layer.name}_weights[{len(rows)}][{weight[0].size}] = {{"]
        lines += [*(f"  {{{row}}}," for row in rows), "};", f"static const float {layer.name}_bias[] = {{{bias}}};"]
    contents = "\n".join(lines).encode() + b"\n", (BENCH / "fp32.c").read_bytes(), (RUNTIME / "saq.h").read_bytes()
    for name, content in zip(C_FILES, contents, strict=True):
        files.write(folder / name, content)


def measure(model: "LeNet", images: "NDArray", what: str) -> list[dict[str, Any]]:
    """One row for each board, as COLUMNS has it behind the cell; images: uint8 (N, 28, 28). what: for messages.

    Raises DeploymentError as `write_c` does, and DeviceError if the network does not fit a board, if a board stops, or
    if its answers are others than this machine's.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_c(model, folder)
        (folder / "pictures").write_bytes(images.tobytes())
        expected = on_host(folder, len(images), f"{what} on this machine")
        return [on_board(name, folder, expected, f"{what} on {name}") for name in BOARDS]


def on_host(folder: Path, images: int, what: str) -> list[list[int]]:
    """The answers of this machine, ANSWERS numbers for each image; errors as of `measure`."""
    _run(["cc", "-DHOST", *FLAGS, str(BENCH / "board.c"), "saq.c", "-o", "host"], folder, what)
    return numbers(_run(["./host"], folder, what), images, ANSWERS, what)


def on_board(name: str, folder: Path, expected: Sequence[Sequence[int]], what: str) -> dict[str, Any]:
    """The row of a board, for the C files and the pictures of a folder; errors as of `measure`."""
    board = BOARDS[name]
    _run([GCC, *board.flags, *FLAGS, "-c", str(BENCH / "board.c"), "saq.c"], folder, what)
    memory = {"FLASH": board.flash, "RAM": board.ram, "STACK": STACK}.items()
    linked = ["-nostdlib", *(f"-Wl,--defsym={part}={size}" for part, size in memory), "-T", str(BENCH / "board.ld")]
    _run([GCC, *board.flags, *linked, "board.o", "saq.o", "-lgcc", "-o", "board.elf"], folder, what)
    listed = [line.split() for line in _run(["arm-none-eabi-size", "-A", "board.elf"], folder, what).splitlines()]
    sizes = {parts[0]: int(parts[1]) for parts in listed if parts and parts[0].startswith(".")}
    emulated = ["qemu-system-arm", "-M", name, "-kernel", "board.elf", "-display", "none", "-monitor", "none",
                "-serial", "none", "-semihosting-config", "enable=on,target=native", "-icount", "shift=0"]  # fmt: skip
    first, _, rest = _run(emulated, folder, what).partition("\n")
    ((ticks,),) = numbers(first, 1, 1, what)
    found = numbers(rest, len(expected), ANSWERS + len(CALLS) + 1, what)
    for image, (row, answers) in enumerate(zip(found, expected, strict=True)):
        for call, at in zip(CALLS, range(0, ANSWERS, 2), strict=True):
            if row[at : at + 2] != answers[at : at + 2]:
                raise DeviceError(f"{what}: of image {image} another {call} than on this machine")
    calls = {call: statistics.median(row[at] for row in found) for at, call in enumerate(CALLS, ANSWERS)}
    return {
        "board": name,
        "core": board.core,
        "compiler": f"gcc {_run([GCC, '-dumpfullversion'], folder, what).strip()} {LEVEL}",
        "flash_bytes": sizes[".text"] + sizes[".data"],
        "ram_bytes": sizes[".data"] + sizes[".bss"],
        "map_bytes": MAP_BYTES,
        "stack_bytes": max(row[-1] for row in found),
    } | {f"{call}_instructions": round(count * LOOP / ticks) for call, count in calls.items()}


def numbers(text: str, rows: int, columns: int, what: str) -> list[list[int]]:
    """What the test bench prints, as numbers; DeviceError for anything but so many lines of so many."""
    found = []
    for line in text.splitlines():
        try:
            found.append([int(word, 16) for word in line.split()])
        except ValueError:
            raise DeviceError(f"{what}: it printed {shown(line)} in place of numbers") from None
    if [len(row) for row in found] != [columns] * rows:
        raise DeviceError(f"{what}: it printed {len(found)} lines, not {rows} of {columns} numbers each")
    return found


def _run(command: list[str], folder: Path, what: str) -> str:
    """What a command prints; DeviceError with its last line where it fails, a linker's before the compiler sums up."""
    options = {"capture_output": True, "encoding": "utf-8", "errors": "backslashreplace"}
    try:
        done = subprocess.run(command, cwd=folder, timeout=SECONDS, **options)
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{what}: {command[0]} did not end within {SECONDS} seconds") from None
    printed = done.stdout + done.stderr  # where QEMU prints what a board prints hangs on its release
    if done.returncode:
        lines = [line for line in printed.splitlines() if line.strip() and not line.startswith("collect2:")]
        raise DeviceError(f"{what}: {printable(lines[-1].split('/ld: ')[-1]) if lines else f'{command[0]} failed'}")
    return printed
