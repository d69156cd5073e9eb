"""One level of instructions for all libraries, so that processors of ten years give the same bytes.

Libraries choose their code by the processor, and with it the order of their sums. AVX2 with FMA is what x86-64
processors since about 2015 have in common; it costs no measurable speed, since the costly sums are in saqlib.kernels.
"""

import os
import platform

from saqlib.kernels.library import processor_flags

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
}


def pin() -> None:
    """Set the level for this process's children and for libraries that are not loaded yet, where it can be set.

    A processor without AVX2, or of another kind, keeps its own; what computed stands beside the results.
    """
    if platform.machine().lower() in ("x86_64", "amd64") and {"avx2", "fma"} <= processor_flags():
        os.environ.update(AVX2)
