"""Tidy frames: files of two datasets written by hand, and the means taken from them."""

import numpy as np
import pandas as pd
import pytest

from saqlib import files
from saqlib.evidence import claims, reading
from saqlib.evidence.retained import retained
from saqlib.evidence.runs import Collection, collect
from saqlib.grid import Cell, Grid
from saqlib.names import FILLS, GAINS, GRADIENT, OTHER_METHODS, PRESERVATION, PRIMARY, UNTRAINED
from saqlib.pipeline import study
from saqlib.report import tables
from tests.evidence.written import FEW, IMAGES, LEVELS, QUALIFYING, SEEDS, write_cell, write_fills

STUDY = study.load()
KEYS = {"dataset": "fashion_mnist", "training": "guided", "seed": 2}
FP32, MIXED, W2A2 = (Cell("fashion_mnist", precision, "guided") for precision in ("fp32", "mixed", "w2a2"))


@pytest.fixture(scope="module")
def collection(grid) -> Collection:
    """Everything collected from the grid."""
    return collect(STUDY.grid, "fp32", grid[0])


@pytest.fixture(scope="module")
def primary(grid) -> np.ndarray:
    """The primary images of KEYS, said again in a loop."""
    cells = [grid[1][Cell("fashion_mnist", precision, "guided")] for precision in STUDY.grid.precisions]
    found = np.array([all(int(cell.predicted[2, i]) == i % 10 for cell in cells) for i in range(IMAGES)])
    assert 5 < found.sum() < 35
    return found


def row(frame, **keys):
    """The one row with these keys."""
    for key, value in keys.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_columns_of_the_runs(collection):
    """The columns are those that the design fixes, in its order; one row per network."""
    for frame in collection.runs.values():
        assert list(frame.columns) == [
            "dataset", "precision", "training", "seed", "test_accuracy",
            "gini", "morans_i", "foreground_mass", "relevance_gain_zero",
            "relevance_gain_mean", "relevance_gain_noise", "relevance_gain_blur", "faithfulness", "amplitude",
            "dead_rate",
            "preservation_spearman", "preservation_top_overlap", "preservation_cosine", "preservation_ssim",
            "auroc", "entropy",
        ]  # fmt: skip
        assert len(frame) == 16 * SEEDS
        assert not frame.duplicated(["dataset", "precision", "training", "seed"]).any()
        cells = frame[["dataset", "precision", "training"]].drop_duplicates()
        assert [Cell(*names) for names in cells.itertuples(index=False)] == list(STUDY.grid.cells)


def test_primary_images(grid, collection, primary):
    """A score is the mean over living maps of images that every precision of that seed and training has right."""
    found, cell = row(collection.runs["primary"], precision="w2a2", **KEYS), grid[1][W2A2].sel(seed=2)
    for name in PRIMARY:
        values = cell.scores.sel(map=GRADIENT, score=name).values
        assert found[name] == pytest.approx(np.nanmean(values[primary]))
    for fill in FILLS:
        values = cell.relevance_gain.sel(map=GRADIENT, fill=fill).values
        assert found[f"relevance_gain_{fill}"] == pytest.approx(np.nanmean(values[primary]))
    assert found.amplitude == pytest.approx(np.nanmean(cell.amplitude.sel(map=GRADIENT).values[primary]))
    assert found.dead_rate == pytest.approx(cell.dead.values[primary].mean())
    for name in PRESERVATION:
        values = cell.preservation.sel(likeness=name).values
        assert found[f"preservation_{name}"] == pytest.approx(values[primary].mean())


def test_all_images(grid, collection):
    """The secondary set leaves nothing out but dead maps."""
    cell = grid[1][W2A2].sel(seed=2)
    found = row(collection.runs["all"], precision="w2a2", **KEYS)
    assert found.morans_i == pytest.approx(np.nanmean(cell.scores.sel(map=GRADIENT, score="morans_i")))
    assert found.dead_rate == pytest.approx(cell.dead.values.mean())


def test_accuracy_is_that_of_the_run(grid, collection):
    """Accuracy is read from the report, whatever the set of images."""
    written = reading.report(W2A2, grid[0])["seeds"]["2"]["test_accuracy"]
    for frame in collection.runs.values():
        assert row(frame, precision="w2a2", **KEYS).test_accuracy == written


def test_faithfulness_is_the_mean_over_the_fills_that_qualify(grid, collection, tmp_path):
    """In every frame that has relevance gains; without such a fill there is no faithfulness."""
    frames = [*collection.runs.values(), *collection.untrained.values(), collection.controls, collection.methods]
    for frame in frames:
        expected = frame[[f"relevance_gain_{fill}" for fill in QUALIFYING]].mean(axis=1)
        np.testing.assert_allclose(frame.faithfulness, expected)
    assert collection.fills == dict.fromkeys(STUDY.grid.datasets, QUALIFYING)
    narrow = Grid(("mnist",), ("fp32", "w2a2"), ("standard",))
    for cell in narrow.cells:
        write_cell(tmp_path, cell, np.random.default_rng(0))
    write_fills(tmp_path, "mnist", ["blur"])
    runs = collect(narrow, "fp32", tmp_path).runs["primary"]
    assert runs.faithfulness.equals(runs.relevance_gain_blur)
    write_fills(tmp_path, "mnist", [])
    runs = collect(narrow, "fp32", tmp_path).runs["primary"]
    assert runs.faithfulness.isna().all() and runs.relevance_gain_blur.notna().all()


