"""params.yaml as frozen, typed values, checked before anything runs, and what a cell of the grid reads of them.

An unknown key, a wrong type or a value out of range is a ParamsError of one line, which names the key and the nearest
valid one. Importing this module does not import PyTorch.
"""

import io
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from saqlib.claims import ACCURACY, GROUPS, RULES, Claim
from saqlib.errors import last_line, of_the_system
from saqlib.precision import EDGE_BITS, LAYERS, Bits, Precision, Shape
from saqlib.registered import Registered
from saqlib.scores import PRIMARY, RELEVANCE_GAIN
from study import paths
from study.params import (
    IMAGES,
    SCALES,
    TRAININGS,
    Ablation,
    Cell,
    Clarity,
    Guided,
    Optimizer,
    Params,
    ParamsError,
    Quantization,
    Scale,
    build,
    check_most,
    one_of,
    require,
    unique,
)
from study.params import Grid as Grid

COLUMNS = (ACCURACY, *PRIMARY, RELEVANCE_GAIN, "sensitivity_max")  # what may answer a question


@dataclass(frozen=True)
class Recipe:
    """How the networks of one cell are trained: all that decides their bytes but the seed, and nothing else.

    quantization: None for full precision, whose networks are the same for any warm-up. guided: None for standard; of
    full precision with `stop`, since nothing is clipped.
    records: how often the maps of fixed images are recorded while seed 0 trains. sample: the images are the sample's.
    """

    dataset: str
    precision: Precision
    shape: Shape
    optimizer: Optimizer
    epochs: int
    warmup_epochs: float
    quantization: Quantization | None
    guided: Guided | None
    records: int
    sample: bool

    @property
    def cell(self) -> Cell:
        """The cell whose recipe it is."""
        return Cell(self.dataset, self.precision.name, "guided" if self.guided else "standard")

    @property
    def warm_up(self) -> "Recipe | None":
        """The full-precision training whose beginning every precision shares; None without one."""
        if not self.warmup_epochs:
            return None
        full = Precision("full precision", (Bits(),) * len(self.precision.layers))
        return replace(self, precision=full, quantization=None, guided=_without_clips(self.guided))


def _without_clips(guided: Guided | None) -> Guided | None:
    """Guidance as a full-precision network has it, whatever clipped activations would do."""
    return guided and replace(guided, saturated="stop")


@dataclass(frozen=True)
class Scoring:
    """How the maps of one cell are scored, as `saqlib.scoring.Scoring` says it, but for the folder of the images.

    sample: the images are the sample's, whose folder is `root`; it is no field, since it decides nothing.
    """

    clarity: Clarity
    images: int
    skipped: int
    images_expensive: int
    calibration_images: int
    sample: bool

    @property
    def root(self) -> Path | None:
        """The folder of the images."""
        return paths.SAMPLE if self.sample else None


@dataclass(frozen=True)
class Study(Params):
    """params.yaml at one scale, with its size. Precisions are resolved per layer, edges included, in its order."""

    precisions: dict[str, Precision]
    size: Scale

    @property
    def shape(self) -> Shape:
        """The widths of its networks."""
        return self.network

    @property
    def guided(self) -> Guided:
        """How guided training guides."""
        return self.trainings.guided

    def cell(self, dataset: str, precision: str, training: str) -> Cell:
        """The cell of three names; ParamsError with the nearest valid name for one that is not in the grid."""
        one_of(dataset, self.grid.datasets, "dataset")
        one_of(precision, self.precisions, "precision")
        one_of(training, self.grid.trainings, "training")
        return Cell(dataset, precision, training)

    def select(self, dataset: str, precision: str, training: str) -> tuple[Cell, ...]:
        """The cells of three names, each of which may be `all`: every one of the grid. Errors as for `cell`."""
        axes = (dataset, self.grid.datasets), (precision, self.grid.precisions), (training, self.grid.trainings)
        chosen = [every if name == "all" else (name,) for name, every in axes]
        return tuple(self.cell(*names) for names in product(*chosen))

    def recipe(self, cell: Cell) -> Recipe:
        """How a cell is trained: the settings that it reads, and no others."""
        precision = self.precisions[one_of(cell.precision, self.precisions, "precision")]
        guided = self.guided if one_of(cell.training, TRAININGS, "training") == "guided" else None
        return Recipe(
            dataset=cell.dataset,
            precision=precision,
            shape=self.shape,
            optimizer=self.optimizer,
            epochs=self.size.epochs[one_of(cell.dataset, self.size.epochs, "dataset")],
            warmup_epochs=self.size.warmup_epochs,
            quantization=self.quantization if precision.quantized else None,
            guided=guided if precision.quantized else _without_clips(guided),
            records=self.size.records,
            sample=self.size.sample,
        )

    @property
    def scoring(self) -> Scoring:
        """How the maps of every cell are scored."""
        size, calibration = self.size, self.quantization.calibration_images
        counts = size.images, size.skipped, size.images_expensive, calibration
        return Scoring(self.clarity, *counts, size.sample)


