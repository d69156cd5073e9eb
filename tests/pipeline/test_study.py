"""Tests of saqlib.pipeline.study: params.yaml as a whole, and what each cell reads of it."""

import copy
import dataclasses
import re

import pytest
import yaml

from saqlib import paths
from saqlib.grid import Cell
from saqlib.network.settings import EDGES, Bits
from saqlib.params import ParamsError
from saqlib.pipeline import study
from saqlib.pipeline.study import SECTIONS, Study
from saqlib.workers import DEVICES
from tests.parameters import BAD_NUMBERS, RAW, changed, refusal, without

SCALES = tuple(RAW["scales"])


def message(raw, scale: str | None = None) -> str:
    """What a person is told about this params.yaml: one line."""
    return refusal(study.from_dict, raw, scale)


# ------------------------------------------------------------------------------------------------ what is valid


@pytest.mark.parametrize("scale", SCALES)
def test_params_yaml_loads_at_every_scale(scale):
    """The committed file is valid, and a scale picks its own sizes and nothing else."""
    settings = study.load(scale=scale)
    assert settings.scale == scale
    assert settings == study.load(scale=scale)
    assert dataclasses.asdict(settings.size) == RAW["scales"][scale]
    full = study.load(scale="full")
    for field in dataclasses.fields(settings):
        if field.name not in ("scale", "size"):
            assert getattr(settings, field.name) == getattr(full, field.name)


def test_every_section_is_read_into_its_place():
    """Each value of the committed file stands in the Study, by its name."""
    settings = study.load()
    sections = {
        "network": settings.shape,
        "quantization": settings.quantization,
        "optimizer": settings.optimizer,
        "clarity": settings.clarity,
        "grid": settings.grid,
    }
    for name, section in sections.items():
        found = dataclasses.asdict(section)
        assert {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()} == RAW[name]
    assert {"standard": {}, "guided": dataclasses.asdict(settings.guided)} == RAW["trainings"]
    assert settings.engine.device == RAW["device"]
    assert (settings.claims.level, settings.claims.reference) == (RAW["claims"]["level"], RAW["claims"]["reference"])
    assert list(settings.precisions) == list(RAW["precisions"])
    assert set(SECTIONS) == set(RAW)


def test_params_yaml_s_own_scale_is_the_default():
    """Without an argument the file decides."""
    assert study.load().scale == RAW["scale"]
    assert study.from_dict(changed(scale="quick")).scale == "quick"
    assert study.from_dict(changed(scale="quick"), "smoke").scale == "smoke"


def test_another_file_is_read_where_it_is_named(tmp_path):
    """By its path, at its own scale or at another."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(changed(scale="quick", optimizer__batch_size=7)))
    assert (study.load(path).scale, study.load(path).optimizer.batch_size) == ("quick", 7)
    assert study.load(path, "smoke") == study.from_dict(changed(optimizer__batch_size=7), "smoke")


def test_reading_changes_nothing_of_what_is_read():
    """The parsed file is as it was, so that two studies can be made of it."""
    raw = copy.deepcopy(RAW)
    assert study.from_dict(raw) == study.from_dict(raw)
    assert raw == RAW


def test_values_are_frozen():
    """Nobody changes the experiment while it runs."""
    settings = study.load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.size.seeds = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.shape = None


@pytest.mark.parametrize("edges", EDGES)
def test_edges_reach_the_precisions(edges):
    """The first and the last layer's weights of every quantized row, and of no other."""
    there = study.from_dict(changed(quantization__edges=edges)).precisions
    bits = {"w8": (8, 8), "same": (4, 2), "fp32": (None, None)}[edges]
    assert (there["mixed"].layers[0].weight, there["mixed"].layers[-1].weight) == bits
    assert there["mixed"].layers[1] == Bits(4, 4)
    assert there["fp32"].layers == (Bits(),) * 5


def test_a_precision_can_be_added():
    """A new row and its name in the grid are all that a new precision takes."""
    row = {layer: [3, 5] for layer in ("conv1", "conv2", "dense1", "dense2")} | {"dense3": [3]}
    settings = study.from_dict(changed(precisions__w3a5=row, grid__precisions=["fp32", "w3a5"]))
    assert settings.precisions["w3a5"].layers[1] == Bits(3, 5)
    assert settings.cell("mnist", "w3a5", "guided") == Cell("mnist", "w3a5", "guided")


