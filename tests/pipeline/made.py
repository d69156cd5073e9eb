"""Tasks that only write a file, for tests and benchmarks of how tasks are handed out."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from saqlib import files
from saqlib.grid import Cell
from saqlib.pipeline.kinds import Task

CELL = Cell("mnist", "w2a2", "guided")


@dataclass(frozen=True)
class Made(Task):
    """Writes its mark; before that does what `how` says: fail | killed | killed once | endless."""

    how: str = ""

    def done(self) -> bool:
        return self.marks[0].exists()

    def do(self) -> None:
        (mark,) = self.marks
        attempts = mark.with_suffix(".attempts")
        with attempts.open("a") as log:
            log.write(f"{os.getpid()}\n")
        first = len(attempts.read_text().splitlines()) == 1
        if self.how == "fail":
            raise ValueError("no such number")
        if self.how == "killed" or (self.how == "killed once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        while self.how == "endless":
            time.sleep(1)
        files.write(mark, "done")


def made(folder: Path, number: int, *, needs: tuple = (), after: tuple = (), seconds: float = 1, gpu: bool = False,
         how: str = "") -> Made:  # fmt: skip
    """The task of one number; needs, after: numbers of others."""
    mark = (folder / f"{number}.txt",)
    needs, after = (tuple(folder / f"{each}.txt" for each in numbers) for numbers in (needs, after))
    return Made(CELL, (number,), "", mark, needs, after, mark, seconds, gpu, how=how)
