"""The sections of params.yaml as frozen values: every number with its bounds, and why they are where they are.

pydantic checks them; its errors become one line that names the key and the nearest valid one.
"""

import copy
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import pydantic
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from saqlib import errors
from saqlib.claims import Claims
from saqlib.data import DATASETS
from saqlib.errors import did_you_mean, last_line, printable, shown
from saqlib.precision import LAYERS, MAX_BITS, MIN_BITS, Shape
from saqlib.registered import Registered
from saqlib.scores import GRADIENT, PASS_THROUGH
from saqlib.statistics import MOST_PAIRS

LONGEST = 600  # characters of a message
Section = TypeVar("Section")
TRAININGS = ("standard", "guided")
SCALES = ("smoke", "quick", "full")
METHODS = (GRADIENT, PASS_THROUGH, "integrated_gradients", "smoothgrad", "smoothgrad_pass_through", "occlusion",
           "log_probability")  # fmt: skip
NOT_PATCHED = ("scale", "device", "ablations", "claims", "grid")  # these decide no network and no score
IMAGES = {False: {"training": 55_000, "test": 10_000}, True: {"training": 1_100, "test": 300}}  # by Scale.sample

Name = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]*$", max_length=40)]  # becomes part of the names of files
Epochs = Annotated[int, Field(ge=1, le=1000)]
BitsOf = Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)]

# What makes a class a section of params.yaml: frozen, no other keys than its fields, and nothing converted.
section = partial(
    pydantic.dataclasses.dataclass,
    frozen=True,
    config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False),
)


class ParamsError(ValueError):
    """params.yaml, or a name given in its stead, is not usable; the message says what and where, in one line."""

    def __init__(self, message: str):
        super().__init__(printable(message)[:LONGEST])


def one_of(value: Any, valid: Iterable[str], what: str) -> str:
    """Return `value` if it is among `valid`; raise ParamsError with the nearest valid name otherwise."""
    try:
        return errors.one_of(value, valid, what)
    except ValueError as error:
        raise ParamsError(str(error)) from None


def require(condition: bool, message: str) -> None:
    """Raise ParamsError with the message unless the condition holds."""
    if not condition:
        raise ParamsError(message)


def unique(values: Sequence[str], what: str = "one of the values") -> Sequence[str]:
    """Return the values; raise ParamsError if one of them stands twice."""
    require(len(set(values)) == len(values), f"{what} stands twice")
    return values


def check_most(where: str, value: int, most: int, why: str) -> None:
    """Raise ParamsError, with the reason, if a value is too large."""
    require(value <= most, f"{where} must be at most {most:,}, not {value:,}: {why}")


# ---------------------------------------------------------------------------------------- sections of params.yaml


@dataclass(frozen=True, order=True)
class Cell:
    """One cell of the grid: a dataset, a precision and a training, all seeds. str() is its name everywhere."""

    dataset: str
    precision: str
    training: str

    def __str__(self) -> str:
        return f"{self.dataset}-{self.precision}-{self.training}"

    @classmethod
    def parse(cls, name: str) -> "Cell":
        """The cell of a name such as `mnist-w2a2-guided`; ParamsError if it is not three parts."""
        parts = name.split("-")
        require(len(parts) == 3, f"{name!r} is not a cell: expected <dataset>-<precision>-<training>")
        return cls(one_of(parts[0], DATASETS, "dataset"), parts[1], one_of(parts[2], TRAININGS, "training"))


Value = TypeVar("Value")
Axis = Annotated[tuple[Value, ...], Field(min_length=1), AfterValidator(unique)]