def load(path: Path | None = None, scale: str | None = None) -> Study:
    """Read params.yaml (or `path`), at its own scale or at `scale`; ParamsError for anything that is not usable."""
    study = from_dict(read(path), scale)
    # Beside a file of the sample an unpacked one of the same name would be read in its place.
    foreign = next((file for file in sorted(paths.SAMPLE.glob("*/*")) if file.suffix != ".gz"), None)
    require(not (study.size.sample and foreign), f"{foreign} is no file of the sample; remove it")
    return study


def variant(name: str, scale: str | None = None) -> tuple[Ablation, Study]:
    """An ablation of params.yaml, and the Study with its patch; ParamsError names the nearest for an unknown one."""
    raw = read()
    ablations = from_dict(raw, scale).ablations
    chosen = ablations[one_of(name, ablations, "ablation")]
    return chosen, from_dict(chosen.applied(raw), scale)


def from_dict(raw: Any, scale: str | None = None) -> Study:
    """The Study of a params.yaml that is already parsed, of usable numbers; every ablation of it has been tried."""
    params = build(Params, raw)
    name = one_of(params.scale if scale is None else scale, SCALES, "scale")
    precisions = {key: _precision(key, table, params.quantization) for key, table in params.precisions.items()}
    for each in SCALES:
        require(each in params.scales, f"scales lacks {each}")
    study = Study(**vars(params) | {"scale": name, "precisions": precisions, "size": params.scales[name]})
    _check_grid(study)
    _check_claims(study)
    for claim in study.registered:
        _check_registered(claim, study)
    for key, ablation in params.ablations.items():
        _try_ablation(key, ablation, raw)
    return study


def _precision(name: str, table: dict[str, tuple[int, ...]], quantization: Quantization) -> Precision:
    """A row of `precisions`; `edges` overrides the weights of the first and the last layer."""
    if not table:
        return Precision(name, (Bits(),) * len(LAYERS))
    missing = [layer for layer in LAYERS if layer not in table]
    require(not missing, f"precisions.{name} says nothing about {', '.join(missing)}; give every layer its bits")
    for layer, bits in table.items():
        shape = "[weight bits]" if layer == LAYERS[-1] else "[weight bits, activation bits]"
        fits = len(bits) == (1 if layer == LAYERS[-1] else 2)
        require(fits, f"precisions.{name}.{layer} must be {shape}, not {list(bits)}")
    layers = [Bits(*table[layer]) for layer in LAYERS]
    if quantization.edges != "same":
        weight = EDGE_BITS if quantization.edges == "w8" else None
        layers[0], layers[-1] = replace(layers[0], weight=weight), replace(layers[-1], weight=weight)
    return Precision(name, tuple(layers), quantization.rounding)


# ------------------------------------------------------------------------------------- what sections must agree on


