"""Cells: the same bits for any number of workers, paired seeds, seeds trained once and never again, files whole."""

import copy
import gzip
import importlib.metadata
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from joblib.externals import loky

from saqlib import codebase, files, params, paths, store, stored
from saqlib.data import images as data
from saqlib.datasets import FILES, LABELS
from saqlib.grid import Cell
from saqlib.network.quantization import pact_layers
from saqlib.pipeline import study
from saqlib.training import cell as cells
from saqlib.training import loop
from saqlib.training.looking import accuracy, saliency_now
from saqlib.training.settings import Recipe
from saqlib.workers import Engine

SMOKE = study.load(scale="smoke")
CELL = Cell("mnist", "w2a2", "guided")
PLAIN = Cell("mnist", "fp32", "standard")
CPU = Engine(device="cpu")
MODULE = "training.cell"


def tiny(cell: Cell = CELL, *, epochs: int = 1, **optimizer: float) -> Recipe:
    """The recipe of a cell on the sample's images: one short epoch, half of it in full precision."""
    recipe = SMOKE.recipe(cell)
    optimizer = replace(recipe.optimizer, **optimizer)
    return replace(recipe, epochs=epochs, warmup_epochs=0.5, records=2, optimizer=optimizer)


def train(cell: Cell = CELL, recipe: Recipe | None = None, seeds: int = 2, **options: Any) -> list[cells.Run]:
    """A cell trained in this process."""
    return cells.train_cell(cell, recipe or tiny(cell), seeds, CPU, **{"n_jobs": 1} | options)


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch) -> Path:
    """A build folder of the test's own, so that no seed of another run is taken up."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    return paths.BUILD


@pytest.fixture(scope="module", autouse=True)
def no_workers_left():
    """The pool of joblib stays alive for minutes if nobody ends it."""
    yield
    loky.get_reusable_executor().shutdown(wait=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A build folder of its own, in which the trained seeds of `runs` are kept."""
    return tmp_path_factory.mktemp("finished") / "build"