def test_controls_are_scored_with_the_network_of_each_seed(grid, collection, primary):
    """Averaged over the same images as the networks, and another number for each seed."""
    cell = grid[1][FP32].sel(seed=2)
    noise = row(collection.controls, control="white_noise", **KEYS)
    fresh = row(collection.controls, control=UNTRAINED, **KEYS)
    for name in PRIMARY:
        expected = cell.control_scores.sel(control="white_noise", score=name).values
        assert noise[name] == pytest.approx(expected[primary].mean())
        expected = cell.scores.sel(map=UNTRAINED, score=name).values
        assert fresh[name] == pytest.approx(np.nanmean(expected[primary]))
    for fill in FILLS:
        expected = cell.control_gain.sel(control="white_noise", fill=fill).values
        assert noise[f"relevance_gain_{fill}"] == pytest.approx(expected[primary].mean())
    assert set(collection.controls.control) == {UNTRAINED, "white_noise", "sobel"}
    own = collection.controls.query("dataset == 'fashion_mnist' and training == 'guided' and control == 'sobel'")
    assert own.gini.nunique() == SEEDS


def test_untrained_networks_on_every_set_of_images(grid, collection, primary):
    """Those of the reference, over the images of the networks that they are compared with."""
    cell = grid[1][FP32].sel(seed=2, map=UNTRAINED)
    for images, chosen in (("primary", primary), ("all", slice(None))):
        found = row(collection.untrained[images], **KEYS)
        assert found.gini == pytest.approx(np.nanmean(cell.scores.sel(score="gini").values[chosen]))
        gain = cell.relevance_gain.sel(fill="noise").values[chosen]
        assert found.relevance_gain_noise == pytest.approx(np.nanmean(gain))
        assert found.amplitude == pytest.approx(np.nanmean(cell.amplitude.values[chosen]))
    same = collection.controls.query("control == @UNTRAINED")[["gini", *GAINS]].reset_index(drop=True)
    pd.testing.assert_frame_equal(collection.untrained["primary"][["gini", *GAINS]], same)


def test_likeness_of_two_reference_seeds(grid, collection, primary):
    """What any likeness is to be read against is that of the reference cell, under the names of the runs."""
    found, cell = row(collection.seed_to_seed, **KEYS), grid[1][FP32].sel(seed=2)
    for name in PRESERVATION:
        expected = cell.seed_to_seed.sel(likeness=name).values[primary].mean()
        assert found[f"preservation_{name}"] == pytest.approx(expected)


def test_the_reference_is_the_one_that_is_named(grid, tmp_path):
    """Controls and the likeness of two seeds come from the reference's cell, which need not be fp32."""
    narrow, rng = Grid(("mnist",), ("fp32", "w2a2"), ("standard",)), np.random.default_rng(0)
    scores = {cell.precision: write_cell(tmp_path, cell, rng) for cell in narrow.cells}
    scores["w2a2"]["seed_to_seed"] = scores["fp32"].seed_to_seed + 1
    files.write_dataset(tmp_path / "scores" / "mnist-w2a2-standard.nc", scores["w2a2"])
    found = {reference: collect(narrow, reference, tmp_path) for reference in scores}
    rise = found["w2a2"].seed_to_seed.preservation_ssim - found["fp32"].seed_to_seed.preservation_ssim
    np.testing.assert_allclose(rise, 1)
    assert not found["fp32"].controls.gini.equals(found["w2a2"].controls.gini)
    assert found["fp32"].runs["primary"].equals(found["w2a2"].runs["primary"])


def test_expensive_scores_use_the_first_images(grid, collection, primary):
    """What was scored on few images is compared with the gradient on the same few."""
    mask, cell = primary[:FEW], grid[1][MIXED].sel(seed=2)
    assert 0 < mask.sum() < FEW
    for method in OTHER_METHODS:
        found = row(collection.methods, method=method, precision="mixed", **KEYS)
        for name in PRIMARY:
            values = cell.method_scores.sel(explainer=method, score=name).values
            assert found[name] == pytest.approx(values[mask].mean())
        for fill in FILLS:
            values = cell.method_gain.sel(explainer=method, fill=fill).values
            assert found[f"relevance_gain_{fill}"] == pytest.approx(values[mask].mean())
    gradient = row(collection.methods, method=GRADIENT, precision="mixed", **KEYS)
    values = cell.scores.sel(map=GRADIENT, score="gini").values[:FEW]
    assert gradient.gini == pytest.approx(np.nanmean(values[mask]))
    values = cell.relevance_gain.sel(map=GRADIENT, fill="blur").values[:FEW]
    assert gradient.relevance_gain_blur == pytest.approx(np.nanmean(values[mask]))
    found = row(collection.secondary, precision="mixed", **KEYS)
    assert found.sensitivity_max == pytest.approx(cell.sensitivity_max.values[mask].mean())
    for name in ("entropy", "auroc"):
        assert found[name] == pytest.approx(np.nanmean(cell[name].values[primary]))


