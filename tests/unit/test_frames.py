"""Files of two datasets, written by hand and read back as tidy frames: strata, means, figures, and what is missing."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from saqlib.data import DATASETS
from saqlib.findings import readings, retained
from saqlib.grid import grid as grid_of
from saqlib.scores import FILLS, GAINS, GRADIENT, PASS_THROUGH, PRESERVATION, PRIMARY, UNTRAINED
from study import files, frames, settings
from study.frames import MissingError, collect, mean, outline, strata
from study.settings import Cell, Grid
from tests.helpers import written
from tests.helpers.written import FEW, IMAGES, METHODS, ON_FEW, QUALIFYING, SEEDS, squares, write_cell, write_fills

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


def write_narrow(root):
    """The files of the narrow grid; their scores by precision."""
    rng = np.random.default_rng(0)
    return {cell.precision: write_cell(root, cell, rng) for cell in NARROW.cells}


# --- networks ---


def check_scores(found, values, chosen):
    """The scores in a row are the means over the chosen images of an array (score, images)."""
    for name in (*PRIMARY, *GAINS, "amplitude"):
        assert found[name] == pytest.approx(np.nanmean(values.sel(score=name).values[chosen]))
    assert found.faithfulness == pytest.approx(np.mean([found[f"relevance_gain_{fill}"] for fill in QUALIFYING]))


def test_columns_of_the_runs(collection):
    """The columns are those that the design fixes, in its order; one row per network, in the order of the grid."""
    for frame in collection.runs.values():
        assert list(frame.columns) == [
            "dataset", "precision", "training", "seed", "test_accuracy",
            "gini", "morans_i", "foreground_mass",
            "relevance_gain_mean", "relevance_gain_noise", "relevance_gain_blur", "faithfulness", "amplitude",
            "dead_rate", "sensitivity_max", "positive_biases", "entropy", "auroc", "gini_near",
            "preservation_spearman", "preservation_top_overlap", "preservation_cosine", "preservation_ssim",
        ]  # fmt: skip
        cells = frame[["dataset", "precision", "training"]].drop_duplicates()
        assert [Cell(*names) for names in cells.itertuples(index=False)] == list(STUDY.grid.cells)
        assert frame.groupby(["dataset", "precision", "training"]).seed.nunique().eq(SEEDS).all()


def test_scores_of_networks(grid, collection, primary):
    """Means over living maps of images that every precision of that seed and training has right, or of all images."""
    cell = grid[1][W2A2].sel(seed=2)
    own = cell.scores.sel(map=GRADIENT)
    for images, chosen in (("primary", primary), ("all", np.full(IMAGES, True))):
        found = row(collection.runs[images], precision="w2a2", **KEYS)
        check_scores(found, own, chosen)
        assert found.dead_rate == pytest.approx(own.sel(score="dead").values[chosen].mean())
        assert found.entropy == pytest.approx(np.nanmean(own.sel(score="entropy").values[chosen]))
        few = own.sel(score="sensitivity_max").values[:FEW][chosen[:FEW]]
        assert found.sensitivity_max == pytest.approx(np.nanmean(few))
        for name in PRESERVATION:
            expected = cell.preservation.sel(likeness=name).values[chosen].mean()
            assert found[f"preservation_{name}"] == pytest.approx(expected)
        known = frames.report(W2A2, grid[0])["seeds"]["2"]
        assert all(found[name] == known[name] for name in ("test_accuracy", "positive_biases"))


def test_every_map_has_a_row(grid, collection, primary):
    """Those of the untrained network, too; what only some images have is the mean of those, if there are any."""
    maps = collection.maps
    assert list(maps) == [
        "dataset", "training", "precision", "seed", "map", "network", "gini", "morans_i", "foreground_mass",
        "sensitivity_max", "relevance_gain_zero", "relevance_gain_mean", "relevance_gain_noise", "relevance_gain_blur",
        "faithfulness", "amplitude",
    ]  # fmt: skip
    own = maps[(maps.dataset == "fashion_mnist") & (maps.training == "guided") & (maps.seed == 2)]
    quantized = [*METHODS, *written.OF_THE_QUANTIZED, *ON_FEW, *METHODS]
    for precision, expected in (("mixed", quantized), ("fp32", [*METHODS, *ON_FEW, *METHODS])):
        assert own["map"][own.precision == precision].tolist() == expected
    cell = grid[1][MIXED].sel(seed=2)
    for name in quantized[: -len(METHODS)]:
        chosen = primary if name not in ON_FEW else primary & (np.arange(IMAGES) < FEW)
        found = row(own, precision="mixed", map=name, network="trained")
        check_scores(found, cell.scores.sel(map=name), chosen)
        assert np.isnan(found.sensitivity_max) == (name not in METHODS[:2])
    for name in METHODS:
        found = row(own, precision="mixed", map=name, network=UNTRAINED)
        check_scores(found, cell.floors.sel(explainer=name), primary[:FEW])


def test_untrained_networks_are_those_of_the_reference(grid, collection, primary):
    """On every set of images, with the network of each seed."""
    floors = grid[1][FP32].sel(seed=2).floors.sel(explainer=GRADIENT)
    for images, chosen in (("primary", primary[:FEW]), ("all", slice(None))):
        check_scores(row(collection.untrained[images], **KEYS), floors, chosen)
        assert not {"precision", "map", "network", "test_accuracy"} & set(collection.untrained[images])


def test_the_main_grid_as_an_ablation(grid, collection):
    """All images, and the scores of the pass-through map beside those of the straight-through one."""
    found, cell = row(collection.as_ablation, precision="w2a2", **KEYS), grid[1][W2A2].sel(seed=2)
    for name in (*PRIMARY, *GAINS):
        expected = [np.nanmean(cell.scores.sel(map=each, score=name)) for each in METHODS[:2]]
        assert [found[name], found[f"pass_through_{name}"]] == pytest.approx(expected)
    assert len(collection.as_ablation) == len(collection.runs["all"])


def test_likeness_and_layers_redrawn(grid, collection, primary):
    """Of two seeds of the reference, on all images and on those for which layers were drawn anew."""
    pairs, first = grid[1][FP32].sel(seed=2).seed_to_seed, primary[:FEW]
    found = row(collection.likeness, **KEYS)
    beside = row(collection.cascade, redrawn="seed_to_seed", **KEYS)
    drawn = row(collection.cascade, redrawn="dense1", precision="mixed", **KEYS)
    cascade = grid[1][MIXED].sel(seed=2, redrawn="dense1").cascade
    for name in PRESERVATION:
        values = pairs.sel(likeness=name).values
        assert found[f"preservation_{name}"] == pytest.approx(values[primary].mean())
        assert beside[f"preservation_{name}"] == pytest.approx(values[:FEW][first].mean())
        assert drawn[f"preservation_{name}"] == pytest.approx(cascade.sel(likeness=name).values[first].mean())
    assert beside.precision == "fp32"


def test_saturation_is_what_training_wrote_last(grid, collection):
    """One row per quantized network and layer."""
    found = row(collection.saturation, layer="act2", precision="w2a2", **KEYS)
    last = frames.report(W2A2, grid[0])["seeds"]["2"]["history"][-1]
    assert found.clipped == last["layers"]["act2"]["clipped"]
    assert len(collection.saturation) == 2 * 2 * 3 * SEEDS * 2 and "fp32" not in set(collection.saturation.precision)


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
    """All that a verdict or a table rests on, one row per seed, keys first; and they can be used."""
    found = collection.per_seed(exploring=2)
    names = {"networks", "exploring", "maps", "saturation", "cascade", "curves", "accuracies", "likeness", "image_sets"}
    assert found.keys() == names and found["networks"].columns[0] == "images"
    for images, frame in collection.runs.items():
        own = found["networks"][found["networks"].images == images].drop(columns="images")
        pd.testing.assert_frame_equal(own, frame)
    for frame in (collection.gradients, collection.outline, *(found[name] for name in names - {"networks"})):
        assert frame.columns[0] == "dataset" and "seed" in frame
    seen, clipped = found["exploring"], collection.saturation.groupby(frames.CELL).clipped.mean()
    early = collection.maps.query("seed < 2").reset_index(drop=True)
    pd.testing.assert_frame_equal(seen[early.columns], early)
    for each in seen.sample(9, random_state=0).to_dict("records"):
        key = {name: each[name] for name in frames.CELL}
        assert each["test_accuracy"] == row(collection.runs["primary"], **key).test_accuracy
        assert each["clipped"] == pytest.approx(clipped.get(tuple(key.values()), np.nan), nan_ok=True)
    counted = row(collection.image_sets, images="primary", **KEYS)
    assert (counted["count"], counted.scored) == (primary.sum(), IMAGES)
    evidence = collection.runs["primary"], collection.maps, collection.fills, STUDY.claims
    read = readings(grid_of(*evidence)[0], *evidence)
    assert read.p[read.claim != "B2"].notna().all()  # that is asked only where there is a loss
    assert len(retained(collection.runs["primary"], collection.untrained["primary"], "fp32")) == 2 * 2 * 4 * 4


def test_faithfulness_needs_every_fill_that_qualifies():
    """A mean over fewer of them would be another score."""
    gains = pd.DataFrame({gain: [0.5, np.nan] for gain in GAINS} | {GAINS[-1]: [0.1, 0.1]})
    found = frames._with_faithfulness(gains, ["mean", "blur"]).faithfulness
    assert found.tolist() == [pytest.approx(0.3), pytest.approx(np.nan, nan_ok=True)]


def test_faithfulness_follows_the_fills_and_what_is_beside_it_the_reference(tmp_path):
    """Without a qualifying fill there is none; the reference need not be fp32."""
    write_narrow(tmp_path)
    write_fills(tmp_path, "mnist", ["blur"])
    found = collect(NARROW, "fp32", tmp_path)
    assert found.runs["primary"].faithfulness.equals(found.runs["primary"].relevance_gain_blur)
    write_fills(tmp_path, "mnist", [])
    other = collect(NARROW, "w2a2", tmp_path)
    assert other.runs["primary"].faithfulness.isna().all() and other.runs["primary"].relevance_gain_blur.notna().all()
    for name in ("likeness", "untrained"):
        one, two = (getattr(each, name) for each in (found, other))
        one, two = (one, two) if name == "likeness" else (one["all"], two["all"])
        assert len(one) == len(two) == SEEDS and not one.iloc[:, -1].equals(two.iloc[:, -1])


def test_a_new_score_reaches_the_runs(tmp_path):
    """Every column of the table of scores becomes one."""
    for precision, cell in write_narrow(tmp_path).items():
        path = tmp_path / "scores" / f"mnist-{precision}-standard.nc"
        peak = cell[["scores", "floors"]].sel(score=["entropy"]).assign_coords(score=["peak"]) + 1
        more = xr.concat([cell[["scores", "floors"]], peak], "score")
        files.write_dataset(path, cell.drop_vars("score").drop_vars(["scores", "floors"]).assign(more))
    runs = collect(NARROW, "fp32", tmp_path).runs["primary"]
    np.testing.assert_allclose(runs.peak, runs.entropy + 1)


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
    """Strata count equally; NaN is left out; no image gives NaN; fewer images are the first; axes between stay."""
    values = np.array([[1.0, 2.0, 3.0, 8.0, np.nan], [1.0, 1.0, 1.0, 1.0, 1.0]])
    groups = np.array([[0, 0, 0, 2, 1], [-1, -1, -1, -1, -1]])
    np.testing.assert_array_equal(mean(values, groups), [5.0, np.nan])
    np.testing.assert_array_equal(mean(np.stack([values, 2 * values], 1), groups), [[5, 10], [np.nan, np.nan]])
    groups = np.array([[0, -1, 0, 0], [-1, -1, 0, 0]])
    np.testing.assert_array_equal(mean(np.array([[7.0, 8.0], [7.0, 8.0]]), groups), [7.0, np.nan])


# --- maps of the typical seed ---


def a_cell(accuracies, scores):
    """Scores of as many seeds, the same for every map and score, of four images that are right so many times."""
    labels = {"map": [GRADIENT, PASS_THROUGH], "score": [*PRIMARY, *GAINS], "image": range(4)}
    shape = (len(scores), 2, len(labels["score"]), 4)
    values = np.broadcast_to(np.asarray(scores, float)[:, None, None, None], shape)
    right = np.array([[place < count for place in range(4)] for count in accuracies]).astype(int)
    arrays = {
        "scores": (("seed", *labels), values),
        "predicted": (("seed", "image"), right),
        "label": ("image", [1] * 4),
    }
    return xr.Dataset(arrays, labels | {"seed": range(len(scores))})


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([([1, 2, 3], [5, 6, 9])], 1),
        ([([2, 2, 2], [9, 6, 7])], 2),  # what all seeds share tells none apart
        ([([1, 4, 2], [3, 3, 3])], 2),  # accuracy counts
        ([([1, 4, 2], [3, 5, 9])], 1),  # as one number of several
        ([([0, 4], [1, 2])], 0),  # two are always equally near
        ([([2, 2, 2], [1, 2, 3]), ([2, 2, 2], [1, 30, 3])], 2),  # over all precisions together
        ([([2, 2, 2, 2], [np.nan, 1, 2, 4])], 2),  # dead maps are no typical ones
    ],
)
def test_typical_seed_is_the_nearest_to_the_medians(cells, expected):
    """By hand: distances in units of the interquartile range."""
    assert frames._typical({str(at): a_cell(*cell) for at, cell in enumerate(cells)}) == expected


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
    seeds = {training: frames.typical_seed("fashion_mnist", training, STUDY.grid, root) for training in blocks}
    order, chosen = range(written.SHOWN)[::-1], []
    for label in range(10):
        places = [place for place in order if place % 10 == label]
        right = [
            place
            for place in places
            if all(int(a.predicted[seeds[c.training], place]) == label for c, a in cells.items())
        ]
        chosen.append((right or places)[0])
    assert set(chosen) != set(order[:10]), "the seed must make the choice matter"
    for cell, whole in cells.items():
        maps, own = blocks[cell.training][cell.precision], whole.sel(seed=seeds[cell.training]).isel(image=chosen)
        expected = own.scores.sel(map=GRADIENT, score=["gini", "morans_i"])
        np.testing.assert_array_equal([maps.gini, maps.morans_i], expected)
        np.testing.assert_array_equal(maps.probability, own.probability)
        np.testing.assert_array_equal(maps.maps, own.kept_map.values[[written.SHOWN - 1 - place for place in chosen]])
        np.testing.assert_array_equal(maps.correct, own.predicted == np.arange(10))
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
    "results/runs.csv": (frames.runs, "compare"),
}


@pytest.mark.parametrize("file", READERS)
def test_a_file_that_is_missing_or_damaged_names_its_stage(file, tmp_path):
    """Not there, empty, cut, foreign or of another form: in one line which file, and what writes it again."""
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
        with pytest.raises(MissingError, match=f"^.*{file} is not what its stage wrote .*dvc repro {stage}.*$"):
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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "No columns to parse"), ("dataset,precision\na,b\n", "no training"),
        ("dataset,precision,training,seed,test_accuracy\n", "no row"),
        ("dataset,precision,training,seed,test_accuracy\na,b,c,0,good\n", "could not convert string to float: 'good'"),
    ],
)  # fmt: skip
def test_runs_that_are_no_table_of_numbers_are_refused(tmp_path, content, reason):
    """The message says why."""
    files.write(tmp_path / "results" / "runs.csv", content)
    with pytest.raises(MissingError, match=reason):
        frames.runs(tmp_path)
