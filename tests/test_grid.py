"""Tests of saqlib.grid: cells, axes and scales."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saqlib.datasets import DATASETS
from saqlib.grid import TRAININGS, Cell, Grid, Scale
from saqlib.params import ParamsError
from tests.parameters import RAW, refusal

GRID = Grid(("mnist", "fashion_mnist"), ("fp32", "w4a4", "mixed", "w2a2"), ("standard", "guided"))
SCALE = Scale(sample=True, seeds=1, epochs={"mnist": 2, "fashion_mnist": 3}, warmup_epochs=1, records=1, images=1,
              images_expensive=1, images_deployed=1, seeds_ablated=0)  # fmt: skip


# -------------------------------------------------------------------------------------------------------- cells


def test_grid_is_every_combination_datasets_outermost():
    """Two datasets, four precisions and two trainings are sixteen cells, in the order of three nested loops."""
    cells = GRID.cells
    assert len(cells) == len(set(cells)) == 16
    assert [str(cell) for cell in cells[:3]] == ["mnist-fp32-standard", "mnist-fp32-guided", "mnist-w4a4-standard"]
    assert str(cells[-1]) == "fashion_mnist-w2a2-guided"
    assert [dataclasses.astuple(cell) for cell in cells] == list(itertools.product(*dataclasses.astuple(GRID)))


NAMES = st.from_regex("[A-Za-z][A-Za-z0-9_]*", fullmatch=True)


@given(st.builds(Cell, st.sampled_from(list(DATASETS)), NAMES, st.sampled_from(TRAININGS)))
def test_cell_names_are_read_back(cell):
    """parse is the inverse of str, for every name that a precision can have."""
    assert Cell.parse(str(cell)) == cell


@pytest.mark.parametrize("name", ["mnist-w2a2", "mnist-w2a2-guided-0", "", "mnist_w2a2_guided"])
def test_name_of_other_than_three_parts_is_no_cell(name):
    """The message shows the form that a name has."""
    assert refusal(Cell.parse, name) == f"{name!r} is not a cell: expected <dataset>-<precision>-<training>"


@pytest.mark.parametrize(
    ("name", "what", "nearest"),
    [
        ("minst-w2a2-guided", "dataset 'minst'", "mnist"),
        ("mnist-w2a2-guded", "training 'guded'", "guided"),
        ("MNIST-w2a2-guided", "dataset 'MNIST'", ""),
    ],
)
def test_name_of_unknown_parts_is_no_cell(name, what, nearest):
    """A misspelt dataset or training is answered with the nearest valid one."""
    text = refusal(Cell.parse, name)
    assert text.startswith(f"unknown {what}") and (f"did you mean '{nearest}'?" in text or not nearest)


def test_cells_are_in_the_order_of_their_names_parts():
    """Sorted by dataset, then precision, then training, and frozen."""
    cells = sorted(GRID.cells)
    assert [dataclasses.astuple(cell) for cell in cells] == sorted(map(dataclasses.astuple, cells))
    with pytest.raises(dataclasses.FrozenInstanceError):
        cells[0].dataset = "mnist"


# --------------------------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize("axis", ["datasets", "precisions", "trainings"])
def test_empty_axis_of_the_grid_is_refused(axis):
    """A grid without cells would be a pipeline that does nothing and succeeds."""
    text = refusal(lambda: dataclasses.replace(GRID, **{axis: ()}))
    assert text == f"grid.{axis} is empty; name at least one"


@pytest.mark.parametrize("axis", ["datasets", "precisions", "trainings"])
def test_axis_that_names_a_value_twice_is_refused(axis):
    """The same cell twice would be two stages writing one file."""
    values = getattr(GRID, axis)
    text = refusal(lambda: dataclasses.replace(GRID, **{axis: (*values, values[0])}))
    assert text == f"grid.{axis} names one of its values twice"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"datasets": ("mnist", "fashon_mnist")},
         "unknown dataset in grid.datasets 'fashon_mnist'; did you mean 'fashion_mnist'?"),
        ({"trainings": ("guide",)}, "unknown training in grid.trainings 'guide'; did you mean 'guided'?"),
    ],
)  # fmt: skip
def test_axis_of_unknown_values_is_refused(values, message):
    """Datasets and trainings are known here; precisions are whatever params.yaml has rows for."""
    assert refusal(lambda: dataclasses.replace(GRID, **values)).startswith(message)


# ------------------------------------------------------------------------------------------------------- scales


@pytest.mark.parametrize("name", ["seeds", "records", "images", "images_expensive", "images_deployed"])
def test_there_is_at_least_one_of_each(name):
    """One is allowed, none is not."""
    assert getattr(SCALE, name) == 1
    for value in (0, -1):
        text = refusal(lambda value=value: dataclasses.replace(SCALE, **{name: value}))
        assert text == f"{name} must be at least 1, not {value}"


def test_a_scale_may_run_no_ablations():
    """0 of their seeds is a choice, fewer is none."""
    assert dataclasses.replace(SCALE, seeds_ablated=0) == SCALE
    text = refusal(lambda: dataclasses.replace(SCALE, seeds_ablated=-1))
    assert text == "seeds_ablated must be at least 0, not -1"


@pytest.mark.parametrize("epochs", [{"mnist": 2, "fashion_mnist": 0}, {"mnist": -1}, {}])
def test_a_dataset_without_epochs_is_refused(epochs):
    """Zero epochs train nothing."""
    text = refusal(lambda: dataclasses.replace(SCALE, epochs=epochs, warmup_epochs=0))
    assert text == "epochs must be at least 1 for every dataset"


@pytest.mark.parametrize("warmup", [2, 2.0, 7, -0.5, float("nan")])
def test_warm_up_must_end_before_the_shortest_training(warmup):
    """A warm-up as long as the run would leave every network in full precision."""
    text = refusal(lambda: dataclasses.replace(SCALE, warmup_epochs=warmup))
    assert text == f"warmup_epochs must be at least 0 and less than the epochs (2), not {warmup}"


@pytest.mark.parametrize("warmup", [0, 0.25, 1.99])
def test_no_warm_up_and_parts_of_an_epoch_are_allowed(warmup):
    """Anything from 0 up to, and without, the shortest training."""
    assert dataclasses.replace(SCALE, warmup_epochs=warmup).warmup_epochs == warmup


def test_fields_of_a_scale_are_those_of_params_yaml():
    """Every scale of the committed file names them all, in this order."""
    for scale in RAW["scales"].values():
        assert list(scale) == [field.name for field in dataclasses.fields(Scale)]


def test_errors_are_params_errors():
    """A Cell, a Grid and a Scale are refused by the one error that callers expect."""
    for wrong in (lambda: Cell.parse("a"), lambda: Grid((), (), ()), lambda: dataclasses.replace(SCALE, seeds=0)):
        with pytest.raises(ParamsError):
            wrong()
