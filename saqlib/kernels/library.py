"""The C file, built by the system's compiler when it is first needed, and cached as a library.

Nothing requires it. Where it cannot be built or would not run, `library()` is None, `why_not()` is the reason for a
person to read, and the operators of PyTorch do the work.
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

from saqlib.errors import last_line

SOURCE = Path(__file__).with_name("lenet.c")
CHECKOUT = Path(__file__).resolve().parents[2]
# No product is fused that the source does not fuse, and nothing is reordered, whatever CC itself asks for: every
# compiler gives the same bits.
FLAGS = (
    "-O3", "-std=gnu11", "-fno-fast-math", "-fno-unsafe-math-optimizations", "-ffp-contract=off", "-fno-math-errno",
    "-fPIC", "-shared",
)  # fmt: skip
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
        words = getattr(error, "stderr", None)
        return None, last_line(RuntimeError(words)) if words else last_line(error)


def compiler() -> list[str]:
    """The command that compiles for this machine: the environment's CC, else `cc`.

    Raises LookupError where there is none, or where the processor lacks the instructions that make it worth while.
    """
    given = os.environ.get("CC", "cc")
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise LookupError(f"no C compiler: CC is {given!r} ({error})") from None
    if not command or shutil.which(command[0]) is None:
        raise LookupError(f"no C compiler: {' '.join(command) or 'CC is empty'} was not found")
    if machine_flags := [part for part in command[1:] if part.startswith("-m")]:
        # What the processor lacks would end the process without a word.
        raise LookupError(f"CC asks for a processor ({' '.join(machine_flags)}), which is chosen here; leave that away")
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
    """The instruction sets of an x86-64 processor, as Linux names them; elsewhere nothing is known."""
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return set()


def folder() -> Path:
    """Where built libraries are cached: build/kernels of the checkout, or the user's cache if saqlib is installed."""
    if (CHECKOUT / "pyproject.toml").is_file():
        return CHECKOUT / "build" / "kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "saqlib"


def build(command: list[str]) -> Path:
    """The library that this command makes of the C file, cached under the hash of its own content.

    A cached one that was cut or changed is built anew, since loading it would end the process or give other numbers.
    Raises OSError, or subprocess.SubprocessError if the compiler failed, with its words in `stderr`.
    """
    name = _digest(SOURCE.read_bytes() + "\0".join(command).encode())
    for path in folder().glob(f"{name}-*.so"):
        if path.name == f"{name}-{_digest(path.read_bytes())}.so":
            return path
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder()) as scratch:
        built = Path(scratch) / "lenet.so"
        subprocess.run(
            [*command, str(SOURCE), "-o", str(built), "-lm"],
            capture_output=True, check=True, timeout=SECONDS, encoding="utf-8", errors="replace",
        )  # fmt: skip
        return built.replace(folder() / f"{name}-{_digest(built.read_bytes())}.so")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def load(path: Path) -> ctypes.CDLL:
    """The library at this path, with the types of its functions' arguments."""
    loaded = ctypes.CDLL(str(path))
    for name, arguments in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, FLOAT if name == "clipped" else None
    return loaded
