"""study.cells and study.results: each thing computed once for what decides it, and the files that are left by it."""

import dataclasses
import json
import math
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch

from saqlib import data, training
from saqlib.scores import FILLS, PRIMARY
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


@pytest.fixture(scope="module")
def scores(root):
    """The scored cell."""
    return results.score_cell(CELL, STUDY, root)


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
        assert report["seeds"][str(run.seed)]["test_accuracy"] == round(accuracy, 4)


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

TRAINED = cells.trained(CELL, STUDY)[0]
CALLS = {
    "trained": (cells.train_network, lambda study: (study.recipe(CELL), 0, "cpu")),
    "fills": (cells.fill_gains, lambda study: cells.fill_calls("mnist", study)[0]),
    "scored": (cells.score_network, lambda study: cells.score_calls(CELL, study)[0]),
    "summary": (cells.summary_scores, lambda study: cells.summary_calls(CELL, study, 1)[0]),
    "curves": (cells.curves_of, lambda study: (cells.trained(CELL, study)[0], study.scoring)),
    "deployed": (cells.deploy_network, lambda study: cells.deploy_call(CELL, study)),
}
EVERY = set(CALLS)
SCORED = {"fills", "scored", "summary", "curves"}
STALE = {
    "optimizer__learning_rate": (0.01, EVERY),
    "network__hidden": ([10, 10], EVERY),
    "scales__smoke__sample": (False, EVERY),
    "precisions__w2a2__conv2": ([3, 3], EVERY - {"fills"}),
    "quantization__alpha_penalty": (0.1, EVERY - {"fills"}),
    "precisions__w4a4__conv2": ([3, 3], set()),
    "trainings__guided__weight": (2.0, set()),
    "clarity__steps": (3, SCORED),
    "scales__smoke__images": (13, SCORED),
    "scales__smoke__images_deployed": (21, {"deployed"}),
    "scales__smoke__seeds": (3, set()),
    "claims__level": (0.01, set()),
    "device": ("auto", set()),
}


@pytest.mark.parametrize("name", STALE)
def test_what_is_computed_anew_is_what_the_setting_decides(name, monkeypatch):
    """A key contains the keys of its inputs: what reads a network is computed anew where that is another one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    value, stale = STALE[name]
    other = settings.from_dict(changed(TINY, **{name: value}), "smoke")
    keys = {kind: [function.key(*call(study)) for study in (STUDY, other)] for kind, (function, call) in CALLS.items()}
    assert {kind for kind, (before, after) in keys.items() if before != after} == stale


def test_seed_device_neighbours_and_data_decide(monkeypatch):
    """Another seed, a GPU, another network to which maps are likened, other images."""
    recipe, scoring = STUDY.recipe(CELL), STUDY.scoring
    others = cells.trained(REFERENCE, STUDY)
    keys = {
        cells.train_network.key(recipe, 0, "cpu"), cells.train_network.key(recipe, 1, "cpu"),
        cells.train_network.key(recipe, 0, "cuda"),
        *(cells.score_network.key(TRAINED, scoring, other, last) for other in others for last in (None, *others)),
    }  # fmt: skip
    assert len(keys) == 3 + 6
    before = cells.train_network.key(recipe, 0, "cpu")
    monkeypatch.setattr(cells, "_fingerprint", lambda dataset, sample: {"file": "other"})
    assert cells.train_network.key(recipe, 0, "cpu") != before


def test_a_reference_network_has_another_seed_for_a_neighbour():
    """The last one the first; others have none, and all have the reference's same seed."""
    for cell in (REFERENCE, CELL):
        for own, _, same, neighbour in cells.score_calls(cell, STUDY):
            assert same.recipe == STUDY.recipe(REFERENCE) and same.seed == own.seed
            assert (neighbour and neighbour.seed) == (1 - own.seed if cell == REFERENCE else None)


