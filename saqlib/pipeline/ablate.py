"""One ablation: python -m saqlib.pipeline.ablate VARIANT [--scale SCALE]

Trains what the patch of the variant changes, scores all of its cells in brief, and writes one row for each network to
results/ablations/<variant>.csv. Seeds that the store holds, those of the main grid among them, are not computed again.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from saqlib import files, paths, store
from saqlib.clarity.settings import Scoring
from saqlib.errors import told
from saqlib.grid import Cell
from saqlib.params import ParamsError
from saqlib.pipeline import instructions, study
from saqlib.training.settings import Recipe

KEYS = ["dataset", "precision", "training", "seed", "changed"]


class AblationError(RuntimeError):
    """A network of the variant could not be trained or scored; the message says which and why."""


def ablate(name: str, scale: str | None, root: Path) -> pd.DataFrame:
    """Train and score a variant and write its table under `root`; the table.

    `changed` says whether a network, or how it is scored, is another one than in the main grid. The table of a scale
    that runs no ablations (`seeds_ablated: 0`) has no row, and costs no PyTorch.

    Raises ParamsError if there is no such variant, AblationError if a network diverges or the images are not usable.
    """
    ablation, settings = study.variant(name, scale)
    seeds = ablation.seeds_at(settings.size)
    rows = _rows(ablation.cells, seeds, settings, study.load(scale=scale)) if seeds else []
    table = pd.DataFrame(rows, columns=None if rows else KEYS)
    files.write(root / "results" / "ablations" / f"{name}.csv", files.csv(table))
    return table


def _rows(cells: Sequence[Cell], seeds: int, settings: study.Study, main: study.Study) -> list[dict[str, Any]]:
    """One row for each network of a variant, trained and scored."""
    from saqlib.data.images import DataError  # PyTorch, once its instructions are pinned
    from saqlib.training.cell import train_cell
    from saqlib.training.loop import DivergedError

    rows = []
    for cell in cells:
        recipe = settings.recipe(cell)
        try:
            runs = train_cell(cell, recipe, seeds, settings.engine)
            scores = _scores(settings, recipe, runs)
        except (DataError, DivergedError) as error:
            raise AblationError(str(error)) from error
        changed = recipe.decides != main.recipe(cell).decides or settings.scoring != main.scoring
        axes = {"dataset": cell.dataset, "precision": cell.precision, "training": cell.training}
        rows += [
            axes | {"seed": run.seed, "changed": changed, "test_accuracy": run.test_accuracy} | each
            for run, each in zip(runs, scores, strict=True)
        ]
    return rows


def _scores(settings: study.Study, recipe, runs) -> list[dict[str, float]]:
    """The scores of trained seeds, from the store or computed side by side and kept there."""
    folder = kept_in(recipe, settings.scoring, settings.engine.pick_device().type)
    jobs = [(folder / f"{run.seed}.json", recipe, run.state, settings.scoring) for run in runs]
    settings.engine.map(keep_brief, [job for job in jobs if store.kept(job[0], read_brief) is None])
    return [read_brief(path) for path, *_ in jobs]


def kept_in(recipe: Recipe, scoring: Scoring, device: str) -> Path:
    """The folder of the store with the brief scores of what a recipe trains on a kind of device, a file a seed."""
    from saqlib.network import fused
    from saqlib.training.seed import key

    decides = [key(recipe, device), asdict(scoring), fused.kind(recipe.shape, "cpu")]
    return store.folder("brief", store.key("saqlib.clarity.brief", *decides))


def keep_brief(path: Path, recipe: Recipe, state: dict[str, Any], scoring: Scoring) -> None:
    """Score a network in brief, given its weights, and keep that in a file."""
    from saqlib.clarity.brief import brief_scores
    from saqlib.network.lenet import LeNet

    network = LeNet(recipe.precision, recipe.shape)
    network.load_state_dict(state)
    files.write(path, json.dumps(brief_scores(network.eval(), recipe.dataset, scoring)))


def read_brief(path: Path) -> dict[str, float]:
    return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m saqlib.pipeline.ablate", description=__doc__.splitlines()[0])
    parser.add_argument("variant", help="a row of `ablations` in params.yaml")
    parser.add_argument("--scale", help="smoke, quick or full; that of params.yaml if left out")
    options = parser.parse_args(arguments)
    instructions.pin()
    with told(ParamsError, AblationError):
        table = ablate(options.variant, options.scale, paths.ROOT)
        print(f"{options.variant}: {len(table)} networks.")


if __name__ == "__main__":
    main()
