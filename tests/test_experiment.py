"""Cells: the same bits for any number of workers, paired seeds, resumed after a kill, files whole or not there."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from joblib.externals import loky

from saqlib import config, data, experiment, paths, saliency, training
from saqlib.config import Cell, Config, Epochs

SMOKE = config.load(scale="smoke")
CELL = Cell("mnist", "w2a2", "guided")
NO_RESULT = ("paths", "sources", "files", "memory")  # modules that decide where and how fast, not what


def tiny(seeds: int = 2, *, epochs: int = 1, **training_settings) -> Config:
    """The sample's images, one short epoch."""
    size = replace(SMOKE.size, seeds=seeds, epochs=Epochs(epochs, epochs), warmup_epochs=0.5, records=2)
    return replace(SMOKE, size=size, training=replace(SMOKE.training, **training_settings))


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
def runs(tmp_path_factory) -> list[experiment.Run]:
    """A trained cell of two seeds, for tests that only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", tmp_path_factory.mktemp("build"))
        return experiment.train_cell(CELL, tiny(), n_jobs=1)


@pytest.fixture
def saved(tmp_path, runs) -> Path:
    """A root folder in which the cell is saved."""
    experiment.save_cell(CELL, runs, tiny(), root=tmp_path / "root")
    return tmp_path / "root"


def assert_same_runs(some: list[experiment.Run], others: list[experiment.Run]) -> None:
    """Bit for bit: weights, histories, maps, accuracies."""
    assert [run.seed for run in some] == [run.seed for run in others]
    for one, other in zip(some, others, strict=True):
        assert one.state.keys() == other.state.keys()
        assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
        assert one.history.epochs == other.history.epochs and one.history.steps == other.history.steps
        assert all(torch.equal(a, b) for a, b in zip(one.history.maps, other.history.maps, strict=True))
        assert one.test_accuracy == other.test_accuracy


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------- training


def test_result_is_bit_identical_for_1_2_and_4_workers(tmp_path, monkeypatch):
    """Four seeds in one, two and four processes: the same runs, and the same bytes when they are saved."""
    settings, trained = tiny(seeds=4), {}
    for n_jobs in (1, 2, 4):
        monkeypatch.setattr(paths, "BUILD", tmp_path / f"build{n_jobs}")
        trained[n_jobs] = experiment.train_cell(CELL, settings, n_jobs=n_jobs)
        experiment.save_cell(CELL, trained[n_jobs], settings, root=tmp_path / f"root{n_jobs}")
    assert_same_runs(trained[1], trained[2])
    assert_same_runs(trained[1], trained[4])
    assert contents(tmp_path / "root1") == contents(tmp_path / "root2") == contents(tmp_path / "root4")
    first, second, *_ = trained[1]
    assert not torch.equal(first.state["dense1.weight"], second.state["dense1.weight"])


def test_only_seed_0_is_watched(runs):
    """The maps of ten validation images, one a class, are recorded for the first seed alone."""
    assert [len(run.history.maps) for run in runs] == [3, 0]
    assert runs[0].history.maps[0].shape == (10, 28, 28)
    assert runs[0].history.steps[0] == 0


def test_accuracies_are_those_of_the_trained_network(runs, saved):
    """The saved network, run again on the splits, scores what its run says."""
    for run in runs:
        network = experiment.load_model(CELL, run.seed, root=saved)
        assert training.accuracy(network, *data.load("mnist", "test", sample=True)) == run.test_accuracy
        validation = training.accuracy(network, *data.load("mnist", "validation", sample=True))
        assert validation == run.validation_accuracy == run.history.epochs[-1]["validation_accuracy"]


def spied(monkeypatch) -> list[dict]:
    """Replace training by a note of how it was called."""
    calls = []

    def train(networks, images, *, seeds, **options):
        for seed, network in zip(seeds, networks, strict=True):
            weights = {name: p.detach().clone() for name, p in network.named_parameters()}
            calls.append(options | {"seed": seed, "weights": weights})
            network.eval()
        return [
            training.History(epochs=[{"validation_accuracy": 0.0}], maps=[torch.zeros(10, 28, 28)], steps=[0])
            for _ in seeds
        ]

    monkeypatch.setattr(training, "train_together", train)
    return calls


def test_seeds_are_paired_across_the_cells(monkeypatch):
    """One seed starts from the same weights and is given the same seed and schedule in every cell."""
    calls = spied(monkeypatch)
    for precision in ("fp32", "w4a4", "w2a2"):
        for mode in ("standard", "guided"):
            experiment.train_cell(Cell("mnist", precision, mode), tiny(), n_jobs=1)
    assert [call["seed"] for call in calls] == [0, 1] * 6
    assert [call["guided"] for call in calls] == [None, None, SMOKE.guided, SMOKE.guided] * 3
    for seed in (0, 1):
        first, *others = calls[seed::2]
        for call in others:
            assert (call["epochs"], call["warmup_epochs"], call["settings"]) == (1, 0.5, SMOKE.training)
            for name, weight in first["weights"].items():
                assert torch.equal(call["weights"][name], weight), name
    assert not torch.equal(calls[0]["weights"]["conv1.weight"], calls[1]["weights"]["conv1.weight"])


def test_killed_run_goes_on_where_it_stopped(tmp_path, build, runs):
    """A process killed in the middle of seed 1 leaves seed 0; the next call trains the rest, to the same bits."""
    script = f"""