@pytest.fixture(scope="module")
def runs(finished) -> list[cells.Run]:
    """A trained cell of two seeds, for tests that only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", finished)
        return train()


@pytest.fixture
def saved(tmp_path, runs) -> Path:
    """A root folder in which the cell is saved."""
    cells.save_cell(CELL, runs, tiny(), root=tmp_path / "root")
    return tmp_path / "root"


def assert_same_runs(some: list[cells.Run], others: list[cells.Run]) -> None:
    """Bit for bit: weights, histories, maps, accuracies."""
    assert [run.seed for run in some] == [run.seed for run in others]
    for one, other in zip(some, others, strict=True):
        assert one.state.keys() == other.state.keys()
        assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
        assert one.history.epochs == other.history.epochs and one.history.steps == other.history.steps
        assert all(torch.equal(a, b) for a, b in zip(one.history.maps, other.history.maps, strict=True))
        assert one.test_accuracy == other.test_accuracy
        assert one.validation_accuracy == other.validation_accuracy


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept(folder: Path) -> list[str]:
    """The names of the files of trained seeds in the store, without their key."""
    return sorted(path.name for path in folder.rglob("trained/*/*") if path.is_file())


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """The seeds that were really trained, as they come."""
    seeds: list[int] = []
    real = cells._train_seeds

    def noting(cell, recipe, some, *places):
        seeds.extend(some)
        return real(cell, recipe, some, *places)

    monkeypatch.setattr(cells, "_train_seeds", noting)
    return seeds


def spied(monkeypatch) -> list[dict]:
    """Replace training by a note of how it was called."""
    calls = []

    def train_together(networks, images, *, seeds, **options):
        for seed, network in zip(seeds, networks, strict=True):
            weights = {name: p.detach().clone() for name, p in network.named_parameters()}
            calls.append(options | {"seed": seed, "weights": weights})
            network.eval()
        return [
            loop.History(epochs=[{"validation_accuracy": 0.0}], maps=[torch.zeros(10, 28, 28)], steps=[0])
            for _ in seeds
        ]

    monkeypatch.setattr(loop, "train_together", train_together)
    return calls


# ------------------------------------------------------------------------------------------------- training


def test_result_is_bit_identical_for_1_2_and_4_workers(tmp_path, monkeypatch):
    """Four seeds in one, two and four processes: the same runs, and the same bytes when they are saved."""
    found = {}
    for n_jobs in (1, 2, 4):
        monkeypatch.setattr(paths, "BUILD", tmp_path / f"build{n_jobs}")
        found[n_jobs] = train(seeds=4, n_jobs=n_jobs)
        cells.save_cell(CELL, found[n_jobs], tiny(), root=tmp_path / f"root{n_jobs}")
    assert_same_runs(found[1], found[2])
    assert_same_runs(found[1], found[4])
    for kind in ("build{}/store", "root{}"):
        first, *others = (contents(tmp_path / kind.format(n_jobs)) for n_jobs in (1, 2, 4))
        assert first and all(other == first for other in others)
    first, second, *_ = found[1]
    assert not torch.equal(first.state["dense1.weight"], second.state["dense1.weight"])


def test_only_seed_0_is_watched(runs):
    """The maps of ten validation images, one of each class, are recorded for the first seed alone."""
    assert [len(run.history.maps) for run in runs] == [3, 0]
    assert runs[0].history.maps[0].shape == (10, 28, 28)
    assert runs[0].history.steps[0] == 0


def test_accuracies_are_those_of_the_trained_network(runs, saved):
    """The saved network, run again on the splits, scores what its run says."""
    for run in runs:
        network = stored.load_model(CELL, run.seed, root=saved)
        assert accuracy(network, *data.load("mnist", "test", sample=True)) == run.test_accuracy == run.sample_accuracy
        validation = accuracy(network, *data.load("mnist", "validation", sample=True))
        assert validation == run.validation_accuracy == run.history.epochs[-1]["validation_accuracy"]


def test_seeds_are_paired_across_the_cells(monkeypatch):
    """One seed starts from the same weights and is given the same seed and schedule in every cell."""
    calls = spied(monkeypatch)
    precisions, trainings = ("fp32", "w4a4", "w2a2"), ("standard", "guided")
    for precision in precisions:
        for training in trainings:
            train(Cell("mnist", precision, training))
    assert [call["seed"] for call in calls] == [0, 1] * 6
    assert [call["guided"] for call in calls] == [None, None, SMOKE.guided, SMOKE.guided] * 3
    assert [call["quantization"] for call in calls] == [None] * 4 + [SMOKE.quantization] * 8
    assert [call["warmup_epochs"] for call in calls] == [0.5] * 12
    for seed in (0, 1):
        first, *others = calls[seed::2]
        for call in others:
            assert (call["epochs"], call["optimizer"]) == (first["epochs"], first["optimizer"]) == (1, SMOKE.optimizer)
            for name, weight in first["weights"].items():
                assert torch.equal(call["weights"][name], weight), name
    assert not torch.equal(calls[0]["weights"]["conv1.weight"], calls[1]["weights"]["conv1.weight"])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_diverged_seed_is_named(build, n_jobs):
    """Cell, seed and epoch, also when the error comes out of a worker process; no seed counts as finished."""
    with pytest.raises(loop.DivergedError, match="^mnist-fp32-standard, seed [01]: .* epoch 1;"):
        train(PLAIN, tiny(PLAIN, learning_rate=1e9), n_jobs=n_jobs)
    assert not list(build.rglob("trained/*/*.pt"))


def test_network_and_images_are_on_the_device_that_was_picked(monkeypatch):
    """Everything that training sees lies where params.yaml says."""
    seen = []

    def warm_up(network, images, **options):
        tensors = [*network.state_dict().values(), images.train, images.train_labels, images.validation]
        seen.extend([*tensors, options["watch"].images, options["watch"].labels])
        raise InterruptedError

    monkeypatch.setattr(loop, "warm_up", warm_up)
    monkeypatch.setattr(cells, "_watch", lambda images, _: loop.Watch(images.train, images.train_labels, 1))
    monkeypatch.setattr(Engine, "pick_device", lambda self: torch.device("meta"))
    with pytest.raises(InterruptedError):
        train()
    assert len(seen) > 10 and {tensor.device.type for tensor in seen} == {"meta"}


def test_a_cell_of_several_seeds_at_once_leaves_what_single_ones_leave(build, monkeypatch):
    """On a GPU a cell is one job; its files are those of one job for each seed, and its accuracies nearly so."""
    plans, found = [], {}

    def in_turn(self, task, jobs, n_jobs=None):  # the plan is a GPU's, the work this machine's
        plans.append([seeds for _, _, seeds, *_ in jobs])
        for *what, _ in jobs:
            task(*what, torch.device("cpu"))

    monkeypatch.setattr(Engine, "map", in_turn)
    cell = Cell("mnist", "w4a4", "guided")
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr(Engine, "pick_device", lambda self, kind=kind: torch.device(kind))
        found[kind] = train(cell, tiny(cell, epochs=2), seeds=3)
    assert plans == [[[0], [1], [2]], [[0, 1, 2]]]
    assert len(list((build / "store" / "trained").iterdir())) == 2, "a device's kind decides rounding"
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        assert one.seed == other.seed and one.state.keys() == other.state.keys()
        assert one.history.steps == other.history.steps and len(one.history.maps) == len(other.history.maps)
        assert other.test_accuracy == pytest.approx(one.test_accuracy, abs=5)


def test_a_gpu_with_nothing_left_to_train_gets_no_job(monkeypatch):
    """An empty job would stack no networks."""
    spied(monkeypatch)
    plans = []
    real = Engine.map
    monkeypatch.setattr(Engine, "pick_device", lambda self: torch.device("cuda"))
    monkeypatch.setattr(cells, "_on", lambda device, recipe, split, sample: data.load("mnist", split, sample=True))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(Engine, "map", lambda self, *given: plans.append(len(given[1])) or real(self, *given))
    train()
    train()
    assert plans == [1, 0]


# ------------------------------------------------------------------------------------------------ what is told


def test_progress_is_reported_while_seeds_train(build, monkeypatch):
    """Each record and epoch of each seed is in a report before the next one is made; the last report tells all."""
    monkeypatch.setattr(cells, "POLL_SECONDS", 0.01)
    reports: list[cells.Progress] = []
    news = threading.Condition()
    real = files.write_torch

    def report(progress: cells.Progress) -> None:
        with news:
            reports.append(progress)
            news.notify_all()

    def write(path: Path, content: dict) -> None:
        real(path, content)
        if path.suffix == ".progress":
            stage = (int(path.stem), len(content["epochs"]), len(content["steps"]))
            with news:
                assert news.wait_for(lambda: stage in stages(reports[-1:]), timeout=120), f"{stage} is not reported"

    monkeypatch.setattr(files, "write_torch", write)
    train(recipe=tiny(epochs=2), on_progress=report)
    found = stages(reports)
    assert list(dict.fromkeys(each for each in found if each[0] == 0)) == [
        (0, 0, 1), (0, 1, 1), (0, 1, 2), (0, 2, 2), (0, 2, 3),
    ]  # fmt: skip
    assert list(dict.fromkeys(each for each in found if each[0] == 1)) == [(1, 1, 0), (1, 2, 0)]
    assert stages(reports[-1:]) == [(0, 2, 3), (1, 2, 0)]
    assert {(report.seeds, report.epochs) for report in reports} == {(2, 2)}


def stages(reports: list[cells.Progress]) -> list[tuple[int, int, int]]:
    """Seed, epochs and records of each history in these reports."""
    return [
        (seed, len(history.epochs), len(history.steps))
        for report in reports for seed, history in report.histories.items()
    ]  # fmt: skip


def test_progress_tells_the_history_itself(finished, build, runs, trained):
    """What a panel draws are the curves and maps of the runs, of seeds from the store as of those just trained."""
    shutil.copytree(finished, build)
    next(build.rglob("trained/*/1.pt")).unlink()
    for _ in range(2):
        reports = []
        train(on_progress=reports.append)
        for run in runs:
            told = reports[-1].histories[run.seed]
            assert (told.epochs, told.steps) == (run.history.epochs, run.history.steps)
            assert all(torch.equal(*pair) for pair in zip(told.maps, run.history.maps, strict=True))
    assert trained == [1]


def test_no_progress_file_is_left(build):
    """They are there for those who watch, and gone when a seed is finished, watched or not."""
    train(on_progress=lambda progress: None)
    assert kept(build) == ["0.pt", "1.pt"]


def test_nobody_watching_means_no_thread(monkeypatch):
    """Without on_progress nothing is polled."""
    monkeypatch.setattr(cells._watching, "_report", None)
    spied(monkeypatch)
    before = threading.active_count()
    during = []
    monkeypatch.setattr(cells, "_train_seeds", lambda *_: during.append(threading.active_count()))
    monkeypatch.setattr(cells, "_read_run", lambda path: None)
    train()
    assert during == [before, before]


# --------------------------------------------------------------------------------------- seeds that are there


def test_finished_seeds_are_not_trained_again(build, trained, tmp_path):
    """Nothing is left to do for a second call, nor after the cell is saved; the runs are the same ones."""
    first = train()
    assert trained == [0, 1]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in build.rglob("*.pt")}
    assert_same_runs(train(), first)
    cells.save_cell(CELL, first, tiny(), root=tmp_path / "root")
    assert_same_runs(train(n_jobs=2), first)
    assert trained == [0, 1]
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in build.rglob("*.pt")} == before


def test_more_seeds_train_the_new_ones_only(trained, runs):
    """A longer run takes up a shorter one, and a shorter one is a part of it; each seed is what it was alone."""
    train(seeds=1)
    longer = train(seeds=3)
    assert trained == [0, 1, 2]
    assert_same_runs(longer[:2], runs)
    assert_same_runs(train(seeds=2), runs)
    assert trained == [0, 1, 2]


def test_a_missing_seed_between_others_is_trained(build, trained, runs):
    """Whichever it is; the others stay."""
    train(seeds=3)
    (path,) = build.rglob("trained/*/0.pt")
    path.unlink()
    assert_same_runs(train(seeds=3)[:2], runs)
    assert trained == [0, 1, 2, 0]


KILLS = {
    "after an epoch": """
