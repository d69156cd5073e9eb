"""The C file by whatever compiler is there: the same bits from each, sound memory, and a cache that mends itself."""

import ctypes
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from saqlib.kernels import library

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
X86 = [library.X86, (*library.X86, *library.WIDE), ("-march=x86-64-v4",)]


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Nothing built and nothing loaded yet, in a folder of its own."""
    monkeypatch.setattr(library, "folder", lambda: tmp_path / "a folder")
    library._load.cache_clear()
    yield
    library._load.cache_clear()


@needs_compiler
def test_built_once_and_mended_when_damaged():
    """The second process finds what the first one built and nothing else is left; a damaged library is never loaded."""
    built = library.build(library.compiler())
    content, when = built.read_bytes(), built.stat().st_mtime_ns
    assert library.build(library.compiler()) == built and built.stat().st_mtime_ns == when
    assert list(built.parent.iterdir()) == [built]
    for damaged in (b"", content[:1000], content[:5000] + b"\0" + content[5001:]):
        built.write_bytes(damaged)
        assert library.build(library.compiler()).read_bytes() == content
    assert library.library() is not None and library.why_not() == ""


@needs_compiler
def test_every_compiler_gives_the_same_bits(monkeypatch):
    """gcc and clang, with AVX2 and AVX512, also asked for fast mathematics: every function, byte for byte."""
    outcomes = {}
    for name, flags in itertools.product(("gcc", "clang"), X86):
        if shutil.which(name) and ("avx2" if flags == library.X86 else "avx512vl") in library.processor_flags():
            outcomes[name, flags] = _everything(library.load(library.build([name, *library.FLAGS, *flags])))
    monkeypatch.setenv("CC", "cc -ffast-math")
    outcomes["fast"] = _everything(library.load(library.build(library.compiler())))
    assert np.float32(1e-45) * np.float32(1) > 0, "denormal numbers have become 0 in this process"
    first, *others = outcomes.values()
    if not others:
        pytest.skip("one compiler and one instruction set only")
    for other in others:
        assert first.keys() == other.keys()
        assert [name for name in first if first[name] != other[name]] == []


def _everything(built: ctypes.CDLL) -> dict[str, bytes]:
    """The bytes that each function writes, for numbers with ties, zeros and clipped values."""
    random = np.random.default_rng(0)
    n = 3

    def numbers(*shape):
        return (random.integers(-40, 40, shape) / 37).astype(np.float32)

    def at(array):
        return array.ctypes.data

    found, out = {}, lambda *shape: np.full(shape, 7, np.float32)
    sizes = {1: ((n, 28, 28), (25, 8), (14, 14, 8)), 2: ((n, 14, 14, 8), (200, 16), (25, 16))}
    for block, (inputs, weights, outputs) in sizes.items():
        channels = weights[1]
        x, weight, bias, unit = numbers(*inputs), numbers(*weights), numbers(channels), abs(numbers(channels)) + 1
        for levels, scaled in itertools.product((-1.0, 0.0, 3.0, 15.0), (None, at(unit))):
            y, code = out(n, *outputs), np.full((n, *outputs), 9, np.uint8)
            activation = (levels, 2.5, 2.5 / max(levels, 1))
            forward = getattr(built, f"block{block}_forward")
            forward(n, at(x), at(weight), at(bias), *activation, scaled, at(y), at(code))
            grad, back = numbers(n, *outputs), numbers(channels, 25, 8)
            dx, dw, db = out(*inputs), out(channels, 25, 8), out(channels)
            back_name = "images" if block == 1 else "inputs"
            getattr(built, f"block{block}_{back_name}")(n, at(grad), at(code), at(back), scaled, at(dx))
            getattr(built, f"block{block}_weights")(n, at(grad), at(code), at(x), scaled, at(dw), at(db))
            alpha = np.float32(built.clipped(grad.size, at(grad), at(code)))
            used = dw[:, :5] if block == 1 else dw
            parts = {"y": y, "code": code, "dx": dx, "dw": used, "db": db, "alpha": alpha}
            found |= {f"block{block} {name} {levels} {scaled is None}": part.tobytes() for name, part in parts.items()}
    for m, k, columns in [(1, 400, 120), (7, 120, 84), (128, 84, 10), (5, 1, 17)]:
        a, b, start, panel, y = numbers(m, k), numbers(k, columns), numbers(columns), out(k, 16), out(m, columns)
        built.product(m, columns, k, at(a), k, 1, at(b), columns, 1, at(start), at(panel), at(y))
        found[f"product {m} {k} {columns}"] = y.tobytes()
    for rows, width, c1, top in [(8, 25, 12.035, 7), (16, 200, 2.6, 1), (10, 84, 0.0, 127), (3, 5, 6.73, 3)]:
        weight, scale, values = numbers(rows, width), out(rows), out(rows, width)
        built.quantize(rows, width, at(weight), c1, 0.9 - c1, top, at(scale), at(values))
        found[f"quantize {rows} {width}"] = scale.tobytes() + values.tobytes()
    return found


@needs_compiler
def test_no_access_outside_and_nothing_undefined(tmp_path):
    """Everything once more, built with the address and the undefined-behaviour sanitizer, which stop at a fault."""
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    path = tmp_path / "sanitized.so"
    command = [*library.compiler(), *flags, str(library.SOURCE), "-o", str(path), "-lm"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this compiler has no sanitizers")
    runtime = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    script = (
        f"import sys; sys.path[:0] = [{str(library.CHECKOUT)!r}, {str(Path(__file__).parent)!r}]\n"
        f"import test_compilers as t\nassert t._everything(t.library.load(t.Path({str(path)!r})))\n"
    )
    environment = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
