"""What a cell, a dataset or an ablation leaves under a root: models/, scores/ and results/.

Every function trains and scores what the store lacks, on all cores, and writes; so none needs another one before it.
"""

import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import cells, files, models, paths, processes, settings
from study.cells import Run, Trained
from study.settings import Cell, Study, one_of
from study.store import Cached

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
    return accuracies | {"history": [_rounded(epoch) for epoch in run.history.epochs]}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value


# ------------------------------------------------------------------------------------------- what the store lacks


def _all(function: Cached, calls: Iterable[tuple]) -> list[Any]:
    """The results of a cached function for each of these arguments; what the store lacks is computed side by side.

    Networks among the arguments are trained first.
    """
    calls = list(calls)
    _train(each for call in calls for each in call if isinstance(each, Trained))
    _compute(function, calls)
    return [function(*call) for call in calls]


def _compute(function: Cached, calls: Iterable[tuple]) -> None:
    missing = [(function, *call) for call in calls if not function.exists(*call)]
    if missing:
        processes.run_all(_left_in_store, missing)


def _left_in_store(function: Callable[..., Any], *arguments: Any) -> None:
    function(*arguments)  # what it returns is not sent back


def _train(networks: Iterable[Trained]) -> None:
    """Train what the store lacks, on a GPU all seeds of a recipe as one; shared warm-ups come first."""
    calls = dict.fromkeys((each.recipe, each.seed, each.device) for each in networks)
    missing = [call for call in calls if not cells.train_network.exists(*call)]
    for recipe in dict.fromkeys(recipe for recipe, _, device in missing if device == "cuda"):
        cells.train_together(recipe, [seed for each, seed, _ in missing if each == recipe], "cuda")
    warm = dict.fromkeys((recipe.warm_up, *call) for recipe, *call in missing if recipe.warm_up and "cpu" in call)
    _compute(cells.warm_up_network, warm)
    _compute(cells.train_network, missing)


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
    """Every score of every test image of a cell, seed by seed, beside controls and other methods.

    Writes the labelled dataset to scores/<cell>.nc (`saqlib.scoring.score_network`, and the dimension seed), and each
    seed's means over all images to results/clarity/<cell>.json. The maps of a dead network count as dead maps.
    """
    import xarray as xr

    calls = cells.score_calls(cell, study)
    of_seeds = _all(cells.score_network, calls)
    shared = ["label", "kept_image", "kept_map"]  # kept_map is of seed 0
    together = xr.concat([each.drop_vars(shared) for each in of_seeds], "seed", coords="minimal", compat="override")
    scores = together.assign_coords(seed=range(len(calls))).assign({name: of_seeds[0][name] for name in shared})
    files.write_dataset(root / "scores" / f"{cell}.nc", scores)
    means = json.dumps(clarity_means(cell, scores), indent=1) + "\n"
    files.write(root / "results" / "clarity" / f"{cell}.json", means)
    return scores


def clarity_means(cell: Cell, scores: "xr.Dataset") -> dict[str, Any]:
    """Mean of each score over the images of a seed that have one; None where no image has."""
    from saqlib.scores import FILLS, GRADIENT, PRESERVATION, PRIMARY, RELEVANCE_GAIN, SCORES, SEED_TO_SEED, UNTRAINED

    single = [name for name, score in SCORES.items() if score.of == "map" and name not in PRIMARY]
    columns = {name: scores[name] for name in ("probability", *single)}
    for map_, prefix in ((GRADIENT, ""), (UNTRAINED, f"{UNTRAINED}_")):
        of_map = scores.sel(map=map_)
        columns |= {f"{prefix}{name}": of_map.scores.sel(score=name) for name in PRIMARY}
        columns |= {f"{prefix}{RELEVANCE_GAIN}_{fill}": of_map.relevance_gain.sel(fill=fill) for fill in FILLS}
        columns[f"{prefix}amplitude"] = of_map.amplitude
    for likeness in ("preservation", SEED_TO_SEED):
        if likeness in scores:
            columns |= {f"{likeness}_{name}": scores[likeness].sel(likeness=name) for name in PRESERVATION}
    means = {name: values.mean("image", skipna=True) for name, values in columns.items()}
    seeds = {
        str(seed): {name: _finite(values.sel(seed=seed).item()) for name, values in means.items()}
        for seed in scores.seed.values.tolist()
    }
    return {"cell": str(cell), "images": scores.sizes["image"], "seeds": seeds}


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def training_curves(cell: Cell, study: Study, root: Path = paths.ROOT) -> "pd.DataFrame":
    """Accuracy and scores of seed 0 at each step that was recorded while it trained; see `saqlib.scoring`.

    Writes results/during/<cell>.csv.
    """
    (table,) = _all(cells.curves_of, cells.summary_calls(cell, study, 1))
    files.write(root / "results" / "during" / f"{cell}.csv", files.csv(table))
    return table


# ------------------------------------------------------------------------------------------- deployment, ablations


def deploy_cells(chosen: Iterable[Cell], study: Study, root: Path = paths.ROOT) -> "pd.DataFrame":
    """Deploy the first seed of these cells; the table of costs, a row for each.

    Writes results/deployment.csv, the table; to results/models/ for each cell <cell>.pt, one network, and its ONNX
    files, which were compared with it; and untrained.explain.onnx, the grid's first precision before training.

    Raises DeploymentError if a file is not the network.
    """
    import pandas as pd

    from saqlib.deploy.check import deploy_untrained

    folder, calls = root / "results" / "models", [cells.deploy_call(cell, study) for cell in chosen]
    deployed = _all(cells.deploy_network, calls)
    for (network, _), each in zip(calls, deployed, strict=True):
        models.publish(network.recipe, network.seed, network.run().state, root)
        for name, content in each["files"].items():
            files.write(folder / name, content.numpy().tobytes())
    deploy_untrained(study.precisions[study.grid.precisions[0]], study.shape, folder)
    costs = pd.DataFrame([each["row"] for each in deployed])
    files.write(root / "results" / "deployment.csv", files.csv(costs))
    return costs


def ablate(name: str, scale: str | None = None, root: Path = paths.ROOT) -> "pd.DataFrame":
    """Train and score a variant, and write results/ablations/<name>.csv, one row for each network; the table.

    `changed` says whether a network, or how it is scored, is another one than in the main grid. The table of a scale
    that runs no ablations (`seeds_ablated: 0`) has no row, and costs no PyTorch.

    Raises ParamsError if there is no such variant, DivergedError if a loss is not finite.
    """
    import pandas as pd

    ablation, study = settings.variant(name, scale)
    main, seeds = settings.load(scale=scale), ablation.seeds_at(study.size)
    calls = [call for cell in ablation.cells if seeds for call in cells.summary_calls(cell, study, seeds)]
    rows = []
    for (network, scoring), scores in zip(calls, _all(cells.summary_scores, calls), strict=True):
        recipe, accuracy = network.recipe, network.run().test_accuracy
        changed = recipe != main.recipe(recipe.cell) or scoring != main.scoring
        row = {"seed": network.seed, "changed": changed, "test_accuracy": accuracy}
        rows.append(asdict(recipe.cell) | row | scores)
    table = pd.DataFrame(rows, columns=None if rows else KEYS)
    files.write(root / "results" / "ablations" / f"{name}.csv", files.csv(table))
    return table
