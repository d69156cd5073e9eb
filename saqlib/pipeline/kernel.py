"""The kernel that notebooks run on: this interpreter, whatever kernels are installed under the name `python3`.

It starts without history and without the configuration of this machine's IPython, and it never outlives the run.
"""

import sys
from typing import Any, ClassVar

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from saqlib.processes import kill_tree

COMMAND = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
OPTIONS = [
    "--log-level=CRITICAL",  # errors of cells come back in the notebook
    "--HistoryManager.enabled=False",
    # A configuration of the machine's (/etc/ipython) is read all the same; what it could change is said here.
    "--InteractiveShell.ast_node_interactivity=last_expr",
    "--InlineBackend.figure_formats={'png'}",
]


class OwnKernel(AsyncKernelManager):
    """A manager whose kernel is this interpreter."""

    managers: ClassVar[list["OwnKernel"]] = []

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.managers.append(self)

    @property
    def kernel_spec(self) -> KernelSpec:
        """What is started, in place of what Jupyter would find."""
        return KernelSpec(argv=[*COMMAND, *OPTIONS], display_name="Python 3", language="python")

    @classmethod
    def end_all(cls) -> None:
        """Kill every kernel that still runs, with its workers."""
        while cls.managers:
            manager = cls.managers.pop()
            if process := getattr(manager.provisioner, "process", None):
                kill_tree(process)
