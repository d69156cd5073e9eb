"""Workspaces of the pipeline for its tests: a tiny grid, commands in it, and what it holds."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from study import dvc, settings
from tests.helpers.parameters import changed

TINY = {
    "grid": {"datasets": ["mnist"], "precisions": ["fp32", "w2a2"], "trainings": ["standard"]},
    "scales": {
        "smoke": {
            "epochs": {"mnist": 2}, "warmup_epochs": 1, "images": 20, "images_expensive": 4, "images_deployed": 20,
            "seeds_ablated": 0,
        }
    },
    # One ablation, and of that the two networks that its patch changes.
    "ablations": dict.fromkeys(settings.load().ablations) | {
        "edges_same": {"datasets": ["mnist"], "precisions": ["w2a2"], "trainings": ["standard"]},
    },
}  # fmt: skip


def edit_params(folder: Path, **values: Any) -> None:
    """Change params.yaml in a folder, by paths with __ between the parts."""
    path = folder / "params.yaml"
    path.write_text(settings.text_of(changed(settings.read(path), **values)), encoding="utf-8")


def start(folder: Path, module: str, *arguments: str, **variables: str) -> subprocess.Popen:
    """A command in a workspace, on the code of that workspace; what it prints is kept in a file."""
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", module, *arguments]
        environment = dvc.environment(folder) | variables
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def finish(folder: Path, process: subprocess.Popen) -> str:
    """What the command printed; it has to succeed."""
    status = process.wait()
    log = (folder / "log").read_text()
    assert status == 0, log
    return log


def digests(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
