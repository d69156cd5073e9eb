"""Files of two datasets, written by hand and read back as tidy frames: strata, means, figures, and what is missing."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from saqlib import scores
from saqlib.data import DATASETS
from saqlib.findings import retained
from saqlib.scores import FILLS, GRADIENT, PRESERVATION, PRIMARY, UNTRAINED
from saqlib.verdicts import evaluate
from study import files, frames, settings
from study.frames import MissingError, collect, mean, outline, strata
from study.settings import Cell, Grid
from tests.helpers import written
from tests.helpers.written import FEW as FEW
from tests.helpers.written import IMAGES, OTHER_METHODS, QUALIFYING, SEEDS, squares, write_cell, write_fills

STUDY = settings.load()
KEYS = {"dataset": "fashion_mnist", "training": "guided", "seed": 2}
FP32, MIXED, W2A2 = (Cell("fashion_mnist", precision, "guided") for precision in ("fp32", "mixed", "w2a2"))
NARROW = Grid(("mnist",), ("fp32", "w2a2"), ("standard",))


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A folder with the files of all 16 cells, and their scores by cell; to be looked at only."""
    root, rng = tmp_path_factory.mktemp("grid"), np.random.default_rng(0)
    return root, {cell: write_cell(root, cell, rng) for cell in STUDY.grid.cells}


@pytest.fixture(scope="module")
def collection(grid):
    """Everything collected from the grid."""
    return collect(STUDY.grid, "fp32", grid[0])


@pytest.fixture(scope="module")
def primary(grid):
    """The primary images of KEYS, said again in a loop."""
    cells = [grid[1][Cell("fashion_mnist", precision, "guided")] for precision in STUDY.grid.precisions]
    found = np.array([all(int(cell.predicted[2, i]) == i % 10 for cell in cells) for i in range(IMAGES)])
    assert 5 < found.sum() < 35 and 0 < found[:FEW].sum() < FEW
    return found


def row(frame, **keys):
    """The one row with these keys."""
    for key, value in keys.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def write_narrow(root, **options):
    """The files of the narrow grid; their scores by precision."""
    rng = np.random.default_rng(0)
    return {cell.precision: write_cell(root, cell, rng, **options) for cell in NARROW.cells}


# --- networks ---


def check_scores(found, values, gains, chosen):
    """The scores in a row are the means over the chosen images of arrays (names, images)."""
    for name in PRIMARY:
        assert found[name] == pytest.approx(np.nanmean(values.sel(score=name).values[chosen]))
    for fill in FILLS:
        assert found[f"relevance_gain_{fill}"] == pytest.approx(np.nanmean(gains.sel(fill=fill).values[chosen]))
    expected = np.mean([found[f"relevance_gain_{fill}"] for fill in QUALIFYING])
    assert found.faithfulness == pytest.approx(expected)


def test_columns_of_the_runs(collection):
    """The columns are those that the design fixes, in its order; one row per network, in the order of the grid."""
    for frame in collection.runs.values():
        assert list(frame.columns) == [
            "dataset", "precision", "training", "seed", "test_accuracy",
            "gini", "morans_i", "foreground_mass", "relevance_gain_zero",
            "relevance_gain_mean", "relevance_gain_noise", "relevance_gain_blur", "faithfulness", "amplitude",
            "dead_rate",
            "preservation_spearman", "preservation_top_overlap", "preservation_cosine", "preservation_ssim",
            "entropy", "auroc", "sensitivity_max",
        ]  # fmt: skip
        cells = frame[["dataset", "precision", "training"]].drop_duplicates()
        assert [Cell(*names) for names in cells.itertuples(index=False)] == list(STUDY.grid.cells)
        assert frame.groupby(["dataset", "precision", "training"]).seed.nunique().eq(SEEDS).all()


