"""Tests of study.report.compare: what stage compare writes from made-up scores, and the numbers of the main figures."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from saqlib import firmness, lenet, registered
from saqlib.scores import CANDIDATE_FILLS, GRADIENT
from saqlib.statistics import t_interval
from study import files, frames, models, paths, run, settings
from study.report import compare, tables
from tests.helpers import made, written
from tests.helpers.made import DATASETS, PRECISIONS

CELL = ["dataset", "training", "precision"]
EDITS = {"scale": "smoke", "grid": {"datasets": ["mnist"], "precisions": ["fp32", "w4a4", "w2a2"]}}


def study():
    """The study on one dataset and three precisions, at scale smoke."""
    return settings.from_dict(run._merged(settings.read(), EDITS))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with what train, fills and clarity leave, made up; and with all that stage compare writes there."""
    folder, rng, ours = tmp_path_factory.mktemp("root"), np.random.default_rng(0), study()
    shape = (4, 2, 28, 28)  # steps, images
    for cell in ours.grid.cells:
        written.write_cell(folder, cell, rng)
        report = folder / "results" / "runs" / f"{cell}.json"
        report.write_text(report.read_text().replace('{"cell"', '{"switch": null, "cell"', 1))
        course = pd.DataFrame({"step": [0, 10], "switch": [np.nan, np.nan], "accuracy": [10.0, 90.0]})
        scores = ("gini", "morans_i", *(f"relevance_gain_{fill}" for fill in CANDIDATE_FILLS), "amplitude")
        course = course.assign(**{f"{name}{end}": 0.1 for name in scores for end in ("", "_se")})
        files.write(folder / "results" / "during" / f"{cell}.csv", files.csv(course))
        recipe = ours.recipe(cell)
        states = {seed: lenet.build(recipe.precision, seed=seed).state_dict() for seed in range(written.SEEDS)}
        record = {
            "steps": torch.arange(4),
            "images": torch.zeros(shape[1:], dtype=torch.uint8),
            "maps": torch.rand(shape),
        }
        models.write_cell(recipe, states, record, folder)
    with pytest.MonkeyPatch.context() as patch:  # what is simulated is simulated twice, not 500 times
        patch.setattr(compare.firmness, "alternatives", partial(firmness.alternatives, resamples=2))
        patch.setattr(compare.registered, "power", partial(registered.power, repeats=2))
        compare.compare(ours, folder)
    return folder


def test_every_table_figure_and_frame_is_written(root):
    """Those of the contract, whose names paper and site know: figures in two forms, main ones with their numbers."""
    names = {path.relative_to(root / "results").as_posix() for path in (root / "results").rglob("*.*")}
    shown = {name + "mnist" if name.endswith("_") else name for name in made.DRAWN} - {"data", "device"}
    assert {f"figures/{name}.{end}" for name in shown for end in ("png", "pdf")} <= names
    numbers = {"map_first", "which_map", "saturation", "guidance", "fills", "outline", "during", "amplitude"}
    assert {name for name in names if name.startswith("figures/") and name.endswith(".csv")} == {
        f"figures/{name}.csv" for name in numbers}  # fmt: skip
    assert len([name for name in names if name.startswith("figures/")]) == 2 * len(shown) + len(numbers)
    words = yaml.safe_load((paths.ROOT / "site" / "tables.yaml").read_text(encoding="utf-8"))["tables"]
    found = {
        name.removesuffix(".csv") for name in names if name.startswith(("tables/", "evidence/")) and ".csv" in name
    }
    assert len(found) == 28 and found <= set(words)
    assert {f"{name}.md" for name in found if name.startswith("tables/")} <= names and "runs.csv" in names


