"""params.yaml: each way to get it wrong is one clear sentence that names the place and the nearest valid name."""

import copy
import dataclasses
import re

import pytest
import yaml

from saqlib import config, paths
from saqlib.config import Bits, Cell, ConfigError

RAW = yaml.safe_load(paths.PARAMS.read_text())
BAD_NUMBERS = {"nan": float("nan"), "text": "0.003", "flag": True, "nothing": None, "list": [1]}


def changed(**values) -> dict:
    """params.yaml with some values changed, each named by its path with __ between the parts."""
    raw = copy.deepcopy(RAW)
    for name, value in values.items():
        *parents, last = name.split("__")
        section = raw
        for parent in parents:
            section = section[parent]
        section[last] = value
    return raw


def without(section: str, key: str) -> dict:
    raw = copy.deepcopy(RAW)
    del (raw[section] if section else raw)[key]
    return raw


def message(raw, scale: str | None = None) -> str:
    """What a person is told about this params.yaml: one line."""
    with pytest.raises(ConfigError) as error:
        config.from_dict(raw, scale)
    text = str(error.value)
    assert text and "\n" not in text
    return text


# ------------------------------------------------------------------------------------------- what is valid


@pytest.mark.parametrize("scale", config.SCALES)
def test_params_yaml_loads_at_every_scale(scale):
    """The committed file is valid, and a scale picks its own sizes and nothing else."""
    settings = config.load(scale=scale)
    assert settings.scale == scale
    assert settings.size == config.load(scale=scale).size
    assert dataclasses.asdict(settings.size) == RAW["scales"][scale]
    own = ("scale", "size")
    full = config.load(scale="full")
    for field in dataclasses.fields(settings):
        if field.name not in own:
            assert getattr(settings, field.name) == getattr(full, field.name)


def test_params_yaml_s_own_scale_is_the_default():
    """Without an argument the file decides."""
    assert config.load().scale == RAW["scale"]
    assert config.from_dict(changed(scale="quick")).scale == "quick"
    assert config.from_dict(changed(scale="quick"), "smoke").scale == "smoke"


def test_grid_is_every_combination_datasets_outermost():
    """Two datasets, four precisions and two trainings are sixteen cells."""
    cells = config.load().grid.cells
    assert len(cells) == len(set(cells)) == 16
    assert [str(cell) for cell in cells[:3]] == ["mnist-fp32-standard", "mnist-fp32-guided", "mnist-w4a4-standard"]
    assert str(cells[-1]) == "fashion_mnist-w2a2-guided"


def test_cell_names_are_read_back():
    """parse is the inverse of str, for every cell of the grid."""
    for cell in config.load().grid.cells:
        assert Cell.parse(str(cell)) == cell


def test_values_are_frozen():
    """Nobody changes the experiment while it runs."""
    settings = config.load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.size.seeds = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.edges = "same"


def bits_of(edges: str, precision: str) -> list[tuple]:
    layers = config.from_dict(changed(edges=edges)).precisions[precision].layers
    return [(bits.weight, bits.activation) for bits in layers]


def test_edges_override_the_first_and_the_last_layer_s_weights():
    """w8, as the table says, or full precision; activations and inner layers stay, the last layer has none."""
    inner = [(4, 4), (2, 2), (2, 2)]
    assert bits_of("w8", "mixed") == [(8, 4), *inner, (8, None)]
    assert bits_of("same", "mixed") == [(4, 4), *inner, (2, None)]
    assert bits_of("fp32", "mixed") == [(None, 4), *inner, (None, None)]


def test_full_precision_has_no_bits_whatever_the_edges():
    """An empty row is full precision, and says so."""
    for edges in config.EDGES:
        precision = config.from_dict(changed(edges=edges)).precisions["fp32"]
        assert precision.layers == (Bits(),) * 5 and not precision.quantized
    assert all(config.load().precisions[name].quantized for name in ("w4a4", "mixed", "w2a2"))


def test_a_precision_can_be_added():
    """A new row and its name in the grid are all that a new precision takes."""
    row = {layer: [3, 5] for layer in config.LAYERS[:-1]} | {"dense3": [3]}
    settings = config.from_dict(changed(precisions__w3a5=row, grid__precisions=["fp32", "w3a5"]))
    assert settings.precisions["w3a5"].layers[1] == Bits(3, 5)
    assert settings.cell("mnist", "w3a5", "guided") == Cell("mnist", "w3a5", "guided")