@pytest.mark.parametrize("there", [True, False])
def test_device_is_the_one_that_is_there(monkeypatch, there):
    """`cuda` where there is none is an error that says what to set."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert (cells.pick_device("auto"), cells.pick_device("cpu")) == ("cuda" if there else "cpu", "cpu")
    with nullcontext() if there else pytest.raises(settings.ParamsError, match="no GPU here; set it to auto or cpu"):
        assert cells.pick_device("cuda") == "cuda"


# --------------------------------------------------------------------------------------------- scores, deployment


def test_scored_cell_is_its_seeds_side_by_side(root, scores):
    """Each seed as it is by itself, in the file and in what is returned; images and kept maps stand once."""
    assert scores.sizes["seed"] == 2 and "seed" not in scores.label.dims + scores.kept_map.dims
    assert files.read_dataset(root / "scores" / f"{CELL}.nc").identical(scores)
    for seed, call in enumerate(cells.score_calls(CELL, STUDY)):
        own = cells.score_network(*call)
        for name in ("scores", "relevance_gain", "preservation", "sensitivity_max", "method_scores"):
            assert np.array_equal(scores[name].sel(seed=seed).values, own[name].values, equal_nan=True)
    assert "seed_to_seed" not in scores


def test_means_are_those_of_the_images_that_have_a_score(scores):
    """Rounded; None where no image has one; every score of the map is there."""
    holed = scores.copy(deep=True)
    holed["auroc"][1] = np.nan
    holed["scores"].loc[{"seed": 0, "map": "gradient", "score": "gini"}][:4] = np.nan
    means = results.clarity_means(CELL, holed)
    assert (means["cell"], means["images"], list(means["seeds"])) == (str(CELL), 12, ["0", "1"])
    gini = holed.scores.sel(seed=0, map="gradient", score="gini").values[4:]
    assert means["seeds"]["0"]["gini"] == round(gini.mean(), 6) and means["seeds"]["1"]["auroc"] is None
    expected = {*PRIMARY, "probability", "entropy", "auroc", "dead", "amplitude", "untrained_gini", "preservation_ssim"}
    assert expected <= means["seeds"]["0"].keys() and all(f"relevance_gain_{f}" in means["seeds"]["0"] for f in FILLS)


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
    assert decision.fill.tolist() == list(FILLS) == table.fill[table.seed == 1].tolist() and set(decision.seeds) == {2}
    assert (root / "results" / "fills" / "mnist.csv").read_text() == files.csv(decision)
    course = results.training_curves(REFERENCE, STUDY, root)
    assert course.step.tolist() == [0, 3, 6] and course.switch.isna().all() and course.gini_se.notna().any()
    assert (root / "results" / "during" / f"{REFERENCE}.csv").read_text() == files.csv(course)
    with pytest.raises(settings.ParamsError, match="did you mean 'mnist'"):
        results.decide_fills("mnits", STUDY, root)


def test_deployed_cells_have_their_files_and_a_row_each(root, tmp_path, monkeypatch):
    """The first seed, its ONNX files, the untrained network; the second time nothing is computed."""
    costs = results.deploy_cells([CELL, REFERENCE], STUDY, root)
    assert costs.precision.tolist() == ["w2a2", "fp32"]
    assert (root / "results" / "deployment.csv").read_text() == files.csv(costs)
    names = {path.name for path in (root / "results" / "models").iterdir()}
    kinds = ("pt", "qcdq.onnx", "packed.onnx", "explain.onnx")
    assert names == {f"{cell}.{kind}" for cell in (CELL, REFERENCE) for kind in kinds} | {"untrained.explain.onnx"}
    state = cells.trained(CELL, STUDY)[0].run().state
    assert all(torch.equal(value, state[name]) for name, value in models.load(CELL, root=root).state_dict().items())
    monkeypatch.setattr(store.Cached, "write", lambda *_: pytest.fail("computed"))
    results.deploy_cells([CELL, REFERENCE], STUDY, tmp_path)
    for name in names:
        assert (tmp_path / "results/models" / name).read_bytes() == (root / "results/models" / name).read_bytes()


def test_an_ablation_has_a_row_for_each_network(root, monkeypatch):
    """`changed` where the variant changes it: full precision has no edges. Without seeds the table has its header."""
    monkeypatch.setitem(TINY, "ablations", {"edges_same": RAW["ablations"]["edges_same"] | {"datasets": ["mnist"]}})
    table = results.ablate("edges_same", "smoke", root)
    assert table.precision.tolist() == ["fp32", "fp32", "w2a2", "w2a2"] and table.seed.tolist() == [0, 1, 0, 1]
    assert table.changed.tolist() == [False, False, True, True]
    assert math.isclose(table.test_accuracy[1], cells.trained(REFERENCE, STUDY)[1].run().test_accuracy)
    assert {*PRIMARY, "amplitude"} <= set(table) and table.gini[0] != table.gini[2]
    assert (root / "results" / "ablations" / "edges_same.csv").read_text() == files.csv(table)
    assert list(results.ablate("edges_same", "quick", root)) == results.KEYS
    assert (root / "results" / "ablations" / "edges_same.csv").read_text() == ",".join(results.KEYS) + "\n"
