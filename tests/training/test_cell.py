"""Cells: the same bits for any number of workers, paired seeds, seeds trained once and never again, files whole."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from joblib.externals import loky

from saqlib import files, paths, stored
from saqlib.data import images as data
from saqlib.grid import Cell
from saqlib.network.quantization import pact_layers
from saqlib.training import cell as cells
from saqlib.training import loop
from saqlib.training import seed as one_seed
from saqlib.training.looking import accuracy, saliency_now
from saqlib.workers import Engine
from tests.training.tiny import CELL, CPU, PLAIN, SMOKE, assert_same_runs, tiny, train


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
def runs(finished) -> list[one_seed.Run]:
    """A trained cell of two seeds, for tests that only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", finished)
        return train()


@pytest.fixture
def saved(tmp_path, runs) -> Path:
    """A root folder in which the cell is saved."""
    cells.save_cell(CELL, runs, tiny(), root=tmp_path / "root")
    return tmp_path / "root"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept(folder: Path) -> list[str]:
    """The names of the files of trained seeds in the store, without their key."""
    return sorted(path.name for path in folder.rglob("trained/*/*") if path.is_file())


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """The seeds that were really trained, as they come."""
    seeds: list[int] = []
    real = cells.train_seeds

    def noting(cell, recipe, some, *places):
        seeds.extend(some)
        return real(cell, recipe, some, *places)

    monkeypatch.setattr(cells, "train_seeds", noting)
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
    monkeypatch.setattr(one_seed, "watch", lambda images, _: loop.Watch(images.train, images.train_labels, 1))
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
    monkeypatch.setattr(one_seed, "_on", lambda device, recipe, split, sample: data.load("mnist", split, sample=True))
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
    monkeypatch.setattr(cells, "train_seeds", lambda *_: during.append(threading.active_count()))
    monkeypatch.setattr(cells, "read", lambda *_: None)
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


def test_a_cell_of_another_name_and_the_same_recipe_is_not_trained_again(trained):
    """A name decides no number."""
    first = train()
    assert_same_runs(train(Cell("mnist", "w2a2", "standard"), tiny(CELL)), first)
    assert trained == [0, 1]


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
    monkeypatch.setattr(one_seed, "_going_on", lambda *_: {})
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
