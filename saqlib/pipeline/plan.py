"""Which task can begin now: what needs a file of the store waits until the file is there, whoever leaves it."""

import heapq
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from saqlib.pipeline.kinds import Task

LOOK_SECONDS = 1.0  # how often the store is asked for what others have left


class Plan:
    """Tasks that are not done yet, in the order of the list, each handed out once what it needs is there.

    Attributes:
        total: tasks in the list. done: those that the store held or that were finished here.
        failures: tasks that failed, each with its error.
    """

    def __init__(self, tasks: Sequence[Task]):
        self.total, self.failures = len(tasks), []
        self._todo = [(rank, task) for rank, task in enumerate(tasks) if not task.done()]
        self.done = self.total - len(self._todo)
        self.began, self._seconds, self._finished = time.monotonic(), sum(task.seconds for _, task in self._todo), 0.0
        self._ready: dict[bool, list] = {True: [], False: []}  # heaps, for tasks that want a GPU and for others
        self._waiting: dict[int, tuple[Task, set[Path]]] = {}
        self._asking: dict[Path, set[int]] = {}  # by the file that they wait for
        self._looked = time.monotonic()
        makers = {file for _, task in self._todo for file in task.leaves}
        for rank, task in self._todo:
            missing = {file for file in task.needs if not file.exists()}
            missing |= {file for file in task.after if file in makers and not file.exists()}
            self._waiting[rank] = (task, missing)
            for file in missing:
                self._asking.setdefault(file, set()).add(rank)
            self._hand_out(rank)

    def take(self, *, gpu: bool = False) -> tuple[int, Task] | None:
        """The next task that can begin, with its place in the list; None if there is none now.

        gpu: whether one that wants a GPU would do, which then comes first.
        """
        if not self._ready[False] and not self._ready[True]:
            self._look()
        for kind in (True, False) if gpu else (False,):
            if self._ready[kind]:
                return heapq.heappop(self._ready[kind])
        return None

    def finish(self, task: Task) -> None:
        """Take note that a task is done, and hand out what has waited for it."""
        self.done += 1
        self._finished += task.seconds
        self._release(task.leaves)

    def fail(self, task: Task, error: BaseException) -> None:
        """Take note of an error; what needs the task's files is never handed out."""
        self.failures.append((task, error))

    @property
    def left(self) -> list[Task]:
        """Tasks that still wait for files."""
        return [task for task, _ in self._waiting.values()]

    @property
    def minutes_left(self) -> float | None:
        """As fast as until now; None before anything was finished."""
        if not self._finished:
            return None
        elapsed = time.monotonic() - self.began
        return elapsed * (self._seconds - self._finished) / self._finished / 60

    def _look(self) -> None:
        """Release what waits for a file that somebody else has left, or the middle of a task that still runs."""
        if self._waiting and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._release([file for file in self._asking if file.exists()])
            self._looked = time.monotonic()

    def _release(self, files: Iterable[Path]) -> None:
        for file in files:
            for rank in self._asking.pop(file, ()):
                self._waiting[rank][1].discard(file)
                self._hand_out(rank)

    def _hand_out(self, rank: int) -> None:
        task, missing = self._waiting[rank]
        if not missing:
            del self._waiting[rank]
            heapq.heappush(self._ready[task.gpu], (rank, task))
