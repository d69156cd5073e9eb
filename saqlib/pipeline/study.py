"""The whole of params.yaml, checked: every section of it, and what a cell of the grid reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saqlib import params
from saqlib.clarity.settings import Clarity, Scoring
from saqlib.datasets import DATASETS
from saqlib.evidence.settings import Claims, claims
from saqlib.grid import SCALES, TRAININGS, Cell, Grid, Scale
from saqlib.network.settings import Precision, Quantization, Shape, precisions
from saqlib.params import ParamsError, one_of, require
from saqlib.pipeline import ablations, limits
from saqlib.pipeline.ablations import Ablation
from saqlib.training.settings import Guided, Optimizer, Recipe
from saqlib.workers import Engine

SECTIONS = ("scale", "grid", "network", "precisions", "quantization", "optimizer", "trainings", "clarity", "ablations",
            "device", "scales", "claims")  # fmt: skip


@dataclass(frozen=True)
class Study:
    """The whole experiment at one scale. Precisions are resolved per layer, edges included."""

    scale: str
    grid: Grid
    shape: Shape
    precisions: dict[str, Precision]
    quantization: Quantization
    optimizer: Optimizer
    guided: Guided
    clarity: Clarity
    engine: Engine
    size: Scale
    claims: Claims
    ablations: dict[str, Ablation]

    def cell(self, dataset: str, precision: str, training: str) -> Cell:
        """The cell of three names; ParamsError with the nearest valid name for one that is not in the grid."""
        one_of(dataset, self.grid.datasets, "dataset")
        one_of(precision, self.precisions, "precision")
        one_of(training, self.grid.trainings, "training")
        return Cell(dataset, precision, training)

    def recipe(self, cell: Cell) -> Recipe:
        """How a cell is trained: the settings that it reads, and no others."""
        precision = self.precisions[one_of(cell.precision, self.precisions, "precision")]
        return Recipe(
            dataset=cell.dataset,
            precision=precision,
            shape=self.shape,
            optimizer=self.optimizer,
            epochs=self.size.epochs[one_of(cell.dataset, self.size.epochs, "dataset")],
            warmup_epochs=self.size.warmup_epochs,
            quantization=self.quantization if precision.quantized else None,
            guided=self.guided if one_of(cell.training, TRAININGS, "training") == "guided" else None,
            records=self.size.records,
            sample=self.size.sample,
        )

    @property
    def scoring(self) -> Scoring:
        """How the maps of every cell are scored."""
        return Scoring(
            clarity=self.clarity,
            reference=self.claims.reference,
            images=self.size.images,
            images_expensive=self.size.images_expensive,
            calibration_images=self.quantization.calibration_images,
            sample=self.size.sample,
        )


def load(path: Path | None = None, scale: str | None = None) -> Study:
    """Read params.yaml (or `path`), at its own scale or at `scale`; ParamsError for anything that is not usable."""
    return from_dict(params.read(path), scale)


def variant(name: str, scale: str | None = None) -> tuple[Ablation, Study]:
    """An ablation of params.yaml, and the Study with its patch; ParamsError names the nearest for an unknown one."""
    raw = params.read()
    there = ablations.read(raw)
    chosen = there[one_of(name, there, "ablation")]
    return chosen, from_dict(chosen.applied(raw), scale)


def from_dict(raw: Any, scale: str | None = None) -> Study:
    """The Study of a params.yaml that is already parsed, of usable numbers; every ablation of it has been tried."""
    params.check_keys(raw, SECTIONS, "params.yaml")
    name = one_of(raw["scale"] if scale is None else scale, SCALES, "scale")
    grid = params.build(Grid, raw["grid"], "grid")
    require("standard" in grid.trainings, "grid.trainings lacks standard, whose networks decide which fills qualify")
    quantization = params.build(Quantization, raw["quantization"], "quantization")
    there = precisions(raw["precisions"], quantization.edges)
    for precision in grid.precisions:
        one_of(precision, there, "precision in grid.precisions")
    study = Study(
        scale=name,
        grid=grid,
        shape=params.build(Shape, raw["network"], "network"),
        precisions=there,
        quantization=quantization,
        optimizer=params.build(Optimizer, raw["optimizer"], "optimizer"),
        guided=_guided(raw["trainings"]),
        clarity=params.build(Clarity, raw["clarity"], "clarity"),
        engine=Engine(raw["device"]),
        size=_sizes(raw["scales"], grid)[name],
        claims=claims(raw["claims"], there, grid.precisions),
        ablations=_ablations(raw),
    )
    limits.check(study)
    return study


def _ablations(raw: Any) -> dict[str, Ablation]:
    """Every ablation, after its patch has made a Study that has its cells."""
    found = ablations.read(raw)
    for name, ablation in found.items():
        try:
            study = from_dict(ablation.applied(raw))
            for cell in ablation.cells:
                study.recipe(cell)
        except ParamsError as error:
            raise ParamsError(f"ablations.{name}: {error}") from None
    return found


def _guided(raw: Any) -> Guided:
    """The section `trainings`: standard training has no settings of its own."""
    params.check_keys(raw, TRAININGS, "trainings")
    params.check_keys(raw["standard"], (), "trainings.standard")
    return params.build(Guided, raw["guided"], "trainings.guided")


def _sizes(raw: Any, grid: Grid) -> dict[str, Scale]:
    """Every scale of the section `scales`, each with epochs for the datasets of the grid."""
    params.check_keys(raw, SCALES, "scales")
    sizes = {}
    for name in SCALES:
        try:
            sizes[name] = params.build(Scale, raw[name], f"scales.{name}")
        except ParamsError as error:  # a scale knows its fields only, and there are several
            raise ParamsError(str(error) if f"scales.{name}" in str(error) else f"scales.{name}.{error}") from None
        for dataset in sizes[name].epochs:
            one_of(dataset, DATASETS, f"dataset in scales.{name}.epochs")
        missing = [dataset for dataset in grid.datasets if dataset not in sizes[name].epochs]
        require(not missing, f"scales.{name}.epochs lacks {', '.join(missing)}, which is in grid.datasets")
    return sizes
