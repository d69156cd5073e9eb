"""The whole pipeline by one command, in the checkout or in a scratch folder.

    python -m saqlib.pipeline.run reproduce     every number of the paper, at the scale of params.yaml; writes results/
    python -m saqlib.pipeline.run quick         the same stages and notebooks at scale quick, in build/quick/
    python -m saqlib.pipeline.run check         whether results/ belong to code, numbers and notebooks as they stand

A second call goes on where a first one was stopped: finished stages are skipped, and so are the seeds that
the store holds. To run a part of it by hand: dvc repro train@mnist-w2a2-guided.
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from saqlib import codebase, files, params, paths
from saqlib.errors import last_line, printable, told
from saqlib.grid import Grid
from saqlib.params import ParamsError
from saqlib.pipeline import notebooks, study
from saqlib.pipeline.calls import CallError, alone, environment, said, side_by_side
from saqlib.processes import started

TREES = ("notebooks", "saqlib", "paper", "locks", "tests/sample")
FILES = ("dvc.yaml", ".dvc/config", ".dvcignore")
PRODUCTS = ("results/figures/*.png", "results/tables/*.md", "paper/*.pdf")
LANES = 2  # cells that are drawn at a time
COPIES = {"source": notebooks.code_text, "code": codebase.room_text}  # stages that copy code, and what they write
LACKING = re.compile(r"failed to reproduce '(.+?)': (?:missing data|\[Errno 2\]|.*does not exist)")
TOLD = re.compile(r"(?:(?<=ERROR: )|^(?='.+' is invalid)).+", re.MULTILINE)  # what DVC found wrong, in its line
UP_TO_DATE = "Data and pipelines are up to date."  # DVC's own words
STOPPED = "The pipeline stopped. The same command goes on from there."


class PipelineError(RuntimeError):
    """A stage failed; what was wrong stands above, where the stage said it."""


def workspace(folder: Path, scale: str, **edits: Any) -> Path:
    """A folder with a copy of the pipeline that runs at another scale and leaves the checkout as it is; the folder.

    edits: sections of params.yaml to change, such as grid={"datasets": ["mnist"]}. Results of an earlier call stay,
    so that only what has changed since runs again. The images are the sample's or, for a scale on all of them, those
    of the checkout, fetched if need be. Raises ParamsError, before anything is written, if the edits are not usable.
    """
    if folder.resolve() == paths.ROOT:
        raise PipelineError(f"{folder} is the checkout itself; name a folder that may be overwritten")
    raw = _merged(params.read(), {"scale": scale} | edits)
    settings = study.from_dict(raw)
    for name in TREES:
        shutil.rmtree(folder / name, ignore_errors=True)
        _copy_tree(paths.ROOT / name, folder / name)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(paths.ROOT / name, folder / name)
    files.write(folder / "params.yaml", params.text_of(raw))
    _fetch(settings)
    images = paths.SAMPLE if settings.size.sample else paths.DATA
    for dataset in settings.grid.datasets:
        _link_tree(images / dataset, folder / "data" / dataset)
    return folder


def _fetch(settings: study.Study) -> None:
    """The images that are needed, before DVC takes away what a stage is to write: without a network nothing is lost."""
    from saqlib import download  # and PyTorch, which `check` does without

    for dataset in settings.grid.datasets if not settings.size.sample else ():
        download.fetch(dataset, print)


def _merged(values: dict, edits: dict) -> dict:
    """The values with edits in their places, section by section; an edit to None takes an entry out."""
    both = {key: _merged(values[key], edit) for key, edit in edits.items()
            if isinstance(edit, dict) and isinstance(values.get(key), dict)}  # fmt: skip
    return {key: value for key, value in (values | edits | both).items() if key not in edits or edits[key] is not None}


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.pdf"))


def _link_tree(source: Path, target: Path) -> None:
    """The files of a folder under a second name, or copied where the file system has no hard links."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        twin = target / path.name
        if not twin.exists():
            try:
                os.link(path, twin)
            except OSError:
                shutil.copy2(path, twin)


def repro(folder: Path) -> None:
    """`dvc repro` in a folder, with this environment's python and the saqlib of that folder.

    First every core fills the store, task by task; then the stages find the work done and draw, in two lanes.

    Raises ParamsError if its params.yaml is not usable, before DVC removes or runs anything, and PipelineError if a
    task or a stage fails.
    """
    settings = study.load(folder / "params.yaml")
    print(_computed_by(settings), flush=True)
    _dvc(folder, ["repro", "source", "code", "data"])
    with started([sys.executable, "-m", "saqlib.pipeline.tasks"], folder, env=environment(folder)) as process:
        if process.wait():
            raise PipelineError(STOPPED)
    for stage, names in _matrices(folder, settings.grid).items():
        lanes = _lanes([f"{stage}@{name}" for name in names])
        beside = [["deploy"]] if stage == "clarity" else []  # needs trained networks too, and no scores
        # Without what comes before them: the lanes would block one another there.
        _dvc(folder, *(["--wait-for-lock", "repro", "--single-item", *names] for names in [*lanes, *beside]))
    _dvc(folder, ["repro"])


