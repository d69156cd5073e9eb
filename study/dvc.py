"""DVC: one run in a folder at a time, under a settled environment; the code that stages depend on; what is stale.

A stage depends on one file in build/code/: the code of its notebook and of all that this imports, without comments,
docstrings and prose, so that neither a sentence nor a comment re-runs anything.
"""

import ast
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saqlib.errors import last_line, printable
from study import files, notebooks, paths, processes, store

TEMPORARY = Path(".dvc", "tmp")  # in a folder: what no run depends on, and neither git nor DVC looks at
WRITTEN = ("results", "models", "scores", "paper", "build")  # folders in which a killed writer may leave a part
COPIES = "code"  # the stage that writes build/code/
UP_TO_DATE = "results/ belong to the code, the numbers and the notebooks as they stand."
STALE = "results/ do not belong to the code as it stands: run `make reproduce`"
# What each stage (of `show` each notebook) runs: a notebook, and modules besides. What study.cells does for a network
# is not followed from there, or every stage would depend on all of saqlib: a stage names what it computes.
FILES, TRAINING = ("study.cells", "study.models", "study.results"), ("saqlib.training", "saqlib.stacked")
CODE = {
    "data": ("01_data", ()),
    "train": ("02_train", (*FILES, *TRAINING)),
    "fills": (None, (*FILES, "saqlib.scoring")),
    "clarity": ("03_clarity", (*FILES, "saqlib.scoring")),
    "ablate": (None, (*FILES, *TRAINING, "saqlib.scoring")),
    "deploy": (None, (*FILES, "study.frames", "saqlib.deploy.check")),
    "device": (None, ("study.device",)),
    "compare": (None, ("study.report.compare",)),
    "04_deploy": ("04_deploy", ()),
    "05_results": ("05_results", ()),
    "06_why": ("06_why", ()),
    "07_checks": ("07_checks", ()),
    "paper": (None, ("study.report.paper",)),
}
C_CODE = {"device": ("benchmarks/device", "saqlib/deploy/device")}  # folders of C that it compiles
# Settings read the words of all methods to check params.yaml; what a stage reads there, it lists itself.
NOT_FOLLOWED = ("study.cells", "study.results", "study.settings")
# Where and how fast, never what comes out.
INFRASTRUCTURE = (
    "study.download", "study.dvc", "study.explore", "study.files", "study.live", "study.notebooks", "study.paths",
    "study.processes", "study.run", "study.store", "study.tasks", "study.verify",
)  # fmt: skip


class DvcError(RuntimeError):
    """DVC cannot run here, or cannot tell what is stale; the message is for the person."""


# ----------------------------------------------------------------------------------------------------------- calls


def environment(folder: Path) -> dict[str, str]:
    """Variables under which a stage's `python` is this one, with the code of `folder`, and ends with this process."""
    settled = processes.environment(folder, folder / TEMPORARY / "environment")
    return settled | {processes.DRIVER: str(os.getpid())}