def test_limits_that_are_allowed_are_allowed():
    """`weight: 1` is 1.0; one seed is enough; fractions of none and of all are fractions."""
    guided = study.from_dict(changed(trainings__guided__weight=1, trainings__guided__fraction=0)).guided
    assert guided.weight == 1.0 and isinstance(guided.weight, float) and isinstance(guided.fraction, float)
    assert study.from_dict(changed(scales__smoke__seeds=1), "smoke").size.seeds == 1
    for device in DEVICES:
        assert study.from_dict(changed(device=device)).engine.device == device


def test_only_the_grid_s_datasets_need_epochs():
    """A dataset that is in no cell may have none, in any scale."""
    raw = changed(grid__datasets=["mnist"], ablations={})
    for scale in raw["scales"].values():
        del scale["epochs"]["fashion_mnist"]
    assert study.from_dict(raw).size.epochs == {"mnist": RAW["scales"][RAW["scale"]]["epochs"]["mnist"]}
    raw["grid"]["datasets"] = ["fashion_mnist", "mnist"]
    assert message(raw) == "scales.smoke.epochs lacks fashion_mnist, which is in grid.datasets"


# --------------------------------------------------------------------------------------------- what a cell reads


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("cell", study.load().grid.cells, ids=str)
def test_recipe_holds_what_the_cell_reads(cell, scale):
    """Quantization and warm-up where there are bits, guidance where it is guided, the dataset's own epochs."""
    settings = study.load(scale=scale)
    recipe = settings.recipe(cell)
    quantized, guided = cell.precision != "fp32", cell.training == "guided"
    assert recipe.dataset == cell.dataset
    assert recipe.precision == settings.precisions[cell.precision]
    assert recipe.precision.name == cell.precision and recipe.precision.quantized == quantized
    assert (recipe.shape, recipe.optimizer) == (settings.shape, settings.optimizer)
    assert recipe.epochs == RAW["scales"][scale]["epochs"][cell.dataset]
    assert recipe.warmup_epochs == RAW["scales"][scale]["warmup_epochs"]
    assert recipe.quantization == (settings.quantization if quantized else None)
    assert recipe.guided == (settings.guided if guided else None)
    assert (recipe.records, recipe.sample) == (settings.size.records, settings.size.sample)


# Every value of params.yaml that can decide a network's bytes: a change, and the cells that it makes stale.
DECIDES = {
    "network__channels": ([7, 17], lambda cell: True),
    "network__hidden": ([11, 13], lambda cell: True),
    "precisions__w4a4__conv2": ([3, 5], lambda cell: cell.precision == "w4a4"),
    "quantization__edges": ("same", lambda cell: cell.precision != "fp32"),
    "quantization__alpha_learning_rate": (0.77, lambda cell: cell.precision != "fp32"),
    "quantization__alpha_penalty": (0.77, lambda cell: cell.precision != "fp32"),
    "quantization__calibration_images": (77, lambda cell: cell.precision != "fp32"),
    "optimizer__batch_size": (77, lambda cell: True),
    "optimizer__learning_rate": (0.77, lambda cell: True),
    "trainings__guided__fraction": (0.77, lambda cell: cell.training == "guided"),
    "trainings__guided__weight": (0.77, lambda cell: cell.training == "guided"),
    "trainings__guided__ranking": ("signed", lambda cell: cell.training == "guided"),
    "scales__smoke__epochs__mnist": (7, lambda cell: cell.dataset == "mnist"),
    "scales__smoke__epochs__fashion_mnist": (7, lambda cell: cell.dataset == "fashion_mnist"),
    "scales__smoke__warmup_epochs": (0.77, lambda cell: cell.precision != "fp32"),
    "scales__smoke__records": (77, lambda cell: True),
    "scales__smoke__sample": (False, lambda cell: True),
}
# What decides nothing of a network: where it runs, how many of them, how they are scored and judged.
DECIDES_NOT = {
    "device": "cpu", "clarity__steps": 7, "clarity__sensitivity_radius": 0.77,
    "clarity__sensitivity_draws": 7, "claims__level": 0.01, "claims__reference": "w4a4",
    "claims__margins__accuracy": 0.77, "claims__margins__maps": 0.77, "claims__margins__recovered": 0.77,
    "claims__questions__accuracy": "gini",
    "claims__questions__focus": "morans_i", "claims__questions__coherence": "gini",
    "claims__questions__faithfulness": "gini", "claims__hypotheses": RAW["claims"]["hypotheses"][:1],
    "grid__trainings": ["guided", "standard"],
    "scales__smoke__seeds": 7, "scales__smoke__images": 77, "scales__smoke__images_expensive": 7,
    "scales__smoke__images_deployed": 7, "scales__smoke__seeds_ablated": 1,
    "scales__full__records": 77, "scales__full__epochs__mnist": 77,
}  # fmt: skip


