"""What a cell, a dataset or an ablation leaves under a root: models/, scores/ and results/.

Every function trains and scores what the store lacks, on all cores, and writes; so none needs another one before it.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import cells, files, models, paths, processes, settings, tasks
from study.cells import Run, Trained
from study.settings import Cell, Study, one_of
from study.store import Cached
from study.tasks import Job

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from saqlib.training import History

POLL_SECONDS = 0.5
KEYS = ["dataset", "precision", "training", "seed", "changed"]  # of the table of an ablation


@dataclass(frozen=True)
class Progress:
    """Where a cell stands: the history of each seed that has started, and how many epochs each will have."""

    histories: "dict[int, History]"
    seeds: int
    epochs: int


def train_cell(
    cell: Cell, study: Study, root: Path = paths.ROOT, *, on_progress: Callable[[Progress], None] | None = None
) -> list[Run]:
    """Train every seed of a cell and write it; the networks.

    Writes models/<cell>.pt, every seed with the maps recorded during training, and results/runs/<cell>.json, accuracies
    and histories.

    Args:
        cell, study: what to train; on a GPU all seeds at once. The numbers hang on the kind of device alone.
        root: where to write.
        on_progress: called about twice a second while seeds train.

    Raises:
        DivergedError: a loss is not finite; the message names cell, seed and epoch.
    """
    import torch

    from saqlib import data

    networks = cells.trained(cell, study)
    with _watching(networks, on_progress):
        _train(networks)
    recipe, runs = networks[0].recipe, [network.run() for network in networks]
    first = runs[0].history
    images, labels = data.load(recipe.dataset, "validation", cells.images_root(recipe.sample))
    record = {
        "steps": torch.tensor(first.steps),
        "images": images[cells.watched(labels)],
        "maps": torch.stack(first.maps),
        "states": first.states,
        "switch": first.switch,
    }
    models.write_cell(recipe, {run.seed: run.state for run in runs}, record, root)
    report = {"cell": str(cell), "computed_by": runs[0].computed_by, "switch": first.switch}
    report["seeds"] = {str(run.seed): _report(run) for run in runs}
    files.write(root / "results" / "runs" / f"{cell}.json", json.dumps(report, indent=1) + "\n")
    return runs


def _report(run: Run) -> dict[str, Any]:
    names = ("test_accuracy", "validation_accuracy", "sample_accuracy")
    accuracies = {name: round(getattr(run, name), 4) for name in names}
    biases = run.state.get("conv1.bias")  # where an image is blank, these speak; the second network has none
    positive = {"positive_biases": None if biases is None else int((biases > 0).sum())}
    return accuracies | positive | {"history": [_rounded(epoch) for epoch in run.history.epochs]}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value


# ------------------------------------------------------------------------------------------- what the store lacks


def _all(function: Cached, calls: Iterable[tuple]) -> list[Any]:
    """The results of a cached function for each of these arguments, networks among which are trained first."""
    calls = list(calls)
    _train(each for call in calls for each in call if isinstance(each, Trained))
    _compute([tasks.job_of(function, call) for call in calls])
    return [function(*call) for call in calls]


def _train(networks: Iterable[Trained]) -> None:
    missing = (each for each in networks if not cells.train_network.exists(each.recipe, each.seed, each.device))
    for jobs in tasks.trainings(missing):
        _compute(jobs)


def _compute(jobs: Iterable[Job]) -> None:
    """Do what the store lacks of these jobs, side by side."""
    processes.run_all(Job.run, [(job,) for job in jobs if not job.done])


@contextmanager
def _watching(networks: list[Trained], on_progress: Callable[[Progress], None] | None) -> Iterator[None]:
    """Calls on_progress from a thread while workers train; the histories come through files, from any machine."""
    if on_progress is None:
        yield
        return
    done = threading.Event()

    def report() -> None:
        histories = {each.seed: cells.history(each.recipe, each.seed, each.device) for each in networks}
        started = {seed: history for seed, history in histories.items() if history}
        on_progress(Progress(started, len(networks), networks[0].recipe.epochs))

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            report()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        report()


# --------------------------------------------------------------------------------------------------------- scores


def decide_fills(dataset: str, study: Study, root: Path = paths.ROOT) -> "pd.DataFrame":
    """Decide on validation images which fills qualify; the decision, a row for each fill (`saqlib.scoring.qualify`).

    Writes it to results/fills/<dataset>.csv, and what it rests on, the gains of each reference network, to
    <dataset>_seeds.csv.
    """
    import pandas as pd

    from saqlib.scores import FILLS
    from saqlib.scoring import qualify

    calls = cells.fill_calls(one_of(dataset, study.grid.datasets, "dataset"), study)
    gains = _all(cells.fill_gains, calls)
    tables = [pd.DataFrame({"seed": seed, "fill": list(FILLS)} | each) for seed, each in enumerate(gains)]
    table = pd.concat(tables, ignore_index=True)
    decision, folder = qualify(table), root / "results" / "fills"
    files.write(folder / f"{dataset}_seeds.csv", files.csv(table))
    files.write(folder / f"{dataset}.csv", files.csv(decision))
    return decision


def score_cell(cell: Cell, study: Study, root: Path = paths.ROOT) -> "xr.Dataset":
    """Every score of every map on every test image of a cell, seed by seed.

    Writes the labelled dataset to scores/<cell>.nc: that of `saqlib.scoring.score_network`, and the dimension seed. The
    maps of a dead network count as dead maps.
    """
    import xarray as xr

    calls = cells.score_calls(cell, study)
    of_seeds = _all(cells.score_network, calls)
    shared = ["label", "kept_image"]
    together = xr.concat([each.drop_vars(shared) for each in of_seeds], "seed", coords="minimal", compat="override")
    scores = together.assign_coords(seed=range(len(calls))).assign({name: of_seeds[0][name] for name in shared})
    files.write_dataset(root / "scores" / f"{cell}.nc", scores)
    return scores


def training_curves(cell: Cell, study: Study, root: Path = paths.ROOT) -> "pd.DataFrame":
    """Accuracy and scores of seed 0 at each step that was recorded while it trained; see `saqlib.scoring`.

    Writes results/during/<cell>.csv.
    """
    (table,) = _all(cells.curves_of, [cells.curves_call(cell, study)])
    files.write(root / "results" / "during" / f"{cell}.csv", files.csv(table))
    return table


# ------------------------------------------------------------------------------------------- deployment, ablations


def deploy_cells(seeds: Mapping[Cell, int], study: Study, root: Path = paths.ROOT) -> "pd.DataFrame":
    """Deploy of each cell the network of this seed; the table of costs, a row for each.

    Writes results/deployment.csv, the table; to results/models/ for each cell <cell>.pt, one network, and its ONNX
    files, which were compared with it; and untrained.explain.onnx, the grid's first precision before training.

    Raises DeploymentError if a file is not the network.
    """
    import pandas as pd

    from saqlib.deploy.check import deploy_untrained

    folder, calls = root / "results" / "models", [cells.deploy_call(cell, study, seed) for cell, seed in seeds.items()]
    deployed = _all(cells.deploy_network, calls)
    for (network, _), each in zip(calls, deployed, strict=True):
        models.publish(network.recipe, network.seed, network.run().state, root)
        for name, content in each["files"].items():
            files.write(files.inside(folder, name), content.numpy().tobytes())
    deploy_untrained(study.precisions[study.grid.precisions[0]], study.shape, folder)
    costs = pd.DataFrame([each["row"] for each in deployed])
    files.write(root / "results" / "deployment.csv", files.csv(costs))
    return costs


def ablate(name: str, scale: str | None = None, root: Path = paths.ROOT) -> "pd.DataFrame":
    """Train and score a variant, and write results/ablations/<name>.csv, one row for each network; the table.

    `changed` says whether a network, or how it is scored, is another one than in the main grid; clipped_<layer> is the
    share of its units above the clip, on validation images. The table of a scale that runs no ablations
    (`seeds_ablated: 0`) has no row, and costs no PyTorch.

    Raises ParamsError if there is no such variant, DivergedError if a loss is not finite.
    """
    import pandas as pd

    ablation, study = settings.variant(name, scale)
    main, calls, rows = settings.load(scale=scale), cells.ablation_calls(ablation, study), []
    for (network, scoring, _), scores in zip(calls, _all(cells.summary_scores, calls), strict=True):
        recipe, run = network.recipe, network.run()
        same = recipe.cell in main.grid.cells and recipe == main.recipe(recipe.cell) and scoring == main.scoring
        row = {"seed": network.seed, "changed": not same, "test_accuracy": run.test_accuracy}
        layers = run.history.epochs[-1]["layers"].items()
        clipped = {f"clipped_{name}": shares["clipped"] for name, shares in layers}
        rows.append(asdict(recipe.cell) | row | scores | clipped)
    table = pd.DataFrame(rows, columns=None if rows else KEYS)
    files.write(root / "results" / "ablations" / f"{name}.csv", files.csv(table))
    return table