def test_scores_of_networks(grid, collection, primary):
    """Means over living maps of images that every precision of that seed and training has right, or of all images."""
    cell = grid[1][W2A2].sel(seed=2)
    own = cell.sel(map=GRADIENT)
    for images, chosen in (("primary", primary), ("all", slice(None))):
        found = row(collection.runs[images], precision="w2a2", **KEYS)
        check_scores(found, own.scores, own.relevance_gain, chosen)
        assert found.amplitude == pytest.approx(np.nanmean(own.amplitude.values[chosen]))
        assert found.dead_rate == pytest.approx(cell.dead.values[chosen].mean())
        assert found.entropy == pytest.approx(np.nanmean(cell.entropy.values[chosen]))
        for name in PRESERVATION:
            expected = cell.preservation.sel(likeness=name).values[chosen].mean()
            assert found[f"preservation_{name}"] == pytest.approx(expected)
        assert found.test_accuracy == frames.report(W2A2, grid[0])["seeds"]["2"]["test_accuracy"]


def test_untrained_networks_and_controls(grid, collection, primary):
    """On the images of the networks that they are compared with, with the network of each seed."""
    cell = grid[1][FP32].sel(seed=2)
    own = cell.sel(map=UNTRAINED)
    for images, chosen in (("primary", primary), ("all", slice(None))):
        found = row(collection.untrained[images], **KEYS)
        check_scores(found, own.scores, own.relevance_gain, chosen)
        assert found.amplitude == pytest.approx(np.nanmean(own.amplitude.values[chosen]))
    check_scores(row(collection.controls, control=UNTRAINED, **KEYS), own.scores, own.relevance_gain, primary)
    for name in ("white_noise", "sobel"):
        known = cell.sel(control=name)
        found = row(collection.controls, control=name, **KEYS)
        check_scores(found, known.control_scores, known.control_gain, primary)
    assert set(collection.controls.control) == {UNTRAINED, "white_noise", "sobel"}
    found = row(collection.seed_to_seed, **KEYS)
    for name in PRESERVATION:
        expected = cell.seed_to_seed.sel(likeness=name).values[primary].mean()
        assert found[f"preservation_{name}"] == pytest.approx(expected)


def test_expensive_scores_use_the_first_images(grid, collection, primary):
    """What was scored on a subset is compared with the gradient on the same images."""
    mask, cell = primary[:FEW], grid[1][MIXED].sel(seed=2)
    keys, own = KEYS | {"precision": "mixed"}, cell.sel(map=GRADIENT).isel(image=slice(FEW))
    check_scores(row(collection.methods, method=GRADIENT, **keys), own.scores, own.relevance_gain, mask)
    for method in OTHER_METHODS:
        there = cell.sel(explainer=method)
        check_scores(row(collection.methods, method=method, **keys), there.method_scores, there.method_gain, mask)
    found = row(collection.secondary, **keys)
    assert found.sensitivity_max == pytest.approx(cell.sensitivity_max.values[mask].mean())
    for name in ("entropy", "auroc"):
        assert found[name] == pytest.approx(np.nanmean(cell[name].values[primary]))
    state = {"weights": "off", "activations": "on"}
    found, there = row(collection.switched, **state, **keys), cell.sel(state)
    same = (there.switched_predicted.values == cell.predicted.values[:FEW])[mask]
    assert found.gini == pytest.approx(there.switched_scores.sel(score="gini").values[mask].mean())
    assert found.same_class == pytest.approx(same.mean())
    found, there = row(collection.differences, difference="16 codes", **keys), cell.sel(difference="16 codes")
    assert found.relevance_gain_blur == pytest.approx(there.difference_gain.sel(fill="blur").values[mask].mean())
    found = row(collection.cascade, redrawn="dense1", **keys)
    expected = cell.cascade.sel(redrawn="dense1", likeness="ssim").values[mask].mean()
    assert found.preservation_ssim == pytest.approx(expected)
    assert set(collection.cascade.precision[collection.cascade.redrawn == "seed_to_seed"]) == {"fp32"}


