"""Ablations: what a patch changes and what it leaves, and how a bad one is told."""

import copy

import pytest

from saqlib import params
from saqlib.params import ParamsError
from saqlib.pipeline import ablations, study

RAW = params.read()
VARIANTS = study.load().ablations


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("scale", ["smoke", "quick", "full"])
def test_a_variant_changes_what_it_names_and_nothing_else(name, scale):
    """The patched study is the study but for the patched numbers."""
    ablation, patched = study.variant(name, scale)
    expected = copy.deepcopy(RAW) | {"ablations": {}}
    for path, value in ablation.patch.items():
        *parents, last = path.split(".")
        section = expected
        for parent in parents:
            section = section[parent]
        assert section[last] != value, f"{path} changes nothing"
        section[last] = value
    assert patched == study.from_dict(expected, scale)


def test_what_a_patch_does_not_touch_is_trained_once():
    """Edges leave full precision alone, guidance standard training, a reading of `mixed` all other precisions."""
    main = study.load(scale="full")
    untouched = {"edges_same": "fp32", "signed_ranking": "standard", "mixed_w4a2": "w4a4"}
    for name, own in untouched.items():
        ablation, patched = study.variant(name, "full")
        for cell in ablation.cells:
            same = patched.recipe(cell).decides == main.recipe(cell).decides
            assert same == (own in str(cell) or (name == "mixed_w4a2" and cell.precision == "w2a2")), cell


def test_main_grid_reads_no_ablation():
    """Another question or another variant trains nothing of the main grid anew."""
    other = study.from_dict(RAW | {"ablations": {}}, "full")
    main = study.load(scale="full")
    assert all(other.recipe(cell) == main.recipe(cell) for cell in main.grid.cells)


BAD = {
    "an unknown number": ({"patch": {"quantization.egdes": "same"}}, "egdes.*did you mean 'quantization.edges'"),
    "a number of no network": ({"patch": {"device": "cpu"}}, "no number 'device'"),
    "a patch of the claims": ({"patch": {"claims.level": 0.1}}, "no number 'claims.level'"),
    "a bad value": ({"patch": {"quantization.edges": "w9"}}, "edges_same.*w9"),
    "an unknown precision": ({"precisions": ["w2a3"]}, "edges_same.*w2a3.*did you mean"),
    "an unknown dataset": ({"datasets": ["mnits"]}, "edges_same.*mnits.*did you mean 'mnist'"),
    "an unknown training": ({"trainings": ["guide"]}, "edges_same.*guide"),
    "no cells": ({"trainings": []}, "trainings is empty"),
    "no seeds": ({"seeds": 0}, "seeds must be at least 1"),
    "no text": ({"question": 7}, "question must be of type str"),
    "an unknown key": ({"questoin": "?"}, "questoin.*did you mean 'question'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_ablation_is_one_line(name):
    """It names the ablation and the thing."""
    change, said = BAD[name]
    raw = copy.deepcopy(RAW)
    raw["ablations"]["edges_same"] |= change
    with pytest.raises(ParamsError, match=said) as error:
        study.from_dict(raw)
    assert "\n" not in str(error.value)


def test_an_unknown_ablation_is_told():
    """With the nearest name."""
    with pytest.raises(ParamsError, match="did you mean 'edges_same'"):
        study.variant("edge_same")
    with pytest.raises(ParamsError, match="cannot be a name"):
        ablations.read(RAW | {"ablations": {"A/b": {}}})
