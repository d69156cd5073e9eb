"""study.cells and study.results: each thing computed once for what decides it, and the files that are left by it."""

import dataclasses
import json
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch

from saqlib import data, training
from saqlib.scores import FILLS, GAINS, PRIMARY
from study import cells, files, models, paths, processes, results, settings, store
from study.settings import Cell
from tests.helpers.parameters import RAW, changed

SMALL = {
    "seeds": 2, "epochs": {"mnist": 2, "fashion_mnist": 2}, "warmup_epochs": 1, "records": 2, "images": 12,
    "images_expensive": 3, "images_deployed": 20,
}  # fmt: skip
TINY = changed(
    scales__smoke=RAW["scales"]["smoke"] | SMALL, clarity__steps=2, clarity__sensitivity_draws=1, device="cpu",
    claims__reference="fp32", optimizer__batch_size=400,
)  # fmt: skip
STUDY = settings.from_dict(TINY, "smoke")
CELL, REFERENCE = Cell("mnist", "w2a2", "standard"), Cell("mnist", "fp32", "standard")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder for results, with a store that all tests of this module share; work is done in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "BUILD", tmp_path_factory.mktemp("build"))
        patch.setattr(processes, "run_all", lambda function, jobs: [function(*job) for job in jobs])
        patch.setattr(settings, "read", lambda path=None: TINY)
        yield tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def runs(root):
    """The trained cell."""
    return results.train_cell(CELL, STUDY, root)


# ------------------------------------------------------------------------------------------------------- training


def test_trained_cell_is_written(root, runs):
    """Every seed with the record of seed 0 alone; accuracies are those of the networks, on data and on the sample."""
    content = models.read_cell(root / "models" / f"{CELL}.pt")
    assert list(content["seeds"]) == [0, 1]
    assert content["record"]["steps"].tolist() == runs[0].history.steps == [0, 3, 6]
    steps, images, maps = models.record(CELL, root)
    pixels, labels = data.load("mnist", "validation", paths.SAMPLE)
    assert np.array_equal(images, pixels[cells.watched(labels)].numpy()) and maps.shape == (3, 10, 28, 28)
    assert labels[cells.watched(labels)].tolist() == list(range(10)) and not runs[1].history.steps
    report = json.loads((root / "results" / "runs" / f"{CELL}.json").read_text())
    assert report["cell"] == str(CELL) and report["switch"] == runs[0].history.switch == 3
    for run in runs:
        accuracy = training.accuracy(models.load(CELL, run.seed, root), *data.load("mnist", "test", paths.SAMPLE))
        assert run.test_accuracy == run.sample_accuracy == accuracy
        own = report["seeds"][str(run.seed)]
        assert own["test_accuracy"] == round(accuracy, 4)
        assert own["positive_biases"] == sum(bias > 0 for bias in run.state["conv1.bias"].tolist())


@pytest.mark.usefixtures("runs")
def test_what_is_trained_is_not_trained_again(root, tmp_path, monkeypatch):
    """Another folder gets the same bytes from the store; fewer seeds are some of them."""
    monkeypatch.setattr(store.Cached, "write", lambda *_: pytest.fail("computed"))
    results.train_cell(CELL, STUDY, tmp_path)
    for name in (f"models/{CELL}.pt", f"results/runs/{CELL}.json"):
        assert (tmp_path / name).read_bytes() == (root / name).read_bytes()
    fewer = dataclasses.replace(STUDY, size=dataclasses.replace(STUDY.size, seeds=1))
    assert [run.seed for run in results.train_cell(CELL, fewer, tmp_path)] == [0]


@pytest.mark.usefixtures("runs")
def test_precisions_share_a_warm_up_and_are_the_same_without_one(root):
    """The bytes are those of a training from the first step on."""
    recipe = STUDY.recipe(CELL)
    assert recipe.warm_up == STUDY.recipe(REFERENCE).warm_up != STUDY.recipe(Cell("mnist", "fp32", "guided")).warm_up
    assert cells.warm_up_network.exists(recipe.warm_up, 1, "cpu")
    (single,), kept = cells._trained_runs(recipe, [1], "cpu", None), cells.train_network(recipe, 1, "cpu")
    assert all(torch.equal(value, kept.state[name]) for name, value in single.state.items())
    assert single.history == kept.history and single.test_accuracy == kept.test_accuracy