def test_curves_and_gradients(grid, collection):
    """Every seed and level of a curve, and every value of the sample, stands in its row."""
    cell = grid[1][MIXED]
    for place, level in enumerate(cell.level.values):
        found = row(collection.curves, precision="mixed", level=level, **KEYS)
        for order in ("most", "least", "random"):
            assert found[order] == cell.curves.sel(seed=2, order=order).values[place]
    for place, level in enumerate(cell.accuracy_level.values):
        shares = row(collection.accuracies, precision="mixed", level=level, **KEYS)
        for order in ("most", "random"):
            assert shares[order] == 100 * cell.accuracies.sel(seed=2, accuracy_order=order).values[place]
    assert len(collection.curves) == len(collection.accuracies) == 16 * SEEDS * written.LEVELS
    chosen = collection.gradients.query("dataset == 'fashion_mnist' and training == 'guided' and precision == 'mixed'")
    np.testing.assert_array_equal(chosen.gradient, cell.gradient.values.ravel())
    assert chosen.seed.tolist() == [seed for seed in range(SEEDS) for _ in range(cell.sizes["draw"])]


def test_the_numbers_of_every_seed(collection, primary):
    """All that a verdict or a table rests on, one row per seed, keys first, in small files; and they can be used."""
    found = collection.per_seed()
    for name, by_images in (("networks", collection.runs), ("untrained", collection.untrained)):
        for images, frame in by_images.items():
            own = found[name][found[name].images == images].drop(columns="images").reset_index(drop=True)
            pd.testing.assert_frame_equal(own, frame)
    every = [
        frame for field in fields(collection) if isinstance(frame := getattr(collection, field.name), pd.DataFrame)
    ]
    assert all(frame.columns[0] == "dataset" and "seed" in frame for frame in every)
    assert sum(len(files.csv(frame)) for frame in found.values()) < 2**20
    counted = row(collection.image_sets, images="primary", **KEYS)
    assert (counted["count"], counted.scored) == (primary.sum(), IMAGES)
    tests = evaluate(collection.evidence, STUDY.claims).tests()
    assert tests.p[~tests.claim.isin(["B2", "B4"])].notna().all()  # those two are asked only where there is a loss
    assert len(retained(collection.runs["primary"], collection.untrained["primary"], "fp32")) == 2 * 2 * 4 * 5


def test_faithfulness_needs_every_fill_that_qualifies():
    """A mean over fewer of them would be another score."""
    gains = pd.DataFrame({gain: [0.5, np.nan] for gain in scores.GAINS} | {scores.GAINS[-1]: [0.1, 0.1]})
    found = frames._with_faithfulness(gains, ["mean", "blur"]).faithfulness
    assert found.tolist() == [pytest.approx(0.3), pytest.approx(np.nan, nan_ok=True)]


def test_faithfulness_follows_the_fills_and_controls_the_reference(tmp_path):
    """Without a qualifying fill there is none; the reference need not be fp32."""
    cells = write_narrow(tmp_path)
    write_fills(tmp_path, "mnist", ["blur"])
    found = collect(NARROW, "fp32", tmp_path)
    assert found.runs["primary"].faithfulness.equals(found.runs["primary"].relevance_gain_blur)
    write_fills(tmp_path, "mnist", [])
    cells["w2a2"]["seed_to_seed"] = cells["fp32"].seed_to_seed + 1
    files.write_dataset(tmp_path / "scores" / "mnist-w2a2-standard.nc", cells["w2a2"])
    other = collect(NARROW, "w2a2", tmp_path)
    assert other.runs["primary"].faithfulness.isna().all() and other.runs["primary"].relevance_gain_blur.notna().all()
    np.testing.assert_allclose(other.seed_to_seed.preservation_ssim - found.seed_to_seed.preservation_ssim, 1)
    assert not found.controls.gini.equals(other.controls.gini)


