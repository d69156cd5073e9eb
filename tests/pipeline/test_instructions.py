"""One level of instructions for a stage, and the same bytes whatever else the libraries would choose."""

import os

import pytest

from benchmarks import machines
from saqlib.kernels import library
from saqlib.pipeline import instructions, notebooks
from tests.pipeline.test_notebooks import folder, printed, put, toy  # noqa: F401


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """As it was: the environment of the tests themselves."""
    for name in instructions.AVX2:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("machine", "flags", "pinned"),
    [
        ("x86_64", {"avx2", "fma", "avx512f"}, True),
        ("AMD64", {"avx2", "fma"}, True),
        ("x86_64", {"avx2"}, False),
        ("x86_64", set(), False),
        ("arm64", {"avx2", "fma"}, False),
    ],
)
def test_set_where_the_processor_has_them(monkeypatch, machine, flags, pinned):
    """Told to use what it lacks, a library would stop with an illegal instruction."""
    monkeypatch.setattr(instructions.platform, "machine", lambda: machine)
    monkeypatch.setattr(instructions, "processor_flags", lambda: flags)
    instructions.pin()
    assert {name: os.environ.get(name) for name in instructions.AVX2} == (
        instructions.AVX2 if pinned else dict.fromkeys(instructions.AVX2)
    )


def test_a_stage_runs_pinned(folder, monkeypatch):  # noqa: F811
    """The kernel of a notebook has it, so PyTorch and the workers that it starts have it, too."""
    monkeypatch.setattr(instructions, "processor_flags", lambda: {"avx2", "fma"})
    monkeypatch.setattr(instructions.platform, "machine", lambda: "x86_64")
    put(folder, toy(f"import os\nprint([os.environ.get(name) for name in {list(instructions.AVX2)}])"))
    output = folder / "build" / "toy.ipynb"
    notebooks.run("toy", output, {})
    assert printed(output)[-1].strip() == str(list(instructions.AVX2.values()))


@pytest.mark.skipif(library.library() is None, reason=f"no kernels here: {library.why_not()}")
def test_pinned_trainings_and_scores_are_the_same_bytes_on_other_machines():
    """Whatever MKL, oneDNN, NumPy and the C library choose: four precisions, standard and guided, maps and scores."""
    if "fma" not in library.processor_flags():
        pytest.skip("only Linux on x86-64 says which instructions it has")
    pinned = machines.in_a_process(instructions.AVX2)
    imitated = {
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL",
    }
    other = machines.in_a_process(instructions.AVX2 | imitated)
    differ = {name for name in pinned if other[name] != pinned[name]}
    assert differ <= {"library's dense layer", "library's convolution"}
    assert differ, "the libraries took no notice of the setting, so nothing was shown"