def repro(folder: Path, *targets: str) -> bool:
    """`dvc repro` in a folder; whether it succeeded. It ends with this process, and with it all that it has started."""
    code = "import sys; from study import processes; processes.end_with_driver(); from dvc.cli import main; "
    command = [sys.executable, "-c", f"{code}sys.exit(main(sys.argv[1:]))", "repro", *targets]
    with processes.started(command, folder, env=environment(folder)) as process:
        return process.wait() == 0


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Inside, no other run of ours works in the folder (else DvcError), and what a killed one has left is mended."""
    import filelock

    if set("{}") & set(str(folder)):
        raise DvcError(f"DVC stops at a brace in the name of a folder ({folder}); move it to a name without")
    place = folder / TEMPORARY / "run.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(str(place), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise DvcError(f"another run works in {folder}; wait for its end, or stop it") from None
    with lock:
        for orphan in processes.left_over(folder):  # which a killed run has started; they would end by themselves soon
            processes.kill_tree(orphan)
        mend(folder)
        yield


def mend(folder: Path) -> None:
    """Put aside what DVC left half-written when it was killed, and remove files that never became whole."""
    for path in (folder / TEMPORARY / "rwlock", folder / "dvc.lock"):
        if path.is_file() and not _is_mapping(path):
            path.replace(path.with_name(f"{path.name}.damaged"))
            print(f"{path.name} was cut when an earlier run was killed; it is put aside as {path.name}.damaged")
    for name in WRITTEN:
        files.sweep(folder / name)


def _is_mapping(path: Path) -> bool:
    """Whether a file is a whole mapping of YAML, which JSON is, too."""
    from ruamel.yaml import YAML, YAMLError

    try:
        return isinstance(YAML(typ="safe").load(path.read_text(encoding="utf-8")), dict)
    except (ValueError, YAMLError):
        return False


# ----------------------------------------------------------------------------------------- what stages depend on


def code_of(stage: str) -> str:
    """The code that decides what a stage writes, in one text: its notebook's, and that of each file that it needs."""
    name, modules = CODE[stage]
    cells = notebooks.code_only(notebooks.load(paths.NOTEBOOKS / f"{name}.ipynb"))["cells"] if name else []
    parts = {f"notebooks/{name}.ipynb": json.dumps(cells, indent=1) + "\n"} if name else {}
    seen, queue = set(), {*imported("\n".join(cell["source"] for cell in cells)), *modules}
    while queue:
        seen.add(module := queue.pop())
        if module.startswith("saqlib"):
            parts |= store.decisive_code(module)
        else:
            path = paths.ROOT.joinpath(*module.split(".")).with_suffix(".py")
            text = path.read_text(encoding="utf-8")
            parts[path.relative_to(paths.ROOT).as_posix()] = store.decisive(text)
            queue |= imported(text) if module not in NOT_FOLLOWED else set()
        queue -= seen
    for path in (path for folder in C_CODE.get(stage, ()) for path in (paths.ROOT / folder).glob("*.*")):
        parts[path.relative_to(paths.ROOT).as_posix()] = store.decisive_c(path.read_text(encoding="utf-8"))
    return "".join(f"# {part}\n{parts[part]}" for part in sorted(parts))


def imported(code: str) -> set[str]:
    """The modules of saqlib and study that a piece of code imports when it runs, but for infrastructure.

    A name of a package, as in `from saqlib.deploy import pack`, stands for all modules of the package.
    """
    names: set[str] = set()
    tree = ast.parse(code)
    for node in [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]:
        tree.body.remove(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names |= _modules(f"{node.module}.{alias.name}") or _modules(node.module)
        elif isinstance(node, ast.Import):
            names |= {module for alias in node.names for module in _modules(alias.name)}
    return names - set(INFRASTRUCTURE)


def _modules(name: str) -> set[str]:
    """The module of ours behind a name, or all modules of a package; none for the two packages as a whole."""
    path = paths.ROOT.joinpath(*name.split("."))
    if name.partition(".")[0] not in ("saqlib", "study") or "." not in name:
        return set()
    if path.with_suffix(".py").is_file():
        return {name}
    return {f"{name}.{each.stem}" for each in path.glob("*.py") if each.stem != "__init__"}


def write_copies() -> None:
    """Write build/code/<stage>.py for every stage that runs code; nobody imports it."""
    for stage in CODE:
        files.write(_copy(stage), code_of(stage))


def _copy(stage: str) -> Path:
    return paths.BUILD / "code" / f"{stage}.py"


# --------------------------------------------------------------------------------------------------- what is stale


def stale() -> list[str]:
    """The stages of the checkout that DVC would run, by what they depend on, in dvc.yaml's order; runs nothing.

    Outputs that are not in git need not be there: what dvc.lock holds of them counts. DvcError if DVC cannot tell.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    copies = {str(_copy(stage)): hashlib.md5(code_of(stage).encode()).hexdigest() for stage in CODE}
    try:
        with Repo(str(paths.ROOT), config={"core": {"no_scm": True}}) as repo:
            stages = list(repo.index.stages)
            made = {out.fs_path: out.hash_info for stage in stages for out in stage.outs}
            return [each.name for each in stages if each.name != COPIES and _changed(each, copies, made)]
    except (DvcException, OSError, ValueError) as error:
        reason = printable(last_line(error))
        raise DvcError(f"whether results/ belong to the code could not be checked: {reason}") from None


def _changed(stage: Any, copies: dict[str, str], made: dict[str, Any]) -> bool:
    """Whether a stage never ran, or its command, a dependency or an output is not what it was when it ran."""

    def changed(each: Any) -> bool:
        if each.fs_path in copies:
            return each.hash_info.value != copies[each.fs_path]
        if each.exists:
            return bool(each.status())
        return not each.hash_info or made.get(each.fs_path, each.hash_info) != each.hash_info

    return stage.cmd_changed or any(map(changed, (*stage.deps, *stage.outs)))
