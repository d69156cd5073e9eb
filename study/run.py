"""The one command line of the study, which the Makefile and dvc.yaml's stages call.

    python -m study.run quick           the whole pipeline but for the ablations, at scale quick, in build/quick/
    python -m study.run reproduce       every number of the paper, at the scale of params.yaml; writes results/
    python -m study.run check           whether results/ belong to code, numbers and notebooks as they stand
    python -m study.run tasks           the long part alone: --engine ray on a cluster, --shard 3/20 as one of an array
    python -m study.run verify          a fresh run beside the committed one

A second call goes on where a first one was stopped: finished stages are skipped, and so are the seeds that the store
holds. To run a part of it by hand: dvc repro train@mnist.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saqlib import data
from saqlib.data import DataError
from saqlib.errors import exit_with_message
from study import dvc, files, notebooks, paths, processes, settings, tasks
from study.dvc import DvcError
from study.params import ParamsError
from study.settings import Study

TREES = ("notebooks", "saqlib", "study", "paper", "locks", "tests/sample", "benchmarks/device")
FILES = ("dvc.yaml", ".dvc/config", ".dvcignore")
PRODUCTS = ("results/figures/*.png", "results/tables/*.md", "paper/*.pdf")
STOPPED = "The pipeline stopped. The same command goes on from there."
# What a stage leaves for each cell, below its root.
WRITTEN = {
    "train": ("models/{}.pt", "results/runs/{}.json"),
    "clarity": ("scores/{}.nc", "results/during/{}.csv"),
}


class PipelineError(RuntimeError):
    """A stage failed; what was wrong stands above, where the stage said it."""


# ------------------------------------------------------------------------------------------------- whole pipelines


def workspace(folder: Path, scale: str, **edits: Any) -> Path:
    """A folder with a copy of the pipeline that runs at another scale and leaves the checkout as it is; the folder.

    edits: sections of params.yaml to change, such as grid={"datasets": ["mnist"]}. Results of an earlier call stay,
    so that only what has changed since runs again. The images are the sample's or, for a scale on all of them, those
    of the checkout, fetched if need be. Raises ParamsError, before anything is written, if the edits are not usable.
    """
    if folder.resolve() == paths.ROOT:
        raise PipelineError(f"{folder} is the checkout itself; name a folder that may be overwritten")
    raw = _merged(settings.read(), {"scale": scale} | edits)
    study = settings.from_dict(raw)
    _fetch(study)
    for name in TREES:
        shutil.rmtree(folder / name, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", ".*", "*.pdf", "node_modules")
        shutil.copytree(paths.ROOT / name, folder / name, ignore=ignored)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(paths.ROOT / name, folder / name)
    files.write(folder / "params.yaml", settings.text_of(raw))
    images = paths.SAMPLE if study.size.sample else data.DATA
    for dataset in study.grid.datasets:
        shutil.copytree(images / dataset, folder / "data" / dataset, copy_function=_link, dirs_exist_ok=True)
    return folder


def _fetch(study: Study) -> None:
    """The images that are needed, before anything is deleted: without a network nothing is lost."""
    if study.size.sample:
        return
    from study import download

    for dataset in study.grid.datasets:
        download.fetch(dataset, print)


def _merged(values: dict, edits: dict) -> dict:
    """The values with edits in their places, section by section; an edit to None takes an entry out."""
    both = {key: _merged(values[key], edit) for key, edit in edits.items()
            if isinstance(edit, dict) and isinstance(values.get(key), dict)}  # fmt: skip
    return {key: value for key, value in (values | edits | both).items() if key not in edits or edits[key] is not None}


def _link(source: str, target: str) -> None:
    """A second name for a file (to which a link leads), or a copy where there are no hard links; one there stays."""
    try:
        os.link(os.path.realpath(source), target)
    except FileExistsError:
        pass
    except OSError:
        shutil.copy2(source, target)


def repro(folder: Path) -> None:
    """The pipeline in a folder, with this environment's python and the code of that folder.

    First every core fills the store, job by job; then the stages find the work done and draw.

    Raises ParamsError if its params.yaml is not usable, before DVC removes or runs anything, and PipelineError if a
    job or a stage fails.
    """
    settings.load(folder / "params.yaml")
    command = [sys.executable, "-m", "study.run", "tasks"]
    with processes.started(command, folder, env=dvc.environment(folder)) as process:
        if process.wait():
            raise PipelineError(STOPPED)
    if not dvc.repro(folder):
        raise PipelineError(STOPPED)


def quick() -> Path:
    """The pipeline at scale quick in build/quick/; that folder."""
    folder = paths.BUILD / "quick"
    settings.load()  # before anything is written
    with dvc.run_lock(folder):
        repro(workspace(folder, "quick"))
    return folder


def reproduce() -> Path:
    """The pipeline in the checkout; its folder."""
    with dvc.run_lock(paths.ROOT):
        _fetch(settings.load(paths.ROOT / "params.yaml"))
        repro(paths.ROOT)
    return paths.ROOT


def check() -> str:
    """Whether dvc.lock still holds for all that the stages depend on, in a sentence. Runs nothing, needs no models.

    Raises PipelineError, naming the first stage that would run, if not, and DvcError if that cannot be told.
    """
    if stale := dvc.stale():
        raise PipelineError(f"{dvc.STALE}. It would begin with {stale[0]}.")
    return dvc.UP_TO_DATE


def where_to_look(folder: Path) -> str:
    """What the pipeline has written for a reader, as paths."""
    products = [str(path) for pattern in PRODUCTS for path in sorted(folder.glob(pattern))]
    return "\n".join(["Where to look:", *products])


# ------------------------------------------------------------------------------------------------ parts of a stage


def write_list(stage: str, dataset: str, scale: str) -> Path:
    """Write build/written/<stage>/<dataset>.json, which lists what the stage has left, with its hashes; its path."""
    cells = [cell for cell in settings.load(scale=scale).grid.cells if cell.dataset == dataset]
    names = [pattern.format(cell) for cell in cells for pattern in WRITTEN[stage]]
    hashes = {name: hashlib.sha256((paths.ROOT / name).read_bytes()).hexdigest() for name in names}
    place = paths.BUILD / "written" / stage / f"{dataset}.json"
    return files.write(place, json.dumps(hashes, indent=1) + "\n")


# ------------------------------------------------------------------------------------------------ the command line


def _tasks(engine: str, shard: str, scale: str | None) -> str:
    share = tasks.shard_of(shard)
    processes.pin_cpu_level()
    done, total, waiting = tasks.fill(settings.load(scale=scale), engine, share)
    rest = f"; {waiting} wait for networks of other shares: run this one again" if waiting else ""
    return f"{done} of {total} jobs are done{rest}."


def _notebook(name: str, output: Path, parameters: list[tuple[str, str]], written: str | None) -> None:
    given = dict(parameters)
    notebooks.run(name, output, given)
    if name == "01_data":  # which fetches nothing where the sample is read, but DVC wants its folders
        for dataset in settings.load(scale=given.get("scale")).grid.datasets:
            (paths.ROOT / "data" / dataset).mkdir(parents=True, exist_ok=True)
    if written:
        write_list(written, given["dataset"], given["scale"])


def _fills(dataset: str, scale: str | None) -> str:
    processes.pin_cpu_level()
    from study import results

    decision = results.decide_fills(dataset, settings.load(scale=scale))
    return f"Fills that qualify on {dataset}: {', '.join(decision.fill[decision.qualifies]) or 'none'}."


def _ablate(scale: str | None) -> None:
    processes.pin_cpu_level()
    from saqlib.training import DivergedError
    from study import results

    for name in settings.load(scale=scale).ablations:
        try:
            print(f"{name}: {len(results.ablate(name, scale))} networks.")
        except DivergedError as error:
            raise PipelineError(f"{name}: {error}") from None


def _deploy(scale: str | None) -> None:
    processes.pin_cpu_level()
    from itertools import product

    from study import frames, results

    study = settings.load(scale=scale)
    kinds = product(study.grid.datasets, study.grid.trainings)
    seeds = {kind: frames.typical_seed(*kind, study.grid) for kind in kinds}
    results.deploy_cells({cell: seeds[cell.dataset, cell.training] for cell in study.grid.cells}, study)


def _compare(scale: str | None) -> None:
    processes.pin_cpu_level()
    import matplotlib

    from study import frames
    from study.report import compare

    matplotlib.use("agg")  # no window, whatever the machine has
    try:
        compare.compare(settings.load(scale=scale))
    except frames.MissingError as error:
        raise PipelineError(str(error)) from None


def _device() -> str:
    from study import device, frames
    from study.report import tables

    try:
        words = device.run(settings.load(), paths.ROOT)
    except device.DeviceError as error:
        raise PipelineError(str(error)) from None
    if all((paths.RESULTS / f"{name}.csv").exists() for name in frames.ON_DEVICE):  # not before the first whole run
        tables.write(tables.device(*frames.on_device(paths.ROOT)), paths.RESULTS / "tables")
    return words


def _metrics() -> None:
    from study import frames
    from study.report import tables

    try:
        tables.metrics(frames.runs(), paths.RESULTS / "metrics")
    except ValueError as error:  # a name that leads elsewhere
        raise PipelineError(f"results/runs.csv: {error}") from None


def _paper() -> str:
    from study.report import paper

    try:
        return str(paper.build())
    except paper.PaperError as error:
        raise PipelineError(str(error)) from None


def _verify(fresh: Path | None, committed: Path | None) -> None:
    from study import verify

    text, same = verify.verify(fresh, committed)
    print(text)
    sys.exit(0 if same else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m study.run", description="The one command line of the study.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: Callable[..., str | None], words: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=words, description=words)
        one.set_defaults(does=does)
        return one

    scale = {"help": "smoke, quick or full; that of params.yaml if left out"}
    command("quick", lambda: where_to_look(quick()), "the pipeline at scale quick, in build/quick/")
    command("reproduce", lambda: where_to_look(reproduce()), "the whole pipeline; writes results/")
    command("check", check, "whether results/ belong to the code as it stands")
    one = command("tasks", _tasks, "fill the store with everything that takes long")
    one.add_argument("--engine", choices=[*tasks.ENGINES], default="local", help="where jobs are done; default: local")
    one.add_argument("--shard", metavar="I/N", default="0/1", help="this share of every list alone, counted from 0")
    one.add_argument("--scale", **scale)
    one = command("verify", _verify, "a fresh run beside the committed one")
    one.add_argument("--fresh", type=Path, metavar="FOLDER")
    one.add_argument("--committed", type=Path, metavar="FOLDER")
    command("code", dvc.write_copies, "write the copies of code that stages depend on")
    one = command("notebook", _notebook, "execute a notebook and keep a clean copy")
    one.add_argument("name")
    one.add_argument("output", type=Path)
    one.add_argument("-p", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), dest="parameters")
    one.add_argument("--written", choices=[*WRITTEN], help="list the files of this stage afterwards")
    one = command("fills", _fills, "decide which fills qualify on a dataset")
    one.add_argument("dataset", help="a dataset of the grid")
    one.add_argument("--scale", **scale)
    command("ablate", _ablate, "every ablation").add_argument("--scale", **scale)
    command("deploy", _deploy, "the networks that are committed, as files that were checked").add_argument(
        "--scale", **scale
    )
    command("compare", _compare, "every table and figure, from scores").add_argument("--scale", **scale)
    command("device", _device, "run the networks on emulated microcontrollers; writes results/device/ and its table")
    command("metrics", _metrics, "write results/metrics/ from results/runs.csv")
    one = command("readable", lambda outputs: "\n".join(notebooks.read(outputs)), "renew results/notebooks/")
    one.add_argument("outputs", type=Path, nargs="*")
    command("refresh", notebooks.refresh, "execute notebooks in place").add_argument("names", nargs="*")
    command("paper", _paper, "compile the paper")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command line above; one readable message and exit code 1 where something is wrong."""
    from study.frames import MissingError
    from study.models import ModelFileError
    from study.verify import VerifyError

    expected = (
        ParamsError, PipelineError, DvcError, DataError, MissingError, ModelFileError, VerifyError, tasks.TasksError,
        notebooks.NotebookError,
    )  # fmt: skip
    options = vars(_parser().parse_args(arguments))
    command, does = options.pop("command"), options.pop("does")
    processes.end_with_driver()
    long = command in ("quick", "reproduce", "tasks")
    with exit_with_message(*expected, stopped=STOPPED if long else "Stopped."):
        words = does(**options)
        if words:
            print(words)


if __name__ == "__main__":
    processes.in_utf8()
    main()