def leaves(section, *path: str) -> list[str]:
    """The path of every value of a section, with __ between the parts."""
    if not isinstance(section, dict):
        return ["__".join(path)]
    return [leaf for key, value in section.items() for leaf in leaves(value, *path, key)]


def test_every_value_is_told_to_decide_or_not():
    """A new parameter has to be added to one of the two lists; rows, axes and other scales are as those there."""
    listed_elsewhere = ("scale", "grid", "precisions", "scales", "ablations")
    raw = {key: value for key, value in RAW.items() if key not in listed_elsewhere}
    expected = {*leaves(raw), *leaves({"smoke": RAW["scales"]["smoke"]}, "scales")}
    assert expected <= {*DECIDES, *DECIDES_NOT} and not DECIDES.keys() & DECIDES_NOT.keys()


def stale(name: str, value, read) -> set[Cell]:
    """The cells for which `read(study, cell)` becomes another one when the value is changed."""
    alone = {"claims__hypotheses": []}  # for another reference other claims would have to be made
    before, after = (study.from_dict(changed(**alone | change), "smoke") for change in ({}, {name: value}))
    return {cell for cell in before.grid.cells if read(before, cell) != read(after, cell)}


@pytest.mark.parametrize("name", DECIDES)
def test_a_changed_value_changes_the_recipes_that_read_it(name):
    """Those of the cells named, all of them, and no other's."""
    value, reads = DECIDES[name]
    expected = {cell for cell in study.load().grid.cells if reads(cell)}
    assert stale(name, value, lambda study, cell: study.recipe(cell).decides) == expected


@pytest.mark.parametrize("name", DECIDES_NOT)
def test_other_values_change_no_recipe(name):
    """Where it runs, how many seeds, how maps are scored: no network is trained anew."""
    assert stale(name, DECIDES_NOT[name], Study.recipe) == set()  # not even its warm-up


@pytest.mark.parametrize("scale", SCALES)
def test_scoring_holds_what_scoring_reads(scale):
    """The section `clarity`, the reference, and this scale's images."""
    settings, sizes = study.load(scale=scale), RAW["scales"][scale]
    assert dataclasses.asdict(settings.scoring) == {
        "clarity": RAW["clarity"],
        "reference": RAW["claims"]["reference"],
        "images": sizes["images"],
        "images_expensive": sizes["images_expensive"],
        "calibration_images": RAW["quantization"]["calibration_images"],
        "sample": sizes["sample"],
    }


SCORED = (
    "clarity__steps", "clarity__sensitivity_radius", "clarity__sensitivity_draws", "claims__reference",
    "scales__smoke__images", "scales__smoke__images_expensive", "quantization__calibration_images",
    "scales__smoke__sample",
)  # fmt: skip


@pytest.mark.parametrize("name", [*DECIDES, *DECIDES_NOT])
def test_scoring_changes_with_what_it_reads_alone(name):
    """What only training, deployment or the claims read scores nothing anew."""
    value = DECIDES[name][0] if name in DECIDES else DECIDES_NOT[name]
    changes = stale(name, value, lambda settings, cell: settings.scoring)
    assert bool(changes) == (name in SCORED)


@pytest.mark.parametrize(
    ("cell", "what", "nearest"),
    [
        (Cell("mnits", "w2a2", "guided"), "dataset 'mnits'", "mnist"),
        (Cell("mnist", "w2", "guided"), "precision 'w2'", "w2a2"),
    ],
)
def test_recipe_of_unknown_names_is_refused(cell, what, nearest):
    """A cell that was not made by the Study is checked when its recipe is asked for."""
    assert f"unknown {what}; did you mean '{nearest}'?" in refusal(study.load().recipe, cell)