def _computed_by(settings: study.Study) -> str:
    """Whether training and scoring run on the fused kernels, and if not, why not."""
    from saqlib.network import fused

    return fused.reason(settings.shape, settings.engine.pick_device().type)


def _matrices(folder: Path, grid: Grid) -> dict[str, list[str]]:
    """The stages of dvc.yaml that run once for each cell or each dataset, in order, and what they run for."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    axes = {name: set(stage.get("matrix", {})) for name, stage in stages.items()}
    each = {"cells": [str(cell) for cell in grid.cells], "datasets": list(grid.datasets)}
    kinds = {name: "cells" if "precision" in keys else "datasets" for name, keys in axes.items() if "dataset" in keys}
    return {name: each[kind] for name, kind in kinds.items()}


def _lanes(names: list[str]) -> list[list[str]]:
    """To and fro, so that no lane gets all the cells of one training: guided ones take twice as long."""
    turns = [*range(LANES), *reversed(range(LANES))]
    lanes: list[list[str]] = [[] for _ in range(LANES)]
    for i, name in enumerate(names):
        lanes[turns[i % len(turns)]].append(name)
    return [lane for lane in lanes if lane]


def _dvc(folder: Path, *calls: list[str]) -> None:
    """Run these calls of DVC side by side; PipelineError if one of them fails."""
    if not side_by_side(folder, *calls):
        raise PipelineError(STOPPED)


def quick() -> Path:
    """The pipeline at scale quick in build/quick/; that folder."""
    folder = paths.BUILD / "quick"
    study.load()  # before anything is written
    with alone(folder):
        repro(workspace(folder, "quick"))
    return folder


def reproduce() -> Path:
    """The pipeline in the checkout; its folder."""
    with alone(paths.ROOT):
        _fetch(study.load(paths.ROOT / "params.yaml"))
        repro(paths.ROOT)
    return paths.ROOT


def check() -> str:
    """Whether dvc.lock still holds for all that the stages depend on; what DVC says. Runs nothing, needs no models.

    Raises PipelineError, naming the first stage that would run, if not, and if DVC cannot tell.
    """
    status, output, errors = said(paths.ROOT, "repro", "--dry", "--allow-missing")
    unchanged = re.findall("Stage '(.+?)' didn't change", output)
    running = re.findall("Running stage '(.+?)'", output)
    # Where a changed stage lacks its inputs, as in a fresh clone, DVC stops at it.
    lacking = LACKING.findall(errors)
    # Read once, and only where DVC could read it: of a damaged one DVC says what is wrong.
    recorded = _recorded() if unchanged or running or lacking else {}
    # With --allow-missing DVC takes a stage that never ran for one that has not changed.
    never = [stage for stage in unchanged if stage not in recorded]
    if status == 0 and UP_TO_DATE in output and not never:
        return UP_TO_DATE
    named = never + running + lacking
    if (status and not lacking) or not named:
        reason = next(iter(TOLD.findall(errors)), last_line(Exception(errors)))
        raise PipelineError(f"whether results/ belong to the code could not be checked: {printable(reason)}")
    stale = [stage for stage in named if not _copies_the_same(stage, recorded)]
    if not stale:
        return UP_TO_DATE
    advice = "results/ do not belong to the code as it stands: run `make reproduce`"
    raise PipelineError(f"{advice}. DVC would begin with {stale[0]}.")


def _recorded() -> dict[str, Any]:
    """What dvc.lock holds of each stage that has run."""
    path = paths.ROOT / "dvc.lock"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] if path.exists() else {}


def _copies_the_same(stage: str, recorded: dict[str, Any]) -> bool:
    """Whether a stage is one that copies code, and the copy would be the one that the other stages know.

    DVC would make it anew, since a comment, an output or a sentence has changed, and then skip what comes after.
    """
    kind, _, name = stage.partition("@")
    if kind not in COPIES:
        return False
    known = recorded.get(stage)
    return known is not None and known["outs"][0]["md5"] == hashlib.md5(COPIES[kind](name).encode()).hexdigest()


def where_to_look(folder: Path) -> str:
    """What the pipeline has written for a reader, as paths."""
    found = [str(path) for pattern in PRODUCTS for path in sorted(folder.glob(pattern))]
    return "\n".join(["Where to look:", *found])


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.pipeline.run", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("quick", "reproduce", "check"))
    command = parser.parse_args(arguments).command
    if command == "check":
        with told(ParamsError, PipelineError, CallError):
            print(check())
        return
    from saqlib.data.images import DataError  # and PyTorch, which `check` does without

    with told(ParamsError, DataError, PipelineError, CallError, stopped=STOPPED):
        print(where_to_look(quick() if command == "quick" else reproduce()))


if __name__ == "__main__":
    main()
