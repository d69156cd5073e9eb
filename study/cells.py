"""What is computed for one network, each thing once: trained, scored, deployed. `study.results` writes it by cell.

A cached function (`study.store`) says what of saqlib it calls, for a network that is named by its recipe and seed: so
its key is known before anything is computed, and what it reads it takes from the store, or computes. Every statement of
this module decides all of their keys.
"""

import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import files, models, paths
from study.settings import Ablation, Cell, Recipe, Scoring, Study, require
from study.store import cached

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from saqlib.lenet import LeNet
    from saqlib.training import History

DECIDING = "standard"  # training of the networks that decide on fills: guided ones learn from images with noise in them


def pick_device(device: str) -> str:
    """`cpu` or `cuda`: where to train; `auto` takes a GPU where there is one. ParamsError for a GPU that is missing."""
    import torch

    there = torch.cuda.is_available()
    require(device != "cuda" or there, "device is cuda, but PyTorch sees no GPU here; set it to auto or cpu")
    return "cuda" if there and device != "cpu" else "cpu"


def images_root(sample: bool) -> Path | None:
    """The folder of the images, as `saqlib.data.load` takes it: of the sample, or None, data/ of the checkout."""
    return paths.SAMPLE if sample else None


# ------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Run:
    """One trained network: its weights, what happened while it trained, and its accuracy in percent."""

    seed: int
    state: dict[str, Any]
    history: "History"
    test_accuracy: float
    sample_accuracy: float  # on the test images of the committed sample, where anybody can check it
    computed_by: str  # fused kernels or PyTorch, and the processor's level: what decides rounding

    @property
    def validation_accuracy(self) -> float:
        """After the last epoch."""
        return self.history.epochs[-1]["validation_accuracy"]


@dataclass(frozen=True)
class Trained:
    """The network of a recipe and a seed, whether it is trained yet or not. device: that trains it, cpu or cuda."""

    recipe: Recipe
    seed: int
    device: str

    @property
    def key(self) -> str:
        """What stands for it in the keys of what is computed from it."""
        return train_network.key(self.recipe, self.seed, self.device)

    def run(self) -> Run:
        """It, from the store or trained now."""
        return train_network(self.recipe, self.seed, self.device)

    def network(self) -> "LeNet":
        """It, in evaluation mode."""
        from saqlib.lenet import restore

        return restore(self.recipe.precision, self.recipe.shape, self.run().state)


def trained(cell: Cell, study: Study, seeds: int | None = None) -> list[Trained]:
    """The networks of a cell, one for each seed of the scale, or for so many."""
    recipe, device = study.recipe(cell), pick_device(study.device)
    return [Trained(recipe, seed, device) for seed in range(study.size.seeds if seeds is None else seeds)]


def _data(recipe: Recipe, _: int, device: str) -> list[Any]:
    """What else decides a training: the images, and what computes."""
    from saqlib.kernels import fused

    return [_fingerprint(recipe.dataset, recipe.sample), fused.kind(recipe.shape, device)]


@cache
def _fingerprint(dataset: str, sample: bool) -> dict[str, str]:
    from saqlib import data

    return data.fingerprint(dataset, images_root(sample))


def _run_bytes(run: Run) -> bytes:
    return files.torch_bytes(vars(run) | {"history": asdict(run.history)})


def _run(content: bytes) -> Run:
    from saqlib.training import History

    values = files.from_torch_bytes(content)
    return Run(**values | {"history": History(**values["history"])})


@cached("warmed", code=("saqlib.training",), read=files.from_torch_bytes, write=files.torch_bytes, also=_data)
def warm_up_network(recipe: Recipe, seed: int, device: str) -> dict[str, Any]:
    """The end of the warm-up that every precision of a seed shares. recipe: of full precision, `Recipe.warm_up`."""
    from saqlib.training import warm_up

    (network,), images, options = _training(recipe, [seed], device)
    return warm_up(network, images, seed=seed, **options)


@cached("trained", code=("saqlib.training",), read=_run, write=_run_bytes, also=_data)
def train_network(recipe: Recipe, seed: int, device: str) -> Run:
    """One network trained; DivergedError, which names cell, seed and epoch, if a loss is not finite."""
    start = warm_up_network(recipe.warm_up, seed, device) if recipe.warm_up else None
    return _trained_runs(recipe, [seed], device, start)[0]