import os, pathlib, signal
from saqlib import experiment, paths
from tests.test_experiment import CELL, tiny
paths.BUILD = pathlib.Path({str(build)!r})
write = experiment._write
def write_until(value, path):
    write(value, path)
    if path.name == "1.progress":
        os.kill(os.getpid(), signal.SIGKILL)
experiment._write = write_until
experiment.train_cell(CELL, tiny(), n_jobs=1)
"""
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    (folder,) = (build / "seeds").iterdir()
    assert sorted(path.name for path in folder.glob("*.pt")) == ["0.pt"]
    before = (folder / "0.pt").stat()
    assert_same_runs(experiment.train_cell(CELL, tiny(), n_jobs=1), runs)
    after = (folder / "0.pt").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_finished_seeds_are_not_trained_again(monkeypatch):
    """Nothing is left to do for a second call; after the cell is saved its seeds are forgotten."""
    calls = spied(monkeypatch)
    first = experiment.train_cell(CELL, tiny(), n_jobs=1)
    assert len(calls) == 2
    assert_same_runs(experiment.train_cell(CELL, tiny()), first)
    assert len(calls) == 2


CHANGES = {
    "rate": lambda s: replace(s, training=replace(s.training, learning_rate=0.1)),
    "penalty": lambda s: replace(s, training=replace(s.training, alpha_penalty=0.1)),
    "fraction": lambda s: replace(s, guided=replace(s.guided, fraction=0.1)),
    "ranking": lambda s: replace(s, guided=replace(s.guided, ranking="signed")),
    "widths": lambda s: replace(s, network=replace(s.network, hidden=(30, 20))),
    "precision": lambda s: replace(s, precisions=s.precisions | {"w2a2": s.precisions["w4a4"]}),
    "epochs": lambda s: replace(s, size=replace(s.size, epochs=Epochs(2, 2))),
    "warm-up": lambda s: replace(s, size=replace(s.size, warmup_epochs=0.25)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_setting_starts_anew(monkeypatch, change):
    """Seeds of other settings are never taken for those of the present ones."""
    calls = spied(monkeypatch)
    experiment.train_cell(CELL, tiny(seeds=1), n_jobs=1)
    experiment.train_cell(CELL, CHANGES[change](tiny(seeds=1)), n_jobs=1)
    assert len(calls) == 2


@pytest.mark.parametrize("module", experiment.CODE)
def test_changed_code_starts_anew(monkeypatch, tmp_path, module):
    """A line more in a module that decides the result, and finished seeds count no longer."""
    calls = spied(monkeypatch)
    shutil.copytree(paths.ROOT / "saqlib", tmp_path / "saqlib")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    experiment.train_cell(CELL, tiny(seeds=1), n_jobs=1)
    with (tmp_path / "saqlib" / f"{module}.py").open("a") as file:
        file.write("# changed\n")
    experiment.train_cell(CELL, tiny(seeds=1), n_jobs=1)
    assert len(calls) == 2


def test_code_names_every_module_that_decides_a_result():
    """What the experiment imports, directly or not, is named, except what cannot change a number."""
    found, queue = set(), ["experiment"]
    while queue:
        module = queue.pop()
        if module in found:
            continue
        found.add(module)
        for node in ast.walk(ast.parse((paths.ROOT / "saqlib" / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "saqlib":
                queue += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("saqlib."):
                queue.append(node.module.split(".")[1])
    assert found == set(experiment.CODE) | set(NO_RESULT)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_diverged_seed_is_named(n_jobs):
    """Cell, seed and epoch, also when the error comes out of a worker process; no seed counts as finished."""
    settings = tiny(learning_rate=1e9)
    with pytest.raises(training.DivergedError, match="^mnist-fp32-standard, seed [01]: .* epoch 1;"):
        experiment.train_cell(Cell("mnist", "fp32", "standard"), settings, n_jobs=n_jobs)
    assert not list(paths.BUILD.rglob("*.pt"))


def test_progress_is_reported_while_seeds_train(monkeypatch):
    """The last report tells all epochs of all seeds; earlier ones come while they are trained."""
    monkeypatch.setattr(experiment, "POLL_SECONDS", 0.02)
    reports = []
    experiment.train_cell(CELL, tiny(epochs=2), n_jobs=1, on_progress=reports.append)
    assert (reports[-1].seeds, reports[-1].epochs) == (2, 2)
    assert {seed: len(history.epochs) for seed, history in reports[-1].histories.items()} == {0: 2, 1: 2}
    assert any(len(report.histories) == 1 for report in reports)


def threads_and(value: int) -> tuple[int, int]:
    return torch.get_num_threads(), value


def test_parallel_keeps_the_order_and_gives_each_task_one_thread():
    """In this process, whose own setting comes back afterwards, and in workers."""
    jobs = [(value,) for value in (5, 3, 9)]
    torch.set_num_threads(2)
    try:
        assert experiment.parallel(threads_and, jobs, SMOKE, n_jobs=1) == [(1, 5), (1, 3), (1, 9)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert experiment.parallel(threads_and, jobs, SMOKE, n_jobs=2) == [(1, 5), (1, 3), (1, 9)]


def test_workers_are_one_a_core_but_no_more_than_seeds(monkeypatch):
    """An idle worker would only cost its start."""
    monkeypatch.setattr(experiment.joblib, "cpu_count", lambda: 4)
    assert [experiment.workers(seeds) for seeds in (0, 1, 3, 4, 10)] == [1, 1, 3, 4, 4]


def test_network_and_images_are_on_the_device_that_was_picked(monkeypatch):
    """Everything that training sees lies where params.yaml says."""
    seen = []

    def train(networks, images, **options):
        tensors = [*networks[0].state_dict().values(), images.train, images.train_labels, images.validation]
        seen.extend([*tensors, options["watch"].images, options["watch"].labels])
        raise InterruptedError

    monkeypatch.setattr(training, "train_together", train)
    monkeypatch.setattr(experiment, "_watch", lambda images, _: training.Watch(images.train, images.train_labels, 1))
    monkeypatch.setattr(experiment, "pick_device", lambda settings: torch.device("meta"))
    with pytest.raises(InterruptedError):
        experiment.train_cell(CELL, tiny(), n_jobs=1)
    assert len(seen) > 10 and {tensor.device.type for tensor in seen} == {"meta"}


def test_device_is_that_of_the_settings(monkeypatch):
    """`auto` takes a GPU where there is one, a name is taken as it is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert experiment.pick_device(replace(SMOKE, device="auto")).type == "cuda"
    assert experiment.pick_device(replace(SMOKE, device="cpu")).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert experiment.pick_device(replace(SMOKE, device="auto")).type == "cpu"
    with pytest.raises(config.ConfigError, match="cuda.*no GPU"):
        experiment.pick_device(replace(SMOKE, device="cuda"))


