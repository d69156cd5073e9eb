"""A cell's scores: their labels, the store of scored seeds, the same bytes for any number of workers, the files."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from saqlib import codebase, paths, stored, words
from saqlib.clarity import cell as cells
from saqlib.clarity.settings import Scoring
from saqlib.data import images as data
from saqlib.evidence import reading
from saqlib.evidence.runs import collect
from saqlib.grid import Cell, Grid
from saqlib.names import FILLS, GAINS, GRADIENT, OTHER_METHODS, PRESERVATION, PRIMARY, UNTRAINED
from tests.clarity.conftest import CELLS, EXPENSIVE, FP32, IMAGES, SCORING, SEEDS, SMOKE, W2A2
from tests.evidence.written import write_fills

LEAST = replace(SCORING, images=12, images_expensive=1)  # of the store's tests, which score again and again


@pytest.fixture(autouse=True)
def build(tmp_path, monkeypatch) -> Path:
    """A build folder of the test's own, so that no seed of another run is taken up."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    return paths.BUILD


@pytest.fixture
def models(root, tmp_path) -> Path:
    """A folder with models of the test's own."""
    shutil.copytree(root / "models", tmp_path / "root" / "models")
    return tmp_path / "root"


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What is computed from here on: the name of each task and of its seed."""
    made: list[str] = []

    task = cells.score_seed

    def spied(dataset, scoring, seed, *rest):
        made.append(f"seed {seed}")
        return task(dataset, scoring, seed, *rest)

    monkeypatch.setattr(cells, "score_seed", spied)
    return made


@pytest.fixture
def quick(monkeypatch) -> list[str]:
    """As `calls`, but nothing is computed: for what the store does with a result, whatever it is."""
    made: list[str] = []

    def score_seed(dataset, scoring, seed, *_):
        made.append(f"seed {seed}")
        kept = {name: ("kept", [1.5, 2.5]) for name in ("kept_image", "kept_map")}
        return xr.Dataset({"label": ("image", [4]), "scores": ("image", [float(seed)]), **kept})

    monkeypatch.setattr(cells, "score_seed", score_seed)
    return made


def score(root: Path, cell: Cell = W2A2, scoring: Scoring = LEAST, seeds: int = SEEDS, n_jobs: int = 1) -> xr.Dataset:
    """The cell, scored in this process unless n_jobs says otherwise."""
    return cells.score_cell(cell, scoring, seeds, SMOKE.engine, root, n_jobs=n_jobs)


def change_weights(root: Path, cell: Cell, *seeds: int) -> None:
    """Other weights for these seeds of a model file, in one filter of the second convolution."""
    path = root / "models" / f"{cell}.pt"
    content = torch.load(path)
    for seed in seeds:
        content["seeds"][seed]["conv2.weight"][0] *= -1
    torch.save(content, path)


def kept(build: Path) -> dict[str, bytes]:
    """The store's files of scores, by their place in it."""
    folder = build / "store" / "scored"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


ALL = ["seed 0", "seed 1"]


# ------------------------------------------------------------------------------------------ what is in a dataset


def test_arrays_have_the_documented_dimensions(scored):
    """Every score, for every seed and image; the expensive ones for the first images; nothing missing or more."""
    per_image = dict.fromkeys(("predicted", "probability", "entropy", "auroc", "dead"), ("seed", "image"))
    expected = per_image | {
        "scores": ("seed", "map", "score", "image"),
        "preservation": ("seed", "likeness", "image"),
        "sensitivity_max": ("seed", "few"),
        "relevance_gain": ("seed", "map", "fill", "image"),
        "amplitude": ("seed", "map", "image"),
        "method_scores": ("seed", "explainer", "score", "few"),
        "method_gain": ("seed", "explainer", "fill", "few"),
        "switched_scores": ("seed", "weights", "activations", "score", "few"),
        "switched_gain": ("seed", "weights", "activations", "fill", "few"),
        "switched_predicted": ("seed", "weights", "activations", "few"),
        "difference_scores": ("seed", "difference", "score", "few"),
        "difference_gain": ("seed", "difference", "fill", "few"),
        "cascade": ("seed", "redrawn", "likeness", "few"),
        "control_scores": ("seed", "control", "score", "image"),
        "control_gain": ("seed", "control", "fill", "image"),
        "curves": ("seed", "order", "level"),
        "accuracies": ("seed", "accuracy_order", "accuracy_level"),
        "gradient": ("seed", "draw"),
        "label": ("image",),
        "kept_image": ("kept", "y", "x"),
        "kept_map": ("kept", "y", "x"),
    }
    assert {name: array.dims for name, array in scored[W2A2].items()} == expected
    whole = {name: dims for name, dims in expected.items() if not name.startswith("switched")}  # nothing to switch off
    both = whole | {"seed_to_seed": ("seed", "likeness", "image")}
    assert {name: array.dims for name, array in scored[FP32].items()} == both
    sizes = {"seed": SEEDS, "image": IMAGES, "few": EXPENSIVE, "level": SMOKE.clarity.steps + 1, "accuracy_level": 10}
    sizes |= {"draw": 2000, "y": 28, "x": 28}
    assert {name: scored[W2A2].sizes[name] for name in sizes} == sizes