def test_seeds_that_train_together_are_left_one_by_one(root):
    """As a GPU trains them: only those that are missing, each with its own history."""
    recipe = dataclasses.replace(STUDY.recipe(REFERENCE), epochs=1, warmup_epochs=0)
    cells.train_network(recipe, 1, "cpu")
    before = cells.train_network.path(recipe, 1, "cpu").stat()
    cells.train_together(recipe, [0, 1, 2], "cpu")
    assert [cells.train_network.read(recipe, seed, "cpu").seed for seed in range(3)] == [0, 1, 2]
    assert cells.train_network.path(recipe, 1, "cpu").stat() == before
    cells.train_together(recipe, [0, 1, 2], "cpu")


def test_diverged_seed_is_named_and_leaves_nothing(root, monkeypatch):
    """With its cell, seed and epoch."""
    recipe = dataclasses.replace(STUDY.recipe(REFERENCE), optimizer=settings.Optimizer(400, 1.0), warmup_epochs=0)

    def diverge(*_, **__):
        raise training.DivergedError("seed 3: the loss is not finite in epoch 1")

    monkeypatch.setattr(training, "train_together", diverge)
    with pytest.raises(training.DivergedError, match="^mnist-fp32-standard, seed 3: the loss is not finite"):
        cells.train_network(recipe, 3, "cpu")
    assert not cells.train_network.exists(recipe, 3, "cpu")


def test_progress_is_reported_while_seeds_train(root, tmp_path, monkeypatch):
    """From files, from whichever process; at the end the histories are whole and no progress file is left."""
    other = settings.from_dict(changed(TINY, optimizer__batch_size=300), "smoke")
    recipe, seen, reports = other.recipe(CELL), [], []
    write = files.write

    def noticed(path, content):
        write(path, content)
        if path.suffix == ".progress":
            seen.append(cells.history(recipe, int(path.stem), "cpu"))
        return path

    monkeypatch.setattr(files, "write", noticed)
    runs = results.train_cell(CELL, other, tmp_path, on_progress=reports.append)
    assert seen and all(history.epochs == runs[0].history.epochs[: len(history.epochs)] for history in seen[:2])
    last = reports[-1]
    assert (last.seeds, last.epochs, list(last.histories)) == (2, 2, [0, 1])
    assert last.histories[1].epochs == runs[1].history.epochs
    assert not list(paths.BUILD.rglob("*.progress"))
    assert cells.history(recipe, 7, "cpu") is None


# ------------------------------------------------------------------------------------------------- what decides

CALLS = {
    "trained": (cells.train_network, lambda study: (study.recipe(CELL), 0, "cpu")),
    "fills": (cells.fill_gains, lambda study: cells.fill_calls("mnist", study)[0]),
    "scored": (cells.score_network, lambda study: cells.score_calls(CELL, study)[0]),
    "summary": (cells.summary_scores, lambda study: (*cells.curves_call(CELL, study), ("straight_through",))),
    "curves": (cells.curves_of, lambda study: cells.curves_call(CELL, study)),
    "deployed": (cells.deploy_network, lambda study: cells.deploy_call(CELL, study)),
}
SCORED = {"fills", "scored", "summary", "curves"}
STALE = {  # of every kind of reader one value: which recipe and scoring read which, tests/unit/test_settings.py asks
    "optimizer__learning_rate": (0.01, set(CALLS)),
    "precisions__w2a2__conv2": ([3, 3], set(CALLS) - {"fills"}),
    "clarity__steps": (3, SCORED),
    "scales__smoke__images_deployed": (21, {"deployed"}),
    "scales__smoke__seeds": (3, set()),
    "device": ("auto", set()),
    "ablations": ({}, set()),
    "registered": ([], set()),
    "claims__level": (0.1, set()),
    "claims__questions__accuracy": ("gini", set()),
}