def train_together(recipe: Recipe, seeds: Sequence[int], device: str) -> None:
    """Train those of these seeds that the store lacks as one batched network, as a GPU does fastest."""
    missing = [seed for seed in seeds if not train_network.exists(recipe, seed, device)]
    for run in _trained_runs(recipe, missing, device, None) if missing else ():
        train_network.write(run, recipe, run.seed, device)


def _trained_runs(recipe: Recipe, seeds: list[int], device: str, start: dict[str, Any] | None) -> list[Run]:
    from saqlib import data, training
    from saqlib.kernels import fused

    def report(seed: int, history: "History") -> None:
        files.write(progress_file(recipe, seed, device), files.torch_bytes(asdict(history)))

    networks, images, options = _training(recipe, seeds, device)
    options |= {"quantization": recipe.quantization, "start": start, "on_progress": report}
    try:
        histories = training.train_together(networks, images, seeds=seeds, **options)
    except training.DivergedError as error:
        raise training.DivergedError(f"{recipe.cell}, {error}") from None
    tests = [data.load(recipe.dataset, "test", images_root(sample)) for sample in (recipe.sample, True)]
    runs = []
    for seed, network, history in zip(seeds, networks, histories, strict=True):
        accuracies = [training.accuracy(network, *(each.to(device) for each in test)) for test in tests]
        state = {name: value.clone().cpu() for name, value in network.state_dict().items()}
        runs.append(Run(seed, state, history, *accuracies, fused.kind(recipe.shape, device)))
        progress_file(recipe, seed, device).unlink(missing_ok=True)
    return runs


def _training(recipe: Recipe, seeds: list[int], device: str) -> tuple[list, Any, dict[str, Any]]:
    """The networks before their first step, the images, and the options that a warm-up has, too."""
    from saqlib import data
    from saqlib.lenet import build
    from saqlib.training import Images, Watch

    splits = [data.load(recipe.dataset, split, images_root(recipe.sample)) for split in ("train", "validation")]
    images = Images(*(each.to(device) for split in splits for each in split))
    networks = [build(recipe.precision, shape=recipe.shape, seed=seed).to(device) for seed in seeds]
    first = watched(images.validation_labels)
    watch = Watch(images.validation[first], images.validation_labels[first], recipe.records)
    options = {name: getattr(recipe, name) for name in ("epochs", "optimizer", "warmup_epochs", "guided")}
    return networks, images, options | {"watch": watch if seeds[0] == 0 else None}


def watched(labels: Any) -> Any:
    """The places of the images whose maps are recorded while seed 0 trains: of the validation split one a class."""
    import torch

    return torch.stack([(labels == label).nonzero()[0, 0] for label in range(10)])


def progress_file(recipe: Recipe, seed: int, device: str) -> Path:
    """What has happened so far to a seed that still trains; gone once it is trained."""
    return train_network.path(recipe, seed, device).with_suffix(".progress")


def history(recipe: Recipe, seed: int, device: str) -> "History | None":
    """How far a seed is; None before its first record."""
    from saqlib.training import History

    try:
        return History(**files.read(progress_file(recipe, seed, device), files.from_torch_bytes))
    except (OSError, files.DamagedError, TypeError):  # none, or not to be read: what it shows decides nothing
        run = train_network.read(recipe, seed, device)
        return run.history if run else None


# -------------------------------------------------------------------------------------------- scores, deployment


def _json(values: Any) -> bytes:
    return json.dumps(values).encode()


def _frame(content: bytes) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_csv(io.BytesIO(content))


@cached("fills", code=("saqlib.scoring",), read=json.loads, write=_json)
def fill_gains(trained: Trained, scoring: Scoring) -> dict[str, list[float]]:
    """A reference network's part in the decision on fills: the gains of its map and of the bare image, by fill."""
    from saqlib.scoring import fill_gains

    return fill_gains(trained.recipe.dataset, scoring, trained.network())


