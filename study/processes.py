"""Processes: workers with one thread each, commands that end as one, and the variables under which all of them run.

Nothing here decides a number. Where it could (the level of instructions, a person's settings), it is pinned.
"""

import contextlib
import ctypes
import functools
import os
import platform
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from study import paths

GRACE = 10  # seconds that the system may take to end what was killed
POLL_SECONDS = 0.5
DRIVER = "STUDY_DRIVER"  # variable: the process with which everything that it has started ends

# ------------------------------------------------------------------------------------------------- instructions

# Libraries choose their code by the processor, and with it the order of their sums. AVX2 with FMA is what x86-64
# processors since about 2015 have in common; it costs no measurable speed, since the costly sums are in saqlib.kernels.
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
}


def pin_cpu_level() -> None:
    """Set one level of instructions for this process's children and for libraries that are not loaded yet.

    A processor without AVX2, or of another kind, keeps its own; what computed is recorded beside the results. Raises
    PermissionError if everybody may write where the kernels lie, and so decide what computes.
    """
    from saqlib.kernels.library import folder, processor_flags

    if folder().is_dir() and folder().stat().st_mode & stat.S_IWOTH:
        raise PermissionError(f"everybody may write into {folder()}; chmod o-w {folder()}")
    if platform.machine().lower() in ("x86_64", "amd64") and {"avx2", "fma"} <= processor_flags():
        os.environ.update(AVX2)


# -------------------------------------------------------------------------------------------------- environment

# What a stage may see of a person's variables; a name that ends in `*` is a beginning. Everything else (settings of
# IPython, Jupyter, matplotlib, git, DVC, the shell, Python) could change figures, text or what is run at all.
PASSED = (
    "HOME", "USER", "LOGNAME", "TERM", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
    "LD_LIBRARY_PATH", "DYLD_*", "CC", "OMP_*", "MKL_*", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT", "CUDA_*",
    "NVIDIA_*", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy",
    "no_proxy", "SSL_*", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_*", "SLURM_*", "RAY_*", "KRB5*", DRIVER, *AVX2,
)  # fmt: skip
SETTLED = {
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONUTF8": "1",
    "PYTHONNOUSERSITE": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "SHELL": "/bin/sh",
    "DVC_NO_ANALYTICS": "1",
    "JUPYTER_NO_CONFIG": "1",
    "JUPYTER_PLATFORM_DIRS": "1",
    "TQDM_DISABLE": "1",  # DVC names each stage; its bars would overwrite ours
}
# Where the tools look for a person's settings: a folder of ours, with next to nothing in it.
SETTINGS = (
    "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MATPLOTLIBRC",
    "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR",
)  # fmt: skip


