"""Jobs that only write a file, for tests of how jobs are handed out; they travel to workers and nodes."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from study.tasks import Job


@dataclass(frozen=True)
class Made(Job):
    """Writes its file; before that does what `how` says: fail | killed | killed once | elsewhere."""

    how: str = ""

    def run(self) -> None:
        (path,) = self.results
        attempts = path.with_suffix(".attempts")
        with attempts.open("a") as log:
            log.write(f"{os.getpid()}\n")
        first = len(attempts.read_text().splitlines()) == 1
        if self.how == "fail":
            raise ValueError("no such number")
        if self.how == "killed" or (self.how == "killed once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how != "elsewhere":  # as on a machine for which a result has another name
            path.write_text("done")


def job(folder: Path, number: int, how: str = "") -> Made:
    """The job of one number."""
    return Made("", (number,), f"job {number}", 1.0, (folder / f"{number}.txt",), how=how)
