"""What surrounds a run decides nothing: the variables under which stages, kernels and their workers run.

A person's settings for IPython, Jupyter, matplotlib, git, DVC, the shell and Python would change figures, text and what
is run at all. Whatever is not named here stays: paths, proxies, threads, graphics cards.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from saqlib import paths

# Names, and beginnings of names that end in `*`.
DROPPED = (
    "PYTHON*", "IPYTHON*", "JUPYTER_*", "JPY_*", "NBCLIENT_*", "PAPERMILL_*", "MPL*", "MATPLOTLIBRC", "DVC_*",
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "COLUMNS", "LINES",
    "FORCE_COLOR", "NO_COLOR", "CLICOLOR*", "PY_COLORS", "SOURCE_DATE_EPOCH", "BASH_ENV", "ENV", "CDPATH", "LANG",
    "LANGUAGE", "LC_*", "TZ", "SCIPY_ARRAY_API",
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
}
# Where the tools look for a person's settings: folders of ours, with nothing in them.
EMPTY = {
    "IPYTHONDIR": "ipython",
    "JUPYTER_CONFIG_DIR": "jupyter/config",
    "JUPYTER_DATA_DIR": "jupyter/data",
    "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
    "DVC_GLOBAL_CONFIG_DIR": "dvc/global",
    "DVC_SYSTEM_CONFIG_DIR": "dvc/system",
}
STYLE = "matplotlibrc"  # an empty one: matplotlib's own defaults


def environment(root: Path, scratch: Path, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables under which a stage's `python` is the one that runs now, saqlib the one in `root`, nothing else.

    Args:
        root: the checkout or workspace.
        scratch: a folder of this run's own, in which empty settings are laid out.
        given: the variables of the person, those of this process when None.
    """
    given = os.environ if given is None else given
    kept = {name: value for name, value in given.items() if not _dropped(name)}
    empty = {name: scratch / folder for name, folder in EMPTY.items()}
    for folder in empty.values():
        folder.mkdir(parents=True, exist_ok=True)
    (scratch / STYLE).write_text("", encoding="utf-8")
    own = {
        "PATH": os.pathsep.join(filter(None, [str(Path(sys.executable).parent), given.get("PATH")])),
        "PYTHONPATH": str(root),
        "MATPLOTLIBRC": str(scratch / STYLE),
    }
    return kept | SETTLED | {name: str(folder) for name, folder in empty.items()} | own


def _dropped(name: str) -> bool:
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in DROPPED)


def in_utf8() -> None:
    """Start this command anew in Python's UTF-8 mode where the locale has another encoding, which garbles paths."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})


@contextmanager
def settled(root: Path | None = None) -> Iterator[dict[str, str]]:
    """Inside, this process and those that it starts have the variables of `environment` (root: the checkout)."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="saqlib-", ignore_cleanup_errors=True) as scratch:
        try:
            _replace(environment(root or paths.ROOT, Path(scratch)))
            yield dict(os.environ)
        finally:
            _replace(before)


def _replace(variables: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)
