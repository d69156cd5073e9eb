"""study.settings: params.yaml as typed values, what each cell reads of it, and what is refused in one line."""

import dataclasses
from itertools import product

import pytest
from dvc.utils.serialize import parse_yaml
from hypothesis import example, given
from hypothesis import strategies as st

from saqlib import saliency, scores, scoring, training
from saqlib.controls import SURROGATES
from saqlib.precision import Bits
from study import params, settings
from study.settings import SCALES, Cell, ParamsError
from tests.helpers.parameters import RAW, changed, refusal

# ------------------------------------------------------------------------------------------------ what is valid


def test_a_scale_picks_its_own_sizes_and_nothing_else():
    """All other values are the same; that each is read into its place is shown below, by what a changed one changes."""
    full = settings.load(scale="full")
    for scale in SCALES:
        study = settings.load(scale=scale)
        assert study.scale == scale and dataclasses.asdict(study.size) == RAW["scales"][scale]
        assert dataclasses.replace(study, scale="full", size=full.size) == full


def test_registered_claims_name_what_is_there():
    """Maps, variants, datasets and cells of the committed file: a misspelt one would leave a claim open."""
    study = settings.load()
    cells = {"-".join(names) for names in product(study.grid.datasets, study.precisions, study.grid.trainings)}
    maps = {*saliency.METHODS, *SURROGATES, scoring.FP32_TWIN, scoring.OTHER_SEED}
    for claim in study.registered:
        assert {claim.map, claim.versus} <= maps and set(claim.datasets) <= set(study.grid.datasets)
        assert claim.variant in {"", *study.ablations} and set(claim.expected) - {"default"} <= cells


@pytest.mark.parametrize(("edges", "bits"), [("w8", (8, 8)), ("same", (4, 2)), ("fp32", (None, None))])
def test_edges_reach_the_precisions(edges, bits):
    """The first and the last layer's weights of every quantized row, and of no other."""
    precisions = settings.from_dict(changed(quantization__edges=edges)).precisions
    layers = precisions["mixed"].layers
    assert (layers[0].weight, layers[-1].weight) == bits and layers[1] == Bits(4, 4)
    assert precisions["fp32"].layers == (Bits(),) * 5 and not precisions["fp32"].quantized


def test_limits_that_are_allowed_are_allowed():
    """`weight: 1` is 1.0; one seed is enough; no warm-up, no ablations, and epochs for the grid's datasets alone."""
    guided = settings.from_dict(changed(trainings__guided__weight=1, trainings__guided__fraction=0)).guided
    assert guided.weight == 1.0 and isinstance(guided.weight, float) and isinstance(guided.fraction, float)
    raw = changed(grid__datasets=["mnist"], ablations={})
    for scale in raw["scales"].values():
        scale |= {"seeds": 1, "exploring": 1, "warmup_epochs": 0, "seeds_ablated": 0, "epochs": {"mnist": 1}}
    assert settings.from_dict(raw, "smoke").size.epochs == {"mnist": 1}
    raw["grid"]["datasets"] = ["fashion_mnist", "mnist"]
    assert refusal(settings.from_dict, raw) == "scales.smoke.epochs lacks fashion_mnist, which is in grid.datasets"


def test_words_are_those_of_the_library():
    """settings cannot ask saqlib's modules that import PyTorch; here both are compared."""
    for section, name, words in (
        (params.Guided, "ranking", saliency.RANKINGS),
        (params.Guided, "saturated", saliency.SATURATED),
        (params.Quantization, "range", training.RANGES),
    ):
        assert set(section.__pydantic_fields__[name].annotation.__args__) == set(words)
    assert set(params.METHODS) == set(saliency.METHODS)
    for library in (training.Optimizer, training.Guided, training.Quantization, scoring.Clarity, scoring.Scoring):
        names = {field.name for field in dataclasses.fields(library)}
        own = getattr(settings, library.__name__)
        mine = {field.name for field in dataclasses.fields(own)}
        assert names == mine - {"edges", "rounding", "sample"} | names & {"root"}
    for column in set(settings.COLUMNS) & scores.SCORES.keys():
        assert scores.SCORES[column].direction == ("lower" if column == "sensitivity_max" else "higher")


