"""Where the time of a whole run goes: each stage's training or scoring beside everything else it does."""

import json
from collections import defaultdict
from pathlib import Path

from study import paths

RUNS = {"make quick": paths.BUILD / "quick" / "build" / "times", "make reproduce": paths.BUILD / "times"}
WORK = ("train_cell(", "score_cell(", "deploy_cells(")  # what a stage is there for


def rows(folder: Path) -> list[dict[str, str]]:
    """One row per stage, from what its runs left in build/times/: the seconds of all of them, and where they went."""
    stages: dict[str, list[dict[str, float]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        stages[path.stem.partition("-")[0]].append(_parts(json.loads(path.read_text())))
    return [_row(name, runs) for name, runs in stages.items()]


def _parts(times: dict) -> dict[str, float]:
    """Seconds of one run: the work, the cell with the imports, the other cells, and what is outside any cell."""
    found = {"work": 0.0, "imports": 0.0, "other cells": 0.0}
    for source, seconds in times["cells"]:
        found[_kind(source)] += seconds
    return found | {"kernel and papermill": times["seconds"] - sum(found.values())}


def _kind(source: str) -> str:
    if any(call in source for call in WORK) and "import " not in source:
        return "work"
    return "imports" if source.startswith(("import ", "from ")) else "other cells"


def _row(name: str, runs: list[dict[str, float]]) -> dict[str, str]:
    total = sum(sum(run.values()) for run in runs)
    parts = {part: sum(run[part] for run in runs) for part in runs[0]}
    return {"stage": name, "runs": str(len(runs)), "seconds": f"{total:.0f}"} | {
        part: f"{seconds:.0f} ({seconds / total:.0%})" for part, seconds in parts.items()
    }
