"""Ablations: the study with some of its numbers changed, on some of its cells.

A conclusion that keeps its sign in every variant does not hang on the number that was changed. A variant trains and
scores only what differs from the main grid: everything else is in the store.
"""

import copy
import math
import re
from dataclasses import dataclass, fields
from typing import Any

from saqlib import params
from saqlib.errors import did_you_mean
from saqlib.grid import Cell, Scale
from saqlib.params import ParamsError, require

NOT_PATCHED = ("scale", "device", "ablations", "claims", "grid")  # these decide no network and no score


@dataclass(frozen=True)
class Ablation:
    """One variant.

    question: what it asks, in words. patch: new values by the path of the old ones, such as `quantization.edges`.
    datasets, precisions, trainings: its cells, with those that its networks are compared with. seeds: how many, if the
    scale has so many.
    """

    question: str
    patch: dict[str, Any]
    datasets: tuple[str, ...]
    precisions: tuple[str, ...]
    trainings: tuple[str, ...]
    seeds: int

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, datasets outermost."""
        return tuple(Cell(d, p, t) for d in self.datasets for p in self.precisions for t in self.trainings)

    def seeds_at(self, size: Scale) -> int:
        """How many seeds run at a scale; 0 where it runs no ablations."""
        return min(self.seeds, size.seeds, size.seeds_ablated)

    def applied(self, raw: dict[str, Any]) -> dict[str, Any]:
        """A parsed params.yaml with the patch in it, and without ablations of its own."""
        raw = copy.deepcopy(raw) | {"ablations": {}}
        for path, value in self.patch.items():
            *parents, last = path.split(".")
            section = raw
            for parent in parents:
                section = section[parent]
            section[last] = copy.deepcopy(value)
        return raw


def read(raw: dict[str, Any]) -> dict[str, Ablation]:
    """The section `ablations` of a parsed params.yaml; ParamsError for a patch of a number that is not there."""
    section = params.check(raw["ablations"], dict, "ablations")
    return {name: _ablation(name, values, raw) for name, values in section.items()}


def _ablation(name: Any, values: Any, raw: dict[str, Any]) -> Ablation:
    valid = isinstance(name, str) and re.fullmatch("[a-z][a-z0-9_]*", name)
    require(bool(valid), f"ablations: {name!r} cannot be a name; use small letters, digits and underscores")
    where = f"ablations.{name}"
    params.check_keys(values, [field.name for field in fields(Ablation)], where)
    patch = params.check(values["patch"], dict, f"{where}.patch")
    there = _paths(raw)
    for path in patch:
        if path not in there or str(path).split(".")[0] in NOT_PATCHED:
            raise ParamsError(f"{where}.patch: there is no number {path!r} to change{did_you_mean(path, there)}")
    axes = {
        axis: params.check(values[axis], tuple[str, ...], f"{where}.{axis}")
        for axis in ("datasets", "precisions", "trainings")
    }
    for axis, names in axes.items():
        require(len(names) > 0, f"{where}.{axis} is empty; name at least one")
    seeds = params.check(values["seeds"], int, f"{where}.seeds")
    require(1 <= seeds < math.inf, f"{where}.seeds must be at least 1, not {seeds}")
    return Ablation(params.check(values["question"], str, f"{where}.question"), patch, **axes, seeds=seeds)


def _paths(section: Any, *above: str) -> list[str]:
    """The path of every value and of every section that can be replaced as a whole."""
    if not isinstance(section, dict):
        return []
    own = [".".join([*above, str(key)]) for key in section]
    return own + [path for key, value in section.items() for path in _paths(value, *above, str(key))]