@section
class Grid:
    """The axes of the grid, each with its values in the order of the paper."""

    datasets: Axis[Literal[tuple(DATASETS)]]
    precisions: Axis[Name]
    trainings: Axis[Literal[TRAININGS]]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, datasets outermost."""
        return tuple(Cell(*names) for names in product(self.datasets, self.precisions, self.trainings))


@section
class Ablation(Grid):
    """The study with some of its numbers changed, on some cells, with those that its networks are compared with.

    question, expectation: what it asks, and what is expected, in words. patch: new values by the path of the old ones,
    such as `quantization.edges`. seeds: how many, if the scale has so many. methods: whose maps are scored.
    """

    question: str
    expectation: str
    patch: dict[str, Any]
    seeds: int = Field(ge=1)
    methods: Axis[Literal[METHODS]] = (GRADIENT, PASS_THROUGH)

    def seeds_at(self, size: "Scale") -> range:
        """The seeds that run at a scale, confirming ones; none where it runs no ablations."""
        return range(size.exploring, size.seeds)[: min(self.seeds, size.seeds_ablated)]

    def applied(self, raw: dict[str, Any]) -> dict[str, Any]:
        """A parsed params.yaml with the patch in it, and without ablations of its own.

        Raises ParamsError if the patch changes what is not there, or what decides no number of a network.
        """
        changed = copy.deepcopy(raw) | {"ablations": {}}
        for path, value in self.patch.items():
            *parents, last = path.split(".")
            target, valid = changed, [name for name in changed if name not in NOT_PATCHED]
            for parent in parents:
                target = target[one_of(parent, valid, f"section in {path}")]
                valid = list(target) if isinstance(target, dict) else []
            target[one_of(last, valid, f"number in {path}")] = copy.deepcopy(value)
        return changed


@section
class Quantization:
    """How a quantized network is trained; a full-precision one reads nothing of it.

    edges: weights of the first and the last layer. rounding: off, activations are clipped, but not rounded. range: of
    activations, PACT's clip or the largest value. alpha_learning_rate: peak for the clips of PACT. alpha_penalty: times
    the sum of alpha^2, added to the loss. calibration_images: the batch on which they are set after the warm-up.
    """

    edges: Literal["w8", "same", "fp32"]
    rounding: bool
    range: Literal["learned", "largest"] = Field()  # saqlib.training.RANGES
    alpha_learning_rate: float = Field(ge=0, le=1, description="Adam moves every clip by about as much in each step")
    alpha_penalty: float = Field(ge=0, le=1, description="the loss would be nothing else")
    calibration_images: int = Field(ge=1)


@section
class Optimizer:
    """Adam on batches of `batch_size`; learning_rate: the peak of its one-cycle schedule."""

    batch_size: int = Field(ge=1)
    learning_rate: float = Field(ge=0, le=1, description="Adam moves every weight by about as much in each step")


@section
class Guided:
    """Guidance: share of masked pixels, weight of the Kullback-Leibler term, what "least salient" means; by which map.

    saturated: what clipped activations do with the map's gradient, of a full-precision network, which has none, `stop`.
    """

    fraction: float = Field(ge=0, le=1, description="it is a share of the pixels")
    weight: float = Field(ge=0, le=1e6, description="the loss would be nothing else")
    ranking: Literal["magnitude", "signed"] = Field()  # saqlib.saliency.RANKINGS
    saturated: Literal["stop", "pass"] = Field()  # saqlib.saliency.SATURATED


@section
class Trainings:
    """The section `trainings`; the standard one has no settings of its own."""

    standard: Annotated[dict[str, Any], Field(max_length=0)]
    guided: Guided


@section
class Clarity:
    """The section `clarity`: steps of removal; radius (in units of a pixel's range) and draws of the sensitivity."""

    steps: int = Field(ge=1, le=784, description="an image has 784 pixels")
    sensitivity_radius: float = Field(ge=0, le=1, description="a pixel lies in [0, 1]")
    sensitivity_draws: int = Field(ge=1, le=1000, description="each is a gradient of every image")


@section
class Scale:
    """How much of the experiment runs: images, seeds, epochs of each dataset, and records of maps.

    exploring: the first so many seeds suggested the claims and decide on fills, the others confirm. skipped: of the
    test images, in random order, so many stand before the first that is scored. seeds_ablated: at most so many seeds of
    an ablation; with 0 no ablation runs.
    """

    sample: bool
    epochs: dict[Literal[tuple(DATASETS)], Epochs]
    seeds: int = Field(ge=1, le=MOST_PAIRS, description="the exact tests enumerate the signs of every seed")
    exploring: int = Field(ge=1)
    warmup_epochs: float = Field(ge=0)
    records: int = Field(ge=1, le=1000, description="each holds the maps of ten images")
    images: int = Field(ge=1)
    skipped: int = Field(ge=0)
    images_expensive: int = Field(ge=1)
    images_deployed: int = Field(ge=1)
    seeds_ablated: int = Field(ge=0)

    def __post_init__(self):
        there, shortest = IMAGES[self.sample]["test"], min(self.epochs.values(), default=0)
        counts = {"images and skipped": self.images + self.skipped, "images_deployed": self.images_deployed}
        for name, count in counts.items():
            check_most(name, count, there, f"there are {there:,} test images")
        check_most("exploring", self.exploring, self.seeds, "they are the first of the seeds")
        check_most("images_expensive", self.images_expensive, self.images, "they are the first of images")
        message = f"warmup_epochs must be less than the epochs ({shortest}), not {self.warmup_epochs}"
        require(self.warmup_epochs < shortest, message)


@section
class Params:
    """params.yaml, section by section; what several sections must agree on is checked by `from_dict`."""

    scale: Literal[SCALES]
    grid: Grid
    network: Shape
    precisions: dict[Name, dict[Literal[LAYERS], tuple[BitsOf, ...]]]
    quantization: Quantization
    optimizer: Optimizer
    trainings: Trainings
    clarity: Clarity
    ablations: dict[Name, Ablation]
    device: Literal["auto", "cpu", "cuda"]
    scales: dict[Literal[SCALES], Scale]
    claims: Claims
    registered: tuple[Registered, ...]

    def __post_init__(self):
        """An ablation is compared with the grid, so it runs on the grid's datasets; without one it is left out."""
        kept = {}
        for name, each in self.ablations.items():
            if here := tuple(dataset for dataset in each.datasets if dataset in self.grid.datasets):
                kept[name] = replace(each, datasets=here)
        object.__setattr__(self, "ablations", kept)


# -------------------------------------------------------------------------------------------------- from plain values


def build(cls: type[Section], raw: Any) -> Section:
    """A section, or the whole file, from plain values as YAML has them; ParamsError for the first that is not valid."""
    try:
        # As JSON, in which pydantic takes a list for a tuple, and nothing else for what it is not.
        return TypeAdapter(cls).validate_json(json.dumps(raw))
    except ValidationError as error:
        raise ParamsError(_message(error, cls)) from None
    except (TypeError, ValueError, RecursionError) as error:  # a date, a key that is a list, a thousand levels
        raise ParamsError(f"params.yaml holds what no setting can be: {last_line(error)}") from None


def _message(error: ValidationError, cls: type) -> str:
    """The first error in one line; an unknown name before a missing one, which it explains."""
    found = error.errors()
    first = next((each for each in found if each["type"] in ("unexpected_keyword_argument", "literal_error")), found[0])
    kind, value, context = first["type"], shown(first["input"]), first.get("ctx", {})
    *parents, last = path = [step for step in first["loc"] if step != "[key]"] or [""]
    where, parent = (_dotted(steps) or "params.yaml" for steps in (path, parents))
    valid, reason = _described(cls, path)
    if kind == "literal_error":
        valid = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
    if kind == "unexpected_keyword_argument" or kind == "literal_error" and "[key]" in first["loc"]:
        return f"unknown key {last!r} in {parent}{did_you_mean(last, valid)} (valid: {', '.join(valid)})"
    if kind == "literal_error":
        return f"unknown value {value} of {where}{did_you_mean(first['input'], valid)} (valid: {', '.join(valid)})"
    if kind == "missing":
        return f"{parent} lacks {last}"
    if kind == "value_error":
        return f"{where}: {context['error']}"
    what = re.sub("^[A-Z][a-z]+ should", "must", first["msg"]).replace("an object", "a section").partition(" after")[0]
    return f"{where} {what}, not {value}" + (f": {reason}" if reason and kind.startswith("less_than") else "")


def _dotted(steps: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def _described(kind: Any, steps: Iterable[str | int]) -> tuple[list[str], str | None]:
    """The keys of the innermost section on the way to a value, and the reason of the bounds of what it holds."""
    keys, reason = [], None
    for step in steps:
        if is_dataclass(kind):
            keys = [field.name for field in fields(kind)]
            if step not in keys:
                break
            # saqlib's own dataclasses have no bounds.
            reason = getattr(getattr(kind, "__pydantic_fields__", {}).get(step), "description", None)
            kind = get_type_hints(kind)[step]
        else:  # of a list the items, of a mapping the values
            kind, keys = get_args(kind)[0 if isinstance(step, int) else -1], []
    return keys, reason