def _check_grid(study: Study) -> None:
    for precision in study.grid.precisions:
        one_of(precision, study.precisions, "precision in grid.precisions")
    message = "grid: trainings lacks standard, whose networks decide which fills qualify"
    require("standard" in study.grid.trainings, message)
    for scale, size in study.scales.items():
        missing = [dataset for dataset in study.grid.datasets if dataset not in size.epochs]
        require(not missing, f"scales.{scale}.epochs lacks {', '.join(missing)}, which is in grid.datasets")
    there = IMAGES[study.size.sample]["training"]
    why, calibration = f"there are {there:,} training images", study.quantization.calibration_images
    check_most("optimizer.batch_size", study.optimizer.batch_size, there, why)
    check_most("quantization.calibration_images", calibration, there, why)


def _check_claims(study: Study) -> None:
    """Each can be tested on precisions that are known, and the reference is among those that are run."""
    claims, run = study.claims, study.grid.precisions
    require(0 < claims.level < 1, f"claims.level must lie between 0 and 1, not {claims.level}")
    for name, margin in vars(claims.margins).items():
        require(margin > 0, f"claims.margins.{name} must be above 0, not {margin}")
    for question, column in claims.questions.items():
        one_of(column, COLUMNS, f"column of claims.questions.{question}")
    reference = one_of(claims.reference, study.precisions, "precision in claims.reference")
    message = f"grid.precisions ({', '.join(run)}) lacks {reference}, claims.reference: every claim compares with it"
    require(reference in run, message)
    unique([claim.id for claim in claims.hypotheses], "claims.hypotheses: one id")
    for claim in claims.hypotheses:
        _check_claim(claim, study)


def _check_claim(claim: Claim, study: Study) -> None:
    here, claims, count = f"claim {claim.id}", study.claims, len(claim.precisions)
    one_of(claim.group, GROUPS, f"group in {here}")
    rule = RULES[one_of(claim.test, RULES, f"test in {here}")]
    named = ", ".join(claim.precisions)
    message = f"{here}: the test {claim.test} takes at least {rule.fewest} precisions, not {count} ({named})"
    require(rule.fewest <= count, message)
    message = f"{here}: {claims.reference} is the reference; name the precisions that are compared with it"
    require(rule.reference or claims.reference not in claim.precisions, message)
    unique(claim.precisions, f"{here}: one of the precisions")
    for precision in claim.precisions:
        one_of(precision, study.precisions, f"precision in {here}")
    require(claim.questions != (), f"{here} has no questions")
    for question in claim.questions:
        column = claims.questions[one_of(question, claims.questions, f"question in {here}")]
        message = f"{here}: the test {claim.test} asks about maps, and {question} is not one of them"
        require(rule.accuracy or column != ACCURACY, message)


def _check_registered(claim: Registered, study: Study) -> None:
    """Its precisions are known, and something is expected everywhere. A variant may have been left out of a run."""
    here = f"registered claim {claim.id}"
    for precision in filter(None, (*claim.precisions, claim.against)):
        one_of(precision, study.precisions, f"precision in {here}")
    require("default" in claim.expected, f"{here}: expected lacks default, the word of all other cells")
    for share in ("least", "above"):
        require(0 <= getattr(claim, share) <= 1, f"{here}: {share} must lie between 0 and 1")


def _try_ablation(name: str, ablation: Ablation, raw: dict[str, Any]) -> None:
    """Raise ParamsError unless the patch can be applied and makes a Study that has its cells."""
    try:
        study = from_dict(ablation.applied(raw))
        for cell in ablation.cells:
            study.recipe(cell)
    except ParamsError as error:
        raise ParamsError(f"ablations.{name}: {error}") from None


# ------------------------------------------------------------------------------------------------------ the file


def read(path: Path | None = None) -> Any:
    """params.yaml (or `path`) as plain values, by YAML 1.2, as DVC reads it: 0127 is 127, and `no` a word.

    Raises ParamsError if it cannot be read, is broken, or has a key twice.
    """
    path = path or paths.PARAMS
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParamsError(of_the_system(error)) from None
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, a number or a date that is none
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or last_line(error)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ParamsError(f"{path.name} is not valid YAML: {where}{problem}") from None


def text_of(values: Any) -> str:
    """Plain values as the text of a params.yaml, which `read` reads as the same values."""
    stream, yaml = io.StringIO(), YAML(typ="safe")
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    yaml.dump(values, stream)
    return stream.getvalue()
