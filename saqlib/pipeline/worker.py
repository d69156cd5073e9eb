"""What a worker does, on this machine or on another one that sees the same folder.

It works by the code of the study's folder, on a machine whose results have the same bytes, or not at all.
"""

import os
import pickle
import socket
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from saqlib import paths, store
from saqlib.network.settings import Shape
from saqlib.pipeline import instructions
from saqlib.workers import in_one_thread

NOBODY = -1  # no process of this machine waits for the result


class OtherMachineError(RuntimeError):
    """A node would give other bytes than the machine that asks, or runs another folder's code."""


Machine = dict[str, str]  # what decides bytes beside code and settings: releases of packages, the kind of processor


def machine(shape: Shape) -> Machine:
    """This machine, for networks of this shape."""
    from saqlib.network import fused  # and PyTorch, once its instructions are pinned

    return {name: metadata.version(name) for name in store.NUMERICS} | {"computing": fused.kind(shape, "cpu")}


def check(asking: Machine, shape: Shape) -> None:
    """Raise OtherMachineError unless this machine is of the kind that asks."""
    here = machine(shape)
    for name, value in asking.items():
        if here[name] != value:
            node = socket.gethostname()
            raise OtherMachineError(f"{node} has {name} {here[name]}, not {value}: what it computes has other bytes")


def packed(task: Any, shape: Shape) -> bytes:
    """A task, anything with a method `do`, as it travels, with the shape of its networks."""
    return pickle.dumps((task, shape))


def run(root: str, packed: bytes, asking: Machine, asked_by: int = NOBODY, gpu: int | None = None) -> None:
    """Do a packed task. All arguments are plain: what they stand for is unpacked by the code of the study's folder.

    Args:
        root: the study's folder, whose saqlib this module has to be of.
        packed: the task.
        asking: the machine that asks.
        asked_by: the process that waits for the result, with which this one ends; NOBODY for another machine's.
        gpu: which of the visible GPUs this process may use.
    """
    if not Path(__file__).is_relative_to(root) or paths.ROOT != Path(root):
        raise OtherMachineError(f"{socket.gethostname()} runs {Path(__file__).parents[1]}, not the code of {root}")
    instructions.pin()
    if gpu is not None and "torch" not in sys.modules:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    task, shape = pickle.loads(packed)
    check(asking, shape)
    in_one_thread(asked_by, task.do)


def travelling() -> Callable[..., None]:
    """`run` as a function that travels by value: a worker need not know this library before it is called."""

    def work(root: str, *rest: object) -> None:
        import importlib
        import sys

        if sys.path[:1] != [root]:
            sys.path.insert(0, root)
        importlib.import_module("saqlib.pipeline.worker").run(root, *rest)

    return work