@pytest.mark.parametrize(
    ("names", "what", "nearest"),
    [
        (("mnits", "w2a2", "guided"), "dataset 'mnits'", "mnist"),
        (("mnist", "w2", "guided"), "precision 'w2'", "w2a2"),
        (("mnist", "w2a2", "guded"), "training 'guded'", "guided"),
    ],
)
def test_cell_of_unknown_names_is_refused(names, what, nearest):
    """A parameter of a notebook is checked like params.yaml."""
    assert f"unknown {what}; did you mean '{nearest}'?" in refusal(study.load().cell, *names)


def test_cell_must_be_in_the_grid():
    """A valid dataset or training that params.yaml leaves out of its grid is refused, too."""
    settings = study.from_dict(changed(grid__datasets=["mnist"], grid__trainings=["standard"]))
    assert settings.cell("mnist", "w2a2", "standard") == Cell("mnist", "w2a2", "standard")
    assert refusal(settings.cell, "fashion_mnist", "w2a2", "standard").endswith("(valid: mnist)")
    assert refusal(settings.cell, "mnist", "w2a2", "guided").endswith("(valid: standard)")


# ------------------------------------------------------------------------------------------------- unknown names

MISSPELT = {
    "scale": (changed(scale="fulll"), "scale 'fulll'", "full"),
    "dataset": (changed(grid__datasets=["mnist", "fashon_mnist"]), "'fashon_mnist'", "fashion_mnist"),
    "precision": (changed(grid__precisions=["fp32", "w2a3"]), "precision in grid.precisions 'w2a3'", "w2a2"),
    "training": (changed(grid__trainings=["guide"]), "'guide'", "guided"),
    "edges": (changed(quantization__edges="w16"), "quantization.edges 'w16'", "w8"),
    "ranking": (changed(trainings__guided__ranking="magnitud"), "'magnitud'", "magnitude"),
    "device": (changed(device="gpu cuda"), "device 'gpu cuda'", "cuda"),
    "section": (changed(training={}), "key in params.yaml 'training'", "trainings"),
    "key": (changed(optimizer__lerning_rate=0.1), "key in optimizer 'lerning_rate'", "learning_rate"),
    "key of a training": (changed(trainings__guided__wieght=1.0), "key in trainings.guided 'wieght'", "weight"),
    "training of its own": (changed(trainings__guded={}), "key in trainings 'guded'", "guided"),
    "key of a scale": (changed(scales__quick__seed=3), "key in scales.quick 'seed'", "seeds"),
    "unused scale": (changed(scales__quik={}), "key in scales 'quik'", "quick"),
    "epochs of": (changed(scales__full__epochs__mnistt=3), "scales.full.epochs 'mnistt'", "mnist"),
    "layer": (changed(precisions__w2a2__conv3=[2, 2]), "layer in precisions.w2a2 'conv3'", "conv"),
    "reference": (changed(claims__reference="fp16"), "precision in claims.reference 'fp16'", "fp32"),
}


@pytest.mark.parametrize("kind", MISSPELT)
def test_misspelt_name_is_answered_with_the_nearest_valid_one(kind):
    """What was unknown, where, and what was probably meant; the sentence begins with it."""
    raw, what, nearest = MISSPELT[kind]
    text = message(raw)
    assert text.startswith("unknown ") and what in text and f"did you mean '{nearest}" in text
    assert "(valid: " in text


def test_name_like_no_other_gets_the_list_alone():
    """No guess is made up, but every valid name is told."""
    text = message(changed(device="zzz"))
    assert text == "unknown device 'zzz' (valid: auto, cpu, cuda)"


@pytest.mark.parametrize("scale", ["quik", "", "Full"])
def test_unknown_scale_given_in_the_file_s_stead_is_refused(scale):
    """Also one that differs in its capitals only."""
    assert f"unknown scale {scale!r}" in message(RAW, scale)


def test_standard_training_has_no_settings():
    """A setting below `standard` would do nothing."""
    assert message(changed(trainings__standard={"weight": 1.0})).startswith(
        "unknown key in trainings.standard 'weight'"
    )


@pytest.mark.parametrize("name", ["w4-a4", "w4/a4", "w 4", "", "4", 4, "../w4"])
def test_precision_whose_name_would_break_a_cell_s_is_refused(name):
    """Names become parts of cell and file names, so they are letters, digits and underscores."""
    raw = changed()
    raw["precisions"][name] = {}
    assert f"precisions: {name!r} cannot be a name" in message(raw)


