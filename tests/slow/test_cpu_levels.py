"""The same bytes whatever the libraries of another processor would choose; skipped where none can be told to."""

import pytest

from benchmarks import machines
from saqlib.kernels import library
from study.processes import AVX2

# A processor of another maker and an older one, as far as settings of the libraries can imitate them.
IMITATED = {
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL",
}
LIBRARYS = {"library's dense layer", "library's convolution"}  # which no number of the paper comes from


@pytest.mark.skipif(library.library() is None, reason=f"no kernels here: {library.why_not()}")
def test_pinned_trainings_and_scores_are_the_same_bytes_on_other_machines():
    """Whatever MKL, oneDNN, NumPy and the C library choose: four precisions, standard and guided, maps and scores."""
    if not {"avx2", "fma"} <= library.processor_flags():
        pytest.skip("this processor has no AVX2, or does not say so: there is nothing to pin")
    pinned, other = (machines.in_a_process(AVX2 | settings) for settings in ({}, IMITATED))
    differ = {name for name in pinned if other[name] != pinned[name]}
    assert differ <= LIBRARYS
    if not differ:
        pytest.skip("no library here took notice of the setting, so nothing was shown")
