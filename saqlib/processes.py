"""Child processes that never outlive their parent's wish, whatever they have started in their turn."""

import contextlib
import functools
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

GRACE = 10  # seconds that the system may take to end what was killed
POLL_SECONDS = 0.5


@contextlib.contextmanager
def started(command: list[str], folder: Path, **options: Any) -> Iterator[subprocess.Popen]:
    """A command in a session of its own; whatever of its tree still runs when the block is left is killed.

    A terminal's Ctrl-C reaches this process alone, which then ends the others: none of them goes on or tells its own
    story. Text that is read or written is UTF-8.
    """
    options = {"encoding": "utf-8", "errors": "backslashreplace"} | options
    with subprocess.Popen(command, cwd=folder, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            kill_tree(process)


def kill_tree(process: subprocess.Popen) -> None:
    """Kill a process and all that it has started, also in sessions of their own; return once they have ended.

    First all are stopped, until no new one is found: what is stopped starts nothing more.
    """
    tree: set[psutil.Process] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        while new := {root, *root.children(recursive=True)} - tree:
            for each in new:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.suspend()
            tree |= new
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    patience = time.monotonic() + GRACE
    while any(each.is_running() and runs(each.pid) for each in tree) and time.monotonic() < patience:
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked after does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@functools.cache
def end_with_parent() -> None:
    """Let this process end as soon as its parent has, also in the middle of its work: nobody wants the result."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