def test_labels_are_the_names_that_everybody_uses(scored):
    """Scores, likenesses, maps, controls and methods stand under the identifiers of saqlib.names and words."""
    for scores in scored.values():
        labels = {name: scores[name].values.tolist() for name in scores.dims if name in scores.coords}
        assert labels["seed"] == list(range(SEEDS))
        assert labels["score"] == list(PRIMARY) and labels["likeness"] == list(PRESERVATION)
        assert labels["fill"] == list(FILLS)
        assert labels["map"] == [GRADIENT, UNTRAINED]
        assert {UNTRAINED, *labels["control"]} == set(words.CONTROLS)
        assert sorted(labels["explainer"]) == sorted(OTHER_METHODS)
        assert labels["order"] == ["most", "least", "random"] and labels["accuracy_order"] == ["most", "random"]
        assert set(labels["kept"]) <= set(labels["image"])


def test_cells_are_scored_on_the_same_images_in_random_order(scored):
    """One random order of the test split for all cells."""
    places = scored[FP32].image.values
    np.testing.assert_array_equal(places, scored[W2A2].image)
    assert len(set(places)) == IMAGES and not np.array_equal(np.sort(places), places)
    np.testing.assert_array_equal(scored[FP32].label, data.load("mnist", "test", sample=True)[1][places.copy()])


def test_each_seed_is_its_own_whatever_the_others(scored, root):
    """Seed 0 scores the same when it is the only seed; the kept maps are always its."""
    one = score(root, scoring=SCORING, seeds=1)
    xr.testing.assert_identical(one, scored[W2A2].sel(seed=[0]))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_any_number_of_workers_makes_the_same_bytes(cell, root, build, monkeypatch):
    """From two worker processes, every file of the store and the whole cell are bit for bit those of one."""
    one = score(root, cell)
    files_of_one = kept(build)
    monkeypatch.setattr(paths, "BUILD", build / "again")
    two = score(root, cell, n_jobs=2)
    assert kept(build / "again") == files_of_one and len(files_of_one) == 2
    xr.testing.assert_identical(one, two)
    for folder, scores in (("one", one), ("two", two)):
        cells.save_cell(cell, scores, build / folder)
    name = Path("scores") / f"{cell}.nc"
    assert (build / "one" / name).read_bytes() == (build / "two" / name).read_bytes()


# ------------------------------------------------------------------------------------------------------ the store


def test_the_store_has_one_file_for_each_seed(root, build):
    """scored/<key>/<seed>.nc, each under a key of its own."""
    score(root)
    names = [name.split("/") for name in kept(build)]
    assert sorted(file for _, file in names) == ["0.nc", "1.nc"]
    assert len({key for key, _ in names}) == 2 and all(len(key) == 16 for key, _ in names)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_scoring_again_computes_nothing(cell, root, build, calls):
    """Nothing is left to do for a second call, which returns the same and touches no file."""
    first, files_of_first = score(root, cell), kept(build)
    assert calls == ALL
    stamps = {path: path.stat().st_mtime_ns for path in build.rglob("*.nc")}
    xr.testing.assert_identical(score(root, cell), first)
    assert calls == ALL and kept(build) == files_of_first
    assert {path: path.stat().st_mtime_ns for path in build.rglob("*.nc")} == stamps


def test_a_seed_more_computes_only_that(root, quick):
    """What one seed has computed is there when two are asked for."""
    score(root, seeds=1)
    assert quick == ["seed 0"]
    score(root)
    assert quick == ["seed 0", "seed 1"]