# ---------------------------------------------------------------------------------------------- saved cells


def test_saved_cell_is_deterministic_and_leaves_nothing_else(tmp_path, build, runs, saved):
    """Three files, readable by everybody, the same bytes each time; the seeds' own folder is gone."""
    experiment.train_cell(CELL, tiny(seeds=1), n_jobs=1)
    experiment.save_cell(CELL, runs, tiny(seeds=1), root=tmp_path / "again")
    assert contents(tmp_path / "again") == contents(saved)
    assert set(contents(saved)) == {f"models/{CELL}.pt", f"results/models/{CELL}.pt", f"results/runs/{CELL}.json"}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in saved.rglob("*"))
    assert not list(build.rglob("*.pt"))


def test_saved_cell_holds_every_seed_and_the_record(runs, saved):
    """models/ has all seeds and the maps of training, results/ seed 0 alone, the report rounded numbers."""
    whole = experiment.read_cell(saved / "models" / f"{CELL}.pt")
    assert whole["cell"] == str(CELL) and list(whole["seeds"]) == [0, 1]
    assert whole["record"]["steps"].tolist() == runs[0].history.steps
    assert torch.equal(whole["record"]["maps"], torch.stack(runs[0].history.maps))
    validation, labels = data.load("mnist", "validation", sample=True)
    for label, image in enumerate(whole["record"]["images"]):
        assert torch.equal(image, validation[labels == label][0])
    assert list(experiment.read_cell(saved / "results" / "models" / f"{CELL}.pt")["seeds"]) == [0]
    report = json.loads((saved / "results" / "runs" / f"{CELL}.json").read_text())
    assert report["cell"] == str(CELL) and list(report["seeds"]) == ["0", "1"]
    for run in runs:
        told = report["seeds"][str(run.seed)]
        assert told["test_accuracy"] == pytest.approx(run.test_accuracy, abs=1e-4)
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
        experiment.save_cell(CELL, runs[:1], tiny(), root=saved)
    assert contents(saved) == before


