"""One cell of the grid: every seed trained in a worker process of its own, one thread each; on a GPU all at once.

A seed's numbers do not depend on how many workers there are. A finished seed is kept in build/seeds until its cell is
saved, so a killed run goes on where it stopped.
"""

import hashlib
import io
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import torch
from torch import Tensor, nn

from saqlib import config, data, files, model, paths, training
from saqlib.config import Cell, Config
from saqlib.memory import keep_freed_memory

WATCHED = 10  # validation images, one a class, whose maps are recorded while seed 0 trains
POLL_SECONDS = 0.5
CODE = ("quantization", "convolution", "saliency", "config", "data", "model", "side_by_side", "training", "experiment")


class ModelFileError(ValueError):
    """A model file is missing or was not written by this project."""


@dataclass(frozen=True)
class Run:
    """One trained network: its weights, what happened while it trained, and its accuracy in percent."""

    seed: int
    state: dict[str, Tensor]
    history: training.History
    validation_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Progress:
    """Where a cell stands: the history of each seed that has started, and how many epochs each will have."""

    histories: dict[int, training.History]
    seeds: int
    epochs: int


def workers(seeds: int) -> int:
    """One worker a core that this process may use (LOKY_MAX_CPU_COUNT), no more than there are seeds, at least one."""
    return max(1, min(joblib.cpu_count(), seeds))


def pick_device(settings: Config) -> torch.device:
    """The device of params.yaml; `auto` takes a GPU where there is one. ConfigError for a GPU that is not there."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise config.ConfigError("device is cuda, but PyTorch sees no GPU here; set it to auto or cpu")
    return torch.device(settings.device)


def parallel(task: Callable[..., Any], jobs: list[tuple], settings: Config, n_jobs: int | None = None) -> list[Any]:
    """Run `task(*job)` for every job, each in one thread of a worker process (or on a Ray cluster), in order."""
    calls = [joblib.delayed(_in_one_thread)(task, *job) for job in jobs]
    if settings.executor == "ray":
        from ray.util.joblib import register_ray

        register_ray()
        with joblib.parallel_config("ray"):
            return joblib.Parallel()(calls)
    return joblib.Parallel(n_jobs=n_jobs or workers(len(jobs)))(calls)


def _in_one_thread(task: Callable[..., Any], *arguments: Any) -> Any:
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return task(*arguments)
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------- training


def train_cell(
    cell: Cell,
    settings: Config,
    *,
    n_jobs: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Run]:
    """Train every seed of a cell, or take up the seeds that an earlier, killed call has finished.

    n_jobs: worker processes, one a core when None; the result is the same for any number. on_progress is called about
    twice a second while seeds train. Raises DivergedError, naming cell, seed and epoch, if a loss is not finite.
    """
    seeds = list(range(settings.size.seeds))
    folder = _seed_folder(cell, settings)
    folder.mkdir(parents=True, exist_ok=True)
    todo = [seed for seed in seeds if not _run_file(folder, seed).exists()]
    together = [todo] if pick_device(settings).type == "cuda" and todo else [[seed] for seed in todo]
    with _watching(folder, settings, cell, on_progress):
        parallel(_train_seeds, [(cell, settings, some, folder) for some in together], settings, n_jobs)
    return [torch.load(_run_file(folder, seed), weights_only=False) for seed in seeds]


def _train_seeds(cell: Cell, settings: Config, seeds: list[int], folder: Path) -> None:
    """Train these seeds, several as one batched network, and keep what came out."""
    device = pick_device(settings)
    splits = {split: _on(device, cell, split, settings) for split in ("train", "validation", "test")}
    images = training.Images(*splits["train"], *splits["validation"])
    precision, shape = settings.precisions[cell.precision], settings.network
    networks = [model.build(precision, network=shape, seed=seed).to(device) for seed in seeds]
    try:
        histories = training.train_together(
            networks,
            images,
            seeds=seeds,
            epochs=settings.epochs(cell.dataset),
            warmup_epochs=settings.size.warmup_epochs,
            settings=settings.training,
            guided=settings.guided if cell.training == "guided" else None,
            watch=_watch(images, settings.size.records) if seeds[0] == 0 else None,
            on_progress=lambda seed, history: _write(history, folder / f"{seed}.progress"),
        )
    except training.DivergedError as error:
        raise training.DivergedError(f"{cell}, {error}") from None
    for seed, network, history in zip(seeds, networks, histories, strict=True):
        run = Run(
            seed=seed,
            state={name: value.clone().cpu() for name, value in network.state_dict().items()},
            history=history,
            validation_accuracy=history.epochs[-1]["validation_accuracy"],
            test_accuracy=training.accuracy(network, *splits["test"]),
        )
        _write(run, _run_file(folder, seed))


def _on(device: torch.device, cell: Cell, split: str, settings: Config) -> tuple[Tensor, Tensor]:
    """Images and labels of a split, all in the memory of the device."""
    images, labels = data.load(cell.dataset, split, sample=settings.size.sample)
    return images.to(device), labels.to(device)


def _watch(images: training.Images, records: int) -> training.Watch:
    """The first validation image of each class."""
    first = torch.stack([(images.validation_labels == label).nonzero()[0, 0] for label in range(WATCHED)])
    return training.Watch(images.validation[first], images.validation_labels[first], records)


def _seed_folder(cell: Cell, settings: Config) -> Path:
    """Named by everything that decides a seed's result, so that a changed number or line of code starts anew."""
    decides = [str(cell), asdict(settings.network), asdict(settings.precisions[cell.precision])]
    decides += [asdict(settings.training), asdict(settings.guided), asdict(settings.size)]
    sources = "".join((paths.ROOT / "saqlib" / f"{name}.py").read_text() for name in CODE)
    key = hashlib.sha256((json.dumps(decides) + sources).encode()).hexdigest()[:16]
    return paths.BUILD / "seeds" / f"{cell}-{key}"