write = files.write_torch
def write_until(path, content):
    write(path, content)
    if path.name == "1.progress":
        os.kill(os.getpid(), signal.SIGKILL)
files.write_torch = write_until
""",
    "with a half-written seed": """
move = os.replace
def move_until(source, target):
    if pathlib.Path(target).name == "1.pt":
        os.kill(os.getpid(), signal.SIGKILL)
    move(source, target)
os.replace = move_until
""",
}


@pytest.mark.parametrize("kill", KILLS)
def test_killed_run_goes_on_where_it_stopped(tmp_path, build, runs, saved, trained, kill):
    """A process killed in the middle of seed 1 leaves seed 0; the next call trains the rest, to the same bytes."""
    script = f"""
import os, pathlib, pickle, signal
from saqlib import files, paths
from saqlib.training import cell
paths.BUILD = pathlib.Path({str(build)!r})
{KILLS[kill]}
cell.train_cell(*pickle.loads({pickle.dumps((CELL, tiny(), 2, CPU))!r}), n_jobs=1)
"""
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    (folder,) = (build / "store" / "trained").iterdir()
    assert sorted(path.name for path in folder.glob("*.pt")) == ["0.pt"]
    before = (folder / "0.pt").stat()
    again = train()
    assert trained == [1]
    assert_same_runs(again, runs)
    after = (folder / "0.pt").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert not list(folder.glob("*.progress"))
    cells.save_cell(CELL, again, tiny(), root=tmp_path / "again")
    assert contents(tmp_path / "again") == contents(saved)


class Hostile:
    """Unpickling it runs a command of its author's choice."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _rewritten(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    """Damage that replaces what torch.load finds by something else that torch.save takes."""
    return lambda path: torch.save(change(torch.load(path, weights_only=True)), path)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "zeros inside": lambda path: path.write_bytes(path.read_bytes()[:200] + bytes(path.stat().st_size - 200)),
    "tensor": _rewritten(lambda run: torch.zeros(3)),
    "list": _rewritten(lambda run: [run]),
    "no history": _rewritten(lambda run: {name: run[name] for name in run if name != "history"}),
    "history of nothing": _rewritten(lambda run: run | {"history": {"epochs": [], "steps": [], "maps": []}}),
    "other history": _rewritten(lambda run: run | {"history": {"losses": []}}),
    "more than a run": _rewritten(lambda run: run | {"author": "me"}),
    "less than a run": _rewritten(lambda run: {"history": run["history"]}),
    "another seed": lambda path: shutil.copy(path.with_name("0.pt"), path),
    "pickled module": _rewritten(lambda run: torch.nn.Linear(2, 2)),
    "hostile": _rewritten(lambda run: run | {"state": Hostile(paths.BUILD / "was here")}),
    "only a pickle": lambda path: path.write_bytes(pickle.dumps(Hostile(paths.BUILD / "was here"), 2)),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_seed_is_put_aside_and_trained_again(finished, build, trained, runs, damage):
    """Whatever the bytes are, nothing in them is run; the seed comes out as it was, and the others are not touched."""
    shutil.copytree(finished, build)
    (path,) = build.rglob("trained/*/1.pt")
    DAMAGES[damage](path)
    before = path.read_bytes() if path.is_file() else None
    assert_same_runs(train(), runs)
    assert trained == [1]
    assert kept(build) == (["0.pt", "1.pt"] if before is None else ["0.pt", "1.pt", "1.pt.damaged"])
    aside = path.with_name("1.pt.damaged")
    assert aside.exists() and (before is None or aside.read_bytes() == before)
    assert_same_runs(train(), runs)
    assert trained == [1]