def test_whole_numbers_pass_for_floats_and_nothing_else_is_converted():
    """`weight: 1` is 1.0; limits that are allowed are allowed."""
    settings = config.from_dict(changed(guided__weight=1, guided__fraction=0))
    assert settings.guided.weight == 1.0 and isinstance(settings.guided.weight, float)
    for fraction in (0, 0.0, 1, 1.0):
        assert config.from_dict(changed(guided__fraction=fraction)).guided.fraction == fraction
    assert config.from_dict(changed(scales__smoke__seeds=1), "smoke").size.seeds == 1


def test_epochs_belong_to_the_dataset():
    """Each dataset has its own number, an unknown one is an error."""
    settings = config.load(scale="full")
    assert settings.epochs("mnist") == RAW["scales"]["full"]["epochs"]["mnist"]
    assert settings.epochs("fashion_mnist") == RAW["scales"]["full"]["epochs"]["fashion_mnist"]
    with pytest.raises(ConfigError, match="did you mean 'mnist'"):
        settings.epochs("mnis")


# ------------------------------------------------------------------------------------------- unknown names

MISSPELT = {
    "scale": (changed(scale="fulll"), "scale 'fulll'", "full"),
    "dataset": (changed(grid__datasets=["mnist", "fashon_mnist"]), "'fashon_mnist'", "fashion_mnist"),
    "precision": (changed(grid__precisions=["fp32", "w2a3"]), "'w2a3'", "w2a2"),
    "training": (changed(grid__trainings=["guide"]), "'guide'", "guided"),
    "edges": (changed(edges="w16"), "edges 'w16'", "w8"),
    "ranking": (changed(guided__ranking="magnitud"), "'magnitud'", "magnitude"),
    "executor": (changed(executor="rray"), "executor 'rray'", "ray"),
    "device": (changed(device="gpu cuda"), "device 'gpu cuda'", "cuda"),
    "section": (changed(trainings={}), "key in params.yaml 'trainings'", "training"),
    "key": (changed(training__lerning_rate=0.1), "key in training 'lerning_rate'", "learning_rate"),
    "key of a scale": (changed(scales__quick__seed=3), "key in scales.quick 'seed'", "seeds"),
    "unused scale": (changed(scales__quik={}), "key in scales 'quik'", "quick"),
    "epochs of": (changed(scales__full__epochs__mnistt=3), "key in scales.full.epochs 'mnistt'", "mnist"),
    "layer": (changed(precisions__w2a2__conv3=[2, 2]), "layer in precisions.w2a2 'conv3'", "conv"),
}


@pytest.mark.parametrize("kind", MISSPELT)
def test_misspelt_name_is_answered_with_the_nearest_valid_one(kind):
    """What was unknown, where, and what was probably meant."""
    raw, what, nearest = MISSPELT[kind]
    text = message(raw)
    assert what in text and f"did you mean '{nearest}" in text
    assert "(valid: " in text


def test_name_like_no_other_gets_the_list_alone():
    """No guess is made up, but every valid name is told."""
    text = message(changed(executor="zzz"))
    assert text == "unknown executor 'zzz' (valid: local, ray)"


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
    with pytest.raises(ConfigError) as error:
        config.load().cell(*names)
    assert f"unknown {what}; did you mean '{nearest}'?" in str(error.value)


@pytest.mark.parametrize("scale", ["quik", "", "Full"])
def test_unknown_scale_given_in_the_file_s_stead_is_refused(scale):
    """Also one that differs in its capitals only."""
    assert f"unknown scale {scale!r}" in message(RAW, scale)


@pytest.mark.parametrize("name", ["mnist-w2a2", "mnist-w2a2-guided-0", "", "mnist_w2a2_guided"])
def test_name_of_other_than_three_parts_is_no_cell(name):
    """The message shows the form that a name has."""
    with pytest.raises(ConfigError, match="<dataset>-<precision>-<training>") as error:
        Cell.parse(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["w4-a4", "w4/a4", "w 4", "", "4", 4, "../w4"])
def test_precision_whose_name_would_break_a_cell_s_is_refused(name):
    """Names become parts of cell and file names, so they are letters, digits and underscores."""
    raw = changed()
    raw["precisions"][name] = {}
    assert f"precisions: {name!r} cannot be a name" in message(raw)


