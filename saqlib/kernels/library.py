"""The C file, built by the system's compiler when it is first needed, and kept in the build folder.

Nothing requires it. Where it cannot be built or would not run, `library()` is None, `why_not()` is the reason in words
for a person, and the operators of PyTorch do the work.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from saqlib import paths
from saqlib.errors import last_line

SOURCE = Path(__file__).with_name("lenet.c")
# No product is fused that the source does not fuse, so that every compiler gives the same bits.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")
X86, WIDE = ("-mavx2", "-mfma"), ("-mavx512f", "-mavx512vl", "-mavx512dq")
SECONDS = 120  # a compiler that takes longer does not end

POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
BLOCK = (INT, *[POINTER] * 3, *[FLOAT] * 3, *[POINTER] * 3)
SIGNATURES = {
    "block1_forward": BLOCK,
    "block2_forward": BLOCK,
    "block1_images": (INT, *[POINTER] * 5),
    "block2_inputs": (INT, *[POINTER] * 5),
    "block1_weights": (INT, *[POINTER] * 6),
    "block2_weights": (INT, *[POINTER] * 6),
    "clipped": (INT, POINTER, POINTER),
    "product": (INT, INT, INT, POINTER, INT, INT, POINTER, INT, INT, *[POINTER] * 3),
    "quantize": (INT, INT, POINTER, *[FLOAT] * 3, POINTER, POINTER),
}


def library() -> ctypes.CDLL | None:
    """The functions of lenet.c, or None where PyTorch's operators do the work."""
    return _load()[0]


def why_not() -> str:
    """Why there is no library here; empty where there is one."""
    return _load()[1]


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    try:
        return load(build(compiler())), ""
    except (OSError, subprocess.SubprocessError, LookupError) as error:
        said = getattr(error, "stderr", None)
        return None, last_line(RuntimeError(said)) if said else last_line(error)


def compiler() -> list[str]:
    """The command that compiles for this machine: the environment's CC, else `cc`.

    Raises LookupError where there is none, or where the processor lacks the instructions that make it worth while.
    """
    command = shlex.split(os.environ.get("CC", "cc"))
    if not command or shutil.which(command[0]) is None:
        raise LookupError(f"no C compiler: {' '.join(command) or 'CC is empty'} was not found")
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        there = processor_flags()
        if not {"avx2", "fma"} <= there:
            raise LookupError("this processor has no AVX2 with FMA, or the system does not say so")
        wide = WIDE if {flag.removeprefix("-m") for flag in WIDE} <= there else ()
        return [*command, *FLAGS, *X86, *wide]
    if machine in ("arm64", "aarch64"):
        return [*command, *FLAGS]
    raise LookupError(f"the kernels are written for x86-64 and arm64, not {machine}")


def processor_flags() -> set[str]:
    """What an x86-64 processor has, by Linux's word; elsewhere nothing is known."""
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return set()


def build(command: list[str]) -> Path:
    """The library that this command makes of the C file: built now unless it is there.

    Raises:
        OSError: nothing can be written or started.
        subprocess.SubprocessError: the compiler failed, with its words in `stderr`.
    """
    name = hashlib.sha256(SOURCE.read_bytes() + "\0".join(command).encode()).hexdigest()[:16]
    path = paths.BUILD / "kernels" / f"{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            subprocess.run(
                [*command, str(SOURCE), "-o", str(built), "-lm"],
                capture_output=True, check=True, timeout=SECONDS, encoding="utf-8", errors="replace",
            )  # fmt: skip
            built.replace(path)
    return path


def load(path: Path) -> ctypes.CDLL:
    """The library at this path, its functions told what they take."""
    found = ctypes.CDLL(str(path))
    for name, arguments in SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, FLOAT if name == "clipped" else None
    return found