def test_a_new_score_reaches_the_runs(tmp_path, monkeypatch):
    """It is one entry of the registry: every array of its name becomes a column, among those that describe, too."""
    monkeypatch.setitem(scores.SCORES, "peak", scores.SCORES["entropy"])
    for precision, cell in write_narrow(tmp_path).items():
        path = tmp_path / "scores" / f"mnist-{precision}-standard.nc"
        files.write_dataset(path, cell.assign(peak=cell.entropy + 1))
    found = collect(NARROW, "fp32", tmp_path)
    for frame in (found.runs["primary"], found.secondary, found.per_seed()["networks"]):
        np.testing.assert_allclose(frame.peak, frame.entropy + 1)


# --- sets of images ---


def sure(confidence, predicted=0):
    """The scores of some seeds (by default one) with these confidences, all of class 0."""
    confidence = np.atleast_2d(confidence)
    found = {"probability": confidence, "predicted": np.full(confidence.shape, predicted)}
    arrays = {name: (("seed", "image"), values) for name, values in found.items()}
    return xr.Dataset(arrays | {"label": ("image", np.zeros(confidence.shape[1], int))})


def test_strata_by_hand():
    """Terciles of primary images, cut for each seed from all precisions together; matched where all fall alike."""
    first, second = sure([0.1, 0.2, 0.5, 0.9, 0.8]), sure([0.1, 0.6, 0.5, 0.9, 0.3])
    # Together: .1 .1 .2 .3 | .5 .5 .6 | .8 .9 .9, cut at .3 and .6
    np.testing.assert_array_equal(strata([first, second], "matched"), [[0, -1, 1, 2, -1]])
    edges = sure([0.1, 0.2, 0.5, 0.9, 0.3]), sure([0.1, 0.6, 0.5, 0.9, 0.3])  # cut at .3 and .5, which lie below
    np.testing.assert_array_equal(strata(edges, "matched"), [[0, -1, 1, 2, 0]])
    second = sure([0.1, 0.2, 0.5, 0.9, 0.8])
    second.predicted[0, 1] = 3
    assert strata([first, second], "primary").tolist() == [[0, -1, 0, 0, 0]]
    assert strata([first, second], "all").tolist() == [[0] * 5]
    cell = sure([0.1, 0.2, 0.3, 0.9, 0.9, 0.9])
    cell.predicted[0, 3:] = 3
    assert strata([cell, cell], "matched").tolist() == [[0, 1, 2, -1, -1, -1]]
    cell = sure([[0.1, 0.2, 0.3], [0.7, 0.8, 0.9], [0.1, 0.2, 0.3]])
    cell.predicted[2] = 3
    assert strata([cell, cell], "matched").tolist() == [[0, 1, 2], [0, 1, 2], [-1, -1, -1]]
    with pytest.raises(ValueError, match="'both'.*primary, all, matched"):
        strata([cell], "both")


def test_means_of_strata():
    """Strata count equally; NaN is left out; no image gives NaN; one row serves every seed; a subset comes first."""
    values = np.array([[1.0, 2.0, 3.0, 8.0, np.nan], [1.0, 1.0, 1.0, 1.0, 1.0]])
    groups = np.array([[0, 0, 0, 2, 1], [-1, -1, -1, -1, -1]])
    np.testing.assert_array_equal(mean(values, groups), [5.0, np.nan])
    groups = np.array([[0, 0, -1], [-1, 0, 0], [0, -1, -1]])
    np.testing.assert_array_equal(mean(np.array([1.0, 3.0, 5.0]), groups), [2.0, 4.0, 1.0])
    groups = np.array([[0, -1, 0, 0], [-1, -1, 0, 0]])
    np.testing.assert_array_equal(mean(np.array([[7.0, 8.0], [7.0, 8.0]]), groups), [7.0, np.nan])


# --- maps of seed 0 ---


def kept(maps, images):
    """Scores that hold these maps and images and nothing else."""
    return xr.Dataset({"kept_map": (("kept", "y", "x"), maps), "kept_image": (("kept", "y", "x"), images)})


