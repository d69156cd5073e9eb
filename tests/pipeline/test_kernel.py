"""The kernel of the notebooks, by itself."""

import asyncio
import sys

from saqlib import processes
from saqlib.pipeline.kernel import OwnKernel


def test_a_kernel_of_any_name_is_this_interpreter():
    """What Jupyter has installed is not even looked for."""
    for name in ("python3", "no such kernel"):
        command = OwnKernel(kernel_name=name).format_kernel_cmd()
        assert command[:3] == [sys.executable, "-m", "ipykernel_launcher"]
    OwnKernel.managers.clear()


def test_all_kernels_end():
    """Those that run are killed, those that never ran are forgotten; twice does no harm."""
    OwnKernel(kernel_name="python3")
    started = OwnKernel(kernel_name="python3")
    asyncio.run(started.start_kernel())
    pid = started.provisioner.process.pid
    assert processes.runs(pid)
    OwnKernel.end_all()
    OwnKernel.end_all()
    assert not processes.runs(pid) and OwnKernel.managers == []