def test_the_last_seed_of_the_reference_has_another_neighbour_among_more(root, quick):
    """Of the reference the seed before the new one is likened to the new one, so it is scored again."""
    score(root, FP32, seeds=1)
    score(root, FP32)
    assert quick == ["seed 0", "seed 0", "seed 1"]


@pytest.mark.parametrize(
    ("changed", "seed", "scored_cell", "anew"),
    [
        (W2A2, 0, W2A2, ["seed 0"]),
        (W2A2, 1, W2A2, ["seed 1"]),
        (FP32, 0, W2A2, ["seed 0"]),
        (FP32, 1, W2A2, ["seed 1"]),
        (FP32, 0, FP32, ["seed 0", "seed 1"]),
        (FP32, 1, FP32, ["seed 0", "seed 1"]),
        (W2A2, 0, FP32, []),
    ],
    ids=str,
)
def test_other_weights_compute_anew_what_they_touch(changed, seed, scored_cell, anew, models, calls):
    """A seed's own network, its reference's or its neighbour's; nothing else."""
    before = score(models, scored_cell)
    change_weights(models, changed, seed)
    del calls[:]
    after = score(models, scored_cell)
    assert calls == anew
    for each in range(SEEDS):
        untouched = f"seed {each}" not in anew
        one, two = (scores.sel(seed=each).drop_vars("kept_map") for scores in (before, after))
        assert one.identical(two) == untouched


def test_other_bits_compute_anew(models, calls):
    """The same weights at other bits are another network: it is scored anew."""
    before = score(models)
    path = models / "models" / f"{W2A2}.pt"
    content = torch.load(path)
    for layer in content["precision"]["layers"]:
        if layer["activation"]:
            layer["activation"] += 1
    torch.save(content, path)
    del calls[:]
    after = score(models)
    assert calls == ALL
    assert not np.array_equal(before.probability, after.probability)