# ----------------------------------------------------------------------------------------------- cells and recipes


def test_cells_are_every_combination_and_their_names_are_read_back():
    """Datasets outermost, trainings innermost; names, or `all`, select some of them in this order."""
    study = settings.load()
    cells = study.grid.cells
    assert len(set(cells)) == len(cells) == 16 and study.select("all", "all", "all") == cells
    assert [str(cell) for cell in cells[:3]] == ["mnist-fp32-standard", "mnist-fp32-guided", "mnist-w4a4-standard"]
    assert all(Cell.parse(str(cell)) == cell for cell in cells)
    assert [str(cell) for cell in study.select("mnist", "w2a2", "all")] == ["mnist-w2a2-standard", "mnist-w2a2-guided"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("mnits", "w2a2", "guided"), "unknown dataset 'mnits'; did you mean 'mnist'?"),
        (("mnist", "w2", "guided"), "unknown precision 'w2'; did you mean 'w2a2'?"),
        (("mnist", "w2a2", "guded"), "unknown training 'guded'; did you mean 'guided'?"),
    ],
)
def test_names_of_no_cell_are_answered_with_the_nearest(names, expected):
    """By whoever is asked: the Study, its recipes for a cell that was made elsewhere, and the name of a cell."""
    study = settings.load()
    for function, arguments in ((study.cell, names), (study.select, names), (study.recipe, [Cell(*names)])):
        assert expected in refusal(function, *arguments)
    if names[1] != "w2":  # a file may be of a precision that params.yaml no longer has
        assert expected in refusal(Cell.parse, "-".join(names))
    assert refusal(Cell.parse, "mnist-w2a2").startswith("'mnist-w2a2' is not a cell: expected <dataset>-<precision>-")


def test_recipe_knows_its_cell_and_its_warm_up():
    """The cell comes back; it is frozen, so that it can be a key; the warm-up is that of every precision."""
    study = settings.load(scale="quick")
    for cell in study.grid.cells:
        recipe = study.recipe(cell)
        assert recipe.cell == cell and hash(recipe) == hash(study.recipe(cell))
        assert recipe.warm_up == study.recipe(dataclasses.replace(cell, precision="w4a4")).warm_up != recipe
        assert dataclasses.replace(recipe, warmup_epochs=0).warm_up is None


def decides(name: str, cell: Cell) -> bool:
    """Whether a value of params.yaml decides the bytes of a cell's networks; a new one of another section does not."""
    match name.split("__"):
        case ["network" | "optimizer", _]:
            return True
        case ["quantization", _]:
            return cell.precision != "fp32"
        case ["trainings", _, "saturated"]:
            return cell.training == "guided" and cell.precision != "fp32"
        case ["trainings", _, _]:
            return cell.training == "guided"
        case ["precisions", precision, _]:
            return cell.precision == precision
        case ["scales", _, "epochs", dataset]:
            return cell.dataset == dataset
        case ["scales", _, size]:
            return size in ("warmup_epochs", "records", "sample")
    return False


SCORED = {
    "clarity__steps", "clarity__sensitivity_radius", "clarity__sensitivity_draws", "scales__smoke__images",
    "scales__smoke__images_expensive", "scales__smoke__skipped", "scales__smoke__sample",
    "quantization__calibration_images",
}  # fmt: skip
# Other values of what is not a number.
OTHER = {
    "quantization__edges": "same", "quantization__rounding": False, "quantization__range": "largest",
    "trainings__guided__ranking": "signed", "trainings__guided__saturated": "pass", "scales__smoke__sample": False,
    "scales__smoke__exploring": 2, "scales__smoke__skipped": 1,
}  # fmt: skip