# ------------------------------------------------------------------------------------------- missing, empty


@pytest.mark.parametrize("key", RAW)
def test_missing_section_is_named(key):
    """Every section is required."""
    assert message(without("", key)) == f"params.yaml lacks {key}"


@pytest.mark.parametrize(
    ("section", "key"), [("grid", "trainings"), ("training", "batch_size"), ("guided", "fraction"), ("scales", "full")]
)
def test_missing_key_is_named(section, key):
    """Every key is required, there are no silent defaults."""
    assert message(without(section, key)) == f"{section} lacks {key}"


@pytest.mark.parametrize("axis", ["datasets", "precisions", "trainings"])
def test_empty_axis_of_the_grid_is_refused(axis):
    """A grid without cells would be a pipeline that does nothing and succeeds."""
    assert message(changed(**{f"grid__{axis}": []})) == f"grid.{axis} is empty; name at least one"


def test_axis_that_names_a_value_twice_is_refused():
    """The same cell twice would be two stages writing one file."""
    assert "grid.datasets names one of its values twice" in message(changed(grid__datasets=["mnist", "mnist"]))


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_file_that_is_no_mapping_is_refused(raw):
    """An empty file, for one."""
    assert message(raw).startswith("params.yaml must be of type dict")


@pytest.mark.parametrize("section", ["grid", "training", "scales", "precisions", "claims"])
def test_section_that_is_no_mapping_is_refused(section):
    """A section left empty in YAML is None, and is named."""
    assert message(changed(**{section: None})) == f"{section} must be of type dict, not None"


def test_layer_without_bits_is_refused():
    """A row says something about every layer or about none."""
    raw = copy.deepcopy(RAW)
    del raw["precisions"]["w2a2"]["dense1"], raw["precisions"]["w2a2"]["conv2"]
    assert message(raw) == "precisions.w2a2 says nothing about conv2, dense1; give every layer its bits"


# ------------------------------------------------------------------------------------------ types and ranges


@pytest.mark.parametrize("kind", BAD_NUMBERS)
@pytest.mark.parametrize("name", ["training.learning_rate", "guided.weight", "guided.fraction", "clarity.retained"])
def test_wrong_float_is_refused(name, kind):
    """Text, flags, nothing and lists are no numbers; nan is in no range."""
    text = message(changed(**{name.replace(".", "__"): BAD_NUMBERS[kind]}))
    assert text.startswith(f"{name} must ") and str(BAD_NUMBERS[kind]) in text


@pytest.mark.parametrize("value", [2.0, True, "2", None, float("nan")])
@pytest.mark.parametrize("name", ["training.batch_size", "scales.smoke.seeds", "scales.smoke.epochs.mnist"])
def test_wrong_whole_number_is_refused(name, value):
    """Neither 2.0 nor true counts as a whole number."""
    text = message(changed(**{name.replace(".", "__"): value}), "smoke")
    assert text == f"{name} must be of type int, not {value!r}"


@pytest.mark.parametrize("value", [1, "true", None])
def test_wrong_flag_is_refused(value):
    """A flag is true or false."""
    assert "scales.smoke.sample must be of type bool" in message(changed(scales__smoke__sample=value))


def test_key_that_stands_twice_is_refused(tmp_path):
    """YAML itself takes the last one; a changed number further up would do nothing."""
    text = paths.PARAMS.read_text()
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("  batch_size: 128", "  batch_size: 64\n  batch_size: 128"))
    assert path.read_text() != text
    with pytest.raises(
        ConfigError, match=r"^params.yaml is not valid YAML: line \d+, column 3: 'batch_size' stands twice"
    ):
        config.load(path)


