"""Tests of study.report.labels: every identifier has its words, and a new one is still readable."""

import dataclasses

import pytest

from saqlib.controls import SURROGATES, control_maps
from saqlib.data import DATASETS
from saqlib.saliency import METHODS
from saqlib.scores import SCORES
from saqlib.scoring import FP32_TWIN, OTHER_SEED
from study.report import labels


@pytest.mark.parametrize(
    ("column", "name", "heading"),
    [
        ("gini", "Gini index", "Gini index ↑"),
        ("preservation_ssim", "Structural similarity", "Structural similarity ↑"),
        ("entropy", "Normalised entropy", "Normalised entropy ↓"),
        ("dead_rate", "Dead rate", "Dead rate ↓"),
        ("relevance_gain_blur", "Relevance gain, blur", "Relevance gain, blur ↑"),
        ("faithfulness", "Faithfulness", "Faithfulness ↑"),
        ("retained_gini", "Gini index, retained", "Gini index, retained"),
        ("test_accuracy", "Test accuracy", "Test accuracy (%) ↑"),
        ("packed_bytes", "Packed bytes", "Packed bytes"),
    ],
)
def test_columns_in_words(column, name, heading):
    """Scores by their registry, with the arrow of the better direction; what is unknown is still readable."""
    assert (labels.name(column), labels.heading(column)) == (name, heading)


def test_every_map_has_words():
    """No identifier with an underscore reaches a reader, in a comparison neither."""
    import torch

    made = control_maps(torch.rand(2, 1, 28, 28), torch.Generator().manual_seed(0))
    assert set(labels.CONTROLS) == {*made, "untrained"}
    every = [*METHODS, *SURROGATES, "weights_off", FP32_TWIN, OTHER_SEED, "finite_differences"]
    assert not [name for name in every if "_" in labels.map_name(name)]
    assert set(labels.MAPS) <= set(every)
    assert (labels.map_name("smoothgrad"), labels.map_name("new_map")) == ("SmoothGrad", "new map")
    words = labels.comparison("w2a2: share lost, integrated_gradients - straight_through")
    assert words == "w2a2: share lost, integrated gradients - straight-through"
    assert (labels.precision("mixed"), labels.precision("w3a3")) == ("4/2 bits", "w3a3")


def test_a_new_score_and_a_new_dataset_are_one_entry(monkeypatch):
    """Their words come from the registries; an unknown dataset keeps its identifier."""
    monkeypatch.setitem(SCORES, "peak", dataclasses.replace(SCORES["gini"], name="Peak", direction="lower"))
    monkeypatch.setitem(DATASETS, "letters", dataclasses.replace(DATASETS["mnist"], title="Letters"))
    assert labels.heading("peak") == "Peak ↓" and labels.dataset("letters") == "Letters"
    assert labels.dataset("mnist") == "MNIST" and labels.dataset("other") == "other"