def test_loaded_network_is_the_trained_one(runs, saved):
    """In evaluation mode, with every bit of its state, ready to be explained; names and Cells are the same."""
    images = training.as_input(data.load("mnist", "test", sample=True)[0][:20])
    for run in runs:
        network = experiment.load_model(CELL, run.seed, root=saved)
        assert not any(module.training for module in network.modules())
        assert all(torch.equal(value, run.state[name]) for name, value in network.state_dict().items())
        assert saliency.input_gradient(network, images).shape == (20, 28, 28)
        by_name = experiment.load_model(str(CELL), run.seed, root=saved)
        assert torch.equal(by_name(images), network(images))
    assert network.precision.name == "w2a2"


def test_seed_0_is_loaded_from_results_where_nothing_was_trained(saved):
    """A reader's checkout has results/models only: seed 0 works, others are an error that says what is there."""
    shutil.rmtree(saved / "models")
    assert experiment.load_model(CELL, 0, root=saved)
    with pytest.raises(experiment.ModelFileError, match=rf"^{CELL} holds seeds \[0\], not 1$"):
        experiment.load_model(CELL, 1, root=saved)


def test_seed_that_is_not_there_is_refused(saved):
    """The error names the seeds that the file has."""
    with pytest.raises(experiment.ModelFileError, match=r"holds seeds \[0, 1\], not 7"):
        experiment.load_model(CELL, 7, root=saved)


def test_missing_model_says_what_to_do(tmp_path):
    """Which file is missing, and the command that makes it."""
    with pytest.raises(experiment.ModelFileError) as error:
        experiment.load_model("fashion_mnist-fp32-standard", 0, root=tmp_path)
    assert str(tmp_path / "results" / "models" / "fashion_mnist-fp32-standard.pt") in str(error.value)
    assert "dvc repro train@fashion_mnist-fp32-standard" in str(error.value)


def foreign_files() -> dict:
    def module(path):
        torch.save(torch.nn.Linear(2, 2), path)

    def other_keys(path):
        torch.save({"state_dict": {}}, path)

    def tensor(path):
        torch.save(torch.zeros(3), path)

    return {
        "text": lambda path: path.write_text("hello"),
        "empty": lambda path: path.write_bytes(b""),
        "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        "folder": lambda path: (path.unlink(), path.mkdir()),
        "pickled module": module,
        "dictionary": other_keys,
        "tensor": tensor,
    }


@pytest.mark.parametrize("kind", foreign_files())
def test_foreign_model_file_is_refused_in_one_sentence(saved, kind):
    """Whatever the bytes are: the file is named, on one line."""
    path = saved / "models" / f"{CELL}.pt"
    foreign_files()[kind](path)
    with pytest.raises(experiment.ModelFileError, match="is not a model file of this project") as error:
        experiment.load_model(CELL, 0, root=saved)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


class Hostile:
    """Unpickling it runs a command of its author's choice."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_model_file_is_run(saved, tmp_path):
    """A file that somebody was sent cannot do more than fail to load."""
    torch.save({"cell": Hostile(tmp_path / "was here")}, saved / "models" / f"{CELL}.pt")
    with pytest.raises(experiment.ModelFileError):
        experiment.load_model(CELL, 0, root=saved)
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("name", ["mnist-w2a2", "mnits-w2a2-guided", "mnist-w2a2-guide", ""])
def test_name_that_is_no_cell_is_refused(saved, name):
    """A misspelt cell is told as such, not as a missing file."""
    with pytest.raises(config.ConfigError):
        experiment.load_model(name, 0, root=saved)