def test_number_that_yaml_takes_for_text_is_named(tmp_path):
    """YAML reads 1e-3 as text, 1.0e-3 as a number: the first is refused with what was found."""
    path = tmp_path / "params.yaml"
    text = paths.PARAMS.read_text()
    path.write_text(re.sub(r"learning_rate: 0.004 ", "learning_rate: 1e-3 ", text, count=1))
    with pytest.raises(ConfigError, match="^training.learning_rate must be of type float, not '1e-3'$"):
        config.load(path)
    path.write_text(re.sub(r"learning_rate: 0.004 ", "learning_rate: 1.0e-3 ", text, count=1))
    assert config.load(path).training.learning_rate == 0.001


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 32, 2.0, True, "4", None])
def test_bits_outside_2_to_8_are_refused(bits):
    """The message names precision and layer, weights and activations alike."""
    for pair in ([bits, 4], [4, bits]):
        text = message(changed(precisions__w4a4__conv2=pair))
        assert text == f"precisions.w4a4.conv2: bits must be a whole number from 2 to 8, not {bits!r}"
    assert "precisions.w4a4.dense3: bits" in message(changed(precisions__w4a4__dense3=[bits]))


@pytest.mark.parametrize("values", [4, [4], [4, 4, 4], "44", None, []])
def test_bits_in_another_form_are_refused(values):
    """Two numbers a layer, weights first; the message shows the form."""
    text = message(changed(precisions__w4a4__conv1=values))
    assert text == f"precisions.w4a4.conv1 must be [weight bits, activation bits], not {values!r}"
    assert "dense3 must be [weight bits], not [4, 4]" in message(changed(precisions__w4a4__dense3=[4, 4]))


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 50, float("inf")])
def test_fraction_outside_0_to_1_is_refused(fraction):
    """A percentage, for one, is no fraction."""
    assert message(changed(guided__fraction=fraction)).startswith("guided.fraction must lie in [0, 1]")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scales.quick.seeds", 0),
        ("scales.quick.seeds", -1),
        ("scales.full.records", 0),
        ("scales.full.images", 0),
        ("training.batch_size", 0),
        ("training.calibration_images", 0),
        ("training.learning_rate", -0.1),
        ("training.alpha_penalty", -1e-9),
        ("guided.weight", -1.0),
        ("clarity.steps", 0),
        ("clarity.sensitivity_radius", -0.5),
    ],
)
def test_number_below_its_least_value_is_refused(name, value):
    """Also in a scale that is not the one in use: the file is right or wrong as a whole."""
    text = message(changed(**{name.replace(".", "__"): value}), "smoke")
    assert text.startswith(f"{name} must be at least ") and text.endswith(f"not {value}")


@pytest.mark.parametrize("warmup", [1.0, 7, -0.5])
def test_warm_up_must_end_before_the_shortest_training(warmup):
    """A warm-up as long as the run would leave every network in full precision."""
    text = message(changed(scales__quick__warmup_epochs=warmup))
    assert text.startswith("scales.quick.warmup_epochs must be at least 0 and less than the epochs (1)")


def test_a_dataset_without_epochs_is_refused():
    """Zero epochs train nothing."""
    assert message(changed(scales__full__epochs__fashion_mnist=0)).startswith("scales.full.epochs must be at least 1")


@pytest.mark.parametrize("widths", [[8], [8, 16, 32], [], [8, 0]])
def test_network_has_two_widths_of_each_kind(widths):
    """Of the convolutions and of the dense layers."""
    for kind in ("channels", "hidden"):
        assert message(changed(**{f"network__{kind}": widths})).startswith(f"network.{kind} must be two widths")


# ------------------------------------------------------------------------------------------------- the file


def test_file_that_is_not_there_is_named(tmp_path):
    """One sentence with the path."""
    with pytest.raises(ConfigError) as error:
        config.load(tmp_path / "params.yaml")
    assert str(error.value) == f"{tmp_path / 'params.yaml'} does not exist"


@pytest.mark.parametrize("text", ["scale: [full", "scale: full\n\tgrid: {}", "a: b: c", "grid: {datasets: [mnist}"])
def test_file_that_is_no_yaml_is_refused_with_its_line(tmp_path, text):
    """One line that says where the file stops being YAML."""
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"^params.yaml is not valid YAML: line \d+, column \d+: ") as error:
        config.load(path)
    assert "\n" not in str(error.value)


def test_file_of_control_characters_is_refused(tmp_path):
    """A damaged file, whose characters YAML does not allow at all, is one line, too."""
    path = tmp_path / "params.yaml"
    path.write_text("scale: \x01")
    with pytest.raises(ConfigError, match="^params.yaml is not valid YAML: unacceptable character") as error:
        config.load(path)
    assert "\n" not in str(error.value)


def test_errors_are_value_errors():
    """Callers that do not know this library can catch them."""
    assert issubclass(ConfigError, ValueError)