def test_costs_and_devices_have_their_tables_once_they_were_measured(root, tmp_path):
    """Where stages deploy and device have left their files, and nothing of them before."""
    collected = frames.collect(study().grid, "fp32", root)
    runs = collected.runs["primary"]
    left = pd.read_csv(root / "results" / "tables" / "retained.csv").rename(columns={"mean": "estimate"})
    out = compare.Output(tmp_path / "results")
    compare._costs(out, runs, left, tmp_path)
    assert not (tmp_path / "results").exists()
    cells = runs[CELL].drop_duplicates()
    costs = cells.assign(**{key: 1e4 for key, *_ in tables.COSTS.values()})
    board = dict.fromkeys(("flash_bytes", "ram_bytes", "stack_bytes", "class_instructions",
                           "straight_through_instructions", "pass_through_instructions"), 1e4)  # fmt: skip
    for name, frame in {"deployment": costs, "device/measured": cells.assign(core="Cortex-M0", **board), "runs": runs,
                        "evidence/maps": collected.maps}.items():  # fmt: skip
        files.write(tmp_path / "results" / f"{name}.csv", files.csv(frame))
    compare._costs(out, runs, left, tmp_path)
    for name in ("tables/deployment.csv", "tables/device.md", "figures/device.csv", "figures/device.png"):
        assert (tmp_path / "results" / name).exists(), name


def test_a_missing_stage_is_one_line(tmp_path, monkeypatch):
    """Which names the file and the stage that writes it."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(compare.compare, "__defaults__", (tmp_path,))
    with pytest.raises(SystemExit) as stop:
        run.main(["compare", "--scale", "smoke"])
    assert "dvc repro train" in stop.value.code and "\n" not in stop.value.code


def test_looks_have_the_maps_and_scores_of_the_typical_seed(root):
    """Two classes; the score of each map on its own image, over the fills that qualify; the mean over all images."""
    ours, shown = study(), compare.looks("mnist", study(), root)
    seed = frames.typical_seed("mnist", "standard", ours.grid, root)
    assert list(shown.maps) == ["full precision", "4 bits", "2 bits", "2 bits, passed through", "untrained"]
    assert shown.names == ("0", "5") and shown.images.shape == (2, 28, 28)
    cell = frames.scores("mnist-w2a2-standard", root).sel(seed=seed)
    gains = cell.scores.sel(score=[f"relevance_gain_{fill}" for fill in written.QUALIFYING]).mean("score", skipna=False)
    for words, name, maps in (("2 bits", GRADIENT, cell.kept_map),
                              ("2 bits, passed through", "pass_through", cell.kept_map_pass_through)):  # fmt: skip
        own = gains.sel(map=name)
        assert shown.means[words] == pytest.approx(float(own.mean()))
        for map_, score in zip(shown.maps[words], shown.scores[words], strict=True):
            place = int((maps.values == map_).all((1, 2)).argmax())
            assert score == pytest.approx(float(own.sel(image=cell.kept[place])), nan_ok=True)
            assert np.array_equal(maps.values[place], map_)
    network = models.load("mnist-fp32-standard", seed, root)
    assert shown.maps["untrained"].shape == (2, 28, 28) and network.precision.name == "fp32"


# ------------------------------------------------------------------------------------ the numbers of main figures


def test_map_first_has_shares_of_what_training_gives():
    """1 for full precision; of means the ratio of means; the bare image's; points are differences with intervals."""
    collected = made.collection()
    runs = collected.runs["primary"].query("dataset == 'mnist' and training == 'guided'")
    wide = runs.pivot(index="seed", columns="precision", values=["faithfulness", "test_accuracy"])
    table = compare.map_first(collected).query("dataset == 'mnist' and training == 'guided'")
    means = table[table.seed.isna()].set_index("precision")
    assert means.kept["fp32"] == pytest.approx(1) and list(means.index) == [*PRECISIONS, "image"]
    faithful = wide["faithfulness"] - 0.1  # before training
    assert means.kept["w2a2"] == pytest.approx(faithful.w2a2.mean() / faithful.fp32.mean())
    change = wide["test_accuracy"].w2a2 - wide["test_accuracy"].fp32
    expected = t_interval(change)
    assert means.loc["w2a2", ["points", "points_low", "points_high"]].tolist() == pytest.approx(list(expected))
    seeds = table[(table.precision == "w2a2") & table.seed.notna()]
    assert seeds.kept.tolist() == pytest.approx((faithful.w2a2 / faithful.fp32).tolist())
    assert seeds.points.tolist() == pytest.approx(change.tolist())
    image = made.scored_maps().query("map == 'image' and precision == 'fp32' and dataset == 'mnist'").faithfulness
    assert means.kept["image"] == pytest.approx((image.mean() - 0.1) / faithful.fp32.mean()) and np.isnan(
        means.points["image"]
    )