# ------------------------------------------------------------------------------------------------ missing, empty


@pytest.mark.parametrize("key", RAW)
def test_missing_section_is_named(key):
    """Every section is required."""
    assert message(without("", key)) == f"params.yaml lacks {key}"


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("grid", "trainings"),
        ("optimizer", "batch_size"),
        ("quantization", "edges"),
        ("trainings", "standard"),
        ("trainings.guided", "fraction"),
        ("scales", "full"),
        ("scales.quick", "images_expensive"),
        ("network", "hidden"),
        ("clarity", "steps"),
        ("claims", "margins"),
    ],
)
def test_missing_key_is_named(section, key):
    """Every key is required, there are no silent defaults."""
    assert message(without(section, key)) == f"{section} lacks {key}"


@pytest.mark.parametrize("scale", SCALES)
def test_missing_epochs_of_a_dataset_of_the_grid_are_named(scale):
    """In every scale, also in those that are not in use."""
    text = message(without(f"scales.{scale}.epochs", "fashion_mnist"))
    assert text == f"scales.{scale}.epochs lacks fashion_mnist, which is in grid.datasets"


@pytest.mark.parametrize("axis", ["datasets", "precisions", "trainings"])
def test_empty_axis_of_the_grid_is_refused(axis):
    """A grid without cells would be a pipeline that does nothing and succeeds."""
    assert message(changed(**{f"grid__{axis}": []})) == f"grid.{axis} is empty; name at least one"


def test_a_grid_without_standard_training_is_refused():
    """Its full-precision networks decide which fills qualify: without them nothing could be scored."""
    text = message(changed(grid__trainings=["guided"]))
    assert text == "grid.trainings lacks standard, whose networks decide which fills qualify"


def test_axis_that_names_a_value_twice_is_refused():
    """The same cell twice would be two stages writing one file."""
    assert "grid.datasets names one of its values twice" in message(changed(grid__datasets=["mnist", "mnist"]))


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_file_that_is_no_mapping_is_refused(raw):
    """An empty file, for one."""
    assert message(raw).startswith("params.yaml must be of type dict")


@pytest.mark.parametrize("section", [key for key in RAW if isinstance(RAW[key], dict)])
def test_section_that_is_no_mapping_is_refused(section):
    """A section left empty in YAML is None, and is named."""
    assert message(changed(**{section: None})) == f"{section} must be of type dict, not None"


@pytest.mark.parametrize("name", ["trainings.standard", "trainings.guided", "scales.quick", "scales.full.epochs"])
def test_section_in_a_section_that_is_no_mapping_is_refused(name):
    """By its path; a training without settings is written {}."""
    assert message(changed(**{name.replace(".", "__"): None})) == f"{name} must be of type dict, not None"


def test_layer_without_bits_is_refused():
    """A row says something about every layer or about none."""
    raw = without("precisions.w2a2", "dense1")
    del raw["precisions"]["w2a2"]["conv2"]
    assert message(raw) == "precisions.w2a2 says nothing about conv2, dense1; give every layer its bits"


# ---------------------------------------------------------------------------------------------- types and ranges


@pytest.mark.parametrize("kind", BAD_NUMBERS)
@pytest.mark.parametrize(
    "name",
    ["optimizer.learning_rate", "quantization.alpha_penalty", "trainings.guided.weight", "trainings.guided.fraction",
     "clarity.sensitivity_radius", "scales.full.warmup_epochs", "claims.margins.accuracy"],
)  # fmt: skip
def test_wrong_float_is_refused(name, kind):
    """Text, flags, nothing and lists are no numbers; nan is in no range."""
    text = message(changed(**{name.replace(".", "__"): BAD_NUMBERS[kind]}))
    assert text.startswith(f"{name} must ") and str(BAD_NUMBERS[kind]) in text


@pytest.mark.parametrize("value", [2.0, True, "2", None, float("nan")])
@pytest.mark.parametrize(
    "name", ["optimizer.batch_size", "scales.smoke.seeds", "scales.smoke.epochs.mnist", "scales.full.images_expensive"]
)
def test_wrong_whole_number_is_refused(name, value):
    """Neither 2.0 nor true counts as a whole number."""
    text = message(changed(**{name.replace(".", "__"): value}), "smoke")
    assert text == f"{name} must be of type int, not {value!r}"