def leaves(section, *path: str) -> dict:
    """Every value of a section by its path, with __ between the parts."""
    if not isinstance(section, dict):
        return {"__".join(path): section}
    return {name: leaf for key, value in section.items() for name, leaf in leaves(value, *path, key).items()}


def other(name: str, value):
    """Another value that is valid in its place."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, list):
        return [each - 1 for each in value]
    return value - 1 if isinstance(value, int) else value / 2


# Of scales and of precisions one stands for the others; of what decides no number, tests/unit/test_cells.py asks.
CHANGED = {name: value for name, value in leaves(RAW).items()
           if name.split("__")[0] in ("network", "quantization", "optimizer", "trainings", "clarity")
           or name.startswith("scales__smoke__") or name == "precisions__w4a4__conv2"}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_value_changes_what_reads_it_and_nothing_else(name):
    """The recipes of the cells that it decides, and the scoring where scoring reads it."""
    change = {name: other(name, CHANGED[name])}
    before, after = (settings.from_dict(changed(**each), "smoke") for each in ({}, change))
    for cell in before.grid.cells:
        assert (before.recipe(cell) != after.recipe(cell)) == decides(name, cell)
    assert (before.scoring != after.scoring) == (name in SCORED)


# ---------------------------------------------------------------------------------------------------- ablations


@pytest.mark.parametrize("name", RAW["ablations"])
def test_a_variant_is_the_study_with_its_patch(name):
    """Only what is patched differs, its cells can be trained, and it has no ablations of its own."""
    ablation, study = settings.variant(name, "full")
    assert study == dataclasses.replace(settings.from_dict(changed(**{
        path.replace(".", "__"): value for path, value in RAW["ablations"][name]["patch"].items()
    } | {"ablations": {}}), "full"))  # fmt: skip
    assert len({study.recipe(cell) for cell in ablation.cells}) == len(ablation.cells)
    size = dataclasses.replace(study.size, exploring=10, seeds=20, seeds_ablated=6)
    assert ablation.seeds_at(size) == range(10, 10 + RAW["ablations"][name]["seeds"])
    smoke, quick = (ablation.seeds_at(settings.load(scale=scale).size) for scale in ("smoke", "quick"))
    assert list(smoke) == [1] and not quick


def test_what_a_variant_leaves_alone_is_the_main_grids():
    """Warm-ups, whatever is done at clips, and of full precision every network, but where guidance differs."""
    main, other = settings.load(scale="full"), {"signed_ranking", "three_quarters_masked"}
    for name in RAW["ablations"].keys() - {"twenty_epochs", "batch_norm"}:
        ablation, study = settings.variant(name, "full")
        for cell in ablation.cells:
            own, theirs = study.recipe(cell), main.recipe(cell)
            if name not in other or cell.training == "standard":
                assert own.warm_up == theirs.warm_up and (own == theirs or cell.precision != "fp32")
        found = {study.recipe(cell) != main.recipe(cell) for cell in ablation.cells}
        assert found == {True, False} or name == "eight_bits"


@pytest.mark.parametrize("dataset", RAW["grid"]["datasets"])
def test_an_ablation_runs_on_the_grids_datasets(dataset):
    """On others there is nothing to compare it with; one that has none of them does not run."""
    own = {name for name, each in RAW["ablations"].items() if dataset in each["datasets"]}
    found = settings.from_dict(changed(grid__datasets=[dataset])).ablations
    assert found.keys() == own and {each.datasets for each in found.values()} == {(dataset,)}


# ------------------------------------------------------------------------------------------------ what is refused


def ablation(**values) -> dict:
    """Another ablation in the place of edges_same."""
    return {"ablations__edges_same": RAW["ablations"]["edges_same"] | values}


def claim(name: str, **values) -> dict:
    """Another claim in the place of one."""
    claims = [each | values if each["id"] == name else each for each in RAW["claims"]["hypotheses"]]
    return {"claims__hypotheses": claims}


def registered(**values) -> dict:
    """One registered claim, changed."""
    return {"registered": [RAW["registered"][0] | values]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser' in params.yaml; did you mean 'optimizer'? (valid: scale, grid"),
        ({"optimizer": {}}, "optimizer lacks batch_size"),
        ({"optimizer": 3}, "optimizer must be a section, not 3"),
        ({"optimizer__learning_rate": float("nan")}, "optimizer.learning_rate must be a finite number, not nan"),
        ({"optimizer__learning_rate": 1.5}, "learning_rate must be less than or equal to 1, not 1.5: Adam moves every"),
        ({"optimizer__batch_size": 55_001}, "optimizer.batch_size must be at most 55,000, not 55,001: there are 55,00"),
        ({"trainings__standard__weight": 1}, "trainings.standard must have at most 0 items, not {'weight': 1}"),
        ({"network__channels": [1, 2, 3]}, "network: channels must be two widths of at least 1, not (1, 2, 3)"),
        ({"network__hidden": ["a", 3]}, "network.hidden[0] must be a valid integer, not 'a'"),
        ({"device": "gpu"}, "unknown value 'gpu' of device; did you mean 'cpu'? (valid: auto, cpu, cuda)"),
        ({"scales__smoke__skipped": 241}, "scales.smoke: images and skipped must be at most 300, not 301: there are"),
        ({"scales__smoke__exploring": 3}, "scales.smoke: exploring must be at most 2, not 3: they are the first of th"),
        ({"scales__smoke__images_expensive": 61}, "images_expensive must be at most 60, not 61: they are the first"),
        ({"scales__full__seeds": 40}, "scales.full.seeds must be less than or equal to 24, not 40: the exact tests en"),
        ({"scales__full__warmup_epochs": 4}, "scales.full: warmup_epochs must be less than the epochs (4), not 4"),
        ({"scales__full__epochs__cifar": 4}, "unknown key 'cifar' in scales.full.epochs (valid: mnist, fashion_mnist)"),
        ({"precisions__w2a2__conv1": [1, 2]}, "precisions.w2a2.conv1[0] must be greater than or equal to 2, not 1"),
        ({"precisions__w2a2__conv1": [2]}, "precisions.w2a2.conv1 must be [weight bits, activation bits], not [2]"),
        ({"precisions__w3a3": {"conv1": [3, 3]}}, "precisions.w3a3 says nothing about conv2, dense1, dense2, dense3"),
        ({"precisions__w3-a3": {}}, "precisions.w3-a3 must match pattern '^[A-Za-z][A-Za-z0-9_]*$', not 'w3-a3'"),
        ({"grid__precisions": ["fp32", "w4a5"]}, "unknown precision in grid.precisions 'w4a5'; did you mean 'w4a4'?"),
        ({"grid__precisions": ["w4a4"]}, "grid.precisions (w4a4) lacks fp32, claims.reference: every claim compares"),
        ({"grid__datasets": ["mnist", "mnist"]}, "grid.datasets: one of the values stands twice"),
        ({"grid__datasets": ["mnits"]}, "unknown value 'mnits' of grid.datasets[0]; did you mean 'mnist'?"),
        ({"grid__trainings": ["guided"]}, "grid: trainings lacks standard"),
        ({"claims__level": 1}, "claims.level must lie between 0 and 1, not 1"),
        ({"claims__reference": "w4"}, "unknown precision in claims.reference 'w4'; did you mean 'w4a4'?"),
        ({"claims__questions__focus": "ginni"}, "unknown column of claims.questions.focus 'ginni'; did you mean 'gini"),
        ({"claims__hypotheses": [RAW["claims"]["hypotheses"][0]] * 2}, "claims.hypotheses: one id stands twice"),
        (claim("A1", test="los"), "unknown test in claim A1 'los'; did you mean 'loss'?"),
        (claim("A1", questions=["acuracy"]), "unknown question in claim A1 'acuracy'; did you mean 'accuracy'?"),
        (claim("A1", precisions=["w4a5"]), "unknown precision in claim A1 'w4a5'"),
        (claim("A1", precisions=["fp32"]), "claim A1: fp32 is the reference; name the precisions that are compared"),
        (claim("A1", txt="?"), "unknown key 'txt' in claims.hypotheses[0]; did you mean 'text'?"),
        (claim("A5", questions=["accuracy"]), "claim A5: the test gain asks about maps, and accuracy is not one of"),
        (registered(precisions=["w4a5"]), "'w4a5'"),
        (registered(against="w2a3"), "'w2a3'"),
        (registered(expected={}), "lacks default"),
        (registered(above=1.5), "above must lie between 0 and 1"),
        (registered(maps="relu"), "unknown key 'maps'"),
        (ablation(patch={"quantization.edge": 0}), "unknown number in quantization.edge 'edge'; did you mean 'edges'?"),
        (ablation(patch={"device": "cpu"}), "ablations.edges_same: unknown number in device 'device'"),
        (ablation(patch={"optimizer.batch_size.x": 0}), "unknown number in optimizer.batch_size.x 'x'"),
        (ablation(patch={"quantization.edges": "sam"}), "unknown value 'sam' of quantization.edges; did you mean 'sam"),
        (ablation(precisions=["w3"]), "ablations.edges_same: unknown precision 'w3'"),
        (ablation(seeds=0), "ablations.edges_same.seeds must be greater than or equal to 1, not 0"),
        (ablation(methods=["pass"]), "unknown value 'pass' of ablations.edges_same.methods[0]; did you mean 'pass_th"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_by_its_place(change, expected):
    """One line that names the key, the value, the bound with its reason, or the nearest valid name."""
    assert expected in refusal(settings.from_dict, changed(**change))


# ------------------------------------------------------------------------------------------------------ the file


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        (b"a: \xff", "params.yaml is not valid YAML: "),
        (b"a: 1\nb: [1, 2", "params.yaml is not valid YAML: line "),
        (b"a: 1\na: 2", "params.yaml is not valid YAML: line 2, column 1: found duplicate key"),
        (b"a: !!python/object/apply:os.system [ls]", "params.yaml is not valid YAML"),
        (b"", "params.yaml must be a section, not None"),
        (b"{a: " * 999 + b"}" * 999, "params.yaml holds what no setting can be: "),
    ],
)
def test_file_that_is_not_usable_is_refused_in_one_line(tmp_path, content, expected):
    """Missing, of another encoding, broken, ambiguous, empty, or deeper than anybody can read."""
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    assert expected in refusal(settings.load, path)


def test_a_file_beside_the_sample_is_not_read_in_its_place(tmp_path, monkeypatch):
    """An unpacked file would be, without a word; who uses all images is not concerned."""
    monkeypatch.setattr(settings.paths, "SAMPLE", tmp_path)
    other = tmp_path / "mnist" / "t10k-images-idx3-ubyte"
    other.parent.mkdir()
    other.with_name(f"{other.name}.gz").touch()
    settings.load(scale="smoke")
    other.touch()
    assert f"{other} is no file of the sample; remove it" in refusal(settings.load, None, "smoke")
    settings.load(scale="quick")


@pytest.mark.parametrize("text", ["a: 0127", "a: no", "a: 1e3", "a: 1_000"])
def test_values_are_those_that_dvc_reads(tmp_path, text):
    """YAML 1.2, or a stage would depend on another number than it reads."""
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert settings.read(path) == parse_yaml(text, "params.yaml")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=9), each, max_size=3),
)


@given(ANYTHING, st.sampled_from(list(leaves(RAW))))
@example(float("inf"), "device")
@example({(1, 2): 3}, "grid")
@example({1: 2}, "claims")
def test_any_value_anywhere_is_usable_or_refused_in_one_line(value, place):
    """No traceback, whatever stands at whatever place."""
    try:
        settings.from_dict(changed(**{place: value}))
    except ParamsError as error:
        assert str(error).isprintable() and len(str(error)) <= params.LONGEST
