"""The list of tasks, made from a study: what is to be done for each of its networks, and what each needs first."""

from dataclasses import asdict, replace
from pathlib import Path

from saqlib import store
from saqlib.clarity.qualifying import TRAINING
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.network import fused
from saqlib.pipeline import ablate
from saqlib.pipeline.ablations import Ablation
from saqlib.pipeline.kinds import Brief, Deploy, Fills, Score, Task, Train, Trained
from saqlib.pipeline.study import Study
from saqlib.training import seed as training
from saqlib.training.settings import Recipe

# Seconds on one core of a machine of 2025, of which only the ratios matter: they decide what begins first.
EPOCH, GUIDED, QUANTIZED = 5.8, 2.8, 1.24  # of all images; factors
SCORED, DEPLOYED, PART = 19 / 2000, 21 / 10_000, 0.2  # an image; the share of a score in brief
SAMPLE = 0.02  # of all images, about


class Listing:
    """Collects tasks; a network that several studies share is trained once."""

    def __init__(self, settings: Study):
        self.settings = settings
        self.device = settings.engine.pick_device().type
        sample = settings.size.sample
        self.fingerprints = {name: data.fingerprint(name, sample=sample) for name in settings.grid.datasets}
        self.places: dict[tuple[Cell, str], training.Place] = {}
        self.trains: dict[Path, Train] = {}
        self.others: dict[Path, Task] = {}  # all that is no training, by its mark

    def tasks(self) -> list[Task]:
        """All of them, as they had better begin."""
        warmed: set[Path] = set()
        first = sorted(dict.fromkeys(self.trains.values()), key=self._rank)
        trains = []
        for task in first:
            warm = {task.place.warm_up(seed) for seed in task.seeds} if task.place.warmed and not task.gpu else set()
            leads = warm - warmed
            trains.append(replace(task, leaves=(*task.leaves, *leads), after=tuple(warm & warmed)))
            warmed |= warm
        leading = [task for task in trains if len(task.leaves) > len(task.marks)]
        rest = [task for task in trains if len(task.leaves) == len(task.marks)] + [*self.others.values()]
        return leading + sorted(rest, key=lambda task: -task.seconds)

    def _rank(self, task: Train) -> tuple:
        """Networks that decide on fills, then full precision, then the longest."""
        decides = task.cell.precision == self.settings.claims.reference and task.cell.training == TRAINING
        return not decides or bool(task.variant), task.recipe.quantization is not None, -task.seconds

    # ------------------------------------------------------------------------------------------------- studies

    def grid(self) -> None:
        """The main grid: trained, scored, deployed, and the decisions on fills."""
        settings, seeds = self.settings, range(self.settings.size.seeds)
        for cell in settings.grid.cells:
            self._train(cell, settings, len(seeds), "")
        decided = {dataset: self._fills(dataset) for dataset in settings.grid.datasets}
        for cell in settings.grid.cells:
            reference = Cell(cell.dataset, settings.claims.reference, cell.training)
            networks, others = ([self._trained(each, seed) for seed in seeds] for each in (cell, reference))
            self._scores(cell, networks, others, decided[cell.dataset])
            self._deploy(cell, networks[0])

    def ablation(self, name: str, ablation: Ablation, settings: Study) -> None:
        """A variant: what it changes is trained, and all of it scored in brief."""
        size = settings.size
        count = ablation.seeds_at(size)
        for cell in ablation.cells:
            recipe = settings.recipe(cell)
            self._train(cell, settings, count, name)
            folder = ablate.kept_in(recipe, settings.scoring, self.device)
            place, seconds = self._place(cell, recipe, name), PART * SCORED * size.images
            for seed in range(count):
                trained, marks = Trained(recipe, place, seed), (folder / f"{seed}.json",)
                common = (cell, (seed,), name, marks, (trained.file,), (), marks, seconds)
                self._add(Brief(*common, scoring=settings.scoring, trained=trained))

    # --------------------------------------------------------------------------------------------------- kinds

    def _train(self, cell: Cell, settings: Study, seeds: int, variant: str) -> None:
        recipe = settings.recipe(cell)
        place, gpu = self._place(cell, recipe, variant), self.device == "cuda"
        share = SAMPLE if recipe.sample else 1
        seconds = EPOCH * share * recipe.epochs * (GUIDED if recipe.guided else 1)
        seconds *= QUANTIZED if recipe.quantization else 1
        for some in [tuple(range(seeds))] if gpu else [(seed,) for seed in range(seeds)]:
            marks = tuple(place.run(seed) for seed in some)
            if not set(marks) <= self.trains.keys():
                task = Train(cell, some, variant, marks, (), (), marks, seconds * len(some), gpu,
                             recipe=recipe, place=place, device=self.device)  # fmt: skip
                self.trains |= dict.fromkeys(marks, task)

    def _trained(self, cell: Cell, seed: int) -> Trained:
        recipe = self.settings.recipe(cell)
        return Trained(recipe, self._place(cell, recipe, ""), seed)

    def _place(self, cell: Cell, recipe: Recipe, variant: str) -> training.Place:
        if (cell, variant) not in self.places:  # reading the sample for its hashes takes longer than anything else
            self.places[cell, variant] = training.place(recipe, self.device)
        return self.places[cell, variant]

    def _fills(self, dataset: str) -> tuple[Path, ...]:
        """The decision on a dataset's fills; the files that say that it has all that it rests on."""
        settings, every = self.settings, ()
        cell = Cell(dataset, settings.claims.reference, TRAINING)
        for seed in range(settings.size.seeds):
            trained = self._trained(cell, seed)
            marks = self._marks("saqlib.clarity.fill_gains", [asdict(settings.scoring)], cell, seed, [trained])
            seconds = PART * SCORED * settings.size.images
            common = (cell, (seed,), "", marks, (trained.file,), (), marks, seconds)
            self._add(Fills(*common, scoring=settings.scoring, trained=trained))
            every += marks
        return every

    def _scores(self, cell: Cell, networks: list[Trained], others: list[Trained], decided: tuple[Path, ...]) -> None:
        settings = self.settings
        is_reference = cell.precision == settings.claims.reference
        for seed, trained in enumerate(networks):
            neighbour = others[(seed + 1) % len(others)] if is_reference else None
            likened = {"preservation": others[seed], "seed_to_seed": neighbour}
            all_of_them = [trained, *filter(None, likened.values())]
            marks = self._marks("saqlib.clarity.seed", [asdict(settings.scoring)], cell, seed, all_of_them)
            needs = (*dict.fromkeys(each.file for each in all_of_them), *decided)
            common = (cell, (seed,), "", marks, needs, (), marks, SCORED * settings.size.images)
            self._add(Score(*common, scoring=settings.scoring, trained=trained, likened=tuple(likened.items())))

    def _deploy(self, cell: Cell, trained: Trained) -> None:
        size = self.settings.size
        marks = self._marks("saqlib.deployment.seed", [size.images_deployed], cell, 0, [trained])
        common = (cell, (0,), "", marks, (trained.file,), (), marks, DEPLOYED * size.images_deployed)
        self._add(Deploy(*common, sample=size.sample, images=size.images_deployed, trained=trained))

    def _add(self, task: Task) -> None:
        """What two ablations ask for, such as the scores of a network that neither changes, is done once."""
        self.others.setdefault(task.marks[0], task)

    def _marks(self, module: str, decides: list, cell: Cell, seed: int, networks: list[Trained]) -> tuple[Path, ...]:
        """A file named by all that decides a result before there are networks: what they are trained by."""
        keys = [each.file.relative_to(each.place.trained.parent).as_posix() for each in networks]
        kind = fused.kind(self.settings.shape, "cpu")
        key = store.key(module, *decides, str(cell), self.fingerprints[cell.dataset], kind, keys)
        return (store.folder("named", key) / f"{seed}.txt",)
