"""Everything that there is to compute, as one flat list of tasks, done by as many workers as there are.

    python -m saqlib.pipeline.tasks                     on all cores of this machine
    python -m saqlib.pipeline.tasks --engine ray        on a Ray cluster whose nodes see this folder
    python -m saqlib.pipeline.tasks --shard 3/20        one share of twenty, such as a member of a Slurm array

Results go to the store; `dvc repro` finds them there and draws. The same command goes on where it was stopped.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from saqlib import files, paths
from saqlib.errors import last_line, told
from saqlib.params import ParamsError, require
from saqlib.pipeline import instructions, study

if TYPE_CHECKING:
    from saqlib.pipeline.kinds import Task
    from saqlib.pipeline.plan import Plan

ENGINES = ("local", "ray")
QUIET_SECONDS = 60  # between two lines where there is no terminal
STOPPED = "Stopped. The same command goes on from there."


class TasksError(RuntimeError):
    """Some tasks failed; the message names each."""


# ------------------------------------------------------------------------------------------------------ the list


def listed(settings: study.Study) -> "list[Task]":
    """Every task of a study and of its ablations, in the order in which they had better begin: longest first.

    Before all others come the networks that decide on the fills, then one network of each warm-up, for which those of
    other precisions wait: so every warm-up runs once.
    """
    from saqlib.pipeline.listing import Listing  # PyTorch, once its instructions are pinned

    listing = Listing(settings)
    listing.grid()
    for name in settings.ablations:
        listing.ablation(name, *study.variant(name, settings.scale))
    return listing.tasks()


def share(tasks: "Sequence[Task]", part: int, parts: int) -> "list[Task]":
    """One of `parts` shares of the whole list, done or not, so that the shares of several machines fit together."""
    return list(tasks[part::parts])


# --------------------------------------------------------------------------------------------------- doing them


def fill(settings: study.Study, engine: str = "local", part: tuple[int, int] = (0, 1)) -> "Plan":
    """Compute what the store lacks of one share of the tasks; the plan, with tasks that wait for other shares.

    Raises TasksError, after everything else is done, if a task failed.
    """
    from saqlib import workers
    from saqlib.pipeline import engines
    from saqlib.pipeline.plan import Plan

    files.sweep(paths.BUILD / "store")
    plan = Plan(share(listed(settings), *part))
    say = Progress(plan)
    if engine == "ray":
        engines.cluster(plan, settings.shape, say)
    elif plan.total > plan.done:
        gpus = _gpus(settings)
        most = max(gpus, workers.processes(plan.total - plan.done))
        engines.local(plan, most, gpus, settings.shape, say)
    say.end()
    if plan.failures:
        each = [f"{task}: {last_line(error)}" for task, error in plan.failures]
        without = f"\n{len(plan.left)} more tasks wait for what these leave." if plan.left else ""
        raise TasksError("\n".join(each) + f"{without}\n{STOPPED}")
    return plan


def _gpus(settings: study.Study) -> int:
    import torch

    return torch.cuda.device_count() if settings.engine.pick_device().type == "cuda" else 0


class Progress:
    """Says what is done: on a terminal in one line that changes, elsewhere now and then in a line of its own."""

    def __init__(self, plan: "Plan"):
        self.terminal, self.said, self.width = sys.stderr.isatty(), time.monotonic(), 0
        if plan.total > plan.done:
            print(f"{plan.total - plan.done} of {plan.total} tasks to do", file=sys.stderr, flush=True)

    def __call__(self, plan: "Plan", what: str) -> None:
        trouble = what.endswith("again") or " failed: " in what
        minutes = plan.minutes_left
        left = "" if minutes is None else f", about {max(minutes, 0):.0f} min left"
        line = f"[{plan.done}/{plan.total}] {what}{'' if trouble else left}"
        if self.terminal:
            print(f"\r{line:<{self.width}}", end="\n" if trouble else "", file=sys.stderr, flush=True)
            self.width = 0 if trouble else len(line)
        elif trouble or time.monotonic() - self.said > QUIET_SECONDS or plan.done == plan.total:
            print(line, file=sys.stderr, flush=True)
            self.said = time.monotonic()

    def end(self) -> None:
        """Leave the changing line."""
        if self.terminal and self.width:
            print(file=sys.stderr)


# -------------------------------------------------------------------------------------------------- the command


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    require(bool(found), f"--shard {text!r}: expected I/N, such as 3/20")
    part, parts = map(int, found.groups())
    require(part < parts, f"--shard {text}: the shares of {parts} are numbered from 0 to {parts - 1}")
    return part, parts


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.pipeline.tasks", description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="local", help="where tasks are done; default: local")
    parser.add_argument("--shard", metavar="I/N", default="0/1", help="this share of the list alone, counted from 0")
    parser.add_argument("--scale", help="smoke, quick or full; that of params.yaml if left out")
    options = parser.parse_args(arguments)
    instructions.pin()
    from saqlib.data.images import DataError
    from saqlib.pipeline.worker import OtherMachineError

    with told(ParamsError, DataError, OtherMachineError, TasksError, stopped=STOPPED):
        plan = fill(study.load(scale=options.scale), options.engine, _part(options.shard))
        waiting = f"; {len(plan.left)} wait for networks of other shares: run this one again" if plan.left else ""
        print(f"{plan.done} of {plan.total} tasks are done{waiting}.")


if __name__ == "__main__":
    main()