# ------------------------------------------------------------------------------- what a seed's place depends on


def key(recipe: Recipe, *, cell: Cell = CELL, seeds: int = 1, engine: Engine = CPU) -> str:
    """The key under which train_cell looks for seeds; nothing is trained."""
    asked = []

    def folder(kind: str, key: str) -> Path:
        asked.append((kind, key))
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "folder", folder)
        with pytest.raises(InterruptedError):
            cells.train_cell(cell, recipe, seeds, engine)
    ((kind, found),) = asked
    assert (kind, found) == ("trained", cells.key(recipe, engine.pick_device().type))
    return found


def leaves(raw: Any, where: tuple = ()) -> Iterator[tuple]:
    """The path of every value in params.yaml; a list is one value, and so is a study that changes others."""
    if isinstance(raw, dict) and (where[:1] != ("ablations",) or len(where) == 1):
        for name, value in raw.items():
            yield from leaves(value, (*where, name))
    else:
        yield where


OTHER_VALUES = {
    "scale": "quick",
    "quantization.edges": "same",
    "trainings.guided.ranking": "signed",
    "executor": "ray",
    "device": "cpu",
    "claims.reference": "w4a4",
}


def changed(where: tuple) -> dict:
    """params.yaml with another valid value in one place."""
    raw = copy.deepcopy(params.read())
    section = raw
    for name in where[:-1]:
        section = section[name]
    value, name = section[where[-1]], ".".join(where)
    if name in OTHER_VALUES:
        value = OTHER_VALUES[name]
    elif where[:2] == ("claims", "questions"):
        value = "foreground_mass"
    elif where[0] == "ablations":
        value = value | {"question": "Another?", "seeds": value["seeds"] + 1}
    elif isinstance(value, bool):
        value = not value
    elif isinstance(value, (int, float)):
        value = value + 1 if isinstance(value, int) else value / 2
    elif where[0] == "grid" or name == "claims.hypotheses":
        value = value[:-1]
    else:  # widths of the network, bits of a layer
        value = [*value[:-1], value[-1] + 1]
    section[where[-1]] = value
    if name == "claims.reference":  # which no hypothesis compares with itself
        raw["claims"]["hypotheses"] = [each for each in section["hypotheses"] if value not in each["precisions"]]
    return raw