@pytest.mark.parametrize("value", [1, "true", None])
def test_wrong_flag_is_refused(value):
    """A flag is true or false."""
    assert message(changed(scales__smoke__sample=value)) == f"scales.smoke.sample must be of type bool, not {value!r}"


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1.0e-3", 0.001), ("0_1", 1.0)])
def test_numbers_are_read_as_dvc_reads_them(tmp_path, text, value):
    """YAML 1.2 takes 1e-3 for a number, 1.1 for a word."""
    path = tmp_path / "params.yaml"
    whole = paths.PARAMS.read_text(encoding="utf-8")
    path.write_text(re.sub(r"\n  learning_rate: \S+ ", f"\n  learning_rate: {text} ", whole, count=1), encoding="utf-8")
    assert study.load(path).optimizer.learning_rate == value


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 32, 2.0, True, "4", None])
def test_bits_outside_2_to_8_are_refused(bits):
    """The message names precision and layer."""
    text = message(changed(precisions__w4a4__conv2=[bits, 4]))
    assert text == f"precisions.w4a4.conv2: bits must be a whole number from 2 to 8, not {bits!r}"


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 50, float("inf")])
def test_fraction_outside_0_to_1_is_refused(fraction):
    """A percentage, for one, is no fraction."""
    text = message(changed(trainings__guided__fraction=fraction))
    assert text.startswith("trainings.guided.fraction must lie in [0, 1]")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scales.quick.seeds", 0),
        ("scales.quick.seeds", -1),
        ("scales.full.records", 0),
        ("scales.full.images", 0),
        ("scales.full.images_expensive", 0),
        ("scales.full.images_deployed", 0),
        ("scales.full.seeds_ablated", -1),
        ("scales.full.epochs.fashion_mnist", 0),
        ("optimizer.batch_size", 0),
        ("optimizer.learning_rate", -0.1),
        ("quantization.calibration_images", 0),
        ("quantization.alpha_learning_rate", -0.1),
        ("quantization.alpha_penalty", -1e-9),
        ("trainings.guided.weight", -1.0),
        ("clarity.steps", 0),
        ("clarity.sensitivity_draws", 0),
        ("clarity.sensitivity_radius", -0.5),
    ],
)
def test_number_below_its_least_value_is_refused(name, value):
    """Also in a scale that is not the one in use: the file is right or wrong as a whole."""
    text = message(changed(**{name.replace(".", "__"): value}), "smoke")
    if "epochs" in name:
        assert text == "scales.full.epochs must be at least 1 for every dataset"
    else:
        assert text.startswith(f"{name} must be at least ") and text.endswith(f"not {value}")


@pytest.mark.parametrize("warmup", [1.0, 7, -0.5])
def test_warm_up_must_end_before_the_shortest_training(warmup):
    """A warm-up as long as the run would leave every network in full precision."""
    text = message(changed(scales__quick__warmup_epochs=warmup))
    assert text.startswith("scales.quick.warmup_epochs must be at least 0 and less than the epochs (1)")


@pytest.mark.parametrize("widths", [[8], [8, 16, 32], [], [8, 0]])
def test_network_has_two_widths_of_each_kind(widths):
    """Of the convolutions and of the dense layers."""
    for kind in ("channels", "hidden"):
        assert message(changed(**{f"network__{kind}": widths})).startswith(f"network.{kind} must be two widths")


# ------------------------------------------------------------------------------------------------------ the file


def test_file_that_is_not_there_is_named(tmp_path):
    """One sentence with the path."""
    path = tmp_path / "params.yaml"
    assert refusal(study.load, path) == f"{path} does not exist"


def test_key_that_stands_twice_is_refused(tmp_path):
    """YAML itself takes the last one; a changed number further up would do nothing."""
    path = tmp_path / "params.yaml"
    path.write_text(paths.PARAMS.read_text() + "\nscale: smoke\n")
    assert refusal(study.load, path).endswith("'scale' stands twice")


def test_errors_are_value_errors():
    """Callers that do not know this library can catch them."""
    with pytest.raises(ValueError):
        study.from_dict({})
    assert issubclass(ParamsError, ValueError)