def test_outline_says_where_a_map_lies():
    """Magnitude 3 along the outside of the outline, 1 elsewhere; dead maps and empty images are left out."""
    images = np.concatenate([squares(3), np.zeros((1, 28, 28), np.uint8)])
    maps = np.ones((4, 28, 28))
    maps[:, 7:21, 7:21], maps[:, 8:20, 8:20] = -3, 1
    maps[2], maps[3, 0, 0] = 0, 1e9
    found = outline(kept(maps, images)).set_index("distance")
    assert list(found.index) == [-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6]
    mean_magnitude = (784 + 2 * (14**2 - 12**2)) / 784
    assert found.loc[-1, "relative"] == pytest.approx(3 / mean_magnitude)
    assert found.loc[-2, "relative"] == pytest.approx((3 * 4 + 48) / 52 / mean_magnitude)  # the ring's corners
    np.testing.assert_allclose(found.loc[1:, "relative"], 1 / mean_magnitude)
    assert found.pixels.sum() == pytest.approx(1) and found.loc[1, "pixels"] == pytest.approx(44 / 784)
    # The two rings inside of the outline are the most salient tenth: 80 pixels, 44 of them the outer ring.
    maps = np.full((1, 28, 28), 0.1)
    maps[:, 8:20, 8:20], maps[:, 10:18, 10:18] = -2.0, 0.1
    found = outline(kept(maps, squares(1))).set_index("distance")
    assert found.salient[found.salient > 0].to_dict() == pytest.approx({1: 44 / 80, 2: 36 / 80})


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_neither_scale_nor_maps_that_are_not_finite_count(spoilt):
    """Each map counts in units of its own mean; one bad value, or a full image, leaves the others as they are."""
    maps, images = np.random.default_rng(0).normal(size=(4, 28, 28)), squares(4)
    expected = outline(kept(maps[:2], images[:2]))
    np.testing.assert_allclose(outline(kept(maps[:2] * np.array([-1e-6, 1e6])[:, None, None], images[:2])), expected)
    maps[2, 5, 5], images[3] = spoilt, 255
    assert outline(kept(maps, images)).equals(expected)


def test_saliency_grid(grid):
    """Of each class the first kept image that all networks get right, else the first, with its own captions."""
    root, every = grid
    images, names, blocks = frames.saliency_grid("fashion_mnist", STUDY.grid, root)
    cells = {cell: each for cell, each in every.items() if cell.dataset == "fashion_mnist"}
    order, chosen = range(written.SHOWN)[::-1], []
    for label in range(10):
        places = [place for place in order if place % 10 == label]
        right = [place for place in places if all(int(a.predicted[0, place]) == label for a in cells.values())]
        chosen.append((right or places)[0])
    assert set(chosen) != set(order[:10]), "the seed must make the choice matter"
    for (cell, whole), (training, precision) in zip(
        cells.items(), [(c.training, c.precision) for c in cells], strict=True
    ):
        maps, own = blocks[training][precision], whole.sel(seed=0, map=GRADIENT).isel(image=chosen)
        np.testing.assert_array_equal(maps.gini, own.scores.sel(score="gini"))
        np.testing.assert_array_equal(maps.morans_i, own.scores.sel(score="morans_i"))
        np.testing.assert_array_equal(maps.probability, own.probability)
        np.testing.assert_array_equal(maps.maps, whole.kept_map.values[[written.SHOWN - 1 - place for place in chosen]])
        np.testing.assert_array_equal(maps.correct, own.predicted == np.arange(10))
        assert cell in STUDY.grid.cells
    assert images.shape == (10, 28, 28) and names == DATASETS["fashion_mnist"].classes
    assert list(blocks["standard"]) == list(STUDY.grid.precisions)


# --- during training ---


def write_course(root, grid, switch):
    """Four records of every cell; the fills' gains are 1 to 4 hundredths, and their errors a tenth of that."""
    write_fills(root, "mnist")
    for cell in grid.cells:
        at = np.nan if cell.precision == "fp32" else switch
        frame = pd.DataFrame({"step": [0, 5, 10, 15], "switch": at, "accuracy": [10.0, 50.0, 80.0, 90.0]})
        for place, fill in enumerate(FILLS, 1):
            frame[f"relevance_gain_{fill}"], frame[f"relevance_gain_{fill}_se"] = 0.01 * place, 0.001 * place
        files.write(root / "results" / "during" / f"{cell}.csv", files.csv(frame))