ALWAYS = {
    "network.channels", "network.hidden", "optimizer.batch_size", "optimizer.learning_rate", "scales.smoke.sample",
    "scales.smoke.records",
}  # fmt: skip
QUANTIZED = {
    "quantization.edges", "quantization.alpha_learning_rate", "quantization.alpha_penalty",
    "quantization.calibration_images", "scales.smoke.warmup_epochs",
}  # fmt: skip
GUIDED = {"trainings.guided.fraction", "trainings.guided.weight", "trainings.guided.ranking"}
# The weights of the last layer have 8 bits, whatever its row says, and its logits have none.
W2A2, MIXED = ({f"precisions.{p}.{each}" for each in ("conv1", "conv2", "dense1", "dense2")} for p in ("w2a2", "mixed"))
READ = {
    Cell("mnist", "fp32", "standard"): ALWAYS | {"scales.smoke.epochs.mnist"},
    Cell("fashion_mnist", "fp32", "guided"): ALWAYS | GUIDED | {"scales.smoke.epochs.fashion_mnist"},
    Cell("mnist", "mixed", "standard"): ALWAYS | QUANTIZED | MIXED | {"scales.smoke.epochs.mnist"},
    Cell("mnist", "w2a2", "guided"): ALWAYS | QUANTIZED | GUIDED | W2A2 | {"scales.smoke.epochs.mnist"},
}


@pytest.mark.parametrize("cell", READ, ids=str)
def test_a_seed_is_trained_again_for_the_settings_that_its_cell_reads_and_no_others(monkeypatch, cell):
    """Every value of params.yaml, changed one by one: those that change a network start it anew, all others do not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # so that the device `auto` is `cpu`
    monkeypatch.setattr(codebase, "texts", cache(codebase.texts))
    before = key(SMOKE.recipe(cell), cell=cell, engine=SMOKE.engine)
    starts_anew = set()
    for where in leaves(params.read()):
        other = study.from_dict(changed(where), "smoke")
        if key(other.recipe(cell), cell=cell, seeds=other.size.seeds, engine=other.engine) != before:
            starts_anew.add(".".join(where))
    assert starts_anew == READ[cell]


def test_cells_have_places_of_their_own():
    """No two cells share a network, though a cell's name is no part of the key: what it stands for is."""
    found = {key(SMOKE.recipe(cell), cell=cell) for cell in SMOKE.grid.cells}
    assert len(found) == len(SMOKE.grid.cells) == 16


def test_a_cell_of_another_name_and_the_same_recipe_is_not_trained_again(trained):
    """A name decides no number."""
    first = train()
    assert_same_runs(train(Cell("mnist", "w2a2", "standard"), tiny(CELL)), first)
    assert trained == [0, 1]


@pytest.mark.parametrize("field", ["dataset", "precision"])
def test_dataset_and_the_bits_themselves_decide(field):
    """Another dataset; the same name with other bits, or the same bits in another layer."""
    recipe = tiny()
    others = {
        "dataset": [replace(recipe, dataset="fashion_mnist")],
        "precision": [
            replace(recipe, precision=replace(recipe.precision, layers=layers))
            for layers in (SMOKE.precisions["w4a4"].layers, recipe.precision.layers[::-1])
        ],
    }[field]
    assert len({key(each) for each in (recipe, *others)}) == 1 + len(others)