SETTINGS = {
    "images": lambda s: replace(s, images=s.images - 1),
    "images_expensive": lambda s: replace(s, images_expensive=s.images_expensive + 1),
    "calibration_images": lambda s: replace(s, calibration_images=7),
    "reference": lambda s: replace(s, reference="w2a2"),
    "steps": lambda s: replace(s, clarity=replace(s.clarity, steps=5)),
    "sensitivity_radius": lambda s: replace(s, clarity=replace(s.clarity, sensitivity_radius=0.05)),
    "sensitivity_draws": lambda s: replace(s, clarity=replace(s.clarity, sensitivity_draws=3)),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_other_settings_compute_anew(setting, root, quick):
    """Scores of other settings are never taken for those of the present ones; going back computes nothing."""
    first = score(root)
    score(root, scoring=SETTINGS[setting](LEAST))
    assert quick == ALL * 2
    xr.testing.assert_identical(score(root), first)
    assert quick == ALL * 2


def test_other_images_compute_anew(root, quick, monkeypatch):
    """The data's content decides, not its name."""
    score(root)
    real = data.fingerprint
    monkeypatch.setattr(data, "fingerprint", lambda *a, **o: real(*a, **o) | {"train-images-idx3-ubyte": "0" * 64})
    score(root)
    assert quick == ALL * 2


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A copy of the library whose text is what keys are made of; the code that runs stays as it is."""
    shutil.copytree(paths.ROOT / "saqlib", tmp_path / "copy" / "saqlib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "ROOT", tmp_path / "copy")
    return tmp_path / "copy" / "saqlib"


def edit(library: Path, file: str, line: str) -> None:
    """A line more at the end of a file of the library."""
    with (library / file).open("a", encoding="utf-8") as text:
        text.write(f"\n{line}\n")
    codebase.forget()  # a process reads its own code once


SCORERS = [module for module in codebase.texts("clarity.seed") if codebase.room(module) == "clarity"]


@pytest.mark.parametrize("module", SCORERS)
def test_other_code_of_the_scores_computes_anew(module, root, library, quick):
    """A statement more in a module that scores, and scored seeds count no longer; a comment changes nothing."""
    score(root)
    edit(library, f"{module.replace('.', '/')}.py", "# a comment")
    score(root)
    assert quick == ALL
    edit(library, f"{module.replace('.', '/')}.py", "CHANGED = True")
    score(root)
    assert quick == ALL * 2


@pytest.mark.parametrize("file", ["saliency/gradient.py", "saliency/methods.py", "network/lenet.py"])
def test_other_code_below_the_scores_computes_anew(file, root, library, quick):
    """So does one in what scoring quick: the gradient, the network."""
    score(root)
    edit(library, file, "CHANGED = True")
    score(root)
    assert quick == ALL * 2


@pytest.mark.parametrize(
    "file", ["training/loop.py", "evidence/claims.py", "stored.py", "clarity/settings.py", "clarity/cell.py"]
)
def test_code_that_decides_no_score_computes_nothing(file, root, library, quick):
    """Training code, evidence, what reads files, checks settings, schedules: scored seeds stay."""
    score(root)
    edit(library, file, "CHANGED = True")
    score(root)
    assert quick == ALL


DAMAGES = {
    "empty": lambda content: b"",
    "text": lambda content: b"not netCDF at all",
    "header": lambda content: content[:40],
    "half": lambda content: content[: len(content) // 2],
    "last bytes": lambda content: content[:-9],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_damaged_file_is_put_aside_and_scored_anew(damage, seed, root, build, quick):
    """The file keeps its bytes under another name, and what it held is computed anew; the others stay."""
    first, before = score(root), kept(build)
    (path,) = build.rglob(f"{seed}.nc")
    spoilt = DAMAGES[damage](path.read_bytes())
    path.write_bytes(spoilt)
    del quick[:]
    xr.testing.assert_identical(score(root), first)
    assert quick == [f"seed {seed}"]
    assert kept(build) == before | {f"{path.parent.name}/{seed}.nc.damaged": spoilt}


def test_scores_in_place_of_damaged_ones_are_equal(root, build, calls):
    """With every real file cut short, wherever the cut falls, all is scored anew to the same bytes."""
    first, before = score(root), kept(build)
    for share, place in zip((0.2, 0.9), before, strict=True):
        content = before[place]
        (build / "store" / "scored" / place).write_bytes(content[: int(share * len(content))])
    xr.testing.assert_identical(score(root), first)
    assert calls == ALL * 2
    assert {name: content for name, content in kept(build).items() if name.endswith(".nc")} == before


def test_a_killed_run_goes_on_where_it_stopped(root, calls, monkeypatch):
    """Seeds that were finished before an error are not scored again."""

    def broken(dataset, scoring, seed, *rest):
        if seed == 1:
            raise InterruptedError
        return task(dataset, scoring, seed, *rest)

    task = cells.score_seed
    with monkeypatch.context() as patch:
        patch.setattr(cells, "score_seed", broken)
        with pytest.raises(InterruptedError):
            score(root)
    assert calls == ["seed 0"]
    score(root)
    assert calls == ALL


def test_scoring_side_by_side_leaves_whole_files(root, build, quick, monkeypatch):
    """Two that score the same cell at once, as two stages may, end with the same files and nothing half-written."""
    together, results = threading.Barrier(2), {}
    task = cells.score_seed
    monkeypatch.setattr(cells, "score_seed", lambda *arguments: (together.wait(), task(*arguments))[1])
    threads = [threading.Thread(target=lambda name=name: results.update({name: score(root)})) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(quick) == sorted(ALL * 2)
    xr.testing.assert_identical(results["a"], results["b"])
    assert sorted(Path(name).name for name in kept(build)) == ["0.nc", "1.nc"]


# ------------------------------------------------------------------------------------------------------ the files


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_files_hold_the_scores_and_have_the_same_bytes_each_time(cell, scored, tmp_path):
    """What is read back is what was scored, labels included; written twice, the bytes are one."""
    for name in ("one", "two"):
        cells.save_cell(cell, scored[cell], tmp_path / name)
    for file in (f"scores/{cell}.nc", f"results/clarity/{cell}.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    read = reading.scores(cell, tmp_path / "one")
    xr.testing.assert_equal(read, scored[cell])
    assert {name: array.dims for name, array in read.items()} == {n: a.dims for n, a in scored[cell].items()}


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_summary_holds_each_seeds_means(cell, scored, tmp_path):
    """Means over all images of a seed, rounded, under one name for each score; the reference's has one block more."""
    cells.save_cell(cell, scored[cell], tmp_path)
    summary = json.loads((tmp_path / "results" / "clarity" / f"{cell}.json").read_text())
    assert (summary["cell"], summary["images"], list(summary["seeds"])) == (str(cell), IMAGES, ["0", "1"])
    likenesses = ("preservation", "seed_to_seed") if cell == FP32 else ("preservation",)
    of_maps = (*PRIMARY, *GAINS, "amplitude")
    names = {"probability", "entropy", "auroc", "dead", *of_maps, *(f"{UNTRAINED}_{name}" for name in of_maps)}
    names |= {f"{array}_{name}" for array in likenesses for name in PRESERVATION}
    for seed, found in summary["seeds"].items():
        assert set(found) == names
        scores = scored[cell].sel(seed=int(seed))
        assert found["probability"] == pytest.approx(scores.probability.values.astype(float).mean(), abs=2e-6)
        for name in PRIMARY:
            for which, prefix in ((GRADIENT, ""), (UNTRAINED, f"{UNTRAINED}_")):
                values = scores.scores.sel(map=which, score=name).values
                assert found[f"{prefix}{name}"] == pytest.approx(np.nanmean(values), abs=1e-6)
        for which, prefix in ((GRADIENT, ""), (UNTRAINED, f"{UNTRAINED}_")):
            arrays = {"amplitude": scores.amplitude.sel(map=which)}
            arrays |= {f"relevance_gain_{fill}": scores.relevance_gain.sel(map=which, fill=fill) for fill in FILLS}
            for name, values in arrays.items():
                assert found[f"{prefix}{name}"] == pytest.approx(np.nanmean(values.values), abs=1e-6)
        for array in likenesses:
            for name in PRESERVATION:
                values = scores[array].sel(likeness=name).values
                assert found[f"{array}_{name}"] == pytest.approx(np.nanmean(values), abs=1e-6)


def test_summary_counts_what_is_there(scored):
    """Dead maps are left out of a mean and counted; a seed without any map has no mean, which JSON says as null."""
    scores = scored[W2A2].copy(deep=True)
    gini = scores.scores.sel(seed=0, map=GRADIENT, score="gini")
    scores.scores.loc[{"seed": 0, "image": scores.image[:10]}] = np.nan
    scores.scores.loc[{"seed": 1}] = np.nan
    found = cells.summary(W2A2, scores)["seeds"]
    assert found["0"]["gini"] == pytest.approx(gini[10:].mean().item(), abs=1e-6)
    assert found["1"]["gini"] is None
    assert json.loads(json.dumps(found, allow_nan=False))["1"]["morans_i"] is None


def test_the_comparison_reads_what_was_scored(scored, root, tmp_path):
    """All frames that the tables and figures are made of."""
    shutil.copytree(root / "results", tmp_path / "results")
    for cell, scores in scored.items():
        cells.save_cell(cell, scores, tmp_path)
    write_fills(tmp_path, "mnist")
    found = collect(Grid(("mnist",), ("fp32", "w2a2"), ("standard",)), "fp32", tmp_path)
    assert len(found.runs["primary"]) == 4 and found.runs["all"][list(PRIMARY)].notna().all(axis=None)
    assert set(found.controls.control) == set(words.CONTROLS)
    assert set(found.methods.method) == set(words.METHODS)
    assert len(found.seed_to_seed) == 2 and len(found.curves) == 2 * 2 * 15


# ------------------------------------------------------------------------------------------------- what is missing


def test_a_cell_or_reference_that_is_missing_is_named(models, calls):
    """An error before anything is scored, with the stage to run."""
    (models / "models" / f"{FP32}.pt").unlink()
    with pytest.raises(stored.ModelFileError, match="train@mnist-fp32-standard"):
        score(models)
    (models / "models" / f"{W2A2}.pt").unlink()
    with pytest.raises(stored.ModelFileError, match="train@mnist-w2a2-standard"):
        score(models)
    assert not calls


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_seeds_that_were_not_trained_are_named(cell, models, calls):
    """More seeds than a model file holds: the file says which ones it has, before anything is scored."""
    path = models / "models" / f"{cell}.pt"
    content = torch.load(path)
    del content["seeds"][1]
    torch.save(content, path)
    with pytest.raises(stored.ModelFileError, match=rf"{cell} holds seeds \[0\], not 1"):
        score(models)
    assert not calls