def test_what_scores_do_during_training(tmp_path):
    """Faithfulness is the mean of the fills that qualify, its error not made smaller by their number."""
    grid = Grid(("mnist",), ("fp32", "w2a2"), ("standard", "guided"))
    write_course(tmp_path, grid, 7)
    found = frames.collect_during(grid, tmp_path)
    assert list(found)[:6] == ["dataset", "training", "precision", "step", "switch", "accuracy"] and len(found) == 16
    assert found.faithfulness.tolist() == pytest.approx([0.03] * 16)
    assert found.faithfulness_se.tolist() == pytest.approx([0.003] * 16)
    around = frames.around_the_switch(found)
    assert around.step[around.when == "before"].tolist() == [5] * 4
    assert around.step[around.when == "end"].tolist() == [15] * 4
    write_fills(tmp_path, "mnist", qualifying=())
    assert frames.collect_during(grid, tmp_path).faithfulness.isna().all()
    write_course(tmp_path, grid, 5)
    around = frames.around_the_switch(frames.collect_during(grid, tmp_path))
    assert set(around.step[around.when == "before"]) == {0}, "a record at the switch is quantized"
    full = Grid(("mnist",), ("fp32",), ("standard",))
    assert frames.around_the_switch(frames.collect_during(full, tmp_path)).when.tolist() == ["end"]


# --- files ---

CELL = Cell("mnist", "w4a4", "standard")
READERS = {  # of each file, and the stage that writes it
    "results/runs/mnist-w4a4-standard.json": (lambda root: frames.report(CELL, root), "train"),
    "scores/mnist-w4a4-standard.nc": (lambda root: frames.scores(CELL, root), "clarity"),
    "results/during/mnist-w4a4-standard.csv": (lambda root: frames.during(CELL, root), "clarity"),
    "results/fills/mnist.csv": (lambda root: frames.fills("mnist", root), "fills"),
    "results/ablations/long.csv": (lambda root: frames.ablation("long", root), "ablate"),
}


@pytest.mark.parametrize("file", READERS)
def test_a_file_that_is_missing_or_damaged_names_its_stage(file, tmp_path):
    """Not there, empty, cut, foreign or of another form: which file, and what writes it again."""
    read, stage = READERS[file]
    path = tmp_path / file
    if stage == "ablate":
        assert read(tmp_path).empty, "a variant that was not run"
    else:
        with pytest.raises(MissingError, match=f"{file} does not exist.*dvc repro {stage}"):
            read(tmp_path)
    path.parent.mkdir(parents=True)
    for content in (b"", b"\x00\xff\xfe", b"[]", b'{"cell": "mn', b"a,b\n1\n2,3,4\n", b"a,b\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(MissingError, match=f"{file} is not what its stage wrote .*dvc repro {stage}"):
            read(tmp_path)


def test_cells_scored_on_other_images_are_refused(tmp_path):
    """Precisions of different images or seeds cannot be paired: the message names the cell and its stage."""
    cell = write_narrow(tmp_path)["w2a2"]
    other = cell.assign_coords(image=cell.image[::-1].values)
    for spoilt in (other, cell.isel(image=slice(30)), cell.isel(seed=slice(2))):
        files.write_dataset(tmp_path / "scores" / "mnist-w2a2-standard.nc", spoilt)
        with pytest.raises(MissingError, match="mnist-w2a2-standard was scored on other images .*clarity"):
            collect(NARROW, "fp32", tmp_path)
    with pytest.raises(MissingError, match="mnist-w4a4-standard.json"):
        collect(Grid(("mnist",), ("fp32", "w4a4"), ("standard",)), "fp32", tmp_path)