def test_which_map_has_the_means_of_qualifying_fills():
    """Of full precision, most and fewest bits, of the maps of the figure and the image, with all seeds."""
    shown = made.map_means()
    shown["mean"] += 1.0 * (shown.fill == "qualifying") + 2.0 * (shown.seeds == "all")
    table = compare.which_map(shown, "fp32")
    assert set(table.precision) == {"fp32", "w4a4", "w2a2"} and "smoothgrad" not in set(table["map"])
    own = shown.query("fill == 'qualifying' and seeds == 'all'").set_index([*CELL, "map"])["mean"]
    assert table.set_index([*CELL, "map"])["mean"].equals(own.loc[pd.MultiIndex.from_frame(table[[*CELL, "map"]])])


def test_saturation_of_the_main_grid_and_of_variants():
    """Faithfulness of both maps from the fills that qualify, what is clipped as the mean over layers; changed alone."""
    table = made.main_numbers()["saturation"]
    found = table.set_index([*CELL, "variant", "metric"])["mean"].sort_index()
    cell, both = found["mnist", "guided", "w2a2"], {"straight_through": 0.201, "pass_through": 0.501}
    assert cell["main grid"].to_dict() == pytest.approx(both | {"clipped": 0.05})
    assert cell["max_range"].to_dict() == pytest.approx(both | {"clipped": 0.02})
    assert "max_range" not in found["mnist", "standard", "w2a2"].index and "edges_same" not in set(table.variant)
    assert np.isnan(found["mnist", "guided", "fp32", "main grid", "clipped"])
    collected, variants = made.collection(), made.variants()
    collected.fills = {"mnist": (), "fashion_mnist": ("blur",)}
    unchanged = {name: frame.assign(changed=False) for name, frame in variants.items()}
    alone = compare.saturation(collected, unchanged | {"unrounded": variants["unrounded"].iloc[:0]})
    assert set(alone.variant) == {"main grid"}
    assert alone.query("dataset == 'mnist' and metric != 'clipped'")["mean"].isna().all()
    assert alone.query("dataset != 'mnist' and metric == 'straight_through'")["mean"].tolist() == pytest.approx(
        [0.301] * 8
    )


def test_guidance_is_paired_by_seed_in_both_rankings():
    """Guided minus standard of each precision; by sign .5 less; without the ablation the main grid alone."""
    collected, table = made.collection(), made.main_numbers()["guidance"]
    runs = collected.as_ablation.query("dataset == 'mnist' and precision == 'w4a4'")
    change = runs.pivot(index="seed", columns="training", values="test_accuracy").eval("guided - standard")
    own = table.query("dataset == 'mnist' and precision == 'w4a4'").set_index(["question", "ranking"])
    for ranking in ("magnitude", "signed"):
        assert own.loc[("accuracy", ranking), ["mean", "low", "high"]].tolist() == pytest.approx(
            list(t_interval(change))
        )
    assert own["mean"]["faithfulness", "magnitude"] == pytest.approx(0)
    assert own["mean"]["faithfulness", "signed"] == pytest.approx(-0.5)
    assert compare.guidance(collected, {}).equals(table[table.ranking == "magnitude"].reset_index(drop=True))
    collected.as_ablation = collected.as_ablation.query("training == 'standard'")
    assert compare.guidance(collected, {}).empty


def test_fills_are_those_of_the_reference_and_say_which_qualify():
    """The straight-through map and the image, of the first training; black never qualifies."""
    shown = made.map_means()
    shown.loc[shown.training == "guided", "mean"] += 1
    table = compare.fills(shown, made.collection())
    assert len(table) == len(DATASETS) * 2 * 4 and set(table["map"]) == {GRADIENT, "image"}
    assert set(table.fill[~table.qualifies]) == {"zero"} and table.qualifies.sum() == 12
    own = shown.query("precision == 'fp32' and training == 'standard' and seeds == 'all' and dataset == 'mnist'")
    expected = own.set_index(["fill", "map"])["mean"]
    for row in table.query("dataset == 'mnist'").itertuples():
        assert row.mean == expected[row.fill, row.map]
