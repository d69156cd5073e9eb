"""params.yaml as frozen, typed values. An unknown key, a wrong type or a value out of range is a named error."""

import dataclasses
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from saqlib import paths
from saqlib.quantization import check_bits
from saqlib.saliency import RANKINGS

DATASETS = ("mnist", "fashion_mnist")
TRAININGS = ("standard", "guided")
SCALES = ("smoke", "quick", "full")
EDGES = ("w8", "same", "fp32")
TESTS = ("difference", "non_inferiority", "trend", "correlation", "gain", "mitigation", "between")
IMAGE_SETS = ("primary", "all", "matched")
LAYERS = ("conv1", "conv2", "dense1", "dense2", "dense3")


class ConfigError(ValueError):
    """params.yaml, or a name given in its stead, is not usable; the message says what and where."""


def one_of(value: Any, valid: tuple[str, ...], what: str) -> str:
    """Return `value` if it is among `valid`; raise ConfigError with the nearest valid name otherwise."""
    if value in valid:
        return value
    near = difflib.get_close_matches(str(value), valid, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown {what} {value!r}{hint} (valid: {', '.join(valid)})")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


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
        """The cell of a name such as `mnist-w2a2-guided`; ConfigError if it is not three parts."""
        parts = name.split("-")
        _require(len(parts) == 3, f"{name!r} is not a cell: expected <dataset>-<precision>-<training>")
        return cls(one_of(parts[0], DATASETS, "dataset"), parts[1], one_of(parts[2], TRAININGS, "training"))


@dataclass(frozen=True)
class Grid:
    datasets: tuple[str, ...]
    precisions: tuple[str, ...]
    trainings: tuple[str, ...]

    def __post_init__(self):
        for axis in dataclasses.fields(self):
            values = getattr(self, axis.name)
            _require(len(values) > 0, f"grid.{axis.name} is empty; name at least one")
            _require(len(set(values)) == len(values), f"grid.{axis.name} names one of its values twice")
        for dataset in self.datasets:
            one_of(dataset, DATASETS, "dataset in grid.datasets")
        for training in self.trainings:
            one_of(training, TRAININGS, "training in grid.trainings")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, datasets outermost."""
        return tuple(Cell(d, p, t) for d in self.datasets for p in self.precisions for t in self.trainings)


@dataclass(frozen=True)
class Bits:
    """Bits of one layer's weights and of the activation behind it; None is full precision (or, for the last, none)."""

    weight: int | None = None
    activation: int | None = None


@dataclass(frozen=True)
class Precision:
    """The bits of every layer, in order. `quantized` is False for the full-precision network."""

    name: str
    layers: tuple[Bits, ...]

    @property
    def quantized(self) -> bool:
        return any(bits.weight or bits.activation for bits in self.layers)

    @classmethod
    def from_table(cls, name: str, table: dict[str, list[int]], edges: str) -> "Precision":
        """From a row of `precisions`; `edges` overrides the weights of the first and the last layer."""
        if not table:
            return cls(name, (Bits(),) * len(LAYERS))
        for layer in table:
            one_of(layer, LAYERS, f"layer in precisions.{name}")
        missing = [layer for layer in LAYERS if layer not in table]
        _require(not missing, f"precisions.{name} says nothing about {', '.join(missing)}; give every layer its bits")
        layers = [cls._bits(name, layer, table[layer]) for layer in LAYERS]
        if edges != "same":
            weight = 8 if edges == "w8" else None
            layers[0] = dataclasses.replace(layers[0], weight=weight)
            layers[-1] = dataclasses.replace(layers[-1], weight=weight)
        return cls(name, tuple(layers))

    @staticmethod
    def _bits(name: str, layer: str, values: Any) -> Bits:
        count = 1 if layer == LAYERS[-1] else 2
        shape = "[weight bits]" if count == 1 else "[weight bits, activation bits]"
        where = f"precisions.{name}.{layer}"
        _require(isinstance(values, list) and len(values) == count, f"{where} must be {shape}, not {values!r}")
        try:
            return Bits(*[check_bits(value) for value in values])
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Network:
    channels: tuple[int, ...]
    hidden: tuple[int, ...]

    def __post_init__(self):
        for name in ("channels", "hidden"):
            widths = getattr(self, name)
            _require(
                len(widths) == 2 and min(widths) >= 1, f"network.{name} must be two widths of at least 1, not {widths}"
            )


@dataclass(frozen=True)
class Training:
    batch_size: int
    learning_rate: float
    alpha_learning_rate: float
    alpha_penalty: float
    calibration_images: int

    def __post_init__(self):
        _at_least("training", self, 1, "batch_size", "calibration_images")
        _at_least("training", self, 0, "learning_rate", "alpha_learning_rate", "alpha_penalty")


@dataclass(frozen=True)
class Guided:
    fraction: float
    weight: float
    ranking: str

    def __post_init__(self):
        _require(0 <= self.fraction <= 1, f"guided.fraction must lie in [0, 1], not {self.fraction}")
        _at_least("guided", self, 0, "weight")
        one_of(self.ranking, RANKINGS, "ranking in guided.ranking")


@dataclass(frozen=True)
class Clarity:
    steps: int
    retained: float
    sensitivity_radius: float
    sensitivity_draws: int

    def __post_init__(self):
        _at_least("clarity", self, 1, "steps", "sensitivity_draws")
        _at_least("clarity", self, 0, "sensitivity_radius")
        _require(0 < self.retained <= 1, f"clarity.retained must lie in (0, 1], not {self.retained}")


@dataclass(frozen=True)
class Epochs:
    mnist: int
    fashion_mnist: int


@dataclass(frozen=True)
class Scale:
    """How much of the experiment runs: images, seeds, epochs and records."""

    sample: bool
    seeds: int
    epochs: Epochs
    warmup_epochs: float
    records: int
    images: int
    images_dear: int
    images_deployed: int

    def __post_init__(self):
        for name in ("seeds", "records", "images", "images_dear", "images_deployed"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        shortest = min(self.epochs.mnist, self.epochs.fashion_mnist)
        _require(shortest >= 1, "epochs must be at least 1 for every dataset")
        _require(
            0 <= self.warmup_epochs < shortest,
            f"warmup_epochs must be at least 0 and less than the epochs ({shortest}), not {self.warmup_epochs}",
        )


@dataclass(frozen=True)
class Claim:
    """One claim of the abstract and how it is tested; saqlib.claims says what each test does with the precisions."""

    id: str
    text: str
    test: str
    metrics: tuple[str, ...]
    precisions: tuple[str, ...]
    expected: str
    images: str

    def __post_init__(self):
        one_of(self.test, TESTS, f"test in claim {self.id}")
        one_of(self.expected, ("higher", "lower"), f"value of expected in claim {self.id}")
        one_of(self.images, IMAGE_SETS, f"set of images in claim {self.id}")
        for name in ("metrics", "precisions"):
            _require(len(getattr(self, name)) > 0, f"claim {self.id}: {name} is empty; name at least one")


@dataclass(frozen=True)
class Claims:
    """The claims, and what their verdicts need: level of the tests, margin of accuracy, reference precision."""

    level: float
    margin: float
    reference: str
    hypotheses: tuple[Claim, ...]

    def __post_init__(self):
        _require(0 < self.level < 1, f"claims.level must lie in (0, 1), not {self.level}")
        _require(self.margin > 0, f"claims.margin must be above 0, not {self.margin}")
        ids = [claim.id for claim in self.hypotheses]
        _require(len(set(ids)) == len(ids), "claims.hypotheses gives two claims the same id")


def _at_least(section: str, values: Any, least: float, *names: str) -> None:
    for name in names:
        value = getattr(values, name)
        _require(value >= least, f"{section}.{name} must be at least {least}, not {value}")


@dataclass(frozen=True)
class Config:
    """The whole experiment at one scale. Precisions are resolved per layer, `edges` included."""

    scale: str
    grid: Grid
    network: Network
    precisions: dict[str, Precision]
    edges: str
    training: Training
    guided: Guided
    clarity: Clarity
    executor: str
    device: str
    size: Scale
    claims: Claims

    def cell(self, dataset: str, precision: str, training: str) -> Cell:
        """The cell of three names; ConfigError with the nearest valid name for one that is not in the grid."""
        one_of(dataset, self.grid.datasets, "dataset")
        one_of(precision, tuple(self.precisions), "precision")
        one_of(training, self.grid.trainings, "training")
        return Cell(dataset, precision, training)

    def epochs(self, dataset: str) -> int:
        return getattr(self.size.epochs, one_of(dataset, DATASETS, "dataset"))


def load(path: Path | None = None, scale: str | None = None) -> Config:
    """Read params.yaml (or `path`), at its own scale or at `scale`; ConfigError for anything that is not usable."""
    path = path or paths.PARAMS
    try:
        raw = yaml.load(path.read_text(), _UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name} is not valid YAML: {_problem(error)}") from None
    return from_dict(raw, scale)


class _UniqueKeys(yaml.SafeLoader):
    """Of a key that stands twice, YAML would take the last one in silence."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _problem(error: yaml.YAMLError) -> str:
    """Where and what, on one line; PyYAML draws a picture over several."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def from_dict(raw: Any, scale: str | None = None) -> Config:
    """The Config of a params.yaml that is already parsed."""
    sections = ("scale", "grid", "network", "precisions", "edges", "training", "guided", "clarity", "executor",
                "device", "scales", "claims")  # fmt: skip
    _check_keys(raw, sections, "params.yaml")
    name = one_of(raw["scale"] if scale is None else scale, SCALES, "scale")
    _check_keys(raw["scales"], SCALES, "scales")
    edges = one_of(raw["edges"], EDGES, "edges")
    grid = _build(Grid, raw["grid"], "grid")
    _check(raw["precisions"], dict, "precisions")
    for key in raw["precisions"]:
        valid = isinstance(key, str) and re.fullmatch("[A-Za-z][A-Za-z0-9_]*", key)
        _require(valid, f"precisions: {key!r} cannot be a name; use letters, digits and underscores, a letter first")
    precisions = {
        key: Precision.from_table(key, _check(table, dict, f"precisions.{key}"), edges)
        for key, table in raw["precisions"].items()
    }
    for precision in grid.precisions:
        one_of(precision, tuple(precisions), "precision in grid.precisions")
    sizes = {key: _build(Scale, raw["scales"][key], f"scales.{key}") for key in SCALES}
    return Config(
        scale=name,
        grid=grid,
        network=_build(Network, raw["network"], "network"),
        precisions=precisions,
        edges=edges,
        training=_build(Training, raw["training"], "training"),
        guided=_build(Guided, raw["guided"], "guided"),
        clarity=_build(Clarity, raw["clarity"], "clarity"),
        executor=one_of(raw["executor"], ("local", "ray"), "executor"),
        device=one_of(raw["device"], ("auto", "cpu", "cuda"), "device"),
        size=sizes[name],
        claims=_claims(raw["claims"], tuple(precisions)),
    )


def _claims(raw: Any, precisions: tuple[str, ...]) -> Claims:
    """The claims, every precision in them known."""
    claims = _build(Claims, raw, "claims")
    one_of(claims.reference, precisions, "precision in claims.reference")
    for claim in claims.hypotheses:
        for precision in claim.precisions:
            one_of(precision, precisions, f"precision in claim {claim.id}")
    return claims


def _check_keys(raw: Any, expected: tuple[str, ...], where: str) -> None:
    _check(raw, dict, where)
    for key in raw:
        one_of(key, expected, f"key in {where}")
    missing = [key for key in expected if key not in raw]
    _require(not missing, f"{where} lacks {', '.join(missing)}")


def _build(cls: type, raw: Any, where: str) -> Any:
    """A frozen dataclass from a section, every field present and of its declared type."""
    fields = {field.name: field.type for field in dataclasses.fields(cls)}
    _check_keys(raw, tuple(fields), where)
    values = {name: _check(raw[name], kind, f"{where}.{name}") for name, kind in fields.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        if cls is not Scale:
            raise
        raise ConfigError(f"{where}.{error}") from None  # there are several scales, and each knows its fields only


def _check(value: Any, kind: Any, where: str) -> Any:
    """Return `value` as `kind`; whole numbers pass for floats, lists become tuples, nothing else is converted."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if get_origin(kind) is tuple:
        _check(value, list, where)
        return tuple(_check(item, get_args(kind)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if kind is float and type(value) is int:
        return float(value)
    _require(type(value) is kind, f"{where} must be of type {kind.__name__}, not {value!r}")
    return value