@pytest.mark.parametrize("name", STALE)
def test_what_is_computed_anew_is_what_the_setting_decides(name, monkeypatch):
    """A key contains the keys of its inputs: what reads a network is computed anew where that is another one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    value, stale = STALE[name]
    other = settings.from_dict(changed(TINY, **{name: value}), "smoke")
    keys = {kind: [function.key(*call(study)) for study in (STUDY, other)] for kind, (function, call) in CALLS.items()}
    assert {kind for kind, (before, after) in keys.items() if before != after} == stale


def test_seed_device_other_networks_and_data_decide(monkeypatch):
    """Another seed, a GPU, another network whose maps are scored, too, other images."""
    first, others = cells.trained(CELL, STUDY)[0], cells.trained(REFERENCE, STUDY)
    keys = {dataclasses.replace(first, **change).key for change in ({}, {"seed": 1}, {"device": "cuda"})}
    beside = [(twin, partner) for twin in others for partner in (None, *others)]
    keys |= {cells.score_network.key(first, STUDY.scoring, *each) for each in beside}
    assert len(keys) == 3 + 6
    monkeypatch.setattr(cells, "_fingerprint", lambda dataset, sample: {"file": "other"})
    assert first.key not in keys


def test_a_network_is_scored_beside_its_twin_and_a_partner():
    """The reference of its own seed, which has none itself, and the same cell's other seed."""
    for cell in (REFERENCE, CELL):
        for own, _, twin, other in cells.score_calls(cell, STUDY):
            assert (other.recipe, other.seed) == (own.recipe, 1 - own.seed) and own.recipe == STUDY.recipe(cell)
            assert twin == (None if cell == REFERENCE else cells.trained(REFERENCE, STUDY)[own.seed])


def test_seeds_are_paired_so_that_those_that_explore_keep_to_themselves():
    """Each has another one, two have each other but for the last of an odd number, and a single one has none."""
    assert [cells.partner(seed, 6) for seed in range(6)] == [1, 0, 3, 2, 5, 4]
    assert [cells.partner(seed, 5) for seed in range(5)] == [1, 0, 3, 2, 3] and cells.partner(0, 1) is None
    size = settings.load(scale="full").size
    assert all((cells.partner(s, size.seeds) < size.exploring) == (s < size.exploring) for s in range(size.seeds))