def test_another_kind_of_device_trains_anew(monkeypatch):
    """It rounds in another way; which one of its kind it is does not count, nor does where processes run."""
    found = {}
    for name in ("cpu", "cuda", "cuda:1"):
        monkeypatch.setattr(Engine, "pick_device", lambda self, name=name: torch.device(name))
        found[name] = key(tiny())
    assert found["cpu"] != found["cuda"] == found["cuda:1"]
    monkeypatch.setattr(Engine, "pick_device", lambda self: torch.device("cpu"))
    assert key(tiny(), engine=Engine("ray", "cuda")) == found["cpu"]


@pytest.mark.parametrize("package", ["torch", "numpy"])
def test_another_release_of_a_package_trains_anew(monkeypatch, package):
    """Its kernels may sum in another order."""
    before = key(tiny())
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "999" if name == package else real(name))
    assert key(tiny()) != before


def test_other_bytes_in_the_data_train_anew(tmp_path, monkeypatch):
    """One label of the sample; packed in another way the same bytes are the same data."""
    before = key(tiny())
    shutil.copytree(paths.SAMPLE, tmp_path / "sample")
    monkeypatch.setattr(paths, "SAMPLE", tmp_path / "sample")
    assert key(tiny()) == before
    for name in FILES:
        packed = tmp_path / "sample" / "mnist" / f"{name}.gz"
        plain = bytearray(gzip.decompress(packed.read_bytes()))
        packed.unlink()
        (tmp_path / "sample" / "mnist" / name).write_bytes(plain)
        assert key(tiny()) == before
        plain[-1] ^= 1
        (tmp_path / "sample" / "mnist" / name).write_bytes(plain)
        assert key(tiny()) != before, name
        plain[-1] ^= 1
        (tmp_path / "sample" / "mnist" / name).write_bytes(plain)


def test_the_full_data_have_another_place_than_the_sample(monkeypatch, tmp_path):
    """Found without reading a byte of them: training insists on their hashes."""
    monkeypatch.setattr(paths, "DATA", tmp_path / "nothing")
    assert len({key(replace(tiny(), sample=sample)) for sample in (True, False)}) == 2
    before = key(replace(tiny(), sample=False))
    name = f"train-{LABELS}"
    monkeypatch.setitem(data.DATASETS["mnist"], name, "0" * 64)
    assert key(replace(tiny(), sample=False)) != before


# What a training loads and what decides none of its numbers: where and how fast, or values that the key itself holds.
INFRASTRUCTURE = {"codebase", "datasets", "errors", "files", "paths", "processes", "store", "workers"}
VALUES = {"grid", "network.settings", "params", "saliency.settings", "training.settings"}