@cached("scored", code=("saqlib.scoring",), read=files.from_dataset_bytes, write=files.dataset_bytes)
def score_network(
    trained: Trained, scoring: Scoring, fp32_twin: Trained | None, other_seed: Trained | None
) -> "xr.Dataset":
    """All scores of one network. fp32_twin, other_seed: whose maps are scored beside its own, under these names."""
    from saqlib.scoring import score_network

    others = {"fp32_twin": fp32_twin and fp32_twin.network(), "other_seed": other_seed and other_seed.network()}
    return score_network(trained.recipe.dataset, scoring, trained.seed, trained.network(), others)


@cached("summary", code=("saqlib.scoring",), read=json.loads, write=_json)
def summary_scores(trained: Trained, scoring: Scoring, methods: tuple[str, ...]) -> dict[str, float]:
    """The scores of one network's own maps, as means over the images: what an ablation asks for."""
    from saqlib.scoring import summary_scores

    return summary_scores(trained.network(), trained.recipe.dataset, scoring, methods)


@cached("curves", code=("saqlib.scoring",), read=_frame, write=lambda frame: files.csv(frame).encode())
def curves_of(trained: Trained, scoring: Scoring) -> "pd.DataFrame":
    """Accuracy and scores at each step at which the network of seed 0 was recorded while it trained."""
    from saqlib.scoring import training_curves

    recorded = trained.run().history
    networks = models.at_steps(trained.recipe.precision, trained.recipe.shape, vars(recorded))
    return training_curves(networks, trained.recipe.dataset, scoring, recorded.switch)


@cached("deployed", code=("saqlib.deploy.check",), read=files.from_torch_bytes, write=files.torch_bytes)
def deploy_network(trained: Trained, images: int) -> dict[str, Any]:
    """A network as ONNX files, checked on so many test images: `row` of the table, and `files`, bytes by name."""
    import torch

    from saqlib import data
    from saqlib.deploy.check import report

    cell, sample = trained.recipe.cell, trained.recipe.sample
    pixels, _ = data.load(cell.dataset, "test", images_root(sample))
    with tempfile.TemporaryDirectory() as folder:
        row = report(trained.network(), cell.dataset, cell.precision, cell.training, Path(folder), pixels[:images])
        contents = {each.name: each.read_bytes() for each in sorted(Path(folder).iterdir())}
    tensors = {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in contents.items()}
    return {"row": row, "files": tensors}


# --------------------------------------------------------------------------------------- the calls for many networks


def fill_calls(dataset: str, study: Study) -> list[tuple]:
    """What `fill_gains` is called with for the decision on a dataset's fills: by the seeds that explore."""
    deciding = trained(Cell(dataset, study.claims.reference, DECIDING), study, study.size.exploring)
    return [(each, study.scoring) for each in deciding]


def curves_call(cell: Cell, study: Study) -> tuple:
    """What `curves_of` is called with for a cell: seed 0 was recorded while it trained."""
    return trained(cell, study, 1)[0], study.scoring


def ablation_calls(ablation: Ablation, study: Study) -> list[tuple]:
    """What `summary_scores` is called with for an ablation; study: with its patch."""
    seeds = ablation.seeds_at(study.size)
    networks = [trained(cell, study, seeds.stop)[seeds.start :] for cell in ablation.cells if seeds]
    return [(each, study.scoring, ablation.methods) for of_cell in networks for each in of_cell]


def score_calls(cell: Cell, study: Study) -> list[tuple]:
    """What `score_network` is called with for a cell, seed by seed."""
    reference, own = Cell(cell.dataset, study.claims.reference, cell.training), trained(cell, study)
    twins = [None] * len(own) if cell == reference else trained(reference, study)
    partners = [partner(seed, len(own)) for seed in range(len(own))]
    others = [None if each is None else own[each] for each in partners]
    return [(network, study.scoring, *both) for network, *both in zip(own, twins, others, strict=True)]


def partner(seed: int, seeds: int) -> int | None:
    """The seed of the same cell whose maps are scored beside this one's: 0 and 1, 2 and 3, ... have each other.

    So an even number of seeds that explore share nothing with those that confirm. The last of an odd number has the one
    before it, a single one has none.
    """
    other = seed ^ 1 if seed ^ 1 < seeds else seed - 1
    return other if other >= 0 else None


def deploy_call(cell: Cell, study: Study, seed: int = 0) -> tuple:
    """What `deploy_network` is called with for a cell and the seed that is deployed."""
    return trained(cell, study)[seed], study.size.images_deployed