@pytest.mark.parametrize("there", [True, False])
def test_device_is_the_one_that_is_there(monkeypatch, there):
    """`cuda` where there is none is an error that says what to set."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert (cells.pick_device("auto"), cells.pick_device("cpu")) == ("cuda" if there else "cpu", "cpu")
    with nullcontext() if there else pytest.raises(settings.ParamsError, match="no GPU here; set it to auto or cpu"):
        assert cells.pick_device("cuda") == "cuda"


# --------------------------------------------------------------------------------------------- scores, deployment


def test_scored_cell_is_its_seeds_side_by_side(root):
    """Each seed as it is by itself, in the file and in what is returned; labels and images stand once."""
    scores = results.score_cell(CELL, STUDY, root)
    assert scores.sizes["seed"] == 2
    assert not [name for name in ("label", "kept_image") if "seed" in scores[name].dims]
    assert files.read_dataset(root / "scores" / f"{CELL}.nc").identical(scores)
    for seed, call in enumerate(cells.score_calls(CELL, STUDY)):
        own = cells.score_network(*call)
        for name in ("scores", "floors", "preservation", "seed_to_seed", "kept_map", "kept_map_pass_through"):
            assert np.array_equal(scores[name].sel(seed=seed).values, own[name].values, equal_nan=True)


def test_fills_and_curves_see_no_test_image(root, monkeypatch):
    """Both are decided on validation images, and written."""
    results.train_cell(REFERENCE, STUDY, root)
    load = data.load

    def guarded(dataset, split, root=None):
        assert split != "test"
        return load(dataset, split, root)

    monkeypatch.setattr(data, "load", guarded)
    decision = results.decide_fills("mnist", STUDY, root)
    table = pd.read_csv(root / "results" / "fills" / "mnist_seeds.csv")
    assert decision.fill.tolist() == list(FILLS) == table.fill.tolist()
    assert set(table.seed) == {0} and set(decision.seeds) == {1}, "the seeds that explore"
    assert (root / "results" / "fills" / "mnist.csv").read_text() == files.csv(decision)
    course = results.training_curves(REFERENCE, STUDY, root)
    assert course.step.tolist() == [0, 3, 6] and course.switch.isna().all() and course.gini_se.notna().any()
    assert (root / "results" / "during" / f"{REFERENCE}.csv").read_text() == files.csv(course)


def test_deployed_cells_have_their_files_and_a_row_each(root, tmp_path, monkeypatch):
    """Of each cell the seed asked for, its ONNX files, the untrained network; the second time nothing is computed."""
    costs = results.deploy_cells({CELL: 1, REFERENCE: 0}, STUDY, root)
    assert costs.precision.tolist() == ["w2a2", "fp32"]
    assert (root / "results" / "deployment.csv").read_text() == files.csv(costs)
    names = {path.name for path in (root / "results" / "models").iterdir()}
    kinds = ("pt", "qcdq.onnx", "packed.onnx", "explain.onnx")
    assert names == {f"{cell}.{kind}" for cell in (CELL, REFERENCE) for kind in kinds} | {"untrained.explain.onnx"}
    state = cells.trained(CELL, STUDY)[1].run().state
    assert all(torch.equal(value, state[name]) for name, value in models.load(CELL, root=root).state_dict().items())
    monkeypatch.setattr(store.Cached, "write", lambda *_: pytest.fail("computed"))
    results.deploy_cells({CELL: 1, REFERENCE: 0}, STUDY, tmp_path)
    for name in names:
        assert (tmp_path / "results/models" / name).read_bytes() == (root / "results/models" / name).read_bytes()


# What a patch has to reach in the networks that it changes: of a network, its run and the table of the ablation.
REACHED = {
    "eight_bits": lambda network, run, table: network.act4.bits == network.dense1.bits == 8,
    "max_range": lambda network, run, table: table.clipped_act4[table.changed].max() < 0.01,
    "guided_pass_through": lambda network, run, table: run.history.epochs != cells.train_network(
        STUDY.recipe(Cell("mnist", "w2a2", "guided")), 1, "cpu").history.epochs,
    "batch_norm": lambda network, run, table: network.shape.batch_norm and "integrated_gradients_gini" in table,
}  # fmt: skip


@pytest.mark.parametrize("name", REACHED)
def test_an_ablation_has_a_row_for_each_network(name, root, monkeypatch):
    """Of the confirming seeds; `changed` where the variant changes it. Each is alive and has its scores."""
    of_one = {name: RAW["ablations"][name] | {"datasets": ["mnist"]}}
    monkeypatch.setitem(TINY, "ablations", of_one)
    table, (ablation, study) = results.ablate(name, "smoke", root), settings.variant(name, "smoke")
    assert [tuple(row) for row in table[["dataset", "precision", "training"]].to_numpy()] == [
        (each.dataset, each.precision, each.training) for each in ablation.cells
    ]
    assert set(table.seed) == {1}
    assert (table.amplitude > 0).all() and table[[*PRIMARY, f"pass_through_{GAINS[0]}"]].notna().all(axis=None)
    for cell, changed_here in zip(ablation.cells, table.changed, strict=True):
        assert changed_here == (cell not in STUDY.grid.cells or study.recipe(cell) != STUDY.recipe(cell))
        trained = cells.trained(cell, study)[1]
        run, quantized = trained.run(), cell.precision != "fp32"
        row = table[(table.precision == cell.precision) & (table.training == cell.training)].iloc[0]
        layers = run.history.epochs[-1]["layers"]
        assert bool(layers) == quantized and row.test_accuracy == run.test_accuracy
        assert all(row[f"clipped_{layer}"] == shares["clipped"] for layer, shares in layers.items())
        assert not (changed_here and quantized) or REACHED[name](trained.network(), run, table)
    path = root / "results" / "ablations" / f"{name}.csv"
    assert path.read_text() == files.csv(table) and table.changed.any()
    assert list(results.ablate(name, "quick", root)) == results.KEYS
    assert path.read_text() == ",".join(results.KEYS) + "\n", "a scale without ablations leaves the header"