def test_image_sets_are_counted(grid, collection, primary):
    """How many images each set leaves of those scored, for every seed."""
    keys = KEYS | {"images": "primary"}
    assert (row(collection.image_sets, **keys)[["count", "scored"]] == [primary.sum(), IMAGES]).all()
    counts = collection.image_sets.pivot(index=["dataset", "training", "seed"], columns="images", values="count")
    assert (counts["all"] == IMAGES).all() and (counts.matched < counts.primary).all() and len(counts) == 4 * SEEDS


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
    assert len(collection.curves) == len(collection.accuracies) == 16 * SEEDS * LEVELS
    keys = "dataset == 'fashion_mnist' and training == 'guided' and precision == 'mixed'"
    chosen = collection.gradients.query(keys)
    np.testing.assert_array_equal(chosen.gradient, cell.gradient.values.ravel())
    assert chosen.seed.tolist() == [seed for seed in range(SEEDS) for _ in range(cell.sizes["draw"])]


def test_outline_is_that_of_the_kept_maps_of_seed_0(collection):
    """Where the maps of a cell lie, at every distance that its images have, one row each."""
    kept = collection.outline.query("dataset == 'mnist' and training == 'guided' and precision == 'w2a2'")
    assert (kept.seed == 0).all()
    assert kept.distance.tolist() == [-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6]


def test_what_is_collected_can_be_used(collection):
    """Claims and tables take the frames as they are."""
    answers = claims.evaluate(collection.evidence, STUDY.claims)
    tests = answers.tests()
    assert set(tests.claim) == {claim.id for claim in STUDY.claims.hypotheses}
    assert tests.p[~tests.claim.isin(["B2", "B4"])].notna().all()  # those two are asked only where there is a loss
    primary = collection.runs["primary"]
    assert len(retained(primary, collection.untrained["primary"], "fp32")) == 2 * 2 * 4 * 5
    assert "untrained network" in set(tables.clarity(primary, collection.controls).shown["Map"])
    assert len(tables.preservation(primary, collection.seed_to_seed, "fp32").shown) == 2 * 2 * 4


def test_the_numbers_of_every_seed(collection):
    """All that a verdict or a table rests on, one row per seed, the sets of images told apart, in small files."""
    found = collection.per_seed()
    for name, frames in (("networks", collection.runs), ("untrained", collection.untrained)):
        assert found[name].columns[0] == "images"
        for images, frame in frames.items():
            own = found[name][found[name].images == images].drop(columns="images").reset_index(drop=True)
            pd.testing.assert_frame_equal(own, frame)
    assert len(found["networks"]) == 3 * 16 * SEEDS and len(found["controls"]) == 3 * 4 * SEEDS
    assert len(found["methods"]) == (1 + len(OTHER_METHODS)) * 16 * SEEDS
    assert all("seed" in frame for frame in found.values())
    assert sum(len(files.csv(frame)) for frame in found.values()) < 2**20


def test_cells_scored_on_other_images_are_refused(tmp_path):
    """Precisions of different images or seeds cannot be paired: the message names the cell and its stage."""
    narrow, rng = Grid(("mnist",), ("fp32", "w2a2"), ("standard",)), np.random.default_rng(0)
    for cell in narrow.cells:
        scores = write_cell(tmp_path, cell, rng)
    other = scores.assign_coords(image=scores.image[::-1].values)
    for spoilt in (other, scores.isel(image=slice(30)), scores.isel(seed=slice(2))):
        files.write_dataset(tmp_path / "scores" / "mnist-w2a2-standard.nc", spoilt)
        message = "mnist-w2a2-standard was scored on other images .*clarity@mnist-w2a2-standard"
        with pytest.raises(reading.MissingError, match=message):
            collect(narrow, "fp32", tmp_path)


def test_what_was_not_run_is_named(grid, tmp_path):
    """A grid with a cell more than there is: the first file that is missing, with its stage."""
    with pytest.raises(reading.MissingError, match="train@mnist-fp32-standard"):
        collect(STUDY.grid, "fp32", tmp_path)


def test_frames_start_with_their_keys(collection):
    """Every frame starts with what identifies a row."""
    names = ("secondary", "controls", "seed_to_seed", "methods", "curves", "accuracies", "gradients", "outline")
    for name in names:
        frame = getattr(collection, name)
        assert isinstance(frame, pd.DataFrame) and frame.columns[0] == "dataset"
        assert {"training", "seed"} <= set(frame.columns[:5])
        assert ("precision" in frame.columns[:5]) == (name not in ("controls", "seed_to_seed"))