def environment(root: Path, scratch: Path, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables under which a stage's `python` is the one that runs now and study and saqlib those in `root`.

    Args:
        root: the checkout or workspace.
        scratch: a folder of this run's own, in which empty settings are laid out.
        given: the variables of the person, those of this process when None.
    """
    given = os.environ if given is None else given
    passed = {name: value for name, value in given.items() if any(fnmatchcase(name, each) for each in PASSED)}
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "matplotlibrc").write_text("", encoding="utf-8")  # matplotlib's own defaults
    # DVC leaves git alone, so that it works the same in a clone, in an unpacked archive and in a scratch folder.
    (scratch / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), given.get("PATH")]))
    return passed | SETTLED | dict.fromkeys(SETTINGS, str(scratch)) | {"PATH": path, "PYTHONPATH": str(root)}


@contextlib.contextmanager
def settled() -> Iterator[dict[str, str]]:
    """Inside, this process and those that it starts have the variables of `environment` for the checkout."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="study-", ignore_cleanup_errors=True) as scratch:
        try:
            _replace_environment(environment(paths.ROOT, Path(scratch)))
            yield dict(os.environ)
        finally:
            _replace_environment(before)


def _replace_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def in_utf8() -> None:
    """Start this command anew in Python's UTF-8 mode where the locale has another encoding, which garbles paths."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})


# ------------------------------------------------------------------------------------------------ child processes


@contextlib.contextmanager
def started(command: list[str], folder: Path, **options: Any) -> Iterator[subprocess.Popen]:
    """A command in a session of its own; whatever of its tree still runs when the block is left is killed.

    A terminal's Ctrl-C reaches this process alone, which then ends the others. Text that is read or written is UTF-8.
    """
    options = {"encoding": "utf-8", "errors": "backslashreplace"} | options
    with subprocess.Popen(command, cwd=folder, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            kill_tree(process.pid)
            process.wait()


def kill_tree(pid: int) -> None:
    """Kill a process and all that it has started, also in sessions of their own; return once they have ended.

    First all are stopped, until no new one is found: what is stopped starts nothing more.
    """
    import psutil

    tree: set[psutil.Process] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        while new := {root, *root.children(recursive=True)} - tree:
            for each in new:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.suspend()
            tree |= new
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    patience = time.monotonic() + GRACE
    while any(each.is_running() and runs(each.pid) for each in tree) and time.monotonic() < patience:
        time.sleep(0.01)


@contextlib.contextmanager
def no_children_left() -> Iterator[None]:
    """Around a library that starts processes by itself: those that still run at the end of the block are killed."""
    before = set(_children())
    try:
        yield
    finally:
        for child in set(_children()) - before:
            kill_tree(child)


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked after does not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@functools.cache
def end_with(pid: int) -> None:
    """Let this process end as soon as another one has, also in the middle of its work: nobody wants the result."""

    def watch() -> None:
        while runs(pid):
            time.sleep(POLL_SECONDS)
        for child in _children():
            kill_tree(child)
        os._exit(1)

    threading.Thread(target=watch, name="end_with", daemon=True).start()


def end_with_driver() -> None:
    """Let this process end with the run that has started it, named by the variable DRIVER, however far up that is."""
    driver = os.environ.get(DRIVER, "")
    if driver.isdecimal() and int(driver) != os.getpid():
        end_with(int(driver))


def _children() -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process().children()]


def left_over(folder: Path) -> list[int]:
    """Processes that runs in a folder have started and that outlive them, by the variables that `environment` sets."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            variables = process.environ()
            of_the_folder = variables.get("PYTHONPATH") == str(folder) and DRIVER in variables
            if of_the_folder and process.pid != os.getpid() and not runs(int(variables[DRIVER])):
                found.append(process.pid)
    return found


# -------------------------------------------------------------------------------------------------------- workers

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK = 1 << 30
LARGEST_SURPLUS = (1 << 31) - 1
WORKER_BYTES = 1 << 30  # what a worker takes while it trains or scores on all images
CONTROL_GROUP = Path("/sys/fs/cgroup")


def run_all(function: Callable[..., Any], jobs: Iterable[tuple], n_jobs: int | None = None) -> list[Any]:
    """Run `function(*job)` for every job, each in one thread of a worker process; results in the order of the jobs.

    n_jobs: processes, as many as `worker_count` says when None; with one, the work is done in this process.
    """
    import joblib

    jobs = list(jobs)
    calls = [joblib.delayed(in_one_thread)(os.getpid(), function, *job) for job in jobs]
    return joblib.Parallel(n_jobs=n_jobs or worker_count(len(jobs)))(calls)


def worker_count(jobs: int) -> int:
    """One a core that this process may use (LOKY_MAX_CPU_COUNT), if memory allows, no more than jobs, at least one."""
    import joblib

    return max(1, min(joblib.cpu_count(), jobs, available_memory() // WORKER_BYTES))


def available_memory() -> int:
    """Bytes that this process and its children may still take, by the system and by its control group."""
    import psutil

    free = psutil.virtual_memory().available
    try:
        limits = [(CONTROL_GROUP / f"memory.{name}").read_text(encoding="utf-8") for name in ("max", "current")]
        most, taken = map(int, limits)
    except (OSError, ValueError):  # no control groups, or one without a limit, which says `max`
        return free
    return min(free, max(0, most - taken))


def in_one_thread(parent: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function with one thread of PyTorch's. parent: the process that waits for the result."""
    import torch

    if os.getppid() == parent:  # a worker of this machine, and no longer of use without its parent
        end_with(parent)
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(*arguments)
    finally:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Make glibc's allocator reuse large blocks, for the whole process; elsewhere nothing happens.

    A training step allocates and frees the same megabytes of activations every time. By default glibc maps and unmaps
    each such block, so every step faults all its pages in again: a third of a standard step's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        mallopt(M_TRIM_THRESHOLD, LARGEST_SURPLUS)