def _run_file(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.pt"


def _write(value: Any, path: Path) -> None:
    """torch.save, whole or not at all: a reader never sees half a file."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    files.write(path, buffer.getvalue())


class _watching:
    """Calls on_progress from a thread while the workers train; the histories come through files, from any machine."""

    def __init__(self, folder: Path, settings: Config, cell: Cell, on_progress: Callable[[Progress], None] | None):
        self.folder, self.on_progress = folder, on_progress
        self.seeds, self.epochs = settings.size.seeds, settings.epochs(cell.dataset)
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> None:
        if self.on_progress:
            self.thread.start()

    def __exit__(self, *_: Any) -> None:
        if self.on_progress:
            self.done.set()
            self.thread.join()
            self._report()

    def _poll(self) -> None:
        while not self.done.wait(POLL_SECONDS):
            self._report()

    def _report(self) -> None:
        found = {int(path.stem): path for path in sorted(self.folder.glob("*.progress"))}
        histories = {seed: torch.load(path, weights_only=False) for seed, path in found.items()}
        self.on_progress(Progress(histories, self.seeds, self.epochs))


# ---------------------------------------------------------------------------------------------- saved cells


def save_cell(cell: Cell, runs: list[Run], settings: Config, root: Path = paths.ROOT) -> None:
    """Write what a trained cell leaves behind, under `root`.

    models/<cell>.pt: every seed, with the maps recorded during training. results/models/<cell>.pt: seed 0 alone.
    results/runs/<cell>.json: accuracies and histories.
    """
    common = {
        "cell": str(cell),
        "precision": asdict(settings.precisions[cell.precision]),
        "network": asdict(settings.network),
    }
    states = {run.seed: run.state for run in runs}
    first = runs[0].history
    record = {
        "steps": torch.tensor(first.steps),
        "images": _recorded_images(cell, settings),
        "maps": torch.stack(first.maps),
    }
    _write(common | {"seeds": states, "record": record}, root / "models" / f"{cell}.pt")
    _write(common | {"seeds": {0: states[0]}}, root / "results" / "models" / f"{cell}.pt")
    report = {"cell": str(cell), "seeds": {str(run.seed): _report(run) for run in runs}}
    files.write(root / "results" / "runs" / f"{cell}.json", json.dumps(report, indent=1) + "\n")
    shutil.rmtree(_seed_folder(cell, settings), ignore_errors=True)


def _recorded_images(cell: Cell, settings: Config) -> Tensor:
    validation = data.load(cell.dataset, "validation", sample=settings.size.sample)
    return _watch(training.Images(*validation, *validation), settings.size.records).images


def _report(run: Run) -> dict[str, Any]:
    epochs = [_rounded(epoch) for epoch in run.history.epochs]
    return {
        "test_accuracy": round(run.test_accuracy, 4),
        "validation_accuracy": round(run.validation_accuracy, 4),
        "history": epochs,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def read_cell(path: Path) -> dict[str, Any]:
    """The contents of a model file; ModelFileError if it is missing or not one of ours."""
    if not path.exists():
        raise ModelFileError(f"{path} does not exist; train the cell first (dvc repro train@{path.stem})")
    try:
        content = torch.load(path, weights_only=True)
    except Exception:  # torch.load raises whatever the foreign bytes lead it to, in paragraphs
        raise ModelFileError(f"{path} is not a model file of this project, or not a whole one") from None
    if not isinstance(content, dict) or not {"cell", "precision", "network", "seeds"} <= content.keys():
        raise ModelFileError(f"{path} is not a model file of this project: it holds no cell")
    return content


def restore(content: dict[str, Any], seed: int) -> nn.Module:
    """The network of one seed of a model file, in evaluation mode; ModelFileError if it has no such seed."""
    if seed not in content["seeds"]:
        raise ModelFileError(f"{content['cell']} holds seeds {sorted(content['seeds'])}, not {seed}")
    layers = tuple(config.Bits(**bits) for bits in content["precision"]["layers"])
    precision = config.Precision(content["precision"]["name"], layers)
    network = config.Network(**{name: tuple(widths) for name, widths in content["network"].items()})
    restored = model.build(precision, network=network)
    restored.eval()
    restored.load_state_dict(content["seeds"][seed])
    return restored


def load_model(cell: Cell | str, seed: int, root: Path = paths.ROOT) -> nn.Module:
    """The trained network of a cell and seed, in evaluation mode.

    From models/<cell>.pt, which holds every seed once the cell was trained here, else from results/models/<cell>.pt,
    which holds seed 0. Raises ModelFileError if there is no such file, it is not one of ours, or it lacks the seed.
    """
    file = f"{Cell.parse(str(cell))}.pt"
    local = root / "models" / file
    return restore(read_cell(local if local.exists() else root / "results" / "models" / file), seed)