def copied(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of saqlib in another root folder, whose code counts from now on."""
    shutil.copytree(paths.ROOT / "saqlib", root / "saqlib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "ROOT", root)
    return root / "saqlib"


def test_code_that_decides_is_all_that_a_training_loads(tmp_path):
    """A fresh process that trains a cell has loaded the modules of the key, and of others these alone."""
    script = f"""
import json, pathlib, pickle, sys
from saqlib import paths
from saqlib.training import cell
paths.BUILD = pathlib.Path({str(tmp_path)!r})
cell.train_cell(*pickle.loads({pickle.dumps((CELL, tiny(), 1, CPU))!r}), n_jobs=1)
print(json.dumps([name for name in sys.modules if name.startswith("saqlib.")]))
"""
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("saqlib.") for name in json.loads(done.stdout)} & set(codebase.modules())
    assert loaded - set(codebase.texts(MODULE)) == INFRASTRUCTURE | VALUES
    assert set(codebase.texts(MODULE)) - {"kernels/lenet.c"} <= loaded


@pytest.mark.parametrize("module", codebase.texts(MODULE))
def test_another_statement_in_code_that_decides_trains_anew(tmp_path, monkeypatch, module):
    """Each module that a training runs through."""
    before = key(tiny())
    library = copied(tmp_path, monkeypatch)
    c_file = module.endswith(".c")
    path = library / module if c_file else library.joinpath(*module.split(".")).with_suffix(".py")
    path.write_text(path.read_text() + ("\n// a comment\n" if c_file else "\n# a comment\n"))
    assert key(tiny()) == before
    path.write_text(path.read_text() + ("\nint changed;\n" if c_file else "\nchanged = 1\n"))
    codebase._digestible.cache_clear()
    assert key(tiny()) != before


def test_where_the_library_lies_does_not_count(tmp_path, monkeypatch):
    """Another clone with the same store finds its seeds."""
    before = key(tiny())
    copied(tmp_path, monkeypatch)
    assert key(tiny()) == before


def test_words_layout_and_code_that_decides_nothing_train_nothing(tmp_path, monkeypatch):
    """Comments, docstrings and blank lines everywhere; statements in all other modules and in the faces of rooms."""
    before = key(tiny())
    deciding = codebase.texts(MODULE)
    library = copied(tmp_path, monkeypatch)
    for path in library.rglob("*.py"):
        text = path.read_text()
        assert text.startswith('"""'), path
        text = text.replace('"""', '# a comment\n\n\n"""Another word. ', 1).replace("\n\n\n", "\n\n\n\n# why\n")
        module = ".".join(path.relative_to(library).with_suffix("").parts)
        path.write_text(text if module in deciding else text + "\nchanged = 1\n")
    assert key(tiny()) == before


def test_changed_setting_starts_anew_and_goes_back(trained):
    """Seeds of other settings are never taken for those of the present ones, and are not forgotten either."""
    first = train(seeds=1)
    other = train(recipe=tiny(learning_rate=0.01), seeds=1)
    assert trained == [0, 0]
    assert not torch.equal(first[0].state["dense1.weight"], other[0].state["dense1.weight"])
    assert_same_runs(train(seeds=1), first)
    assert trained == [0, 0]


# -------------------------------------------------------------------------------------------------- warm-ups


def warmed(build: Path) -> list[str]:
    """The warm-ups in the store: key and file."""
    return sorted(str(path.relative_to(build / "store" / "warmed")) for path in build.rglob("warmed/*/*"))


@pytest.fixture
def warm_ups(monkeypatch) -> list[int]:
    """The seeds whose warm-up was really run, as they come."""
    seeds: list[int] = []
    real = loop.warm_up

    def noting(network, images, *, seed, **options):
        seeds.append(seed)
        return real(network, images, seed=seed, **options)

    monkeypatch.setattr(loop, "warm_up", noting)
    return seeds


def test_precisions_share_the_warm_up_of_a_seed(build, warm_ups):
    """Run once for all precisions of a dataset and training, full precision included; again for another training."""
    for name in ("mnist-fp32-guided", "mnist-w2a2-guided", "mnist-w4a4-guided", "mnist-w2a2-standard"):
        train(Cell.parse(name))
    assert warm_ups == [0, 1, 0, 1] and len(warmed(build)) == 4


@pytest.mark.parametrize("name", ["mnist-w2a2-guided", "mnist-fp32-guided"])
def test_a_cell_is_the_same_from_a_shared_warm_up(build, monkeypatch, warm_ups, name):
    """To the bit what training it in one go gives, for a seed with recorded maps and one without."""
    cell, first = Cell.parse(name), Cell.parse("mnist-w4a4-guided")
    train(first, tiny(first, epochs=2))
    shared = train(cell, tiny(cell, epochs=2))
    assert warm_ups == [0, 1]
    monkeypatch.setattr(paths, "BUILD", build / "other")
    monkeypatch.setattr(cells, "_going_on", lambda *_: {})
    assert_same_runs(train(cell, tiny(cell, epochs=2)), shared)


@pytest.mark.parametrize("name", ["mnist-w2a2-guided", "mnist-fp32-standard"])
def test_a_stopped_seed_goes_on_from_its_last_epoch(build, monkeypatch, name):
    """Killed in the third epoch: the same command runs the steps that are missing, and the result is the same bits."""
    cell = Cell.parse(name)
    recipe, steps = tiny(cell, epochs=3), []
    whole = train(cell, recipe, seeds=1)
    monkeypatch.setattr(paths, "BUILD", build / "other")
    real = torch.optim.Adam.step

    def step(optimizer, *rest):
        steps.append(1)
        if len(steps) == stop:
            raise KeyboardInterrupt
        return real(optimizer, *rest)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    per_epoch = -(-len(data.load("mnist", "train", sample=True)[0]) // recipe.optimizer.batch_size)
    stop = 2 * per_epoch + 3
    with pytest.raises(KeyboardInterrupt):
        train(cell, recipe, seeds=1)
    taken, stop = len(steps), None
    again = train(cell, recipe, seeds=1)
    assert_same_runs(again, whole)
    assert len(steps) - taken == per_epoch, "one epoch of three was left"
    assert not list(paths.BUILD.rglob("*.begun")), "nothing is left behind"


@pytest.mark.parametrize("damage", ["empty", "truncated", "list", "another seed", "hostile", "less than a run"])
def test_a_damaged_warm_up_is_put_aside_and_run_again(finished, build, runs, warm_ups, damage):
    """As a damaged seed: nothing in it is run, and what comes out is the same."""
    shutil.copytree(finished, build)
    for path in build.rglob("trained/*/*.pt"):
        path.unlink()
    (path,) = build.rglob("warmed/*/1.pt")
    damages = DAMAGES | {"less than a run": _rewritten(lambda warm: {"seed": 1, "step": warm["step"]})}
    damages["hostile"] = _rewritten(lambda warm: warm | {"weights": Hostile(paths.BUILD / "was here")})
    damages[damage](path)
    assert_same_runs(train(), runs)
    assert warm_ups == [1] and path.with_name("1.pt.damaged").exists() and not (paths.BUILD / "was here").exists()


# ---------------------------------------------------------------------------------------------- saved cells


def test_saved_cell_is_deterministic_and_leaves_the_store_alone(tmp_path, build, runs, saved):
    """Two files, readable by everybody, the same bytes each time; the trained seeds stay for whoever asks next."""
    train(seeds=1)
    before = contents(build)
    cells.save_cell(CELL, iter(runs), tiny(), root=tmp_path / "again")
    assert contents(tmp_path / "again") == contents(saved)
    assert set(contents(saved)) == {f"models/{CELL}.pt", f"results/runs/{CELL}.json"}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in saved.rglob("*"))
    assert contents(build) == before and kept(build) == ["0.pt"]


@pytest.mark.parametrize("name", ["mnist-w2a2-guided", "mnist-fp32-standard"])
def test_recorded_networks_are_those_whose_maps_were_recorded(tmp_path, name):
    """Before and after the switch: each network gives its recorded maps again, to the bit."""
    cell = Cell.parse(name)
    runs = train(cell, replace(tiny(cell, epochs=2), records=6), seeds=1)
    cells.save_cell(cell, runs, tiny(cell), root=tmp_path)
    steps, images, maps = stored.record(cell, tmp_path)
    networks = list(stored.recorded_networks(cell, tmp_path))
    assert [step for step, _ in networks] == steps.tolist() and len(networks) == 7
    labels = torch.arange(10)
    for (_, network), recorded in zip(networks, maps, strict=True):
        again = saliency_now(network, data.as_input(torch.from_numpy(images)), labels)
        assert torch.equal(again, torch.from_numpy(recorded))
    quantizing = [bool(pact_layers(network)) for _, network in networks]
    switch = runs[0].history.switch
    assert (switch is None) == ("fp32" in name)
    assert quantizing == [switch is not None and step >= switch for step in steps]


def test_saved_cell_holds_every_seed_and_the_record(runs, saved):
    """models/ has all seeds and the maps of training, the report rounded numbers."""
    whole = stored.read_cell(saved / "models" / f"{CELL}.pt")
    assert whole["cell"] == str(CELL) and list(whole["seeds"]) == [0, 1]
    assert whole["precision"] == asdict(tiny().precision) and whole["network"] == asdict(tiny().shape)
    assert whole["record"]["steps"].tolist() == runs[0].history.steps
    assert torch.equal(whole["record"]["maps"], torch.stack(runs[0].history.maps))
    validation, labels = data.load("mnist", "validation", sample=True)
    for label, image in enumerate(whole["record"]["images"]):
        assert torch.equal(image, validation[labels == label][0])
    report = json.loads((saved / "results" / "runs" / f"{CELL}.json").read_text())
    assert report["cell"] == str(CELL) and list(report["seeds"]) == ["0", "1"]
    for run in runs:
        told = report["seeds"][str(run.seed)]
        assert told["test_accuracy"] == pytest.approx(run.test_accuracy, abs=1e-4)
        assert told["sample_accuracy"] == pytest.approx(run.sample_accuracy, abs=1e-4)
        assert told["history"][0]["loss"] == pytest.approx(run.history.epochs[0]["loss"], abs=1e-6)
        assert told["history"][0]["layers"].keys() == {"act1", "act2", "act3", "act4"}


@pytest.mark.parametrize("failing", [(torch, "save"), (os, "replace")], ids=["serialising", "moving"])
def test_saving_is_all_or_nothing(runs, saved, monkeypatch, failing):
    """A failure at either end of writing leaves the old files as they were and no litter beside them."""
    before = contents(saved)

    def broken(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(*failing, broken)
    with pytest.raises(OSError, match="disk full"):
        cells.save_cell(CELL, runs[:1], tiny(), root=saved)
    assert contents(saved) == before


@pytest.mark.parametrize("failing", [(torch, "save"), (os, "replace")], ids=["serialising", "moving"])
def test_a_seed_that_cannot_be_kept_leaves_nothing_behind(build, monkeypatch, failing):
    """A full disk is an error, not a seed; the next call trains it."""
    real = getattr(*failing)

    def broken(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(*failing, broken)
    with pytest.raises(OSError, match="disk full"):
        train(seeds=1)
    assert not kept(build)
    monkeypatch.setattr(*failing, real)
    assert len(train(seeds=1)) == 1
